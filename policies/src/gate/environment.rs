//! Whether this is the moment: nobody else writes the field, nobody asked to wait, and it is still broken.

mod writers;

use amend_diagnosis::evidence::Answer;

use crate::field::FieldPath;
use crate::plan::Plan;
use crate::policy::quoted;
use crate::verdict::{GateName, Verdict};

/// What the gate looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvironmentFacts {
    /// Who else writes fields of the target ([`field_writers`] finds most of them), or of a ConfigMap that changes
    /// ([`configuration_writers`]).
    pub writers: Answer<Vec<FieldWriter>>,
    /// `amend.dev/hold` on the target, a ConfigMap that changes, or their namespace.
    pub holds: Answer<Vec<Hold>>,
    /// Silences and inhibitions of Alertmanager that match the incident's signals.
    pub silences: Silences,
    /// GitOps objects that own the target and are suspended or have automation switched off, as `Kind namespace/name`.
    pub suspended: Answer<Vec<String>>,
    /// How many of the incident's signals fire right now, asked at their source.
    pub firing: Answer<u32>,
}

/// Something that writes a field of the target by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldWriter {
    /// As `HorizontalPodAutoscaler shop/checkout`.
    pub who: String,
    pub field: FieldPath,
}

/// Somebody asked to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// As `Deployment shop/checkout` or `Namespace shop`.
    pub on: String,
    /// The annotation's value; untrusted text.
    pub reason: String,
}

/// Whether people asked for quiet about the incident's alerts.
#[derive(Clone, Debug, PartialEq)]
pub enum Silences {
    /// What Alertmanager says. One that does not answer may hold a silence, so that blocks.
    Asked(Answer<Vec<Silence>>),
    /// No Alertmanager is declared for this namespace: what nobody set up cannot fail to answer, and a reviewer can judge the gap.
    NobodyToAsk,
}

/// Somebody silenced the alert, or another alert inhibits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    pub id: String,
    /// Untrusted text.
    pub by: String,
    /// Untrusted text.
    pub comment: String,
}

pub use writers::{configuration_writers, field_writers};

const GATE: GateName = GateName::Environment;

/// Judges the five questions: writers, hold, silence, suspended, firing.
pub fn evaluate(plan: &Plan, facts: &EnvironmentFacts) -> Vec<Verdict> {
    vec![
        writers(plan, &facts.writers),
        nobody("hold", "hold", "no amend.dev/hold on the target or its namespace", &facts.holds, |hold| {
            format!("{} carries amend.dev/hold {}; remove the annotation to go on", hold.on, quoted(&hold.reason))
        }),
        silence(&facts.silences),
        nobody(
            "suspended",
            "suspended GitOps objects",
            "nothing that rolls the change out is suspended",
            &facts.suspended,
            |object| format!("{} is suspended: a merge would not be rolled out; resume it first", quoted(object)),
        ),
        firing(&facts.firing),
    ]
}

fn writers(plan: &Plan, writers: &Answer<Vec<FieldWriter>>) -> Verdict {
    let writers = match writers {
        Answer::Known(writers) => writers,
        Answer::Unknown { why } => {
            return Verdict::unknown(GATE, "writers", format!("cannot tell who else writes the field: {why}"));
        }
    };
    let configured: Vec<FieldPath> =
        plan.configurations.iter().flat_map(|one| plan.expected_of(one)).map(|expected| expected.field).collect();
    for field in plan.steps.iter().flat_map(|step| &step.footprint.fields).chain(&configured) {
        let other = writers.iter().find(|writer| writer.field.is_within(field) || field.is_within(&writer.field));
        if let Some(other) = other {
            let sentence = format!(
                "{} also writes {field}: a change in Git would be overwritten or fought over; change it there",
                other.who
            );
            return Verdict::fail(GATE, "writers", sentence);
        }
    }
    Verdict::pass(GATE, "writers", "nobody else writes the changed fields")
}

/// Passes when a list is known and empty; else the first entry is the reason.
fn nobody<T>(question: &str, what: &str, pass: &str, list: &Answer<Vec<T>>, reason: impl Fn(&T) -> String) -> Verdict {
    match list {
        Answer::Unknown { why } => Verdict::unknown(GATE, question, format!("cannot tell about {what}: {why}")),
        Answer::Known(list) => match list.first() {
            Some(first) => Verdict::fail(GATE, question, reason(first)),
            None => Verdict::pass(GATE, question, pass),
        },
    }
}

fn silence(silences: &Silences) -> Verdict {
    match silences {
        Silences::Asked(list) => nobody("silence", "silences", "no silence or inhibition matches", list, |silence| {
            let (id, by) = (quoted(&silence.id), quoted(&silence.by));
            format!("Alertmanager's silence {id} by {by} covers this incident: {}", quoted(&silence.comment))
        }),
        Silences::NobodyToAsk => {
            let sentence = "cannot tell whether somebody silenced the alerts: no TelemetrySource of kind Alertmanager serves \
                            this namespace; add one";
            Verdict::unknown(GATE, "silence", sentence).as_gap()
        }
    }
}

fn firing(firing: &Answer<u32>) -> Verdict {
    match firing {
        Answer::Known(0) => Verdict::fail(GATE, "firing", "none of the incident's signals fires any more"),
        Answer::Known(count) => Verdict::pass(GATE, "firing", format!("{count} signals still fire")),
        Answer::Unknown { why } => {
            Verdict::unknown(GATE, "firing", format!("cannot tell whether it is still broken: {why}"))
        }
    }
}

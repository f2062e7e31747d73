//! Tells the story in a terminal: one line for each stage, with the time of the story and the time of the watcher.

use std::io::Write;

use amend_controller::effects::remedy::told::gate_rows;
use amend_crds::incident::IncidentPhase;
use amend_crds::{Incident, Remediation};
use amend_diagnosis::render;
use amend_execution::journal::{Entry, Event, alike, told};
use amend_gitops::body::GateVerdict;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::Format;
use super::tempo::Tempo;

/// Signals that are named one by one; of a flood only the count is told.
const NAMED: usize = 5;

/// Says things once, in the order in which they are seen.
#[derive(Debug)]
pub struct Teller {
    format: Format,
    /// When the fault was let loose; story time is told from there.
    zero: Option<Timestamp>,
    signals: usize,
    incident: Option<IncidentPhase>,
    /// The sentence of the cause that was told last, with its graph and policies.
    cause: Option<String>,
    /// The first entry of the journal that is not told yet.
    next_entry: u32,
}

impl Teller {
    pub fn new(format: Format) -> Self {
        Self { format, zero: None, signals: 0, incident: None, cause: None, next_entry: 0 }
    }

    /// Story time is told from here on.
    pub fn begin(&mut self, at: Timestamp) {
        self.zero = Some(at);
    }

    /// A stage.
    pub fn say(&self, tempo: &Tempo, at: Timestamp, what: &str) {
        let story = match self.zero {
            Some(zero) => clock(at.duration_since(zero)),
            None => "  ".to_owned(),
        };
        self.line(&format!("{:>6.1} s {story:>8}  {what}", tempo.real(at).as_secs_f64()));
    }

    /// Something below a stage; may have several lines.
    pub fn detail(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("{:19}{line}", ""));
        }
    }

    /// A line of its own.
    pub fn line(&self, text: &str) {
        if self.format == Format::Text {
            // A reader that went away (`| head`) must not stop the story.
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
        }
    }

    /// What is new about the incident.
    pub fn incident(&mut self, tempo: &Tempo, now: Timestamp, incident: &Incident, dashboard: &str) {
        let status = incident.status.clone().unwrap_or_default();
        if self.incident.is_none() {
            let name = incident.name_any();
            self.say(tempo, now, &format!("incident {name} opened for {}", incident.spec.entity));
            self.detail(&format!("{dashboard}/incidents/{}/{name}", incident.namespace().unwrap_or_default()));
        }
        let signals = if status.signals.is_empty() { &incident.spec.signals } else { &status.signals };
        for signal in signals.iter().skip(self.signals).take(NAMED.saturating_sub(self.signals)) {
            self.say(tempo, now, &format!("signal {} on {}: {}", signal.name, signal.entity.name, signal.summary));
        }
        self.signals = self.signals.max(signals.len());
        if self.incident == Some(status.phase) {
            return;
        }
        self.incident = Some(status.phase);
        match status.phase {
            IncidentPhase::Diagnosed | IncidentPhase::Abstained => {
                self.say(tempo, now, &format!("{:?}: {}", status.phase, status.because));
                let cause = status.diagnosis.as_ref().and_then(|diagnosis| diagnosis.causes.first());
                let cause = cause.map(|cause| cause.sentence.clone());
                // Once the remedy is done it is diagnosed again, until nothing fires any more: the same is not told twice.
                if cause.is_some() && cause == self.cause {
                    return;
                }
                self.cause = cause;
                if let Some(diagnosis) = &status.diagnosis {
                    if let Some(cause) = diagnosis.causes.first() {
                        self.detail(&format!("{:.0} % sure: {}", cause.confidence.min(0.99) * 100.0, cause.sentence));
                    }
                    self.detail(&render::text(&diagnosis.graph));
                }
                for policy in &status.policies {
                    let matched = if policy.matched { "answers" } else { "does not answer" };
                    self.detail(&format!("policy {} {matched}: {}", policy.policy, policy.because));
                }
            }
            IncidentPhase::Open => {}
            IncidentPhase::Diagnosing
            | IncidentPhase::Remediating
            | IncidentPhase::Mitigated
            | IncidentPhase::Resolved
            | IncidentPhase::Dropped
            | IncidentPhase::Joined => {
                self.say(tempo, now, &format!("incident {:?}: {}", status.phase, status.because));
            }
        }
    }

    /// What is new in the journal; gives the new entries.
    pub fn journal(&mut self, tempo: &Tempo, remediation: &Remediation) -> Vec<Entry> {
        let Some(status) = &remediation.status else { return Vec::new() };
        let entries = status.journal.entries();
        // Intents and outcomes are for the record; what came of them is told by the next entry.
        let stages = entries.iter().filter(|one| !matches!(one.event, Event::Intent { .. } | Event::Outcome { .. }));
        for (entry, because) in told(stages).filter(|(entry, _)| entry.seq >= self.next_entry) {
            self.entry(tempo, remediation, entry, because);
        }
        let new = entries.iter().filter(|entry| entry.seq >= self.next_entry).cloned().collect();
        self.next_entry = status.journal.next_seq();
        new
    }

    fn entry(&self, tempo: &Tempo, remediation: &Remediation, entry: &Entry, because: Option<&str>) {
        let line = match because {
            Some(because) => format!("{}: {because}", entry.event),
            None => entry.event.to_string(),
        };
        match &entry.event {
            Event::Planned { .. } => {
                self.say(tempo, entry.at, &format!("planned: {}", remediation.spec.plan.summary));
                self.detail(&format!("{}, plan {}", remediation.name_any(), remediation.spec.plan_digest));
            }
            Event::GatesEvaluated { cleared, .. } => {
                self.say(tempo, entry.at, if *cleared { "gates: all pass" } else { "gates: not cleared" });
                let verdicts = remediation.status.as_ref().map(|status| status.verdicts.as_slice()).unwrap_or_default();
                for row in gate_rows(verdicts) {
                    let mark = match row.verdict {
                        GateVerdict::Pass => "pass",
                        GateVerdict::Fail => "FAIL",
                        GateVerdict::Unknown => "?",
                    };
                    self.detail(&format!("{:<12} {mark:<5} {}", row.name, row.sentence));
                }
            }
            Event::Intent { .. } | Event::Outcome { .. } => {}
            Event::Verified { metrics, .. } => {
                self.say(tempo, entry.at, &line);
                for (names, metric) in alike(metrics) {
                    let finding = metric.finding();
                    // What holds for all of them was just said.
                    if format!("{names}: {finding}") != entry.because.as_str() {
                        self.detail(&format!("{names:<12} {:<7} {finding}", format!("{:?}", metric.verdict)));
                    }
                }
            }
            Event::Blocked { .. }
            | Event::ApprovalAsked { .. }
            | Event::ApprovalGiven { .. }
            | Event::ApprovalRefused { .. }
            | Event::Stopped { .. }
            | Event::BranchPushed { .. }
            | Event::PullRequestOpened { .. }
            | Event::PullRequestUpdated { .. }
            | Event::Merged { .. }
            | Event::ClosedByPeople { .. }
            | Event::Applied { .. }
            | Event::RolloutSeen { .. }
            | Event::AbortSignal { .. }
            | Event::UndoBegan { .. }
            | Event::RevertOpened { .. }
            | Event::RevertMerged { .. }
            | Event::Undone { .. }
            | Event::Ended { .. }
            | Event::Paged { .. }
            | Event::Note { .. } => self.say(tempo, entry.at, &line),
        }
    }
}

/// `+3m05s`.
fn clock(since: SignedDuration) -> String {
    let seconds = since.as_secs().max(0);
    format!("+{}m{:02}s", seconds / 60, seconds % 60)
}

//! One problem of the past, diagnosed from what is still known of its time, and what a policy would have changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amend_controller::errors;
use amend_controller::evidence::past::{Standing, observe};
use amend_controller::incidents::replay::Problem;
use amend_controller::planner::{self, Known};
use amend_controller::shell::Shell;
use amend_controller::sketch::{Sketch, ready_policies, sketch};
use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::{Cause, Diagnosis};
use amend_diagnosis::evidence::{Answer, Asked, Observations, Window};
use amend_diagnosis::incident::keep;
use amend_diagnosis::signal::Signal;
use amend_telemetry::alert::{Muting, silenced};
use amend_telemetry::load::Load;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// How long after the last alert of a problem's first minutes it is looked at: two scrapes, and the two looks that the
/// controller has taken by then.
const LOOK_AFTER: SignedDuration = SignedDuration::from_mins(1);

/// Deadline for asking whether people have silenced an alert.
const ASKED_WITHIN: Duration = Duration::from_secs(10);

/// A problem and what came of looking at it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    pub opened_at: Timestamp,
    /// None: it still goes on.
    pub ended_at: Option<Timestamp>,
    pub namespace: String,
    /// What the first alert was about.
    pub entity: String,
    /// How many alerts, and their names.
    pub alerts: usize,
    pub names: Vec<String>,
    pub verdict: Verdict,
    /// Why Amend would not act on it now although it might: people silenced it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silenced: Option<String>,
}

/// What Amend would have said.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    Explained(Box<Explained>),
    Silent { reason: Silence, why: String },
}

/// A cause that it would have acted on.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    pub cause: String,
    pub entity: String,
    pub sentence: String,
    pub confidence: f64,
    /// What a policy would change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Sketch>,
    /// The policy is one of the ready ones and not applied here.
    pub from_library: bool,
    /// Why no policy would change anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_change: Option<String>,
}

/// Sorts of silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Silence {
    TooLittleEvidence,
    CausesAlike,
    NothingUnusual,
    NoMetrics,
    OutsideNamespaces,
    BudgetSpent,
}

impl Silence {
    pub fn words(self) -> &'static str {
        match self {
            Self::TooLittleEvidence => "too little evidence for the best guess",
            Self::CausesAlike => "several causes explain it about equally well",
            Self::NothingUnusual => "no entity showed anything unusual",
            Self::NoMetrics => "no store told metrics of that time",
            Self::OutsideNamespaces => "about a node or a whole namespace, of whose past nothing is known",
            Self::BudgetSpent => "not looked at, since the budget of queries was spent",
        }
    }
}

/// What one source answered over all problems.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answers {
    pub asked: usize,
    pub unanswered: usize,
    /// The first reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Looks at one problem after the other.
pub struct Judge<'a> {
    shell: &'a Arc<Shell>,
    load: &'a Load,
    window: Window,
    group_window: SignedDuration,
    /// Queries that one problem has cost at most.
    costliest: u64,
    policies: BTreeMap<String, Result<Vec<Known>, String>>,
    answers: BTreeMap<String, Answers>,
}

impl<'a> Judge<'a> {
    pub fn new(shell: &'a Arc<Shell>, load: &'a Load, window: Window, group_window: SignedDuration) -> Self {
        let (policies, answers) = (BTreeMap::new(), BTreeMap::new());
        Self { shell, load, window, group_window, costliest: 1, policies, answers }
    }

    pub fn answers(self) -> BTreeMap<String, Answers> {
        self.answers
    }

    /// `alerts` are all alerts, of which the problem names its own.
    pub async fn judged(&mut self, problem: &Problem, alerts: &[Signal], standing: Option<&Standing>) -> Judged {
        let own: Vec<&Signal> = problem.alerts.iter().filter_map(|place| alerts.get(*place)).collect();
        let mut names: Vec<String> = own.iter().map(|alert| alert.name.clone()).collect();
        names.sort();
        names.dedup();
        let verdict = match standing {
            None => silent(Silence::OutsideNamespaces, Silence::OutsideNamespaces.words()),
            // A problem that is looked at with half of its questions would look like one without evidence.
            Some(_) if self.load.left() < self.costliest => silent(
                Silence::BudgetSpent,
                format!("the budget of {} queries is spent: raise --max-queries", self.load.budget()),
            ),
            Some(standing) => self.looked_at(problem, &own, standing).await,
        };
        Judged {
            opened_at: problem.opened_at,
            ended_at: problem.ended_at,
            namespace: problem.namespace.clone(),
            entity: problem.entity.to_string(),
            alerts: own.len(),
            names,
            silenced: self.silenced(problem).await,
            verdict,
        }
    }

    async fn looked_at(&mut self, problem: &Problem, own: &[&Signal], standing: &Standing) -> Verdict {
        let before = self.load.cost().queries;
        let at = moment(problem, own, self.group_window, self.window.to);
        let signals = heard_by(own, at);
        let seen = observe(self.shell, &problem.namespace, &signals, standing, at, self.window.to).await;
        self.costliest = self.costliest.max(self.load.cost().queries - before);
        self.count(&seen.asked);
        let diagnosis = diagnose(&seen);
        match diagnosis.actionable() {
            Some(cause) => self.explained(problem, cause, &seen, standing).await,
            None => silent(silence(&diagnosis, &seen), diagnosis.abstained.unwrap_or_default()),
        }
    }

    async fn explained(
        &mut self,
        problem: &Problem,
        cause: &Cause,
        seen: &Observations,
        standing: &Standing,
    ) -> Verdict {
        let changes = seen.changes.known().map(Vec::as_slice).unwrap_or_default();
        let live = standing.object(&cause.entity);
        let applied = match self.policies_of(&problem.namespace).await {
            Ok(policies) => sketch(policies, cause, live, changes),
            Err(why) => Err(why.clone()),
        };
        let (change, from_library, no_change) = match applied {
            Ok(change) => (Some(change), false, None),
            Err(applied) => match sketch(&ready_policies(cause), cause, live, changes) {
                Ok(change) => (Some(change), true, Some(applied)),
                Err(_) => (None, false, Some(applied)),
            },
        };
        Verdict::Explained(Box::new(Explained {
            cause: cause.kind.clone(),
            entity: cause.entity.to_string(),
            sentence: cause.sentence.clone(),
            confidence: cause.confidence,
            change,
            from_library,
            no_change,
        }))
    }

    async fn policies_of(&mut self, namespace: &str) -> &Result<Vec<Known>, String> {
        if !self.policies.contains_key(namespace) {
            let found = match planner::policies(self.shell, namespace).await {
                Ok(found) => Ok(found),
                // Nothing is installed: there are no policies, and that is known.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
                Err(error) => Err(format!("cannot read policies: {}", errors::chain(&error))),
            };
            self.policies.insert(namespace.to_owned(), found);
        }
        &self.policies[namespace]
    }

    /// Whether people silenced what still fires; `None` when it is over, or nobody did, or nobody can be asked.
    async fn silenced(&self, problem: &Problem) -> Option<String> {
        let signal = problem.signals.iter().find(|signal| signal.ended_at.is_none())?;
        let sources = self.shell.sources.serving(&problem.namespace).await;
        if sources.holding(|kind| kind.holds_silences()).is_empty() {
            return None;
        }
        match silenced(&sources, signal, self.window.to, ASKED_WITHIN).await.0 {
            Answer::Known(Muting::Silenced { .. }) => Some("people silenced it in Alertmanager".to_owned()),
            Answer::Known(Muting::Inhibited { .. }) => Some("another alert inhibits it in Alertmanager".to_owned()),
            Answer::Known(Muting::Audible) => None,
            Answer::Unknown { why } => Some(format!("whether people silenced it is unknown: {why}")),
        }
    }

    fn count(&mut self, asked: &[Asked]) {
        for one in asked {
            let answers = self.answers.entry(one.source.clone()).or_default();
            answers.asked += 1;
            if let Some(why) = &one.unknown {
                answers.unanswered += 1;
                answers.why.get_or_insert_with(|| why.clone());
            }
        }
    }
}

fn silent(reason: Silence, why: impl Into<String>) -> Verdict {
    Verdict::Silent { reason, why: why.into() }
}

/// When the controller would have known the problem's first alerts: shortly after the last one that came within the group
/// window, and while it went on.
fn moment(problem: &Problem, own: &[&Signal], group_window: SignedDuration, until: Timestamp) -> Timestamp {
    let early = |alert: &&&Signal| alert.started_at.duration_since(problem.opened_at) <= group_window;
    let last = own.iter().filter(early).map(|alert| alert.started_at).max().unwrap_or(problem.opened_at);
    let looked = last.saturating_add(LOOK_AFTER).unwrap_or(last);
    looked.min(problem.ended_at.unwrap_or(looked).max(last)).min(until)
}

/// The signals as they stood at a moment.
fn heard_by(own: &[&Signal], at: Timestamp) -> Vec<Signal> {
    let mut signals = Vec::new();
    for alert in own.iter().filter(|alert| alert.started_at <= at) {
        let ended_at = alert.ended_at.filter(|end| *end <= at);
        keep(&mut signals, Signal { ended_at, ..(*alert).clone() });
    }
    signals
}

/// A runner-up at least this near the best guess is what keeps Amend silent, and not the lack of evidence.
const NEAR: f64 = 0.6;

fn silence(diagnosis: &Diagnosis, seen: &Observations) -> Silence {
    match (diagnosis.causes.as_slice(), seen.series.known()) {
        (_, None) => Silence::NoMetrics,
        ([], _) => Silence::NothingUnusual,
        ([best, next, ..], _) if next.confidence >= NEAR * best.confidence => Silence::CausesAlike,
        _ => Silence::TooLittleEvidence,
    }
}

#[cfg(test)]
mod tests {
    use amend_diagnosis::entity::{Entity, EntityKind};
    use amend_diagnosis::signal::{Severity, SignalSource};

    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(60 * minute).unwrap()
    }

    fn alert(name: &str, from: i64, to: Option<i64>) -> Signal {
        Signal {
            key: name.to_owned(),
            source: SignalSource::Alert,
            name: name.to_owned(),
            entity: Entity::new(EntityKind::Deployment, "shop", "checkout"),
            severity: Severity::Warning,
            started_at: at(from),
            ended_at: to.map(at),
            summary: String::new(),
            labels: BTreeMap::new(),
            count: 1,
        }
    }

    fn looked_at(alerts: &[Signal], until: i64) -> (Timestamp, Vec<Signal>) {
        let own: Vec<&Signal> = alerts.iter().collect();
        let ends: Option<Vec<Timestamp>> = alerts.iter().map(|alert| alert.ended_at).collect();
        let problem = Problem {
            namespace: "shop".to_owned(),
            entity: alerts[0].entity.clone(),
            opened_at: alerts[0].started_at,
            ended_at: ends.and_then(|ends| ends.into_iter().max()),
            signals: alerts.to_vec(),
            alerts: (0..alerts.len()).collect(),
        };
        let moment = moment(&problem, &own, SignedDuration::from_mins(10), at(until));
        (moment, heard_by(&own, moment))
    }

    #[test]
    fn a_problem_is_looked_at_shortly_after_its_first_alerts_and_hears_nothing_of_later_ones() {
        let alerts = [alert("Oom", 0, Some(90)), alert("Errors", 3, None), alert("Slow", 45, None)];
        let (moment, heard) = looked_at(&alerts, 600);
        assert_eq!(moment, at(4));
        assert_eq!(heard.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["Oom", "Errors"]);
        assert!(heard.iter().all(|one| one.ended_at.is_none()), "nothing had ended by then");
    }

    #[test]
    fn the_look_is_neither_later_than_the_end_of_the_problem_nor_than_the_time_that_is_known() {
        assert_eq!(looked_at(&[alert("Oom", 5, None)], 5).0, at(5));
        let short = Signal { ended_at: Some(Timestamp::from_second(330).unwrap()), ..alert("Oom", 5, None) };
        assert_eq!(looked_at(&[short], 600).0, Timestamp::from_second(330).unwrap());
    }
}

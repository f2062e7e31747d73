//! Whether an alert really fires, and whether somebody has asked not to be told about it.
//!
//! A webhook is a hint that anyone with its token can forge or replay; before anything is done the alert is looked up
//! where it was born, and Alertmanager is asked whether people have silenced it. No answer is never a yes.

use std::collections::BTreeMap;
use std::time::Duration;

use amend_diagnosis::entity::Entity;
use amend_diagnosis::evidence::{Answer, Asked, Window};
use amend_diagnosis::signal::Signal;
use jiff::{SignedDuration, Timestamp};

use crate::digest::{Canonical, Writer};
use crate::source::{Reply, SourceKind};
use crate::sources::Sources;

/// How far back an alert must have been heard of for its silence to mean that it is over.
///
/// Longer than an incident that waits for a weekend's review would be; it costs one index look-up.
const HEARD_OF: SignedDuration = SignedDuration::from_hours(7 * 24);

/// An alert, asked about at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertQuestion {
    pub id: String,
    /// The alert's name (`alertname`).
    pub name: String,
    /// The labels that Alertmanager sent, external ones among them.
    pub labels: BTreeMap<String, String>,
    pub at: Timestamp,
    /// How far back a trace of the alert is looked for.
    pub heard_of: SignedDuration,
}

impl AlertQuestion {
    fn about(id: &str, signal: &Signal, at: Timestamp) -> Self {
        Self { id: id.to_owned(), name: signal.name.clone(), labels: signal.labels.clone(), at, heard_of: HEARD_OF }
    }

    fn window(&self) -> Window {
        Window { from: self.at, to: self.at }
    }
}

/// What a rule says about an alert now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlertState {
    /// The rule is known and does not hold.
    Inactive,
    /// The rule holds, but not yet for long enough.
    Pending,
    Firing,
}

impl Canonical for AlertState {
    fn write(&self, out: &mut Writer) {
        out.text(&format!("{self:?}"));
    }
}

/// What Alertmanager says about telling people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Muting {
    /// People are told.
    Audible,
    /// People silenced it.
    Silenced { by: Vec<Silencer> },
    /// Another alert inhibits it.
    Inhibited { by: Vec<String> },
}

/// Workloads about which people may have asked for quiet before any of their alerts was heard of.
///
/// An incident may be opened by an event or by what a pod says of itself: its alerts are yet to come, and those that are silenced
/// never come, since a silenced alert is sent to nobody. So the question is not whether an alert that we know is silenced, but
/// which silences a person would have made who wants these workloads left alone:
///
/// * those whose matchers hold for every alert of the workload, as far as its labels are known
///   (a namespace, a workload, its pods; not a single alert of it);
/// * those of alerts about the workload that fire unheard since the incident began. One that was silenced and fired
///   long before is known noise, and says nothing about this incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietQuestion {
    pub id: String,
    pub about: Vec<Entity>,
    /// The labels that Prometheus adds to every alert of this cluster.
    pub own: BTreeMap<String, String>,
    /// Since when an alert must fire to belong to the incident.
    pub since: Timestamp,
    pub at: Timestamp,
}

/// A silence, as whoever made it described it. All of it is untrusted text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Silencer {
    pub id: String,
    /// Empty when Alertmanager does not tell.
    pub created_by: String,
    /// Empty when Alertmanager does not tell.
    pub comment: String,
}

impl Canonical for Silencer {
    fn write(&self, out: &mut Writer) {
        out.text(&format!("{self:?}"));
    }
}

impl Canonical for Muting {
    fn write(&self, out: &mut Writer) {
        out.text(&format!("{self:?}"));
    }
}

/// Asks the rules whether the alert behind a signal fires at `at`: the strongest state that any metrics source reports.
///
/// Sources that have never heard of the alert do not count against one that has.
pub async fn firing(
    sources: &Sources,
    signal: &Signal,
    at: Timestamp,
    deadline: Duration,
) -> (Answer<AlertState>, Vec<Asked>) {
    let question = AlertQuestion::about("alert/firing", signal, at);
    let replies = sources
        .ask(SourceKind::holds_alerts, "metrics", &question.id, question.window(), deadline, |source| {
            source.alert_state(&question)
        })
        .await;
    let strongest = match replies.iter().filter_map(|reply| reply.answer.known()).max() {
        Some(state) => Answer::Known(*state),
        None => Answer::unknown(reasons(&replies)),
    };
    (strongest, replies.into_iter().map(|reply| reply.asked).collect())
}

/// Asks every Alertmanager whether the alert behind a signal is silenced or inhibited: muted by any is muted; audible
/// only when all of them say so.
pub async fn silenced(
    sources: &Sources,
    signal: &Signal,
    at: Timestamp,
    deadline: Duration,
) -> (Answer<Muting>, Vec<Asked>) {
    let question = AlertQuestion::about("alert/silenced", signal, at);
    let replies = sources
        .ask(SourceKind::holds_silences, "silences", &question.id, question.window(), deadline, |source| {
            source.muting(&question)
        })
        .await;
    let known = || replies.iter().filter_map(|reply| reply.answer.known());
    let answer = match known().find(|muting| **muting != Muting::Audible) {
        Some(muted) => Answer::Known(muted.clone()),
        None if known().count() == replies.len() => Answer::Known(Muting::Audible),
        None => Answer::unknown(reasons(&replies)),
    };
    (answer, replies.into_iter().map(|reply| reply.asked).collect())
}

/// Asks every Alertmanager which silences ask for quiet about workloads: one silence is enough, none only when all of them say so.
pub async fn quiet(
    sources: &Sources,
    question: &QuietQuestion,
    deadline: Duration,
) -> (Answer<Vec<Silencer>>, Vec<Asked>) {
    let window = Window { from: question.since, to: question.at };
    let replies = sources
        .ask(SourceKind::holds_silences, "silences", &question.id, window, deadline, |source| source.quiet(question))
        .await;
    let known: Vec<&Vec<Silencer>> = replies.iter().filter_map(|reply| reply.answer.known()).collect();
    let silences: Vec<Silencer> = known.iter().flat_map(|silences| silences.iter().cloned()).collect();
    let answer = match known.len() == replies.len() || !silences.is_empty() {
        true => Answer::Known(silences),
        false => Answer::unknown(reasons(&replies)),
    };
    (answer, replies.into_iter().map(|reply| reply.asked).collect())
}

/// Every reason why there is no answer, each once.
pub(crate) fn reasons<T>(replies: &[Reply<T>]) -> String {
    let mut reasons: Vec<&str> = replies.iter().filter_map(|reply| reply.asked.unknown.as_deref()).collect();
    reasons.dedup();
    reasons.join("; ")
}

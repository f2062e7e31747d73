//! Where an incident stands: one pure transition at a time, each with its reason.
//!
//! ```text
//! Open ─► Diagnosing ─► Diagnosed ─► Remediating ─► Mitigated ─► Resolved
//!   │          └──────► Abstained ───────┴──────────────┴──────────┘
//!   ├─► Dropped   gone before work on it began
//!   └─► Joined    part of another one (from any phase before the end)
//! ```
//!
//! `Mitigated` says that the symptoms are gone while the cause is still there: somebody scaled up, traffic fell, pods
//! were restarted. Its pull request stays open, and the symptoms will come back.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use amend_diagnosis::evidence::Answer;
use amend_diagnosis::incident::Clearing;
use amend_diagnosis::signal::Signal;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::phase::Phase;

/// How long the *cause* must usually have been absent before an open pull request is withdrawn and the incident resolved.
///
/// Longer than a crash loop's longest pause (the kubelet backs off up to 5 minutes) and than a load peak's short valley,
/// short enough that a proposal that nobody needs does not stay for a day.
pub const ABSENT_FOR: SignedDuration = SignedDuration::from_mins(30);

/// How long before an abstention is looked at again, since facts arrive late.
pub const LOOK_AGAIN_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// The phase of an incident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IncidentPhase {
    #[default]
    Open,
    Diagnosing,
    Diagnosed,
    /// No action may follow; the diagnosis says what would decide it.
    Abstained,
    Remediating,
    /// Symptoms gone, cause still there.
    Mitigated,
    Resolved,
    /// Gone before work on it began.
    Dropped,
    /// Part of another incident, named in its status.
    Joined,
}

impl IncidentPhase {
    /// As status and metrics write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "Open",
            Self::Diagnosing => "Diagnosing",
            Self::Diagnosed => "Diagnosed",
            Self::Abstained => "Abstained",
            Self::Remediating => "Remediating",
            Self::Mitigated => "Mitigated",
            Self::Resolved => "Resolved",
            Self::Dropped => "Dropped",
            Self::Joined => "Joined",
        }
    }

    pub fn is_end(self) -> bool {
        match self {
            Self::Resolved | Self::Dropped | Self::Joined => true,
            Self::Open | Self::Diagnosing | Self::Diagnosed | Self::Abstained | Self::Remediating | Self::Mitigated => {
                false
            }
        }
    }
}

/// Whether what was found to be the cause is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CauseState {
    Present {},
    /// Looked for and not found, at every look since then.
    AbsentSince {
        since: Timestamp,
    },
}

impl CauseState {
    /// Whether the cause has been absent for this long.
    pub fn is_gone(self, now: Timestamp, absent_for: SignedDuration) -> bool {
        match self {
            Self::Present {} => false,
            Self::AbsentSince { since } => now.duration_since(since) >= absent_for,
        }
    }
}

/// What the diagnosis came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Not asked, or at work since the given time.
    NothingYet {
        since: Option<Timestamp>,
    },
    Cause {
        sentence: String,
    },
    Abstained {
        why: String,
        at: Timestamp,
    },
}

/// What an incident is about in a few words, before anything is found: its gravest signal by name, and how many others there are.
pub fn heard(signals: &[Signal]) -> String {
    let gravest = signals.iter().min_by_key(|one| (Reverse(one.severity), one.started_at, &one.name));
    let names: BTreeSet<&str> = signals.iter().map(|signal| signal.name.as_str()).collect();
    match (gravest, names.len()) {
        (None, _) => "what it was told".to_owned(),
        (Some(one), 0 | 1) => one.name.clone(),
        (Some(one), 2) => format!("{} and one more signal", one.name),
        (Some(one), all) => format!("{} and {} more signals", one.name, all - 1),
    }
}

/// What an incident's next phase depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentFacts {
    pub now: Timestamp,
    pub symptoms: Clearing,
    pub joined_to: Option<String>,
    /// What asks for a diagnosis, as [`heard`] says it.
    pub heard: String,
    pub found: Found,
    /// How long the diagnosis may take: the strictest `sla.diagnose` of the policies in reach.
    pub diagnose_within: SignedDuration,
    /// Looked at again now; `Unknown` keeps the incident open.
    pub cause: Answer<CauseState>,
    /// How long the cause must be absent to count as gone; usually [`ABSENT_FOR`].
    pub absent_for: SignedDuration,
    /// Phase of its latest remediation, if it has one.
    pub remediation: Option<Phase>,
}

/// A change of phase, or staying, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub phase: IncidentPhase,
    pub because: String,
    /// When to look again even if nothing is heard.
    pub wake: Option<SignedDuration>,
}

/// The phase that follows from the facts.
///
/// One step per call; calling it again until it stays gives the fixed point, since every step is forward or a new symptom.
pub fn incident_phase(phase: IncidentPhase, facts: &IncidentFacts) -> Transition {
    if phase.is_end() {
        return stay(phase, "it has ended", None);
    }
    if let Some(other) = &facts.joined_to {
        return go(IncidentPhase::Joined, format!("part of {other}"));
    }
    match phase {
        IncidentPhase::Open => match facts.symptoms {
            Clearing::Cleared { .. } => go(IncidentPhase::Dropped, "all signals ended before work on it began"),
            Clearing::Firing | Clearing::Quiet { .. } => {
                go(IncidentPhase::Diagnosing, format!("looks for the cause of {}", facts.heard))
            }
        },
        IncidentPhase::Diagnosing => diagnosing(facts),
        IncidentPhase::Abstained => abstained(facts),
        IncidentPhase::Diagnosed | IncidentPhase::Remediating | IncidentPhase::Mitigated => worked_on(phase, facts),
        IncidentPhase::Resolved | IncidentPhase::Dropped | IncidentPhase::Joined => stay(phase, "it has ended", None),
    }
}

fn diagnosing(facts: &IncidentFacts) -> Transition {
    match &facts.found {
        Found::Cause { sentence } => go(IncidentPhase::Diagnosed, sentence.clone()),
        Found::Abstained { why, .. } => go(IncidentPhase::Abstained, why.clone()),
        Found::NothingYet { since } => {
            let spent = since.map_or(SignedDuration::ZERO, |since| facts.now.duration_since(since));
            if spent >= facts.diagnose_within {
                go(IncidentPhase::Abstained, out_of_time(facts))
            } else {
                let because = format!("looks for the cause of {}", facts.heard);
                stay(IncidentPhase::Diagnosing, because, Some(facts.diagnose_within - spent))
            }
        }
    }
}

fn out_of_time(facts: &IncidentFacts) -> String {
    format!("no diagnosis within its limit of {} s", facts.diagnose_within.as_secs())
}

fn abstained(facts: &IncidentFacts) -> Transition {
    if let Found::Cause { sentence } = &facts.found {
        return go(IncidentPhase::Diagnosed, sentence.clone());
    }
    match facts.symptoms {
        Clearing::Cleared { .. } => go(IncidentPhase::Resolved, "the symptoms are gone; the cause was never found"),
        Clearing::Quiet { until } => stay(
            IncidentPhase::Abstained,
            "the symptoms are quiet, but not for long enough",
            Some(until.duration_since(facts.now)),
        ),
        Clearing::Firing => match &facts.found {
            Found::Abstained { at, .. } if facts.now.duration_since(*at) >= LOOK_AGAIN_AFTER => {
                go(IncidentPhase::Diagnosing, "new facts may have arrived since the abstention")
            }
            Found::Abstained { at, why } => {
                stay(IncidentPhase::Abstained, why.clone(), Some(LOOK_AGAIN_AFTER - facts.now.duration_since(*at)))
            }
            Found::NothingYet { since } => {
                let spent = since.map_or(SignedDuration::MAX, |since| facts.now.duration_since(since));
                let left = facts.diagnose_within.saturating_add(LOOK_AGAIN_AFTER).saturating_sub(spent);
                match left <= SignedDuration::ZERO {
                    true => go(IncidentPhase::Diagnosing, "the diagnosis ran out of time before"),
                    false => stay(IncidentPhase::Abstained, out_of_time(facts), Some(left)),
                }
            }
            Found::Cause { .. } => stay(IncidentPhase::Abstained, "a cause is known", None),
        },
    }
}

/// A cause is known; what matters is whether it and its symptoms are still there.
fn worked_on(phase: IncidentPhase, facts: &IncidentFacts) -> Transition {
    let at_work = facts.remediation.is_some_and(|remediation| remediation.ending().is_none());
    let succeeded = facts.remediation == Some(Phase::Succeeded);
    let gone = match &facts.cause {
        Answer::Known(state) => Ok(state.is_gone(facts.now, facts.absent_for)),
        Answer::Unknown { why } => Err(why),
    };
    let quiet = match facts.symptoms {
        Clearing::Cleared { .. } => true,
        Clearing::Firing | Clearing::Quiet { .. } => false,
    };
    if quiet && succeeded {
        return go(IncidentPhase::Resolved, "the remediation succeeded and the symptoms are gone");
    }
    // The pull request is withdrawn first, so that nothing is left when the incident is closed.
    if quiet && gone == Ok(true) && !at_work {
        return go(IncidentPhase::Resolved, "the cause and its symptoms have been gone long enough");
    }
    let (next, because) = match (quiet, at_work) {
        (true, _) => (
            IncidentPhase::Mitigated,
            match gone {
                Ok(_) => "the symptoms are gone, the cause is not yet known to be gone for good".to_owned(),
                Err(why) => format!("the symptoms are gone; cannot tell whether the cause is: {why}"),
            },
        ),
        (false, true) => (IncidentPhase::Remediating, "a remediation is under way".to_owned()),
        (false, false) => (
            IncidentPhase::Diagnosed,
            match facts.remediation {
                Some(ended) => format!("the symptoms are there and the last remediation ended {ended:?}"),
                None => "no remediation is under way".to_owned(),
            },
        ),
    };
    let wake = match (&facts.cause, facts.symptoms) {
        (Answer::Known(CauseState::AbsentSince { since }), _) => {
            Some((facts.absent_for - facts.now.duration_since(*since)).max(SignedDuration::from_secs(1)))
        }
        (_, Clearing::Quiet { until }) => Some(until.duration_since(facts.now)),
        _ => Some(SignedDuration::from_mins(1)),
    };
    if next == phase { stay(phase, because, wake) } else { Transition { phase: next, because, wake } }
}

fn go(phase: IncidentPhase, because: impl Into<String>) -> Transition {
    Transition { phase, because: because.into(), wake: None }
}

fn stay(phase: IncidentPhase, because: impl Into<String>, wake: Option<SignedDuration>) -> Transition {
    Transition { phase, because: because.into(), wake }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use amend_diagnosis::entity::{Entity, EntityKind};
    use amend_diagnosis::signal::{Severity, SignalSource};

    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + minute * 60).unwrap()
    }

    fn facts() -> IncidentFacts {
        IncidentFacts {
            now: at(0),
            symptoms: Clearing::Firing,
            joined_to: None,
            heard: "CheckoutErrors".into(),
            found: Found::Cause { sentence: "memory limit too small".into() },
            diagnose_within: SignedDuration::from_secs(30),
            cause: Answer::Known(CauseState::Present {}),
            absent_for: ABSENT_FOR,
            remediation: None,
        }
    }

    #[test]
    fn an_incident_whose_signals_ended_before_work_began_is_dropped() {
        let facts = IncidentFacts { symptoms: Clearing::Cleared { since: at(-5) }, ..facts() };
        assert_eq!(incident_phase(IncidentPhase::Open, &facts).phase, IncidentPhase::Dropped);
    }

    #[test]
    fn while_the_cause_is_looked_for_the_gravest_alert_names_the_incident() {
        let signal = |name: &str, severity| Signal {
            key: name.into(),
            source: SignalSource::Alert,
            name: name.into(),
            entity: Entity::new(EntityKind::Deployment, "shop", "checkout"),
            severity,
            started_at: at(0),
            ended_at: None,
            summary: String::new(),
            labels: BTreeMap::new(),
            count: 1,
        };
        let (slow, errors) = (signal("Slow", Severity::Warning), signal("CheckoutErrors", Severity::Critical));
        assert_eq!(heard(&[slow.clone(), slow.clone()]), "Slow", "one alert of several pods is one name");
        assert_eq!(heard(&[slow.clone(), errors.clone()]), "CheckoutErrors and one more signal");
        assert_eq!(heard(&[slow, errors, signal("OOMKilled", Severity::Warning)]), "CheckoutErrors and 2 more signals");
        let next = incident_phase(IncidentPhase::Open, &facts());
        assert_eq!(next.because, "looks for the cause of CheckoutErrors");
        let still = IncidentFacts { found: Found::NothingYet { since: Some(at(0)) }, ..facts() };
        assert_eq!(incident_phase(IncidentPhase::Diagnosing, &still).because, "looks for the cause of CheckoutErrors");
    }

    #[test]
    fn a_diagnosis_that_takes_too_long_abstains_and_says_so() {
        let facts = IncidentFacts { found: Found::NothingYet { since: Some(at(-1)) }, ..facts() };
        let next = incident_phase(IncidentPhase::Diagnosing, &facts);
        assert_eq!(next.phase, IncidentPhase::Abstained);
        assert!(next.because.contains("30 s"));
    }

    #[test]
    fn a_diagnosis_that_ran_out_of_time_is_tried_again_later_and_not_at_once() {
        let at_work_since = |minute| IncidentFacts { found: Found::NothingYet { since: Some(at(minute)) }, ..facts() };
        let soon = incident_phase(IncidentPhase::Abstained, &at_work_since(-5));
        assert_eq!((soon.phase, soon.wake), (IncidentPhase::Abstained, Some(SignedDuration::from_secs(30))));
        assert!(soon.because.contains("30 s"), "{}", soon.because);
        assert_eq!(incident_phase(IncidentPhase::Abstained, &at_work_since(-6)).phase, IncidentPhase::Diagnosing);
    }

    #[test]
    fn symptoms_gone_with_the_cause_there_is_mitigated_not_resolved() {
        let facts = IncidentFacts {
            symptoms: Clearing::Cleared { since: at(-10) },
            remediation: Some(Phase::Proposed),
            ..facts()
        };
        assert_eq!(incident_phase(IncidentPhase::Remediating, &facts).phase, IncidentPhase::Mitigated);
    }

    #[test]
    fn an_unknown_cause_never_resolves_an_incident() {
        let facts = IncidentFacts {
            symptoms: Clearing::Cleared { since: at(-100) },
            cause: Answer::unknown("prometheus is away"),
            ..facts()
        };
        let next = incident_phase(IncidentPhase::Mitigated, &facts);
        assert_eq!(next.phase, IncidentPhase::Mitigated);
        assert!(next.because.contains("prometheus is away"));
    }

    #[test]
    fn a_cause_absent_for_half_an_hour_resolves_once_the_proposal_is_withdrawn() {
        let mut facts = IncidentFacts {
            symptoms: Clearing::Cleared { since: at(-40) },
            cause: Answer::Known(CauseState::AbsentSince { since: at(-30) }),
            remediation: Some(Phase::Proposed),
            ..facts()
        };
        assert_eq!(incident_phase(IncidentPhase::Mitigated, &facts).phase, IncidentPhase::Mitigated);
        facts.remediation = Some(Phase::Withdrawn);
        assert_eq!(incident_phase(IncidentPhase::Mitigated, &facts).phase, IncidentPhase::Resolved);
        facts.cause = Answer::Known(CauseState::AbsentSince { since: at(-29) });
        assert_eq!(incident_phase(IncidentPhase::Mitigated, &facts).phase, IncidentPhase::Mitigated);
    }

    #[test]
    fn symptoms_that_come_back_bring_a_mitigated_incident_back_to_work() {
        let facts = IncidentFacts { remediation: Some(Phase::Proposed), ..facts() };
        assert_eq!(incident_phase(IncidentPhase::Mitigated, &facts).phase, IncidentPhase::Remediating);
    }

    #[test]
    fn a_success_with_symptoms_still_firing_is_not_resolved() {
        let facts = IncidentFacts { remediation: Some(Phase::Succeeded), ..facts() };
        assert_eq!(incident_phase(IncidentPhase::Remediating, &facts).phase, IncidentPhase::Diagnosed);
    }

    #[test]
    fn an_ended_incident_stays_ended_whatever_happens() {
        for phase in [IncidentPhase::Resolved, IncidentPhase::Dropped, IncidentPhase::Joined] {
            let facts = IncidentFacts { joined_to: Some("other".into()), ..facts() };
            assert_eq!(incident_phase(phase, &facts).phase, phase);
        }
    }
}

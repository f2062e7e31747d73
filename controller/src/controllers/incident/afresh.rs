//! When an incident whose plan was withdrawn may be planned afresh: never over the head of whoever changed something meanwhile.
//!
//! ```text
//! a person edits the line ─► withdrawn ─► Flux applies it ─► it has `absent_for` to help ─► still firing: diagnosed and planned
//!                                                               └─► quiet: resolved            anew, from what stands there now
//! ```

use amend_crds::Remediation;
use amend_diagnosis::evidence::Answer;
use amend_execution::phase::Phase;
use amend_execution::phase::incident::CauseState;
use amend_policies::plan::{Plan, first_missing};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::Value;

use super::Moment;
use super::due::DIAGNOSE_AGAIN;
use crate::watch::configured::Configured;
use crate::watch::gitops::before_fields;

/// How the newest remediation of an incident ended, and what the incident knows since.
#[derive(Clone, Debug)]
pub struct Ended {
    pub now: Timestamp,
    /// Phase of the newest remediation.
    pub latest: Option<Phase>,
    /// Whether any signal still fires.
    pub firing: bool,
    pub diagnosed_at: Option<Timestamp>,
    /// How long what took the cause away has to help.
    pub absent_for: SignedDuration,
}

impl Ended {
    pub fn of(moment: &Moment) -> Self {
        let status = moment.object.status.as_ref();
        Self {
            now: moment.now,
            latest: moment.remediation,
            firing: moment.signals.iter().any(|signal| signal.ended_at.is_none()),
            diagnosed_at: match moment.diagnosis {
                Some(_) => Some(moment.now),
                None => status.and_then(|status| status.diagnosed_at),
            },
            absent_for: moment.absent_for,
        }
    }

    fn until(&self, since: Timestamp) -> Timestamp {
        since.saturating_add(self.absent_for).unwrap_or(Timestamp::MAX)
    }
}

/// Whether a new diagnosis is due: the cause that was planned against is gone for long enough, and the symptoms are not.
pub fn diagnosis_is_due(ended: &Ended, absent_since: Option<Timestamp>) -> bool {
    let Some(until) = absent_since.map(|since| ended.until(since)) else { return false };
    let old = ended.diagnosed_at.is_none_or(|at| at < until || ended.now.duration_since(at) >= DIAGNOSE_AGAIN);
    ended.latest == Some(Phase::Withdrawn) && ended.firing && ended.now >= until && old
}

/// Why nothing is planned yet after a withdrawal; `None`: a plan may be made.
pub fn why_not_yet(ended: &Ended, cause: &Answer<CauseState>) -> Option<String> {
    if ended.latest != Some(Phase::Withdrawn) {
        return None;
    }
    let since = match cause {
        Answer::Known(CauseState::AbsentSince { since }) => *since,
        Answer::Known(CauseState::Present {}) => return None,
        Answer::Unknown { why } => return Some(format!("cannot tell whether the cause is still there: {why}")),
    };
    let until = ended.until(since);
    match ended.diagnosed_at {
        Some(at) if at >= until => None,
        Some(_) | None => Some(format!(
            "what the withdrawn plan answered was changed by others at {since:.0}; that has until {until:.0} to help, then it is diagnosed anew"
        )),
    }
}

/// Why a plan is not carried out although it was made: Git says what the cluster does not show yet, so a change is on its way.
pub fn not_applied(ended: &Ended, plan: &Plan, live: &Value, configured: &Answer<Vec<Configured>>) -> Option<String> {
    if ended.latest != Some(Phase::Withdrawn) {
        return None;
    }
    let configured = match configured {
        Answer::Known(configured) => configured,
        Answer::Unknown { why } => return Some(format!("cannot tell what the ConfigMap of the plan holds: {why}")),
    };
    let in_one = |one: &Configured| first_missing(&plan.before_of(&one.configuration), one.live.as_ref());
    let missing = before_fields(plan).iter().find_map(|field| field.missing_from(live));
    let missing = missing.or_else(|| configured.iter().find_map(in_one))?;
    Some(format!("a change in Git is on its way to the cluster ({missing}): nothing is planned before it is applied"))
}

/// Why the very change is not proposed a second time: another incident's remediation is at work on the same place.
///
/// Without traces nobody knows that two services call each other, so one fault can open two incidents with one cause.
pub fn under_way_elsewhere(plan: &Plan, all: &[Remediation]) -> Option<String> {
    let fingerprint = plan.fingerprint();
    let at_work = |one: &&Remediation| {
        let phase = one.status.as_ref().and_then(|status| status.phase);
        phase.is_none_or(|phase| phase.ending().is_none()) && one.spec.plan.fingerprint() == fingerprint
    };
    let other = all.iter().filter(|one| one.spec.plan.incident.uid != plan.incident.uid).find(at_work)?;
    Some(format!("the same change is under way for incident {}, as {}", other.spec.incident, other.name_any()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + minute * 60).unwrap()
    }

    fn withdrawn(now: i64, diagnosed: i64) -> Ended {
        Ended {
            now: at(now),
            latest: Some(Phase::Withdrawn),
            firing: true,
            diagnosed_at: Some(at(diagnosed)),
            absent_for: SignedDuration::from_mins(30),
        }
    }

    const ABSENT: i64 = 10;

    fn absent() -> Answer<CauseState> {
        Answer::Known(CauseState::AbsentSince { since: at(ABSENT) })
    }

    #[test]
    fn what_a_person_changed_has_its_time_to_help_before_anything_else_is_planned() {
        let why = why_not_yet(&withdrawn(20, 0), &absent()).unwrap();
        assert!(why.contains("changed by others") && why.contains(&at(40).to_string()), "{why}");
        assert!(!diagnosis_is_due(&withdrawn(20, 0), Some(at(ABSENT))));
    }

    #[test]
    fn where_it_did_not_help_a_new_diagnosis_comes_before_a_new_plan() {
        assert!(why_not_yet(&withdrawn(41, 0), &absent()).is_some(), "the old diagnosis knows nothing of the change");
        assert!(diagnosis_is_due(&withdrawn(41, 0), Some(at(ABSENT))));
        assert_eq!(why_not_yet(&withdrawn(41, 41), &absent()), None);
        assert!(!diagnosis_is_due(&Ended { firing: false, ..withdrawn(41, 0) }, Some(at(ABSENT))), "it did help");
    }

    #[test]
    fn a_cause_that_is_there_again_is_planned_for_at_once_and_an_unknown_one_never() {
        assert_eq!(why_not_yet(&withdrawn(20, 0), &Answer::Known(CauseState::Present {})), None);
        assert!(why_not_yet(&withdrawn(20, 0), &Answer::unknown("no answer")).is_some());
    }

    #[test]
    fn without_a_withdrawal_nothing_waits() {
        let first = Ended { latest: None, ..withdrawn(20, 0) };
        assert_eq!(why_not_yet(&first, &absent()), None);
        assert!(!diagnosis_is_due(&first, Some(at(ABSENT))));
    }
}

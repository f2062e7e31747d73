//! When evidence about an incident is gathered again.

use amend_crds::Incident;
use amend_execution::phase::Phase;
use amend_execution::phase::incident::IncidentPhase;
use jiff::{SignedDuration, Timestamp};

/// A diagnosis that no policy answers is made again after this, since evidence arrives late.
pub const DIAGNOSE_AGAIN: SignedDuration = SignedDuration::from_secs(30);

/// The same when a signal was heard since that it did not know: a kill that comes after the alert is the nearer cause.
const DIAGNOSE_NEWS: SignedDuration = SignedDuration::from_secs(2);

/// How long until evidence should be gathered: zero for now, none when nothing but a change asks for it.
pub fn due_in(object: &Incident, remediation: Option<Phase>, now: Timestamp) -> Option<SignedDuration> {
    let status = object.status.as_ref()?;
    match status.phase {
        IncidentPhase::Diagnosing => Some(SignedDuration::ZERO),
        // No diagnosis came about in its time: its phase says when the next one begins.
        IncidentPhase::Abstained if status.diagnosed_at.is_none() => None,
        IncidentPhase::Abstained | IncidentPhase::Diagnosed => {
            let has_news = status.signals.len() > status.diagnosed_signals as usize;
            let wait = if has_news { DIAGNOSE_NEWS } else { DIAGNOSE_AGAIN };
            let since = status.diagnosed_at.map_or(wait, |at| now.duration_since(at));
            remediation.is_none().then(|| (wait - since).max(SignedDuration::ZERO))
        }
        // The first look only says that work has begun, so that people see it at once.
        IncidentPhase::Open
        | IncidentPhase::Remediating
        | IncidentPhase::Mitigated
        | IncidentPhase::Resolved
        | IncidentPhase::Dropped
        | IncidentPhase::Joined => None,
    }
}

/// Whether an incident has had its first diagnosis and goes by the clock: its remediation nudges it when there is news, and so does
/// every signal. With many of them, those that nobody has looked into yet come first.
pub fn only_waits(phase: IncidentPhase) -> bool {
    match phase {
        IncidentPhase::Diagnosed | IncidentPhase::Abstained | IncidentPhase::Remediating | IncidentPhase::Mitigated => {
            true
        }
        IncidentPhase::Open
        | IncidentPhase::Diagnosing
        | IncidentPhase::Resolved
        | IncidentPhase::Dropped
        | IncidentPhase::Joined => false,
    }
}

#[cfg(test)]
mod tests {
    use amend_crds::IncidentStatus;
    use amend_diagnosis::entity::EntityKind;
    use amend_diagnosis::signal::{Signal, SignalSource};

    use super::*;
    use crate::pace::Pace;

    #[test]
    fn with_thousands_diagnosed_the_next_one_is_looked_at_at_once() {
        let mut pace = Pace::default();
        let (took, wanted) = (std::time::Duration::from_millis(80), std::time::Duration::from_secs(15));
        let mut next = |name: &str, phase| pace.next(name, only_waits(phase), took, wanted, 4);
        for number in 0..3_000 {
            next(&number.to_string(), IncidentPhase::Diagnosed);
        }
        assert!(next("0", IncidentPhase::Abstained).as_secs() > 100, "they leave half of the time");
        assert_eq!(next("new", IncidentPhase::Diagnosing), wanted);
    }

    #[test]
    fn an_incident_without_an_answer_is_diagnosed_again_and_one_in_work_is_not() {
        let opened = Timestamp::from_second(1_700_000_000).expect("a time");
        let at = |seconds: i64| opened + SignedDuration::from_secs(seconds);
        let incident = |phase: IncidentPhase, diagnosed: i64| {
            let spec = amend_crds::IncidentSpec {
                entity: amend_diagnosis::entity::Entity::new(EntityKind::Deployment, "shop", "checkout"),
                severity: amend_diagnosis::signal::Severity::Warning,
                signals: Vec::new(),
            };
            let mut object = Incident::new("inc", spec);
            object.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(opened));
            object.status =
                Some(IncidentStatus { phase, diagnosed_at: Some(at(diagnosed)), ..IncidentStatus::default() });
            object
        };
        let wait = |object: &Incident, now: i64| due_in(object, None, at(now)).map(|wait| wait.as_secs());
        assert_eq!(wait(&incident(IncidentPhase::Diagnosed, 0), 1), Some(29));
        assert_eq!(wait(&incident(IncidentPhase::Abstained, 30), 40), Some(20));
        assert_eq!(wait(&incident(IncidentPhase::Abstained, 3_600), 3_610), Some(20));
        assert_eq!(wait(&incident(IncidentPhase::Diagnosed, 3_600), 3_700), Some(0));
        assert_eq!(due_in(&incident(IncidentPhase::Diagnosed, 0), Some(Phase::Proposed), at(900)), None);
        let mut out_of_time = incident(IncidentPhase::Abstained, 0);
        out_of_time.status.as_mut().expect("a status").diagnosed_at = None;
        assert_eq!(due_in(&out_of_time, None, at(900)), None, "its phase says when it is tried again");
    }

    #[test]
    fn a_signal_that_a_diagnosis_did_not_know_is_a_reason_to_look_again_soon() {
        let opened = Timestamp::from_second(1_700_000_000).expect("a time");
        let heard = Signal {
            key: "killed".into(),
            source: SignalSource::Event,
            name: "OOMKilled".into(),
            entity: amend_diagnosis::entity::Entity::new(EntityKind::Deployment, "shop", "checkout"),
            severity: amend_diagnosis::signal::Severity::Warning,
            started_at: opened,
            ended_at: None,
            summary: String::new(),
            labels: std::collections::BTreeMap::new(),
            count: 1,
        };
        let spec = amend_crds::IncidentSpec {
            entity: heard.entity.clone(),
            severity: heard.severity,
            signals: vec![heard.clone()],
        };
        let mut object = Incident::new("inc", spec);
        let of_known = |known: u32| IncidentStatus {
            phase: IncidentPhase::Diagnosed,
            diagnosed_at: Some(opened),
            diagnosed_signals: known,
            signals: vec![heard.clone(), heard.clone()],
            ..IncidentStatus::default()
        };
        let mut wait = |known: u32, now: i64| {
            object.status = Some(of_known(known));
            due_in(&object, None, opened + SignedDuration::from_secs(now)).map(|wait| wait.as_secs())
        };
        assert_eq!(wait(1, 0), Some(2));
        assert_eq!(wait(1, 5), Some(0));
        assert_eq!(wait(2, 5), Some(25), "what it knew is no news");
    }
}

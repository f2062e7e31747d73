//! Conditions as the Kubernetes API conventions and kstatus want them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::{Schema, SchemaGenerator};

/// Set when the object does what its spec asks; always present.
pub const READY: &str = "Ready";
/// Present and true only while work goes on.
pub const RECONCILING: &str = "Reconciling";
/// Present and true only when work cannot go on without a person.
pub const STALLED: &str = "Stalled";
/// The spec was understood and may be used.
pub const ACCEPTED: &str = "Accepted";
/// The account may write; one that may not is enough where nobody proposes.
pub const WRITABLE: &str = "Writable";

/// Longest message kept: long enough for every sentence that we write, short enough for a status.
const MESSAGE_MAX: usize = 2048;

/// What a condition says now, without the time that it has said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub kind: &'static str,
    /// `Some(true)` = True, `Some(false)` = False, `None` = Unknown.
    pub holds: Option<bool>,
    /// One CamelCase word, stable, documented.
    pub reason: String,
    /// A sentence that a tired person can act on.
    pub message: String,
}

impl Claim {
    pub fn new(kind: &'static str, holds: Option<bool>, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, holds, reason: reason.into(), message: message.into() }
    }
}

/// The conditions after `claims` were made at `now`: transition times move only when the status flips.
///
/// Conditions that nobody claims any more are dropped, so `Reconciling` and `Stalled` vanish by not being claimed.
pub fn settled(before: &[Condition], claims: &[Claim], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    claims
        .iter()
        .map(|claim| {
            let status = match claim.holds {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let since = before
                .iter()
                .find(|old| old.type_ == claim.kind && old.status == status)
                .map_or(Time(now), |old| old.last_transition_time.clone());
            Condition {
                type_: claim.kind.to_string(),
                status: status.to_string(),
                reason: claim.reason.clone(),
                message: clipped(&claim.message),
                last_transition_time: since,
                observed_generation: generation,
            }
        })
        .collect()
}

/// Whether the named condition is there and true.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn clipped(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_MAX) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_string(),
    }
}

/// Schema of a condition list: a map by `type`, as the API conventions ask.
pub fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<Vec<Condition>>();
    schema.insert("x-kubernetes-list-type".to_string(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".to_string(), serde_json::json!(["type"]));
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn the_transition_time_moves_only_when_the_status_flips() {
        let first = settled(&[], &[Claim::new(READY, Some(false), "NotYet", "waiting")], Some(1), at(10));
        let same = settled(&first, &[Claim::new(READY, Some(false), "StillNot", "waiting more")], Some(1), at(20));
        assert_eq!(same[0].last_transition_time, Time(at(10)));
        assert_eq!(same[0].reason, "StillNot");
        let flipped = settled(&same, &[Claim::new(READY, Some(true), "Done", "done")], Some(1), at(30));
        assert_eq!(flipped[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn a_condition_that_nobody_claims_is_dropped() {
        let before = settled(&[], &[Claim::new(RECONCILING, Some(true), "Working", "")], None, at(1));
        assert!(
            settled(&before, &[Claim::new(READY, Some(true), "Done", "")], None, at(2))
                .iter()
                .all(|c| c.type_ != RECONCILING)
        );
    }
}

//! Whether what was found to be the cause is still there.

use amend_crds::Remediation;
use amend_diagnosis::diagnosis::{Cause, Diagnosis};
use amend_diagnosis::evidence::Answer;
use amend_diagnosis::signal::Signal;
use amend_execution::phase::incident::CauseState;
use amend_policies::plan::{ExpectedField, Plan};
use jiff::Timestamp;
use serde_json::Value;

use crate::watch::gitops::before_fields;

/// What tells whether the cause is still there.
#[derive(Debug)]
pub struct Known<'a> {
    pub diagnosis: Option<&'a Diagnosis>,
    /// The newest remediation of the incident.
    pub latest: Option<&'a Remediation>,
    /// The workload that the cause is about.
    pub live: &'a Answer<Option<Value>>,
    /// Whether the ConfigMaps that its plan changes hold what they held before; true for a plan that changes none.
    pub configured_as_before: &'a Answer<bool>,
    pub signals: &'a [Signal],
}

/// Looks at the fields that a plan wants changed and at the release that is to blame; without a plan at the symptoms.
///
/// A cause goes away in two ways: its fields get other values, or people take the release back that made those values too
/// small. After the second one the fields look as they did before, so the symptoms must agree.
pub fn state(known: &Known<'_>, absent_since: Option<Timestamp>, now: Timestamp) -> Answer<CauseState> {
    let present = || Answer::Known(CauseState::Present {});
    let absent = || Answer::Known(CauseState::AbsentSince { since: absent_since.unwrap_or(now) });
    let Some(diagnosis) = known.diagnosis else { return Answer::unknown("nothing is diagnosed yet") };
    let quiet = known.signals.iter().all(|signal| signal.ended_at.is_some());
    match (known.latest, known.live) {
        (Some(remediation), Answer::Known(Some(live))) => {
            let plan = &remediation.spec.plan;
            let configured = match known.configured_as_before {
                Answer::Known(configured) => *configured,
                Answer::Unknown { why } => return Answer::unknown(why.clone()),
            };
            let as_before = configured && has_all(live, &before_fields(plan));
            let taken_back = quiet && blamed(diagnosis, plan).is_some_and(|cause| release_is_gone(cause, live));
            if as_before && !taken_back { present() } else { absent() }
        }
        (Some(_), Answer::Known(None)) => absent(),
        (Some(_), Answer::Unknown { why }) => Answer::unknown(why.clone()),
        (None, _) if quiet => absent(),
        (None, _) => present(),
    }
}

fn has_all(live: &Value, fields: &[ExpectedField]) -> bool {
    fields.iter().all(|field| field.missing_from(live).is_none())
}

/// The cause that a plan answers, as the diagnosis tells it.
fn blamed<'a>(diagnosis: &'a Diagnosis, plan: &Plan) -> Option<&'a Cause> {
    let target = plan.target.entity.workload();
    diagnosis.causes.iter().find(|cause| cause.kind == plan.cause && cause.entity.workload() == target)
}

/// Whether a release is to blame of which no image runs any more.
fn release_is_gone(cause: &Cause, live: &Value) -> bool {
    let mut brought: Vec<&str> = cause.change.iter().flat_map(|change| change.images_brought()).collect();
    brought.extend(cause.measures.get("image.bad").map(String::as_str));
    let runs = |lists: &str| {
        let containers = live.pointer(&format!("/spec/template/spec/{lists}")).and_then(Value::as_array);
        containers.into_iter().flatten().any(|one| one["image"].as_str().is_some_and(|image| brought.contains(&image)))
    };
    !brought.is_empty() && !runs("containers") && !runs("initContainers")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use amend_diagnosis::diagnosis::cause::OOM_KILLED;
    use amend_diagnosis::entity::{Entity, EntityKind};
    use amend_diagnosis::evidence::{Change, ChangeKind};
    use serde_json::json;

    use super::*;

    fn oom_since_a_release(diff: &str) -> Cause {
        let entity = Entity::new(EntityKind::Deployment, "shop", "checkout");
        let change = Change {
            id: "c".into(),
            kind: ChangeKind::Image,
            at: Timestamp::UNIX_EPOCH,
            target: entity.clone(),
            summary: String::new(),
            files: Vec::new(),
            diff: diff.into(),
            author: String::new(),
            new_pods: Vec::new(),
            deleted_pods: Vec::new(),
        };
        Cause {
            kind: OOM_KILLED.into(),
            entity,
            change: Some(change),
            confidence: 0.9,
            sentence: String::new(),
            facts_for: Vec::new(),
            facts_against: Vec::new(),
            measures: BTreeMap::new(),
        }
    }

    fn running(image: &str) -> Value {
        json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}})
    }

    #[test]
    fn a_release_is_gone_once_none_of_its_images_runs() {
        let cause = oom_since_a_release("-  image: shop/checkout:v1.8.2\n+  image: shop/checkout:v1.9.0\n");
        assert!(!release_is_gone(&cause, &running("shop/checkout:v1.9.0")));
        assert!(release_is_gone(&cause, &running("shop/checkout:v1.8.2")));
    }

    #[test]
    fn where_no_release_is_to_blame_none_can_be_taken_back() {
        let cause = oom_since_a_release("-  LIMIT: a\n+  LIMIT: b\n");
        assert!(!release_is_gone(&cause, &running("shop/checkout:v1.8.2")));
    }
}

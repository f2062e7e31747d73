//! Which policies answer a cause, and why the others do not.

use std::collections::BTreeMap;

use amend_diagnosis::diagnosis::Cause;
use amend_diagnosis::entity::EntityKind;
use amend_diagnosis::evidence::Answer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{CompiledPolicy, CompiledTarget, PolicyRef, TargetKind, quoted};

/// A policy with its name.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub policy_ref: &'a PolicyRef,
    /// None: the policy has problems and is not accepted.
    pub policy: Option<&'a CompiledPolicy>,
}

/// Whether one policy answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Matching {
    pub policy: PolicyRef,
    pub matches: bool,
    /// Why, or why not, for people.
    pub sentence: String,
}

/// Asks every policy about a cause, in the order of namespace and name.
///
/// `labels` are those of the target workload. A policy sees only its own namespace.
pub fn matching(
    candidates: &[Candidate<'_>],
    cause: &Cause,
    labels: &Answer<BTreeMap<String, String>>,
) -> Vec<Matching> {
    let mut answers: Vec<_> = candidates
        .iter()
        .map(|candidate| {
            let judged = judged(candidate, cause, labels);
            let (matches, sentence) = match judged {
                Ok(sentence) => (true, sentence),
                Err(sentence) => (false, sentence),
            };
            Matching { policy: candidate.policy_ref.clone(), matches, sentence }
        })
        .collect();
    answers.sort_by(|left, right| left.policy.cmp(&right.policy));
    answers
}

fn judged(
    candidate: &Candidate<'_>,
    cause: &Cause,
    labels: &Answer<BTreeMap<String, String>>,
) -> Result<String, String> {
    let Some(policy) = candidate.policy else {
        return Err("the policy is not accepted; its status says what to change".into());
    };
    if policy.suspend {
        return Err("the policy is suspended".into());
    }
    let (namespace, own) = (&cause.entity.namespace, &candidate.policy_ref.namespace);
    if namespace != own {
        let namespace =
            if namespace.is_empty() { "no namespace".into() } else { format!("namespace {}", quoted(namespace)) };
        return Err(format!("the target is in {namespace}; a policy answers only for its own, {}", quoted(own)));
    }
    if !cause.entity.cluster.is_empty() {
        return Err(format!(
            "the target is in cluster {}; policies answer for their own cluster",
            quoted(&cause.entity.cluster)
        ));
    }
    let wanted = &policy.matches;
    if !wanted.causes.contains(&cause.kind) {
        let causes: Vec<_> = wanted.causes.iter().map(String::as_str).collect();
        return Err(format!("the cause is {}; the policy answers {}", quoted(&cause.kind), causes.join(", ")));
    }
    // A confidence that is not a number is below every bar.
    if cause.confidence.is_nan() || cause.confidence < wanted.min_confidence {
        return Err(format!(
            "confidence {:.2} is below the policy's minConfidence {:.2}",
            cause.confidence, wanted.min_confidence
        ));
    }
    let mut reasons = Vec::new();
    for (position, target) in wanted.targets.iter().enumerate() {
        match fits(target, cause, labels) {
            Ok(()) => return Ok(format!("{} on {}", cause.kind, cause.entity.workload())),
            Err(why) => reasons.push(format!("targets[{position}]: {why}")),
        }
    }
    Err(if reasons.is_empty() { "the policy names no target".into() } else { reasons.join("; ") })
}

fn fits(target: &CompiledTarget, cause: &Cause, labels: &Answer<BTreeMap<String, String>>) -> Result<(), String> {
    let kind = match target.kind {
        TargetKind::Deployment => EntityKind::Deployment,
        TargetKind::StatefulSet => EntityKind::StatefulSet,
        TargetKind::DaemonSet => EntityKind::DaemonSet,
    };
    if cause.entity.kind != kind {
        return Err(format!("the target is a {:?}, not a {kind:?}", cause.entity.kind));
    }
    if target.name.is_none() && target.labels.is_empty() {
        return Err("an empty selector matches nothing".into());
    }
    if let Some(name) = &target.name
        && *name != cause.entity.name
    {
        return Err(format!("the target is called {}, not {}", quoted(&cause.entity.name), quoted(name)));
    }
    if target.labels.is_empty() {
        return Ok(());
    }
    let labels = match labels {
        Answer::Known(labels) => labels,
        Answer::Unknown { why } => return Err(format!("the target's labels are not known: {why}")),
    };
    match target.labels.iter().find(|(key, value)| labels.get(*key) != Some(value)) {
        None => Ok(()),
        Some((key, value)) => {
            let got =
                labels.get(key).map_or("does not carry the label".to_owned(), |got| format!("has {} for", quoted(got)));
            Err(format!("the target {got} {key}, wanted is {}", quoted(value)))
        }
    }
}

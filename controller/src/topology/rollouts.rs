//! Which workloads one rollout changed together: those of one Kustomization whose pods one applied revision replaced.
//!
//! Told by what the cluster keeps anyway: Flux's labels on the workloads, the ReplicaSet that each change of a pod template makes,
//! and `status.history` of the Kustomization. Where Flux is not, nothing is linked by it. Only Deployments: the other kinds keep
//! their revisions in ControllerRevisions, which are not read.

use std::collections::BTreeMap;

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::Answer;
use amend_diagnosis::incident::Rollout;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde_json::Value;

use crate::changes;
use crate::cluster::{self, KUSTOMIZATION};
use crate::owner;

/// How long after a rollout alerts are still put down to it: a release that hurts several services does so while it is new. Later
/// ones are one problem by calls, or they are not.
const ROLLED_WITHIN: SignedDuration = SignedDuration::from_mins(30);

/// How far apart one applied revision makes its ReplicaSets. Flux applies all workloads in one go and the Deployment controller
/// answers within a second; half a minute is a controller with a queue. People who release two things are slower.
const TOGETHER: SignedDuration = SignedDuration::from_secs(30);

/// How long after Flux reported a revision its ReplicaSets may still appear: both times are whole seconds, and without `wait` Flux
/// reports before the Deployment controller has looked.
const LAG: SignedDuration = SignedDuration::from_secs(5);

/// Kustomizations that are read for one picture: only those that replaced pods of several workloads lately.
const KUSTOMIZATIONS_MAX: usize = 8;

/// A new ReplicaSet of a Deployment that was there before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rolled {
    at: Timestamp,
    workload: Entity,
}

/// Kustomizations, each as namespace and name, with what was rolled out of them lately, oldest first.
type ByOwner = BTreeMap<(String, String), Vec<Rolled>>;

/// The rollouts of a namespace, from the objects that were listed. In a quiet hour nothing is asked.
pub async fn lately(client: &Client, objects: &[Value], now: Timestamp) -> Vec<Rollout> {
    let mut rollouts = Vec::new();
    for ((namespace, name), rolled) in rolled_lately(objects, now).into_iter().take(KUSTOMIZATIONS_MAX) {
        match cluster::get(client, KUSTOMIZATION, &namespace, &name).await {
            Answer::Known(Some(kustomization)) => rollouts.extend(of_one(&rolled, &kustomization)),
            Answer::Known(None) => {}
            Answer::Unknown { why } => {
                tracing::debug!(namespace, name, why, "what its revisions changed together is not known")
            }
        }
    }
    rollouts
}

/// New ReplicaSets of Deployments of one Kustomization, where there are at least two.
///
/// The first ReplicaSet of a Deployment is none: what has just been installed has nothing in common but its birthday.
fn rolled_lately(objects: &[Value], now: Timestamp) -> ByOwner {
    let since = now.saturating_sub(ROLLED_WITHIN).unwrap_or(now);
    let mut newest: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for set in objects.iter().filter(|object| object["kind"] == "ReplicaSet") {
        let owners = set["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let owner = owners.filter(|owner| owner["kind"] == "Deployment").find_map(|owner| owner["uid"].as_str());
        if let (Some(owner), Some(at)) = (owner, created(set)) {
            let known = newest.entry(owner).or_insert(at);
            *known = at.max(*known);
        }
    }
    let mut by_owner = ByOwner::new();
    for deployment in objects.iter().filter(|object| object["kind"] == "Deployment") {
        let metadata = &deployment["metadata"];
        let Some(kustomization) = owner::named_on(deployment) else { continue };
        let (Some(born), Some(at)) = (created(deployment), metadata["uid"].as_str().and_then(|uid| newest.get(uid)))
        else {
            continue;
        };
        let (Some(namespace), Some(name)) = (metadata["namespace"].as_str(), metadata["name"].as_str()) else {
            continue;
        };
        if *at >= since && at.duration_since(born) > TOGETHER {
            let workload = Entity::new(EntityKind::Deployment, namespace, name);
            by_owner.entry(kustomization).or_default().push(Rolled { at: *at, workload });
        }
    }
    by_owner.retain(|_, rolled| rolled.len() > 1);
    by_owner.values_mut().for_each(|rolled| rolled.sort());
    by_owner
}

fn created(object: &Value) -> Option<Timestamp> {
    object["metadata"]["creationTimestamp"].as_str()?.parse().ok()
}

/// What was rolled out at one time by one revision of a Kustomization.
fn of_one(rolled: &[Rolled], kustomization: &Value) -> Vec<Rollout> {
    let reported = reported(&kustomization["status"]);
    // The first report at or after a ReplicaSet was made is of the revision that made it. None yet: it is still being applied.
    let revision_of = |at: Timestamp| {
        reported.iter().find(|(reported_at, _)| at.duration_since(*reported_at) <= LAG).map(|(_, revision)| revision)
    };
    let mut rollouts: Vec<(Option<&String>, Rollout)> = Vec::new();
    for one in rolled {
        let revision = revision_of(one.at);
        match rollouts.last_mut() {
            Some((same, rollout)) if *same == revision && one.at.duration_since(rollout.at) <= TOGETHER => {
                rollout.changed.insert(one.workload.clone());
            }
            _ => rollouts.push((revision, Rollout { at: one.at, changed: [one.workload.clone()].into() })),
        }
    }
    rollouts.into_iter().map(|(_, rollout)| rollout).filter(|rollout| rollout.changed.len() > 1).collect()
}

/// When Flux first reported each revision as reconciled, oldest first: after it was applied, and with `wait: true` after its health
/// checks.
///
/// <https://fluxcd.io/flux/components/kustomize/kustomizations/#history>
fn reported(status: &Value) -> Vec<(Timestamp, String)> {
    let mut reported: Vec<(Timestamp, String)> =
        changes::applied_times(status).into_iter().map(|(revision, at)| (at, revision)).collect();
    reported.sort();
    reported
}

#[cfg(test)]
mod tests;

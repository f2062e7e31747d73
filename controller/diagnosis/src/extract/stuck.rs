//! Rollouts that do not get on, of which no change is known, and budgets that keep a node from being emptied.
//!
//! Where the change is known, it is judged with the release. A rollout that waits on purpose (partition, `OnDelete`, a canary)
//! is not stuck.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::cluster::{Pod, Workload, text};
use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::finding::{Finding, Modality};
use crate::scene::{Scene, shifted};
use crate::selector;

/// The controller itself gave up, or new pods have not become ready for long while old ones are.
const STUCK: f64 = 3.0;
/// Pods of a DaemonSet that are away, on nodes that are there.
const AWAY: f64 = 2.5;
/// A rollout that somebody paused half way: often on purpose.
const PAUSED: f64 = 1.0;
/// A budget that lets no pod of a cordoned node go; asked for by an alert or event, or not.
const BLOCKS: f64 = 3.5;
const BLOCKS_UNASKED: f64 = 1.0;

/// As long as a Deployment is given by default (`progressDeadlineSeconds`).
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);
const BEFORE_ONSET: SignedDuration = SignedDuration::from_hours(2);

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let asked = scene.questions().about(&["deployments", "statefulsets", "daemonsets", "objects"]);
    let changed = |entity: &Entity| scene.changes.iter().any(|change| change.target == *entity);
    let mut findings = Vec::new();
    for workload in scene.cluster.workloads.iter().filter(|one| !changed(&one.entity)) {
        let told = match workload.entity.kind {
            EntityKind::Deployment => deployment(scene, workload),
            EntityKind::StatefulSet => stateful_set(scene, workload),
            EntityKind::DaemonSet => daemon_set(scene, workload),
            _ => None,
        };
        findings.extend(told.map(|(weight, label, sentence)| {
            Finding::new(workload.entity.clone(), cause::UNAVAILABLE, Modality::State, weight, sentence)
                .labelled(label)
                .asked(&asked)
        }));
    }
    findings.extend(budgets(scene));
    findings
}

type Told = (f64, &'static str, String);

fn count(workload: &Workload, pointer: &str) -> i64 {
    workload.object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn deployment(scene: &Scene<'_>, workload: &Workload) -> Option<Told> {
    let name = &workload.entity.name;
    let condition = workload.conditions.iter().find(|one| one.kind == "Progressing")?;
    if condition.reason == "ProgressDeadlineExceeded" && condition.since.is_some_and(|at| near(scene, at)) {
        let message: String = condition.message.chars().take(100).collect();
        return Some((STUCK, "rollout stuck", format!("the rollout of {name} is stuck: {message}")));
    }
    let (new, all) = (count(workload, "/status/updatedReplicas"), count(workload, "/status/replicas"));
    let paused = workload.object.pointer("/spec/paused").and_then(Value::as_bool) == Some(true);
    let since = condition.since.is_some_and(|at| near(scene, at));
    (paused && since && new > 0 && new < all)
        .then(|| (PAUSED, "rollout paused", format!("the rollout of {name} was paused with {new} of {all} pods new")))
}

/// A StatefulSet goes on to the next pod only when the one before is ready: one that is not stops it for good.
fn stateful_set(scene: &Scene<'_>, workload: &Workload) -> Option<Told> {
    let object = &workload.object;
    let (from, to) = (text(object, "/status/currentRevision"), text(object, "/status/updateRevision"));
    let waits = text(object, "/spec/updateStrategy/type") == "OnDelete"
        || count(workload, "/spec/updateStrategy/rollingUpdate/partition") > 0;
    if waits
        || to.is_empty()
        || from == to
        || count(workload, "/status/updatedReplicas") >= workload.replicas.unwrap_or(1)
    {
        return None;
    }
    let stopped = of_revision(scene, workload, to).find(|pod| is_long_unready(scene, pod))?;
    let sentence = format!(
        "the rollout of {} stands still at {}, which has not become ready for {} min",
        workload.entity.name,
        stopped.name,
        age(scene, stopped).as_mins()
    );
    Some((STUCK, "rollout stuck", sentence))
}

/// Pods of a DaemonSet that are not ready on nodes that are; others are their node's trouble.
fn daemon_set(scene: &Scene<'_>, workload: &Workload) -> Option<Told> {
    if count(workload, "/status/numberUnavailable") == 0 {
        return None;
    }
    let node_is_ready = |pod: &Pod| {
        let node = scene.cluster.nodes.iter().find(|node| node.name == pod.node);
        node.is_some_and(|node| node.conditions.iter().any(|one| one.kind == "Ready" && one.status == "True"))
    };
    let away = scene.cluster.pods_of(&workload.entity).filter(|pod| is_long_unready(scene, pod) && node_is_ready(pod));
    let away = away.count();
    let wanted = count(workload, "/status/desiredNumberScheduled");
    let new = count(workload, "/status/updatedNumberScheduled");
    let half_way = if new < wanted { format!(", {new} of them new") } else { String::new() };
    let sentence =
        format!("{away} of {wanted} pods of {}{half_way} are not ready on ready nodes", workload.entity.name);
    (away > 0).then_some((AWAY, "pods away", sentence))
}

fn of_revision<'s>(scene: &'s Scene<'_>, workload: &'s Workload, revision: &'s str) -> impl Iterator<Item = &'s Pod> {
    let pods = scene.cluster.pods_of(&workload.entity);
    pods.filter(move |pod| pod.labels.get("controller-revision-hash").is_some_and(|hash| hash == revision))
}

fn age(scene: &Scene<'_>, pod: &Pod) -> SignedDuration {
    pod.created.map_or(SignedDuration::ZERO, |at| scene.observations.at.duration_since(at))
}

/// Not ready for longer than a rollout is given, and since about the trouble.
fn is_long_unready(scene: &Scene<'_>, pod: &Pod) -> bool {
    let since = pod.conditions.iter().find(|one| one.kind == "Ready" && one.status != "True").and_then(|one| one.since);
    let long = |at: Timestamp| scene.observations.at.duration_since(at) >= PATIENCE && near(scene, at);
    !pod.is_ready() && pod.phase != "Succeeded" && pod.phase != "Failed" && since.is_some_and(long)
}

fn near(scene: &Scene<'_>, at: Timestamp) -> bool {
    scene.onset.is_none_or(|onset| at >= shifted(onset, -BEFORE_ONSET))
}

/// Budgets that let nobody go though all their pods are well, while a node with such a pod is to be emptied.
fn budgets(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for budget in scene.cluster.others("PodDisruptionBudget") {
        let status = |key: &str| budget["status"][key].as_i64();
        let (Some(0), Some(healthy), Some(wanted), Some(expected)) =
            (status("disruptionsAllowed"), status("currentHealthy"), status("desiredHealthy"), status("expectedPods"))
        else {
            continue;
        };
        // With pods that are ill it does what it is there for.
        if expected == 0 || healthy < wanted || healthy < expected {
            continue;
        }
        let namespace = text(budget, "/metadata/namespace");
        let covered = scene.cluster.pods.iter().filter(|pod| {
            pod.namespace == namespace && selector::selects(&budget["spec"]["selector"], &pod.labels) == Some(true)
        });
        let cordoned = |pod: &&Pod| scene.cluster.nodes.iter().any(|node| node.name == pod.node && node.unschedulable);
        let Some(pod) = covered.filter(cordoned).min_by_key(|pod| &pod.name) else { continue };
        let name = text(budget, "/metadata/name");
        let weight = if is_asked_for(scene, name, &pod.node) { BLOCKS } else { BLOCKS_UNASKED };
        let sentence = format!(
            "budget {name} lets none of {healthy} healthy pods of {} go, so node {} cannot be emptied",
            pod.workload.name, pod.node
        );
        findings.push(
            Finding::new(pod.workload.clone(), cause::CONFIG_WRONG, Modality::State, weight, sentence)
                .labelled("budget blocks")
                .fault("disruption_budget_blocks")
                .asked(scene.questions().about(&["poddisruptionbudgets", "PodDisruptionBudget"])),
        );
    }
    findings
}

/// Whether anybody complains of a node that cannot be emptied, or of the budget.
fn is_asked_for(scene: &Scene<'_>, budget: &str, node: &str) -> bool {
    let alerted = scene.observations.symptoms.iter().any(|signal| {
        let name = signal.name.to_ascii_lowercase();
        (name.contains("drain") || name.contains("disruptionbudget") || name.contains("pdb"))
            || (signal.entity.kind == EntityKind::Node && signal.entity.name == node)
    });
    let mut events = scene.observations.events.known().into_iter().flatten();
    alerted
        || events.any(|event| {
            let lower = event.message.to_ascii_lowercase();
            (lower.contains("disruption budget") || lower.contains("pdb"))
                && (lower.contains(budget) || lower.contains(node))
        })
}

//! Objects that the namespace refuses: quotas, missing service accounts, workloads scaled to nothing.

use jiff::{SignedDuration, Timestamp};

use crate::cluster::{Pod, Workload, kind_of, text, time};
use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::evidence::{Change, ChangeKind, ObjectEvent};
use crate::finding::{Finding, Modality};
use crate::scene::{Scene, shifted};

/// What else keeps the API server from taking a pod: what its message says, the cause that it is, and a label.
///
/// Source: the messages of the admission plugins ResourceQuota, LimitRanger, PodSecurity and of admission webhooks.
const REFUSALS: [(&str, &str, &str); 6] = [
    ("must specify", cause::CONFIG_WRONG, "requests or limits missing"),
    ("usage per container is", cause::CONFIG_WRONG, "outside the limits of the namespace"),
    ("usage per pod is", cause::CONFIG_WRONG, "outside the limits of the namespace"),
    ("violates podsecurity", cause::CONFIG_WRONG, "refused by pod security"),
    ("denied the request", cause::CONFIG_WRONG, "refused by an admission webhook"),
    ("failed calling webhook", cause::DEPENDENCY, "admission webhook does not answer"),
];

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for event in scene.observations.events.known().into_iter().flatten() {
        let lower = event.message.to_ascii_lowercase();
        let Some((kind, name)) = event.object.split_once('/') else { continue };
        if !short_of_pods(scene, kind, &event.namespace, name) {
            continue;
        }
        let asked = scene.questions().about(&["events"]);
        if lower.contains("exceeded quota") {
            let namespace = Entity::new(EntityKind::Namespace, "", &event.namespace);
            let fault = quota_of(&lower);
            let sentence = format!("{kind} {name} is refused: {}", short(&event.message));
            findings.push(
                Finding::new(namespace, cause::QUOTA, Modality::State, 6.5, sentence)
                    .labelled("quota exceeded")
                    .fault(fault)
                    .asked(asked),
            );
        } else if lower.contains("serviceaccount")
            && lower.contains("not found")
            && let Some(entity) = scene.aligner.named(&event.namespace, name)
        {
            let sentence = format!("no pod of {} can be made: {}", entity.name, short(&event.message));
            findings.push(
                Finding::new(entity, cause::CONFIG_MISSING, Modality::State, 6.4, sentence)
                    .labelled("service account not found")
                    .fault("missing_service_account")
                    .asked(asked),
            );
        } else if event.reason == "FailedCreate"
            && let Some((_, cause, label)) = REFUSALS.iter().find(|(sign, ..)| lower.contains(sign))
            && let Some(entity) = scene.aligner.named(&event.namespace, name)
        {
            let sentence = format!("no pod of {} can be made: {}", entity.name, short(&event.message));
            findings.push(Finding::new(entity, cause, Modality::State, 6.2, sentence).labelled(*label).asked(asked));
        }
    }
    for workload in scene.cluster.workloads.iter().filter(|workload| just_emptied(scene, workload)) {
        let sentence = format!("{} is scaled to zero replicas", workload.entity.name);
        findings.push(
            Finding::new(workload.entity.clone(), cause::SCALED_TO_ZERO, Modality::State, 6.0, sentence)
                .labelled("0 replicas")
                .fault("deployment_zero_replicas")
                .asked(scene.questions().about(&["deployments", "Deployment"])),
        );
    }
    findings.sort_by(|a, b| (&a.entity, a.fault, &a.sentence).cmp(&(&b.entity, b.fault, &b.sentence)));
    findings.dedup_by(|a, b| a.entity == b.entity && a.fault == b.fault);
    findings
}

/// How long before the first symptom a scaling may lie, and after it: what is parked for longer is parked on purpose.
const SCALED_BEFORE: SignedDuration = SignedDuration::from_hours(2);
const SCALED_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// Whether somebody took all pods away from a workload about when trouble began.
///
/// Many workloads have no replicas and should have none: parked ones, the other colour, what an autoscaler wakes.
fn just_emptied(scene: &Scene<'_>, workload: &Workload) -> bool {
    let entity = &workload.entity;
    let scales = matches!(entity.kind, EntityKind::Deployment | EntityKind::StatefulSet);
    if workload.replicas != Some(0) || !scales || is_woken_on_demand(scene, workload) || is_replaced(scene, workload) {
        return false;
    }
    let onset = scene.onset.unwrap_or(scene.observations.at);
    let near = |at: Timestamp| at >= shifted(onset, -SCALED_BEFORE) && at <= shifted(onset, SCALED_AFTER);
    let scaling = |change: &Change| {
        let told = change.diff.lines().any(|line| line.starts_with(['+', '-']) && line.contains("replicas"));
        told || match change.kind {
            ChangeKind::Scale => true,
            ChangeKind::Commit | ChangeKind::Deploy => change.diff.is_empty(),
            ChangeKind::Image | ChangeKind::Config | ChangeKind::Flag => false,
        }
    };
    if scene.changes.iter().any(|change| change.target == *entity && near(change.at) && scaling(change)) {
        return true;
    }
    let mut events = scene.observations.events.known().into_iter().flatten().filter(|event| {
        let (kind, name) = event.object.split_once('/').unwrap_or_default();
        kind_of(kind) == entity.kind && name == entity.name && event.namespace == entity.namespace
    });
    let taken = |event: &ObjectEvent| {
        (event.reason == "ScalingReplicaSet" && event.message.contains("caled down") && event.message.contains(" to 0"))
            || (event.reason == "SuccessfulDelete" && entity.kind == EntityKind::StatefulSet)
    };
    // A capture as text tells no times, and its objects no age: there the state is all that anybody knows.
    let told_times = time(&workload.object, "/metadata/creationTimestamp").is_some();
    events.any(|event| taken(event) && (near(event.at) || event.at == Timestamp::UNIX_EPOCH)) || !told_times
}

/// Whether an autoscaler that goes down to zero owns the number of replicas.
fn is_woken_on_demand(scene: &Scene<'_>, workload: &Workload) -> bool {
    scene.cluster.others("ScaledObject").iter().any(|scaler| {
        let kind = text(scaler, "/spec/scaleTargetRef/kind");
        text(scaler, "/metadata/namespace") == workload.entity.namespace
            && text(scaler, "/spec/scaleTargetRef/name") == workload.entity.name
            && (kind.is_empty() || kind_of(kind) == workload.entity.kind)
    })
}

/// Whether ready pods of another workload stand behind a Service that would take this one's pods too.
fn is_replaced(scene: &Scene<'_>, workload: &Workload) -> bool {
    let labels = workload.template.pointer("/metadata/labels");
    let cluster = &scene.cluster;
    cluster.services.iter().filter(|service| service.namespace == workload.entity.namespace).any(|service| {
        let takes =
            service.selector.iter().all(|(key, value)| labels.and_then(|labels| labels[key].as_str()) == Some(value));
        !service.selector.is_empty() && takes && cluster.selected(service).any(Pod::is_ready)
    })
}

/// Whether what was refused is still missing: a refusal that a retry has healed is history.
fn short_of_pods(scene: &Scene<'_>, kind: &str, namespace: &str, name: &str) -> bool {
    let set = scene.cluster.others("ReplicaSet").iter().find(|set| {
        kind == "ReplicaSet" && text(set, "/metadata/name") == name && text(set, "/metadata/namespace") == namespace
    });
    if let Some(set) = set {
        let count = |pointer| set.pointer(pointer).and_then(serde_json::Value::as_i64);
        return match (count("/spec/replicas"), count("/status/replicas")) {
            (Some(wanted), Some(made)) => made < wanted,
            (Some(wanted), None) => wanted > 0,
            (None, _) => true,
        };
    }
    if kind == "ReplicaSet" && scene.cluster.kinds.contains("ReplicaSet") {
        return false;
    }
    match scene.aligner.named(namespace, name).and_then(|entity| scene.cluster.workload(&entity).cloned()) {
        Some(workload) => workload.replicas.is_none_or(|wanted| workload.ready < wanted),
        None => true,
    }
}

/// Which resource the quota is short of: what was requested when the object was refused.
fn quota_of(message: &str) -> &'static str {
    let requested = message.split_once("requested:").map_or(message, |(_, rest)| rest);
    let requested = requested.split("used:").next().unwrap_or(requested);
    const SIGNS: [(&str, &str); 5] = [
        ("storage", "namespace_storage_quota_exceeded"),
        ("cpu", "namespace_cpu_quota_exceeded"),
        ("memory", "namespace_memory_quota_exceeded"),
        ("pods", "namespace_pod_quota_exceeded"),
        ("services", "namespace_service_quota_exceeded"),
    ];
    SIGNS.iter().find(|(sign, _)| requested.contains(sign)).map_or("namespace_pod_quota_exceeded", |(_, fault)| fault)
}

fn short(message: &str) -> String {
    message.chars().take(180).collect()
}

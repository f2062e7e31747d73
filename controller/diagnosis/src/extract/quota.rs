//! Objects that the namespace refuses: quotas, missing service accounts, workloads scaled to nothing.

use crate::cluster::text;
use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::finding::{Finding, Modality};
use crate::scene::Scene;

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
        }
    }
    for workload in &scene.cluster.workloads {
        if workload.replicas == Some(0) && workload.entity.kind == EntityKind::Deployment {
            let sentence = format!("{} is scaled to zero replicas", workload.entity.name);
            findings.push(
                Finding::new(workload.entity.clone(), cause::SCALED_TO_ZERO, Modality::State, 6.0, sentence)
                    .labelled("0 replicas")
                    .fault("deployment_zero_replicas")
                    .asked(scene.questions().about(&["deployments", "Deployment"])),
            );
        }
    }
    findings.sort_by(|a, b| (&a.entity, a.fault, &a.sentence).cmp(&(&b.entity, b.fault, &b.sentence)));
    findings.dedup_by(|a, b| a.entity == b.entity && a.fault == b.fault);
    findings
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

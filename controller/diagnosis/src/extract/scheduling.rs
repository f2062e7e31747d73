//! Pods that no node takes.

use std::collections::BTreeMap;

use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::finding::{Finding, Modality};
use crate::scene::Scene;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut waiting: BTreeMap<Entity, (usize, String)> = BTreeMap::new();
    for pod in &scene.cluster.pods {
        let refused =
            pod.conditions.iter().find(|condition| condition.kind == "PodScheduled" && condition.status == "False");
        if let Some(condition) = refused {
            let entry = waiting.entry(pod.workload.clone()).or_default();
            entry.0 += 1;
            if entry.1.len() < condition.message.len() {
                entry.1.clone_from(&condition.message);
            }
        }
    }
    waiting
        .into_iter()
        .map(|(entity, (count, message))| {
            let why = if message.is_empty() { "the scheduler gave no reason".to_owned() } else { message };
            let finding = Finding::new(
                entity.clone(),
                cause::UNSCHEDULABLE,
                Modality::State,
                5.5,
                format!("no node takes {count} pod(s) of {}: {why}", entity.name),
            )
            .labelled(format!("{count} pod(s) Pending"))
            .asked(scene.questions().about(&["pods", "Pod"]));
            match fault_of(&why) {
                Some(fault) => finding.fault(fault),
                None => finding,
            }
        })
        .collect()
}

/// The constraint that the scheduler's message names; several at once name the one that rules out most nodes.
pub fn fault_of(message: &str) -> Option<&'static str> {
    const SIGNS: [(&str, &str); 8] = [
        ("insufficient cpu", "cpu_capacity_mismatch"),
        ("insufficient memory", "memory_capacity_mismatch"),
        ("anti-affinity", "pod_anti_affinity_conflict"),
        ("untolerated taint", "taint_toleration_mismatch"),
        ("node affinity/selector", "node_affinity_mismatch"),
        ("node selector", "node_selector_mismatch"),
        ("persistentvolumeclaim", "pvc_capacity_mismatch"),
        ("were unschedulable", "node_cordon_mismatch"),
    ];
    let lower = message.to_ascii_lowercase();
    SIGNS.iter().find(|(sign, _)| lower.contains(sign)).map(|(_, fault)| *fault)
}

//! Nodes that are not ready or under pressure.

use crate::cluster::{Condition, text};
use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::finding::{Finding, Modality};
use crate::scene::Scene;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for node in &scene.cluster.nodes {
        let entity = Entity::new(EntityKind::Node, "", &node.name);
        let asked = scene.questions().about(&["nodes", "Node"]);
        for condition in &node.conditions {
            let (bad, kind, weight) = match condition.kind.as_str() {
                "Ready" => (condition.status != "True", cause::NODE_NOT_READY, 5.0),
                "MemoryPressure" | "DiskPressure" | "PIDPressure" => {
                    (condition.status == "True", cause::NODE_PRESSURE, 4.0)
                }
                "NetworkUnavailable" => (condition.status == "True", cause::NODE_NOT_READY, 4.5),
                _ => (false, cause::NODE_PRESSURE, 0.0),
            };
            if bad {
                let sentence = format!(
                    "node {} reports {}={} ({})",
                    node.name, condition.kind, condition.status, condition.reason
                );
                let label = format!("{}={}", condition.kind, condition.status);
                let finding =
                    Finding::new(entity.clone(), kind, Modality::State, weight, sentence).labelled(label).asked(&asked);
                findings.push(match component(condition) {
                    Some(fault) => finding.fault(fault),
                    None => finding,
                });
            }
        }
    }
    findings.extend(units(scene));
    findings
}

/// Which service of the node a `Ready` condition points at.
///
/// `Unknown` is the control plane's word for a kubelet that stopped posting. A kubelet that posts `False` is there, and its
/// message says what is not: the container runtime (also behind a PLEG that does not relist), or the pod network, which is
/// no service of ours to name.
fn component(condition: &Condition) -> Option<&'static str> {
    let lower = condition.message.to_ascii_lowercase();
    match (condition.kind.as_str(), condition.status.as_str()) {
        ("Ready", "Unknown") => Some("kubelet_unavailable"),
        ("Ready", _) if lower.contains("container runtime is down") || lower.contains("pleg is not healthy") => {
            Some("containerd_unavailable")
        }
        _ => None,
    }
}

/// Services of the node itself (container runtime, kubelet, proxy, scheduler) that do not run.
fn units(scene: &Scene<'_>) -> Vec<Finding> {
    const UNITS: [(&str, &str, f64); 4] = [
        ("containerd", "containerd_unavailable", 7.2),
        ("kubelet", "kubelet_unavailable", 7.1),
        ("kube-scheduler", "kube_scheduler_unavailable", 7.1),
        ("kube-proxy", "kube_proxy_unavailable", 7.0),
    ];
    let mut findings = Vec::new();
    for unit in scene.cluster.others("NodeUnit") {
        let (name, node) = (text(unit, "/metadata/name"), text(unit, "/spec/nodeName"));
        let stopped = unit.pointer("/status/active").and_then(serde_json::Value::as_bool) == Some(false);
        let known = UNITS.iter().find(|(known, ..)| *known == name);
        if let (true, Some((_, fault, weight))) = (stopped, known) {
            findings.push(
                Finding::new(
                    Entity::new(EntityKind::Node, "", node),
                    cause::NODE_NOT_READY,
                    Modality::State,
                    *weight,
                    format!("{name} does not run on node {node}"),
                )
                .labelled(format!("{name} stopped"))
                .fault(fault)
                .asked(scene.questions().about(&["nodes", "objects"])),
            );
        }
    }
    findings
}

//! Nodes that are not ready or under pressure.

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
                findings.push(
                    Finding::new(entity.clone(), kind, Modality::State, weight, sentence).labelled(label).asked(&asked),
                );
            }
        }
    }
    findings
}

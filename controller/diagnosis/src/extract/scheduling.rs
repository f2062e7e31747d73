//! Pods that no node takes: which single constraint, taken away, would let them run?

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cluster::{Node, Pod, list, text};
use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::finding::{Finding, Modality};
use crate::scene::Scene;

use super::image::events_of;

/// What pods that a node's own trouble keeps out say of that node, and what is left of their own trouble.
const KEPT_OUT: f64 = 6.0;
const BEHIND_A_NODE: f64 = 1.5;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut waiting: BTreeMap<Entity, (usize, &Pod, String)> = BTreeMap::new();
    for pod in &scene.cluster.pods {
        let condition = pod.conditions.iter().find(|one| one.kind == "PodScheduled" && one.status == "False");
        if condition.is_none() && !(pod.phase == "Pending" && pod.node.is_empty()) {
            continue;
        }
        let told = condition.map(|condition| condition.message.clone()).filter(|message| !message.is_empty());
        let message = told.unwrap_or_else(|| events_of(scene, pod));
        let entry = waiting.entry(pod.workload.clone()).or_insert_with(|| (0, pod, String::new()));
        entry.0 += 1;
        if message.len() > entry.2.len() {
            entry.2 = message;
        }
    }
    let mut findings = Vec::new();
    for (entity, (count, pod, message)) in waiting {
        if message.is_empty() {
            continue;
        }
        let (kind, fault) = fault(scene, pod, &message);
        let (entity, kind) = match fault.is_some_and(|fault| fault.starts_with("namespace_")) {
            true => (Entity::new(EntityKind::Namespace, "", &entity.namespace), cause::QUOTA),
            false => (entity, kind),
        };
        let why: String = message.chars().take(200).collect();
        let ill = ill_nodes(scene, &spec(scene, pod), &message);
        for (node, condition, kind) in &ill {
            let sentence = format!("{count} pod(s) of {} wait since node {node} reports {condition}", entity.name);
            findings.push(
                Finding::new(Entity::new(EntityKind::Node, "", *node), kind, Modality::State, KEPT_OUT, sentence)
                    .labelled(format!("{count} pod(s) kept out"))
                    .asked(scene.questions().about(&["pods", "Pod"])),
            );
        }
        let sentence = format!("no node takes {count} pod(s) of {}: {why}", entity.name);
        let weight = if ill.is_empty() { 5.5 } else { BEHIND_A_NODE };
        let finding = Finding::new(entity, kind, Modality::State, weight, sentence)
            .labelled(format!("{count} pod(s) Pending"))
            .asked(scene.questions().about(&["pods", "Pod"]));
        findings.push(match fault {
            Some(fault) => finding.fault(fault),
            None => finding,
        });
    }
    findings
}

/// The constraint to blame, from the scheduler's message and, where several play together, from the nodes themselves.
fn fault(scene: &Scene<'_>, pod: &Pod, message: &str) -> (&'static str, Option<&'static str>) {
    let lower = message.to_ascii_lowercase();
    let says = |sign: &str| lower.contains(sign);
    if says("persistentvolumeclaim") || says("volume node affinity") || says("unbound immediate") {
        return (cause::VOLUME, super::volume::fault_of_claims(scene, pod));
    }
    let spec = spec(scene, pod);
    // Taints of the system keep pods from nodes that were never meant for them.
    let system =
        |taint: &str| taint.starts_with("node.kubernetes.io/") || taint.starts_with("node-role.kubernetes.io/");
    let named = lower.split("untolerated taint {").skip(1).any(|taint| !system(taint));
    let own_taint = named || (says("untolerated taint(s)") && own_taint(scene, &spec));
    let constrained = says("affinity/selector") || says("node selector");
    let fault = match () {
        () if says("anti-affinity") => Some("pod_anti_affinity_conflict"),
        // A node is asked for room only when it passed its taints and the pod's selectors: there the pod would run.
        () if says("insufficient cpu") => Some("cpu_capacity_mismatch"),
        () if says("insufficient memory") => Some("memory_capacity_mismatch"),
        () if own_taint && constrained => Some(by_removal(scene, &spec)),
        () if own_taint => Some("taint_toleration_mismatch"),
        () if constrained => Some(match has_selector(&spec) {
            true => cordoned_or(scene, &spec, "node_selector_mismatch"),
            false => "node_affinity_mismatch",
        }),
        () if says("were unschedulable") => Some("node_cordon_mismatch"),
        // Nothing but nodes of the system is left.
        () if says("untolerated taint {node-role.") => Some("taint_toleration_mismatch"),
        () => None,
    };
    (cause::UNSCHEDULABLE, fault)
}

/// Nodes that the pod wants and whose own trouble keeps it out, with the condition that they report: what the scheduler calls
/// a taint is then a consequence.
///
/// Since Kubernetes 1.36 the scheduler says `node(s) had untolerated taint(s)` without naming one; before, it named them. So the
/// nodes themselves are asked. Source: "Taint nodes by condition" in the Kubernetes documentation.
fn ill_nodes<'s>(scene: &'s Scene<'_>, spec: &Value, message: &str) -> Vec<(&'s str, &'s str, &'static str)> {
    const CONDITIONS: [(&str, &[&str], &str); 5] = [
        ("MemoryPressure", &["True"], cause::NODE_PRESSURE),
        ("DiskPressure", &["True"], cause::NODE_PRESSURE),
        ("PIDPressure", &["True"], cause::NODE_PRESSURE),
        ("NetworkUnavailable", &["True"], cause::NODE_NOT_READY),
        ("Ready", &["False", "Unknown"], cause::NODE_NOT_READY),
    ];
    if !message.to_ascii_lowercase().contains("untolerated taint") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for node in scene.cluster.nodes.iter().filter(|node| selector_matches(spec, node)) {
        for (condition, bad, kind) in CONDITIONS {
            let shown = node.conditions.iter().find(|one| one.kind == condition && bad.contains(&one.status.as_str()));
            found.extend(shown.map(|shown| (node.name.as_str(), shown.kind.as_str(), kind)));
        }
    }
    found
}

/// Whether a node that the pod wants has a taint of people's own that the pod does not tolerate.
fn own_taint(scene: &Scene<'_>, spec: &Value) -> bool {
    let tolerated = |taint: &Value| {
        list(spec, "/tolerations").iter().any(|toleration| {
            let key = text(toleration, "/key");
            let exists = text(toleration, "/operator") == "Exists";
            let same_effect = toleration["effect"].is_null() || toleration["effect"] == taint["effect"];
            let same_value = exists || text(toleration, "/value") == text(taint, "/value");
            same_effect && ((key.is_empty() && exists) || (key == text(taint, "/key") && same_value))
        })
    };
    let keeps_out = |taint: &Value| {
        let key = text(taint, "/key");
        let system = key.starts_with("node.kubernetes.io/") || key.starts_with("node-role.kubernetes.io/");
        !system && text(taint, "/effect") != "PreferNoSchedule" && !tolerated(taint)
    };
    let wanted = scene.cluster.nodes.iter().filter(|node| selector_matches(spec, node));
    wanted.flat_map(|node| list(&node.object, "/spec/taints")).any(keeps_out)
}

/// The pod's own spec, filled from its workload's template where the pod does not tell.
fn spec(scene: &Scene<'_>, pod: &Pod) -> Value {
    let template = scene.cluster.workload(&pod.workload).map(|workload| workload.template["spec"].clone());
    let mut spec = template.unwrap_or(Value::Null);
    let own = &pod.object["spec"];
    for key in ["nodeSelector", "affinity", "tolerations"] {
        if own[key].as_object().is_some_and(|map| !map.is_empty()) || own[key].is_array() {
            spec[key] = own[key].clone();
        }
    }
    spec
}

fn has_selector(spec: &Value) -> bool {
    spec["nodeSelector"].as_object().is_some_and(|selector| !selector.is_empty())
}

fn selector_matches(spec: &Value, node: &Node) -> bool {
    let labels = &node.object["metadata"]["labels"];
    let mut wanted = spec["nodeSelector"].as_object().into_iter().flatten();
    // Every node carries its own name under this label, whether the capture kept it or not.
    wanted.all(|(key, value)| labels[key] == *value || (key == "kubernetes.io/hostname" && *value == node.name))
}

/// Selector and taint together: when the selector leads to a tainted node, the taint keeps the pod out.
fn by_removal(scene: &Scene<'_>, spec: &Value) -> &'static str {
    if !has_selector(spec) {
        return "taint_toleration_mismatch";
    }
    let known = scene.cluster.nodes.iter().any(|node| node.object["metadata"]["labels"].is_object());
    let leads_somewhere = scene.cluster.nodes.iter().any(|node| selector_matches(spec, node));
    match known && !leads_somewhere {
        true => "node_selector_mismatch",
        false => "taint_toleration_mismatch",
    }
}

/// A selector that leads only to cordoned nodes is not the selector's fault.
fn cordoned_or(scene: &Scene<'_>, spec: &Value, otherwise: &'static str) -> &'static str {
    let control = |node: &Node| {
        let labels = node.object["metadata"]["labels"].as_object();
        labels.is_some_and(|labels| labels.keys().any(|key| key.contains("control-plane") || key.contains("/master")))
            || list(&node.object, "/spec/taints").iter().any(|taint| text(taint, "/key").contains("control-plane"))
    };
    let matching: Vec<&Node> =
        scene.cluster.nodes.iter().filter(|node| !control(node) && selector_matches(spec, node)).collect();
    match !matching.is_empty() && matching.iter().all(|node| node.unschedulable) {
        true => "node_cordon_mismatch",
        false => otherwise,
    }
}

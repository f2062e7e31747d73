//! The scheduler: a pod goes to the node with the most room, or is told why it cannot.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Occasion, record, set_condition, text};
use crate::apiserver::store::{How, Store};
use crate::model::seen::quantity;

const MANAGER: &str = "kube-scheduler";

#[derive(Default)]
struct Room {
    cpu: f64,
    memory: f64,
    all_memory: f64,
}

/// Places every pod that has no node.
pub fn step(store: &Store, now: Timestamp) {
    let pods = store.list("pods", None);
    let waiting: Vec<&Arc<Value>> = pods.iter().filter(|pod| text(pod, "/spec/nodeName").is_empty()).collect();
    if waiting.is_empty() {
        return;
    }
    let nodes = store.list("nodes", None);
    let mut rooms: BTreeMap<String, Room> = nodes
        .iter()
        .filter(|node| node["spec"]["unschedulable"] != json!(true))
        .map(|node| {
            let amount =
                |resource: &str| node["status"]["allocatable"][resource].as_str().and_then(quantity).unwrap_or(0.0);
            let memory = amount("memory");
            (text(node, "/metadata/name").to_owned(), Room { cpu: amount("cpu"), memory, all_memory: memory })
        })
        .collect();
    for pod in &pods {
        if let Some(room) = rooms.get_mut(text(pod, "/spec/nodeName")) {
            let (cpu, memory) = requests(pod);
            room.cpu -= cpu;
            room.memory -= memory;
        }
    }
    for pod in waiting {
        let (cpu, memory) = requests(pod);
        let fits = |name: &str, room: &Room| room.cpu >= cpu && room.memory >= memory && selected(pod, &nodes, name);
        let best = rooms
            .iter()
            .filter(|(name, room)| fits(name, room))
            .max_by(|(_, one), (_, other)| (one.memory / one.all_memory).total_cmp(&(other.memory / other.all_memory)))
            .map(|(name, _)| name.clone());
        match best {
            Some(node) => {
                if let Some(room) = rooms.get_mut(&node) {
                    room.cpu -= cpu;
                    room.memory -= memory;
                }
                place(store, pod, &node, now);
            }
            None => refuse(store, pod, &reason(pod, &nodes, &rooms, cpu, memory), now),
        }
    }
}

fn requests(pod: &Value) -> (f64, f64) {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers.fold((0.0, 0.0), |(cpu, memory), container| {
        let amount =
            |resource: &str| container["resources"]["requests"][resource].as_str().and_then(quantity).unwrap_or(0.0);
        (cpu + amount("cpu"), memory + amount("memory"))
    })
}

fn selected(pod: &Value, nodes: &[Arc<Value>], name: &str) -> bool {
    let labels = nodes
        .iter()
        .find(|node| text(node, "/metadata/name") == name)
        .map(|node| node["metadata"]["labels"].clone())
        .unwrap_or_default();
    let wanted = pod["spec"]["nodeSelector"].as_object();
    wanted.is_none_or(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

fn reason(pod: &Value, nodes: &[Arc<Value>], rooms: &BTreeMap<String, Room>, cpu: f64, memory: f64) -> String {
    let (mut no_cpu, mut no_memory, mut other) = (0, 0, 0);
    for (name, room) in rooms {
        if !selected(pod, nodes, name) {
            other += 1;
            continue;
        }
        no_cpu += usize::from(room.cpu < cpu);
        no_memory += usize::from(room.memory < memory);
    }
    let parts: Vec<String> = [
        (other, "node(s) didn't match Pod's node affinity/selector"),
        (no_cpu, "Insufficient cpu"),
        (no_memory, "Insufficient memory"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    format!("0/{} nodes are available: {}.", rooms.len(), parts.join(", "))
}

fn place(store: &Store, pod: &Value, node: &str, now: Timestamp) {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    if store.modify("pods", namespace, name, How::by(MANAGER), |pod| pod["spec"]["nodeName"] = json!(node)).is_err() {
        return;
    }
    let _ = store.modify("pods", namespace, name, How::status_by(MANAGER), |pod| {
        set_condition(&mut pod["status"], "PodScheduled", "True", "", "", now, json!({}));
    });
    let message = format!("Successfully assigned {namespace}/{name} to {node}");
    record(
        store,
        pod,
        Occasion {
            kind: "Normal",
            reason: "Scheduled",
            message: &message,
            component: "default-scheduler",
            field: None,
        },
        now,
    );
}

fn refuse(store: &Store, pod: &Value, why: &str, now: Timestamp) {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let said = pod["status"]["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one["type"] == "PodScheduled" && one["message"] == *why));
    if said {
        return;
    }
    let _ = store.modify("pods", namespace, name, How::status_by(MANAGER), |pod| {
        set_condition(&mut pod["status"], "PodScheduled", "False", "Unschedulable", why, now, json!({}));
    });
    record(
        store,
        pod,
        Occasion {
            kind: "Warning",
            reason: "FailedScheduling",
            message: why,
            component: "default-scheduler",
            field: None,
        },
        now,
    );
}

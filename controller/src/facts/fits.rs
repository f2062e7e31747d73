//! Room for the changed pods: nodes, quotas and limit ranges.

use std::sync::Arc;

use amend_diagnosis::evidence::Answer;
use amend_policies::field::Step;
use amend_policies::gate::fits::{FitsFacts, LimitRange, NodeRoom, PodChange, PodResources, QuotaRoom};
use amend_policies::gate::permission::RenderedChange;
use amend_policies::quantity::Quantity;
use serde_json::Value;

use crate::cluster::Look;
use crate::requested::{Room, Sums, quantity};

/// The facts of the gate, from the live target, the namespace and the nodes.
pub fn facts(
    target: &Answer<Value>,
    look: &Look,
    requested: &Answer<Arc<Sums>>,
    rendered: &Answer<Vec<RenderedChange>>,
) -> FitsFacts {
    FitsFacts {
        pod: match (target, rendered) {
            (Answer::Known(target), Answer::Known(changes)) => Answer::Known(pod_change(target, changes)),
            (Answer::Unknown { why }, _) | (_, Answer::Unknown { why }) => Answer::unknown(why.clone()),
        },
        nodes: rooms(target, look, requested),
        quotas: known(look, "resourcequotas", quotas(look)),
        limit_ranges: known(look, "limitranges", limit_ranges(look)),
    }
}

fn known<T>(look: &Look, plural: &str, found: T) -> Answer<T> {
    match look.asked.iter().find(|asked| asked.query.ends_with(plural)).and_then(|asked| asked.unknown.clone()) {
        Some(why) => Answer::Unknown { why },
        None => Answer::Known(found),
    }
}

/// The pod before and after the rendered changes to the target's containers.
fn pod_change(target: &Value, changes: &[RenderedChange]) -> PodChange {
    let containers = &target["spec"]["template"]["spec"]["containers"];
    let mut after = containers.clone();
    for change in changes.iter().filter(|change| {
        target["kind"] == change.object.kind.as_str() && target["metadata"]["name"] == change.object.name.as_str()
    }) {
        let steps = change.field.steps();
        let at = steps.iter().position(|step| *step == Step::Key("containers".to_owned()));
        let (Some(at), Some(to)) = (at, &change.to) else { continue };
        let list = after.as_array_mut().into_iter().flatten();
        let container = match steps.get(at + 1) {
            Some(Step::Named(name)) => list.into_iter().find(|one| one["name"] == name.as_str()),
            Some(Step::At(position)) => list.into_iter().nth(*position),
            _ => None,
        };
        if let (Some(container), Some(rest)) = (container, steps.get(at + 2..)) {
            set(container, rest, to);
        }
    }
    PodChange { before: resources(containers), after: resources(&after) }
}

fn set(node: &mut Value, steps: &[Step], to: &str) {
    match steps.split_first() {
        Some((Step::Key(key), [])) => node[key.as_str()] = Value::from(to),
        Some((Step::Key(key), rest)) => set(&mut node[key.as_str()], rest, to),
        Some((Step::Named(_) | Step::At(_), _)) | None => {}
    }
}

/// What the containers ask for together; a request that is missing is the limit, as Kubernetes does it.
fn resources(containers: &Value) -> PodResources {
    let mut sum = PodResources {
        cpu_request: Quantity::whole(0),
        memory_request: Quantity::whole(0),
        cpu_limit: Some(Quantity::whole(0)),
        memory_limit: Some(Quantity::whole(0)),
    };
    for container in containers.as_array().into_iter().flatten() {
        let read = |part: &str, name: &str| quantity(&container["resources"][part][name]);
        let (cpu_limit, memory_limit) = (read("limits", "cpu"), read("limits", "memory"));
        sum.cpu_request = sum.cpu_request.plus(read("requests", "cpu").or(cpu_limit).unwrap_or(Quantity::whole(0)));
        sum.memory_request =
            sum.memory_request.plus(read("requests", "memory").or(memory_limit).unwrap_or(Quantity::whole(0)));
        sum.cpu_limit = sum.cpu_limit.zip(cpu_limit).map(|(sum, limit)| sum.plus(limit));
        sum.memory_limit = sum.memory_limit.zip(memory_limit).map(|(sum, limit)| sum.plus(limit));
    }
    sum
}

/// Nodes that the target's pods may run on, with what is free there.
fn rooms(target: &Answer<Value>, look: &Look, requested: &Answer<Arc<Sums>>) -> Answer<Vec<NodeRoom>> {
    let (nodes, requested, target) = match (known(look, "nodes", look.of_kind("Node")), requested, target) {
        (Answer::Known(nodes), Answer::Known(requested), Answer::Known(target)) => (nodes, requested, target),
        (Answer::Unknown { why }, _, _) => return Answer::Unknown { why },
        (_, Answer::Unknown { why }, _) | (_, _, Answer::Unknown { why }) => return Answer::unknown(why.clone()),
    };
    let spec = &target["spec"]["template"]["spec"];
    if !spec["affinity"]["nodeAffinity"].is_null() {
        return Answer::unknown("the pods choose nodes by affinity, which is not added up");
    }
    let suitable = nodes.filter(|node| {
        node["spec"]["unschedulable"] != true
            && crate::owner::has_labels(&node["metadata"]["labels"], &spec["nodeSelector"])
            && tolerated(&node["spec"]["taints"], &spec["tolerations"])
    });
    Answer::Known(suitable.filter_map(|node| room(node, requested)).collect())
}

fn room(node: &Value, requested: &Sums) -> Option<NodeRoom> {
    let name = node["metadata"]["name"].as_str()?.to_owned();
    let allocatable = &node["status"]["allocatable"];
    let (cpu, memory) = (quantity(&allocatable["cpu"])?, quantity(&allocatable["memory"])?);
    let taken = requested.get(&name).copied().unwrap_or(Room::none());
    Some(NodeRoom {
        name,
        cpu_allocatable: cpu,
        memory_allocatable: memory,
        cpu_free: cpu.minus(taken.cpu),
        memory_free: memory.minus(taken.memory),
    })
}

/// Whether every taint that keeps pods away is tolerated.
fn tolerated(taints: &Value, tolerations: &Value) -> bool {
    taints.as_array().into_iter().flatten().filter(|taint| taint["effect"] != "PreferNoSchedule").all(|taint| {
        tolerations.as_array().into_iter().flatten().any(|toleration| {
            let key = toleration["key"].is_null() || toleration["key"] == taint["key"];
            let value = toleration["operator"] == "Exists" || toleration["value"] == taint["value"];
            let effect = toleration["effect"].is_null() || toleration["effect"] == taint["effect"];
            key && value && effect
        })
    })
}

fn quotas(look: &Look) -> Vec<QuotaRoom> {
    let mut rooms = Vec::new();
    for quota in look.of_kind("ResourceQuota") {
        let name = quota["metadata"]["name"].as_str().unwrap_or_default();
        for (resource, hard) in quota["status"]["hard"].as_object().into_iter().flatten() {
            let used = quantity(&quota["status"]["used"][resource.as_str()]).unwrap_or(Quantity::whole(0));
            if let Some(hard) = quantity(hard) {
                rooms.push(QuotaRoom { name: name.to_owned(), resource: resource.clone(), hard, used });
            }
        }
    }
    rooms
}

fn limit_ranges(look: &Look) -> Vec<LimitRange> {
    let mut ranges = Vec::new();
    for range in look.of_kind("LimitRange") {
        let name = range["metadata"]["name"].as_str().unwrap_or_default();
        for limit in
            range["spec"]["limits"].as_array().into_iter().flatten().filter(|limit| limit["type"] == "Container")
        {
            for resource in ["memory", "cpu"] {
                let (max, min) = (quantity(&limit["max"][resource]), quantity(&limit["min"][resource]));
                if max.is_some() || min.is_some() {
                    ranges.push(LimitRange { name: name.to_owned(), resource: resource.to_owned(), max, min });
                }
            }
        }
    }
    ranges
}

//! Room for the changed pods: nodes, quotas and limit ranges.

use std::collections::BTreeMap;

use amend_diagnosis::evidence::{Answer, Window};
use amend_policies::field::Step;
use amend_policies::gate::fits::{FitsFacts, LimitRange, NodeRoom, PodChange, PodResources, QuotaRoom};
use amend_policies::gate::permission::RenderedChange;
use amend_policies::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use serde_json::Value;

use crate::cluster::{self, Look};

/// Pods that are added up; more need a scheduler's own view.
const PODS_MAX: usize = 10_000;
const PAGE: u32 = 500;

/// Nodes with what is requested on each.
#[derive(Debug)]
pub struct Nodes {
    nodes: Answer<Vec<Value>>,
    requested: Answer<BTreeMap<String, (Quantity, Quantity)>>,
}

/// Lists nodes, and pods of all namespaces in pages.
pub async fn nodes(client: &Client) -> Nodes {
    let never = Window { from: Timestamp::UNIX_EPOCH, to: Timestamp::UNIX_EPOCH };
    let ((nodes, _), requested) = futures::join!(cluster::list(client, cluster::NODE, None, never), requested(client));
    Nodes { nodes, requested }
}

async fn requested(client: &Client) -> Answer<BTreeMap<String, (Quantity, Quantity)>> {
    let api: Api<Pod> = Api::all(client.clone());
    let mut sums: BTreeMap<String, (Quantity, Quantity)> = BTreeMap::new();
    let (mut seen, mut token) = (0, None::<String>);
    loop {
        let mut params = ListParams::default().limit(PAGE);
        params.continue_token.clone_from(&token);
        let page = match api.list(&params).await {
            Ok(page) => page,
            Err(error) => return Answer::unknown(format!("cannot list pods to add up their requests: {error}")),
        };
        seen += page.items.len();
        for pod in &page.items {
            let value = serde_json::to_value(pod).unwrap_or_default();
            let over = matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            if let (false, Some(node)) = (over, value["spec"]["nodeName"].as_str()) {
                let wants = resources(&value["spec"]["containers"]);
                let sum = sums.entry(node.to_owned()).or_insert((Quantity::whole(0), Quantity::whole(0)));
                *sum = (sum.0.plus(wants.cpu_request), sum.1.plus(wants.memory_request));
            }
        }
        token = page.metadata.continue_.filter(|token| !token.is_empty());
        match (&token, seen > PODS_MAX) {
            (None, _) => return Answer::Known(sums),
            (Some(_), true) => {
                return Answer::unknown(format!("more than {PODS_MAX} pods; room on nodes is not added up"));
            }
            (Some(_), false) => {}
        }
    }
}

/// The facts of the gate, from the live target, the namespace and the nodes.
pub fn facts(target: &Answer<Value>, look: &Look, nodes: Nodes, rendered: &Answer<Vec<RenderedChange>>) -> FitsFacts {
    FitsFacts {
        pod: match (target, rendered) {
            (Answer::Known(target), Answer::Known(changes)) => Answer::Known(pod_change(target, changes)),
            (Answer::Unknown { why }, _) | (_, Answer::Unknown { why }) => Answer::unknown(why.clone()),
        },
        nodes: rooms(target, nodes),
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

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// Nodes that the target's pods may run on, with what is free there.
fn rooms(target: &Answer<Value>, nodes: Nodes) -> Answer<Vec<NodeRoom>> {
    let (list, requested, target) = match (nodes.nodes, nodes.requested, target) {
        (Answer::Known(list), Answer::Known(requested), Answer::Known(target)) => (list, requested, target),
        (Answer::Unknown { why }, _, _) | (_, Answer::Unknown { why }, _) => return Answer::Unknown { why },
        (_, _, Answer::Unknown { why }) => return Answer::unknown(why.clone()),
    };
    let spec = &target["spec"]["template"]["spec"];
    if !spec["affinity"]["nodeAffinity"].is_null() {
        return Answer::unknown("the pods choose nodes by affinity, which is not added up");
    }
    let suitable = list.iter().filter(|node| {
        node["spec"]["unschedulable"] != true
            && crate::owner::has_labels(&node["metadata"]["labels"], &spec["nodeSelector"])
            && tolerated(&node["spec"]["taints"], &spec["tolerations"])
    });
    Answer::Known(suitable.filter_map(|node| room(node, &requested)).collect())
}

fn room(node: &Value, requested: &BTreeMap<String, (Quantity, Quantity)>) -> Option<NodeRoom> {
    let name = node["metadata"]["name"].as_str()?.to_owned();
    let allocatable = &node["status"]["allocatable"];
    let (cpu, memory) = (quantity(&allocatable["cpu"])?, quantity(&allocatable["memory"])?);
    let zero = (Quantity::whole(0), Quantity::whole(0));
    let taken = requested.get(&name).copied().unwrap_or(zero);
    Some(NodeRoom {
        name,
        cpu_allocatable: cpu,
        memory_allocatable: memory,
        cpu_free: cpu.minus(taken.0),
        memory_free: memory.minus(taken.1),
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

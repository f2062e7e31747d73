//! Room for the changed pods: nodes, quotas and limit ranges.

use std::sync::Arc;

use amend_diagnosis::evidence::Answer;
use amend_policies::field::Step;
use amend_policies::gate::fits::limit_range::LimitRange;
use amend_policies::gate::fits::pod::PodResources;
use amend_policies::gate::fits::quota::QuotaRoom;
use amend_policies::gate::fits::{FitsFacts, NodeRoom, PodChange};
use amend_policies::gate::permission::RenderedChange;
use amend_policies::quantity::Quantity;
use serde_json::Value;

use crate::cluster::Look;
use crate::requested::{Room, Sums};

/// The facts of the gate, from the live target, the namespace and the nodes.
pub fn facts(
    target: &Answer<Value>,
    look: &Look,
    requested: &Answer<Arc<Sums>>,
    rendered: &Answer<Vec<RenderedChange>>,
) -> FitsFacts {
    let limit_ranges: Vec<LimitRange> = look.of_kind("LimitRange").flat_map(LimitRange::of).collect();
    FitsFacts {
        pod: match (target, rendered) {
            (Answer::Known(target), Answer::Known(changes)) => pod_change(target, look, changes, &limit_ranges),
            (Answer::Unknown { why }, _) | (_, Answer::Unknown { why }) => Answer::unknown(why.clone()),
        },
        nodes: rooms(target, look, requested),
        quotas: match target {
            Answer::Known(target) => {
                let spec = &target["spec"]["template"]["spec"];
                let covering = look.of_kind("ResourceQuota").flat_map(|quota| QuotaRoom::of(quota, spec));
                known(look, "resourcequotas", covering.collect())
            }
            Answer::Unknown { why } => Answer::unknown(why.clone()),
        },
        limit_ranges: known(look, "limitranges", limit_ranges),
    }
}

fn known<T>(look: &Look, plural: &str, found: T) -> Answer<T> {
    match look.asked.iter().find(|asked| asked.query.ends_with(plural)).and_then(|asked| asked.unknown.clone()) {
        Some(why) => Answer::Unknown { why },
        None => Answer::Known(found),
    }
}

/// The pod before and after the rendered changes to the target.
fn pod_change(target: &Value, look: &Look, changes: &[RenderedChange], ranges: &[LimitRange]) -> Answer<PodChange> {
    let mut before = target["spec"]["template"]["spec"].clone();
    match overhead(&before, look) {
        Answer::Known(Some(overhead)) => before["overhead"] = overhead,
        Answer::Known(None) => {}
        Answer::Unknown { why } => return Answer::Unknown { why },
    }
    let injected = match injected(target, look) {
        Ok(injected) => injected,
        Err(why) => return Answer::Unknown { why },
    };
    for (list, container) in injected {
        match before[list].as_array_mut() {
            Some(containers) => containers.push(container.clone()),
            None => before[list] = Value::from(vec![container.clone()]),
        }
    }
    let mut after = before.clone();
    for change in changes.iter().filter(|change| {
        target["kind"] == change.object.kind.as_str() && target["metadata"]["name"] == change.object.name.as_str()
    }) {
        if let [Step::Key(spec), Step::Key(template), Step::Key(pod), rest @ ..] = change.field.steps()
            && [spec.as_str(), template.as_str(), pod.as_str()] == ["spec", "template", "spec"]
        {
            set(&mut after, rest, &Value::from(change.to.clone()));
        }
    }
    Answer::Known(PodChange { before: PodResources::of(&before, ranges), after: PodResources::of(&after, ranges) })
}

/// What the sandbox of each pod takes. The RuntimeClass says it, and its pods carry it; `None`: nothing.
fn overhead(spec: &Value, look: &Look) -> Answer<Option<Value>> {
    let Some(class) = spec["runtimeClassName"].as_str().filter(|_| spec["overhead"].is_null()) else {
        return Answer::Known(None);
    };
    match look.of_kind("Pod").find(|pod| pod["spec"]["runtimeClassName"] == class) {
        Some(pod) => Answer::Known(Some(pod["spec"]["overhead"].clone()).filter(|overhead| !overhead.is_null())),
        None => Answer::unknown(format!("no pod here tells the overhead of RuntimeClass {class}")),
    }
}

/// Lists of containers of a pod that stay: debug containers do not come again.
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// Containers that the newest pod of the workload has beyond the template that it was made from: a webhook put them in (the proxy
/// of a service mesh), and will put them into its successor. They come with the list that they stand in.
///
/// # Errors
/// Why nobody can tell.
fn injected<'a>(target: &'a Value, look: &'a Look) -> Result<Vec<(&'static str, &'a Value)>, String> {
    let (kind, name) = (&target["kind"], &target["metadata"]["name"]);
    let unread = look.unread("pods").or_else(|| look.unread("replicasets").filter(|_| kind == "Deployment"));
    if let Some(why) = unread {
        return Err(format!("what is put into pods beyond their template is not known: {why}"));
    }
    let sets: Vec<&Value> = look.of_kind("ReplicaSet").filter(|set| is_owned(set, kind, name)).collect();
    let template = |pod: &Value| {
        let set = sets.iter().find(|set| is_owned(pod, &set["kind"], &set["metadata"]["name"]));
        set.copied().or(is_owned(pod, kind, name).then_some(target)).map(|owner| &owner["spec"]["template"]["spec"])
    };
    let there = look.of_kind("Pod").filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let pods = there.filter_map(|pod| template(pod).map(|template| (pod, template)));
    let born = |pod: &Value| {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        (text("creationTimestamp"), text("name"))
    };
    let (pod, template) = pods.max_by_key(|(pod, _)| born(pod)).ok_or_else(|| {
        let name = name.as_str().unwrap_or_default();
        format!("{name} has no pod that shows what is put into it beyond its template")
    })?;
    let current = &target["spec"]["template"]["spec"];
    let beyond = |list: &'static str| {
        let extra = containers(&pod["spec"], list).filter(move |one| !has(template, one) && !has(current, one));
        extra.map(move |one| (list, one))
    };
    Ok(LISTS.into_iter().flat_map(beyond).collect())
}

fn containers<'a>(spec: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    spec[list].as_array().into_iter().flatten()
}

/// Whether a pod's specification has a container of that name, in whichever list.
fn has(spec: &Value, container: &Value) -> bool {
    LISTS.iter().any(|list| containers(spec, list).any(|one| one["name"] == container["name"]))
}

fn is_owned(object: &Value, kind: &Value, name: &Value) -> bool {
    let mut owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.any(|owner| owner["kind"] == *kind && owner["name"] == *name)
}

/// Writes one field; null where it is taken away.
fn set(node: &mut Value, steps: &[Step], to: &Value) {
    match steps.split_first() {
        Some((Step::Key(key), [])) => node[key.as_str()] = to.clone(),
        Some((Step::Key(key), rest)) => set(&mut node[key.as_str()], rest, to),
        Some((Step::Named(name), rest)) => {
            let list = node.as_array_mut().into_iter().flatten();
            list.filter(|one| one["name"] == name.as_str()).for_each(|one| set(one, rest, to));
        }
        Some((Step::At(position), rest)) => {
            if let Some(one) = node.get_mut(*position) {
                set(one, rest, to);
            }
        }
        None => {}
    }
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
    let (cpu, memory) = (Quantity::read(&allocatable["cpu"])?, Quantity::read(&allocatable["memory"])?);
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

#[cfg(test)]
mod tests {
    use amend_policies::gate::fits::pod::Resource;
    use serde_json::json;

    use super::*;

    fn change(field: &str, to: Option<&str>) -> RenderedChange {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "checkout"});
        serde_json::from_value(json!({"file": "f", "object": object, "field": field, "to": to})).unwrap()
    }

    /// A pod of the ReplicaSet, born at that minute.
    fn pod(set: &str, minute: u32, spec: &Value) -> Value {
        json!({"kind": "Pod", "metadata": {"name": format!("{set}-{minute}"),
            "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z"),
            "ownerReferences": [{"kind": "ReplicaSet", "name": set}]}, "spec": spec})
    }

    fn set(name: &str, spec: &Value) -> Value {
        json!({"kind": "ReplicaSet", "metadata": {"name": name, "ownerReferences": [{"kind": "Deployment", "name": "checkout"}]},
            "spec": {"template": {"spec": spec}}})
    }

    /// With a pod that is as its template says.
    fn changed(spec: &Value, others: Vec<Value>, change: RenderedChange) -> Answer<PodChange> {
        let plain = vec![set("now", spec), pod("now", 0, spec)];
        changed_among(spec, [others, plain].concat(), change)
    }

    fn changed_among(spec: &Value, objects: Vec<Value>, change: RenderedChange) -> Answer<PodChange> {
        let target =
            json!({"kind": "Deployment", "metadata": {"name": "checkout"}, "spec": {"template": {"spec": spec}}});
        let look = Look { objects, ..Look::default() };
        let ranges: Vec<LimitRange> = look.of_kind("LimitRange").flat_map(LimitRange::of).collect();
        pod_change(&target, &look, &[change], &ranges)
    }

    /// The memory limit before and after.
    fn memory(change: &Answer<PodChange>) -> Option<(String, String)> {
        let limit =
            |pod: &PodResources| pod.limit(Resource::Memory).map_or("none".to_owned(), |limit| limit.to_string());
        change.known().map(|change| (limit(&change.before), limit(&change.after)))
    }

    fn said(before: &str, after: &str) -> Option<(String, String)> {
        Some((before.to_owned(), after.to_owned()))
    }

    #[test]
    fn a_change_to_any_part_of_the_pod_is_counted_in_what_all_of_it_asks_for() {
        let of = |limit: &str| json!({"limits": {"memory": limit}});
        let spec = json!({"containers": [{"name": "app", "resources": of("100Mi")}],
            "initContainers": [{"name": "proxy", "restartPolicy": "Always", "resources": of("50Mi")}]});
        let at = |list: &str, to| change(&format!("spec.template.spec.{list}.resources.limits.memory"), to);
        assert_eq!(memory(&changed(&spec, vec![], at("containers[app]", Some("200Mi")))), said("150Mi", "250Mi"));
        assert_eq!(memory(&changed(&spec, vec![], at("initContainers[proxy]", Some("80Mi")))), said("150Mi", "180Mi"));
        assert_eq!(memory(&changed(&spec, vec![], at("containers[app]", None))), said("150Mi", "none"));
        let range =
            json!({"kind": "LimitRange", "spec": {"limits": [{"type": "Container", "default": {"memory": "64Mi"}}]}});
        assert_eq!(memory(&changed(&spec, vec![range], at("containers[app]", None))), said("150Mi", "114Mi"));
    }

    #[test]
    fn the_overhead_of_a_runtime_class_is_what_its_pods_carry() {
        let spec = json!({"runtimeClassName": "kata", "containers": [{"name": "app", "resources": {"limits": {"memory": "100Mi"}}}]});
        let raised = || change("spec.template.spec.containers[app].resources.limits.memory", Some("200Mi"));
        let pod = json!({"kind": "Pod", "spec": {"runtimeClassName": "kata", "overhead": {"memory": "30Mi"}}});
        assert_eq!(memory(&changed(&spec, vec![pod], raised())), said("130Mi", "230Mi"));
        let plain = json!({"kind": "Pod", "spec": {"runtimeClassName": "kata"}});
        assert_eq!(memory(&changed(&spec, vec![plain], raised())), said("100Mi", "200Mi"));
        let nobody = changed_among(&spec, vec![], raised());
        assert!(matches!(&nobody, Answer::Unknown { why } if why.contains("RuntimeClass kata")), "{nobody:?}");
    }

    #[test]
    fn what_a_webhook_puts_into_the_newest_pod_is_counted_for_its_successor() {
        let of = |name: &str, limit: &str| json!({"name": name, "resources": {"limits": {"memory": limit}}});
        let spec = json!({"containers": [of("app", "100Mi")]});
        let meshed = json!({"containers": [of("app", "100Mi"), of("proxy", "64Mi")],
            "initContainers": [{"name": "net", "restartPolicy": "Always", "resources": {"limits": {"memory": "16Mi"}}}],
            "ephemeralContainers": [of("debug", "1Gi")]});
        let raised = || change("spec.template.spec.containers[app].resources.limits.memory", Some("200Mi"));
        let among = |objects| memory(&changed_among(&spec, objects, raised()));

        let now = set("now", &spec);
        assert_eq!(among(vec![now.clone(), pod("now", 1, &meshed)]), said("180Mi", "280Mi"));
        let left = vec![now.clone(), pod("now", 1, &meshed), pod("now", 2, &spec)];
        assert_eq!(among(left), said("100Mi", "200Mi"), "the mesh was left");
        let two = json!({"containers": [of("app", "100Mi"), of("helper", "32Mi")]});
        let older = vec![now.clone(), set("old", &two), pod("old", 3, &two)];
        assert_eq!(among(older), said("100Mi", "200Mi"), "its own template had the helper");
        let foreign = vec![now.clone(), pod("other", 4, &meshed), pod("now", 1, &spec)];
        assert_eq!(among(foreign), said("100Mi", "200Mi"), "a pod of somebody else");
    }

    #[test]
    fn without_a_pod_nobody_knows_what_is_put_in() {
        let spec = json!({"containers": [{"name": "app"}]});
        let raised = || change("spec.template.spec.containers[app].resources.limits.memory", Some("200Mi"));
        let nobody = changed_among(&spec, vec![set("now", &spec)], raised());
        assert!(matches!(&nobody, Answer::Unknown { why } if why.contains("checkout has no pod")), "{nobody:?}");
        let target =
            json!({"kind": "Deployment", "metadata": {"name": "checkout"}, "spec": {"template": {"spec": spec}}});
        let asked = amend_diagnosis::evidence::Asked {
            id: "cluster-pods".into(),
            source: "cluster".into(),
            query: "v1/namespaces/shop/pods".into(),
            window: amend_diagnosis::evidence::Window {
                from: jiff::Timestamp::UNIX_EPOCH,
                to: jiff::Timestamp::UNIX_EPOCH,
            },
            digest: String::new(),
            unknown: Some("not allowed to read pods".into()),
        };
        let look =
            Look { objects: vec![pod("now", 1, &spec), set("now", &spec)], asked: vec![asked], ..Look::default() };
        let why = injected(&target, &look).unwrap_err();
        assert!(why.contains("not allowed to read pods"), "{why}");
    }
}

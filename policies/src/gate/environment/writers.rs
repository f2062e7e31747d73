//! Who writes fields of a workload by itself: autoscalers and other field managers.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::FieldWriter;
use crate::field::{FieldPath, Step};

/// Field managers that bring Git's content or a person's command into the cluster: not rivals of a change in Git.
///
/// A person's `kubectl edit` is put back by the GitOps controller; it does not write again by itself.
const NOT_RIVALS: [&str; 10] = [
    "kustomize-controller",
    "helm-controller",
    "argocd-controller",
    "argocd-application-controller",
    "Helm",
    "helm",
    "flux",
    "before-first-apply",
    "amend",
    "kubectl",
];

/// Everything among `others` and the target's own field managers that writes its spec by itself.
///
/// Knows HorizontalPodAutoscaler, VerticalPodAutoscaler, KEDA's ScaledObject and `metadata.managedFields`. Image automation
/// leaves its setter comment in the file and is refused by the editor ([`crate::manifest::Refusal::Automated`]).
/// `others` are objects of the target's namespace. Sorted, without duplicates.
pub fn field_writers(target: &Value, others: &[Value]) -> Vec<FieldWriter> {
    let mut found = BTreeSet::new();
    for other in others {
        let kind = text(other, "/kind");
        let who = format!("{kind} {}/{}", text(other, "/metadata/namespace"), text(other, "/metadata/name"));
        for field in written_by(kind, other, target) {
            found.insert((who.clone(), field));
        }
    }
    found.extend(owned_by_rivals(target, "spec").map(|(manager, field)| (format!("field manager {manager}"), field)));
    found.into_iter().map(|(who, field)| FieldWriter { who, field }).collect()
}

/// Field managers that write what a ConfigMap holds by themselves: an operator, a controller that injects certificates.
pub fn configuration_writers(config_map: &Value) -> Vec<FieldWriter> {
    let of = text(config_map, "/metadata/name");
    let fields = ["data", "binaryData"].into_iter().flat_map(|key| owned_by_rivals(config_map, key));
    fields
        .map(|(manager, field)| FieldWriter { who: format!("field manager {manager} of ConfigMap {of}"), field })
        .collect()
}

/// Fields below a key of an object that others than Git and people own, with the quoted name of their manager.
fn owned_by_rivals<'a>(object: &'a Value, key: &'a str) -> impl Iterator<Item = (String, FieldPath)> + 'a {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array).into_iter().flatten();
    entries.flat_map(move |entry| {
        let manager = text(entry, "/manager");
        let person = manager.starts_with("kubectl");
        let scaled = text(entry, "/subresource") == "scale";
        let other_subresource = !scaled && !text(entry, "/subresource").is_empty();
        let mut fields = Vec::new();
        if !person && !other_subresource && !NOT_RIVALS.contains(&manager) {
            let set = entry.pointer(&format!("/fieldsV1/f:{key}")).and_then(Value::as_object);
            set.into_iter().for_each(|set| owned(set, &FieldPath::new(vec![Step::Key(key.into())]), &mut fields));
        }
        let manager = crate::policy::quoted(manager);
        fields.into_iter().map(move |field| (manager.clone(), field))
    })
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Fields of `target` that an autoscaler writes; none when it is about something else or switched off.
fn written_by(kind: &str, other: &Value, target: &Value) -> Vec<FieldPath> {
    let names_target = |pointer: &str, default_kind: &str| {
        let reference = other.pointer(pointer).unwrap_or(&Value::Null);
        let kind = match text(reference, "/kind") {
            "" => default_kind,
            kind => kind,
        };
        kind == text(target, "/kind") && text(reference, "/name") == text(target, "/metadata/name")
    };
    let same_namespace = text(other, "/metadata/namespace") == text(target, "/metadata/namespace");
    let replicas = || vec![FieldPath::new(vec![Step::Key("spec".into())]).key("replicas")];
    match kind {
        _ if !same_namespace => Vec::new(),
        "HorizontalPodAutoscaler" if names_target("/spec/scaleTargetRef", "") => replicas(),
        "ScaledObject" if names_target("/spec/scaleTargetRef", "Deployment") => replicas(),
        "VerticalPodAutoscaler" if names_target("/spec/targetRef", "") => resized_by(other, target),
        _ => Vec::new(),
    }
}

/// Container resources that a VerticalPodAutoscaler sets.
fn resized_by(autoscaler: &Value, target: &Value) -> Vec<FieldPath> {
    if text(autoscaler, "/spec/updatePolicy/updateMode") == "Off" {
        return Vec::new();
    }
    let policies = autoscaler.pointer("/spec/resourcePolicy/containerPolicies").and_then(Value::as_array);
    let containers = target.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let mut fields = Vec::new();
    for name in containers.into_iter().flatten().map(|container| text(container, "/name")) {
        let policy_for =
            |wanted: &str| policies.into_iter().flatten().find(|policy| text(policy, "/containerName") == wanted);
        let policy = policy_for(name).or_else(|| policy_for("*"));
        if policy.is_some_and(|policy| text(policy, "/mode") == "Off") {
            continue;
        }
        let path =
            ["spec", "template", "spec", "containers"].into_iter().fold(FieldPath::new(Vec::new()), FieldPath::key);
        let resources = path.named(name).key("resources");
        match policy.map(|policy| text(policy, "/controlledValues")) {
            Some("RequestsOnly") => fields.push(resources.key("requests")),
            _ => fields.push(resources),
        }
    }
    fields
}

/// The leaves of a `fieldsV1` set.
///
/// Source: <https://kubernetes.io/docs/reference/using-api/server-side-apply/>, `f:` is a field, `k:` a list item by its keys.
fn owned(set: &Map<String, Value>, path: &FieldPath, fields: &mut Vec<FieldPath>) {
    for (name, below) in set {
        let next = match name.split_once(':') {
            Some(("f", key)) => path.clone().key(key),
            Some(("k", keys)) => {
                match serde_json::from_str::<Value>(keys).ok().as_ref().map(|keys| text(keys, "/name")) {
                    Some(item) if !item.is_empty() => path.clone().named(item),
                    // Ports and the like are told apart by numbers; whoever owns one owns a part of the list.
                    _ => path.clone(),
                }
            }
            _ => continue,
        };
        match below.as_object() {
            Some(inner) if inner.keys().any(|key| key != ".") => owned(inner, &next, fields),
            _ => fields.push(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn target() -> Value {
        json!({
            "kind": "Deployment",
            "metadata": { "name": "checkout", "namespace": "shop", "managedFields": [
                { "manager": "kustomize-controller", "fieldsV1": { "f:spec": { "f:replicas": {} } } },
                { "manager": "kube-controller-manager", "subresource": "status", "fieldsV1": { "f:spec": { "f:replicas": {} } } },
                { "manager": "kubectl-edit", "fieldsV1": { "f:spec": { "f:replicas": {} } } },
                { "manager": "right-sizer", "fieldsV1": { "f:spec": { "f:template": { "f:spec": { "f:containers": {
                    "k:{\"name\":\"app\"}": { ".": {}, "f:resources": { "f:limits": { "f:memory": {} } } } } } } } } },
            ] },
            "spec": { "template": { "spec": { "containers": [{ "name": "app" }, { "name": "log" }] } } },
        })
    }

    fn scaler(kind: &str, spec: Value) -> Value {
        json!({ "kind": kind, "metadata": { "name": "x", "namespace": "shop" }, "spec": spec })
    }

    fn shown(others: &[Value]) -> Vec<String> {
        let mut bare = target();
        bare["metadata"]["managedFields"] = json!([]);
        field_writers(&bare, others).iter().map(|writer| format!("{}: {}", writer.who, writer.field)).collect()
    }

    #[test]
    fn autoscalers_write_replicas_and_resources() {
        let reference = json!({ "kind": "Deployment", "name": "checkout" });
        assert_eq!(
            shown(&[scaler("HorizontalPodAutoscaler", json!({ "scaleTargetRef": reference }))]),
            ["HorizontalPodAutoscaler shop/x: spec.replicas"]
        );
        assert_eq!(
            shown(&[scaler("ScaledObject", json!({ "scaleTargetRef": { "name": "checkout" } }))]),
            ["ScaledObject shop/x: spec.replicas"]
        );
        let policies = json!({ "containerPolicies": [
            { "containerName": "log", "mode": "Off" }, { "containerName": "*", "controlledValues": "RequestsOnly" }] });
        assert_eq!(
            shown(&[scaler("VerticalPodAutoscaler", json!({ "targetRef": reference, "resourcePolicy": policies }))]),
            ["VerticalPodAutoscaler shop/x: spec.template.spec.containers[app].resources.requests"]
        );
        let off = json!({ "targetRef": reference, "updatePolicy": { "updateMode": "Off" } });
        assert_eq!(shown(&[scaler("VerticalPodAutoscaler", off)]), [""; 0]);
        let other = json!({ "scaleTargetRef": { "kind": "Deployment", "name": "cart" } });
        assert_eq!(shown(&[scaler("HorizontalPodAutoscaler", other)]), [""; 0]);
    }

    #[test]
    fn a_foreign_field_manager_is_a_rival_and_git_is_not() {
        let found = field_writers(&target(), &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].who, "field manager \"right-sizer\"");
        assert_eq!(found[0].field.to_string(), "spec.template.spec.containers[app].resources.limits.memory");
    }
}

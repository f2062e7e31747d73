//! Whether a field that a grant names exists in the kinds that it allows, by Kubernetes' own schemas.
//!
//! A path may be well formed and name nothing (`resource.limits`): such a grant grants nothing, and that would show only when the first
//! change is refused. Kinds whose schema is not here may have any field.

use amend_crds::gittarget::Grant;
use amend_policies::field::{FieldPath, Step};
use amend_policies::grant::pattern;
use amend_policies::policy::{nearest, quoted};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::Ingress;
use schemars::schema_for;
use serde_json::Value;

/// The fields of a grant that none of its kinds has: place (as in `fields[1]`) and sentence.
pub(super) fn of_nothing(grant: &Grant) -> Vec<(String, String)> {
    let schemas: Option<Vec<(&str, Value)>> =
        grant.kinds.iter().map(|kind| Some((kind.as_str(), schema(kind)?))).collect();
    let Some(schemas) = schemas else { return Vec::new() };
    let fields = grant.fields.iter().enumerate();
    fields
        .filter_map(|(position, text)| {
            let path = pattern(text).ok()?;
            let mut missing = None;
            for (kind, schema) in &schemas {
                let why = missing_in(schema, &path)?;
                missing.get_or_insert(format!("no {kind} has the field {}: {why}", quoted(text)));
            }
            Some((format!("fields[{position}]"), format!("grants nothing: {}", missing?)))
        })
        .collect()
}

/// The schema of a kind that changes are mostly about.
fn schema(kind: &str) -> Option<Value> {
    Some(
        match kind {
            "ConfigMap" => schema_for!(ConfigMap),
            "CronJob" => schema_for!(CronJob),
            "DaemonSet" => schema_for!(DaemonSet),
            "Deployment" => schema_for!(Deployment),
            "HorizontalPodAutoscaler" => schema_for!(HorizontalPodAutoscaler),
            "Ingress" => schema_for!(Ingress),
            "Job" => schema_for!(Job),
            "Service" => schema_for!(Service),
            "StatefulSet" => schema_for!(StatefulSet),
            _ => return None,
        }
        .into(),
    )
}

/// Why there is no such field; `None` when there is, or when the schema leaves open what is there.
fn missing_in(root: &Value, path: &FieldPath) -> Option<String> {
    let mut node = root;
    for (position, step) in path.steps().iter().enumerate() {
        node = resolved(root, node);
        let at = FieldPath::new(path.steps()[..position].to_vec());
        let here = if position == 0 { "the object".to_owned() } else { at.to_string().replace("[name=\"*\"]", "[*]") };
        node = match step {
            Step::Key(key) => match (&node["properties"][key.as_str()], &node["additionalProperties"]) {
                (Value::Null, Value::Null) => {
                    let known = node["properties"].as_object().into_iter().flat_map(|fields| fields.keys());
                    return match (node["items"].is_object(), nearest(key, known.map(String::as_str))) {
                        (true, _) => Some(format!("{here} is a list, write {here}[*]")),
                        (false, Some(near)) => Some(format!("did you mean {near}?")),
                        (false, None) if is_open(node) => None,
                        (false, None) => Some(format!("{here} has no {key}")),
                    };
                }
                (Value::Null, values) => values,
                (field, _) => field,
            },
            Step::Named(_) | Step::At(_) => match &node["items"] {
                Value::Null if is_open(node) => return None,
                Value::Null => return Some(format!("{here} is not a list")),
                items => items,
            },
        };
    }
    None
}

/// The schema that a reference leads to, as it is used here: an optional field names its type beside null.
fn resolved<'a>(root: &'a Value, node: &'a Value) -> &'a Value {
    let mut node = node;
    // A reference that leads to itself ends somewhere.
    for _ in 0..8 {
        let alternatives = ["anyOf", "oneOf", "allOf"].iter().find_map(|key| node[*key].as_array());
        node = match (node["$ref"].as_str().and_then(|text| text.strip_prefix('#')), alternatives) {
            (Some(pointer), _) => match root.pointer(pointer) {
                Some(found) => found,
                None => return node,
            },
            (None, Some(list)) => match list.iter().find(|one| one["type"] != "null") {
                Some(one) => one,
                None => return node,
            },
            (None, None) => return node,
        };
    }
    node
}

/// Whether anything may stand there: nothing is said about what is inside, and it is not a plain value.
fn is_open(node: &Value) -> bool {
    let plain = |kind: &Value| matches!(kind.as_str(), Some("string" | "integer" | "number" | "boolean" | "null"));
    let is_plain = match &node["type"] {
        Value::Array(kinds) => !kinds.is_empty() && kinds.iter().all(plain),
        kind => plain(kind),
    };
    !is_plain && node["properties"].is_null() && node["items"].is_null()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kinds: &[&str], field: &str) -> Option<String> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let grant = Grant {
            namespace: "shop".into(),
            paths: vec!["apps/**".into()],
            kinds: owned(kinds),
            fields: owned(&[field]),
        };
        of_nothing(&grant).into_iter().next().map(|(_, sentence)| sentence)
    }

    #[test]
    fn a_field_that_no_granted_kind_has_is_told_with_what_was_meant() {
        for (kinds, field, expected) in [
            ("Deployment", "spec.template.spec.containers[*].resource.limits", "did you mean resources?"),
            (
                "Deployment",
                "spec.template.spec.containers.resources",
                "is a list, write spec.template.spec.containers[*]",
            ),
            ("Deployment", "spec.containers[*].resources", "spec has no containers"),
            ("StatefulSet", "spec.replica", "did you mean replicas?"),
            ("Deployment", "spec.replicas.count", "spec.replicas has no count"),
            ("Deployment", "spec.template[*]", "spec.template is not a list"),
            ("ConfigMap", "spec.data", "the object has no spec"),
            ("CronJob", "spec.template.spec", "did you mean jobTemplate?"),
            ("Deployment Job", "spec.shedule", "no Deployment has the field"),
        ] {
            let kinds: Vec<&str> = kinds.split(' ').collect();
            let sentence = told(&kinds, field);
            assert!(sentence.as_ref().is_some_and(|told| told.contains(expected)), "{field}: {sentence:?}");
        }
    }

    #[test]
    fn a_field_that_exists_or_that_nobody_can_know_is_left_alone() {
        for (kinds, field) in [
            ("Deployment", "spec.template.spec.containers[*].resources"),
            ("Deployment", "spec.template.spec.containers[app].resources.limits.memory"),
            ("Deployment", "spec.template.spec.containers[*].env[*].value"),
            ("Deployment", "spec.template.spec.containers[0].image"),
            ("Deployment", "spec.template.spec.initContainers[*].resources.requests[\"nvidia.com/gpu\"]"),
            ("Deployment", "metadata.annotations[\"example.com/a\"]"),
            ("Deployment", "spec.strategy.rollingUpdate.maxSurge"),
            ("Deployment", "spec"),
            ("ConfigMap", "data"),
            ("ConfigMap", "data[\"app.yaml\"]"),
            ("CronJob", "spec.jobTemplate.spec.template.spec.containers[*].resources"),
            ("HorizontalPodAutoscaler", "spec.maxReplicas"),
            ("Ingress", "spec.rules[0].http.paths[0].backend.service.port.number"),
            ("Deployment CronJob", "spec.schedule"),
            ("Rollout", "spec.anything"),
            ("Deployment Rollout", "spec.anything"),
        ] {
            let kinds: Vec<&str> = kinds.split(' ').collect();
            assert_eq!(told(&kinds, field), None, "{field}");
        }
    }

    #[test]
    fn every_kind_that_a_slip_is_looked_for_in_has_a_schema() {
        for kind in super::super::meaning::KINDS {
            assert!(schema(kind).is_some_and(|schema| schema["properties"].is_object()), "{kind}");
        }
    }
}

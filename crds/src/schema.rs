//! The CRDs as they are installed: generated from the types, then made clear and safe for the API server.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::{Approval, Build, GitTarget, Incident, Remediation, RemediationPolicy, TelemetrySource};

/// Every CRD, in the order of their names.
///
/// # Errors
///
/// When a generated definition does not survive the mending below; that is a mistake in a type, found by the tests.
pub fn definitions() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    [
        Approval::crd(),
        Build::crd(),
        GitTarget::crd(),
        Incident::crd(),
        Remediation::crd(),
        RemediationPolicy::crd(),
        TelemetrySource::crd(),
    ]
    .into_iter()
    .map(mended)
    .collect()
}

fn mended(definition: CustomResourceDefinition) -> Result<CustomResourceDefinition, serde_json::Error> {
    let keeps_unknown_fields = definition.spec.names.kind == "RemediationPolicy";
    let mut value = serde_json::to_value(definition)?;
    if let Some(schema) = value.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties") {
        for part in ["spec", "status"] {
            if let Some(part_schema) = schema.get_mut(part) {
                mend(part_schema, part == "spec");
            }
        }
        if keeps_unknown_fields && let Some(spec) = schema.get_mut("spec") {
            keep_unknown_fields(spec);
        }
    }
    serde_json::from_value(value)
}

/// Externally tagged enums: `oneOf` answers "must validate one and only one schema", which helps nobody.
/// It is stripped, and in a spec a CEL rule with a clear message takes its place.
fn mend(schema: &mut Value, with_rules: bool) {
    if let Some(object) = schema.as_object_mut() {
        // Rust's number formats mean nothing to the API server, which warns about them.
        if object.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
            object.remove("format");
        }
        if let Some(choices) = object.remove("oneOf").and_then(|one_of| required_choices(&one_of))
            && with_rules
            && !choices.is_empty()
        {
            exactly_one(object, &choices);
        }
        for value in object.values_mut() {
            mend(value, with_rules);
        }
    } else if let Some(list) = schema.as_array_mut() {
        for value in list {
            mend(value, with_rules);
        }
    }
}

fn required_choices(one_of: &Value) -> Option<Vec<String>> {
    one_of.as_array()?.iter().map(|choice| choice.get("required")?.get(0)?.as_str().map(str::to_string)).collect()
}

fn exactly_one(object: &mut Map<String, Value>, choices: &[String]) {
    let has = choices.iter().map(|choice| format!("has(self.{choice})")).collect::<Vec<_>>().join(", ");
    let rule = json!({
        "rule": format!("[{has}].filter(set, set).size() == 1"),
        "message": format!("set exactly one of: {}", choices.join(", ")),
    });
    let rules = object.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
    if let Some(rules) = rules.as_array_mut() {
        rules.push(rule);
    }
}

/// The API server prunes fields that a schema does not name, so a typo could silently remove a bound.
/// Policies keep them; the controller refuses such a policy and names the nearest known field.
fn keep_unknown_fields(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if object.contains_key("properties") {
        object.insert("x-kubernetes-preserve-unknown-fields".to_string(), json!(true));
    }
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(keep_unknown_fields);
    }
    if let Some(items) = object.get_mut("items") {
        keep_unknown_fields(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema_of(kind: &str) -> Value {
        let definitions = definitions().expect("every type yields a definition");
        let found = definitions.iter().find(|crd| crd.spec.names.kind == kind).expect("known kind");
        serde_json::to_value(&found.spec.versions[0].schema).expect("is JSON")
    }

    #[test]
    fn no_one_of_is_left_to_confuse_people() {
        for definition in definitions().expect("every type yields a definition") {
            let text = serde_json::to_string(&definition).expect("is JSON");
            assert!(!text.contains("oneOf"), "{}", definition.spec.names.kind);
        }
    }

    #[test]
    fn a_policy_keeps_unknown_fields_at_every_depth() {
        let schema = schema_of("RemediationPolicy");
        let preserved = "/openAPIV3Schema/properties/spec/properties/match/x-kubernetes-preserve-unknown-fields";
        assert_eq!(schema.pointer(preserved), Some(&json!(true)));
    }

    #[test]
    fn the_checked_in_yaml_is_what_the_types_say() {
        for (file, text) in crate::schema::files().expect("every type yields a definition") {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml").join(&file);
            let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(checked_in, text, "{file} is stale: run `make generate`");
        }
    }
}

/// File name and YAML text of every CRD, as checked in under `crds/yaml/`.
///
/// # Errors
///
/// As [`definitions`], or when YAML cannot be written.
pub fn files() -> Result<Vec<(String, String)>, Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for definition in definitions()? {
        let name = format!("amend.dev_{}.yaml", definition.spec.names.plural);
        let value = without_empty(serde_json::to_value(&definition)?);
        let text =
            format!("# Generated by `make generate` from crds/src; do not edit.\n{}", serde_saphyr::to_string(&value)?);
        files.push((name, text));
    }
    Ok(files)
}

fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(
            object
                .into_iter()
                .filter(|(_, inner)| !inner.is_null())
                .map(|(key, inner)| (key, without_empty(inner)))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(without_empty).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

//! The schema that people and the API server see.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use amend_policies::plan::Plan;
use amend_policies::policy::Policy;
use serde_json::Value;

fn each<'a>(schema: &'a Value, path: &str, with: &mut impl FnMut(&str, &'a Value)) {
    with(path, schema);
    match schema {
        Value::Object(fields) => fields.iter().for_each(|(key, below)| each(below, &format!("{path}/{key}"), with)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(position, below)| each(below, &format!("{path}/{position}"), with));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_text_and_list_of_a_policy_is_bounded() {
    let schema = schemars::schema_for!(Policy).to_value();
    let mut unbounded = Vec::new();
    each(&schema, "", &mut |path, node| {
        let kind = node.get("type").map(|kind| kind.to_string()).unwrap_or_default();
        let has = |bound: &str| node.get(bound).is_some();
        let bounded = has("maxLength") || has("maxItems") || has("maxProperties") || has("enum") || has("const");
        let wants = kind.contains("string") || kind.contains("array") || has("additionalProperties");
        if wants && !bounded {
            unbounded.push(path.to_owned());
        }
    });
    assert_eq!(unbounded, [""; 0]);
}

#[test]
fn exactly_one_is_asked_for_where_variants_stand() {
    let schema = schemars::schema_for!(Policy).to_value();
    let mut rules = Vec::new();
    each(&schema, "", &mut |_, node| {
        if let Some(list) = node.get("x-kubernetes-validations").and_then(Value::as_array) {
            rules.extend(list.iter().map(|rule| rule["message"].as_str().unwrap().to_owned()));
        }
    });
    for expected in
        ["a gate is exactly one of", "a git step does exactly one of", "a target needs a name", "either factor"]
    {
        assert!(rules.iter().any(|rule| rule.contains(expected)), "{expected}: {rules:?}");
    }
}

#[test]
fn a_plan_holds_no_open_types_and_nothing_that_kubernetes_refuses() {
    let schema = schemars::schema_for!(Plan).to_value();
    each(&schema, "", &mut |path, node| assert_ne!(node, &Value::Bool(true), "{path}"));
}

/// `kubectl` reads these keys as booleans (YAML 1.1), so that `on: [Aborted]` arrives as `"true": [Aborted]`.
#[test]
fn no_field_has_a_name_that_kubectl_reads_as_a_boolean() {
    for schema in [schemars::schema_for!(Policy).to_value(), schemars::schema_for!(Plan).to_value()] {
        each(&schema, "", &mut |path, node| {
            for name in node.get("properties").and_then(Value::as_object).into_iter().flat_map(|fields| fields.keys()) {
                assert!(
                    !matches!(name.to_lowercase().as_str(), "on" | "off" | "yes" | "no" | "y" | "n"),
                    "{path}/{name}"
                );
            }
        });
    }
}

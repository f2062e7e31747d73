//! Structural schemas of custom resources: pruning, defaults, validation.
//!
//! CEL rules (`x-kubernetes-validations`) are not evaluated here; the live bench has a server that does.

use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use serde_json::{Map, Value, json};

use super::status::FieldError;

/// The schema of one version of a custom resource, ready to be applied.
#[derive(Debug)]
pub struct Schema {
    structural: Value,
    validator: Option<Validator>,
}

impl Schema {
    /// Prepares an `openAPIV3Schema`; a schema that cannot be compiled validates nothing.
    pub fn new(structural: Value) -> Self {
        let validator = jsonschema::options()
            .should_validate_formats(false)
            .build(&json_schema(&structural))
            .inspect_err(|error| tracing::warn!(%error, "cannot compile the schema of a custom resource"))
            .ok();
        Self { structural, validator }
    }

    /// Removes fields that the schema does not know and fills in its defaults.
    pub fn admit(&self, object: &mut Value) {
        prune(object, &self.structural, true);
        default(object, &self.structural);
    }

    /// Every field that breaks the schema.
    pub fn errors(&self, object: &Value) -> Vec<FieldError> {
        let Some(validator) = &self.validator else {
            return Vec::new();
        };
        validator
            .iter_errors(object)
            .map(|error| {
                let mut field = field_path(error.instance_path().as_str());
                let (reason, message) = match error.kind() {
                    ValidationErrorKind::Required { property } => {
                        let name = property.as_str().unwrap_or_default();
                        field = if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
                        ("FieldValueRequired", "Required value".to_owned())
                    }
                    ValidationErrorKind::Enum { options } => (
                        "FieldValueNotSupported",
                        format!("Unsupported value: {}: supported values: {options}", error.instance()),
                    ),
                    ValidationErrorKind::Type { .. } => ("FieldValueTypeInvalid", format!("Invalid value: {error}")),
                    _ => ("FieldValueInvalid", format!("Invalid value: {error}")),
                };
                if field.is_empty() {
                    field = "<nil>".to_owned();
                }
                FieldError { field, reason, message }
            })
            .collect()
    }
}

/// `/spec/steps/0/name` as `spec.steps[0].name`.
fn field_path(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        if part.parse::<usize>().is_ok() {
            path.push_str(&format!("[{part}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&part.replace("~1", "/").replace("~0", "~"));
        }
    }
    path
}

/// The OpenAPI dialect of Kubernetes as plain JSON Schema.
fn json_schema(structural: &Value) -> Value {
    let Some(fields) = structural.as_object() else {
        return structural.clone();
    };
    let mut schema = Map::new();
    for (key, value) in fields {
        match key.as_str() {
            "properties" => {
                let properties = value.as_object().cloned().unwrap_or_default();
                let properties = properties.iter().map(|(name, of)| (name.clone(), json_schema(of))).collect();
                schema.insert(key.clone(), Value::Object(properties));
            }
            "items" | "additionalProperties" | "not" => {
                schema.insert(key.clone(), json_schema(value));
            }
            "allOf" | "anyOf" | "oneOf" => {
                let all = value.as_array().cloned().unwrap_or_default();
                schema.insert(key.clone(), Value::Array(all.iter().map(json_schema).collect()));
            }
            "nullable" | "format" | "example" | "default" => {}
            _ if key.starts_with("x-kubernetes-") => {}
            _ => {
                schema.insert(key.clone(), value.clone());
            }
        }
    }
    if fields.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        schema.insert("type".into(), json!(["integer", "string"]));
        schema.remove("anyOf");
    }
    if fields.get("nullable") == Some(&json!(true)) {
        match schema.get("type").cloned() {
            Some(Value::String(one)) => schema.insert("type".into(), json!([one, "null"])),
            Some(Value::Array(mut many)) => {
                many.push(json!("null"));
                schema.insert("type".into(), Value::Array(many))
            }
            _ => None,
        };
        if let Some(Value::Array(options)) = schema.get_mut("enum")
            && !options.contains(&Value::Null)
        {
            options.push(Value::Null);
        }
    }
    Value::Object(schema)
}

fn keeps_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == json!(true)
}

fn prune(value: &mut Value, schema: &Value, root: bool) {
    match value {
        Value::Object(fields) => {
            let properties = schema["properties"].as_object();
            let additional = &schema["additionalProperties"];
            let open = keeps_unknown(schema) || additional.is_object() || *additional == json!(true);
            if !open {
                let embedded = root || schema["x-kubernetes-embedded-resource"] == json!(true);
                fields.retain(|name, _| {
                    properties.is_some_and(|known| known.contains_key(name))
                        || (embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata"))
                });
            }
            for (name, field) in fields.iter_mut() {
                if root && name == "metadata" {
                    continue;
                }
                if let Some(known) = properties.and_then(|known| known.get(name)) {
                    prune(field, known, false);
                } else if additional.is_object() {
                    prune(field, additional, false);
                }
            }
        }
        Value::Array(items) if schema["items"].is_object() => {
            items.iter_mut().for_each(|item| prune(item, &schema["items"], false));
        }
        _ => {}
    }
}

fn default(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, known) in schema["properties"].as_object().into_iter().flatten() {
                let nullable = known["nullable"] == json!(true);
                let missing = match fields.get(name) {
                    None => true,
                    Some(Value::Null) => !nullable,
                    Some(_) => false,
                };
                if missing && let Some(default) = known.get("default").filter(|default| !default.is_null()) {
                    fields.insert(name.clone(), default.clone());
                } else if fields.get(name) == Some(&Value::Null) && !nullable && !keeps_unknown(known) {
                    fields.remove(name);
                }
                if let Some(field) = fields.get_mut(name) {
                    default(field, known);
                }
            }
            if schema["additionalProperties"].is_object() {
                fields.values_mut().for_each(|field| default(field, &schema["additionalProperties"]));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default(item, &schema["items"])),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        Schema::new(
            json!({ "type": "object", "properties": { "spec": { "type": "object", "required": ["size"], "properties": {
            "size": { "type": "integer", "minimum": 1 },
            "mode": { "type": "string", "enum": ["A", "B"], "default": "A" },
            "port": { "x-kubernetes-int-or-string": true, "anyOf": [{ "type": "integer" }, { "type": "string" }] },
            "note": { "type": "string", "nullable": true },
            "free": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
        } } } }),
        )
    }

    #[test]
    fn unknown_fields_are_pruned_unless_preserved_and_defaults_are_filled() {
        let mut object = json!({ "kind": "X", "metadata": { "name": "a" }, "spec": { "size": 2, "typo": 1, "free": { "kept": 1 } } });
        schema().admit(&mut object);
        assert_eq!(object["spec"], json!({ "size": 2, "mode": "A", "free": { "kept": 1 } }));
        assert_eq!(object["metadata"]["name"], "a");
    }

    #[test]
    fn each_broken_field_is_named() {
        let errors = schema().errors(&json!({ "spec": { "size": 0, "mode": "C", "port": 80, "note": null } }));
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert!(fields.contains(&"spec.size") && fields.contains(&"spec.mode"), "{errors:?}");
        assert_eq!(errors.len(), 2, "{errors:?}");
        let missing = schema().errors(&json!({ "spec": {} }));
        assert_eq!((missing[0].field.as_str(), missing[0].reason), ("spec.size", "FieldValueRequired"));
    }
}

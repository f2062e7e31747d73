//! What every object must pass on its way into the store: identity, defaults, validation, fields that only the server sets.

use serde_json::{Value, json};

use super::builtin;
use super::resource::Resource;
use super::status::{FieldError, Refusal};
use super::store::{State, name_of};

pub(super) fn finalizers(object: &Value) -> usize {
    object["metadata"]["finalizers"].as_array().map_or(0, Vec::len)
}

pub(super) fn uid(number: u64) -> String {
    use sha2::{Digest, Sha256};
    let hash = hex::encode(Sha256::digest(number.to_be_bytes()));
    format!("{}-{}-4{}-8{}-{}", &hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32])
}

pub(super) fn identify(state: &mut State, resource: &Resource, object: &mut Value) -> Result<(), Refusal> {
    if !object.is_object() {
        return Err(Refusal::bad_request("the body is not an object"));
    }
    object["apiVersion"] = json!(resource.api_version());
    object["kind"] = json!(resource.kind);
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let Some(metadata) = object["metadata"].as_object_mut() else {
        return Err(Refusal::bad_request("metadata is not an object"));
    };
    for field in ["uid", "creationTimestamp", "generation", "managedFields", "selfLink", "deletionTimestamp"] {
        metadata.remove(field);
    }
    if metadata.remove("resourceVersion").is_some_and(|version| version.as_str().is_some_and(|v| !v.is_empty())) {
        return Err(Refusal::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if !resource.namespaced {
        metadata.remove("namespace");
    }
    if metadata.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
        match metadata.get("generateName").and_then(Value::as_str) {
            Some(prefix) => {
                let suffix: String = uid(state.born + 1).chars().filter(|c| *c != '-').take(5).collect();
                let name = format!("{prefix}{suffix}");
                metadata.insert("name".into(), json!(name));
            }
            None => {
                return Err(invalid(
                    resource,
                    "",
                    "metadata.name",
                    "FieldValueRequired",
                    "Required value: name or generateName is required",
                ));
            }
        }
    }
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let fine = name.len() <= 253
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_'))
        && (resource.group == "rbac.authorization.k8s.io" || !name.chars().any(|c| c.is_ascii_uppercase()));
    if !fine {
        let message = format!(
            "Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
        );
        return Err(invalid(resource, &name, "metadata.name", "FieldValueInvalid", &message));
    }
    Ok(())
}

pub(super) fn invalid(resource: &Resource, name: &str, field: &str, reason: &'static str, message: &str) -> Refusal {
    Refusal::invalid(
        &resource.kind,
        &resource.group,
        name,
        vec![FieldError { field: field.into(), reason, message: message.into() }],
    )
}

pub(super) fn admit(resource: &Resource, object: &mut Value) -> Result<(), Refusal> {
    builtin::default(resource, object);
    if let Some(schema) = &resource.schema {
        schema.admit(object);
        let errors = schema.errors(object);
        if !errors.is_empty() {
            return Err(Refusal::invalid(&resource.kind, &resource.group, &name_of(object).1, errors));
        }
    }
    Ok(())
}

pub(super) fn check_identity(resource: &Resource, live: &Value, object: &Value) -> Result<(), Refusal> {
    let (_, name) = name_of(live);
    if name_of(object) != name_of(live) {
        return Err(Refusal::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            name_of(object).1
        )));
    }
    for (field, why) in [
        ("uid", "the UID in the object does not match the one in the store"),
        (
            "resourceVersion",
            "the object has been modified; please apply your changes to the latest version and try again",
        ),
    ] {
        let sent = object["metadata"][field].as_str().unwrap_or_default();
        if !sent.is_empty() && live["metadata"][field] != sent {
            return Err(Refusal::conflict(&resource.key(), &name, why));
        }
    }
    Ok(())
}

pub(super) fn keep_server_fields(resource: &Resource, live: &Value, object: &mut Value, status: bool) {
    if status {
        let wanted = object["status"].clone();
        let mut kept = live.clone();
        if wanted.is_null() {
            if let Some(fields) = kept.as_object_mut() {
                fields.remove("status");
            }
        } else {
            kept["status"] = wanted;
        }
        *object = kept;
    } else if resource.status {
        match live.get("status") {
            Some(status) => object["status"] = status.clone(),
            None => {
                if let Some(fields) = object.as_object_mut() {
                    fields.remove("status");
                }
            }
        }
    }
    object["apiVersion"] = live["apiVersion"].clone();
    object["kind"] = live["kind"].clone();
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"] {
        match live["metadata"].get(field) {
            Some(value) => object["metadata"][field] = value.clone(),
            None => {
                if let Some(metadata) = object["metadata"].as_object_mut() {
                    metadata.remove(field);
                }
            }
        }
    }
}

pub(super) fn differs_beyond(one: &Value, other: &Value, ignored: &[&str]) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else {
        return one != other;
    };
    let keys = one.keys().chain(other.keys()).filter(|key| !ignored.contains(&key.as_str()));
    keys.into_iter().any(|key| one.get(key) != other.get(key))
}

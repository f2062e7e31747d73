//! Patches: JSON patch, merge patch, strategic merge and server-side apply.
//!
//! Strategic merge is a merge patch that also merges lists by key for the shapes we use: `containers`,
//! `initContainers`, `env`, `volumes` and `imagePullSecrets` by `name`, `volumeMounts` by `mountPath`, `ports` by
//! `containerPort`, `conditions` by `type`, `ownerReferences` by `uid`, with `$patch: delete` on an item.
//! Other lists are replaced. Server-side apply merges in the same way, and drops what the manager no longer applies.

use serde_json::{Map, Value, json};

use super::fields::{self, FieldSet};
use super::status::Refusal;

/// A patch as it came in.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' merge with keyed lists.
    Strategic(Value),
    /// Server-side apply.
    Apply {
        /// The applied configuration.
        object: Value,
        /// Whether fields are taken from other managers.
        force: bool,
    },
}

impl Patch {
    /// Reads a patch by its content type.
    pub fn read(content_type: &str, body: &[u8], force: bool) -> Result<Self, Refusal> {
        let value = parse(body)?;
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => serde_json::from_value(value)
                .map(Self::Json)
                .map_err(|error| Refusal::bad_request(format!("error decoding patch: {error}"))),
            "application/merge-patch+json" => Ok(Self::Merge(value)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(value)),
            "application/apply-patch+yaml" => Ok(Self::Apply { object: value, force }),
            other => Err(Refusal::unsupported_media(other)),
        }
    }

    /// The object that results.
    pub fn applied(&self, to: &Value, manager: &str) -> Result<Value, Refusal> {
        let mut object = to.clone();
        match self {
            Self::Json(patch) => {
                json_patch::patch(&mut object, patch).map_err(|error| {
                    Refusal::invalid(
                        "patch",
                        "",
                        "",
                        vec![super::status::FieldError {
                            field: "patch".into(),
                            reason: "FieldValueInvalid",
                            message: error.to_string(),
                        }],
                    )
                })?;
            }
            Self::Merge(patch) => json_patch::merge(&mut object, patch),
            Self::Strategic(patch) => strategic(&mut object, patch, ""),
            Self::Apply { object: wanted, force } => {
                let set = fields::leaves(wanted);
                refuse_conflicts(to, wanted, &set, manager, *force)?;
                for entry in fields::owners(to) {
                    if entry.manager == manager && entry.operation == "Apply" {
                        let shared: FieldSet = fields::owners(to)
                            .into_iter()
                            .filter(|other| (other.manager.as_str(), other.operation.as_str()) != (manager, "Apply"))
                            .flat_map(|other| other.fields)
                            .collect();
                        for path in entry.fields.difference(&set).filter(|path| !shared.contains(*path)) {
                            fields::remove_at(&mut object, path);
                        }
                    }
                }
                let mut wanted = wanted.clone();
                if let Some(metadata) = wanted["metadata"].as_object_mut() {
                    metadata.remove("managedFields");
                }
                strategic(&mut object, &wanted, "");
            }
        }
        Ok(object)
    }

    /// What a server-side apply claims to own.
    pub fn claims(&self) -> Option<FieldSet> {
        match self {
            Self::Apply { object, .. } => Some(fields::leaves(object)),
            Self::Json(_) | Self::Merge(_) | Self::Strategic(_) => None,
        }
    }
}

/// Reads JSON, or else YAML.
pub fn parse(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body).or_else(|_| {
        std::str::from_utf8(body).map_err(|error| Refusal::bad_request(error.to_string())).and_then(|text| {
            serde_saphyr::from_str(text)
                .map_err(|error| Refusal::bad_request(format!("error decoding the body: {error}")))
        })
    })
}

fn refuse_conflicts(live: &Value, wanted: &Value, set: &FieldSet, manager: &str, force: bool) -> Result<(), Refusal> {
    if force {
        return Ok(());
    }
    let conflicts: Vec<(String, String)> = fields::owners(live)
        .into_iter()
        .filter(|owner| owner.manager != manager)
        .flat_map(|owner| {
            owner
                .fields
                .intersection(set)
                .filter(|path| fields::value_at(live, path) != fields::value_at(wanted, path))
                .map(|path| (owner.manager.clone(), fields::readable(path)))
                .collect::<Vec<_>>()
        })
        .collect();
    if conflicts.is_empty() { Ok(()) } else { Err(Refusal::apply_conflict(&conflicts)) }
}

fn strategic(target: &mut Value, patch: &Value, field: &str) {
    match patch {
        Value::Object(fields) => {
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            for (name, value) in fields {
                if value.is_null() {
                    if let Some(target) = target.as_object_mut() {
                        target.remove(name);
                    }
                } else {
                    strategic(&mut target[name], value, name);
                }
            }
        }
        Value::Array(items) => match fields::list_key(field) {
            Some(key) if items.iter().all(|item| item.get(key).is_some()) => {
                if !target.is_array() {
                    *target = json!([]);
                }
                let Some(existing) = target.as_array_mut() else {
                    return;
                };
                for item in items {
                    let at = existing.iter().position(|old| old.get(key) == item.get(key));
                    let delete = item["$patch"] == "delete";
                    match at {
                        Some(at) if delete => {
                            existing.remove(at);
                        }
                        Some(at) => strategic(&mut existing[at], item, ""),
                        None if delete => {}
                        None => existing.push(item.clone()),
                    }
                }
            }
            _ => *target = patch.clone(),
        },
        other => *target = other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategic_merge_touches_only_the_named_container() {
        let live =
            json!({ "spec": { "containers": [{ "name": "app", "image": "a" }, { "name": "side", "image": "s" }] } });
        let patch = Patch::Strategic(json!({ "spec": { "containers": [{ "name": "app", "image": "b" }] } }));
        assert_eq!(
            patch.applied(&live, "me").unwrap(),
            json!({ "spec": { "containers": [{ "name": "app", "image": "b" }, { "name": "side", "image": "s" }] } })
        );
    }

    #[test]
    fn a_merge_patch_replaces_lists_whole() {
        let live = json!({ "a": [1, 2], "b": 1 });
        assert_eq!(Patch::Merge(json!({ "a": [3], "b": null })).applied(&live, "me").unwrap(), json!({ "a": [3] }));
    }

    #[test]
    fn a_failed_test_operation_refuses_a_json_patch() {
        let patch =
            Patch::read("application/json-patch+json", br#"[{"op":"test","path":"/a","value":2}]"#, false).unwrap();
        assert_eq!(patch.applied(&json!({ "a": 1 }), "me").unwrap_err().code, 422);
    }
}

//! Who wrote which field: `managedFields` with `fieldsV1`.
//!
//! Paths have the real form (`f:spec`, `k:{"name":"app"}`). Lists are keyed by `name` (containers, env,
//! volumes, ports by number, conditions by type); every other list is one leaf. That is what the API server's schemas say for
//! the kinds we serve, without carrying those schemas.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// A set of leaf paths; each element is a `fieldsV1` key.
pub type FieldSet = BTreeSet<Vec<String>>;

/// The key field by which items of this list are told apart, if they are.
pub fn list_key(field: &str) -> Option<&'static str> {
    match field {
        "containers" | "initContainers" | "env" | "volumes" | "imagePullSecrets" => Some("name"),
        "ports" => Some("containerPort"),
        "volumeMounts" => Some("mountPath"),
        "conditions" => Some("type"),
        "ownerReferences" => Some("uid"),
        _ => None,
    }
}

/// The leaves of an object that a manager can own: everything but identity and server-set metadata.
pub fn leaves(object: &Value) -> FieldSet {
    let mut set = FieldSet::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        match name.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    if matches!(name.as_str(), "labels" | "annotations" | "finalizers" | "ownerReferences") {
                        walk(value, name, &mut vec!["f:metadata".into(), format!("f:{name}")], &mut set);
                    }
                }
            }
            _ => walk(value, name, &mut vec![format!("f:{name}")], &mut set),
        }
    }
    set
}

fn walk(value: &Value, name: &str, path: &mut Vec<String>, set: &mut FieldSet) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                path.push(format!("f:{name}"));
                walk(value, name, path, set);
                path.pop();
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let keys: Option<Vec<(Value, &Value)>> = list_key(name)
                .and_then(|key| items.iter().map(|item| item.get(key).map(|id| (json!({ key: id }), item))).collect());
            match keys {
                Some(keyed) => {
                    for (key, item) in keyed {
                        path.push(format!("k:{key}"));
                        walk(item, "", path, set);
                        path.pop();
                    }
                }
                None => {
                    set.insert(path.clone());
                }
            }
        }
        _ => {
            set.insert(path.clone());
        }
    }
}

/// The value at a path, if there is one.
pub fn value_at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    let mut at = object;
    for part in path {
        at = match part.split_at_checked(2)? {
            ("f:", name) => at.get(name)?,
            ("k:", key) => {
                let key: Value = serde_json::from_str(key).ok()?;
                let (name, id) = key.as_object()?.iter().next()?;
                at.as_array()?.iter().find(|item| item.get(name) == Some(id))?
            }
            _ => return None,
        };
    }
    Some(at)
}

/// Removes the value at a path, and the containers that become empty by it.
pub fn remove_at(object: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    let Some((form, name)) = first.split_at_checked(2) else {
        return;
    };
    if form == "f:" {
        let Some(fields) = object.as_object_mut() else {
            return;
        };
        if rest.is_empty() {
            fields.remove(name);
        } else if let Some(child) = fields.get_mut(name) {
            remove_at(child, rest);
            if child.as_object().is_some_and(Map::is_empty) || child.as_array().is_some_and(Vec::is_empty) {
                fields.remove(name);
            }
        }
    } else if let (Ok(key), Some(items)) = (serde_json::from_str::<Value>(name), object.as_array_mut()) {
        let Some((name, id)) = key.as_object().and_then(|key| key.iter().next()) else {
            return;
        };
        items.retain_mut(|item| {
            if item.get(name) != Some(id) {
                return true;
            }
            if rest.is_empty() {
                return false;
            }
            remove_at(item, rest);
            item.as_object().is_none_or(|item| item.len() > 1 || !item.contains_key(name))
        });
    }
}

/// `spec.template.spec.containers[name="app"].image`, for messages.
pub fn readable(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        match part.split_at_checked(2) {
            Some(("k:", key)) => {
                let key: Value = serde_json::from_str(key).unwrap_or_default();
                for (name, id) in key.as_object().into_iter().flatten() {
                    text.push_str(&format!("[{name}={id}]"));
                }
            }
            Some((_, name)) => text.push_str(&format!(".{name}")),
            None => {}
        }
    }
    text
}

fn encode(set: &FieldSet) -> Value {
    let mut root = Map::new();
    for path in set {
        let mut at = &mut root;
        for part in path {
            let child = at.entry(part.clone()).or_insert_with(|| json!({}));
            match child {
                Value::Object(fields) => at = fields,
                _ => break,
            }
        }
    }
    Value::Object(root)
}

fn decode(fields: &Value) -> FieldSet {
    fn walk(at: &Value, path: &mut Vec<String>, set: &mut FieldSet) {
        match at.as_object() {
            Some(fields) if !fields.is_empty() => {
                for (part, child) in fields {
                    if part == "." {
                        continue;
                    }
                    path.push(part.clone());
                    walk(child, path, set);
                    path.pop();
                }
            }
            _ => {
                set.insert(path.clone());
            }
        }
    }
    let mut set = FieldSet::new();
    walk(fields, &mut Vec::new(), &mut set);
    set.retain(|path| !path.is_empty());
    set
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ownership {
    /// Name of the writer.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// `status` when written through it, else empty.
    pub subresource: String,
    /// When it last changed something.
    pub time: String,
    /// What it owns.
    pub fields: FieldSet,
}

/// Reads `metadata.managedFields`.
pub fn owners(object: &Value) -> Vec<Ownership> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| Ownership {
            manager: text(&entry["manager"]),
            operation: text(&entry["operation"]),
            subresource: text(&entry["subresource"]),
            time: text(&entry["time"]),
            fields: decode(&entry["fieldsV1"]),
        })
        .collect()
}

fn write_owners(object: &mut Value, owners: &[Ownership]) {
    let api_version = object["apiVersion"].clone();
    let entries: Vec<Value> = owners
        .iter()
        .filter(|owner| !owner.fields.is_empty())
        .map(|owner| {
            let mut entry = json!({
                "manager": owner.manager, "operation": owner.operation, "apiVersion": api_version,
                "time": owner.time, "fieldsType": "FieldsV1", "fieldsV1": encode(&owner.fields),
            });
            if !owner.subresource.is_empty() {
                entry["subresource"] = json!(owner.subresource);
            }
            entry
        })
        .collect();
    object["metadata"]["managedFields"] = Value::Array(entries);
}

/// Who writes, how, and through which path.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// Name of the field manager.
    pub manager: &'a str,
    /// Whether the status subresource is written.
    pub status: bool,
    /// Whether this is a server-side apply.
    pub apply: bool,
}

/// Records who owns what after a write that turned `before` into `after`.
///
/// An update owns the leaves it changed and takes them from others; an apply owns what it applied
/// (`applied`) and shares leaves whose value it did not change.
pub fn record(
    before: Option<&Value>,
    after: &mut Value,
    writer: Writer<'_>,
    applied: Option<&FieldSet>,
    now: Timestamp,
) {
    let mut entries = before.map(owners).unwrap_or_default();
    let present = leaves(after);
    let changed: FieldSet = present
        .iter()
        .filter(|path| before.is_none_or(|before| value_at(before, path) != value_at(after, path)))
        .cloned()
        .collect();
    let operation = if writer.apply { "Apply" } else { "Update" };
    let subresource = if writer.status { "status" } else { "" };
    let mine = |entry: &Ownership| {
        entry.manager == writer.manager && entry.operation == operation && entry.subresource == subresource
    };
    for entry in &mut entries {
        if !mine(entry) {
            entry.fields.retain(|path| !changed.contains(path));
        }
        entry.fields.retain(|path| present.contains(path));
    }
    let at = match entries.iter().position(mine) {
        Some(at) => at,
        None => {
            entries.push(Ownership {
                manager: writer.manager.to_owned(),
                operation: operation.to_owned(),
                subresource: subresource.to_owned(),
                time: String::new(),
                fields: FieldSet::new(),
            });
            entries.len() - 1
        }
    };
    let before_fields = entries[at].fields.clone();
    let took = !changed.is_empty();
    match applied {
        Some(applied) => entries[at].fields = applied.intersection(&present).cloned().collect(),
        None => entries[at].fields.extend(changed),
    }
    if took || entries[at].fields != before_fields || entries[at].time.is_empty() {
        entries[at].time = seconds(now);
    }
    write_owners(after, &entries);
}

/// A timestamp as Kubernetes prints it: whole seconds, `Z`.
pub fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    #[test]
    fn the_last_writer_of_a_field_owns_it() {
        let writer = |manager| Writer { manager, status: false, apply: false };
        let mut first =
            json!({ "apiVersion": "v1", "spec": { "containers": [{ "name": "app", "image": "a:1" }], "replicas": 1 } });
        record(None, &mut first, writer("flux"), None, now());
        let mut second = first.clone();
        second["spec"]["replicas"] = json!(3);
        record(Some(&first), &mut second, writer("hpa"), None, now());
        let owners = owners(&second);
        let of = |manager: &str| owners.iter().find(|o| o.manager == manager).unwrap().fields.clone();
        assert!(of("hpa").contains(&vec!["f:spec".to_owned(), "f:replicas".to_owned()]));
        assert!(!of("flux").contains(&vec!["f:spec".to_owned(), "f:replicas".to_owned()]));
        assert!(of("flux").iter().any(|path| readable(path) == ".spec.containers[name=\"app\"].image"));
    }

    #[test]
    fn a_write_that_changes_only_values_is_dated_and_one_that_changes_nothing_is_not() {
        let writer = Writer { manager: "flux", status: false, apply: true };
        let applied = |level: &str, before: Option<&Value>, at: i64| {
            let mut after = json!({ "apiVersion": "v1", "data": { "LEVEL": level } });
            let set = leaves(&after);
            record(before, &mut after, writer, Some(&set), Timestamp::from_second(at).unwrap());
            after
        };
        let first = applied("a", None, 0);
        let same = applied("a", Some(&first), 60);
        let other = applied("b", Some(&same), 120);
        let times = [&first, &same, &other].map(|object| owners(object)[0].time.clone());
        assert_eq!(times, ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1970-01-01T00:02:00Z"]);
    }

    #[test]
    fn a_path_can_be_removed_with_its_empty_parents() {
        let mut object = json!({ "spec": { "a": { "b": 1 }, "containers": [{ "name": "x", "image": "i" }] } });
        remove_at(&mut object, &["f:spec".into(), "f:a".into(), "f:b".into()]);
        remove_at(
            &mut object,
            &["f:spec".into(), "f:containers".into(), "k:{\"name\":\"x\"}".into(), "f:image".into()],
        );
        assert_eq!(object, json!({}));
    }
}

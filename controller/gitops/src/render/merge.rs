//! Strategic merge: mappings are laid over each other, and lists whose items have a key of their own item by item.
//!
//! The keys are those that Kubernetes declares for its own kinds (`x-kubernetes-patch-merge-key` in its OpenAPI); lists of any
//! other kind are replaced whole, as Kustomize does for kinds whose schema it does not know.
//!
//! <https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/#notes-on-the-strategic-merge-patch>

use serde_json::{Map, Value};

/// Groups of Kubernetes' own kinds, besides those that end in `.k8s.io`.
const OWN_GROUPS: [&str; 5] = ["", "apps", "batch", "autoscaling", "policy"];

/// Lays a part over an object.
///
/// # Errors
/// The directive in the part that is not followed, such as `$patch`.
pub fn lay_over(object: &mut Value, part: &Value) -> Result<(), String> {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let own = OWN_GROUPS.contains(&group) || group.ends_with(".k8s.io");
    over(object, part, &Place { own, of_service: object["kind"] == "Service" && group.is_empty() })
}

/// What the keys of lists depend on.
struct Place {
    own: bool,
    of_service: bool,
}

impl Place {
    /// Keys by which items of a list are the same item; `None`: the list is replaced whole. Empty: items are plain texts.
    fn keys(&self, list: &str) -> Option<&'static [&'static str]> {
        if !self.own {
            return None;
        }
        match list {
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "env"
            | "volumes"
            | "imagePullSecrets"
            | "resourceClaims"
            | "schedulingGates"
            | "secrets" => Some(&["name"]),
            "volumeMounts" => Some(&["mountPath"]),
            "volumeDevices" => Some(&["devicePath"]),
            "ports" if self.of_service => Some(&["port", "protocol"]),
            "ports" => Some(&["containerPort", "protocol"]),
            "hostAliases" => Some(&["ip"]),
            "topologySpreadConstraints" => Some(&["topologyKey", "whenUnsatisfiable"]),
            "ownerReferences" => Some(&["uid"]),
            "conditions" => Some(&["type"]),
            "finalizers" => Some(&[]),
            _ => None,
        }
    }
}

fn over(below: &mut Value, part: &Value, place: &Place) -> Result<(), String> {
    let Value::Object(part) = part else {
        below.clone_from(part);
        return Ok(());
    };
    if !below.is_object() {
        *below = Value::Object(Map::new());
    }
    let Some(fields) = below.as_object_mut() else { return Ok(()) };
    for (key, value) in part {
        if key.starts_with('$') {
            return Err(key.clone());
        }
        match value {
            Value::Null => {
                fields.remove(key);
            }
            Value::Array(items) => match (place.keys(key), fields.get(key)) {
                (Some(keys), Some(Value::Array(old))) => {
                    let merged = items_over(old, items, keys, place)?;
                    fields.insert(key.clone(), merged.into());
                }
                _ => {
                    let taken = items.iter().map(|item| without_nulls(item, place)).collect::<Result<Vec<_>, _>>()?;
                    fields.insert(key.clone(), taken.into());
                }
            },
            Value::Object(_) => over(fields.entry(key.clone()).or_insert(Value::Null), value, place)?,
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                fields.insert(key.clone(), value.clone());
            }
        }
    }
    Ok(())
}

/// Each item of the part laid over the one with its keys. As in Kustomize, the part's items come first, in its order; where items
/// are told apart by several keys only the new ones do.
fn items_over(old: &[Value], part: &[Value], keys: &[&str], place: &Place) -> Result<Vec<Value>, String> {
    let same = |one: &Value, other: &Value| match keys {
        [] => one == other,
        [first, rest @ ..] => {
            let either = |key: &&str| one[*key] == other[*key] || one[*key].is_null() || other[*key].is_null();
            !one[*first].is_null() && one[*first] == other[*first] && rest.iter().all(either)
        }
    };
    let laid_over = |below: Option<&Value>, item: &Value| {
        let mut next = below.cloned().unwrap_or(Value::Null);
        over(&mut next, item, place).map(|()| next)
    };
    let used = |key: &&str| old.iter().chain(part).any(|item| !item[*key].is_null());
    let keeps_order = keys.iter().copied().filter(|key| used(key)).count() > 1;
    let mut merged: Vec<Value> = Vec::new();
    for item in part {
        let below = old.iter().find(|one| same(one, item));
        if below.is_none() || !keeps_order {
            merged.push(laid_over(below, item)?);
        }
    }
    for one in old {
        match part.iter().find(|item| same(one, item)) {
            None => merged.push(one.clone()),
            Some(item) if keeps_order => merged.push(laid_over(Some(one), item)?),
            Some(_) => {}
        }
    }
    Ok(merged)
}

/// An item that is new, as it will stand: what it says to remove was never there.
fn without_nulls(item: &Value, place: &Place) -> Result<Value, String> {
    let mut taken = Value::Null;
    over(&mut taken, item, place)?;
    Ok(taken)
}

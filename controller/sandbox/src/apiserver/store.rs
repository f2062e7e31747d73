//! Objects, their history and the rules of every write.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::builtin;
use super::fields::{self, Writer};
use super::patch::Patch;
use super::resource::{Registry, Resource};
use super::selector::Selector;
use super::status::{FieldError, Refusal};
use crate::clock::SandboxClock;

/// How many changes per resource a watch may look back; older resource versions answer 410.
///
/// Enough for minutes of pod churn, little enough that a long demo stays small.
const JOURNAL: usize = 400;

/// All objects of the sandbox cluster; cloning gives the same store.
#[derive(Clone, Debug)]
pub struct Store {
    state: Arc<Mutex<State>>,
    clock: SandboxClock,
    version: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    registry: Registry,
    objects: BTreeMap<String, BTreeMap<Name, Arc<Value>>>,
    journal: BTreeMap<String, Journal>,
    born: u64,
}

type Name = (String, String);

#[derive(Debug, Default)]
struct Journal {
    changes: VecDeque<Change>,
    /// The version of the newest change that was forgotten.
    forgotten: u64,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It came to be.
    Added,
    /// It was written.
    Modified,
    /// It is gone.
    Deleted,
}

/// One step in the life of one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// Resource version of the change.
    pub version: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// The object after it (or as it was last).
    pub object: Arc<Value>,
    /// The object before it.
    pub before: Option<Arc<Value>>,
}

/// How a write is made.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    /// Field manager.
    pub manager: &'a str,
    /// Through `/status`.
    pub status: bool,
    /// Checked, answered and forgotten.
    pub dry_run: bool,
}

impl<'a> How<'a> {
    /// An ordinary write by this manager.
    pub fn by(manager: &'a str) -> Self {
        Self { manager, status: false, dry_run: false }
    }

    /// A write of the status by this manager.
    pub fn status_by(manager: &'a str) -> Self {
        Self { manager, status: true, dry_run: false }
    }
}

impl Store {
    /// An empty cluster, apart from its own namespaces.
    pub fn new(clock: SandboxClock) -> Self {
        Self { state: Arc::default(), clock, version: Arc::new(watch::Sender::new(0)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clock that stamps objects.
    pub fn clock(&self) -> &SandboxClock {
        &self.clock
    }

    /// What is served now.
    pub fn registry(&self) -> Registry {
        self.lock().registry.clone()
    }

    /// The resource of that key, if it is served.
    pub fn resource(&self, key: &str) -> Result<Arc<Resource>, Refusal> {
        self.lock().registry.get(key).ok_or_else(Refusal::no_such_resource)
    }

    /// Version of the last change of anything.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Wakes at every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// One object.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.lock().objects.get(resource)?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Objects of a resource in one namespace or, without it, everywhere.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        self.list_selected(resource, namespace, &Selector::default()).1
    }

    /// The selected objects, and the version at which that was the truth.
    pub fn list_selected(
        &self,
        resource: &str,
        namespace: Option<&str>,
        selector: &Selector,
    ) -> (u64, Vec<Arc<Value>>) {
        let state = self.lock();
        let objects = state.objects.get(resource).into_iter().flatten();
        let selected = objects
            .filter(|((of, _), object)| namespace.is_none_or(|namespace| namespace == of) && selector.matches(object))
            .map(|(_, object)| object.clone())
            .collect();
        (state.version, selected)
    }

    /// Changes of a resource after `since`, or `Expired` when they are forgotten.
    pub fn changes_since(&self, resource: &str, since: u64) -> Result<(u64, Vec<Change>), Refusal> {
        let state = self.lock();
        let Some(journal) = state.journal.get(resource) else {
            return Ok((state.version, Vec::new()));
        };
        if since < journal.forgotten {
            return Err(Refusal::expired(since, journal.forgotten));
        }
        let changes = journal.changes.iter().filter(|change| change.version > since).cloned().collect();
        Ok((state.version, changes))
    }

    /// Creates an object.
    pub fn create(&self, resource: &str, object: Value, how: How<'_>) -> Result<Arc<Value>, Refusal> {
        self.create_claiming(resource, object, how, None)
    }

    fn create_claiming(
        &self,
        resource: &str,
        mut object: Value,
        how: How<'_>,
        claims: Option<&fields::FieldSet>,
    ) -> Result<Arc<Value>, Refusal> {
        let created = {
            let mut state = self.lock();
            let resource = state.registry.get(resource).ok_or_else(Refusal::no_such_resource)?;
            let now = self.clock.now();
            identify(&mut state, &resource, &mut object)?;
            let key = name_of(&object);
            if state.objects.get(&resource.key()).is_some_and(|objects| objects.contains_key(&key)) {
                return Err(Refusal::already_exists(&resource.key(), &key.1));
            }
            if resource.namespaced && !state.namespace_exists(&key.0) {
                return Err(Refusal::not_found("namespaces", &key.0));
            }
            if resource.status
                && resource.schema.is_some()
                && let Some(fields) = object.as_object_mut()
            {
                fields.remove("status");
            }
            admit(&resource, &mut object)?;
            let metadata = &mut object["metadata"];
            state.born += 1;
            metadata["uid"] = json!(uid(state.born));
            metadata["creationTimestamp"] = json!(fields::seconds(now));
            metadata["generation"] = json!(1);
            let writer = Writer { manager: how.manager, status: how.status, apply: claims.is_some() };
            fields::record(None, &mut object, writer, claims, now);
            if how.dry_run {
                object["metadata"]["resourceVersion"] = json!(state.version.to_string());
                return Ok(Arc::new(object));
            }
            state.commit(&resource, ChangeKind::Added, object, None)
        };
        self.announce();
        Ok(created)
    }

    /// Replaces an object (or, through `how.status`, its status); 409 when it changed since it was read.
    pub fn replace(&self, resource: &str, object: Value, how: How<'_>) -> Result<Arc<Value>, Refusal> {
        let (namespace, name) = name_of(&object);
        self.write(resource, &namespace, &name, how, None, |_| Ok(object.clone()))
    }

    /// Changes what is there; the closure may be called for one consistent state only.
    pub fn modify(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        how: How<'_>,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Value>, Refusal> {
        self.write(resource, namespace, name, how, None, |live| {
            let mut object = live.clone();
            change(&mut object);
            Ok(object)
        })
    }

    /// Patches an object; a server-side apply creates it when it is missing.
    pub fn patch(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        patch: &Patch,
        how: How<'_>,
    ) -> Result<(bool, Arc<Value>), Refusal> {
        let claims = patch.claims();
        if let Patch::Apply { object, .. } = patch
            && self.get(resource, namespace, name).is_none()
            && !how.status
        {
            let mut object = object.clone();
            object["metadata"]["name"] = json!(name);
            if !namespace.is_empty() {
                object["metadata"]["namespace"] = json!(namespace);
            }
            return self.create_claiming(resource, object, how, claims.as_ref()).map(|object| (true, object));
        }
        self.write(resource, namespace, name, how, claims.as_ref(), |live| patch.applied(live, how.manager))
            .map(|object| (false, object))
    }

    fn write(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        how: How<'_>,
        claims: Option<&fields::FieldSet>,
        change: impl FnOnce(&Value) -> Result<Value, Refusal>,
    ) -> Result<Arc<Value>, Refusal> {
        let written = {
            let mut state = self.lock();
            let resource = state.registry.get(resource).ok_or_else(Refusal::no_such_resource)?;
            let key = (namespace.to_owned(), name.to_owned());
            let live = state
                .objects
                .get(&resource.key())
                .and_then(|objects| objects.get(&key))
                .cloned()
                .ok_or_else(|| Refusal::not_found(&resource.key(), name))?;
            let mut object = change(&live)?;
            check_identity(&resource, &live, &object)?;
            keep_server_fields(&resource, &live, &mut object, how.status);
            admit(&resource, &mut object)?;
            builtin::refuse_immutable(&resource, &live, &object)?;
            let spec_changed = differs_beyond(&live, &object, &["metadata", "status"]);
            let generation = live["metadata"]["generation"].as_i64().unwrap_or(1);
            object["metadata"]["generation"] = json!(generation + i64::from(spec_changed));
            object["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            // Writing what is there already is no write; only an apply may still claim fields by it.
            if claims.is_none() && object == *live {
                return Ok(live);
            }
            let writer = Writer { manager: how.manager, status: how.status, apply: claims.is_some() };
            fields::record(Some(&live), &mut object, writer, claims, self.clock.now());
            if object == *live || how.dry_run {
                return Ok(Arc::new(object));
            }
            let gone = object["metadata"]["deletionTimestamp"].is_string() && finalizers(&object) == 0;
            if gone {
                state.remove(&resource, &key)
            } else {
                state.commit(&resource, ChangeKind::Modified, object, Some(live))
            }
        };
        self.announce();
        Ok(written)
    }

    /// Deletes an object: at once, or marked while finalizers hold it. Dependents go with it unless orphaned.
    pub fn delete(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        preconditions: &Value,
        orphan: bool,
        dry_run: bool,
    ) -> Result<Arc<Value>, Refusal> {
        let deleted = {
            let mut state = self.lock();
            let resource = state.registry.get(resource).ok_or_else(Refusal::no_such_resource)?;
            let key = (namespace.to_owned(), name.to_owned());
            let live = state
                .objects
                .get(&resource.key())
                .and_then(|objects| objects.get(&key))
                .cloned()
                .ok_or_else(|| Refusal::not_found(&resource.key(), name))?;
            for field in ["uid", "resourceVersion"] {
                let wanted = &preconditions[field];
                if wanted.is_string() && *wanted != live["metadata"][field] {
                    let why = format!("the {field} in the precondition ({wanted}) does not match the object's");
                    return Err(Refusal::conflict(&resource.key(), name, &why));
                }
            }
            if dry_run {
                return Ok(live);
            }
            if orphan {
                state.orphan(live["metadata"]["uid"].as_str().unwrap_or_default());
            }
            if finalizers(&live) == 0 {
                state.remove(&resource, &key)
            } else if live["metadata"]["deletionTimestamp"].is_string() {
                live
            } else {
                let mut object = (*live).clone();
                object["metadata"]["deletionTimestamp"] = json!(fields::seconds(self.clock.now()));
                object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
                let generation = live["metadata"]["generation"].as_i64().unwrap_or(1);
                object["metadata"]["generation"] = json!(generation + 1);
                state.commit(&resource, ChangeKind::Modified, object, Some(live))
            }
        };
        self.announce();
        Ok(deleted)
    }

    fn announce(&self) {
        let version = self.version();
        self.version.send_replace(version);
    }
}

impl State {
    fn namespace_exists(&self, name: &str) -> bool {
        self.objects.get("namespaces").is_some_and(|all| all.contains_key(&(String::new(), name.to_owned())))
    }

    fn commit(
        &mut self,
        resource: &Resource,
        kind: ChangeKind,
        mut object: Value,
        before: Option<Arc<Value>>,
    ) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if resource.plural == "customresourcedefinitions" {
            builtin::establish(&mut object);
            self.registry.register(&object);
        }
        let object = Arc::new(object);
        self.objects.entry(resource.key()).or_default().insert(name_of(&object), object.clone());
        self.note(&resource.key(), Change { version: self.version, kind, object: object.clone(), before });
        object
    }

    fn note(&mut self, key: &str, change: Change) {
        let journal = self.journal.entry(key.to_owned()).or_default();
        journal.changes.push_back(change);
        while journal.changes.len() > JOURNAL {
            if let Some(old) = journal.changes.pop_front() {
                journal.forgotten = old.version;
            }
        }
    }

    fn remove(&mut self, resource: &Resource, key: &Name) -> Arc<Value> {
        let Some(live) = self.objects.get_mut(&resource.key()).and_then(|objects| objects.remove(key)) else {
            return Arc::new(Value::Null);
        };
        self.version += 1;
        let mut object = (*live).clone();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(object);
        let change =
            Change { version: self.version, kind: ChangeKind::Deleted, object: object.clone(), before: Some(live) };
        self.note(&resource.key(), change);
        if resource.plural == "customresourcedefinitions" {
            self.registry.unregister(&object);
        }
        if let Some(uid) = object["metadata"]["uid"].as_str() {
            self.collect_dependents(uid);
        }
        if resource.key() == "namespaces" {
            self.empty_namespace(&key.1);
        }
        object
    }

    /// Deletes what only this owner kept; finalizers are honoured by marking.
    fn collect_dependents(&mut self, owner: &str) {
        let owned = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| owners.iter().any(|reference| reference["uid"] == owner) && owners.len() == 1)
        };
        self.delete_where(|_, object| owned(object));
    }

    fn empty_namespace(&mut self, namespace: &str) {
        self.delete_where(|key, _| key.0 == namespace);
    }

    fn delete_where(&mut self, chosen: impl Fn(&Name, &Value) -> bool) {
        let found: Vec<(String, Name)> = self
            .objects
            .iter()
            .flat_map(|(resource, objects)| {
                let chosen = &chosen;
                objects
                    .iter()
                    .filter(move |(key, object)| chosen(key, object))
                    .map(|(key, _)| (resource.clone(), key.clone()))
            })
            .collect();
        for (resource, key) in found {
            let Some(resource) = self.registry.get(&resource) else {
                continue;
            };
            let Some(live) = self.objects.get(&resource.key()).and_then(|all| all.get(&key)).cloned() else {
                continue;
            };
            if finalizers(&live) == 0 {
                self.remove(&resource, &key);
            } else if !live["metadata"]["deletionTimestamp"].is_string() {
                let mut object = (*live).clone();
                object["metadata"]["deletionTimestamp"] = live["metadata"]["creationTimestamp"].clone();
                self.commit(&resource, ChangeKind::Modified, object, Some(live));
            }
        }
    }

    fn orphan(&mut self, owner: &str) {
        for objects in self.objects.values_mut() {
            for object in objects.values_mut() {
                let references = object["metadata"]["ownerReferences"].as_array();
                if references.is_some_and(|all| all.iter().any(|reference| reference["uid"] == owner)) {
                    let mut freed = (**object).clone();
                    if let Some(references) = freed["metadata"]["ownerReferences"].as_array_mut() {
                        references.retain(|reference| reference["uid"] != owner);
                    }
                    *object = Arc::new(freed);
                }
            }
        }
    }
}

/// Namespace and name of an object.
pub fn name_of(object: &Value) -> Name {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn finalizers(object: &Value) -> usize {
    object["metadata"]["finalizers"].as_array().map_or(0, Vec::len)
}

fn uid(number: u64) -> String {
    use sha2::{Digest, Sha256};
    let hash = hex::encode(Sha256::digest(number.to_be_bytes()));
    format!("{}-{}-4{}-8{}-{}", &hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32])
}

fn identify(state: &mut State, resource: &Resource, object: &mut Value) -> Result<(), Refusal> {
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

fn invalid(resource: &Resource, name: &str, field: &str, reason: &'static str, message: &str) -> Refusal {
    Refusal::invalid(
        &resource.kind,
        &resource.group,
        name,
        vec![FieldError { field: field.into(), reason, message: message.into() }],
    )
}

fn admit(resource: &Resource, object: &mut Value) -> Result<(), Refusal> {
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

fn check_identity(resource: &Resource, live: &Value, object: &Value) -> Result<(), Refusal> {
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

fn keep_server_fields(resource: &Resource, live: &Value, object: &mut Value, status: bool) {
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

fn differs_beyond(one: &Value, other: &Value, ignored: &[&str]) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else {
        return one != other;
    };
    let keys = one.keys().chain(other.keys()).filter(|key| !ignored.contains(&key.as_str()));
    keys.into_iter().any(|key| one.get(key) != other.get(key))
}

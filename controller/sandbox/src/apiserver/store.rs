//! Objects, their history and the rules of every write.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::admission::finalizers;
use super::builtin;
use super::resource::{Registry, Resource};
use super::selector::Selector;
use super::status::Refusal;
use crate::clock::SandboxClock;

/// How many changes per resource a watch may look back; older resource versions answer 410.
///
/// Who falls further behind lists anew, as on a real cluster. An incident in a flood is 200 KiB in memory: a few
/// hundred versions of it would be half of what a demo may hold.
const JOURNAL: usize = 120;

/// All objects of the sandbox cluster; cloning gives the same store.
#[derive(Clone, Debug)]
pub struct Store {
    state: Arc<Mutex<State>>,
    clock: SandboxClock,
    version: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) version: u64,
    pub(super) registry: Registry,
    pub(super) objects: BTreeMap<String, BTreeMap<Name, Arc<Value>>>,
    journal: BTreeMap<String, Journal>,
    /// How many objects were ever made.
    pub(super) born: u64,
}

pub(super) type Name = (String, String);

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

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
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

    pub(super) fn announce(&self) {
        let version = self.version();
        self.version.send_replace(version);
    }
}

impl State {
    pub(super) fn namespace_exists(&self, name: &str) -> bool {
        self.objects.get("namespaces").is_some_and(|all| all.contains_key(&(String::new(), name.to_owned())))
    }

    /// An object as it is now.
    pub(super) fn live(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Arc<Value>, Refusal> {
        let key = (namespace.to_owned(), name.to_owned());
        let found = self.objects.get(&resource.key()).and_then(|objects| objects.get(&key)).cloned();
        found.ok_or_else(|| Refusal::not_found(&resource.key(), name))
    }

    pub(super) fn commit(
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

    pub(super) fn remove(&mut self, resource: &Resource, key: &Name) -> Arc<Value> {
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

    pub(super) fn orphan(&mut self, owner: &str) {
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

//! Stand-ins for the controllers of a cluster: Flux, Deployments, the scheduler, the kubelet.
//!
//! Each is a function of the store and the time, called in turn; none waits. They write through the same store as
//! clients do, under the field managers and in the forms of the real ones.

mod deployment;
mod event;
mod flux;
mod kubelet;
mod replicaset;
mod scheduler;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::apiserver::store::Store;
use crate::git::Repo;
use crate::model::seen::Seen;
use crate::model::{Container, Model, Step};
pub use event::{Occasion, record};

/// The stand-ins of one cluster.
#[derive(Debug)]
pub struct Cluster {
    store: Store,
    /// Bare repositories by clone URL, which Flux pulls from.
    repositories: BTreeMap<String, Repo>,
    flux: flux::Flux,
    kubelet: kubelet::Kubelet,
    looked_at: u64,
    swept: Timestamp,
}

impl Cluster {
    /// Stand-ins for this store; Flux knows these repositories by their clone URL.
    pub fn new(store: Store, repositories: BTreeMap<String, Repo>) -> Self {
        let swept = store.clock().now();
        Self {
            store,
            repositories,
            flux: flux::Flux::default(),
            kubelet: kubelet::Kubelet::default(),
            looked_at: 0,
            swept,
        }
    }

    /// Lets the cluster and the application run until `now`; gives what the application did.
    pub fn step(&mut self, now: Timestamp, model: &mut Model) -> Step {
        self.flux.step(&self.store, &self.repositories, now);
        // Nothing written since the last look: nothing to roll out or to place.
        if self.store.version() != self.looked_at {
            self.looked_at = self.store.version();
            deployment::step(&self.store, now);
            replicaset::step(&self.store, now);
            scheduler::step(&self.store, now);
        }
        let step = model.step(now, self.seen());
        self.kubelet.step(&self.store, now, &step.containers);
        if now.duration_since(self.swept).as_mins() >= 5 {
            event::forget_old(&self.store, now);
            self.swept = now;
        }
        step
    }

    fn seen(&self) -> Seen {
        let pods = self.store.list("pods", None);
        let maps = self.store.list("configmaps", None);
        Seen::read(pods.iter().map(|pod| &**pod), maps.iter().map(|map| &**map))
    }
}

/// What a container's status should say, for callers outside.
pub type Wanted = BTreeMap<String, Container>;

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether this pod answers requests.
fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") == Some("True")
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)?["status"].as_str()
}

/// Puts a condition in its place; its transition time moves only when its status does.
fn set_condition(
    status: &mut Value,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
    extra: Value,
) {
    let at = crate::apiserver::fields::seconds(now);
    if !status["conditions"].is_array() {
        status["conditions"] = serde_json::json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else {
        return;
    };
    let position = conditions.iter().position(|condition| condition["type"] == kind);
    let before = position.map(|position| conditions[position].clone()).unwrap_or_default();
    let mut condition = serde_json::json!({ "type": kind, "status": value, "reason": reason, "message": message });
    condition["lastTransitionTime"] =
        if before["status"] == value { before["lastTransitionTime"].clone() } else { at.into() };
    for (name, value) in extra.as_object().into_iter().flatten() {
        condition[name] = value.clone();
    }
    match position {
        Some(position) => conditions[position] = condition,
        None => conditions.push(condition),
    }
}

fn owner_reference(owner: &Value) -> Value {
    serde_json::json!([{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    }])
}

/// Objects by the uid of the controller that owns them.
fn by_controller(objects: Vec<Arc<Value>>) -> BTreeMap<String, Vec<Arc<Value>>> {
    let mut owned: BTreeMap<String, Vec<Arc<Value>>> = BTreeMap::new();
    for object in objects {
        let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let controller = owners.filter(|owner| owner["controller"] == true).find_map(|owner| owner["uid"].as_str());
        if let Some(uid) = controller.map(str::to_owned) {
            owned.entry(uid).or_default().push(object);
        }
    }
    owned
}

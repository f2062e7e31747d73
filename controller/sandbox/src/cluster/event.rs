//! Kubernetes events, counted up instead of repeated, and forgotten after an hour.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text;
use crate::apiserver::fields::seconds;
use crate::apiserver::store::{How, Store};

/// How long the real server keeps events.
const KEPT_MINUTES: i64 = 60;

/// One thing that happened to an object.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    /// `Normal` or `Warning`.
    pub kind: &'a str,
    /// CamelCase word.
    pub reason: &'a str,
    /// Sentence.
    pub message: &'a str,
    /// Who says it, such as `kubelet`.
    pub component: &'a str,
    /// Part of the object, such as `spec.containers{app}`.
    pub field: Option<&'a str>,
}

/// Records an event about an object; the same one again raises its count.
pub fn record(store: &Store, about: &Value, occasion: Occasion<'_>, now: Timestamp) {
    use sha2::{Digest, Sha256};
    let uid = text(about, "/metadata/uid");
    let identity = format!("{uid}/{}/{}/{}", occasion.reason, occasion.component, occasion.message);
    let digest = hex::encode(Sha256::digest(identity));
    let object = text(about, "/metadata/name");
    let name = format!("{object}.{}", &digest[..16]);
    let namespace = match text(about, "/metadata/namespace") {
        "" => "default",
        namespace => namespace,
    };
    let how = How::by(occasion.component);
    let at = seconds(now);
    let again = store.modify("events", namespace, &name, how, |event| {
        event["count"] = json!(event["count"].as_i64().unwrap_or(1) + 1);
        event["lastTimestamp"] = json!(at);
    });
    if again.is_ok() {
        return;
    }
    let mut involved = json!({
        "apiVersion": about["apiVersion"], "kind": about["kind"], "name": object, "uid": uid,
        "resourceVersion": about["metadata"]["resourceVersion"],
    });
    if !text(about, "/metadata/namespace").is_empty() {
        involved["namespace"] = json!(namespace);
    }
    if let Some(field) = occasion.field {
        involved["fieldPath"] = json!(field);
    }
    let event = json!({
        "metadata": { "name": name, "namespace": namespace }, "involvedObject": involved,
        "type": occasion.kind, "reason": occasion.reason, "message": occasion.message, "count": 1,
        "firstTimestamp": at, "lastTimestamp": at, "eventTime": null,
        "source": { "component": occasion.component }, "reportingComponent": occasion.component, "reportingInstance": "",
    });
    if let Err(refusal) = store.create("events", event, how) {
        tracing::debug!(reason = occasion.reason, message = %refusal.message, "event not recorded");
    }
}

/// Deletes events that are older than the real server keeps them.
pub fn forget_old(store: &Store, now: Timestamp) {
    for event in store.list("events", None) {
        let last: Option<Timestamp> = event["lastTimestamp"].as_str().and_then(|at| at.parse().ok());
        if last.is_some_and(|last| now.duration_since(last).as_mins() > KEPT_MINUTES) {
            let (namespace, name) = crate::apiserver::store::name_of(&event);
            // Somebody else may have deleted it first.
            let _ = store.delete("events", &namespace, &name, &Value::Null, false, false);
        }
    }
}

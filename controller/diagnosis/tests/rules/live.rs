//! Objects, events and lines of a living cluster, with the times that the API server gives them.

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::Cause;
use amend_diagnosis::evidence::{Answer, LogLine, ObjectEvent, Observations};
use serde_json::{Value, json};

pub use crate::shop::*;

/// A Deployment as the API server prints it; its pods come with [`put`].
pub fn deployed(name: &str, spec: Value) -> Value {
    json!({
        "kind": "Deployment",
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "creationTimestamp": at(-900_000).to_string()},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec}
        },
        "status": {"replicas": 1, "readyReplicas": 1}
    })
}

/// One pod with the containers of `spec` and one status for each, ready or not since a second of the story.
pub fn lives(app: &str, revision: &str, created: i64, spec: &Value, statuses: Value, since: i64) -> Value {
    let mut made = pod(&format!("{app}-{revision}-x"), app, revision, created, json!({}));
    let ready = statuses.as_array().unwrap().iter().all(|status| status["ready"] == true);
    let condition = |kind: &str, status: bool, second: i64| json!({"type": kind, "status": if status { "True" } else { "False" }, "lastTransitionTime": at(second).to_string()});
    made["spec"] = spec.clone();
    made["spec"]["nodeName"] = json!("node-a");
    made["status"] = json!({
        "phase": "Running", "startTime": at(created).to_string(), "containerStatuses": statuses,
        "conditions": [
            condition("PodScheduled", true, created), condition("Initialized", true, created),
            condition("ContainersReady", ready, since), condition("Ready", ready, since)
        ]
    });
    made
}

pub fn up(name: &str) -> Value {
    json!({"name": name, "ready": true, "started": true, "restartCount": 0,
        "state": {"running": {"startedAt": at(0).to_string()}}})
}

pub fn down(name: &str) -> Value {
    json!({"name": name, "ready": false, "started": true, "restartCount": 0,
        "state": {"running": {"startedAt": at(3_560).to_string()}}})
}

/// A container that was killed after it had run for so many seconds.
pub fn dies(name: &str, restarts: i64, ran: i64) -> Value {
    json!({"name": name, "ready": false, "started": true, "restartCount": restarts,
        "state": {"running": {"startedAt": at(4_151).to_string()}},
        "lastState": {"terminated": {"reason": "Error", "exitCode": 137,
            "startedAt": at(4_150 - ran).to_string(), "finishedAt": at(4_150).to_string()}}})
}

/// Puts objects into the world in the place of those of the same kind and name; a pod replaces all pods of its app.
pub fn put(world: &mut Observations, objects_in: impl IntoIterator<Item = Value>) {
    for object in objects_in {
        if object["kind"] == "Pod" {
            set_pod(world, object);
            continue;
        }
        objects(world)
            .retain(|one| one["kind"] != object["kind"] || one["metadata"]["name"] != object["metadata"]["name"]);
        objects(world).push(object);
    }
}

pub fn service(name: &str, selector: Value, ports: Value) -> Value {
    json!({"kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.7.7", "selector": selector, "ports": ports}})
}

pub fn tell(world: &mut Observations, second: i64, object: &str, reason: &str, message: &str) {
    let event = ObjectEvent {
        at: at(second),
        object: object.into(),
        namespace: "shop".into(),
        reason: reason.into(),
        message: message.into(),
        count: 3,
    };
    if let Answer::Known(events) = &mut world.events {
        events.push(event);
    }
}

pub fn log(world: &mut Observations, second: i64, from: &str, body: &str) {
    let line = LogLine {
        at_ns: Some(u64::try_from(at(second).as_nanosecond()).unwrap()),
        source: format!("shop/{from}"),
        severity: Some("ERROR".into()),
        body: body.into(),
        trace_id: None,
        span_id: None,
        count: 1,
        taught: None,
    };
    if let Answer::Known(lines) = &mut world.logs {
        lines.push(line);
    }
}

/// What is said of one kind of cause, on whatever it is said.
pub fn of_kind(world: &Observations, kind: &str) -> Option<Cause> {
    diagnose(world).causes.into_iter().find(|cause| cause.kind == kind)
}

pub fn fault(world: &Observations, kind: &str) -> Option<String> {
    of_kind(world, kind).and_then(|cause| cause.measures.get("fault").cloned())
}

/// The strongest of what is said under a finer name.
pub fn with_fault(world: &Observations, fault: &str) -> Option<Cause> {
    diagnose(world).causes.into_iter().find(|cause| cause.measures.get("fault").is_some_and(|one| one == fault))
}

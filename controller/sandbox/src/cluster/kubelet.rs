//! The kubelet: writes into the status of pods what the model says of their containers, and tells it as events.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Occasion, record, set_condition, text};
use crate::apiserver::fields::seconds;
use crate::apiserver::store::{How, Store};
use crate::model::{Container, State};

const MANAGER: &str = "kubelet";

/// What was written last, so that only changes are written.
#[derive(Debug, Default)]
pub struct Kubelet {
    written: BTreeMap<String, Container>,
}

impl Kubelet {
    /// Brings the status of every pod in line.
    pub fn step(&mut self, store: &Store, now: Timestamp, wanted: &BTreeMap<String, Container>) {
        self.written.retain(|uid, _| wanted.contains_key(uid));
        for pod in store.list("pods", None) {
            let uid = text(&pod, "/metadata/uid");
            let Some(container) = wanted.get(uid) else {
                continue;
            };
            if text(&pod, "/spec/nodeName").is_empty() || self.written.get(uid) == Some(container) {
                continue;
            }
            let before = self.written.insert(uid.to_owned(), container.clone());
            tell(store, &pod, before.as_ref(), container, now);
            let (namespace, name) = (text(&pod, "/metadata/namespace"), text(&pod, "/metadata/name"));
            // A pod that was deleted meanwhile needs no status.
            let _ = store.modify("pods", namespace, name, How::status_by(MANAGER), |pod| write(pod, container, now));
        }
    }
}

fn write(pod: &mut Value, container: &Container, now: Timestamp) {
    let name = pod["spec"]["containers"][0]["name"].clone();
    let image = pod["spec"]["containers"][0]["image"].clone();
    let node = text(pod, "/spec/nodeName").to_owned();
    let running = matches!(container.state, State::Running { .. });
    let state = match &container.state {
        State::Running { since } => json!({ "running": { "startedAt": seconds(*since) } }),
        State::Waiting { reason, message } if message.is_empty() => json!({ "waiting": { "reason": reason } }),
        State::Waiting { reason, message } => json!({ "waiting": { "reason": reason, "message": message } }),
    };
    let ended = container.last.as_ref().map(|last| {
        json!({ "terminated": {
            "exitCode": last.exit_code, "reason": last.reason, "startedAt": seconds(last.started), "finishedAt": seconds(last.finished),
            "containerID": format!("containerd://{}", text(pod, "/metadata/uid").replace('-', "")),
        } })
    });
    let begun = running || container.last.is_some();
    let status = &mut pod["status"];
    status["phase"] = json!(if begun { "Running" } else { "Pending" });
    if status["startTime"].is_null() {
        status["startTime"] = json!(seconds(now));
        status["hostIP"] = json!("10.0.0.1");
        status["podIP"] = json!("10.1.0.1");
    }
    status["containerStatuses"] = json!([{
        "name": name, "image": image, "imageID": if begun { image.clone() } else { json!("") }, "ready": container.ready,
        "started": running, "restartCount": container.restarts, "state": state, "lastState": ended.unwrap_or_else(|| json!({})),
    }]);
    let ready = if container.ready { "True" } else { "False" };
    let (reason, message) = if container.ready {
        ("", String::new())
    } else {
        ("ContainersNotReady", format!("containers with unready status: [{}]", name.as_str().unwrap_or_default()))
    };
    set_condition(status, "Initialized", "True", "", "", now, json!({}));
    set_condition(status, "Ready", ready, reason, &message, now, json!({}));
    set_condition(status, "ContainersReady", ready, reason, &message, now, json!({}));
    tracing::trace!(%node, "pod status written");
}

fn tell(store: &Store, pod: &Value, before: Option<&Container>, after: &Container, now: Timestamp) {
    let name = pod["spec"]["containers"][0]["name"].as_str().unwrap_or_default();
    let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    let field = format!("spec.containers{{{name}}}");
    let say = |kind: &str, reason: &str, message: &str| {
        record(store, pod, Occasion { kind, reason, message, component: "kubelet", field: Some(&field) }, now);
    };
    let was = before.map(|container| &container.state);
    match &after.state {
        State::Running { .. } if was != Some(&after.state) => {
            if after.restarts == 0 {
                say("Normal", "Pulled", &format!("Container image \"{image}\" already present on machine"));
            }
            say("Normal", "Created", &format!("Created container: {name}"));
            say("Normal", "Started", &format!("Started container {name}"));
        }
        State::Waiting { reason: "CrashLoopBackOff", .. } if before.is_none_or(|before| before.last != after.last) => {
            let pod = text(pod, "/metadata/name");
            say("Warning", "BackOff", &format!("Back-off restarting failed container {name} in pod {pod}"));
        }
        State::Waiting { reason: "ImagePullBackOff", message } if was != Some(&after.state) => {
            say("Warning", "Failed", &format!("Failed to pull image \"{image}\": {message}"));
            say("Warning", "Failed", "Error: ImagePullBackOff");
            say("Normal", "BackOff", &format!("Back-off pulling image \"{image}\""));
        }
        State::Waiting { reason: "CreateContainerConfigError", message } if was != Some(&after.state) => {
            say("Warning", "Failed", &format!("Error: {message}"));
        }
        State::Running { .. } | State::Waiting { .. } => {}
    }
}

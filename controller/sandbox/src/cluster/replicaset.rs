//! The ReplicaSet controller: as many pods as asked, and what became of them.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Occasion, by_controller, is_ready, number, owner_reference, record, text};
use crate::apiserver::store::{How, Store};

const MANAGER: &str = "kube-controller-manager";

/// Lets every ReplicaSet take its next step.
pub fn step(store: &Store, now: Timestamp) {
    let mut pods = by_controller(store.list("pods", None));
    for set in store.list("replicasets.apps", None) {
        let mut owned = pods.remove(text(&set, "/metadata/uid")).unwrap_or_default();
        let wanted = usize::try_from(number(&set, "/spec/replicas")).unwrap_or(0);
        while owned.len() < wanted {
            let Some(pod) = create_pod(store, &set, now) else {
                break;
            };
            owned.push(pod);
        }
        if owned.len() > wanted {
            // The least useful goes first: not ready, then youngest.
            owned.sort_by_key(|pod| (!is_ready(pod), text(pod, "/metadata/creationTimestamp").to_owned()));
            for pod in owned.split_off(wanted) {
                delete_pod(store, &set, &pod, now);
            }
        }
        write_status(store, &set, &owned);
    }
}

fn create_pod(store: &Store, set: &Value, now: Timestamp) -> Option<Arc<Value>> {
    let template = &set["spec"]["template"];
    let mut metadata = template["metadata"].clone();
    metadata["generateName"] = json!(format!("{}-", text(set, "/metadata/name")));
    metadata["namespace"] = set["metadata"]["namespace"].clone();
    metadata["ownerReferences"] = owner_reference(set);
    let pod = store.create("pods", json!({ "metadata": metadata, "spec": template["spec"] }), How::by(MANAGER));
    match pod {
        Ok(pod) => {
            let message = format!("Created pod: {}", text(&pod, "/metadata/name"));
            let occasion = Occasion {
                kind: "Normal",
                reason: "SuccessfulCreate",
                message: &message,
                component: "replicaset-controller",
                field: None,
            };
            record(store, set, occasion, now);
            Some(pod)
        }
        Err(refusal) => {
            let message = format!("Error creating: {}", refusal.message);
            let occasion = Occasion {
                kind: "Warning",
                reason: "FailedCreate",
                message: &message,
                component: "replicaset-controller",
                field: None,
            };
            record(store, set, occasion, now);
            None
        }
    }
}

fn delete_pod(store: &Store, set: &Value, pod: &Value, now: Timestamp) {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    if store.delete("pods", namespace, name, &Value::Null, false, false).is_ok() {
        let message = format!("Deleted pod: {name}");
        let occasion = Occasion {
            kind: "Normal",
            reason: "SuccessfulDelete",
            message: &message,
            component: "replicaset-controller",
            field: None,
        };
        record(store, set, occasion, now);
    }
}

fn write_status(store: &Store, set: &Value, pods: &[Arc<Value>]) {
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let status = json!({
        "replicas": pods.len(), "fullyLabeledReplicas": pods.len(), "readyReplicas": ready, "availableReplicas": ready,
        "observedGeneration": set["metadata"]["generation"],
    });
    if set["status"] != status {
        let (namespace, name) = (text(set, "/metadata/namespace"), text(set, "/metadata/name"));
        let _ =
            store.modify("replicasets.apps", namespace, name, How::status_by(MANAGER), |live| live["status"] = status);
    }
}

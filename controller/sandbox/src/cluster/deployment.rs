//! The Deployment controller: rolling updates within `maxSurge` and `maxUnavailable`, revisions, status.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Occasion, by_controller, number, owner_reference, record, set_condition, text};
use crate::apiserver::fields::seconds;
use crate::apiserver::store::{How, Store};

const MANAGER: &str = "kube-controller-manager";
const REVISION: &str = "deployment.kubernetes.io/revision";
const HASH: &str = "pod-template-hash";

/// Lets every Deployment take its next step.
pub fn step(store: &Store, now: Timestamp) {
    let mut owned = by_controller(store.list("replicasets.apps", None));
    for deployment in store.list("deployments.apps", None) {
        if deployment["metadata"]["deletionTimestamp"].is_string() {
            continue;
        }
        let sets = owned.remove(text(&deployment, "/metadata/uid")).unwrap_or_default();
        advance(store, &deployment, sets, now);
    }
}

fn advance(store: &Store, deployment: &Value, mut sets: Vec<Arc<Value>>, now: Timestamp) {
    let hash = template_hash(&deployment["spec"]["template"]);
    let current = sets.iter().position(|set| text(set, "/metadata/labels/pod-template-hash") == hash);
    let highest = sets.iter().map(|set| revision(set)).max().unwrap_or(0);
    let current = match current {
        Some(at) => {
            // Going back to an older template makes it the newest revision.
            if revision(&sets[at]) < highest {
                sets[at] = annotate(store, &sets[at], highest + 1).unwrap_or_else(|| sets[at].clone());
            }
            at
        }
        None => {
            let Some(set) = create_set(store, deployment, &hash, highest + 1) else {
                return;
            };
            sets.push(set);
            sets.len() - 1
        }
    };
    if deployment["spec"]["paused"] != json!(true) {
        roll(store, deployment, &mut sets, current, now);
    }
    clean_up(store, deployment, &sets, current);
    write_status(store, deployment, &sets, current, now);
}

/// A hash in the alphabet that Kubernetes uses for names.
fn template_hash(template: &Value) -> String {
    use sha2::{Digest, Sha256};
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let digest = Sha256::digest(template.to_string());
    digest.iter().take(10).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

fn revision(set: &Value) -> i64 {
    set["metadata"]["annotations"][REVISION].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn annotate(store: &Store, set: &Value, revision: i64) -> Option<Arc<Value>> {
    let (namespace, name) = (text(set, "/metadata/namespace"), text(set, "/metadata/name"));
    let how = How::by(MANAGER);
    store
        .modify("replicasets.apps", namespace, name, how, |set| {
            set["metadata"]["annotations"][REVISION] = json!(revision.to_string())
        })
        .ok()
}

fn create_set(store: &Store, deployment: &Value, hash: &str, revision: i64) -> Option<Arc<Value>> {
    let spec = &deployment["spec"];
    let mut template = spec["template"].clone();
    template["metadata"]["labels"][HASH] = json!(hash);
    let mut selector = spec["selector"].clone();
    selector["matchLabels"][HASH] = json!(hash);
    let set = json!({
        "metadata": {
            "name": format!("{}-{hash}", text(deployment, "/metadata/name")), "namespace": deployment["metadata"]["namespace"],
            "labels": template["metadata"]["labels"], "ownerReferences": owner_reference(deployment),
            "annotations": { REVISION: revision.to_string(),
                "deployment.kubernetes.io/desired-replicas": number(deployment, "/spec/replicas").to_string() },
        },
        "spec": { "replicas": 0, "selector": selector, "template": template },
    });
    store.create("replicasets.apps", set, How::by(MANAGER)).ok()
}

/// `25%` of the replicas, rounded as asked, or a plain number.
fn share(value: &Value, replicas: i64, up: bool) -> i64 {
    match value {
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let exact = percent * replicas;
            if up { (exact + 99) / 100 } else { exact / 100 }
        }
        other => other.as_i64().unwrap_or(0),
    }
}

fn roll(store: &Store, deployment: &Value, sets: &mut [Arc<Value>], current: usize, now: Timestamp) {
    let wanted = number(deployment, "/spec/replicas");
    let size = |set: &Value| number(set, "/spec/replicas");
    let available = |set: &Value| number(set, "/status/availableReplicas");
    let pods = |set: &Value| number(set, "/status/replicas");
    let old: Vec<usize> = (0..sets.len()).filter(|at| *at != current && size(&sets[*at]) > 0).collect();
    if text(deployment, "/spec/strategy/type") == "Recreate" {
        for at in old {
            scale(store, deployment, &mut sets[at], 0, now);
        }
        if sets.iter().enumerate().all(|(at, set)| at == current || pods(set) == 0) {
            scale(store, deployment, &mut sets[current], wanted, now);
        }
        return;
    }
    if old.is_empty() {
        scale(store, deployment, &mut sets[current], wanted, now);
        return;
    }
    let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
    let surge = share(&rolling["maxSurge"], wanted, true);
    let mut unavailable = share(&rolling["maxUnavailable"], wanted, false);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    let total: i64 = sets.iter().map(|set| size(set)).sum();
    let room = (wanted + surge - total).max(0);
    let grown = (size(&sets[current]) + room).min(wanted);
    if grown != size(&sets[current]) {
        scale(store, deployment, &mut sets[current], grown, now);
    }
    let total: i64 = sets.iter().map(|set| size(set)).sum();
    let new_unavailable = size(&sets[current]) - available(&sets[current]);
    let mut may_go = total - (wanted - unavailable) - new_unavailable;
    // Broken old pods first: their going costs nothing.
    for at in &old {
        let broken = (size(&sets[*at]) - available(&sets[*at])).min(may_go).max(0);
        if broken > 0 {
            let left = size(&sets[*at]) - broken;
            scale(store, deployment, &mut sets[*at], left, now);
            may_go -= broken;
        }
    }
    let up: i64 = sets.iter().map(|set| available(set).min(size(set))).sum();
    let mut may_go = up - (wanted - unavailable);
    for at in old {
        let go = size(&sets[at]).min(may_go).max(0);
        if go > 0 {
            let left = size(&sets[at]) - go;
            scale(store, deployment, &mut sets[at], left, now);
            may_go -= go;
        }
    }
}

fn scale(store: &Store, deployment: &Value, set: &mut Arc<Value>, to: i64, now: Timestamp) {
    let from = number(set, "/spec/replicas");
    if from == to {
        return;
    }
    let (namespace, name) = (text(set, "/metadata/namespace").to_owned(), text(set, "/metadata/name").to_owned());
    let Ok(written) = store
        .modify("replicasets.apps", &namespace, &name, How::by(MANAGER), |set| set["spec"]["replicas"] = json!(to))
    else {
        return;
    };
    *set = written;
    let message = format!("Scaled {} replica set {name} from {from} to {to}", if to > from { "up" } else { "down" });
    let occasion = Occasion {
        kind: "Normal",
        reason: "ScalingReplicaSet",
        message: &message,
        component: "deployment-controller",
        field: None,
    };
    record(store, deployment, occasion, now);
}

fn clean_up(store: &Store, deployment: &Value, sets: &[Arc<Value>], current: usize) {
    let keep = usize::try_from(number(deployment, "/spec/revisionHistoryLimit")).unwrap_or(10);
    let mut idle: Vec<&Arc<Value>> = sets
        .iter()
        .enumerate()
        .filter(|(at, set)| {
            *at != current && number(set, "/spec/replicas") == 0 && number(set, "/status/replicas") == 0
        })
        .map(|(_, set)| set)
        .collect();
    idle.sort_by_key(|set| std::cmp::Reverse(revision(set)));
    for set in idle.into_iter().skip(keep) {
        let (namespace, name) = (text(set, "/metadata/namespace"), text(set, "/metadata/name"));
        // Gone already is as good.
        let _ = store.delete("replicasets.apps", namespace, name, &Value::Null, false, false);
    }
}

fn write_status(store: &Store, deployment: &Value, sets: &[Arc<Value>], current: usize, now: Timestamp) {
    let wanted = number(deployment, "/spec/replicas");
    let sum = |field: &str| -> i64 { sets.iter().map(|set| number(set, field)).sum() };
    let (replicas, ready, available) =
        (sum("/status/replicas"), sum("/status/readyReplicas"), sum("/status/availableReplicas"));
    let updated = number(&sets[current], "/status/replicas");
    let unavailable = (wanted.max(replicas) - available).max(0);
    let old_left = replicas - updated;
    let done = updated >= wanted && old_left == 0 && available >= wanted;
    let allowed = share(&deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], wanted, false);
    let revision = revision(&sets[current]).to_string();
    let set_name = text(&sets[current], "/metadata/name").to_owned();
    let (namespace, name) = (text(deployment, "/metadata/namespace"), text(deployment, "/metadata/name"));
    if deployment["metadata"]["annotations"][REVISION] != *revision {
        let how = How::by(MANAGER);
        let _ = store.modify("deployments.apps", namespace, name, how, |live| {
            live["metadata"]["annotations"][REVISION] = json!(revision)
        });
    }
    let deadline = number(deployment, "/spec/progressDeadlineSeconds");
    let _ = store.modify("deployments.apps", namespace, name, How::status_by(MANAGER), |live| {
        let generation = live["metadata"]["generation"].clone();
        let status = &mut live["status"];
        let before = (
            status["updatedReplicas"].clone(),
            status["availableReplicas"].clone(),
            status["observedGeneration"].clone(),
        );
        status["observedGeneration"] = generation;
        for (field, value) in [
            ("replicas", replicas),
            ("updatedReplicas", updated),
            ("readyReplicas", ready),
            ("availableReplicas", available),
            ("unavailableReplicas", unavailable),
        ] {
            status[field] = json!(value);
        }
        let moved = before != (json!(updated), json!(available), status["observedGeneration"].clone());
        let (value, reason, words) = if available >= wanted - allowed {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        let at = match condition(status, "Available") {
            Some(before) if before["status"] == value => before["lastUpdateTime"].clone(),
            _ => json!(seconds(now)),
        };
        set_condition(status, "Available", value, reason, words, now, json!({ "lastUpdateTime": at }));
        progress(status, &set_name, done, moved, deadline, now);
    });
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn progress(status: &mut Value, set: &str, done: bool, moved: bool, deadline: i64, now: Timestamp) {
    let before = condition(status, "Progressing").cloned().unwrap_or_default();
    let last: Option<Timestamp> = before["lastUpdateTime"].as_str().and_then(|at| at.parse().ok());
    let complete = before["reason"] == "NewReplicaSetAvailable";
    if done {
        let words = format!("ReplicaSet \"{set}\" has successfully progressed.");
        let at = if complete && before["message"] == *words {
            before["lastUpdateTime"].clone()
        } else {
            json!(seconds(now))
        };
        set_condition(
            status,
            "Progressing",
            "True",
            "NewReplicaSetAvailable",
            &words,
            now,
            json!({ "lastUpdateTime": at }),
        );
    } else if complete && before["message"].as_str().is_some_and(|words| words.contains(set)) {
        // A finished rollout does not become an unfinished one because pods fail later.
    } else if !moved && last.is_some_and(|last| now.duration_since(last).as_secs() > deadline) {
        let words = format!("ReplicaSet \"{set}\" has timed out progressing.");
        let at = before["lastUpdateTime"].clone();
        set_condition(
            status,
            "Progressing",
            "False",
            "ProgressDeadlineExceeded",
            &words,
            now,
            json!({ "lastUpdateTime": at }),
        );
    } else {
        let words = format!("ReplicaSet \"{set}\" is progressing.");
        let at = if moved || last.is_none() { json!(seconds(now)) } else { before["lastUpdateTime"].clone() };
        set_condition(status, "Progressing", "True", "ReplicaSetUpdated", &words, now, json!({ "lastUpdateTime": at }));
    }
}

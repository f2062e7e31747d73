//! Descriptions of kinds that need nothing but their own text, as objects; and what kinds are called.

use serde_json::{Value, json};

use super::text::{block, field, labels, pair_list};

pub(super) fn owner(text: &str) -> Value {
    match field(text, "Controlled By").as_deref().and_then(|owner| owner.split_once('/')) {
        Some((kind, name)) => json!([{"kind": kind, "name": name, "controller": true}]),
        None => json!([]),
    }
}

pub(super) fn replicas(text: &str, word: &str) -> Option<i64> {
    let line = field(text, "Replicas")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok())
}

pub(super) fn workload(what: &str, name: &str, text: &str, namespace: &str) -> Value {
    let conditions: Vec<Value> = block(text, "Conditions")
        .iter()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [kind, status, reason, ..] = words.as_slice() else { return None };
            (*status == "True" || *status == "False").then(|| json!({"type": kind, "status": status, "reason": reason}))
        })
        .collect();
    json!({
        "kind": kind(what),
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": replicas(text, "desired")},
        "status": {"readyReplicas": replicas(text, "available"), "conditions": conditions},
    })
}

/// Ports come in the order of `Port`, `TargetPort` pairs.
pub(super) fn service(name: &str, text: &str, namespace: &str) -> Value {
    let all = |key: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        lines.map(|value| value.trim().to_owned()).collect()
    };
    let ports: Vec<Value> = all("Port")
        .iter()
        .zip(all("TargetPort"))
        .map(|(port, target)| {
            let shown = port.split_whitespace().last().unwrap_or("");
            let (number, protocol) = shown.split_once('/').unwrap_or((shown, "TCP"));
            let target = target.split('/').next().unwrap_or("").to_owned();
            let numbered = |text: &str| text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number));
            json!({"port": numbered(number), "protocol": protocol, "targetPort": numbered(&target)})
        })
        .collect();
    let endpoints = all("Endpoints").iter().any(|list| !list.is_empty() && list != "<none>");
    json!({
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": pair_list(&field(text, "Selector").unwrap_or_default()), "ports": ports},
        "status": {"hasEndpoints": endpoints},
    })
}

pub(super) fn volume_claim(name: &str, text: &str, namespace: &str) -> Value {
    json!({
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"storageClassName": field(text, "StorageClass").unwrap_or_default(), "volumeName": field(text, "Volume")},
        "status": {"phase": field(text, "Status"), "capacity": field(text, "Capacity")},
        "text": text,
    })
}

pub(super) fn volume(name: &str, text: &str) -> Value {
    json!({
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": labels(text)},
        "spec": {
            "storageClassName": field(text, "StorageClass").unwrap_or_default(), "claim": field(text, "Claim"),
            "accessMode": field(text, "Access Modes"), "capacityShown": field(text, "Capacity"),
        },
        "status": {"phase": field(text, "Status")},
    })
}

pub(super) fn kind(what: &str) -> &'static str {
    match what {
        "pods" => "Pod",
        "nodes" => "Node",
        "deployments" => "Deployment",
        "statefulsets" => "StatefulSet",
        "daemonsets" => "DaemonSet",
        "replicasets" => "ReplicaSet",
        "services" => "Service",
        "endpoints" => "Endpoints",
        "configmaps" => "ConfigMap",
        "secrets" => "Secret",
        "persistentvolumeclaims" => "PersistentVolumeClaim",
        "persistentvolumes" => "PersistentVolume",
        "resourcequota" | "resourcequotas" => "ResourceQuota",
        "networkpolicies" => "NetworkPolicy",
        "serviceaccounts" => "ServiceAccount",
        "storageclasses" => "StorageClass",
        _ => "Other",
    }
}

pub(super) fn singular(kind: &str) -> &str {
    match kind {
        "pod" => "Pod",
        "replicaset" => "ReplicaSet",
        "deployment" => "Deployment",
        "statefulset" => "StatefulSet",
        "node" => "Node",
        "service" => "Service",
        "persistentvolumeclaim" => "PersistentVolumeClaim",
        other => other,
    }
}

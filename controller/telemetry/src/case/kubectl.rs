//! What `kubectl` and friends printed, read back into the objects that they came from.
//!
//! A captured cluster is text; the rules read objects. Only what the rules ask for is rebuilt.

mod objects;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use amend_diagnosis::evidence::ObjectEvent;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use objects::{kind, owner, replicas, service, singular, volume, volume_claim, workload};
use text::{block, columns, entries, entry, field, labels, moment, pair_list, pairs, repeated, under};

/// Objects and events of a captured cluster.
#[derive(Debug, Default)]
pub(super) struct State {
    pub objects: Vec<Value>,
    pub events: Vec<ObjectEvent>,
    /// The latest moment that any text mentions: stands for the time of the capture.
    pub latest: Option<Timestamp>,
}

impl State {
    /// Reads `{"cmd", "output"}` pairs.
    pub fn read(answers: &[Value], namespace: &str) -> Self {
        let mut state = Self::default();
        let mut tables: BTreeMap<&str, &str> = BTreeMap::new();
        let mut described: BTreeSet<String> = BTreeSet::new();
        let mut manifests: BTreeSet<String> = BTreeSet::new();
        for answer in answers {
            let (Some(command), Some(output)) = (answer["cmd"].as_str(), answer["output"].as_str()) else { continue };
            let words: Vec<&str> = command.split_whitespace().collect();
            match words.as_slice() {
                ["kubectl", "describe", what, name, ..] => {
                    described.insert(format!("{what}/{name}"));
                    state.described(what, name, output, namespace);
                }
                ["kubectl", "get", .., "-o", "json"] => state.objects.extend(serde_json::from_str::<Value>(output)),
                ["kubectl", "get", "events", ..] => state.event_table(output, namespace),
                ["kubectl", "get", what, ..] => {
                    tables.entry(what).or_insert(output);
                }
                ["manifest", app, ..] => {
                    manifests.insert((*app).to_owned());
                    state.manifest(app, output, namespace);
                }
                ["systemctl", "status", unit, "@", node] => state.unit(unit, node, output),
                ["tcp-probe", target] => {
                    let open = output.contains("Succeeded") || output.contains(" open");
                    state
                        .objects
                        .push(json!({"kind": "TcpProbe", "metadata": {"name": target}, "status": {"open": open}}));
                }
                _ => {}
            }
        }
        for (what, table) in tables {
            state.table(what, table, namespace, &described);
        }
        state.merge();
        state
    }

    fn seen(&mut self, at: Option<Timestamp>) -> Option<Timestamp> {
        self.latest = self.latest.max(at);
        at
    }

    fn described(&mut self, what: &str, name: &str, text: &str, namespace: &str) {
        let object = match what {
            "pods" => self.pod(name, text, namespace),
            "nodes" => self.node(name, text),
            "deployments" | "statefulsets" | "daemonsets" => workload(what, name, text, namespace),
            "replicasets" => json!({
                "kind": "ReplicaSet",
                "metadata": {"name": name, "namespace": namespace, "ownerReferences": owner(text)},
                "spec": {"replicas": replicas(text, "desired")},
                "status": {"replicas": replicas(text, "current")},
            }),
            "services" => service(name, text, namespace),
            "endpoints" => {
                let ready = field(text, "Addresses").is_some_and(|addresses| addresses != "<none>");
                json!({"kind": "Endpoints", "metadata": {"name": name, "namespace": namespace}, "status": {"ready": ready}})
            }
            "persistentvolumeclaims" => volume_claim(name, text, namespace),
            "persistentvolumes" => volume(name, text),
            "configmaps" => json!({
                "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": namespace},
                "data": {"text": text},
            }),
            _ => {
                let kind = kind(what);
                json!({"kind": kind, "metadata": {"name": name, "namespace": namespace}, "text": text})
            }
        };
        let target = format!("{}/{name}", kind(what));
        self.described_events(&target, text, namespace);
        self.objects.push(object);
    }

    /// The `Events:` table at the end of a description.
    fn described_events(&mut self, object: &str, text: &str, namespace: &str) {
        for line in block(text, "Events").into_iter().filter(|line| !line.contains("----")) {
            let cells = columns(line);
            let [_, reason, age, ..] = cells.as_slice() else { continue };
            if *reason == "Reason" || cells.len() < 5 {
                continue;
            }
            self.events.push(ObjectEvent {
                at: Timestamp::UNIX_EPOCH,
                object: object.to_owned(),
                namespace: namespace.to_owned(),
                reason: (*reason).to_owned(),
                message: cells[4..].join(" "),
                count: repeated(age),
            });
        }
    }

    fn event_table(&mut self, text: &str, namespace: &str) {
        for line in text.lines().skip(1) {
            let cells = columns(line);
            let [age, kind, reason, object, message @ ..] = cells.as_slice() else { continue };
            // What is normal explains nothing, and there is much of it.
            if *kind == "Normal" {
                continue;
            }
            let object = match object.split_once('/') {
                Some((kind, name)) => format!("{}/{name}", singular(kind)),
                None => (*object).to_owned(),
            };
            self.events.push(ObjectEvent {
                at: Timestamp::UNIX_EPOCH,
                object,
                namespace: namespace.to_owned(),
                reason: (*reason).to_owned(),
                message: message.join(" "),
                count: repeated(age),
            });
        }
    }

    fn pod(&mut self, name: &str, text: &str, namespace: &str) -> Value {
        let mut containers = Vec::new();
        let mut statuses = Vec::new();
        for (container, lines) in entries(&block(text, "Containers"), 2) {
            let limits = pairs(&under(&lines, "Limits"));
            let requests = pairs(&under(&lines, "Requests"));
            containers.push(json!({
                "name": container,
                "image": entry(&lines, "Image").unwrap_or_default(),
                "resources": {"limits": limits, "requests": requests},
            }));
            let mut status = json!({
                "name": container,
                "ready": entry(&lines, "Ready").as_deref() == Some("True"),
                "restartCount": entry(&lines, "Restart Count").and_then(|count| count.parse::<i64>().ok()).unwrap_or(0),
            });
            if let Some(state) = self.container_state(&lines, "State") {
                status["state"] = state;
            }
            if let Some(state) = self.container_state(&lines, "Last State") {
                status["lastState"] = state;
            }
            statuses.push(status);
        }
        let node = field(text, "Node").unwrap_or_default();
        let node = node.split('/').next().unwrap_or("").trim_start_matches("<none>").to_owned();
        let conditions: Vec<Value> = block(text, "Conditions")
            .iter()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let (kind, status) = (words.next()?, words.next()?);
                (status == "True" || status == "False").then(|| json!({"type": kind, "status": status}))
            })
            .collect();
        let created = field(text, "Start Time").and_then(|time| moment(&time));
        let created = self.seen(created);
        let status = field(text, "Status").unwrap_or_default();
        json!({
            "kind": "Pod",
            "metadata": {
                "name": name, "namespace": namespace, "labels": labels(text), "ownerReferences": owner(text),
                "creationTimestamp": created.map(|at| at.to_string()),
            },
            "spec": {
                "nodeName": node, "containers": containers,
                "nodeSelector": pair_list(&field(text, "Node-Selectors").unwrap_or_default()),
                "serviceAccountName": field(text, "Service Account"),
            },
            "status": {
                "phase": status.split_whitespace().next().unwrap_or(""), "reason": field(text, "Reason"),
                "conditions": conditions, "containerStatuses": statuses,
            },
        })
    }

    fn container_state(&mut self, lines: &[&str], key: &str) -> Option<Value> {
        let state = entry(lines, key)?;
        let inner = under(lines, key);
        let time = |name: &str| entry(&inner, name).and_then(|time| moment(&time));
        let (started, finished) = (time("Started"), time("Finished"));
        self.seen(started);
        self.seen(finished);
        let told = json!({
            "reason": entry(&inner, "Reason"), "message": entry(&inner, "Message"),
            "exitCode": entry(&inner, "Exit Code").and_then(|code| code.parse::<i64>().ok()),
            "startedAt": started.map(|at| at.to_string()), "finishedAt": finished.map(|at| at.to_string()),
        });
        match state.as_str() {
            "Waiting" => Some(json!({"waiting": told})),
            "Terminated" => Some(json!({"terminated": told})),
            "Running" => Some(json!({"running": {}})),
            _ => None,
        }
    }

    fn node(&mut self, name: &str, text: &str) -> Value {
        let conditions: Vec<Value> = block(text, "Conditions")
            .iter()
            .filter_map(|line| {
                let cells = columns(line);
                let [kind, status, heartbeat, _, reason, ..] = cells.as_slice() else { return None };
                self.seen(moment(heartbeat));
                let told = ["True", "False", "Unknown"].contains(status);
                told.then(|| json!({"type": kind, "status": status, "reason": reason}))
            })
            .collect();
        let taints: Vec<Value> = std::iter::once(field(text, "Taints").unwrap_or_default())
            .chain(block(text, "Taints").iter().map(|line| line.trim().to_owned()))
            .filter(|taint| taint.contains(':'))
            .map(Value::String)
            .collect();
        json!({
            "kind": "Node",
            "metadata": {"name": name, "labels": labels(text)},
            "spec": {"unschedulable": field(text, "Unschedulable").as_deref() == Some("true"), "taints": taints},
            "status": {"conditions": conditions, "allocatable": pairs(&block(text, "Allocatable"))},
        })
    }

    /// A manifest: YAML documents, each an object; values of Secrets are kept as salted digests only.
    fn manifest(&mut self, app: &str, text: &str, namespace: &str) {
        for document in text.split("\n---") {
            let Ok(mut object) = serde_saphyr::from_str::<Value>(document.trim_start_matches("---")) else { continue };
            if !object.is_object() {
                continue;
            }
            if object["metadata"]["namespace"].is_null() {
                object["metadata"]["namespace"] = json!(namespace);
            }
            object["metadata"]["annotations"]["amend.dev/app"] = json!(app);
            if object["kind"] == "Secret" {
                for key in ["data", "stringData"] {
                    if let Some(values) = object[key].as_object_mut() {
                        values.iter_mut().for_each(|(key, value)| digest_secret(key, value));
                    }
                }
            }
            self.objects.push(object);
        }
    }

    fn unit(&mut self, unit: &str, node: &str, text: &str) {
        let active = text.contains("Active: active (running)");
        let told =
            ["Active: ", "dead", "not running", "stopped", "could not be found"].iter().any(|word| text.contains(word));
        if told {
            self.objects.push(json!({
                "kind": "NodeUnit", "metadata": {"name": unit}, "spec": {"nodeName": node}, "status": {"active": active},
            }));
        }
    }

    fn table(&mut self, what: &str, text: &str, namespace: &str, described: &BTreeSet<String>) {
        for line in text.lines().skip(1) {
            let cells = columns(line);
            let Some(name) = cells.first() else { continue };
            if described.contains(&format!("{what}/{name}")) {
                match (what, cells.get(1)) {
                    ("nodes", Some(status)) => {
                        let cordoned = status.contains("SchedulingDisabled");
                        let found = self
                            .objects
                            .iter_mut()
                            .find(|object| object["kind"] == "Node" && object["metadata"]["name"] == **name);
                        if let Some(node) = found.filter(|_| cordoned) {
                            node["spec"]["unschedulable"] = json!(true);
                        }
                    }
                    ("pods", _) => {
                        let found = self
                            .objects
                            .iter_mut()
                            .find(|object| object["kind"] == "Pod" && object["metadata"]["name"] == **name);
                        if let (Some(pod), Some(status)) = (found, cells.get(2)) {
                            pod["status"]["shown"] = json!(status);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            let object =
                json!({"kind": kind(what), "metadata": {"name": name, "namespace": namespace}, "listed": cells});
            self.objects.push(object);
        }
    }

    /// Descriptions and manifests of one object become one: what was described is what runs, the manifest fills the rest.
    fn merge(&mut self) {
        let mut merged: BTreeMap<(String, String, String), Value> = BTreeMap::new();
        for object in std::mem::take(&mut self.objects) {
            let part = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
            let key = match object["kind"] == "NodeUnit" {
                true => (part("/kind"), part("/spec/nodeName"), part("/metadata/name")),
                false => (part("/kind"), part("/metadata/namespace"), part("/metadata/name")),
            };
            match merged.get_mut(&key) {
                Some(known) => fill(known, object),
                None => {
                    merged.insert(key, object);
                }
            }
        }
        self.objects = merged.into_values().collect();
    }
}

/// Adds what `other` knows and `known` does not.
fn fill(known: &mut Value, other: Value) {
    match (known, other) {
        (Value::Object(known), Value::Object(other)) => {
            for (key, value) in other {
                match known.get_mut(&key) {
                    Some(inner) if !inner.is_null() => fill(inner, value),
                    _ => {
                        known.insert(key, value);
                    }
                }
            }
        }
        (known @ Value::Null, other) => *known = other,
        _ => {}
    }
}

/// Connection facts stay readable; everything else of a Secret becomes a digest that still tells equal from different.
fn digest_secret(key: &str, value: &mut Value) {
    let upper = key.to_ascii_uppercase();
    if ["HOST", "PORT", "USER", "USERNAME", "DATABASE"].iter().any(|part| upper.ends_with(part)) {
        return;
    }
    let digest = Sha256::digest(format!("amend case {}", value.as_str().unwrap_or("")).as_bytes());
    *value = json!(format!("sha256:{}", &hex::encode(digest)[..16]));
}

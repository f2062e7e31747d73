//! Deeds on the stage: releases, limits, scaling, nodes; and the objects as an API server would list them.

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{Change, ChangeKind, ObjectEvent};
use amend_sandbox::model::graph::{Call, Service, Version};
use amend_sandbox::model::{Container, State};
use serde_json::{Value, json};

use super::{NAMESPACE, Stage, at};

impl Stage {
    /// The service as it behaves from now on; see [`Stage::behaves`] for a version of it.
    pub fn service(&mut self, name: &str) -> &mut Service {
        self.graph.services.entry(name.to_owned()).or_default()
    }

    /// How the version that runs now, and every later one without an entry of its own, behaves.
    pub fn behaves(&mut self, name: &str) -> &mut Version {
        &mut self.service(name).usual
    }

    /// The call from one service to another.
    pub fn call(&mut self, from: &str, to: &str) -> Option<&mut Call> {
        self.service(from).calls.iter_mut().find(|call| call.to == to)
    }

    /// Rolls out a new image that behaves as told.
    pub fn release(&mut self, name: &str, tag: &str, behaviour: impl Fn(&mut Version)) {
        let mut version = self.service(name).usual.clone();
        behaviour(&mut version);
        self.service(name).versions.insert(tag.to_owned(), version);
        let before = self.workloads[name].tag.clone();
        let diff = format!("-        image: registry/{name}:{before}\n+        image: registry/{name}:{tag}\n");
        self.changed(name, ChangeKind::Image, &diff, |workload| workload.tag = tag.to_owned());
    }

    /// Rolls out a changed manifest.
    pub fn changed(&mut self, name: &str, kind: ChangeKind, diff: &str, change: impl Fn(&mut super::Workload)) {
        let before = self.pod_names(name);
        if let Some(workload) = self.workloads.get_mut(name) {
            change(workload);
            workload.revision += 1;
        }
        self.pods.retain(|pod| pod["metadata"]["labels"]["app"] != name);
        self.fill(name);
        let (new_pods, deleted_pods) = (self.pod_names(name), before);
        self.note(name, kind, diff, new_pods, deleted_pods);
    }

    /// Changes how many pods run, as an autoscaler or a person does.
    pub fn scale(&mut self, name: &str, replicas: usize) {
        if let Some(workload) = self.workloads.get_mut(name) {
            workload.replicas = replicas;
        }
        let mut kept = 0;
        self.pods.retain(|pod| {
            let of_it = pod["metadata"]["labels"]["app"] == name;
            kept += usize::from(of_it);
            !of_it || kept <= replicas
        });
        self.fill(name);
        self.event(&format!("Deployment/{name}"), "ScalingReplicaSet", &format!("Scaled to {replicas}"));
    }

    /// Writes down that somebody changed something.
    pub fn note(&mut self, name: &str, kind: ChangeKind, diff: &str, new: Vec<String>, deleted: Vec<String>) {
        self.changes.push(Change {
            id: format!("{:040x}", 0xabc0_0000_usize + self.changes.len() * 7919 + self.now as usize),
            kind,
            at: at(self.now),
            target: deployment(name),
            summary: format!("change {name}"),
            files: vec![format!("apps/{name}.yaml")],
            diff: diff.to_owned(),
            author: String::new(),
            new_pods: new,
            deleted_pods: deleted,
        });
    }

    pub fn event(&mut self, object: &str, reason: &str, message: &str) {
        self.events.push(ObjectEvent {
            at: at(self.now),
            object: object.to_owned(),
            namespace: NAMESPACE.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            count: 1,
        });
    }

    /// Moves every pod off a node, as `kubectl drain` does.
    pub fn drain(&mut self, node: &str) {
        let gone: Vec<(String, String)> = self
            .pods
            .iter()
            .filter(|pod| pod["spec"]["nodeName"] == node)
            .map(|pod| (text(&pod["metadata"]["labels"]["app"]), text(&pod["metadata"]["name"])))
            .collect();
        self.nodes.remove(node);
        self.pods.retain(|pod| pod["spec"]["nodeName"] != node);
        for (name, pod) in gone {
            self.event(&format!("Pod/{pod}"), "Killing", "Stopping container app");
            self.fill(&name);
        }
    }

    /// A node runs short of memory: its pods are evicted and find no other place.
    pub fn pressure(&mut self, node: &str) {
        self.nodes.insert(node.to_owned(), vec!["MemoryPressure"]);
        self.event(&format!("Node/{node}"), "NodeHasInsufficientMemory", "Node status is now: MemoryPressure");
        let mut evicted = Vec::new();
        for pod in self.pods.iter_mut().filter(|pod| pod["spec"]["nodeName"] == node) {
            evicted.push(text(&pod["metadata"]["name"]));
            pod["status"] = json!({"phase": "Failed", "reason": "Evicted",
                "message": "The node was low on resource: memory. Threshold quantity: 100Mi, available: 40Mi."});
        }
        for pod in evicted {
            self.event(&format!("Pod/{pod}"), "Evicted", "The node was low on resource: memory.");
        }
    }

    fn pod_names(&self, name: &str) -> Vec<String> {
        let of_it = self.pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == name);
        of_it.map(|pod| text(&pod["metadata"]["name"])).collect()
    }

    /// Makes the pods that a workload lacks.
    pub(super) fn fill(&mut self, name: &str) {
        let workload = self.workloads[name].clone();
        let nodes: Vec<String> =
            self.nodes.iter().filter(|(_, bad)| bad.is_empty()).map(|(node, _)| node.clone()).collect();
        let hash = letters(name.len() * 131 + workload.revision * 977, 10);
        while self.pod_names(name).len() < workload.replicas && !nodes.is_empty() {
            self.made += 1;
            let pod = format!("{name}-{hash}-{}", letters(self.made * 7 + 3, 5));
            self.pods.push(json!({
                "kind": "Pod",
                "metadata": {
                    "namespace": NAMESPACE, "name": pod, "uid": format!("uid-{pod}"),
                    "creationTimestamp": at(self.now).to_string(),
                    "labels": {"app": name, "pod-template-hash": hash},
                    "ownerReferences": [{"kind": "ReplicaSet", "name": format!("{name}-{hash}"), "controller": true}],
                },
                "spec": {"nodeName": nodes[self.made % nodes.len()], "containers": [{
                    "name": "app",
                    "image": format!("registry/{name}:{}", workload.tag),
                    "resources": {"limits": {"memory": workload.memory_limit, "cpu": workload.cpu_limit}},
                }]},
                "status": {"phase": "Pending"},
            }));
        }
    }

    /// Everything as the API server lists it.
    pub(super) fn objects(&self) -> Vec<Value> {
        let workloads = self.workloads.iter().flat_map(|(name, workload)| {
            let labels = json!({"app": name});
            let deployment = json!({"kind": "Deployment", "metadata": {"namespace": NAMESPACE, "name": name, "labels": labels},
                "spec": {"replicas": workload.replicas, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}}}});
            let service = json!({"kind": "Service", "metadata": {"namespace": NAMESPACE, "name": name},
                "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}});
            [deployment, service]
        });
        let nodes = self.nodes.iter().map(|(name, bad)| {
            let condition = |kind: &str, status: bool| {
                json!({"type": kind, "status": if status { "True" } else { "False" }, "lastTransitionTime": at(super::BEGINS).to_string()})
            };
            json!({"kind": "Node", "metadata": {"name": name}, "status": {"conditions": [
                condition("MemoryPressure", bad.contains(&"MemoryPressure")),
                condition("DiskPressure", bad.contains(&"DiskPressure")),
                condition("Ready", true),
            ]}})
        });
        workloads.chain(nodes).chain(self.pods.iter().cloned()).collect()
    }
}

/// What the kubelet writes of a container.
pub(super) fn status(container: &Container) -> Value {
    let state = match &container.state {
        State::Running { since } => json!({"running": {"startedAt": since.to_string()}}),
        State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
    };
    let last = match &container.last {
        Some(last) => json!({"terminated": {"reason": last.reason, "exitCode": last.exit_code,
            "startedAt": last.started.to_string(), "finishedAt": last.finished.to_string()}}),
        None => json!({}),
    };
    let running = matches!(container.state, State::Running { .. }) || container.restarts > 0;
    json!({"phase": if running { "Running" } else { "Pending" },
        "conditions": [{"type": "Ready", "status": if container.ready { "True" } else { "False" }}],
        "containerStatuses": [{"name": "app", "ready": container.ready, "restartCount": container.restarts,
            "state": state, "lastState": last}]})
}

/// A workload of the shop.
pub fn deployment(name: &str) -> Entity {
    Entity::new(EntityKind::Deployment, NAMESPACE, name)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A name of letters and digits as Kubernetes makes them (`k8s.io/apimachinery/pkg/util/rand`).
fn letters(mut seed: usize, length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..length)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(ALPHABET[(seed >> 33) % ALPHABET.len()])
        })
        .collect()
}

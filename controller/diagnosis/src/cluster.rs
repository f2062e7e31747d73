//! Kubernetes objects read from JSON into what the rules ask about.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::entity::{Entity, EntityKind};
use crate::evidence::Observations;

/// How the ids of questions about the objects of one kind begin; its plural follows.
pub const QUESTION: &str = "cluster-";

/// The objects of one snapshot, in the order of their names so that the input's order does not matter.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Whether the API server was asked at all; without it an empty list means nothing.
    pub known: bool,
    pub workloads: Vec<Workload>,
    pub pods: Vec<Pod>,
    pub services: Vec<Service>,
    pub nodes: Vec<Node>,
    /// `Kind/namespace/name` of everything seen.
    pub names: BTreeSet<String>,
    /// Kinds of which at least one object was listed: only there absence means absence.
    pub kinds: BTreeSet<String>,
    /// Objects that no struct above holds, by kind.
    pub others: BTreeMap<String, Vec<Value>>,
    /// Kinds that were asked for and not told, by their plural, and why: that none is seen says nothing.
    pub unread: BTreeMap<String, String>,
}

/// A Deployment, StatefulSet, DaemonSet, Job or CronJob.
#[derive(Clone, Debug)]
pub struct Workload {
    pub entity: Entity,
    pub object: Value,
    pub replicas: Option<i64>,
    pub ready: i64,
    /// The pod template as JSON (`metadata`, `spec`).
    pub template: Value,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    /// When the status last changed.
    pub since: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub workload: Entity,
    /// The ReplicaSet (or other direct owner) that made it: tells old from new.
    pub revision: String,
    pub node: String,
    pub phase: String,
    pub reason: String,
    pub labels: BTreeMap<String, String>,
    pub created: Option<Timestamp>,
    pub conditions: Vec<Condition>,
    pub containers: Vec<Container>,
    pub object: Value,
}

#[derive(Clone, Debug, Default)]
pub struct Container {
    pub name: String,
    pub image: String,
    pub init: bool,
    pub ready: bool,
    pub restarts: i64,
    /// Reason and message while waiting.
    pub waiting: Option<(String, String)>,
    pub terminated: Option<Terminated>,
    /// How the previous run ended.
    pub last: Option<Terminated>,
    pub memory_limit: Option<f64>,
    pub spec: Value,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terminated {
    pub reason: String,
    pub message: String,
    pub exit_code: Option<i64>,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub selector: BTreeMap<String, String>,
    pub object: Value,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub conditions: Vec<Condition>,
    pub unschedulable: bool,
    pub object: Value,
}

impl Cluster {
    pub fn new(observations: &Observations) -> Self {
        let Some(objects) = observations.objects.known() else { return Self::default() };
        let unread = observations
            .asked
            .iter()
            .filter_map(|asked| Some((asked.id.strip_prefix(QUESTION)?.to_owned(), asked.unknown.clone()?)));
        let mut cluster = Self { known: true, unread: unread.collect(), ..Self::default() };
        let mut owners: BTreeMap<(String, String, String), (String, String)> = BTreeMap::new();
        for object in objects {
            let (kind, namespace, name) = key(object);
            cluster.names.insert(format!("{kind}/{namespace}/{name}"));
            cluster.kinds.insert(kind.clone());
            if let Some(owner) = owner(object) {
                owners.insert((kind, namespace, name), owner);
            }
        }
        for object in objects {
            match text(object, "/kind") {
                "Deployment" | "StatefulSet" | "DaemonSet" | "Job" | "CronJob" => {
                    cluster.workloads.push(workload(object));
                }
                "Pod" => cluster.pods.push(pod(object, &owners)),
                "Service" => cluster.services.push(service(object)),
                "Node" => cluster.nodes.push(node(object)),
                kind => cluster.others.entry(kind.to_owned()).or_default().push(object.clone()),
            }
        }
        cluster.workloads.sort_by(|a, b| a.entity.cmp(&b.entity));
        cluster.pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        cluster.services.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        cluster.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        for objects in cluster.others.values_mut() {
            objects.sort_by_key(key);
        }
        cluster
    }

    pub fn pods_of<'a>(&'a self, workload: &'a Entity) -> impl Iterator<Item = &'a Pod> {
        self.pods.iter().filter(move |pod| pod.workload == *workload)
    }

    pub fn workload(&self, entity: &Entity) -> Option<&Workload> {
        self.workloads.iter().find(|workload| workload.entity == *entity)
    }

    /// The workload whose pods a service selects, when it is one workload.
    pub fn selected_by(&self, service: &Service) -> Option<Entity> {
        if service.selector.is_empty() {
            return None;
        }
        let matches = |labels: &BTreeMap<String, String>| {
            service.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let mut found: BTreeSet<Entity> = self
            .pods
            .iter()
            .filter(|pod| pod.namespace == service.namespace && matches(&pod.labels))
            .map(|pod| pod.workload.clone())
            .collect();
        if found.is_empty() {
            let templates = self.workloads.iter().filter(|workload| workload.entity.namespace == service.namespace);
            found = templates
                .filter(|workload| matches(&labels(&workload.template)))
                .map(|workload| workload.entity.clone())
                .collect();
        }
        match found.len() {
            1 => found.pop_first(),
            _ => None,
        }
    }

    /// The pods that a service with a selector leads to, ready or not.
    pub fn selected<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Pod> {
        let here = self.pods.iter().filter(|pod| pod.namespace == service.namespace && !service.selector.is_empty());
        here.filter(|pod| service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)))
    }

    /// Whether an object is there: `None` when objects of that kind were not listed.
    pub fn has(&self, kind: &str, namespace: &str, name: &str) -> Option<bool> {
        match self.names.contains(&format!("{kind}/{namespace}/{name}")) {
            true => Some(true),
            false => self.kinds.contains(kind).then_some(false),
        }
    }

    pub fn others(&self, kind: &str) -> &[Value] {
        self.others.get(kind).map_or(&[], Vec::as_slice)
    }
}

/// How long after its start a pod may still be given its first conditions.
const FIRST_CONDITIONS: SignedDuration = SignedDuration::from_secs(15);

impl Pod {
    /// Whether it runs and every container of it is ready.
    pub fn is_ready(&self) -> bool {
        let mut containers = self.containers.iter().filter(|container| !container.init).peekable();
        self.phase == "Running" && containers.peek().is_some() && containers.all(|container| container.ready)
    }

    /// Whether it was ready at any time of its life; `None` where nobody told the times.
    ///
    /// The kubelet gives a pod its conditions when it takes it, and moves `lastTransitionTime` only with the status: a pod
    /// whose `Ready=False` is as old as itself never was.
    pub fn was_ready(&self) -> Option<bool> {
        if self.is_ready() {
            return Some(true);
        }
        let started = time(&self.object, "/status/startTime").or(self.created)?;
        let since = self.conditions.iter().find(|one| one.kind == "Ready").and_then(|one| one.since)?;
        Some(since.duration_since(started) > FIRST_CONDITIONS)
    }

    /// When any of its conditions last changed; `None` where nobody told.
    pub fn changed(&self) -> Option<Timestamp> {
        self.conditions.iter().filter_map(|condition| condition.since).max()
    }
}

/// A text field by JSON pointer; empty when absent.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// A list by JSON pointer; empty when absent.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn key(object: &Value) -> (String, String, String) {
    let part = |pointer| text(object, pointer).to_owned();
    (part("/kind"), part("/metadata/namespace"), part("/metadata/name"))
}

fn owner(object: &Value) -> Option<(String, String)> {
    let owners = list(object, "/metadata/ownerReferences");
    let controller = owners.iter().find(|owner| owner["controller"].as_bool() == Some(true)).or(owners.first())?;
    Some((text(controller, "/kind").to_owned(), text(controller, "/name").to_owned()))
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    strings(object.pointer("/metadata/labels"))
}

fn strings(value: Option<&Value>) -> BTreeMap<String, String> {
    let pairs = value.and_then(Value::as_object).into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

pub fn time(value: &Value, pointer: &str) -> Option<Timestamp> {
    text(value, pointer).parse().ok()
}

pub fn conditions(object: &Value) -> Vec<Condition> {
    list(object, "/status/conditions")
        .iter()
        .map(|condition| Condition {
            kind: text(condition, "/type").to_owned(),
            status: text(condition, "/status").to_owned(),
            reason: text(condition, "/reason").to_owned(),
            message: text(condition, "/message").to_owned(),
            since: time(condition, "/lastTransitionTime"),
        })
        .collect()
}

fn workload(object: &Value) -> Workload {
    let (kind, namespace, name) = key(object);
    let template = object.pointer("/spec/template").or_else(|| object.pointer("/spec/jobTemplate/spec/template"));
    Workload {
        entity: Entity::new(kind_of(&kind), namespace, name),
        replicas: object.pointer("/spec/replicas").and_then(Value::as_i64),
        ready: object.pointer("/status/readyReplicas").and_then(Value::as_i64).unwrap_or(0),
        template: template.cloned().unwrap_or(Value::Null),
        conditions: conditions(object),
        object: object.clone(),
    }
}

/// The entity kind of a Kubernetes kind.
pub fn kind_of(kind: &str) -> EntityKind {
    match kind {
        "Deployment" => EntityKind::Deployment,
        "StatefulSet" => EntityKind::StatefulSet,
        "DaemonSet" => EntityKind::DaemonSet,
        "ReplicaSet" => EntityKind::ReplicaSet,
        "Job" => EntityKind::Job,
        "CronJob" => EntityKind::CronJob,
        "Pod" => EntityKind::Pod,
        "Service" => EntityKind::Service,
        "ConfigMap" => EntityKind::ConfigMap,
        "Secret" => EntityKind::Secret,
        "PersistentVolumeClaim" => EntityKind::PersistentVolumeClaim,
        "Node" => EntityKind::Node,
        "Namespace" => EntityKind::Namespace,
        _ => EntityKind::Unaligned,
    }
}

fn pod(object: &Value, owners: &BTreeMap<(String, String, String), (String, String)>) -> Pod {
    let (_, namespace, name) = key(object);
    let direct = owner(object);
    let revision = direct.as_ref().map_or(String::new(), |(_, name)| name.clone());
    let labels = labels(object);
    let mut top = direct.clone();
    while let Some((kind, name)) = &top {
        match owners.get(&(kind.clone(), namespace.clone(), name.clone())) {
            Some(above) => top = Some(above.clone()),
            None => break,
        }
    }
    // A ReplicaSet that was not listed still carries its Deployment's name before the template hash.
    if let Some((kind, name)) = &top
        && kind == "ReplicaSet"
        && let Some(hash) = labels.get("pod-template-hash")
        && let Some(deployment) = name.strip_suffix(&format!("-{hash}"))
    {
        top = Some(("Deployment".into(), deployment.to_owned()));
    }
    let workload = match top {
        Some((kind, name)) => Entity::new(kind_of(&kind), &namespace, name),
        None => Entity::new(EntityKind::Pod, &namespace, &name),
    };
    let mut containers = Vec::new();
    for (specs, statuses, init) in [
        ("/spec/initContainers", "/status/initContainerStatuses", true),
        ("/spec/containers", "/status/containerStatuses", false),
    ] {
        for spec in list(object, specs) {
            let status = list(object, statuses).iter().find(|status| status["name"] == spec["name"]);
            containers.push(container(spec, status.unwrap_or(&Value::Null), init));
        }
    }
    Pod {
        workload,
        revision,
        node: text(object, "/spec/nodeName").to_owned(),
        phase: text(object, "/status/phase").to_owned(),
        reason: text(object, "/status/reason").to_owned(),
        created: time(object, "/metadata/creationTimestamp"),
        conditions: conditions(object),
        containers,
        labels,
        namespace,
        name,
        object: object.clone(),
    }
}

fn container(spec: &Value, status: &Value, init: bool) -> Container {
    let waiting = status.pointer("/state/waiting");
    Container {
        name: text(spec, "/name").to_owned(),
        image: text(spec, "/image").to_owned(),
        init,
        ready: status["ready"].as_bool().unwrap_or(false),
        restarts: status["restartCount"].as_i64().unwrap_or(0),
        waiting: waiting.map(|state| (text(state, "/reason").to_owned(), text(state, "/message").to_owned())),
        terminated: status.pointer("/state/terminated").map(terminated),
        last: status.pointer("/lastState/terminated").map(terminated),
        memory_limit: spec.pointer("/resources/limits/memory").and_then(Value::as_str).and_then(quantity),
        spec: spec.clone(),
    }
}

fn terminated(state: &Value) -> Terminated {
    Terminated {
        reason: text(state, "/reason").to_owned(),
        message: text(state, "/message").to_owned(),
        exit_code: state["exitCode"].as_i64(),
        started: time(state, "/startedAt"),
        finished: time(state, "/finishedAt"),
    }
}

fn service(object: &Value) -> Service {
    let (_, namespace, name) = key(object);
    Service { namespace, name, selector: strings(object.pointer("/spec/selector")), object: object.clone() }
}

fn node(object: &Value) -> Node {
    Node {
        name: text(object, "/metadata/name").to_owned(),
        conditions: conditions(object),
        unschedulable: object.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false),
        object: object.clone(),
    }
}

/// A Kubernetes quantity as a number: bytes for memory, cores for CPU.
pub fn quantity(text: &str) -> Option<f64> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let factor = match unit {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0_f64.powi(4),
        exponent if exponent.starts_with(['e', 'E']) => 10f64.powi(exponent[1..].parse().ok()?),
        _ => return None,
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_are_read_in_all_their_units() {
        assert_eq!(quantity("128Mi"), Some(134_217_728.0));
        assert_eq!(quantity("250m"), Some(0.25));
        assert_eq!(quantity("1e3"), Some(1000.0));
        assert_eq!(quantity("lots"), None);
    }

    #[test]
    fn a_pod_is_traced_to_its_deployment_even_without_the_replica_set() {
        let pod_object = json!({
            "kind": "Pod",
            "metadata": {"namespace": "shop", "name": "checkout-7c9-x", "labels": {"pod-template-hash": "7c9"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "checkout-7c9", "controller": true}]}
        });
        let pod = pod(&pod_object, &BTreeMap::new());
        assert_eq!(pod.workload, Entity::new(EntityKind::Deployment, "shop", "checkout"));
        assert_eq!(pod.revision, "checkout-7c9");
    }
}

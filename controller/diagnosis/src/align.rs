//! Entity alignment: one name for one thing, whatever each store calls it.
//!
//! Aliases come, in this order of trust, from the closed list of candidates and the symptoms themselves, from Kubernetes
//! objects (owner references, labels, selectors), from the topology, and last from the shape of a name (pod hash, ordinal).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use crate::entity::{Entity, EntityKind};
use crate::evidence::Observations;

/// Labels that name a workload outright, the more specific first.
const WORKLOAD_LABELS: [&str; 10] = [
    "k8s.deployment.name",
    "k8s.statefulset.name",
    "k8s.daemonset.name",
    "deployment",
    "service.name",
    "service_name",
    "service",
    "destination_workload",
    "app",
    "workload",
];
const POD_LABELS: [&str; 5] = ["k8s.pod.name", "pod", "pod_name", "kubernetes_pod_name", "instance_name"];
const NAMESPACE_LABELS: [&str; 4] = ["k8s.namespace.name", "service.namespace", "namespace", "kubernetes_namespace"];
const NODE_LABELS: [&str; 3] = ["k8s.node.name", "node", "kubernetes_node"];

/// Where an alias was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AliasSource {
    Declared,
    Object,
    Selector,
    Topology,
    /// Guessed from the shape of the name.
    Shape,
}

/// One name of an entity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alias {
    pub namespace: String,
    pub name: String,
    pub entity: Entity,
    pub source: AliasSource,
}

/// The alias table of one diagnosis.
#[derive(Debug, Default)]
pub struct Aligner {
    exact: BTreeMap<(String, String), (Entity, AliasSource)>,
    /// Names without a namespace; `None` when two entities share the name.
    loose: BTreeMap<String, Option<Entity>>,
    /// Whether only listed entities may answer.
    closed: bool,
    seen: RefCell<BTreeMap<(String, String), Option<Entity>>>,
}

impl Aligner {
    pub fn new(observations: &Observations, cluster: &Cluster) -> Self {
        let mut table = Self { closed: observations.candidates.is_some(), ..Self::default() };
        for entity in observations.candidates.iter().flatten() {
            table.learn(&entity.namespace, &entity.name, entity, AliasSource::Declared);
        }
        for workload in &cluster.workloads {
            table.learn(&workload.entity.namespace, &workload.entity.name, &workload.entity, AliasSource::Object);
        }
        for pod in &cluster.pods {
            table.learn(&pod.namespace, &pod.name, &pod.workload, AliasSource::Object);
        }
        for node in &cluster.nodes {
            table.learn("", &node.name, &Entity::new(EntityKind::Node, "", &node.name), AliasSource::Object);
        }
        for service in &cluster.services {
            if let Some(workload) = cluster.selected_by(service) {
                table.learn(&service.namespace, &service.name, &workload, AliasSource::Selector);
            }
        }
        for pod in &cluster.pods {
            for key in ["app.kubernetes.io/name", "app", "k8s-app"] {
                if let Some(name) = pod.labels.get(key) {
                    table.learn(&pod.namespace, name, &pod.workload, AliasSource::Selector);
                }
            }
        }
        for signal in &observations.symptoms {
            let entity = signal.entity.workload();
            if entity.kind != EntityKind::Unaligned {
                table.learn(&entity.namespace, &entity.name, &entity, AliasSource::Declared);
            }
        }
        if let Some(topology) = observations.topology.known() {
            let ends = topology.edges.iter().flat_map(|edge| [&edge.from, &edge.to]);
            let nodes: BTreeSet<&Entity> = topology.nodes.iter().chain(ends).collect();
            for entity in nodes {
                table.learn(&entity.namespace, &entity.name, &entity.workload(), AliasSource::Topology);
            }
        }
        table
    }

    /// Adds a name unless a more trusted source already gave it a meaning.
    fn learn(&mut self, namespace: &str, name: &str, entity: &Entity, source: AliasSource) {
        let key = (namespace.to_owned(), name.to_owned());
        if self.exact.contains_key(&key) {
            return;
        }
        let entity = self.resolve(entity);
        self.loose
            .entry(name.to_owned())
            .and_modify(|known| {
                if known.as_ref().is_some_and(|known| *known != entity) {
                    *known = None;
                }
            })
            .or_insert_with(|| Some(entity.clone()));
        self.exact.insert(key, (entity, source));
    }

    /// The name that an entity goes by in answers: itself, or the listed candidate of the same name.
    pub fn resolve(&self, entity: &Entity) -> Entity {
        let entity = entity.workload();
        match self.lookup(&entity.namespace, &entity.name) {
            Some(known) if self.closed || known.kind != EntityKind::Service => known,
            _ => entity,
        }
    }

    fn lookup(&self, namespace: &str, name: &str) -> Option<Entity> {
        if let Some((entity, _)) = self.exact.get(&(namespace.to_owned(), name.to_owned())) {
            return Some(entity.clone());
        }
        match namespace.is_empty() || self.closed {
            true => self.loose.get(name).cloned().flatten(),
            false => self.exact.get(&(String::new(), name.to_owned())).map(|(entity, _)| entity.clone()),
        }
    }

    /// The entity behind a raw name, by alias or by the shape of the name.
    pub fn named(&self, namespace: &str, name: &str) -> Option<Entity> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(known) = self.seen.borrow().get(&key) {
            return known.clone();
        }
        let found = self
            .lookup(namespace, name)
            .or_else(|| shorter_names(name).into_iter().find_map(|short| self.lookup(namespace, short)));
        self.seen.borrow_mut().insert(key, found.clone());
        found
    }

    /// The entity that wrote a log line: the store names a pod, a workload, or `namespace/name`.
    pub fn source(&self, source: &str) -> Option<Entity> {
        let (namespace, name) = source.split_once('/').unwrap_or(("", source));
        self.named(namespace, name)
    }

    /// The entity that a series or a resource speaks about.
    pub fn labelled(&self, labels: &BTreeMap<String, String>) -> Option<Entity> {
        let first = |keys: &[&str]| keys.iter().find_map(|key| labels.get(*key)).map(String::as_str);
        let namespace = first(&NAMESPACE_LABELS).unwrap_or("");
        let pod = first(&POD_LABELS).and_then(|pod| self.named(namespace, pod));
        let workload =
            || WORKLOAD_LABELS.iter().filter_map(|key| labels.get(*key)).find_map(|name| self.named(namespace, name));
        pod.or_else(workload).or_else(|| first(&NODE_LABELS).and_then(|node| self.named("", node)))
    }

    /// What labels call the thing that they speak about, for people.
    pub fn shown(&self, labels: &BTreeMap<String, String>) -> String {
        let mut keys = POD_LABELS.iter().chain(&WORKLOAD_LABELS).chain(&["source", "destination"]).chain(&NODE_LABELS);
        let key = keys.find_map(|key| Some((*key, labels.get(*key)?)));
        key.map_or_else(|| "series without a workload label".to_owned(), |(key, value)| format!("{key}={value}"))
    }

    /// The whole table, for people.
    pub fn aliases(&self) -> Vec<Alias> {
        self.exact
            .iter()
            .map(|((namespace, name), (entity, source))| Alias {
                namespace: namespace.clone(),
                name: name.clone(),
                entity: entity.clone(),
                source: *source,
            })
            .collect()
    }
}

/// What remains of a name when pod hash, template hash or ordinal are cut off, longest first.
///
/// At most two parts are cut: `checkout-5d9c7b9f4-x2x9k`, `db-0`, `agent-x2x9k`; also `.namespace.svc` suffixes.
pub fn shorter_names(name: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut at = name;
    if let Some((host, _)) = name.split_once('.') {
        names.push(host);
        at = host;
    }
    for _ in 0..2 {
        let Some((head, tail)) = at.rsplit_once('-') else { break };
        let cut =
            !head.is_empty() && tail.len() <= 10 && tail.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !cut {
            break;
        }
        names.push(head);
        at = head;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_hashes_ordinals_and_domains_are_cut_off() {
        assert_eq!(shorter_names("checkout-5d9c7b9f4-x2x9k"), ["checkout-5d9c7b9f4", "checkout"]);
        assert_eq!(shorter_names("db-0"), ["db"]);
        assert_eq!(shorter_names("cart.shop.svc.cluster.local"), ["cart"]);
        assert!(shorter_names("checkout").is_empty());
    }

    #[test]
    fn a_name_in_two_namespaces_is_nobody_without_its_namespace() {
        let mut table = Aligner::default();
        for namespace in ["a", "b"] {
            let entity = Entity::new(EntityKind::Deployment, namespace, "web");
            table.learn(namespace, "web", &entity, AliasSource::Object);
        }
        assert_eq!(table.named("", "web"), None);
        assert_eq!(table.named("a", "web-5d9c7b9f4-x2x9k").map(|entity| entity.namespace), Some("a".into()));
    }
}

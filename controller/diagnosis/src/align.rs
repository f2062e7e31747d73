//! Entity alignment: one name for one thing, whatever each store calls it.
//!
//! Aliases come, in this order of trust, from the closed list of candidates and the symptoms themselves, from Kubernetes
//! objects (owner references, labels, selectors), from the topology, and last from the shape of a name (pod hash, ordinal).
//! Addresses and container ids mean somebody for a time only.

mod held;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::cluster::{Cluster, list, text};
use crate::entity::{Entity, EntityKind};
use crate::evidence::{LogLine, Observations, Series};

pub use held::Tenure;
use held::{Held, bare};

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
/// Labels that tell an address or the id of a container: asked last, since those go from one pod to the next.
const HELD_LABELS: [&str; 5] = ["k8s.pod.ip", "pod_ip", "container.id", "container_id", "instance"];

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
    /// When it meant that.
    pub held: Tenure,
}

/// The alias table of one diagnosis.
#[derive(Debug)]
pub struct Aligner {
    exact: BTreeMap<(String, String), (Entity, AliasSource)>,
    /// Addresses and container ids, by the time when they meant somebody.
    held: Held,
    /// The moment of the snapshot.
    now: Timestamp,
    /// Names without a namespace; `None` when two entities share the name.
    loose: BTreeMap<String, Option<Entity>>,
    /// Who keeps its data in a claim, by namespace and name of the claim.
    claims: BTreeMap<(String, String), Entity>,
    /// Whether only listed entities may answer.
    closed: bool,
    seen: RefCell<BTreeMap<(String, String), Option<Entity>>>,
}

impl Aligner {
    fn empty(now: Timestamp) -> Self {
        Self {
            exact: BTreeMap::new(),
            held: Held::default(),
            now,
            loose: BTreeMap::new(),
            claims: BTreeMap::new(),
            closed: false,
            seen: RefCell::default(),
        }
    }

    pub fn new(observations: &Observations, cluster: &Cluster) -> Self {
        let mut table = Self::empty(observations.at);
        table.closed = observations.candidates.is_some();
        table.held = Held::of(cluster);
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
        // What scales a workload is spoken of in alerts under a name of its own.
        for scaler in cluster.others("HorizontalPodAutoscaler") {
            let target = text(scaler, "/spec/scaleTargetRef/name");
            let namespace = text(scaler, "/metadata/namespace");
            if let Some((entity, _)) = table.exact.get(&(namespace.to_owned(), target.to_owned())).cloned() {
                table.learn(namespace, text(scaler, "/metadata/name"), &entity, AliasSource::Object);
            }
        }
        for pod in &cluster.pods {
            for volume in list(&pod.object, "/spec/volumes") {
                let claim = text(volume, "/persistentVolumeClaim/claimName");
                if !claim.is_empty() {
                    table.claims.insert((pod.namespace.clone(), claim.to_owned()), pod.workload.clone());
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
        // What goes from one to the next has no meaning for all time.
        if self.exact.contains_key(&key) || self.held.knows(name) {
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
        if self.held.knows(name) {
            return self.held.at(name, self.now).cloned();
        }
        match namespace.is_empty() || self.closed {
            true => self.loose.get(name).cloned().flatten(),
            false => self.exact.get(&(String::new(), name.to_owned())).map(|(entity, _)| entity.clone()),
        }
    }

    /// The entity behind a raw name, by alias or by the shape of the name; an address means whoever holds it now.
    pub fn named(&self, namespace: &str, name: &str) -> Option<Entity> {
        self.named_at(namespace, name, None)
    }

    /// The same for a name that was said at some time: an address meant whoever held it then.
    fn named_at(&self, namespace: &str, name: &str, at: Option<Timestamp>) -> Option<Entity> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(known) = self.seen.borrow().get(&key) {
            return known.clone();
        }
        if self.held.knows(bare(name)) {
            return self.held.at(bare(name), at.unwrap_or(self.now)).cloned();
        }
        let found = self
            .lookup(namespace, name)
            .or_else(|| shorter_names(name).into_iter().find_map(|short| self.lookup(namespace, short)));
        self.seen.borrow_mut().insert(key, found.clone());
        found
    }

    /// The entity that wrote something: the store names a pod, a workload, `namespace/name`, an address or a container.
    pub fn source(&self, source: &str) -> Option<Entity> {
        self.source_at(source, None)
    }

    /// The entity that wrote a log line, by who bore the name of its source then.
    pub fn of_line(&self, line: &LogLine) -> Option<Entity> {
        self.source_at(&line.source, line.at_ns.and_then(|at| Timestamp::from_nanosecond(i128::from(at)).ok()))
    }

    fn source_at(&self, source: &str, at: Option<Timestamp>) -> Option<Entity> {
        match source.split_once('/') {
            Some((namespace, name)) if !source.contains("://") => {
                // Where a bare name has a meaning, it is not that of another namespace's.
                let found = self.named_at(namespace, name, at);
                found.filter(|entity| self.closed || entity.namespace.is_empty() || entity.namespace == namespace)
            }
            _ => self.named_at("", source, at),
        }
    }

    /// The entity that a series speaks about, by who bore its labels when it was last measured.
    pub fn of_series(&self, series: &Series) -> Option<Entity> {
        let last = series.samples.last().and_then(|(at, _)| Timestamp::from_millisecond((at * 1e3) as i64).ok());
        self.labelled(&series.labels, last)
    }

    fn labelled(&self, labels: &BTreeMap<String, String>, at: Option<Timestamp>) -> Option<Entity> {
        let first = |keys: &[&str]| keys.iter().find_map(|key| labels.get(*key)).map(String::as_str);
        let namespace = first(&NAMESPACE_LABELS).unwrap_or("");
        let pod = first(&POD_LABELS).and_then(|pod| self.named(namespace, pod));
        let workload =
            || WORKLOAD_LABELS.iter().filter_map(|key| labels.get(*key)).find_map(|name| self.named(namespace, name));
        let held = || {
            let told = HELD_LABELS.iter().filter_map(|key| labels.get(*key));
            told.filter(|name| self.held.knows(bare(name))).find_map(|name| self.named_at("", name, at))
        };
        let claim = || {
            labels
                .get("persistentvolumeclaim")
                .and_then(|claim| self.claims.get(&(namespace.to_owned(), claim.clone())).cloned())
        };
        pod.or_else(workload)
            .or_else(claim)
            .or_else(|| first(&NODE_LABELS).and_then(|node| self.named("", node)))
            .or_else(held)
    }

    /// What labels call the thing that they speak about, for people.
    pub fn shown(&self, labels: &BTreeMap<String, String>) -> String {
        let named = POD_LABELS.iter().chain(&WORKLOAD_LABELS).chain(&["source", "destination"]).chain(&NODE_LABELS);
        let key = named.chain(&HELD_LABELS).find_map(|key| Some((*key, labels.get(*key)?)));
        key.map_or_else(|| "series without a workload label".to_owned(), |(key, value)| format!("{key}={value}"))
    }

    /// The whole table, for people.
    pub fn aliases(&self) -> Vec<Alias> {
        let alias = |namespace: &str, name: &str, entity: &Entity, source, held| Alias {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            entity: entity.clone(),
            source,
            held,
        };
        let names = self
            .exact
            .iter()
            .map(|((namespace, name), (entity, source))| alias(namespace, name, entity, *source, Tenure::ALWAYS));
        let held = self.held.all().map(|(name, (tenure, entity, source))| alias("", name, entity, *source, *tenure));
        names.chain(held).collect()
    }
}

/// What remains of a name when pod hash, template hash or ordinal are cut off, longest first.
///
/// At most two parts are cut: `checkout-5d9c7b9f4-x2x9k`, `db-0`, `agent-x2x9k`; also `.namespace.svc` suffixes. A third one only when
/// it is a version, as where each release is a Deployment of its own behind one Service: `reviews-v2-5d9c7b9f4-x2x9k`.
pub fn shorter_names(name: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut at = name;
    if let Some((host, _)) = name.split_once('.') {
        names.push(host);
        at = host;
    }
    for part in 0..3 {
        let Some((head, tail)) = at.rsplit_once('-') else { break };
        let cut =
            !head.is_empty() && tail.len() <= 10 && tail.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !cut || (part == 2 && !is_version(tail)) {
            break;
        }
        names.push(head);
        at = head;
    }
    names
}

/// `v1`, `v12`.
fn is_version(part: &str) -> bool {
    part.strip_prefix('v').is_some_and(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_hashes_ordinals_and_domains_are_cut_off() {
        assert_eq!(shorter_names("checkout-5d9c7b9f4-x2x9k"), ["checkout-5d9c7b9f4", "checkout"]);
        assert_eq!(shorter_names("db-0"), ["db"]);
        let of_a_version = shorter_names("reviews-v2-5d9c7b9f4-x2x9k");
        assert_eq!(of_a_version, ["reviews-v2-5d9c7b9f4", "reviews-v2", "reviews"]);
        assert_eq!(shorter_names("shop-cart-5d9c7b9f4-x2x9k").last(), Some(&"shop-cart"), "no part of a name is cut");
        assert_eq!(shorter_names("cart.shop.svc.cluster.local"), ["cart"]);
        assert!(shorter_names("checkout").is_empty());
    }

    #[test]
    fn a_name_with_its_namespace_is_not_that_of_another() {
        let mut table = Aligner::empty(Timestamp::UNIX_EPOCH);
        let entity = Entity::new(EntityKind::Deployment, "shop", "web");
        table.learn("shop", "web", &entity, AliasSource::Object);
        table.learn("", "web", &Entity::new(EntityKind::Unaligned, "", "web"), AliasSource::Topology);
        assert_eq!(table.source("staging/web"), None);
        assert_eq!(table.source("shop/web"), Some(entity.clone()));
        assert_eq!(table.source("web"), Some(entity));
    }

    #[test]
    fn a_name_in_two_namespaces_is_nobody_without_its_namespace() {
        let mut table = Aligner::empty(Timestamp::UNIX_EPOCH);
        for namespace in ["a", "b"] {
            let entity = Entity::new(EntityKind::Deployment, namespace, "web");
            table.learn(namespace, "web", &entity, AliasSource::Object);
        }
        assert_eq!(table.named("", "web"), None);
        assert_eq!(table.named("a", "web-5d9c7b9f4-x2x9k").map(|entity| entity.namespace), Some("a".into()));
    }

    fn pod(name: &str, phase: &str, since: &str, finished: Option<&str>) -> serde_json::Value {
        let id = if name == "job-old" { "a" } else { "b" };
        let state = match finished {
            Some(at) => {
                serde_json::json!({"terminated": {"startedAt": since, "finishedAt": at, "containerID": format!("containerd://{}", id.repeat(64))}})
            }
            None => serde_json::json!({"running": {"startedAt": since}}),
        };
        serde_json::json!({
            "kind": "Pod", "metadata": {"namespace": "shop", "name": name, "creationTimestamp": since},
            "spec": {"containers": [{"name": "app"}]},
            "status": {"phase": phase, "podIP": "10.0.0.7", "startTime": since, "containerStatuses": [
                {"name": "app", "state": state, "containerID": format!("containerd://{}", id.repeat(64))}]},
        })
    }

    fn reborn() -> Aligner {
        let mut seen = crate::clusters::tests::observed(Vec::new(), Vec::new());
        seen.at = "2026-01-01T12:00:00Z".parse().unwrap();
        seen.objects = crate::evidence::Answer::Known(vec![
            pod("job-old", "Succeeded", "2026-01-01T10:00:00Z", Some("2026-01-01T10:30:00Z")),
            pod("web-new", "Running", "2026-01-01T11:00:00Z", None),
        ]);
        Aligner::new(&seen, &Cluster::new(&seen))
    }

    #[test]
    fn an_address_means_whoever_held_it_then() {
        let table = reborn();
        let at = |time: &str| Some(format!("2026-01-01T{time}:00Z").parse().unwrap());
        let name = |time| table.source_at("10.0.0.7:8080", time).map(|entity| entity.name);
        assert_eq!(name(at("10:10")).as_deref(), Some("job-old"));
        assert_eq!(name(at("10:45")), None, "given back, and nobody else had it yet");
        assert_eq!(name(at("11:30")).as_deref(), Some("web-new"));
        assert_eq!(name(None).as_deref(), Some("web-new"));
        let samples = vec![(at("10:10").unwrap().as_second() as f64, 1.0)];
        let labels = BTreeMap::from([("instance".to_owned(), "10.0.0.7:8080".to_owned())]);
        let series = Series { labels, samples, asked: String::new() };
        assert_eq!(table.of_series(&series).map(|entity| entity.name).as_deref(), Some("job-old"));
    }

    #[test]
    fn a_container_id_is_of_one_life_only_and_aliases_say_when() {
        let table = reborn();
        let id = format!("containerd://{}", "a".repeat(64));
        let at = |time: &str| Some(format!("2026-01-01T{time}:00Z").parse().unwrap());
        assert_eq!(table.source_at(&id, at("10:10")).map(|entity| entity.name).as_deref(), Some("job-old"));
        assert_eq!(table.source_at(&id, at("11:30")), None);
        let until = table.aliases().into_iter().find(|alias| alias.name == "10.0.0.7").unwrap().held.until;
        assert_eq!(until, at("10:30"));
    }
}

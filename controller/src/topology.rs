//! Who owns whom and who calls whom, kept warm for grouping: a signal must find its incident without asking anybody.
//!
//! Objects are listed anew when a namespace's picture is older than [`FRESH`]; call edges are asked of the trace store at the
//! same time, and what one rollout changed together is read off the ReplicaSets (`rollouts`). What is missing in a picture is corrected later by joins.

mod rollouts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use amend_diagnosis::align::Aligner;
use amend_diagnosis::cluster::Cluster;
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{Answer, LinkKind, Observations, Topology, TopologyEdge, Window};
use amend_diagnosis::incident::Links;
use amend_diagnosis::signal::Signal;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::sync::Mutex;

use amend_telemetry::questions::Target;
use serde_json::Value;

use crate::cluster;
use crate::sources::Sources;

/// How old a picture may be. Pods that are younger than it are found by the shape of their names.
const FRESH: SignedDuration = SignedDuration::from_secs(20);

/// Resolved names that a picture remembers.
const NAMES_MAX: usize = 10_000;

/// How long ago a call may have been made to count as an edge.
const CALLS_WITHIN: SignedDuration = SignedDuration::from_hours(1);

/// What a namespace looked like.
pub struct Picture {
    taken: Timestamp,
    observations: Observations,
    pub links: Links,
    /// Why nobody told who calls whom; `None`: somebody did.
    pub calls_unknown: Option<String>,
    /// Names that were resolved already: in a storm the same few come again and again.
    resolved: std::sync::Mutex<BTreeMap<Entity, Entity>>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Picture")
            .field("taken", &self.taken)
            .field("edges", &self.links.edges.len())
            .finish_non_exhaustive()
    }
}

impl Picture {
    /// A picture of these objects and nothing else.
    #[cfg(test)]
    pub(crate) fn of_objects(objects: Vec<Value>) -> Self {
        Self::standing(objects, Timestamp::UNIX_EPOCH)
    }

    /// The same of objects that were just read.
    pub(crate) fn standing(objects: Vec<Value>, taken: Timestamp) -> Self {
        Self {
            taken,
            observations: nothing_but(objects, Vec::new(), taken),
            links: Links::default(),
            calls_unknown: None,
            resolved: std::sync::Mutex::default(),
        }
    }

    fn is_fresh(&self, now: Timestamp) -> bool {
        now.duration_since(self.taken) < FRESH
    }

    /// A workload under the names of its Services, ReplicaSets and pods.
    pub fn target(&self, workload: &Entity) -> Target {
        let cluster = Cluster::new(&self.observations);
        let selecting =
            cluster.services.iter().filter(|service| cluster.selected_by(service).as_ref() == Some(workload));
        let mut services: Vec<String> = selecting.map(|service| service.name.clone()).collect();
        if !services.contains(&workload.name) {
            services.push(workload.name.clone());
        }
        let owned = |object: &&Value| {
            let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            object["kind"] == "ReplicaSet" && owners.into_iter().any(|owner| owner["name"] == workload.name.as_str())
        };
        let objects = self.observations.objects.known().map(Vec::as_slice).unwrap_or_default();
        let name = |object: &Value| object["metadata"]["name"].as_str().map(str::to_owned);
        Target {
            entity: workload.clone(),
            services,
            replica_sets: objects.iter().filter(owned).filter_map(name).collect(),
            pods: cluster.pods_of(workload).map(|pod| pod.name.clone()).collect(),
        }
    }

    /// The same for a time that is over: what its ReplicaSets and pods are called now says nothing, the shape of a name does.
    pub fn target_then(&self, workload: &Entity) -> Target {
        Target { replica_sets: Vec::new(), pods: Vec::new(), ..self.target(workload) }
    }

    /// Calls as a store tells them, between the workloads of this picture.
    pub fn calls_between(&self, edges: &[TopologyEdge]) -> Vec<TopologyEdge> {
        let cluster = Cluster::new(&self.observations);
        resolved_calls(edges, &Aligner::new(&self.observations, &cluster))
    }

    /// What was listed, as the rules see it.
    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::new(&self.observations)
    }

    /// Every workload that was listed.
    pub fn workloads(&self) -> Vec<Entity> {
        Cluster::new(&self.observations).workloads.into_iter().map(|workload| workload.entity).collect()
    }

    /// Workloads linked to one over calls, nearest first: what it calls, then what calls it.
    pub fn neighbours(&self, workload: &Entity, most: usize) -> Vec<Entity> {
        let mut reached = vec![workload.clone()];
        let mut next = 0;
        while next < reached.len() && reached.len() <= most {
            let here = reached[next].clone();
            for edge in self.links.edges.iter().filter(|edge| edge.kind == LinkKind::Calls) {
                for other in [(&edge.from, &edge.to), (&edge.to, &edge.from)]
                    .into_iter()
                    .filter(|(from, _)| **from == here)
                    .map(|(_, to)| to)
                {
                    if !reached.contains(other) {
                        reached.push(other.clone());
                    }
                }
            }
            next += 1;
        }
        reached.into_iter().skip(1).take(most).collect()
    }

    /// The workload that a name stands for: pods and replica sets are named by their owner.
    ///
    /// A pod is often gone, or not yet in the picture, when its alert arrives: then the shape of its name says whose it
    /// was. Other kinds are never shortened, since `checkout-v2` need not belong to `checkout`.
    pub fn resolved(&self, entities: impl IntoIterator<Item = Entity>) -> Vec<Entity> {
        let entities: Vec<Entity> = entities.into_iter().collect();
        let mut known = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if entities.iter().any(|entity| !known.contains_key(entity)) {
            let cluster = Cluster::new(&self.observations);
            let aligner = Aligner::new(&self.observations, &cluster);
            let by_shape = |entity: &Entity| match entity.kind {
                EntityKind::Pod | EntityKind::ReplicaSet => aligner.named(&entity.namespace, &entity.name),
                _ => None,
            };
            if known.len() > NAMES_MAX {
                known.clear();
            }
            for entity in &entities {
                let workload = || by_shape(entity).unwrap_or_else(|| aligner.resolve(entity));
                known.entry(entity.clone()).or_insert_with(workload);
            }
        }
        entities.iter().map(|entity| known.get(entity).unwrap_or(entity).clone()).collect()
    }
}

/// Pictures of the namespaces that signals came from. Each has a lock of its own: who waits for a slow store of one namespace does
/// not keep the others waiting.
#[derive(Clone, Debug, Default)]
pub struct Topologies {
    pictures: Arc<Mutex<BTreeMap<String, Place>>>,
}

/// The newest picture of one namespace, once there is one.
type Place = Arc<Mutex<Option<Arc<Picture>>>>;

impl Topologies {
    /// The picture of a namespace, taken anew when it is stale.
    pub async fn of(&self, client: &Client, sources: &Sources, namespace: &str, now: Timestamp) -> Arc<Picture> {
        let place = {
            let mut pictures = self.pictures.lock().await;
            forget_stale(&mut pictures, now);
            pictures.entry(namespace.to_owned()).or_default().clone()
        };
        let mut known = place.lock().await;
        if let Some(picture) = known.as_ref().filter(|picture| picture.is_fresh(now)) {
            return picture.clone();
        }
        let picture = Arc::new(take(client, sources, namespace, now).await);
        *known = Some(picture.clone());
        picture
    }
}

/// Lets go of the pictures that would be taken anew anyway: a cluster has many namespaces, and few of them are in trouble at once.
fn forget_stale(pictures: &mut BTreeMap<String, Place>, now: Timestamp) {
    pictures.retain(|_, place| {
        // Whoever holds one too is about to look at it, or to take it.
        Arc::strong_count(place) > 1
            || place.try_lock().is_ok_and(|known| known.as_ref().is_some_and(|picture| picture.is_fresh(now)))
    });
}

async fn take(client: &Client, sources: &Sources, namespace: &str, now: Timestamp) -> Picture {
    let window = Window { from: now - CALLS_WITHIN, to: now };
    let kinds = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod", "Service", "Job", "CronJob"];
    let lists = kinds
        .into_iter()
        .filter_map(cluster::Read::of_kind)
        .map(|read| cluster::list(client, read, Some(namespace), window));
    let (lists, calls) = futures::join!(futures::future::join_all(lists), sources.calls(namespace, window));
    let mut objects = Vec::new();
    for (answer, _) in lists {
        if let Answer::Known(found) = answer {
            objects.extend(found);
        }
    }
    let rollouts = rollouts::lately(client, &objects, now).await;
    let (calls, calls_unknown) = match calls {
        Answer::Known(calls) => (calls, None),
        Answer::Unknown { why } => (Vec::new(), Some(why)),
    };
    let mut observations = nothing_but(objects, calls, now);
    let cluster = Cluster::new(&observations);
    let aligner = Aligner::new(&observations, &cluster);
    let told = observations.topology.known().map(|topology| topology.edges.clone()).unwrap_or_default();
    let edges = resolved_calls(&told, &aligner);
    drop(aligner);
    observations.topology = Answer::Known(Topology { nodes: Vec::new(), edges: edges.clone() });
    Picture {
        taken: now,
        observations,
        links: Links { edges, rollouts },
        calls_unknown,
        resolved: std::sync::Mutex::default(),
    }
}

/// Calls between the things of a picture. A bare name that none of them goes by stays a name without a namespace: a store that
/// serves the whole cluster tells others' calls as well.
fn resolved_calls(edges: &[TopologyEdge], aligner: &Aligner) -> Vec<TopologyEdge> {
    edges
        .iter()
        .filter(|edge| edge.kind == LinkKind::Calls)
        .map(|edge| TopologyEdge { from: aligner.resolve(&edge.from), to: aligner.resolve(&edge.to), kind: edge.kind })
        .collect()
}

fn nothing_but(objects: Vec<serde_json::Value>, calls: Vec<TopologyEdge>, now: Timestamp) -> Observations {
    let not_asked = || "not needed for grouping".to_owned();
    Observations {
        at: now,
        began: None,
        normal: None,
        fault: None,
        symptoms: Vec::new(),
        candidates: None,
        topology: Answer::Known(Topology { nodes: Vec::new(), edges: calls }),
        series: Answer::unknown(not_asked()),
        spans: Answer::unknown(not_asked()),
        exemplars: Answer::unknown(not_asked()),
        logs: Answer::unknown(not_asked()),
        changes: Answer::unknown(not_asked()),
        objects: Answer::Known(objects),
        events: Answer::unknown(not_asked()),
        asked: Vec::new(),
    }
}

/// Puts signals under the names of their workloads; the container stays. Each picture speaks for its own namespace.
///
/// All names are resolved at once: whatever is built for that is built once for a storm of hundreds.
pub fn align(signals: &mut [Signal], namespace: &str, picture: &Picture) {
    let here = |signal: &Signal| signal.entity.namespace == namespace;
    let named: BTreeSet<Entity> = signals.iter().filter(|one| here(one)).map(|one| one.entity.clone()).collect();
    let resolved: BTreeMap<Entity, Entity> =
        named.iter().cloned().zip(picture.resolved(named.iter().cloned())).collect();
    for signal in signals.iter_mut().filter(|signal| here(signal)) {
        if let Some(entity) = resolved.get(&signal.entity) {
            let container = signal.entity.container.take();
            signal.entity = Entity { container, ..entity.clone() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        let deployment = serde_json::json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "payment", "namespace": "shop", "uid": "1" },
            "spec": { "selector": { "matchLabels": { "app": "payment" } } },
        });
        Picture::of_objects(vec![deployment])
    }

    #[test]
    fn pictures_that_are_stale_and_that_nobody_waits_for_are_let_go() {
        let now = Timestamp::UNIX_EPOCH + FRESH + FRESH;
        let at = |taken: Timestamp| Place::new(Mutex::new(Some(Arc::new(Picture { taken, ..picture() }))));
        let mut pictures: BTreeMap<String, Place> =
            [("stale", at(now - FRESH)), ("fresh", at(now)), ("wanted", at(now - FRESH))]
                .map(|(name, place)| (name.to_owned(), place))
                .into();
        let waits = pictures["wanted"].clone();
        forget_stale(&mut pictures, now);
        assert_eq!(pictures.keys().collect::<Vec<_>>(), ["fresh", "wanted"]);
        drop(waits);
        forget_stale(&mut pictures, now);
        assert_eq!(pictures.keys().collect::<Vec<_>>(), ["fresh"]);
    }

    #[test]
    fn a_call_of_another_namespace_is_not_taken_for_one_of_this() {
        let called = |from: &str, to: &str| {
            let end = |name: &str| Entity::new(EntityKind::Unaligned, "", name);
            TopologyEdge { from: end(from), to: end(to), kind: LinkKind::Calls }
        };
        let calls = vec![called("payment", "mainframe"), called("elsewhere", "payment")];
        let objects = picture().observations.objects.known().cloned().unwrap_or_default();
        let observations = nothing_but(objects, calls.clone(), Timestamp::UNIX_EPOCH);
        let aligner = Aligner::new(&observations, &Cluster::new(&observations));
        let ends: Vec<String> = resolved_calls(&calls, &aligner)
            .iter()
            .flat_map(|edge| [edge.from.to_string(), edge.to.to_string()])
            .collect();
        let ours = "shop/Deployment/payment";
        assert_eq!(ends, [ours, "Unaligned/mainframe", "Unaligned/elsewhere", ours]);
    }

    #[test]
    fn the_alert_of_a_pod_that_is_gone_is_about_its_workload() {
        let gone = Entity::new(EntityKind::Pod, "shop", "payment-2hdz5jbbz6-76d22");
        assert_eq!(picture().resolved([gone]), [Entity::new(EntityKind::Deployment, "shop", "payment")]);
    }

    #[test]
    fn a_deployment_that_is_gone_is_not_taken_for_another_by_its_name() {
        let gone = Entity::new(EntityKind::Deployment, "shop", "payment-v2");
        assert_eq!(picture().resolved([gone.clone()]), [gone]);
    }

    #[test]
    fn a_pod_of_nobody_stays_what_it_is() {
        let bare = Entity::new(EntityKind::Pod, "shop", "debug-shell");
        assert_eq!(picture().resolved([bare.clone()]), [bare]);
    }
}

//! What several sick workloads share is the node: their pods on it are sick and those elsewhere are not, or their calls are slow
//! wherever they cross its border and quick where they stay on one side of it.
//!
//! Read from what the other extractors found, so it holds whatever measured it. Where a pod runs says the pod itself
//! (`spec.nodeName`), live and in saved cases alike.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::cluster::Pod;
use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::finding::{Finding, Modality};
use crate::metric::{Family, name_of};
use crate::scene::Scene;

/// Fewer workloads than this have nothing in common.
const WORKLOADS_MIN: usize = 2;
/// Pods of a node that tell a majority.
const PODS_MIN: usize = 3;
/// A finding of this weight says that a workload is slow by itself, a smaller one that it is slow at all.
const BY_ITSELF: f64 = 1.5;
/// Each slow caller whose calls cross the border, up to four; each quick one that stays inside; against: each quick one that crosses.
const CROSSING: f64 = 1.0;
const CROSSING_MAX: usize = 4;
const INSIDE: f64 = 0.5;
const INSIDE_MAX: usize = 2;
const QUICK: f64 = 1.5;
/// What the share of slow workloads on the node itself counts: it tells the two sides of one border apart.
const SIDE: f64 = 1.5;
/// Pods of several workloads, sick on one node only.
const SICK: f64 = 4.0;
/// Most that a node takes from what its workloads show: they have it from the node.
const SHARED: f64 = 4.0;

pub fn findings(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for node in nodes(scene) {
        findings.extend(sick_pods(scene, found, &node));
        findings.extend(ended_pods(scene, &node));
    }
    findings.extend(borders(scene, found));
    findings
}

/// Nodes that may be the answer.
fn nodes(scene: &Scene<'_>) -> Vec<Entity> {
    let names: BTreeSet<&str> = scene.cluster.pods.iter().map(|pod| pod.node.as_str()).collect();
    let known = names.into_iter().filter(|name| !name.is_empty()).map(|name| Entity::new(EntityKind::Node, "", name));
    let listed = |node: &Entity| scene.observations.candidates.as_ref().is_none_or(|listed| listed.contains(node));
    known.filter(listed).collect()
}

/// Several workloads have a sick pod beside well ones, and all of these pods run here.
fn sick_pods(scene: &Scene<'_>, found: &[Finding], node: &Entity) -> Vec<Finding> {
    let sick: BTreeMap<&Entity, &Finding> = found
        .iter()
        .filter(|finding| finding.weight > 0.0 && finding.entity.kind != EntityKind::Node)
        .filter(|finding| finding.measures.contains_key("pod") && finding.measures.contains_key("node"))
        .map(|finding| (&finding.entity, finding))
        .collect();
    let here = sick.values().filter(|finding| finding.measures["node"] == node.name).count();
    if here < WORKLOADS_MIN || here < sick.len() {
        return Vec::new();
    }
    let slow = sick.values().all(|finding| finding.kind == cause::LATENCY);
    let kind = if slow { cause::NETWORK } else { cause::NODE_PRESSURE };
    let names = sick.keys().map(|entity| entity.name.as_str()).collect::<Vec<_>>().join(", ");
    let sentence = format!("the sick pods of {names} all run on {}, and their other pods are well", node.name);
    let asked = sick.values().map(|finding| finding.asked.clone()).find(|asked| !asked.is_empty()).unwrap_or_default();
    let own = Finding::new(node.clone(), kind, Modality::Metrics, SICK + (here - WORKLOADS_MIN) as f64, sentence);
    let mut findings = vec![own.labelled(format!("{here} sick pods")).asked(asked)];
    findings.extend(sick.values().map(|finding| from_the_node(scene, node, finding, SHARED)));
    findings
}

/// More than half of the pods of a node are not ready or ended since the trouble began, and hardly any elsewhere.
fn ended_pods(scene: &Scene<'_>, node: &Entity) -> Vec<Finding> {
    let Some(onset) = scene.onset else { return Vec::new() };
    let (here, elsewhere): (Vec<&Pod>, Vec<&Pod>) =
        scene.cluster.pods.iter().filter(|pod| !pod.node.is_empty()).partition(|pod| pod.node == node.name);
    let broken = |pods: &[&Pod]| pods.iter().filter(|pod| is_broken(pod, onset)).count();
    let workloads: BTreeSet<&Entity> =
        here.iter().filter(|pod| is_broken(pod, onset)).map(|pod| &pod.workload).collect();
    let most = here.len() >= PODS_MIN && 2 * broken(&here) > here.len() && workloads.len() >= WORKLOADS_MIN;
    if !most || elsewhere.len() < PODS_MIN || broken(&elsewhere) * 10 > elsewhere.len() {
        return Vec::new();
    }
    let sentence = format!(
        "{} of {} pods on {} are not ready or ended since, and {} of {} elsewhere",
        broken(&here),
        here.len(),
        node.name,
        broken(&elsewhere),
        elsewhere.len()
    );
    let asked = scene.questions().about(&["pods", "Pod", "objects"]);
    let own = Finding::new(node.clone(), cause::NODE_NOT_READY, Modality::State, SICK, sentence.clone())
        .labelled(format!("{} of {} pods", broken(&here), here.len()))
        .asked(&asked);
    let against = workloads.into_iter().flat_map(|workload| {
        [cause::CRASHING, cause::UNAVAILABLE]
            .map(|kind| Finding::new(workload.clone(), kind, Modality::State, -SHARED, sentence.clone()).asked(&asked))
    });
    std::iter::once(own).chain(against).collect()
}

/// An end that its own limit or image explains is no sign of the node.
fn is_broken(pod: &Pod, onset: Timestamp) -> bool {
    let named = |reason: &str| {
        ["OOMKilled", "ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError"].contains(&reason)
    };
    let own = |container: &crate::cluster::Container| {
        container.last.as_ref().is_some_and(|last| named(&last.reason))
            || container.waiting.as_ref().is_some_and(|(reason, _)| named(reason))
    };
    let ended = |container: &crate::cluster::Container| {
        container.last.as_ref().and_then(|last| last.finished).is_some_and(|at| at >= onset)
    };
    let working: Vec<_> = pod.containers.iter().filter(|container| !container.init).collect();
    !working.iter().any(|container| own(container))
        && working.iter().any(|container| !container.ready || ended(container))
}

/// How a workload answers, as far as anybody measured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    SlowByItself,
    /// Slow, or silent: what it waits for may be the reason.
    Slow,
    Quick,
}

/// Which callers cross the border of a node and which stay on one side of it.
#[derive(Debug, Default)]
struct Border<'s> {
    slow: Vec<&'s Entity>,
    quick: usize,
    quick_inside: usize,
    slow_inside: usize,
    /// Share of the workloads on the node that are slow by themselves or silent.
    side: f64,
}

impl Border<'_> {
    fn weight(&self) -> f64 {
        let crossing =
            CROSSING * self.slow.len().min(CROSSING_MAX) as f64 + INSIDE * self.quick_inside.min(INSIDE_MAX) as f64;
        crossing + SIDE * self.side - QUICK * self.quick as f64
    }

    /// Several callers are slow where they cross, and somebody who does not cross is as quick as before.
    fn divides(&self) -> bool {
        self.slow.len() >= WORKLOADS_MIN
            && self.slow.len() >= 2 * self.quick
            && self.quick_inside > 0
            && self.slow_inside == 0
    }
}

fn borders(scene: &Scene<'_>, found: &[Finding]) -> Vec<Finding> {
    let places = places(scene);
    let paces = paces(scene, found);
    let by_itself: Vec<&Entity> =
        paces.iter().filter(|(_, pace)| **pace == Pace::SlowByItself).map(|(entity, _)| entity).collect();
    if by_itself.len() < WORKLOADS_MIN {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut most = 0.0_f64;
    let mut best: Option<Entity> = None;
    for node in nodes(scene) {
        let border = border(scene, &places, &paces, &node.name);
        if !border.divides() {
            continue;
        }
        let names = border.slow.iter().map(|entity| entity.name.as_str()).collect::<Vec<_>>().join(", ");
        let sentence = format!(
            "{names} are slow, and all of them call over the border of node {}; {} that stay on one side of it are as quick as before",
            node.name, border.quick_inside
        );
        let modality = modality(found, &by_itself);
        let finding = Finding::new(node.clone(), cause::NETWORK, modality, border.weight(), sentence)
            .labelled("calls from and to it are slow")
            .fault("node_network_delay")
            .asked(scene.questions().about(&["pods", "Pod", "objects"]));
        if border.weight() > most {
            (most, best) = (border.weight(), Some(node.clone()));
        }
        findings.push(finding);
    }
    if let Some(node) = best {
        let slow = found
            .iter()
            .filter(|finding| is_pace(finding) && finding.weight > 0.0 && by_itself.contains(&&finding.entity));
        findings.extend(slow.map(|finding| from_the_node(scene, &node, finding, most.min(SHARED))));
    }
    findings
}

/// The nodes of each workload.
fn places<'s>(scene: &'s Scene<'_>) -> BTreeMap<&'s Entity, BTreeSet<&'s str>> {
    let mut places: BTreeMap<&Entity, BTreeSet<&str>> = BTreeMap::new();
    for pod in scene.cluster.pods.iter().filter(|pod| !pod.node.is_empty()) {
        places.entry(&pod.workload).or_default().insert(&pod.node);
    }
    places
}

fn is_pace(finding: &Finding) -> bool {
    [cause::LATENCY, cause::NETWORK].contains(&finding.kind)
        && matches!(finding.modality, Modality::Metrics | Modality::Alerts | Modality::Traces)
}

fn paces(scene: &Scene<'_>, found: &[Finding]) -> BTreeMap<Entity, Pace> {
    let mut paces: BTreeMap<Entity, Pace> = BTreeMap::new();
    let measured = scene
        .series
        .iter()
        .filter(|(_, list)| list.iter().any(|series| Family::of(name_of(&series.labels)) == Family::Latency));
    paces.extend(measured.map(|(entity, _)| (entity.clone(), Pace::Quick)));
    // An entity whose alert tells figures, and none of its latency, is as quick as before.
    for signal in &scene.observations.symptoms {
        if let Some(text) = signal.labels.get("evidence") {
            let silent = text.to_ascii_lowercase().contains("latency_missing");
            let pace = if silent { Pace::Slow } else { Pace::Quick };
            let known = paces.entry(scene.symptom_entity(&signal.entity)).or_insert(pace);
            *known = if silent { Pace::Slow } else { *known };
        }
    }
    for finding in found.iter().filter(|finding| is_pace(finding) && finding.weight > 0.0) {
        let pace = if finding.weight >= BY_ITSELF { Pace::SlowByItself } else { Pace::Slow };
        let known = paces.entry(finding.entity.workload()).or_insert(pace);
        if *known != Pace::SlowByItself {
            *known = pace;
        }
    }
    paces.retain(|entity, _| entity.kind != EntityKind::Node);
    paces
}

fn border<'p>(
    scene: &Scene<'_>,
    places: &BTreeMap<&Entity, BTreeSet<&str>>,
    paces: &'p BTreeMap<Entity, Pace>,
    node: &str,
) -> Border<'p> {
    let mut border = Border::default();
    let here = |entity: &Entity| places.get(entity).is_some_and(|nodes| nodes.contains(node));
    let elsewhere = |entity: &Entity| places.get(entity).is_some_and(|nodes| nodes.iter().any(|one| *one != node));
    for (caller, pace) in paces.iter().filter(|(entity, _)| places.contains_key(entity)) {
        let callees: Vec<&Entity> =
            scene.graph.callees(caller).filter(|callee| *callee != caller && places.contains_key(callee)).collect();
        if callees.is_empty() {
            continue;
        }
        let crosses =
            callees.iter().any(|callee| (here(caller) && elsewhere(callee)) || (elsewhere(caller) && here(callee)));
        match (crosses, pace) {
            (true, Pace::SlowByItself | Pace::Slow) => border.slow.push(caller),
            (true, Pace::Quick) => border.quick += 1,
            (false, Pace::Quick) => border.quick_inside += 1,
            (false, Pace::SlowByItself) => border.slow_inside += 1,
            (false, Pace::Slow) => {}
        }
    }
    let on_it = places.keys().filter(|entity| here(entity)).count().max(1) as f64;
    let sick = paces.iter().filter(|(entity, pace)| here(entity) && **pace != Pace::Quick).count() as f64;
    border.side = sick / on_it;
    border
}

fn modality(found: &[Finding], of: &[&Entity]) -> Modality {
    let told = found.iter().filter(|finding| is_pace(finding) && of.contains(&&finding.entity));
    told.max_by(|a, b| a.weight.total_cmp(&b.weight).then(b.modality.cmp(&a.modality)))
        .map_or(Modality::Metrics, |finding| finding.modality)
}

/// Against a workload by itself: it has its trouble from the node.
fn from_the_node(scene: &Scene<'_>, node: &Entity, finding: &Finding, weight: f64) -> Finding {
    let sentence = format!("{} shares its trouble with others by node {}", finding.entity.name, node.name);
    Finding::new(finding.entity.clone(), finding.kind, finding.modality, -weight, sentence)
        .asked(scene.questions().about(&["pods", "Pod", "objects"]))
}

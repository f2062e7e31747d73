//! Pods that a node threw out, and who used up what ran short.
//!
//! A pod that exceeds its own limit of local storage is to blame itself. One that is thrown out because its node ran low may be
//! a victim: the kubelet names what each used and requested, and the one that used the most beyond its request is the cause.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::cluster::{Pod, quantity, text};
use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::finding::{Finding, Modality};
use crate::scene::{Scene, shifted};

/// Its own limit, told by the kubelet.
const OWN_LIMIT: f64 = 6.0;
/// The node ran low; two pods or more say so, or one.
const NODE_LOW: f64 = 4.0;
const NODE_LOW_ONCE: f64 = 1.8;
/// Who used by far the most beyond its request.
const GREEDY: f64 = 4.5;
/// How many times as much as the next one.
const GREEDY_TIMES: f64 = 3.0;

/// A pod that was thrown out stays listed for days; older ones are history.
const BEFORE_ONSET: SignedDuration = SignedDuration::from_hours(1);

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let onset = scene.onset.unwrap_or(scene.observations.at);
    let evicted = scene.cluster.pods.iter().filter(|pod| pod.phase == "Failed" && pod.reason == "Evicted");
    let recent: Vec<Eviction<'_>> = evicted
        .map(Eviction::of)
        .filter(|one| one.at(scene).is_some_and(|at| at >= shifted(onset, -BEFORE_ONSET)))
        .collect();
    let asked = scene.questions().about(&["cluster-pods", "pods", "Pod"]);
    let mut findings = own_limits(&recent, &asked);
    let mut nodes: BTreeMap<(&str, &str), Vec<&Eviction<'_>>> = BTreeMap::new();
    for one in recent.iter().filter(|one| !one.pod.node.is_empty()) {
        if let Some(resource) = one.ran_low() {
            nodes.entry((&one.pod.node, resource)).or_default().push(one);
        }
    }
    for ((node, resource), pods) in nodes {
        findings.extend(of_node(node, resource, &pods, &asked));
    }
    findings
}

/// Workloads whose pods used more than they may.
fn own_limits(recent: &[Eviction<'_>], asked: &str) -> Vec<Finding> {
    let mut by_workload: BTreeMap<&Entity, Vec<&Eviction<'_>>> = BTreeMap::new();
    for one in recent.iter().filter(|one| one.exceeded_own_limit()) {
        by_workload.entry(&one.pod.workload).or_default().push(one);
    }
    let told = by_workload.into_iter().map(|(workload, pods)| {
        let message: String = pods[0].message.chars().take(140).collect();
        let sentence = format!("{} pod(s) of {} were evicted at their own limit: {message}", pods.len(), workload.name);
        Finding::new(workload.clone(), cause::DISK, Modality::State, OWN_LIMIT, sentence)
            .labelled("evicted at its limit")
            .fault("ephemeral_storage_limit_exceeded")
            .asked(asked)
    });
    told.collect()
}

/// A node that ran low, and the workload that used it up, where the messages tell.
fn of_node(node: &str, resource: &str, pods: &[&Eviction<'_>], asked: &str) -> Vec<Finding> {
    let entity = Entity::new(EntityKind::Node, "", node);
    let sentence = format!("node {node} ran low on {resource} and evicted {} pod(s)", pods.len());
    let weight = if pods.len() > 1 { NODE_LOW } else { NODE_LOW_ONCE };
    let low = Finding::new(entity, cause::NODE_PRESSURE, Modality::State, weight, sentence)
        .labelled(format!("low on {resource}"))
        .asked(asked);
    let mut used: BTreeMap<&Entity, f64> = BTreeMap::new();
    for one in pods {
        let most = used.entry(&one.pod.workload).or_default();
        *most = most.max(one.beyond_request());
    }
    let mut ranked: Vec<(&Entity, f64)> = used.into_iter().filter(|(_, beyond)| *beyond > 0.0).collect();
    ranked.sort_by(|(one, less), (other, more)| more.total_cmp(less).then_with(|| one.cmp(other)));
    let greedy = match ranked.as_slice() {
        [(first, most), rest @ ..] if rest.first().is_none_or(|(_, next)| *most > GREEDY_TIMES * next) => {
            let kind = if resource == "memory" { cause::MEMORY } else { cause::DISK };
            let sentence = format!(
                "{} used {:.1} GiB of {resource} more than it requested when node {node} ran low",
                first.name,
                most / f64::from(1 << 30)
            );
            Some(
                Finding::new((*first).clone(), kind, Modality::State, GREEDY, sentence)
                    .labelled(format!("uses up {resource}"))
                    .fault("node_resource_used_up")
                    .asked(asked),
            )
        }
        _ => None,
    };
    [Some(low), greedy].into_iter().flatten().collect()
}

struct Eviction<'p> {
    pod: &'p Pod,
    message: &'p str,
}

impl<'p> Eviction<'p> {
    fn of(pod: &'p Pod) -> Self {
        Self { pod, message: text(&pod.object, "/status/message") }
    }

    /// When it was thrown out: as its own status tells, else as the event does.
    fn at(&self, scene: &Scene<'_>) -> Option<Timestamp> {
        let target = self.pod.conditions.iter().find(|one| one.kind == "DisruptionTarget").and_then(|one| one.since);
        let ended = self.pod.containers.iter().filter_map(|one| one.terminated.as_ref()?.finished).max();
        let object = format!("Pod/{}", self.pod.name);
        let events = scene.observations.events.known().into_iter().flatten();
        let told = events.filter(|event| event.reason == "Evicted" && event.object == object);
        target.or(ended).or_else(|| told.map(|event| event.at).max())
    }

    /// The kubelet's words for limits of the pod, of a container and of an `emptyDir`.
    fn exceeded_own_limit(&self) -> bool {
        self.message.contains("exceeds the total limit of containers")
            || self.message.contains("exceeded its local ephemeral storage limit")
            || (self.message.contains("EmptyDir volume") && self.message.contains("exceeds the limit"))
    }

    /// `The node was low on resource: ephemeral-storage. …`
    fn ran_low(&self) -> Option<&'p str> {
        let (_, rest) = self.message.split_once("low on resource: ")?;
        let end = rest.find(['.', ' ', ',']).unwrap_or(rest.len());
        Some(&rest[..end]).filter(|resource| !resource.is_empty())
    }

    /// `Container app was using 5Gi, request is 1Gi, has larger consumption of …`: bytes above the requests, over all containers.
    fn beyond_request(&self) -> f64 {
        let figure = |text: &str| quantity(text.split([',', '.', ' ']).next().unwrap_or_default());
        let containers = self.message.split("was using ").skip(1).filter_map(|rest| {
            let request = rest.split_once("request is ").and_then(|(_, request)| figure(request)).unwrap_or(0.0);
            Some(figure(rest)? - request)
        });
        containers.filter(|beyond| *beyond > 0.0).sum()
    }
}

//! Network policies that no longer let through what a workload calls, or its questions to the cluster's DNS.
//!
//! A policy that refuses is a fact; that it is to blame needs a call that fails there. An old one is blamed only where the
//! pods are new: calls that worked under it are proof that it refused nothing, or that nobody enforces it.

mod passage;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::cluster::{Pod, Service, list, text, time};
use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::finding::{Finding, Modality};
use crate::logs::catalogue;
use crate::name_server;
use crate::scene::{Scene, shifted};

use super::lost_calls::waits;
use super::unreached;
use passage::{Direction, End, Passage, Port, passage};

/// A rule that is known to refuse what is seen to fail, and that came about when the trouble did.
const NEW: f64 = 6.2;
/// An old policy that refuses new pods: they bear other labels, or nobody thought of them.
const NEW_PODS: f64 = 4.5;
/// An old policy and old pods: calls must have passed before, so this alone says too little.
const OLD: f64 = 1.0;
/// Against a network that loses what is in truth refused.
const NO_LOSS: f64 = 3.0;

/// How long before the first symptom a policy or a pod counts as new, and after it.
const NEW_BEFORE: SignedDuration = SignedDuration::from_hours(2);
const NEW_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// Lines of a caller that name what does not answer; fewer may be chance.
const LINES_MIN: u64 = 3;

/// Pods that differ in their labels, of one workload.
const SORTS_MAX: usize = 4;

/// How long before the first symptom its reason may have been logged.
const BEFORE_ONSET: SignedDuration = SignedDuration::from_mins(5);

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let cluster = &scene.cluster;
    if cluster.others("NetworkPolicy").is_empty() || cluster.unread.contains_key("networkpolicies") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (caller, callees) in &scene.graph.calls {
        for callee in callees.iter().filter(|callee| *callee != caller) {
            if let Some((refusal, service)) = of_edge(scene, caller, callee) {
                findings.extend(refusal.blamed(
                    scene,
                    caller,
                    callee,
                    &format!("calls of {} to {}", caller.name, service),
                ));
            }
        }
    }
    for workload in &cluster.workloads {
        if let Some(refusal) = of_names(scene, &workload.entity) {
            let what = format!("questions of {} to the cluster's DNS", workload.entity.name);
            findings.extend(refusal.told(scene, &what).map(|finding| finding.fault("network_policy_refuses_dns")));
        }
    }
    findings
}

/// Policies that shut a way, and on whose side.
struct Refusal<'s> {
    /// The workload that they select.
    own: Entity,
    way: Direction,
    policy: &'s Value,
    changed: Option<Timestamp>,
    /// Whether the pods at one of the ends are new.
    new_pods: bool,
    port: i64,
}

/// Whether the way from one workload to another is shut where its calls fail, and the name that is called.
fn of_edge<'s>(scene: &'s Scene<'_>, caller: &Entity, callee: &Entity) -> Option<(Refusal<'s>, String)> {
    let (from, to) = (sorts(scene, caller), sorts(scene, callee));
    let services: Vec<&Service> =
        scene.cluster.services.iter().filter(|one| scene.cluster.selected_by(one).as_ref() == Some(callee)).collect();
    let mut passing = false;
    let mut shut: Vec<(&Service, i64, Refusal<'s>)> = Vec::new();
    for service in &services {
        for port in list(&service.object, "/spec/ports") {
            match way(scene, (caller, &from), (callee, &to), port) {
                Way::Open => passing = true,
                Way::Shut(refusal) => shut.push((service, port["port"].as_i64().unwrap_or_default(), refusal)),
                Way::Unknown => return None,
            }
        }
    }
    // Which port is called, only calls that fail at it tell, where others are open.
    let fails = |service: &Service, port: i64| match passing {
        true => unreached::port(scene, service, port),
        false => unreached::service(scene, service, callee) || names_it(scene, caller, callee),
    };
    let (service, _, refusal) = shut.into_iter().find(|(service, port, _)| fails(service, *port))?;
    Some((refusal, service.name.clone()))
}

enum Way<'s> {
    Open,
    Shut(Refusal<'s>),
    Unknown,
}

fn way<'s>(scene: &'s Scene<'_>, from: (&Entity, &[&Pod]), to: (&Entity, &[&Pod]), port: &Value) -> Way<'s> {
    let protocol = if text(port, "/protocol").is_empty() { "TCP" } else { text(port, "/protocol") };
    let mut sure = false;
    for caller in from.1 {
        for callee in to.1 {
            let Some(number) = target(port, callee) else { return Way::Unknown };
            let port = Port { number, protocol: protocol.to_owned() };
            let (a, b) = (End::of(caller), End::of(callee));
            let sides = [(Direction::Egress, &a, &b, from.0), (Direction::Ingress, &b, &a, to.0)];
            for (way, own, other, entity) in sides {
                match passage(&scene.cluster, way, own, other, &port) {
                    Passage::Passes => sure = true,
                    Passage::Refused { by } => {
                        let new_pods =
                            [caller, callee].into_iter().any(|pod| pod.created.is_some_and(|at| near(scene, at)));
                        return refusal(entity, way, &by, new_pods, number).map_or(Way::Unknown, Way::Shut);
                    }
                    Passage::Unknown => return Way::Unknown,
                }
            }
        }
    }
    if sure { Way::Open } else { Way::Unknown }
}

/// The policy that changed last is the one that people look for.
fn refusal<'s>(own: &Entity, way: Direction, by: &[&'s Value], new_pods: bool, port: i64) -> Option<Refusal<'s>> {
    let policy = by.iter().max_by_key(|policy| changed(policy))?;
    Some(Refusal { own: own.clone(), way, policy, changed: changed(policy), new_pods, port })
}

/// When the rules of a policy were last written: as its writers noted, else when it was made.
fn changed(policy: &Value) -> Option<Timestamp> {
    let written = list(policy, "/metadata/managedFields").iter().filter_map(|entry| time(entry, "/time"));
    written.chain(time(policy, "/metadata/creationTimestamp")).max()
}

fn near(scene: &Scene<'_>, at: Timestamp) -> bool {
    let onset = scene.onset.unwrap_or(scene.observations.at);
    (shifted(onset, -NEW_BEFORE)..=shifted(onset, NEW_AFTER)).contains(&at)
}

/// One running pod for each set of labels that those of a workload have; the template's hash makes no difference.
fn sorts<'s>(scene: &'s Scene<'_>, workload: &'s Entity) -> Vec<&'s Pod> {
    let mut seen = BTreeSet::new();
    let running = scene.cluster.pods_of(workload).filter(|pod| pod.phase == "Running");
    let mut sorts: Vec<&Pod> = running
        .filter(|pod| {
            let labels: BTreeMap<&String, &String> =
                pod.labels.iter().filter(|(key, _)| !key.ends_with("-hash") && !key.ends_with("/pod-name")).collect();
            seen.insert(labels)
        })
        .collect();
    sorts.truncate(SORTS_MAX);
    sorts
}

/// Where a port of a Service leads to at a pod.
fn target(port: &Value, pod: &Pod) -> Option<i64> {
    let named = |name: &str| {
        let ports = pod.containers.iter().flat_map(|one| list(&one.spec, "/ports"));
        ports.into_iter().find(|one| text(one, "/name") == name).and_then(|one| one["containerPort"].as_i64())
    };
    match &port["targetPort"] {
        Value::Null => port["port"].as_i64(),
        Value::String(name) => name.parse().ok().or_else(|| named(name)),
        number => number.as_i64(),
    }
}

/// Whether a caller's lines say often that a callee does not answer in time.
fn names_it(scene: &Scene<'_>, caller: &Entity, callee: &Entity) -> bool {
    let named = scene.lines_since(caller, BEFORE_ONSET).filter(|line| {
        let name = catalogue::waited_for(&line.body);
        name.and_then(|name| scene.aligner.named(&caller.namespace, name)).as_ref() == Some(callee)
    });
    named.map(|line| line.count.max(1)).sum::<u64>() >= LINES_MIN
}

/// Whether a workload may not ask the cluster's DNS, and says that it cannot resolve names.
fn of_names<'s>(scene: &'s Scene<'_>, caller: &Entity) -> Option<Refusal<'s>> {
    let unanswered = scene.lines_since(caller, BEFORE_ONSET).filter(|line| name_server::gave_no_answer(&line.body));
    let told = unanswered.map(|line| line.count.max(1)).sum::<u64>();
    shut_names(scene, caller).filter(|_| told >= LINES_MIN)
}

/// Whether policies keep a workload from asking the cluster's DNS.
pub(super) fn shuts_dns(scene: &Scene<'_>, caller: &Entity) -> bool {
    !scene.cluster.unread.contains_key("networkpolicies") && shut_names(scene, caller).is_some()
}

fn shut_names<'s>(scene: &'s Scene<'_>, caller: &Entity) -> Option<Refusal<'s>> {
    let server = name_server::pods(&scene.cluster).next();
    let unread =
        End { namespace: name_server::NAMESPACE, labels: None, addresses: Vec::new(), on_host: false, object: None };
    let server = server.map_or(unread, End::of);
    // Names are asked for over UDP, and over TCP only where the answer is long.
    let port = Port { number: name_server::PORT, protocol: "UDP".to_owned() };
    sorts(scene, caller).into_iter().find_map(|pod| {
        match passage(&scene.cluster, Direction::Egress, &End::of(pod), &server, &port) {
            Passage::Refused { by } => {
                refusal(caller, Direction::Egress, &by, pod.created.is_some_and(|at| near(scene, at)), port.number)
            }
            Passage::Passes | Passage::Unknown => None,
        }
    })
}

impl Refusal<'_> {
    /// What is said of a call that is refused, and against what it looks like.
    fn blamed(&self, scene: &Scene<'_>, caller: &Entity, callee: &Entity, what: &str) -> Vec<Finding> {
        let Some(found) = self.told(scene, what) else { return Vec::new() };
        let sentence = found.sentence.clone();
        let found = found
            .fault("network_policy_refuses_calls")
            .measure("network.from", &caller.name)
            .measure("network.to", &callee.name);
        let mut findings = Vec::new();
        if found.weight >= NEW_PODS {
            findings.extend([caller, callee].map(|end| {
                Finding::new(end.clone(), cause::NETWORK, Modality::State, -NO_LOSS, sentence.clone())
                    .asked(&found.asked)
            }));
            findings.extend(waits(caller, callee, Modality::State, &found.asked));
        }
        findings.push(found);
        findings
    }

    fn told(&self, scene: &Scene<'_>, what: &str) -> Option<Finding> {
        let onset = scene.onset.unwrap_or(scene.observations.at);
        let new = self.changed.filter(|at| near(scene, *at));
        let (weight, age) = match (new, self.new_pods) {
            (Some(at), _) => (NEW, written(at, onset)),
            (None, true) => (NEW_PODS, ", which is older than the pods,".to_owned()),
            (None, false) => (OLD, ", which is older than the trouble,".to_owned()),
        };
        let name = text(self.policy, "/metadata/name");
        let side = if self.way == Direction::Ingress { "into" } else { "out of" };
        let sentence =
            format!("network policy {name}{age} lets no {what} {side} {} at port {}", self.own.name, self.port);
        Some(
            Finding::new(self.own.clone(), cause::ROUTING, Modality::State, weight, sentence)
                .labelled("refused by a policy")
                .asked(scene.questions().about(&["networkpolicies", "NetworkPolicy"]))
                .measure("network.policy", name),
        )
    }
}

fn written(at: Timestamp, onset: Timestamp) -> String {
    let lag = onset.duration_since(at).as_secs();
    match lag >= 0 {
        true => format!(", written {lag} s before the first sign,"),
        false => format!(", written {} s after the first sign,", -lag),
    }
}

//! The cluster's name server when it does not answer: one cause of what many callers say of many callees.
//!
//! A caller that cannot resolve names blames whoever it wanted to call. A name that does not exist is an answer, and no
//! trouble of the server; unless it is that of a Service which is there.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use crate::cluster::{Pod, Service};
use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::evidence::LogLine;
use crate::finding::{Finding, Modality};
use crate::logs::catalogue;
use crate::name_server;
use crate::scene::Scene;

use super::lost_calls::waits;

/// None of its pods is ready, and somebody complains; or nobody does yet.
const DOWN: f64 = 5.5;
const DOWN_UNHEARD: f64 = 3.0;
/// Some of its pods are not ready: half of the questions wait for a second try.
const PARTLY: f64 = 1.5;
/// Several workloads get no answer; one alone may have a trouble of its own.
const HEARD: f64 = 4.5;
const HEARD_ONCE: f64 = 1.5;
/// Where its objects were not read, nobody knows how it does.
const UNREAD: f64 = 0.7;
/// Lines of its own that tell of errors.
const OWN_ERRORS: f64 = 1.5;
/// Against a callee that is blamed because its name was not resolved.
const NOT_THE_CALLEE: f64 = 3.0;

/// Lines fewer than this may be chance: a resolver that tries again is in every log.
const LINES_MIN: u64 = 3;
const BEFORE_ONSET: SignedDuration = SignedDuration::from_mins(5);

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let server = name_server::entity(&scene.cluster);
    let complaining = complaining(scene, &server);
    let pods: Vec<&Pod> = name_server::pods(&scene.cluster).collect();
    let ready = pods.iter().filter(|pod| pod.is_ready()).count();
    let wanted = scene.cluster.workload(&server).map(|workload| workload.replicas.unwrap_or(1).max(0) as usize);
    let all = pods.len().max(wanted.unwrap_or(0));
    let emptied = pods.is_empty() && scene.cluster.workload(&server).is_some();
    let mut findings = Vec::new();
    let new = |modality, weight, sentence: String, asked: String| {
        Finding::new(server.clone(), cause::UNAVAILABLE, modality, weight, sentence)
            .fault("cluster_dns_unavailable")
            .asked(asked)
    };
    if ready < all || emptied {
        let weight = match (ready, complaining.is_empty()) {
            (0, false) => DOWN,
            (0, true) => DOWN_UNHEARD,
            (_, _) => PARTLY,
        };
        let sentence = format!("{ready} of {all} pods of the cluster's name server {} are ready", server.name);
        let asked = scene.questions().about(&["cluster-pods", "pods", "Pod"]);
        findings.push(new(Modality::State, weight, sentence, asked).labelled(format!("{ready} of {all} ready")));
    }
    if complaining.is_empty() {
        return findings;
    }
    let asked = scene.questions().about(&["logs", "log", "|="]);
    let names = complaining.keys().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
    let known = server.kind != EntityKind::Service;
    let weight = if complaining.len() > 1 { HEARD } else { HEARD_ONCE } * if known { 1.0 } else { UNREAD };
    let sentence = format!(
        "{names} {} no answer of the cluster's name server{}",
        if complaining.len() > 1 { "get" } else { "gets" },
        if known { "" } else { ", whose pods were not read" },
    );
    findings.push(new(Modality::Logs, weight, sentence, asked.clone()).labelled("resolves no names"));
    let own =
        since(scene, &server).filter(|line| line.body.contains("[ERROR]")).map(|line| line.count.max(1)).sum::<u64>();
    if own >= LINES_MIN {
        let sentence = format!("{} itself tells of {own} errors", server.name);
        findings.push(new(Modality::Logs, OWN_ERRORS, sentence, asked.clone()));
    }
    // One caller is answered badly by many things before it is by the server of all.
    if complaining.len() > 1 || ready < all {
        for (caller, callees) in &complaining {
            findings.extend(waits(caller, &server, Modality::Logs, &asked));
            findings.extend(callees.iter().map(|callee| {
                let sentence = format!("{} was not found by its name, so nobody asked it", callee.name);
                Finding::new(callee.clone(), cause::DEPENDENCY, Modality::Logs, -NOT_THE_CALLEE, sentence).asked(&asked)
            }));
        }
    }
    findings
}

fn since<'s>(scene: &'s Scene<'_>, entity: &Entity) -> impl Iterator<Item = &'s LogLine> {
    scene.lines_since(entity, BEFORE_ONSET)
}

/// Who gets no answer, with the callees that they wanted; without those that a policy keeps from asking.
fn complaining(scene: &Scene<'_>, server: &Entity) -> BTreeMap<Entity, BTreeSet<Entity>> {
    let mut found = BTreeMap::new();
    for caller in scene.logs.keys().filter(|caller| *caller != server) {
        let (mut count, mut callees) = (0, BTreeSet::new());
        for line in since(scene, caller).filter(|line| is_unresolved(scene, caller, &line.body)) {
            count += line.count.max(1);
            let named = catalogue::callee(&line.body).and_then(|name| scene.aligner.named(&caller.namespace, name));
            callees.extend(named.filter(|callee| callee != caller && callee != server));
        }
        if count >= LINES_MIN && !super::network_policy::shuts_dns(scene, caller) {
            found.insert(caller.clone(), callees);
        }
    }
    found
}

/// Whether a line says that no server answers, or that the name of a Service that is there does not exist.
fn is_unresolved(scene: &Scene<'_>, caller: &Entity, line: &str) -> bool {
    name_server::gave_no_answer(line)
        || (name_server::denied(line)
            && catalogue::callee(line).is_some_and(|name| {
                let mut parts = name.trim_end_matches('.').splitn(3, '.');
                let (service, namespace) =
                    (parts.next().unwrap_or_default(), parts.next().unwrap_or(&caller.namespace));
                let is = |one: &Service| one.name == service && one.namespace == namespace;
                scene.cluster.services.iter().any(is)
            }))
}

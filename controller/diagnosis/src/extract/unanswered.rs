//! Calls without an answer: client spans that fail and have no server span behind them.
//!
//! Either the callee is gone, or what lies between the two loses the call; the caller's own work shows neither. Who the
//! callee is, the span says itself (`peer.service`, `server.address`, ...: OpenTelemetry semantic conventions), or the calls
//! of the same operation tell that were answered.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::evidence::{Span, SpanKind};
use crate::finding::{Finding, Modality};
use crate::scene::Scene;

/// Failed calls below this number may be chance.
const CALLS_MIN: u64 = 3;
/// A rise of the share of unanswered calls below this is noise.
const RISE: f64 = 0.1;
/// That nobody answers any more is as clear as a state.
const GONE: f64 = 4.0;
/// A part of the calls is lost, the rest is answered as ever.
const LOST: f64 = 4.0;
/// Against the caller as slow or failing by itself.
const CALLER: f64 = 4.0;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let (Some(spans), Some(onset)) = (scene.observations.spans.known(), scene.onset) else { return Vec::new() };
    let mut findings = to_peers(scene, spans, onset);
    findings.extend(to_services(scene, spans, onset));
    findings
}

fn share(some: u64, all: u64) -> f64 {
    some as f64 / all.max(1) as f64
}

/// Failures of calls to something that the span names and that writes no spans of its own.
fn to_peers(scene: &Scene<'_>, spans: &[Span], onset: Timestamp) -> Vec<Finding> {
    let since = u64::try_from(onset.as_nanosecond()).unwrap_or(0);
    let parents: BTreeSet<(&str, &str)> =
        spans.iter().filter_map(|span| Some((span.trace_id.as_str(), span.parent_id.as_deref()?))).collect();
    let mut failed: BTreeMap<(&str, &str), [u64; 4]> = BTreeMap::new();
    for span in spans.iter().filter(|span| span.kind == SpanKind::Client) {
        let peer = ["peer.service", "server.address", "net.peer.name", "db.system", "messaging.system"]
            .iter()
            .find_map(|key| span.attributes.get(*key));
        let Some(peer) = peer else { continue };
        if parents.contains(&(span.trace_id.as_str(), span.span_id.as_str())) {
            continue;
        }
        let counts = failed.entry((&span.service, peer)).or_default();
        let sick = usize::from(span.start_ns >= since);
        counts[sick * 2] += 1;
        counts[sick * 2 + 1] += u64::from(span.error);
    }
    let asked = scene.questions().about(&["trace", "span"]);
    failed
        .into_iter()
        .filter(|(_, counts)| {
            counts[3] >= CALLS_MIN && share(counts[3], counts[2]) > share(counts[1], counts[0]) + RISE
        })
        .filter_map(|((service, peer), counts)| {
            let caller = scene.aligner.named("", service)?;
            let known = scene.aligner.named(&caller.namespace, peer);
            let sentence = format!(
                "{:.0} % of the calls of {service} to {peer} fail ({:.0} % before)",
                share(counts[3], counts[2]) * 100.0,
                share(counts[1], counts[0]) * 100.0
            );
            Some(
                Finding::new(known.unwrap_or(caller), cause::DEPENDENCY, Modality::Traces, 3.0, sentence)
                    .labelled(format!("{peer} fails"))
                    .asked(&asked)
                    .measure("dependency", peer),
            )
        })
        .collect()
}

/// Calls of one service to another, before the trouble and since.
#[derive(Default)]
struct Calls {
    /// All of them, and those without an answer.
    before: (u64, u64),
    since: (u64, u64),
}

impl Calls {
    fn are_lost(&self) -> bool {
        self.since.1 >= CALLS_MIN && share(self.since.1, self.since.0) > share(self.before.1, self.before.0) + RISE
    }
}

/// Calls between services that both write spans.
fn to_services(scene: &Scene<'_>, spans: &[Span], onset: Timestamp) -> Vec<Finding> {
    let since = u64::try_from(onset.as_nanosecond()).unwrap_or(0);
    let clients = || spans.iter().filter(|span| span.kind == SpanKind::Client);
    let unanswered_once = clients().any(|span| span.error && span.start_ns >= since);
    if !unanswered_once {
        return Vec::new();
    }
    let answers: BTreeMap<(&str, &str), &str> = spans
        .iter()
        .filter_map(|span| Some(((span.trace_id.as_str(), span.parent_id.as_deref()?), span.service.as_str())))
        .collect();
    let answered = |span: &Span| answers.get(&(span.trace_id.as_str(), span.span_id.as_str())).copied();
    // Who answers an operation of a caller; nobody when that differs from call to call.
    let mut callees: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for span in clients() {
        if let Some(callee) = answered(span).filter(|callee| *callee != span.service) {
            callees.entry((&span.service, &span.operation)).or_default().insert(callee);
        }
    }
    let mut edges: BTreeMap<(&str, &str), Calls> = BTreeMap::new();
    for span in clients() {
        let Some(known) = callees.get(&(span.service.as_str(), span.operation.as_str())) else { continue };
        let (1, Some(callee)) = (known.len(), known.first()) else { continue };
        let calls = edges.entry((&span.service, callee)).or_default();
        let counts = if span.start_ns >= since { &mut calls.since } else { &mut calls.before };
        counts.0 += 1;
        counts.1 += u64::from(span.error && answered(span).is_none());
    }
    let mut findings = Vec::new();
    for callee in edges.keys().map(|(_, callee)| *callee).collect::<BTreeSet<_>>() {
        let incoming: Vec<_> = edges.iter().filter(|((_, to), calls)| *to == callee && calls.since.0 > 0).collect();
        findings.extend(of_callee(scene, callee, &incoming));
    }
    findings
}

fn of_callee(scene: &Scene<'_>, callee: &str, incoming: &[(&(&str, &str), &Calls)]) -> Vec<Finding> {
    let lost: Vec<_> = incoming.iter().filter(|(_, calls)| calls.are_lost()).collect();
    let Some(entity) = scene.aligner.source(callee).filter(|_| !lost.is_empty()) else { return Vec::new() };
    let asked = scene.questions().about(&["trace", "span"]);
    let sum = |count: fn(&Calls) -> u64| lost.iter().map(|(_, calls)| count(calls)).sum::<u64>();
    let (all, without) = (sum(|calls| calls.since.0), sum(|calls| calls.since.1));
    let told = |of: &str| {
        format!(
            "{without} of {all} calls {of} get no answer ({:.0} % before)",
            share(sum(|calls| calls.before.1), sum(|calls| calls.before.0)) * 100.0
        )
    };
    let mut findings = Vec::new();
    let callers: Vec<Entity> = lost.iter().filter_map(|((caller, _), _)| scene.aligner.source(caller)).collect();
    let names = callers.iter().map(|caller| caller.name.as_str()).collect::<Vec<_>>().join(", ");
    let gone = lost.len() == incoming.len() && without == all;
    let finding = |entity: &Entity, kind, weight: f64, label: &str| {
        Finding::new(entity.clone(), kind, Modality::Traces, weight, told(&format!("from {names} to {}", callee)))
            .labelled(label)
            .asked(&asked)
    };
    if gone {
        findings.push(
            finding(&entity, cause::DEPENDENCY, GONE, "does not answer any more").measure("dependency", &entity.name),
        );
    } else {
        // One caller among several that lose calls: the loss is on its side.
        let one_of_many = incoming.len() > 1 && lost.len() == 1;
        let blamed = if one_of_many { callers.first().unwrap_or(&entity) } else { &entity };
        let size = (share(without, all) / 0.3).clamp(0.5, 1.0);
        findings.push(finding(blamed, cause::NETWORK, LOST * size, "calls get lost"));
    }
    for caller in callers.iter().filter(|caller| **caller != entity) {
        for kind in [cause::LATENCY, cause::BEHAVIOUR, cause::ERRORS, cause::DEPENDENCY] {
            let sentence = format!("{} waits for answers of {} that do not come", caller.name, entity.name);
            let against = Finding::new(caller.clone(), kind, Modality::Traces, -CALLER, sentence).asked(&asked);
            findings.push(against);
        }
    }
    findings
}

//! Losses that meshes, proxies and eBPF agents count between two ends (see [`crate::edge`]), or at one pod or node.
//!
//! A proxy that got no answer knows as little of the reason as its caller: such counts speak for the network only where the
//! callee is sound (see [`lost_calls`](super::lost_calls)). Segments sent again and packets dropped were lost on the way, whatever
//! the callee does. What a network policy refuses is no loss but a door that is shut.

mod flow;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::diagnosis::cause;
use crate::edge::{self, Way};
use crate::entity::{Entity, EntityKind};
use crate::finding::{Finding, Modality};
use crate::scene::Scene;
use crate::windows::Windows;

use super::lost_calls::{Called, waits};
use super::metrics::{GUESSED, Traffic};
use flow::{Flow, Loss, Verdict};

/// As clear as calls without an answer in logs and traces.
const LOST: f64 = 4.0;
/// What the kernel or the card counts, where nobody knows how the callee does.
const ALONE: f64 = 2.4;
/// A candidate: the callee may be what is wrong.
const CANDIDATE: f64 = 1.0;
/// A pod or a node by itself: it says that packets are lost there and not whose.
const AT_ONE_END: f64 = 2.4;
/// A rule that is known to refuse.
const REFUSED: f64 = 4.5;
/// Against a network that loses what is in truth refused.
const NO_LOSS: f64 = 3.0;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let (Some(windows), Some(onset)) = (scene.windows, scene.onset) else { return Vec::new() };
    let flows = flows(scene, &windows);
    if flows.is_empty() {
        return Vec::new();
    }
    let traffic = Traffic::of(scene, &windows);
    let judged: Judged<'_> = flows
        .iter()
        .map(|(way, flow)| (way, (flow.judged(&windows, grown(&traffic, way)), flow.asked.as_str())))
        .collect();
    let trust = if windows.told { 1.0 } else { GUESSED };
    let mut findings = Vec::new();
    for (counted, (verdict, asked)) in &judged {
        match (verdict, &counted.to) {
            (Verdict::Loses(loss), Some(to)) => {
                findings.extend(between(scene, &judged, counted, to, loss, asked, onset));
            }
            (Verdict::Loses(loss), None) => findings.extend(at_one_end(&judged, counted, loss, asked)),
            (Verdict::Refuses { now }, Some(to)) => findings.extend(refused(counted, to, *now, asked)),
            (Verdict::Refuses { .. }, None) | (Verdict::Quiet | Verdict::Unmeasured, _) => {}
        }
    }
    for finding in &mut findings {
        finding.weight *= trust;
    }
    findings
}

/// What one agent counts of one part of the calls between two ends; no second end: at one pod or node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Counted {
    agent: &'static str,
    way: Way,
    from: Entity,
    to: Option<Entity>,
}

type Judged<'f> = BTreeMap<&'f Counted, (Verdict, &'f str)>;

fn flows(scene: &Scene<'_>, windows: &Windows) -> BTreeMap<Counted, Flow> {
    let mut flows: BTreeMap<Counted, Flow> = BTreeMap::new();
    for series in scene.observations.series.known().into_iter().flatten() {
        let Some(count) = edge::counted(series) else { continue };
        let Some(became) = count.became(series) else { continue };
        let [one, other] = count.ends(series, &scene.aligner);
        // The answer goes the other way.
        let (from, to) = if became == edge::Became::Answered { (other, one) } else { (one, other) };
        let whole = count.to == edge::End::Nowhere || to.is_some();
        let Some(from) = from.filter(|from| whole && to.as_ref() != Some(from)) else { continue };
        let counted = Counted { agent: count.agent, way: count.way, from, to };
        flows.entry(counted).or_default().add(became, series, windows);
    }
    flows
}

/// How many times more goes this way than before, as far as anybody measured it: the callee's requests, else the caller's.
fn grown(traffic: &Traffic, counted: &Counted) -> Option<f64> {
    let of = |entity: &Entity| traffic.measured_growth(entity);
    counted.to.as_ref().and_then(of).or_else(|| of(&counted.from))
}

fn between(
    scene: &Scene<'_>,
    judged: &Judged<'_>,
    counted: &Counted,
    to: &Entity,
    loss: &Loss,
    asked: &str,
    onset: Timestamp,
) -> Vec<Finding> {
    let called = Called::of(scene, to, onset);
    let seen_on_the_way = matches!(counted.way, Way::Packets | Way::Handshakes);
    let weight = match (called, seen_on_the_way) {
        (Called::Gone, _) | (Called::Ails, false) => return Vec::new(),
        (Called::Sound, _) if loss.compared => LOST * loss.size,
        (Called::Unmeasured, true) if loss.compared => ALONE * loss.size,
        (Called::Sound | Called::Unmeasured | Called::Ails, _) => CANDIDATE,
    };
    let from = &counted.from;
    let sentence = format!(
        "{} counts {} from {} to {}{}",
        counted.agent,
        loss.told(counted.way),
        from.name,
        to.name,
        if called == Called::Sound { ", which answers what reaches it as before" } else { "" },
    );
    let mut findings = vec![
        Finding::new(side(judged, counted, to).clone(), cause::NETWORK, Modality::Metrics, weight, sentence)
            .labelled(label(counted.way))
            .asked(asked)
            .measure("network.from", &from.name)
            .measure("network.to", &to.name),
    ];
    if called == Called::Sound && loss.compared {
        findings.extend(waits(from, to, Modality::Metrics, asked));
    }
    findings
}

/// Whose side of the way loses: the caller's when other callers reach the same callee, or when it loses to all that it calls.
fn side<'e>(judged: &Judged<'e>, counted: &'e Counted, to: &'e Entity) -> &'e Entity {
    let same = || judged.iter().filter(|(other, _)| other.agent == counted.agent && other.way == counted.way);
    let quiet = |verdict: &Verdict| matches!(verdict, Verdict::Quiet);
    let others_reach_it = same()
        .any(|(other, (verdict, _))| other.to.as_ref() == Some(to) && other.from != counted.from && quiet(verdict));
    let mut own = same().filter(|(other, _)| other.from == counted.from && other.to.is_some());
    let reaches_others = own.clone().any(|(_, (verdict, _))| quiet(verdict));
    let loses_to_others =
        own.any(|(other, (verdict, _))| other.to.as_ref() != Some(to) && matches!(verdict, Verdict::Loses(_)));
    if others_reach_it || (loses_to_others && !reaches_others) { &counted.from } else { to }
}

/// A pod or a node that loses packets while others of its kind do not.
fn at_one_end(judged: &Judged<'_>, counted: &Counted, loss: &Loss, asked: &str) -> Option<Finding> {
    let same = judged
        .iter()
        .filter(|(other, _)| other.agent == counted.agent && other.way == counted.way && other.to.is_none());
    let (losing, quiet): (Vec<_>, Vec<_>) = same
        .filter(|(_, (verdict, _))| matches!(verdict, Verdict::Loses(_) | Verdict::Quiet))
        .partition(|(_, (verdict, _))| matches!(verdict, Verdict::Loses(_)));
    // What most of them show is how they are all measured, or a trouble that none of them has alone.
    if losing.len() > quiet.len() {
        return None;
    }
    let weight = if loss.compared { AT_ONE_END * loss.size } else { CANDIDATE };
    let what = if counted.from.kind == EntityKind::Node { "node " } else { "" };
    let sentence = format!(
        "{} counts {} at {what}{}, and none at {} others",
        counted.agent,
        loss.told(counted.way),
        counted.from.name,
        quiet.len()
    );
    let finding = Finding::new(counted.from.clone(), cause::NETWORK, Modality::Metrics, weight, sentence);
    Some(finding.labelled(label(counted.way)).asked(asked))
}

/// Packets that a network policy refuses since the trouble began.
fn refused(counted: &Counted, to: &Entity, now: f64, asked: &str) -> Vec<Finding> {
    let from = &counted.from;
    let sentence = format!(
        "a network policy refuses {} packets a second from {} to {}, and none before",
        super::metrics::figure(now),
        from.name,
        to.name
    );
    let mut findings = vec![
        Finding::new(to.clone(), cause::ROUTING, Modality::Metrics, REFUSED, sentence.clone())
            .labelled("refused by a policy")
            .asked(asked)
            .measure("network.from", &from.name)
            .measure("network.to", &to.name),
    ];
    let ends: BTreeSet<&Entity> = [from, to].into();
    findings.extend(ends.into_iter().map(|end| {
        Finding::new(end.clone(), cause::NETWORK, Modality::Metrics, -NO_LOSS, sentence.clone()).asked(asked)
    }));
    findings.extend(waits(from, to, Modality::Metrics, asked));
    findings
}

fn label(way: Way) -> &'static str {
    match way {
        Way::Requests => "calls get lost",
        Way::Connections | Way::Handshakes => "connections fail",
        Way::Packets => "packets get lost",
    }
}

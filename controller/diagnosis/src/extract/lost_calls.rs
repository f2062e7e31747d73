//! Calls that are lost on the way, as the caller's log lines and the callee's own measurements show them together.
//!
//! A caller that waits in vain writes whom it waited for. That alone blames nobody: a slow callee, one that fails and one that is
//! gone look the same from there. Where the callee answers what reaches it as quickly and as well as before, and its pods are
//! known to be ready, the loss lies between the two. What was not measured, or not listed, is not taken for sound: then the edge is
//! a candidate only.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::cluster::{Container, Pod};
use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::evidence::LogLine;
use crate::finding::{Finding, Modality};
use crate::logs::catalogue;
use crate::scene::{Scene, shifted};

use super::traces::is_error;

/// Lines fewer than this may be chance.
const LINES_MIN: u64 = 4;
/// From this many lines on the loss is as clear as it gets.
const LINES_CLEAR: f64 = 10.0;
/// Share of the caller's failures that must be calls lost to the one callee: else something else ails it.
const SHARE: f64 = 0.6;
/// How many times as often as before.
const BURST: u64 = 3;
/// A rise of the callee's error ratio below this is noise.
const RATIO_FLOOR: f64 = 0.02;
/// Up to this growth, or these seconds, the callee is as quick as before: who waits in vain waits for many times that.
const GROWTH: f64 = 1.5;
const QUICK_SECONDS: f64 = 0.05;
/// As clear as calls without an answer in traces.
const LOST: f64 = 4.0;
/// A candidate: nobody knows whether the callee is sound.
const UNMEASURED: f64 = 1.0;
/// Against the caller as slow or failing by itself.
const CALLER: f64 = 4.0;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let Some(onset) = scene.onset else { return Vec::new() };
    let saturated = super::metrics::saturated(scene);
    let losses: Vec<Loss> = scene
        .logs
        .iter()
        .filter(|(caller, _)| !saturated.contains(*caller))
        .filter_map(|(caller, lines)| Loss::of(scene, caller, lines, onset))
        .collect();
    let asked = scene.questions().about(&["logs", "log", "|="]);
    let mut findings = Vec::new();
    for loss in &losses {
        let called = Called::of(scene, &loss.callee, onset);
        let weight = match called {
            Called::Ails | Called::Gone => continue,
            Called::Sound => LOST * (loss.lines as f64 / LINES_CLEAR).clamp(0.4, 1.0),
            Called::Unmeasured => UNMEASURED,
        };
        let sound = called == Called::Sound;
        let callers = scene.graph.calls.values().filter(|callees| callees.contains(&loss.callee)).count();
        let losing = losses.iter().filter(|other| other.callee == loss.callee).count();
        // One caller among several that loses calls: the loss is on its side.
        let blamed = if callers > 1 && losing == 1 { &loss.caller } else { &loss.callee };
        let sentence = format!(
            "{} says {} times that {} did not answer in time{}",
            loss.caller.name,
            loss.lines,
            loss.callee.name,
            if sound { ", which answers what reaches it as before" } else { "" },
        );
        findings.push(
            Finding::new(blamed.clone(), cause::NETWORK, Modality::Logs, weight, sentence)
                .labelled("calls get lost")
                .asked(&asked)
                .measure("network.from", &loss.caller.name)
                .measure("network.to", &loss.callee.name),
        );
        if sound {
            findings.extend(waits(&loss.caller, &loss.callee, Modality::Logs, &asked));
        }
    }
    findings
}

/// Against a caller as slow or failing by itself, when its calls to a sound callee get lost.
pub(super) fn waits(caller: &Entity, callee: &Entity, modality: Modality, asked: &str) -> Vec<Finding> {
    let sentence = format!("{} waits for answers of {} that do not come", caller.name, callee.name);
    let against = |kind| Finding::new(caller.clone(), kind, modality, -CALLER, sentence.clone()).asked(asked);
    [cause::LATENCY, cause::BEHAVIOUR, cause::ERRORS, cause::DEPENDENCY].map(against).into()
}

/// A caller that waits in vain for one callee.
struct Loss {
    caller: Entity,
    callee: Entity,
    lines: u64,
}

impl Loss {
    /// None when the caller loses few calls, calls to several, or mostly fails in another way.
    fn of(scene: &Scene<'_>, caller: &Entity, lines: &[&LogLine], onset: Timestamp) -> Option<Self> {
        let since = u64::try_from(shifted(onset, SignedDuration::from_mins(-1)).as_nanosecond()).unwrap_or(0);
        let (mut failures, mut before) = (0, 0);
        let mut waited: BTreeMap<Entity, u64> = BTreeMap::new();
        for line in lines {
            let named = catalogue::waited_for(&line.body);
            let late = line.at_ns.is_none_or(|at| at >= since);
            let count = line.count.max(1);
            failures += if late && (named.is_some() || is_error(line)) { count } else { 0 };
            let known = named.and_then(|callee| scene.aligner.named(&caller.namespace, callee));
            let Some(callee) = known.filter(|callee| callee != caller) else { continue };
            match late {
                true => *waited.entry(callee).or_default() += count,
                false => before += count,
            }
        }
        let (callee, most) = waited.into_iter().max_by(|one, other| one.1.cmp(&other.1).then(other.0.cmp(&one.0)))?;
        let clear = most >= LINES_MIN && most as f64 >= SHARE * failures as f64 && most >= BURST * before;
        clear.then(|| Self { caller: caller.clone(), callee, lines: most })
    }
}

/// How the called side of a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// It answers what reaches it as quickly and as well as before, and its pods are ready.
    Sound,
    /// It fails, or is slower than before.
    Ails,
    /// A container of it is not ready, or was away since the trouble began.
    Gone,
    /// Nobody measured how well and how quickly it answers, or knows its pods.
    Unmeasured,
}

impl Called {
    pub(super) fn of(scene: &Scene<'_>, entity: &Entity, onset: Timestamp) -> Self {
        let (normal, fault) = (scene.observations.normal, scene.observations.fault);
        let before = normal.map_or(
            (shifted(onset, SignedDuration::from_mins(-60)), shifted(onset, SignedDuration::from_mins(-2))),
            |window| (window.from, window.to),
        );
        let after = fault.map_or((onset, scene.observations.at), |window| (window.from, window.to));
        let (was, is) = (scene.answering(entity, before.0, before.1), scene.answering(entity, after.0, after.1));
        let pods: Vec<&Pod> = scene.cluster.pods_of(entity).collect();
        let fails = was.error_ratio.zip(is.error_ratio).map(|(was, is)| is - was > RATIO_FLOOR);
        let slow = was.latency.zip(is.latency).map(|(was, is)| is > (was * GROWTH).max(was + QUICK_SECONDS));
        match (fails, slow) {
            _ if pods.iter().any(|pod| was_away(pod, onset)) => Self::Gone,
            (Some(true), _) | (_, Some(true)) => Self::Ails,
            // Nobody knows whether pods that nobody listed are ready.
            (Some(false), Some(false)) if !pods.is_empty() && !scene.cluster.unread.contains_key("pods") => Self::Sound,
            (Some(false), Some(false)) | (None, _) | (_, None) => Self::Unmeasured,
        }
    }
}

/// Whether a container of a pod takes no calls now, or ended since the trouble began.
fn was_away(pod: &Pod, onset: Timestamp) -> bool {
    let ended = |container: &Container| container.last.as_ref().and_then(|last| last.finished);
    let working = pod.containers.iter().filter(|container| !container.init);
    working.into_iter().any(|container| !container.ready || ended(container).is_some_and(|at| at >= onset))
}

//! Changes: is a release to blame, or was it only there?
//!
//! Being recent is not enough. A change is blamed when the changed entity itself shows trouble that its old pods, its time
//! before, and its callees do not explain.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::cluster::{Container, Pod};
use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::evidence::{Change, ChangeKind, LogLine, Series};
use crate::finding::{Finding, Modality};
use crate::logs::{Class, clean};
use crate::scene::{Answering, Scene, answering, seconds, shifted};

/// Changes older than this before the onset are not looked at.
const LOOK_BACK: SignedDuration = SignedDuration::from_hours(24);

/// An alert fires late and clocks differ: a change this long after the onset may still be before it in truth.
const SLACK: SignedDuration = SignedDuration::from_secs(60);

/// Error ratios that differ by less than this are noise.
const RATIO_FLOOR: f64 = 0.02;

/// Weight of what a nearer failure explains as well: it says that the entity is in trouble, and nothing of the reason.
const EXPLAINED: f64 = 0.01;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let onset = scene.onset.unwrap_or(scene.observations.at);
    let mut findings = Vec::new();
    // Source commits are known: their diffs say more than the deploys that carried them.
    if scene.changes.iter().any(super::commits::is_source) {
        return findings;
    }
    for change in &scene.changes {
        // Watched pod by pod: see the rollout extractor.
        if super::rollout::watched(scene, change) {
            continue;
        }
        if change.at > scene.observations.at || change.at < shifted(onset, -LOOK_BACK) {
            continue;
        }
        let kind = kind_of(change);
        let blamed = |weight: f64, modality: Modality, sentence: String| {
            Finding::new(change.target.clone(), kind, modality, weight, sentence).of_change(&change.id)
        };
        findings.push(when(scene, change, onset, kind));
        let own = own_evidence(scene, change, onset);
        let told = own.iter().any(|(weight, ..)| *weight > 0.0);
        for (weight, modality, sentence, label, asked) in own {
            findings.push(blamed(weight, modality, sentence).labelled(label).asked(asked));
        }
        if !told {
            let measured = scene.series_of(&change.target).iter().any(|series| !series.samples.is_empty());
            let (weight, sentence) = match measured {
                true => (-3.5, format!("{} itself looks as before its release", change.target.name)),
                false => {
                    (-1.5, format!("nothing is measured on {} that could speak for or against", change.target.name))
                }
            };
            findings.push(blamed(weight, Modality::Changes, sentence));
        }
    }
    findings
}

pub fn kind_of(change: &Change) -> &'static str {
    let touched = |word: &str| {
        change.diff.lines().any(|line| line.starts_with(['+', '-']) && line[1..].trim_start().starts_with(word))
    };
    match change.kind {
        ChangeKind::Image => cause::BAD_IMAGE,
        ChangeKind::Config | ChangeKind::Flag | ChangeKind::Scale => cause::BAD_CONFIG,
        ChangeKind::Commit | ChangeKind::Deploy => {
            let image =
                ["image:", "- image:", "newTag:", "tag:", "newName:", "digest:"].iter().any(|word| touched(word));
            match change.diff.is_empty() || image {
                true => cause::BAD_IMAGE,
                false => cause::BAD_CONFIG,
            }
        }
    }
}

/// How well the time fits: recent is likely, long ago still possible, afterwards hardly.
fn when(scene: &Scene<'_>, change: &Change, onset: Timestamp, kind: &'static str) -> Finding {
    let lag = seconds(onset) - seconds(change.at);
    let (weight, sentence) = match change.at > shifted(onset, SLACK) {
        true => (-6.0, format!("{} was changed {:.0} s after trouble began", change.target.name, -lag)),
        false => (
            1.0 + 1.5 * (-lag.max(0.0) / 1800.0).exp(),
            format!("{} was changed {:.0} s before the first sign", change.target.name, lag.max(0.0)),
        ),
    };
    let mut finding = Finding::new(change.target.clone(), kind, Modality::Changes, weight, sentence)
        .of_change(&change.id)
        .asked(scene.questions().to("git"));
    if finding.asked.is_empty() {
        finding.asked = scene.questions().about(&["changes", "revision", "replicasets", "deployments"]);
    }
    if change.id.len() == 40 && change.id.chars().all(|c| c.is_ascii_hexdigit()) {
        finding = finding.measure("commit.guilty", &change.id);
    }
    if let Some(bad) = change.images_brought().next() {
        finding = finding.measure("image.bad", bad);
    }
    if let Some(good) = change.images_replaced().next() {
        finding = finding.measure("image.good", good);
    }
    finding
}

type Own = (f64, Modality, String, String, String);

fn own_evidence(scene: &Scene<'_>, change: &Change, onset: Timestamp) -> Vec<Own> {
    let mut own = Vec::new();
    own.extend(new_pods_fail(scene, change));
    own.extend(stuck(scene, change));
    let shows = versions_differ(scene, change).or_else(|| before_and_after(scene, change, onset));
    match killed_for_memory(scene, change) {
        Some((killed, of)) => own.extend(shows.map(|(weight, modality, sentence, label, asked)| {
            let sentence = format!("{sentence}, while {killed} of {of} new pods were killed for memory");
            (weight.min(EXPLAINED), modality, sentence, label, asked)
        })),
        None => own.extend(shows),
    }
    own.extend(new_errors(scene, change));
    own
}

/// How many of the new pods were killed for memory, when it is half of them or more: then a kill explains what the entity
/// shows, and the kill has an extractor of its own. A kill of one among many explains little.
fn killed_for_memory(scene: &Scene<'_>, change: &Change) -> Option<(usize, usize)> {
    let (killed, of) = kills(scene, change);
    (killed > 0 && 2 * killed >= of).then_some((killed, of))
}

/// New pods in which a container that the change touched was killed for memory, and all new pods.
///
/// A sidecar that nobody changed and that is killed beside it is another trouble, and takes nothing from the release.
fn kills(scene: &Scene<'_>, change: &Change) -> (usize, usize) {
    let (new, old) = revisions(scene, change);
    let touched = touched(change, &new, &old);
    let killed = |pod: &&&Pod| {
        let own =
            pod.containers.iter().filter(|one| touched.as_ref().is_none_or(|names| names.contains(one.name.as_str())));
        own.into_iter().any(killed_for_memory_once)
    };
    (new.iter().filter(killed).count(), new.len())
}

/// Names of the containers that a change touched: those that run an image it brought, else those that differ from the ones of the
/// old pods. None where neither tells: then it may be any.
fn touched<'p>(change: &Change, new: &[&'p Pod], old: &[&'p Pod]) -> Option<BTreeSet<&'p str>> {
    fn all<'p>(pods: &[&'p Pod]) -> impl Iterator<Item = &'p Container> {
        pods.iter().flat_map(|pod| &pod.containers)
    }
    let names = |kept: &dyn Fn(&Container) -> bool| -> Option<BTreeSet<&'p str>> {
        let names: BTreeSet<&str> = all(new).filter(|one| kept(one)).map(|one| one.name.as_str()).collect();
        (!names.is_empty()).then_some(names)
    };
    let brought: BTreeSet<&str> = change.images_brought().collect();
    // Mounts are left out: the name of a token's volume is another one in every pod.
    let same = |one: &Container, other: &Container| {
        let field = |key: &str| one.spec[key] == other.spec[key];
        one.name == other.name && ["image", "command", "args", "env", "envFrom", "resources"].into_iter().all(field)
    };
    names(&|one| brought.contains(one.image.as_str())).or_else(|| match old.is_empty() {
        true => None,
        false => names(&|one| !all(old).any(|other| same(one, other))),
    })
}

fn killed_for_memory_once(container: &Container) -> bool {
    [&container.last, &container.terminated].into_iter().flatten().any(|end| end.reason == "OOMKilled")
}

/// Pods of the new revision, and the older ones that still run.
fn revisions<'s>(scene: &'s Scene<'_>, change: &Change) -> (Vec<&'s Pod>, Vec<&'s Pod>) {
    let pods: Vec<&Pod> = scene.cluster.pods.iter().filter(|pod| pod.workload == change.target).collect();
    if !change.new_pods.is_empty() {
        return pods.into_iter().partition(|pod| change.new_pods.contains(&pod.name));
    }
    let newest = pods.iter().max_by_key(|pod| (pod.created, &pod.revision)).map(|pod| pod.revision.clone());
    let fresh = |pod: &&Pod| pod.created.is_none_or(|at| at >= shifted(change.at, -SLACK));
    pods.into_iter().partition(|pod| Some(&pod.revision) == newest.as_ref() && fresh(pod))
}

/// Why a pod does not run, unless that has a name of its own: a kill for memory is counted by its own extractor, and counting
/// it for the release as well would make one fact two.
fn fails(pod: &Pod) -> Option<String> {
    pod.containers.iter().find_map(|container| {
        if killed_for_memory_once(container) {
            return None;
        }
        let waiting = container.waiting.as_ref().map(|(reason, _)| reason.as_str());
        let bad = ["CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "RunContainerError"];
        let end = container.last.as_ref().or(container.terminated.as_ref());
        match (waiting.filter(|reason| bad.contains(reason)), end) {
            (Some(reason), _) => Some(reason.to_owned()),
            (None, Some(end)) if end.exit_code.is_some_and(|code| code != 0) && !container.ready => {
                Some(end.reason.clone())
            }
            (None, _) => None,
        }
    })
}

fn new_pods_fail(scene: &Scene<'_>, change: &Change) -> Option<Own> {
    let (new, old) = revisions(scene, change);
    let failing: Vec<String> = new.iter().filter_map(|pod| fails(pod)).collect();
    let reason = failing.first()?;
    let old_fail = old.iter().filter(|pod| fails(pod).is_some()).count();
    if old_fail > 0 {
        return None;
    }
    let contrast = if old.is_empty() {
        "no old pod is left to compare".to_owned()
    } else {
        format!("none of {} old ones does", old.len())
    };
    Some((
        3.5,
        Modality::State,
        format!("{} of {} new pods of {} fail ({reason}), {contrast}", failing.len(), new.len(), change.target.name),
        format!("new pods: {reason}"),
        scene.questions().about(&["pods", "Pod"]),
    ))
}

fn stuck(scene: &Scene<'_>, change: &Change) -> Option<Own> {
    let workload = scene.cluster.workload(&change.target)?;
    let condition = workload.conditions.iter().find(|condition| condition.reason == "ProgressDeadlineExceeded")?;
    Some((
        1.5,
        Modality::State,
        format!("the rollout of {} is stuck: {}", change.target.name, condition.message),
        "rollout stuck".to_owned(),
        scene.questions().about(&["deployments", "Deployment"]),
    ))
}

/// New against old pods of the same workload at the same time: the cleanest comparison there is.
fn versions_differ(scene: &Scene<'_>, change: &Change) -> Option<Own> {
    let (new, old) = revisions(scene, change);
    if new.is_empty() || old.is_empty() {
        return None;
    }
    let of = |pods: &[&Pod]| -> Answering {
        let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        let inside = |series: &&&Series| {
            let pod = series.labels.get("pod").or_else(|| series.labels.get("k8s.pod.name"));
            pod.is_some_and(|pod| names.contains(&pod.as_str()))
        };
        answering(scene.series_of(&change.target).iter().filter(inside).copied(), change.at, scene.observations.at)
    };
    let (new, old) = (of(&new), of(&old));
    if let (Some(bad), Some(good)) = (new.error_ratio, old.error_ratio)
        && bad - good > RATIO_FLOOR
    {
        return Some(worse(change, "error ratio of its new pods", bad, good, "the old ones", new.asked, 3.5));
    }
    None
}

/// The entity's own time before the change as the comparison, less what its callees explain.
fn before_and_after(scene: &Scene<'_>, change: &Change, onset: Timestamp) -> Option<Own> {
    let excess = |entity: &Entity| {
        let before = scene.answering(entity, shifted(change.at, SignedDuration::from_mins(-60)), change.at);
        let after = scene.answering(entity, onset.max(change.at), scene.observations.at);
        (before, after)
    };
    let (before, after) = excess(&change.target);
    let (bad, good) = (after.error_ratio?, before.error_ratio.unwrap_or(0.0));
    let own = bad - good;
    if own > RATIO_FLOOR {
        let explained = scene
            .graph
            .callees(&change.target)
            .filter_map(|callee| {
                let (before, after_callee) = excess(callee);
                let grown = after_callee.error_ratio? - before.error_ratio.unwrap_or(0.0);
                let share = match (after_callee.rate, after.rate) {
                    (Some(callee), Some(own)) if own > 0.0 => (callee / own).min(1.0),
                    _ => 1.0,
                };
                Some((grown * share, callee))
            })
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((explained, callee)) = explained
            && explained > 0.6 * own
        {
            return Some((
                -3.0,
                Modality::Metrics,
                format!("the errors of {} are explained by {}, which it calls", change.target.name, callee.name),
                String::new(),
                after.asked,
            ));
        }
        if let Some(other) = as_bad(scene, change, own, &excess) {
            return Some((
                0.01,
                Modality::Metrics,
                format!(
                    "errors of {} rose by {:.0} points, but so did those of {}, and who calls whom is not known",
                    change.target.name,
                    own * 100.0,
                    other.name
                ),
                format!("errors {:.0} %", bad * 100.0),
                after.asked,
            ));
        }
        return Some(worse(change, "error ratio", bad, good, "before", after.asked, 3.0));
    }
    let (slow, quick) = (after.latency?, before.latency?);
    if slow > 1.5 * quick && slow - quick > 0.02 {
        let explained = scene.graph.callees(&change.target).any(|callee| {
            let (before, after) = excess(callee);
            matches!((after.latency, before.latency), (Some(after), Some(before)) if after - before > 0.6 * (slow - quick))
        });
        if !explained {
            return Some((
                2.5,
                Modality::Metrics,
                format!(
                    "latency of {} rose from {:.0} ms to {:.0} ms",
                    change.target.name,
                    quick * 1000.0,
                    slow * 1000.0
                ),
                format!("latency {:.0} ms", slow * 1000.0),
                after.asked,
            ));
        }
    }
    None
}

/// Another entity that fails as much, when nobody knows who calls whom: then neither can be told from the other.
fn as_bad(
    scene: &Scene<'_>,
    change: &Change,
    own: f64,
    excess: &dyn Fn(&Entity) -> (Answering, Answering),
) -> Option<Entity> {
    if scene.graph.known || !scene.graph.calls.is_empty() {
        return None;
    }
    let others = scene.series.keys().filter(|entity| **entity != change.target);
    let mut as_bad = others.filter(|entity| {
        let (before, after) = excess(entity);
        after.error_ratio.is_some_and(|after| after - before.error_ratio.unwrap_or(0.0) > 0.6 * own)
    });
    as_bad.next().cloned()
}

fn worse(change: &Change, what: &str, bad: f64, good: f64, against: &str, asked: String, weight: f64) -> Own {
    let weight = weight * (0.5 + 0.5 * ((bad - good) / 0.1).min(1.0));
    (
        weight,
        Modality::Metrics,
        format!("{what} of {}: {:.1} % against {:.1} % of {against}", change.target.name, bad * 100.0, good * 100.0),
        format!("errors {:.0} %", bad * 100.0),
        asked,
    )
}

/// Error lines that the entity never wrote before the change.
fn new_errors(scene: &Scene<'_>, change: &Change) -> Option<Own> {
    let shape = |body: &str| -> String {
        let text = clean::without_time(body).trim();
        text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).take(60).collect()
    };
    let lines = scene.logs.get(&change.target)?;
    let at = u64::try_from(change.at.as_nanosecond()).ok()?;
    let known: BTreeSet<String> =
        lines.iter().filter(|line| line.at_ns.is_some_and(|t| t < at)).map(|line| shape(&line.body)).collect();
    let is_error = |severity: &Option<String>, body: &str| {
        let loud = severity.as_deref().is_some_and(|severity| {
            let severity = severity.to_ascii_uppercase();
            severity.starts_with("ERR") || severity.starts_with("FATAL") || severity.starts_with("CRIT")
        });
        loud || ["ERROR", "panic", "Exception", "FATAL"].iter().any(|word| body.contains(word))
    };
    // Trouble with a callee is somebody else's until shown otherwise.
    let inherited =
        |line: &LogLine| matches!(scene.class_of(line), Class::Network | Class::Timeout | Class::Dns | Class::Database);
    // So is what a process writes that gets no memory, when it is killed for it.
    let killed = kills(scene, change).0 > 0;
    let of_the_kill = |line: &LogLine| killed && scene.class_of(line) == Class::Memory;
    let new = lines.iter().find(|line| {
        line.at_ns.is_some_and(|t| t >= at)
            && is_error(&line.severity, &line.body)
            && !inherited(line)
            && !of_the_kill(line)
            && !known.contains(&shape(&line.body))
    })?;
    let shown: String = clean::plain(&new.body).chars().take(120).collect();
    Some((
        1.5,
        Modality::Logs,
        format!("{} writes an error that it never wrote before the change: \"{shown}\"", change.target.name),
        "new error in its log".to_owned(),
        scene.questions().about(&["logs", "log", "|="]),
    ))
}

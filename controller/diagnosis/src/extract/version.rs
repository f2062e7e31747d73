//! The new version against the old one, while both answer: what separates them is the release, what they share is not.
//!
//! Read from the finer answers of a second round (see [`deep`](crate::deep)). Both serve the same callers, call the same
//! callees and run under the same neighbours at the same time, so this comparison needs no baseline. It decides between two
//! releases that were made one after the other.

use std::collections::BTreeMap;

use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::evidence::{Change, Series};
use crate::finding::{Finding, Modality};
use crate::metric::{finer, name_of};
use crate::robust::median;
use crate::scene::{Scene, seconds};

use super::release::kind_of;

/// Nats for a release whose version clearly does worse than the one before, at the same time.
const NATS: f64 = 5.0;
/// Against a release whose version does as the one before.
const ALIKE: f64 = -4.0;
/// Against a callee of both versions, which would harm both.
const SHARED: f64 = -4.0;
/// Points of error ratio, and how many times, that a bad version is above the old one; and what is still alike.
const WORSE: f64 = 0.05;
const TIMES: f64 = 3.0;
const SAME: f64 = 0.02;
/// How many times slower a slow version is than the old one, and an equal one may be.
const SLOWER: f64 = 2.5;
const AS_SLOW: f64 = 1.4;
/// Seconds: below this a version is quick, however much slower than the other.
const QUICK: f64 = 0.02;
/// Moments at which both were measured; fewer say nothing.
const MOMENTS_MIN: usize = 3;
/// Clocks differ, and a version is known to the store a little before or after its rollout is known to us.
const SLACK: f64 = 60.0;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (entity, series) in &scene.finer {
        // The last release is the one that the newest version stands for; of an earlier one nothing can be told.
        let mut changes =
            scene.changes.iter().filter(|change| change.target == *entity && change.at <= scene.observations.at);
        let Some(change) = changes.next_back() else { continue };
        let failing = compared(series, finer::VERSION_ERROR_RATIO, change);
        let slow = compared(series, finer::VERSION_LATENCY_P99, change);
        findings.extend(judged(entity, change, failing.as_ref(), slow.as_ref()));
    }
    findings
}

/// The new version beside the one before it.
#[derive(Clone, Debug, PartialEq)]
struct Pair {
    new: (String, f64),
    old: (String, f64),
    asked: String,
}

/// What both versions show at the moments at which both were measured, since the change.
fn compared(series: &[&Series], name: &str, change: &Change) -> Option<Pair> {
    let changed = seconds(change.at);
    let mut versions: BTreeMap<&str, BTreeMap<i64, f64>> = BTreeMap::new();
    let mut asked = "";
    for one in series.iter().filter(|one| name_of(&one.labels) == name) {
        let Some(version) = one.labels.get(finer::VERSION) else { continue };
        asked = &one.asked;
        let samples = versions.entry(version).or_default();
        for (at, value) in one.samples.iter().filter(|(_, value)| value.is_finite()) {
            // Several services of one version: the worst of them.
            let known = samples.entry(*at as i64).or_insert(*value);
            *known = known.max(*value);
        }
    }
    let first = |samples: &BTreeMap<i64, f64>| samples.keys().next().map_or(f64::INFINITY, |at| *at as f64);
    let (new, old): (Vec<_>, Vec<_>) = versions.iter().partition(|(_, samples)| first(samples) >= changed - SLACK);
    let [(new_name, new)] = new.as_slice() else { return None };
    let both = |old: &BTreeMap<i64, f64>| -> Vec<(f64, f64)> {
        new.iter().filter_map(|(at, value)| Some((*value, *old.get(at)?))).collect()
    };
    let of_old = old.iter().map(|(name, samples)| (*name, both(samples)));
    let (old_name, moments) = of_old.max_by(|a, b| a.1.len().cmp(&b.1.len()).then_with(|| b.0.cmp(a.0)))?;
    if moments.len() < MOMENTS_MIN {
        return None;
    }
    let (new, old): (Vec<f64>, Vec<f64>) = moments.into_iter().unzip();
    Some(Pair {
        new: ((*new_name).to_string(), median(&new)?),
        old: ((*old_name).to_string(), median(&old)?),
        asked: asked.to_owned(),
    })
}

fn judged(entity: &Entity, change: &Change, failing: Option<&Pair>, slow: Option<&Pair>) -> Vec<Finding> {
    let blamed = |weight: f64, pair: &Pair, sentence: String| {
        Finding::new(entity.clone(), kind_of(change), Modality::Metrics, weight, sentence)
            .of_change(&change.id)
            .asked(&pair.asked)
    };
    let shown = |version: &str| version.chars().take(40).collect::<String>();
    let fails = failing.filter(|pair| pair.new.1 >= pair.old.1 + WORSE && pair.new.1 >= TIMES * pair.old.1);
    let drags = slow.filter(|pair| pair.new.1 >= QUICK && pair.new.1 >= SLOWER * pair.old.1);
    let told = match (fails, drags) {
        (Some(pair), _) => Some((
            pair,
            format!(
                "{:.1} % of the requests to version {} of {} fail, {:.1} % of those to {} at the same time",
                pair.new.1 * 100.0,
                shown(&pair.new.0),
                entity.name,
                pair.old.1 * 100.0,
                shown(&pair.old.0)
            ),
        )),
        (None, Some(pair)) => Some((
            pair,
            format!(
                "p99 of version {} of {} is {:.0} ms, that of {} {:.0} ms at the same time",
                shown(&pair.new.0),
                entity.name,
                pair.new.1 * 1000.0,
                shown(&pair.old.0),
                pair.old.1 * 1000.0
            ),
        )),
        (None, None) => None,
    };
    if let Some((pair, sentence)) = told {
        let against = format!("what both versions of {} call would harm both", entity.name);
        return vec![
            blamed(NATS, pair, sentence)
                .labelled(format!("only version {}", shown(&pair.new.0)))
                .measure("version.bad", shown(&pair.new.0))
                .measure("version.good", shown(&pair.old.0)),
            Finding::new(entity.clone(), cause::DEPENDENCY, Modality::Metrics, SHARED, against).asked(&pair.asked),
        ];
    }
    // Both questions must have an answer: a version that fails as seldom may still be slow.
    let (Some(failing), Some(slow)) = (failing, slow) else { return Vec::new() };
    let alike = failing.new.1 <= failing.old.1 + SAME && slow.new.1 <= AS_SLOW * slow.old.1.max(QUICK);
    let sentence = format!(
        "versions {} and {} of {} answer alike at the same time",
        shown(&failing.new.0),
        shown(&failing.old.0),
        entity.name
    );
    alike.then(|| blamed(ALIKE, failing, sentence)).into_iter().collect()
}

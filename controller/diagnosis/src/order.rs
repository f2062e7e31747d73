//! Who came first: the order in time between the few best candidates, along the calls between them.
//!
//! Learned over all pairs, such order is the slowest and weakest method on public data; on the few edges that topology and evidence
//! leave it breaks ties (research/diagnosis.md, section 7). It never makes a candidate: it only adds to those that there are.

use std::collections::{BTreeMap, BTreeSet};

use statrs::distribution::{ContinuousCDF, FisherSnedecor};

use crate::entity::Entity;
use crate::evidence::Series;
use crate::extract::{gauge, is_edge, of_node};
use crate::finding::{Finding, Modality};
use crate::inference::Hypothesis;
use crate::robust::{Shift, shift};
use crate::scene::Scene;
use crate::windows::{Windows, within};

/// Entities that are compared, the best first.
const CANDIDATES: usize = 8;
/// Calls between them that are tested, in both directions.
const EDGES_MAX: usize = 15;
/// Samples of the past that may tell the next one.
const LAGS: usize = 3;
/// Samples that a test needs, and the most that it looks at.
const SAMPLES: (usize, usize) = (30, 240);
/// Share of false ones among all that are taken for true (Benjamini and Hochberg, 1995).
const FALSE_SHARE: f64 = 0.05;
/// A series that moved by less is no witness of when trouble began.
const MOVED: f64 = 4.0;
/// What beginning first is worth, in nats, and what foretelling the other is worth besides.
const FIRST: f64 = 0.4;
const FORETELLS: f64 = 0.2;
/// Two beginnings nearer than this many samples are one moment: scrapes are not taken at the same time.
const TOGETHER: f64 = 1.5;

/// The loudest series of one candidate.
struct Witness {
    series: Series,
    /// When it left its usual range, Unix seconds.
    began: Option<f64>,
}

/// Adds to each of the best candidates what its place in time says against those that it calls and that call it.
pub fn settle(scene: &Scene<'_>, all: &mut [Hypothesis]) {
    let Some(windows) = scene.windows.filter(|windows| windows.told) else { return };
    let best = best(all);
    let witnesses: BTreeMap<&Entity, Witness> =
        best.iter().filter_map(|entity| Some((entity, Witness::of(scene, &windows, entity)?))).collect();
    let edges: Vec<(&Entity, &Entity)> = witnesses
        .keys()
        .flat_map(|caller| scene.graph.callees(caller).map(move |callee| (*caller, callee)))
        .filter_map(|(caller, callee)| {
            let mutual = scene.graph.callees(callee).any(|back| back == caller);
            let (callee, _) = witnesses.get_key_value(callee)?;
            (!mutual && *callee != caller).then_some((caller, *callee))
        })
        .take(EDGES_MAX)
        .collect();
    let told = foretold(&windows, &witnesses, &edges);
    let mut strongest: BTreeMap<Entity, (f64, String, String)> = BTreeMap::new();
    for (edge, told) in edges.into_iter().zip(told) {
        let Some((first, then, nats, sentence)) = verdict(&windows, &witnesses, edge, told) else { continue };
        for (entity, nats) in [(first, nats), (then, -nats)] {
            let asked = &witnesses[entity].series.asked;
            let known = strongest.entry(entity.clone()).or_insert((0.0, String::new(), String::new()));
            if nats.abs() > known.0.abs() {
                *known = (nats, sentence.clone(), asked.clone());
            }
        }
    }
    for one in all {
        if let Some((nats, sentence, asked)) = strongest.get(&one.entity.workload()) {
            one.score += nats;
            let finding = Finding::new(one.entity.clone(), one.kind, Modality::Metrics, *nats, sentence);
            one.findings.push(finding.asked(asked));
        }
    }
}

/// The workloads of the best hypotheses.
fn best(all: &[Hypothesis]) -> BTreeSet<Entity> {
    let mut scores: BTreeMap<Entity, f64> = BTreeMap::new();
    for one in all {
        let known = scores.entry(one.entity.workload()).or_insert(f64::MIN);
        *known = known.max(one.score);
    }
    let mut ordered: Vec<(Entity, f64)> = scores.into_iter().collect();
    ordered.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    ordered.into_iter().take(CANDIDATES).map(|(entity, _)| entity).collect()
}

impl Witness {
    fn of(scene: &Scene<'_>, windows: &Windows, entity: &Entity) -> Option<Self> {
        let candidates = scene.series_of(entity).iter().filter(|series| !is_edge(series) && !of_node(series));
        let (series, moved) = candidates
            .filter_map(|series| {
                let series = gauge(series);
                let (usual, now) = (within(&series, windows.normal), within(&series, windows.sick));
                let moved = [0.2, 0.8].into_iter().filter_map(|share| shift(&usual, &now, 0.05, share));
                let moved = moved.max_by(|a, b| a.z.abs().total_cmp(&b.z.abs()))?;
                (moved.z.abs() >= MOVED).then_some((series, moved))
            })
            .max_by(|(a, one), (b, other)| {
                one.z.abs().total_cmp(&other.z.abs()).then_with(|| b.labels.cmp(&a.labels))
            })?;
        let began = began(&series, windows, moved);
        Some(Self { series, began })
    }
}

/// The moment after which a series is no more what it was: the last rest before the alarm of a cumulative sum.
///
/// Page, "Continuous inspection schemes", Biometrika 41, 1954; in units of the noise, a drift of 1 and an alarm at 5; one sample
/// counts at most 4, so that an outlier alone raises no alarm.
fn began(series: &Series, windows: &Windows, moved: Shift) -> Option<f64> {
    let noise = moved.by / moved.z;
    let from = windows.normal.1 - 10.0 * windows.step;
    let mut sum = 0.0;
    let mut rest = None;
    for (at, value) in series.samples.iter().filter(|(at, value)| value.is_finite() && *at >= from) {
        if *at > windows.sick.1 {
            break;
        }
        let apart = (value - moved.normal) / noise * moved.z.signum();
        sum = f64::max(0.0, sum + apart.min(4.0) - 1.0);
        match sum > 0.0 {
            false => rest = None,
            true => {
                let since = *rest.get_or_insert(*at);
                if sum > 5.0 {
                    return Some(since);
                }
            }
        }
    }
    None
}

/// For each edge whether the callee foretells the caller, and the caller the callee.
fn foretold(windows: &Windows, witnesses: &BTreeMap<&Entity, Witness>, edges: &[(&Entity, &Entity)]) -> Vec<[bool; 2]> {
    let chances: Vec<[Option<f64>; 2]> = edges
        .iter()
        .map(|(caller, callee)| {
            let pair = together(windows, &witnesses[caller].series, &witnesses[callee].series);
            let [caller, callee] = pair.map(|values| values.windows(2).map(|two| two[1] - two[0]).collect::<Vec<_>>());
            [granger(&callee, &caller), granger(&caller, &callee)]
        })
        .collect();
    let mut ordered: Vec<f64> = chances.iter().flatten().flatten().copied().collect();
    ordered.sort_by(f64::total_cmp);
    let all = ordered.len() as f64;
    let passing = |(rank, chance): (usize, &f64)| *chance <= FALSE_SHARE * (rank + 1) as f64 / all;
    let bar = ordered.iter().enumerate().rev().find(|one| passing(*one)).map(|(_, chance)| *chance);
    let passes = |chance: Option<f64>| chance.zip(bar).is_some_and(|(chance, bar)| chance <= bar);
    chances.into_iter().map(|pair| pair.map(passes)).collect()
}

/// The values of two series at the moments that both have, in steps of the usual distance; the latest are kept.
fn together(windows: &Windows, one: &Series, other: &Series) -> [Vec<f64>; 2] {
    let gridded = |series: &Series| -> BTreeMap<i64, f64> {
        let inside = series.samples.iter().filter(|(at, value)| {
            value.is_finite() && (windows.normal.0.min(windows.sick.0)..=windows.sick.1).contains(at)
        });
        inside.map(|(at, value)| ((at / windows.step).round() as i64, *value)).collect()
    };
    let (one, other) = (gridded(one), gridded(other));
    let both: Vec<(f64, f64)> = one.iter().filter_map(|(at, value)| Some((*value, *other.get(at)?))).collect();
    let latest = &both[both.len().saturating_sub(SAMPLES.1)..];
    [latest.iter().map(|(value, _)| *value).collect(), latest.iter().map(|(_, value)| *value).collect()]
}

/// The chance that the past of `source` says nothing about `target` that its own past does not say.
///
/// Granger, "Investigating causal relations by econometric models and cross-spectral methods", Econometrica 37, 1969: the F test of
/// the residuals with and without the other's past, of the order that the Bayesian information criterion prefers, at most 3. `None`
/// with too few samples, or where either does not vary.
fn granger(source: &[f64], target: &[f64]) -> Option<f64> {
    let count = target.len().checked_sub(LAGS).filter(|count| *count >= SAMPLES.0)?;
    let size = count as f64;
    let rows = |lags: usize, with: bool| -> Vec<Vec<f64>> {
        let past = |values: &[f64], at: usize| (1..=lags).map(|lag| values[at - lag]).collect::<Vec<f64>>();
        (LAGS..target.len())
            .map(|at| {
                let mut row = vec![1.0];
                row.extend(past(target, at));
                if with {
                    row.extend(past(source, at));
                }
                row
            })
            .collect()
    };
    let fitted = |lags: usize, with: bool| residual(&rows(lags, with), &target[LAGS..]);
    let (_, lags, left) = (1..=LAGS)
        .filter_map(|lags| {
            let left = fitted(lags, true)?;
            let criterion = size * (left / size).max(f64::MIN_POSITIVE).ln() + (2 * lags + 1) as f64 * size.ln();
            Some((criterion, lags, left))
        })
        .min_by(|a, b| a.0.total_cmp(&b.0))?;
    let without = fitted(lags, false)?;
    let free = size - (2 * lags + 1) as f64;
    let gained = ((without - left) / lags as f64) / (left / free);
    if left <= 0.0 || !gained.is_finite() {
        return None;
    }
    Some(FisherSnedecor::new(lags as f64, free).ok()?.sf(gained.max(0.0)))
}

/// The sum of squares that the best linear fit leaves; `None` where the rows do not tell the coefficients apart.
fn residual(rows: &[Vec<f64>], target: &[f64]) -> Option<f64> {
    let width = rows.first()?.len();
    let mut system = vec![vec![0.0; width + 1]; width];
    for (row, value) in rows.iter().zip(target) {
        for (line, left) in system.iter_mut().zip(row) {
            for (cell, right) in line.iter_mut().zip(row.iter().chain([value])) {
                *cell += left * right;
            }
        }
    }
    let scale: Vec<f64> = system.iter().enumerate().map(|(at, line)| line[at]).collect();
    for at in 0..width {
        if system[at][at] <= 1e-9 * scale[at] {
            return None;
        }
        let pivot = system[at].clone();
        for line in system.iter_mut().skip(at + 1) {
            let share = line[at] / pivot[at];
            line.iter_mut().zip(&pivot).for_each(|(cell, above)| *cell -= share * above);
        }
    }
    let mut fitted = vec![0.0; width];
    for at in (0..width).rev() {
        let known: f64 = (at + 1..width).map(|next| system[at][next] * fitted[next]).sum();
        fitted[at] = (system[at][width] - known) / system[at][at];
    }
    let apart = rows.iter().zip(target).map(|(row, value)| {
        let told: f64 = row.iter().zip(&fitted).map(|(one, weight)| one * weight).sum();
        (value - told).powi(2)
    });
    Some(apart.sum())
}

/// Which end of a call came first, what that is worth, and the sentence; `None` where time does not tell, or contradicts itself.
fn verdict<'e>(
    windows: &Windows,
    witnesses: &BTreeMap<&Entity, Witness>,
    (caller, callee): (&'e Entity, &'e Entity),
    told: [bool; 2],
) -> Option<(&'e Entity, &'e Entity, f64, String)> {
    let begins = [caller, callee].map(|entity| witnesses[entity].began);
    let ahead = match begins {
        // Seconds that the callee is ahead of the caller.
        [Some(caller), Some(callee)] => caller - callee,
        _ => 0.0,
    };
    let apart = ahead.abs() > TOGETHER * windows.step;
    let by_order = apart.then_some(ahead > 0.0);
    let by_past = (told[0] != told[1]).then_some(told[0]);
    let (callee_first, nats) = match (by_order, by_past) {
        (Some(order), Some(past)) if order != past => return None,
        (Some(order), Some(_)) => (order, FIRST + FORETELLS),
        (Some(order), None) => (order, FIRST),
        (None, Some(past)) => (past, FORETELLS),
        (None, None) => return None,
    };
    let (first, then) = if callee_first { (callee, caller) } else { (caller, callee) };
    let other = if callee_first { "its caller" } else { "which it calls" };
    let sentence = match apart {
        true => format!("{} left its usual range {:.0} s before {}, {other}", first.name, ahead.abs(), then.name),
        false => format!("{} moves ahead of {}, {other}", first.name, then.name),
    };
    Some((first, then, nats, sentence))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise between -1 and 1 that is the same in every run.
    fn noise(seed: u64, count: usize) -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn what_follows_another_by_two_steps_is_foretold_by_it_and_not_the_other_way_round() {
        let source = noise(1, 120);
        let own = noise(2, 120);
        let target: Vec<f64> =
            (0..120).map(|at| if at < 2 { own[at] } else { 0.7 * source[at - 2] + 0.5 * own[at] }).collect();
        let (there, back) = (granger(&source, &target).unwrap(), granger(&target, &source).unwrap());
        assert!(there < 1e-6 && back > 0.05, "{there} {back}");
        let apart = granger(&own, &source).unwrap();
        assert!(apart > 0.05, "two that have nothing to do with each other: {apart}");
    }

    #[test]
    fn a_series_that_stands_still_or_is_short_foretells_nothing() {
        let moving = noise(3, 120);
        for (source, target) in [(vec![1.0; 120], moving.clone()), (moving.clone(), vec![0.0; 120])] {
            assert_eq!(granger(&source, &target), None);
        }
        assert_eq!(granger(&moving[..20], &moving[..20]), None);
        assert_eq!(granger(&moving, &[]), None);
    }

    #[test]
    fn a_series_began_to_move_where_it_left_its_usual_range_for_good() {
        let windows =
            Windows { normal: (0.0, 599.0), recent: (0.0, 599.0), sick: (600.0, 1200.0), step: 15.0, told: true };
        let moved = Shift { z: 20.0, by: 2.0, normal: 1.0 };
        let began = |value: &dyn Fn(f64) -> f64| {
            let samples = (0..80).map(|at| f64::from(at) * 15.0).map(|at| (at, value(at))).collect();
            super::began(&Series { labels: BTreeMap::new(), samples, asked: String::new() }, &windows, moved)
        };
        assert_eq!(began(&|at| if at < 690.0 { 1.0 } else { 3.0 }), Some(690.0));
        assert_eq!(began(&|at| if at == 630.0 || at >= 900.0 { 3.0 } else { 1.0 }), Some(900.0), "one outlier");
        assert_eq!(began(&|_| 1.0), None);
        assert_eq!(began(&|at| if at < 690.0 { 1.0 } else { f64::NAN }), None);
    }
}

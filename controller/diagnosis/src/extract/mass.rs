//! Symptom mass: how much of what the alert measures arose where?
//!
//! Waiting and failed requests add up; percentiles do not. The mass of a node is its requests times the rise of the alerting
//! metric; what its callees lost is taken off, each capped at what the node itself lost. Rare or asynchronous paths
//! cannot move the alerting mean and are scaled down (research/diagnosis-leads.md, symptom mass).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::evidence::Series;
use crate::finding::{Finding, Modality};
use crate::metric::{Family, name_of};
use crate::robust::shift;
use crate::scene::Scene;
use crate::signal::Signal;
use crate::windows::{Windows, within};

/// A rise below this many units of noise is none.
const NOTICEABLE: f64 = 3.0;
/// How many times rarer than the alerting requests a path may be before it counts less.
const SHARE: f64 = 5.0;
/// Far more waiting than the alert lost cannot be its cause.
const LOUD: f64 = 4.0;
/// Names that only clients have seen are aliases of something unnamed behind them.
const ALIAS: f64 = 0.4;
const NATS: f64 = 4.5;
/// Seconds before the fault that stand for "just before".
const RECENT: f64 = 7200.0;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let Some(windows) = scene.windows else { return Vec::new() };
    let mut told: BTreeSet<(Entity, String)> = BTreeSet::new();
    let mut findings = Vec::new();
    for signal in &scene.observations.symptoms {
        let Some(metric) = signal.labels.get("metric") else { continue };
        if told.insert((scene.symptom_entity(&signal.entity), metric.clone())) {
            findings.extend(of_alert(scene, &windows, signal, metric));
        }
    }
    findings
}

/// What one node lost and how clearly.
#[derive(Clone, Copy, Debug, Default)]
struct Loss {
    mass: f64,
    z: f64,
}

fn of_alert(scene: &Scene<'_>, windows: &Windows, signal: &Signal, metric: &str) -> Vec<Finding> {
    let alert = scene.symptom_entity(&signal.entity);
    let stat = signal.labels.get("stat");
    let counts = Family::of(metric) == Family::Success;
    let mut values: BTreeMap<&Entity, &Series> = BTreeMap::new();
    let mut requests: BTreeMap<&Entity, &Series> = BTreeMap::new();
    for (entity, list) in &scene.series {
        for series in list {
            let fits = series.labels.get("stat").is_none_or(|own| stat.is_none_or(|stat| own == stat));
            if name_of(&series.labels) == metric && fits {
                values.insert(entity, series);
            } else if Family::of(name_of(&series.labels)) == Family::Traffic {
                requests.insert(entity, series);
            }
        }
    }
    if !values.contains_key(&alert) || values.len() < 3 {
        return Vec::new();
    }
    let mut losses: BTreeMap<Entity, Loss> = BTreeMap::new();
    for entity in reachable(scene, &alert) {
        let loss = values.get(&entity).map(|series| loss(series, requests.get(&entity).copied(), windows, counts));
        losses.insert(entity, loss.unwrap_or_default());
    }
    let own = losses.get(&alert).copied().unwrap_or_default();
    let visible = own.mass > 0.0 && own.z >= 1.0;
    // An alert that its own series does not show gives no scale to compare with.
    let need = match visible {
        true => own.mass,
        false => losses.values().map(|loss| loss.mass).fold(0.0, f64::max).max(1e-9),
    };
    let load = |entity: &Entity| -> f64 {
        requests.get(entity).map_or(0.0, |series| within(series, windows.sick).iter().sum())
    };
    let alert_load = load(&alert).max(1e-9);
    let mut findings = Vec::new();
    for (entity, loss) in &losses {
        if loss.z < NOTICEABLE {
            continue;
        }
        let inherited: f64 = scene
            .graph
            .callees(entity)
            .filter(|callee| *callee != entity)
            .filter_map(|callee| losses.get(callee))
            .filter(|callee| callee.z >= NOTICEABLE)
            .map(|callee| callee.mass.min(loss.mass))
            .sum();
        let remaining = (loss.mass - inherited).max(0.0);
        let mut share = remaining / need * (SHARE * load(entity) / alert_load).min(1.0);
        if visible {
            share = if share > LOUD { 1.0 / share } else { share.min(1.0) };
        }
        if *entity == alert {
            share *= 0.5;
        }
        if entity.kind == EntityKind::Unaligned && scene.graph.callees(entity).next().is_none() {
            share *= ALIAS;
        }
        if share > 0.01 {
            let kind = if counts { cause::ERRORS } else { cause::LATENCY };
            let sentence = format!(
                "{:.0} % of the {metric} that {} lost arose in {} itself",
                (remaining / need * 100.0).min(100.0),
                alert.name,
                entity.name
            );
            let asked = values.get(entity).map_or(String::new(), |series| series.asked.clone());
            findings.push(
                Finding::new(entity.clone(), kind, Modality::Metrics, NATS * share.min(1.2), sentence)
                    .labelled(format!("{metric} worse by itself"))
                    .asked(asked)
                    .measure("metric", metric),
            );
        }
    }
    findings
}

fn reachable(scene: &Scene<'_>, from: &Entity) -> BTreeSet<Entity> {
    let mut seen = BTreeSet::from([from.clone()]);
    let mut queue = VecDeque::from([from.clone()]);
    while let Some(at) = queue.pop_front() {
        for callee in scene.graph.callees(&at) {
            if seen.insert(callee.clone()) {
                queue.push_back(callee.clone());
            }
        }
    }
    seen
}

fn loss(series: &Series, requests: Option<&Series>, windows: &Windows, counts: bool) -> Loss {
    let weights: BTreeMap<u64, f64> =
        requests.into_iter().flat_map(|one| &one.samples).map(|(at, value)| (at.to_bits(), *value)).collect();
    let weighted = |window: (f64, f64)| -> Vec<(f64, f64)> {
        let inside =
            series.samples.iter().filter(|(at, value)| (window.0..=window.1).contains(at) && value.is_finite());
        let weight = |at: &f64| match requests {
            Some(_) => weights.get(&at.to_bits()).copied().filter(|weight| weight.is_finite()).unwrap_or(0.0),
            None => 1.0,
        };
        inside.map(|(at, value)| (*value, weight(at))).collect()
    };
    let sick = weighted(windows.sick);
    let recent = (windows.normal.1 - RECENT, windows.normal.1);
    let (mut masses, mut zs) = (Vec::new(), Vec::new());
    for window in [windows.normal, recent] {
        let usual = weighted(window);
        if usual.len() < 3 || sick.is_empty() {
            continue;
        }
        if counts {
            // Failed requests: a Poisson count against what the normal share of failures would give.
            let failed =
                |list: &[(f64, f64)]| list.iter().map(|(value, weight)| (100.0 - value) / 100.0 * weight).sum::<f64>();
            let all = |list: &[(f64, f64)]| list.iter().map(|(_, weight)| weight).sum::<f64>();
            let expected = failed(&usual) / all(&usual).max(1e-9) * all(&sick);
            masses.push(failed(&sick) - expected);
            zs.push((failed(&sick) - expected) / expected.max(1.0).sqrt());
        } else {
            let values = |list: &[(f64, f64)]| list.iter().map(|(value, _)| *value).collect::<Vec<_>>();
            let Some(moved) = shift(&values(&usual), &values(&sick), 0.03, 0.8) else { continue };
            masses.push(sick.iter().map(|(value, weight)| (value - moved.normal) * weight).sum());
            zs.push(moved.z);
        }
    }
    if zs.is_empty() {
        return Loss::default();
    }
    let mean = masses.iter().sum::<f64>() / masses.len() as f64;
    Loss { mass: mean.max(0.0), z: zs.into_iter().fold(f64::MAX, f64::min) }
}

//! Metrics: what an entity shows of its own, before what it inherits from those that it calls.
//!
//! CPU and memory beyond the rise in load cannot be inherited; latency can, and is explained away by callees in
//! milliseconds; a request rate that falls against everybody else's says that requests do not arrive.

mod resources;

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::evidence::Series;
use crate::finding::{Finding, Modality};
use crate::metric::{Family, name, name_of};
use crate::robust::{Shift, deviation, median, quantile, shift};
use crate::scene::Scene;
use crate::windows::{Windows, within};

use resources::resources;
pub use resources::saturated;

/// How much a comparison counts whose windows were found by a change point, not told.
pub const GUESSED: f64 = 0.4;

/// Fewer sick samples than this cannot tell a fall of requests from chance.
const SAMPLES_MIN: usize = 5;

/// From the extractor's own scale to nats.
const NATS: f64 = 1.5;

/// A rise of this many units of noise is as clear as any.
const CLEAR: f64 = 200.0;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let Some(windows) = scene.windows else { return Vec::new() };
    let traffic = Traffic::of(scene, &windows);
    let mut best: BTreeMap<(Entity, &'static str), Finding> = BTreeMap::new();
    let trust = if windows.told { 1.0 } else { GUESSED };
    let mut put = |mut finding: Finding| {
        finding.weight *= trust;
        if finding.weight <= 0.05 {
            return;
        }
        let key = (finding.entity.clone(), finding.kind);
        match best.get(&key) {
            Some(known) if known.weight >= finding.weight => {}
            _ => {
                best.insert(key, finding);
            }
        }
    };
    resources(scene, &windows, &traffic).into_iter().for_each(&mut put);
    latencies(scene, &windows).into_iter().for_each(&mut put);
    traffic.residuals(&windows).into_iter().for_each(&mut put);
    best.into_values().collect()
}

/// Series that speak of one end of a call belong to the edge, not to the entity.
pub fn is_edge(series: &Series) -> bool {
    series.labels.contains_key("source") && series.labels.contains_key("destination")
}

pub fn of_node(series: &Series) -> bool {
    name_of(&series.labels).to_ascii_lowercase().starts_with("node")
}

/// Counters become rates; gauges stay.
pub fn gauge(series: &Series) -> Series {
    let name = name_of(&series.labels);
    if !(name.ends_with("_total") || name.ends_with("_count") || name.ends_with("_sum")) {
        return series.clone();
    }
    let samples = series
        .samples
        .windows(2)
        .filter_map(|pair| {
            let (step, grown) = (pair[1].0 - pair[0].0, pair[1].1 - pair[0].1);
            (step > 0.0 && grown >= 0.0).then(|| (pair[1].0, grown / step))
        })
        .collect();
    Series { labels: series.labels.clone(), samples, asked: series.asked.clone() }
}

/// A number for people.
pub fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1e4 => format!("{value:.3e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// A span of time for people, in the unit that the metric's name tells; bare where it tells none.
fn time_span(metric: &str, value: f64) -> String {
    let metric = metric.to_ascii_lowercase();
    let ends = |units: &[&str]| units.iter().any(|unit| metric.split(['_', '.', ':']).any(|word| word == *unit));
    let seconds = match () {
        () if ends(&["ms", "millis", "milliseconds"]) => value / 1e3,
        () if ends(&["us", "micros", "microseconds"]) => value / 1e6,
        () if ends(&["ns", "nanos", "nanoseconds"]) => value / 1e9,
        () if metric == name::LATENCY_P99.to_ascii_lowercase() || ends(&["seconds"]) => value,
        () => return figure(value),
    };
    if seconds < 1.0 { format!("{} ms", figure(seconds * 1e3)) } else { format!("{} s", figure(seconds)) }
}

/// Which part of the distribution a latency series is about: `p99`, `95`, or nothing.
fn quantile_key(name: &str) -> String {
    let digits: String = name.chars().skip_while(|c| !c.is_ascii_digit()).take(2).collect();
    if digits.len() == 2 { digits } else { String::new() }
}

fn latencies(scene: &Scene<'_>, windows: &Windows) -> Vec<Finding> {
    type Moves = BTreeMap<String, Shift>;
    let mut own: BTreeMap<Entity, Moves> = BTreeMap::new();
    let mut edges: BTreeMap<(Entity, Entity), Vec<Shift>> = BTreeMap::new();
    let mut asked: BTreeMap<Entity, String> = BTreeMap::new();
    let mut names: BTreeMap<(Entity, String), String> = BTreeMap::new();
    let mut note = |entity: &Entity, key: String, moved: Shift, series: &Series| {
        let known = own.entry(entity.clone()).or_default().entry(key.clone()).or_default();
        if moved.by > known.by {
            *known = moved;
            asked.insert(entity.clone(), series.asked.clone());
            names.insert((entity.clone(), key), name_of(&series.labels).to_owned());
        }
    };
    for series in scene.observations.series.known().into_iter().flatten() {
        let name = name_of(&series.labels);
        if Family::of(name) != Family::Latency || name.ends_with("_bucket") || of_node(series) {
            continue;
        }
        let Some(moved) = shift(&within(series, windows.normal), &within(series, windows.sick), 0.03, 0.8) else {
            continue;
        };
        if is_edge(series) {
            let end = |label: &str| series.labels.get(label).and_then(|name| scene.aligner.named("", name));
            let (Some(source), Some(destination)) = (end("source"), end("destination")) else { continue };
            note(&destination, quantile_key(name), moved, series);
            edges.entry((source, destination)).or_default().push(moved);
        } else if let Some(entity) = scene.aligner.of_series(series) {
            note(&entity, quantile_key(name), moved, series);
        }
    }
    let mut findings = Vec::new();
    for (entity, moves) in &own {
        let has_edges = edges.keys().any(|(source, _)| source == entity);
        let mut best: Option<(f64, Shift, f64, &String)> = None;
        for (key, moved) in moves.iter().filter(|(_, moved)| moved.by > 0.0 && moved.z >= 3.0) {
            // Any quantile of a callee may explain any quantile of the caller.
            let explained = match has_edges {
                true => edges
                    .iter()
                    .filter(|((source, destination), _)| source == entity && destination != entity)
                    .flat_map(|(_, moves)| moves.iter().map(|moved| moved.by))
                    .fold(0.0, f64::max),
                false => scene
                    .graph
                    .callees(entity)
                    .filter_map(|callee| own.get(callee)?.get(key))
                    .map(|moved| moved.by)
                    .fold(0.0, f64::max),
            };
            let share = (moved.by - explained).max(0.0) / moved.by;
            // Next to nothing times a million is still no more than "much slower".
            let weight = NATS * 0.35 * moved.z.min(CLEAR).ln_1p() * share * share;
            if best.is_none_or(|(known, ..)| weight > known) {
                best = Some((weight, *moved, share, key));
            }
        }
        if let Some((weight, moved, share, key)) = best {
            let name = names.get(&(entity.clone(), key.clone())).map_or("", String::as_str);
            let sentence = format!(
                "latency of {} rose from {} to {}; {:.0} % of the rise is its own",
                entity.name,
                time_span(name, moved.normal),
                time_span(name, moved.normal + moved.by),
                share * 100.0
            );
            findings.push(
                Finding::new(entity.clone(), cause::LATENCY, Modality::Metrics, weight, sentence)
                    .labelled("slow by itself")
                    .asked(asked.get(entity).cloned().unwrap_or_default())
                    .measure("metric", "latency"),
            );
        }
    }
    findings
}

/// Request rate of one replica over time.
type Rate = (String, Vec<(f64, f64)>);

/// Request rates by entity and replica.
pub struct Traffic {
    rates: BTreeMap<Entity, Vec<Rate>>,
    growth: BTreeMap<Entity, f64>,
    asked: String,
}

impl Traffic {
    pub fn of(scene: &Scene<'_>, windows: &Windows) -> Self {
        let mut rates: BTreeMap<Entity, Vec<Rate>> = BTreeMap::new();
        let mut asked = String::new();
        for (entity, list) in &scene.series {
            for series in list.iter().filter(|series| !is_edge(series) && !of_node(series)) {
                if Family::of(name_of(&series.labels)) == Family::Traffic {
                    let replica = series.labels.get("pod").unwrap_or(&entity.name).clone();
                    asked.clone_from(&series.asked);
                    rates.entry(entity.clone()).or_default().push((replica, gauge(series).samples));
                }
            }
        }
        let sum = |list: &[Rate], window: (f64, f64)| -> Option<f64> {
            let mut at: BTreeMap<u64, f64> = BTreeMap::new();
            for (time, value) in list.iter().flat_map(|(_, samples)| samples) {
                if (window.0..=window.1).contains(time) && value.is_finite() {
                    *at.entry(time.to_bits()).or_default() += value;
                }
            }
            median(&at.into_values().collect::<Vec<_>>())
        };
        let growth = rates
            .iter()
            .filter_map(|(entity, list)| {
                let (before, after) = (sum(list, windows.recent)?, sum(list, windows.sick)?);
                (before > 0.0).then(|| (entity.clone(), after / before))
            })
            .collect();
        Self { rates, growth, asked }
    }

    /// How much more an entity has to do than before.
    pub fn growth(&self, entity: &Entity) -> f64 {
        self.growth.get(entity).copied().unwrap_or(1.0)
    }

    /// The same, where anybody measured it.
    pub fn measured_growth(&self, entity: &Entity) -> Option<f64> {
        self.growth.get(entity).copied()
    }

    /// Whose requests fell although everybody else's did not, and which replica's although its siblings' did not.
    fn residuals(&self, windows: &Windows) -> Vec<Finding> {
        let times: BTreeSet<u64> =
            self.rates.values().flatten().flat_map(|(_, samples)| samples.iter().map(|(at, _)| at.to_bits())).collect();
        let times: Vec<f64> = times.into_iter().map(f64::from_bits).collect();
        let inside = |window: (f64, f64)| -> Vec<usize> {
            (0..times.len()).filter(|index| (window.0..=window.1).contains(&times[*index])).collect()
        };
        let (usual, sick) = (inside(windows.recent), inside(windows.sick));
        if self.rates.len() < 5 || usual.len() < 10 || sick.len() < SAMPLES_MIN {
            return Vec::new();
        }
        let pick = |values: &[f64], at: &[usize]| -> Vec<f64> {
            at.iter().filter_map(|index| values.get(*index)).copied().filter(|value| value.is_finite()).collect()
        };
        // Log rate of each replica against its own normal.
        let mut logs: BTreeMap<&Entity, Vec<Vec<f64>>> = BTreeMap::new();
        for (entity, list) in &self.rates {
            for (_, samples) in list {
                let smooth = smoothed(&times, samples);
                let Some(normal) = median(&pick(&smooth, &usual)).filter(|normal| *normal > 0.05) else { continue };
                logs.entry(entity)
                    .or_default()
                    .push(smooth.iter().map(|rate| (rate.max(1e-3) / normal).ln()).collect());
            }
        }
        let middle = |lists: &[&Vec<f64>]| -> Vec<f64> {
            (0..times.len())
                .map(|index| median(&lists.iter().map(|list| list[index]).collect::<Vec<_>>()).unwrap_or(f64::NAN))
                .collect()
        };
        let services: BTreeMap<&Entity, Vec<f64>> =
            logs.iter().map(|(entity, lists)| (*entity, middle(&lists.iter().collect::<Vec<_>>()))).collect();
        let common = middle(&services.values().collect::<Vec<_>>());
        let against = |list: &[f64], floor: f64| -> Vec<f64> {
            list.iter().zip(&common).map(|(own, all)| (own - all.max(floor)).clamp(-2.5, 2.5)).collect()
        };
        let spreads: Vec<f64> =
            services.values().map(|list| deviation(&pick(&against(list, f64::MIN), &usual))).collect();
        let noise = median(&spreads).unwrap_or(0.0).max(0.05);
        let mut findings = Vec::new();
        let mut tell = |entity: &Entity, weight: f64, sentence: String| {
            findings.push(
                Finding::new(entity.clone(), cause::NETWORK, Modality::Metrics, NATS * weight, sentence)
                    .labelled("requests do not arrive")
                    .asked(&self.asked)
                    .measure("metric", "requests"),
            );
        };
        for (entity, list) in &services {
            let residual = against(list, f64::MIN);
            let spread = deviation(&pick(&residual, &usual)).max(noise);
            let fall = -quantile(&pick(&residual, &sick), 0.1).unwrap_or(0.0);
            let weight = 0.5 * (fall / spread - 2.0).max(0.0).ln_1p();
            tell(
                entity,
                weight,
                format!("requests to {} fell {:.1} times more than those to others", entity.name, fall.exp()),
            );
            let replicas: Vec<Vec<f64>> = logs[entity].iter().map(|list| against(list, -1.5)).collect();
            if replicas.len() > 1 {
                let mut falls: Vec<f64> =
                    replicas.iter().map(|list| -quantile(&pick(list, &sick), 0.1).unwrap_or(0.0)).collect();
                falls.sort_by(f64::total_cmp);
                let spreads: Vec<f64> = replicas.iter().map(|list| deviation(&pick(list, &usual))).collect();
                let spread = (1.5 * noise).max(median(&spreads).unwrap_or(0.0)).max(0.08);
                let gap = falls[falls.len() - 1] - falls[0].max(0.0);
                let weight = 0.7 * (gap / spread - 2.0).max(0.0).ln_1p();
                tell(
                    entity,
                    weight,
                    format!("one replica of {} gets {:.1} times fewer requests than another", entity.name, gap.exp()),
                );
            }
        }
        findings
    }
}

/// A running median of three on a common time grid; holes are not numbers.
fn smoothed(times: &[f64], samples: &[(f64, f64)]) -> Vec<f64> {
    let known: BTreeMap<u64, f64> = samples.iter().map(|(at, value)| (at.to_bits(), *value)).collect();
    let raw: Vec<f64> = times.iter().map(|at| known.get(&at.to_bits()).copied().unwrap_or(f64::NAN)).collect();
    (0..raw.len())
        .map(|index| {
            let around = &raw[index.saturating_sub(1)..(index + 2).min(raw.len())];
            median(around).unwrap_or(f64::NAN)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_told_in_the_unit_of_its_metric_and_bare_where_nothing_tells_it() {
        for (metric, value, told) in [
            (name::LATENCY_P99, 0.196, "196 ms"),
            (name::LATENCY_P99, 2.5, "2.5 s"),
            ("istio_request_duration_milliseconds", 452.0, "452 ms"),
            ("coroot_container_net_latency_seconds", 0.0041, "4.1 ms"),
            ("http.server.duration.ms", 1500.0, "1.5 s"),
            ("checkout_latency-95", 0.452, "0.452"),
        ] {
            assert_eq!(time_span(metric, value), told, "{metric}");
        }
    }
}

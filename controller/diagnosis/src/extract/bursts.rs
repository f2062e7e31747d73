//! Trouble that comes and goes, when nobody knows when it began.
//!
//! Without an onset there are no two windows to compare: a fault that is switched on and off again has its quiet moments on
//! both sides of any split. What stays comparable is each series with itself (its upper tenth against its quiet quarter,
//! in units of its usual noise), and each entity with the others. CPU and latency that rise again and again, memory that
//! rises more than anybody else's, and replicas that come and go tell who is restless.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::evidence::Series;
use crate::finding::{Finding, Modality};
use crate::metric::{Family, name_of};
use crate::robust::{median, quantile};
use crate::scene::Scene;

use super::metrics::{figure, gauge, is_edge, of_node};

/// Fewer samples than this have no quiet part of their own.
const SAMPLES_MIN: usize = 12;
/// From the extractor's own scale to nats: without an onset, coincidences are common.
const NATS: f64 = 1.2;
/// Latency is inherited, even when it is explained by milliseconds; it counts a third of what cannot be inherited.
const LATENCY: f64 = 0.3;
/// A rise of this share of what the busiest entity usually takes counts in full (see the metrics extractor).
const FULL_SIZE: f64 = 0.3;
const SMALL: f64 = 0.25;
/// Standard deviations between the tenth and the fortieth percentile of a normal distribution, as a factor.
const LOWER_SPREAD: f64 = 1.0 / 1.028;
/// Noise below this share of the quiet value is rounding.
const NOISE_FLOOR: f64 = 0.05;
/// Units of noise that bursts of a healthy series reach as well.
const USUAL: f64 = 2.0;
/// Replicas that come and go count up to this many.
const REPLICAS_MAX: f64 = 3.0;
/// Seconds from the ends of the data within which a series may begin or end without meaning.
const EDGE: f64 = 30.0;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    // Whoever knows an alert or a beginning has two windows to compare, which say more.
    if scene.onset.is_some() || scene.windows.is_none_or(|windows| windows.told) {
        return Vec::new();
    }
    let entities = || scene.series.iter().filter(|(entity, _)| entity.kind != EntityKind::Node);
    let own = |list: &'_ [&Series], family: Family| -> Vec<Series> {
        let of = list.iter().filter(|series| !is_edge(series) && !of_node(series));
        of.filter(|series| Family::of(name_of(&series.labels)) == family).map(|series| gauge(series)).collect()
    };
    let mut findings = Vec::new();
    let processors: BTreeMap<&Entity, Vec<Series>> =
        entities().map(|(entity, list)| (entity, own(list, Family::Cpu))).collect();
    let quiet = processors.values().flatten().filter_map(|series| Some(Burst::of(series)?.quiet));
    let busiest = quiet.fold(0.0, f64::max);
    for (entity, list) in &processors {
        let bursts = list.iter().filter_map(|series| Some((Burst::of(series)?, series)));
        let best = bursts.map(|(burst, series)| {
            let size = (burst.by / (FULL_SIZE * busiest).max(1e-9)).clamp(SMALL, 1.0);
            (burst.clear() * size, burst, series)
        });
        if let Some((weight, burst, series)) = best.max_by(|a, b| a.0.total_cmp(&b.0)) {
            findings.extend(told(entity, cause::CPU, weight, &burst, series));
        }
    }
    findings.extend(latency(scene));
    let reporting = entities().flat_map(|(_, list)| list).filter_map(|series| reports(series));
    if let Some(span) = reporting.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) {
        let whole = |list: &'_ [&Series]| -> Vec<Series> {
            own(list, Family::Memory).into_iter().filter(|series| throughout(series, span)).collect()
        };
        findings.extend(memory(&entities().map(|(entity, list)| (entity, whole(list))).collect()));
        findings.extend(entities().filter_map(|(entity, list)| restless(entity, list, span)));
    }
    findings
}

/// How a series rises above its own quiet time.
#[derive(Clone, Copy)]
struct Burst {
    quiet: f64,
    by: f64,
    /// In units of its usual noise.
    z: f64,
}

impl Burst {
    fn of(series: &Series) -> Option<Self> {
        let values: Vec<f64> =
            series.samples.iter().map(|(_, value)| *value).filter(|value| value.is_finite()).collect();
        if values.len() < SAMPLES_MIN {
            return None;
        }
        let (quiet, high) = (quantile(&values, 0.25)?, quantile(&values, 0.9)?);
        // The noise of the quiet part alone: bursts that last half of the time would make half of their height the noise.
        let spread = quantile(&values, 0.4)? - quantile(&values, 0.1)?;
        let noise = (spread * LOWER_SPREAD).max(NOISE_FLOOR * quiet.abs()).max(1e-9);
        Some(Self { quiet, by: high - quiet, z: (high - quiet) / noise })
    }

    /// How clear it is, on the extractor's own scale.
    fn clear(&self) -> f64 {
        (self.z - USUAL).max(0.0).ln_1p()
    }
}

fn told(entity: &Entity, kind: &'static str, weight: f64, burst: &Burst, series: &Series) -> Option<Finding> {
    let name = name_of(&series.labels);
    (weight > 0.05).then(|| {
        let sentence = format!(
            "{name} of {} rises again and again from {} to {}",
            entity.name,
            figure(burst.quiet),
            figure(burst.quiet + burst.by)
        );
        Finding::new(entity.clone(), kind, Modality::Metrics, NATS * weight, sentence)
            .labelled(format!("{name} in bursts"))
            .asked(&series.asked)
            .measure("metric", name)
    })
}

/// Memory that rises more than that of the others, in the metric's own unit. What is given back is no pressure.
fn memory(list: &BTreeMap<&Entity, Vec<Series>>) -> Vec<Finding> {
    let rises = |series: &Series| {
        let values: Vec<f64> = series.samples.iter().map(|(_, value)| *value).collect();
        let middle = median(&values).filter(|_| values.len() >= SAMPLES_MIN)?;
        Some(quantile(&values, 0.95)? - middle)
    };
    let moved: BTreeMap<&Entity, (f64, &Series)> = list
        .iter()
        .filter_map(|(entity, list)| {
            let moved = list.iter().filter_map(|series| Some((rises(series)?, series)));
            Some((*entity, moved.max_by(|a, b| a.0.total_cmp(&b.0))?))
        })
        .collect();
    let mut findings = Vec::new();
    for (entity, (own, series)) in &moved {
        let others: Vec<f64> = moved.iter().filter(|(other, _)| other != &entity).map(|(_, (by, _))| *by).collect();
        let Some(usual) = median(&others) else { continue };
        // A megabyte more or less is nothing, whatever the others do; bytes and megabytes are both in use.
        let floor = if *own > 1e5 { 1e6 } else { 1.0 };
        let weight = (own / usual.max(floor) - 1.0).max(0.0).ln_1p();
        if weight > 0.05 {
            let name = name_of(&series.labels);
            let sentence =
                format!("{name} of {} rises by {}, that of the others by {}", entity.name, figure(*own), figure(usual));
            findings.push(
                Finding::new((*entity).clone(), cause::MEMORY, Modality::Metrics, NATS * weight, sentence)
                    .labelled(format!("{name} rises"))
                    .asked(&series.asked)
                    .measure("metric", name),
            );
        }
    }
    findings
}

/// Latency of the calls to an entity, less what the slowest call of its own explains, in milliseconds.
fn latency(scene: &Scene<'_>) -> Vec<Finding> {
    let mut edges: BTreeMap<(Entity, Entity), (f64, f64, String)> = BTreeMap::new();
    for series in scene.observations.series.known().into_iter().flatten() {
        let name = name_of(&series.labels);
        if !is_edge(series) || Family::of(name) != Family::Latency || name.ends_with("_bucket") {
            continue;
        }
        let end = |label: &str| scene.aligner.named("", series.labels.get(label)?);
        let (Some(source), Some(destination), Some(burst)) = (end("source"), end("destination"), Burst::of(series))
        else {
            continue;
        };
        let known = edges.entry((source, destination)).or_insert((0.0, 0.0, String::new()));
        if burst.z > known.0 {
            (known.0, known.2) = (burst.z, series.asked.clone());
        }
        known.1 = known.1.max(burst.by);
    }
    let mut best: BTreeMap<&Entity, (f64, f64, &str)> = BTreeMap::new();
    for ((_, to), (z, by, asked)) in &edges {
        let deeper = edges.iter().filter(|((from, _), _)| from == to).map(|(_, (_, by, _))| *by).fold(0.0, f64::max);
        let share = (by - deeper).max(0.0) / by.max(1e-9);
        let weight = LATENCY * (z - USUAL).max(0.0).ln_1p() * share * share;
        let known = best.entry(to).or_insert((0.0, 0.0, ""));
        if weight > known.0 {
            *known = (weight, *by, asked);
        }
    }
    let slow = best.into_iter().filter(|(_, (weight, ..))| *weight > 0.05);
    slow.map(|(entity, (weight, by, asked))| {
        let sentence = format!("calls to {} are slower again and again, by {} ms", entity.name, figure(by));
        Finding::new(entity.clone(), cause::LATENCY, Modality::Metrics, NATS * weight, sentence)
            .labelled("slow in bursts")
            .asked(asked)
            .measure("metric", "latency")
    })
    .collect()
}

/// When a series begins and ends.
fn reports(series: &Series) -> Option<(f64, f64)> {
    Some((series.samples.first()?.0, series.samples.last()?.0))
}

/// Whether it reports from the first to the last moment: a process that starts takes its memory step by step, and a pod that
/// ends gives it back. Neither is pressure; that replicas come and go is told by itself.
fn throughout(series: &Series, (first, last): (f64, f64)) -> bool {
    reports(series).is_some_and(|(from, to)| from <= first + EDGE && to >= last - EDGE)
}

/// Replicas that begin or end to report while others of the same story do throughout.
fn restless(entity: &Entity, list: &[&Series], (first, last): (f64, f64)) -> Option<Finding> {
    let mut replicas: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for series in list {
        if let (Some(pod), Some((from, to))) = (series.labels.get("pod"), reports(series)) {
            let known = replicas.entry(pod).or_insert((from, to));
            *known = (known.0.min(from), known.1.max(to));
        }
    }
    let moving: BTreeSet<&str> = replicas
        .iter()
        .filter(|(_, (from, to))| *from > first + EDGE || *to < last - EDGE)
        .map(|(pod, _)| *pod)
        .collect();
    let weight = (moving.len() as f64).min(REPLICAS_MAX);
    (weight > 0.0).then(|| {
        let sentence = format!("{} of {} replicas of {} come and go", moving.len(), replicas.len(), entity.name);
        Finding::new(entity.clone(), cause::UNAVAILABLE, Modality::Metrics, NATS * weight, sentence)
            .labelled("replicas come and go")
            .asked(list.first().map_or("", |series| &series.asked))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn reporting(from: u32, to: u32) -> Series {
        let samples = (from..=to).map(|at| (f64::from(at) * 5.0, f64::from(at))).collect();
        Series { labels: BTreeMap::new(), samples, asked: String::new() }
    }

    fn wave(high: f64) -> Series {
        // On for half of the time, with a little noise below.
        let value = |at: u32| if at % 24 < 12 { 12.0 + f64::from(at % 3) } else { high };
        let samples = (0..120).map(|at| (f64::from(at) * 5.0, value(at))).collect();
        Series { labels: BTreeMap::new(), samples, asked: String::new() }
    }

    #[test]
    fn bursts_that_last_half_of_the_time_are_as_clear_as_short_ones() {
        let burst = Burst::of(&wave(150.0)).unwrap();
        assert!(burst.z > 50.0, "{}", burst.z);
        assert!(Burst::of(&wave(15.0)).unwrap().z < 5.0);
    }

    #[test]
    fn memory_that_is_given_back_is_no_pressure() {
        let entity = |name: &str| Entity::new(EntityKind::Service, "", name);
        let series = |moved: f64| {
            let samples = (0..120).map(|at| (f64::from(at) * 5.0, if at > 100 { 100e6 + moved } else { 100e6 }));
            Series { labels: BTreeMap::new(), samples: samples.collect(), asked: String::new() }
        };
        let (a, b, c) = (entity("a"), entity("b"), entity("c"));
        let blamed = |moved: f64| {
            let list = BTreeMap::from([(&a, vec![series(moved)]), (&b, vec![series(5e5)]), (&c, vec![series(5e5)])]);
            memory(&list).into_iter().map(|finding| finding.entity.name).collect::<Vec<_>>()
        };
        assert_eq!(blamed(50e6), ["a"]);
        assert!(blamed(-50e6).is_empty());
    }

    #[test]
    fn a_pod_that_starts_or_ends_on_the_way_says_nothing_of_memory_pressure() {
        let span = (0.0, 600.0);
        assert!(throughout(&reporting(0, 120), span));
        assert!(throughout(&reporting(2, 117), span), "a scrape or two may be missing at either end");
        assert!(!throughout(&reporting(30, 120), span));
        assert!(!throughout(&reporting(0, 60), span));
    }
}

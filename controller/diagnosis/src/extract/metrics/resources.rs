//! CPU, memory and disk: what an entity takes for itself, beyond what its load asks for.

use std::collections::{BTreeMap, BTreeSet};

use super::{NATS, Traffic, figure, gauge, is_edge, of_node};
use crate::cluster::quantity;
use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::evidence::Series;
use crate::finding::{Finding, Modality};
use crate::metric::{Family, name, name_of};
use crate::robust::{Shift, median, quantile, shift};
use crate::scene::Scene;
use crate::windows::{Windows, within};

/// A rise of this share of what the busiest peer usually takes counts in full; smaller ones count less, in proportion.
///
/// Relative rises of small figures are everyday noise: in public cases every true CPU fault rose by at least .39 of the
/// busiest peer's normal, every memory fault by .21, while ten-fold rises of idle services without consequence are common.
const FULL_SIZE: f64 = 0.3;
/// What is left of a rise too small to be felt beside its peers: the entity's own limit may be small as well.
const SMALL: f64 = 0.25;

/// Entities that use less than this share of the CPU that they may have do not lack any.
const AT_EASE: f64 = 0.35;
/// What is left of their rise: it is work, and no lack. Where nothing else is unusual it must not be enough to be sure.
const EASY: f64 = 0.1;
/// Share of its periods in which a container that lacks no CPU may still be throttled: every burst costs a few.
const THROTTLED: f64 = 0.05;

/// Share of its CPU limit from which on a container keeps those who call it waiting before it takes the call.
const SATURATED: f64 = 0.85;
/// How many times what it used before: who always runs at its limit is no news.
const SATURATED_SINCE: f64 = 1.25;

/// Memory that rose to this many times what it was, and by this share of a full size, is what is wrong although CPU rose as well.
///
/// To fill and walk memory takes CPU; to compute takes no memory. In 15 of 16 public memory faults whose process shows it the memory
/// rose to 2.5 times or more, with CPU at its limit in most; in 73 of 74 CPU faults to less than twice, in the other by little.
const SWOLLEN: f64 = 2.0;
const SWOLLEN_SIZE: f64 = 0.5;
/// What is left of the CPU that goes with it.
const GOES_ALONG: f64 = 0.25;

pub(super) fn resources(scene: &Scene<'_>, windows: &Windows, traffic: &Traffic) -> Vec<Finding> {
    let largest = largest_usual(scene, windows);
    let entities = scene.series.iter().filter(|(entity, _)| entity.kind != EntityKind::Node);
    let mut findings = Vec::new();
    for (entity, list) in entities {
        let own = || list.iter().copied().filter(|series| !is_edge(series) && !of_node(series));
        let at_ease = is_at_ease(scene, entity, list, windows);
        let mut rises: Vec<Rise> = own()
            .filter_map(|series| {
                let name = name_of(&series.labels);
                let per_replica = fewer_replicas(list, name, windows);
                let busiest = largest.get(name).copied().unwrap_or(0.0);
                Rise::of(series, windows, traffic.growth(entity) * per_replica, busiest, at_ease)
            })
            .collect();
        memory_before_the_cpu_that_it_takes(&mut rises);
        findings.extend(rises.iter().map(|rise| rise.told(entity)));
    }
    findings
}

/// One resource of an entity that rose by more than its load.
#[derive(Clone, Debug)]
struct Rise {
    kind: &'static str,
    metric: String,
    asked: String,
    moved: Shift,
    /// How many times more each replica has to do.
    load: f64,
    /// The rise as a share of one that counts in full.
    size: f64,
    weight: f64,
}

impl Rise {
    fn of(series: &Series, windows: &Windows, load: f64, busiest: f64, at_ease: bool) -> Option<Self> {
        let name = name_of(&series.labels);
        let (kind, factor) = match Family::of(name) {
            Family::Cpu => (cause::CPU, 1.0),
            // A share of a limit repeats what the absolute value says.
            Family::Memory if name.to_ascii_lowercase().contains("rate") => return None,
            Family::Memory => (cause::MEMORY, 0.8),
            Family::Disk => (cause::DISK, 0.3),
            Family::Network
            | Family::Latency
            | Family::Errors
            | Family::Success
            | Family::Traffic
            | Family::Restarts
            | Family::Limit
            | Family::Other => return None,
        };
        let series = gauge(series);
        let sick = within(&series, windows.sick);
        let moved = shift(&within(&series, windows.normal), &sick, 0.05, 0.8)?;
        let recent = shift(&within(&series, windows.recent), &sick, 0.05, 0.8).map_or(moved.z, |recent| recent.z);
        let z = moved.z.min(recent);
        let doublings = if moved.normal > 0.0 { (now(&moved) / moved.normal).max(1e-9).log2() } else { 0.0 };
        let beyond = (doublings - load.max(1.0).log2() + 0.15).clamp(0.0, 1.5);
        let size = moved.by / (FULL_SIZE * busiest).max(1e-9);
        let felt = if kind == cause::CPU && at_ease { EASY } else { size.clamp(SMALL, 1.0) };
        let weight = NATS * factor * felt * (z - 2.0).max(0.0).ln_1p() * beyond;
        let rise = || Self { kind, metric: name.to_owned(), asked: series.asked.clone(), moved, load, size, weight };
        (weight > 0.0).then(rise)
    }

    fn is_swollen(&self) -> bool {
        self.kind == cause::MEMORY && self.size >= SWOLLEN_SIZE && now(&self.moved) >= SWOLLEN * self.moved.normal
    }

    fn told(&self, entity: &Entity) -> Finding {
        let load = match self.load.max(1.0).log2() > 0.1 {
            true => format!(", more than its load ({:.1} times)", self.load),
            false => String::new(),
        };
        let sentence = format!(
            "{} of {} rose from {} to {}{load}",
            self.metric,
            entity.name,
            figure(self.moved.normal),
            figure(now(&self.moved)),
        );
        Finding::new(entity.clone(), self.kind, Modality::Metrics, self.weight, sentence)
            .labelled(format!("{} x{:.1}", self.metric, now(&self.moved) / self.moved.normal.max(1e-9)))
            .asked(&self.asked)
            .measure("metric", &self.metric)
    }
}

fn now(moved: &Shift) -> f64 {
    moved.by + moved.normal
}

/// Where memory swelled, the CPU that rose with it speaks for the memory.
fn memory_before_the_cpu_that_it_takes(rises: &mut [Rise]) {
    let busy = rises.iter().filter(|rise| rise.kind == cause::CPU).map(|rise| rise.weight).fold(0.0, f64::max);
    if busy <= 0.0 || !rises.iter().any(Rise::is_swollen) {
        return;
    }
    for rise in rises {
        if rise.is_swollen() {
            rise.weight = rise.weight.max(busy);
        } else if rise.kind == cause::CPU {
            rise.weight *= GOES_ALONG;
        }
    }
}

/// The largest usual value of each resource metric over all entities, in the metric's own unit.
fn largest_usual<'s>(scene: &Scene<'s>, windows: &Windows) -> BTreeMap<&'s str, f64> {
    let mut largest: BTreeMap<&str, f64> = BTreeMap::new();
    for series in scene.series.values().flatten().filter(|series| !is_edge(series) && !of_node(series)) {
        let name = name_of(&series.labels);
        if matches!(Family::of(name), Family::Cpu | Family::Memory | Family::Disk) {
            let usual = median(&within(&gauge(series), windows.normal)).unwrap_or(0.0);
            let known = largest.entry(name).or_default();
            *known = known.max(usual);
        }
    }
    largest
}

/// Whether an entity stays far below the CPU that it may use, and nothing of it is throttled.
///
/// Averages hide bursts, which throttling shows; where nobody measures it, far below is far below.
fn is_at_ease(scene: &Scene<'_>, entity: &Entity, list: &[&Series], windows: &Windows) -> bool {
    let throttled = list.iter().filter(|series| name_of(&series.labels).contains("throttl"));
    let throttled = throttled.filter_map(|series| high(series, windows.sick)).any(|share| share > THROTTLED);
    !throttled && share_of_cpu(scene, entity, list, windows.sick).is_some_and(|share| share < AT_EASE)
}

/// Entities that came to use almost all the CPU that they may have.
pub fn saturated<'s>(scene: &'s Scene<'_>) -> BTreeSet<&'s Entity> {
    let Some(windows) = scene.windows else { return BTreeSet::new() };
    let is_saturated = |(entity, list): &(&Entity, &Vec<&Series>)| {
        let share = |window| share_of_cpu(scene, entity, list, window);
        share(windows.sick).is_some_and(|now| {
            now >= SATURATED && share(windows.normal).is_none_or(|usual| now >= usual * SATURATED_SINCE)
        })
    };
    scene.series.iter().filter(is_saturated).map(|(entity, _)| entity).collect()
}

/// The largest share of its CPU limit that any container of an entity uses: as a metric gives it in per cent, else usage by limit.
/// None where no limit is known, also when one of several containers has none.
fn share_of_cpu(scene: &Scene<'_>, entity: &Entity, list: &[&Series], window: (f64, f64)) -> Option<f64> {
    let own = || list.iter().filter(|series| !is_edge(series) && !of_node(series));
    let told = own().filter(|series| {
        let name = name_of(&series.labels);
        name.contains('%') && Family::of(name) == Family::Cpu
    });
    let told = told.filter_map(|series| Some(high(series, window)? / 100.0)).reduce(f64::max);
    told.or_else(|| {
        let limits = limits(scene, entity, list);
        let used = own().filter(|series| name_of(&series.labels) == name::CPU);
        let shares: Option<Vec<f64>> = used
            .filter_map(|series| Some((series, high(series, window)?)))
            .map(|(series, used)| Some(used / limits.get(&place(series)?).filter(|limit| **limit > 0.0)?))
            .collect();
        shares?.into_iter().reduce(f64::max)
    })
}

/// What a series reaches for a fifth of a window.
fn high(series: &Series, window: (f64, f64)) -> Option<f64> {
    quantile(&within(&gauge(series), window), 0.8)
}

type Place = (String, String);

/// Pod and container that a series is about.
fn place(series: &Series) -> Option<Place> {
    Some((series.labels.get("pod")?.clone(), series.labels.get("container")?.clone()))
}

/// CPU limits in cores, from the store or from the pods themselves.
fn limits(scene: &Scene<'_>, entity: &Entity, list: &[&Series]) -> BTreeMap<Place, f64> {
    let pods = scene.cluster.pods.iter().filter(|pod| pod.workload == entity.workload());
    let specified = pods.flat_map(|pod| {
        pod.containers.iter().filter_map(|container| {
            let limit = container.spec.pointer("/resources/limits/cpu")?.as_str().and_then(quantity)?;
            Some(((pod.name.clone(), container.name.clone()), limit))
        })
    });
    let of_cpu = |series: &&&Series| {
        name_of(&series.labels) == name::LIMITS && series.labels.get("resource").is_some_and(|one| one == "cpu")
    };
    let stored = list.iter().filter(of_cpu).filter_map(|series| Some((place(series)?, series.samples.last()?.1)));
    specified.chain(stored).collect()
}

/// How many times more each replica has to do because others are gone: replicas that reported before by those that still do.
fn fewer_replicas(list: &[&Series], name: &str, windows: &Windows) -> f64 {
    let of_pods = || list.iter().filter(|series| name_of(&series.labels) == name && series.labels.contains_key("pod"));
    let late = (windows.sick.0 + 0.5 * (windows.sick.1 - windows.sick.0), windows.sick.1);
    let reporting = |window: (f64, f64)| {
        let alive = of_pods().filter(|series| !within(series, window).is_empty());
        alive.filter_map(|series| series.labels.get("pod")).collect::<BTreeSet<_>>().len() as f64
    };
    let (before, now) = (reporting(windows.recent), reporting(late));
    if now > 0.0 { (before / now).max(1.0) } else { 1.0 }
}

//! Pressure stall information: how long the tasks of a container or node wait for CPU, memory, or input and output.
//!
//! Read from the finer answers of a second round (see [`deep`](crate::deep)). Usage says how much is used; only a stall says that
//! it was not enough. <https://docs.kernel.org/accounting/psi.html>

use std::collections::BTreeMap;

use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::finding::{Finding, Modality};
use crate::metric::{finer, name_of};
use crate::robust::{median, quantile};
use crate::scene::Scene;
use crate::windows::within;

/// Share of time that some task waits, below which nobody feels it; the kernel's own watchers begin at a tenth.
const FELT: f64 = 0.1;
/// It must have grown by this many times, or it is how the workload always runs.
const TIMES: f64 = 3.0;
/// A stall of this share of the time counts in full.
const FULL: f64 = 0.5;
/// Nats of a full stall; usage that rose says the same from another side and counts beside it.
const NATS: f64 = 3.0;
/// Fewer samples say nothing.
const SAMPLES_MIN: usize = 3;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let Some(windows) = scene.windows else { return Vec::new() };
    let mut worst: BTreeMap<(&Entity, &'static str), (f64, f64, String, String)> = BTreeMap::new();
    for (entity, series) in &scene.finer {
        for one in series.iter().filter(|one| name_of(&one.labels) == finer::PRESSURE) {
            let Some((kind, resource)) = one.labels.get("resource").and_then(|name| kind(entity, name)) else {
                continue;
            };
            let (before, now) = (within(one, windows.normal), within(one, windows.sick));
            if before.len() < SAMPLES_MIN || now.len() < SAMPLES_MIN {
                continue;
            }
            // What it usually waits at its worst, against what it now waits in the middle of the trouble.
            let (Some(usual), Some(stalled)) = (quantile(&before, 0.9), median(&now)) else { continue };
            if stalled < FELT || stalled < TIMES * usual {
                continue;
            }
            let known = worst.entry((entity, kind)).or_insert((0.0, 0.0, String::new(), String::new()));
            if stalled > known.0 {
                *known = (stalled, usual, resource.to_owned(), one.asked.clone());
            }
        }
    }
    let told = worst.into_iter().map(|((entity, kind), (stalled, usual, resource, asked))| {
        let sentence = format!(
            "tasks of {} wait for {resource} {:.0} % of the time, {:.0} % before",
            entity.name,
            stalled * 100.0,
            usual * 100.0
        );
        Finding::new(entity.clone(), kind, Modality::Metrics, NATS * (stalled / FULL).min(1.0), sentence)
            .labelled(format!("waits for {resource} {:.0} %", stalled * 100.0))
            .asked(asked)
            .measure("pressure", resource)
    });
    told.collect()
}

fn kind(entity: &Entity, resource: &str) -> Option<(&'static str, &'static str)> {
    let (own, shown) = match resource {
        "cpu" => (cause::CPU, "CPU"),
        "memory" => (cause::MEMORY, "memory"),
        "io" => (cause::DISK, "input and output"),
        _ => return None,
    };
    Some((if entity.kind == EntityKind::Node { cause::NODE_PRESSURE } else { own }, shown))
}

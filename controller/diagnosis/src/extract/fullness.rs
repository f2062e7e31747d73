//! Volumes and nodes that came to be full.
//!
//! A share of what there is has a meaning of its own, so its size is judged and not its noise: a disk that is as full as before
//! is no news, and one that doubles from a tenth harms nobody.

use std::collections::BTreeMap;

use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::finding::{Finding, Modality};
use crate::metric::{name, name_of};
use crate::robust::quantile;
use crate::scene::Scene;
use crate::windows::within;

/// What a share is of, from when on it is too much, and what that is for whoever has it.
struct Full {
    metric: &'static str,
    /// Kubelets report pressure at .90 of a disk and evict (`nodefs.available<10%`); processes fail a little later.
    from: f64,
    kind: &'static str,
    shown: &'static str,
}

const FULL: [Full; 4] = [
    Full { metric: name::VOLUME_FULLNESS, from: 0.95, kind: cause::DISK, shown: "a volume" },
    Full { metric: name::NODE_DISK, from: 0.92, kind: cause::NODE_PRESSURE, shown: "the disk" },
    Full { metric: name::NODE_MEMORY, from: 0.95, kind: cause::NODE_PRESSURE, shown: "the memory" },
    Full { metric: name::NODE_CPU, from: 0.95, kind: cause::NODE_PRESSURE, shown: "the CPU" },
];

/// What has not grown by as much is as full as ever.
const GROWN: f64 = 0.03;
/// Between a resource that rose and a condition that Kubernetes reports.
const WEIGHT: f64 = 2.5;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let Some(windows) = scene.windows else { return Vec::new() };
    let mut worst: BTreeMap<(&Entity, &'static str), (f64, Finding)> = BTreeMap::new();
    for (entity, series) in scene.series.iter().flat_map(|(entity, list)| list.iter().map(move |one| (entity, one))) {
        let Some(full) = FULL.iter().find(|full| full.metric == name_of(&series.labels)) else { continue };
        if (full.kind == cause::NODE_PRESSURE) != (entity.kind == EntityKind::Node) {
            continue;
        }
        let high = |window| quantile(&within(series, window), 0.8);
        let (Some(now), before) = (high(windows.sick), high(windows.normal)) else { continue };
        if now < full.from || before.is_some_and(|before| now - before < GROWN) {
            continue;
        }
        let was = before.map_or_else(String::new, |before| format!(" after {:.0} %", before * 100.0));
        let sentence = format!("{} of {} is {:.0} % full{was}", full.shown, entity.name, now * 100.0);
        let finding = Finding::new(entity.clone(), full.kind, Modality::Metrics, WEIGHT, sentence)
            .labelled(format!("{:.0} % full", now * 100.0))
            .asked(&series.asked)
            .measure("metric", full.metric);
        let known = worst.entry((entity, full.kind)).or_insert_with(|| (now, finding.clone()));
        if now > known.0 {
            *known = (now, finding);
        }
    }
    worst.into_values().map(|(_, finding)| finding).collect()
}

//! Trouble that comes from what an entity calls: the deepest failing service, or a thing outside that does not answer.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::finding::{Finding, Modality};
use crate::logs::{Class, catalogue, clean};
use crate::scene::{Scene, shifted};

/// A rise of the error ratio below this is noise.
const RATIO_FLOOR: f64 = 0.02;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let Some(onset) = scene.onset else { return Vec::new() };
    let mut findings = Vec::new();
    let symptoms: BTreeSet<Entity> =
        scene.observations.symptoms.iter().map(|signal| scene.symptom_entity(&signal.entity)).collect();
    let risen = risen(scene, onset);
    for (entity, (rise, asked)) in &risen {
        let explained =
            scene.graph.callees(entity).filter_map(|callee| risen.get(callee)).any(|(callee, _)| *callee > 0.4 * rise);
        if explained {
            continue;
        }
        let called =
            scene.graph.calls.iter().any(|(caller, callees)| callees.contains(entity) && risen.contains_key(caller));
        let (weight, story) = match (called, symptoms.contains(entity)) {
            (true, _) => (2.0, "and nothing that it calls fails as much"),
            (false, _) => (0.5, "and nothing that it calls explains it"),
        };
        findings.push(
            Finding::new(
                entity.clone(),
                cause::DEPENDENCY,
                Modality::Metrics,
                weight,
                format!("the error ratio of {} rose by {:.0} points {story}", entity.name, rise * 100.0),
            )
            .labelled(format!("errors +{:.0} %", rise * 100.0))
            .asked(asked)
            .measure("dependency", &entity.name),
        );
    }
    findings.extend(named_in_logs(scene, onset));
    findings
}

/// Entities whose error ratio rose with the trouble, by how much.
fn risen(scene: &Scene<'_>, onset: Timestamp) -> BTreeMap<Entity, (f64, String)> {
    let (normal, fault) = (scene.observations.normal, scene.observations.fault);
    let before = normal.map_or(
        (shifted(onset, SignedDuration::from_mins(-60)), shifted(onset, SignedDuration::from_mins(-2))),
        |window| (window.from, window.to),
    );
    let after = fault.map_or((onset, scene.observations.at), |window| (window.from, window.to));
    let mut risen = BTreeMap::new();
    for entity in scene.series.keys() {
        let now = scene.answering(entity, after.0, after.1);
        let Some(ratio) = now.error_ratio else { continue };
        let rise = ratio - scene.answering(entity, before.0, before.1).error_ratio.unwrap_or(0.0);
        if rise > RATIO_FLOOR {
            risen.insert(entity.clone(), (rise, now.asked));
        }
    }
    risen
}

/// Log lines that say which callee did not answer.
fn named_in_logs(scene: &Scene<'_>, onset: Timestamp) -> Vec<Finding> {
    let since = u64::try_from(shifted(onset, SignedDuration::from_mins(-5)).as_nanosecond()).unwrap_or(0);
    let mut blamed: BTreeMap<(Entity, String), (u64, String)> = BTreeMap::new();
    for (entity, lines) in &scene.logs {
        for line in lines.iter().filter(|line| line.at_ns.is_none_or(|at| at >= since)) {
            // Few lines name a host, and asking for one is much cheaper than the whole catalogue.
            let Some(callee) = catalogue::callee(&line.body) else { continue };
            let class = scene.class_of(line);
            if !matches!(class, Class::Network | Class::Dns | Class::Timeout | Class::Tls | Class::Database) {
                continue;
            }
            let entry = blamed.entry((entity.clone(), callee.to_owned())).or_default();
            entry.0 += line.count.max(1);
            if entry.1.is_empty() {
                entry.1 = clean::plain(&line.body).chars().take(120).collect();
            }
        }
    }
    let asked = scene.questions().about(&["logs", "log", "|="]);
    blamed
        .into_iter()
        .filter(|(_, (count, _))| *count >= 2)
        .map(|((caller, callee), (count, line))| {
            let known = scene.aligner.named(&caller.namespace, &callee);
            let weight = if known.is_some() { 1.5 } else { 3.0 };
            let entity = known.unwrap_or_else(|| caller.clone());
            Finding::new(
                entity,
                cause::DEPENDENCY,
                Modality::Logs,
                weight,
                format!("{} says {count} times that {callee} does not answer: \"{line}\"", caller.name),
            )
            .labelled(format!("{callee} does not answer"))
            .asked(&asked)
            .measure("dependency", callee)
        })
        .collect()
}

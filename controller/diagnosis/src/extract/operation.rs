//! One operation out of many is sick: what all operations share is not to blame.
//!
//! Read from the finer answers of a second round (see [`deep`](crate::deep)). A container that lacks CPU or memory, a bad network
//! or too few replicas harm every route alike; a fault in code, data or a callee of one route harms that route.

use std::collections::BTreeMap;

use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::evidence::Series;
use crate::finding::{Finding, Modality};
use crate::metric::{finer, name_of};
use crate::robust::median;
use crate::scene::{Scene, seconds};
use crate::windows::{Windows, within};

/// Nats for one operation that clearly fails while the others clearly do not.
const NATS: f64 = 4.5;
/// Against what would harm every operation.
const SHARED: f64 = -3.0;
/// Points of error ratio that a sick operation rose by, and that a well one may have risen by.
const SICK: f64 = 0.1;
const WELL: f64 = 0.02;
/// How many times slower than before a sick operation is, and a well one may be.
const SLOWER: f64 = 3.0;
const AS_BEFORE: f64 = 1.4;
/// Fewer samples say nothing of an operation.
const SAMPLES_MIN: usize = 3;
/// The sick ones are at most this share of all: a general failure spares an idle route or two.
const FEW: f64 = 0.5;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let Some(windows) = scene.windows else { return Vec::new() };
    let mut findings = Vec::new();
    for (entity, series) in &scene.finer {
        let failing =
            parted(&operations(series, finer::OPERATION_ERROR_RATIO, &windows), |before, now| match now - before {
                rise if rise >= SICK => Some(true),
                rise if rise <= WELL => Some(false),
                _ => None,
            });
        let slow = parted(&operations(series, finer::OPERATION_LATENCY_P99, &windows), |before, now| {
            match now / before.max(1e-4) {
                times if times >= SLOWER => Some(true),
                times if times <= AS_BEFORE => Some(false),
                _ => None,
            }
        });
        let (parts, kind) = match (failing, slow) {
            (Some(failing), _) => (failing, cause::ERRORS),
            (None, Some(slow)) => (slow, cause::LATENCY),
            (None, None) => continue,
        };
        if !inherited(scene, entity, &windows) {
            findings.extend(told(entity, &parts, kind));
        }
    }
    findings
}

#[derive(Clone, Debug)]
struct Operation {
    name: String,
    before: f64,
    now: f64,
    asked: String,
}

#[derive(Debug)]
struct Parts {
    sick: Vec<Operation>,
    well: usize,
}

/// Operations that were measured before and since.
fn operations(series: &[&Series], name: &str, windows: &Windows) -> Vec<Operation> {
    let mut found: BTreeMap<&str, Operation> = BTreeMap::new();
    for one in series.iter().filter(|one| name_of(&one.labels) == name) {
        let Some(operation) = one.labels.get(finer::OPERATION) else { continue };
        let (before, now) = (within(one, windows.normal), within(one, windows.sick));
        let (Some(usual), Some(middle)) = (median(&before), median(&now)) else { continue };
        if before.len() < SAMPLES_MIN || now.len() < SAMPLES_MIN {
            continue;
        }
        let told = Operation { name: operation.clone(), before: usual, now: middle, asked: one.asked.clone() };
        let known = found.entry(operation).or_insert_with(|| told.clone());
        if told.now > known.now {
            *known = told;
        }
    }
    found.into_values().collect()
}

/// Sick operations and how many are well, when each is clearly one or the other and few are sick.
fn parted(operations: &[Operation], judge: impl Fn(f64, f64) -> Option<bool>) -> Option<Parts> {
    let (mut sick, mut well) = (Vec::new(), 0);
    for operation in operations {
        match judge(operation.before, operation.now)? {
            true => sick.push(operation.clone()),
            false => well += 1,
        }
    }
    let few = sick.len() as f64 <= FEW * operations.len() as f64;
    (!sick.is_empty() && few).then_some(Parts { sick, well })
}

/// Whether something that the entity calls is in trouble itself: then the operation only shows whom it asks.
fn inherited(scene: &Scene<'_>, entity: &Entity, windows: &Windows) -> bool {
    let span = |window: (f64, f64)| {
        let at =
            |second: f64| jiff::Timestamp::from_millisecond((second * 1000.0) as i64).unwrap_or(scene.observations.at);
        (at(window.0), at(window.1))
    };
    let (normal, sick) = (span(windows.normal), span(windows.sick));
    debug_assert!(seconds(sick.0) <= seconds(sick.1) + 1.0);
    scene.graph.callees(entity).any(|callee| {
        let (before, now) = (scene.answering(callee, normal.0, normal.1), scene.answering(callee, sick.0, sick.1));
        let fails = now.error_ratio.is_some_and(|now| now - before.error_ratio.unwrap_or(0.0) >= SICK / 2.0);
        let slow = now.latency.zip(before.latency).is_some_and(|(now, before)| now >= 2.0 * before.max(1e-3));
        fails || slow
    })
}

fn told(entity: &Entity, parts: &Parts, kind: &'static str) -> Vec<Finding> {
    let Some(worst) =
        parts.sick.iter().max_by(|left, right| (left.now - left.before).total_cmp(&(right.now - right.before)))
    else {
        return Vec::new();
    };
    let (sick, all) = (parts.sick.len(), parts.sick.len() + parts.well);
    let operation: String = worst.name.chars().take(80).collect();
    let figures = match kind {
        cause::LATENCY => format!("p99 {:.0} ms instead of {:.0} ms", worst.now * 1000.0, worst.before * 1000.0),
        _ => format!("{:.1} % fail instead of {:.1} %", worst.now * 100.0, worst.before * 100.0),
    };
    let sentence =
        format!("{sick} of {all} operations of {} is sick: {operation} ({figures}), the others as before", entity.name);
    let finding = |kind, weight, sentence: &str| {
        Finding::new(entity.clone(), kind, Modality::Metrics, weight, sentence).asked(&worst.asked)
    };
    let mut findings = vec![
        finding(kind, NATS, &sentence).labelled(format!("only {operation}")).measure("operation", operation.clone()),
    ];
    let against =
        format!("{} of {all} operations of {} are as before, which this would harm too", parts.well, entity.name);
    let shared = [
        cause::CPU,
        cause::MEMORY,
        cause::DISK,
        cause::NETWORK,
        cause::OVERLOAD,
        cause::UNAVAILABLE,
        cause::DEPENDENCY,
    ];
    findings.extend(shared.map(|kind| finding(kind, SHARED, &against)));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(name: &str, before: f64, now: f64) -> Operation {
        Operation { name: name.into(), before, now, asked: String::new() }
    }

    fn few(operations: &[Operation]) -> Option<(usize, usize)> {
        let judge = |before: f64, now: f64| match now - before {
            rise if rise >= SICK => Some(true),
            rise if rise <= WELL => Some(false),
            _ => None,
        };
        parted(operations, judge).map(|parts| (parts.sick.len(), parts.well))
    }

    #[test]
    fn one_sick_operation_among_well_ones_stands_out() {
        let list = [operation("a", 0.0, 0.9), operation("b", 0.0, 0.0), operation("c", 0.01, 0.0)];
        assert_eq!(few(&list), Some((1, 2)));
    }

    #[test]
    fn a_general_failure_and_a_doubtful_one_are_no_contrast() {
        assert_eq!(few(&[operation("a", 0.0, 0.9), operation("b", 0.0, 0.8), operation("c", 0.0, 0.0)]), None);
        assert_eq!(few(&[operation("a", 0.0, 0.9), operation("b", 0.0, 0.05)]), None);
        assert_eq!(few(&[operation("a", 0.0, 0.9)]), None);
        assert_eq!(few(&[]), None);
    }
}

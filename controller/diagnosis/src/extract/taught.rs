//! Log lines whose class people taught, where the catalogue knows none.
//!
//! Small on purpose: a pattern is a sentence of somebody who looked at one incident. It breaks a tie and fills the report; what
//! may be acted on is decided without it (see [`diagnose`](crate::diagnose::diagnose)).

use std::collections::BTreeMap;

use jiff::SignedDuration;

use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::evidence::LogLine;
use crate::finding::{Finding, Modality};
use crate::logs::{Class, catalogue, classify, clean};
use crate::scene::{Scene, shifted};

/// A line alone is a coincidence.
const LINES_MIN: u64 = 2;
/// Nats for lines that begin with the trouble; a fifth of what state says.
const NATS: f64 = 1.0;
/// Lines this much before the onset still belong to it: clocks differ, and alerts wait.
const BEFORE: SignedDuration = SignedDuration::from_mins(5);
/// An entity that wrote such lines before at a fifth of the rate or more is as it always was.
const USUAL: f64 = 0.2;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let Some(onset) = scene.onset else { return Vec::new() };
    let since = u64::try_from(shifted(onset, -BEFORE).as_nanosecond()).unwrap_or(0);
    let begins = scene.observations.normal.map(|window| u64::try_from(window.from.as_nanosecond()).unwrap_or(0));
    let ends = u64::try_from(scene.observations.at.as_nanosecond()).unwrap_or(0);
    let mut told: BTreeMap<(&Entity, Class), (u64, u64, Option<&LogLine>)> = BTreeMap::new();
    for (entity, lines) in &scene.logs {
        for line in lines {
            let Some(class) = scene.taught(line).filter(|_| classify(&line.body) == Class::Other) else { continue };
            let (before, after, sample) = told.entry((entity, class)).or_default();
            match line.at_ns.is_none_or(|at| at >= since) {
                true => {
                    *after = after.saturating_add(line.count.max(1));
                    sample.get_or_insert(line);
                }
                false => *before = before.saturating_add(line.count.max(1)),
            }
        }
    }
    let asked = scene.questions().about(&["logs", "log", "|="]);
    let (usual_for, now_for) =
        (begins.map_or(1.0, |from| since.saturating_sub(from).max(1) as f64), ends.saturating_sub(since).max(1) as f64);
    let mut findings = Vec::new();
    for ((entity, class), (before, after, sample)) in told {
        let (Some(kind), Some(sample)) = (kind(class), sample) else { continue };
        if after < LINES_MIN || before as f64 / usual_for > USUAL * after as f64 / now_for {
            continue;
        }
        let shown: String = clean::plain(&sample.body).chars().take(120).collect();
        let sentence =
            format!("{} writes {after} lines that people taught to be about {class}: \"{shown}\"", entity.name);
        let mut finding = Finding::new(entity.clone(), kind, Modality::Logs, NATS, sentence)
            .labelled(format!("log lines about {class}"))
            .asked(&asked);
        if kind == cause::DEPENDENCY {
            finding = finding.measure("dependency", catalogue::callee(&sample.body).unwrap_or(&entity.name));
        }
        findings.push(finding);
    }
    findings
}

/// The kind of failure that a class of lines points at; a failing build says nothing of what runs.
fn kind(class: Class) -> Option<&'static str> {
    match class {
        Class::Dns | Class::Network => Some(cause::NETWORK),
        Class::Database | Class::Dependency | Class::Timeout => Some(cause::DEPENDENCY),
        Class::Memory => Some(cause::MEMORY),
        Class::Disk => Some(cause::DISK),
        Class::Quota => Some(cause::QUOTA),
        Class::Tls | Class::Permission | Class::Configuration => Some(cause::CONFIG_WRONG),
        Class::Toolchain | Class::Compile | Class::Test | Class::Other => None,
    }
}

//! Containers that start and die, and what their last words say.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::finding::{Finding, Modality};
use crate::logs::{Class, catalogue, clean};
use crate::scene::{Scene, shifted};

/// A crash longer ago than this, with a container that runs since, is history.
const RECENT: SignedDuration = SignedDuration::from_hours(1);

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut crashing: BTreeMap<(Entity, String), (i64, Option<i64>, String)> = BTreeMap::new();
    for pod in &scene.cluster.pods {
        for container in &pod.containers {
            let waiting = container.waiting.as_ref().is_some_and(|(reason, _)| reason == "CrashLoopBackOff");
            let end = container.terminated.as_ref().or(container.last.as_ref());
            let failed =
                end.is_some_and(|end| end.exit_code.is_some_and(|code| code != 0) && end.reason != "OOMKilled");
            let lately =
                end.and_then(|end| end.finished).is_none_or(|at| at >= shifted(scene.observations.at, -RECENT));
            let still = waiting || container.terminated.is_some() || !container.ready;
            if failed && !container.init && lately && (still || container.restarts > 1) {
                let key = (pod.workload.clone(), container.name.clone());
                let entry = crashing.entry(key).or_default();
                entry.0 += container.restarts.max(1);
                entry.1 = end.and_then(|end| end.exit_code);
                if let Some(end) = end.filter(|end| !end.message.is_empty()) {
                    entry.2.clone_from(&end.message);
                }
            }
        }
    }
    let mut findings = Vec::new();
    for ((workload, container), (restarts, code, message)) in crashing {
        let entity = workload.clone().with_container(&container);
        let code = code.map_or(String::new(), |code| format!(" with exit code {code}"));
        findings.push(
            Finding::new(
                entity.clone(),
                cause::CRASHING,
                Modality::State,
                2.5,
                format!("container {container} of {} died {restarts} times{code}", workload.name),
            )
            .labelled(format!("crashed {restarts} times"))
            .asked(scene.questions().about(&["pods", "Pod"])),
        );
        findings.extend(last_words(scene, &workload, &entity, &message));
    }
    findings
}

/// What the logs (or the termination message) of a crashing container blame.
fn last_words(scene: &Scene<'_>, workload: &Entity, entity: &Entity, message: &str) -> Option<Finding> {
    let last = || scene.logs.get(workload).into_iter().flatten().rev().take(200);
    let wrong = last()
        .map(|line| line.body.as_str())
        .chain([message])
        .flat_map(str::lines)
        .map(|line| clean::without_time(line).trim().to_owned())
        .find(|line| catalogue::classify(&clean::plain(line)) == Class::Configuration);
    let taught = || last().find(|line| scene.class_of(line) == Class::Configuration).map(|line| line.body.clone());
    let wrong = wrong.or_else(taught)?;
    let shown: String = clean::plain(&wrong).chars().take(160).collect();
    Some(
        Finding::new(
            entity.clone(),
            cause::CONFIG_WRONG,
            Modality::Logs,
            4.0,
            format!("its last words name the configuration: \"{shown}\""),
        )
        .labelled("refuses its configuration")
        .asked(scene.questions().about(&["logs", "log", "|="])),
    )
}

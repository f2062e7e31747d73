//! Jobs that failed, and the CronJobs behind them.
//!
//! A Job that tries again is at work; one with the condition `Failed` has given up. What ran well since has healed it.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::cluster::{Condition, Workload, list, text, time};
use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::finding::{Finding, Modality};
use crate::scene::{Scene, shifted};

/// Given up after as many tries as were allowed, or because of how a pod failed.
const GAVE_UP: f64 = 4.5;
/// Stopped since it took too long.
const TOO_LONG: f64 = 4.5;

/// How long before the first symptom a Job may have failed; alerts on Jobs wait for a quarter of an hour or an hour.
const BEFORE_ONSET: SignedDuration = SignedDuration::from_hours(2);

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let asked = scene.questions().about(&["cluster-jobs", "jobs", "Job"]);
    let mut seen = BTreeSet::new();
    let jobs = scene.cluster.workloads.iter().filter(|one| one.entity.kind == EntityKind::Job);
    let mut failed: Vec<(&Workload, &Condition, Timestamp)> = jobs.filter_map(|job| gave_up(scene, job)).collect();
    // The last failure of a CronJob tells for all.
    failed.sort_by(|(one, _, at), (other, _, then)| then.cmp(at).then_with(|| one.entity.cmp(&other.entity)));
    let told = failed.into_iter().filter_map(|(job, condition, at)| {
        let entity = owner(job);
        if healed(scene, &entity, at) || !seen.insert(entity.clone()) {
            return None;
        }
        let late = condition.reason == "DeadlineExceeded";
        let (kind, weight, fault) = match late {
            true => (cause::LATENCY, TOO_LONG, "job_deadline_exceeded"),
            false => (cause::CRASHING, GAVE_UP, "job_backoff_limit_exceeded"),
        };
        let message: String = condition.message.chars().take(120).collect();
        let sentence = format!("job {} failed ({}): {message}", job.entity.name, condition.reason);
        let finding = Finding::new(entity, kind, Modality::State, weight, sentence);
        Some(finding.labelled("job failed").fault(fault).asked(&asked).measure("job", &job.entity.name))
    });
    told.collect()
}

/// When a Job has given up for good, about when the trouble began.
fn gave_up<'s>(scene: &Scene<'_>, job: &'s Workload) -> Option<(&'s Workload, &'s Condition, Timestamp)> {
    let condition = job.conditions.iter().find(|one| one.kind == "Failed" && one.status == "True")?;
    let onset = scene.onset.unwrap_or(scene.observations.at);
    let at = condition.since.filter(|at| *at >= shifted(onset, -BEFORE_ONSET))?;
    Some((job, condition, at))
}

/// The CronJob that made a Job, or the Job itself.
fn owner(job: &Workload) -> Entity {
    let owners = list(&job.object, "/metadata/ownerReferences");
    match owners.iter().find(|one| text(one, "/kind") == "CronJob") {
        Some(cron) => Entity::new(EntityKind::CronJob, &job.entity.namespace, text(cron, "/name")),
        None => job.entity.clone(),
    }
}

/// Whether a later run of the same CronJob succeeded.
fn healed(scene: &Scene<'_>, entity: &Entity, at: Timestamp) -> bool {
    let told = scene.cluster.workload(entity).and_then(|cron| time(&cron.object, "/status/lastSuccessfulTime"));
    let mut siblings =
        scene.cluster.workloads.iter().filter(|one| one.entity.kind == EntityKind::Job && owner(one) == *entity);
    let ended = |job: &Workload| {
        let complete = job.conditions.iter().any(|one| one.kind == "Complete" && one.status == "True");
        time(&job.object, "/status/completionTime").filter(|_| complete)
    };
    told.is_some_and(|then| then > at) || siblings.any(|job| ended(job).is_some_and(|then| then > at))
}

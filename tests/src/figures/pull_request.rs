//! Alert accepted until the pull request is open, on real parts: kube-apiserver, Prometheus, Loki, Jaeger, Flux, Gitea.
//!
//! The clock begins when the Incident is there, which is when the alert was accepted. Of a bad release the evidence is there when the
//! alert fires. A pod that runs out of memory raises the error ratio before it is killed for the first time, so that incident opens
//! before its cause can be known; of it the time since the diagnosis that named the kill is told.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amend_crds::Incident;
use amend_diagnosis::diagnosis::cause;
use amend_sandbox::model::graph::Version;
use anyhow::Context;
use kube::api::{Api, ListParams};

use super::quantile::milliseconds;
use super::{Outcome, Row};
use crate::bench::parts::is_built;
use crate::bench::{Build, until};
use crate::stage::{DETECTED, PROPOSED, Scenery, Stage, World};

/// Seconds from an accepted alert to an open pull request, beyond what policies wait for.
const GOAL_MS: f64 = 3_000.0;

const PARTS: [Build; 8] = [
    Build::Kubernetes,
    Build::Kwok,
    Build::Flux,
    Build::Gitea,
    Build::Prometheus,
    Build::Jaeger,
    Build::Loki,
    Build::Helm,
];

pub async fn measure(rounds: usize) -> anyhow::Result<Outcome> {
    if !is_built(&PARTS).await? {
        return Ok(Outcome::Skipped(
            "the real parts are not built here: run tests/env/build first (about half an hour)".to_owned(),
        ));
    }
    let world = World::shared().await?;
    let released = rounds_of(&Story::BAD_RELEASE, &world, rounds).await?;
    let killed = rounds_of(&Story::OUT_OF_MEMORY, &world, rounds).await?;
    let of = format!("{rounds} on a real Gitea");
    let since_alert = |taken: &[Taken]| taken.iter().map(|one| one.since_alert).collect::<Vec<_>>();
    let since_named = |taken: &[Taken]| taken.iter().map(|one| one.since_named).collect::<Vec<_>>();
    let row = |what: &str, times: &[Duration], share: f64| Row::new(what, milliseconds(times, share), "ms");
    Ok(Outcome::Measured(vec![
        row(&format!("bad release: alert accepted → pull request open, p50 of {of}"), &since_alert(&released), 0.5)
            .at_most(GOAL_MS),
        row("bad release: the longest of them", &since_alert(&released), 1.0),
        row("bad release: of that since the cause was named, p50", &since_named(&released), 0.5),
        row(&format!("out of memory: kill named → pull request open, p50 of {of}"), &since_named(&killed), 0.5)
            .at_most(GOAL_MS),
        row("out of memory: the longest of them", &since_named(&killed), 1.0),
        row("out of memory: since the first alert, which comes before the first kill, p50", &since_alert(&killed), 0.5),
    ]))
}

/// What breaks and what answers it.
struct Story {
    name: &'static str,
    policy: &'static str,
    service: &'static str,
    from: &'static str,
    to: &'static str,
    causes: &'static [&'static str],
    breaks: fn(&mut Scenery),
}

impl Story {
    const BAD_RELEASE: Self = Self {
        name: "release",
        policy: "revert-bad-release",
        service: "payment",
        from: "v3.1.4",
        to: "v3.2.0",
        causes: &[cause::BAD_IMAGE, cause::BAD_CONFIG],
        breaks: |scenery| {
            scenery.behaves("payment", "v3.2.0", |usual| Version {
                error_ratio: 0.35,
                error_message: "card processor answered: unknown field 'amount_minor'".into(),
                ..usual
            });
        },
    };
    const OUT_OF_MEMORY: Self = Self {
        name: "memory",
        policy: "raise-memory-after-oom",
        service: "checkout",
        from: "v1.8.2",
        to: "v1.9.0",
        causes: &[cause::OOM_KILLED],
        breaks: |scenery| scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s"),
    };
}

async fn rounds_of(story: &Story, world: &Arc<World>, rounds: usize) -> anyhow::Result<Vec<Taken>> {
    let mut all = Vec::new();
    for round in 1..=rounds {
        let mut scenery = Scenery::shop(&format!("figures-{}-{round}", story.name));
        (story.breaks)(&mut scenery);
        scenery.policy(story.policy, |_| {});
        let stage = Stage::set(world.clone(), scenery).await?;
        let taken = time_one(&stage, story).await?;
        eprintln!("figures: {}, round {round} of {rounds}: {taken:?}", story.name);
        all.push(taken);
    }
    Ok(all)
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    since_alert: Duration,
    /// Since a diagnosis named the cause that the policy answers.
    since_named: Duration,
}

/// Breaks the shop and watches until the pull request is open; looks ten times a second.
async fn time_one(stage: &Stage, story: &Story) -> anyhow::Result<Taken> {
    let incidents: Api<Incident> = Api::namespaced(stage.client().clone(), stage.namespace());
    let (all, repo) = (ListParams::default(), stage.repo());
    stage.release(story.service, story.from, story.to).await?;
    until("an incident", DETECTED, || async {
        Ok::<_, anyhow::Error>((!incidents.list(&all).await?.items.is_empty()).then_some(()))
    })
    .await?;
    let accepted = Instant::now();
    let named = Cell::new(None);
    until("a pull request", PROPOSED, || async {
        let found = incidents.list(&all).await?.items;
        let diagnoses = found.iter().filter_map(|one| one.status.as_ref()?.diagnosis.as_ref());
        let mut said = diagnoses.filter_map(|one| one.actionable());
        if named.get().is_none() && said.any(|best| story.causes.contains(&best.kind.as_str())) {
            named.set(Some(Instant::now()));
        }
        Ok::<_, anyhow::Error>((!repo.pull_requests().await?.is_empty()).then_some(()))
    })
    .await?;
    let since_alert = accepted.elapsed();
    let since_named = named.get().context("there is a pull request and no diagnosis")?.elapsed();
    Ok(Taken { since_alert, since_named })
}

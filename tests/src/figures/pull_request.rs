//! Alert accepted until the pull request is open, on real parts: kube-apiserver, Prometheus, Loki, Jaeger, Flux, Gitea.
//!
//! The clock begins when the Incident is there, which is when the alert was accepted. An incident may open before its evidence
//! does (an error ratio rises before the third kill); then the diagnosis abstains and looks again, so the time from the
//! diagnosis that named the cause is told too.

use std::cell::Cell;
use std::time::{Duration, Instant};

use amend_crds::Incident;
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
    let (mut all, mut since_diagnosis) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let mut scenery = Scenery::shop(&format!("figures-{round}"));
        scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
        scenery.policy("raise-memory-after-oom", |_| {});
        let stage = Stage::set(world.clone(), scenery).await?;
        let taken = time_one(&stage).await?;
        eprintln!("figures: round {round} of {rounds}: {taken:?}");
        all.push(taken.since_alert);
        since_diagnosis.push(taken.since_diagnosis);
    }
    let of = format!("{rounds} pull requests on a real Gitea");
    Ok(Outcome::Measured(vec![
        Row::new(format!("alert accepted → pull request open, p50 of {of}"), milliseconds(&all, 0.5), "ms")
            .at_most(GOAL_MS),
        Row::new(format!("alert accepted → pull request open, longest of {of}"), milliseconds(&all, 1.0), "ms"),
        Row::new("of that since the diagnosis that named the cause, p50", milliseconds(&since_diagnosis, 0.5), "ms"),
    ]))
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    since_alert: Duration,
    since_diagnosis: Duration,
}

/// Breaks the shop and watches until the pull request is open; looks ten times a second.
async fn time_one(stage: &Stage) -> anyhow::Result<Taken> {
    let incidents: Api<Incident> = Api::namespaced(stage.client().clone(), stage.namespace());
    let (all, repo) = (ListParams::default(), stage.repo());
    stage.release("checkout", "v1.8.2", "v1.9.0").await?;
    until("an incident", DETECTED, || async {
        Ok::<_, anyhow::Error>((!incidents.list(&all).await?.items.is_empty()).then_some(()))
    })
    .await?;
    let accepted = Instant::now();
    let named = Cell::new(None);
    until("a pull request", PROPOSED, || async {
        let found = incidents.list(&all).await?.items;
        let diagnoses = found.iter().filter_map(|one| one.status.as_ref()?.diagnosis.as_ref());
        if named.get().is_none() && diagnoses.filter_map(|one| one.actionable()).next().is_some() {
            named.set(Some(Instant::now()));
        }
        Ok::<_, anyhow::Error>((!repo.pull_requests().await?.is_empty()).then_some(()))
    })
    .await?;
    let since_alert = accepted.elapsed();
    let since_diagnosis = named.get().context("there is a pull request and no diagnosis")?.elapsed();
    Ok(Taken { since_alert, since_diagnosis })
}

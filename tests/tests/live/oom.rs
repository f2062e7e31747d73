//! OOM after a release: one Incident from three alerts, one pull request that changes one line, merged, rolled out by
//! Flux, verified, `Resolved`, record verifies.

use std::collections::BTreeSet;

use amend_crds::incident::IncidentPhase;
use amend_execution::journal::Event;
use amend_execution::phase::Phase;
use amend_tests::bench::{MergeStyle, amend_binary};
use amend_tests::stage::{PROPOSED, RELEASE_NAMESPACE, SOON, Scenery, Stage, VERIFIED, World};
use anyhow::{Context, bail};
use serde_json::Value;

use crate::told::changed_lines;

#[tokio::test(flavor = "multi_thread")]
async fn oom_after_a_release_is_cured_by_one_line() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("oom");
    scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
    scenery.policy("raise-memory-after-oom", |_| {});
    let stage = Stage::set(World::shared().await?, scenery).await?;

    stage.release("checkout", "v1.8.2", "v1.9.0").await?;

    let pull = stage.ready_pull_request(PROPOSED).await?;
    let alerts = stage
        .until_seen("all three alerts in one incident", SOON, |seen| {
            let signals = seen.standing().first().and_then(|one| one.status.as_ref()).map(|status| &status.signals);
            let heard: BTreeSet<(String, String)> = signals
                .into_iter()
                .flatten()
                .map(|signal| (signal.name.clone(), signal.entity.workload().name.clone()))
                .collect();
            let wanted =
                [("ContainerOOMKilled", "checkout"), ("HighErrorRatio", "checkout"), ("HighErrorRatio", "frontend")];
            Ok(wanted.iter().all(|(name, on)| heard.contains(&((*name).into(), (*on).into()))).then_some(heard))
        })
        .await?;
    let (removed, added) = changed_lines(&stage.repo().diff(pull.number).await?);
    assert_eq!(removed, ["              memory: 256Mi  # measured in the spring load test"], "heard {alerts:?}");
    assert_eq!(added, ["              memory: 384Mi  # measured in the spring load test"]);

    stage.merge(&pull, MergeStyle::Merge).await?;
    let remediation = stage.remediation_reaches(Phase::Succeeded, VERIFIED).await?;
    stage.incident_reaches(IncidentPhase::Resolved, SOON).await?;

    let live = stage.deployment("checkout").await?;
    assert_eq!(live["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"], "384Mi");
    let seen = stage.seen().await?;
    assert_eq!(seen.standing().len(), 1, "{seen}");
    assert_eq!(seen.remediations.len(), 1, "{seen}");
    assert_eq!(seen.pull_requests.len(), 1, "{seen}");
    let journal = remediation.status.unwrap_or_default().journal;
    let applied = journal.entries().iter().any(|entry| matches!(entry.event, Event::Applied { .. }));
    assert!(applied, "Flux applied it\n{seen}");
    assert!(stage.record_verifies().await?.entries >= journal.len() as u64, "{seen}");
    looked_back_on(&stage).await
}

/// Whoever looks back on it finds the one problem, its cause and the one line, without the Incident: from the stores and Git.
async fn looked_back_on(stage: &Stage) -> anyhow::Result<()> {
    let looking = tokio::process::Command::new(amend_binary().await?)
        .args(["backtest", "-n", stage.namespace(), "--since", "30m", "--step", "5s", "--group-window", "3m"])
        .args(["--install-namespace", RELEASE_NAMESPACE, "--format", "json"])
        .env("KUBECONFIG", stage.world().control_plane().kubeconfig())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(SOON, looking).await??;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("no report: {}", String::from_utf8_lossy(&output.stderr)))?;
    let problems = report["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [problem] = problems else { bail!("one problem is wanted: {report:#}") };
    let explained = &problem["verdict"]["explained"];
    assert_eq!(explained["cause"], "container.oom-killed", "{report:#}");
    assert_eq!(explained["change"]["lines"], 1, "{report:#}");
    assert!(
        explained["change"]["summary"].as_str().is_some_and(|said| said.contains("from 256Mi to 384Mi")),
        "{report:#}"
    );
    Ok(())
}

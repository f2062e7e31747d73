//! Bad fix: harm is measured, a revert pull request brings Git and cluster back to the last good commit; the bad
//! fingerprint is not proposed again.

use amend_crds::Incident;
use amend_crds::incident::IncidentPhase;
use amend_execution::journal::Event;
use amend_execution::phase::Phase;
use amend_sandbox::model::graph::{Oversized, Version};
use amend_tests::bench::MergeStyle;
use amend_tests::stage::{FOLDER, PROPOSED, Scenery, Stage, VERIFIED, World};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};

#[tokio::test(flavor = "multi_thread")]
async fn a_fix_that_does_harm_is_taken_back_and_not_proposed_again() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("bad-fix");
    scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
    // With more memory it is not killed any more, and spends its time collecting garbage.
    scenery.behaves("checkout", "v1.9.0", |usual| Version {
        memory_mib: 310.0,
        warm_up_seconds: 8.0,
        oversized: Some(Oversized { above_mib: 300.0, error_ratio: 0.9, latency_factor: 6.0 }),
        error_message: "request timed out while collecting garbage".into(),
        ..usual
    });
    scenery.policy("raise-memory-after-oom", |_| {});
    let stage = Stage::set(World::shared().await?, scenery).await?;
    let manifest = format!("{FOLDER}/checkout.yaml");

    stage.release("checkout", "v1.8.2", "v1.9.0").await?;
    let fix = stage.ready_pull_request(PROPOSED).await?;
    let last_good = stage.repo().file("main", &manifest).await?;
    stage.merge(&fix, MergeStyle::Merge).await?;

    let revert = stage
        .until_seen("a pull request that takes it back", VERIFIED, |seen| {
            Ok(seen.pull_requests.iter().find(|pull| pull.number != fix.number && !pull.draft).cloned())
        })
        .await?;
    let seen = stage.seen().await?;
    assert!(seen.events().any(|event| matches!(event, Event::UndoBegan { .. })), "{seen}");
    stage.merge(&revert, MergeStyle::Merge).await?;
    stage.remediation_reaches(Phase::RolledBack, VERIFIED).await?;

    assert_eq!(stage.repo().file("main", &manifest).await?, last_good, "Git is back");
    let live = stage.deployment("checkout").await?;
    assert_eq!(live["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"], "256Mi");
    stage.record_verifies().await?;

    // People take the release back, close the incident, and release again: another incident, the same proposal.
    stage.release("checkout", "v1.9.0", "v1.8.2").await?;
    let old = stage.incident_reaches(IncidentPhase::Mitigated, PROPOSED).await?;
    let incidents: Api<Incident> = Api::namespaced(stage.client().clone(), stage.namespace());
    incidents.delete(&old.name_any(), &DeleteParams::default()).await?;
    stage.release("checkout", "v1.8.2", "v1.9.0").await?;
    let (because, pulls) = stage
        .until_seen("the new incident to say that the proposal is muted", VERIFIED, |seen| {
            let new = seen.standing().into_iter().find(|one| one.metadata.uid != old.metadata.uid);
            let status = new.and_then(|one| one.status.as_ref());
            let muted = status.filter(|status| status.because.contains("muted"));
            Ok(muted.map(|status| (status.because.clone(), seen.pull_requests.len())))
        })
        .await?;
    assert!(because.contains("RolledBack"), "{because}");
    assert_eq!(pulls, 2, "the fix and its revert");
    Ok(())
}

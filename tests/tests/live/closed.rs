//! A reviewer closes the pull request: `Rejected`; the same fingerprint is muted although the alert keeps firing.

use amend_crds::Incident;
use amend_crds::incident::IncidentPhase;
use amend_execution::journal::Event;
use amend_execution::phase::Phase;
use amend_tests::stage::{PROPOSED, SOON, Scenery, Stage, World};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pull_request_is_a_no_that_is_remembered() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("closed");
    scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
    scenery.policy("raise-memory-after-oom", |_| {});
    let stage = Stage::set(World::shared().await?, scenery).await?;

    stage.release("checkout", "v1.8.2", "v1.9.0").await?;
    let pull = stage.ready_pull_request(PROPOSED).await?;
    stage.repo().close(pull.number).await?;

    stage.remediation_reaches(Phase::Rejected, SOON).await?;
    let seen = stage.seen().await?;
    assert!(seen.events().any(|event| matches!(event, Event::ClosedByPeople { .. })), "{seen}");
    let branches = stage.repo().branches().await?;
    assert!(branches.contains(&"main".to_owned()), "{branches:?}");

    // People clear the incident away; the alert keeps firing, so there is a new one with the same cause.
    let old = stage.incident(SOON).await?;
    let incidents: Api<Incident> = Api::namespaced(stage.client().clone(), stage.namespace());
    incidents.delete(&old.name_any(), &DeleteParams::default()).await?;
    let because = stage
        .until_seen("the new incident to say that the proposal is muted", PROPOSED, |seen| {
            let new = seen.standing().into_iter().find(|one| one.metadata.uid != old.metadata.uid);
            let status = new.and_then(|one| one.status.as_ref());
            let muted =
                status.filter(|status| status.phase == IncidentPhase::Diagnosed && status.because.contains("muted"));
            Ok(muted.map(|status| status.because.clone()))
        })
        .await?;
    assert!(because.contains("Rejected") && because.contains("7 days"), "{because}");
    let seen = stage.seen().await?;
    assert_eq!(seen.pull_requests.len(), 1, "{seen}");
    stage.record_verifies().await?;
    Ok(())
}

//! A StatefulSet out of memory: one pod after the other takes the higher limit, and the cure is verified like any other.

use amend_crds::incident::IncidentPhase;
use amend_execution::phase::Phase;
use amend_tests::bench::MergeStyle;
use amend_tests::stage::{PROPOSED, SOON, Scenery, Stage, VERIFIED, World};
use serde_json::json;

use crate::told::changed_lines;

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_out_of_memory_takes_its_cure_pod_by_pod() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("stateful");
    scenery.keeps_state("checkout");
    scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "40s");
    scenery.policy("raise-memory-after-oom", |spec| {
        spec["match"]["targets"] = json!([{ "kind": "StatefulSet", "name": "checkout" }]);
    });
    let stage = Stage::set(World::shared().await?, scenery).await?;

    stage.release("checkout", "v1.8.2", "v1.9.0").await?;

    // Its release, too, goes from pod to pod.
    let pull = stage.ready_pull_request(PROPOSED * 2).await?;
    let (removed, added) = changed_lines(&stage.repo().diff(pull.number).await?);
    assert_eq!(removed, ["              memory: 256Mi  # measured in the spring load test"]);
    assert_eq!(added, ["              memory: 384Mi  # measured in the spring load test"]);

    stage.merge(&pull, MergeStyle::Merge).await?;
    stage.remediation_reaches(Phase::Succeeded, VERIFIED).await?;
    stage.incident_reaches(IncidentPhase::Resolved, SOON).await?;
    let live = stage.workload("StatefulSet", "checkout").await?;
    assert_eq!(live["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"], "384Mi");
    assert_eq!(live["status"]["updatedReplicas"], live["spec"]["replicas"], "{live:#}");
    stage.record_verifies().await?;
    Ok(())
}

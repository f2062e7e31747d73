//! Bad release: the pull request reverts the guilty commit (and only it), found from the Git diff between applied
//! revisions; a second, innocent release at the same time is not touched.

use amend_crds::incident::IncidentPhase;
use amend_execution::phase::Phase;
use amend_sandbox::model::graph::Version;
use amend_tests::bench::MergeStyle;
use amend_tests::stage::{PROPOSED, SOON, Scenery, Stage, VERIFIED, World};

use crate::told::changed_lines;

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_release_is_reverted_and_the_innocent_one_stays() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("bad-release");
    scenery.behaves("payment", "v3.2.0", |usual| Version {
        error_ratio: 0.35,
        latency_factor: 3.0,
        error_message: "card processor answered: unknown field 'amount_minor'".into(),
        ..usual
    });
    scenery.policy("revert-bad-release", |_| {});
    let stage = Stage::set(World::shared().await?, scenery).await?;

    let guilty = stage.release("payment", "v3.1.4", "v3.2.0").await?;
    stage.release("catalog", "v2.3.0", "v2.3.1").await?;

    let pull = stage.ready_pull_request(PROPOSED).await?;
    let incident = stage.incident(SOON).await?;
    let causes = incident.status.and_then(|status| status.diagnosis).map(|found| found.causes).unwrap_or_default();
    let blamed = causes.first().and_then(|cause| cause.measures.get("commit.guilty")).cloned().unwrap_or_default();
    assert_eq!(blamed, guilty, "{causes:?}");
    let (removed, added) = changed_lines(&stage.repo().diff(pull.number).await?);
    assert_eq!(removed, ["          image: registry.shop.example/payment:v3.2.0"]);
    assert_eq!(added, ["          image: registry.shop.example/payment:v3.1.4"]);

    // Whoever merges at once leaves nothing to tell how long this failure may hide; then a verdict takes a quarter of an hour.
    stage.has_fired("HighErrorRatio", "payment", 60).await?;
    stage.merge(&pull, MergeStyle::Merge).await?;
    stage.remediation_reaches(Phase::Succeeded, VERIFIED).await?;
    stage.incident_reaches(IncidentPhase::Resolved, SOON).await?;

    let image = |service: &'static str| {
        let stage = &stage;
        async move {
            anyhow::Ok(stage.deployment(service).await?["spec"]["template"]["spec"]["containers"][0]["image"].clone())
        }
    };
    assert_eq!(image("payment").await?, "registry.shop.example/payment:v3.1.4");
    assert_eq!(image("catalog").await?, "registry.shop.example/catalog:v2.3.1", "the innocent release stays");
    let seen = stage.seen().await?;
    assert_eq!((seen.standing().len(), seen.pull_requests.len()), (1, 1), "{seen}");
    stage.record_verifies().await?;
    Ok(())
}

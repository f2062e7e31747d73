//! A commit that changed only a ConfigMap: it is reverted, the pods that read the map from a folder take it up, and no Deployment
//! is touched.

use amend_crds::incident::IncidentPhase;
use amend_execution::phase::Phase;
use amend_sandbox::model::graph::Need;
use amend_tests::bench::MergeStyle;
use amend_tests::stage::{FOLDER, PROPOSED, SOON, Scenery, Stage, VERIFIED, World};

use crate::told::changed_lines;

const RIGHT: &str = "https://cards.example/v2";

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_changed_only_a_config_map_is_reverted() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("configuration");
    if let Some(payment) = scenery.graph.services.get_mut("payment") {
        payment.usual.needs = vec![Need {
            config_map: "shop-config".into(),
            key: "processor-url".into(),
            one_of: vec![RIGHT.into()],
            error_ratio: 0.5,
        }];
        payment.usual.error_message = "card processor answered 404 to POST /v3/charges".into();
    }
    scenery.policy("revert-bad-release", |_| {});
    let stage = Stage::set(World::shared().await?, scenery).await?;
    let before = stage.deployment("payment").await?["metadata"]["generation"].clone();

    let config = format!("{FOLDER}/config.yaml");
    stage.edit(&config, RIGHT, "https://cards.example/v3", "config: the card processor has a new address").await?;

    let pull = stage.ready_pull_request(PROPOSED).await?;
    let (removed, added) = changed_lines(&stage.repo().diff(pull.number).await?);
    assert_eq!(removed, ["  processor-url: \"https://cards.example/v3\""]);
    assert_eq!(added, ["  processor-url: \"https://cards.example/v2\""]);

    stage.has_fired("HighErrorRatio", "payment", 60).await?;
    stage.merge(&pull, MergeStyle::Merge).await?;
    // A kubelet may show the old folder for two minutes: so long it does not count as rolled out.
    stage.remediation_reaches(Phase::Succeeded, VERIFIED).await?;
    stage.incident_reaches(IncidentPhase::Resolved, SOON).await?;
    assert_eq!(stage.deployment("payment").await?["metadata"]["generation"], before, "the Deployment is as it was");
    stage.record_verifies().await?;
    Ok(())
}

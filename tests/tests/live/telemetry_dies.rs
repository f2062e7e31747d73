//! Prometheus dies during verification: `Unverified`, held, paged; no success, no undo; when it is back the verdict is
//! given late and says so.

use amend_execution::journal::{Ending, Event, Word};
use amend_execution::phase::Phase;
use amend_tests::bench::MergeStyle;
use amend_tests::stage::{PROPOSED, Scenery, Stage, VERIFIED, World};

#[tokio::test(flavor = "multi_thread")]
async fn without_data_there_is_no_verdict_and_with_data_again_it_comes_late() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("no-data");
    scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
    scenery.policy("raise-memory-after-oom", |_| {});
    // Nobody else's Prometheus.
    let stage = Stage::set(World::alone(&[]).await?, scenery).await?;
    let prometheus = stage.world().bench().prometheus();

    stage.release("checkout", "v1.8.2", "v1.9.0").await?;
    let pull = stage.ready_pull_request(PROPOSED).await?;
    stage.merge(&pull, MergeStyle::Merge).await?;
    stage
        .until_seen("verification to begin", VERIFIED, |seen| {
            let rolled_out = |event: &Event| matches!(event, Event::RolloutSeen { complete: true, .. });
            Ok(seen.events().any(rolled_out).then_some(()))
        })
        .await?;
    prometheus.program().kill();

    stage.remediation_reaches(Phase::Unverified, VERIFIED).await?;
    stage
        .until_seen("somebody to be paged", VERIFIED, |seen| {
            Ok(seen.events().any(|event| matches!(event, Event::Paged { .. })).then_some(()))
        })
        .await?;
    let seen = stage.seen().await?;
    assert!(
        !seen.events().any(|event| matches!(event, Event::UndoBegan { .. } | Event::RevertMerged { .. })),
        "{seen}"
    );
    let judged = |event: &Event| matches!(event, Event::Verified { verdict: Word::Pass | Word::Fail, .. });
    assert!(!seen.events().any(judged), "{seen}");
    let held = |event: &Event| matches!(event, Event::Ended { ending: Ending::Unverified, .. });
    assert!(seen.events().any(held), "{seen}");
    assert!(stage.repo().file("main", "apps/shop/checkout.yaml").await?.contains("memory: 384Mi"), "nothing is undone");

    prometheus.resume().await?;
    stage
        .until_seen("the late verdict", VERIFIED, |seen| {
            let late =
                |event: &Event| matches!(event, Event::Verified { verdict: Word::Pass | Word::Fail, late: true, .. });
            Ok(seen.events().any(late).then_some(()))
        })
        .await?;
    let seen = stage.seen().await?;
    assert_eq!(seen.phase(), Some(Phase::Unverified), "a late verdict changes no ending\n{seen}");
    let comments = stage.repo().comments(pull.number).await?;
    assert!(comments.iter().any(|(_, text)| text.contains("late")), "{comments:?}");
    stage.record_verifies().await?;
    Ok(())
}

//! Placebo: a merged change that only restarts the pods, OOM interval longer than a naive settle time: never `Succeeded`.

use amend_execution::journal::{Event, Word};
use amend_execution::phase::Phase;
use amend_sandbox::model::graph::{Surge, Version};
use amend_tests::bench::MergeStyle;
use amend_tests::stage::{PROPOSED, Scenery, Stage, VERIFIED, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_only_restarts_the_pods_is_never_called_a_success() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("placebo");
    // Well for 40 s after each start, then it wants more than any limit that the policy may set.
    scenery.behaves("checkout", "v1.9.0", |usual| Version {
        surge: Some(Surge { after_seconds: 34.0, jitter: 0.0, memory_mib: 900.0 }),
        error_message: "cannot allocate memory for order batch".into(),
        ..usual
    });
    scenery.killed_for_memory("checkout", "v1.9.0", 900, "40s");
    scenery.policy("raise-memory-after-oom", |_| {});
    let stage = Stage::set(World::shared().await?, scenery).await?;

    stage.release("checkout", "v1.8.2", "v1.9.0").await?;
    let pull = stage.ready_pull_request(PROPOSED).await?;
    stage.merge(&pull, MergeStyle::Merge).await?;

    let ended = stage
        .until_seen("an end, or that it is taken back", VERIFIED, |seen| {
            let undoing = seen.events().any(|event| matches!(event, Event::UndoBegan { .. }));
            Ok(seen.phase().filter(|phase| undoing || phase.ending().is_some()))
        })
        .await?;
    assert_ne!(ended, Phase::Succeeded);
    let seen = stage.seen().await?;
    let passed = seen.events().any(|event| matches!(event, Event::Verified { verdict: Word::Pass, .. }));
    assert!(!passed, "nothing was called good\n{seen}");
    assert!(
        seen.events()
            .any(|event| matches!(event, Event::Verified { verdict: Word::Fail, .. } | Event::AbortSignal { .. })),
        "{seen}"
    );
    stage.record_verifies().await?;
    Ok(())
}

//! A busy repository (a foreign commit every 2 s, squash merges, statuses delayed): nothing stuck, nothing reverted wrongly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use amend_execution::phase::Phase;
use amend_tests::bench::{MergeStyle, Proxy};
use amend_tests::stage::{PROPOSED, Scenery, Stage, VERIFIED, World};

/// How often somebody else pushes.
const PUSH_EVERY: Duration = Duration::from_secs(2);

/// How long the forge takes to accept a status.
const STATUS_TAKES: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_repository_neither_holds_a_cure_up_nor_loses_a_foreign_commit() -> anyhow::Result<()> {
    let world = World::shared().await?;
    let proxy = Proxy::start(world.bench().gitea().url()).await?;
    proxy.delay(STATUS_TAKES, |seen| seen.method == "POST" && seen.path.contains("/statuses/"));
    let mut scenery = Scenery::shop("busy");
    scenery.git_through = Some(proxy.url().to_owned());
    scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
    scenery.policy("raise-memory-after-oom", |_| {});
    let stage = Stage::set(Arc::clone(&world), scenery).await?;
    let others = Others::push_to(&world, "busy");

    stage.release("checkout", "v1.8.2", "v1.9.0").await?;
    let pull = stage.ready_pull_request(PROPOSED).await?;
    stage.merge(&pull, MergeStyle::Squash).await?;
    stage.remediation_reaches(Phase::Succeeded, VERIFIED).await?;

    let pushed = others.stop();
    assert!(pushed >= 20, "only {pushed} foreign commits");
    let seen = stage.seen().await?;
    assert_eq!(seen.pull_requests.len(), 1, "nothing was reverted\n{seen}");
    for number in 0..pushed {
        stage.repo().file("main", &note(number)).await?;
    }
    let manifest = stage.repo().file("main", "apps/shop/checkout.yaml").await?;
    assert!(manifest.contains("memory: 384Mi"), "{manifest}");
    stage.record_verifies().await?;
    Ok(())
}

/// Other people, who push notes all the time.
struct Others {
    pushed: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Others {
    fn push_to(world: &Arc<World>, organisation: &'static str) -> Self {
        let pushed = Arc::new(AtomicU32::new(0));
        let (count, world) = (Arc::clone(&pushed), Arc::clone(world));
        let task = tokio::spawn(async move {
            let repo = world.bench().gitea().repo(organisation, "shop");
            let mut tick = tokio::time::interval(PUSH_EVERY);
            loop {
                tick.tick().await;
                let number = count.load(Ordering::Relaxed);
                // A push that another one overtook is made again, as people do.
                if repo.commit("main", "notes", &[(&note(number), "A note.\n")]).await.is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { pushed, task }
    }

    /// How many commits they made.
    fn stop(self) -> u32 {
        self.task.abort();
        self.pushed.load(Ordering::Relaxed)
    }
}

fn note(number: u32) -> String {
    format!("notes/{number}.md")
}

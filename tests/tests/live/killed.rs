//! SIGKILL before, during and after the push, and before, during and after opening the pull request: always exactly one
//! pull request, one commit, a complete record.

use amend_tests::bench::{Moment, Proxy, proxy, until};
use amend_tests::stage::{PROPOSED, Scenery, Stage, World};

/// A request at the forge, and the moment at which Amend is killed.
type Kill = (&'static str, Moment, fn(&proxy::Seen) -> bool);

const KILLS: [Kill; 5] = [
    ("before the push", Moment::BeforeRequest, is_push),
    ("during the push: the forge has it, Amend does not know", Moment::AfterAnswer, is_push),
    ("after the push and before opening", Moment::BeforeRequest, is_opening),
    ("while opening: the forge has it, Amend does not know", Moment::AfterAnswer, is_opening),
    ("after opening", Moment::BeforeRequest, is_status),
];

fn is_push(seen: &proxy::Seen) -> bool {
    seen.method == "POST" && seen.path.ends_with("/git-receive-pack")
}

fn is_opening(seen: &proxy::Seen) -> bool {
    seen.method == "POST" && seen.path.ends_with("/pulls")
}

fn is_status(seen: &proxy::Seen) -> bool {
    seen.method == "POST" && seen.path.contains("/statuses/")
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_makes_one_commit_and_one_pull_request() -> anyhow::Result<()> {
    // Nobody else's Amend.
    let world = World::alone(&[]).await?;
    let proxy = Proxy::start(world.bench().gitea().url()).await?;
    let mut scenery = Scenery::shop("killed");
    scenery.git_through = Some(proxy.url().to_owned());
    scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
    scenery.policy("raise-memory-after-oom", |_| {});
    let stage = Stage::set(world, scenery).await?;
    let amend = stage.world().amend();

    stage.release("checkout", "v1.8.2", "v1.9.0").await?;
    for (what, moment, fits) in KILLS {
        let mut held = proxy.hold(moment, fits);
        held.reached().await.map_err(|error| error.context(what))?;
        amend.program().kill();
        match moment {
            Moment::BeforeRequest => held.cut(),
            Moment::AfterAnswer => held.release(),
        }
        amend.start().await.map_err(|error| error.context(what))?;
    }

    let pull = stage.ready_pull_request(PROPOSED).await?;
    // The last of them shows its verdicts, so it has found its place again and works.
    until("the verdicts at the forge", PROPOSED, || async {
        let shown = stage.repo().statuses(&pull.head.sha).await?;
        Ok::<_, anyhow::Error>(shown.iter().any(|(context, ..)| context.starts_with("amend/")).then_some(()))
    })
    .await?;
    let seen = stage.seen().await?;
    assert_eq!(seen.pull_requests.len(), 1, "{seen}");
    assert_eq!(seen.remediations.len(), 1, "{seen}");
    let main = stage.repo().commits("main").await?;
    let ours: Vec<(String, String)> =
        stage.repo().commits(&pull.head.branch).await?.into_iter().filter(|commit| !main.contains(commit)).collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    let branches = stage.repo().branches().await?;
    assert_eq!(branches.iter().filter(|branch| branch.starts_with("amend/")).count(), 1, "{branches:?}");
    let entries = seen.entries().len() as u64;
    let summary = stage.record_verifies().await?;
    assert!(summary.entries >= entries, "{} of {entries} entries are in the record", summary.entries);
    Ok(())
}

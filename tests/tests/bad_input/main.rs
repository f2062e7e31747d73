//! Bad input that only the controller can judge: it gets a condition with a sentence, has no effect, and the rest keeps working.
//!
//! What the API server refuses by itself is in `tests/tests/admission`; both together are the corpus of bad inputs.

mod hostile;
mod objects;
mod repository;
mod sources;

use std::time::Duration;

use amend_tests::embedded::Embedded;
use serde_json::Value;

/// Everything here takes seconds on an idle machine; compilers may be running.
const SOON: Duration = Duration::from_secs(300);

/// One world at a time: each fills a core, and its story flows on while Amend waits for one.
async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ONE.lock().await
}

/// The open pull requests of the world.
fn open_pulls(world: &Embedded) -> Vec<amend_sandbox::forge::Pull> {
    let pulls = world.world.forge().pulls(&world.endpoints.repository);
    pulls.into_iter().filter(|pull| pull.open).collect()
}

/// Lets the fault loose and waits for its incident.
async fn incident(world: &Embedded) -> anyhow::Result<()> {
    world.world.trigger()?;
    world.hurry();
    world.wait("an incident", SOON, |world| (!world.all("incidents.amend.dev").is_empty()).then_some(())).await?;
    world.work();
    Ok(())
}

/// The one pull request that answers the story's fault, once it is ready for review.
async fn the_pull_request(world: &Embedded) -> anyhow::Result<amend_sandbox::forge::Pull> {
    let found = |world: &Embedded| open_pulls(world).into_iter().find(|pull| !pull.is_draft());
    let pull = world.wait("a pull request that is ready", SOON, found).await?;
    assert_eq!(open_pulls(world).len(), 1, "{:#?}", world.told());
    Ok(pull)
}

/// What the condition of an object says, when it is there and has this status.
fn condition(object: &Value, kind: &str, status: &str) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|one| one["type"] == kind && one["status"] == status)?;
    found["message"].as_str().map(str::to_owned)
}

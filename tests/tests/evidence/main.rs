//! What Amend learns about an incident beyond its first questions, in the sandbox's world with the production controller.
#![allow(clippy::unwrap_used, clippy::panic)]

mod deep;
mod lines;

use std::time::Duration;

use amend_policies::library::LIBRARY;
use amend_sandbox::Scenario;
use amend_tests::embedded::Embedded;
use serde_json::Value;

/// Everything here takes seconds on an idle machine; compilers may be running.
const SOON: Duration = Duration::from_secs(300);

/// One world at a time: each fills a core, and its story flows on while Amend waits for one.
async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ONE.lock().await
}

/// A world in which nobody answers incidents: they are looked at again and again.
async fn watched(scenario: Scenario) -> anyhow::Result<Embedded> {
    let world = Embedded::start(scenario).await?;
    for policy in LIBRARY.iter().filter(|one| ["raise-memory-after-oom", "revert-bad-release"].contains(&one.name)) {
        world.world.apply_yaml(&policy.yaml.replace("\nspec:\n", "\nspec:\n  suspend: true\n"))?;
    }
    Ok(world)
}

/// The status of every incident.
fn statuses(world: &Embedded) -> Vec<Value> {
    world.all("incidents.amend.dev").iter().map(|incident| incident["status"].clone()).collect()
}

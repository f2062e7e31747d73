//! Stores that are not there: what cannot be asked is named, and one fault is one proposal all the same.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use amend_sandbox::Scenario;
use amend_tests::embedded::{Embedded, PLATFORM};
use jiff::SignedDuration;
use serde_json::Value;

use crate::{SOON, alone, incident, open_pulls};

/// The platform's objects with Prometheus as the only store.
fn with_prometheus_alone() -> String {
    let kept = |document: &&str| !document.contains("kind: TelemetrySource") || document.contains("kind: Prometheus,");
    PLATFORM.split("---\n").filter(kept).collect::<Vec<_>>().join("---\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn with_prometheus_alone_one_fault_is_one_draft_that_names_the_gaps() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = Embedded::start_on(Scenario::oom(), &with_prometheus_alone(), |_| ()).await?;
    assert_eq!(world.all("telemetrysources.amend.dev").len(), 1);
    incident(&world).await?;

    let draft = |world: &Embedded| open_pulls(world).into_iter().find(amend_sandbox::forge::Pull::is_draft);
    let pull = world.wait("a draft", SOON, draft).await?;
    assert!(pull.body.contains("something is not known"), "{}", pull.body);
    assert!(pull.body.contains("Alertmanager"), "nobody can be asked about silences: {}", pull.body);

    // The callers' errors open incidents of their own, since no trace tells that they call it. All of them are looked at.
    let proposed_at = world.world.clock().now();
    world.hurry();
    let reasons = Mutex::new(BTreeSet::new());
    let later = |world: &Embedded| {
        let waits = |incident: &Value| incident["status"]["remediation"].is_null();
        let incidents = world.all("incidents.amend.dev");
        let told = incidents.iter().filter(|one| one["status"]["phase"] == "Diagnosed" && waits(one));
        let told = told.filter_map(|one| one["status"]["because"].as_str().map(str::to_owned));
        reasons.lock().unwrap_or_else(PoisonError::into_inner).extend(told);
        let passed = world.world.clock().now().duration_since(proposed_at);
        (passed >= SignedDuration::from_mins(15)).then_some(())
    };
    world.wait("a quarter of an hour", SOON, later).await?;
    // Whoever looks at any moment reads why nothing is done about it, never only that nothing is.
    let reasons = reasons.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(reasons.iter().any(|why| why.contains("the same change is under way for incident")), "{reasons:#?}");
    assert!(!reasons.contains("no remediation is under way"), "{reasons:#?}");
    let pulls = world.world.forge().pulls(&world.endpoints.repository);
    assert_eq!(pulls.len(), 1, "{:#?}", world.told());
    let at_work: BTreeSet<String> =
        world.all("remediations.amend.dev").iter().map(|one| one["metadata"]["name"].to_string()).collect();
    assert_eq!(at_work.len(), 1, "one remediation for one change: {:#?}", world.told());
    Ok(())
}

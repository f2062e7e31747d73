//! Stores that are not there: what cannot be asked is named, and one fault is one proposal all the same.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use amend_sandbox::Scenario;
use amend_tests::embedded::{Embedded, PLATFORM};
use jiff::SignedDuration;

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

    // The callers' errors open incidents of their own, since no trace tells that they call it. All of them are looked at, and
    // who looks at one of them at any moment reads why nothing is done about it, never only that nothing is.
    world.hurry();
    let another = |world: &Embedded| (world.all("incidents.amend.dev").len() > 1).then_some(());
    world.wait("an incident of a caller", SOON, another).await?;
    world.work();
    let heard = Mutex::new((BTreeSet::new(), BTreeSet::new()));
    let looked_at_again = |world: &Embedded| {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let (looks, reasons) = &mut *heard;
        for incident in world.all("incidents.amend.dev") {
            let status = &incident["status"];
            if status["phase"] == "Diagnosed" && status["remediation"].is_null() {
                looks.insert(format!("{} at {}", incident["metadata"]["name"], status["diagnosedAt"]));
                reasons.insert(status["because"].as_str().unwrap_or_default().to_owned());
            }
        }
        (looks.len() >= 4).then_some(())
    };
    world.wait("further looks at it", SOON, looked_at_again).await?;
    let (_, reasons) = heard.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(reasons.iter().any(|why| why.contains("the same change is under way for incident")), "{reasons:#?}");
    assert!(!reasons.contains("no remediation is under way"), "{reasons:#?}");
    let pulls = world.world.forge().pulls(&world.endpoints.repository);
    assert_eq!(pulls.len(), 1, "{:#?}", world.told());
    let at_work: BTreeSet<String> =
        world.all("remediations.amend.dev").iter().map(|one| one["metadata"]["name"].to_string()).collect();
    assert_eq!(at_work.len(), 1, "one remediation for one change: {:#?}", world.told());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alertmanager_that_cannot_be_asked_may_hold_the_silence_that_the_other_lacks() -> anyhow::Result<()> {
    let _alone = alone().await;
    let known = PLATFORM.split("---\n").find(|document| document.contains("kind: Alertmanager,"));
    let name = |document: &str| document.replacen("name: alertmanager", "name: another", 1);
    let another =
        name(known.expect("the platform has an Alertmanager")).replace("spec: {", "spec: { secretRef: { name: gone },");
    assert!(another.contains("name: another") && another.contains("gone"), "{another}");
    let world = Embedded::start_on(Scenario::oom(), &format!("{PLATFORM}---\n{another}"), |_| ()).await?;
    incident(&world).await?;
    let told = |world: &Embedded| {
        let all = world.all("remediations.amend.dev");
        all.iter().any(|one| one["status"].to_string().contains("TelemetrySource another")).then_some(())
    };
    world.wait("a remediation that names the Alertmanager", SOON, told).await?;
    assert!(open_pulls(&world).is_empty(), "nothing is proposed while a silence may be there");
    Ok(())
}

/// Silences what the labels name, lets the fault loose, and waits for a remediation that is held by it.
async fn held_by_a_silence(labels: &[(&str, &str)]) -> anyhow::Result<()> {
    let world = Embedded::start(Scenario::oom()).await?;
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let until = world.world.clock().now() + SignedDuration::from_hours(12);
    let id = world.world.with_telemetry(|telemetry| telemetry.alertmanager().silence(&labels, until));
    incident(&world).await?;
    let sentence = format!("Alertmanager's silence \"{id}\" by \"sandbox\" covers this incident");
    let told = |world: &Embedded| {
        let all = world.all("remediations.amend.dev");
        all.iter().any(|one| one["status"].to_string().replace("\\\"", "\"").contains(&sentence)).then_some(())
    };
    world.wait("a remediation that names the silence", SOON, told).await?;
    let signals =
        world.all("incidents.amend.dev").iter().map(|one| one["status"]["signals"].to_string()).collect::<String>();
    assert!(!signals.contains("\"source\":\"Alert\""), "a silenced alert is sent to nobody: {signals}");
    assert!(open_pulls(&world).is_empty(), "nothing is proposed about what people want quiet about");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silence_holds_an_incident_whose_alerts_never_come_because_of_it() -> anyhow::Result<()> {
    let _alone = alone().await;
    held_by_a_silence(&[("namespace", "shop")]).await
}

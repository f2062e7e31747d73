//! 500 alerts in 30 s from one bad release: one Incident, one pull request. The alert clears but the cause stays:
//! `Mitigated`, pull request open; the cause goes away for `absentFor`: `Withdrawn` with the reason.

use std::time::Instant;

use amend_crds::incident::IncidentPhase;
use amend_execution::phase::Phase;
use amend_sandbox::model::graph::{Need, Version};
use amend_tests::stage::{FOLDER, PROPOSED, SOON, Scenery, Stage, World};

/// Two pods with so many routes each, and one alert for each route of each pod.
const ROUTES: u32 = 250;

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_alerts_are_one_incident_that_waits_until_its_cause_is_gone() -> anyhow::Result<()> {
    let processor = "https://cards.example/v3";
    let mut scenery = Scenery::shop("flood");
    scenery.behaves("payment", "v3.2.0", |usual| Version {
        needs: vec![Need {
            config_map: "shop-config".into(),
            key: "processor-url".into(),
            one_of: vec![processor.into()],
            error_ratio: 0.5,
        }],
        error_message: "card processor answered: this version of the API is gone".into(),
        ..usual
    });
    if let Some(payment) = scenery.graph.services.get_mut("payment") {
        payment.routes = ROUTES;
    }
    scenery.policy("revert-bad-release", |_| {});
    // A storm in the shared world would slow every other story down.
    let stage = Stage::set(World::alone(&[]).await?, scenery).await?;
    let prometheus = stage.world().bench().prometheus();

    stage.release("payment", "v3.1.4", "v3.2.0").await?;
    let pull = stage.ready_pull_request(PROPOSED).await?;
    let began = Instant::now();
    let heard = stage
        .until_seen("five hundred signals", PROPOSED, |seen| {
            let status = seen.standing().first().and_then(|one| one.status.clone());
            Ok(status.map(|status| status.signal_count).filter(|count| *count >= 2 * ROUTES))
        })
        .await?;
    let firing =
        prometheus.value("count(ALERTS{namespace=\"flood\", alertname=\"RouteErrorRatio\", alertstate=\"firing\"})");
    assert_eq!(
        firing.await?,
        Some(f64::from(2 * ROUTES)),
        "heard {heard} {} s after the pull request",
        began.elapsed().as_secs()
    );
    let seen = stage.seen().await?;
    assert_eq!((seen.incidents.len() - joined(&seen), seen.pull_requests.len()), (1, 1), "{seen}");

    // Somebody corrects the setting: the alerts clear, and the release that needs it is still there.
    let config = format!("{FOLDER}/config.yaml");
    stage.edit(&config, "https://cards.example/v2", processor, "config: the card processor's new address").await?;
    stage.incident_reaches(IncidentPhase::Mitigated, PROPOSED).await?;
    assert_eq!(stage.repo().pull_request(pull.number).await?.state, "open");

    // Somebody takes the release back by hand: there is nothing left to propose.
    stage.release("payment", "v3.2.0", "v3.1.4").await?;
    let remediation = stage.remediation_reaches(Phase::Withdrawn, PROPOSED).await?;
    stage.incident_reaches(IncidentPhase::Resolved, SOON).await?;
    let because = remediation.status.unwrap_or_default().because;
    assert!(because.contains("cause"), "it says why: {because}");
    let pull = stage.repo().pull_request(pull.number).await?;
    assert_eq!((pull.state.as_str(), pull.merged), ("closed", false));
    stage.record_verifies().await?;
    Ok(())
}

fn joined(seen: &amend_tests::stage::Seen) -> usize {
    seen.incidents.len() - seen.standing().len()
}

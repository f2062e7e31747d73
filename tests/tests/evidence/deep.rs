//! Faults that the first round of questions cannot tell: one pod only, one operation only.

use amend_sandbox::Scenario;
use amend_sandbox::model::graph::{Operation, SickPods};
use amend_tests::embedded::{Embedded, PLATFORM};
use serde_json::Value;

use crate::{SOON, alone, statuses, watched};

/// The shop with two routes on `payment`, and no release.
fn quiet() -> Scenario {
    let mut scenario = Scenario::oom();
    let route = |route: &str, share: f64| Operation { route: route.to_owned(), share, error_ratio: 0.0 };
    let payment = scenario.graph.services.get_mut("payment").unwrap();
    payment.operations = vec![route("/charge", 0.8), route("/refund", 0.2)];
    scenario
}

/// The shop whose changes nobody tells: Git serves another namespace. A failing service may then be a bad release as well.
async fn without_changes() -> anyhow::Result<Embedded> {
    let world = watched(quiet()).await?;
    let elsewhere =
        PLATFORM.replace("allowedNamespaces: [shop]\n  grants:", "allowedNamespaces: [elsewhere]\n  grants:");
    world.world.apply_yaml(&world.filled(&elsewhere))?;
    Ok(world)
}

fn diagnoses(world: &Embedded) -> Vec<Value> {
    statuses(world).into_iter().map(|status| status["diagnosis"].clone()).filter(|one| one.is_object()).collect()
}

/// Nothing but `payment` is ever blamed with confidence.
fn assert_never_wrong(world: &Embedded) {
    for diagnosis in diagnoses(world).iter().filter(|one| one["abstained"].is_null()) {
        assert_eq!(diagnosis["causes"][0]["entity"]["name"], "payment", "{diagnosis:#}");
    }
}

/// Waits for a sure diagnosis by a second round that cites `sign` for `payment`, and gives it.
async fn found_deeper(world: &Embedded, sign: &str) -> anyhow::Result<Value> {
    world.hurry();
    let sure = |world: &Embedded| {
        assert_never_wrong(world);
        diagnoses(world).into_iter().find(|one| {
            let cause = &one["causes"][0];
            let cites = cause["for"].to_string().contains(sign);
            one["deep"].is_object() && one["abstained"].is_null() && cites
        })
    };
    let found = world.wait("an answer by finer questions", SOON, sure).await;
    found.map_err(|error| anyhow::anyhow!("{error:#}\n{:#?}", diagnoses(world)))
}

fn assert_told(diagnosis: &Value) {
    let deep = &diagnosis["deep"];
    assert!(deep["because"].as_str().is_some_and(|why| !why.is_empty()), "the first round was silent: {deep:#}");
    assert!(deep["changed"].as_str().is_some_and(|what| what.contains("payment")), "{deep:#}");
    let asked = deep["asked"].as_array().unwrap();
    let recorded = |id: &Value| diagnosis["asked"].as_array().unwrap().iter().any(|one| one["id"] == *id);
    assert!(!asked.is_empty() && asked.len() <= 64 && asked.iter().all(recorded), "{deep:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_one_pod_is_found_by_finer_questions() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = without_changes().await?;
    world.world.behave(|graph| {
        graph.services.get_mut("payment").unwrap().sick_pods = Some(SickPods { count: 1, error_ratio: 0.6 });
    });
    let diagnosis = found_deeper(&world, " pods of payment is sick").await?;
    assert_told(&diagnosis);
    let incident = world.all("incidents.amend.dev")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let page = reqwest::get(format!("{}/incidents/shop/{incident}", world.url)).await?.text().await?;
    assert!(page.contains("Looked deeper"), "{page}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_one_operation_is_found_by_finer_questions() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = without_changes().await?;
    world.world.behave(|graph| {
        graph.services.get_mut("payment").unwrap().operations[1].error_ratio = 0.9;
    });
    let diagnosis = found_deeper(&world, "operations of payment is sick: /refund").await?;
    assert_told(&diagnosis);
    Ok(())
}

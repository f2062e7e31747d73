//! Log lines that nobody can class: seen in the queue, taught in Git's way, classed.

use std::process::Command;

use amend_sandbox::Scenario;
use amend_tests::bench::product::amend_binary;
use amend_tests::embedded::Embedded;
use serde_json::Value;

use crate::{SOON, alone, statuses, watched};

/// What the bad release writes: no word of it is in the catalogue, and its password must not be shown.
const SAYS: &str = "ledger has sealed shard 17, password=hunter2";

/// How the queue shows it.
const TEMPLATE: &str = "ledger has sealed shard <*>, password=<*>";

fn story() -> Scenario {
    let mut scenario = Scenario::bad_release();
    scenario.releases.truncate(1);
    for version in scenario.graph.services.get_mut("payment").unwrap().versions.values_mut() {
        version.error_message = SAYS.to_owned();
    }
    scenario
}

/// Templates in the incidents' own words.
fn unknown(world: &Embedded) -> Vec<String> {
    let text = |line: &Value| line["template"].as_str().unwrap_or_default().to_owned();
    statuses(world)
        .iter()
        .flat_map(|status| status["unknownLines"].as_array().cloned().unwrap_or_default())
        .map(|line| text(&line))
        .collect()
}

/// Sentences that speak for a cause, whichever.
fn facts(world: &Embedded) -> Vec<String> {
    let causes = statuses(world)
        .into_iter()
        .flat_map(|status| status["diagnosis"]["causes"].as_array().cloned().unwrap_or_default());
    let facts = causes.flat_map(|cause| cause["for"].as_array().cloned().unwrap_or_default());
    facts.map(|fact| fact["sentence"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_nobody_can_class_is_shown_taught_and_counts_from_then_on() -> anyhow::Result<()> {
    let _alone = alone().await;
    let binary = amend_binary().await?;
    let world = watched(story()).await?;
    world.world.trigger()?;
    world.hurry();
    let is_ours = |template: &String| template.contains(TEMPLATE);
    // Requests that are traced say so in their line, which makes a second template of it.
    let ours = |world: &Embedded| unknown(world).into_iter().filter(is_ours).collect::<Vec<String>>();
    let both = |world: &Embedded| Some(ours(world)).filter(|ours| ours.len() > 1);
    let ours = world.wait("the line in an incident", SOON, both).await?;
    world.work();

    let page = reqwest::get(format!("{}/logs/unknown", world.url)).await?.text().await?;
    assert!(page.contains("ledger has sealed shard &#60;*&#62;") && !page.contains("hunter2"), "{page}");
    let metrics = reqwest::get(format!("{}/metrics", world.url)).await?.text().await?;
    let kept = metrics.lines().find_map(|line| line.strip_prefix("amend_unknown_log_templates "));
    assert!(kept.is_some_and(|kept| kept != "0"), "{metrics}");
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, &world.endpoints.admin_kubeconfig)?;
    let typed = ["logs", "unknown", "-n", "shop"];
    let told = Command::new(binary).args(typed).env("KUBECONFIG", &kubeconfig).env_remove("RUST_LOG").output()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("Deployment/payment") && told.contains(TEMPLATE) && !told.contains("hunter2"), "{told}");

    let patterns: String = ours
        .iter()
        .map(|template| format!("      - template: '{}'\n        class: database\n", template.replace('\'', "''")))
        .collect();
    let source = world.filled(&format!(
        "apiVersion: amend.dev/v1alpha1\nkind: TelemetrySource\nmetadata: {{ name: loki, namespace: amend-system }}\n\
         spec:\n  kind: Loki\n  url: LOKI_URL\n  allowedNamespaces: [shop]\n  logs:\n    patterns:\n{patterns}",
    ));
    world.world.apply_yaml(&source)?;
    world.hurry();
    let taught = |world: &Embedded| facts(world).iter().any(|fact| fact.contains("people taught to be about database"));
    world.wait("the taught class in the evidence", SOON, |world| taught(world).then_some(())).await?;
    world
        .wait("the line to leave the incident", SOON, |world| {
            unknown(world).iter().all(|left| !ours.contains(left)).then_some(())
        })
        .await?;
    let page = reqwest::get(format!("{}/logs/unknown", world.url)).await?.text().await?;
    let escaped = |text: &String| text.replace('<', "&#60;").replace('>', "&#62;").replace('"', "&#34;");
    assert!(ours.iter().all(|taught| !page.contains(&escaped(taught))), "{page}");
    Ok(())
}

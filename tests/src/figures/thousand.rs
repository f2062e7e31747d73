//! A thousand incidents through intent, effect and outcome: alert, evidence from the cluster and Git, diagnosis, plan, gates, branch,
//! pull request on the sandbox's forge, every step signed into the record.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use amend_controller::records;
use amend_execution::record::{TrustRoot, verify};
use anyhow::Context;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use super::fleet::{Fleet, Size};
use super::product::{Product, alert, message};
use super::{Outcome, Row};
use crate::bench::until;

const SIZE: Size = Size { teams: 10, namespaces: 10, services: 10 };

/// A pull request takes a few Git calls and a dozen writes; two cores do a few a second.
const WITHIN: Duration = Duration::from_secs(3600);

/// How often progress is told.
const TOLD_EVERY: Duration = Duration::from_secs(30);

pub async fn measure() -> anyhow::Result<Outcome> {
    let fleet = Fleet::observed(SIZE).await?;
    fleet.allow()?;
    let product = Product::start("figures-thousand", &fleet).await?;
    let places = fleet.places();
    let began = Instant::now();
    for some in places.chunks(SIZE.services) {
        let alerts: Vec<Value> = some.iter().map(|place| alert(place, "ContainerOOMKilled")).collect();
        product.send(&message(&alerts)).await?;
    }
    let stored = began.elapsed();
    let mut told = Instant::now();
    let waited = until("a thousand pull requests with their outcomes", WITHIN, || {
        if told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            eprintln!("figures: after {} s {:?}{}", began.elapsed().as_secs(), phases(&fleet), held_up(&fleet));
        }
        let proposed = remediations(&fleet).iter().filter(|one| one["status"]["phase"] == "Proposed").count();
        let seen = product.memory().map(|_| (proposed == places.len()).then_some(()));
        async move { seen }
    });
    waited.await.with_context(|| format!("{:?}\n{}", phases(&fleet), product.log_end()))?;
    let all = began.elapsed();
    let kubeconfig = Kubeconfig::from_yaml(&fleet.controller_kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let export = records::export(&kube::Client::try_from(config)?, "amend-system").await.map_err(anyhow::Error::msg)?;
    let summary = verify(&export.lines, &TrustRoot { key: export.key, seen: Vec::new() })
        .context("the record does not verify")?;
    let memory = product.memory()?;
    Ok(Outcome::Measured(vec![
        Row::new("1,000 alerts stored as 1,000 incidents", stored.as_secs_f64(), "s"),
        Row::new(
            format!("1,000 incidents → {} pull requests open, outcomes written", fleet.pull_requests()),
            all.as_secs_f64(),
            "s",
        ),
        Row::new("entries of the record, all verified", summary.entries as f64, ""),
        Row::new("most resident meanwhile", memory.peak_mib, "MiB"),
    ]))
}

fn remediations(fleet: &Fleet) -> Vec<std::sync::Arc<Value>> {
    fleet.api.store().list("remediations.amend.dev", None)
}

/// Why one incident has no remediation, and one remediation no pull request.
fn held_up(fleet: &Fleet) -> String {
    let incidents = fleet.api.store().list("incidents.amend.dev", None);
    let incident = incidents.iter().find(|one| one["status"]["remediation"].is_null());
    let all = remediations(fleet);
    let remediation = all.iter().find(|one| one["status"]["phase"] == "Blocked");
    let because = [incident, remediation].into_iter().flatten().filter_map(|one| one["status"]["because"].as_str());
    because.filter(|because| !because.is_empty()).map(|because| format!("; one of them: {because}")).collect()
}

/// How many remediations are where, and how many incidents have none yet.
fn phases(fleet: &Fleet) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    let text = |value: &Value| value.as_str().unwrap_or("not begun").to_owned();
    for one in remediations(fleet) {
        *count.entry(text(&one["status"]["phase"])).or_default() += 1;
    }
    for one in fleet.api.store().list("incidents.amend.dev", None) {
        if one["status"]["remediation"].is_null() {
            *count.entry(format!("incident {}", text(&one["status"]["phase"]))).or_default() += 1;
        }
    }
    count
}

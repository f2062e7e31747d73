//! The webhook in a storm: 20,000 alerts a minute, each in a message of its own, sent by the clock and not by the answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fleet::{Fleet, Size};
use super::product::{Product, alert, message};
use super::quantile::milliseconds;
use super::{Outcome, Row};

const ALERTS: u32 = 20_000;
const WITHIN: Duration = Duration::from_secs(60);

/// 500 workloads in 50 namespaces; with these rules each alert comes about ten times in the minute, as repeats do.
const SIZE: Size = Size { teams: 5, namespaces: 10, services: 10 };
const RULES: [&str; 4] = ["ContainerOOMKilled", "PodCrashLooping", "HighErrorRatio", "DeploymentReplicasMismatch"];

pub async fn measure() -> anyhow::Result<Outcome> {
    let fleet = Fleet::start(SIZE).await?;
    let product = Arc::new(Product::start("figures-webhook", &fleet).await?);
    let places = fleet.places();
    let every = WITHIN / ALERTS;
    let began = Instant::now();
    let mut answers = JoinSet::new();
    for number in 0..ALERTS {
        let due = began + every * number;
        tokio::time::sleep_until(due).await;
        // Neighbours in time are far apart in the fleet, and the rule changes only after all services were named.
        let at = number as usize;
        let place = &places[(at * 7) % places.len()];
        let message = message(&[alert(place, RULES[(at / places.len()) % RULES.len()])]);
        let product = Arc::clone(&product);
        // What is sent late because we are late counts against us.
        answers.spawn(async move { product.send(&message).await.map(|_| due.elapsed()) });
    }
    let sending = began.elapsed();
    let (mut times, mut refused) = (Vec::new(), 0_u32);
    while let Some(answer) = answers.join_next().await {
        match answer? {
            Ok(time) => times.push(time),
            Err(error) => {
                refused += 1;
                if refused == 1 {
                    eprintln!("figures: the first alert that was not taken: {error:#}");
                }
            }
        }
    }
    let memory = product.memory()?;
    let incidents = fleet.api.store().list("incidents.amend.dev", None).len();
    Ok(Outcome::Measured(vec![
        Row::new("alerts a minute that were sent", f64::from(ALERTS) * 60.0 / sending.as_secs_f64(), "/min"),
        Row::new("alerts that were not taken (503, to be sent again)", f64::from(refused), "").at_most(0.0),
        Row::new("webhook's answer, p50", milliseconds(&times, 0.5), "ms"),
        Row::new("webhook's answer, p99", milliseconds(&times, 0.99), "ms").at_most(500.0),
        Row::new(
            format!("most resident, with {incidents} incidents being diagnosed meanwhile"),
            memory.peak_mib,
            "MiB",
        )
        .at_most(256.0),
    ]))
}

//! Resident memory of the controller: idle, with 1,000 and with 5,000 open incidents that it has diagnosed and keeps looking at.

use std::time::Duration;

use anyhow::Context;

use super::fleet::{Fleet, Place, Size};
use super::product::{Product, alert, message};
use super::{Outcome, Row};
use crate::bench::until;

const SIZE: Size = Size { teams: 10, namespaces: 50, services: 10 };

/// Design's goal for the resident memory, in MiB.
const GOAL: f64 = 150.0;

/// From the last alert until every incident has been diagnosed once, on a machine that does other things too.
const DIAGNOSED_WITHIN: Duration = Duration::from_secs(1800);

/// How long memory is watched once nothing new happens: every incident is looked at several times in it.
const WATCHED: Duration = Duration::from_secs(60);

pub async fn measure() -> anyhow::Result<Outcome> {
    eprintln!("figures: making 5,000 services that run out of memory");
    let fleet = Fleet::start(SIZE).await?;
    let product = Product::start("figures-memory", &fleet).await?;
    let mut rows =
        vec![Row::new("resident, idle", watched(&product, Duration::from_secs(20)).await?, "MiB").at_most(GOAL)];
    let places = fleet.places();
    let (first, rest) = places.split_at(1_000);
    for (places, all) in [(first, 1_000), (rest, 5_000)] {
        send(&product, places).await?;
        diagnosed(&fleet, &product, all).await?;
        let most = watched(&product, WATCHED).await?;
        rows.push(Row::new(format!("resident, {all} open incidents, most within a minute"), most, "MiB").at_most(GOAL));
        rows.push(Row::new(
            format!("most ever, while {all} alerts arrived and were diagnosed"),
            product.memory()?.peak_mib,
            "MiB",
        ));
    }
    Ok(Outcome::Measured(rows))
}

/// Ten alerts a message, as a rule that fires for a whole namespace sends them.
async fn send(product: &Product, places: &[Place]) -> anyhow::Result<()> {
    for some in places.chunks(10) {
        let alerts: Vec<_> = some.iter().map(|place| alert(place, "ContainerOOMKilled")).collect();
        product.send(&message(&alerts)).await?;
    }
    Ok(())
}

async fn diagnosed(fleet: &Fleet, product: &Product, wanted: usize) -> anyhow::Result<()> {
    let what = format!("{wanted} diagnosed incidents");
    let waited = until(&what, DIAGNOSED_WITHIN, || async {
        product.memory()?;
        let all = fleet.api.store().list("incidents.amend.dev", None);
        let done = all.iter().filter(|one| one["status"]["diagnosis"].is_object()).count();
        Ok::<_, anyhow::Error>((done == wanted).then_some(()))
    });
    waited.await.with_context(|| product.log_end())
}

/// The most that is resident within a time.
async fn watched(product: &Product, span: Duration) -> anyhow::Result<f64> {
    let end = tokio::time::Instant::now() + span;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut most: f64 = 0.0;
    while tokio::time::Instant::now() < end {
        tick.tick().await;
        most = most.max(product.memory()?.mib);
    }
    Ok(most)
}

//! Alert accepted until the Incident is stored. The webhook answers only after that, so the answer is the end of it.

use super::fleet::{Fleet, Size};
use super::product::{Product, alert, message};
use super::quantile::milliseconds;
use super::{Outcome, Row};

/// Incidents that are opened, one after the other: enough for a 99th.
const SIZE: Size = Size { teams: 2, namespaces: 10, services: 10 };

pub async fn measure() -> anyhow::Result<Outcome> {
    let fleet = Fleet::start(SIZE).await?;
    let product = Product::start("figures-stored", &fleet).await?;
    let mut times = Vec::new();
    for place in fleet.places() {
        times.push(product.send(&message(&[alert(&place, "ContainerOOMKilled")])).await?);
    }
    let stored = fleet.api.store().list("incidents.amend.dev", None).len();
    anyhow::ensure!(stored == times.len(), "{} alerts of as many services became {stored} incidents", times.len());
    let of = format!("of {stored} incidents, 100 ms of waiting for kin included (sandbox)");
    Ok(Outcome::Measured(vec![
        Row::new(format!("alert accepted → Incident stored, p50 {of}"), milliseconds(&times, 0.5), "ms"),
        Row::new(format!("alert accepted → Incident stored, p99 {of}"), milliseconds(&times, 0.99), "ms"),
    ]))
}

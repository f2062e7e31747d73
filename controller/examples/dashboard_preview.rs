//! Serves the dashboard with made-up incidents, to look at and to take pictures of: `cargo run --example dashboard_preview [PORT]`.

#[path = "../tests/shop/mod.rs"]
#[allow(dead_code)]
mod shop;

use std::sync::Arc;

use amend_controller::clients::Clients;
use amend_controller::dashboard::session::Door;
use amend_controller::dashboard::views::Reader;
use amend_controller::time::{Time, WallClock};
use amend_controller::{dashboard, server};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let port = std::env::args().nth(1).map_or(Ok(8099), |port| port.parse::<u16>())?;
    let client = Clients::new(kube::Config::new("http://127.0.0.1:1".parse()?))?.reader();
    let door = Door::Loopback(Reader { name: String::new(), client });
    let app = dashboard::routes(Arc::new(shop::Shop::new(WallClock.now())), door, Arc::new(WallClock));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}/", listener.local_addr()?);
    let stop = CancellationToken::new();
    let ends = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        ends.cancel();
    });
    server::serve(listener, None, app, stop).await?;
    Ok(())
}

//! `amend controller`: the controller itself, until it is told to stop or may no longer lead.

use std::process::ExitCode;
use std::sync::Arc;

use amend_controller::runtime;
use amend_controller::self_telemetry::{LogFormat, Voice, speak};
use amend_controller::settings::{self, Settings};
use amend_controller::time::WallClock;
use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::connection::Flags;

/// What is logged when `RUST_LOG` says nothing.
const FILTER: &str = "info";

pub async fn run(settings: Settings, flags: &Flags) -> anyhow::Result<ExitCode> {
    let voice = Voice {
        format: match settings.log_format {
            settings::LogFormat::Json => LogFormat::Json,
            settings::LogFormat::Text => LogFormat::Text,
        },
        filter: std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty()).unwrap_or_else(|| FILTER.into()),
        otlp_endpoint: settings.otlp_endpoint.clone(),
        instance: settings.replica.clone(),
    };
    let _speaking = speak(&voice)?;
    let stop = CancellationToken::new();
    let mut terminated = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let asked = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        tracing::info!("stopping");
        asked.cancel();
    });
    let config = flags.config().await?;
    let running = runtime::start(settings, config, Arc::new(WallClock), stop).await?;
    tracing::info!(address = %running.address, "listening");
    running.ended().await?;
    Ok(ExitCode::SUCCESS)
}

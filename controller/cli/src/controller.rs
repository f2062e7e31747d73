//! `amend controller`: what the image runs.

use std::process::ExitCode;
use std::sync::Arc;

use amend_controller::self_telemetry::{self, Voice, speak};
use amend_controller::settings::{LogFormat, Settings};
use amend_controller::{runtime, time};
use anyhow::Context;
use tokio_util::sync::CancellationToken;

/// Runs the controller until SIGTERM or Ctrl-C.
pub async fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let _speaking = speak(&Voice {
        format: match settings.log_format {
            LogFormat::Json => self_telemetry::LogFormat::Json,
            LogFormat::Text => self_telemetry::LogFormat::Text,
        },
        filter: std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
        otlp_endpoint: settings.otlp_endpoint.clone(),
        instance: settings.replica.clone(),
    })?;
    let config = kube::Config::infer().await.context("cannot find an API server: in a pod, or by KUBECONFIG")?;
    let stop = CancellationToken::new();
    tokio::spawn(told_to_stop(stop.clone()));
    runtime::start(settings, config, Arc::new(time::WallClock), stop).await?.ended().await?;
    Ok(ExitCode::SUCCESS)
}

/// Stops the controller when the kubelet or a person asks.
async fn told_to_stop(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminated) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be heard; Ctrl-C can");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
    stop.cancel();
}

//! Every part of the bench works: what the live stories stand on.
//!
//! `cargo test -p amend-tests --test bench`; the parts are built at first use (`tests/env/build`).

mod cluster;
mod forge;
mod kustomize;
mod processes;
mod source_contract;
mod telemetry;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use amend_tests::bench::{Bench, PodSeen, free_port, until};
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;

/// Everything here takes seconds on an idle machine; compilers may be running.
const SOON: Duration = Duration::from_secs(90);

/// A Deployment of one container; `pod` are the annotations of its pods, in YAML.
fn deployment(name: &str, replicas: u32, image: &str, memory: &str, pod: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    \
         metadata: {{labels: {{app: {name}}}, annotations: {pod}}}\n    spec:\n      containers:\n      - name: app\n        image: {image}\n        resources: {{limits: {{memory: {memory}}}}}\n"
    )
}

async fn pods_until(
    bench: &Bench,
    namespace: &str,
    app: &str,
    what: &str,
    seen: impl Fn(&[PodSeen]) -> bool,
) -> anyhow::Result<Vec<PodSeen>> {
    let labels = format!("app={app}");
    until(what, SOON, || async {
        let pods = bench.kwok().pods(namespace, &labels).await?;
        Ok::<_, anyhow::Error>(seen(&pods).then_some(pods))
    })
    .await
}

/// What was posted to a webhook: the authorization header and the body.
type Posted = Arc<Mutex<Vec<(String, Value)>>>;

/// A receiver of webhooks; returns its URL and what it got.
async fn webhook() -> anyhow::Result<(String, Posted)> {
    let posted = Posted::default();
    let seen = Arc::clone(&posted);
    let take = move |headers: HeaderMap, Json(body): Json<Value>| async move {
        let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        seen.lock().expect("a push does not panic").push((token, body));
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", free_port()?)).await?;
    let url = format!("http://{}/alerts", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/alerts", post(take))).await });
    Ok((url, posted))
}

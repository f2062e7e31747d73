//! Asking the parts over HTTP.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;

/// Everything is on this machine: an answer that takes longer is a fault.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A client on the runtime of the caller: connections do not outlive the runtime that opened them, and
/// each test has its own.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client() -> anyhow::Result<Client> {
    super::install_crypto();
    Ok(Client::builder().timeout(ANSWER_WITHIN).no_proxy().build()?)
}

/// A client that changes nothing on the way: no redirect is followed and no body unpacked.
pub(super) fn raw_client() -> anyhow::Result<Client> {
    super::install_crypto();
    let redirect = reqwest::redirect::Policy::none();
    Ok(Client::builder().timeout(ANSWER_WITHIN).no_proxy().redirect(redirect).no_gzip().build()?)
}

/// Whether a GET is answered with success; like the kubelet's probes it takes any certificate.
pub(super) async fn answers(url: &str) -> anyhow::Result<Option<()>> {
    super::install_crypto();
    let client = Client::builder().timeout(ANSWER_WITHIN).no_proxy().danger_accept_invalid_certs(true).build()?;
    Ok(client.get(url).send().await?.status().is_success().then_some(()))
}

/// The answer's status and body.
///
/// # Errors
/// When there is no answer.
pub(super) async fn ask(request: RequestBuilder) -> anyhow::Result<(StatusCode, String)> {
    let answer = request.send().await?;
    Ok((answer.status(), answer.text().await?))
}

/// The JSON body of a successful answer; null when it is empty.
///
/// # Errors
/// When the answer is not a success (its body is in the message) or not JSON.
pub(super) async fn json(request: RequestBuilder) -> anyhow::Result<Value> {
    let text = text(request).await?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}

/// The body of a successful answer.
///
/// # Errors
/// When the answer is not a success: its body is in the message.
pub(super) async fn text(request: RequestBuilder) -> anyhow::Result<String> {
    let (client, request) = request.build_split();
    let request = request?;
    let what = format!("{} {}", request.method(), request.url());
    let answer = client.execute(request).await.with_context(|| what.clone())?;
    let status = answer.status();
    let body = answer.text().await?;
    if !status.is_success() {
        bail!("{what}: {status}: {body}");
    }
    Ok(body)
}

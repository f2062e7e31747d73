//! `amend ready`: whether an installed controller answers, is ready, and leads. What `helm test` runs.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use serde_json::json;
use url::Url;

use crate::connection::{Connection, Flags, plain, print};

/// Asks a controller whether it is ready and whether a process leads; exits non-zero when not.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where the controller listens, like http://amend.amend-system:8080
    #[arg(long, value_name = "URL")]
    url: Url,
    /// How long to wait for it, in seconds: right after an installation it has yet to start
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    within: u64,
}

/// One request: longer only when something is wrong.
const CALL: Duration = Duration::from_secs(5);

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// What was seen: each part with a sentence.
struct Seen {
    ready: Result<String, String>,
    leads: Result<String, String>,
}

pub async fn run(arguments: &Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let connection = flags.connect().await?;
    let client = reqwest::Client::builder()
        .timeout(CALL)
        // As the kubelet's probes: a certificate for the outside name need not name the Service, and nothing secret is sent.
        .tls_danger_accept_invalid_certs(true)
        .build()
        .context("cannot set up an HTTP client")?;
    let began = Instant::now();
    let seen = loop {
        let seen = Seen { ready: ready(&client, &arguments.url).await, leads: leads(&connection).await };
        let well = seen.ready.is_ok() && seen.leads.is_ok();
        if well || began.elapsed() >= Duration::from_secs(arguments.within) {
            break seen;
        }
        tokio::time::sleep(PAUSE).await;
    };
    let Seen { ready, leads } = seen;
    let well = ready.is_ok() && leads.is_ok();
    let said = [ready, leads].map(|said| said.unwrap_or_else(|why| why));
    match connection.output {
        Some(output) => print(&json!({ "ready": well, "said": said }), output)?,
        None => said.iter().for_each(|sentence| println!("{}", plain(sentence))),
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ready(client: &reqwest::Client, base: &Url) -> Result<String, String> {
    let url = base.join("readyz").map_err(|error| format!("{base} is not a base URL: {error}"))?;
    let said = |error: reqwest::Error| {
        let why = amend_controller::errors::chain(&error.without_url());
        format!("{url} does not answer: {why}; does the Service have endpoints, and does a NetworkPolicy let this in?")
    };
    let answer = client.get(url.clone()).send().await.map_err(said)?;
    let status = answer.status();
    let body = answer.text().await.unwrap_or_default();
    match status.is_success() {
        true => Ok(format!("{url} says that it is ready")),
        false => Err(format!("{url} answers {}: {}", status.as_u16(), body.trim())),
    }
}

async fn leads(connection: &Connection) -> Result<String, String> {
    let namespace = &connection.install_namespace;
    let leases: Api<Lease> = Api::namespaced(connection.client.clone(), namespace);
    let lease = leases.get_opt("amend-controller").await;
    let said = |error: kube::Error| {
        format!("cannot read lease {namespace}/amend-controller: {}", amend_controller::errors::chain(&error))
    };
    let lease = lease.map_err(said)?;
    let holder = lease.and_then(|lease| lease.spec).and_then(|spec| spec.holder_identity);
    match holder.filter(|holder| !holder.is_empty()) {
        Some(holder) => Ok(format!("{holder} leads")),
        None => Err(format!("no process leads: see kubectl -n {namespace} logs deploy/amend")),
    }
}

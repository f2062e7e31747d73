//! `amend capture INCIDENT`: a live incident as a case directory, so that every bug report is a test.

use std::path::PathBuf;
use std::process::ExitCode;

use amend_controller::evidence::observe;
use amend_crds::Incident;
use amend_diagnosis::evidence::Observations;
use amend_telemetry::case::{self, Redaction};
use anyhow::Context;
use clap::Args;
use kube::api::Api;
use serde_json::json;

use crate::connection::{Flags, print};

/// Writes a redacted case directory from a live incident; asks the same questions as the controller, changes nothing.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Name of the incident
    incident: String,
    /// Directory to write; must not exist yet. Default: `case-INCIDENT`
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

pub async fn run(arguments: &Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let connection = flags.connect().await?;
    let (name, namespace) = (&arguments.incident, &connection.namespace);
    let incidents: Api<Incident> = Api::namespaced(connection.client.clone(), namespace);
    let found = incidents.get_opt(name).await.with_context(|| format!("cannot read incident {name}"))?;
    let incident = found
        .with_context(|| format!("no incident {name} in namespace {namespace}; `amend get incidents -A` lists all"))?;
    let signals = match &incident.status {
        Some(status) if !status.signals.is_empty() => status.signals.clone(),
        _ => incident.spec.signals.clone(),
    };
    let asking = connection.asking().await?;
    let seen = observe(&asking.shell, namespace, &signals, asking.shell.time.now()).await;
    let directory = arguments.to.clone().unwrap_or_else(|| PathBuf::from(format!("case-{name}")));
    // A salt that nobody keeps: the name is random, and the directory is gone with this process.
    let salt = tempfile::tempdir().context("cannot make a salt")?;
    let redaction = Redaction::new(salt.path().display().to_string());
    case::write(&directory, name, namespace, &seen, &redaction)?;
    let counts = counts(&seen);
    match connection.output {
        Some(output) => print(&json!({"directory": directory, "incident": name, "seen": counts}), output)?,
        None => {
            println!("{}: {counts}", directory.display());
            println!("credentials and mail addresses are redacted; read it before you send it to anybody");
            println!("next: amend diagnose --case {}", directory.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What there is, and what is not known.
fn counts(seen: &Observations) -> String {
    let told = [
        ("series", seen.series.known().map(Vec::len)),
        ("spans", seen.spans.known().map(Vec::len)),
        ("log lines", seen.logs.known().map(Vec::len)),
        ("changes", seen.changes.known().map(Vec::len)),
        ("objects", seen.objects.known().map(Vec::len)),
        ("events", seen.events.known().map(Vec::len)),
    ];
    let shown = told.iter().map(|(what, count)| match count {
        Some(count) => format!("{count} {what}"),
        None => format!("{what} unknown"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

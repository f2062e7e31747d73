//! `amend capture INCIDENT`: a live incident as a case directory, so that every bug report is a test.

use std::path::PathBuf;
use std::process::ExitCode;

use amend_controller::evidence::observe;
use amend_crds::Incident;
use amend_crds::incident::IncidentStatus;
use amend_diagnosis::evidence::Observations;
use amend_diagnosis::signal::Signal;
use amend_telemetry::case::{self, Redaction};
use anyhow::Context;
use clap::Args;
use jiff::Timestamp;
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
    let status = incident.status.clone().unwrap_or_default();
    let asking = connection.asking().await?;
    let (about, signals) = diagnosed(&status, &incident.spec.signals, asking.shell.time.now());
    let seen = observe(&asking.shell, namespace, &signals, about).await;
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

/// The moment that the case is about and the signals of that time: those of the diagnosis, however long ago it was made; without
/// one, now. Objects are as they are now, since the API server keeps no others.
fn diagnosed(status: &IncidentStatus, opened_by: &[Signal], now: Timestamp) -> (Timestamp, Vec<Signal>) {
    let signals = if status.signals.is_empty() { opened_by } else { status.signals.as_slice() };
    let about = status.diagnosed_at.unwrap_or(now);
    let heard: Vec<Signal> = signals.iter().filter(|signal| signal.started_at <= about).cloned().collect();
    (about, if heard.is_empty() { signals.to_vec() } else { heard })
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use amend_diagnosis::entity::{Entity, EntityKind};
    use amend_diagnosis::signal::{Severity, SignalSource};

    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_770_000_000 + 60 * minute).expect("in range")
    }

    fn signal(name: &str, minute: i64) -> Signal {
        Signal {
            key: name.to_owned(),
            source: SignalSource::Alert,
            name: name.to_owned(),
            entity: Entity::new(EntityKind::Deployment, "shop", "cart"),
            severity: Severity::Critical,
            started_at: at(minute),
            ended_at: None,
            summary: String::new(),
            labels: BTreeMap::new(),
            count: 1,
        }
    }

    fn names((about, signals): (Timestamp, Vec<Signal>)) -> (Timestamp, Vec<String>) {
        (about, signals.into_iter().map(|signal| signal.name).collect())
    }

    #[test]
    fn a_case_is_about_the_time_of_the_diagnosis_and_not_about_the_day_on_which_it_is_written() {
        let status = IncidentStatus {
            signals: vec![signal("First", 0), signal("Later", 30)],
            diagnosed_at: Some(at(5)),
            ..IncidentStatus::default()
        };
        assert_eq!(names(diagnosed(&status, &[], at(3_000))), (at(5), vec!["First".to_owned()]));
    }

    #[test]
    fn without_a_diagnosis_it_is_about_now_and_about_what_opened_the_incident() {
        let told = diagnosed(&IncidentStatus::default(), &[signal("First", 0)], at(3));
        assert_eq!(names(told), (at(3), vec!["First".to_owned()]));
    }
}

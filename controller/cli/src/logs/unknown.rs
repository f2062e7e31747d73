//! `amend logs unknown`: lines around incidents that nobody can class, and how to teach them.

use std::process::ExitCode;

use amend_crds::Incident;
use amend_crds::incident::UnknownLine;
use anyhow::Context;
use clap::Args;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde::Serialize;

use crate::connection::{Flags, print};
use crate::get::table;

/// Lists log lines around open incidents that neither the catalogue nor a taught pattern can class.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Of every namespace
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Of incidents that are over, too
    #[arg(long)]
    over: bool,
}

/// One template with the incident that it comes from.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    namespace: String,
    incident: String,
    #[serde(flatten)]
    line: UnknownLine,
}

pub async fn run(arguments: &Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let connection = flags.connect().await?;
    let api: Api<Incident> = match arguments.all_namespaces {
        true => Api::all(connection.client.clone()),
        false => Api::namespaced(connection.client.clone(), &connection.namespace),
    };
    let found = api.list(&ListParams::default()).await.context("cannot list incidents")?;
    let (listed, not_kept) = listed(found.items, arguments.over);
    if let Some(output) = connection.output {
        print(&listed, output)?;
        return Ok(ExitCode::SUCCESS);
    }
    if listed.is_empty() {
        let place = match arguments.all_namespaces {
            true => "this cluster".to_owned(),
            false => format!("namespace {}", connection.namespace),
        };
        eprintln!("every log line around the incidents of {place} has a class");
        return Ok(ExitCode::SUCCESS);
    }
    std::print!("{}", told(&listed, not_kept));
    Ok(ExitCode::SUCCESS)
}

/// The gravest and most frequent first.
fn listed(incidents: Vec<Incident>, over: bool) -> (Vec<Listed>, u64) {
    let (mut lines, mut not_kept) = (Vec::new(), 0u64);
    for incident in incidents {
        let (namespace, name) = (incident.namespace().unwrap_or_default(), incident.name_any());
        let Some(status) = incident.status.filter(|status| over || !status.phase.is_end()) else { continue };
        not_kept = not_kept.saturating_add(u64::from(status.unknown_lines_not_kept));
        let own = status.unknown_lines.into_iter();
        lines.extend(own.map(|line| Listed { namespace: namespace.clone(), incident: name.clone(), line }));
    }
    lines.sort_by(|left, right| {
        (left.line.why != "error", right.line.lines, &left.namespace, &left.incident).cmp(&(
            right.line.why != "error",
            left.line.lines,
            &right.namespace,
            &right.incident,
        ))
    });
    (lines, not_kept)
}

fn told(listed: &[Listed], not_kept: u64) -> String {
    let head = ["NAMESPACE", "INCIDENT", "WORKLOAD", "WHY", "LINES", "LAST SEEN", "TEMPLATE"];
    let rows = listed.iter().map(|one| {
        vec![
            one.namespace.clone(),
            one.incident.clone(),
            format!("{:?}/{}", one.line.workload.kind, one.line.workload.name),
            one.line.why.clone(),
            one.line.lines.to_string(),
            one.line.last_seen.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            one.line.template.clone(),
        ]
    });
    let mut out = table(&head, rows);
    if not_kept > 0 {
        out.push_str(&format!(
            "and {not_kept} more templates that their incidents do not keep; the dashboard has the queue\n"
        ));
    }
    out.push_str(
        "\nteach one: put it under spec.logs.patterns of the TelemetrySource that holds the logs, with a class (docs/logs.md)\n",
    );
    out
}

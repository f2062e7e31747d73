//! `amend get`: incidents, remediations, policies and failed builds as tables.

use std::process::ExitCode;

use amend_crds::{Build, GROUP, Incident, Remediation, RemediationPolicy};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connection::{Connection, Flags, plain, print};

/// Lists incidents, remediations, policies or failed builds.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What to list
    #[arg(value_enum)]
    kind: Kind,
    /// Of every namespace
    #[arg(long, short = 'A')]
    all_namespaces: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(alias = "incident", alias = "inc")]
    Incidents,
    #[value(alias = "remediation", alias = "rem")]
    Remediations,
    #[value(alias = "policy", alias = "rpol")]
    Policies,
    #[value(alias = "build", alias = "bld")]
    Builds,
}

pub async fn run(arguments: &Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let connection = flags.connect().await?;
    let all = arguments.all_namespaces;
    match arguments.kind {
        Kind::Incidents => {
            let head = ["NAMESPACE", "NAME", "PHASE", "SEVERITY", "ENTITY", "CAUSE", "SIGNALS"];
            list(&connection, all, &head, |one: &Incident| {
                let status = one.status.clone().unwrap_or_default();
                let cause = status.diagnosis.as_ref().and_then(|diagnosis| diagnosis.causes.first());
                vec![
                    format!("{:?}", status.phase),
                    format!("{:?}", one.severity()),
                    one.spec.entity.to_string(),
                    cause.map_or("-".into(), |cause| format!("{} ({:.2})", cause.kind, cause.confidence)),
                    status.signal_count.to_string(),
                ]
            })
            .await
        }
        Kind::Remediations => {
            let head = ["NAMESPACE", "NAME", "PHASE", "INCIDENT", "SUMMARY", "PULL REQUEST"];
            list(&connection, all, &head, |one: &Remediation| {
                let status = one.status.clone().unwrap_or_default();
                vec![
                    status.phase.map_or("Planned".into(), |phase| format!("{phase:?}")),
                    one.spec.incident.clone(),
                    one.spec.plan.summary.clone(),
                    status.pull_request.map_or("-".into(), |pull| pull.url),
                ]
            })
            .await
        }
        Kind::Policies => {
            let head =
                ["NAMESPACE", "NAME", "AUTONOMY", "ACCEPTED", "MATCHED", "PROPOSED", "SUCCEEDED", "TRUST", "REMARK"];
            list(&connection, all, &head, |one: &RemediationPolicy| {
                let status = one.status.clone().unwrap_or_default();
                let accepted = status.conditions.iter().find(|condition| condition.type_ == "Accepted");
                vec![
                    format!("{:?}", one.spec.0.autonomy),
                    accepted.map_or("-".into(), |condition| condition.status.clone()),
                    status.matched.to_string(),
                    status.proposed.to_string(),
                    status.succeeded.to_string(),
                    if status.trust.is_empty() { "-".into() } else { status.trust },
                    // What to change in one that is not accepted; an accepted one may have advice.
                    accepted.map_or("-".into(), |condition| condition.message.clone()),
                ]
            })
            .await
        }
        Kind::Builds => {
            let head = ["NAMESPACE", "NAME", "PHASE", "REPOSITORY", "COMMIT", "CLASS", "WHY"];
            list(&connection, all, &head, |one: &Build| {
                let status = one.status.clone().unwrap_or_default();
                vec![
                    format!("{:?}", status.phase),
                    one.spec.repository.clone(),
                    one.spec.commit.chars().take(12).collect(),
                    status.class.unwrap_or_else(|| "-".into()),
                    if status.reason.is_empty() { status.because } else { status.reason },
                ]
            })
            .await
        }
    }
}

async fn list<K>(
    connection: &Connection,
    all: bool,
    head: &[&str],
    row: impl Fn(&K) -> Vec<String>,
) -> anyhow::Result<ExitCode>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    let api: Api<K> = match all {
        true => Api::all(connection.client.clone()),
        false => Api::namespaced(connection.client.clone(), &connection.namespace),
    };
    let found = match api.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!("this cluster does not serve {}.{GROUP}: is Amend installed? kubectl amend doctor", K::plural(&()))
        }
        found => found.with_context(|| format!("cannot list {}", K::plural(&())))?,
    };
    if let Some(output) = connection.output {
        print(&found.items, output)?;
        return Ok(ExitCode::SUCCESS);
    }
    if found.items.is_empty() {
        let place = if all { "this cluster".to_owned() } else { format!("namespace {}", connection.namespace) };
        let others = if all { "" } else { "; -A lists those of every namespace" };
        eprintln!("no {} in {place}{others}", K::plural(&()));
        return Ok(ExitCode::SUCCESS);
    }
    let rows = found.items.iter().map(|one| {
        let mut cells = vec![one.namespace().unwrap_or_default(), one.name_any()];
        cells.extend(row(one));
        cells
    });
    std::print!("{}", table(head, rows));
    Ok(ExitCode::SUCCESS)
}

/// Columns as wide as their widest cell.
pub fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> =
        std::iter::once(head).chain(rows.map(|row| row.iter().map(|cell| plain(cell)).collect())).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_hostile_text_stays_on_its_line() {
        let rows = [vec!["a".to_owned(), "long\u{1b}[31m\nname".to_owned()], vec!["bb".to_owned(), "x".to_owned()]];
        let shown = table(&["A", "NAME"], rows.into_iter());
        assert_eq!(shown.lines().count(), 3, "{shown}");
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert!(shown.starts_with("A   NAME\n"), "{shown}");
    }
}

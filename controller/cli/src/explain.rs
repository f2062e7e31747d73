//! `amend explain INCIDENT`: what is known, what was decided, what happens next, and what changed since the diagnosis.

mod again;

use std::fmt::Write;
use std::process::ExitCode;

use amend_controller::effects::remedy::told::gate_rows;
use amend_controller::errors::chain;
use amend_crds::incident::IncidentPhase;
use amend_crds::{Incident, Remediation};
use amend_diagnosis::render;
use amend_execution::phase::Phase;
use anyhow::Context;
use clap::Args;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::json;

use crate::connection::{Flags, plain, print};

/// Explains one incident: cause, evidence, policies, gates, pull request, what happens next, and what changed since.
///
/// The questions of the diagnosis are asked again, about the same time, under your own rights.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Name of the incident
    incident: String,
    /// Ask nothing again: only what is stored in the incident
    #[arg(long)]
    stored: bool,
}

pub async fn run(arguments: &Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let connection = flags.connect().await?;
    let incidents: Api<Incident> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let name = &arguments.incident;
    let found = incidents.get_opt(name).await.with_context(|| format!("cannot read incident {name}"))?;
    let incident = found.with_context(|| {
        format!("no incident {name} in namespace {}; `amend get incidents -A` lists all", connection.namespace)
    })?;
    let remediations: Api<Remediation> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let all = remediations.list(&ListParams::default()).await.context("cannot list remediations")?;
    let own = all.items.into_iter().filter(|one| one.answers(&incident));
    let remediation = own.max_by_key(|one| one.spec.plan.revision);
    if connection.output.is_none() {
        std::print!("{}", told(&incident, remediation.as_ref()));
    }
    // What is stored is worth reading where the stores cannot be reached as well.
    let again = match arguments.stored {
        true => None,
        false => Some(again::again(&connection, &incident).await),
    };
    match (connection.output, again) {
        (Some(output), again) => {
            let mut shown = json!({ "incident": incident, "remediation": remediation });
            shown["again"] = match again {
                Some(Ok(again)) => serde_json::to_value(again)?,
                Some(Err(error)) => json!({ "notAsked": chain(error.as_ref()) }),
                None => serde_json::Value::Null,
            };
            print(&shown, output)?;
        }
        (None, Some(Ok(again))) => std::print!("{}", again.told()),
        (None, Some(Err(error))) => println!("\nnot asked again: {}", plain(&chain(error.as_ref()))),
        (None, None) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Lines about signals; more are in `-o json`.
const SIGNALS_MAX: usize = 8;

fn told(incident: &Incident, remediation: Option<&Remediation>) -> String {
    let mut out = String::new();
    let status = incident.status.clone().unwrap_or_default();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{} on {}: {:?}", incident.name_any(), incident.spec.entity, status.phase);
    let _ = writeln!(out, "  {}", plain(&status.because));
    let _ = writeln!(out, "\nsignals ({} arrived)", status.signal_count);
    let signals = if status.signals.is_empty() { &incident.spec.signals } else { &status.signals };
    // What many pods said in the same words is told once.
    let mut lines: Vec<(String, u32)> = Vec::new();
    for signal in signals {
        let over = if signal.ended_at.is_some() { ", over" } else { "" };
        let line = format!("{} on {}: {}{over}", plain(&signal.name), signal.entity, plain(&signal.summary));
        match lines.iter_mut().find(|(known, _)| *known == line) {
            Some((_, times)) => *times += 1,
            None => lines.push((line, 1)),
        }
    }
    for (line, times) in lines.iter().take(SIGNALS_MAX) {
        let times = if *times > 1 { format!(" ({times} of them)") } else { String::new() };
        let _ = writeln!(out, "  {line}{times}");
    }
    if lines.len() > SIGNALS_MAX {
        let _ = writeln!(out, "  and {} more in other words", lines.len() - SIGNALS_MAX);
    }
    if let Some(diagnosis) = &status.diagnosis {
        if let Some(why) = &diagnosis.abstained {
            let _ = writeln!(out, "\nnot sure: {}", plain(why));
        }
        if let Some(deep) = &diagnosis.deep {
            let _ = writeln!(out, "\nlooked deeper, since {}", plain(&deep.because));
            let _ = writeln!(out, "  {}: {}", deep.counted(), plain(&deep.changed));
        }
        for (rank, cause) in diagnosis.causes.iter().take(3).enumerate() {
            let title = if rank == 0 { "\ncause" } else { "or" };
            let _ = writeln!(out, "{title}: {} ({}, {})", plain(&cause.sentence), cause.kind, sure(cause.confidence));
            for (sign, facts) in [('+', &cause.facts_for), ('-', &cause.facts_against)] {
                for fact in facts.iter().take(6) {
                    let _ = writeln!(out, "  {sign} {}", plain(&fact.sentence));
                }
            }
        }
        if let Some(note) = status.opinion.as_ref().and_then(|opinion| opinion.note(diagnosis)) {
            let _ = writeln!(out, "\n{}", plain(&note));
        }
        if let Some(left_over) = diagnosis.alignment.left_over() {
            let _ = writeln!(out, "\nnot aligned: {}", plain(&left_over));
        }
        if let Some(foreign) = diagnosis.alignment.foreign.told() {
            let _ = writeln!(out, "\nof other clusters: {}", plain(&foreign));
        }
        let _ = writeln!(out, "\n{}", render::text(&diagnosis.graph).trim_end());
        if !diagnosis.slowest.is_empty() {
            let _ = write!(out, "\nwhere the time goes:\n{}", render::slowest(&diagnosis.slowest, diagnosis.followed));
        }
        if !diagnosis.stories.is_empty() {
            let _ = write!(out, "\nwhat the services wrote:\n{}", render::stories(&diagnosis.stories));
        }
    }
    for policy in &status.policies {
        let verb = if policy.matched { "answers" } else { "does not answer" };
        let _ = writeln!(out, "\npolicy {} {verb}: {}", policy.policy, plain(&policy.because));
    }
    if let Some(remediation) = remediation {
        remedy(&mut out, remediation);
    }
    let answered = status.policies.iter().any(|policy| policy.matched);
    let _ = writeln!(out, "\nnext: {}", next(&status.phase, answered, remediation));
    out
}

fn remedy(out: &mut String, remediation: &Remediation) {
    let status = remediation.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or(Phase::Planned);
    let _ = writeln!(out, "\n{}: {} ({phase:?})", remediation.name_any(), plain(&remediation.spec.plan.summary));
    let _ = writeln!(out, "  {}", plain(&status.because));
    for row in gate_rows(&status.verdicts) {
        let _ = writeln!(out, "  {:<12} {:<8} {}", row.name, format!("{:?}", row.verdict), plain(&row.sentence));
    }
    for pull in status.pull_request.iter().chain(&status.revert_pull_request) {
        let draft = if pull.draft { ", a draft" } else { "" };
        let _ = writeln!(out, "  pull request {} is {}{draft}", pull.url, pull.state);
    }
}

/// Nothing is certain, and no cause that is on the list is impossible.
fn sure(confidence: f64) -> String {
    match confidence * 100.0 {
        small if small < 1.0 => "less than 1 % sure".to_owned(),
        percent => format!("{:.0} % sure", percent.min(99.0)),
    }
}

/// One sentence; every phase has one.
fn next(incident: &IncidentPhase, answered: bool, remediation: Option<&Remediation>) -> &'static str {
    let phase = remediation.map(|one| one.status.as_ref().and_then(|status| status.phase).unwrap_or(Phase::Planned));
    match (incident, phase) {
        (IncidentPhase::Resolved | IncidentPhase::Dropped | IncidentPhase::Joined, _) => "nothing; this is over",
        (_, Some(Phase::Planned | Phase::Gating)) => "the gates are evaluated",
        (_, Some(Phase::Blocked)) => {
            "the gates are looked at again when facts change; the ones that fail say what to do"
        }
        (_, Some(Phase::AwaitingApproval)) => "a person decides: `amend approve` or `amend refuse` this remediation",
        (_, Some(Phase::Proposing)) => "branch and pull request are made",
        (_, Some(Phase::Proposed)) => "somebody reviews the pull request and merges or closes it",
        (_, Some(Phase::Merged)) => "GitOps applies the merged revision",
        (_, Some(Phase::Applying)) => "the workload rolls out; abort signals are watched",
        (_, Some(Phase::Verifying)) => "golden metrics are compared with the time before the incident",
        (_, Some(Phase::Undoing)) => "the change is taken back; merge the revert pull request when it is open",
        (_, Some(Phase::Succeeded)) => "the incident resolves once nothing has fired for a while",
        (_, Some(Phase::Rejected)) => "nothing; people said no and the same proposal is muted for 7 days",
        (_, Some(Phase::Withdrawn)) => "nothing; the change is not needed any more",
        (_, Some(Phase::RolledBack)) => "a person looks: the change did harm and was taken back",
        (_, Some(Phase::Unverified)) => "a late verdict when data is back; until then a person judges the change",
        (_, Some(Phase::Held | Phase::Stuck)) => "a person decides; Amend does nothing more here",
        (IncidentPhase::Open | IncidentPhase::Diagnosing, None) => "the diagnosis",
        (IncidentPhase::Abstained, None) => "the diagnosis is made again as evidence arrives",
        (IncidentPhase::Diagnosed, None) if answered => {
            "a policy answers this cause; the second line above says what it waits for"
        }
        (IncidentPhase::Diagnosed, None) => "a policy that answers this cause; none does yet",
        (IncidentPhase::Remediating | IncidentPhase::Mitigated, None) => "it is watched until the cause is gone",
    }
}

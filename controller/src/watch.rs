//! Everything that a decision about a remediation looks at, gathered just now. Reads only.

pub mod configured;
mod edited;
mod forge;
pub mod gitops;
pub mod orders;

use std::sync::Arc;

use amend_crds::{Incident, IncidentSpec, Remediation};
use amend_diagnosis::diagnosis::Cause;
use amend_diagnosis::evidence::{Answer, Window};
use amend_diagnosis::signal::Severity;
use amend_execution::journal::{Event, Journal};
use amend_execution::phase::incident::CauseState;
use amend_execution::phase::standing;
use amend_execution::snapshot::{Orders, Snapshot, Terms};
use amend_policies::gate::evaluate_all;
use amend_policies::plan::Plan;
use amend_policies::policy::{Autonomy, CompiledMatch, CompiledPolicy};
use amend_policies::verdict::readiness;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::contents;
use crate::effects::remedy::Work;
use crate::errors;
use crate::facts::{self, About};
use crate::golden;
use crate::planner;
use crate::shell::Shell;
use crate::words;

/// How long after it was applied a change shows in rates, which look back over several samples.
const SHOWS_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// A snapshot and what performing its decision needs.
#[derive(Debug)]
pub struct Watched {
    pub snapshot: Snapshot,
    pub work: Work,
}

/// Gathers one moment of one remediation.
///
/// `incident` is the one that it answers; `None` when people deleted it. What is merged is watched to its end nevertheless.
pub async fn gather(
    shell: &Arc<Shell>,
    remediation: &Remediation,
    incident: Option<&Incident>,
    journal: &Journal,
) -> Watched {
    let now = shell.time.now();
    let plan = &remediation.spec.plan;
    let remains;
    let (incident, incident_deleted) = match incident {
        Some(incident) => (incident, false),
        None => {
            remains = what_remains_of_its_incident(remediation);
            (&remains, true)
        }
    };
    let standing = standing(journal).unwrap_or_default();
    let diagnosis = incident.status.as_ref().and_then(|status| status.diagnosis.clone());
    let cause = diagnosis.as_ref().and_then(|found| {
        found
            .causes
            .iter()
            .find(|cause| cause.kind == plan.cause && cause.entity.workload() == plan.target.entity.workload())
            .or(found.causes.first())
    });
    let target = shell
        .targets
        .for_repository(&plan.repository.url, &plan.target.namespace)
        .await
        .map_err(|error| errors::chain(&error));
    let contents = match &target {
        Ok(target) => contents::make(target.repo(), plan).await,
        Err(why) => Err(why.clone()),
    };
    let unknown_cause;
    let cause_or_none = match cause {
        Some(cause) => cause,
        None => {
            unknown_cause = no_cause(plan);
            &unknown_cause
        }
    };
    let about = About {
        plan,
        incident,
        cause: cause_or_none,
        target: target.as_deref().map_err(String::as_str),
        contents: contents.as_ref().map_err(String::as_str),
    };
    let terms = Terms::of(plan, &shell.install);
    let (policy, facts, heads, approvals) = futures::join!(
        policy(shell, plan),
        facts::gather(shell, &about, now),
        forge::heads(&target, &plan.repository.base, &terms, &standing),
        orders::approvals(shell, remediation),
    );
    let compiled = match &policy {
        Answer::Known(Some(known)) => known.compiled.clone(),
        Answer::Known(None) | Answer::Unknown { .. } => None,
    };
    let verdicts = evaluate_all(&compiled.unwrap_or_else(|| as_planned(plan)), plan, &facts, now);
    let words = match &diagnosis {
        Some(found) => words::proposal(
            plan,
            &shell.install,
            incident,
            found,
            contents.as_ref().ok(),
            shell.settings.public_url.as_deref(),
        ),
        None => words::proposal(plan, &shell.install, incident, &nothing_diagnosed(), contents.as_ref().ok(), None),
    };
    let work = Work {
        plan: plan.clone(),
        install: shell.install.clone(),
        target,
        contents,
        verdicts,
        words,
        critical: incident.severity() == Severity::Critical,
        now,
    };
    let edited = if standing.is_merged() { Answer::Known(None) } else { edited::edited(&work, &heads).await };
    let forge = forge::forge(remediation, &work, &terms, &standing, &heads).await;
    let gitops = if standing.is_merged() {
        gitops::gitops(shell, &work, &standing).await
    } else {
        Answer::unknown("not merged yet")
    };
    let foreign = match &gitops {
        Answer::Known(seen) => seen.foreign_commits.clone(),
        Answer::Unknown { why } => Answer::unknown(why.clone()),
    };
    let applied_at = time_of(journal, |event| matches!(event, Event::Applied { .. }));
    let rolled_out_at = time_of(journal, |event| matches!(event, Event::RolloutSeen { complete: true, .. }));
    let acts_since = applied_at.and_then(|at| at.checked_add(SHOWS_AFTER).ok()).filter(|at| *at < now);
    let abort = match (acts_since, standing.phase.ending()) {
        (Some(acts_since), None) => {
            golden::abort_readings(shell, plan, sick_since(incident, acts_since), acts_since, now).await
        }
        (Some(_), Some(_)) | (None, _) => Vec::new(),
    };
    let verification = match rolled_out_at {
        Some(at) => {
            let signals = incident.status.as_ref().map_or(&incident.spec.signals, |status| &status.signals);
            let opened = incident.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
            let before = golden::healthy(signals, cause, opened);
            let applied_at = applied_at.unwrap_or(at);
            let sick = Window { from: sick_since(incident, applied_at), to: applied_at };
            let times = golden::Times { before, sick, rolled_out_at: at };
            Answer::Known(golden::verified(shell, plan, cause, times, foreign, now).await)
        }
        None => Answer::unknown("the rollout is not complete"),
    };
    let orders =
        Orders { incident_deleted, ..orders::orders(shell, plan, &policy, &facts, &work, &heads, edited).await };
    let snapshot = Snapshot {
        now,
        replica: shell.settings.replica.clone(),
        epoch: shell.recorder.epoch().await,
        terms,
        journal: journal.clone(),
        durable: shell.recorder.durable(&remediation.status.clone().unwrap_or_default()).await,
        readiness: readiness(plan.autonomy.max(Autonomy::Propose), &work.verdicts),
        verdicts: work.verdicts.to_vec(),
        approvals,
        orders,
        forge,
        gitops,
        rollout: configured::taken_up(shell, plan, &facts.target, now).await,
        abort,
        verification,
        cause: cause_state(incident),
        absent_for: shell.settings.absent_for,
        reports: shell.reports.take(&remediation.uid().unwrap_or_default()),
    };
    Watched { snapshot, work }
}

/// An incident that was deleted, as far as the plan remembers it: no signals, no diagnosis.
fn what_remains_of_its_incident(remediation: &Remediation) -> Incident {
    let plan = &remediation.spec.plan;
    let entity = plan.target.entity.clone();
    let mut incident =
        Incident::new(&plan.incident.name, IncidentSpec { entity, severity: Severity::Warning, signals: Vec::new() });
    incident.metadata.namespace = Some(plan.incident.namespace.clone());
    incident.metadata.uid = Some(plan.incident.uid.clone());
    incident.metadata.creation_timestamp.clone_from(&remediation.metadata.creation_timestamp);
    incident
}

fn no_cause(plan: &Plan) -> Cause {
    Cause {
        kind: plan.cause.clone(),
        entity: plan.target.entity.clone(),
        change: None,
        confidence: 0.0,
        sentence: "the diagnosis is not shown any more".to_owned(),
        facts_for: Vec::new(),
        facts_against: Vec::new(),
        measures: std::collections::BTreeMap::new(),
    }
}

fn nothing_diagnosed() -> amend_diagnosis::diagnosis::Diagnosis {
    amend_diagnosis::diagnosis::Diagnosis {
        causes: Vec::new(),
        abstained: Some("the diagnosis is not shown any more".to_owned()),
        unexplained: Vec::new(),
        graph: amend_diagnosis::graph::RootCauseGraph::default(),
        slowest: Vec::new(),
        followed: None,
        stories: Vec::new(),
        deep: None,
        alignment: Default::default(),
        asked: Vec::new(),
    }
}

/// A policy that cannot be read any more judges by what always runs alone; its state stops everything else.
fn as_planned(plan: &Plan) -> CompiledPolicy {
    CompiledPolicy {
        matches: CompiledMatch { causes: std::collections::BTreeSet::new(), targets: Vec::new(), min_confidence: 1.0 },
        autonomy: plan.autonomy,
        service_account_name: plan.service_account_name.clone(),
        gates: Vec::new(),
        steps: Vec::new(),
        sla: plan.limits.clone(),
        abort_when: plan.abort_when.clone(),
        verify: plan.verify.clone(),
        rollback: plan.rollback.clone(),
        escalate: plan.escalate.clone(),
        suspend: false,
    }
}

async fn policy(shell: &Shell, plan: &Plan) -> Answer<Option<planner::Known>> {
    match planner::policies(shell, &plan.policy.namespace).await {
        Ok(list) => Answer::Known(list.into_iter().find(|known| known.reference.uid == plan.policy.uid)),
        Err(error) => Answer::unknown(format!("cannot read policies: {}", crate::errors::chain(&error))),
    }
}

fn cause_state(incident: &Incident) -> Answer<CauseState> {
    match &incident.status {
        Some(status) => Answer::Known(match status.cause_absent_since {
            Some(since) => CauseState::AbsentSince { since },
            None => CauseState::Present {},
        }),
        None => Answer::unknown("the incident has no status yet"),
    }
}

fn time_of(journal: &Journal, wanted: impl Fn(&Event) -> bool) -> Option<Timestamp> {
    journal.entries().iter().rev().find(|entry| wanted(&entry.event)).map(|entry| entry.at)
}

/// When the first signal of the incident began, as far as it lies before the change acts.
fn sick_since(incident: &Incident, before: Timestamp) -> Timestamp {
    let signals = incident.status.as_ref().map_or(&incident.spec.signals, |status| &status.signals);
    signals.iter().map(|signal| signal.started_at).min().unwrap_or(before).min(before)
}

//! Everything that a decision about a remediation looks at, gathered just now. Reads only.

mod edited;

use std::sync::Arc;

use amend_crds::approval::ApprovalDecision;
use amend_crds::{Approval, Incident, IncidentSpec, Remediation};
use amend_diagnosis::diagnosis::Cause;
use amend_diagnosis::evidence::{Answer, Window};
use amend_diagnosis::signal::Severity;
use amend_execution::journal::{Event, Journal};
use amend_execution::phase::incident::CauseState;
use amend_execution::phase::{Standing, standing};
use amend_execution::snapshot::{
    BranchSeen, Edited, ForgeSeen, GitOpsSeen, MergeState, Orders, PolicyState, PullRequestSeen, PullRequestState,
    RolloutState, Said, SaidWord, Snapshot, TargetState, Terms,
};
use amend_gitops::forge::{PullRequest, PullRequestState as ForgeState};
use amend_gitops::repo::{CommitId, Containment};
use amend_policies::gate::environment::Silences;
use amend_policies::gate::{GateFacts, evaluate_all};
use amend_policies::plan::{ExpectedField, Plan};
use amend_policies::policy::{Autonomy, CompiledMatch, CompiledPolicy};
use amend_policies::verdict::readiness;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::Value;

use crate::cluster::{self, Read};
use crate::contents;
use crate::effects::remedy::{DIGEST_CONTEXT, Work, commit_of, pushed_at};
use crate::errors;
use crate::facts::{self, About};
use crate::golden;
use crate::owner;
use crate::planner;
use crate::shell::Shell;
use crate::targets::Target;
use crate::words;

/// How long after it was applied a change shows in rates, which look back over several samples.
const SHOWS_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// The red button: while this ConfigMap is there, with `stop` other than `false`, nothing is done.
pub const STOP: &str = "amend-stop";

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
    let policy = policy(shell, plan).await;
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
    let facts = facts::gather(shell, &about, now).await;
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
        critical: incident.spec.severity == Severity::Critical,
        now,
    };
    let terms = Terms::of(plan, &shell.install);
    // Before the forge is asked: a merge in between is then shown by the forge.
    let edited = if standing.is_merged() { Answer::Known(None) } else { edited::edited(&work).await };
    let forge = forge(remediation, &work, &terms, &standing).await;
    let gitops =
        if standing.is_merged() { gitops(shell, &work, &standing).await } else { Answer::unknown("not merged yet") };
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
    let orders = Orders { incident_deleted, ..orders(shell, plan, &policy, &facts, &work, edited).await };
    let snapshot = Snapshot {
        now,
        replica: shell.settings.replica.clone(),
        epoch: shell.recorder.epoch().await,
        terms,
        journal: journal.clone(),
        durable: shell.recorder.durable(&remediation.status.clone().unwrap_or_default()).await,
        readiness: readiness(plan.autonomy.max(Autonomy::Propose), &work.verdicts),
        verdicts: work.verdicts.to_vec(),
        approvals: approvals(shell, remediation).await,
        orders,
        forge,
        gitops,
        rollout: rollout(&facts.target),
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
        deep: None,
        asked: Vec::new(),
    }
}

/// A policy that cannot be read any more judges by the four dimensions alone; its state stops everything else.
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
        Err(error) => Answer::unknown(format!("cannot read policies: {error}")),
    }
}

async fn orders(
    shell: &Shell,
    plan: &Plan,
    policy: &Answer<Option<planner::Known>>,
    facts: &GateFacts,
    work: &Work,
    edited: Answer<Option<Edited>>,
) -> Orders {
    let policy = match policy {
        Answer::Known(None) => Answer::Known(PolicyState::Deleted),
        Answer::Known(Some(known)) => Answer::Known(match &known.compiled {
            Some(compiled) if compiled.suspend => PolicyState::Suspended,
            _ if known.reference.generation != plan.policy.generation => PolicyState::Changed,
            Some(_) | None => PolicyState::Current,
        }),
        Answer::Unknown { why } => Answer::unknown(why.clone()),
    };
    Orders {
        incident_deleted: false,
        policy,
        target: target_state(shell, plan).await,
        rewritten: rewritten(work).await,
        edited,
        kill_switch: kill_switch(shell).await,
        hold: hold(facts),
        // Copies outside the cluster are not built yet: there is none to lag behind.
        record_copy_lag: Answer::Known(SignedDuration::ZERO),
        may_undo: match &facts.permission.access {
            Answer::Known(reviews) => Answer::Known(
                work.target.is_ok()
                    && reviews.iter().filter(|review| review.access.verb != "merge").all(|review| review.allowed),
            ),
            Answer::Unknown { why } => Answer::unknown(why.clone()),
        },
    }
}

async fn target_state(shell: &Shell, plan: &Plan) -> Answer<TargetState> {
    let Some(read) = Read::of(&plan.target.api_version, &plan.target.kind) else {
        return Answer::unknown("the target is of a kind that Amend does not read");
    };
    match cluster::get(&shell.clients.reader(), read, &plan.target.namespace, &plan.target.name).await {
        Answer::Known(None) => Answer::Known(TargetState::Gone),
        Answer::Known(Some(object)) if object["metadata"]["uid"] == plan.target.uid.as_str() => {
            Answer::Known(TargetState::Same)
        }
        Answer::Known(Some(_)) => Answer::Known(TargetState::Replaced),
        Answer::Unknown { why } => Answer::Unknown { why },
    }
}

async fn rewritten(work: &Work) -> Answer<bool> {
    let (target, base) = match (&work.target, CommitId::parse(&work.plan.repository.base)) {
        (Ok(target), Ok(base)) => (target, base),
        (Err(why), _) => return Answer::unknown(why.clone()),
        (_, Err(error)) => return Answer::unknown(errors::chain(&error)),
    };
    match target.repo().was_rewritten_since(&base).await {
        Ok(rewritten) => Answer::Known(rewritten),
        Err(error) => Answer::unknown(errors::chain(&error)),
    }
}

/// Whether the red button is pressed.
pub async fn kill_switch(shell: &Shell) -> Answer<bool> {
    let api: Api<ConfigMap> = Api::namespaced(shell.clients.reader(), &shell.settings.release_namespace);
    match api.get_opt(STOP).await {
        Ok(None) => Answer::Known(false),
        Ok(Some(found)) => {
            Answer::Known(found.data.as_ref().and_then(|data| data.get("stop")).is_none_or(|value| value != "false"))
        }
        Err(error) => Answer::unknown(format!("cannot read ConfigMap {STOP}: {error}")),
    }
}

fn hold(facts: &GateFacts) -> Answer<Option<String>> {
    let environment = &facts.environment;
    let silences = match &environment.silences {
        Silences::Asked(silences) => silences,
        // The gate names this gap: it leaves a draft for people, and lets nothing be done without them.
        Silences::NobodyToAsk => &Answer::Known(Vec::new()),
    };
    match (&environment.holds, silences) {
        (Answer::Known(holds), _) if !holds.is_empty() => {
            Answer::Known(holds.first().map(|hold| format!("{} carries amend.dev/hold: {}", hold.on, hold.reason)))
        }
        (_, Answer::Known(silences)) if !silences.is_empty() => Answer::Known(
            silences.first().map(|silence| format!("Alertmanager silence {} by {}", silence.id, silence.by)),
        ),
        (Answer::Unknown { why }, _) | (_, Answer::Unknown { why }) => Answer::unknown(why.clone()),
        (Answer::Known(_), Answer::Known(_)) => Answer::Known(None),
    }
}

async fn approvals(shell: &Shell, remediation: &Remediation) -> Vec<Said> {
    let api: Api<Approval> = Api::namespaced(shell.clients.reader(), &remediation.namespace().unwrap_or_default());
    let Ok(list) = api.list(&ListParams::default()).await else { return Vec::new() };
    let mut said: Vec<(Option<Timestamp>, Said)> = list
        .items
        .into_iter()
        .filter(|approval| approval.spec.remediation == remediation.name_any())
        .filter(|approval| {
            approval.spec.decision == ApprovalDecision::Stop
                || approval.spec.plan_digest == remediation.spec.plan_digest
        })
        .map(|approval| {
            let word = match approval.spec.decision {
                ApprovalDecision::Approve => SaidWord::Approve,
                ApprovalDecision::Refuse => SaidWord::Refuse,
                ApprovalDecision::Stop => SaidWord::Stop,
            };
            let at = approval.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let name = approval.name_any();
            (at, Said { word, approval: name, by: approval.spec.by, reason: approval.spec.reason })
        })
        .collect();
    said.sort_by(|left, right| (left.0, &left.1.approval).cmp(&(right.0, &right.1.approval)));
    said.into_iter().map(|(_, said)| said).collect()
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

/// The forge, about the step in focus.
async fn forge(remediation: &Remediation, work: &Work, terms: &Terms, standing: &Standing) -> Answer<ForgeSeen> {
    let target = match &work.target {
        Ok(target) => target,
        Err(why) => return Answer::unknown(why.clone()),
    };
    let Some(step) = usize::try_from(standing.step_in_focus()).ok().and_then(|at| terms.steps.get(at)) else {
        return Answer::unknown("the plan has no such step");
    };
    match seen(remediation, work, target, &step.branch).await {
        Ok(seen) => Answer::Known(seen),
        Err(why) => Answer::Unknown { why },
    }
}

async fn seen(remediation: &Remediation, work: &Work, target: &Target, branch: &str) -> Result<ForgeSeen, String> {
    let said = |error: amend_gitops::error::GitError| errors::chain(&error);
    let there = target.repo().branch_head(branch).await.map_err(said)?;
    let ours = match pushed_at(remediation) {
        Some(at) => Some(commit_of(remediation, work, target, at).await?),
        None => None,
    };
    let branch_seen = match there {
        None => BranchSeen::Absent,
        Some(commit) if Some(&commit) == ours.as_ref() => BranchSeen::Ours { commit: commit.to_string() },
        Some(commit) => BranchSeen::Foreign { commit: commit.to_string() },
    };
    let since = remediation.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let since = since.saturating_sub(SignedDuration::from_hours(1)).unwrap_or(Timestamp::UNIX_EPOCH);
    let pulls = target.forge().find(since).await.map_err(|error| errors::chain(&error))?;
    let of = |wanted: &str| pulls.iter().find(|pull| pull.branch == wanted);
    let pull_request = match of(branch) {
        Some(pull) => Some(shown(work, target, pull).await?),
        None => None,
    };
    let revert = match of(&format!("{branch}-revert")) {
        Some(pull) => Some(shown(work, target, pull).await?),
        None => None,
    };
    Ok(ForgeSeen { branch: branch_seen, pull_request, revert })
}

async fn shown(work: &Work, target: &Target, pull: &PullRequest) -> Result<PullRequestSeen, String> {
    let said = |error: amend_gitops::forge::ForgeError| errors::chain(&error);
    let open = pull.state == ForgeState::Open;
    let statuses = if open {
        target.forge().reported(pull.head.clone()).await.map_err(said)?
    } else {
        std::collections::BTreeMap::new()
    };
    let merge = match (open, work.plan.autonomy) {
        (true, Autonomy::Act) => merge_state(target, pull).await?,
        (true, Autonomy::Observe | Autonomy::Propose) | (false, _) => {
            MergeState::Waiting { why: "people merge".to_owned() }
        }
    };
    Ok(PullRequestSeen {
        number: pull.number,
        url: pull.url.clone(),
        state: match &pull.state {
            ForgeState::Open => PullRequestState::Open,
            ForgeState::Closed { .. } => PullRequestState::Closed { by: None },
            ForgeState::Merged { commit, by, .. } => {
                PullRequestState::Merged { commit: commit.as_ref().unwrap_or(&pull.head).to_string(), by: by.clone() }
            }
        },
        draft: pull.draft,
        head: pull.head.to_string(),
        merge,
        statuses: statuses.get(DIGEST_CONTEXT).map(|status| status.description.clone()),
    })
}

async fn merge_state(target: &Target, pull: &PullRequest) -> Result<MergeState, String> {
    let said = |error: amend_gitops::forge::ForgeError| errors::chain(&error);
    let rules = target.forge().rules(pull.base.clone()).await.map_err(said)?;
    let seen = target.forge().observe(pull.number).await.map_err(said)?;
    let approvals = seen.approvals().len();
    Ok(if !rules.may_merge {
        MergeState::NeedsPeople { why: format!("branch {} does not let Amend merge", pull.base) }
    } else if approvals < rules.required_approvals as usize {
        MergeState::NeedsPeople { why: format!("{approvals} of {} reviews are there", rules.required_approvals) }
    } else if !seen.objections().is_empty() {
        MergeState::NeedsPeople { why: "a reviewer asks for changes".to_owned() }
    } else if !seen.mergeable {
        MergeState::Waiting { why: "the forge does not call it mergeable yet".to_owned() }
    } else {
        MergeState::Ready
    })
}

/// Flux and the live object, about a merged change.
async fn gitops(shell: &Arc<Shell>, work: &Work, standing: &Standing) -> Answer<GitOpsSeen> {
    let plan = &work.plan;
    let target = match &work.target {
        Ok(target) => target,
        Err(why) => return Answer::unknown(why.clone()),
    };
    let owner = match owner::of_target(shell, plan).await {
        Answer::Known(Some(owner)) => owner,
        Answer::Known(None) => return Answer::unknown("no GitOps controller claims the target"),
        Answer::Unknown { why } => return Answer::Unknown { why },
    };
    let Some(applied) = owner.applied().and_then(crate::changes::commit_of) else {
        return Answer::unknown("the Kustomization has not applied any revision");
    };
    let live = match Read::of(&plan.target.api_version, &plan.target.kind) {
        Some(read) => cluster::get(&shell.clients.reader(), read, &plan.target.namespace, &plan.target.name).await,
        None => Answer::unknown("the target is of a kind that Amend does not read"),
    };
    let live = match live {
        Answer::Known(Some(live)) => Answer::Known(live),
        Answer::Known(None) => Answer::unknown("the target does not exist"),
        Answer::Unknown { why } => Answer::Unknown { why },
    };
    let step = standing.step(standing.step_in_focus());
    let merged = step.and_then(|step| step.merged.clone());
    let revert_merged = step.and_then(|step| step.revert_merged.clone());
    if let Err(error) = target.repo().fetch().await {
        return Answer::unknown(errors::chain(&error));
    }
    let changes = work.contents.as_ref().map(|contents| contents.changes.clone()).unwrap_or_default();
    let contains = |commit: Option<String>, changes: Vec<amend_gitops::repo::ContentChange>| {
        let (applied, target) = (applied.clone(), target.clone());
        async move {
            let Some(commit) = commit.and_then(|commit| CommitId::parse(&commit).ok()) else {
                return Answer::Known(false);
            };
            match target.repo().contains_change(&applied, &commit, &changes).await {
                Ok(Containment::Ancestor | Containment::SameContents) => Answer::Known(true),
                Ok(Containment::Absent) => Answer::Known(false),
                Err(error) => Answer::unknown(errors::chain(&error)),
            }
        }
    };
    let back: Vec<ExpectedField> = before_fields(plan);
    Answer::Known(GitOpsSeen {
        applied_revision: applied.to_string(),
        contains_merge: contains(merged.clone(), changes).await,
        live_is_planned: live.as_ref().map(|live| plan.not_yet_applied(live).is_empty()),
        contains_revert: match &revert_merged {
            Some(_) => contains(revert_merged.clone(), Vec::new()).await,
            None => Answer::Known(false),
        },
        live_is_back: live.as_ref().map(|live| back.iter().all(|field| field.missing_from(live).is_none())),
        foreign_commits: foreign(target, plan, merged.as_deref(), &applied).await,
        message: owner.trouble(),
    })
}

/// The expected fields of the target as they were before the plan.
pub fn before_fields(plan: &Plan) -> Vec<ExpectedField> {
    let edits = plan.steps.iter().flat_map(|step| &step.files).flat_map(|file| &file.edits);
    edits
        .filter(|edit| edit.object.kind == plan.target.kind && edit.object.name == plan.target.name)
        .map(|edit| ExpectedField { field: edit.field.clone(), value: edit.from.clone() })
        .collect()
}

/// Commits by others since the merge that touch a file of the plan.
async fn foreign(target: &Target, plan: &Plan, merged: Option<&str>, applied: &CommitId) -> Answer<Vec<String>> {
    let Some(merged) = merged.and_then(|commit| CommitId::parse(commit).ok()) else { return Answer::Known(Vec::new()) };
    let repo = target.repo();
    let commits = match repo.commits_between(&merged, applied).await {
        Ok(commits) => commits,
        Err(error) => return Answer::unknown(errors::chain(&error)),
    };
    let files: Vec<&str> = plan.steps.iter().flat_map(|step| &step.files).map(|file| file.path.as_str()).collect();
    let mut foreign = Vec::new();
    for commit in commits {
        if !commit.paths.iter().any(|path| files.contains(&path.as_str())) {
            continue;
        }
        match repo.is_own(&commit.id).await {
            // A merge of our revert by the forge is the forge's commit; what it brings is ours.
            Ok(true) => {}
            Ok(false) if commit.parents.len() > 1 => {}
            Ok(false) => foreign.push(commit.id.to_string()),
            Err(error) => return Answer::unknown(errors::chain(&error)),
        }
    }
    Answer::Known(foreign)
}

/// When the first signal of the incident began, as far as it lies before the change acts.
fn sick_since(incident: &Incident, before: Timestamp) -> Timestamp {
    let signals = incident.status.as_ref().map_or(&incident.spec.signals, |status| &status.signals);
    signals.iter().map(|signal| signal.started_at).min().unwrap_or(before).min(before)
}

/// How far the live workload has rolled out.
fn rollout(target: &Answer<Value>) -> Answer<RolloutState> {
    let object = match target {
        Answer::Known(object) => object,
        Answer::Unknown { why } => return Answer::unknown(why.clone()),
    };
    let number =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok());
    let seen = number("/status/observedGeneration").unwrap_or(0) >= number("/metadata/generation").unwrap_or(u32::MAX);
    let daemon = object["kind"] == "DaemonSet";
    let (desired, updated, available, present) = if daemon {
        let desired = number("/status/desiredNumberScheduled").unwrap_or(0);
        let updated = number("/status/updatedNumberScheduled").unwrap_or(0);
        (desired, updated, number("/status/numberAvailable").unwrap_or(0), desired)
    } else {
        let available = number("/status/availableReplicas").unwrap_or(0);
        let (updated, present) =
            (number("/status/updatedReplicas").unwrap_or(0), number("/status/replicas").unwrap_or(0));
        (number("/spec/replicas").unwrap_or(1), updated, available, present)
    };
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let stuck = conditions
        .filter(|condition| condition["type"] == "Progressing" && condition["status"] == "False")
        .filter_map(|condition| condition["message"].as_str())
        .next()
        .map(str::to_owned);
    let complete = seen && desired > 0 && updated == desired && available == desired && present == desired;
    Answer::Known(RolloutState { complete, stuck, updated, available, desired })
}

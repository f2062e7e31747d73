//! The deeds that bring a change to the base branch, or take a proposal away that was not merged.

use std::collections::BTreeSet;

use amend_crds::Remediation;
use amend_execution::journal::EffectKind;
use amend_execution::snapshot::Done;
use amend_gitops::forge::{PullRequestEdit, PullRequestState};
use amend_gitops::proposal::{Cap, Identity, Opened, Proposal, Standing};
use amend_gitops::repo::{CommitId, CommitRequest, Trailers};
use jiff::Timestamp;
use kube::ResourceExt;

use super::told::gate_rows;
use super::{Trouble, Work};
use crate::errors;
use crate::targets::Target;

/// The commit of the plan: the same request gives the same commit, so it can be named before and after a crash.
pub async fn commit_of(
    remediation: &Remediation,
    work: &Work,
    target: &Target,
    authored_at: Timestamp,
) -> Result<CommitId, String> {
    let contents = work.contents.as_ref().map_err(Clone::clone)?;
    let words = &work.words;
    let request = CommitRequest {
        parent: contents.base.clone(),
        changes: contents.changes.clone(),
        subject: words.title(),
        // Of the plan alone, which never changes: what the incident's words say grows with each signal, and the commit
        // that was pushed must be the commit that is proposed.
        body: format!("{}.\n\nThe pull request of this branch tells cause, evidence and gates.", work.plan.summary),
        trailers: trailers(remediation, work),
        intended: authored_at,
    };
    target.repo().commit(request).await.map_err(|error| errors::chain(&error))
}

pub(super) fn trailers(remediation: &Remediation, work: &Work) -> Trailers {
    Trailers {
        incident: format!("{}/{}", work.plan.incident.namespace, work.plan.incident.name),
        plan: work.plan.digest().to_string(),
        record: format!("{}/{}", remediation.namespace().unwrap_or_default(), remediation.name_any()),
    }
}

pub(super) async fn push(
    remediation: &Remediation,
    work: &Work,
    target: &Target,
    branch: &str,
    authored_at: Timestamp,
) -> Result<Done, Trouble> {
    let commit = commit_of(remediation, work, target, authored_at).await.map_err(Trouble::waits)?;
    target.repo().push_new(branch, &commit).await?;
    Ok(Done::Pushed { commit: commit.to_string() })
}

pub(super) async fn open(
    remediation: &Remediation,
    work: &Work,
    target: &Target,
    branch: &str,
    draft: bool,
    gaps: &[String],
) -> Result<Done, Trouble> {
    let authored_at = pushed_at(remediation)
        .ok_or_else(|| Trouble::Unmade("the journal has no push to open a pull request for".into()))?;
    let commit = commit_of(remediation, work, target, authored_at).await.map_err(Trouble::waits)?;
    let identity = identity(work);
    if identity.key.branch() != branch {
        return Err(Trouble::Unmade(format!("branch {branch} is not the branch of this plan")));
    }
    let mut words = work.words.clone();
    words.gates = gate_rows(&work.verdicts);
    if !gaps.is_empty() {
        words.reason =
            format!("{}\n\nThis is a draft, because something is not known: {}", words.reason, gaps.join("; "));
    }
    let proposal = Proposal { identity, commit, facts: words, draft, labels: BTreeSet::new(), cap: cap(work, target) };
    match target.proposals.open(&proposal, work.now).await? {
        Opened::There { pull, adopted } => {
            Ok(Done::Opened { number: pull.number, url: pull.url, draft: pull.draft, adopted })
        }
        Opened::Not(standing) => Err(Trouble::Waits { until: until(&standing), why: why_not(&standing) }),
    }
}

/// The daily cap of the target; severity critical is exempt.
pub fn cap(work: &Work, target: &Target) -> Cap {
    Cap { per_day: target.object.spec.new_pull_requests_per_day.unwrap_or(1), exempt: work.critical }
}

/// Why a proposal is not made, for people.
pub fn why_not(standing: &Standing) -> String {
    match standing {
        Standing::New => "nothing stands in the way".to_owned(),
        Standing::Open(pull) => format!("the same proposal is open already: {}", pull.url),
        Standing::Merged(pull) => format!("this pull request is merged already: {}", pull.url),
        Standing::Rejected(pull) => format!("people closed this pull request: {}", pull.url),
        Standing::Withdrawn(pull) => format!("this pull request was withdrawn: {}", pull.url),
        Standing::Muted { pull_request, until } => {
            format!("people closed the same proposal ({}); it is muted until {until}", pull_request.url)
        }
        // It says until when.
        Standing::Capped { sentence, .. } => sentence.clone(),
    }
}

/// Until when a proposal is not made, where that is known.
fn until(standing: &Standing) -> Option<Timestamp> {
    match standing {
        Standing::Muted { until, .. } | Standing::Capped { until, .. } => Some(*until),
        Standing::New | Standing::Open(_) | Standing::Merged(_) | Standing::Rejected(_) | Standing::Withdrawn(_) => {
            None
        }
    }
}

/// The names of the plan's one proposal.
pub fn identity(work: &Work) -> Identity {
    let name = work.plan.steps.first().map_or("", |step| step.name.as_str());
    Identity {
        key: work.plan.action_key(&work.install, name),
        fingerprint: work.plan.fingerprint(),
        plan: work.plan.digest(),
    }
}

/// When the push of the plan's branch was intended: the commit's time.
pub fn pushed_at(remediation: &Remediation) -> Option<Timestamp> {
    use amend_execution::journal::Event;
    let status = remediation.status.as_ref()?;
    let entries = status.journal.entries();
    entries
        .iter()
        .find(|entry| matches!(entry.event, Event::Intent { effect: EffectKind::PushBranch, .. }))
        .map(|entry| entry.at)
}

pub(super) async fn ready(target: &Target, number: u64) -> Result<Done, Trouble> {
    let edit = PullRequestEdit { draft: Some(false), ..PullRequestEdit::default() };
    target.forge().update(number, edit).await?;
    Ok(Done::Ready)
}

pub(super) async fn merge(target: &Target, number: u64, head: &str) -> Result<(String, Option<String>), Trouble> {
    let reviewed = CommitId::parse(head)?;
    let pull = target.proposals.merge(number, &reviewed).await?;
    match pull.state {
        PullRequestState::Merged { commit, by, .. } => Ok((commit.unwrap_or(reviewed).to_string(), by)),
        PullRequestState::Open | PullRequestState::Closed { .. } => {
            Err(Trouble::Unmade("the forge said yes to the merge, but the pull request is not merged".into()))
        }
    }
}

pub(super) async fn close(target: &Target, number: u64, comment: &str) -> Result<Done, Trouble> {
    let pull = target.forge().observe(number).await?.pull_request;
    match pull.state {
        PullRequestState::Open => target.proposals.withdraw(&pull, comment).await?,
        PullRequestState::Closed { .. } => {}
        PullRequestState::Merged { .. } => return Err(Trouble::Stands("it was merged meanwhile".into())),
    }
    Ok(Done::Closed)
}

pub(super) async fn delete(target: &Target, branch: &str, commit: &str) -> Result<Done, Trouble> {
    let expected = CommitId::parse(commit)?;
    match target.repo().delete_branch(branch, &expected).await {
        Ok(()) => Ok(Done::BranchDeleted),
        Err(error) => Err(error.into()),
    }
}

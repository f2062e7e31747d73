//! Performs the deeds of a remediation: branches, pull requests, comments, pages.
//!
//! What the gates must allow is asked here once more, in types: a deed that needs a [`Cleared`] plan is not performed with
//! anything else. The verdicts are those of the very snapshot that the decision was made from.

use std::collections::BTreeSet;
use std::sync::Arc;

use amend_crds::Remediation;
use amend_diagnosis::signal::Severity;
use amend_execution::effect::{Clearance, Effect};
use amend_execution::journal::{EffectKind, GateLine, Word};
use amend_execution::snapshot::{Done, Report, Reported};
use amend_gitops::body::{GateRow, GateVerdict, Marker, ProposalFacts};
use amend_gitops::error::GitError;
use amend_gitops::forge::{CommitStatus, NewPullRequest, PullRequestEdit, PullRequestState, StatusVerdict};
use amend_gitops::proposal::{Cap, Identity, Opened, Proposal, ProposalError, Standing};
use amend_gitops::repo::{CommitId, CommitRequest, Trailers};
use amend_policies::gate::{Cleared, ClearedForDraft, Verdicts, clear, clear_for_draft};
use amend_policies::plan::Plan;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{EffectError, Notice, reference};
use crate::contents::Contents;
use crate::errors;
use crate::notify::{Link, Named, Page};
use crate::shell::Shell;
use crate::targets::Target;

/// Context of the commit status that carries the digest of the verdicts shown.
pub const DIGEST_CONTEXT: &str = "amend/gates";

/// How long to wait after a deed that did not happen, where nobody says how long.
const LATER: SignedDuration = SignedDuration::from_secs(20);

/// Everything that a deed needs to know besides itself.
#[derive(Debug)]
pub struct Work {
    pub plan: Plan,
    pub install: String,
    pub target: Result<Arc<Target>, String>,
    pub contents: Result<Contents, String>,
    pub verdicts: Verdicts,
    /// What the pull request says, without gates and gaps, which are of the moment.
    pub words: ProposalFacts,
    /// Severity critical is not held back by the daily cap.
    pub critical: bool,
    pub now: Timestamp,
}

/// Proof that the gates allow a deed.
enum Proof {
    Full(#[allow(dead_code)] Cleared),
    Draft(#[allow(dead_code)] ClearedForDraft),
    NotNeeded,
}

/// Performs one deed and remembers what it came to for the next decision.
pub async fn perform(
    shell: &Arc<Shell>,
    remediation: &Remediation,
    work: &Work,
    effect: Effect,
) -> Result<(), EffectError> {
    let uid = remediation.uid().unwrap_or_default();
    match &effect {
        Effect::AppendRecord { through } => {
            shell.recorder.append(shell, remediation, *through).await?;
            return Ok(());
        }
        Effect::EmitEvent { reason, text, warning } => {
            let notice = Notice { warning: *warning, reason: reason.clone(), note: text.clone() };
            shell.effects.notice(&reference(remediation), notice).await;
            return Ok(());
        }
        Effect::Page { key, to, text } => {
            let text = if to.is_empty() { text.clone() } else { format!("{text} (for {})", to.join(", ")) };
            let to = page(shell, remediation, work, key, &text).await?;
            shell.reports.add(&uid, Report::Paged { key: key.clone(), to });
            return Ok(());
        }
        Effect::Comment { marker, number, text } => {
            comment(work, *number, marker, text).await;
            return Ok(());
        }
        Effect::SetCommitStatus { commit, gates, digest, .. } => {
            statuses(shell, work, commit, gates, digest).await;
            return Ok(());
        }
        Effect::PushBranch { .. }
        | Effect::OpenPullRequest { .. }
        | Effect::MarkReady { .. }
        | Effect::MergePullRequest { .. }
        | Effect::ClosePullRequest { .. }
        | Effect::DeleteBranch { .. }
        | Effect::OpenRevertPullRequest { .. }
        | Effect::MergeRevert { .. } => {}
    }
    let Some((kind, key)) = effect.journaled().map(|(kind, key)| (kind, key.to_owned())) else { return Ok(()) };
    let result = match proof(work, effect.clearance()) {
        Ok(proof) => deed(remediation, work, &effect, &proof).await,
        Err(why) => Reported::Never { why },
    };
    count(shell, kind, &result);
    let failed = match &result {
        Reported::Done(_) => None,
        Reported::Later { why, .. } | Reported::Never { why } | Reported::CannotTell { why } => Some(why.clone()),
    };
    if let Some(why) = &failed {
        tracing::warn!(remediation = remediation.name_any(), effect = kind.word(), why, "an effect did not happen");
    }
    shell.reports.add(&uid, Report::Effect { key, effect: kind, result });
    Ok(())
}

fn proof(work: &Work, clearance: Clearance) -> Result<Proof, String> {
    let digest = work.plan.digest();
    let said = |blocked: amend_policies::gate::Blocked| blocked.reasons.join("; ");
    match clearance {
        Clearance::Cleared => clear(&digest, &work.verdicts).map(Proof::Full).map_err(said),
        Clearance::ClearedForDraft => {
            clear_for_draft(&digest, work.plan.autonomy, &work.verdicts).map(Proof::Draft).map_err(said)
        }
        Clearance::NotNeeded => Ok(Proof::NotNeeded),
    }
}

async fn deed(remediation: &Remediation, work: &Work, effect: &Effect, _proof: &Proof) -> Reported {
    let target = match &work.target {
        Ok(target) => target,
        Err(why) => return Reported::Later { why: why.clone(), after: LATER },
    };
    let done = match effect {
        Effect::PushBranch { branch, authored_at, .. } => push(remediation, work, target, branch, *authored_at).await,
        Effect::OpenPullRequest { branch, draft, gaps, .. } => {
            open(remediation, work, target, branch, *draft, gaps).await
        }
        Effect::MarkReady { number, .. } => ready(target, *number).await,
        Effect::MergePullRequest { number, head, .. } => {
            merge(target, *number, head).await.map(|(commit, by)| Done::Merged { commit, by })
        }
        Effect::MergeRevert { number, head, .. } => {
            merge(target, *number, head).await.map(|(commit, _)| Done::RevertMerged { commit })
        }
        Effect::ClosePullRequest { number, comment, .. } => close(target, *number, comment).await,
        Effect::DeleteBranch { branch, commit, .. } => delete(target, branch, commit).await,
        Effect::OpenRevertPullRequest { key, branch, merged, draft, authored_at, why, .. } => {
            let revert = Revert { key, branch, merged, draft: *draft, authored_at: *authored_at, why };
            open_revert(remediation, work, target, &revert).await
        }
        Effect::AppendRecord { .. }
        | Effect::SetCommitStatus { .. }
        | Effect::Comment { .. }
        | Effect::Page { .. }
        | Effect::EmitEvent { .. } => return Reported::Never { why: "this is not a deed in Git".to_owned() },
    };
    match done {
        Ok(done) => Reported::Done(done),
        Err(trouble) => trouble.reported(),
    }
}

/// Why a deed is not known to be done.
enum Trouble {
    Proposal(ProposalError),
    Stands(String),
    Unmade(String),
}

impl From<ProposalError> for Trouble {
    fn from(error: ProposalError) -> Self {
        Self::Proposal(error)
    }
}

impl From<GitError> for Trouble {
    fn from(error: GitError) -> Self {
        Self::Proposal(error.into())
    }
}

impl From<amend_gitops::forge::ForgeError> for Trouble {
    fn from(error: amend_gitops::forge::ForgeError) -> Self {
        Self::Proposal(error.into())
    }
}

impl Trouble {
    fn reported(self) -> Reported {
        match self {
            Self::Proposal(error) => {
                let why = errors::chain(&error);
                match (error.in_doubt(), error.retry()) {
                    // In doubt: look at the world before anything else is done.
                    (true, _) => Reported::Later { why, after: SignedDuration::from_secs(2) },
                    (false, true) => Reported::Later { why, after: LATER },
                    (false, false) => Reported::Never { why },
                }
            }
            Self::Stands(why) => Reported::Never { why },
            Self::Unmade(why) => Reported::Never { why },
        }
    }
}

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

fn trailers(remediation: &Remediation, work: &Work) -> Trailers {
    Trailers {
        incident: format!("{}/{}", work.plan.incident.namespace, work.plan.incident.name),
        plan: work.plan.digest().to_string(),
        record: format!("{}/{}", remediation.namespace().unwrap_or_default(), remediation.name_any()),
    }
}

async fn push(
    remediation: &Remediation,
    work: &Work,
    target: &Target,
    branch: &str,
    authored_at: Timestamp,
) -> Result<Done, Trouble> {
    let commit = commit_of(remediation, work, target, authored_at).await.map_err(Trouble::Unmade)?;
    target.repo().push_new(branch, &commit).await?;
    Ok(Done::Pushed { commit: commit.to_string() })
}

async fn open(
    remediation: &Remediation,
    work: &Work,
    target: &Target,
    branch: &str,
    draft: bool,
    gaps: &[String],
) -> Result<Done, Trouble> {
    let authored_at = pushed_at(remediation)
        .ok_or_else(|| Trouble::Unmade("the journal has no push to open a pull request for".into()))?;
    let commit = commit_of(remediation, work, target, authored_at).await.map_err(Trouble::Unmade)?;
    let name = work.plan.steps.first().map_or("", |step| step.name.as_str());
    let key = work.plan.action_key(&work.install, name);
    if key.branch() != branch {
        return Err(Trouble::Unmade(format!("branch {branch} is not the branch of this plan")));
    }
    let mut words = work.words.clone();
    words.gates = gate_rows(&work.verdicts);
    if !gaps.is_empty() {
        words.reason =
            format!("{}\n\nThis is a draft, because something is not known: {}", words.reason, gaps.join("; "));
    }
    let proposal = Proposal {
        identity: Identity { key, fingerprint: work.plan.fingerprint(), plan: work.plan.digest() },
        commit,
        facts: words,
        draft,
        labels: BTreeSet::new(),
        cap: cap(work, target),
    };
    match target.proposals.open(&proposal, work.now).await? {
        Opened::There(pull) => {
            Ok(Done::Opened { number: pull.number, url: pull.url, draft: pull.draft, adopted: false })
        }
        Opened::Not(standing) => Err(Trouble::Stands(why_not(&standing))),
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
        Standing::Capped { until, sentence } => format!("{sentence}; the next one may be opened at {until}"),
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

async fn ready(target: &Target, number: u64) -> Result<Done, Trouble> {
    let edit = PullRequestEdit { draft: Some(false), ..PullRequestEdit::default() };
    target.forge().update(number, edit).await?;
    Ok(Done::Ready)
}

async fn merge(target: &Target, number: u64, head: &str) -> Result<(String, Option<String>), Trouble> {
    let reviewed = CommitId::parse(head)?;
    let pull = target.proposals.merge(number, &reviewed).await?;
    match pull.state {
        PullRequestState::Merged { commit, by, .. } => Ok((commit.unwrap_or(reviewed).to_string(), by)),
        PullRequestState::Open | PullRequestState::Closed { .. } => {
            Err(Trouble::Unmade("the forge said yes to the merge, but the pull request is not merged".into()))
        }
    }
}

async fn close(target: &Target, number: u64, comment: &str) -> Result<Done, Trouble> {
    let pull = target.forge().observe(number).await?.pull_request;
    match pull.state {
        PullRequestState::Open => target.proposals.withdraw(&pull, comment).await?,
        PullRequestState::Closed { .. } => {}
        PullRequestState::Merged { .. } => return Err(Trouble::Stands("it was merged meanwhile".into())),
    }
    Ok(Done::Closed)
}

async fn delete(target: &Target, branch: &str, commit: &str) -> Result<Done, Trouble> {
    let expected = CommitId::parse(commit)?;
    match target.repo().delete_branch(branch, &expected).await {
        Ok(()) => Ok(Done::BranchDeleted),
        Err(error) => Err(error.into()),
    }
}

struct Revert<'a> {
    key: &'a str,
    branch: &'a str,
    merged: &'a str,
    draft: bool,
    authored_at: Timestamp,
    why: &'a str,
}

/// Opens the pull request that takes the merged change back, or finds it.
async fn open_revert(
    remediation: &Remediation,
    work: &Work,
    target: &Target,
    revert: &Revert<'_>,
) -> Result<Done, Trouble> {
    let branch = revert.branch.to_owned();
    let found = target.forge().find(revert.authored_at).await?.into_iter().find(|pull| pull.branch == branch);
    if let Some(pull) = found {
        return Ok(Done::RevertOpened { number: pull.number, url: pull.url, draft: pull.draft });
    }
    let repo = target.repo();
    let head = repo.fetch().await?;
    let guilty = CommitId::parse(revert.merged)?;
    // A branch of an earlier attempt is used as it is: it was made on the head of that moment.
    match repo.branch_head(&branch).await? {
        Some(_) => {
            let there = repo.fetch_branch(&branch).await?;
            if !repo.is_own(&there).await? {
                return Err(Trouble::Stands(format!("branch {branch} holds somebody else's commits")));
            }
        }
        None => {
            let back = repo.revert(&guilty, &head).await?;
            let request = CommitRequest {
                parent: head,
                changes: back.changes,
                subject: format!("Revert \"{}\"", work.words.title()),
                body: revert.why.to_owned(),
                trailers: trailers(remediation, work),
                intended: revert.authored_at,
            };
            let commit = repo.commit(request).await?;
            repo.push_new(&branch, &commit).await?;
        }
    }
    let mut words = work.words.clone();
    words.marker = Marker {
        key: format!("{}-revert", revert.key),
        fingerprint: String::new(),
        plan: work.plan.digest().to_string(),
        withdrawn: false,
    };
    words.title = format!("Revert: {}", work.words.title);
    words.story = format!("The change that this takes back did not help: {}.", revert.why);
    words.reason = "Merging this puts the repository back to where it was before the change.".to_owned();
    words.undo = "Revert this pull request.".to_owned();
    words.gates = Vec::new();
    words.changes = words
        .changes
        .into_iter()
        .map(|row| amend_gitops::body::ChangeRow { before: row.after.clone(), after: row.before.clone(), ..row })
        .collect();
    words.diff = work.contents.as_ref().map(|contents| crate::words::diff(&contents.inverse())).unwrap_or_default();
    let new = NewPullRequest {
        title: words.title(),
        body: words.body(),
        branch,
        base: repo.base_branch().to_owned(),
        draft: revert.draft,
        labels: BTreeSet::from(["amend".to_owned()]),
    };
    let pull = target.forge().open(new).await?;
    Ok(Done::RevertOpened { number: pull.number, url: pull.url, draft: pull.draft })
}

/// Gate rows for people: one for each gate, with its worst verdict and all sentences that are not a pass.
pub fn gate_rows(verdicts: &[amend_policies::verdict::Verdict]) -> Vec<GateRow> {
    let mut rows: Vec<GateRow> = Vec::new();
    for verdict in verdicts {
        let worst = match verdict.outcome {
            amend_policies::verdict::Outcome::Pass => GateVerdict::Pass,
            amend_policies::verdict::Outcome::Fail => GateVerdict::Fail,
            amend_policies::verdict::Outcome::Unknown => GateVerdict::Unknown,
        };
        add_row(&mut rows, verdict.gate.name(), worst, &verdict.sentence);
    }
    rows
}

fn add_row(rows: &mut Vec<GateRow>, name: &str, verdict: GateVerdict, sentence: &str) {
    let rank = |verdict: GateVerdict| match verdict {
        GateVerdict::Pass => 0,
        GateVerdict::Unknown => 1,
        GateVerdict::Fail => 2,
    };
    match rows.iter_mut().find(|row| row.name == name) {
        None => rows.push(GateRow { name: name.to_owned(), verdict, sentence: sentence.to_owned() }),
        Some(row) if rank(verdict) > rank(row.verdict) => {
            *row = GateRow { name: name.to_owned(), verdict, sentence: sentence.to_owned() };
        }
        Some(row) if rank(verdict) == rank(row.verdict) => row.sentence = format!("{}; {sentence}", row.sentence),
        Some(_) => {}
    }
}

async fn comment(work: &Work, number: u64, marker: &str, text: &str) {
    if let Ok(target) = &work.target
        && let Err(error) = target.proposals.comment(number, marker, text).await
    {
        tracing::warn!(error = errors::chain(&error), "a comment was not written");
    }
}

/// Shows the verdicts beside the commit, and their digest, by which the next look knows that they are there.
async fn statuses(shell: &Shell, work: &Work, commit: &str, gates: &[GateLine], digest: &str) {
    let (Ok(target), Ok(commit)) = (&work.target, CommitId::parse(commit)) else { return };
    let mut rows = Vec::new();
    for line in gates {
        let verdict = match line.verdict {
            Word::Pass => GateVerdict::Pass,
            Word::Fail => GateVerdict::Fail,
            Word::Unknown => GateVerdict::Unknown,
        };
        add_row(&mut rows, line.gate.as_str(), verdict, line.sentence.as_str());
    }
    let url = shell.settings.public_url.clone();
    let all_pass = rows.iter().all(|row| row.verdict == GateVerdict::Pass);
    let shown = async {
        target.proposals.show_gates(&commit, &rows, url.as_deref()).await?;
        let verdict = if all_pass { StatusVerdict::Success } else { StatusVerdict::Pending };
        let status = CommitStatus { context: DIGEST_CONTEXT.to_owned(), verdict, description: digest.to_owned(), url };
        target.forge().report(commit.clone(), status).await?;
        Ok::<(), ProposalError>(())
    };
    if let Err(error) = shown.await {
        tracing::warn!(error = errors::chain(&error), "commit statuses were not written");
    }
}

/// Calls a person: the pager if there is one, and always an event and a comment where people read.
async fn page(
    shell: &Shell,
    remediation: &Remediation,
    work: &Work,
    key: &str,
    text: &str,
) -> Result<String, EffectError> {
    let name = |namespace: &str, name: &str| Named { namespace: namespace.to_owned(), name: name.to_owned() };
    let status = remediation.status.as_ref();
    let pull = status.and_then(|status| status.revert_pull_request.as_ref().or(status.pull_request.as_ref()));
    let page = Page {
        key: key.to_owned(),
        at: work.now,
        severity: Severity::Critical,
        title: format!("Amend needs a person: {}", work.plan.summary),
        because: text.to_owned(),
        incident: Some(name(&work.plan.incident.namespace, &work.plan.incident.name)),
        remediation: Some(name(&remediation.namespace().unwrap_or_default(), &remediation.name_any())),
        links: pull.map(|pull| Link { name: "pull request".to_owned(), url: pull.url.clone() }).into_iter().collect(),
    };
    let notice = Notice { warning: true, reason: "PersonNeeded".to_owned(), note: text.to_owned() };
    shell.effects.notice(&reference(remediation), notice).await;
    if let Some(pull) = pull {
        comment(work, pull.number, "page", text).await;
    }
    let outcome = match &shell.pager {
        None => "event",
        Some(pager) => match pager.page(&page).await {
            Ok(()) => "webhook",
            Err(error) => {
                shell.metrics.pages.get_or_create(&crate::metrics::ByOutcome { outcome: "failed" }).inc();
                return Err(EffectError::Refused(errors::chain(&error)));
            }
        },
    };
    shell.metrics.pages.get_or_create(&crate::metrics::ByOutcome { outcome: "sent" }).inc();
    Ok(outcome.to_owned())
}

fn count(shell: &Shell, kind: EffectKind, result: &Reported) {
    let outcome = match result {
        Reported::Done(_) => "happened",
        Reported::Later { .. } | Reported::Never { .. } => "failed",
        Reported::CannotTell { .. } => "unknown",
    };
    shell.metrics.effects.get_or_create(&crate::metrics::Effect { kind: kind.word(), outcome }).inc();
    if matches!(result, Reported::Done(Done::Opened { adopted: false, .. })) {
        shell.metrics.pull_requests_opened.inc();
    }
}

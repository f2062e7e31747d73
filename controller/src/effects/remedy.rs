//! Performs the deeds of a remediation: branches, pull requests, comments, pages.
//!
//! What the gates must allow is asked here once more, in types: a deed that needs a [`Cleared`] plan is not performed with
//! anything else. The verdicts are those of the very snapshot that the decision was made from.

pub mod propose;
mod revert;
pub mod told;

use std::sync::Arc;

use amend_crds::Remediation;
use amend_execution::effect::{Clearance, Effect};
use amend_execution::journal::EffectKind;
use amend_execution::snapshot::{Done, Report, Reported};
use amend_gitops::body::ProposalFacts;
use amend_gitops::error::GitError;
use amend_gitops::proposal::ProposalError;
use amend_policies::gate::{Cleared, ClearedForDraft, Verdicts, clear, clear_for_draft};
use amend_policies::plan::Plan;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use propose::{close, delete, merge, open, push, ready};
use revert::{Revert, open_revert};
use told::{Call, comment, page, statuses};

use super::{EffectError, Notice, reference};
use crate::contents::Contents;
use crate::errors;
use crate::shell::Shell;
use crate::targets::Target;

/// Context of the commit status that carries the digest of the verdicts shown.
pub const DIGEST_CONTEXT: &str = "amend/gates";

/// How long to wait after a deed that did not happen, where nobody says how long.
const LATER: SignedDuration = SignedDuration::from_secs(20);

/// How long between two tries of a deed that people must make possible, with a token or a rule of the repository.
///
/// Short enough for who has just mended it and watches; a refused request every two minutes is no burden for a forge.
const MENDED_WITHIN: SignedDuration = SignedDuration::from_mins(2);

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
            match page(shell, remediation, work, key, &Call { to, text: &text }).await {
                Ok(to) => shell.reports.add(&uid, Report::Paged { key: key.clone(), to }),
                // It is asked for again until it is delivered; what the remediation does meanwhile does not wait for it.
                Err(error) => {
                    tracing::warn!(
                        remediation = remediation.name_any(),
                        error = errors::chain(&error),
                        "a page failed"
                    );
                }
            }
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
        Reported::Later { why, .. }
        | Reported::Waits { why, .. }
        | Reported::Never { why }
        | Reported::CannotTell { why } => Some(why.clone()),
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
        Err(trouble) => trouble.reported(work.now),
    }
}

/// Why a deed is not known to be done.
enum Trouble {
    Proposal(ProposalError),
    /// Nothing was sent, and something outside must change first.
    Waits {
        until: Option<Timestamp>,
        why: String,
    },
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
    fn waits(why: String) -> Self {
        Self::Waits { until: None, why }
    }

    fn reported(self, now: Timestamp) -> Reported {
        match self {
            // Looked at again before that: people raise caps and merge what is in the way.
            Self::Waits { until, why } => {
                let left = until.map_or(MENDED_WITHIN, |until| until.duration_since(now));
                Reported::Waits { why, after: left.clamp(LATER, MENDED_WITHIN) }
            }
            Self::Proposal(error) if error.people_can_mend() => {
                Reported::Waits { why: errors::chain(&error), after: MENDED_WITHIN }
            }
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

fn count(shell: &Shell, kind: EffectKind, result: &Reported) {
    let outcome = match result {
        Reported::Done(_) => "happened",
        Reported::Later { .. } | Reported::Waits { .. } | Reported::Never { .. } => "failed",
        Reported::CannotTell { .. } => "unknown",
    };
    shell.metrics.effects.get_or_create(&crate::metrics::Effect { kind: kind.word(), outcome }).inc();
    if matches!(result, Reported::Done(Done::Opened { adopted: false, .. })) {
        shell.metrics.pull_requests_opened.inc();
    }
}

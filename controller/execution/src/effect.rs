//! Deeds as data. The shell performs them; this room only says which, under which name and precondition.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::journal::{EffectKind, GateLine};

/// One deed.
///
/// Effects of one decision are performed in order, pages last, after the decision's entries were written by compare-and-swap. The first
/// failure stops the rest. Every effect may be asked for again and must then change nothing more.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make the records of all entries up to this sequence number durable. Always first; when it fails, nothing else is done.
    AppendRecord {
        through: u32,
    },
    /// Create the branch with the plan's commit. Precondition: the branch does not exist, or has exactly this commit.
    ///
    /// `authored_at` is the author and committer date, so that the same commit is made bit by bit after a crash.
    PushBranch {
        key: String,
        step: u32,
        branch: String,
        authored_at: Timestamp,
    },
    /// Find, adopt or open the pull request of the branch; `gaps` are named in a draft's body.
    OpenPullRequest {
        key: String,
        step: u32,
        branch: String,
        draft: bool,
        gaps: Vec<String>,
    },
    MarkReady {
        key: String,
        step: u32,
        number: u64,
    },
    /// Precondition: the head is still `head`.
    MergePullRequest {
        key: String,
        step: u32,
        number: u64,
        head: String,
    },
    ClosePullRequest {
        key: String,
        step: u32,
        number: u64,
        comment: String,
    },
    /// Precondition: the branch still has exactly `commit`.
    DeleteBranch {
        key: String,
        step: u32,
        branch: String,
        commit: String,
    },
    /// Find, adopt or open the pull request that reverts `merged`, from `branch`.
    OpenRevertPullRequest {
        key: String,
        step: u32,
        branch: String,
        merged: String,
        draft: bool,
        authored_at: Timestamp,
        why: String,
    },
    MergeRevert {
        key: String,
        step: u32,
        number: u64,
        head: String,
    },
    /// Show the verdicts as commit statuses; never as required checks. `digest` comes back as `PullRequestSeen::statuses`.
    SetCommitStatus {
        key: String,
        step: u32,
        commit: String,
        gates: Vec<GateLine>,
        digest: String,
    },
    /// One comment per `marker` on the pull request; found again by it.
    Comment {
        marker: String,
        number: u64,
        text: String,
    },
    /// Tell people: the receivers named, or the default ones when there are none. `key` makes receivers drop repeats; a page
    /// that went out is reported back as `Report::Paged`.
    Page {
        key: String,
        to: Vec<String>,
        text: String,
    },
    /// A Kubernetes event; may be lost.
    EmitEvent {
        reason: String,
        text: String,
        warning: bool,
    },
}

/// Which proof of the gates the performer must hold, for this plan's digest and of this very moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clearance {
    /// `amend_policies::gate::Cleared`.
    Cleared,
    /// `amend_policies::gate::ClearedForDraft`.
    ClearedForDraft,
    /// Tells people, keeps records or takes back: never waits for a gate.
    NotNeeded,
}

impl Effect {
    /// The proof that performing it demands.
    pub fn clearance(&self) -> Clearance {
        match self {
            Self::PushBranch { .. } | Self::OpenPullRequest { draft: true, .. } => Clearance::ClearedForDraft,
            Self::OpenPullRequest { draft: false, .. } | Self::MarkReady { .. } | Self::MergePullRequest { .. } => {
                Clearance::Cleared
            }
            Self::AppendRecord { .. }
            | Self::ClosePullRequest { .. }
            | Self::DeleteBranch { .. }
            | Self::OpenRevertPullRequest { .. }
            | Self::MergeRevert { .. }
            | Self::SetCommitStatus { .. }
            | Self::Comment { .. }
            | Self::Page { .. }
            | Self::EmitEvent { .. } => Clearance::NotNeeded,
        }
    }

    /// The kind and key under which the journal knows it; `None` for deeds that need no intent.
    pub fn journaled(&self) -> Option<(EffectKind, &str)> {
        match self {
            Self::PushBranch { key, .. } => Some((EffectKind::PushBranch, key)),
            Self::OpenPullRequest { key, .. } => Some((EffectKind::OpenPullRequest, key)),
            Self::MarkReady { key, .. } => Some((EffectKind::MarkReady, key)),
            Self::MergePullRequest { key, .. } => Some((EffectKind::MergePullRequest, key)),
            Self::ClosePullRequest { key, .. } => Some((EffectKind::ClosePullRequest, key)),
            Self::DeleteBranch { key, .. } => Some((EffectKind::DeleteBranch, key)),
            Self::OpenRevertPullRequest { key, .. } => Some((EffectKind::OpenRevert, key)),
            Self::MergeRevert { key, .. } => Some((EffectKind::MergeRevert, key)),
            Self::AppendRecord { .. }
            | Self::SetCommitStatus { .. }
            | Self::Comment { .. }
            | Self::Page { .. }
            | Self::EmitEvent { .. } => None,
        }
    }
}

/// Digest of verdicts as shown, so that statuses are set once per change.
pub fn verdicts_digest(gates: &[GateLine]) -> String {
    let mut hash = Sha256::new();
    for gate in gates {
        for part in [gate.gate.as_str(), &format!("{:?}", gate.verdict), gate.sentence.as_str()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hex::encode(&hash.finalize()[..8])
}

//! Where a remediation stands: one total fold over its journal.
//!
//! ```text
//! Planned ─► Gating ─► Proposing ─► Proposed ─► Merged ─► Applying ─► Verifying ─► Succeeded
//!              │ ▲        ▲  ▲          │          │          │           │ └────► Unverified
//!              ▼ │        ▼  └──────────┼──────────┼──────────┘ next step │
//!      AwaitingApproval, Blocked        └──────────┴───► Undoing ◄────────┘
//!                                                           └──► RolledBack, Withdrawn, Rejected, Stuck
//! ```
//!
//! `Held` may follow anything: in doubt, a person decides. An entry that cannot follow the ones before it is an error,
//! never ignored: then nobody acts, and a person looks.

use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::journal::{EffectKind, Ending, Entry, Journal, UndoCause, Word};

mod fold;
pub mod incident;

/// The phase of a remediation; computed, never set by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// A plan exists; nothing was checked yet.
    Planned,
    /// The gates have run and nothing stands in the way of going on.
    Gating,
    /// A gate or the forge stands in the way; looked at again when facts change.
    Blocked,
    /// People were asked.
    AwaitingApproval,
    /// Branch and pull request are being made.
    Proposing,
    /// The pull request is open.
    Proposed,
    /// On the base branch; the reconciler has not applied it yet.
    Merged,
    /// Applied; the workload is rolling out.
    Applying,
    /// Rolled out; golden metrics are compared.
    Verifying,
    /// The change is being taken back.
    Undoing,
    Succeeded,
    Rejected,
    Withdrawn,
    RolledBack,
    Unverified,
    Held,
    Stuck,
}

impl Phase {
    /// As status and metrics write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Planned => "Planned",
            Self::Gating => "Gating",
            Self::Blocked => "Blocked",
            Self::AwaitingApproval => "AwaitingApproval",
            Self::Proposing => "Proposing",
            Self::Proposed => "Proposed",
            Self::Merged => "Merged",
            Self::Applying => "Applying",
            Self::Verifying => "Verifying",
            Self::Undoing => "Undoing",
            Self::Succeeded => "Succeeded",
            Self::Rejected => "Rejected",
            Self::Withdrawn => "Withdrawn",
            Self::RolledBack => "RolledBack",
            Self::Unverified => "Unverified",
            Self::Held => "Held",
            Self::Stuck => "Stuck",
        }
    }

    /// The ending that this phase is, if it is one.
    pub fn ending(self) -> Option<Ending> {
        match self {
            Self::Succeeded => Some(Ending::Succeeded),
            Self::Rejected => Some(Ending::Rejected),
            Self::Withdrawn => Some(Ending::Withdrawn),
            Self::RolledBack => Some(Ending::RolledBack),
            Self::Unverified => Some(Ending::Unverified),
            Self::Held => Some(Ending::Held),
            Self::Stuck => Some(Ending::Stuck),
            Self::Planned
            | Self::Gating
            | Self::Blocked
            | Self::AwaitingApproval
            | Self::Proposing
            | Self::Proposed
            | Self::Merged
            | Self::Applying
            | Self::Verifying
            | Self::Undoing => None,
        }
    }
}

impl From<Ending> for Phase {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Succeeded => Self::Succeeded,
            Ending::Rejected => Self::Rejected,
            Ending::Withdrawn => Self::Withdrawn,
            Ending::RolledBack => Self::RolledBack,
            Ending::Unverified => Self::Unverified,
            Ending::Held => Self::Held,
            Ending::Stuck => Self::Stuck,
        }
    }
}

/// Everything that the journal says about now.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub phase: Phase,
    /// When the phase was entered; `None` for an empty journal.
    pub since: Option<Timestamp>,
    /// When the plan was made; `None` for an empty journal.
    pub planned_at: Option<Timestamp>,
    pub plan_digest: String,
    pub steps: Vec<StepStanding>,
    /// The intent without an outcome, if there is one; never more than one.
    pub open: Option<OpenIntent>,
    /// Highest leadership epoch seen.
    pub epoch: u64,
    /// Whether every gate passed when they were last journaled.
    pub cleared: bool,
    pub asked: bool,
    pub approved: bool,
    pub refused: bool,
    pub stopped: bool,
    /// Why and since when the change is taken back.
    pub undo: Option<(UndoCause, Timestamp)>,
    /// The last verdict given in time.
    pub verdict: Option<Word>,
    /// The verdict given after the ending `Unverified`.
    pub late_verdict: Option<Word>,
    /// Whether the ending asked for a revert to be prepared as a draft.
    pub prepare_revert: bool,
    /// What people were paged about.
    pub paged: BTreeSet<String>,
    entries: u32,
}

/// An intent whose outcome is not journaled yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIntent {
    pub step: u32,
    pub effect: EffectKind,
    pub key: String,
    pub epoch: u64,
    /// When it was first intended: the deterministic author date of a commit.
    pub at: Timestamp,
}

/// What the journal says about one step of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepStanding {
    /// Whether any effect was ever intended: then it may have left something in the world.
    pub begun: bool,
    /// First intent to push: the author date, so that the commit can be made again bit by bit.
    pub authored_at: Option<Timestamp>,
    /// First intent to revert, for the same reason.
    pub revert_authored_at: Option<Timestamp>,
    /// Last intent to push or to open: a request of a process that died may still be under way since then.
    pub reached_out_at: Option<Timestamp>,
    pub branch: Option<String>,
    pub commit: Option<String>,
    pub pull_request: Option<PullRequest>,
    pub merged: Option<String>,
    pub applied: Option<String>,
    pub rolled_out: bool,
    /// Closed without a merge, by us or by people.
    pub closed: bool,
    pub closed_by_people: bool,
    pub revert: Option<PullRequest>,
    pub revert_merged: Option<String>,
    pub undone: bool,
    /// Effects with the outcome `Happened`.
    pub happened: Vec<EffectKind>,
    /// Effects with the outcome `DidNot`, each time.
    pub did_not: Vec<EffectKind>,
}

impl StepStanding {
    /// Whether the step may have left something in the world that an undo would have to take back.
    pub fn is_live(&self) -> bool {
        self.begun && !self.undone && !(self.closed_by_people && self.merged.is_none())
    }
}

/// A pull request as the journal knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequest {
    pub number: u64,
    pub url: String,
    pub draft: bool,
    /// Head commit that we last saw.
    pub head: Option<String>,
    pub opened_at: Timestamp,
}

/// An entry that cannot follow the entries before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("journal entry {seq} ({event}) cannot follow in phase {phase:?}: {why}")]
pub struct Impossible {
    pub seq: u32,
    pub event: String,
    pub phase: Phase,
    pub why: &'static str,
}

/// Where the remediation with this journal stands.
///
/// # Errors
/// At the first impossible entry.
pub fn standing(journal: &Journal) -> Result<Standing, Impossible> {
    journal.entries().iter().try_fold(Standing::new(), |standing, entry| standing.after(entry))
}

impl Standing {
    /// Before the first entry.
    pub fn new() -> Self {
        Self {
            phase: Phase::Planned,
            since: None,
            planned_at: None,
            plan_digest: String::new(),
            steps: Vec::new(),
            open: None,
            epoch: 0,
            cleared: false,
            asked: false,
            approved: false,
            refused: false,
            stopped: false,
            undo: None,
            verdict: None,
            late_verdict: None,
            prepare_revert: false,
            paged: BTreeSet::new(),
            entries: 0,
        }
    }

    /// The step that observations are needed for: the one being undone, or the first one that is not rolled out.
    pub fn step_in_focus(&self) -> u32 {
        let found = match self.undo {
            Some(_) => self.steps.iter().rposition(StepStanding::is_live),
            None => self.steps.iter().position(|step| !step.rolled_out),
        };
        let last = self.steps.len().saturating_sub(1);
        u32::try_from(found.unwrap_or(last)).unwrap_or(u32::MAX)
    }

    pub fn step(&self, step: u32) -> Option<&StepStanding> {
        usize::try_from(step).ok().and_then(|at| self.steps.get(at))
    }

    /// Whether any step's change is on the base branch and not taken back.
    pub fn is_merged(&self) -> bool {
        self.steps.iter().any(|step| step.merged.is_some() && !step.undone)
    }

    /// Whether any step's change ever reached the base branch, taken back or not.
    pub fn was_merged(&self) -> bool {
        self.steps.iter().any(|step| step.merged.is_some())
    }

    /// Whether anything of the plan may still be in the world.
    pub fn is_live(&self) -> bool {
        self.open.is_some() || self.steps.iter().any(StepStanding::is_live)
    }

    /// The standing after one more entry.
    ///
    /// # Errors
    /// When the entry cannot follow.
    pub fn after(self, entry: &Entry) -> Result<Self, Impossible> {
        fold::after(self, entry)
    }
}

impl Default for Standing {
    /// Before the first entry: the one honest empty standing.
    fn default() -> Self {
        Self::new()
    }
}

//! Everything that a decision about a remediation may look at, gathered just now.
//!
//! Gathering reads and never writes. What could not be read is `Unknown` with the reason; leaving an input out is not possible,
//! because an empty one would be read as "all clear".

use std::collections::BTreeSet;

use amend_diagnosis::evidence::Answer;
use amend_policies::plan::{Escalate, Plan};
use amend_policies::policy::{Autonomy, RollbackOn, Sla};
use amend_policies::verdict::{Readiness, Verdict};
use jiff::{SignedDuration, Timestamp};

use crate::journal::{EffectKind, Journal, PreImage, Text};
use crate::phase::incident::CauseState;
use crate::verify::{AbortReading, Verification};

/// How many files an intent names, so that it fits into one entry whatever their paths look like.
const BLOBS_NAMED: usize = 4;

/// What of a plan its execution needs. Made by [`Terms::of`].
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    pub plan_digest: String,
    pub autonomy: Autonomy,
    /// Never empty, in order.
    pub steps: Vec<StepTerms>,
    pub limits: Sla,
    pub rollback_on: BTreeSet<RollbackOn>,
    /// Whom to tell how long after the plan, as long as it is not ended.
    pub escalate: Vec<Escalate>,
    /// Whether people must say yes with an `Approval` before the change is proposed.
    ///
    /// In Propose the merge is the approval, so this is for those who want to be asked before anything is seen at the forge.
    pub approval_before_proposing: bool,
    /// Whether people must say yes with an `Approval` before Amend merges by itself (Act).
    pub approval_before_merging: bool,
}

/// One proposal: a branch, a pull request, and its way back.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTerms {
    /// The action key: with an effect's word it names that effect everywhere.
    pub key: String,
    /// `amend/<key>`.
    pub branch: String,
    pub pre_image: PreImage,
}

impl Terms {
    /// The terms of a plan for this installation.
    ///
    /// All steps that change Git are **one** proposal, named by the first one's action key: a reviewer sees one pull request
    /// per plan, and the plan's expected fields hold for all of it.
    pub fn of(plan: &Plan, install: &str) -> Self {
        let name = plan.steps.first().map_or("", |step| step.name.as_str());
        let key = plan.action_key(install, name);
        let files = plan.steps.iter().flat_map(|step| &step.files);
        let blobs = files.map(|file| match &file.before {
            Some(blob) => Text::from(format!("{}@{blob}", file.path)),
            None => Text::from(format!("{}@absent", file.path)),
        });
        Self {
            plan_digest: plan.digest().to_string(),
            autonomy: plan.autonomy,
            steps: vec![StepTerms {
                branch: key.branch(),
                key: key.to_string(),
                pre_image: PreImage {
                    base_commit: plan.repository.base.clone(),
                    blobs: blobs.take(BLOBS_NAMED).collect(),
                },
            }],
            limits: plan.limits.clone(),
            rollback_on: plan.rollback.on.clone(),
            escalate: plan.escalate.clone(),
            approval_before_proposing: false,
            approval_before_merging: false,
        }
    }
}

/// One moment of one remediation.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub now: Timestamp,
    /// Who decides: the replica's name, for the journal.
    pub replica: String,
    /// The leadership epoch that this replica raised when it took the lead.
    pub epoch: u64,
    pub terms: Terms,
    /// As read with the resourceVersion that the append will be written on.
    pub journal: Journal,
    /// How many leading entries have a durable record.
    pub durable: u32,
    /// All gates, evaluated on facts of now.
    pub verdicts: Vec<Verdict>,
    /// What follows from the verdicts; of the live `evaluate_all`, never of a stored one.
    pub readiness: Readiness,
    /// Accepted `Approval` objects that name this remediation and this plan's digest, oldest first.
    pub approvals: Answer<Vec<Said>>,
    pub orders: Orders,
    /// The forge, about the step in focus ([`Standing::step_in_focus`](crate::phase::Standing::step_in_focus)).
    pub forge: Answer<ForgeSeen>,
    pub gitops: Answer<GitOpsSeen>,
    pub rollout: Answer<RolloutState>,
    /// One reading per `abortWhen` of the plan; empty before the merge.
    pub abort: Vec<AbortReading>,
    /// `Unknown` before the rollout is complete, and when the telemetry could not be asked at all.
    pub verification: Answer<Verification>,
    /// Whether the cause is still there, looked at now.
    pub cause: Answer<CauseState>,
    /// How long the cause must be absent before a proposal is withdrawn; usually `phase::incident::ABSENT_FOR`.
    pub absent_for: SignedDuration,
    /// What the effects of the last decision came to, as long as this process lives.
    pub reports: Vec<Report>,
}

/// What people and the platform say about acting at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Orders {
    /// Whether people deleted the incident that this answers; another one of its name is another incident.
    pub incident_deleted: bool,
    pub policy: Answer<PolicyState>,
    pub target: Answer<TargetState>,
    /// Whether the branch's history was rewritten since the plan was made: a merge would bring the old one back.
    pub rewritten: Answer<bool>,
    /// What people put at a planned place of the base branch meanwhile; `Known(None)`: all stand as the plan found them.
    ///
    /// `Unknown` withdraws nothing.
    pub edited: Answer<Option<Edited>>,
    /// The red button: the ConfigMap in the release namespace. `Unknown` stops as `true` does.
    pub kill_switch: Answer<bool>,
    /// Why people hold the target: the annotation on it or its namespace. `Unknown` holds.
    pub hold: Answer<Option<String>>,
    /// Why its alerts are not to be acted upon: a silence, an inhibition. `Unknown` holds what is done, never what is undone.
    pub silence: Answer<Option<String>>,
    /// How far the outside copy of the records lags behind.
    pub record_copy_lag: Answer<SignedDuration>,
    /// Whether the policy's account may still take the change back: permission, ownership and pre-image, nothing else.
    pub may_undo: Answer<bool>,
    /// Whether the policy's account has the right to merge in this repository. Where nobody asked it has not.
    pub may_merge: Answer<bool>,
}

/// A planned place of the base branch that has another value than the plan was made from.
///
/// The texts are other people's: they are cleaned where they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// Path of the file in the repository.
    pub file: String,
    /// What stands there, in words: `memory limit of app`.
    pub what: String,
    /// The value that the plan was made from; `None`: there was none.
    pub from: Option<String>,
    /// The value now; `None`: it is gone, or its object or file is.
    pub now: Option<String>,
    /// Whether every place of the plan has its planned value: somebody made the very change.
    pub as_planned: bool,
    /// The commit that did it; `None` when the history that is fetched does not show it.
    pub by: Option<EditedBy>,
}

/// The commit that put a value there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditedBy {
    /// Short id.
    pub commit: String,
    pub author: String,
    pub at: Timestamp,
}

/// The policy of the plan, read live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyState {
    /// Same UID, same generation.
    Current,
    /// Same, but `spec.suspend` is set: nothing new is done; an undo is proposed, never merged by us.
    Suspended,
    /// Another generation than the one planned with.
    Changed,
    Deleted,
}

/// The target of the plan, read live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// Same UID.
    Same,
    /// Same name, another UID.
    Replaced,
    Gone,
}

/// A word of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub word: SaidWord,
    /// Name of the `Approval`.
    pub approval: String,
    /// User name that admission put there.
    pub by: String,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaidWord {
    Approve,
    Refuse,
    Stop,
}

/// What the forge shows about one step.
#[derive(Clone, Debug, PartialEq)]
pub struct ForgeSeen {
    pub branch: BranchSeen,
    /// The pull request whose head is our branch, in any state; the forge allows only one.
    pub pull_request: Option<PullRequestSeen>,
    /// The pull request that takes the merged change back.
    pub revert: Option<PullRequestSeen>,
    /// Whether the step's proposal could be made now; asked before the push, for afterwards the forge shows what is there.
    pub room: Room,
}

/// Whether a forge takes one more proposal, before anything of it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    Free,
    /// Not now: the cap of the day, people who said no, the same proposal open elsewhere. A sentence that says until when.
    None {
        why: String,
    },
}

/// Our branch at the forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BranchSeen {
    Absent,
    /// Exactly the commit that this plan makes.
    Ours {
        commit: String,
    },
    /// Something else: a person pushed to it, or the name was taken.
    Foreign {
        commit: String,
    },
}

/// A pull request at the forge.
#[derive(Clone, Debug, PartialEq)]
pub struct PullRequestSeen {
    pub number: u64,
    pub url: String,
    pub state: PullRequestState,
    pub draft: bool,
    pub head: String,
    /// Whether the forge would let us merge now.
    pub merge: MergeState,
    /// Digest of the verdicts that the commit statuses at the head show; `None`: none of ours are there.
    pub statuses: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullRequestState {
    Open,
    /// `commit` is on the base branch: the merge commit, or the squashed or rebased equivalent.
    Merged {
        commit: String,
        /// Who merged; `None` when it was our own account, or the forge does not say.
        by: Option<String>,
    },
    Closed {
        by: Option<String>,
    },
}

/// What the branch's protection says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeState {
    Ready,
    /// Checks are running, mergeability is being computed.
    Waiting {
        why: String,
    },
    /// Reviews are required, or a conflict must be solved: Amend never bypasses that.
    NeedsPeople {
        why: String,
    },
}

/// What the GitOps controller and the live object show about the step in focus.
#[derive(Clone, Debug, PartialEq)]
pub struct GitOpsSeen {
    /// The revision that the controller says it applied last.
    pub applied_revision: String,
    /// Whether that revision contains the merge commit or its squashed equivalent.
    pub contains_merge: Answer<bool>,
    /// Whether every expected field of the live target has its planned value.
    pub live_is_planned: Answer<bool>,
    /// Whether that revision contains the merged revert.
    pub contains_revert: Answer<bool>,
    /// Whether every expected field of the live target is back at its value from before.
    pub live_is_back: Answer<bool>,
    /// Commits by others that touched the target or its dependencies since the merge.
    pub foreign_commits: Answer<Vec<String>>,
    /// What the controller itself says when it is not well: untrusted text.
    pub message: Option<String>,
}

/// The workload's rollout of the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutState {
    /// Every pod runs the new template and is available, and the controller has seen this generation.
    pub complete: bool,
    /// Why it does not get on (progress deadline exceeded, no room), if it does not.
    pub stuck: Option<String>,
    pub updated: u32,
    pub available: u32,
    pub desired: u32,
}

/// What became of an effect that this process performed after the last decision.
///
/// Reports save waiting for a forge whose lists lag. Losing them (a crash) loses nothing: the world is observed instead.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    Effect { key: String, effect: EffectKind, result: Reported },
    Paged { key: String, to: String },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reported {
    Done(Done),
    /// It did not happen and may be tried again after a while.
    Later {
        why: String,
        after: SignedDuration,
    },
    /// It did not happen, and cannot before something outside changes: a cap, a token, another proposal.
    ///
    /// Nothing is in doubt, so this may last as long as it takes.
    Waits {
        why: String,
        after: SignedDuration,
    },
    /// It did not happen and will not: protected, invalid.
    Never {
        why: String,
    },
    /// The effect's precondition met something that we cannot explain.
    CannotTell {
        why: String,
    },
}

/// What an effect left in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    Pushed { commit: String },
    Opened { number: u64, url: String, draft: bool, adopted: bool },
    Ready,
    Merged { commit: String, by: Option<String> },
    Closed,
    BranchDeleted,
    RevertOpened { number: u64, url: String, draft: bool },
    RevertMerged { commit: String },
}

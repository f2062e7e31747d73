//! What an entry can say.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Text;

/// One thing that happened to a remediation.
///
/// `step` counts from 0 in the plan's order. Every variant is an object, so that the Kubernetes schema stays structural.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// The plan that is to be carried out; always entry 0.
    Planned { plan_digest: String, steps: u32 },
    /// All gates ran. `cleared` means that every one passed.
    GatesEvaluated { gates: Vec<GateLine>, cleared: bool },
    /// At least one gate, or the forge, stands in the way and nothing may be proposed.
    Blocked { gates: Vec<Text> },
    /// People are asked before the change is proposed or merged.
    ApprovalAsked { question: Text },
    /// An `Approval` for this plan's digest said yes; the actor is who said it.
    ApprovalGiven { approval: Text },
    /// An `Approval` for this plan's digest said no; the actor is who said it.
    ApprovalRefused { approval: Text },
    /// An `Approval` of this remediation said stop; the actor is who said it.
    Stopped { approval: Text },
    /// About to act. Nothing is done without this entry, its compare-and-swap and its durable record.
    Intent {
        step: u32,
        effect: EffectKind,
        /// `ActionKey` of the step: with `effect` it names the effect, in the world and here.
        key: String,
        /// Leadership epoch of the writer: a later leader's intent outranks it.
        epoch: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pre_image: Option<PreImage>,
    },
    /// What became of the open intent.
    Outcome { step: u32, effect: EffectKind, outcome: Outcome },
    /// Our branch is at the forge with exactly our commit.
    BranchPushed { step: u32, branch: Text, commit: String },
    /// Our pull request is open. `adopted`: it was there already.
    PullRequestOpened { step: u32, url: Text, number: u64, draft: bool, adopted: bool },
    /// The pull request changed hands or state: no draft any more, a new head.
    PullRequestUpdated { step: u32, draft: bool, head: String },
    /// The change is on the base branch; the actor is who merged. `commit` is the merge, or its squashed equivalent.
    Merged { step: u32, commit: String },
    /// People closed the pull request without merging it; the actor is who did.
    ClosedByPeople { step: u32 },
    /// GitOps applied a revision that contains the merge, and the live field has the planned value.
    Applied { step: u32, revision: String },
    /// The workload's rollout after the change. `complete`: every pod runs the new template and is available.
    RolloutSeen { step: u32, complete: bool, updated: u32, available: u32, desired: u32 },
    /// Harm was measured after the merge.
    AbortSignal { step: u32, metric: Text, before: f64, during: f64 },
    /// Golden metrics were compared with the time before the incident.
    ///
    /// `late`: given after the ending `Unverified`, when data was back; it changes no phase.
    Verified { verdict: Word, late: bool, metrics: Vec<MetricLine> },
    /// Unwinding starts, at `step` itself: a step that failed may still have acted.
    UndoBegan { step: u32, cause: UndoCause },
    /// A pull request that takes the change back is open; `draft`: prepared for a person who decides.
    RevertOpened { step: u32, url: Text, number: u64, draft: bool },
    /// The revert is on the base branch.
    RevertMerged { step: u32, commit: String },
    /// Nothing of the step is left: closed before it was merged, or reverted, applied and seen live.
    Undone { step: u32 },
    /// The end. Only a page, a note, a prepared revert (where `prepare_revert`) and a late verdict may follow.
    Ended { ending: Ending, prepare_revert: bool },
    /// People were told about something, once: `undo`, `ended`, `escalation-0`; `to` names the receivers.
    Paged { about: Text, to: Text },
    /// Something worth keeping that changes nothing.
    Note { text: Text },
}

/// The deeds that an execution can do in the world, one intent each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EffectKind {
    /// Create `amend/<key>` with our commit; refused by the remote when the branch exists.
    PushBranch,
    /// Find, adopt or open the one pull request of our branch.
    OpenPullRequest,
    /// Take the draft mark away.
    MarkReady,
    /// Merge at exactly the reviewed head.
    MergePullRequest,
    /// Close the pull request with a comment that says why.
    ClosePullRequest,
    /// Delete our branch, if it still has exactly our commit.
    DeleteBranch,
    /// Find, adopt or open the one pull request that takes the merged change back.
    OpenRevert,
    /// Merge the revert at exactly its head.
    MergeRevert,
}

impl EffectKind {
    /// Whether the deed takes something back: such deeds never wait for gates, budgets or freezes.
    pub fn undoes(self) -> bool {
        match self {
            Self::PushBranch | Self::OpenPullRequest | Self::MarkReady | Self::MergePullRequest => false,
            Self::ClosePullRequest | Self::DeleteBranch | Self::OpenRevert | Self::MergeRevert => true,
        }
    }

    /// Stable word for keys: `<action key>/<word>` names one effect.
    pub fn word(self) -> &'static str {
        match self {
            Self::PushBranch => "push",
            Self::OpenPullRequest => "open",
            Self::MarkReady => "ready",
            Self::MergePullRequest => "merge",
            Self::ClosePullRequest => "close",
            Self::DeleteBranch => "delete-branch",
            Self::OpenRevert => "open-revert",
            Self::MergeRevert => "merge-revert",
        }
    }
}

/// What became of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    Happened,
    /// Proven: there is no trace of it and there will be none.
    DidNot,
    /// Neither can be shown. Never retried; a person decides.
    CannotTell,
}

/// What was there before the deed: enough to find it again, never the contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreImage {
    /// Head of the base branch that the change was made on.
    pub base_commit: String,
    /// `path@blob` of the files before the change, as many as fit; the plan has them all.
    pub blobs: Vec<Text>,
}

/// One gate's verdict, shortened for the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateLine {
    pub gate: Text,
    pub verdict: Word,
    pub sentence: Text,
}

/// One metric's verdict, shortened for the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricLine {
    pub metric: Text,
    pub verdict: Word,
    /// With samples, medians and effect size.
    pub sentence: Text,
}

impl MetricLine {
    /// The sentence without the metric's name in front, for places that show the name beside it.
    pub fn finding(&self) -> &str {
        finding(self.metric.as_str(), self.sentence.as_str())
    }
}

/// A sentence without the metric's name in front.
pub(crate) fn finding<'a>(metric: &str, sentence: &'a str) -> &'a str {
    sentence.strip_prefix(metric).map_or(sentence, |rest| rest.strip_prefix(':').unwrap_or(rest).trim_start())
}

/// Lines with the names of their metrics; what is the same for several of them is one line: a store that does not answer
/// leaves all of them open.
pub fn alike(lines: &[MetricLine]) -> Vec<(String, &MetricLine)> {
    let mut told: Vec<(String, &MetricLine)> = Vec::new();
    for line in lines {
        let same =
            |other: &&mut (String, &MetricLine)| (other.1.verdict, other.1.finding()) == (line.verdict, line.finding());
        match told.iter_mut().find(same) {
            Some((names, _)) => {
                names.push_str(", ");
                names.push_str(line.metric.as_str());
            }
            None => told.push((line.metric.to_string(), line)),
        }
    }
    told
}

/// The closed answer of every judgement. Unknown never counts as yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Word {
    Pass,
    Fail,
    Unknown,
}

/// Why a change is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum UndoCause {
    /// An effect failed for good.
    StepFailed,
    /// The cause of the incident has been absent long enough.
    NotNeeded,
    /// People made the very change on the base branch themselves.
    CuredByPeople,
    /// Nobody merged it within its time.
    Expired,
    /// The policy, the target or the value to change is not the one that was planned for.
    Outdated,
    /// An approval was refused, or people closed a pull request.
    Refused,
    /// A person said stop.
    Stopped,
    /// Measured harm after the merge.
    Aborted,
    /// Golden metrics are not back where they were before the incident.
    VerificationFailed,
    /// A clock ran out, and the policy lists that among its reasons to roll back.
    SlaExceeded,
    /// No data to judge by, and the policy lists that among its reasons to roll back.
    Unverified,
}

impl UndoCause {
    /// The ending, once nothing of the plan is left in the world. `was_merged`: something of it ever acted.
    pub fn ending(self, was_merged: bool) -> Ending {
        match self {
            // There is nothing to roll back in what never acted, and nothing to hold against the change.
            Self::StepFailed if !was_merged => Ending::Withdrawn,
            Self::NotNeeded | Self::CuredByPeople | Self::Expired | Self::Outdated | Self::Stopped => Ending::Withdrawn,
            Self::Refused => Ending::Rejected,
            Self::StepFailed | Self::Aborted | Self::VerificationFailed | Self::SlaExceeded | Self::Unverified => {
                Ending::RolledBack
            }
        }
    }

    /// Whether a merge by people while we take an open pull request back outranks our reason.
    ///
    /// We only tidied up; people want the change. A refusal, a stop or measured harm is not outranked.
    pub fn yields_to_a_merge(self) -> bool {
        match self {
            Self::NotNeeded | Self::CuredByPeople | Self::Expired | Self::Outdated | Self::StepFailed => true,
            Self::Refused
            | Self::Stopped
            | Self::Aborted
            | Self::VerificationFailed
            | Self::SlaExceeded
            | Self::Unverified => false,
        }
    }
}

/// How a remediation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Ending {
    /// Merged, applied, rolled out, and the golden metrics are back.
    Succeeded,
    /// People said no; the fingerprint is muted for a while.
    Rejected,
    /// Not needed any more, or expired; nothing of it is left.
    Withdrawn,
    /// Taken back, and seen to be back.
    RolledBack,
    /// In place, but there was no data to judge by. A late verdict may follow.
    Unverified,
    /// In doubt: a person decides. Nothing more is done.
    Held,
    /// An undo failed past its limit, or the journal overflowed.
    Stuck,
}

impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Planned { steps: 1, .. } => out.write_str("planned in one step"),
            Self::Planned { steps, .. } => write!(out, "planned in {steps} steps"),
            Self::GatesEvaluated { gates, cleared } => {
                // One gate gives a line for each question that it asks: `permission.patch`, `permission.grants`.
                let asked: BTreeSet<&str> =
                    gates.iter().filter_map(|line| line.gate.as_str().split('.').next()).collect();
                write!(out, "{} gates evaluated, {}", asked.len(), if *cleared { "cleared" } else { "not cleared" })
            }
            Self::Blocked { gates } => {
                write!(out, "blocked by {}", gates.iter().map(Text::as_str).collect::<Vec<_>>().join(", "))
            }
            Self::ApprovalAsked { question } => write!(out, "approval asked: {question}"),
            Self::ApprovalGiven { approval } => write!(out, "approved by {approval}"),
            Self::ApprovalRefused { approval } => write!(out, "refused by {approval}"),
            Self::Stopped { approval } => write!(out, "stopped by {approval}"),
            Self::Intent { effect, epoch, .. } => write!(out, "about to {} (epoch {epoch})", effect.word()),
            Self::Outcome { effect, outcome, .. } => write!(
                out,
                "{}: {}",
                effect.word(),
                match outcome {
                    Outcome::Happened => "happened",
                    Outcome::DidNot => "did not happen",
                    Outcome::CannotTell => "cannot tell",
                }
            ),
            Self::BranchPushed { branch, commit, .. } => write!(out, "branch {branch} has commit {commit}"),
            Self::PullRequestOpened { number, draft, adopted, .. } => write!(
                out,
                "{}pull request {number} {}",
                if *draft { "draft " } else { "" },
                if *adopted { "adopted" } else { "opened" }
            ),
            Self::PullRequestUpdated { draft, .. } => {
                write!(out, "pull request is {}", if *draft { "a draft" } else { "ready" })
            }
            Self::Merged { commit, .. } => write!(out, "merged as {commit}"),
            Self::ClosedByPeople { .. } => write!(out, "closed by people"),
            Self::Applied { revision, .. } => write!(out, "applied with revision {revision}"),
            Self::RolloutSeen { complete, updated, available, desired, .. } => write!(
                out,
                "rollout {}: {updated} updated and {available} available of {desired}",
                if *complete { "complete" } else { "seen" }
            ),
            Self::AbortSignal { metric, before, during, .. } => {
                write!(out, "abort signal {metric}: {before} before, {during} now")
            }
            Self::Verified { verdict, late, .. } => {
                write!(out, "verified{}: {verdict:?}", if *late { " late" } else { "" })
            }
            Self::UndoBegan { cause, .. } => write!(out, "undo begins: {cause:?}"),
            Self::RevertOpened { number, draft, .. } => {
                write!(out, "{}revert {number} opened", if *draft { "draft " } else { "" })
            }
            Self::RevertMerged { commit, .. } => write!(out, "revert merged as {commit}"),
            Self::Undone { step } => write!(out, "step {step} is undone"),
            Self::Ended { ending, .. } => write!(out, "ended: {ending:?}"),
            Self::Paged { about, to } => write!(out, "paged by {to} about {about}"),
            Self::Note { text } => write!(out, "note: {text}"),
        }
    }
}

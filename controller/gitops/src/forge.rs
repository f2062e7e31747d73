//! What Amend asks of a forge: find, open, update, observe, merge or close one pull request.
//!
//! A forge is one file below `forge/` and passes the suite in `forge/contract.rs`. No method retries a write: after
//! an error that is `in_doubt`, look (with `find` or `observe`) before acting again.

#[cfg(feature = "contract")]
pub mod contract;
mod gitea;
mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;

pub use gitea::Gitea;

use crate::egress::EgressError;
use crate::repo::CommitId;

/// What a call to a forge gives, later.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, ForgeError>>;

/// The branch names that belong to Amend.
pub const BRANCHES: &str = "amend/";

/// One repository on a forge, seen with Amend's own account.
pub trait Forge: Send + Sync + fmt::Debug {
    /// Host, owner and repository, for people.
    fn name(&self) -> &str;

    /// Amend's own pull requests (branch `amend/…` of this very repository): all open ones, and those closed or
    /// merged since `since`, newest first.
    fn find(&self, since: Timestamp) -> Reply<'_, Vec<PullRequest>>;

    /// Opens a pull request. A second one for the same branch is refused by the forge: `Conflict`.
    fn open(&self, new: NewPullRequest) -> Reply<'_, PullRequest>;

    /// Changes what the edit names and leaves the rest; the same edit again changes nothing.
    fn update(&self, number: u64, edit: PullRequestEdit) -> Reply<'_, PullRequest>;

    /// One pull request with its reviews.
    fn observe(&self, number: u64) -> Reply<'_, Observation>;

    /// Merges at exactly this head commit; `Conflict` when the head is another by now.
    ///
    /// Uses the repository's default way of merging and never bypasses its rules: `NotMergeable` says why not.
    fn merge(&self, number: u64, head: CommitId, message: String) -> Reply<'_, ()>;

    /// Closes without merging.
    fn close(&self, number: u64) -> Reply<'_, PullRequest>;

    /// Writes the one comment with this id, or changes it: repeated calls leave one comment.
    fn comment(&self, number: u64, id: String, text: String) -> Reply<'_, ()>;

    /// Reports a verdict on a commit; the same verdict again is not sent twice.
    fn report(&self, commit: CommitId, status: CommitStatus) -> Reply<'_, ()>;

    /// The latest verdict of each context on a commit, ours and others'.
    fn reported(&self, commit: CommitId) -> Reply<'_, BTreeMap<String, CommitStatus>>;

    /// What has to happen before anything may be merged into a branch.
    fn rules(&self, branch: String) -> Reply<'_, BranchRules>;

    /// Whether the account may open pull requests, as far as the forge tells without anything being written; `Forbidden` and
    /// `Refused` say why not.
    fn may_propose(&self) -> Reply<'_, ()>;

    /// The log of one CI job, bounded like every answer.
    fn job_log(&self, job: String) -> Reply<'_, String>;

    /// CI runs that failed lately, newest first: what the poller compares with the webhooks that arrived.
    fn failed_runs(&self) -> Reply<'_, Vec<FailedRun>>;
}

/// A CI run that failed, as the forge lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRun {
    pub run_id: String,
    pub attempt: u32,
    pub commit: String,
    pub branch: String,
    pub workflow: String,
    /// The first job that failed: its name, and its id for `job_log`.
    pub job: Option<(String, String)>,
    pub url: String,
    pub finished: Option<Timestamp>,
}

/// A pull request as the forge shows it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequest {
    pub number: u64,
    /// Where people read it.
    pub url: String,
    /// Without the forge's draft prefix.
    pub title: String,
    pub body: String,
    pub draft: bool,
    pub state: PullRequestState,
    /// Branch that it wants merged; still told after the branch was deleted.
    pub branch: String,
    pub base: String,
    pub head: CommitId,
    pub labels: BTreeSet<String>,
    pub author: String,
    pub created: Timestamp,
    pub updated: Timestamp,
}

/// Where a pull request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullRequestState {
    Open,
    /// Closed without merging: people said no, or Amend withdrew it.
    Closed {
        at: Option<Timestamp>,
    },
    /// `commit` is what the base branch got: a merge commit, or the squashed one.
    Merged {
        commit: Option<CommitId>,
        by: Option<String>,
        at: Option<Timestamp>,
    },
}

/// A pull request to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPullRequest {
    pub title: String,
    pub body: String,
    pub branch: String,
    pub base: String,
    pub draft: bool,
    pub labels: BTreeSet<String>,
}

/// What to change about a pull request; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullRequestEdit {
    pub title: Option<String>,
    pub body: Option<String>,
    pub draft: Option<bool>,
    /// The labels that begin with `amend`, exactly; people's own labels are not touched.
    pub labels: Option<BTreeSet<String>>,
}

/// A pull request and what reviewers said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub pull_request: PullRequest,
    /// Whether the forge would merge it now without conflicts; some forges need a moment to know.
    pub mergeable: bool,
    pub reviews: Vec<Review>,
}

/// One reviewer's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Review {
    pub by: String,
    pub verdict: ReviewVerdict,
    /// The commit that was looked at.
    pub commit: Option<CommitId>,
    pub at: Option<Timestamp>,
}

/// What a review says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviewVerdict {
    Approved,
    ChangesRequested,
    /// A comment, a pending review, or one that was dismissed.
    Neutral,
}

impl Observation {
    /// Who approves exactly what would be merged, each by the last of their reviews that took a side.
    ///
    /// An approval of an earlier commit counts for nothing: what it approved is not what is there now.
    pub fn approvals(&self) -> BTreeSet<&str> {
        self.latest(ReviewVerdict::Approved, true)
    }

    /// Who asks for changes, whatever commit they looked at.
    pub fn objections(&self) -> BTreeSet<&str> {
        self.latest(ReviewVerdict::ChangesRequested, false)
    }

    fn latest(&self, wanted: ReviewVerdict, at_head: bool) -> BTreeSet<&str> {
        let mut last: BTreeMap<&str, &Review> = BTreeMap::new();
        for review in self.reviews.iter().filter(|review| review.verdict != ReviewVerdict::Neutral) {
            last.insert(&review.by, review);
        }
        let head = Some(&self.pull_request.head);
        last.into_iter()
            .filter(|(_, review)| review.verdict == wanted && (!at_head || review.commit.as_ref() == head))
            .map(|(by, _)| by)
            .collect()
    }
}

/// A verdict shown beside a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitStatus {
    /// `amend/<gate>`.
    pub context: String,
    pub verdict: StatusVerdict,
    /// At most 140 characters; longer ones are cut.
    pub description: String,
    pub url: Option<String>,
}

/// The colour of a commit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusVerdict {
    Pending,
    Success,
    Failure,
    Error,
}

/// What a branch asks for before anything is merged into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BranchRules {
    pub protected: bool,
    pub required_approvals: u32,
    pub required_contexts: BTreeSet<String>,
    /// Whether Amend's account may merge into it at all.
    pub may_merge: bool,
}

/// Why a forge did not do what it was asked, or is not known to have done it.
#[derive(Debug, thiserror::Error)]
pub enum ForgeError {
    #[error("may not connect to {forge}")]
    Egress {
        forge: String,
        #[source]
        source: EgressError,
    },
    #[error("the address of {forge} cannot be used: {why}")]
    BadAddress { forge: String, why: String },
    #[error("cannot reach {forge}")]
    Unreachable {
        forge: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{forge} did not answer within {} s", .after.as_secs())]
    TimedOut { forge: String, after: Duration },
    #[error("{forge} refuses the token (revoked or expired)")]
    Unauthorized { forge: String },
    #[error("the token for {forge} lacks the right to {doing}")]
    Forbidden { forge: String, doing: String },
    #[error("{forge} does not have what is needed to {doing}, or the token may not see it")]
    NotFound { forge: String, doing: String },
    #[error("{forge} cannot {doing}: {why}")]
    Conflict { forge: String, doing: String, why: String },
    #[error("{forge} will not merge yet: {why}")]
    NotMergeable { forge: String, why: String },
    #[error("{forge} asks to slow down")]
    RateLimited { forge: String, after: Option<Duration> },
    #[error("{forge} answered with status {status}")]
    Unavailable { forge: String, status: u16 },
    #[error("{forge} refuses to {doing}: {why}")]
    Refused { forge: String, doing: String, why: String },
    #[error("the answer of {forge} is larger than {limit} bytes")]
    TooLarge { forge: String, limit: u64 },
    #[error("{forge} answered in an unexpected shape when asked to {doing}")]
    Malformed {
        forge: String,
        doing: String,
        #[source]
        source: serde_json::Error,
    },
}

impl ForgeError {
    /// How long to wait before the same call may be worth repeating; `None` when it is not.
    pub fn retry(&self) -> Option<Duration> {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Unavailable { .. } => Some(Duration::from_secs(5)),
            Self::RateLimited { after, .. } => Some(after.unwrap_or(Duration::from_secs(60))),
            Self::NotMergeable { .. } => Some(Duration::from_secs(10)),
            Self::Egress { .. }
            | Self::BadAddress { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. } => None,
        }
    }

    /// Whether it did not happen because of a token, a right or a setting that people can change.
    pub fn people_can_mend(&self) -> bool {
        match self {
            Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Egress { .. }
            | Self::BadAddress { .. } => true,
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Unavailable { .. }
            | Self::RateLimited { .. }
            | Self::NotMergeable { .. }
            | Self::Conflict { .. }
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. } => false,
        }
    }

    /// Whether a write that ended so may have happened all the same.
    pub fn in_doubt(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Unavailable { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. } => true,
            Self::Egress { .. }
            | Self::BadAddress { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::NotMergeable { .. }
            | Self::RateLimited { .. }
            | Self::Refused { .. } => false,
        }
    }
}

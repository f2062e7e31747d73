//! The one pull request for a proposal: found, adopted or opened; kept up to date; merged, withdrawn or left alone.
//!
//! The forge is the memory: whatever was forgotten in a crash is found again by the marker in the body.

use std::collections::BTreeSet;
use std::sync::Arc;

use amend_policies::plan::{ActionKey, Fingerprint, PlanDigest};
use jiff::{SignedDuration, Timestamp};

use crate::body::{GateRow, GateVerdict, Marker, ProposalFacts};
use crate::error::GitError;
use crate::forge::{
    BRANCHES, CommitStatus, Forge, ForgeError, NewPullRequest, Observation, PullRequest, PullRequestEdit,
    PullRequestState, StatusVerdict,
};
use crate::repo::{CommitId, Repo};
use crate::untrusted;

/// How long a rejected proposal is not made again (design: fingerprint).
pub const MUTED: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What is proposed, by the three names that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub key: ActionKey,
    pub fingerprint: Fingerprint,
    pub plan: PlanDigest,
}

/// How many new pull requests a repository gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// New ones in 24 hours.
    pub per_day: u32,
    /// Severity critical, and every undo: never held back.
    pub exempt: bool,
}

/// One proposal as it should stand on the forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub identity: Identity,
    /// The change, made by `Repo::commit`.
    pub commit: CommitId,
    pub facts: ProposalFacts,
    /// Until every gate is passed.
    pub draft: bool,
    /// Beside `amend`; those that do not begin with it are left out.
    pub labels: BTreeSet<String>,
    pub cap: Cap,
}

/// Where a proposal stands on the forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody was asked yet, and asking is allowed.
    New,
    /// This execution's pull request, or the open one of the same proposal by an earlier execution.
    Open(PullRequest),
    Merged(PullRequest),
    /// This execution's pull request was closed by people.
    Rejected(PullRequest),
    /// This execution's pull request was closed by Amend.
    Withdrawn(PullRequest),
    /// The same proposal was closed unmerged by people not long ago.
    Muted {
        pull_request: PullRequest,
        until: Timestamp,
    },
    /// The repository has had its new pull requests of the day.
    Capped {
        until: Timestamp,
        sentence: String,
    },
}

/// What `open` came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// A pull request of this proposal is there. `adopted`: it was there already, and now says what the facts say.
    There { pull: PullRequest, adopted: bool },
    /// The proposal stands elsewhere, and nothing was written.
    Not(Standing),
}

/// Why a proposal could not be made or judged.
#[derive(Debug, thiserror::Error)]
pub enum ProposalError {
    #[error(transparent)]
    Forge(#[from] ForgeError),
    #[error(transparent)]
    Git(#[from] GitError),
    #[error("pull request {number} has commits that are not Amend's: {}", .commits.join(", "))]
    Foreign { number: u64, commits: Vec<String> },
    #[error("pull request {number} is at {found} and not at {reviewed}, which was reviewed")]
    HeadMoved { number: u64, reviewed: CommitId, found: CommitId },
}

impl ProposalError {
    /// Whether trying again later, unchanged, may succeed.
    pub fn retry(&self) -> bool {
        match self {
            Self::Forge(error) => error.retry().is_some(),
            Self::Git(error) => error.retry(),
            Self::Foreign { .. } | Self::HeadMoved { .. } => false,
        }
    }

    /// Whether it did not happen because of a token, a right or a rule that people can change outside.
    pub fn people_can_mend(&self) -> bool {
        match self {
            Self::Forge(error) => error.people_can_mend(),
            Self::Git(error) => error.people_can_mend(),
            Self::Foreign { .. } | Self::HeadMoved { .. } => false,
        }
    }

    /// Whether a write that ended so may have happened all the same: look with `standing` before anything else.
    pub fn in_doubt(&self) -> bool {
        match self {
            Self::Forge(error) => error.in_doubt(),
            // Pushes and deletions name what they expect to find; repeating them is harmless.
            Self::Git(_) | Self::Foreign { .. } | Self::HeadMoved { .. } => false,
        }
    }
}

/// All proposals to one repository.
#[derive(Clone, Debug)]
pub struct Proposals {
    forge: Arc<dyn Forge>,
    repo: Repo,
}

impl Proposals {
    pub fn new(forge: Arc<dyn Forge>, repo: Repo) -> Self {
        Self { forge, repo }
    }

    pub fn forge(&self) -> &Arc<dyn Forge> {
        &self.forge
    }

    pub fn repo(&self) -> &Repo {
        &self.repo
    }

    /// Where a proposal stands now, by asking the forge. Reads only.
    pub async fn standing(&self, id: &Identity, cap: Cap, now: Timestamp) -> Result<Standing, ProposalError> {
        let since = now.checked_sub(MUTED).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(standing_among(&self.forge.find(since).await?, id, cap, now))
    }

    /// The same among pull requests that were just found, of the last [`MUTED`].
    pub fn standing_among(&self, pulls: &[PullRequest], id: &Identity, cap: Cap, now: Timestamp) -> Standing {
        standing_among(pulls, id, cap, now)
    }

    /// How many of Amend's pull requests are open in this repository.
    pub async fn open_count(&self, now: Timestamp) -> Result<usize, ProposalError> {
        let all = self.forge.find(now).await?;
        Ok(all.iter().filter(|pull| pull.state == PullRequestState::Open).count())
    }

    /// Pushes the commit to the execution's own branch and opens its pull request, or finds both already there.
    ///
    /// Repeating it after a crash at any point leads to one branch and one pull request.
    pub async fn open(&self, proposal: &Proposal, now: Timestamp) -> Result<Opened, ProposalError> {
        let Proposal { identity, commit, facts, .. } = proposal;
        let standing = self.standing(identity, proposal.cap, now).await?;
        match standing {
            Standing::New => {}
            Standing::Open(pull) if pull.branch == identity.key.branch() => {
                let pull = self.refresh(&pull, proposal).await?;
                return Ok(Opened::There { pull, adopted: true });
            }
            Standing::Open(_)
            | Standing::Merged(_)
            | Standing::Rejected(_)
            | Standing::Withdrawn(_)
            | Standing::Muted { .. }
            | Standing::Capped { .. } => return Ok(Opened::Not(standing)),
        }
        let branch = identity.key.branch();
        self.repo.push_new(&branch, commit).await?;
        let new = NewPullRequest {
            title: facts.title(),
            body: facts.body(),
            branch: branch.clone(),
            base: self.repo.base_branch().to_owned(),
            draft: proposal.draft,
            labels: own_labels(&proposal.labels),
        };
        match self.forge.open(new).await {
            Ok(pull) => Ok(Opened::There { pull, adopted: false }),
            // The forge has one for this branch: an earlier attempt whose reply was lost, not yet listed when asked.
            Err(conflict @ ForgeError::Conflict { .. }) => {
                let pulls = self.forge.find(now).await?;
                let same = pulls.into_iter().find(|pull| pull.branch == branch && pull.state == PullRequestState::Open);
                match same {
                    Some(pull) => Ok(Opened::There { pull, adopted: true }),
                    None => Err(conflict.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Brings title, body, draft state and labels up to date. Refuses when the head is not the proposal's commit.
    pub async fn refresh(&self, pull: &PullRequest, proposal: &Proposal) -> Result<PullRequest, ProposalError> {
        if pull.head != proposal.commit {
            return Err(self.why_not_ours(pull, &proposal.commit).await?);
        }
        let edit = PullRequestEdit {
            title: Some(proposal.facts.title()),
            body: Some(proposal.facts.body()),
            draft: Some(proposal.draft),
            labels: Some(own_labels(&proposal.labels)),
        };
        Ok(self.forge.update(pull.number, edit).await?)
    }

    /// Puts a newer commit of the same proposal on an open pull request's branch.
    ///
    /// `commit` must build on the pull request's head, and every commit there must be Amend's own.
    pub async fn update_change(&self, pull: &PullRequest, commit: &CommitId) -> Result<(), ProposalError> {
        let foreign = self.foreign_commits(pull).await?;
        if !foreign.is_empty() {
            return Err(ProposalError::Foreign { number: pull.number, commits: foreign });
        }
        self.repo.push_on(&pull.branch, &pull.head, commit).await?;
        Ok(())
    }

    /// Short ids of the commits on a pull request's branch that are not Amend's.
    pub async fn foreign_commits(&self, pull: &PullRequest) -> Result<Vec<String>, ProposalError> {
        let base = self.repo.fetch().await?;
        let head = self.repo.fetch_branch(&pull.branch).await?;
        let mut foreign = Vec::new();
        for commit in self.repo.commits_between(&base, &head).await? {
            if !self.repo.is_own(&commit.id).await? {
                foreign.push(commit.id.short().to_owned());
            }
        }
        Ok(foreign)
    }

    /// Shows the gates' verdicts beside the commit, as statuses `amend/<gate>`.
    ///
    /// An unknown is pending, not failed: it waits for somebody to provide what is missing.
    pub async fn show_gates(
        &self,
        commit: &CommitId,
        gates: &[GateRow],
        url: Option<&str>,
    ) -> Result<(), ProposalError> {
        for gate in gates {
            let verdict = match gate.verdict {
                GateVerdict::Pass => StatusVerdict::Success,
                GateVerdict::Fail => StatusVerdict::Failure,
                GateVerdict::Unknown => StatusVerdict::Pending,
            };
            let status = CommitStatus {
                context: format!("{BRANCHES}{}", untrusted::word(&gate.name, 60)),
                verdict,
                description: gate.sentence.clone(),
                url: url.map(str::to_owned),
            };
            self.forge.report(commit.clone(), status).await?;
        }
        Ok(())
    }

    /// Whether a proposal could be made: the server takes pushes, and the forge lets the account open pull requests.
    ///
    /// Nothing is written. What only writing shows (a token without the scope for pull requests) is not known before.
    pub async fn may_propose(&self) -> Result<(), ProposalError> {
        self.repo.may_push().await?;
        Ok(self.forge.may_propose().await?)
    }

    /// The pull request and its reviews now.
    pub async fn observe(&self, number: u64) -> Result<Observation, ProposalError> {
        Ok(self.forge.observe(number).await?)
    }

    /// Writes or changes the one comment with this id; `text` is made harmless first.
    pub async fn comment(&self, number: u64, id: &str, text: &str) -> Result<(), ProposalError> {
        Ok(self.forge.comment(number, id.to_owned(), untrusted::prose(text, 2000)).await?)
    }

    /// Merges exactly the commit that was reviewed and returns the pull request as merged.
    ///
    /// A merge that happened already, by whomever, is fine when it merged that commit.
    pub async fn merge(&self, number: u64, reviewed: &CommitId) -> Result<PullRequest, ProposalError> {
        let before = self.forge.observe(number).await?.pull_request;
        if before.head != *reviewed {
            return Err(ProposalError::HeadMoved { number, reviewed: reviewed.clone(), found: before.head });
        }
        if !matches!(before.state, PullRequestState::Merged { .. }) {
            let message = format!("Merged by Amend at the reviewed commit {}.", reviewed.short());
            self.forge.merge(number, reviewed.clone(), message).await?;
        }
        Ok(self.forge.observe(number).await?.pull_request)
    }

    /// Closes a pull request that is not needed any more, says why, and removes its branch.
    ///
    /// Marked in the body before it is closed, so that nobody takes it for a rejection.
    pub async fn withdraw(&self, pull: &PullRequest, why: &str) -> Result<(), ProposalError> {
        if let Some(marker) = Marker::read(&pull.body).filter(|marker| !marker.withdrawn) {
            let body = Marker { withdrawn: true, ..marker }.replaced_in(&pull.body);
            self.forge.update(pull.number, PullRequestEdit { body: Some(body), ..Default::default() }).await?;
        }
        self.comment(pull.number, "withdrawn", why).await?;
        self.forge.close(pull.number).await?;
        self.remove_branch(pull).await
    }

    /// Removes the branch of a pull request that is closed or merged, unless somebody moved it.
    pub async fn remove_branch(&self, pull: &PullRequest) -> Result<(), ProposalError> {
        match self.repo.delete_branch(&pull.branch, &pull.head).await {
            // Somebody works there: it is theirs now.
            Ok(()) | Err(GitError::Moved { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn why_not_ours(&self, pull: &PullRequest, commit: &CommitId) -> Result<ProposalError, ProposalError> {
        let foreign = self.foreign_commits(pull).await?;
        Ok(if foreign.is_empty() {
            ProposalError::HeadMoved { number: pull.number, reviewed: commit.clone(), found: pull.head.clone() }
        } else {
            ProposalError::Foreign { number: pull.number, commits: foreign }
        })
    }
}

fn own_labels(labels: &BTreeSet<String>) -> BTreeSet<String> {
    let ours = labels.iter().filter(|label| label.starts_with("amend")).map(|label| untrusted::line(label, 50));
    ours.chain(["amend".to_owned()]).collect()
}

/// The standing of a proposal among all of Amend's pull requests of the last seven days.
fn standing_among(pulls: &[PullRequest], id: &Identity, cap: Cap, now: Timestamp) -> Standing {
    let marker = |pull: &PullRequest| Marker::read(&pull.body);
    let branch = id.key.branch();
    let withdrawn = |pull: &PullRequest| marker(pull).is_some_and(|marker| marker.withdrawn);
    let same = |pull: &&PullRequest| marker(pull).is_some_and(|marker| marker.fingerprint == id.fingerprint.as_str());

    // A later execution may have taken over the pull request of an earlier one: then its key is in the body only.
    let taken_over = |pull: &PullRequest| marker(pull).is_some_and(|marker| marker.key == id.key.as_str());
    if let Some(pull) = pulls.iter().find(|pull| pull.branch == branch || taken_over(pull)) {
        return match pull.state {
            PullRequestState::Open => Standing::Open(pull.clone()),
            PullRequestState::Merged { .. } => Standing::Merged(pull.clone()),
            PullRequestState::Closed { .. } if withdrawn(pull) => Standing::Withdrawn(pull.clone()),
            PullRequestState::Closed { .. } => Standing::Rejected(pull.clone()),
        };
    }
    if let Some(pull) = pulls.iter().filter(same).find(|pull| pull.state == PullRequestState::Open) {
        return Standing::Open(pull.clone());
    }
    for pull in pulls.iter().filter(same).filter(|pull| !withdrawn(pull)) {
        let PullRequestState::Closed { at } = pull.state else { continue };
        let until = at.unwrap_or(pull.updated).checked_add(MUTED).unwrap_or(Timestamp::MAX);
        if until > now {
            return Standing::Muted { pull_request: pull.clone(), until };
        }
    }
    capped(pulls, cap, now).unwrap_or(Standing::New)
}

/// Whether the repository has had its day's share of new pull requests.
///
/// What Amend itself withdrew asks nothing of a reviewer any more, and must not hold back what stands in its place (a rewritten base,
/// another cause found). A proposal that comes and goes all day is noise all the same: as many as the cap are forgiven.
fn capped(pulls: &[PullRequest], cap: Cap, now: Timestamp) -> Option<Standing> {
    if cap.exempt {
        return None;
    }
    let day = SignedDuration::from_hours(24);
    let is_withdrawn = |pull: &PullRequest| {
        matches!(pull.state, PullRequestState::Closed { .. })
            && Marker::read(&pull.body).is_some_and(|marker| marker.withdrawn)
    };
    let (withdrawn, kept): (Vec<&PullRequest>, Vec<&PullRequest>) = pulls.iter().partition(|pull| is_withdrawn(pull));
    let ends = |pulls: &[&PullRequest]| -> Vec<Timestamp> {
        pulls.iter().map(|pull| pull.created.checked_add(day).unwrap_or(Timestamp::MAX)).collect()
    };
    let (withdrawn, kept) = (ends(&withdrawn), ends(&kept));
    let most = cap.per_day as usize;
    let left_at = |at: Timestamp| {
        let count = |ends: &[Timestamp]| ends.iter().filter(|end| **end > at).count();
        (count(&kept), count(&withdrawn))
    };
    let fits_at = |at: Timestamp| {
        let (kept, withdrawn) = left_at(at);
        kept + withdrawn.saturating_sub(most) < most
    };
    if fits_at(now) {
        return None;
    }
    // One more fits when enough of those that fill the cap are a day old.
    let later = kept.iter().chain(&withdrawn).copied().filter(|end| *end > now && fits_at(*end));
    let until = later.min().unwrap_or(Timestamp::MAX);
    let (kept, withdrawn) = left_at(now);
    let and_withdrawn = match withdrawn {
        0 => String::new(),
        count => format!(" ({count} of them withdrawn)"),
    };
    let sentence = format!(
        "this repository had {} new pull requests{and_withdrawn} from Amend in the last 24 hours and its cap is {most}; the next is \
         possible at {until}",
        kept + withdrawn
    );
    Some(Standing::Capped { until, sentence })
}

//! What the forge shows of a remediation: its branch, its pull request, and the one that takes it back.

use std::sync::Arc;

use amend_crds::Remediation;
use amend_diagnosis::evidence::Answer;
use amend_execution::phase::{Standing, StepStanding};
use amend_execution::snapshot::{
    BranchSeen, ForgeSeen, MergeState, PullRequestSeen, PullRequestState, Room, StepTerms, Terms,
};
use amend_gitops::CommitId;
use amend_gitops::forge::{ForgeError, Observation, PullRequest, PullRequestState as ForgeState};
use amend_gitops::proposal::{MUTED, Standing as AtTheForge};
use amend_gitops::repo::Heads;
use amend_policies::policy::Autonomy;
use jiff::{SignedDuration, Timestamp};

use crate::effects::remedy::propose::{cap, commit_of, identity, pushed_at, why_not};
use crate::effects::remedy::{DIGEST_CONTEXT, Work};
use crate::errors;
use crate::targets::Target;

const NO_SUCH_STEP: &str = "the plan has no such step";

/// Where the base branch and the branch of the step in focus stand, from one listing of the server.
///
/// Taken before the forge is asked: a merge in between is then shown by the forge.
pub async fn heads(
    target: &Result<Arc<Target>, String>,
    base: &str,
    terms: &Terms,
    standing: &Standing,
) -> Answer<Heads> {
    let target = match target {
        Ok(target) => target,
        Err(why) => return Answer::unknown(why.clone()),
    };
    let Some(step) = in_focus(terms, standing) else { return Answer::unknown(NO_SUCH_STEP) };
    let base = match CommitId::parse(base) {
        Ok(base) => base,
        Err(error) => return Answer::unknown(errors::chain(&error)),
    };
    match target.repo().heads(&step.branch, &base).await {
        Ok(heads) => Answer::Known(heads),
        Err(error) => Answer::unknown(errors::chain(&error)),
    }
}

/// The forge, about the step in focus.
pub async fn forge(
    remediation: &Remediation,
    work: &Work,
    terms: &Terms,
    standing: &Standing,
    heads: &Answer<Heads>,
) -> Answer<ForgeSeen> {
    let (target, heads) = match (&work.target, heads) {
        (Ok(target), Answer::Known(heads)) => (target, heads),
        (Err(why), _) | (_, Answer::Unknown { why }) => return Answer::unknown(why.clone()),
    };
    let Some(step) = in_focus(terms, standing) else { return Answer::unknown(NO_SUCH_STEP) };
    let at = standing.step(standing.step_in_focus());
    match seen(remediation, work, target, &step.branch, at, heads.branch.clone()).await {
        Ok(seen) => Answer::Known(seen),
        Err(why) => Answer::Unknown { why },
    }
}

fn in_focus<'a>(terms: &'a Terms, standing: &Standing) -> Option<&'a StepTerms> {
    usize::try_from(standing.step_in_focus()).ok().and_then(|at| terms.steps.get(at))
}

async fn seen(
    remediation: &Remediation,
    work: &Work,
    target: &Target,
    branch: &str,
    at: Option<&StepStanding>,
    there: Option<CommitId>,
) -> Result<ForgeSeen, String> {
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
    let number = at.and_then(|at| at.pull_request.as_ref()).map(|pull| pull.number);
    // Nothing of it is there yet: the one list tells as well whether there is room for it.
    let (pull_request, room) = match at.is_some_and(|at| at.begun) {
        true => (found(target, number, branch, since).await?, Room::Free),
        false => {
            let pulls = listed(target, since.min(work.now.saturating_sub(MUTED).unwrap_or(since))).await?;
            let room = room(work, target, &pulls);
            (of_branch(pulls, branch), room)
        }
    };
    // Intent before effect: without one there is no revert of ours.
    let revert = match at.filter(|at| at.revert_authored_at.is_some()) {
        Some(at) => {
            let number = at.revert.as_ref().map(|pull| pull.number);
            found(target, number, &format!("{branch}-revert"), since).await?
        }
        None => None,
    };
    Ok(ForgeSeen {
        branch: branch_seen,
        pull_request: match pull_request {
            Some(found) => Some(shown(work, target, found).await?),
            None => None,
        },
        revert: match revert {
            Some(found) => Some(shown(work, target, found).await?),
            None => None,
        },
        room,
    })
}

/// Whether the proposal could be made now, as the forge remembers the others.
fn room(work: &Work, target: &Target, pulls: &[PullRequest]) -> Room {
    let standing = target.proposals.standing_among(pulls, &identity(work), cap(work, target), work.now);
    match standing {
        AtTheForge::New => Room::Free,
        AtTheForge::Open(_)
        | AtTheForge::Merged(_)
        | AtTheForge::Rejected(_)
        | AtTheForge::Withdrawn(_)
        | AtTheForge::Muted { .. }
        | AtTheForge::Capped { .. } => Room::None { why: why_not(&standing) },
    }
}

/// A pull request, with its reviews where they were read with it.
struct Found {
    pull: PullRequest,
    observed: Option<Observation>,
}

/// The pull request of a branch: by its number where the journal has one, which is one question however many there are.
async fn found(target: &Target, number: Option<u64>, branch: &str, since: Timestamp) -> Result<Option<Found>, String> {
    if let Some(number) = number {
        match target.forge().observe(number).await {
            Ok(observed) => return Ok(Some(Found { pull: observed.pull_request.clone(), observed: Some(observed) })),
            // Gone, or hidden: the list tells which.
            Err(ForgeError::NotFound { .. }) => {}
            Err(error) => return Err(errors::chain(&error)),
        }
    }
    Ok(of_branch(listed(target, since).await?, branch))
}

async fn listed(target: &Target, since: Timestamp) -> Result<Vec<PullRequest>, String> {
    target.forge().find(since).await.map_err(|error| errors::chain(&error))
}

fn of_branch(pulls: Vec<PullRequest>, branch: &str) -> Option<Found> {
    pulls.into_iter().find(|pull| pull.branch == branch).map(|pull| Found { pull, observed: None })
}

async fn shown(work: &Work, target: &Target, found: Found) -> Result<PullRequestSeen, String> {
    let pull = &found.pull;
    let said = |error: ForgeError| errors::chain(&error);
    let open = pull.state == ForgeState::Open;
    let statuses = if open {
        target.forge().reported(pull.head.clone()).await.map_err(said)?
    } else {
        std::collections::BTreeMap::new()
    };
    let merge = match (open, work.plan.autonomy) {
        (true, Autonomy::Act) => merge_state(target, &found).await?,
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

async fn merge_state(target: &Target, found: &Found) -> Result<MergeState, String> {
    let said = |error: ForgeError| errors::chain(&error);
    let pull = &found.pull;
    let rules = target.forge().rules(pull.base.clone()).await.map_err(said)?;
    let seen = match &found.observed {
        Some(observed) => observed.clone(),
        None => target.forge().observe(pull.number).await.map_err(said)?,
    };
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

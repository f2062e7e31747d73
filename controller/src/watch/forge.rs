//! What the forge shows of a remediation: its branch, its pull request, and the one that takes it back.

use amend_crds::Remediation;
use amend_diagnosis::evidence::Answer;
use amend_execution::phase::Standing;
use amend_execution::snapshot::{BranchSeen, ForgeSeen, MergeState, PullRequestSeen, PullRequestState, Terms};
use amend_gitops::forge::{PullRequest, PullRequestState as ForgeState};
use amend_policies::policy::Autonomy;
use jiff::{SignedDuration, Timestamp};

use crate::effects::remedy::propose::{commit_of, pushed_at};
use crate::effects::remedy::{DIGEST_CONTEXT, Work};
use crate::errors;
use crate::targets::Target;

/// The forge, about the step in focus.
pub async fn forge(remediation: &Remediation, work: &Work, terms: &Terms, standing: &Standing) -> Answer<ForgeSeen> {
    let target = match &work.target {
        Ok(target) => target,
        Err(why) => return Answer::unknown(why.clone()),
    };
    let Some(step) = usize::try_from(standing.step_in_focus()).ok().and_then(|at| terms.steps.get(at)) else {
        return Answer::unknown("the plan has no such step");
    };
    match seen(remediation, work, target, &step.branch).await {
        Ok(seen) => Answer::Known(seen),
        Err(why) => Answer::Unknown { why },
    }
}

async fn seen(remediation: &Remediation, work: &Work, target: &Target, branch: &str) -> Result<ForgeSeen, String> {
    let said = |error: amend_gitops::error::GitError| errors::chain(&error);
    let there = target.repo().branch_head(branch).await.map_err(said)?;
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
    let pulls = target.forge().find(since).await.map_err(|error| errors::chain(&error))?;
    let of = |wanted: &str| pulls.iter().find(|pull| pull.branch == wanted);
    let pull_request = match of(branch) {
        Some(pull) => Some(shown(work, target, pull).await?),
        None => None,
    };
    let revert = match of(&format!("{branch}-revert")) {
        Some(pull) => Some(shown(work, target, pull).await?),
        None => None,
    };
    Ok(ForgeSeen { branch: branch_seen, pull_request, revert })
}

async fn shown(work: &Work, target: &Target, pull: &PullRequest) -> Result<PullRequestSeen, String> {
    let said = |error: amend_gitops::forge::ForgeError| errors::chain(&error);
    let open = pull.state == ForgeState::Open;
    let statuses = if open {
        target.forge().reported(pull.head.clone()).await.map_err(said)?
    } else {
        std::collections::BTreeMap::new()
    };
    let merge = match (open, work.plan.autonomy) {
        (true, Autonomy::Act) => merge_state(target, pull).await?,
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

async fn merge_state(target: &Target, pull: &PullRequest) -> Result<MergeState, String> {
    let said = |error: amend_gitops::forge::ForgeError| errors::chain(&error);
    let rules = target.forge().rules(pull.base.clone()).await.map_err(said)?;
    let seen = target.forge().observe(pull.number).await.map_err(said)?;
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

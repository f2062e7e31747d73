//! The deed that takes a merged change back: a pull request of its own.

use std::collections::BTreeSet;

use amend_crds::Remediation;
use amend_execution::snapshot::Done;
use amend_gitops::body::Marker;
use amend_gitops::forge::NewPullRequest;
use amend_gitops::repo::{CommitId, CommitRequest};
use jiff::Timestamp;

use super::propose::trailers;
use super::{Trouble, Work};
use crate::targets::Target;

/// What is taken back, and under which names.
pub(super) struct Revert<'a> {
    pub key: &'a str,
    pub branch: &'a str,
    pub merged: &'a str,
    pub draft: bool,
    pub authored_at: Timestamp,
    pub why: &'a str,
}

/// Opens the pull request that takes the merged change back, or finds it.
pub(super) async fn open_revert(
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

//! What every forge must do, as one suite: run against the sandbox's forge and against real ones.
//!
//! A failure names the promise that was broken. The suite leaves two closed pull requests and one merge behind.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::SecretString;

use super::{
    CommitStatus, Forge, ForgeError, NewPullRequest, PullRequest, PullRequestEdit, PullRequestState, StatusVerdict,
};
use crate::access::GitAccess;
use crate::error::{GitError, chain};
use crate::path::RepoPath;
use crate::repo::{CommitId, CommitRequest, Containment, ContentChange, Pushed, Repo, Trailers};

/// Makes a client of the forge under test for a token.
pub type MakeForge = Box<dyn Fn(SecretString) -> Result<Arc<dyn Forge>, ForgeError> + Send + Sync>;

/// Where the suite runs: a repository whose base branch holds at least one text file.
pub struct Ground {
    pub access: GitAccess,
    /// Makes the forge client for a token, so that a wrong one can be tried too.
    pub forge: MakeForge,
    pub token: SecretString,
    /// A plain text file on the base branch that the suite may append to.
    pub file: String,
    /// An empty folder.
    pub scratch: PathBuf,
    pub now: Timestamp,
    /// Distinguishes runs on one repository; part of branch names.
    pub run: String,
}

impl std::fmt::Debug for Ground {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Ground").field("access", &self.access).field("run", &self.run).finish_non_exhaustive()
    }
}

/// A promise that the forge did not keep.
#[derive(Debug, thiserror::Error)]
#[error("{promise}: {found}")]
pub struct Broken {
    pub promise: String,
    pub found: String,
}

fn broken(promise: &str, found: impl std::fmt::Debug) -> Broken {
    Broken { promise: promise.into(), found: format!("{found:?}") }
}

fn ensure(promise: &str, kept: bool, found: impl std::fmt::Debug) -> Result<(), Broken> {
    if kept { Ok(()) } else { Err(broken(promise, found)) }
}

fn works<T, E: std::error::Error>(promise: &str, result: Result<T, E>) -> Result<T, Broken> {
    result.map_err(|error| Broken { promise: promise.into(), found: chain(&error) })
}

/// Runs the whole suite.
pub async fn run(ground: &Ground) -> Result<(), Broken> {
    let forge = works("a client can be made", (ground.forge)(ground.token.clone()))?;
    let repo = works("a scratch repository can be made", Repo::open(ground.access.clone(), &ground.scratch).await)?;
    works("the server says beforehand that it takes pushes", repo.may_push().await)?;
    works("the forge says beforehand that it takes pull requests", forge.may_propose().await)?;
    let first = pushes(ground, &repo).await?;
    let pull = opens(ground, forge.as_ref(), &first).await?;
    updates(forge.as_ref(), &pull).await?;
    reports(forge.as_ref(), &pull).await?;
    comments(forge.as_ref(), &pull).await?;
    merges(ground, forge.as_ref(), &repo, &pull, &first).await?;
    closes(ground, forge.as_ref(), &repo).await?;
    refuses(ground).await
}

struct Change {
    branch: String,
    commit: CommitId,
    changes: Vec<ContentChange>,
}

async fn change(ground: &Ground, repo: &Repo, name: &str) -> Result<Change, Broken> {
    let head = works("the base branch can be fetched", repo.fetch().await)?;
    let path = works("the file's path is sound", RepoPath::parse(&ground.file))?;
    let file = works("the file can be read", repo.file(&head, &path).await)?;
    let after = format!("{}# {} {name}\n", file.text, ground.run);
    let changes = vec![ContentChange { path, before: Some(file.text), after: Some(after) }];
    let commit = repo.commit(CommitRequest {
        parent: head,
        changes: changes.clone(),
        subject: format!("contract: {name}"),
        body: "One line at the end of a file.".into(),
        trailers: Trailers { incident: "contract".into(), plan: ground.run.clone(), record: "0".into() },
        intended: ground.now,
    });
    let commit = works("a commit can be made", commit.await)?;
    Ok(Change { branch: format!("amend/contract-{}-{name}", ground.run), commit, changes })
}

async fn pushes(ground: &Ground, repo: &Repo) -> Result<Change, Broken> {
    let first = change(ground, repo, "first").await?;
    let again = change(ground, repo, "first").await?;
    ensure("the same request makes the same commit", first.commit == again.commit, (&first.commit, &again.commit))?;
    let other = change(ground, repo, "other").await?;

    let pushed = works("a new branch can be pushed", repo.push_new(&first.branch, &first.commit).await)?;
    ensure("the first push is a push", pushed == Pushed::Now, pushed)?;
    let pushed = works("the same push can be repeated", repo.push_new(&first.branch, &first.commit).await)?;
    ensure("the second push finds the commit there", pushed == Pushed::AlreadyThere, pushed)?;
    match repo.push_new(&first.branch, &other.commit).await {
        Err(GitError::Taken { .. }) => {}
        found => return Err(broken("a branch with another commit is taken", found)),
    }
    let there = works("a branch can be looked up", repo.branch_head(&first.branch).await)?;
    ensure("the branch is what was pushed first", there.as_ref() == Some(&first.commit), there)?;
    Ok(first)
}

async fn opens(ground: &Ground, forge: &dyn Forge, change: &Change) -> Result<PullRequest, Broken> {
    let new = NewPullRequest {
        title: "contract: the first change".into(),
        body: "body\n\n<!-- amend:v1 key=contract -->".into(),
        branch: change.branch.clone(),
        base: ground.access.branch.clone(),
        draft: true,
        labels: BTreeSet::from(["amend".to_owned()]),
    };
    let pull = works("a draft can be opened", forge.open(new.clone()).await)?;
    ensure("a draft is a draft with a plain title", pull.draft && pull.title == new.title, &pull)?;
    ensure("a pull request knows its branch and base", pull.branch == new.branch && pull.base == new.base, &pull)?;
    ensure("a pull request knows its head", pull.head == change.commit, &pull)?;
    ensure("labels are set when opening", pull.labels.contains("amend"), &pull)?;
    match forge.open(new).await {
        Err(ForgeError::Conflict { .. }) => {}
        found => return Err(broken("a second pull request for the branch is a conflict", found)),
    }
    let found = works("pull requests can be found", forge.find(hour_before(ground.now)).await)?;
    ensure("an open pull request is found", found.iter().any(|one| one.number == pull.number), &found)?;
    Ok(pull)
}

async fn updates(forge: &dyn Forge, pull: &PullRequest) -> Result<(), Broken> {
    let edit = PullRequestEdit {
        title: Some("contract: another title".into()),
        body: Some(format!("another {}", pull.body)),
        draft: None,
        labels: Some(BTreeSet::from(["amend/ready".to_owned()])),
    };
    for _ in 0..2 {
        let now = works("a pull request can be edited, twice alike", forge.update(pull.number, edit.clone()).await)?;
        ensure(
            "title and body are changed",
            Some(&now.title) == edit.title.as_ref() && Some(&now.body) == edit.body.as_ref(),
            &now,
        )?;
        ensure("a draft stays one when its title changes", now.draft, &now)?;
        ensure("Amend's labels are what was asked", Some(&now.labels) == edit.labels.as_ref(), &now)?;
    }
    let ready = PullRequestEdit { draft: Some(false), ..Default::default() };
    let now = works("a draft can be made ready", forge.update(pull.number, ready).await)?;
    ensure("a ready pull request keeps its title", !now.draft && Some(&now.title) == edit.title.as_ref(), &now)
}

async fn reports(forge: &dyn Forge, pull: &PullRequest) -> Result<(), Broken> {
    for verdict in [StatusVerdict::Failure, StatusVerdict::Success, StatusVerdict::Success] {
        let status = CommitStatus {
            context: "amend/contract".into(),
            verdict,
            description: "one sentence".into(),
            url: Some(pull.url.clone()),
        };
        works("a verdict can be reported", forge.report(pull.head.clone(), status.clone()).await)?;
        let there = works("verdicts can be read", forge.reported(pull.head.clone()).await)?;
        ensure("the last verdict counts", there.get("amend/contract") == Some(&status), &there)?;
    }
    let rules = works("branch rules can be read", forge.rules(pull.base.clone()).await)?;
    ensure("the token may merge here", rules.may_merge, &rules)
}

async fn comments(forge: &dyn Forge, pull: &PullRequest) -> Result<(), Broken> {
    for text in ["waiting", "waiting", "done"] {
        let written = forge.comment(pull.number, "progress".into(), text.into()).await;
        works("a comment can be written and changed", written)?;
    }
    Ok(())
}

async fn merges(
    ground: &Ground,
    forge: &dyn Forge,
    repo: &Repo,
    pull: &PullRequest,
    change: &Change,
) -> Result<(), Broken> {
    let base = works("the base can be fetched", repo.fetch().await)?;
    let waiting = Instant::now();
    while !works("a pull request can be observed", forge.observe(pull.number).await)?.mergeable {
        ensure("a clean change becomes mergeable within 20 s", waiting.elapsed() < Duration::from_secs(20), ())?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    match forge.merge(pull.number, base.clone(), "merge".into()).await {
        Err(ForgeError::Conflict { .. }) => {}
        found => return Err(broken("merging at another head is a conflict", found)),
    }
    // Gitea checks for conflicts again after every change of the pull request and refuses to merge meanwhile.
    loop {
        match forge.merge(pull.number, pull.head.clone(), "merge".into()).await {
            Err(ForgeError::NotMergeable { .. }) if waiting.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            result => break works("merging at the head works", result)?,
        }
    }
    let after = works("a merged pull request can be observed", forge.observe(pull.number).await)?.pull_request;
    let PullRequestState::Merged { commit: Some(merge), by: Some(_), at: Some(_) } = &after.state else {
        return Err(broken("a merged pull request says when, by whom and as what", after));
    };
    let head = works("the merge can be fetched", repo.fetch().await)?;
    let contained = repo.contains_change(&head, &change.commit, &change.changes).await;
    let contained = works("containment can be asked", contained)?;
    ensure("the base contains the change", contained != Containment::Absent, contained)?;
    let known = works("history can be asked", repo.contains(&head, merge).await)?;
    ensure("the merge commit is on the base", known, (&head, merge))?;
    works("the merged branch can be deleted", repo.delete_branch(&change.branch, &change.commit).await)?;
    works("deleting it again is fine", repo.delete_branch(&change.branch, &change.commit).await)?;
    let found = works("merged ones are listed", forge.find(hour_before(ground.now)).await)?;
    let merged = found.iter().find(|one| one.number == pull.number);
    let told = merged.is_some_and(|one| one.branch == change.branch && one.head == change.commit);
    ensure("a merged pull request still tells its branch and head", told, merged)
}

async fn closes(ground: &Ground, forge: &dyn Forge, repo: &Repo) -> Result<(), Broken> {
    let second = change(ground, repo, "second").await?;
    works("a second branch can be pushed", repo.push_new(&second.branch, &second.commit).await)?;
    let new = NewPullRequest {
        title: "contract: not wanted".into(),
        body: "body\n\n<!-- amend:v1 key=unwanted -->".into(),
        branch: second.branch.clone(),
        base: ground.access.branch.clone(),
        draft: false,
        labels: BTreeSet::new(),
    };
    let pull = works("a ready pull request can be opened", forge.open(new).await)?;
    for _ in 0..2 {
        let closed = works("closing works, twice alike", forge.close(pull.number).await)?;
        ensure("a closed pull request is closed", matches!(closed.state, PullRequestState::Closed { .. }), &closed)?;
    }
    works("its branch can be deleted", repo.delete_branch(&second.branch, &second.commit).await)?;
    let found = works("closed ones are listed", forge.find(hour_before(ground.now)).await)?;
    let closed = found.iter().find(|one| one.number == pull.number);
    let told = closed.is_some_and(|one| one.body == pull.body && one.branch == second.branch);
    ensure("a closed pull request still tells its body and branch", told, closed)
}

async fn refuses(ground: &Ground) -> Result<(), Broken> {
    let stranger = works("a client can be made", (ground.forge)("0123456789abcdef0123456789abcdef01234567".into()))?;
    match stranger.find(ground.now).await {
        Err(ForgeError::Unauthorized { .. }) => {}
        found => return Err(broken("a token that is not valid is Unauthorized", found)),
    }
    let access = ground.access.clone().with_login("nobody", "wrong");
    let repo = works("a scratch repository can be made", Repo::open(access, &ground.scratch.join("stranger")).await)?;
    match repo.may_push().await {
        Err(GitError::Unauthorized { .. }) => {}
        found => return Err(broken("with a wrong password a push is known not to be taken", found)),
    }
    match repo.fetch().await {
        Err(GitError::Unauthorized { .. }) => Ok(()),
        found => Err(broken("a wrong password is Unauthorized", found)),
    }
}

fn hour_before(now: Timestamp) -> Timestamp {
    now.checked_sub(jiff::SignedDuration::from_hours(1)).unwrap_or(Timestamp::UNIX_EPOCH)
}

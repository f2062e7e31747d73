//! Bringing commits in: shallow, one branch, only when something is new.

use std::path::Path;

use git2::{AutotagOption, Direction, FetchOptions, RemoteCallbacks};

use super::{CommitId, Repo, Shared, Store};
use crate::error::GitError;

const BASE: &str = "refs/amend/base";

/// What two branches of the server pointed to at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heads {
    pub base: CommitId,
    /// `None`: there is no such branch.
    pub branch: Option<CommitId>,
}

impl Repo {
    /// Brings the base branch up to date and returns its commit.
    ///
    /// Asks for the branch's name first and fetches only when it moved, to a depth of 50 commits.
    pub async fn fetch(&self) -> Result<CommitId, GitError> {
        self.work(|shared, store| {
            let depth = store.depth.max(shared.limits.depth);
            store.fetch(shared, depth, None).map(|heads| heads.base)
        })
        .await
    }

    /// Brings the base branch up to date and tells where it and `branch` stand, from one listing of the server.
    ///
    /// Reaches back to `revision` as `fetch_back_to` does, but does not fail when it is not there: whoever needs it sees.
    pub async fn heads(&self, branch: &str, revision: &CommitId) -> Result<Heads, GitError> {
        let (branch, wanted) = (branch.to_owned(), revision.clone());
        self.work(move |shared, store| store.reach(shared, &wanted, Some(&branch))).await
    }

    /// As `fetch`, and reaches back far enough to know `revision`: 50 commits, then 500.
    ///
    /// Fails with `UnknownRevision` when it is not there even then: force-pushed away, or too old to judge.
    pub async fn fetch_back_to(&self, revision: &CommitId) -> Result<CommitId, GitError> {
        let wanted = revision.clone();
        self.work(move |shared, store| store.fetch_back_to(shared, &wanted)).await
    }

    /// Makes sure that `revision` is here, and asks the server only when it is not.
    ///
    /// What a commit holds never changes, so one that is here needs no server. Fails as `fetch_back_to` does.
    pub async fn hold(&self, revision: &CommitId) -> Result<(), GitError> {
        let wanted = revision.clone();
        self.work(move |shared, store| {
            if store.commit(&wanted).is_ok() {
                return Ok(());
            }
            store.fetch_back_to(shared, &wanted).map(drop)
        })
        .await
    }

    /// Whether the base branch, whose commit is `head`, was rewritten since it contained `commit`: it is known not to contain it
    /// any more.
    ///
    /// `false` as well when the commit may lie further back than is fetched.
    pub async fn has_lost(&self, head: &CommitId, commit: &CommitId) -> Result<bool, GitError> {
        let (head, commit) = (head.clone(), commit.clone());
        self.work(move |_, store| store.has_lost(&head, &commit)).await
    }

    /// The commit that a branch of the server points to now; `None` when there is no such branch.
    pub async fn branch_head(&self, branch: &str) -> Result<Option<CommitId>, GitError> {
        let branch = branch.to_owned();
        self.work(move |shared, store| shared.wire().carry(|| store.listed(&branch, Direction::Fetch))).await
    }

    /// Brings in a branch that is not the base, say one of Amend's own, and returns its commit.
    pub async fn fetch_branch(&self, branch: &str) -> Result<CommitId, GitError> {
        let branch = branch.to_owned();
        self.work(move |shared, store| {
            let into = format!("refs/amend/seen/{branch}");
            let depth = store.depth.max(shared.limits.depth);
            let wanted = Wanted { branch: &branch, into: &into, depth, known: None, also: None };
            store.fetch_ref(shared, wanted).map(|heads| heads.base)
        })
        .await
    }
}

impl Store {
    fn fetch_back_to(&mut self, shared: &Shared, wanted: &CommitId) -> Result<CommitId, GitError> {
        let heads = self.reach(shared, wanted, None)?;
        self.commit(wanted)?;
        Ok(heads.base)
    }

    /// Fetches the base branch, and more of it when `wanted` is not in what is here.
    fn reach(&mut self, shared: &Shared, wanted: &CommitId, branch: Option<&str>) -> Result<Heads, GitError> {
        let heads = self.fetch(shared, self.depth.max(shared.limits.depth), branch)?;
        let deeper = self.depth < shared.limits.deepest && self.git.is_shallow();
        match deeper && !self.reaches(&heads.base, wanted)? {
            true => self.fetch(shared, shared.limits.deepest, branch),
            false => Ok(heads),
        }
    }

    fn fetch(&mut self, shared: &Shared, depth: u32, branch: Option<&str>) -> Result<Heads, GitError> {
        if folder_size(&self.folder).map_err(GitError::Scratch)? > shared.limits.stored {
            tracing::info!(repository = shared.name, "scratch repository is over its size limit, starting afresh");
            self.git = Self::fresh(&self.folder)?;
            self.head = None;
            self.depth = 0;
        }
        let known = self.head.clone().filter(|_| self.depth >= depth);
        let wanted = Wanted { branch: &shared.access.branch, into: BASE, depth, known, also: branch };
        let heads = self.fetch_ref(shared, wanted)?;
        self.head = Some(heads.base.clone());
        self.depth = self.depth.max(depth);
        Ok(heads)
    }

    fn fetch_ref(&self, shared: &Shared, wanted: Wanted<'_>) -> Result<Heads, GitError> {
        let Wanted { branch, into, depth, known, also } = wanted;
        let stored = shared.limits.stored;
        shared.wire().carry(|| {
            let mut remote = self.remote()?;
            let doing = || format!("fetch {branch}");
            let mut connection =
                remote.connect_auth(Direction::Fetch, None, None).map_err(GitError::git("list the branches"))?;
            let listed = connection.list().map_err(GitError::git("list the branches"))?;
            let base = head_of(listed, branch)
                .ok_or_else(|| GitError::NoBranch { repository: shared.name.clone(), branch: branch.to_owned() })?;
            let beside = also.and_then(|branch| head_of(listed, branch));
            if known.as_ref() == Some(&base) {
                return Ok(Heads { base, branch: beside });
            }
            let name = reference(branch);
            let mut callbacks = RemoteCallbacks::new();
            callbacks.transfer_progress(|progress| (progress.received_bytes() as u64) < stored);
            let mut options = FetchOptions::new();
            options.depth(i32::try_from(depth).unwrap_or(i32::MAX));
            options.download_tags(AutotagOption::None);
            options.update_fetchhead(false);
            options.remote_callbacks(callbacks);
            connection
                .remote()
                .fetch(&[format!("+{name}:{into}")], Some(&mut options), None)
                .map_err(GitError::git(doing()))?;
            let fetched = self.git.refname_to_id(into).map_err(GitError::git(doing()))?;
            Ok(Heads { base: fetched.into(), branch: beside })
        })
    }

    /// What the server says that `branch` points to.
    pub(super) fn listed(&self, branch: &str, direction: Direction) -> Result<Option<CommitId>, GitError> {
        let mut remote = self.remote()?;
        let connection = remote.connect_auth(direction, None, None).map_err(GitError::git("list the branches"))?;
        let listed = connection.list().map_err(GitError::git("list the branches"))?;
        Ok(head_of(listed, branch))
    }
}

/// What to fetch: a branch into a reference of the scratch repository, unless it stands at what is known.
struct Wanted<'a> {
    branch: &'a str,
    into: &'a str,
    depth: u32,
    known: Option<CommitId>,
    /// Another branch that is only looked up.
    also: Option<&'a str>,
}

fn reference(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

fn head_of(listed: &[git2::RemoteHead<'_>], branch: &str) -> Option<CommitId> {
    let name = reference(branch);
    listed.iter().find(|head| head.name() == name).map(|head| head.oid().into())
}

fn folder_size(folder: &Path) -> std::io::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        total += if kind.is_dir() { folder_size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(total)
}

//! Bringing commits in: shallow, one branch, only when something is new.

use std::path::Path;

use git2::{AutotagOption, Direction, FetchOptions, RemoteCallbacks};

use super::{CommitId, Repo, Shared, Store};
use crate::error::GitError;

const BASE: &str = "refs/amend/base";

impl Repo {
    /// Brings the base branch up to date and returns its commit.
    ///
    /// Asks for the branch's name first and fetches only when it moved, to a depth of 50 commits.
    pub async fn fetch(&self) -> Result<CommitId, GitError> {
        self.work(|shared, store| {
            let depth = store.depth.max(shared.limits.depth);
            store.fetch(shared, depth)
        })
        .await
    }

    /// As `fetch`, and reaches back far enough to know `revision`: 50 commits, then 500.
    ///
    /// Fails with `UnknownRevision` when it is not there even then: force-pushed away, or too old to judge.
    pub async fn fetch_back_to(&self, revision: &CommitId) -> Result<CommitId, GitError> {
        let wanted = revision.clone();
        self.work(move |shared, store| {
            let depth = store.depth.max(shared.limits.depth);
            let head = store.fetch(shared, depth)?;
            if !store.reaches(&head, &wanted)? && store.depth < shared.limits.deepest && store.git.is_shallow() {
                store.fetch(shared, shared.limits.deepest)?;
            }
            store.commit(&wanted)?;
            Ok(head)
        })
        .await
    }

    /// Whether the base branch's history was rewritten since it contained `commit`: it is known not to contain it any more.
    ///
    /// `false` as well when the commit may lie further back than is fetched.
    pub async fn was_rewritten_since(&self, commit: &CommitId) -> Result<bool, GitError> {
        let commit = commit.clone();
        self.work(move |shared, store| {
            let head = store.fetch(shared, store.depth.max(shared.limits.depth))?;
            store.has_lost(&head, &commit)
        })
        .await
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
            store.fetch_ref(shared, &branch, &into, depth, None)
        })
        .await
    }
}

impl Store {
    fn fetch(&mut self, shared: &Shared, depth: u32) -> Result<CommitId, GitError> {
        if folder_size(&self.folder).map_err(GitError::Scratch)? > shared.limits.stored {
            tracing::info!(repository = shared.name, "scratch repository is over its size limit, starting afresh");
            self.git = Self::fresh(&self.folder)?;
            self.head = None;
            self.depth = 0;
        }
        let known = self.head.clone().filter(|_| self.depth >= depth);
        let head = self.fetch_ref(shared, &shared.access.branch.clone(), BASE, depth, known)?;
        self.head = Some(head.clone());
        self.depth = self.depth.max(depth);
        Ok(head)
    }

    fn fetch_ref(
        &self,
        shared: &Shared,
        branch: &str,
        into: &str,
        depth: u32,
        known: Option<CommitId>,
    ) -> Result<CommitId, GitError> {
        let stored = shared.limits.stored;
        shared.wire().carry(|| {
            let mut remote = self.remote()?;
            let doing = || format!("fetch {branch}");
            let mut connection =
                remote.connect_auth(Direction::Fetch, None, None).map_err(GitError::git("list the branches"))?;
            let name = format!("refs/heads/{branch}");
            let listed = connection.list().map_err(GitError::git("list the branches"))?;
            let head = listed.iter().find(|head| head.name() == name).map(|head| CommitId::from(head.oid()));
            let head =
                head.ok_or_else(|| GitError::NoBranch { repository: shared.name.clone(), branch: branch.to_owned() })?;
            if known.as_ref() == Some(&head) {
                return Ok(head);
            }
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
            Ok(fetched.into())
        })
    }

    /// What the server says that `branch` points to.
    pub(super) fn listed(&self, branch: &str, direction: Direction) -> Result<Option<CommitId>, GitError> {
        let mut remote = self.remote()?;
        let connection = remote.connect_auth(direction, None, None).map_err(GitError::git("list the branches"))?;
        let name = format!("refs/heads/{branch}");
        let listed = connection.list().map_err(GitError::git("list the branches"))?;
        Ok(listed.iter().find(|head| head.name() == name).map(|head| head.oid().into()))
    }
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

//! One repository: a bare copy in a scratch folder, and the few things that Amend does with it.
//!
//! No worktree, no Git program, no hooks, no filters. A `Repo` works on one thing at a time; each operation has
//! a deadline and runs on a blocking thread.

mod commit;
mod history;
mod push;
mod read;
mod revert;
mod sync;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedMutexGuard};

pub use commit::{CommitRequest, ContentChange, Trailers};
pub use history::{CommitInfo, Containment, FileDiff};
pub use push::Pushed;
pub use read::{Entry, FileAt};
pub use revert::Revert;
pub use sync::Heads;

use crate::access::GitAccess;
use crate::egress;
use crate::error::GitError;
use crate::transport::{ADDRESS, Wire};

/// A full Git commit id: 40 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitId(String);

impl CommitId {
    /// Reads a commit id, also from Flux's forms `main@sha1:…` and `main/…`.
    pub fn parse(text: &str) -> Result<Self, GitError> {
        let id = text.rsplit([':', '/', '@']).next().unwrap_or(text);
        if id.len() != 40 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(GitError::BadRevision { text: text.chars().take(80).collect() });
        }
        Ok(Self(id.to_ascii_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first eight digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..8]
    }

    pub(crate) fn oid(&self) -> Result<git2::Oid, GitError> {
        git2::Oid::from_str(&self.0).map_err(|_| GitError::BadRevision { text: self.0.clone() })
    }
}

impl From<git2::Oid> for CommitId {
    fn from(id: git2::Oid) -> Self {
        Self(id.to_string())
    }
}

impl TryFrom<String> for CommitId {
    type Error = GitError;

    fn try_from(text: String) -> Result<Self, GitError> {
        Self::parse(&text)
    }
}

impl From<CommitId> for String {
    fn from(id: CommitId) -> Self {
        id.0
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Bounds of what one repository may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes taken from the network in one operation.
    pub received: u64,
    /// Bytes on disk; a scratch folder beyond it is thrown away and fetched again.
    pub stored: u64,
    /// How long one exchange with the server may take.
    pub network: Duration,
    /// How long one operation may take, waiting for the one before it included.
    pub operation: Duration,
    /// Commits fetched at first: what a guilty commit is normally found in.
    pub depth: u32,
    /// Commits fetched when the first were not enough; beyond it Amend abstains.
    pub deepest: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            received: 256 * 1024 * 1024,
            stored: 512 * 1024 * 1024,
            network: Duration::from_secs(60),
            operation: Duration::from_secs(90),
            depth: 50,
            deepest: 500,
        }
    }
}

/// A repository that Amend reads and proposes changes to. Clones share one worker.
#[derive(Clone, Debug)]
pub struct Repo {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    access: GitAccess,
    name: String,
    client: reqwest::Client,
    limits: Limits,
    store: Arc<Mutex<Store>>,
}

/// The bare copy and what is known about it.
struct Store {
    git: git2::Repository,
    folder: PathBuf,
    head: Option<CommitId>,
    depth: u32,
}

impl fmt::Debug for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Store").field("head", &self.head).field("depth", &self.depth).finish_non_exhaustive()
    }
}

impl Repo {
    /// Prepares the repository in `folder`, which belongs to this `Repo` alone; nothing is fetched yet.
    ///
    /// A folder left behind by an earlier process is used again when it is sound, else emptied.
    pub async fn open(access: GitAccess, folder: &Path) -> Result<Self, GitError> {
        Self::open_within(access, folder, Limits::default()).await
    }

    /// As `open`, with other limits.
    pub async fn open_within(access: GitAccess, folder: &Path, limits: Limits) -> Result<Self, GitError> {
        let name = access.repository();
        if let Some(key) = &access.signing_key {
            // Now, while its owner looks, and not when the first commit is to be sealed.
            commit::readable(key.expose_secret()).map_err(GitError::SigningKey)?;
        }
        let client = egress::client(&access.url, access.allow_private, access.authority.as_deref())
            .map_err(|source| GitError::Egress { repository: name.clone(), source })?;
        let folder = folder.to_owned();
        let store = tokio::task::spawn_blocking(move || Store::prepare(folder))
            .await
            .map_err(|_| GitError::WorkerStopped { repository: name.clone() })??;
        Ok(Self { shared: Arc::new(Shared { access, name, client, limits, store: Arc::new(Mutex::new(store)) }) })
    }

    /// The branch that pull requests are opened against.
    pub fn base_branch(&self) -> &str {
        &self.shared.access.branch
    }

    /// Host and path, as errors and pages name this repository.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The base branch's commit as of the last fetch, if there was one.
    pub async fn head(&self) -> Option<CommitId> {
        self.shared.store.lock().await.head.clone()
    }

    /// Runs blocking work on the store, alone and with a deadline.
    async fn work<T, F>(&self, work: F) -> Result<T, GitError>
    where
        T: Send + 'static,
        F: FnOnce(&Shared, &mut Store) -> Result<T, GitError> + Send + 'static,
    {
        let shared = self.shared.clone();
        let late = || GitError::TimedOut { repository: self.shared.name.clone(), after: self.shared.limits.operation };
        let turn = async {
            let mut store: OwnedMutexGuard<Store> = shared.store.clone().lock_owned().await;
            tokio::task::spawn_blocking(move || work(&shared, &mut store)).await
        };
        match tokio::time::timeout(self.shared.limits.operation, turn).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(GitError::WorkerStopped { repository: self.shared.name.clone() }),
            Err(_) => Err(late()),
        }
    }
}

impl Shared {
    /// A wire for one exchange with the server, used on the worker's thread.
    fn wire(&self) -> Wire {
        Wire {
            client: self.client.clone(),
            url: self.access.url.clone(),
            repository: self.name.clone(),
            authorization: self.access.authorization(),
            runtime: tokio::runtime::Handle::current(),
            started: Instant::now(),
            time_limit: self.limits.network,
            byte_limit: self.limits.received,
            received: std::sync::Mutex::default(),
            fault: std::sync::Mutex::default(),
        }
    }
}

impl Store {
    fn prepare(folder: PathBuf) -> Result<Self, GitError> {
        let sound = git2::Repository::open_bare(&folder).and_then(|git| {
            git.odb()?;
            Ok(git)
        });
        let git = match sound {
            Ok(git) => git,
            Err(_) => Self::fresh(&folder)?,
        };
        Ok(Self { git, folder, head: None, depth: 0 })
    }

    fn fresh(folder: &Path) -> Result<git2::Repository, GitError> {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(GitError::Scratch(error)),
            _ => {}
        }
        std::fs::create_dir_all(folder).map_err(GitError::Scratch)?;
        let mut options = git2::RepositoryInitOptions::new();
        options.bare(true).external_template(false).no_reinit(true);
        git2::Repository::init_opts(folder, &options).map_err(GitError::git("create the scratch repository"))
    }

    fn remote(&self) -> Result<git2::Remote<'_>, GitError> {
        self.git.remote_anonymous(ADDRESS).map_err(GitError::git("name the remote repository"))
    }

    fn commit(&self, id: &CommitId) -> Result<git2::Commit<'_>, GitError> {
        self.git
            .find_commit(id.oid()?)
            .map_err(|_| GitError::UnknownRevision { revision: id.to_string(), depth: self.depth })
    }
}

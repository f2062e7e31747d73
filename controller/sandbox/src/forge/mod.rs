//! A small forge: smart-HTTP Git, the part of Gitea's REST API v1 that a pull-request robot needs, and a page per pull
//! request with the buttons *merge* and *close*.
//!
//! The JSON is Gitea's; drafts are titles that begin with `WIP:`; every new status is a new row; a second open pull
//! request for the same branches is 409; a merge at another head than asked is 409, one that the rules forbid is 405.

mod api;
mod desk;
mod json;
mod markdown;
mod page;
mod transport;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

use crate::clock::SandboxClock;
use crate::git::{Author, MergeStyle, Repo};
use crate::serving::{Serving, serve};
pub use desk::{Comment, Desk, ForgeRefusal, Label, Merged, Protection, Pull, Review, Status};

/// An account on the forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login.
    pub login: String,
    /// Mail address.
    pub email: String,
    /// Whether it may push, open and merge; else it only reads.
    pub writes: bool,
}

/// What the request handlers share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    root: PathBuf,
    url: Arc<Mutex<String>>,
    clock: SandboxClock,
    desks: Arc<Mutex<BTreeMap<String, Desk>>>,
    tokens: Arc<Mutex<BTreeMap<String, Account>>>,
    /// Hidden in the forms, so that no other web page can press the buttons.
    form_key: String,
}

impl Shared {
    fn desks(&self) -> MutexGuard<'_, BTreeMap<String, Desk>> {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn account(&self, token: &str) -> Option<Account> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    fn url(&self) -> String {
        self.url.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Works on one repository, with the heads of its pull requests up to date.
    fn at<T>(
        &self,
        repository: &str,
        work: impl FnOnce(&mut Desk) -> Result<T, ForgeRefusal>,
    ) -> Result<T, ForgeRefusal> {
        let mut desks = self.desks();
        let desk = desks.get_mut(repository).ok_or_else(|| ForgeRefusal::new(404, "The target couldn't be found."))?;
        desk.refresh(self.clock.now())?;
        work(desk)
    }
}

/// A running forge; it and its repositories end when it is dropped.
#[derive(Debug)]
pub struct Forge {
    shared: Shared,
    serving: Serving,
    _folder: TempDir,
}

impl Forge {
    /// Starts an empty forge on a free port of 127.0.0.1.
    pub async fn start(clock: SandboxClock) -> std::io::Result<Self> {
        let folder = TempDir::with_prefix("amend-forge-")?;
        let form_key = hex::encode(folder.path().as_os_str().as_encoded_bytes());
        let shared = Shared {
            root: folder.path().to_owned(),
            url: Arc::default(),
            clock,
            desks: Arc::default(),
            tokens: Arc::default(),
            form_key,
        };
        let serving = serve(api::router(shared.clone())).await?;
        *shared.url.lock().unwrap_or_else(PoisonError::into_inner) = format!("http://{}", serving.address());
        Ok(Self { shared, serving, _folder: folder })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.serving.address()
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        self.shared.url()
    }

    /// The URL that Git clones.
    pub fn clone_url(&self, repository: &str) -> String {
        format!("{}/{repository}.git", self.url())
    }

    /// The page of a pull request.
    pub fn pull_url(&self, repository: &str, number: u64) -> String {
        format!("{}/{repository}/pulls/{number}", self.url())
    }

    /// Makes a token (also a password for Git) for an account.
    pub fn add_account(&self, login: &str, token: &str, writes: bool) {
        let account = Account { login: login.into(), email: format!("{login}@shop.example"), writes };
        self.shared.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(token.into(), account);
    }

    /// Makes a token worthless.
    pub fn revoke(&self, token: &str) {
        self.shared.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
    }

    /// Makes an empty repository `owner/name`.
    pub fn create_repository(&self, repository: &str) -> Result<Repo, ForgeRefusal> {
        let (owner, name) = repository.split_once('/').ok_or_else(|| ForgeRefusal::new(422, "owner/name is needed"))?;
        let git = Repo::create(&self.shared.root.join(format!("{repository}.git")))?;
        let mut desks = self.shared.desks();
        let id = u64::try_from(desks.len()).unwrap_or_default() + 1;
        desks.insert(repository.into(), Desk::new(id, owner, name, git.clone()));
        Ok(git)
    }

    /// The Git repository behind `owner/name`.
    pub fn repository(&self, repository: &str) -> Option<Repo> {
        self.shared.desks().get(repository).map(|desk| desk.git.clone())
    }

    /// Sets the rules of a branch.
    pub fn protect(&self, repository: &str, branch: &str, protection: Protection) -> Result<(), ForgeRefusal> {
        self.shared.at(repository, |desk| {
            desk.protections.insert(branch.into(), protection);
            Ok(())
        })
    }

    /// All pull requests of a repository, oldest first.
    pub fn pulls(&self, repository: &str) -> Vec<Pull> {
        self.shared.at(repository, |desk| Ok(desk.pulls.values().cloned().collect())).unwrap_or_default()
    }

    /// The comments on a pull request, oldest first.
    pub fn comments(&self, repository: &str, number: u64) -> Vec<Comment> {
        self.shared
            .at(repository, |desk| {
                Ok(desk.comments.iter().filter(|comment| comment.issue == number).cloned().collect())
            })
            .unwrap_or_default()
    }

    /// The diff of a pull request.
    pub fn diff(&self, repository: &str, number: u64) -> Result<String, ForgeRefusal> {
        self.shared.at(repository, |desk| {
            let pull = desk.pull(number)?;
            Ok(desk.git.diff(&pull.merge_base, &pull.head_sha)?.0)
        })
    }

    /// Merges as a person would, and gives the merge commit.
    pub fn merge(&self, repository: &str, number: u64, by: &str, style: MergeStyle) -> Result<String, ForgeRefusal> {
        let now = self.shared.clock.now();
        let email = format!("{by}@shop.example");
        self.shared.at(repository, |desk| desk.merge(number, &Author { name: by, email: &email }, style, "", None, now))
    }

    /// Closes without merging, as a person would.
    pub fn close(&self, repository: &str, number: u64) -> Result<(), ForgeRefusal> {
        let now = self.shared.clock.now();
        self.shared.at(repository, |desk| desk.set_open(number, false, now))
    }

    /// Approves the current head, as a person would.
    pub fn approve(&self, repository: &str, number: u64, by: &str) -> Result<(), ForgeRefusal> {
        let at = self.shared.clock.now();
        self.shared.at(repository, |desk| {
            let id = desk.next_id();
            let pull = desk.pull_mut(number, at)?;
            let commit = pull.head_sha.clone();
            pull.reviews.push(Review { id, by: by.into(), state: "APPROVED".into(), body: String::new(), commit, at });
            Ok(())
        })
    }

    /// Drops every connection and refuses new ones until mended.
    pub fn cut(&self) {
        self.serving.cut();
    }

    /// Serves again.
    pub fn mend(&self) {
        self.serving.mend();
    }
}

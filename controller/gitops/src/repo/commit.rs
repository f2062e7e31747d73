//! Making a commit that is the same commit whenever it is made again.

use std::collections::BTreeMap;

use git2::{FileMode, Signature, Time};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use ssh_key::{HashAlg, LineEnding, PrivateKey, SshSig};

use super::{CommitId, Repo, Shared, Store};
use crate::error::GitError;
use crate::path::RepoPath;
use crate::untrusted;

/// One file's change, with the contents that it is meant to replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentChange {
    pub path: RepoPath,
    /// What must be there now; `None` for a file that must not exist yet.
    pub before: Option<String>,
    /// What will be there; `None` deletes the file.
    pub after: Option<String>,
}

/// What a commit says about where it came from; machine-made values only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailers {
    pub incident: String,
    pub plan: String,
    pub record: String,
}

/// Everything that a commit is made of. The same request gives the same commit id, on any machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRequest {
    pub parent: CommitId,
    pub changes: Vec<ContentChange>,
    /// First line, at most 72 characters; longer ones are cut.
    pub subject: String,
    pub body: String,
    pub trailers: Trailers,
    /// When the intent was recorded: author and committer time.
    pub intended: Timestamp,
}

impl Repo {
    /// Makes the commit in the scratch repository; nobody sees it before it is pushed.
    ///
    /// Fails with `FileMoved` when a file is not what the change was computed from, and with `Empty` when nothing
    /// would change.
    pub async fn commit(&self, request: CommitRequest) -> Result<CommitId, GitError> {
        self.work(move |shared, store| store.make_commit(shared, &request, None)).await
    }

    /// As `commit`, and continues a branch that starts from an older base: its head becomes the first parent.
    ///
    /// So a proposal can be made anew on a base that moved in its way, and the branch still only moves forward.
    pub async fn commit_onto(&self, branch_head: &CommitId, request: CommitRequest) -> Result<CommitId, GitError> {
        let head = branch_head.clone();
        self.work(move |shared, store| store.make_commit(shared, &request, Some(&head))).await
    }

    /// Whether Amend made a commit: signed with its key, or, when it has none, by its name and with its trailers.
    pub async fn is_own(&self, id: &CommitId) -> Result<bool, GitError> {
        let id = id.clone();
        self.work(move |shared, store| store.is_own(shared, &id)).await
    }
}

impl Store {
    fn make_commit(
        &self,
        shared: &Shared,
        request: &CommitRequest,
        continued: Option<&CommitId>,
    ) -> Result<CommitId, GitError> {
        let doing = "make the commit";
        let parent = self.commit(&request.parent)?;
        let continued = continued.map(|head| self.commit(head)).transpose()?;
        let base = parent.tree().map_err(GitError::git(doing))?;
        let tree = self.changed_tree(&base, &request.changes)?;
        if tree == base.id() {
            return Err(GitError::Empty);
        }
        let tree = self.git.find_tree(tree).map_err(GitError::git(doing))?;
        let author = &shared.access.author;
        let when = Time::new(request.intended.as_second(), 0);
        let signature = Signature::new(&author.name, &author.email, &when).map_err(GitError::git(doing))?;
        let parents: Vec<&git2::Commit<'_>> = continued.iter().chain([&parent]).collect();
        let buffer = self
            .git
            .commit_create_buffer(&signature, &signature, &request.message(), &tree, &parents)
            .map_err(GitError::git(doing))?;
        let id = match &shared.access.signing_key {
            Some(key) => {
                let seal = sshsig(key.expose_secret(), &buffer).map_err(GitError::SigningKey)?;
                let text = std::str::from_utf8(&buffer)
                    .map_err(|_| GitError::BadRevision { text: "the commit is not UTF-8".into() })?;
                self.git.commit_signed(text, seal.trim_end(), Some("gpgsig"))
            }
            None => self.git.odb().and_then(|odb| odb.write(git2::ObjectType::Commit, &buffer)),
        };
        Ok(id.map_err(GitError::git(doing))?.into())
    }

    fn is_own(&self, shared: &Shared, id: &CommitId) -> Result<bool, GitError> {
        let commit = self.commit(id)?;
        let author = &shared.access.author;
        let named = commit.committer().email_bytes() == author.email.as_bytes();
        let trailed = String::from_utf8_lossy(commit.message_bytes()).contains("\nAmend-Plan: ");
        let sealed = match &shared.access.signing_key {
            None => true,
            Some(key) => match self.git.extract_signature(&commit.id(), None) {
                Ok((seal, signed)) => is_sealed(key.expose_secret(), &seal, &signed).map_err(GitError::SigningKey)?,
                Err(_) => false,
            },
        };
        Ok(named && trailed && sealed)
    }

    fn changed_tree(&self, base: &git2::Tree<'_>, changes: &[ContentChange]) -> Result<git2::Oid, GitError> {
        let doing = "write the changed files";
        let mut update = git2::build::TreeUpdateBuilder::new();
        // By path, so that the order of the request's list cannot matter.
        let changes: BTreeMap<&RepoPath, &ContentChange> =
            changes.iter().map(|change| (&change.path, change)).collect();
        for (path, change) in changes {
            let there = base.get_path(std::path::Path::new(path.as_str())).ok();
            let blob = match &there {
                Some(entry) => Some(self.git.find_blob(entry.id()).map_err(GitError::git(doing))?),
                None => None,
            };
            if blob.as_ref().map(git2::Blob::content) != change.before.as_deref().map(str::as_bytes) {
                return Err(GitError::FileMoved { path: path.to_string() });
            }
            let mode = match there.as_ref().map(git2::TreeEntry::filemode) {
                None | Some(0o100_644 | 0o100_664) => FileMode::Blob,
                Some(0o100_755) => FileMode::BlobExecutable,
                Some(_) => {
                    let why = "it is a symlink or a submodule".into();
                    return Err(GitError::FileRefused { path: path.to_string(), why });
                }
            };
            match &change.after {
                Some(text) => {
                    let id = self.git.blob(text.as_bytes()).map_err(GitError::git(doing))?;
                    update.upsert(path.as_str(), id, mode);
                }
                None if there.is_some() => {
                    update.remove(path.as_str());
                }
                None => {}
            }
        }
        update.create_updated(&self.git, base).map_err(GitError::git(doing))
    }
}

impl CommitRequest {
    fn message(&self) -> String {
        let subject = untrusted::line(&self.subject, 72);
        let body = untrusted::paragraph(&self.body, 2000);
        let Trailers { incident, plan, record } = &self.trailers;
        let trailer = |text: &str| untrusted::line(text, 200);
        let gap = if body.is_empty() { "" } else { "\n\n" };
        format!(
            "{subject}\n\n{body}{gap}Amend-Incident: {}\nAmend-Plan: {}\nAmend-Record: {}\n",
            trailer(incident),
            trailer(plan),
            trailer(record)
        )
    }
}

/// The commit's SSH signature (OpenSSH `PROTOCOL.sshsig`, namespace `git`); ed25519 makes it deterministic.
fn sshsig(key: &str, commit: &[u8]) -> Result<String, ssh_key::Error> {
    PrivateKey::from_openssh(key)?.sign("git", HashAlg::Sha512, commit)?.to_pem(LineEnding::LF)
}

/// Refuses what is not a private key that can sign.
pub(super) fn readable(key: &str) -> Result<(), ssh_key::Error> {
    PrivateKey::from_openssh(key)?.sign("git", HashAlg::Sha512, b"readable").map(|_| ())
}

/// Whether a seal is one that this key made over these bytes.
fn is_sealed(key: &str, seal: &[u8], signed: &[u8]) -> Result<bool, ssh_key::Error> {
    let key = PrivateKey::from_openssh(key)?;
    Ok(SshSig::from_pem(seal).is_ok_and(|seal| key.public_key().verify("git", signed, &seal).is_ok()))
}

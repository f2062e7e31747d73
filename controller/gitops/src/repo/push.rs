//! Putting a commit on a branch of its own, and taking the branch away again: never over anybody's work.

use std::cell::RefCell;

use git2::{Direction, PushOptions, RemoteCallbacks};

use super::{CommitId, Repo, Shared, Store};
use crate::error::GitError;

/// What a push found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The branch is new, or moved, by this push.
    Now,
    /// The branch already pointed to exactly this commit: an earlier push whose reply was lost.
    AlreadyThere,
}

impl Repo {
    /// Creates `branch` at `commit`. The branch must not exist, or point to this commit already.
    ///
    /// Repeating it is safe. Fails with `Taken` when the branch holds anything else.
    pub async fn push_new(&self, branch: &str, commit: &CommitId) -> Result<Pushed, GitError> {
        let (branch, commit) = (branch.to_owned(), commit.clone());
        self.work(move |shared, store| store.push(shared, &branch, None, &commit)).await
    }

    /// Moves `branch` from `expected` to `commit`, which must build on it; never a forced push.
    ///
    /// Fails with `Moved` when somebody else pushed meanwhile.
    pub async fn push_on(&self, branch: &str, expected: &CommitId, commit: &CommitId) -> Result<Pushed, GitError> {
        let (branch, expected, commit) = (branch.to_owned(), expected.clone(), commit.clone());
        self.work(move |shared, store| store.push(shared, &branch, Some(&expected), &commit)).await
    }

    /// Whether the server would take a push: it is asked as a push asks first, and nothing is sent.
    ///
    /// Servers answer this with the rights of the account and of its token; rules of single branches come later.
    pub async fn may_push(&self) -> Result<(), GitError> {
        self.work(move |shared, store| {
            let branch = shared.access.branch.clone();
            shared.wire().carry(|| store.listed(&branch, Direction::Push)).map(|_| ())
        })
        .await
    }

    /// Deletes `branch` if it still points to `expected`; a branch that is gone already is fine.
    pub async fn delete_branch(&self, branch: &str, expected: &CommitId) -> Result<(), GitError> {
        let (branch, expected) = (branch.to_owned(), expected.clone());
        self.work(move |shared, store| store.delete(shared, &branch, &expected)).await
    }
}

impl Store {
    fn push(
        &self,
        shared: &Shared,
        branch: &str,
        expected: Option<&CommitId>,
        commit: &CommitId,
    ) -> Result<Pushed, GitError> {
        self.guard_branch(shared, branch)?;
        self.commit(commit)?;
        let outdated = || match expected {
            Some(_) => GitError::Moved { branch: branch.to_owned() },
            None => GitError::Taken { branch: branch.to_owned() },
        };
        let there = shared.wire().carry(|| self.listed(branch, Direction::Push))?;
        match there {
            Some(there) if there == *commit => return Ok(Pushed::AlreadyThere),
            there if there.as_ref() != expected => return Err(outdated()),
            _ => {}
        }
        // libgit2 pushes references, not bare ids, so the commit gets a name of its own for the length of the push.
        let local = format!("refs/amend/push/{branch}");
        self.git.reference(&local, commit.oid()?, true, "").map_err(GitError::git("name the commit"))?;
        let result = self.send(shared, &format!("{local}:refs/heads/{branch}"), branch, expected);
        if let Ok(mut reference) = self.git.find_reference(&local) {
            let _ = reference.delete();
        }
        match result {
            Ok(()) => Ok(Pushed::Now),
            // A refusal may mean that the branch appeared between the listing and the push: look before saying so.
            Err(refusal @ (GitError::PushRefused { .. } | GitError::Moved { .. } | GitError::Git { .. })) => {
                match shared.wire().carry(|| self.listed(branch, Direction::Push))? {
                    Some(there) if there == *commit => Ok(Pushed::AlreadyThere),
                    there if there.as_ref() != expected => Err(outdated()),
                    _ => Err(refusal),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn delete(&self, shared: &Shared, branch: &str, expected: &CommitId) -> Result<(), GitError> {
        self.guard_branch(shared, branch)?;
        match shared.wire().carry(|| self.listed(branch, Direction::Push))? {
            None => Ok(()),
            Some(there) if there != *expected => Err(GitError::Moved { branch: branch.to_owned() }),
            Some(_) => self.send(shared, &format!(":refs/heads/{branch}"), branch, Some(expected)),
        }
    }

    /// Amend writes to branches of its own only, whatever it is asked to.
    fn guard_branch(&self, shared: &Shared, branch: &str) -> Result<(), GitError> {
        let ours = branch.starts_with("amend/") && branch != shared.access.branch;
        if ours && git2::Reference::is_valid_name(&format!("refs/heads/{branch}")) {
            return Ok(());
        }
        let why = "Amend pushes to branches named amend/… only".into();
        Err(GitError::PushRefused { branch: branch.to_owned(), why })
    }

    /// One push of one reference, given up when the server's branch is not at `expected`.
    fn send(&self, shared: &Shared, refspec: &str, branch: &str, expected: Option<&CommitId>) -> Result<(), GitError> {
        let expected = expected.map(CommitId::oid).transpose()?.unwrap_or(git2::Oid::ZERO_SHA1);
        let refusal: RefCell<Option<GitError>> = RefCell::new(None);
        let result = shared.wire().carry(|| {
            let mut callbacks = RemoteCallbacks::new();
            callbacks.push_negotiation(|updates| {
                if updates.iter().all(|update| update.src() == expected) {
                    return Ok(());
                }
                refusal.replace(Some(GitError::Moved { branch: branch.to_owned() }));
                Err(git2::Error::from_str("the branch moved"))
            });
            callbacks.push_update_reference(|_, status| {
                if let Some(why) = status {
                    let why = crate::untrusted::line(why, 200);
                    refusal.replace(Some(GitError::PushRefused { branch: branch.to_owned(), why }));
                }
                Ok(())
            });
            let mut options = PushOptions::new();
            options.packbuilder_parallelism(1);
            options.remote_callbacks(callbacks);
            self.remote()?.push(&[refspec], Some(&mut options)).map_err(GitError::git(format!("push {branch}")))
        });
        match refusal.into_inner() {
            Some(refusal) => Err(refusal),
            None => result,
        }
    }
}

//! Bare repositories on disk, written by people (the scenario) and read by the Flux stand-in and the forge.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use git2::{
    BranchType, MergeOptions, ObjectType, Oid, Repository, Signature, Sort, Time, TreeWalkMode, TreeWalkResult,
};
use jiff::Timestamp;

/// What can go wrong in a repository.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// Git itself refused.
    #[error("git failed at {doing}")]
    Git {
        /// What was being done.
        doing: &'static str,
        /// Git's answer.
        #[source]
        source: git2::Error,
    },
    /// Both sides changed the same lines.
    #[error("{ours} and {theirs} change the same lines")]
    Conflict {
        /// The branch that was to receive.
        ours: String,
        /// The branch that was to be merged.
        theirs: String,
    },
    /// No such branch, commit or file.
    #[error("there is no {what} in the repository")]
    Missing {
        /// Branch, commit or path.
        what: String,
    },
}

fn at(doing: &'static str) -> impl Fn(git2::Error) -> GitError {
    move |source| GitError::Git { doing, source }
}

/// One commit, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Full id.
    pub sha: String,
    /// Ids of its parents.
    pub parents: Vec<String>,
    /// Id of its tree.
    pub tree: String,
    /// Whole message.
    pub message: String,
    /// Name and address of the author.
    pub author: (String, String),
    /// When it was made.
    pub at: Timestamp,
}

/// One file of a diff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedFile {
    /// Path after the change.
    pub path: String,
    /// `added`, `changed`, `deleted` or `renamed`.
    pub status: &'static str,
    /// Lines added.
    pub additions: usize,
    /// Lines removed.
    pub deletions: usize,
}

/// How a pull request is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeStyle {
    /// A merge commit.
    Merge,
    /// One new commit.
    Squash,
    /// The commits anew on top.
    Rebase,
}

/// A bare repository; every call opens it anew, so it can be shared.
#[derive(Clone, Debug)]
pub struct Repo {
    path: PathBuf,
}

/// A person or machine that commits.
#[derive(Clone, Debug)]
pub struct Author<'a> {
    /// Name.
    pub name: &'a str,
    /// Mail address.
    pub email: &'a str,
}

impl Repo {
    /// Makes an empty bare repository that `git http-backend` may serve and receive into.
    pub fn create(path: &Path) -> Result<Self, GitError> {
        let mut options = git2::RepositoryInitOptions::new();
        options.bare(true).initial_head("main").mkpath(true);
        let repository = Repository::init_opts(path, &options).map_err(at("making a repository"))?;
        let mut config = repository.config().map_err(at("configuring a repository"))?;
        for (name, value) in [("http.receivepack", "true"), ("uploadpack.allowAnySHA1InWant", "true"), ("gc.auto", "0")]
        {
            config.set_str(name, value).map_err(at("configuring a repository"))?;
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self) -> Result<Repository, GitError> {
        Repository::open_bare(&self.path).map_err(at("opening a repository"))
    }

    /// Id of the last commit of a branch.
    pub fn head(&self, branch: &str) -> Result<String, GitError> {
        Ok(tip(&self.open()?, branch)?.to_string())
    }

    /// Branches and their last commits.
    pub fn branches(&self) -> Result<BTreeMap<String, String>, GitError> {
        let repository = self.open()?;
        let mut found = BTreeMap::new();
        for branch in repository.branches(Some(BranchType::Local)).map_err(at("listing branches"))? {
            let (branch, _) = branch.map_err(at("listing branches"))?;
            if let (Ok(Some(name)), Some(id)) =
                (branch.name().map(|name| name.map(str::to_owned)), branch.get().target())
            {
                found.insert(name, id.to_string());
            }
        }
        Ok(found)
    }

    /// Commits on top of a branch: each path gets the new text, or goes when it is `None`.
    pub fn commit(
        &self,
        branch: &str,
        changes: &BTreeMap<String, Option<String>>,
        message: &str,
        author: &Author<'_>,
        now: Timestamp,
    ) -> Result<String, GitError> {
        let repository = self.open()?;
        let parent = tip(&repository, branch)
            .ok()
            .map(|id| repository.find_commit(id))
            .transpose()
            .map_err(at("reading the branch"))?;
        let mut index = git2::Index::new().map_err(at("building a tree"))?;
        if let Some(parent) = &parent {
            let tree = parent.tree().map_err(at("reading the branch"))?;
            index.read_tree(&tree).map_err(at("building a tree"))?;
        }
        for (path, text) in changes {
            match text {
                Some(text) => {
                    let blob = repository.blob(text.as_bytes()).map_err(at("writing a file"))?;
                    index.add(&entry(path, blob, text.len())).map_err(at("building a tree"))?;
                }
                None => index.remove(Path::new(path), 0).map_err(at("removing a file"))?,
            }
        }
        let tree = index.write_tree_to(&repository).map_err(at("building a tree"))?;
        let tree = repository.find_tree(tree).map_err(at("building a tree"))?;
        let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
        let by = signature(author, now)?;
        let id = repository
            .commit(Some(&format!("refs/heads/{branch}")), &by, &by, message, &tree, &parents)
            .map_err(at("committing"))?;
        Ok(id.to_string())
    }

    /// The text of a file at a branch or commit.
    pub fn file(&self, reference: &str, path: &str) -> Result<String, GitError> {
        let repository = self.open()?;
        let commit = find_commit(&repository, reference)?;
        let missing = || GitError::Missing { what: path.to_owned() };
        let tree = commit.tree().map_err(at("reading a commit"))?;
        let entry = tree.get_path(Path::new(path)).map_err(|_| missing())?;
        let blob = repository.find_blob(entry.id()).map_err(|_| missing())?;
        Ok(String::from_utf8_lossy(blob.content()).into_owned())
    }

    /// Every file below a folder at a branch or commit, with its text.
    pub fn files(&self, reference: &str, folder: &str) -> Result<BTreeMap<String, String>, GitError> {
        let repository = self.open()?;
        let tree = find_commit(&repository, reference)?.tree().map_err(at("reading a commit"))?;
        let folder = folder.trim_start_matches("./").trim_matches('/');
        let mut found = BTreeMap::new();
        tree.walk(TreeWalkMode::PreOrder, |parent, entry| {
            let path = format!("{parent}{}", entry.name().unwrap_or_default());
            let inside = folder.is_empty() || path.starts_with(&format!("{folder}/"));
            if inside
                && entry.kind() == Some(ObjectType::Blob)
                && let Ok(blob) = repository.find_blob(entry.id())
            {
                found.insert(path, String::from_utf8_lossy(blob.content()).into_owned());
            }
            TreeWalkResult::Ok
        })
        .map_err(at("reading a tree"))?;
        Ok(found)
    }

    /// One commit by branch or id.
    pub fn find(&self, reference: &str) -> Result<Commit, GitError> {
        let repository = self.open()?;
        Ok(described(&find_commit(&repository, reference)?))
    }

    /// Commits from `to` back, newest first; those reachable from `from` are left out.
    pub fn log(&self, from: Option<&str>, to: &str, limit: usize) -> Result<Vec<Commit>, GitError> {
        let repository = self.open()?;
        let mut walk = repository.revwalk().map_err(at("walking the history"))?;
        walk.set_sorting(Sort::TOPOLOGICAL).map_err(at("walking the history"))?;
        walk.push(find_commit(&repository, to)?.id()).map_err(at("walking the history"))?;
        if let Some(from) = from {
            walk.hide(find_commit(&repository, from)?.id()).map_err(at("walking the history"))?;
        }
        let ids = walk.take(limit).collect::<Result<Vec<_>, _>>().map_err(at("walking the history"))?;
        ids.into_iter()
            .map(|id| repository.find_commit(id).map(|commit| described(&commit)).map_err(at("reading a commit")))
            .collect()
    }

    /// Whether `ancestor` is part of the history of `descendant`.
    pub fn contains(&self, descendant: &str, ancestor: &str) -> Result<bool, GitError> {
        let repository = self.open()?;
        let (descendant, ancestor) =
            (find_commit(&repository, descendant)?.id(), find_commit(&repository, ancestor)?.id());
        Ok(descendant == ancestor
            || repository.graph_descendant_of(descendant, ancestor).map_err(at("comparing commits"))?)
    }

    /// Where two branches or commits parted.
    pub fn merge_base(&self, one: &str, other: &str) -> Result<String, GitError> {
        let repository = self.open()?;
        let (one, other) = (find_commit(&repository, one)?.id(), find_commit(&repository, other)?.id());
        Ok(repository.merge_base(one, other).map_err(at("finding the merge base"))?.to_string())
    }

    /// Unified diff and changed files between two commits.
    pub fn diff(&self, from: &str, to: &str) -> Result<(String, Vec<ChangedFile>), GitError> {
        let repository = self.open()?;
        let tree = |reference: &str| -> Result<_, GitError> {
            find_commit(&repository, reference)?.tree().map_err(at("reading a commit"))
        };
        let diff =
            repository.diff_tree_to_tree(Some(&tree(from)?), Some(&tree(to)?), None).map_err(at("comparing trees"))?;
        let mut files = Vec::new();
        let mut text = String::new();
        for number in 0..diff.deltas().len() {
            let Some(mut patch) = git2::Patch::from_diff(&diff, number).map_err(at("comparing files"))? else {
                continue;
            };
            let (_, additions, deletions) = patch.line_stats().map_err(at("comparing files"))?;
            let delta = patch.delta();
            let path = delta.new_file().path().or_else(|| delta.old_file().path());
            files.push(ChangedFile {
                path: path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
                status: match delta.status() {
                    git2::Delta::Added => "added",
                    git2::Delta::Deleted => "deleted",
                    git2::Delta::Renamed => "renamed",
                    _ => "changed",
                },
                additions,
                deletions,
            });
            let buffer = patch.to_buf().map_err(at("comparing files"))?;
            text.push_str(&String::from_utf8_lossy(&buffer));
        }
        Ok((text, files))
    }

    /// Whether `theirs` can be merged into `ours` without a conflict.
    pub fn mergeable(&self, ours: &str, theirs: &str) -> Result<bool, GitError> {
        let repository = self.open()?;
        let (ours, theirs) = (find_commit(&repository, ours)?, find_commit(&repository, theirs)?);
        let index = repository.merge_commits(&ours, &theirs, None).map_err(at("trying a merge"))?;
        Ok(!index.has_conflicts())
    }

    /// Merges `theirs` (a commit) into a branch and gives the new head.
    pub fn merge(
        &self,
        branch: &str,
        theirs: &str,
        style: MergeStyle,
        message: &str,
        author: &Author<'_>,
        now: Timestamp,
    ) -> Result<String, GitError> {
        let repository = self.open()?;
        let ours = repository.find_commit(tip(&repository, branch)?).map_err(at("reading the branch"))?;
        let theirs = find_commit(&repository, theirs)?;
        let conflict = || GitError::Conflict { ours: branch.to_owned(), theirs: theirs.id().to_string() };
        let mut options = MergeOptions::new();
        options.fail_on_conflict(true);
        let mut index = repository.merge_commits(&ours, &theirs, Some(&options)).map_err(|_| conflict())?;
        if index.has_conflicts() {
            return Err(conflict());
        }
        let tree = index.write_tree_to(&repository).map_err(at("building the merged tree"))?;
        let tree = repository.find_tree(tree).map_err(at("building the merged tree"))?;
        let by = signature(author, now)?;
        let reference = format!("refs/heads/{branch}");
        let id = match style {
            MergeStyle::Merge => repository.commit(Some(&reference), &by, &by, message, &tree, &[&ours, &theirs]),
            MergeStyle::Squash => repository.commit(Some(&reference), &by, &by, message, &tree, &[&ours]),
            MergeStyle::Rebase => {
                // One picked commit per original, so that authors and messages stay.
                let mut head = ours.clone();
                let base = repository.merge_base(ours.id(), theirs.id()).map_err(at("finding the merge base"))?;
                for commit in self.log(Some(&base.to_string()), &theirs.id().to_string(), 500)?.iter().rev() {
                    let original = find_commit(&repository, &commit.sha)?;
                    let mut picked = repository.cherrypick_commit(&original, &head, 0, None).map_err(|_| conflict())?;
                    if picked.has_conflicts() {
                        return Err(conflict());
                    }
                    let tree = picked.write_tree_to(&repository).map_err(at("building a tree"))?;
                    let tree = repository.find_tree(tree).map_err(at("building a tree"))?;
                    let message = original.message().unwrap_or_default();
                    let id = repository
                        .commit(None, &original.author(), &by, message, &tree, &[&head])
                        .map_err(at("committing"))?;
                    head = repository.find_commit(id).map_err(at("committing"))?;
                }
                repository.reference(&reference, head.id(), true, "rebase").map(|_| head.id())
            }
        };
        Ok(id.map_err(at("committing the merge"))?.to_string())
    }

    /// Removes a branch, if it is there.
    pub fn delete_branch(&self, branch: &str) -> Result<(), GitError> {
        let repository = self.open()?;
        match repository.find_branch(branch, BranchType::Local) {
            Ok(mut branch) => branch.delete().map_err(at("deleting a branch")),
            Err(_) => Ok(()),
        }
    }
}

fn tip(repository: &Repository, branch: &str) -> Result<Oid, GitError> {
    repository
        .refname_to_id(&format!("refs/heads/{branch}"))
        .map_err(|_| GitError::Missing { what: format!("branch {branch}") })
}

fn find_commit<'r>(repository: &'r Repository, reference: &str) -> Result<git2::Commit<'r>, GitError> {
    let missing = || GitError::Missing { what: format!("commit {reference}") };
    let id = match tip(repository, reference) {
        Ok(id) => id,
        Err(_) => repository.revparse_single(reference).map_err(|_| missing())?.id(),
    };
    repository.find_commit(id).map_err(|_| missing())
}

fn signature(author: &Author<'_>, now: Timestamp) -> Result<Signature<'static>, GitError> {
    Signature::new(author.name, author.email, &Time::new(now.as_second(), 0)).map_err(at("signing"))
}

fn described(commit: &git2::Commit<'_>) -> Commit {
    let author = commit.author();
    Commit {
        sha: commit.id().to_string(),
        parents: commit.parent_ids().map(|id| id.to_string()).collect(),
        tree: commit.tree_id().to_string(),
        message: commit.message().unwrap_or_default().to_owned(),
        author: (author.name().unwrap_or_default().to_owned(), author.email().unwrap_or_default().to_owned()),
        at: Timestamp::from_second(commit.time().seconds()).unwrap_or_default(),
    }
}

fn entry(path: &str, id: Oid, size: usize) -> git2::IndexEntry {
    let never = git2::IndexTime::new(0, 0);
    git2::IndexEntry {
        ctime: never,
        mtime: never,
        dev: 0,
        ino: 0,
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        file_size: u32::try_from(size).unwrap_or(u32::MAX),
        id,
        flags: 0,
        flags_extended: 0,
        path: path.as_bytes().to_vec(),
    }
}

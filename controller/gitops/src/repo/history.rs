//! What changed between two revisions, and whether a revision contains a change.

use git2::{DiffOptions, Oid, Patch, Sort};
use jiff::Timestamp;

use super::{CommitId, ContentChange, Repo, Store};
use crate::error::GitError;
use crate::untrusted;

/// Files and bytes of a diff that are kept: enough to find a cause, bounded against a vendored tree.
const FILES: usize = 200;
const BYTES_PER_FILE: usize = 16 * 1024;

/// One file of a diff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDiff {
    pub path: String,
    /// The path before, when the file was renamed.
    pub renamed_from: Option<String>,
    pub added: usize,
    pub removed: usize,
    /// Unified diff, cut at 16 KiB; empty for binary files.
    pub text: String,
    pub cut: bool,
}

/// What a commit says about itself. Subject and author are other people's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    pub id: CommitId,
    pub parents: Vec<CommitId>,
    pub subject: String,
    pub author: String,
    pub committed: Timestamp,
    /// Paths that differ from the first parent.
    pub paths: Vec<String>,
    /// The message has a trailer `Forward-Only: true`: a migration, say, that must not be taken back.
    pub forward_only: bool,
}

/// Whether a revision holds a change, and how that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containment {
    /// The commit is the revision or one of its ancestors.
    Ancestor,
    /// Not the commit, but all of its files as it left them: squashed, rebased or cherry-picked.
    SameContents,
    Absent,
}

impl Repo {
    /// What changed from one revision to another, by path.
    ///
    /// At most 200 files of 16 KiB diff each; `cut` says so on the file where it happened.
    pub async fn diff(&self, from: &CommitId, to: &CommitId) -> Result<Vec<FileDiff>, GitError> {
        let (from, to) = (from.clone(), to.clone());
        self.work(move |_, store| store.diff(&from, &to)).await
    }

    /// The commits that `to` has and `from` has not, newest first.
    pub async fn commits_between(&self, from: &CommitId, to: &CommitId) -> Result<Vec<CommitInfo>, GitError> {
        let (from, to) = (from.clone(), to.clone());
        self.work(move |_, store| store.commits_between(&from, &to)).await
    }

    /// What one commit says about itself.
    pub async fn commit_info(&self, id: &CommitId) -> Result<CommitInfo, GitError> {
        let id = id.clone();
        self.work(move |_, store| {
            let commit = store.commit(&id)?;
            store.describe(&commit)
        })
        .await
    }

    /// Whether `revision` is or descends from `commit`, as far as the fetched history shows.
    pub async fn contains(&self, revision: &CommitId, commit: &CommitId) -> Result<bool, GitError> {
        let (revision, commit) = (revision.clone(), commit.clone());
        self.work(move |_, store| store.reaches(&revision, &commit)).await
    }

    /// Whether `revision` contains `commit` or has the same contents in all files that the change touches.
    ///
    /// The second is what a squash or rebase merge leaves: another commit id, the same blobs. A later commit that
    /// edits one of these files again makes it `Absent`: what is applied then is not what was planned.
    pub async fn contains_change(
        &self,
        revision: &CommitId,
        commit: &CommitId,
        changes: &[ContentChange],
    ) -> Result<Containment, GitError> {
        let (revision, commit, changes) = (revision.clone(), commit.clone(), changes.to_vec());
        self.work(move |_, store| store.contains_change(&revision, &commit, &changes)).await
    }
}

impl Store {
    fn diff(&self, from: &CommitId, to: &CommitId) -> Result<Vec<FileDiff>, GitError> {
        let doing = "compare the revisions";
        let old = self.commit(from)?.tree().map_err(GitError::git(doing))?;
        let new = self.commit(to)?.tree().map_err(GitError::git(doing))?;
        let mut options = DiffOptions::new();
        options.context_lines(3).ignore_submodules(true).max_size(4 * 1024 * 1024);
        let mut diff =
            self.git.diff_tree_to_tree(Some(&old), Some(&new), Some(&mut options)).map_err(GitError::git(doing))?;
        diff.find_similar(None).map_err(GitError::git(doing))?;
        let mut files = Vec::new();
        for index in 0..diff.deltas().len().min(FILES) {
            let Some(delta) = diff.get_delta(index) else { continue };
            let path_of = |file: git2::DiffFile<'_>| file.path().map(|path| path.to_string_lossy().into_owned());
            let before = path_of(delta.old_file());
            let path = path_of(delta.new_file()).or_else(|| before.clone()).unwrap_or_default();
            let patch = Patch::from_diff(&diff, index).map_err(GitError::git(doing))?;
            let (mut added, mut removed, mut text) = (0, 0, String::new());
            if let Some(mut patch) = patch {
                (_, added, removed) = patch.line_stats().map_err(GitError::git(doing))?;
                let buffer = patch.to_buf().map_err(GitError::git(doing))?;
                text = String::from_utf8_lossy(&buffer).into_owned();
            }
            let cut = text.len() > BYTES_PER_FILE;
            if cut {
                text.truncate(text.floor_char_boundary(BYTES_PER_FILE));
            }
            let renamed_from = before.filter(|before| *before != path);
            files.push(FileDiff { path, renamed_from, added, removed, text, cut });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn commits_between(&self, from: &CommitId, to: &CommitId) -> Result<Vec<CommitInfo>, GitError> {
        let doing = "walk the history";
        self.commit(from)?;
        let mut walk = self.git.revwalk().map_err(GitError::git(doing))?;
        walk.set_sorting(Sort::TOPOLOGICAL | Sort::TIME).map_err(GitError::git(doing))?;
        walk.push(self.commit(to)?.id()).map_err(GitError::git(doing))?;
        walk.hide(from.oid()?).map_err(GitError::git(doing))?;
        let mut commits = Vec::new();
        for id in walk {
            let commit = self.git.find_commit(id.map_err(GitError::git(doing))?).map_err(GitError::git(doing))?;
            commits.push(self.describe(&commit)?);
        }
        Ok(commits)
    }

    fn describe(&self, commit: &git2::Commit<'_>) -> Result<CommitInfo, GitError> {
        let doing = "read a commit";
        let tree = commit.tree().map_err(GitError::git(doing))?;
        // The oldest commit of a shallow history has parents that are not here: its own changes are not known.
        let parent = match commit.parent(0) {
            Ok(parent) => Some(parent.tree().map_err(GitError::git(doing))?),
            Err(_) => None,
        };
        let mut paths = Vec::new();
        if commit.parent_count() == 0 || parent.is_some() {
            let diff = self.git.diff_tree_to_tree(parent.as_ref(), Some(&tree), None).map_err(GitError::git(doing))?;
            for delta in diff.deltas() {
                for file in [delta.old_file(), delta.new_file()] {
                    paths.extend(file.path().map(|path| path.to_string_lossy().into_owned()));
                }
            }
            paths.sort();
            paths.dedup();
        }
        Ok(CommitInfo {
            id: commit.id().into(),
            parents: commit.parent_ids().map(CommitId::from).collect(),
            subject: untrusted::line(&String::from_utf8_lossy(commit.summary_bytes().unwrap_or_default()), 120),
            author: untrusted::line(&String::from_utf8_lossy(commit.author().name_bytes()), 80),
            committed: Timestamp::from_second(commit.time().seconds()).unwrap_or(Timestamp::UNIX_EPOCH),
            paths,
            forward_only: is_forward_only(&String::from_utf8_lossy(commit.message_bytes())),
        })
    }

    pub(super) fn reaches(&self, revision: &CommitId, commit: &CommitId) -> Result<bool, GitError> {
        let (revision, commit) = (self.commit(revision)?.id(), commit.oid()?);
        if revision == commit {
            return Ok(true);
        }
        if self.git.find_commit(commit).is_err() {
            return Ok(false);
        }
        self.git.graph_descendant_of(revision, commit).map_err(GitError::git("walk the history"))
    }

    /// Whether `head` certainly does not descend from `commit`: its whole history is here, or the two parted before.
    pub(super) fn has_lost(&self, head: &CommitId, commit: &CommitId) -> Result<bool, GitError> {
        if self.reaches(head, commit)? {
            return Ok(false);
        }
        let parted = self.git.merge_base(head.oid()?, commit.oid()?).is_ok();
        Ok(parted || !self.git.is_shallow())
    }

    fn contains_change(
        &self,
        revision: &CommitId,
        commit: &CommitId,
        changes: &[ContentChange],
    ) -> Result<Containment, GitError> {
        if self.reaches(revision, commit)? {
            return Ok(Containment::Ancestor);
        }
        let tree = self.commit(revision)?.tree().map_err(GitError::git("read the tree"))?;
        let mut same = !changes.is_empty();
        for change in changes {
            let there = tree.get_path(std::path::Path::new(change.path.as_str())).ok().map(|entry| entry.id());
            let planned = match &change.after {
                Some(text) => Some(
                    Oid::hash_object(git2::ObjectType::Blob, text.as_bytes())
                        .map_err(GitError::git("name the planned contents"))?,
                ),
                None => None,
            };
            same &= there == planned;
        }
        Ok(if same { Containment::SameContents } else { Containment::Absent })
    }
}

/// Whether a message says so on a line of its own; anything but a plain `false` counts, since the doubt is about harm.
fn is_forward_only(message: &str) -> bool {
    let trailer = |line: &str| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case("forward-only").then(|| !value.trim().eq_ignore_ascii_case("false"))
    };
    message.lines().filter_map(trailer).any(|marked| marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_only_commit_says_so_in_a_trailer() {
        assert!(is_forward_only("release 2.0\n\nmigrates the orders table\n\nForward-Only: true\n"));
        assert!(is_forward_only("release 2.0\n\nforward-only: yes, see ADR 7\n"));
        assert!(!is_forward_only("release 2.0\n\nForward-Only: false\n"));
        assert!(!is_forward_only("release 2.0, forward only in spirit\n"));
    }
}

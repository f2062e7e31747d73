//! What undoing one commit would change today.

use amend_policies::action::RevertedFile;
use amend_policies::plan::SourceFile;

use super::{CommitId, ContentChange, Repo, Store};
use crate::error::GitError;
use crate::path::RepoPath;

/// The files that reverting a commit changes, ready to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revert {
    pub reverted: CommitId,
    pub onto: CommitId,
    /// By path; empty when the commit's changes are gone already.
    pub changes: Vec<ContentChange>,
}

impl Revert {
    /// The changes as a plan reads them.
    pub fn files(&self) -> Vec<RevertedFile> {
        let file = |change: &ContentChange, text: &Option<String>| {
            text.as_ref().map(|text| SourceFile::new(change.path.as_str(), text.as_str()))
        };
        let read = |change: &ContentChange| RevertedFile {
            path: change.path.as_str().to_owned(),
            now: file(change, &change.before),
            then: file(change, &change.after),
        };
        self.changes.iter().map(read).collect()
    }
}

impl Repo {
    /// Computes the revert of `guilty` on top of `head`, as a three-way merge on trees; nothing is written.
    ///
    /// Later changes to other lines are kept. Refuses with `RevertConflict` when they overlap, and with
    /// `FileRefused` when a file is not one that Amend may edit. A merge commit is reverted against its first parent.
    pub async fn revert(&self, guilty: &CommitId, head: &CommitId) -> Result<Revert, GitError> {
        let (guilty, head) = (guilty.clone(), head.clone());
        self.work(move |_, store| store.revert(&guilty, &head)).await
    }
}

impl Store {
    fn revert(&self, guilty: &CommitId, head: &CommitId) -> Result<Revert, GitError> {
        let doing = "compute the revert";
        let guilty_commit = self.commit(guilty)?;
        let onto = self.commit(head)?;
        if guilty_commit.parent_count() > 0 && guilty_commit.parent(0).is_err() {
            return Err(GitError::UnknownRevision { revision: format!("the parent of {guilty}"), depth: self.depth });
        }
        let mainline = u32::from(guilty_commit.parent_count() > 1);
        let mut index = self.git.revert_commit(&guilty_commit, &onto, mainline, None).map_err(GitError::git(doing))?;
        if index.has_conflicts() {
            let mut paths = Vec::new();
            for conflict in index.conflicts().map_err(GitError::git(doing))? {
                let conflict = conflict.map_err(GitError::git(doing))?;
                let side = conflict.our.or(conflict.their).or(conflict.ancestor);
                paths.extend(side.map(|entry| String::from_utf8_lossy(&entry.path).into_owned()));
            }
            paths.sort();
            paths.dedup();
            return Err(GitError::RevertConflict { revision: guilty.short().to_owned(), paths });
        }
        let after = index.write_tree_to(&self.git).map_err(GitError::git(doing))?;
        let after = self.git.find_tree(after).map_err(GitError::git(doing))?;
        let before = onto.tree().map_err(GitError::git(doing))?;
        let diff = self.git.diff_tree_to_tree(Some(&before), Some(&after), None).map_err(GitError::git(doing))?;
        let mut changes = Vec::new();
        for delta in diff.deltas() {
            let path = delta.new_file().path().or_else(|| delta.old_file().path());
            let path = RepoPath::parse(&path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default())?;
            let before = self.text_in(&before, &path)?;
            let after = self.text_in(&after, &path)?;
            changes.push(ContentChange { path, before, after });
        }
        changes.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Revert { reverted: guilty.clone(), onto: head.clone(), changes })
    }

    fn text_in(&self, tree: &git2::Tree<'_>, path: &RepoPath) -> Result<Option<String>, GitError> {
        match tree.get_path(std::path::Path::new(path.as_str())) {
            Ok(entry) => self.editable_text(path, &entry).map(Some),
            Err(_) => Ok(None),
        }
    }
}

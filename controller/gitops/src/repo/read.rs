//! Reading files at a revision, refusing those that Amend must not edit.

use amend_policies::plan::{BlobId, SourceFile};
use git2::ObjectType;

use super::{CommitId, Repo, Store};
use crate::error::GitError;
use crate::path::RepoPath;

/// A manifest beyond this size is not written by hand, and no reviewer would see what changed.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Entries visited at most in one listing, and how deep: a repository beyond this is not one that people review.
const LARGEST_LISTING: usize = 50_000;
const DEEPEST_FOLDER: usize = 64;

/// One file as it is at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAt {
    pub path: RepoPath,
    pub revision: CommitId,
    /// Git's id of the contents: the pre-image that a commit is checked against.
    pub blob: String,
    pub text: String,
}

impl From<FileAt> for SourceFile {
    fn from(file: FileAt) -> Self {
        Self { path: file.path.as_str().to_owned(), blob: BlobId::from_hex(file.blob), text: file.text }
    }
}

/// A file in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: RepoPath,
    pub blob: String,
    /// Symlinks and submodules are listed, so that they can be refused by name, and never followed.
    pub plain: bool,
}

impl Repo {
    /// The text of a file at a revision.
    ///
    /// Refuses symlinks, submodules, LFS pointers, encrypted files, binary files and files above 1 MiB.
    pub async fn file(&self, at: &CommitId, path: &RepoPath) -> Result<FileAt, GitError> {
        let (at, path) = (at.clone(), path.clone());
        self.work(move |_, store| store.file(&at, &path)).await
    }

    /// The texts of several files in one turn of the worker, each with its own refusal.
    pub async fn texts(
        &self,
        at: &CommitId,
        paths: Vec<RepoPath>,
    ) -> Result<Vec<(RepoPath, Result<String, GitError>)>, GitError> {
        let at = at.clone();
        self.work(move |_, store| {
            store.commit(&at)?;
            let read = |path: RepoPath| (path.clone(), store.file(&at, &path).map(|file| file.text));
            Ok(paths.into_iter().map(read).collect())
        })
        .await
    }

    /// Every file below a folder at a revision, in order of path.
    pub async fn list(&self, at: &CommitId, folder: &RepoPath) -> Result<Vec<Entry>, GitError> {
        let (at, folder) = (at.clone(), folder.clone());
        self.work(move |_, store| store.list(&at, &folder)).await
    }
}

impl Store {
    fn file(&self, at: &CommitId, path: &RepoPath) -> Result<FileAt, GitError> {
        let tree = self.commit(at)?.tree().map_err(GitError::git("read the tree"))?;
        let entry = tree
            .get_path(std::path::Path::new(path.as_str()))
            .map_err(|_| GitError::NoFile { path: path.to_string(), revision: at.to_string() })?;
        let text = self.editable_text(path, &entry)?;
        Ok(FileAt { path: path.clone(), revision: at.clone(), blob: entry.id().to_string(), text })
    }

    /// The text of a tree's entry, if it is a file that Amend may edit.
    pub(super) fn editable_text(&self, path: &RepoPath, entry: &git2::TreeEntry<'_>) -> Result<String, GitError> {
        let refused = |why: &str| GitError::FileRefused { path: path.to_string(), why: why.to_owned() };
        if !is_plain(entry.filemode()) {
            return Err(refused("it is a symlink, a submodule or a folder"));
        }
        let odb = self.git.odb().map_err(GitError::git("open the object store"))?;
        let (size, _) = odb.read_header(entry.id()).map_err(GitError::git(format!("read {path}")))?;
        if size as u64 > LARGEST_FILE {
            return Err(refused("it is larger than 1 MiB"));
        }
        let blob = self.git.find_blob(entry.id()).map_err(GitError::git(format!("read {path}")))?;
        let text = std::str::from_utf8(blob.content()).map_err(|_| refused("it is not UTF-8 text"))?.to_owned();
        match why_not_editable(&text) {
            Some(why) => Err(refused(why)),
            None => Ok(text),
        }
    }

    fn list(&self, at: &CommitId, folder: &RepoPath) -> Result<Vec<Entry>, GitError> {
        let missing = || GitError::NoFile { path: folder.to_string(), revision: at.to_string() };
        let root = self.commit(at)?.tree().map_err(GitError::git("read the tree"))?;
        let tree = if folder.is_root() {
            root
        } else {
            let entry = root.get_path(std::path::Path::new(folder.as_str())).map_err(|_| missing())?;
            self.git.find_tree(entry.id()).map_err(|_| missing())?
        };
        let mut walk = Walk { found: Vec::new(), seen: 0 };
        self.walk(&tree, folder, 0, &mut walk)?;
        walk.found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(walk.found)
    }

    fn walk(&self, tree: &git2::Tree<'_>, folder: &RepoPath, depth: usize, walk: &mut Walk) -> Result<(), GitError> {
        let refused = |why: String| GitError::FileRefused { path: folder.to_string(), why };
        if depth > DEEPEST_FOLDER {
            return Err(refused(format!("its folders are more than {DEEPEST_FOLDER} deep")));
        }
        for entry in tree {
            // Folders count too: a few small trees that name each other can stand for billions of paths.
            walk.seen += 1;
            if walk.seen > LARGEST_LISTING {
                return Err(refused(format!("the listing holds more than {LARGEST_LISTING} entries")));
            }
            // A name that is not a path of ours is not a manifest of anybody's; it stays unseen and untouched.
            let Some(path) = entry.name().ok().and_then(|name| child(folder, name)) else { continue };
            match entry.kind() {
                Some(ObjectType::Tree) => {
                    let below = self.git.find_tree(entry.id()).map_err(GitError::git(format!("list {path}")))?;
                    self.walk(&below, &path, depth + 1, walk)?;
                }
                _ => walk.found.push(Entry { path, blob: entry.id().to_string(), plain: is_plain(entry.filemode()) }),
            }
        }
        Ok(())
    }
}

struct Walk {
    found: Vec<Entry>,
    seen: usize,
}

/// The path of a tree entry; `None` for a name that leads elsewhere (`..`, `.git`, one with a slash in it).
fn child(folder: &RepoPath, name: &str) -> Option<RepoPath> {
    let plain = RepoPath::parse(name).ok().filter(|parsed| parsed.as_str() == name)?;
    folder.join(plain.as_str()).ok()
}

fn is_plain(mode: i32) -> bool {
    matches!(mode, 0o100_644 | 0o100_755 | 0o100_664)
}

/// Why a file must not be edited although it is text.
fn why_not_editable(text: &str) -> Option<&'static str> {
    if text.starts_with("version https://git-lfs.github.com/spec/") {
        return Some("it is a Git LFS pointer");
    }
    if text.contains('\0') {
        return Some("it is a binary file");
    }
    if text.starts_with("$ANSIBLE_VAULT;") || text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----") {
        return Some("it is encrypted");
    }
    let sops =
        text.lines().any(|line| line.trim_end() == "sops:") && text.contains("mac:") && text.contains("lastmodified:");
    if sops || text.contains("ENC[AES256_GCM,") {
        return Some("it is encrypted with SOPS");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_what_they_seem_are_refused() {
        assert!(why_not_editable("version https://git-lfs.github.com/spec/v1\noid sha256:0\n").is_some());
        assert!(why_not_editable("data: ENC[AES256_GCM,data:x]\nsops:\n    mac: y\n").is_some());
        assert!(why_not_editable("a\0b").is_some());
        assert!(why_not_editable("kind: Deployment\n# sops: not here\n").is_none());
    }
}

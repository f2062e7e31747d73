//! A path inside a repository that cannot lead out of it.

use std::fmt;

use crate::error::GitError;

/// A relative, normalised path with `/` between its parts; empty means the root.
///
/// No `..`, no `.git` in any spelling that some file system takes for it, no control characters or
/// backslashes: such a path is refused, not repaired.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoPath(String);

impl RepoPath {
    /// The root of the repository.
    pub fn root() -> Self {
        Self(String::new())
    }

    /// Reads a path as people and Flux write it: `./apps/shop`, `apps/shop/`, `/apps/shop` and `apps/shop` are one.
    pub fn parse(text: &str) -> Result<Self, GitError> {
        let refused = |why: &str| GitError::FileRefused { path: text.escape_debug().to_string(), why: why.into() };
        if text.len() > 1024 {
            return Err(refused("the path is longer than 1024 bytes"));
        }
        let mut parts = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => return Err(refused("the path leads out of its folder")),
                _ if part.chars().any(|c| c.is_control() || c == '\\' || c == ':') => {
                    return Err(refused("the path has characters that are not allowed"));
                }
                _ if names_git_folder(part) => return Err(refused("the path names Git's own folder")),
                _ => parts.push(part),
            }
        }
        Ok(Self(parts.join("/")))
    }

    /// The path of `relative` seen from this folder, `..` allowed as long as it stays inside the repository.
    pub fn join(&self, relative: &str) -> Result<Self, GitError> {
        let refused = |why: &str| GitError::FileRefused { path: relative.escape_debug().to_string(), why: why.into() };
        if relative.starts_with('/') {
            return Err(refused("an absolute path inside a repository"));
        }
        let mut parts: Vec<&str> = self.0.split('/').filter(|part| !part.is_empty()).collect();
        for part in relative.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or_else(|| refused("the path leads out of the repository"))?;
                }
                _ => parts.push(part),
            }
        }
        Self::parse(&parts.join("/"))
    }

    /// The folder that holds this path; the root's is the root.
    pub fn parent(&self) -> Self {
        Self(self.0.rsplit_once('/').map_or_else(String::new, |(folder, _)| folder.to_owned()))
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or("")
    }

    /// Whether this path is `folder` or lies in it, compared part by part: `apps/shopping` is not inside `apps/shop`.
    pub fn is_inside(&self, folder: &RepoPath) -> bool {
        folder.0.is_empty()
            || self.0 == folder.0
            || self.0.strip_prefix(&folder.0).is_some_and(|rest| rest.starts_with('/'))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

/// `.git` as HFS+ (ignorable code points) and NTFS (short names, trailing dots and spaces) would read it.
fn names_git_folder(part: &str) -> bool {
    let seen: String = part
        .chars()
        .filter(|c| !matches!(*c as u32, 0x200c..=0x200f | 0x202a..=0x202e | 0x206a..=0x206f | 0xfeff))
        .collect();
    let seen = seen.trim_end_matches(['.', ' ']).to_ascii_lowercase();
    seen == ".git" || seen == "git~1"
}

impl fmt::Display for RepoPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        for text in ["./apps/shop", "apps/shop/", "/apps//shop", "apps/./shop"] {
            assert_eq!(RepoPath::parse(text).unwrap().as_str(), "apps/shop");
        }
    }

    #[test]
    fn paths_that_lead_out_or_into_git_are_refused() {
        for text in [
            "../x",
            "a/../../b",
            ".git/config",
            "a/.GIT/hooks",
            "a/git~1/x",
            ".g\u{200c}it/x",
            ".git. /x",
            "a\\b",
            "a\nb",
            "c:x",
        ] {
            assert!(RepoPath::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_relative_path_may_climb_but_not_escape() {
        let overlay = RepoPath::parse("apps/overlays/prod").unwrap();
        assert_eq!(overlay.join("../../base/app.yaml").unwrap().as_str(), "apps/base/app.yaml");
        assert!(overlay.join("../../../../etc").is_err());
        assert!(overlay.join("/etc").is_err());
    }

    #[test]
    fn a_folder_holds_whole_parts_only() {
        let shop = RepoPath::parse("apps/shop").unwrap();
        assert!(RepoPath::parse("apps/shop/a.yaml").unwrap().is_inside(&shop));
        assert!(!RepoPath::parse("apps/shopping/a.yaml").unwrap().is_inside(&shop));
    }
}

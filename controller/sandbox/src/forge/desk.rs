//! What the forge remembers about a repository: pull requests, reviews, statuses, comments, labels, rules.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::git::{Author, GitError, MergeStyle, Repo};

/// Why the forge refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgeRefusal {
    /// HTTP status.
    pub code: u16,
    /// What is said.
    pub message: String,
}

impl ForgeRefusal {
    /// A refusal with this status.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<GitError> for ForgeRefusal {
    fn from(error: GitError) -> Self {
        match &error {
            GitError::Missing { .. } => Self::new(404, error.to_string()),
            GitError::Conflict { .. } => Self::new(409, error.to_string()),
            GitError::Git { source, .. } => Self::new(500, format!("{error}: {}", source.message())),
        }
    }
}

/// One commit status.
#[derive(Clone, Debug)]
pub struct Status {
    pub id: u64,
    pub context: String,
    /// `pending`, `success`, `failure`, `error` or `warning`.
    pub state: String,
    pub description: String,
    pub target_url: String,
    pub by: String,
    pub at: Timestamp,
}

/// One comment on a pull request.
#[derive(Clone, Debug)]
pub struct Comment {
    pub id: u64,
    pub issue: u64,
    pub by: String,
    pub body: String,
    pub created: Timestamp,
    pub updated: Timestamp,
}

/// One review.
#[derive(Clone, Debug)]
pub struct Review {
    pub id: u64,
    pub by: String,
    /// `APPROVED`, `REQUEST_CHANGES` or `COMMENT`.
    pub state: String,
    pub body: String,
    pub commit: String,
    pub at: Timestamp,
}

/// One label.
#[derive(Clone, Debug)]
pub struct Label {
    pub id: u64,
    pub name: String,
    pub colour: String,
}

/// How a pull request was merged.
#[derive(Clone, Debug)]
pub struct Merged {
    pub commit: String,
    pub by: String,
    pub at: Timestamp,
}

/// One pull request.
#[derive(Clone, Debug)]
pub struct Pull {
    pub number: u64,
    pub title: String,
    pub body: String,
    pub by: String,
    pub head: String,
    pub base: String,
    /// Last known commit of the head branch.
    pub head_sha: String,
    /// Commit at which the branches parted.
    pub merge_base: String,
    pub open: bool,
    pub merged: Option<Merged>,
    pub labels: BTreeSet<u64>,
    pub reviews: Vec<Review>,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub closed: Option<Timestamp>,
}

impl Pull {
    /// Whether the title says that it is a draft, as Gitea reads it.
    pub fn is_draft(&self) -> bool {
        ["WIP:", "[WIP]"]
            .iter()
            .any(|prefix| self.title.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
    }

    /// `open`, `closed` or `merged`.
    pub fn state(&self) -> &'static str {
        match (&self.merged, self.open) {
            (Some(_), _) => "merged",
            (None, true) => "open",
            (None, false) => "closed",
        }
    }
}

/// What must hold before a branch takes a merge.
#[derive(Clone, Debug, Default)]
pub struct Protection {
    /// Approvals of the current head that are needed.
    pub approvals: u32,
    /// Status contexts that must be `success`.
    pub contexts: BTreeSet<String>,
    /// Who may merge; empty: whoever may write.
    pub mergers: BTreeSet<String>,
}

/// One repository on the forge.
#[derive(Debug)]
pub struct Desk {
    /// Number of the repository.
    pub id: u64,
    pub owner: String,
    pub name: String,
    pub git: Repo,
    pub pulls: BTreeMap<u64, Pull>,
    pub statuses: BTreeMap<String, Vec<Status>>,
    pub comments: Vec<Comment>,
    pub labels: Vec<Label>,
    pub protections: BTreeMap<String, Protection>,
    pub default_merge_style: &'static str,
    last: u64,
}

impl Desk {
    /// A repository without any pull request.
    pub fn new(id: u64, owner: &str, name: &str, git: Repo) -> Self {
        Self {
            id,
            owner: owner.into(),
            name: name.into(),
            git,
            pulls: BTreeMap::new(),
            statuses: BTreeMap::new(),
            comments: Vec::new(),
            labels: Vec::new(),
            protections: BTreeMap::new(),
            default_merge_style: "merge",
            last: 0,
        }
    }

    /// A number that nothing else here has.
    pub fn next_id(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Looks where the head branches of open pull requests are now.
    pub fn refresh(&mut self, now: Timestamp) -> Result<(), ForgeRefusal> {
        let branches = self.git.branches()?;
        for pull in self.pulls.values_mut().filter(|pull| pull.open) {
            if let Some(head) = branches.get(&pull.head).filter(|head| **head != pull.head_sha) {
                pull.head_sha = head.clone();
                pull.updated = now;
                if let Ok(base) = self.git.merge_base(&pull.base, head) {
                    pull.merge_base = base;
                }
            }
        }
        Ok(())
    }

    /// Opens a pull request; 409 when there is an open one for these branches.
    pub fn open(
        &mut self,
        by: &str,
        title: &str,
        body: &str,
        head: &str,
        base: &str,
        now: Timestamp,
    ) -> Result<u64, ForgeRefusal> {
        if title.trim().is_empty() {
            return Err(ForgeRefusal::new(422, "[Title]: Required"));
        }
        let head_sha = self.git.head(head)?;
        let merge_base = self.git.merge_base(&self.git.head(base)?, &head_sha)?;
        if let Some(other) = self.pulls.values().find(|pull| pull.open && pull.head == head && pull.base == base) {
            let message = format!(
                "pull request already exists for these targets [id: {}, head_branch: {head}, base_branch: {base}]",
                other.number
            );
            return Err(ForgeRefusal::new(409, message));
        }
        let number = self.pulls.keys().next_back().map_or(1, |last| last + 1);
        self.pulls.insert(
            number,
            Pull {
                number,
                title: title.into(),
                body: body.into(),
                by: by.into(),
                head: head.into(),
                base: base.into(),
                head_sha,
                merge_base,
                open: true,
                merged: None,
                labels: BTreeSet::new(),
                reviews: Vec::new(),
                created: now,
                updated: now,
                closed: None,
            },
        );
        Ok(number)
    }

    /// One pull request.
    pub fn pull(&self, number: u64) -> Result<&Pull, ForgeRefusal> {
        self.pulls.get(&number).ok_or_else(|| ForgeRefusal::new(404, "pull request does not exist"))
    }

    /// One pull request, to be changed.
    pub fn pull_mut(&mut self, number: u64, now: Timestamp) -> Result<&mut Pull, ForgeRefusal> {
        let pull = self.pulls.get_mut(&number).ok_or_else(|| ForgeRefusal::new(404, "pull request does not exist"))?;
        pull.updated = now;
        Ok(pull)
    }

    /// Closes or opens again; what is merged stays merged.
    pub fn set_open(&mut self, number: u64, open: bool, now: Timestamp) -> Result<(), ForgeRefusal> {
        let pull = self.pull_mut(number, now)?;
        if pull.merged.is_some() {
            return Err(ForgeRefusal::new(412, "cannot change state of this pull request, it was already merged"));
        }
        if pull.open != open {
            pull.open = open;
            pull.closed = (!open).then_some(now);
        }
        Ok(())
    }

    /// Why it cannot be merged now, if so.
    pub fn obstacle(&self, pull: &Pull, by: &str) -> Option<ForgeRefusal> {
        if pull.merged.is_some() || !pull.open {
            return Some(ForgeRefusal::new(405, "the pull request is not open"));
        }
        if pull.is_draft() {
            return Some(ForgeRefusal::new(405, "Work in progress PRs cannot be merged"));
        }
        let protection = self.protections.get(&pull.base).cloned().unwrap_or_default();
        if !protection.mergers.is_empty() && !protection.mergers.contains(by) {
            return Some(ForgeRefusal::new(405, "User not allowed to merge PR"));
        }
        let approvals: BTreeSet<&str> = pull
            .reviews
            .iter()
            .filter(|review| review.state == "APPROVED" && review.commit == pull.head_sha)
            .map(|review| review.by.as_str())
            .collect();
        if u32::try_from(approvals.len()).unwrap_or(u32::MAX) < protection.approvals {
            return Some(ForgeRefusal::new(405, "Does not have enough approvals"));
        }
        let latest = self.latest_statuses(&pull.head_sha);
        if let Some(missing) =
            protection.contexts.iter().find(|name| latest.get(*name).is_none_or(|status| status.state != "success"))
        {
            return Some(ForgeRefusal::new(405, format!("Not all required status checks successful: {missing}")));
        }
        if !self.git.mergeable(&pull.base, &pull.head_sha).unwrap_or(false) {
            return Some(ForgeRefusal::new(405, "Please try again later: the branches conflict"));
        }
        None
    }

    /// Merges a pull request at its head; the caller has checked rights.
    pub fn merge(
        &mut self,
        number: u64,
        by: &Author<'_>,
        style: MergeStyle,
        message: &str,
        head: Option<&str>,
        now: Timestamp,
    ) -> Result<String, ForgeRefusal> {
        let pull = self.pull(number)?.clone();
        if head.is_some_and(|head| head != pull.head_sha) {
            return Err(ForgeRefusal::new(409, "head out of date"));
        }
        if let Some(obstacle) = self.obstacle(&pull, by.name) {
            return Err(obstacle);
        }
        let title = match style {
            MergeStyle::Squash => format!("{} (#{number})", pull.title),
            MergeStyle::Merge | MergeStyle::Rebase => {
                format!("Merge pull request '{}' (#{number}) from {} into {}", pull.title, pull.head, pull.base)
            }
        };
        let text = if message.trim().is_empty() { title } else { format!("{title}\n\n{message}") };
        let commit = self.git.merge(&pull.base, &pull.head_sha, style, &text, by, now)?;
        let pull = self.pull_mut(number, now)?;
        pull.open = false;
        pull.closed = Some(now);
        pull.merged = Some(Merged { commit: commit.clone(), by: by.name.to_owned(), at: now });
        Ok(commit)
    }

    /// The latest status of each context of a commit.
    pub fn latest_statuses(&self, sha: &str) -> BTreeMap<String, Status> {
        let mut latest = BTreeMap::new();
        for status in self.statuses.get(sha).into_iter().flatten() {
            latest.insert(status.context.clone(), status.clone());
        }
        latest
    }
}

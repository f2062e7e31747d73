//! The shapes that Gitea answers in, and what they mean.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;

use crate::forge::{BRANCHES, CommitStatus, PullRequest, PullRequestState, Review, ReviewVerdict, StatusVerdict};
use crate::repo::CommitId;

/// A title without Gitea's draft prefix.
pub fn bare_title(title: &str) -> &str {
    for prefix in ["WIP:", "[WIP]"] {
        if title.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)) {
            return title[prefix.len()..].trim_start();
        }
    }
    title
}

#[derive(Deserialize)]
pub struct Pull {
    pub number: u64,
    pub html_url: String,
    pub title: String,
    #[serde(default)]
    pub body: String,
    pub state: String,
    #[serde(default)]
    pub merged: bool,
    #[serde(default)]
    pub mergeable: bool,
    pub merge_commit_sha: Option<String>,
    pub merged_by: Option<User>,
    pub merged_at: Option<Timestamp>,
    pub closed_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub head: Side,
    pub base: Side,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub labels: Vec<Label>,
    pub user: Option<User>,
}

#[derive(Deserialize)]
pub struct Side {
    #[serde(default)]
    pub label: String,
    #[serde(rename = "ref", default)]
    pub reference: String,
    #[serde(default)]
    pub sha: String,
    pub repo_id: i64,
}

impl Side {
    /// A deleted branch is `refs/pull/N/head` from then on; its name stays in the label.
    pub fn branch(&self) -> &str {
        if self.reference.starts_with("refs/pull/") || self.reference.is_empty() {
            &self.label
        } else {
            &self.reference
        }
    }
}

impl Pull {
    pub fn draft(&self) -> bool {
        bare_title(&self.title) != self.title
    }

    pub fn label_names(&self) -> BTreeSet<String> {
        self.labels.iter().map(|label| label.name.clone()).collect()
    }

    /// From a branch of Amend's in this very repository: a fork may name its branches as it likes.
    pub fn is_ours(&self) -> bool {
        self.head.repo_id == self.base.repo_id && self.head.branch().starts_with(BRANCHES)
    }

    pub fn read(self) -> Option<PullRequest> {
        let state = if self.merged {
            PullRequestState::Merged {
                commit: self.merge_commit_sha.as_deref().and_then(|id| CommitId::parse(id).ok()),
                by: self.merged_by.as_ref().map(|user| user.login.clone()),
                at: self.merged_at,
            }
        } else if self.state == "open" {
            PullRequestState::Open
        } else {
            PullRequestState::Closed { at: self.closed_at }
        };
        Some(PullRequest {
            number: self.number,
            title: bare_title(&self.title).to_owned(),
            draft: self.draft(),
            state,
            branch: self.head.branch().to_owned(),
            base: self.base.branch().to_owned(),
            head: CommitId::parse(&self.head.sha).ok()?,
            labels: self.label_names(),
            author: self.user.map(|user| user.login).unwrap_or_default(),
            created: self.created_at,
            updated: self.updated_at,
            url: self.html_url,
            body: self.body,
        })
    }
}

#[derive(Deserialize)]
pub struct User {
    pub login: String,
}

#[derive(Deserialize)]
pub struct Label {
    pub id: u64,
    pub name: String,
}

#[derive(Deserialize)]
pub struct Comment {
    pub id: u64,
    #[serde(default)]
    pub body: String,
}

#[derive(Deserialize)]
pub struct Settings {
    pub default_merge_style: Option<String>,
    #[serde(default)]
    pub archived: bool,
    /// What the account may do here.
    pub permissions: Option<Permissions>,
}

#[derive(Deserialize)]
pub struct Permissions {
    pub push: bool,
}

#[derive(Deserialize)]
pub struct Branch {
    #[serde(default)]
    pub protected: bool,
    #[serde(default)]
    pub required_approvals: u32,
    #[serde(default)]
    pub enable_status_check: bool,
    pub status_check_contexts: Option<BTreeSet<String>>,
    #[serde(default)]
    pub user_can_merge: bool,
}

#[derive(Deserialize)]
pub struct RawReview {
    pub user: Option<User>,
    pub state: String,
    pub commit_id: Option<String>,
    #[serde(default)]
    pub dismissed: bool,
    pub submitted_at: Option<Timestamp>,
}

impl RawReview {
    pub fn read(self) -> Review {
        let verdict = match (self.dismissed, self.state.as_str()) {
            (false, "APPROVED") => ReviewVerdict::Approved,
            (false, "REQUEST_CHANGES") => ReviewVerdict::ChangesRequested,
            _ => ReviewVerdict::Neutral,
        };
        Review {
            by: self.user.map(|user| user.login).unwrap_or_default(),
            verdict,
            commit: self.commit_id.as_deref().and_then(|id| CommitId::parse(id).ok()),
            at: self.submitted_at,
        }
    }
}

#[derive(Deserialize)]
pub struct RawStatus {
    pub id: u64,
    #[serde(default)]
    pub context: String,
    pub status: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub target_url: String,
}

impl RawStatus {
    pub fn read(self) -> CommitStatus {
        let verdict = match self.status.as_str() {
            "success" => StatusVerdict::Success,
            "failure" | "warning" => StatusVerdict::Failure,
            "pending" => StatusVerdict::Pending,
            _ => StatusVerdict::Error,
        };
        let url = Some(self.target_url).filter(|url| !url.is_empty());
        CommitStatus { context: self.context, verdict, description: self.description, url }
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
}

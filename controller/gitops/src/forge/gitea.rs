//! Gitea and Forgejo, API v1.
//!
//! A draft is a title that begins with `WIP: `; there are commit statuses but no checks; one pull request per pair of
//! branches (409 on a second); merging takes the expected head (`head_commit_id`).

mod answer;
mod runs;

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt;
use jiff::Timestamp;
use reqwest::Method;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use url::Url;

use super::http::Api;
use super::{
    BranchRules, CommitStatus, FailedRun, Forge, ForgeError, NewPullRequest, Observation, PullRequest, PullRequestEdit,
    PullRequestState, Reply, StatusVerdict,
};
use crate::access::GitAccess;
use crate::repo::CommitId;
use crate::untrusted;
use answer::{Branch, Comment, Label, Permissions, Pull, RawReview, RawStatus, Settings, bare_title};

const DRAFT: &str = "WIP: ";

/// Gitea's own maximum by default.
const PAGE: usize = 50;

/// Pages read at most when listing: 1,000 pull requests are more than anybody's seven days.
const PAGES: usize = 20;

/// The colour of labels that Amend makes: quiet.
const LABEL_COLOUR: &str = "#5b7083";

/// One repository on a Gitea or Forgejo server.
#[derive(Debug)]
pub struct Gitea {
    api: Api,
    owner: String,
    repository: String,
}

impl Gitea {
    /// The forge that serves the Git repository of `access`: `https://host[/prefix]/owner/repository[.git]`.
    ///
    /// Uses `token` when there is one, else the Git login (Gitea takes a token as password there as well). Either needs
    /// to read and write the repository's code, pull requests and issues, nothing else.
    pub fn serving(access: &GitAccess, token: Option<&SecretString>) -> Result<Self, ForgeError> {
        let mut base = access.url.clone();
        let parts: Vec<String> = base.path().split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let front = parts.len().saturating_sub(2);
        base.set_path(&parts[..front].join("/"));
        Self::at(base, access, token)
    }

    /// As `serving`, for a forge whose front page is not where the Git URL suggests.
    pub fn at(base: Url, access: &GitAccess, token: Option<&SecretString>) -> Result<Self, ForgeError> {
        let forge = access.repository();
        let mut parts = access.url.path().trim_matches('/').rsplit('/');
        let (Some(repository), Some(owner)) = (parts.next(), parts.next()) else {
            let why = "the repository URL does not end in owner/repository".into();
            return Err(ForgeError::BadAddress { forge, why });
        };
        let repository = repository.trim_end_matches(".git");
        let authorization = match token {
            Some(token) => HeaderValue::from_str(&format!("token {}", token.expose_secret())).ok(),
            None => access.authorization(),
        };
        let mut authorization = authorization.ok_or_else(|| ForgeError::Unauthorized { forge: forge.clone() })?;
        authorization.set_sensitive(true);
        let mut api = base;
        if let Ok(mut parts) = api.path_segments_mut() {
            parts.pop_if_empty().extend(["api", "v1"]);
        }
        let api = Api::new(forge, api, authorization, access.allow_private, access.authority.as_deref())?;
        Ok(Self { api, owner: owner.to_owned(), repository: repository.to_owned() })
    }

    fn path<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        [&["repos", self.owner.as_str(), self.repository.as_str()], rest].concat()
    }

    async fn listed(&self, since: Timestamp) -> Result<Vec<PullRequest>, ForgeError> {
        let mut found = Vec::new();
        for state in ["open", "closed"] {
            for page in 1..=PAGES {
                let (number, size) = (page.to_string(), PAGE.to_string());
                let query = [("state", state), ("sort", "recentupdate"), ("page", &number), ("limit", &size)];
                let pulls: Vec<Pull> = self.api.get("list pull requests", &self.path(&["pulls"]), &query).await?;
                let last = pulls.len() < PAGE;
                let older = state == "closed" && pulls.iter().any(|pull| pull.updated_at < since);
                found.extend(pulls.into_iter().filter(|pull| pull.is_ours()).filter_map(Pull::read));
                if last || older {
                    break;
                }
            }
        }
        found.retain(|pull| pull.state == PullRequestState::Open || pull.updated >= since);
        found.sort_by_key(|pull| std::cmp::Reverse(pull.number));
        Ok(found)
    }

    async fn pull(&self, number: u64) -> Result<Pull, ForgeError> {
        self.api.get("read the pull request", &self.path(&["pulls", &number.to_string()]), &[]).await
    }

    fn understood(&self, pull: Pull) -> Result<PullRequest, ForgeError> {
        pull.read().ok_or_else(|| ForgeError::Malformed {
            forge: self.api.forge.clone(),
            doing: "read the pull request".into(),
            source: serde::de::Error::custom("the head is not a commit id"),
        })
    }

    async fn opened(&self, new: NewPullRequest) -> Result<PullRequest, ForgeError> {
        let title = if new.draft { format!("{DRAFT}{}", new.title) } else { new.title };
        let mut request = json!({ "title": title, "body": new.body, "head": new.branch, "base": new.base });
        // A label that cannot be made is no reason to leave an incident without its pull request.
        match self.label_ids(&new.labels).await {
            Ok(ids) => request["labels"] = json!(ids.into_values().collect::<Vec<_>>()),
            Err(error) => tracing::warn!(%error, "opening without labels"),
        }
        let path = self.path(&["pulls"]);
        let pull = self.api.write("open a pull request", Method::POST, &path, &request).await?;
        self.understood(pull)
    }

    async fn updated(&self, number: u64, edit: PullRequestEdit) -> Result<PullRequest, ForgeError> {
        let text = number.to_string();
        let mut pull = self.pull(number).await?;
        let draft = edit.draft.unwrap_or(pull.draft());
        let bare = edit.title.as_deref().unwrap_or_else(|| bare_title(&pull.title));
        let title = if draft { format!("{DRAFT}{bare}") } else { bare.to_owned() };
        let mut changes = json!({});
        if title != pull.title {
            changes["title"] = json!(title);
        }
        if let Some(body) = edit.body.filter(|body| *body != pull.body) {
            changes["body"] = json!(body);
        }
        if changes.as_object().is_some_and(|changes| !changes.is_empty()) {
            let path = self.path(&["pulls", &text]);
            pull = self.api.write("update the pull request", Method::PATCH, &path, &changes).await?;
        }
        if let Some(wanted) = edit.labels {
            let there = pull.label_names();
            let missing: BTreeSet<String> = wanted.difference(&there).cloned().collect();
            if !missing.is_empty() {
                let ids: Vec<u64> = self.label_ids(&missing).await?.into_values().collect();
                let path = self.path(&["issues", &text, "labels"]);
                let _: Value = self.api.write("label it", Method::POST, &path, &json!({ "labels": ids })).await?;
            }
            for label in pull.labels.iter().filter(|l| l.name.starts_with("amend") && !wanted.contains(&l.name)) {
                let id = label.id.to_string();
                let path = self.path(&["issues", &text, "labels", &id]);
                let _: Value = self.api.write("take off a label", Method::DELETE, &path, &Value::Null).await?;
            }
            pull = self.pull(number).await?;
        }
        self.understood(pull)
    }

    async fn label_ids(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, u64>, ForgeError> {
        let mut ids = BTreeMap::new();
        if names.is_empty() {
            return Ok(ids);
        }
        let size = PAGE.to_string();
        for page in 1..=PAGES {
            let number = page.to_string();
            let query = [("page", number.as_str()), ("limit", size.as_str())];
            let labels: Vec<Label> = self.api.get("list labels", &self.path(&["labels"]), &query).await?;
            let last = labels.len() < PAGE;
            ids.extend(labels.into_iter().filter(|l| names.contains(&l.name)).map(|l| (l.name, l.id)));
            if last || ids.len() == names.len() {
                break;
            }
        }
        for name in names {
            if !ids.contains_key(name) {
                let request = json!({ "name": name, "color": LABEL_COLOUR });
                let made: Label =
                    self.api.write("make a label", Method::POST, &self.path(&["labels"]), &request).await?;
                ids.insert(made.name, made.id);
            }
        }
        Ok(ids)
    }

    async fn observed(&self, number: u64) -> Result<Observation, ForgeError> {
        let pull = self.pull(number).await?;
        let mergeable = pull.mergeable;
        let (text, size) = (number.to_string(), PAGE.to_string());
        let mut reviews = Vec::new();
        for page in 1..=PAGES {
            let at = page.to_string();
            let query = [("page", at.as_str()), ("limit", size.as_str())];
            let path = self.path(&["pulls", &text, "reviews"]);
            let some: Vec<RawReview> = self.api.get("read the reviews", &path, &query).await?;
            let last = some.len() < PAGE;
            reviews.extend(some.into_iter().map(RawReview::read));
            if last {
                break;
            }
        }
        reviews.sort_by_key(|review| review.at);
        Ok(Observation { pull_request: self.understood(pull)?, mergeable, reviews })
    }

    async fn merged(&self, number: u64, head: CommitId, message: String) -> Result<(), ForgeError> {
        let settings: Settings = self.api.get("read the repository", &self.path(&[]), &[]).await?;
        let request = json!({
            "Do": settings.default_merge_style.as_deref().unwrap_or("merge"),
            "MergeMessageField": message,
            "head_commit_id": head.as_str(),
            "delete_branch_after_merge": false,
        });
        let path_number = number.to_string();
        let path = self.path(&["pulls", &path_number, "merge"]);
        let _: Value = self.api.write("merge the pull request", Method::POST, &path, &request).await?;
        Ok(())
    }

    async fn commented(&self, number: u64, id: String, text: String) -> Result<(), ForgeError> {
        let number = number.to_string();
        let marker = format!("<!-- amend:comment {} -->", untrusted::word(&id, 80));
        let body = format!("{text}\n\n{marker}");
        let path = self.path(&["issues", &number, "comments"]);
        let there: Vec<Comment> = self.api.get("read the comments", &path, &[]).await?;
        match there.iter().find(|comment| comment.body.trim_end().ends_with(&marker)) {
            Some(same) if same.body == body => Ok(()),
            Some(other) => {
                let id = other.id.to_string();
                let path = self.path(&["issues", "comments", &id]);
                let request = json!({ "body": body });
                self.api.write("change a comment", Method::PATCH, &path, &request).await.map(|_: Value| ())
            }
            None => {
                let request = json!({ "body": body });
                self.api.write("comment", Method::POST, &path, &request).await.map(|_: Value| ())
            }
        }
    }

    async fn statuses(&self, commit: CommitId) -> Result<BTreeMap<String, CommitStatus>, ForgeError> {
        let mut latest: BTreeMap<String, (u64, CommitStatus)> = BTreeMap::new();
        let size = PAGE.to_string();
        for page in 1..=PAGES {
            let number = page.to_string();
            let query = [("page", number.as_str()), ("limit", size.as_str())];
            let path = self.path(&["statuses", commit.as_str()]);
            let some: Vec<RawStatus> = self.api.get("read commit statuses", &path, &query).await?;
            let last = some.len() < PAGE;
            for raw in some {
                if latest.get(&raw.context).is_none_or(|(id, _)| *id < raw.id) {
                    latest.insert(raw.context.clone(), (raw.id, raw.read()));
                }
            }
            if last {
                break;
            }
        }
        Ok(latest.into_iter().map(|(context, (_, status))| (context, status)).collect())
    }

    async fn reported_now(&self, commit: CommitId, status: CommitStatus) -> Result<(), ForgeError> {
        let status = CommitStatus { description: untrusted::line(&status.description, 140), ..status };
        if self.statuses(commit.clone()).await?.get(&status.context) == Some(&status) {
            return Ok(());
        }
        let state = match status.verdict {
            StatusVerdict::Pending => "pending",
            StatusVerdict::Success => "success",
            StatusVerdict::Failure => "failure",
            StatusVerdict::Error => "error",
        };
        let request = json!({
            "context": status.context,
            "state": state,
            "description": status.description,
            "target_url": status.url.unwrap_or_default(),
        });
        let path = self.path(&["statuses", commit.as_str()]);
        self.api.write("report a commit status", Method::POST, &path, &request).await.map(|_: Value| ())
    }

    /// The account's rights; those that its token lacks show when it is used.
    async fn may_open(&self) -> Result<(), ForgeError> {
        const DOING: &str = "push branches and open pull requests";
        let settings: Settings = self.api.get("read the repository", &self.path(&[]), &[]).await?;
        let (forge, doing) = (self.api.forge.clone(), DOING.to_owned());
        if settings.archived {
            return Err(ForgeError::Refused { forge, doing, why: "the repository is archived".to_owned() });
        }
        match settings.permissions {
            Some(Permissions { push: false }) => Err(ForgeError::Forbidden { forge, doing }),
            Some(Permissions { push: true }) | None => Ok(()),
        }
    }

    async fn branch_rules(&self, branch: String) -> Result<BranchRules, ForgeError> {
        let raw: Branch = self.api.get("read the branch's rules", &self.path(&["branches", &branch]), &[]).await?;
        let required_contexts = if raw.enable_status_check { raw.status_check_contexts } else { None };
        Ok(BranchRules {
            protected: raw.protected,
            required_approvals: raw.required_approvals,
            required_contexts: required_contexts.unwrap_or_default(),
            may_merge: raw.user_can_merge,
        })
    }
}

impl Forge for Gitea {
    fn name(&self) -> &str {
        &self.api.forge
    }

    fn find(&self, since: Timestamp) -> Reply<'_, Vec<PullRequest>> {
        self.listed(since).boxed()
    }

    fn open(&self, new: NewPullRequest) -> Reply<'_, PullRequest> {
        self.opened(new).boxed()
    }

    fn update(&self, number: u64, edit: PullRequestEdit) -> Reply<'_, PullRequest> {
        self.updated(number, edit).boxed()
    }

    fn observe(&self, number: u64) -> Reply<'_, Observation> {
        self.observed(number).boxed()
    }

    fn merge(&self, number: u64, head: CommitId, message: String) -> Reply<'_, ()> {
        self.merged(number, head, message).boxed()
    }

    fn close(&self, number: u64) -> Reply<'_, PullRequest> {
        async move {
            let text = number.to_string();
            let path = self.path(&["pulls", &text]);
            let request = json!({ "state": "closed" });
            let pull = self.api.write("close the pull request", Method::PATCH, &path, &request).await?;
            self.understood(pull)
        }
        .boxed()
    }

    fn comment(&self, number: u64, id: String, text: String) -> Reply<'_, ()> {
        self.commented(number, id, text).boxed()
    }

    fn report(&self, commit: CommitId, status: CommitStatus) -> Reply<'_, ()> {
        self.reported_now(commit, status).boxed()
    }

    fn reported(&self, commit: CommitId) -> Reply<'_, BTreeMap<String, CommitStatus>> {
        self.statuses(commit).boxed()
    }

    fn rules(&self, branch: String) -> Reply<'_, BranchRules> {
        self.branch_rules(branch).boxed()
    }

    fn may_propose(&self) -> Reply<'_, ()> {
        self.may_open().boxed()
    }

    fn job_log(&self, job: String) -> Reply<'_, String> {
        async move { self.api.text("read the job's log", &self.path(&["actions", "jobs", &job, "logs"])).await }.boxed()
    }

    fn failed_runs(&self) -> Reply<'_, Vec<FailedRun>> {
        self.runs_that_failed().boxed()
    }
}

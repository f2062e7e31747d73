//! One repository on Gitea, as people use it: commits, pull requests, reviews, webhooks, workflow runs.

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::gitea::{Gitea, GiteaUser};
use super::web;

/// A repository of a running Gitea.
#[derive(Debug, Clone)]
pub struct Repo<'gitea> {
    gitea: &'gitea Gitea,
    pub owner: String,
    pub name: String,
}

/// A pull request as its page shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct PullRequest {
    pub number: u64,
    /// `open` or `closed`.
    pub state: String,
    pub title: String,
    pub body: String,
    pub draft: bool,
    pub merged: bool,
    pub merge_commit_sha: Option<String>,
    pub html_url: String,
    pub head: BranchHead,
    pub base: BranchHead,
}

/// A side of a pull request.
#[derive(Debug, Clone, Deserialize)]
pub struct BranchHead {
    #[serde(rename = "ref")]
    pub branch: String,
    pub sha: String,
}

/// How a pull request is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeStyle {
    Merge,
    Squash,
    Rebase,
}

/// A run of a workflow.
#[derive(Debug, Clone, Deserialize)]
pub struct WorkflowRun {
    pub id: u64,
    pub head_sha: String,
    /// `queued`, `in_progress`, `completed` ...
    pub status: String,
    /// `success`, `failure` ... once completed.
    #[serde(default)]
    pub conclusion: Option<String>,
    #[serde(default)]
    pub html_url: String,
}

impl<'gitea> Repo<'gitea> {
    pub(super) fn new(gitea: &'gitea Gitea, owner: &str, name: &str) -> Self {
        Self { gitea, owner: owner.to_owned(), name: name.to_owned() }
    }

    /// Its address for Git over HTTP.
    #[must_use]
    pub fn clone_url(&self) -> String {
        format!("{}/{}/{}.git", self.gitea.url(), self.owner, self.name)
    }

    /// Calls the REST API below this repository as the administrator.
    ///
    /// # Errors
    /// When the answer is not a success.
    pub async fn api(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        self.gitea.api(method, &self.path(path), body).await
    }

    /// Calls the REST API below this repository as someone else.
    ///
    /// # Errors
    /// When the answer is not a success.
    pub async fn api_as(
        &self,
        user: &GiteaUser,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        self.gitea.api_as(user, method, &self.path(path), body).await
    }

    /// Writes whole files in one commit and returns its id. Files that exist are replaced.
    ///
    /// # Errors
    /// When Gitea refuses.
    pub async fn commit(&self, branch: &str, message: &str, files: &[(&str, &str)]) -> anyhow::Result<String> {
        self.commit_dated(branch, message, files, Timestamp::now()).await
    }

    /// Writes whole files in one commit that was made at some time, for a past that a story has.
    ///
    /// # Errors
    /// When Gitea refuses.
    pub async fn commit_dated(
        &self,
        branch: &str,
        message: &str,
        files: &[(&str, &str)],
        at: Timestamp,
    ) -> anyhow::Result<String> {
        let mut operations = Vec::new();
        for (path, text) in files {
            let content = STANDARD.encode(text);
            operations.push(match self.blob(branch, path).await? {
                Some(sha) => json!({"operation": "update", "path": path, "content": content, "sha": sha}),
                None => json!({"operation": "create", "path": path, "content": content}),
            });
        }
        let at = at.to_string();
        let dates = json!({"author": at, "committer": at});
        let change = json!({"branch": branch, "message": message, "files": operations, "dates": dates});
        let answer = self.api(Method::POST, "/contents", Some(change)).await?;
        text_at(&answer, "/commit/sha")
    }

    /// Deletes a file in one commit and returns its id.
    ///
    /// # Errors
    /// When it is not there or Gitea refuses.
    pub async fn remove(&self, branch: &str, message: &str, path: &str) -> anyhow::Result<String> {
        let sha = self.blob(branch, path).await?.with_context(|| format!("no file {path} on {branch}"))?;
        let operations = json!([{"operation": "delete", "path": path, "sha": sha}]);
        let answer = self
            .api(Method::POST, "/contents", Some(json!({"branch": branch, "message": message, "files": operations})))
            .await?;
        text_at(&answer, "/commit/sha")
    }

    /// A file's text at a branch, tag or commit.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn file(&self, at: &str, path: &str) -> anyhow::Result<String> {
        let request = self.gitea.request(
            Method::GET,
            &self.path(&format!("/raw/{path}?ref={at}")),
            None,
            &self.gitea.admin().token,
        )?;
        web::text(request).await
    }

    /// The commit at a branch's head.
    ///
    /// # Errors
    /// When there is no such branch.
    pub async fn head(&self, branch: &str) -> anyhow::Result<String> {
        text_at(&self.api(Method::GET, &format!("/branches/{branch}"), None).await?, "/commit/id")
    }

    /// Makes a branch at a commit or at another branch's head.
    ///
    /// # Errors
    /// When it exists or Gitea refuses.
    pub async fn create_branch(&self, name: &str, from: &str) -> anyhow::Result<()> {
        let branch = json!({"new_branch_name": name, "old_ref_name": from});
        self.api(Method::POST, "/branches", Some(branch)).await.map(|_| ())
    }

    /// Makes a branch point to another commit, also one that is no successor of its head: what a force
    /// push does.
    ///
    /// # Errors
    /// When there is no such branch or commit.
    pub async fn force(&self, branch: &str, commit: &str) -> anyhow::Result<()> {
        let update = json!({"new_commit_id": commit, "force": true});
        self.api(Method::PUT, &format!("/branches/{branch}"), Some(update)).await.map(|_| ())
    }

    /// The names of all branches.
    ///
    /// # Errors
    /// When Gitea does not answer.
    pub async fn branches(&self) -> anyhow::Result<Vec<String>> {
        let answer = self.api(Method::GET, "/branches?limit=50", None).await?;
        answer.as_array().context("not a list")?.iter().map(|branch| text_at(branch, "/name")).collect()
    }

    /// The newest 50 commits of a branch as (id, message), newest first.
    ///
    /// # Errors
    /// When Gitea does not answer.
    pub async fn commits(&self, branch: &str) -> anyhow::Result<Vec<(String, String)>> {
        let answer = self
            .api(
                Method::GET,
                &format!("/commits?sha={branch}&limit=50&stat=false&verification=false&files=false"),
                None,
            )
            .await?;
        answer
            .as_array()
            .context("not a list")?
            .iter()
            .map(|commit| Ok((text_at(commit, "/sha")?, text_at(commit, "/commit/message")?)))
            .collect()
    }

    /// A commit's statuses as (context, state, description), newest first.
    ///
    /// # Errors
    /// When Gitea does not answer.
    pub async fn statuses(&self, sha: &str) -> anyhow::Result<Vec<(String, String, String)>> {
        let answer = self.api(Method::GET, &format!("/commits/{sha}/statuses?limit=50"), None).await?;
        let statuses = answer.as_array().cloned().unwrap_or_default();
        statuses
            .iter()
            .map(|status| {
                Ok((text_at(status, "/context")?, text_at(status, "/status")?, text_at(status, "/description")?))
            })
            .collect()
    }

    /// Opens a pull request as the administrator.
    ///
    /// # Errors
    /// When Gitea refuses.
    pub async fn open_pull_request(&self, head: &str, base: &str, title: &str) -> anyhow::Result<PullRequest> {
        let answer = self
            .api(Method::POST, "/pulls", Some(json!({"head": head, "base": base, "title": title, "body": ""})))
            .await?;
        Ok(serde_json::from_value(answer)?)
    }

    /// All pull requests, open and closed, newest first.
    ///
    /// # Errors
    /// When Gitea does not answer.
    pub async fn pull_requests(&self) -> anyhow::Result<Vec<PullRequest>> {
        Ok(serde_json::from_value(self.api(Method::GET, "/pulls?state=all&limit=50", None).await?)?)
    }

    /// One pull request.
    ///
    /// # Errors
    /// When there is none with this number.
    pub async fn pull_request(&self, number: u64) -> anyhow::Result<PullRequest> {
        Ok(serde_json::from_value(self.api(Method::GET, &format!("/pulls/{number}"), None).await?)?)
    }

    /// What a pull request changes, as a unified diff.
    ///
    /// # Errors
    /// When there is none with this number.
    pub async fn diff(&self, number: u64) -> anyhow::Result<String> {
        web::text(self.gitea.request(
            Method::GET,
            &self.path(&format!("/pulls/{number}.diff")),
            None,
            &self.gitea.admin().token,
        )?)
        .await
    }

    /// Merges a pull request at the head that the caller has seen.
    ///
    /// # Errors
    /// When Gitea refuses (a draft, a protected branch, another head).
    pub async fn merge(&self, pull_request: &PullRequest, style: MergeStyle) -> anyhow::Result<()> {
        let style = match style {
            MergeStyle::Merge => "merge",
            MergeStyle::Squash => "squash",
            MergeStyle::Rebase => "rebase",
        };
        let body = json!({"Do": style, "head_commit_id": pull_request.head.sha});
        self.api(Method::POST, &format!("/pulls/{}/merge", pull_request.number), Some(body)).await.map(|_| ())
    }

    /// Closes a pull request without merging it.
    ///
    /// # Errors
    /// When Gitea refuses.
    pub async fn close(&self, number: u64) -> anyhow::Result<()> {
        self.api(Method::PATCH, &format!("/pulls/{number}"), Some(json!({"state": "closed"}))).await.map(|_| ())
    }

    /// The comments of a pull request as (author, text), oldest first.
    ///
    /// # Errors
    /// When Gitea does not answer.
    pub async fn comments(&self, number: u64) -> anyhow::Result<Vec<(String, String)>> {
        let answer = self.api(Method::GET, &format!("/issues/{number}/comments"), None).await?;
        answer
            .as_array()
            .context("not a list")?
            .iter()
            .map(|comment| Ok((text_at(comment, "/user/login")?, text_at(comment, "/body")?)))
            .collect()
    }

    /// Lets a user `read`, `write` or `admin` the repository.
    ///
    /// # Errors
    /// When Gitea refuses.
    pub async fn add_collaborator(&self, user: &str, permission: &str) -> anyhow::Result<()> {
        self.api(Method::PUT, &format!("/collaborators/{user}"), Some(json!({"permission": permission})))
            .await
            .map(|_| ())
    }

    /// Protects a branch: `required_approvals`, nobody pushes directly.
    ///
    /// # Errors
    /// When Gitea refuses.
    pub async fn protect(&self, branch: &str, required_approvals: u32) -> anyhow::Result<()> {
        let rule = json!({"rule_name": branch, "enable_push": false, "required_approvals": required_approvals, "block_admin_merge_override": true});
        self.api(Method::POST, "/branch_protections", Some(rule)).await.map(|_| ())
    }

    /// Posts the events to `url`, signed by HMAC-SHA256 with `secret` (`X-Gitea-Signature`). Returns its id.
    ///
    /// # Errors
    /// When Gitea refuses.
    pub async fn create_webhook(&self, url: &str, secret: &str, events: &[&str]) -> anyhow::Result<u64> {
        let hook = json!({"type": "gitea", "active": true, "events": events, "config": {"url": url, "content_type": "json", "secret": secret}});
        let answer = self.api(Method::POST, "/hooks", Some(hook)).await?;
        answer["id"].as_u64().context("a webhook without an id")
    }

    /// All workflow runs, newest first.
    ///
    /// # Errors
    /// When Gitea does not answer.
    pub async fn workflow_runs(&self) -> anyhow::Result<Vec<WorkflowRun>> {
        Ok(serde_json::from_value(self.api(Method::GET, "/actions/runs", None).await?["workflow_runs"].clone())?)
    }

    /// The logs of a run's jobs as (job id, text).
    ///
    /// # Errors
    /// When a log is not there (yet).
    pub async fn workflow_logs(&self, run: u64) -> anyhow::Result<Vec<(u64, String)>> {
        let jobs = self.api(Method::GET, &format!("/actions/runs/{run}/jobs"), None).await?;
        let mut logs = Vec::new();
        for job in jobs["jobs"].as_array().context("not a list")? {
            let id = job["id"].as_u64().context("a job without an id")?;
            let request = self.gitea.request(
                Method::GET,
                &self.path(&format!("/actions/jobs/{id}/logs")),
                None,
                &self.gitea.admin().token,
            )?;
            logs.push((id, web::text(request).await?));
        }
        Ok(logs)
    }

    async fn blob(&self, at: &str, path: &str) -> anyhow::Result<Option<String>> {
        let request = self.gitea.request(
            Method::GET,
            &self.path(&format!("/contents/{path}?ref={at}")),
            None,
            &self.gitea.admin().token,
        )?;
        let (status, body) = web::ask(request).await?;
        if !status.is_success() {
            return Ok(None);
        }
        Ok(serde_json::from_str::<Value>(&body)?["sha"].as_str().map(str::to_owned))
    }

    fn path(&self, path: &str) -> String {
        format!("/repos/{}/{}{path}", self.owner, self.name)
    }
}

fn text_at(value: &Value, pointer: &str) -> anyhow::Result<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("no text at {pointer} in {value}"))
}

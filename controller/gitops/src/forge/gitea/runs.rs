//! Workflow runs of Gitea Actions, as its API lists them since 1.25.

use jiff::Timestamp;
use serde::Deserialize;

use super::Gitea;
use crate::forge::{FailedRun, ForgeError};

#[derive(Deserialize)]
struct Runs {
    #[serde(default)]
    workflow_runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    id: u64,
    #[serde(default)]
    run_attempt: u32,
    head_sha: String,
    head_branch: Option<String>,
    #[serde(default)]
    path: String,
    #[serde(default)]
    html_url: String,
    conclusion: Option<String>,
    completed_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Jobs {
    #[serde(default)]
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    id: u64,
    #[serde(default)]
    name: String,
    conclusion: Option<String>,
}

impl Gitea {
    pub(super) async fn runs_that_failed(&self) -> Result<Vec<FailedRun>, ForgeError> {
        let query = [("status", "failure"), ("limit", "20")];
        let runs: Runs = self.api.get("list failed runs", &self.path(&["actions", "runs"]), &query).await?;
        let failed = |conclusion: &Option<String>| conclusion.as_deref() == Some("failure");
        let mut found = Vec::new();
        for run in runs.workflow_runs.into_iter().filter(|run| failed(&run.conclusion)) {
            let id = run.id.to_string();
            let path = self.path(&["actions", "runs", &id, "jobs"]);
            let jobs: Jobs = self.api.get("list the run's jobs", &path, &[]).await?;
            let job = jobs.jobs.into_iter().find(|job| failed(&job.conclusion));
            found.push(FailedRun {
                attempt: run.run_attempt.max(1),
                commit: run.head_sha,
                branch: run.head_branch.unwrap_or_default(),
                workflow: run.path.split('@').next().unwrap_or_default().to_owned(),
                job: job.map(|job| (job.name, job.id.to_string())),
                url: run.html_url,
                finished: run.completed_at,
                run_id: id,
            });
        }
        Ok(found)
    }
}

//! GitLab's webhooks: pipeline and job events.
//!
//! Proven by the shared token in `X-Gitlab-Token`; GitLab signs nothing by default. Times are not RFC 3339 and are left
//! out. <https://docs.gitlab.com/user/project/integrations/webhook_events/>

use amend_crds::build::{BuildSpec, CiForge};
use serde::Deserialize;

use super::build_report::{BuildReport, PayloadError, Reading, checked};

#[derive(Debug, Deserialize)]
struct PipelineEvent {
    object_attributes: Pipeline,
    project: Project,
    #[serde(default)]
    builds: Vec<PipelineJob>,
}

#[derive(Debug, Deserialize)]
struct Pipeline {
    id: u64,
    #[serde(default)]
    name: Option<String>,
    #[serde(default, rename = "ref")]
    branch: String,
    sha: String,
    status: String,
    #[serde(default)]
    url: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PipelineJob {
    id: u64,
    name: String,
    status: String,
    #[serde(default)]
    allow_failure: bool,
}

#[derive(Debug, Deserialize)]
struct JobEvent {
    build_id: u64,
    #[serde(default)]
    build_name: String,
    build_status: String,
    #[serde(default)]
    build_allow_failure: bool,
    #[serde(default)]
    retries_count: u32,
    pipeline_id: u64,
    #[serde(default, rename = "ref")]
    branch: String,
    sha: String,
    project: Project,
}

#[derive(Debug, Deserialize)]
struct Project {
    path_with_namespace: String,
    #[serde(default)]
    web_url: String,
}

/// Reads one delivery whose token was found good.
pub fn read(event: &str, delivery: &str, body: &[u8]) -> Result<Reading, PayloadError> {
    match event {
        "Pipeline Hook" => pipeline(delivery, parsed("a pipeline event", body)?),
        "Job Hook" => job(delivery, parsed("a job event", body)?),
        _ => Ok(Reading::Nothing { why: "other_event" }),
    }
}

fn parsed<'a, T: Deserialize<'a>>(event: &'static str, body: &'a [u8]) -> Result<T, PayloadError> {
    serde_json::from_slice(body).map_err(|source| PayloadError::Unreadable { event, source })
}

fn pipeline(delivery: &str, event: PipelineEvent) -> Result<Reading, PayloadError> {
    let pipeline = event.object_attributes;
    if pipeline.status != "failed" {
        return Ok(Reading::Nothing { why: "not_failed" });
    }
    let culprit = event.builds.iter().find(|job| job.status == "failed" && !job.allow_failure);
    let url = format!("{}/-/pipelines/{}", event.project.web_url, pipeline.id);
    failed(
        delivery,
        BuildSpec {
            forge: CiForge::GitLab,
            repository: event.project.path_with_namespace,
            commit: pipeline.sha,
            branch: pipeline.branch,
            workflow: pipeline.name.unwrap_or_default(),
            job: culprit.map(|job| job.name.clone()).unwrap_or_default(),
            run_id: pipeline.id.to_string(),
            attempt: 1,
            result: pipeline.status,
            url: pipeline.url.unwrap_or(url),
            log_reference: culprit.map(|job| job.id.to_string()).unwrap_or_default(),
            trace_id: None,
        },
    )
}

fn job(delivery: &str, event: JobEvent) -> Result<Reading, PayloadError> {
    if event.build_status != "failed" {
        return Ok(Reading::Nothing { why: "not_failed" });
    }
    if event.build_allow_failure {
        return Ok(Reading::Nothing { why: "allowed_to_fail" });
    }
    failed(
        delivery,
        BuildSpec {
            forge: CiForge::GitLab,
            url: format!("{}/-/jobs/{}", event.project.web_url, event.build_id),
            repository: event.project.path_with_namespace,
            commit: event.sha,
            branch: event.branch,
            workflow: String::new(),
            job: event.build_name,
            run_id: event.pipeline_id.to_string(),
            attempt: event.retries_count.saturating_add(1),
            result: event.build_status,
            log_reference: event.build_id.to_string(),
            trace_id: None,
        },
    )
}

fn failed(delivery: &str, run: BuildSpec) -> Result<Reading, PayloadError> {
    let report = BuildReport { run: checked(run)?, delivery: delivery.to_owned(), finished_at: None };
    Ok(Reading::Failed(Box::new(report)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_failed_pipeline_names_the_job_that_broke_it_not_one_that_may_fail() {
        let event = json!({"object_kind": "pipeline", "project": {"path_with_namespace": "group/sub/app", "web_url": "https://gitlab/group/sub/app"},
            "object_attributes": {"id": 31, "ref": "main", "sha": SHA, "status": "failed", "finished_at": "2026-11-21 10:00:00 UTC"},
            "builds": [{"id": 1, "name": "lint", "status": "failed", "allow_failure": true},
                       {"id": 2, "name": "test", "status": "failed", "allow_failure": false}]});
        let Reading::Failed(report) = read("Pipeline Hook", "d", event.to_string().as_bytes()).unwrap() else {
            panic!()
        };
        assert_eq!((report.run.job.as_str(), report.run.log_reference.as_str()), ("test", "2"));
        assert_eq!(report.run.url, "https://gitlab/group/sub/app/-/pipelines/31");
        assert_eq!(report.run.repository, "group/sub/app");
    }

    #[test]
    fn a_job_that_may_fail_is_nothing_for_us() {
        let event = |allowed: bool| {
            json!({"object_kind": "build", "build_id": 9, "build_name": "e2e", "build_status": "failed", "build_allow_failure": allowed,
                   "retries_count": 1, "pipeline_id": 31, "ref": "main", "sha": SHA,
                   "project": {"path_with_namespace": "group/app", "web_url": "https://gitlab/group/app"}})
            .to_string()
        };
        assert_eq!(read("Job Hook", "d", event(true).as_bytes()).unwrap(), Reading::Nothing { why: "allowed_to_fail" });
        let Reading::Failed(report) = read("Job Hook", "d", event(false).as_bytes()).unwrap() else { panic!() };
        assert_eq!((report.run.run_id.as_str(), report.run.attempt), ("31", 2));
    }
}

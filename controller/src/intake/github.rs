//! GitHub's webhooks: `workflow_run` and `workflow_job`.
//!
//! Signed by `X-Hub-Signature-256: sha256=HEX` over the raw body. Failed deliveries are not sent again, so a poller must
//! stand behind this. <https://docs.github.com/en/webhooks/webhook-events-and-payloads#workflow_run>

use amend_crds::build::{BuildSpec, CiForge};
use jiff::Timestamp;
use serde::Deserialize;

use super::build_report::{BuildReport, PayloadError, Reading, checked};

#[derive(Debug, Deserialize)]
struct RunEvent {
    action: String,
    workflow_run: Run,
    repository: Repository,
}

#[derive(Debug, Deserialize)]
struct Run {
    id: u64,
    #[serde(default)]
    name: Option<String>,
    head_sha: String,
    #[serde(default)]
    head_branch: Option<String>,
    run_attempt: u32,
    conclusion: Option<String>,
    html_url: String,
    #[serde(default)]
    updated_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct JobEvent {
    action: String,
    workflow_job: Job,
    repository: Repository,
}

#[derive(Debug, Deserialize)]
struct Job {
    id: u64,
    run_id: u64,
    name: String,
    #[serde(default)]
    workflow_name: Option<String>,
    head_sha: String,
    #[serde(default)]
    head_branch: Option<String>,
    run_attempt: u32,
    conclusion: Option<String>,
    html_url: Option<String>,
    #[serde(default)]
    completed_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    full_name: String,
}

/// Reads one delivery whose signature was found good.
pub fn read(event: &str, delivery: &str, body: &[u8]) -> Result<Reading, PayloadError> {
    let (action, finished_at, run) = match event {
        "workflow_run" => of_run(parsed("workflow_run", body)?),
        "workflow_job" => of_job(parsed("workflow_job", body)?),
        _ => return Ok(Reading::Nothing { why: "other_event" }),
    };
    if action != "completed" {
        return Ok(Reading::Nothing { why: "not_finished" });
    }
    if !matches!(run.result.as_str(), "failure" | "timed_out" | "startup_failure") {
        return Ok(Reading::Nothing { why: "not_failed" });
    }
    let report = BuildReport { run: checked(run)?, delivery: delivery.to_owned(), finished_at };
    Ok(Reading::Failed(Box::new(report)))
}

fn parsed<'a, T: Deserialize<'a>>(event: &'static str, body: &'a [u8]) -> Result<T, PayloadError> {
    serde_json::from_slice(body).map_err(|source| PayloadError::Unreadable { event, source })
}

fn of_run(event: RunEvent) -> (String, Option<Timestamp>, BuildSpec) {
    let run = event.workflow_run;
    let spec = BuildSpec {
        forge: CiForge::GitHub,
        repository: event.repository.full_name,
        commit: run.head_sha,
        branch: run.head_branch.unwrap_or_default(),
        workflow: run.name.unwrap_or_default(),
        job: String::new(),
        run_id: run.id.to_string(),
        attempt: run.run_attempt,
        result: run.conclusion.unwrap_or_default(),
        url: run.html_url,
        log_reference: String::new(),
        trace_id: None,
    };
    (event.action, run.updated_at, spec)
}

fn of_job(event: JobEvent) -> (String, Option<Timestamp>, BuildSpec) {
    let job = event.workflow_job;
    let spec = BuildSpec {
        forge: CiForge::GitHub,
        repository: event.repository.full_name,
        commit: job.head_sha,
        branch: job.head_branch.unwrap_or_default(),
        workflow: job.workflow_name.unwrap_or_default(),
        job: job.name,
        run_id: job.run_id.to_string(),
        attempt: job.run_attempt,
        result: job.conclusion.unwrap_or_default(),
        url: job.html_url.unwrap_or_default(),
        log_reference: job.id.to_string(),
        trace_id: None,
    };
    (event.action, job.completed_at, spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    fn reading(event: &str, payload: Value) -> Reading {
        read(event, "d-1", payload.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_run_that_timed_out_has_failed() {
        let event = json!({"action": "completed", "repository": {"full_name": "shop/checkout"}, "workflow_run": {
            "id": 30433642, "name": "CI", "head_sha": SHA, "head_branch": null, "run_attempt": 3, "conclusion": "timed_out",
            "html_url": "https://github.com/shop/checkout/actions/runs/30433642", "updated_at": "2026-11-21T10:01:00Z"}});
        let Reading::Failed(report) = reading("workflow_run", event) else { panic!() };
        assert_eq!((report.run.run_id.as_str(), report.run.attempt), ("30433642", 3));
        assert_eq!(report.run.branch, "");
    }

    #[test]
    fn a_queued_job_is_not_finished_and_a_neutral_one_not_failed() {
        let job = |action: &str, conclusion: Value| {
            json!({"action": action, "repository": {"full_name": "shop/checkout"}, "workflow_job": {
                "id": 7, "run_id": 8, "name": "test", "workflow_name": "CI", "head_sha": SHA, "run_attempt": 1,
                "conclusion": conclusion, "html_url": "https://github.com/x"}})
        };
        assert_eq!(reading("workflow_job", job("queued", Value::Null)), Reading::Nothing { why: "not_finished" });
        assert_eq!(reading("workflow_job", job("completed", json!("neutral"))), Reading::Nothing { why: "not_failed" });
        assert!(matches!(reading("workflow_job", job("completed", json!("failure"))), Reading::Failed(_)));
    }
}

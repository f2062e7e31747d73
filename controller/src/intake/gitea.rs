//! Gitea's and Forgejo's webhooks: `workflow_run`, `workflow_job`, `status`.
//!
//! Read from Gitea 1.26 (`modules/structs/hook.go`, `services/convert`). Signed by `X-Gitea-Signature`: HMAC-SHA256 of
//! the raw body, hex without a prefix. Its run payload carries no attempt, its job payload no workflow name.

use amend_crds::build::{BuildSpec, CiForge};
use jiff::Timestamp;
use serde::Deserialize;

use super::build_report::{BuildReport, PayloadError, Reading, checked};

#[derive(Debug, Deserialize)]
struct RunEvent {
    action: String,
    workflow: Option<Workflow>,
    workflow_run: Run,
    repository: Repository,
}

#[derive(Debug, Deserialize)]
struct JobEvent {
    action: String,
    workflow_job: Job,
    repository: Repository,
}

#[derive(Debug, Deserialize)]
struct StatusEvent {
    id: u64,
    sha: String,
    state: String,
    #[serde(default)]
    context: String,
    #[serde(default)]
    target_url: String,
    #[serde(default)]
    updated_at: Option<Timestamp>,
    repository: Repository,
}

#[derive(Debug, Deserialize)]
struct Workflow {
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize)]
struct Run {
    id: u64,
    #[serde(default)]
    html_url: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    run_attempt: u32,
    head_sha: String,
    #[serde(default)]
    head_branch: String,
    #[serde(default)]
    conclusion: String,
    #[serde(default)]
    completed_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct Job {
    id: u64,
    run_id: u64,
    #[serde(default)]
    html_url: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    run_attempt: u32,
    head_sha: String,
    #[serde(default)]
    head_branch: String,
    #[serde(default)]
    conclusion: String,
    #[serde(default)]
    completed_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    full_name: String,
}

/// Reads one delivery whose signature was found good.
pub fn read(event: &str, delivery: &str, body: &[u8]) -> Result<Reading, PayloadError> {
    match event {
        "workflow_run" => run(delivery, parsed("workflow_run", body)?),
        "workflow_job" => job(delivery, parsed("workflow_job", body)?),
        "status" => status(delivery, parsed("status", body)?),
        _ => Ok(Reading::Nothing { why: "other_event" }),
    }
}

fn parsed<'a, T: Deserialize<'a>>(event: &'static str, body: &'a [u8]) -> Result<T, PayloadError> {
    serde_json::from_slice(body).map_err(|source| PayloadError::Unreadable { event, source })
}

fn run(delivery: &str, event: RunEvent) -> Result<Reading, PayloadError> {
    let run = event.workflow_run;
    if event.action != "completed" {
        return Ok(Reading::Nothing { why: "not_finished" });
    }
    if run.conclusion != "failure" {
        return Ok(Reading::Nothing { why: "not_failed" });
    }
    // `path` is `ci.yaml@refs/heads/main`.
    let file = run.path.split('@').next().unwrap_or_default().to_owned();
    failed(
        delivery,
        run.completed_at,
        BuildSpec {
            repository: event.repository.full_name,
            commit: run.head_sha,
            branch: run.head_branch,
            workflow: event.workflow.map(|workflow| workflow.name).filter(|name| !name.is_empty()).unwrap_or(file),
            run_id: run.id.to_string(),
            attempt: run.run_attempt,
            result: run.conclusion,
            url: run.html_url,
            ..unnamed()
        },
    )
}

fn job(delivery: &str, event: JobEvent) -> Result<Reading, PayloadError> {
    let job = event.workflow_job;
    if event.action != "completed" {
        return Ok(Reading::Nothing { why: "not_finished" });
    }
    if job.conclusion != "failure" {
        return Ok(Reading::Nothing { why: "not_failed" });
    }
    failed(
        delivery,
        job.completed_at,
        BuildSpec {
            repository: event.repository.full_name,
            commit: job.head_sha,
            branch: job.head_branch,
            job: job.name,
            run_id: job.run_id.to_string(),
            attempt: job.run_attempt,
            result: job.conclusion,
            url: job.html_url,
            log_reference: job.id.to_string(),
            ..unnamed()
        },
    )
}

/// A commit status of some other CI system. Gitea's own runs and our own gates write statuses too: not those.
fn status(delivery: &str, event: StatusEvent) -> Result<Reading, PayloadError> {
    if !matches!(event.state.as_str(), "failure" | "error") {
        return Ok(Reading::Nothing { why: "not_failed" });
    }
    if event.context.starts_with("amend/") {
        return Ok(Reading::Nothing { why: "our_own" });
    }
    if event.target_url.contains("/actions/runs/") {
        return Ok(Reading::Nothing { why: "reported_as_run" });
    }
    failed(
        delivery,
        event.updated_at,
        BuildSpec {
            repository: event.repository.full_name,
            commit: event.sha,
            workflow: event.context,
            run_id: format!("status-{}", event.id),
            result: event.state,
            url: event.target_url,
            ..unnamed()
        },
    )
}

fn failed(delivery: &str, finished_at: Option<Timestamp>, run: BuildSpec) -> Result<Reading, PayloadError> {
    let report = BuildReport { run: checked(run)?, delivery: delivery.to_owned(), finished_at };
    Ok(Reading::Failed(Box::new(report)))
}

/// The fields that a payload leaves open.
fn unnamed() -> BuildSpec {
    BuildSpec {
        forge: CiForge::Gitea,
        repository: String::new(),
        commit: String::new(),
        branch: String::new(),
        workflow: String::new(),
        job: String::new(),
        run_id: String::new(),
        attempt: 1,
        result: String::new(),
        url: String::new(),
        log_reference: String::new(),
        trace_id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    fn reading(event: &str, payload: Value) -> Reading {
        read(event, "d-1", payload.to_string().as_bytes()).unwrap()
    }

    fn run_event(action: &str, conclusion: &str) -> Value {
        json!({"action": action, "workflow": null, "repository": {"id": 1, "full_name": "shop/checkout"}, "workflow_run": {
            "id": 42, "html_url": "http://gitea/shop/checkout/actions/runs/3", "path": "ci.yaml@refs/heads/main", "run_attempt": 0,
            "run_number": 3, "head_sha": SHA, "head_branch": "main", "status": "completed", "conclusion": conclusion,
            "started_at": "2026-11-21T10:00:00Z", "completed_at": "2026-11-21T10:01:00Z"}})
    }

    #[test]
    fn a_failed_run_becomes_a_report_named_by_its_run_id() {
        let Reading::Failed(report) = reading("workflow_run", run_event("completed", "failure")) else { panic!() };
        assert_eq!((report.run.run_id.as_str(), report.run.attempt), ("42", 1));
        assert_eq!((report.run.workflow.as_str(), report.run.branch.as_str()), ("ci.yaml", "main"));
        assert_eq!(report.finished_at, Some("2026-11-21T10:01:00Z".parse().unwrap()));
    }

    #[test]
    fn a_failed_job_tells_which_log_to_read() {
        let event = json!({"action": "completed", "repository": {"full_name": "shop/checkout"}, "workflow_job": {
            "id": 77, "run_id": 42, "name": "unit tests", "run_attempt": 2, "head_sha": SHA, "head_branch": "main",
            "html_url": "http://gitea/shop/checkout/actions/runs/3/jobs/77", "conclusion": "failure", "steps": []}});
        let Reading::Failed(report) = reading("workflow_job", event) else { panic!() };
        assert_eq!((report.run.run_id.as_str(), report.run.log_reference.as_str()), ("42", "77"));
        assert_eq!((report.run.attempt, report.run.job.as_str()), (2, "unit tests"));
    }

    #[test]
    fn runs_that_go_on_or_went_well_or_were_cancelled_are_nothing_for_us() {
        assert_eq!(reading("workflow_run", run_event("in_progress", "")), Reading::Nothing { why: "not_finished" });
        for conclusion in ["success", "cancelled", "skipped", ""] {
            assert_eq!(
                reading("workflow_run", run_event("completed", conclusion)),
                Reading::Nothing { why: "not_failed" }
            );
        }
        assert_eq!(reading("push", json!({"ref": "x"})), Reading::Nothing { why: "other_event" });
    }

    #[test]
    fn statuses_of_runs_and_of_our_own_gates_are_not_builds() {
        let status = |context: &str, url: &str| json!({"id": 5, "sha": SHA, "state": "failure", "context": context, "target_url": url, "repository": {"full_name": "a/b"}});
        assert!(matches!(reading("status", status("jenkins", "https://ci/1")), Reading::Failed(_)));
        assert_eq!(reading("status", status("amend/gate", "")), Reading::Nothing { why: "our_own" });
        let own_run = status("ci / test (push)", "/a/b/actions/runs/3/jobs/0");
        assert_eq!(reading("status", own_run), Reading::Nothing { why: "reported_as_run" });
    }

    #[test]
    fn a_payload_of_another_shape_is_refused() {
        assert!(read("workflow_run", "d", b"[]").is_err());
        assert!(read("workflow_job", "d", b"{\"action\":\"completed\"}").is_err());
    }
}

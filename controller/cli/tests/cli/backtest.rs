//! `backtest` over the sandbox's world some minutes after the release that runs out of memory.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

use amend_sandbox::{SandboxClock, Scenario, World};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::stage::{json, text};

/// How long the release runs before somebody looks back: longer than any alert waits.
const RUNS_FOR: SignedDuration = SignedDuration::from_mins(14);

/// A world that stands still, in which nobody has installed anything.
struct Past {
    world: World,
    until: Timestamp,
    kubeconfig: PathBuf,
    _folder: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

fn made(crds: &[String]) -> Past {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let clock = SandboxClock::stepped("2026-03-02T09:00:00Z".parse().expect("a time"));
    let world = runtime.block_on(World::start(Scenario::oom(), clock, crds)).expect("the sandbox starts");
    world.trigger().expect("the release is pushed");
    runtime.block_on(world.advance(RUNS_FOR));
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, &world.endpoints().admin_kubeconfig).expect("a kubeconfig");
    Past { until: world.clock().now(), world, kubeconfig, _folder: folder, _runtime: runtime }
}

/// Nothing is installed, not even the kinds.
fn bare() -> &'static Past {
    static BARE: OnceLock<Past> = OnceLock::new();
    BARE.get_or_init(|| made(&[]))
}

/// The kinds are there, with sources and a repository, as before a first pull request.
fn declared() -> &'static Past {
    static DECLARED: OnceLock<Past> = OnceLock::new();
    DECLARED.get_or_init(|| {
        let crds = amend_crds::schema::files().expect("the CRDs can be made");
        let past = made(&crds.into_iter().map(|(_, text)| text).collect::<Vec<_>>());
        let endpoints = past.world.endpoints();
        let objects = endpoints.filled(include_str!("../../src/demo/objects.yaml"));
        past.world.apply_yaml(&objects).expect("objects are taken");
        past
    })
}

impl Past {
    fn backtest(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_amend"))
            .args(["backtest", "--since", "2h", "--until", &self.until.to_string()])
            .args(words)
            .env("KUBECONFIG", &self.kubeconfig)
            .env_remove("RUST_LOG")
            .output()
            .expect("amend runs")
    }

    /// With every store named by flags.
    fn with_flags(&self, words: &[&str]) -> Output {
        let ends = self.world.endpoints();
        let stores = ["--prometheus", &ends.prometheus, "--loki", &ends.loki, "--jaeger", &ends.jaeger];
        self.backtest(&[&stores[..], &["--sample-every", "10s"], words].concat())
    }
}

fn the_one_problem(report: &Value) -> &Value {
    assert_eq!(report["summary"]["problems"], 1, "{report:#}");
    &report["problems"][0]
}

#[test]
fn the_one_problem_of_the_past_is_explained_and_would_be_a_one_line_change() {
    let output = declared().backtest(&["--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report = json(&output);
    let problem = the_one_problem(&report);
    let explained = &problem["verdict"]["explained"];
    assert_eq!(explained["cause"], "container.oom-killed", "{report:#}");
    assert_eq!(explained["entity"], "shop/Deployment/checkout[app]");
    assert!(
        explained["change"]["summary"].as_str().is_some_and(|said| said.contains("from 256Mi to 384Mi")),
        "{report:#}"
    );
    assert_eq!((&report["summary"]["explained"], &report["summary"]["oneLine"]), (&1.into(), &1.into()));
    assert!(problem["alerts"].as_u64().is_some_and(|count| count >= 2), "{report:#}");
    let (all, grouped) = (&report["alerts"]["all"], &report["alerts"]["grouped"]);
    assert_eq!(all, grouped, "every alert of the shop names its workload");
    assert_eq!(report["notRead"], serde_json::json!([]));
    // Nobody refused a query: the sandbox knows every shape that is asked. Its Prometheus only knows of no calls.
    for (source, unanswered) in [("prometheus", 1), ("loki", 0), ("jaeger", 0), ("git", 0)] {
        let answers = &report["stores"][source];
        assert_eq!(answers["unanswered"], unanswered, "{source}: {report:#}");
        assert!(answers["why"].as_str().is_none_or(|why| why.contains("no call between services")), "{answers}");
    }
    assert_eq!(report["withoutCalls"], serde_json::json!({}));
    assert!(report["load"]["queries"].as_u64().is_some_and(|count| count > 20 && count < 200), "{report:#}");
}

#[test]
fn with_stores_by_flags_nothing_needs_to_be_installed() {
    let output = bare().with_flags(&[]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for line in [
        "1 problem, 1 explained, 0 silent, 1 of the explained a one-line change",
        "container.oom-killed",
        "a ready one that is not applied here",
        "queries, one at a time",
    ] {
        assert!(told.contains(line), "{line} is not in:\n{told}");
    }
}

#[test]
fn a_spent_budget_leaves_problems_silent_and_says_so() {
    let report = json(&bare().with_flags(&["--max-queries", "2", "-o", "json"]));
    let problems = report["problems"].as_array().expect("problems");
    assert!(problems.iter().all(|one| one["verdict"]["silent"]["reason"] == "budgetSpent"), "{report:#}");
    assert_eq!(report["summary"]["explained"], 0);
    let why = report["withoutCalls"]["shop"].as_str().unwrap_or_default();
    assert!(!why.is_empty(), "what could not be asked for grouping is said as well: {report:#}");
    assert!(report["load"]["queries"].as_u64().is_some_and(|count| count <= 2), "{report:#}");
}

#[test]
fn a_store_of_logs_that_does_not_answer_is_named_and_the_rest_is_told() {
    let ends = bare().world.endpoints();
    let stores = ["--prometheus", &ends.prometheus, "--jaeger", &ends.jaeger, "--loki", "http://127.0.0.1:1"];
    let report = json(&bare().backtest(&[&stores[..], &["--sample-every", "10s", "--format", "json"]].concat()));
    let loki = &report["stores"]["loki"];
    assert_eq!(loki["asked"], loki["unanswered"], "{report:#}");
    assert!(loki["why"].as_str().is_some_and(|why| why.contains("cannot reach 127.0.0.1")), "{report:#}");
    the_one_problem(&report);
}

#[test]
fn without_any_store_it_says_what_to_give() {
    let output = bare().backtest(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("give a Prometheus with --prometheus URL"), "{}", text(&output.stderr));
    let output = bare().backtest(&["--prometheus", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no store told which alerts fired"), "{}", text(&output.stderr));
}

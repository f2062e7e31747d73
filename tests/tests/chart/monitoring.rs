//! The rules and the board: they ask only for what the controller exposes, and the real Prometheus takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use amend_controller::metrics::{ByForge, ByOutcome, ByPhase, BySource, Effect, Metrics, SourceHealth, Verdict};
use amend_tests::bench::{Bench, Part};
use serde_json::Value;

use crate::{chart, named, of_kind, rendered};

const ON: [&str; 2] = ["prometheusRule.enabled=true", "grafanaDashboard.enabled=true"];

/// Metrics of a controller that has met everything: a family without a series says nothing about itself.
fn busy() -> Metrics {
    let all = Metrics::new();
    let _ = all.signals_accepted.get_or_create(&BySource { source: "alert" });
    let _ = all.signals_repeated.get_or_create(&BySource { source: "alert" });
    all.drop_signal("alert", "malformed");
    all.observe_intake("alertmanager", Duration::ZERO);
    let _ = all.builds_received.get_or_create(&ByForge { forge: "gitea", result: "stored" });
    let _ = all.incidents.get_or_create(&ByPhase { phase: "Open" });
    all.observe_diagnosis(Duration::ZERO);
    let _ = all.gate_verdicts.get_or_create(&Verdict { gate: "fits", verdict: "fail" });
    let _ = all.remediations.get_or_create(&ByPhase { phase: "Proposed" });
    let _ = all.remediations_ended.get_or_create(&ByOutcome { outcome: "Succeeded" });
    let _ = all.effects.get_or_create(&Effect { kind: "push", outcome: "failed" });
    let _ = all.sources.get_or_create(&SourceHealth { kind: "Prometheus", health: "ready" });
    all.reconcile_failed("incident");
    all.observe_reconcile("incident", Duration::ZERO);
    all
}

/// Every series that the controller exposes, from what it says about its own metrics.
fn exposed() -> BTreeSet<String> {
    let text = busy().text();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .flat_map(|(name, kind)| {
            let ends: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            ends.iter().map(move |end| format!("{name}{end}"))
        })
        .collect()
}

/// The names of our own series in an expression.
fn named_in(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|sign: char| !(sign.is_ascii_alphanumeric() || sign == '_'));
    words.filter(|word| word.starts_with("amend_")).map(str::to_owned).collect()
}

async fn rules() -> Vec<Value> {
    let documents = rendered(&ON).await;
    let groups = of_kind(&documents, "PrometheusRule")[0]["spec"]["groups"].as_array().cloned().expect("groups");
    groups.iter().flat_map(|group| group["rules"].as_array().cloned().expect("rules")).collect()
}

async fn board() -> Value {
    let documents = rendered(&ON).await;
    let map = named(&documents, "ConfigMap", "amend-dashboard");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1", "Grafana's sidecar looks for it");
    serde_json::from_str(map["data"]["amend.json"].as_str().expect("a board")).expect("it is JSON")
}

/// Every expression of the board, by the panel's title.
fn expressions(board: &Value) -> BTreeMap<String, Vec<String>> {
    let panels = board["panels"].as_array().expect("panels");
    let of = |panel: &Value| {
        let targets = panel["targets"].as_array().expect("targets");
        let found = targets.iter().filter_map(|target| target["expr"].as_str()).map(str::to_owned).collect();
        (panel["title"].as_str().expect("a title").to_owned(), found)
    };
    panels.iter().map(of).collect()
}

#[tokio::test]
async fn every_metric_that_an_alert_or_the_board_asks_for_is_exposed() {
    let exposed = exposed();
    assert!(
        exposed.contains("amend_leader") && exposed.contains("amend_intake_duration_seconds_bucket"),
        "{exposed:?}"
    );
    let alerts = rules().await;
    let asked =
        alerts.iter().map(|rule| (rule["alert"].to_string(), vec![rule["expr"].as_str().expect("expr").to_owned()]));
    for (place, expressions) in asked.chain(expressions(&board().await)) {
        for expression in expressions {
            let names = named_in(&expression);
            assert!(!names.is_empty(), "{place} asks for nothing of ours: {expression}");
            assert!(names.is_subset(&exposed), "{place}: {:?} is not exposed", names.difference(&exposed));
        }
    }
}

#[tokio::test]
async fn every_alert_says_what_is_wrong_and_has_its_section_in_the_docs() {
    let page = std::fs::read_to_string(chart().join("../../docs/alerts.md")).expect("docs/alerts.md");
    let sections: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let rules = rules().await;
    let alerts: BTreeSet<&str> = rules.iter().filter_map(|rule| rule["alert"].as_str()).collect();
    assert_eq!(alerts, sections);
    for rule in &rules {
        for part in ["summary", "description"] {
            assert!(rule["annotations"][part].as_str().is_some_and(|text| text.len() > 20), "{rule}");
        }
        assert!(["info", "warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap_or_default()));
    }
}

#[tokio::test]
async fn the_real_prometheus_takes_the_rules_and_every_expression_of_the_board() {
    let bench = Bench::shared(&[Part::Helm, Part::Prometheus]).await.expect("Prometheus can be built");
    let file = std::fs::read_to_string(chart().join("rules/alerts.yaml")).expect("the rules");
    bench
        .prometheus()
        .add_rules("amend-itself", &file.replace("AMEND_NAMESPACE", "amend-itself"))
        .await
        .expect("taken");
    for (panel, expressions) in expressions(&board().await) {
        for expression in expressions {
            let query = expression.replace("$namespace", "amend-itself").replace("$__rate_interval", "5m");
            bench.prometheus().query(&query).await.unwrap_or_else(|error| panic!("{panel}: {query}: {error:#}"));
        }
    }
    bench.prometheus().remove_rules("amend-itself").await.expect("removed");
}

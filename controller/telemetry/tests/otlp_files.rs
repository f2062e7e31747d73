//! What a directory of OTLP files answers, and when it does not.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{Series, Window};
use amend_telemetry::egress::{Allowed, Egress};
use amend_telemetry::gather::{Scope, Windows, gather};
use amend_telemetry::questions::{
    ExemplarQuestion, LineFilter, LineQuestion, Measure, Selection, SeriesQuestion, Target,
};
use amend_telemetry::source::{Source, SourceConfig, SourceKind, open};
use amend_telemetry::sources::Sources;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(20);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/otlp")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_763_700_000 + second).unwrap()
}

fn opened(directory: &Path, change: impl Fn(&mut SourceConfig)) -> Arc<dyn Source> {
    let url = format!("file://{}", directory.display()).parse().unwrap();
    let mut config = SourceConfig::new("files", SourceKind::OtlpFiles, url);
    change(&mut config);
    open(config, &Egress::new([Allowed::Directory(directory.to_owned())])).unwrap()
}

fn checkout() -> Target {
    Target::new(Entity::new(EntityKind::Deployment, "shop", "checkout"))
}

fn question(measure: Measure) -> SeriesQuestion {
    SeriesQuestion {
        id: "asked".to_owned(),
        measure,
        of: Selection::one(&checkout()),
        window: Window { from: at(600), to: at(600) },
        step: SignedDuration::from_secs(30),
    }
}

/// The one value of each series at the end, by the label `error`.
async fn measured(measure: Measure) -> Vec<(String, f64)> {
    let source = opened(&folder(), |_| {});
    let told = source.series(&question(measure)).await.outcome.unwrap();
    let value = |one: &Series| (one.labels.get("error").cloned().unwrap_or_default(), one.samples[0].1);
    told.iter().map(value).collect()
}

/// Why lines between two seconds are unknown, or how many there are.
async fn lines(source: &dyn Source, from: i64, to: i64) -> Result<usize, String> {
    let question = LineQuestion {
        id: "lines".to_owned(),
        of: Selection::everything("shop"),
        window: Window { from: at(from), to: at(to) },
        only: LineFilter::All,
        lines: 100,
    };
    source.lines(&question).await.outcome.map(|lines| lines.len()).map_err(|error| error.why("files"))
}

fn record(second: i64, body: &str) -> String {
    let at = at(second).as_nanosecond();
    format!(
        r#"{{"resourceLogs":[{{"resource":{{"attributes":[{{"key":"k8s.pod.name","value":{{"stringValue":"cart-0"}}}}]}},"scopeLogs":[{{"logRecords":[{{"timeUnixNano":"{at}","body":{{"stringValue":"{body}"}}}}]}}]}}]}}"#
    ) + "\n"
}

#[tokio::test]
async fn what_libraries_and_the_kubelet_count_is_measured_as_if_it_were_scraped() {
    let plain = |value: f64| vec![(String::new(), value)];
    assert_eq!(measured(Measure::Memory).await, plain(100_020_000.0));
    assert_eq!(measured(Measure::Cpu).await, plain(160.0));
    assert_eq!(measured(Measure::Requests).await, [("false".to_owned(), 2.0), ("true".to_owned(), 0.1)]);
    let [(_, p99)] = measured(Measure::LatencyP99).await.try_into().unwrap();
    assert!((p99 - 0.492).abs() < 1e-3, "half of the requests between 0.1 s and 0.5 s: {p99}");
}

#[tokio::test]
async fn an_exemplar_of_a_latency_histogram_leads_to_its_trace() {
    let of = Selection::one(&checkout());
    let window = Window { from: at(0), to: at(600) };
    let question = ExemplarQuestion { id: "exemplars".to_owned(), of, window };
    let found = opened(&folder(), |_| {}).exemplars(&question).await.outcome.unwrap();
    assert_eq!((found.len(), found[0].trace_id.as_str(), found[0].took), (1, "a1b2c3d4e5f60718", Some(0.4)));
}

#[tokio::test]
async fn an_exemplar_of_a_count_of_failed_requests_leads_to_its_trace_and_one_of_others_does_not() {
    let scratch = tempfile::tempdir().unwrap();
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let point = |code: &str, second: i64, trace: &str| {
        let nano = format!("{}000000000", at(second).as_second());
        json!({"attributes": [text("code", code)], "timeUnixNano": nano, "asInt": "7",
            "exemplars": [{"timeUnixNano": nano, "asInt": "1", "traceId": trace}]})
    };
    let sum = |name: &str, points: Value| json!({"name": name, "sum": {"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": points}});
    let told = json!({"resourceMetrics": [{
        "resource": {"attributes": [text("service.name", "checkout"), text("k8s.namespace.name", "shop")]},
        "scopeMetrics": [{"metrics": [
            sum("http.requests", json!([point("503", 60, "aa"), point("200", 90, "bb"), point("500", 120, "cc")])),
            sum("jobs", json!([point("500", 60, "dd")])),
        ]}],
    }]});
    fs::write(scratch.path().join("metrics.json"), told.to_string()).unwrap();
    let window = Window { from: at(0), to: at(600) };
    let question = ExemplarQuestion { id: "exemplars".to_owned(), of: Selection::one(&checkout()), window };
    let found = opened(scratch.path(), |_| {}).exemplars(&question).await.outcome.unwrap();
    let told: Vec<_> = found.iter().map(|one| (one.trace_id.as_str(), one.took)).collect();
    assert_eq!(told, [("cc", None), ("aa", None)], "the newest first");
}

#[tokio::test]
async fn a_whole_incident_is_gathered_from_files_alone() {
    let sources = Sources::new([opened(&folder(), |_| {})]);
    let scope = Scope { focus: checkout(), neighbours: Vec::new() };
    let windows = Windows { normal: Window { from: at(-300), to: at(0) }, fault: Window { from: at(0), to: at(600) } };
    let seen = gather(&sources, &scope, windows, DEADLINE).await;
    let named = |name: &str| {
        seen.series.known().unwrap().iter().any(|series| series.labels.get("__name__").is_some_and(|one| one == name))
    };
    assert!(named("errorRatio") && named("latencyP99") && named("container_memory_working_set_bytes"));
    assert_eq!(seen.spans.known().unwrap().len(), 2, "the caller's span belongs to the trace");
    assert_eq!(seen.exemplars.known().map(Vec::len), Some(2));
    let edges = &seen.topology.known().unwrap().edges;
    assert_eq!((edges[0].from.name.as_str(), edges[0].to.name.as_str()), ("frontend", "checkout"));
    assert_eq!(seen.logs.known().unwrap()[0].body, "payment refused by ledger");
    let waiting = seen.asked.iter().find(|asked| asked.id == "files/waiting/shop").unwrap();
    let why = waiting.unknown.as_deref().unwrap();
    assert!(why.contains("no file holds a metric of waiting"), "{why}");
}

#[tokio::test]
async fn what_no_file_holds_is_unknown() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("logs.json"), record(10, "a")).unwrap();
    let source = opened(scratch.path(), |_| {});
    assert_eq!(lines(source.as_ref(), 0, 60).await, Ok(1));
    let why = source.series(&question(Measure::Memory)).await.outcome.unwrap_err().why("files");
    assert!(why.contains("holds metrics") && why.contains("; "), "{why}");
    let why = source.calls(Window { from: at(0), to: at(60) }).await.outcome.unwrap_err().why("files");
    assert!(why.contains("holds traces"), "{why}");
}

#[tokio::test]
async fn of_too_many_bytes_the_newest_are_read_and_an_earlier_window_is_unknown() {
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str, from: i64, age: u64| {
        let text: String = (0..10).map(|at| record(from + 60 * at, "line")).collect();
        fs::write(scratch.path().join(name), &text).unwrap();
        let changed = SystemTime::now() - Duration::from_secs(age);
        fs::File::options().write(true).open(scratch.path().join(name)).unwrap().set_modified(changed).unwrap();
        text.len()
    };
    let bytes = file("logs.json", 600, 1);
    file("logs-older.json", 0, 60);
    file("logs-oldest.json", -600, 120);
    // The newest file and the second half of the next.
    let source = opened(scratch.path(), |config| config.limits.bytes = bytes + bytes / 2 + 5);
    assert_eq!(lines(source.as_ref(), 600, 1_140).await, Ok(10));
    assert_eq!(lines(source.as_ref(), 400, 1_140).await, Ok(13), "the end of the older file");
    for from in [0, 330] {
        let why = lines(source.as_ref(), from, 1_140).await.unwrap_err();
        assert!(why.contains("larger than") && why.contains("was not read"), "{from}: {why}");
    }
}

#[tokio::test]
async fn a_request_that_is_still_being_written_is_left_for_the_next_time() {
    let scratch = tempfile::tempdir().unwrap();
    let half = record(20, "half");
    fs::write(scratch.path().join("logs.json"), record(10, "whole") + &half[..half.len() / 2]).unwrap();
    assert_eq!(lines(opened(scratch.path(), |_| {}).as_ref(), 0, 60).await, Ok(1));
}

#[tokio::test]
async fn a_document_over_many_lines_is_read_as_well() {
    let scratch = tempfile::tempdir().unwrap();
    let document: serde_json::Value = serde_json::from_str(&record(10, "whole")).unwrap();
    fs::write(scratch.path().join("one.json"), serde_json::to_string_pretty(&document).unwrap()).unwrap();
    fs::create_dir(scratch.path().join("below")).unwrap();
    fs::write(scratch.path().join("below/logs.json"), record(20, "below")).unwrap();
    assert_eq!(lines(opened(scratch.path(), |_| {}).as_ref(), 0, 60).await, Ok(2));
}

#[tokio::test]
async fn a_file_that_cannot_be_understood_makes_the_answer_unknown_and_says_what_to_change() {
    let damaged = record(10, "a") + "{\"resourceLogs\":[}\n" + &record(20, "b");
    for (text, words) in [
        (b"\x00\x00\x00\x10\x28\xb5\x2f\xfd".to_vec(), "format: json"),
        (br#"{"name":"a README of somebody"}"#.to_vec(), "no request of OTLP"),
        (damaged.into_bytes(), "request 2"),
        (format!("{{\"resourceLogs\":{}{}}}", "[".repeat(500), "]".repeat(500)).into_bytes(), "recursion"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("file"), text).unwrap();
        let why = lines(opened(scratch.path(), |_| {}).as_ref(), 0, 60).await.unwrap_err();
        assert!(why.contains(words) && why.contains("cannot read"), "{words}: {why}");
    }
}

#[tokio::test]
async fn links_are_not_followed_and_lead_to_no_other_file() {
    let (scratch, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("logs.json"), record(10, "secret")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("logs.json"), scratch.path().join("logs.json")).unwrap();
    let why = lines(opened(scratch.path(), |_| {}).as_ref(), 0, 60).await.unwrap_err();
    assert!(why.contains("links are not followed"), "{why}");

    let linked = scratch.path().join("shop");
    std::os::unix::fs::symlink(outside.path(), &linked).unwrap();
    let url = format!("file://{}", linked.display()).parse().unwrap();
    let guard = Egress::new([Allowed::Directory(scratch.path().to_owned())]);
    let source = open(SourceConfig::new("files", SourceKind::OtlpFiles, url), &guard).unwrap();
    let why = lines(source.as_ref(), 0, 60).await.unwrap_err();
    assert!(why.contains("a link leads out"), "{why}");
}

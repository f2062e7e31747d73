//! Every source keeps the same promises, whatever its server does.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::Window;
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use amend_telemetry::case::{self, Redaction};
use amend_telemetry::contract::recorded::Recorded;
use amend_telemetry::contract::{Subject, asked, holds, unknown};
use amend_telemetry::egress::{Allowed, Egress};
use amend_telemetry::questions::{Measure, Selection, SeriesQuestion, Target};
use amend_telemetry::source::{Limits, SourceConfig, SourceKind, open};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};

/// How a server misbehaves, and what a person must be told about it.
const FAULTS: [(Fault, &str); 15] = [
    (Fault::Status(500), "failed with 500"),
    (Fault::Status(503), "failed with 503"),
    (Fault::Status(429), "failed with 429"),
    (Fault::Status(400), "refused the question with 400: no"),
    (Fault::Status(422), "refused the question with 422: no"),
    (Fault::Status(404), "404"),
    (Fault::Status(401), "credentials"),
    (Fault::Status(403), "credentials"),
    (Fault::Redirect, "redirects are not followed"),
    (Fault::Stall, "no complete answer within 300 ms"),
    (Fault::Drip, "no complete answer within 300 ms"),
    (Fault::Oversized, "larger than 1048576 bytes"),
    (Fault::GzipBomb, "larger than 1048576 bytes"),
    (Fault::Malformed, "cannot be read"),
    (Fault::CutOff, "cannot be read"),
];

#[derive(Clone, Copy, Debug)]
enum Fault {
    Status(u16),
    Redirect,
    /// Takes the question and never answers.
    Stall,
    /// A byte now and then, for ever.
    Drip,
    Oversized,
    GzipBomb,
    Malformed,
    /// The connection ends in the middle of the body.
    CutOff,
}

/// Sixteen MiB in a few KiB.
static BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&vec![b' '; 16 << 20]).unwrap();
    packed.finish().unwrap()
});

impl Fault {
    async fn respond(self) -> Response {
        let forever =
            |chunk: &'static [u8]| stream::repeat_with(move || Ok::<_, std::io::Error>(Bytes::from_static(chunk)));
        match self {
            Self::Status(code) => (StatusCode::from_u16(code).unwrap(), r#"{"error":"no"}"#).into_response(),
            Self::Redirect => (StatusCode::FOUND, [(header::LOCATION, "http://169.254.169.254/")]).into_response(),
            Self::Stall => std::future::pending().await,
            Self::Drip => {
                let slowly = forever(b" ").then(|byte| async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    byte
                });
                Body::from_stream(slowly).into_response()
            }
            Self::Oversized => Body::from_stream(forever(&[b' '; 65_536])).into_response(),
            Self::GzipBomb => ([(header::CONTENT_ENCODING, "gzip")], Bytes::from_static(&BOMB)).into_response(),
            Self::Malformed => "<html>please log in</html>".into_response(),
            Self::CutOff => {
                let cut = stream::once(async { Ok(Bytes::from_static(b"{\"status\"")) }).chain(stream::once(async {
                    // Late enough for the head and the first bytes to be on their way.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Err(std::io::Error::other("gone"))
                }));
                Body::from_stream(cut).into_response()
            }
        }
    }
}

/// A server on a port of its own, gone with the runtime of the test.
async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// A server with replies in the shape of the real one's: one for each path, none for names it does not know.
async fn recorded(kind: SourceKind) -> String {
    let reply = move |request: Request| async move {
        let (parts, body) = request.into_parts();
        let form = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let asked = format!("{}{}", parts.uri.query().unwrap_or_default(), String::from_utf8_lossy(&form));
        match reply_to(kind, parts.uri.path(), &asked) {
            Some(json) => {
                ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response()
            }
            None => StatusCode::NOT_FOUND.into_response(),
        }
    };
    serve(Router::new().fallback(reply)).await
}

fn reply_to(kind: SourceKind, path: &str, asked: &str) -> Option<&'static str> {
    // Names in questions that this server holds something about.
    let known = asked.contains("checkout")
        || asked.contains("HighErrors")
        || asked.contains("AmendContract")
        || asked.contains("a1b2c3d4e5f60718");
    Some(match (kind, path, known) {
        (SourceKind::Prometheus, "/api/v1/query", _) if asked.starts_with("query=1") => {
            r#"{"status":"success","data":{"resultType":"scalar","result":[1763700000,"1"]}}"#
        }
        (SourceKind::Prometheus, "/api/v1/query", true) if !asked.contains("NoSuchAlert") => {
            include_str!("replies/prometheus-alerts.json")
        }
        (SourceKind::Prometheus, "/api/v1/query", _) => {
            r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#
        }
        (SourceKind::Prometheus, "/api/v1/query_exemplars", _) => include_str!("replies/prometheus-exemplars.json"),
        (SourceKind::Prometheus, "/api/v1/query_range", true) => include_str!("replies/prometheus-range.json"),
        (SourceKind::Prometheus, "/api/v1/query_range", false) => {
            r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#
        }
        (SourceKind::Alertmanager, "/api/v2/status", _) => r#"{"cluster":{"status":"ready"}}"#,
        (SourceKind::Alertmanager, "/api/v2/alerts", true) => include_str!("replies/alertmanager-alerts.json"),
        (SourceKind::Alertmanager, "/api/v2/alerts", false) => "[]",
        (SourceKind::Alertmanager, "/api/v2/silences", _) => include_str!("replies/alertmanager-silences.json"),
        (SourceKind::Jaeger, "/api/services", _) => {
            r#"{"data":["checkout"],"total":1,"limit":0,"offset":0,"errors":null}"#
        }
        (SourceKind::Jaeger, "/api/traces", true) => include_str!("replies/jaeger-traces.json"),
        (SourceKind::Jaeger, "/api/traces", false) => r#"{"data":[],"total":0,"limit":0,"offset":0,"errors":null}"#,
        (SourceKind::Tempo, "/api/search", _) if known || asked.starts_with("q=%7B+%7D") => {
            r#"{"traces":[{"traceID":"a1","rootServiceName":"frontend","startTimeUnixNano":"1763700001000000000"}]}"#
        }
        (SourceKind::Tempo, "/api/search", _) => r#"{"traces":[],"metrics":{"completedJobs":1,"totalJobs":1}}"#,
        (SourceKind::Jaeger, "/api/traces/a1b2c3d4e5f60718", _) => include_str!("replies/jaeger-traces.json"),
        (SourceKind::Tempo, "/api/v2/traces/a1" | "/api/v2/traces/a1b2c3d4e5f60718", _) => {
            include_str!("replies/tempo-trace.json")
        }
        (SourceKind::OpenSearch, "/logs-*,filebeat-*,logstash-*/_field_caps", _) => {
            include_str!("replies/opensearch-fields.json")
        }
        (SourceKind::OpenSearch, "/logs-*,filebeat-*,logstash-*/_search", _) if known => {
            include_str!("replies/opensearch-search.json")
        }
        (SourceKind::OpenSearch, "/logs-*,filebeat-*,logstash-*/_search", _) => {
            r#"{"took":1,"timed_out":false,"_shards":{"total":1,"failed":0},"hits":{"total":{"value":0},"hits":[]}}"#
        }
        (SourceKind::Loki, "/loki/api/v1/query_range", _) if known || asked.ends_with("limit=1") => {
            include_str!("replies/loki-streams.json")
        }
        (SourceKind::Loki, "/loki/api/v1/query_range", _) => {
            r#"{"status":"success","data":{"resultType":"streams","result":[],"stats":{}}}"#
        }
        _ => return None,
    })
}

fn subject(kind: SourceKind, url: &str) -> Subject {
    let at = |second| Timestamp::from_second(second).unwrap();
    let signal = Signal {
        key: "k".to_owned(),
        source: SignalSource::Alert,
        name: "HighErrors".to_owned(),
        entity: Entity::new(EntityKind::Deployment, "shop", "checkout"),
        severity: Severity::Critical,
        started_at: at(1_763_700_000),
        ended_at: None,
        summary: String::new(),
        labels: [("alertname", "HighErrors"), ("namespace", "shop"), ("service", "checkout"), ("cluster", "eu-1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        count: 1,
    };
    Subject {
        config: SourceConfig {
            limits: Limits { timeout: Duration::from_secs(5), ..Limits::default() },
            ..SourceConfig::new("under-test", kind, url.parse().unwrap())
        },
        egress: Egress::new(["127.0.0.0/8".parse().unwrap()]),
        target: Target::new(signal.entity.clone()),
        measure: Measure::Memory,
        window: Window { from: at(1_763_700_000), to: at(1_763_700_600) },
        trace: Some("a1b2c3d4e5f60718".to_owned()),
        alert: Some(signal),
    }
}

/// A server that knows what a real store once answered, and nothing else.
async fn replayed(recorded: Recorded) -> String {
    let recorded = Arc::new(recorded);
    let reply = move |request: Request| {
        let recorded = Arc::clone(&recorded);
        async move {
            let (parts, body) = request.into_parts();
            let asked = format!("{} {}", parts.method, parts.uri.path_and_query().unwrap());
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            match recorded.reply_to(&asked, &String::from_utf8_lossy(&body)) {
                Some(exchange) => {
                    let json = [(header::CONTENT_TYPE, "application/json")];
                    (StatusCode::from_u16(exchange.status).unwrap(), json, exchange.reply.clone()).into_response()
                }
                None => StatusCode::NOT_FOUND.into_response(),
            }
        }
    };
    serve(Router::new().fallback(reply)).await
}

#[tokio::test]
async fn what_real_stores_answered_keeps_the_promises_of_their_kinds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "json")) {
        let recorded: Recorded = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let url = replayed(recorded.clone()).await;
        let broken = holds(&recorded.subject(&url).unwrap()).await;
        assert_eq!(broken, [], "{}; where a question has changed, record again as its README says", file.display());
    }
}

async fn keeps_its_promises(kind: SourceKind) {
    let url = recorded(kind).await;
    assert_eq!(holds(&subject(kind, &url)).await, []);
}

async fn says_what_is_wrong(kind: SourceKind) {
    for (fault, words) in FAULTS {
        let url = serve(Router::new().fallback(move || fault.respond())).await;
        let mut subject = subject(kind, &url);
        let hangs = matches!(fault, Fault::Stall | Fault::Drip);
        let timeout = Duration::from_millis(if hangs { 300 } else { 5_000 });
        subject.config.limits = Limits { timeout, bytes: 1 << 20, ..Limits::default() };
        assert_eq!(unknown(&subject, words).await, Ok(()), "{kind}, {fault:?}");
    }
}

macro_rules! contract {
    ($($name:ident: $kind:expr;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn keeps_its_promises() {
                super::keeps_its_promises($kind).await;
            }

            #[tokio::test]
            async fn says_what_is_wrong_and_what_to_do() {
                super::says_what_is_wrong($kind).await;
            }
        }
    )*};
}

contract! {
    prometheus: SourceKind::Prometheus;
    alertmanager: SourceKind::Alertmanager;
    jaeger: SourceKind::Jaeger;
    tempo: SourceKind::Tempo;
    loki: SourceKind::Loki;
    opensearch: SourceKind::OpenSearch;
}

/// A VictoriaMetrics in the shape of version 1.151: unless told otherwise it hides the last half minute and moves the ends
/// of windows. A made-up name finds nothing either way.
async fn victoriametrics() -> String {
    let reply = |request: Request| async move {
        let asked = request.uri().query().unwrap_or_default().to_owned();
        let as_prometheus = asked.contains("latency_offset=1ms") && asked.contains("nocache=1");
        let known = asked.contains("checkout") && !asked.contains("NoSuchAlert");
        let body = match (request.uri().path(), known, as_prometheus) {
            (path, ..) if !path.starts_with("/api/v1/query") => return StatusCode::BAD_REQUEST.into_response(),
            ("/api/v1/query_exemplars", ..) => r#"{"status":"success","data":[]}"#,
            ("/api/v1/query_range", true, true) => include_str!("replies/victoriametrics-range.json"),
            ("/api/v1/query_range", true, false) => include_str!("replies/victoriametrics-range-moved.json"),
            ("/api/v1/query_range", false, _) => include_str!("replies/victoriametrics-no-range.json"),
            (_, true, true) => include_str!("replies/victoriametrics-alerts.json"),
            (..) => include_str!("replies/victoriametrics-nothing.json"),
        };
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
    };
    serve(Router::new().fallback(reply)).await
}

#[tokio::test]
async fn a_victoriametrics_that_hides_the_newest_and_moves_windows_keeps_the_promises_of_prometheus() {
    let url = victoriametrics().await;
    assert_eq!(holds(&subject(SourceKind::Prometheus, &url)).await, []);
}

#[tokio::test]
async fn a_store_that_is_no_victoriametrics_is_not_sent_its_parameters() {
    let picky = |request: Request| async move {
        let asked = request.uri().query().unwrap_or_default();
        match asked.contains("nocache") || asked.contains("latency_offset") {
            true => (StatusCode::BAD_REQUEST, "unknown name"),
            false => (StatusCode::OK, include_str!("replies/prometheus-range.json")),
        }
    };
    let subject = subject(SourceKind::Prometheus, &serve(Router::new().fallback(picky)).await);
    let source = open(subject.config.clone(), &subject.egress).unwrap();
    for _ in 0..2 {
        assert!(asked(source.as_ref(), &subject, None).await.answer.known().is_some());
    }
}

/// A Prometheus that answers every question with this.
async fn prometheus_saying(body: String) -> Subject {
    let url = serve(Router::new().fallback(move || async move { body })).await;
    subject(SourceKind::Prometheus, &url)
}

#[tokio::test]
async fn samples_that_are_no_numbers_are_left_out_and_counted() {
    let body = r#"{"status":"success","data":{"resultType":"matrix","result":[
        {"metric":{"pod":"a"},"values":[[1,"NaN"],[2,"+Inf"],[3,"-Inf"],[4,"7"]]},
        {"metric":{"pod":"b"},"values":[[1,"NaN"]]}]}}"#;
    let subject = prometheus_saying(body.to_owned()).await;
    let source = open(subject.config.clone(), &subject.egress).unwrap();
    let reply = asked(source.as_ref(), &subject, None).await;
    assert_eq!((reply.answer.known(), reply.dropped), (Some(&1), 4));
}

#[tokio::test]
async fn a_partial_answer_is_no_answer() {
    for mark in [r#""warnings":["store gateway timed out"]"#, r#""isPartial":true"#] {
        let body = format!(
            r#"{{"status":"success",{mark},"data":{{"resultType":"matrix","result":[{{"metric":{{}},"values":[[1,"1"]]}}]}}}}"#
        );
        assert_eq!(unknown(&prometheus_saying(body).await, "partial").await, Ok(()), "{mark}");
    }
}

#[tokio::test]
async fn two_hundred_thousand_series_are_refused_and_not_kept() {
    let one = r#"{"metric":{"pod":"p"},"values":[[1,"1"]]}"#;
    let many = vec![one; 200_000].join(",");
    let body = format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{many}]}}}}"#);
    let mut subject = prometheus_saying(body).await;
    subject.config.limits.bytes = 4 << 20;
    assert_eq!(unknown(&subject, "larger than 4194304 bytes").await, Ok(()));
    subject.config.limits.bytes = 64 << 20;
    assert_eq!(unknown(&subject, "more than 2000 series").await, Ok(()));
}

#[tokio::test]
async fn text_in_an_error_cannot_reach_a_terminal_or_a_reader_raw() {
    let respond = || async { (StatusCode::BAD_REQUEST, "{\"error\":\"\\u001b[31mred\\u202e evil\\n@all\"}") };
    let url = serve(Router::new().fallback(respond)).await;
    let subject = subject(SourceKind::Loki, &url);
    assert_eq!(unknown(&subject, "[31mred evil @all").await, Ok(()));
}

#[tokio::test]
async fn a_deeply_nested_answer_is_unreadable_and_not_a_crash() {
    let subject = prometheus_saying("[".repeat(1_000_000)).await;
    assert_eq!(unknown(&subject, "cannot be read").await, Ok(()));
}

/// A source of files keeps the promises, and its directory is the only one that it may read.
async fn files_keep_the_promises(kind: SourceKind, directory: &std::path::Path, alert: Option<Signal>) {
    let url = format!("file://{}", directory.display());
    let subject =
        Subject { egress: Egress::new([Allowed::Directory(directory.to_owned())]), alert, ..subject(kind, &url) };
    assert_eq!(holds(&subject).await, []);
}

fn folder(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name)
}

#[tokio::test]
async fn a_case_of_what_exporters_wrote_keeps_the_promises() {
    files_keep_the_promises(SourceKind::Case, &folder("case"), subject(SourceKind::Case, "file:///").alert).await;
}

#[tokio::test]
async fn a_case_that_was_captured_keeps_the_promises_and_its_answers_are_told_as_they_are() {
    let scratch = tempfile::tempdir().unwrap();
    let seen = case::read(&folder("case")).unwrap().observations;
    let directory = scratch.path().join("captured");
    case::write(&directory, "captured", "shop", &seen, &Redaction::new("salt")).unwrap();
    files_keep_the_promises(SourceKind::Case, &directory, subject(SourceKind::Case, "file:///").alert).await;
}

#[tokio::test]
async fn what_a_case_does_not_hold_is_unknown_and_not_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("case.json"), "{}").unwrap();
    let url = format!("file://{}", scratch.path().display());
    let egress = Egress::new([Allowed::Directory(scratch.path().to_owned())]);
    let empty = Subject { egress, ..subject(SourceKind::Case, &url) };
    assert_eq!(unknown(&empty, "the case has no metrics.csv").await, Ok(()));

    let url = format!("file://{}", folder("case").display());
    let egress = Egress::new([Allowed::Directory(folder("case"))]);
    let other = Subject { egress, measure: Measure::Waiting, ..subject(SourceKind::Case, &url) };
    assert_eq!(unknown(&other, "no file holds a metric of waiting").await, Ok(()));
}

#[tokio::test]
async fn requests_in_a_case_are_counted_by_how_they_ended_as_a_prometheus_counts_them() {
    let url = format!("file://{}", folder("case").display());
    let subject = subject(SourceKind::Case, &url);
    let source = open(subject.config, &Egress::new([Allowed::Directory(folder("case"))])).unwrap();
    let question = SeriesQuestion {
        id: "requests".to_owned(),
        measure: Measure::Requests,
        of: Selection::one(&subject.target),
        window: Window { from: subject.window.to, to: subject.window.to },
        step: SignedDuration::from_secs(30),
    };
    let found = source.series(&question).await.outcome.unwrap();
    let told: Vec<(&str, f64)> =
        found.iter().map(|series| (series.labels["error"].as_str(), series.samples[0].1)).collect();
    assert_eq!(told, [("false", 2.0), ("true", 0.1)]);
}

#[tokio::test]
async fn files_of_a_collector_keep_the_promises() {
    files_keep_the_promises(SourceKind::OtlpFiles, &folder("otlp"), None).await;
}

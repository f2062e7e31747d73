//! Single requests that are followed: from exemplars to their traces, from traces to the lines around them.

use std::sync::{Arc, Mutex};

use amend_diagnosis::evidence::{Answer, Window};
use amend_telemetry::gather::{Scope, Windows, gather};
use amend_telemetry::source::SourceKind;
use amend_telemetry::sources::Sources;
use axum::Router;
use axum::extract::{Query, Request};
use serde_json::json;

use crate::{DEADLINE, at, checkout, gathered, matrix, opened, store, together};

/// A log store that finds lines of a trace only when asked about more than a minute, and what it was asked.
async fn late_lines(asked: Arc<Mutex<Vec<(String, i64)>>>) -> Sources {
    let respond = move |request: Request| {
        let of: Query<Vec<(String, String)>> = Query::try_from_uri(request.uri()).unwrap();
        let value = |key: &str| of.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap_or_default();
        let seconds = |key: &str| value(key).parse::<i64>().map_or(0, |ns| ns / 1_000_000_000);
        let (query, long) = (value("query"), seconds("end") - seconds("start"));
        let about_trace = query.contains("0af7651916cd43dd8448eb211c80319c");
        if about_trace {
            asked.lock().unwrap().push((query.clone(), long));
        }
        let line = json!(["1763700090000000000", "no stock", {"structuredMetadata": {"span_id": "02"}}]);
        let found = match about_trace && long > 60 && query.contains("trace_id=") {
            true => json!([{"stream": {"pod": "ledger-0"}, "values": [line]}]),
            false => json!([]),
        };
        async move { axum::Json(json!({"status": "success", "data": {"resultType": "streams", "result": found}})) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(respond)).await });
    opened("loki", SourceKind::Loki, &url)
}

#[tokio::test]
async fn a_failing_request_is_followed_into_the_logs_half_a_minute_around_it_and_then_two_minutes() {
    let trace = include_str!("../replies/jaeger-traces.json").replace("\"a1\"", "\"0af7651916cd43dd8448eb211c80319c\"");
    let traces = store("jaeger", SourceKind::Jaeger, move |path, _| match path {
        "/api/dependencies" => json!({"data": []}),
        _ => serde_json::from_str(&trace).unwrap(),
    });
    let asked = Arc::new(Mutex::new(Vec::new()));
    let logs = late_lines(Arc::clone(&asked)).await;
    let sources = together(&[&traces.await, &logs]);
    let from = |second: i64| at(1_763_700_000 + second);
    let windows = Windows {
        normal: Window { from: from(-600), to: from(-60) },
        fault: Window { from: from(-60), to: from(600) },
    };
    let scope = Scope { focus: checkout(), neighbours: Vec::new() };
    let found = gather(&sources, &scope, windows, DEADLINE).await;

    let asked = asked.lock().unwrap();
    let widths: Vec<i64> = asked.iter().map(|(_, long)| *long).collect();
    assert_eq!(widths.iter().filter(|long| (60..=65).contains(*long)).count(), 2, "{asked:?}");
    assert_eq!(widths.iter().filter(|long| (240..=245).contains(*long)).count(), 2, "{asked:?}");
    assert!(asked.iter().all(|(query, _)| query.starts_with("{namespace=\"shop\",pod=~\".+\"}")), "{asked:?}");
    let [line] = found.logs.known().unwrap().as_slice() else { panic!("{:?}", found.logs) };
    assert_eq!(line.trace_id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(line.span_id, None, "asked for since the trouble only, so it is no event of its span");
    let evidence =
        found.asked.iter().find(|asked| asked.id == "loki/anchored/0af7651916cd43dd/shop/known/wide").unwrap();
    assert!(evidence.query.contains("trace_id=\"0af7651916cd43dd8448eb211c80319c\"") && evidence.digest.len() == 64);
}

#[tokio::test]
async fn lines_of_a_few_requests_do_not_stand_for_logs_that_could_not_be_read() {
    let trace = include_str!("../replies/jaeger-traces.json").replace("\"a1\"", "\"0af7651916cd43dd8448eb211c80319c\"");
    let traces = store("jaeger", SourceKind::Jaeger, move |_, _| serde_json::from_str(&trace).unwrap());
    let logs = store("loki", SourceKind::Loki, |_, query| match query.contains("0af7651916cd43dd8448eb211c80319c") {
        true => serde_json::from_str(include_str!("../replies/loki-streams.json")).unwrap(),
        false => json!({"status": "error", "data": {"result": []}}),
    });
    let sources = together(&[&traces.await, &logs.await]);
    let from = |second: i64| at(1_763_700_000 + second);
    let windows =
        Windows { normal: Window { from: from(-600), to: from(0) }, fault: Window { from: from(0), to: from(600) } };
    let found = gather(&sources, &Scope { focus: checkout(), neighbours: Vec::new() }, windows, DEADLINE).await;
    assert!(found.asked.iter().any(|asked| asked.id.contains("/anchored/") && asked.unknown.is_none()), "{found:#?}");
    assert!(matches!(&found.logs, Answer::Unknown { why } if why.contains("refused")), "{:?}", found.logs);
}

#[tokio::test]
async fn requests_that_exemplars_point_at_are_fetched_whole_and_kept_apart_from_the_sample() {
    let metrics = store("prom", SourceKind::Prometheus, |path, query| match path {
        "/api/v1/query_exemplars" if query.contains("http_request_duration_seconds_bucket{namespace=\"shop\"") => {
            serde_json::from_str(include_str!("../replies/prometheus-exemplars.json")).unwrap()
        }
        "/api/v1/query_exemplars" => json!({"status": "success", "data": []}),
        _ => matrix(&[]),
    });
    let traces = store("jaeger", SourceKind::Jaeger, |path, _| match path {
        "/api/traces/0af7651916cd43dd8448eb211c80319c" => {
            let whole =
                include_str!("../replies/jaeger-traces.json").replace("\"a1\"", "\"0af7651916cd43dd8448eb211c80319c\"");
            serde_json::from_str(&whole).unwrap()
        }
        "/api/dependencies" => json!({"data": []}),
        _ => serde_json::from_str(include_str!("../replies/jaeger-traces.json")).unwrap(),
    });
    let found = gathered(&together(&[&metrics.await, &traces.await]), DEADLINE).await;
    let ids = |spans: &Answer<Vec<amend_diagnosis::evidence::Span>>| -> Vec<String> {
        spans.known().unwrap().iter().map(|span| span.trace_id.clone()).collect()
    };
    assert_eq!(ids(&found.exemplars), ["0af7651916cd43dd8448eb211c80319c"; 2]);
    assert_eq!(ids(&found.spans), ["a1"; 2], "slow by choice: no part of the sample");
    let asked = |id: &str| found.asked.iter().find(|asked| asked.id == id).unwrap();
    assert!(asked("prom/exemplars/shop/checkout").query.contains(" or "));
    assert_eq!(asked("jaeger/exemplar/0af7651916cd43dd").query, "/api/traces/0af7651916cd43dd8448eb211c80319c");
}

//! The second round against stores: finer answers under their names, and bounds that hold.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use amend_diagnosis::deep::Finer;
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::Window;
use amend_diagnosis::metric::name_of;
use amend_telemetry::deep::{About, Budget, Deepened, deepen};
use amend_telemetry::egress::Egress;
use amend_telemetry::gather::Windows;
use amend_telemetry::questions::Target;
use amend_telemetry::source::{SourceConfig, SourceKind, open};
use amend_telemetry::sources::Sources;
use axum::Router;
use axum::extract::{Query, Request};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn windows() -> Windows {
    Windows { normal: Window { from: at(0), to: at(3_600) }, fault: Window { from: at(3_600), to: at(4_200) } }
}

fn payment() -> Target {
    Target::new(Entity::new(EntityKind::Deployment, "shop", "payment"))
}

fn about(finer: Finer) -> About {
    About { finer, targets: vec![payment()] }
}

fn opened(url: &str) -> Sources {
    let mut config = SourceConfig::new("prometheus", SourceKind::Prometheus, url.parse().unwrap());
    config.sample_every = SignedDuration::from_secs(30);
    Sources::new([open(config, &Egress::new(["127.0.0.0/8".parse().unwrap()])).unwrap()])
}

/// A Prometheus that answers by query, and counts what it is asked.
async fn store(answer: impl Fn(&str) -> Vec<Value> + Clone + Send + Sync + 'static) -> (Sources, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let respond = move |request: Request| {
        let (answer, counted) = (answer.clone(), counted.clone());
        async move {
            // What a store holds at all is asked besides, by names alone.
            let of_samples = request.uri().path() == "/api/v1/query_range";
            counted.fetch_add(usize::from(of_samples), Ordering::SeqCst);
            let asked: Query<Vec<(String, String)>> = Query::try_from_uri(request.uri()).unwrap();
            let query =
                asked.iter().find(|(key, _)| key == "query").map(|(_, value)| value.clone()).unwrap_or_default();
            let result: Vec<Value> = answer(&query);
            axum::Json(json!({"status": "success", "data": {"resultType": "matrix", "result": result}}))
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(respond)).await });
    (opened(&url), asked)
}

fn series(labels: Value, value: &str) -> Value {
    json!({"metric": labels, "values": [[1_700_000_030, value], [1_700_003_900, value]]})
}

fn operations(query: &str) -> Vec<Value> {
    if !query.contains("http_requests_total") {
        return Vec::new();
    }
    let one = |method: &str, route: &str, code: &str, value: &str| {
        series(
            json!({"namespace": "shop", "service": "payment", "method": method, "route": route, "code": code}),
            value,
        )
    };
    vec![one("POST", "/refund", "500", "9"), one("POST", "/refund", "200", "1"), one("POST", "/charge", "200", "90")]
}

fn told(found: &Deepened) -> Vec<String> {
    let one = |series: &amend_diagnosis::evidence::Series| {
        let operation = series.labels.get("operation").cloned().unwrap_or_default();
        format!("{} {operation} {}", name_of(&series.labels), series.samples[0].1)
    };
    found.series.iter().map(one).collect()
}

#[tokio::test]
async fn operations_are_told_apart_by_method_and_route() {
    let (sources, _) = store(operations).await;
    let found = deepen(&sources, &[about(Finer::Operations)], windows(), Budget::default()).await;
    let mut told = told(&found);
    told.sort();
    assert_eq!(
        told,
        [
            "operationErrorRatio POST /charge 0",
            "operationErrorRatio POST /refund 0.9",
            "operationRequestRate POST /charge 90",
            "operationRequestRate POST /refund 10",
        ]
    );
    let answered =
        found.asked.iter().find(|asked| asked.id == "prometheus/deep/requests-by-operation/shop/payment").unwrap();
    assert!(answered.unknown.is_none() && !answered.digest.is_empty(), "{answered:?}");
    assert!(answered.query.contains("route") && answered.query.contains("payment"), "{answered:?}");
    let silent = found.asked.iter().find(|asked| asked.id.contains("latency")).unwrap();
    assert!(silent.unknown.as_deref().is_some_and(|why| why.contains("holds nothing of this kind")), "{silent:?}");
}

#[tokio::test]
async fn a_store_without_labels_of_operations_says_so_and_brings_nothing() {
    let whole = |query: &str| match query.contains("http_requests_total") {
        true => vec![series(json!({"namespace": "shop", "service": "payment", "code": "500"}), "9")],
        false => Vec::new(),
    };
    let (sources, _) = store(whole).await;
    let found = deepen(&sources, &[about(Finer::Operations)], windows(), Budget::default()).await;
    assert!(found.series.is_empty(), "{found:?}");
    assert!(found.asked.iter().all(|asked| asked.unknown.is_some() && asked.digest.is_empty()), "{found:?}");
}

#[tokio::test]
async fn pressure_of_nodes_is_found_under_the_address_that_was_scraped() {
    let answer = |query: &str| match query.contains("node_pressure_io") && query.contains("instance=~") {
        true => vec![series(json!({"instance": "node-1:9100"}), "0.4")],
        false => Vec::new(),
    };
    let (sources, _) = store(answer).await;
    let nodes = ["node-1", "node-2"].map(|name| Target::new(Entity::new(EntityKind::Node, "", name)));
    let asked = About { finer: Finer::NodePressure, targets: nodes.into() };
    let found = deepen(&sources, &[asked], windows(), Budget::default()).await;
    let [one] = found.series.as_slice() else { unreachable!("{found:?}") };
    assert_eq!((one.labels["node"].as_str(), one.labels["resource"].as_str()), ("node-1", "io"));
}

#[tokio::test]
async fn a_slow_store_costs_no_more_than_the_budget_and_stays_unknown() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sources = opened(&format!("http://{}", listener.local_addr().unwrap()));
    let budget = Budget { within: Duration::from_millis(300), ..Budget::default() };
    let all = [Finer::Pods, Finer::Operations, Finer::Versions, Finer::Pressure].map(about);
    let began = Instant::now();
    let found = deepen(&sources, &all, windows(), budget).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(found.series.is_empty() && found.asked.len() == 9, "{found:?}");
    assert!(found.asked.iter().all(|asked| asked.unknown.is_some()), "{found:?}");
}

#[tokio::test]
async fn queries_series_and_samples_are_bounded_and_what_is_left_out_is_said() {
    let many = |query: &str| match query.contains("http_requests_total") {
        true => (0..40)
            .map(|number| {
                let route = format!("/r{number}");
                series(json!({"namespace": "shop", "service": "payment", "route": route, "code": "200"}), "1")
            })
            .collect(),
        false => Vec::new(),
    };
    let (sources, asked) = store(many).await;
    let budget = Budget { queries: 1, series: 10, ..Budget::default() };
    let found = deepen(&sources, &[about(Finer::Operations), about(Finer::Pressure)], windows(), budget).await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(found.series.is_empty(), "{found:?}");
    let why: Vec<&str> = found.asked.iter().filter_map(|asked| asked.unknown.as_deref()).collect();
    assert_eq!(why.len(), 5, "{why:?}");
    assert!(why[0].contains("80 series, 160 samples) is more than the second round may still take"), "{why:?}");
    assert!(why[1..].iter().all(|why| why.contains("sends at most 1 queries")), "{why:?}");
}

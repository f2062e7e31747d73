//! How services count and time their requests: every known name is found by asking, and what does not say that it failed is no
//! success.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{Answer, Series, Window};
use amend_telemetry::egress::Egress;
use amend_telemetry::gather::{Gathered, Scope, Windows, gather};
use amend_telemetry::golden::{Golden, Regular, golden};
use amend_telemetry::questions::Target;
use amend_telemetry::source::{Reply, SourceConfig, SourceKind, open};
use amend_telemetry::sources::Sources;
use axum::Router;
use axum::extract::{Query, Request};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(5);

/// A Prometheus that answers by path and query.
async fn store(answer: impl Fn(&str, &str) -> Value + Clone + Send + Sync + 'static) -> Sources {
    let respond = move |request: Request| {
        let answer = answer.clone();
        async move {
            let asked: Query<Vec<(String, String)>> = Query::try_from_uri(request.uri()).unwrap();
            let query =
                asked.iter().find(|(key, _)| key == "query").map(|(_, value)| value.clone()).unwrap_or_default();
            axum::Json(answer(request.uri().path(), &query))
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(respond)).await });
    let mut config = SourceConfig::new("p", SourceKind::Prometheus, url.parse().unwrap());
    config.sample_every = SignedDuration::from_secs(10);
    Sources::new([open(config, &Egress::new(["127.0.0.0/8".parse().unwrap()])).unwrap()])
}

fn matrix(series: &[(Value, &[(i64, &str)])]) -> Value {
    let result: Vec<Value> =
        series.iter().map(|(metric, values)| json!({"metric": metric, "values": values})).collect();
    json!({"status": "success", "data": {"resultType": "matrix", "result": result}})
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn checkout() -> Target {
    Target::new(Entity::new(EntityKind::Deployment, "shop", "checkout"))
}

async fn ask_golden(sources: &Sources, metric: Golden) -> Reply<Regular> {
    let window = Window { from: at(1_000), to: at(1_100) };
    golden(sources, metric, &checkout(), window, SignedDuration::from_secs(10), DEADLINE).await
}

async fn gathered(sources: &Sources, deadline: Duration) -> Gathered {
    let windows =
        Windows { normal: Window { from: at(1_000), to: at(1_600) }, fault: Window { from: at(1_600), to: at(1_900) } };
    let scope = Scope {
        focus: checkout(),
        neighbours: vec![Target::new(Entity::new(EntityKind::Deployment, "shop", "frontend"))],
    };
    gather(sources, &scope, windows, deadline).await
}

fn named<'a>(series: &'a [Series], name: &str) -> Vec<&'a Series> {
    series.iter().filter(|series| series.labels.get("__name__").is_some_and(|known| known == name)).collect()
}

/// A Prometheus that holds these metrics and says so; every question about one of them gets these series.
async fn holding(held: &'static [&'static str], of: Value) -> (Sources, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    let sources = store(move |path, query| {
        if path == "/api/v1/label/__name__/values" {
            return json!({"status": "success", "data": held});
        }
        noted.lock().unwrap().push(query.to_owned());
        let whole = |metric: &&str| query.contains(&format!("{metric}{{"));
        let picks = |label: &String| ["{", ","].iter().any(|before| query.contains(&format!("{before}{label}=~")));
        let is_about = of.as_object().is_some_and(|of| of.keys().any(picks));
        match held.iter().any(whole) && is_about && !query.contains("pod") {
            true => matrix(&[(of.clone(), &[(1_000, "4")])]),
            false => matrix(&[]),
        }
    });
    (sources.await, asked)
}

#[tokio::test]
async fn a_failed_request_is_seen_under_every_label_of_its_code() {
    for (label, failed, fine) in [
        ("code", "500", "200"),
        ("status", "503", "404"),
        ("status_code", "5xx", "2xx"),
        ("http_status_code", "500", "200"),
        ("http_response_status_code", "500", "200"),
        ("response_code", "500", "0"),
        ("grpc_code", "Unavailable", "NotFound"),
        ("rpc_grpc_status_code", "14", "0"),
        ("outcome", "SERVER_ERROR", "SUCCESS"),
    ] {
        for (value, ratio) in [(failed, 1.0), (fine, 0.0)] {
            let of = json!({"namespace": "shop", "service": "checkout", label: value});
            let (sources, _) = holding(&["http_requests_total"], of).await;
            let reply = ask_golden(&sources, Golden::ErrorRatio).await;
            assert_eq!(reply.answer.known().map(|known| known.samples[0].1), Some(ratio), "{label}={value}");
            assert!(reply.asked.query.contains(label), "{}", reply.asked.query);
        }
    }
}

#[tokio::test]
async fn requests_without_any_label_of_a_code_are_no_successes() {
    let of = json!({"namespace": "shop", "service": "checkout"});
    let (sources, _) = holding(&["http_requests_total"], of).await;
    let ratio = ask_golden(&sources, Golden::ErrorRatio).await;
    let why = ratio.asked.unknown.unwrap();
    assert!(why.contains("status_code") && why.contains("`code` in the mapping"), "{why}");
    assert_eq!(ratio.answer, Answer::Unknown { why });
    assert!(ask_golden(&sources, Golden::Traffic).await.answer.known().is_some(), "they are requests all the same");
    let found = gathered(&sources, DEADLINE).await;
    let series = found.series.known().unwrap();
    assert_eq!((named(series, "requestRate").len(), named(series, "errorRatio").len()), (1, 0));
}

#[tokio::test]
async fn every_known_family_is_found_by_its_names_and_read_in_seconds() {
    let scraped = json!({"namespace": "shop", "service": "checkout", "status": "500"});
    let pushed = json!({"k8s_namespace_name": "shop", "service_name": "checkout", "http_response_status_code": "500"});
    let exported = json!({"exported_namespace": "shop", "exported_service": "checkout", "status": "500"});
    let traefik = json!({"exported_service": "shop-checkout-8080@kubernetes", "code": "500"});
    let envoy = json!({"envoy_cluster_name": "shop_checkout_8080", "envoy_response_code": "503"});
    let spans = json!({"k8s_namespace_name": "shop", "service": "checkout", "status_code": "STATUS_CODE_ERROR"});
    let families: [(&[&str], &Value, f64); 12] = [
        (&["http_server_requests_seconds_count", "http_server_requests_seconds_bucket"], &scraped, 4.0),
        (&["http_server_duration_milliseconds_count", "http_server_duration_milliseconds_bucket"], &pushed, 0.004),
        (&["http_server_request_duration_seconds_count", "http_server_request_duration_seconds_bucket"], &pushed, 4.0),
        (&["http_request_duration_seconds_count", "http_request_duration_seconds_bucket"], &scraped, 4.0),
        (&["grpc_server_handled_total", "grpc_server_handling_seconds_bucket"], &scraped, 4.0),
        (&["rpc_server_duration_milliseconds_count", "rpc_server_duration_milliseconds_bucket"], &pushed, 0.004),
        (&["traces_spanmetrics_calls_total", "traces_spanmetrics_latency_bucket"], &spans, 4.0),
        (&["calls_total", "duration_milliseconds_bucket"], &pushed, 0.004),
        (
            &["nginx_ingress_controller_requests", "nginx_ingress_controller_request_duration_seconds_bucket"],
            &exported,
            4.0,
        ),
        (&["traefik_service_requests_total", "traefik_service_request_duration_seconds_bucket"], &traefik, 4.0),
        (&["envoy_cluster_upstream_rq", "envoy_cluster_upstream_rq_time_bucket"], &envoy, 0.004),
        (
            &["istio_requests_total", "istio_request_duration_milliseconds_bucket"],
            &json!({"destination_workload": "checkout", "destination_workload_namespace": "shop", "response_code": "500"}),
            0.004,
        ),
    ];
    for (held, of, latency) in families {
        let held: &'static [&'static str] = Box::leak(held.to_vec().into_boxed_slice());
        let (sources, asked) = holding(held, of.clone()).await;
        let sample = async |metric| ask_golden(&sources, metric).await.answer.known().map(|known| known.samples[0].1);
        assert_eq!(sample(Golden::ErrorRatio).await, Some(1.0), "{held:?}");
        assert_eq!(sample(Golden::LatencyP99).await, Some(latency), "{held:?}");
        assert!(asked.lock().unwrap().len() <= 8, "{:?}", asked.lock().unwrap());
        let found = gathered(&sources, DEADLINE).await;
        let rate = named(found.series.known().unwrap(), "requestRate")[0];
        assert_eq!(
            (rate.labels["namespace"].as_str(), rate.labels["service"].as_str()),
            ("shop", "checkout"),
            "{held:?}"
        );
    }
}

#[tokio::test]
async fn native_histograms_alone_give_latency_and_a_count() {
    let of = json!({"k8s_namespace_name": "shop", "service_name": "checkout", "http_response_status_code": "500"});
    let (sources, asked) = holding(&["http_server_request_duration_seconds"], of).await;
    let latency = ask_golden(&sources, Golden::LatencyP99).await;
    assert_eq!(latency.answer.known().unwrap().samples, [(1_000.0, 4.0)]);
    assert!(!latency.asked.query.contains("_bucket"), "{}", latency.asked.query);
    let ratio = ask_golden(&sources, Golden::ErrorRatio).await;
    assert_eq!(ratio.answer.known().unwrap().samples, [(1_000.0, 1.0)]);
    assert!(ratio.asked.query.starts_with("histogram_count(sum by"), "{}", ratio.asked.query);
    assert!(asked.lock().unwrap().len() <= 4, "{:?}", asked.lock().unwrap());
}

#[tokio::test]
async fn services_of_one_namespace_may_count_in_different_ways_and_none_counts_twice() {
    let sources = store(|path, query| {
        let plain = json!({"namespace": "shop", "service": "checkout", "code": "200"});
        let mesh = |name: &str| json!({"destination_workload_namespace": "shop", "destination_workload": name, "response_code": "500"});
        match path {
            "/api/v1/label/__name__/values" => {
                json!({"status": "success", "data": ["http_requests_total", "istio_requests_total"]})
            }
            _ if query.contains("http_requests_total") && query.contains("service=~") => {
                matrix(&[(plain, &[(1_000, "4")])])
            }
            _ if query.contains("istio_requests_total") && query.contains("destination_workload=~") => {
                matrix(&[(mesh("checkout"), &[(1_000, "4")]), (mesh("frontend"), &[(1_000, "6")])])
            }
            _ => matrix(&[]),
        }
    });
    let found = gathered(&sources.await, DEADLINE).await;
    let rates: Vec<(String, f64)> = named(found.series.known().unwrap(), "requestRate")
        .into_iter()
        .filter(|series| !series.labels.contains_key("pod"))
        .map(|series| (series.labels["service"].clone(), series.samples[0].1))
        .collect();
    assert_eq!(rates, [("checkout".to_owned(), 4.0), ("frontend".to_owned(), 6.0)]);
}

//! Asking several stores about one incident: what is found, and what is said about the rest.

#![allow(clippy::unwrap_used, clippy::panic)]

mod followed;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{Answer, Series, Window};
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use amend_telemetry::alert::{AlertState, Muting, QuietQuestion, Silencer, firing, quiet, silenced};
use amend_telemetry::egress::Egress;
use amend_telemetry::gather::{Gathered, Scope, Windows, gather};
use amend_telemetry::golden::{Golden, Regular, golden};
use amend_telemetry::questions::Target;
use amend_telemetry::source::{Credentials, Reply, SourceConfig, SourceKind, open};
use amend_telemetry::sources::Sources;
use axum::Router;
use axum::extract::{Query, Request};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(5);

/// A store that answers by path and query.
async fn store(
    name: &str,
    kind: SourceKind,
    answer: impl Fn(&str, &str) -> Value + Clone + Send + Sync + 'static,
) -> Sources {
    let respond = move |request: Request| {
        let answer = answer.clone();
        async move {
            let asked: Query<Vec<(String, String)>> = Query::try_from_uri(request.uri()).unwrap();
            let of = |key: &str| asked.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap_or_default();
            let query = format!("{}{}", of("query"), of("service"));
            axum::Json(answer(request.uri().path(), &query))
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(respond)).await });
    opened(name, kind, &url)
}

fn opened(name: &str, kind: SourceKind, url: &str) -> Sources {
    let egress = Egress::new(["127.0.0.0/8".parse().unwrap()]);
    let mut config = SourceConfig::new(name, kind, url.parse().unwrap());
    config.sample_every = SignedDuration::from_secs(10);
    Sources::new([open(config, &egress).unwrap()])
}

/// A store that takes connections and never answers.
async fn silent(name: &str, kind: SourceKind) -> (Sources, tokio::net::TcpListener) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (opened(name, kind, &url), listener)
}

fn together(parts: &[&Sources]) -> Sources {
    Sources::new(parts.iter().flat_map(|sources| sources.all().iter().cloned()))
}

fn matrix(series: &[(Value, &[(i64, &str)])]) -> Value {
    let result: Vec<Value> =
        series.iter().map(|(metric, values)| json!({"metric": metric, "values": values})).collect();
    json!({"status": "success", "data": {"resultType": "matrix", "result": result}})
}

fn vector(series: &[Value]) -> Value {
    let result: Vec<Value> = series.iter().map(|metric| json!({"metric": metric, "value": [1000, "1"]})).collect();
    json!({"status": "success", "data": {"resultType": "vector", "result": result}})
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn checkout() -> Target {
    Target::new(Entity::new(EntityKind::Deployment, "shop", "checkout"))
}

fn alert() -> Signal {
    Signal {
        key: "k".to_owned(),
        source: SignalSource::Alert,
        name: "HighErrors".to_owned(),
        entity: checkout().entity,
        severity: Severity::Critical,
        started_at: at(900),
        ended_at: None,
        summary: String::new(),
        labels: [("alertname", "HighErrors"), ("namespace", "shop"), ("service", "checkout"), ("cluster", "eu-1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        count: 1,
    }
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

fn requests(path: &str, query: &str) -> Value {
    let service = json!({"namespace": "shop", "service": "checkout", "code": "200"});
    let failing = json!({"namespace": "shop", "service": "checkout", "code": "503"});
    match path == "/api/v1/query_range" && query.contains("http_requests_total") && !query.contains("pod") {
        true => matrix(&[(service, &[(1_000, "9"), (1_010, "8")]), (failing, &[(1_010, "2")])]),
        false => matrix(&[]),
    }
}

#[tokio::test]
async fn an_error_ratio_is_known_where_there_is_traffic_and_unknown_where_there_is_none() {
    let busy = store("busy", SourceKind::Prometheus, requests).await;
    let ratio = ask_golden(&busy, Golden::ErrorRatio).await;
    assert_eq!(ratio.answer.known().unwrap().samples, [(1_000.0, 0.0), (1_010.0, 0.2)]);
    assert_eq!(ratio.answer.known().unwrap().expected, 11);

    let idle = store("idle", SourceKind::Prometheus, |_, _| {
        matrix(&[(json!({"service": "checkout", "code": "200"}), &[(1_000, "0"), (1_010, "0")])])
    });
    let ratio = ask_golden(&idle.await, Golden::ErrorRatio).await;
    let why = ratio.asked.unknown.unwrap();
    assert!(why.starts_with("idle: no traffic"), "{why}");
    assert_eq!((ratio.asked.digest.as_str(), ratio.answer), ("", Answer::Unknown { why }));
}

#[tokio::test]
async fn a_metric_that_nobody_exports_does_not_look_fine() {
    let empty = store("empty", SourceKind::Prometheus, |_, _| matrix(&[])).await;
    for metric in Golden::ALL {
        let reply = ask_golden(&empty, metric).await;
        assert!(reply.answer.known().is_none() && reply.asked.unknown.unwrap().contains("; check"));
    }
    let none = ask_golden(&Sources::default(), Golden::Traffic).await;
    assert_eq!(none.answer, Answer::unknown("no TelemetrySource that holds metrics serves this namespace; add one"));
}

#[tokio::test]
async fn of_several_stores_the_one_that_knows_answers() {
    let empty = store("empty", SourceKind::Prometheus, |_, _| matrix(&[])).await;
    let busy = store("busy", SourceKind::Prometheus, requests).await;
    for sources in [together(&[&empty, &busy]), together(&[&busy, &empty])] {
        let reply = ask_golden(&sources, Golden::Traffic).await;
        assert_eq!((reply.asked.source.as_str(), reply.answer.known().unwrap().samples.len()), ("busy", 2));
    }
}

#[tokio::test]
async fn names_of_opentelemetry_are_found_without_being_declared() {
    let otel = store("otel", SourceKind::Prometheus, |_, query| {
        let of = json!({"k8s_namespace_name": "shop", "service_name": "checkout", "http_response_status_code": "500"});
        match query.contains("http_server_request_duration_seconds_count") && query.contains("service_name") {
            true => matrix(&[(of, &[(1_000, "4")])]),
            false => matrix(&[]),
        }
    });
    let reply = ask_golden(&otel.await, Golden::ErrorRatio).await;
    assert_eq!(reply.answer.known().unwrap().samples, [(1_000.0, 1.0)]);
    assert!(reply.asked.query.contains("k8s_namespace_name=\"shop\""), "{}", reply.asked.query);
}

#[tokio::test]
async fn what_a_mesh_counts_between_two_services_comes_as_rates_in_its_own_names() {
    let mesh = store("mesh", SourceKind::Prometheus, |path, query| {
        let of = json!({"source_workload_namespace": "shop", "source_workload": "checkout",
            "destination_workload_namespace": "shop", "destination_workload": "cart", "response_flags": "UF"});
        match path == "/api/v1/query_range" && query.contains("rate(istio_requests_total{reporter=\"source\"") {
            true => matrix(&[(of, &[(1_600, "2"), (1_610, "3")])]),
            false => matrix(&[]),
        }
    });
    let found = gathered(&mesh.await, DEADLINE).await;
    let series = named(found.series.known().unwrap(), "istio_requests_total");
    let [lost] = series.as_slice() else { panic!("{series:?}") };
    assert_eq!(lost.samples, [(1_600.0, 2.0), (1_610.0, 3.0)]);
    assert_eq!((lost.labels["per"].as_str(), lost.labels["response_flags"].as_str()), ("second", "UF"));
    assert_eq!(lost.asked, "mesh/edge-requests/shop");
    assert!(amend_diagnosis::edge::counted(lost).is_some_and(|count| count.agent == "Istio"), "{lost:?}");
}

#[tokio::test]
async fn an_alert_fires_only_for_the_entity_that_it_is_about() {
    let alerts = |state: &'static str, service: &'static str| {
        store("p", SourceKind::Prometheus, move |_, query| {
            let one = json!({"__name__": "ALERTS", "alertname": "HighErrors", "alertstate": state, "service": service});
            match query.contains("last_over_time") || state != "gone" {
                true => vector(&[if state == "gone" { json!({"alertstate": "firing"}) } else { one }]),
                false => vector(&[]),
            }
        })
    };
    let ask = async |sources: Sources| firing(&sources, &alert(), at(1_000), DEADLINE).await.0;
    assert_eq!(ask(alerts("firing", "checkout").await).await, Answer::Known(AlertState::Firing));
    assert_eq!(ask(alerts("pending", "checkout").await).await, Answer::Known(AlertState::Pending));
    assert_eq!(ask(alerts("gone", "checkout").await).await, Answer::Known(AlertState::Inactive));
    let other = ask(alerts("firing", "cart").await).await;
    assert!(matches!(&other, Answer::Unknown { why } if why.contains("never heard of")), "{other:?}");
}

#[tokio::test]
async fn external_labels_are_not_asked_for() {
    let (_, asked) = firing(
        &store("p", SourceKind::Prometheus, |_, _| vector(&[json!({"alertstate": "firing"})])).await,
        &alert(),
        at(1_000),
        DEADLINE,
    )
    .await;
    assert_eq!(asked[0].query, r#"ALERTS{alertname="HighErrors",namespace="shop",service="checkout"}"#);
}

#[tokio::test]
async fn one_alertmanager_that_cannot_be_asked_makes_silence_unknown_and_one_silence_is_enough() {
    let audible = store("loud", SourceKind::Alertmanager, |_, _| json!([])).await;
    let silence = json!([{"id": "s1", "status": {"state": "active"}, "createdBy": "lena", "comment": "load test",
        "matchers": [{"name": "namespace", "value": "shop", "isRegex": false, "isEqual": true}]}]);
    let quiet = store("quiet", SourceKind::Alertmanager, move |path, _| match path {
        "/api/v2/silences" => silence.clone(),
        _ => json!([]),
    });
    let quiet = quiet.await;
    let gone = opened("gone", SourceKind::Alertmanager, "http://127.0.0.1:1");
    let ask = async |sources: Sources| silenced(&sources, &alert(), at(1_000), DEADLINE).await.0;
    assert_eq!(ask(audible.clone()).await, Answer::Known(Muting::Audible));
    let partly = ask(together(&[&audible, &gone])).await;
    assert!(matches!(&partly, Answer::Unknown { why } if why.contains("gone: cannot reach")), "{partly:?}");
    let by = Silencer { id: "s1".to_owned(), created_by: "lena".to_owned(), comment: "load test".to_owned() };
    assert_eq!(ask(together(&[&gone, &quiet])).await, Answer::Known(Muting::Silenced { by: vec![by] }));
    assert!(ask(Sources::default()).await.known().is_none());
}

#[tokio::test]
async fn quiet_about_a_workload_is_known_before_any_alert_of_it_was_heard() {
    let board = async |silences: Value, alerts: Value| {
        store("am", SourceKind::Alertmanager, move |path, _| match path {
            "/api/v2/silences" => silences.clone(),
            _ => alerts.clone(),
        })
        .await
    };
    let ask = async |sources: &Sources| {
        let question = QuietQuestion {
            id: "silences".to_owned(),
            about: vec![checkout().entity],
            own: std::collections::BTreeMap::new(),
            since: at(1_000),
            at: at(2_000),
        };
        let found = quiet(sources, &question, DEADLINE).await.0;
        found.map(|by| by.into_iter().map(|silence| silence.id).collect::<Vec<_>>())
    };
    let known = |ids: &[&str]| Answer::Known(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
    let silence =
        |id: &str, state: &str, matchers: Value| json!([{"id": id, "status": {"state": state}, "matchers": matchers}]);
    let shop = || json!([{"name": "namespace", "value": "shop", "isRegex": false}]);
    let crash_loops = || json!([{"name": "alertname", "value": "KubePodCrashLooping", "isRegex": false}]);
    let unheard = |since: i64, pod: &str| {
        json!([{"labels": {"alertname": "KubePodCrashLooping", "namespace": "shop", "pod": pod}, "startsAt": at(since).to_string(),
            "status": {"silencedBy": ["s1"], "inhibitedBy": []}}])
    };

    assert_eq!(ask(&board(silence("s1", "active", shop()), json!([])).await).await, known(&["s1"]));
    assert_eq!(ask(&board(silence("s1", "expired", shop()), json!([])).await).await, known(&[]));
    let of_alert = silence("s1", "active", crash_loops());
    assert_eq!(ask(&board(of_alert.clone(), json!([])).await).await, known(&[]), "one alert, which does not fire");
    let began_with_it = board(of_alert.clone(), unheard(1_500, "checkout-7d9f-abcde")).await;
    assert_eq!(ask(&began_with_it).await, known(&["s1"]), "it fires, and nobody is told");
    let of_another = board(of_alert.clone(), unheard(1_500, "cart-7d9f-abcde")).await;
    assert_eq!(ask(&of_another).await, known(&[]));
    let known_noise = board(of_alert, unheard(500, "checkout-7d9f-abcde")).await;
    assert_eq!(ask(&known_noise).await, known(&[]), "it fired long before the incident");

    let gone = opened("gone", SourceKind::Alertmanager, "http://127.0.0.1:1");
    let partly = ask(&together(&[&known_noise, &gone])).await;
    assert!(matches!(&partly, Answer::Unknown { why } if why.contains("gone: cannot reach")), "{partly:?}");
    assert_eq!(ask(&together(&[&began_with_it, &gone])).await, known(&["s1"]), "one silence is enough");
    assert_eq!(ask(&Sources::default()).await.known(), None);
}

#[tokio::test]
async fn an_incident_gets_series_spans_lines_and_call_edges() {
    let metrics = store("prom", SourceKind::Prometheus, requests).await;
    let traces = store("jaeger", SourceKind::Jaeger, |path, _| match path {
        "/api/dependencies" => json!({"data": [{"parent": "frontend", "child": "cart", "callCount": 3}]}),
        _ => serde_json::from_str(include_str!("../replies/jaeger-traces.json")).unwrap(),
    });
    let logs = store("loki", SourceKind::Loki, |_, query| match query.starts_with("sum") {
        true => matrix(&[(json!({"pod": "checkout-1"}), &[(1_000, "3")])]),
        false => serde_json::from_str(include_str!("../replies/loki-streams.json")).unwrap(),
    });
    let found = gathered(&together(&[&metrics, &traces.await, &logs.await]), DEADLINE).await;

    let series = found.series.known().unwrap();
    assert_eq!(named(series, "errorRatio")[0].samples, [(1_000.0, 0.0), (1_010.0, 0.2)]);
    assert_eq!(named(series, "requestRate")[0].samples, [(1_000.0, 9.0), (1_010.0, 10.0)]);
    assert_eq!(named(series, "log_error_lines")[0].labels["namespace"], "shop");
    // Two services and two windows gave the same trace; it counts once.
    assert_eq!(found.spans.known().unwrap().len(), 2);
    assert!(found.spans.known().unwrap().iter().any(|span| span.error && span.parent_id.as_deref() == Some("01")));
    let lines = found.logs.known().unwrap();
    assert_eq!(
        (lines.len(), lines[1].severity.as_deref(), lines[1].trace_id.as_deref()),
        (2, Some("error"), Some("a1"))
    );
    let edges: Vec<(&str, &str)> = found
        .topology
        .known()
        .unwrap()
        .edges
        .iter()
        .map(|edge| (edge.from.name.as_str(), edge.to.name.as_str()))
        .collect();
    assert_eq!(edges, [("frontend", "cart"), ("frontend", "checkout")]);
    for series in series {
        assert!(found.asked.iter().any(|asked| asked.id == series.asked), "{}", series.asked);
    }
}

#[tokio::test]
async fn what_runs_in_a_pod_and_beneath_it_is_told_under_one_name_each() {
    let metrics = store("prom", SourceKind::Prometheus, |_, query| {
        let of = |labels: Value| matrix(&[(labels, &[(1_000, "0.97")])]);
        let pod = |name: &str, more: &[(&str, &str)]| {
            let mut labels = json!({"__name__": name, "namespace": "shop", "pod": "checkout-1"});
            more.iter().for_each(|(label, value)| labels[*label] = json!(value));
            labels
        };
        match query {
            _ if query.contains("jvm_gc_pause_seconds_sum") && query.contains("{__name__=~") => {
                let used = pod("db_client_connection_count", &[("state", "used")]);
                let all = [pod("jvm_gc_pause_seconds_sum", &[]), used, pod("redis_config_maxclients", &[])];
                matrix(&all.map(|labels| -> (Value, &[(i64, &str)]) { (labels, &[(1_000, "7")]) }))
            }
            _ if query.contains("container_fs_writes_bytes_total") => of(pod("container_fs_writes_bytes_total", &[])),
            _ if query.contains("container_network_receive") => of(pod("container_network_receive_bytes_total", &[])),
            _ if query.contains("kubelet_volume_stats_used_bytes{namespace=\"shop\"}") => {
                of(json!({"namespace": "shop", "persistentvolumeclaim": "data"}))
            }
            _ if query.starts_with("1 - ") && query.contains("by (node, instance)") => {
                of(json!({"instance": "10.0.0.11:9100"}))
            }
            _ => matrix(&[]),
        }
    });
    let found = gathered(&metrics.await, DEADLINE).await;
    let series = found.series.known().unwrap();
    for name in [
        "gc_pause_seconds_sum",
        "pool_connections_used",
        "database_connections_max",
        "container_fs_writes_bytes_total",
        "container_network_receive_bytes_total",
        "volume_fullness",
        "node_cpu_fullness",
        "node_memory_fullness",
        "node_disk_fullness",
    ] {
        assert_eq!(named(series, name).len(), 1, "{name}");
    }
    assert_eq!(named(series, "pool_connections_used")[0].labels["state"], "used");
}

#[tokio::test]
async fn a_service_of_another_namespace_is_not_taken_for_the_one_of_the_incident() {
    let traces = store("jaeger", SourceKind::Jaeger, |path, _| match path {
        "/api/dependencies" => json!({"data": []}),
        _ => {
            let span = |trace: &str, process: &str| json!({"traceID": trace, "spanID": "01", "operationName": "GET", "startTime": 1, "processID": process});
            let process = |namespace: &str| json!({"serviceName": "checkout", "tags": [{"key": "k8s.namespace.name", "value": namespace}]});
            json!({"data": [{"spans": [span("a1", "p1"), span("b2", "p2")],
                "processes": {"p1": process("shop"), "p2": process("staging")}}]})
        }
    });
    let found = gathered(&traces.await, DEADLINE).await;
    let services: Vec<&str> = found.spans.known().unwrap().iter().map(|span| span.service.as_str()).collect();
    assert_eq!(services, ["checkout", "staging/checkout"]);
}

#[tokio::test]
async fn a_dead_store_is_named_and_the_others_are_heard() {
    let metrics = store("prom", SourceKind::Prometheus, requests).await;
    let gone = opened("jaeger", SourceKind::Jaeger, "http://127.0.0.1:1");
    let found = gathered(&together(&[&metrics, &gone]), DEADLINE).await;
    assert!(found.series.known().is_some());
    assert!(matches!(&found.spans, Answer::Unknown { why } if why.starts_with("jaeger: cannot reach")));
    assert!(matches!(&found.logs, Answer::Unknown { why } if why.contains("add one")));
    assert!(found.asked.iter().filter(|asked| asked.source == "jaeger").all(|asked| asked.unknown.is_some()));
}

#[tokio::test]
async fn the_deadline_of_the_whole_batch_holds_however_many_questions_wait() {
    let (slow, _kept) = silent("slow", SourceKind::Prometheus).await;
    let started = Instant::now();
    let found = gathered(&slow, Duration::from_millis(200)).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(matches!(&found.series, Answer::Unknown { why } if why.contains("deadline of the whole diagnosis")));
    assert_eq!(found.asked.iter().filter(|asked| asked.unknown.is_none()).count(), 0);
}

#[tokio::test]
async fn credentials_and_tenant_reach_the_store_and_are_never_shown() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let respond = move |request: Request| {
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        noted.lock().unwrap().push((header("authorization"), header("x-scope-orgid")));
        async { axum::Json(json!([])) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(respond)).await });
    for credentials in [
        Credentials::Bearer("s3cret".to_owned().into()),
        Credentials::Basic { user: "ann".to_owned(), password: "s3cret".to_owned().into() },
    ] {
        let config = SourceConfig {
            credentials,
            tenant: Some("shop".to_owned()),
            ..SourceConfig::new("am", SourceKind::Alertmanager, url.parse().unwrap())
        };
        let source = open(config, &Egress::new(["127.0.0.1".parse().unwrap()])).unwrap();
        assert!(source.probe().await.outcome.is_ok());
        assert!(!format!("{source:?}").contains("s3cret"));
    }
    let expected =
        ["Bearer s3cret", "Basic YW5uOnMzY3JldA=="].map(|auth| (Some(auth.to_owned()), Some("shop".to_owned())));
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_when_it_is_resolved() {
    let (_, kept) = silent("unused", SourceKind::Loki).await;
    let url = format!("http://localhost:{}", kept.local_addr().unwrap().port());
    let config = SourceConfig::new("rebound", SourceKind::Loki, url.parse().unwrap());
    let source = open(config, &Egress::new(["localhost".parse().unwrap()])).unwrap();
    let told = source.probe().await;
    let why = told.outcome.unwrap_err().why("rebound");
    assert!(why.contains("loopback") && why.contains("egress allow-list"), "{why}");
}

//! What Thanos and Mimir do otherwise than Prometheus, whose query API they speak. Replies in the shape of their documentation and
//! sources: `pkg/api/query/v1.go` of Thanos 0.41, the HTTP API and the errors catalogue of Mimir.

#![allow(clippy::unwrap_used)]

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::Window;
use amend_telemetry::contract::{Subject, holds, unknown};
use amend_telemetry::egress::Egress;
use amend_telemetry::questions::{Measure, Target};
use amend_telemetry::source::{SourceConfig, SourceKind};
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use jiff::Timestamp;

const MATRIX: &str = r#""resultType":"matrix","result":[{"metric":{"namespace":"shop","pod":"checkout-5d8f7c9b6d-x2x4q","container":"app"},"values":[[1763700000,"100"],[1763700030,"200"]]}]"#;

/// A server that answers with what is made of headers, path and query.
async fn store(
    answer: impl Fn(&HeaderMap, &str, &str) -> (StatusCode, String) + Clone + Send + Sync + 'static,
) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let respond = move |request: Request| {
        let told = answer(request.headers(), request.uri().path(), request.uri().query().unwrap_or_default());
        async move { told }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(respond)).await });
    format!("http://{address}")
}

fn subject(url: &str) -> Subject {
    let at = |second| Timestamp::from_second(second).unwrap();
    Subject {
        config: SourceConfig::new("metrics", SourceKind::Prometheus, url.parse().unwrap()),
        egress: Egress::new(["127.0.0.0/8".parse().unwrap()]),
        target: Target::new(Entity::new(EntityKind::Deployment, "shop", "checkout")),
        measure: Measure::Memory,
        window: Window { from: at(1_763_700_000), to: at(1_763_700_600) },
        trace: None,
        alert: None,
    }
}

fn success(data: &str) -> (StatusCode, String) {
    (StatusCode::OK, format!(r#"{{"status":"success","data":{data}}}"#))
}

/// A successful answer of the API for a workload that is known and for one that is not; `also` stands beside each result.
fn answered(path: &str, query: &str, also: &str) -> (StatusCode, String) {
    match (path, query.contains("checkout")) {
        ("/api/v1/query_range", true) => success(&format!("{{{MATRIX}{also}}}")),
        ("/api/v1/query_range", false) => success(&format!(r#"{{"resultType":"matrix","result":[]{also}}}"#)),
        ("/api/v1/query", _) => success(&format!(r#"{{"resultType":"scalar","result":[1763700000,"1"]{also}}}"#)),
        ("/api/v1/query_exemplars" | "/api/v1/label/__name__/values", _) => success("[]"),
        _ => (StatusCode::NOT_FOUND, "404 page not found".to_owned()),
    }
}

/// Mimir below its prefix, for one tenant.
fn mimir(headers: &HeaderMap, path: &str, query: &str) -> (StatusCode, String) {
    match (headers.get("x-scope-orgid").map(|tenant| tenant.as_bytes()), path.strip_prefix("/prometheus")) {
        (Some(b"team-a"), Some(path)) => answered(path, query, ""),
        (Some(_), Some("/api/v1/query_range")) => success(r#"{"resultType":"matrix","result":[]}"#),
        (None, _) => (StatusCode::UNAUTHORIZED, "no org id\n".to_owned()),
        (Some(_), _) => (StatusCode::NOT_FOUND, "404 page not found".to_owned()),
    }
}

#[tokio::test]
async fn a_mimir_that_is_told_its_tenant_keeps_the_promises() {
    let mut subject = subject(&format!("{}/prometheus", store(mimir).await));
    subject.config.tenant = Some("team-a".to_owned());
    assert_eq!(holds(&subject).await, []);
}

#[tokio::test]
async fn a_mimir_that_is_told_no_tenant_says_which_field_to_set() {
    let subject = subject(&format!("{}/prometheus", store(mimir).await));
    assert_eq!(unknown(&subject, "the store answered 401; check the credentials").await, Ok(()));
    assert_eq!(unknown(&subject, "spec.tenant").await, Ok(()));
}

#[tokio::test]
async fn a_limit_of_the_store_is_told_as_one_and_not_as_a_wrong_question() {
    for said in [
        "expanding series: the query exceeded the maximum number of series (limit: 3 series) (err-mimir-max-series-per-query). To adjust the related per-tenant limit, configure -querier.max-fetched-series-per-query, or contact your service administrator.",
        "expand series: proxy Series(): rpc error: code = Aborted desc = exceeded series limit: limit 3 violated (got 5)",
        "query processing would load too many samples into memory in query execution",
    ] {
        let body = format!(r#"{{"status":"error","errorType":"execution","error":"{said}"}}"#);
        let url = store(move |_, _, _| (StatusCode::UNPROCESSABLE_ENTITY, body.clone())).await;
        assert_eq!(unknown(&subject(&url), "the store's own limit refused").await, Ok(()), "{said}");
        assert_eq!(unknown(&subject(&url), "raise that limit in the store").await, Ok(()), "{said}");
    }
    let body = r#"{"status":"error","errorType":"execution","error":"found duplicate series for the match group"}"#;
    let url = store(move |_, _, _| (StatusCode::UNPROCESSABLE_ENTITY, body.to_owned())).await;
    assert_eq!(unknown(&subject(&url), "refused the question with 422").await, Ok(()));
}

#[tokio::test]
async fn a_thanos_whose_stores_all_answer_keeps_the_promises() {
    let url = store(|_, path, query| answered(path, query, r#","analysis":{}"#)).await;
    assert_eq!(holds(&subject(&url)).await, []);
}

#[tokio::test]
async fn a_thanos_that_misses_a_store_answers_in_part_which_is_no_answer() {
    let warnings = r#""warnings":["receive series from Addr: thanos-store:10901 LabelSets: {cluster=\"eu-1\"}: rpc error: code = Unavailable desc = connection refused"]"#;
    let url = store(move |_, path, query| {
        let (status, told) = answered(path, query, r#","analysis":{},"warnings":[{}]"#);
        (status, told.replace(r#"{"status":"success","#, &format!(r#"{{"status":"success",{warnings},"#)))
    })
    .await;
    assert_eq!(
        unknown(&subject(&url), "the answer is partial: receive series from Addr: thanos-store:10901").await,
        Ok(())
    );
    let mut of_requests = subject(&url);
    of_requests.measure = Measure::Requests;
    assert_eq!(
        unknown(&of_requests, "the answer is partial").await,
        Ok(()),
        "which names are there is partial as well"
    );
}

#[tokio::test]
async fn a_thanos_that_may_not_answer_in_part_fails() {
    let body = r#"{"status":"error","errorType":"execution","error":"expanding series: proxy Series(): rpc error: code = Aborted desc = fetch series for {cluster=\"eu-1\"} thanos-store:10901: rpc error: code = Unavailable"}"#;
    let url = store(move |_, _, _| (StatusCode::UNPROCESSABLE_ENTITY, body.to_owned())).await;
    assert_eq!(unknown(&subject(&url), "code = Unavailable").await, Ok(()));
}

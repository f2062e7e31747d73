//! The intake over HTTP: who is let in, what is refused, and when the sender hears yes.
#![allow(clippy::unwrap_used)] // helper functions of tests are not inside a test module

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use amend_controller::intake::build_report::BuildReport;
use amend_controller::intake::proof::{ClientCertificate, Secrets};
use amend_controller::intake::queue::Queue;
use amend_controller::intake::receive::{self, Senders};
use amend_controller::intake::{BuildStore, SignalStore, StoreError, Stored};
use amend_controller::metrics::Metrics;
use amend_controller::server;
use amend_diagnosis::signal::Signal;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use futures::FutureExt;
use futures::future::BoxFuture;
use hmac::{Hmac, Mac};
use http_body_util::BodyExt;
use secrecy::SecretString;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// A store in memory that can be switched off.
#[derive(Default)]
struct Memory {
    signals: Mutex<Vec<Signal>>,
    builds: Mutex<Vec<BuildReport>>,
    down: Mutex<bool>,
}

impl Memory {
    fn answer(&self) -> Result<(), StoreError> {
        match *self.down.lock().unwrap() {
            true => Err(StoreError::Unavailable { why: "switched off".to_owned() }),
            false => Ok(()),
        }
    }
}

impl SignalStore for Memory {
    fn store(&self, batch: Vec<Signal>) -> BoxFuture<'_, Result<(), StoreError>> {
        let answer = self.answer();
        if answer.is_ok() {
            self.signals.lock().unwrap().extend(batch);
        }
        async move { answer }.boxed()
    }
}

impl BuildStore for Memory {
    fn store(&self, report: BuildReport) -> BoxFuture<'_, Result<Stored, StoreError>> {
        let answer = self.answer().map(|()| {
            let mut builds = self.builds.lock().unwrap();
            let known = builds.iter().any(|kept| kept.run.run_id == report.run.run_id);
            if known {
                return Stored::Repeat;
            }
            builds.push(report);
            Stored::New
        });
        async move { answer }.boxed()
    }
}

fn secret(text: &str) -> Secrets {
    Secrets::new([SecretString::from(text.to_owned())])
}

fn intake() -> (Router, Arc<Memory>, Metrics) {
    let (memory, metrics) = (Arc::new(Memory::default()), Metrics::new());
    let senders = Senders {
        alertmanager: secret("am-token"),
        alertmanager_by_certificate: true,
        gitea: secret("gitea-secret"),
        gitlab: secret("gitlab-token"),
        ..Senders::default()
    };
    let queue = Queue::new(memory.clone(), metrics.clone());
    (receive::routes(senders, queue, memory.clone(), metrics.clone()), memory, metrics)
}

fn alerts(count: usize) -> String {
    let alert = |number: usize| {
        json!({"status": "firing", "labels": {"alertname": "Oom", "namespace": "shop", "pod": format!("checkout-{number}")},
               "annotations": {}, "startsAt": "2026-11-21T10:00:00Z", "fingerprint": format!("{number:016x}")})
    };
    json!({"version": "4", "alerts": (0..count).map(alert).collect::<Vec<_>>()}).to_string()
}

fn from_alertmanager(body: impl Into<Body>) -> Request<Body> {
    let request = Request::post("/intake/alertmanager").header("authorization", "Bearer am-token");
    request.body(body.into()).unwrap()
}

fn from_gitea(body: &str, delivery: &str) -> Request<Body> {
    let mac = Hmac::<Sha256>::new_from_slice(b"gitea-secret").unwrap().chain_update(body);
    Request::post("/intake/gitea")
        .header("x-gitea-signature", hex::encode(mac.finalize().into_bytes()))
        .header("x-gitea-event", "workflow_run")
        .header("x-gitea-delivery", delivery)
        .body(Body::from(body.to_owned()))
        .unwrap()
}

fn failed_run() -> String {
    json!({"action": "completed", "repository": {"full_name": "shop/checkout"}, "workflow_run": {
        "id": 42, "head_sha": "0123456789abcdef0123456789abcdef01234567", "conclusion": "failure"}})
    .to_string()
}

async fn json_of(response: Response<Body>) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn alerts_are_acknowledged_once_they_are_stored() {
    let (app, memory, _) = intake();
    let response = app.oneshot(from_alertmanager(alerts(3))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(json_of(response).await, json!({"accepted": 3, "dropped": 0}));
    assert_eq!(memory.signals.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_body_that_is_read_and_not_stored_in_time_is_our_lateness_and_not_the_senders() {
    struct Slow;
    impl BuildStore for Slow {
        fn store(&self, _: BuildReport) -> BoxFuture<'_, Result<Stored, StoreError>> {
            std::future::pending().boxed()
        }
    }
    let senders = Senders { gitea: secret("gitea-secret"), ..Senders::default() };
    let (memory, metrics) = (Arc::new(Memory::default()), Metrics::new());
    let queue = Queue::new(memory, metrics.clone());
    let limit = Duration::from_millis(50);
    let app = receive::routes_within(limit, senders, queue, Arc::new(Slow), metrics);
    let never_ends = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let mut unread = from_gitea(&failed_run(), "00000000-0000-4000-8000-000000000002");
    *unread.body_mut() = never_ends;
    let read = from_gitea(&failed_run(), "00000000-0000-4000-8000-000000000001");

    let (read, unread) = futures::join!(app.clone().oneshot(read), app.oneshot(unread));

    let (read, unread) = (read.unwrap(), unread.unwrap());
    assert_eq!(read.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(read.headers()["retry-after"], "5");
    assert_eq!(unread.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn while_the_store_is_away_the_sender_is_told_to_come_again() {
    let (app, memory, metrics) = intake();
    *memory.down.lock().unwrap() = true;
    let response = app.oneshot(from_alertmanager(alerts(1))).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "5");
    let dropped = "amend_signals_dropped_total{source=\"alert\",reason=\"store_unavailable\"} 1";
    assert!(metrics.text().contains(dropped));
}

#[tokio::test]
async fn without_alertmanagers_token_the_body_is_not_even_read() {
    let (app, _, _) = intake();
    for authorization in ["Bearer wrong", "Bearer ", "Basic am-token", "am-token"] {
        let endless = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let request =
            Request::post("/intake/alertmanager").header("authorization", authorization).body(endless).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{authorization}");
    }
}

#[tokio::test]
async fn a_verified_client_certificate_stands_for_the_token() {
    let (app, memory, _) = intake();
    let mut request = Request::post("/intake/alertmanager").body(Body::from(alerts(1))).unwrap();
    request.extensions_mut().insert(ClientCertificate);
    assert_eq!(app.oneshot(request).await.unwrap().status(), StatusCode::OK);
    assert_eq!(memory.signals.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_body_that_is_too_large_or_too_deep_is_refused_by_name() {
    let (app, memory, metrics) = intake();
    let two_mebibytes = " ".repeat(2 * 1024 * 1024);
    let unannounced = futures::stream::iter(vec![Ok::<_, std::io::Error>(two_mebibytes.clone().into_bytes())]);
    for (body, status) in [
        (Body::from(two_mebibytes), StatusCode::PAYLOAD_TOO_LARGE),
        (Body::from_stream(unannounced), StatusCode::PAYLOAD_TOO_LARGE),
        (Body::from("[".repeat(100_000)), StatusCode::UNPROCESSABLE_ENTITY),
        (Body::from("{\"version\":\"4\""), StatusCode::UNPROCESSABLE_ENTITY),
        (Body::from(r#"{"version":"3","alerts":[]}"#), StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        assert_eq!(app.clone().oneshot(from_alertmanager(body)).await.unwrap().status(), status);
    }
    for reason in ["too_large\"} 2", "too_deep\"} 1", "unreadable\"} 2"] {
        assert!(metrics.text().contains(reason), "{reason} not in {}", metrics.text());
    }
    assert!(memory.signals.lock().unwrap().is_empty());
}

#[tokio::test]
async fn one_run_delivered_twice_and_reported_twice_is_one_build() {
    let (app, memory, _) = intake();
    for (delivery, result) in [("d-1", "stored"), ("d-1", "replayed"), ("d-2", "repeated")] {
        let response = app.clone().oneshot(from_gitea(&failed_run(), delivery)).await.unwrap();
        assert_eq!(json_of(response).await, json!({"result": result}), "{delivery}");
    }
    assert_eq!(memory.builds.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_delivery_that_could_not_be_stored_is_let_in_again() {
    let (app, memory, _) = intake();
    *memory.down.lock().unwrap() = true;
    let response = app.clone().oneshot(from_gitea(&failed_run(), "d-1")).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    *memory.down.lock().unwrap() = false;
    let response = app.oneshot(from_gitea(&failed_run(), "d-1")).await.unwrap();
    assert_eq!(json_of(response).await, json!({"result": "stored"}));
}

#[tokio::test]
async fn a_webhook_with_a_wrong_proof_or_no_delivery_id_is_refused() {
    let (app, memory, _) = intake();
    let mut tampered = from_gitea(&failed_run(), "d-1");
    *tampered.body_mut() = Body::from(failed_run().replace("42", "43"));
    let mut unsigned = from_gitea(&failed_run(), "d-1");
    unsigned.headers_mut().remove("x-gitea-signature");
    let odd = from_gitea(&failed_run(), "../../d 1");
    let token = Request::post("/intake/gitlab").header("x-gitlab-token", "guess").body(Body::empty()).unwrap();
    let unconfigured = Request::post("/intake/github").body(Body::from("{}")).unwrap();
    for (request, status) in [
        (tampered, StatusCode::UNAUTHORIZED),
        (unsigned, StatusCode::UNAUTHORIZED),
        (odd, StatusCode::BAD_REQUEST),
        (token, StatusCode::UNAUTHORIZED),
        (unconfigured, StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(app.clone().oneshot(request).await.unwrap().status(), status);
    }
    assert!(memory.builds.lock().unwrap().is_empty());
}

#[tokio::test]
async fn slow_bodies_hold_their_slots_only_and_the_next_sender_hears_503() {
    let (app, _, _) = intake();
    let slow = || Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let mut held: Vec<_> =
        (0..receive::REQUESTS_MAX).map(|_| app.clone().oneshot(from_alertmanager(slow())).boxed()).collect();
    for request in &mut held {
        assert!(request.now_or_never().is_none(), "a slow body is waited for");
    }
    let response = app.clone().oneshot(from_alertmanager(alerts(1))).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "5");
    drop(held);
    assert_eq!(app.oneshot(from_alertmanager(alerts(1))).await.unwrap().status(), StatusCode::OK);
}

/// 20,000 alerts a minute for two seconds' worth, as Alertmanager sends them: in groups, over real connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_alerts_is_acknowledged_within_half_a_second() {
    let (app, memory, _) = intake();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/intake/alertmanager", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server::serve(listener, None, app, stop.clone()));
    let client = amend_gitops::egress::client(&url.parse().unwrap(), true, None).unwrap();
    let requests = (0..40).map(|_| {
        let request = client.post(&url).bearer_auth("am-token").body(alerts(17));
        async move {
            let started = Instant::now();
            assert_eq!(request.send().await.unwrap().status().as_u16(), 200);
            started.elapsed()
        }
    });
    let mut took = futures::future::join_all(requests).await;
    took.sort();
    assert!(took[took.len() - 1] <= Duration::from_millis(500), "slowest: {:?}", took[took.len() - 1]);
    let counted: u32 = memory.signals.lock().unwrap().iter().map(|signal| signal.count).sum();
    assert_eq!(counted, 40 * 17);
    stop.cancel();
    serving.await.unwrap().unwrap();
}

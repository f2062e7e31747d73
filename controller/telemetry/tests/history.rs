//! Reading which alerts fired from a store that fails midway, answers too much, or may not be asked any more.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use amend_diagnosis::evidence::Window;
use amend_telemetry::egress::Egress;
use amend_telemetry::history::{History, HistoryQuestion, folded, read};
use amend_telemetry::load::Load;
use amend_telemetry::source::{SourceConfig, SourceKind, open};
use axum::Router;
use axum::extract::{Query, Request};
use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const STEP: SignedDuration = SignedDuration::from_mins(1);

/// The pieces that were asked for, as hours before the end and samples.
type Asked = Arc<Mutex<Vec<(i64, i64)>>>;

fn end() -> Timestamp {
    "2026-03-02T00:00:00Z".parse().unwrap()
}

/// A Prometheus that answers by the piece that is asked for; gives what was read and what was asked.
async fn read_from(
    hours: i64,
    budget: u64,
    answer: impl Fn(i64, i64) -> (StatusCode, Value) + Clone + Send + Sync + 'static,
) -> (History, Vec<(i64, i64)>) {
    let asked = Asked::default();
    let noted = asked.clone();
    let respond = move |request: Request| {
        let (answer, noted) = (answer.clone(), noted.clone());
        async move {
            let of: Query<Vec<(String, String)>> = Query::try_from_uri(request.uri()).unwrap();
            let second = |key: &str| of.iter().find(|(name, _)| name == key).unwrap().1.parse::<f64>().unwrap() as i64;
            let (start, stop) = (second("start"), second("end"));
            noted.lock().unwrap().push(((end().as_second() - stop) / 3600, (stop - start) / 60 + 1));
            let (code, body) = answer(start, stop);
            (code, axum::Json(body))
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(respond)).await });
    let mut config = SourceConfig::new("prometheus", SourceKind::Prometheus, url.parse().unwrap());
    config.limits.samples = 400;
    config.load = Some(Arc::new(Load::within(budget)));
    let source = open(config, &Egress::new(["127.0.0.0/8".parse().unwrap()])).unwrap();
    let history = read(&*source, &question(hours)).await;
    let asked = asked.lock().unwrap().clone();
    (history, asked)
}

fn question(hours: i64) -> HistoryQuestion {
    let window = Window { from: end() - SignedDuration::from_hours(hours), to: end() };
    HistoryQuestion { namespace: None, window, step: STEP }
}

/// As many alerts as are wanted, firing all the time.
fn firing(alerts: usize, start: i64, stop: i64) -> (StatusCode, Value) {
    let values: Vec<Value> = (start..=stop).step_by(60).map(|at| json!([at, "1"])).collect();
    let series: Vec<Value> = (0..alerts)
        .map(|number| json!({"metric": {"__name__": "ALERTS", "alertstate": "firing", "alertname": format!("A{number}")}, "values": values}))
        .collect();
    (StatusCode::OK, json!({"status": "success", "data": {"resultType": "matrix", "result": series}}))
}

fn failing() -> (StatusCode, Value) {
    (StatusCode::SERVICE_UNAVAILABLE, json!({"status": "error", "error": "compacting"}))
}

#[tokio::test]
async fn the_newest_piece_is_read_first_and_the_pieces_make_one_alert() {
    let (history, asked) = read_from(24, 100, |start, stop| firing(1, start, stop)).await;
    assert_eq!(asked, [(0, 1), (0, 360), (6, 360), (12, 360), (18, 360)]);
    assert!(history.unread.is_empty());
    let firings = folded(&[history], &question(24));
    assert_eq!(firings.len(), 1);
    assert_eq!((firings[0].from, firings[0].to), (question(24).window.from, None));
}

#[tokio::test]
async fn a_store_that_fails_twice_in_a_row_is_left_alone_and_what_it_told_before_is_used() {
    let until = end().as_second() - 12 * 3600;
    let answer = move |start, stop| if stop > until { firing(1, start, stop) } else { failing() };
    let (history, asked) = read_from(48, 100, answer).await;
    assert_eq!(asked.len(), 5, "two failures, and no further question: {asked:?}");
    assert_eq!(history.read, 3);
    let unread: i64 = history.unread.iter().map(|(window, _)| (window.to - window.from).get_seconds() / 60 + 1).sum();
    assert_eq!(unread, 36 * 60, "every minute that was not read is listed");
    assert!(
        history.unread.iter().all(|(_, why)| why.contains("503") && why.contains("compacting")),
        "{:?}",
        history.unread
    );
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_asked_for_in_halves() {
    let (history, asked) = read_from(5, 100, |start, stop| firing(2, start, stop)).await;
    assert_eq!(asked.iter().map(|(_, samples)| *samples).collect::<Vec<_>>(), [301, 150, 151]);
    assert!(history.unread.is_empty(), "{:?}", history.unread);
    assert_eq!(folded(&[history], &question(5)).len(), 2);
}

#[tokio::test]
async fn a_store_is_asked_no_more_often_than_the_budget_allows() {
    let (history, asked) = read_from(24, 2, |start, stop| firing(1, start, stop)).await;
    assert_eq!(asked.len(), 2);
    assert_eq!(history.unread.len(), 3);
    assert!(
        history.unread[0].1.contains("the budget of 2 queries is spent; raise --max-queries"),
        "{:?}",
        history.unread
    );
}

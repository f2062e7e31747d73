//! Prometheus' HTTP API over the in-memory store.

use std::collections::{BTreeMap, BTreeSet};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Stores;
use super::promql::{self, Answer, Expression};
use super::tsdb::{Labels, Matcher};

/// Most points per series that a range query may ask for, as in Prometheus.
const POINTS: i64 = 11_000;

type Parameters = Vec<(String, String)>;

/// The routes.
pub fn router(stores: Stores) -> Router {
    Router::new()
        .route("/api/v1/query", get(query).post(query))
        .route("/api/v1/query_range", get(query_range).post(query_range))
        // As a Prometheus that keeps no exemplars, which is the default.
        .route("/api/v1/query_exemplars", get(exemplars).post(exemplars))
        .route("/api/v1/series", get(series).post(series))
        .route("/api/v1/labels", get(labels).post(labels))
        .route("/api/v1/label/{name}/values", get(label_values))
        .route("/api/v1/metadata", get(metadata))
        .route("/api/v1/alerts", get(alerts))
        .route("/api/v1/rules", get(rules))
        .route("/api/v1/alertmanagers", get(|| async { success(json!({ "activeAlertmanagers": [], "droppedAlertmanagers": [] })) }))
        .route("/api/v1/targets", get(|| async { success(json!({ "activeTargets": [], "droppedTargets": [] })) }))
        .route("/api/v1/status/buildinfo", get(|| async { success(json!({ "version": "3.9.0+sandbox", "revision": "", "branch": "", "buildUser": "", "buildDate": "", "goVersion": "" })) }))
        .route("/-/ready", get(|| async { "Prometheus Server is Ready.\n" }))
        .route("/-/healthy", get(|| async { "Prometheus Server is Healthy.\n" }))
        .with_state(stores)
}

fn success(data: Value) -> Json<Value> {
    Json(json!({ "status": "success", "data": data }))
}

fn failure(code: StatusCode, kind: &str, error: impl ToString) -> Response {
    (code, Json(json!({ "status": "error", "errorType": kind, "error": error.to_string() }))).into_response()
}

fn parameters(query: Option<String>, body: &Bytes) -> Parameters {
    let read = |bytes: &[u8]| url::form_urlencoded::parse(bytes).into_owned().collect::<Vec<_>>();
    let mut all = read(query.unwrap_or_default().as_bytes());
    all.extend(read(body));
    all
}

fn parameter<'a>(all: &'a Parameters, name: &str) -> Option<&'a str> {
    all.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Seconds with fraction, or RFC 3339, in milliseconds.
fn time(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Some((seconds * 1000.0).round() as i64);
    }
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

fn time_or(all: &Parameters, name: &str, otherwise: i64) -> Result<i64, Box<Response>> {
    match parameter(all, name) {
        None => Ok(otherwise),
        Some(text) => time(text).ok_or_else(|| {
            Box::new(failure(
                StatusCode::BAD_REQUEST,
                "bad_data",
                format!("cannot parse {text:?} to a valid timestamp"),
            ))
        }),
    }
}

async fn exemplars() -> Json<Value> {
    success(json!([]))
}

fn parsed(all: &Parameters) -> Result<Expression, Box<Response>> {
    promql::parse(parameter(all, "query").unwrap_or_default())
        .map_err(|error| Box::new(failure(StatusCode::UNPROCESSABLE_ENTITY, "execution", error)))
}

fn point(at: i64, value: f64) -> Value {
    let text = if value == f64::INFINITY {
        "+Inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        value.to_string()
    };
    json!([at as f64 / 1000.0, text])
}

async fn query(State(stores): State<Stores>, RawQuery(query): RawQuery, body: Bytes) -> Response {
    let all = parameters(query, &body);
    let answer = move || -> Result<Response, Box<Response>> {
        let at = time_or(&all, "time", stores.clock.now().as_millisecond())?;
        let expression = parsed(&all)?;
        let answer = promql::evaluate(&expression, &stores.tsdb(), at)
            .map_err(|error| Box::new(failure(StatusCode::UNPROCESSABLE_ENTITY, "execution", error)))?;
        Ok(match answer {
            Answer::Scalar(value) => {
                success(json!({ "resultType": "scalar", "result": point(at, value) })).into_response()
            }
            Answer::Vector(vector) => {
                let rows: Vec<Value> = vector
                    .into_iter()
                    .map(|(labels, value)| json!({ "metric": labels, "value": point(at, value) }))
                    .collect();
                success(json!({ "resultType": "vector", "result": rows })).into_response()
            }
        })
    };
    super::aside(move || answer().unwrap_or_else(|refused| *refused)).await
}

async fn query_range(State(stores): State<Stores>, RawQuery(query): RawQuery, body: Bytes) -> Response {
    let all = parameters(query, &body);
    let answer = move || -> Result<Response, Box<Response>> {
        let now = stores.clock.now().as_millisecond();
        let (start, end) = (time_or(&all, "start", now)?, time_or(&all, "end", now)?);
        let step = parameter(&all, "step").and_then(|text| promql::duration(text).or_else(|| time(text))).unwrap_or(0);
        if step <= 0 || end < start || (end - start) / step > POINTS {
            let why = "start, end and step do not make a range of 1 to 11,000 points";
            return Err(Box::new(failure(StatusCode::BAD_REQUEST, "bad_data", why)));
        }
        let expression = parsed(&all)?;
        let mut rows: BTreeMap<Labels, Vec<Value>> = BTreeMap::new();
        let tsdb = stores.tsdb();
        let mut at = start;
        while at <= end {
            let answer = promql::evaluate(&expression, &tsdb, at)
                .map_err(|error| Box::new(failure(StatusCode::UNPROCESSABLE_ENTITY, "execution", error)))?;
            match answer {
                Answer::Scalar(value) => rows.entry(Labels::new()).or_default().push(point(at, value)),
                Answer::Vector(vector) => {
                    for (labels, value) in vector {
                        rows.entry(labels).or_default().push(point(at, value));
                    }
                }
            }
            at += step;
        }
        let rows: Vec<Value> =
            rows.into_iter().map(|(labels, values)| json!({ "metric": labels, "values": values })).collect();
        Ok(success(json!({ "resultType": "matrix", "result": rows })).into_response())
    };
    super::aside(move || answer().unwrap_or_else(|refused| *refused)).await
}

/// The series that `match[]`, `start` and `end` select.
fn selected(stores: &Stores, all: &Parameters) -> Result<Vec<Labels>, Box<Response>> {
    let now = stores.clock.now().as_millisecond();
    let (start, end) = (time_or(all, "start", now - 3_600_000)?, time_or(all, "end", now)?);
    let mut selectors: Vec<Vec<Matcher>> = Vec::new();
    for (_, text) in all.iter().filter(|(key, _)| key == "match[]") {
        match promql::parse(text) {
            Ok(Expression::Instant(matchers)) => selectors.push(matchers),
            Ok(_) => return Err(Box::new(failure(StatusCode::BAD_REQUEST, "bad_data", "match[] must be a selector"))),
            Err(error) => return Err(Box::new(failure(StatusCode::BAD_REQUEST, "bad_data", error))),
        }
    }
    if selectors.is_empty() {
        selectors.push(Vec::new());
    }
    let tsdb = stores.tsdb();
    let found: BTreeSet<Labels> = selectors
        .iter()
        .flat_map(|matchers| {
            tsdb.select(matchers)
                .filter(|series| series.lives_in(start, end))
                .map(|series| series.labels.clone())
                .collect::<Vec<_>>()
        })
        .collect();
    Ok(found.into_iter().collect())
}

async fn series(State(stores): State<Stores>, RawQuery(query): RawQuery, body: Bytes) -> Response {
    let all = parameters(query, &body);
    if parameter(&all, "match[]").is_none() {
        return failure(StatusCode::BAD_REQUEST, "bad_data", "no match[] parameter provided");
    }
    selected(&stores, &all).map_or_else(|refused| *refused, |found| success(json!(found)).into_response())
}

async fn labels(State(stores): State<Stores>, RawQuery(query): RawQuery, body: Bytes) -> Response {
    let all = parameters(query, &body);
    selected(&stores, &all).map_or_else(
        |refused| *refused,
        |found| success(json!(found.iter().flat_map(|labels| labels.keys()).collect::<BTreeSet<_>>())).into_response(),
    )
}

async fn label_values(State(stores): State<Stores>, Path(name): Path<String>, RawQuery(query): RawQuery) -> Response {
    let all = parameters(query, &Bytes::new());
    selected(&stores, &all).map_or_else(
        |refused| *refused,
        |found| {
            success(json!(found.iter().filter_map(|labels| labels.get(&name)).collect::<BTreeSet<_>>())).into_response()
        },
    )
}

async fn metadata(State(stores): State<Stores>) -> Json<Value> {
    let tsdb = stores.tsdb();
    let kinds: BTreeMap<String, Value> = tsdb
        .names()
        .map(|name| {
            let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let (family, kind) = match histogram {
                Some(family) => (family.to_owned(), "histogram"),
                None if name.ends_with("_total") => (name.clone(), "counter"),
                None => (name.clone(), "gauge"),
            };
            (family, json!([{ "type": kind, "help": "", "unit": "" }]))
        })
        .collect();
    success(json!(kinds))
}

async fn alerts(State(stores): State<Stores>) -> Json<Value> {
    success(json!({ "alerts": stores.rules().active() }))
}

async fn rules(State(stores): State<Stores>) -> Json<Value> {
    success(stores.rules().listed())
}

//! Jaeger's query API over spans in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use http::StatusCode;
use serde_json::{Value, json};

use crate::clock::SandboxClock;
use crate::model::Span;

/// The most traces that are kept.
const KEPT: usize = 1_200;

type Trace = Vec<Span>;

/// Traces, oldest first; cloning gives the same store.
#[derive(Clone, Debug)]
pub struct Jaeger {
    traces: Arc<Mutex<VecDeque<Trace>>>,
    clock: SandboxClock,
}

impl Jaeger {
    /// An empty store.
    pub fn new(clock: SandboxClock) -> Self {
        Self { traces: Arc::default(), clock }
    }

    fn traces(&self) -> MutexGuard<'_, VecDeque<Trace>> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the spans of whole traces.
    pub fn push(&self, spans: Vec<Span>) {
        let mut new: BTreeMap<String, Trace> = BTreeMap::new();
        for span in spans {
            new.entry(span.trace.clone()).or_default().push(span);
        }
        let mut traces = self.traces();
        traces.extend(new.into_values());
        let surplus = traces.len().saturating_sub(KEPT);
        traces.drain(..surplus);
    }

    /// Its HTTP interface.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/api/services", get(services))
            .route("/api/services/{service}/operations", get(operations))
            .route("/api/traces", get(find))
            .route("/api/traces/{id}", get(one))
            .route("/api/dependencies", get(dependencies))
            .with_state(self.clone())
    }
}

fn envelope(data: Vec<Value>) -> Json<Value> {
    Json(json!({ "data": data, "total": data.len(), "limit": 0, "offset": 0, "errors": null }))
}

fn refused(code: StatusCode, why: &str) -> Response {
    (code, Json(json!({ "data": null, "total": 0, "limit": 0, "offset": 0, "errors": [{ "code": code.as_u16(), "msg": why }] }))).into_response()
}

async fn services(State(jaeger): State<Jaeger>) -> Json<Value> {
    let names: BTreeSet<String> = jaeger.traces().iter().flatten().map(|span| span.service.clone()).collect();
    envelope(names.into_iter().map(Value::from).collect())
}

async fn operations(State(jaeger): State<Jaeger>, Path(service): Path<String>) -> Json<Value> {
    let names: BTreeSet<String> = jaeger
        .traces()
        .iter()
        .flatten()
        .filter(|span| span.service == service)
        .map(|span| span.operation.clone())
        .collect();
    envelope(names.into_iter().map(Value::from).collect())
}

async fn find(State(jaeger): State<Jaeger>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    super::aside(move || found(&jaeger, &query)).await
}

fn found(jaeger: &Jaeger, query: &BTreeMap<String, String>) -> Response {
    let Some(service) = query.get("service") else {
        return refused(StatusCode::BAD_REQUEST, "parameter 'service' is required");
    };
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<i64>().ok());
    let now = jaeger.clock.now().as_microsecond();
    let (start, end) = (number("start").unwrap_or(now - 3_600_000_000), number("end").unwrap_or(now));
    let limit = usize::try_from(number("limit").unwrap_or(20)).unwrap_or(20).min(1_500);
    let operation = query.get("operation");
    let found: Vec<Value> = jaeger
        .traces()
        .iter()
        .rev()
        .filter(|trace| {
            trace.iter().any(|span| {
                span.service == *service
                    && operation.is_none_or(|operation| span.operation == *operation)
                    && (start..=end).contains(&span.start.as_microsecond())
            })
        })
        .take(limit)
        .map(form)
        .collect();
    envelope(found).into_response()
}

async fn one(State(jaeger): State<Jaeger>, Path(id): Path<String>) -> Response {
    match jaeger.traces().iter().find(|trace| trace.iter().any(|span| span.trace == id)) {
        Some(trace) => envelope(vec![form(trace)]).into_response(),
        None => refused(StatusCode::NOT_FOUND, "trace not found"),
    }
}

async fn dependencies(State(jaeger): State<Jaeger>, Query(query): Query<BTreeMap<String, String>>) -> Json<Value> {
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<i64>().ok());
    let end = number("endTs").unwrap_or_else(|| jaeger.clock.now().as_millisecond());
    let start = end - number("lookback").unwrap_or(86_400_000);
    let mut calls: BTreeMap<(String, String), u64> = BTreeMap::new();
    for trace in jaeger.traces().iter() {
        let by_id: BTreeMap<&str, &Span> = trace.iter().map(|span| (span.id.as_str(), span)).collect();
        for span in trace.iter().filter(|span| (start..=end).contains(&span.start.as_millisecond())) {
            if let Some(parent) = span.parent.as_deref().and_then(|parent| by_id.get(parent))
                && parent.service != span.service
            {
                *calls.entry((parent.service.clone(), span.service.clone())).or_default() += 1;
            }
        }
    }
    envelope(calls.into_iter().map(|((parent, child), count)| json!({ "parent": parent, "child": child, "callCount": count, "source": "" })).collect())
}

fn form(trace: &Trace) -> Value {
    let mut processes: BTreeMap<(String, String), (String, Value)> = BTreeMap::new();
    let tag = |key: &str, kind: &str, value: Value| json!({ "key": key, "type": kind, "value": value });
    let mut spans = Vec::new();
    for span in trace {
        let next = format!("p{}", processes.len() + 1);
        let (process, _) = processes.entry((span.service.clone(), span.pod.clone())).or_insert_with(|| {
            let tags = vec![
                tag("k8s.namespace.name", "string", json!(span.namespace)),
                tag("k8s.pod.name", "string", json!(span.pod)),
                tag("k8s.deployment.name", "string", json!(span.service)),
            ];
            (next, json!({ "serviceName": span.service, "tags": tags }))
        });
        let mut tags = vec![
            tag("span.kind", "string", json!(span.kind)),
            tag("http.response.status_code", "int64", json!(span.status)),
        ];
        if span.failed() {
            tags.push(tag("error", "bool", json!(true)));
            tags.push(tag("otel.status_code", "string", json!("ERROR")));
        }
        let references: Vec<Value> = span
            .parent
            .iter()
            .map(|parent| json!({ "refType": "CHILD_OF", "traceID": span.trace, "spanID": parent }))
            .collect();
        spans.push(json!({
            "traceID": span.trace, "spanID": span.id, "operationName": span.operation, "references": references, "flags": 1,
            "startTime": span.start.as_microsecond(), "duration": span.duration.as_micros() as i64, "tags": tags, "logs": [],
            "processID": process, "warnings": null,
        }));
    }
    let processes: BTreeMap<String, Value> = processes.into_values().collect();
    json!({ "traceID": trace.first().map(|span| span.trace.clone()), "spans": spans, "processes": processes, "warnings": null })
}

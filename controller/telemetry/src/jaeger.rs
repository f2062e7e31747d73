//! Jaeger's query API (versions 1 and 2).
//!
//! <https://www.jaegertracing.io/docs/latest/architecture/apis/>: the JSON that its own page uses.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use amend_diagnosis::entity::Entity;
use amend_diagnosis::evidence::{Span, SpanKind, TopologyEdge, Window};
use futures::FutureExt;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::Value;

use crate::calls::{edges, named, traced};
use crate::connection::{Connection, clean};
use crate::egress::Egress;
use crate::exemplars::is_trace_id;
use crate::questions::{TraceQuestion, WholeTraceQuestion};
use crate::source::{Asking, Source, SourceConfig, SourceError, Told};

/// Attributes kept of one span, and bytes of each: untrusted and unbounded at the sender.
pub(crate) const ATTRIBUTES_MAX: usize = 64;
const ATTRIBUTE_BYTES_MAX: usize = 512;

/// Services and traces looked through for call edges where the store has no sums: enough to see who talks to whom in a
/// namespace or two, within one deadline.
const SAMPLED_SERVICES_MAX: usize = 40;
const SAMPLED_TRACES: usize = 20;

/// Names under which senders report the pod, the standard one first.
const POD_TAGS: [&str; 3] = ["k8s.pod.name", "pod", "pod.name"];

/// A Jaeger query service.
#[derive(Debug)]
pub struct Jaeger {
    config: SourceConfig,
    connection: Connection,
}

impl Jaeger {
    /// # Errors
    /// The egress guard refuses the URL, or the certificate authorities cannot be read.
    pub fn open(config: SourceConfig, egress: &Egress) -> Result<Self, SourceError> {
        Ok(Self { connection: Connection::open(&config, egress)?, config })
    }

    async fn ask_traces(&self, question: &TraceQuestion) -> Told<Vec<Span>> {
        let service = self.config.mapping.trace_service(&question.namespace, &question.service);
        self.traces_of(service, question.window, question.traces).await
    }

    async fn traces_of(&self, service: String, window: Window, traces: usize) -> Told<Vec<Span>> {
        let parameters = [
            ("service", service),
            ("start", window.from.as_microsecond().to_string()),
            ("end", window.to.as_microsecond().to_string()),
            ("limit", traces.to_string()),
        ];
        let query = shown("/api/traces", &parameters);
        let outcome = match self.connection.get::<Envelope<Trace>>("/api/traces", &parameters).await {
            Ok(envelope) => envelope.whole().and_then(|traces| self.spans(traces)),
            Err(error) => Err(error),
        };
        Told::new(query, outcome)
    }

    async fn ask_whole(&self, question: &WholeTraceQuestion) -> Told<Vec<Span>> {
        if !is_trace_id(&question.trace) {
            let why = format!("a trace id {:?}", clean(&question.trace));
            return Told::new("", Err(SourceError::Malformed { why }));
        }
        let path = format!("/api/traces/{}", question.trace);
        let outcome = match self.connection.get::<Envelope<Trace>>(&path, &[]).await {
            Ok(envelope) => envelope.whole().and_then(|traces| self.spans(traces)),
            // Not sampled, or expired.
            Err(SourceError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        Told::new(path, outcome)
    }

    fn spans(&self, traces: Vec<Trace>) -> Result<Vec<Span>, SourceError> {
        let limit = self.config.limits.samples;
        if traces.iter().map(|trace| trace.spans.len()).sum::<usize>() > limit {
            return Err(SourceError::TooMany { limit, what: "spans" });
        }
        let mut spans: Vec<Span> = Vec::new();
        for Trace { spans: told, processes } in traces {
            spans.extend(told.into_iter().map(|span| span.read(&processes)));
        }
        spans.sort_by(|left, right| {
            (left.start_ns, &left.trace_id, &left.span_id).cmp(&(right.start_ns, &right.trace_id, &right.span_id))
        });
        Ok(spans)
    }

    async fn ask_calls(&self, window: Window) -> Told<Vec<TopologyEdge>> {
        let lookback = window.to.as_millisecond().saturating_sub(window.from.as_millisecond()).max(1);
        let parameters = [("endTs", window.to.as_millisecond().to_string()), ("lookback", lookback.to_string())];
        let query = shown("/api/dependencies", &parameters);
        let summed = match self.connection.get::<Envelope<Dependency>>("/api/dependencies", &parameters).await {
            Ok(envelope) => envelope.whole(),
            Err(error) => Err(error),
        };
        let mut pairs: BTreeSet<(Entity, Entity)> = match summed {
            Ok(links) => links.iter().map(|link| (named("", &link.parent), named("", &link.child))).collect(),
            Err(error) => return Told::new(query, Err(error)),
        };
        if pairs.is_empty() {
            // Stores other than memory sum calls up in a separate job that is often not installed.
            match self.sampled_calls(window).await {
                Ok(sampled) => pairs = sampled,
                Err(error) => return Told::new(query, Err(error)),
            }
        }
        Told::new(query, edges(pairs))
    }

    /// Call edges in a sample of traces of every service.
    async fn sampled_calls(&self, window: Window) -> Result<BTreeSet<(Entity, Entity)>, SourceError> {
        let services = self.connection.get::<Envelope<String>>("/api/services", &[]).await?.whole()?;
        let sampled = services
            .into_iter()
            .take(SAMPLED_SERVICES_MAX)
            .map(|service| self.traces_of(service, window, SAMPLED_TRACES));
        let mut pairs = BTreeSet::new();
        for told in join_all(sampled).await {
            pairs.extend(traced(&told.outcome?));
        }
        Ok(pairs)
    }
}

impl Source for Jaeger {
    fn config(&self) -> &SourceConfig {
        &self.config
    }

    fn probe(&self) -> Asking<'_, Duration> {
        async move { Told::new("/api/services", self.connection.time("/api/services", &[]).await) }.boxed()
    }

    fn traces<'a>(&'a self, question: &'a TraceQuestion) -> Asking<'a, Vec<Span>> {
        self.ask_traces(question).boxed()
    }

    fn whole_trace<'a>(&'a self, question: &'a WholeTraceQuestion) -> Asking<'a, Vec<Span>> {
        self.ask_whole(question).boxed()
    }

    fn calls(&self, window: Window) -> Asking<'_, Vec<TopologyEdge>> {
        self.ask_calls(window).boxed()
    }
}

/// A path with its parameters, for people and for asking again.
pub(crate) fn shown(path: &str, parameters: &[(&str, String)]) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    format!("{path}?{query}")
}

#[derive(Deserialize)]
struct Envelope<T> {
    /// `null` where nothing was found.
    data: Option<Vec<T>>,
    #[serde(default)]
    errors: Option<Vec<Trouble>>,
}

#[derive(Deserialize)]
struct Trouble {
    #[serde(default)]
    msg: String,
}

impl<T> Envelope<T> {
    fn whole(self) -> Result<Vec<T>, SourceError> {
        match self.errors.unwrap_or_default().first() {
            Some(trouble) => Err(SourceError::Partial { said: clean(&trouble.msg) }),
            None => Ok(self.data.unwrap_or_default()),
        }
    }
}

#[derive(Deserialize)]
struct Dependency {
    parent: String,
    child: String,
}

#[derive(Deserialize)]
struct Trace {
    #[serde(default)]
    spans: Vec<ToldSpan>,
    #[serde(default)]
    processes: BTreeMap<String, Process>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    service_name: String,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
struct ToldSpan {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
    #[serde(rename = "parentSpanID", default)]
    parent_span_id: Option<String>,
    #[serde(rename = "operationName", default)]
    operation_name: String,
    #[serde(default)]
    references: Vec<Reference>,
    /// Unix microseconds.
    #[serde(rename = "startTime")]
    start_time: u64,
    /// Microseconds.
    #[serde(default)]
    duration: u64,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(rename = "processID", default)]
    process_id: String,
}

#[derive(Deserialize)]
struct Reference {
    #[serde(rename = "refType")]
    ref_type: String,
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Deserialize)]
struct Tag {
    key: String,
    #[serde(default)]
    value: Value,
}

impl ToldSpan {
    fn read(self, processes: &BTreeMap<String, Process>) -> Span {
        let process = processes.get(&self.process_id);
        let process_tags = process.map(|process| process.tags.as_slice()).unwrap_or_default();
        let mut attributes = BTreeMap::new();
        for tag in process_tags.iter().chain(&self.tags).take(ATTRIBUTES_MAX) {
            attributes.insert(bounded(&tag.key), bounded(&tag.text()));
        }
        let parent = self
            .references
            .iter()
            .find(|reference| reference.ref_type == "CHILD_OF" && reference.trace_id == self.trace_id)
            .map(|reference| reference.span_id.clone())
            .or(self.parent_span_id)
            .filter(|parent| !parent.is_empty());
        let error = attributes.get("error").is_some_and(|value| value == "true")
            || attributes.get("otel.status_code").is_some_and(|value| value == "ERROR");
        Span {
            pod: POD_TAGS.iter().find_map(|tag| attributes.get(*tag).cloned()),
            kind: kind(attributes.get("span.kind").map(String::as_str)),
            error,
            trace_id: self.trace_id,
            span_id: self.span_id,
            parent_id: parent,
            service: process.map(|process| bounded(&process.service_name)).unwrap_or_default(),
            operation: bounded(&self.operation_name),
            start_ns: self.start_time.saturating_mul(1_000),
            duration_ns: self.duration.saturating_mul(1_000),
            attributes,
        }
    }
}

impl Tag {
    fn text(&self) -> String {
        match &self.value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

fn kind(tag: Option<&str>) -> SpanKind {
    match tag {
        Some("server") => SpanKind::Server,
        Some("client") => SpanKind::Client,
        Some("producer") => SpanKind::Producer,
        Some("consumer") => SpanKind::Consumer,
        _ => SpanKind::Internal,
    }
}

pub(crate) fn bounded(text: &str) -> String {
    let mut end = text.len().min(ATTRIBUTE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

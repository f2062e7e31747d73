//! Grafana Tempo: <https://grafana.com/docs/tempo/latest/api_docs/>.
//!
//! Tempo finds traces by TraceQL and hands out each by its id, so one question is one search and some fetches.

use std::time::Duration;

use amend_diagnosis::evidence::{Span, TopologyEdge, Window};
use futures::FutureExt;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::Value;

use crate::calls::{edges, traced};
use crate::connection::{Connection, clean};
use crate::egress::Egress;
use crate::exemplars::is_trace_id;
use crate::otlp;
use crate::promql::quoted;
use crate::questions::{TraceQuestion, WholeTraceQuestion};
use crate::source::{Asking, Source, SourceConfig, SourceError, Told};

/// Traces fetched for one question: each is a request of its own.
const FETCHED_MAX: usize = 30;

const SEARCH: &str = "/api/search";

/// A Tempo query front end.
#[derive(Debug)]
pub struct Tempo {
    config: SourceConfig,
    connection: Connection,
}

impl Tempo {
    /// # Errors
    /// The egress guard refuses the URL, or the certificate authorities cannot be read.
    pub fn open(config: SourceConfig, egress: &Egress) -> Result<Self, SourceError> {
        Ok(Self { connection: Connection::open(&config, egress)?, config })
    }

    async fn found(&self, query: &str, window: Window, traces: usize) -> Result<Vec<Span>, SourceError> {
        let limit = traces.clamp(1, FETCHED_MAX);
        let parameters = [
            ("q", query.to_owned()),
            ("start", window.from.as_second().to_string()),
            // Whole seconds; the last one counts in full.
            ("end", (window.to.as_second() + 1).to_string()),
            ("limit", limit.to_string()),
            // The search itself needs no spans.
            ("spss", "1".to_owned()),
        ];
        let search: Search = self.connection.get(SEARCH, &parameters).await?;
        let ids = search.traces.into_iter().map(|trace| trace.trace_id).take(limit);
        let mut spans = Vec::new();
        for fetched in join_all(ids.map(|id| self.fetched(id))).await {
            spans.extend(fetched?);
            if spans.len() > self.config.limits.samples {
                return Err(SourceError::TooMany { limit: self.config.limits.samples, what: "spans" });
            }
        }
        spans.sort_by(|left, right| {
            (left.start_ns, &left.trace_id, &left.span_id).cmp(&(right.start_ns, &right.trace_id, &right.span_id))
        });
        Ok(spans)
    }

    async fn fetched(&self, id: String) -> Result<Vec<Span>, SourceError> {
        if !is_trace_id(&id) {
            return Err(SourceError::Malformed { why: format!("a trace id {:?}", clean(&id)) });
        }
        let answer: Value = self.connection.get(&format!("/api/v2/traces/{id}"), &[]).await?;
        if answer["status"].as_str() == Some("PARTIAL") {
            return Err(SourceError::Partial { said: clean(answer["message"].as_str().unwrap_or_default()) });
        }
        match answer["trace"]["resourceSpans"].is_array() {
            true => Ok(otlp::spans(&answer["trace"]["resourceSpans"]).into_iter().map(otlp::bounded).collect()),
            false => Err(SourceError::Malformed { why: "a trace without resourceSpans".to_owned() }),
        }
    }

    async fn ask_whole(&self, question: &WholeTraceQuestion) -> Told<Vec<Span>> {
        let query = format!("/api/v2/traces/{}", clean(&question.trace));
        let outcome = match self.fetched(question.trace.clone()).await {
            // Not sampled, or expired.
            Err(SourceError::NotFound { .. }) => Ok(Vec::new()),
            told => told,
        };
        Told::new(query, outcome)
    }

    async fn ask_traces(&self, question: &TraceQuestion) -> Told<Vec<Span>> {
        let service = self.config.mapping.trace_service(&question.namespace, &question.service);
        let query = format!("{{ resource.service.name = {} }}", quoted(&service));
        let outcome = self.found(&query, question.window, question.traces).await;
        Told::new(query, outcome)
    }

    /// Tempo sums calls up in metrics, not here; a sample of traces shows the edges.
    async fn ask_calls(&self, window: Window) -> Told<Vec<TopologyEdge>> {
        let query = "{ kind = server }";
        let outcome = self.found(query, window, FETCHED_MAX).await.and_then(|spans| edges(traced(&spans)));
        Told::new(query, outcome)
    }
}

impl Source for Tempo {
    fn config(&self) -> &SourceConfig {
        &self.config
    }

    fn probe(&self) -> Asking<'_, Duration> {
        async move {
            let parameters = [("q", "{ }".to_owned()), ("limit", "1".to_owned())];
            Told::new("{ }", self.connection.time(SEARCH, &parameters).await)
        }
        .boxed()
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

#[derive(Deserialize)]
struct Search {
    /// Absent where nothing was found.
    #[serde(default)]
    traces: Vec<Summary>,
}

#[derive(Deserialize)]
struct Summary {
    #[serde(rename = "traceID")]
    trace_id: String,
}

//! Prometheus and what speaks its query API: Thanos, Mimir, VictoriaMetrics.
//!
//! <https://prometheus.io/docs/prometheus/latest/querying/api/>

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use amend_diagnosis::evidence::{Series, TopologyEdge, Window};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::alert::{AlertQuestion, AlertState};
use crate::calls::{CALL_METRICS, edges};
use crate::connection::{Connection, Parameters, clean};
use crate::egress::Egress;
use crate::exemplars;
use crate::history::HistoryQuestion;
use crate::measured::{Kept, Names, Samples, measured, named_one_of};
use crate::measures;
use crate::promql::{Aggregation, Expr, OverTime, Selector};
use crate::questions::{Exemplar, ExemplarQuestion, SeriesQuestion};
use crate::samples::Response;
use crate::source::{Asking, Source, SourceConfig, SourceError, Told};

/// Labels that say what an alert is about. External labels (cluster, replica, region) are added on the way to
/// Alertmanager and are absent from `ALERTS`, so only these are asked for.
const ENTITY_LABELS: [&str; 14] = [
    "namespace",
    "pod",
    "container",
    "service",
    "deployment",
    "statefulset",
    "daemonset",
    "workload",
    "job_name",
    "node",
    "persistentvolumeclaim",
    "horizontalpodautoscaler",
    "instance",
    "job",
];

/// What makes VictoriaMetrics answer as Prometheus does.
///
/// By default it hides the last 30 s, so that an alert that just fired is "never heard of" and the newest samples repeat
/// older ones; and it moves the ends of longer windows to multiples of the step, so that its cache is of use.
/// <https://docs.victoriametrics.com/victoriametrics/single-server-victoriametrics/#prometheus-querying-api-enhancements>
///
/// Sent only to stores that have shown what they are: others may refuse a parameter that they do not know.
const AS_PROMETHEUS_DOES: [(&str, &str); 2] = [("latency_offset", "1ms"), ("nocache", "1")];

/// A Prometheus-like store.
#[derive(Debug)]
pub struct Prometheus {
    config: SourceConfig,
    connection: Connection,
    /// Set by the first answer that bears VictoriaMetrics' mark.
    is_victoriametrics: AtomicBool,
}

impl Prometheus {
    /// # Errors
    /// The egress guard refuses the URL, or the certificate authorities cannot be read.
    pub fn open(config: SourceConfig, egress: &Egress) -> Result<Self, SourceError> {
        let connection = Connection::open(&config, egress)?;
        Ok(Self { connection, config, is_victoriametrics: AtomicBool::new(false) })
    }

    /// The value of every series at one moment.
    pub async fn instant(&self, query: &str, at: Timestamp) -> Result<Vec<Series>, SourceError> {
        let parameters = [("query", query.to_owned()), ("time", seconds(at))];
        let response = self.ask("/api/v1/query", &parameters).await?;
        response.read(&self.config.limits).map(|(series, _)| series)
    }

    /// Samples of every series at regular times, and how many were left out because they were not numbers.
    pub async fn range(
        &self,
        query: &str,
        window: Window,
        step: SignedDuration,
    ) -> Result<(Vec<Series>, usize), SourceError> {
        let parameters = [
            ("query", query.to_owned()),
            ("start", seconds(window.from)),
            ("end", seconds(window.to)),
            ("step", format!("{}", step.as_secs_f64())),
        ];
        let response = self.ask("/api/v1/query_range", &parameters).await?;
        response.read(&self.config.limits)
    }

    /// Asks; and asks once more when the answer shows a store that must be asked in another way.
    async fn ask(&self, path: &str, parameters: Parameters<'_>) -> Result<Response, SourceError> {
        if !self.is_victoriametrics.load(Ordering::Relaxed) {
            let response: Response = self.connection.query(path, parameters).await?;
            if !response.is_from_victoriametrics() {
                return Ok(response);
            }
            self.is_victoriametrics.store(true, Ordering::Relaxed);
        }
        let also = AS_PROMETHEUS_DOES.map(|(key, value)| (key, value.to_owned()));
        self.connection.query(path, &[parameters, &also].concat()).await
    }

    /// Which of these metrics the store holds at all; `None` where it does not say.
    ///
    /// One question about names, which stores answer from their index without looking at a sample:
    /// <https://prometheus.io/docs/prometheus/latest/querying/api/#querying-label-values>. Not every gateway in front of a store
    /// lets it through.
    async fn present(&self, names: &BTreeSet<String>, window: Window) -> Result<Option<BTreeSet<String>>, SourceError> {
        let parameters = [
            ("match[]", named_one_of(names)),
            ("start", seconds(window.from)),
            ("end", seconds(window.to)),
            ("limit", names.len().to_string()),
        ];
        match self.connection.get::<ToldNames>("/api/v1/label/__name__/values", &parameters).await {
            Ok(told) if told.status == "success" && told.warnings.is_empty() => {
                Ok(Some(told.data.into_iter().filter(|name| names.contains(name)).collect()))
            }
            Ok(_)
            | Err(
                SourceError::NotFound { .. }
                | SourceError::Rejected { .. }
                | SourceError::Malformed { .. }
                | SourceError::Unauthorised { .. },
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Requests that histograms of latency and counts of errors remember.
    async fn ask_exemplars(&self, question: &ExemplarQuestion) -> Told<Vec<Exemplar>> {
        let names = measures::slow_or_failed_names(&self.config.mapping);
        let present = match self.present(&names, question.window).await {
            Ok(present) => present,
            Err(error) => return Told::new(named_one_of(&names), Err(error)),
        };
        let Some(of) = measures::slow_or_failed(&self.config.mapping, &question.of, present.as_ref()) else {
            return Told::new(named_one_of(&names), Ok(Vec::new()));
        };
        let query = of.to_string();
        let parameters =
            [("query", query.clone()), ("start", seconds(question.window.from)), ("end", seconds(question.window.to))];
        let outcome = match self.connection.query::<exemplars::Response>("/api/v1/query_exemplars", &parameters).await {
            Ok(response) => response.read(&self.config.limits),
            Err(error) => Err(error),
        };
        Told::new(query, outcome)
    }

    /// Who calls whom by the first metric that knows of any call.
    async fn ask_calls(&self, window: Window) -> Told<Vec<TopologyEdge>> {
        let over = window.to.duration_since(window.from).max(self.config.sample_every * 4);
        let mut asked = String::new();
        for known in &CALL_METRICS {
            let selector = measures::only(Selector::metric(known.metric), &self.config.mapping);
            let query =
                selector.over(OverTime::Increase, over).aggregate(Aggregation::Sum, &known.labels()).to_string();
            asked.clone_from(&query);
            match self.instant(&query, window.to).await {
                Ok(found) => {
                    let pairs = known.pairs(&found);
                    if !pairs.is_empty() {
                        return Told::new(query, edges(pairs));
                    }
                }
                Err(error) => return Told::new(query, Err(error)),
            }
        }
        Told::new(asked, Err(SourceError::NoCalls))
    }

    async fn fired(&self, question: &HistoryQuestion) -> Told<Vec<Series>> {
        let selector = measures::only(question.selector(&self.config.mapping.namespace), &self.config.mapping);
        let query = selector.to_string();
        match self.range(&query, question.window, question.step).await {
            Ok((series, dropped)) => Told { query, outcome: Ok(series), dropped },
            Err(error) => Told::new(query, Err(error)),
        }
    }

    async fn alert(&self, question: &AlertQuestion) -> Told<AlertState> {
        let mut selector = Selector::metric("ALERTS").is("alertname", &question.name);
        for label in ENTITY_LABELS {
            if let Some(value) = question.labels.get(label) {
                selector = selector.is(label, value);
            }
        }
        let query = selector.to_string();
        let now = match self.instant(&query, question.at).await {
            Ok(found) => found,
            Err(error) => return Told::new(query, Err(error)),
        };
        if let Some(state) = state_of(&now, question) {
            return Told::new(query, Ok(state));
        }
        // Silence means "over" only from a store that has heard this alert before: a store that just lost its data, or
        // another team's store, is silent as well.
        let before = selector.over(OverTime::Last, question.heard_of).to_string();
        match self.instant(&before, question.at).await {
            Ok(found) if state_of(&found, question).is_some() => Told::new(query, Ok(AlertState::Inactive)),
            Ok(_) => {
                let why = format!("alert {:?} was never heard of here", clean(&question.name));
                Told::new(before, Err(SourceError::UnheardOf(why)))
            }
            Err(error) => Told::new(before, Err(error)),
        }
    }
}

/// The strongest state among `ALERTS` series that contradict none of the alert's labels.
fn state_of(found: &[Series], question: &AlertQuestion) -> Option<AlertState> {
    let agrees = |series: &&Series| {
        series.labels.iter().all(|(label, value)| {
            matches!(label.as_str(), "__name__" | "alertname" | "alertstate" | "severity")
                || question.labels.get(label).is_none_or(|sent| sent == value)
        })
    };
    found
        .iter()
        .filter(agrees)
        .filter_map(|series| match series.labels.get("alertstate").map(String::as_str) {
            Some("firing") => Some(AlertState::Firing),
            Some("pending") => Some(AlertState::Pending),
            _ => None,
        })
        .max()
}

impl Kept for Prometheus {
    fn there<'a>(&'a self, names: &'a BTreeSet<String>, window: Window) -> Names<'a> {
        self.present(names, window).boxed()
    }

    fn evaluated<'a>(&'a self, query: &'a Expr, window: Window, step: SignedDuration) -> Samples<'a> {
        async move { self.range(&query.to_string(), window, step).await }.boxed()
    }
}

impl Source for Prometheus {
    fn config(&self) -> &SourceConfig {
        &self.config
    }

    fn probe(&self) -> Asking<'_, Duration> {
        async move {
            let outcome = self.connection.time("/api/v1/query", &[("query", "1".to_owned())]).await;
            Told::new("1", outcome)
        }
        .boxed()
    }

    fn series<'a>(&'a self, question: &'a SeriesQuestion) -> Asking<'a, Vec<Series>> {
        measured(self, &self.config, question).boxed()
    }

    fn exemplars<'a>(&'a self, question: &'a ExemplarQuestion) -> Asking<'a, Vec<Exemplar>> {
        self.ask_exemplars(question).boxed()
    }

    fn calls(&self, window: Window) -> Asking<'_, Vec<TopologyEdge>> {
        self.ask_calls(window).boxed()
    }

    fn alerts_fired<'a>(&'a self, question: &'a HistoryQuestion) -> Asking<'a, Vec<Series>> {
        self.fired(question).boxed()
    }

    fn alert_state<'a>(&'a self, question: &'a AlertQuestion) -> Asking<'a, AlertState> {
        self.alert(question).boxed()
    }
}

/// The names of metrics that a store holds.
#[derive(Deserialize)]
struct ToldNames {
    status: String,
    data: Vec<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

/// Unix seconds with milliseconds, as the API takes them.
fn seconds(at: Timestamp) -> String {
    let ms = at.as_millisecond();
    format!("{}.{:03}", ms.div_euclid(1_000), ms.rem_euclid(1_000))
}

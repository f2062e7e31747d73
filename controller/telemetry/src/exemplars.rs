//! From what is slow or fails to single requests: exemplars of latency and errors, and the traces that they point at.
//!
//! An exemplar is an example that somebody who counts keeps with the count: here the id of a trace beside a bucket or a counter
//! (<https://prometheus.io/docs/prometheus/latest/querying/api/#querying-exemplars>, OpenMetrics 1.0, "Exemplars"). Stores
//! without them answer with an empty list (VictoriaMetrics, Prometheus with the feature off) or not at all.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use amend_diagnosis::evidence::{Answer, Asked, Span, Window};
use amend_diagnosis::metric::name_of;
use futures::future::{FutureExt, join_all};
use serde::Deserialize;
use tokio::time::Instant;

use crate::connection::clean;
use crate::gather::{Questions, Scope, settled};
use crate::questions::{Exemplar, ExemplarQuestion, Selection, WholeTraceQuestion};
use crate::source::{Limits, Reply, SourceError, SourceKind};
use crate::sources::{Sources, in_time};

/// Traces that are fetched: the few slowest requests tell where the time goes.
const TRACES_MAX: usize = 6;
/// Of requests that failed: each tells the same story again, and the slow ones need their places.
const FAILED_MAX: usize = 2;

/// What libraries call the id of a trace in an exemplar: OpenTelemetry and OpenMetrics' own example, client libraries, Hubble.
const TRACE_LABELS: [&str; 4] = ["trace_id", "traceID", "traceId", "TraceID"];

/// Asks about the focus since the trouble began, then for the traces of its exemplars.
pub(crate) async fn pointed_at(
    sources: &Sources,
    scope: &Scope,
    window: Window,
    end: Instant,
) -> (Answer<Vec<Span>>, Vec<Asked>) {
    let mut asked = Vec::new();
    let mut questions: Questions<'_, Exemplar> = Vec::new();
    for source in sources.holding(SourceKind::holds_metrics) {
        let focus = &scope.focus.entity;
        let id = format!("{}/exemplars/{}/{}", source.config().name, focus.namespace, focus.name);
        let question = ExemplarQuestion { id, of: Selection::one(&scope.focus), window };
        questions
            .push(async move { in_time(source, &question.id, window, end, source.exemplars(&question)).await }.boxed());
    }
    let found = match settled(join_all(questions).await, "metrics", &mut asked, &mut 0) {
        Answer::Known(found) => chosen(found),
        Answer::Unknown { why } => return (Answer::Unknown { why }, asked),
    };
    if found.is_empty() {
        return (Answer::unknown("neither latency nor errors have exemplars"), asked);
    }
    let mut questions: Questions<'_, Span> = Vec::new();
    for source in sources.holding(SourceKind::holds_traces) {
        for exemplar in &found {
            let short: String = exemplar.trace_id.chars().take(16).collect();
            let id = format!("{}/exemplar/{short}", source.config().name);
            let question = WholeTraceQuestion { id, trace: exemplar.trace_id.clone(), window };
            questions.push(
                async move { in_time(source, &question.id, window, end, source.whole_trace(&question)).await }.boxed(),
            );
        }
    }
    let replies: Vec<Reply<Vec<Span>>> = join_all(questions).await;
    let traces = settled(replies, "traces", &mut asked, &mut 0);
    (traces, asked)
}

/// Each trace once: the newest that failed, and those that took longest.
fn chosen(mut found: Vec<Exemplar>) -> Vec<Exemplar> {
    found.sort_by(order);
    let mut seen = BTreeSet::new();
    found.retain(|exemplar| seen.insert(exemplar.trace_id.clone()));
    let (mut failed, slow): (Vec<_>, Vec<_>) = found.into_iter().partition(|exemplar| exemplar.took.is_none());
    failed.truncate(FAILED_MAX);
    failed.into_iter().chain(slow).take(TRACES_MAX).collect()
}

/// Those that failed first, the newest before others; then the slowest.
pub(crate) fn order(one: &Exemplar, other: &Exemplar) -> Ordering {
    let length = |exemplar: &Exemplar| exemplar.took.unwrap_or(f64::INFINITY);
    length(other)
        .total_cmp(&length(one))
        .then(other.at.total_cmp(&one.at))
        .then_with(|| one.trace_id.cmp(&other.trace_id))
}

/// Whether a text may stand in the path of a trace store.
pub(crate) fn is_trace_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What Prometheus answers.
#[derive(Deserialize)]
pub(crate) struct Response {
    status: String,
    #[serde(default)]
    data: Vec<OfSeries>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct OfSeries {
    #[serde(default, rename = "seriesLabels")]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    exemplars: Vec<Told>,
}

#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Text in Prometheus, a number elsewhere.
    value: serde_json::Value,
    #[serde(default)]
    timestamp: f64,
}

impl Response {
    /// The exemplars that name a trace, in [`order`].
    pub fn read(self, limits: &Limits) -> Result<Vec<Exemplar>, SourceError> {
        if self.status != "success" {
            return Err(SourceError::Rejected { status: 200, said: clean(&self.status) });
        }
        if !self.warnings.is_empty() {
            return Err(SourceError::Partial { said: clean(&self.warnings.join("; ")) });
        }
        let count: usize = self.data.iter().map(|series| series.exemplars.len()).sum();
        if count > limits.samples {
            return Err(SourceError::TooMany { limit: limits.samples, what: "exemplars" });
        }
        let read = |told: &Told, of_latency: bool| {
            let trace_id = TRACE_LABELS.iter().find_map(|label| told.labels.get(*label))?;
            let value = told.value.as_str().and_then(|text| text.parse().ok()).or(told.value.as_f64())?;
            let usable = is_trace_id(trace_id) && f64::is_finite(value);
            let took = of_latency.then_some(value);
            usable.then(|| Exemplar { trace_id: trace_id.clone(), took, at: told.timestamp })
        };
        let mut found: Vec<Exemplar> = Vec::new();
        for series in &self.data {
            let of_latency = name_of(&series.labels).ends_with("_bucket");
            found.extend(series.exemplars.iter().filter_map(|told| read(told, of_latency)));
        }
        found.sort_by(order);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: serde_json::Value, limits: &Limits) -> Result<Vec<Exemplar>, SourceError> {
        serde_json::from_value::<Response>(body).unwrap().read(limits)
    }

    fn body() -> serde_json::Value {
        serde_json::json!({"status": "success", "data": [
            {"seriesLabels": {"__name__": "http_request_duration_seconds_bucket", "le": "1"}, "exemplars": [
                {"labels": {"trace_id": "0af7651916cd43dd8448eb211c80319c"}, "value": "0.2", "timestamp": 10.5},
                {"labels": {"trace_id": "../../api/v1/admin"}, "value": "9", "timestamp": 11},
                {"labels": {"user": "ann"}, "value": "8", "timestamp": 12}]},
            {"seriesLabels": {"__name__": "http_requests_total", "code": "503"}, "exemplars": [
                {"labels": {"TraceID": "5bf92f3577b34da6a3ce929d0e0e4736"}, "value": "1", "timestamp": 15}]},
            {"seriesLabels": {"__name__": "http_request_duration_seconds_bucket", "le": "+Inf"}, "exemplars": [
                {"labels": {"traceID": "4bf92f3577b34da6a3ce929d0e0e4736"}, "value": 7, "timestamp": 13},
                {"labels": {"traceID": "4bf92f3577b34da6a3ce929d0e0e4737"}, "value": "NaN", "timestamp": 14}]}]})
    }

    #[test]
    fn failed_ones_and_then_the_slowest_stand_first_and_what_names_no_trace_is_left_out() {
        let found = read(body(), &Limits::default()).unwrap();
        let told: Vec<(&str, Option<f64>)> = found.iter().map(|one| (one.trace_id.as_str(), one.took)).collect();
        let failed = ("5bf92f3577b34da6a3ce929d0e0e4736", None);
        let slow = [("4bf92f3577b34da6a3ce929d0e0e4736", Some(7.0)), ("0af7651916cd43dd8448eb211c80319c", Some(0.2))];
        assert_eq!(told, [failed, slow[0], slow[1]]);
        let none = serde_json::json!({"status": "success", "data": []});
        assert_eq!(read(none, &Limits::default()).unwrap(), []);
    }

    #[test]
    fn many_failed_requests_leave_room_for_the_slow_ones_and_each_trace_is_fetched_once() {
        let exemplar = |id: usize, took: Option<f64>| Exemplar { trace_id: format!("{id:032x}"), took, at: id as f64 };
        let failed = (0..9).map(|id| exemplar(id, None));
        let slow = (8..30).map(|id| exemplar(id, Some(id as f64)));
        let found = chosen(failed.chain(slow).collect());
        let told: Vec<Option<f64>> = found.iter().map(|one| one.took).collect();
        assert_eq!(told, [None, None, Some(29.0), Some(28.0), Some(27.0), Some(26.0)]);
        assert_eq!((found[0].at, found[1].at), (8.0, 7.0), "the newest that failed");
    }

    #[test]
    fn too_many_and_partial_answers_are_no_answers() {
        let few = Limits { samples: 1, ..Limits::default() };
        assert!(matches!(read(body(), &few), Err(SourceError::TooMany { .. })));
        let mut partial = body();
        partial["warnings"] = serde_json::json!(["a store gateway timed out"]);
        assert!(matches!(read(partial, &Limits::default()), Err(SourceError::Partial { .. })));
    }
}

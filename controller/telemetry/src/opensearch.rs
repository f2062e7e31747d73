//! OpenSearch and Elasticsearch as log stores: <https://docs.opensearch.org/latest/api-reference/search-apis/search/>.
//!
//! Which fields hold what is in `fields.rs`; everything is found out with questions, nothing is assumed of an index.

mod fields;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use amend_diagnosis::evidence::{LogLine, Series};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::connection::Connection;
use crate::egress::Egress;
use crate::loki::bounded;
use crate::questions::{LineFilter, LineQuestion};
use crate::source::{Asking, Source, SourceConfig, SourceError, Told};
use fields::{Capabilities, Fields};

/// Most documents of one answer; the servers' own default for `index.max_result_window` is twice that.
const LINES_MAX: usize = 5_000;

/// Both servers refuse longer expressions (`index.max_regex_length`, 1000).
const EXPRESSION_MAX: usize = 900;

/// An OpenSearch or Elasticsearch.
#[derive(Debug)]
pub struct OpenSearch {
    config: SourceConfig,
    connection: Connection,
    /// Found out once; after an error it is asked again.
    fields: OnceCell<Fields>,
}

impl OpenSearch {
    /// # Errors
    /// The egress guard refuses the URL, or the certificate authorities cannot be read.
    pub fn open(config: SourceConfig, egress: &Egress) -> Result<Self, SourceError> {
        Ok(Self { connection: Connection::open(&config, egress)?, config, fields: OnceCell::new() })
    }

    fn path(&self, api: &str) -> String {
        format!("/{}/{api}", self.config.mapping.logs.index)
    }

    async fn fields(&self) -> Result<&Fields, SourceError> {
        let declared = &self.config.mapping.logs;
        let ask = || async {
            let parameters = [("fields", fields::candidates(declared))];
            self.connection.get::<Capabilities>(&self.path("_field_caps"), &parameters).await?.fields(declared)
        };
        self.fields.get_or_try_init(ask).await
    }

    fn wanted(&self, fields: &Fields, question: &LineQuestion) -> Result<Value, SourceError> {
        let mut filter = vec![
            json!({"range": {fields.time.as_str(): {
                "gte": question.window.from.as_millisecond(),
                "lte": question.window.to.as_millisecond(),
                "format": "epoch_millis",
            }}}),
            json!({"bool": {"should": pods(&fields.pod, &question.of.pods), "minimum_should_match": 1}}),
        ];
        if let Some(namespace) = &fields.namespace {
            filter.push(json!({"term": {namespace.as_str(): question.of.namespace}}));
        }
        for (field, value) in &self.config.mapping.only {
            filter.push(json!({"term": {field.as_str(): value}}));
        }
        match &question.only {
            LineFilter::All => {}
            LineFilter::Containing(text) => filter.push(json!({"match_phrase": {fields.message.as_str(): text}})),
            LineFilter::OfTrace(trace) => {
                let field = fields.trace.as_ref().ok_or_else(|| SourceError::Unmapped {
                    what: format!("no field of {} holds the trace", self.config.mapping.logs.index),
                    key: "traceField",
                })?;
                filter.push(json!({"term": {field.as_str(): trace}}));
            }
        }
        Ok(json!({"bool": {"filter": filter}}))
    }

    /// Asks with the document that `body` makes of the fields and the query.
    async fn ask<T>(
        &self,
        question: &LineQuestion,
        body: impl FnOnce(&Fields, Value) -> Value,
        read: impl FnOnce(&Fields, Found) -> Result<T, SourceError>,
    ) -> Told<T> {
        let fields = match self.fields().await {
            Ok(fields) => fields,
            Err(error) => return Told::new(format!("GET {}", self.path("_field_caps")), Err(error)),
        };
        let path = self.path("_search");
        let body = match self.wanted(fields, question) {
            Ok(query) => body(fields, query),
            Err(error) => return Told::new(format!("POST {path}"), Err(error)),
        };
        let outcome = match self.connection.post::<Found>(&path, &body).await {
            Ok(found) => found.whole(&self.config.mapping.logs.index).and_then(|()| read(fields, found)),
            Err(error) => Err(error),
        };
        Told::new(format!("POST {path} {body}"), outcome)
    }

    async fn ask_lines(&self, question: &LineQuestion) -> Told<Vec<LogLine>> {
        let body = |fields: &Fields, query| {
            let optional = [&fields.level, &fields.trace, &fields.span].into_iter().flatten();
            let needed = [&fields.time, &fields.message, &fields.pod].into_iter().chain(optional);
            json!({
                "size": question.lines.clamp(1, LINES_MAX),
                "query": query,
                "sort": [{fields.time.as_str(): {"order": "desc", "unmapped_type": "date"}}],
                "_source": needed.map(|field| source_of(field)).collect::<Vec<_>>(),
            })
        };
        self.ask(question, body, |fields, found| self.lines_of(fields, found)).await
    }

    fn lines_of(&self, fields: &Fields, found: Found) -> Result<Vec<LogLine>, SourceError> {
        let limit = self.config.limits.samples;
        if found.hits.hits.len() > limit {
            return Err(SourceError::TooMany { limit, what: "lines" });
        }
        let mut lines: Vec<LogLine> = found
            .hits
            .hits
            .into_iter()
            .map(|hit| {
                let text = |field: &str| at(&hit.source, source_of(field)).and_then(Value::as_str).map(str::to_owned);
                let maybe = |field: &Option<String>| field.as_deref().and_then(text);
                LogLine {
                    at_ns: at(&hit.source, &fields.time).and_then(nanoseconds),
                    source: text(&fields.pod).unwrap_or_default(),
                    severity: maybe(&fields.level),
                    body: bounded(text(&fields.message).unwrap_or_default()),
                    trace_id: maybe(&fields.trace),
                    span_id: maybe(&fields.span),
                    count: 1,
                    taught: None,
                }
            })
            .collect();
        lines.sort_by(|left, right| {
            (left.at_ns, &left.source, &left.body).cmp(&(right.at_ns, &right.source, &right.body))
        });
        Ok(lines)
    }

    async fn ask_counts(&self, question: &LineQuestion, step: SignedDuration) -> Told<Vec<Series>> {
        let body = |fields: &Fields, query| {
            json!({
                "size": 0,
                "query": query,
                "aggs": {"pods": {
                    "terms": {"field": fields.pod, "size": self.config.limits.series + 1},
                    "aggs": {"steps": {"date_histogram": {
                        "field": fields.time, "fixed_interval": format!("{}s", step.as_secs().max(1)), "min_doc_count": 0,
                    }}},
                }},
            })
        };
        self.ask(question, body, |_, found| self.counts_of(found, question)).await
    }

    fn counts_of(&self, found: Found, question: &LineQuestion) -> Result<Vec<Series>, SourceError> {
        let pods = found.aggregations.map(|all| all.pods.buckets).unwrap_or_default();
        let limits = &self.config.limits;
        if pods.len() > limits.series {
            return Err(SourceError::TooMany { limit: limits.series, what: "series" });
        }
        if pods.iter().map(|pod| pod.steps.buckets.len()).sum::<usize>() > limits.samples {
            return Err(SourceError::TooMany { limit: limits.samples, what: "samples" });
        }
        let series = pods.into_iter().map(|pod| Series {
            labels: BTreeMap::from([
                ("__name__".to_owned(), question.only.counted_as().to_owned()),
                ("namespace".to_owned(), question.of.namespace.clone()),
                ("pod".to_owned(), pod.key),
            ]),
            samples: pod.steps.buckets.iter().map(|step| (step.key / 1_000.0, step.doc_count)).collect(),
            asked: question.id.clone(),
        });
        Ok(series.collect())
    }
}

impl Source for OpenSearch {
    fn config(&self) -> &SourceConfig {
        &self.config
    }

    fn probe(&self) -> Asking<'_, Duration> {
        async move {
            let query = self.path("_field_caps");
            let declared = &self.config.mapping.logs;
            let parameters = [("fields", fields::candidates(declared))];
            let began = Instant::now();
            let outcome = match self.connection.get::<Capabilities>(&query, &parameters).await {
                Ok(found) => found.fields(declared).map(|_| began.elapsed()),
                Err(error) => Err(error),
            };
            Told::new(query, outcome)
        }
        .boxed()
    }

    fn lines<'a>(&'a self, question: &'a LineQuestion) -> Asking<'a, Vec<LogLine>> {
        self.ask_lines(question).boxed()
    }

    fn line_counts<'a>(&'a self, question: &'a LineQuestion, step: SignedDuration) -> Asking<'a, Vec<Series>> {
        self.ask_counts(question, step).boxed()
    }
}

/// The pods' expression in pieces that the server accepts; any of them may match.
fn pods(field: &str, expression: &str) -> Vec<Value> {
    // Flags off: of Lucene's expressions only what all dialects share.
    let one = |piece: String| json!({"regexp": {field: {"value": lucene(&piece), "flags": "NONE"}}});
    pieces(expression, EXPRESSION_MAX).into_iter().map(one).collect()
}

/// Splits the alternatives of an expression into groups of at most `max` bytes; a longer single one stays whole.
fn pieces(expression: &str, max: usize) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut escaped = false;
    let alternatives = expression.split(|c| {
        let splits = c == '|' && !escaped;
        escaped = c == '\\' && !escaped;
        splits
    });
    for alternative in alternatives {
        match pieces.last_mut() {
            Some(piece) if piece.len() + alternative.len() < max => {
                piece.push('|');
                piece.push_str(alternative);
            }
            _ => pieces.push(alternative.to_owned()),
        }
    }
    pieces
}

/// An RE2 expression of ours in Lucene's dialect, where a bare double quote begins a literal.
fn lucene(expression: &str) -> String {
    expression.replace('"', "\\\"")
}

/// The field in the document: `.keyword` is only an index of it.
fn source_of(field: &str) -> &str {
    field.strip_suffix(".keyword").unwrap_or(field)
}

/// A field by its dotted name, whether the document nests it or spells the dots.
fn at<'a>(document: &'a Value, field: &str) -> Option<&'a Value> {
    if let Some(value) = document.get(field) {
        return Some(value);
    }
    field.match_indices('.').find_map(|(dot, _)| at(document.get(&field[..dot])?, &field[dot + 1..]))
}

/// RFC 3339 text, or milliseconds.
fn nanoseconds(time: &Value) -> Option<u64> {
    let ns = match time {
        Value::String(text) => text.parse::<Timestamp>().ok()?.as_nanosecond(),
        other => i128::from(other.as_i64()?) * 1_000_000,
    };
    u64::try_from(ns).ok()
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    timed_out: bool,
    #[serde(rename = "_shards", default)]
    shards: Shards,
    #[serde(default)]
    hits: Hits,
    #[serde(default)]
    aggregations: Option<Aggregations>,
}

#[derive(Default, Deserialize)]
struct Shards {
    #[serde(default)]
    total: u64,
    #[serde(default)]
    failed: u64,
}

#[derive(Default, Deserialize)]
struct Hits {
    #[serde(default)]
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_source", default)]
    source: Value,
}

#[derive(Deserialize)]
struct Aggregations {
    pods: Pods,
}

#[derive(Deserialize)]
struct Pods {
    buckets: Vec<Pod>,
}

#[derive(Deserialize)]
struct Pod {
    key: String,
    steps: Steps,
}

#[derive(Deserialize)]
struct Steps {
    buckets: Vec<Step>,
}

/// Unix milliseconds and how many.
#[derive(Deserialize)]
struct Step {
    key: f64,
    doc_count: f64,
}

impl Found {
    /// Nothing found in all of at least one shard is an answer; nothing searched is none.
    fn whole(&self, index: &str) -> Result<(), SourceError> {
        match (self.timed_out, self.shards.failed, self.shards.total) {
            (true, _, _) => Err(SourceError::Partial { said: "the search ran out of time".to_owned() }),
            (_, 0, 0) => Err(SourceError::Unmapped { what: format!("no index matches {index}"), key: "index" }),
            (_, 0, _) => Ok(()),
            (_, failed, _) => Err(SourceError::Partial { said: format!("{failed} shards failed") }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_nested_or_spelled_with_dots() {
        let nested = json!({"kubernetes": {"pod": {"name": "a"}}});
        let spelled = json!({"kubernetes.pod.name": "a"});
        let mixed = json!({"kubernetes": {"pod.name": "a"}});
        for document in [nested, spelled, mixed] {
            assert_eq!(at(&document, "kubernetes.pod.name"), Some(&json!("a")));
        }
        assert_eq!(at(&json!({"kubernetes": "x"}), "kubernetes.pod.name"), None);
    }

    #[test]
    fn a_long_expression_is_split_between_its_alternatives_only() {
        assert_eq!(pieces(r"a\|b|cc|d", 100), [r"a\|b|cc|d"]);
        assert_eq!(pieces(r"a\|b|cc|d", 5), [r"a\|b", "cc|d"]);
    }

    #[test]
    fn times_are_read_as_text_and_as_numbers() {
        assert_eq!(nanoseconds(&json!("2026-11-21T05:00:00.5Z")), nanoseconds(&json!(1_795_237_200_500_i64)));
        assert_eq!(nanoseconds(&json!("yesterday")), None);
    }
}

//! Loki: <https://grafana.com/docs/loki/latest/reference/loki-http-api/>.

use std::collections::BTreeMap;
use std::time::Duration;

use amend_diagnosis::evidence::{LogLine, Series, Window};
use futures::FutureExt;
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::Value;

use crate::connection::{Connection, clean};
use crate::egress::Egress;
use crate::logql::Lines;
use crate::questions::{LineFilter, LineQuestion};
use crate::samples::Response;
use crate::source::{Asking, Source, SourceConfig, SourceError, Told};

/// Bytes kept of one line: beyond it comes payload, not message.
const LINE_BYTES_MAX: usize = 4 << 10;

/// Loki's own default for `max_entries_limit_per_query`; more is answered with 400.
const LINES_MAX: usize = 5_000;

/// What shippers call the id of a trace, OpenTelemetry's name first.
const TRACE_LABELS: [&str; 4] = ["trace_id", "traceID", "traceId", "traceid"];

const QUERY_RANGE: &str = "/loki/api/v1/query_range";

/// A Loki.
#[derive(Debug)]
pub struct Loki {
    config: SourceConfig,
    connection: Connection,
}

impl Loki {
    /// # Errors
    /// The egress guard refuses the URL, or the certificate authorities cannot be read.
    pub fn open(config: SourceConfig, egress: &Egress) -> Result<Self, SourceError> {
        Ok(Self { connection: Connection::open(&config, egress)?, config })
    }

    fn selected(&self, question: &LineQuestion) -> Lines {
        let (mapping, of) = (&self.config.mapping, &question.of);
        let lines = mapping.only.iter().fold(Lines::default(), |lines, (label, value)| lines.is(label, value));
        let lines = lines.is(&mapping.namespace, &of.namespace);
        // A store without pod labels still knows services.
        let lines = match mapping.pod.is_empty() {
            false => lines.like(&mapping.pod, &of.pods),
            true => lines.like(&mapping.service, &of.services),
        };
        let lines = match &of.container {
            Some(container) => lines.is(&mapping.container, container),
            None => lines,
        };
        match &question.only {
            LineFilter::All => lines,
            LineFilter::Containing(text) => lines.containing(text),
            LineFilter::OfTrace(trace) => lines.with_any(&TRACE_LABELS, trace),
        }
    }

    async fn ask_lines(&self, question: &LineQuestion) -> Told<Vec<LogLine>> {
        let query = self.selected(question).to_string();
        let limit = question.lines.min(LINES_MAX).min(self.config.limits.samples).max(1);
        let parameters = [
            ("query", query.clone()),
            ("start", nanoseconds(question.window).0),
            ("end", nanoseconds(question.window).1),
            ("limit", limit.to_string()),
            ("direction", "backward".to_owned()),
        ];
        let outcome = match self.connection.query::<Streams>(QUERY_RANGE, &parameters).await {
            Ok(streams) => self.lines_of(streams),
            Err(error) => Err(error),
        };
        Told::new(query, outcome)
    }

    fn lines_of(&self, told: Streams) -> Result<Vec<LogLine>, SourceError> {
        if told.status != "success" {
            return Err(SourceError::Rejected { status: 200, said: clean(&told.status) });
        }
        if !told.warnings.is_empty() {
            return Err(SourceError::Partial { said: clean(&told.warnings.join("; ")) });
        }
        let limit = self.config.limits.samples;
        if told.data.result.iter().map(|stream| stream.values.len()).sum::<usize>() > limit {
            return Err(SourceError::TooMany { limit, what: "lines" });
        }
        let mapping = &self.config.mapping;
        let mut lines = Vec::new();
        for Stream { stream, values } in told.data.result {
            let named =
                [&mapping.pod, &mapping.service, &mapping.container].into_iter().find_map(|label| stream.get(label));
            let source = named.cloned().unwrap_or_default();
            lines.extend(values.into_iter().map(|entry| entry.read(&source, &stream)));
        }
        lines.sort_by(|left, right| {
            (left.at_ns, &left.source, &left.body).cmp(&(right.at_ns, &right.source, &right.body))
        });
        Ok(lines)
    }

    async fn ask_counts(&self, question: &LineQuestion, step: SignedDuration) -> Told<Vec<Series>> {
        let mapping = &self.config.mapping;
        let by = if mapping.pod.is_empty() { &mapping.service } else { &mapping.pod };
        let query = self.selected(question).counted(&[by.as_str()], step);
        let parameters = [
            ("query", query.clone()),
            ("start", nanoseconds(question.window).0),
            ("end", nanoseconds(question.window).1),
            ("step", format!("{}", step.as_secs_f64())),
        ];
        let read = match self.connection.query::<Response>(QUERY_RANGE, &parameters).await {
            Ok(response) => response.read(&self.config.limits),
            Err(error) => Err(error),
        };
        match read {
            Ok((series, dropped)) => {
                let name = question.only.counted_as();
                let ours = if mapping.pod.is_empty() { "service" } else { "pod" };
                let renamed = series.into_iter().map(|mut series| {
                    if let Some(value) = series.labels.remove(by) {
                        series.labels.insert(ours.to_owned(), value);
                    }
                    series.labels.insert("namespace".to_owned(), question.of.namespace.clone());
                    series.labels.insert("__name__".to_owned(), name.to_owned());
                    Series { asked: question.id.clone(), ..series }
                });
                Told { query, outcome: Ok(renamed.collect()), dropped }
            }
            Err(error) => Told::new(query, Err(error)),
        }
    }
}

impl Source for Loki {
    fn config(&self) -> &SourceConfig {
        &self.config
    }

    /// A real query: a gateway may let `/ready` through and refuse everything else.
    fn probe(&self) -> Asking<'_, Duration> {
        async move {
            let label = [&self.config.mapping.namespace, &self.config.mapping.pod, &self.config.mapping.service]
                .into_iter()
                .find(|label| !label.is_empty())
                .map_or("namespace", String::as_str);
            let query = Lines::default().like(label, ".+").to_string();
            let parameters = [("query", query.clone()), ("limit", "1".to_owned())];
            let outcome = self.connection.time(QUERY_RANGE, &parameters).await;
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

/// Both ends as unix nanoseconds; Loki leaves the end out, so it is one further.
fn nanoseconds(window: Window) -> (String, String) {
    (window.from.as_nanosecond().to_string(), (window.to.as_nanosecond() + 1).to_string())
}

#[derive(Deserialize)]
struct Streams {
    status: String,
    data: StreamData,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct StreamData {
    result: Vec<Stream>,
}

#[derive(Deserialize)]
struct Stream {
    #[serde(default)]
    stream: BTreeMap<String, String>,
    values: Vec<Entry>,
}

/// Nanoseconds, line, and in newer versions structured metadata.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Plain(String, String),
    WithMetadata(String, String, Value),
}

impl Entry {
    fn read(self, source: &str, stream: &BTreeMap<String, String>) -> LogLine {
        let (at, line, metadata) = match self {
            Self::Plain(at, line) => (at, line, Value::Null),
            Self::WithMetadata(at, line, metadata) => (at, line, metadata),
        };
        let body: Value = match line.starts_with('{') {
            true => serde_json::from_str(&line).unwrap_or(Value::Null),
            false => Value::Null,
        };
        let field = |names: &[&str]| {
            names.iter().find_map(|name| {
                let told = [metadata.get("structuredMetadata").unwrap_or(&metadata), &body];
                let in_json = told.into_iter().find_map(|json| json.get(name)?.as_str().map(str::to_owned));
                in_json.or_else(|| stream.get(*name).cloned())
            })
        };
        LogLine {
            at_ns: at.parse().ok(),
            source: source.to_owned(),
            severity: field(&["severity_text", "level", "severity", "detected_level", "lvl"]),
            trace_id: field(&TRACE_LABELS),
            span_id: field(&["span_id", "spanID", "spanId", "spanid"]),
            body: bounded(line),
            count: 1,
            taught: None,
        }
    }
}

pub(crate) fn bounded(mut line: String) -> String {
    if line.len() > LINE_BYTES_MAX {
        let mut end = LINE_BYTES_MAX;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
    }
    line
}

//! Loki's query API over log lines in memory: `{matchers} |= "text" ... | label="value" or ...` and
//! `sum by (labels) (count_over_time({...} |= "text" [5m]))`; anything else is an error.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use http::StatusCode;
use jiff::Timestamp;
use regex::Regex;
use serde_json::{Value, json};

use super::promql::{self, Expression};
use super::tsdb::{Labels, Matcher};
use crate::clock::SandboxClock;
use crate::model::LogLine;

/// The most lines that are kept, all streams together.
const KEPT: usize = 20_000;

/// Most entries that one answer may hold, as in Loki.
const ENTRIES: usize = 5_000;

/// Most points per series of a range query, as in Loki.
const POINTS: i128 = 11_000;

/// Lines, oldest first; cloning gives the same store.
#[derive(Clone, Debug)]
pub struct Loki {
    lines: Arc<Mutex<VecDeque<LogLine>>>,
    clock: SandboxClock,
}

/// A filter behind the selector.
#[derive(Debug)]
enum Filter {
    Contains(String),
    Lacks(String),
    Matches(Regex),
    Differs(Regex),
    /// One of these labels has this value.
    Labelled(Vec<(String, String)>),
}

impl Filter {
    fn passes(&self, line: &LogLine) -> bool {
        match self {
            Self::Contains(text) => line.line.contains(text),
            Self::Lacks(text) => !line.line.contains(text),
            Self::Matches(pattern) => pattern.is_match(&line.line),
            Self::Differs(pattern) => !pattern.is_match(&line.line),
            Self::Labelled(any) => any.iter().any(|(label, value)| line.labels.get(label) == Some(value)),
        }
    }
}

/// `{matchers} |= "text"`
#[derive(Debug)]
struct Selection {
    matchers: Vec<Matcher>,
    filters: Vec<Filter>,
}

impl Selection {
    fn takes(&self, line: &LogLine) -> bool {
        self.matchers.iter().all(|matcher| matcher.fits(&line.labels))
            && self.filters.iter().all(|filter| filter.passes(line))
    }
}

/// What a query asks for.
#[derive(Debug)]
enum Asked {
    Lines(Selection),
    Counts { of: Selection, by: Vec<String>, window: i64 },
}

impl Loki {
    /// An empty store.
    pub fn new(clock: SandboxClock) -> Self {
        Self { lines: Arc::default(), clock }
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<LogLine>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes new lines.
    pub fn push(&self, new: Vec<LogLine>) {
        let mut lines = self.lines();
        lines.extend(new);
        let surplus = lines.len().saturating_sub(KEPT);
        lines.drain(..surplus);
    }

    /// Its HTTP interface.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/loki/api/v1/query_range", get(query_range).post(query_range))
            .route("/loki/api/v1/labels", get(labels))
            .route("/loki/api/v1/label/{name}/values", get(label_values))
            .route("/ready", get(|| async { "ready\n" }))
            .route("/loki/api/v1/status/buildinfo", get(|| async { Json(json!({ "version": "3.7.8+sandbox" })) }))
            .with_state(self.clone())
    }
}

fn refused(why: impl ToString) -> Response {
    (StatusCode::BAD_REQUEST, why.to_string()).into_response()
}

fn parse(text: &str) -> Result<Asked, String> {
    let text = text.trim();
    let Some(rest) = text.strip_prefix("sum") else {
        return selection(text).map(Asked::Lines);
    };
    let rest = rest.trim_start();
    let unsupported = || format!("{text:?} is not understood by the sandbox");
    let (by, rest) = match rest.strip_prefix("by") {
        Some(rest) => {
            let (labels, rest) =
                rest.trim_start().strip_prefix('(').and_then(|rest| rest.split_once(')')).ok_or_else(unsupported)?;
            (labels.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect(), rest)
        }
        None => (Vec::new(), rest),
    };
    let inner =
        rest.trim().strip_prefix('(').and_then(|rest| rest.trim_end().strip_suffix(')')).ok_or_else(unsupported)?;
    let inner = inner.trim().strip_prefix("count_over_time").ok_or_else(unsupported)?.trim();
    let inner = inner.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or_else(unsupported)?;
    let (of, window) =
        inner.trim_end().strip_suffix(']').and_then(|rest| rest.rsplit_once('[')).ok_or_else(unsupported)?;
    let window = promql::duration(window.trim()).ok_or_else(unsupported)?;
    Ok(Asked::Counts { of: selection(of.trim())?, by, window })
}

/// The selector ends at the first brace outside of quotes; the filters follow.
fn selection(text: &str) -> Result<Selection, String> {
    let mut quoted = false;
    let mut escaped = false;
    let end = text.char_indices().find_map(|(at, character)| {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(at + 1),
            _ => {}
        }
        None
    });
    let end = end.ok_or_else(|| "parse error: a log query begins with a stream selector".to_owned())?;
    let matchers = match promql::parse(&text[..end]) {
        Ok(Expression::Instant(matchers)) => matchers,
        Ok(_) => return Err("parse error: a log query begins with a stream selector".into()),
        Err(error) => return Err(error.to_string()),
    };
    let mut filters = Vec::new();
    let mut rest = text[end..].trim_start();
    while !rest.is_empty() {
        if let Some(labels) = rest.strip_prefix("| ") {
            let (any, left) = labelled(labels)?;
            filters.push(Filter::Labelled(any));
            rest = left.trim_start();
            continue;
        }
        let (operator, after) = rest.split_at_checked(2).ok_or_else(|| format!("parse error: unexpected {rest:?}"))?;
        let after = after.trim_start();
        let quote = after
            .chars()
            .next()
            .filter(|quote| matches!(quote, '"' | '`'))
            .ok_or_else(|| format!("{rest:?} is not understood by the sandbox"))?;
        let (value, left) = promql::quoted(after, quote).map_err(|error| error.to_string())?;
        let pattern = || Regex::new(&value).map_err(|error| error.to_string());
        filters.push(match operator {
            "|=" => Filter::Contains(value),
            "!=" => Filter::Lacks(value),
            "|~" => Filter::Matches(pattern()?),
            "!~" => Filter::Differs(pattern()?),
            other => return Err(format!("{other:?} is not understood by the sandbox")),
        });
        rest = left.trim_start();
    }
    Ok(Selection { matchers, filters })
}

/// A label and the value that it must have.
type Labelled = (String, String);

/// `a="x" or b="y"` and what stands behind it.
fn labelled(text: &str) -> Result<(Vec<Labelled>, &str), String> {
    let mut any = Vec::new();
    let mut rest = text;
    loop {
        let unsupported = || format!("{rest:?} is not understood by the sandbox");
        let (label, after) = rest.split_once('=').ok_or_else(unsupported)?;
        let named = !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !named || !after.starts_with('"') {
            return Err(unsupported());
        }
        let (value, left) = promql::quoted(after, '"').map_err(|error| error.to_string())?;
        any.push((label.to_owned(), value));
        match left.strip_prefix(" or ") {
            Some(more) => rest = more,
            None => return Ok((any, left)),
        }
    }
}

/// Nanoseconds, seconds with fraction, or RFC 3339, in nanoseconds.
fn time(text: &str) -> Option<i128> {
    if let Ok(number) = text.parse::<i128>() {
        // Loki takes up to ten digits as seconds.
        return Some(if text.len() <= 10 { number * 1_000_000_000 } else { number });
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return Some((seconds * 1e9) as i128);
    }
    text.parse::<Timestamp>().ok().map(Timestamp::as_nanosecond)
}

async fn query_range(State(loki): State<Loki>, RawQuery(query): RawQuery, body: Bytes) -> Response {
    super::aside(move || ranged(&loki, query, &body)).await
}

fn ranged(loki: &Loki, query: Option<String>, body: &[u8]) -> Response {
    let mut all: BTreeMap<String, String> =
        url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    all.extend(url::form_urlencoded::parse(body).into_owned());
    let now = loki.clock.now().as_nanosecond();
    let at = |name: &str, otherwise: i128| match all.get(name) {
        None => Some(otherwise),
        Some(text) => time(text),
    };
    let (Some(start), Some(end)) = (at("start", now - 3_600_000_000_000), at("end", now)) else {
        return refused("could not parse start or end");
    };
    let asked = match parse(all.get("query").map(String::as_str).unwrap_or_default()) {
        Ok(asked) => asked,
        Err(why) => return refused(why),
    };
    let data = match asked {
        Asked::Lines(selection) => {
            let limit = all.get("limit").and_then(|text| text.parse().ok()).unwrap_or(100_usize);
            if limit > ENTRIES {
                return refused(format!(
                    "max entries limit per query exceeded, limit > max_entries_limit_per_query ({limit} > {ENTRIES})"
                ));
            }
            streams(
                &loki.lines(),
                &selection,
                start,
                end,
                limit,
                all.get("direction").is_none_or(|way| way != "forward"),
            )
        }
        Asked::Counts { of, by, window } => {
            let step = all
                .get("step")
                .and_then(|text| {
                    promql::duration(text).or_else(|| time(text).and_then(|ns| i64::try_from(ns / 1_000_000).ok()))
                })
                .unwrap_or(window)
                .max(1);
            let step = i128::from(step) * 1_000_000;
            if (end - start) / step > POINTS {
                return refused("exceeded maximum resolution of 11,000 points per timeseries");
            }
            counts(&loki.lines(), &of, &by, i128::from(window) * 1_000_000, start, end, step)
        }
    };
    Json(json!({ "status": "success", "data": data })).into_response()
}

fn streams(
    lines: &VecDeque<LogLine>,
    selection: &Selection,
    start: i128,
    end: i128,
    limit: usize,
    newest_first: bool,
) -> Value {
    let inside = |line: &&LogLine| (start..end).contains(&line.at.as_nanosecond()) && selection.takes(line);
    let chosen: Vec<&LogLine> = if newest_first {
        lines.iter().rev().filter(inside).take(limit).collect()
    } else {
        lines.iter().filter(inside).take(limit).collect()
    };
    let mut streams: BTreeMap<&Labels, Vec<Value>> = BTreeMap::new();
    for line in chosen {
        streams.entry(&line.labels).or_default().push(json!([line.at.as_nanosecond().to_string(), line.line]));
    }
    let result: Vec<Value> =
        streams.into_iter().map(|(labels, values)| json!({ "stream": labels, "values": values })).collect();
    json!({ "resultType": "streams", "result": result, "stats": {} })
}

fn counts(
    lines: &VecDeque<LogLine>,
    of: &Selection,
    by: &[String],
    window: i128,
    start: i128,
    end: i128,
    step: i128,
) -> Value {
    let mut times: BTreeMap<Labels, Vec<i128>> = BTreeMap::new();
    for line in lines.iter().filter(|line| of.takes(line)) {
        let kept =
            by.iter().filter_map(|label| line.labels.get(label).map(|value| (label.clone(), value.clone()))).collect();
        times.entry(kept).or_default().push(line.at.as_nanosecond());
    }
    let result: Vec<Value> = times
        .into_iter()
        .filter_map(|(labels, mut times)| {
            times.sort_unstable();
            let mut values = Vec::new();
            let mut at = start;
            while at <= end {
                let count =
                    times.partition_point(|time| *time <= at) - times.partition_point(|time| *time <= at - window);
                if count > 0 {
                    values.push(json!([at as f64 / 1e9, count.to_string()]));
                }
                at += step;
            }
            (!values.is_empty()).then(|| json!({ "metric": labels, "values": values }))
        })
        .collect();
    json!({ "resultType": "matrix", "result": result, "stats": {} })
}

async fn labels(State(loki): State<Loki>) -> Json<Value> {
    let names: std::collections::BTreeSet<String> =
        loki.lines().iter().flat_map(|line| line.labels.keys().cloned()).collect();
    Json(json!({ "status": "success", "data": names }))
}

async fn label_values(State(loki): State<Loki>, Path(name): Path<String>) -> Json<Value> {
    let values: std::collections::BTreeSet<String> =
        loki.lines().iter().filter_map(|line| line.labels.get(&name).cloned()).collect();
    Json(json!({ "status": "success", "data": values }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: i64, pod: &str, text: &str) -> LogLine {
        LogLine {
            at: Timestamp::from_second(at).unwrap(),
            labels: [("pod".to_owned(), pod.to_owned())].into(),
            line: text.into(),
        }
    }

    fn store() -> VecDeque<LogLine> {
        [line(10, "a", "level=error x}y"), line(20, "a", "ok"), line(30, "b", "level=error z")].into()
    }

    fn of(query: &str) -> Selection {
        match parse(query).unwrap() {
            Asked::Lines(selection) | Asked::Counts { of: selection, .. } => selection,
        }
    }

    #[test]
    fn lines_are_selected_by_stream_and_text() {
        for (query, found) in [
            ("{pod=~\"a|b\"}", 3),
            ("{pod=\"a\"} |= \"error\"", 1),
            ("{pod=~\".+\"} |= \"error\" != \"x}\"", 1),
            ("{pod=~\".+\"} |~ \"^ok$\"", 1),
            ("{pod=~\".+\"} | trace_id=\"t\" or pod=\"b\"", 1),
            ("{pod=~\".+\"} |= \"error\" | pod=\"x\\\" or pod=\"", 0),
        ] {
            let selection = of(query);
            assert_eq!(store().iter().filter(|line| selection.takes(line)).count(), found, "{query}");
        }
        assert!(parse("rate({pod=\"a\"}[5m])").is_err());
        assert!(parse("{pod=\"a\"} | json").is_err());
    }

    #[test]
    fn counts_are_summed_per_window_and_label() {
        let Asked::Counts { of, by, window } =
            parse("sum by (pod) (count_over_time({pod=~\".+\"} |= \"error\" [15s]))").unwrap()
        else {
            panic!("a count query");
        };
        let second = 1_000_000_000;
        let data = counts(&store(), &of, &by, i128::from(window) * 1_000_000, 0, 40 * second, 10 * second);
        assert_eq!(data["result"][0], json!({ "metric": { "pod": "a" }, "values": [[10.0, "1"], [20.0, "1"]] }));
        assert_eq!(data["result"][1], json!({ "metric": { "pod": "b" }, "values": [[30.0, "1"], [40.0, "1"]] }));
    }
}

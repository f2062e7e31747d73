//! Samples as Prometheus' query API writes them.

use std::collections::BTreeMap;

use amend_diagnosis::evidence::Series;
use serde::Deserialize;

use crate::connection::clean;
use crate::source::{Limits, SourceError};

/// The envelope of Prometheus' query API, which Loki's metric queries share.
#[derive(Deserialize)]
pub(crate) struct Response {
    status: String,
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
    /// VictoriaMetrics' cluster says this where Prometheus would warn.
    #[serde(default, rename = "isPartial")]
    is_partial: bool,
    #[serde(default)]
    stats: Option<Stats>,
}

/// Statistics that nobody asked for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    /// VictoriaMetrics alone tells this, with every answer.
    #[serde(default)]
    series_fetched: Option<serde::de::IgnoredAny>,
}

impl Response {
    /// Whether the answer bears the mark of VictoriaMetrics.
    pub fn is_from_victoriametrics(&self) -> bool {
        self.stats.as_ref().is_some_and(|stats| stats.series_fetched.is_some())
    }

    /// The series in the answer, and how many samples were left out because they were not numbers.
    ///
    /// # Errors
    /// The store failed, warned that the answer is partial, or answered more than the limits allow.
    pub fn read(self, limits: &Limits) -> Result<(Vec<Series>, usize), SourceError> {
        if self.status != "success" {
            let said = self.error.unwrap_or_else(|| format!("status {:?}", self.status));
            return Err(SourceError::Rejected { status: 200, said: clean(&said) });
        }
        if self.is_partial || !self.warnings.is_empty() {
            let said = match self.warnings.is_empty() {
                true => "the store marks it so".to_owned(),
                false => clean(&self.warnings.join("; ")),
            };
            return Err(SourceError::Partial { said });
        }
        let found = match self.data {
            Some(Data::Vector(found) | Data::Matrix(found)) => found,
            Some(Data::Scalar(point)) => vec![Found { value: Some(point), ..Found::default() }],
            None => return Err(SourceError::Malformed { why: "a successful answer without data".to_owned() }),
        };
        if found.len() > limits.series {
            return Err(SourceError::TooMany { limit: limits.series, what: "series" });
        }
        let points: usize = found.iter().map(|series| series.values.len() + usize::from(series.value.is_some())).sum();
        if points > limits.samples {
            return Err(SourceError::TooMany { limit: limits.samples, what: "samples" });
        }
        numbers(found)
    }
}

fn numbers(found: Vec<Found>) -> Result<(Vec<Series>, usize), SourceError> {
    let mut dropped = 0;
    let mut series = Vec::with_capacity(found.len());
    for Found { metric, value, values } in found {
        let mut samples = Vec::with_capacity(values.len() + 1);
        for Point(at, text) in values.into_iter().chain(value) {
            match text.parse::<f64>() {
                Ok(number) if number.is_finite() && at.is_finite() => samples.push((at, number)),
                Ok(_) => dropped += 1,
                Err(_) => return Err(SourceError::Malformed { why: format!("{:?} is not a number", clean(&text)) }),
            }
        }
        samples.sort_by(|left, right| left.0.total_cmp(&right.0));
        if !samples.is_empty() {
            series.push(Series { labels: metric, samples, asked: String::new() });
        }
    }
    series.sort_by(|left, right| left.labels.cmp(&right.labels));
    Ok((series, dropped))
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Found>),
    Matrix(Vec<Found>),
    Scalar(Point),
}

#[derive(Default, Deserialize)]
struct Found {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    #[serde(default)]
    value: Option<Point>,
    #[serde(default)]
    values: Vec<Point>,
}

/// Unix seconds and the value as text, since JSON has no NaN.
#[derive(Deserialize)]
struct Point(f64, String);

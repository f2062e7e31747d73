//! A PromQL evaluator for exactly the shapes that our typed builders emit. Anything else is an error, not a guess.
//!
//! Shapes: vector selectors; `rate`, `increase`, `{max,min,avg,last}_over_time`, `changes`, `deriv` of a range selector;
//! `sum|max|min|avg|count [by (...)]`; `histogram_quantile`; arithmetic and comparison between vector and number, or
//! two vectors with the same labels; numbers; parentheses. Semantics follow Prometheus: 5 min lookback, staleness marks,
//! counter resets, and extrapolation to the edges of the window.

mod parse;

use std::collections::{BTreeMap, BTreeSet};

pub use parse::{Aggregation, Expression, Operator, RangeFunction, duration, parse, pattern, quoted};

use super::tsdb::{Labels, Tsdb};

/// Why a query is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromqlError {
    /// It is not PromQL.
    #[error("parse error: unexpected {what}")]
    Unexpected {
        /// What was met.
        what: String,
    },
    /// It is PromQL, but none of our shapes.
    #[error("{what} is not understood by the sandbox")]
    Unsupported {
        /// What was met.
        what: String,
    },
    /// Two series would become one.
    #[error("vectors cannot be matched: {why}")]
    Unmatched {
        /// In which way.
        why: String,
    },
}

impl PromqlError {
    fn unexpected(what: &str) -> Self {
        Self::Unexpected { what: what.to_owned() }
    }

    fn unsupported(what: &str) -> Self {
        Self::Unsupported { what: what.to_owned() }
    }
}

/// An instant's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A number without labels.
    Scalar(f64),
    /// One value per label set.
    Vector(Vec<(Labels, f64)>),
}

/// Evaluates a query at a time in milliseconds.
pub fn evaluate(expression: &Expression, tsdb: &Tsdb, time: i64) -> Result<Answer, PromqlError> {
    Ok(match expression {
        Expression::Number(number) => Answer::Scalar(*number),
        Expression::Instant(matchers) => Answer::Vector(
            tsdb.select(matchers).filter_map(|series| Some((series.labels.clone(), series.at(time)?))).collect(),
        ),
        Expression::Range { function, matchers, window } => {
            let values = tsdb.select(matchers).filter_map(|series| {
                let samples = series.between(time - window, time);
                let mut labels = series.labels.clone();
                if *function != RangeFunction::LastOverTime {
                    labels.remove("__name__");
                }
                Some((labels, over_range(*function, &samples, time - window, time)?))
            });
            Answer::Vector(unique(values)?)
        }
        Expression::Aggregate { operator, by, of } => {
            Answer::Vector(aggregate(*operator, by, vector(evaluate(of, tsdb, time)?)?))
        }
        Expression::Quantile { quantile, of } => {
            Answer::Vector(quantiles(*quantile, vector(evaluate(of, tsdb, time)?)?))
        }
        Expression::Binary { operator, left, right } => {
            binary(*operator, evaluate(left, tsdb, time)?, evaluate(right, tsdb, time)?)?
        }
    })
}

fn vector(answer: Answer) -> Result<Vec<(Labels, f64)>, PromqlError> {
    match answer {
        Answer::Vector(vector) => Ok(vector),
        Answer::Scalar(_) => Err(PromqlError::unexpected("a number where a vector was expected")),
    }
}

fn unique(values: impl Iterator<Item = (Labels, f64)>) -> Result<Vec<(Labels, f64)>, PromqlError> {
    let mut seen = BTreeMap::new();
    for (labels, value) in values {
        if seen.insert(labels, value).is_some() {
            return Err(PromqlError::Unmatched { why: "vector cannot contain metrics with the same labelset".into() });
        }
    }
    Ok(seen.into_iter().collect())
}

fn over_range(function: RangeFunction, samples: &[(i64, f64)], from: i64, to: i64) -> Option<f64> {
    let values = || samples.iter().map(|(_, value)| *value);
    let last = samples.last()?;
    Some(match function {
        RangeFunction::MaxOverTime => values().fold(f64::NEG_INFINITY, f64::max),
        RangeFunction::MinOverTime => values().fold(f64::INFINITY, f64::min),
        RangeFunction::AvgOverTime => values().sum::<f64>() / samples.len() as f64,
        RangeFunction::LastOverTime => last.1,
        RangeFunction::Changes => samples.windows(2).filter(|pair| pair[0].1 != pair[1].1).count() as f64,
        RangeFunction::Increase => increase(samples, from, to)?,
        RangeFunction::Rate => increase(samples, from, to)? / ((to - from) as f64 / 1000.0),
        RangeFunction::Deriv => slope(samples)?,
    })
}

/// Growth of a counter over a window, with resets and Prometheus' extrapolation to its edges.
fn increase(samples: &[(i64, f64)], from: i64, to: i64) -> Option<f64> {
    let ([first, ..], [.., last]) = (samples, samples) else {
        return None;
    };
    if samples.len() < 2 {
        return None;
    }
    let resets: f64 = samples.windows(2).filter(|pair| pair[1].1 < pair[0].1).map(|pair| pair[0].1).sum();
    let grown = last.1 - first.1 + resets;
    let sampled = (last.0 - first.0) as f64;
    let spacing = sampled / (samples.len() - 1) as f64;
    let (mut start, mut end) = ((first.0 - from) as f64, (to - last.0) as f64);
    let threshold = spacing * 1.1;
    if start >= threshold {
        start = spacing / 2.0;
    }
    if grown > 0.0 && first.1 >= 0.0 {
        // A counter cannot have been below zero before.
        start = start.min(sampled * (first.1 / grown));
    }
    if end >= threshold {
        end = spacing / 2.0;
    }
    Some(grown * (sampled + start + end) / sampled)
}

/// Least-squares slope per second.
fn slope(samples: &[(i64, f64)]) -> Option<f64> {
    if samples.len() < 2 {
        return None;
    }
    let count = samples.len() as f64;
    let x = |at: i64| (at - samples[0].0) as f64 / 1000.0;
    let (sum_x, sum_y) = samples.iter().fold((0.0, 0.0), |(sx, sy), (at, value)| (sx + x(*at), sy + value));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (at, value) in samples {
        covariance += (x(*at) - mean_x) * (value - mean_y);
        variance += (x(*at) - mean_x).powi(2);
    }
    Some(covariance / variance)
}

fn aggregate(operator: Aggregation, by: &BTreeSet<String>, vector: Vec<(Labels, f64)>) -> Vec<(Labels, f64)> {
    let mut groups: BTreeMap<Labels, Vec<f64>> = BTreeMap::new();
    for (labels, value) in vector {
        let kept: Labels = labels.into_iter().filter(|(name, _)| by.contains(name)).collect();
        groups.entry(kept).or_default().push(value);
    }
    groups
        .into_iter()
        .map(|(labels, values)| {
            let sum: f64 = values.iter().sum();
            let count = values.len() as f64;
            let value = match operator {
                Aggregation::Sum => sum,
                Aggregation::Avg => sum / count,
                Aggregation::Count => count,
                Aggregation::Max => values.into_iter().fold(f64::NEG_INFINITY, f64::max),
                Aggregation::Min => values.into_iter().fold(f64::INFINITY, f64::min),
            };
            (labels, value)
        })
        .collect()
}

fn quantiles(quantile: f64, vector: Vec<(Labels, f64)>) -> Vec<(Labels, f64)> {
    let mut histograms: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for (mut labels, value) in vector {
        labels.remove("__name__");
        let Some(bound) =
            labels.remove("le").and_then(|le| if le == "+Inf" { Some(f64::INFINITY) } else { le.parse().ok() })
        else {
            continue;
        };
        histograms.entry(labels).or_default().push((bound, value));
    }
    histograms
        .into_iter()
        .map(|(labels, mut buckets)| {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            (labels, bucket_quantile(quantile, &mut buckets))
        })
        .collect()
}

/// Linear interpolation in the bucket where the quantile falls, as Prometheus does it.
fn bucket_quantile(quantile: f64, buckets: &mut [(f64, f64)]) -> f64 {
    let Some((bound, total)) = buckets.last().copied() else {
        return f64::NAN;
    };
    if bound != f64::INFINITY || buckets.len() < 2 || total == 0.0 || total.is_nan() {
        return f64::NAN;
    }
    if quantile < 0.0 {
        return f64::NEG_INFINITY;
    }
    if quantile > 1.0 {
        return f64::INFINITY;
    }
    for at in 1..buckets.len() {
        buckets[at].1 = buckets[at].1.max(buckets[at - 1].1);
    }
    let rank = quantile * total;
    let at = buckets.iter().position(|(_, count)| *count >= rank).unwrap_or(buckets.len() - 1);
    if at == buckets.len() - 1 {
        return buckets[buckets.len() - 2].0;
    }
    let (start, below) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
    let (end, count) = buckets[at];
    if at == 0 && end <= 0.0 {
        return end;
    }
    if count == below {
        return end;
    }
    start + (end - start) * (rank - below) / (count - below)
}

fn compute(operator: Operator, left: f64, right: f64) -> Result<f64, bool> {
    let holds = |holds: bool| Err(holds);
    match operator {
        Operator::Add => Ok(left + right),
        Operator::Subtract => Ok(left - right),
        Operator::Multiply => Ok(left * right),
        Operator::Divide => Ok(left / right),
        Operator::Greater => holds(left > right),
        Operator::Less => holds(left < right),
        Operator::GreaterOrEqual => holds(left >= right),
        Operator::LessOrEqual => holds(left <= right),
        #[allow(clippy::float_cmp, reason = "PromQL compares floats exactly")]
        Operator::Equal => holds(left == right),
        #[allow(clippy::float_cmp, reason = "PromQL compares floats exactly")]
        Operator::NotEqual => holds(left != right),
    }
}

fn binary(operator: Operator, left: Answer, right: Answer) -> Result<Answer, PromqlError> {
    let one = |mut labels: Labels, vector_value: f64, outcome: Result<f64, bool>| match outcome {
        Ok(value) => {
            labels.remove("__name__");
            Some((labels, value))
        }
        Err(true) => Some((labels, vector_value)),
        Err(false) => None,
    };
    Ok(match (left, right) {
        (Answer::Scalar(left), Answer::Scalar(right)) => match compute(operator, left, right) {
            Ok(value) => Answer::Scalar(value),
            Err(_) => return Err(PromqlError::unsupported("a comparison between numbers without bool")),
        },
        (Answer::Vector(vector), Answer::Scalar(right)) => Answer::Vector(
            vector
                .into_iter()
                .filter_map(|(labels, value)| one(labels, value, compute(operator, value, right)))
                .collect(),
        ),
        (Answer::Scalar(left), Answer::Vector(vector)) => Answer::Vector(
            vector
                .into_iter()
                .filter_map(|(labels, value)| one(labels, value, compute(operator, left, value)))
                .collect(),
        ),
        (Answer::Vector(left), Answer::Vector(right)) => {
            let bare = |mut labels: Labels| {
                labels.remove("__name__");
                labels
            };
            let right: BTreeMap<Labels, f64> =
                unique(right.into_iter().map(|(labels, value)| (bare(labels), value)))?.into_iter().collect();
            let matched = left.into_iter().filter_map(|(labels, value)| {
                let other = right.get(&bare(labels.clone()))?;
                one(labels, value, compute(operator, value, *other))
            });
            Answer::Vector(unique(matched)?)
        }
    })
}

//! Expressions over series in memory: what a Prometheus would answer, for stores that are files.
//!
//! <https://prometheus.io/docs/prometheus/latest/querying/basics/>. Rates are taken between the first and the last sample of
//! their window and are not extrapolated to its ends: a file is read after the fact, so no newer sample is missed.

use std::collections::BTreeMap;

use amend_diagnosis::evidence::{Series, Window};
use jiff::SignedDuration;
use regex::{Regex, RegexBuilder};

use super::{Aggregation, Expr, Matcher, Operator, OverTime, Selector};

/// How long a sample stands for what follows it, as in Prometheus.
const LOOKBACK_SECONDS: f64 = 300.0;

/// Memory of one expression of ours, which names up to hundreds of pods.
const EXPRESSION_MAX: usize = 8 << 20;

type Labels = BTreeMap<String, String>;

/// A value, or none, for each moment.
type Values = Vec<Option<f64>>;

/// One series of a result.
#[derive(Clone, Debug)]
struct Row {
    labels: Labels,
    values: Values,
}

enum Value {
    Number(f64),
    Vector(Vec<Row>),
}

/// Series by the names of their metrics, each with its samples in order.
pub(crate) type ByName = BTreeMap<String, Vec<Series>>;

/// Samples of every series at regular times, and how many were left out because they were not numbers.
///
/// # Errors
/// A regular expression that cannot be used.
pub(crate) fn range(
    query: &Expr,
    held: &ByName,
    window: Window,
    step: SignedDuration,
) -> Result<(Vec<Series>, usize), regex::Error> {
    let (from, to) = (window.from.as_millisecond(), window.to.as_millisecond());
    let each = i64::try_from(step.as_millis()).unwrap_or(i64::MAX).max(1);
    let count = usize::try_from((to - from).max(0) / each).unwrap_or(0) + 1;
    let times: Vec<f64> = (0..count).map(|at| (from + each * at as i64) as f64 / 1e3).collect();
    let rows = match value(query, held, &times)? {
        Value::Number(number) => vec![Row { labels: Labels::new(), values: vec![Some(number); count] }],
        Value::Vector(rows) => rows,
    };
    let mut dropped = 0;
    let mut found = Vec::with_capacity(rows.len());
    for Row { labels, values } in rows {
        let told = times.iter().zip(values).filter_map(|(at, value)| Some((*at, value?)));
        let (samples, others): (Vec<_>, Vec<_>) = told.partition(|(_, value): &(f64, f64)| value.is_finite());
        dropped += others.len();
        if !samples.is_empty() {
            found.push(Series { labels, samples, asked: String::new() });
        }
    }
    found.sort_by(|left, right| left.labels.cmp(&right.labels));
    Ok((found, dropped))
}

/// The names of the metrics that an expression selects; an expression of names counts as one.
pub(crate) fn metrics(of: &Expr) -> Vec<&Selector> {
    match of {
        Expr::Number(_) => Vec::new(),
        Expr::Select(selector) | Expr::Over { selector, .. } => vec![selector],
        Expr::Aggregate { of, .. } | Expr::Quantile { of, .. } | Expr::HistogramCount(of) => metrics(of),
        Expr::Binary { left, right, .. } => [metrics(left), metrics(right)].concat(),
    }
}

impl Selector {
    /// Whether any metric of this name is there, whatever its labels.
    pub(crate) fn is_held(&self, held: &ByName) -> Result<bool, regex::Error> {
        if !self.metric.is_empty() {
            return Ok(held.contains_key(&self.metric));
        }
        let named: Vec<Test> =
            self.matchers.iter().filter(|one| one.label == "__name__").map(Test::of).collect::<Result<_, _>>()?;
        Ok(held.keys().any(|name| named.iter().all(|test| test.holds(name))))
    }

    fn series<'a>(&self, held: &'a ByName) -> Result<Vec<&'a Series>, regex::Error> {
        let tests: Vec<(&str, Test)> = self
            .matchers
            .iter()
            .map(|matcher| Ok((matcher.label.as_str(), Test::of(matcher)?)))
            .collect::<Result<_, regex::Error>>()?;
        let fits = |series: &&'a Series| {
            tests.iter().all(|(label, test)| test.holds(series.labels.get(*label).map_or("", String::as_str)))
        };
        Ok(match self.metric.is_empty() {
            true => held.values().flatten().filter(fits).collect(),
            false => held.get(&self.metric).into_iter().flatten().filter(fits).collect(),
        })
    }
}

/// What a label must be.
enum Test {
    Is(String),
    IsNot(String),
    Like(Regex),
}

impl Test {
    fn of(matcher: &Matcher) -> Result<Self, regex::Error> {
        Ok(match matcher.operator {
            "=~" => {
                let whole = format!("^(?:{})$", matcher.value);
                Self::Like(RegexBuilder::new(&whole).dot_matches_new_line(true).size_limit(EXPRESSION_MAX).build()?)
            }
            "!=" => Self::IsNot(matcher.value.clone()),
            _ => Self::Is(matcher.value.clone()),
        })
    }

    /// A label that is not there is empty.
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Is(wanted) => value == wanted,
            Self::IsNot(unwanted) => value != unwanted,
            Self::Like(expression) => expression.is_match(value),
        }
    }
}

fn value(of: &Expr, held: &ByName, times: &[f64]) -> Result<Value, regex::Error> {
    Ok(match of {
        Expr::Number(number) => Value::Number(*number),
        Expr::Select(selector) => {
            let last = |series: &Series, at| {
                let seen = within(&series.samples, at, LOOKBACK_SECONDS);
                seen.last().map(|(_, value)| *value)
            };
            Value::Vector(rows(selector, held, times, true, last)?)
        }
        Expr::Over { function, selector, over } => {
            let over = over.as_secs_f64();
            let folded = |series: &Series, at| function.of(within(&series.samples, at, over), over);
            Value::Vector(rows(selector, held, times, *function == OverTime::Last, folded)?)
        }
        Expr::Aggregate { how, by, of } => Value::Vector(match value(of, held, times)? {
            Value::Vector(rows) => how.of(by, rows),
            Value::Number(_) => Vec::new(),
        }),
        Expr::Quantile { q, of } => Value::Vector(match value(of, held, times)? {
            Value::Vector(rows) => quantile(*q, rows),
            Value::Number(_) => Vec::new(),
        }),
        // Histograms are kept as buckets; a native one is never here.
        Expr::HistogramCount(_) => Value::Vector(Vec::new()),
        Expr::Binary { left, operator, right } => match (value(left, held, times)?, value(right, held, times)?) {
            (Value::Number(left), Value::Number(right)) => {
                operator.of(left, right).map_or_else(|| Value::Vector(Vec::new()), Value::Number)
            }
            (Value::Vector(rows), Value::Number(number)) => {
                Value::Vector(each(rows, |value| operator.of(value, number)))
            }
            (Value::Number(number), Value::Vector(rows)) => {
                Value::Vector(each(rows, |value| operator.of(number, value)))
            }
            (Value::Vector(left), Value::Vector(right)) => Value::Vector(paired(*operator, left, right)),
        },
    })
}

fn rows(
    selector: &Selector,
    held: &ByName,
    times: &[f64],
    keeps_name: bool,
    at_moment: impl Fn(&Series, f64) -> Option<f64>,
) -> Result<Vec<Row>, regex::Error> {
    let found = selector.series(held)?.into_iter().map(|series| {
        let mut labels = series.labels.clone();
        if !keeps_name {
            labels.remove("__name__");
        }
        Row { labels, values: times.iter().map(|at| at_moment(series, *at)).collect() }
    });
    Ok(found.filter(|row| row.values.iter().any(Option::is_some)).collect())
}

/// The samples after `at - over` and not after `at`.
fn within(samples: &[(f64, f64)], at: f64, over: f64) -> &[(f64, f64)] {
    let first = samples.partition_point(|(time, _)| *time <= at - over);
    let last = samples.partition_point(|(time, _)| *time <= at);
    samples.get(first..last).unwrap_or_default()
}

impl OverTime {
    fn of(self, samples: &[(f64, f64)], over: f64) -> Option<f64> {
        let values = || samples.iter().map(|(_, value)| *value);
        match self {
            Self::Rate => per_second(samples),
            Self::Increase => per_second(samples).map(|rate| rate * over),
            Self::Max => values().reduce(f64::max),
            Self::Min => values().reduce(f64::min),
            Self::Avg => (!samples.is_empty()).then(|| values().sum::<f64>() / samples.len() as f64),
            Self::Changes => {
                let changes = samples.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
                (!samples.is_empty()).then_some(changes as f64)
            }
            Self::Deriv => slope(samples),
            Self::Last => values().next_back(),
        }
    }
}

/// Growth of a counter, which begins again at nothing when it falls.
fn per_second(samples: &[(f64, f64)]) -> Option<f64> {
    let (first, last) = (samples.first()?, samples.last()?);
    let time = last.0 - first.0;
    let grown: f64 =
        samples.windows(2).map(|pair| if pair[1].1 < pair[0].1 { pair[1].1 } else { pair[1].1 - pair[0].1 }).sum();
    (time > 0.0).then(|| grown / time)
}

/// Least squares.
fn slope(samples: &[(f64, f64)]) -> Option<f64> {
    let count = samples.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (time, value) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let spread: f64 = samples.iter().map(|sample| (sample.0 - time).powi(2)).sum();
    let shared: f64 = samples.iter().map(|sample| (sample.0 - time) * (sample.1 - value)).sum();
    (spread > 0.0).then(|| shared / spread)
}

impl Aggregation {
    fn of(self, by: &[String], rows: Vec<Row>) -> Vec<Row> {
        let mut groups: BTreeMap<Labels, Vec<Values>> = BTreeMap::new();
        for row in rows {
            let kept = by.iter().filter_map(|label| Some((label.clone(), row.labels.get(label)?.clone())));
            groups.entry(kept.filter(|(_, value)| !value.is_empty()).collect()).or_default().push(row.values);
        }
        let joined = |group: &[Values], at: usize| {
            let told: Vec<f64> = group.iter().filter_map(|values| values.get(at).copied().flatten()).collect();
            let all = told.iter().copied();
            match self {
                _ if told.is_empty() => None,
                Self::Sum => Some(all.sum()),
                Self::Max => all.reduce(f64::max),
                Self::Min => all.reduce(f64::min),
                Self::Avg => Some(all.sum::<f64>() / told.len() as f64),
                Self::Count => Some(told.len() as f64),
            }
        };
        let moments = |group: &[Values]| group.first().map_or(0, Vec::len);
        groups
            .into_iter()
            .map(|(labels, group)| Row { labels, values: (0..moments(&group)).map(|at| joined(&group, at)).collect() })
            .collect()
    }
}

/// `histogram_quantile`: linear inside a bucket; what lies beyond the last bound is told as that bound.
fn quantile(q: f64, rows: Vec<Row>) -> Vec<Row> {
    let mut groups: BTreeMap<Labels, Vec<(f64, Values)>> = BTreeMap::new();
    for mut row in rows {
        row.labels.remove("__name__");
        let Some(bound) = row.labels.remove("le").and_then(|bound| bound.parse().ok()) else { continue };
        groups.entry(row.labels).or_default().push((bound, row.values));
    }
    let mut found = Vec::with_capacity(groups.len());
    for (labels, mut buckets) in groups {
        buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        let moments = buckets.first().map_or(0, |(_, values)| values.len());
        let values = (0..moments).map(|at| {
            let told: Vec<(f64, f64)> = buckets
                .iter()
                .filter_map(|(bound, values)| Some((*bound, values.get(at).copied().flatten()?)))
                .collect();
            in_buckets(q, &told)
        });
        found.push(Row { labels, values: values.collect() });
    }
    found
}

fn in_buckets(q: f64, buckets: &[(f64, f64)]) -> Option<f64> {
    let (last, all) = buckets.last().copied()?;
    if !last.is_infinite() || buckets.len() < 2 || all <= 0.0 {
        return None;
    }
    let rank = q * all;
    let mut below = (0.0, 0.0);
    for &(bound, count) in buckets {
        if count >= rank {
            if bound.is_infinite() {
                return Some(below.0);
            }
            let inside = count - below.1;
            let share = if inside > 0.0 { (rank - below.1) / inside } else { 1.0 };
            return Some(below.0 + (bound - below.0) * share);
        }
        below = (bound, count.max(below.1));
    }
    None
}

impl Operator {
    /// Comparisons keep what they hold for.
    fn of(self, left: f64, right: f64) -> Option<f64> {
        match self {
            Self::Add => Some(left + right),
            Self::Subtract => Some(left - right),
            Self::Multiply => Some(left * right),
            Self::Divide => Some(left / right),
            Self::Greater => (left > right).then_some(left),
            Self::Less => (left < right).then_some(left),
            Self::Or => Some(left),
        }
    }
}

fn each(rows: Vec<Row>, of: impl Fn(f64) -> Option<f64>) -> Vec<Row> {
    let changed = |mut row: Row| {
        row.labels.remove("__name__");
        row.values = row.values.into_iter().map(|value| value.and_then(&of)).collect();
        row
    };
    rows.into_iter().map(changed).collect()
}

/// One to one, by all labels but the name.
fn paired(operator: Operator, left: Vec<Row>, right: Vec<Row>) -> Vec<Row> {
    let nameless = |labels: &Labels| {
        let mut labels = labels.clone();
        labels.remove("__name__");
        labels
    };
    let mut others: BTreeMap<Labels, Row> = right.into_iter().map(|row| (nameless(&row.labels), row)).collect();
    let mut found = Vec::with_capacity(left.len());
    for row in left {
        let labels = nameless(&row.labels);
        let other = others.remove(&labels);
        let theirs = |at: usize| other.as_ref().and_then(|row| row.values.get(at).copied().flatten());
        if operator == Operator::Or {
            let values = row.values.iter().enumerate().map(|(at, value)| value.or_else(|| theirs(at))).collect();
            found.push(Row { values, ..row });
        } else if other.is_some() {
            let both = row.values.iter().enumerate().map(|(at, value)| operator.of((*value)?, theirs(at)?));
            found.push(Row { labels, values: both.collect() });
        }
    }
    if operator == Operator::Or {
        found.extend(others.into_values());
    }
    found
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn series(name: &str, labels: &[(&str, &str)], samples: &[(f64, f64)]) -> Series {
        let all = labels.iter().copied().chain([("__name__", name)]);
        let labels = all.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Series { labels, samples: samples.to_vec(), asked: String::new() }
    }

    fn held(all: Vec<Series>) -> ByName {
        let mut held = ByName::new();
        for one in all {
            held.entry(one.labels["__name__"].clone()).or_default().push(one);
        }
        held
    }

    /// The values at second 60 by the label `pod`.
    fn at_a_minute(query: &Expr, held: &ByName) -> Vec<(String, f64)> {
        let at = Timestamp::from_second(60).unwrap();
        let (found, _) = range(query, held, Window { from: at, to: at }, SignedDuration::from_secs(15)).unwrap();
        let told = |one: &Series| (one.labels.get("pod").cloned().unwrap_or_default(), one.samples[0].1);
        found.iter().map(told).collect()
    }

    #[test]
    fn a_counter_that_begins_again_has_grown_all_the_same() {
        let held = held(vec![series("c", &[("pod", "a")], &[(0.0, 5.0), (15.0, 100.0), (30.0, 10.0), (60.0, 40.0)])]);
        let rate = Selector::metric("c").over(OverTime::Rate, SignedDuration::from_secs(60));
        // The sample at the very beginning of the window does not count.
        assert_eq!(at_a_minute(&rate, &held), [("a".to_owned(), 40.0 / 45.0)]);
    }

    #[test]
    fn a_quantile_lies_inside_its_bucket_and_never_beyond_the_last_bound() {
        let bucket = |le: &str, count: f64| series("b", &[("pod", "a"), ("le", le)], &[(60.0, count)]);
        let held = held(vec![bucket("0.1", 50.0), bucket("0.5", 90.0), bucket("+Inf", 100.0)]);
        let at = |q: f64| at_a_minute(&Expr::from(Selector::metric("b")).quantile(q), &held)[0].1;
        assert!((at(0.7) - 0.3).abs() < 1e-9, "{}", at(0.7));
        assert_eq!(at(0.99), 0.5);
    }

    #[test]
    fn two_vectors_meet_by_their_labels_and_a_division_by_nothing_is_left_out() {
        let of = |name: &str, pod: &str, value: f64| series(name, &[("pod", pod)], &[(60.0, value)]);
        let held = held(vec![
            of("used", "a", 1.0),
            of("used", "b", 1.0),
            of("used", "c", 1.0),
            of("limit", "a", 4.0),
            of("limit", "b", 0.0),
        ]);
        let share = Expr::from(Selector::metric("used")).with(Operator::Divide, Selector::metric("limit"));
        assert_eq!(at_a_minute(&share, &held), [("a".to_owned(), 0.25)]);
        let all = Expr::from(Selector::metric("used").is("pod", "a")).with(Operator::Or, Selector::metric("limit"));
        assert_eq!(at_a_minute(&all, &held).len(), 2);
    }

    #[test]
    fn a_sample_stands_for_five_minutes_and_a_matcher_for_the_whole_value() {
        let held = held(vec![
            series("up", &[("pod", "cart-1")], &[(30.0, 1.0)]),
            series("up", &[("pod", "my-cart-1")], &[(30.0, 1.0)]),
            series("up", &[("pod", "cart-2")], &[(-300.0, 1.0)]),
        ]);
        let query = Expr::from(Selector::metric("up").like("pod", "cart-[0-9]"));
        assert_eq!(at_a_minute(&query, &held), [("cart-1".to_owned(), 1.0)]);
    }
}

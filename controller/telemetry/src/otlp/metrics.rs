//! Metrics as OTLP writes them in JSON, as series under the names and labels that a Prometheus would give them.
//!
//! Exponential histograms become buckets with bounds:
//! <https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram>.

use std::collections::{BTreeMap, BTreeSet};

use amend_diagnosis::evidence::Series;
use serde::Deserialize;
use serde_json::Value;

use super::names::{Kind, label, named, otherwise};
use super::{attributes, nanoseconds, placing};
use crate::held::HeldExemplar;
use crate::jaeger::{ATTRIBUTES_MAX, bounded};
use crate::promql::evaluate::ByName;
use crate::questions::Exemplar;

type Labels = BTreeMap<String, String>;

/// Finest scale to which exponential histograms are brought: bounds 9 % apart, which is finer than any threshold of ours.
const SCALE_MAX: i32 = 3;

/// Bounds of one exponential histogram; with more of them it is brought to a coarser scale.
const BOUNDS_MAX: usize = 200;

/// A data point without a value (`FLAG_NO_RECORDED_VALUE`).
const NO_VALUE: u64 = 1;

/// `AGGREGATION_TEMPORALITY_DELTA`, by number and by name.
fn is_delta(temporality: &Value) -> bool {
    temporality.as_u64() == Some(1) || temporality == "AGGREGATION_TEMPORALITY_DELTA"
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ResourceMetrics {
    #[serde(default)]
    resource: Value,
    #[serde(default)]
    scope_metrics: Vec<ScopeMetrics>,
}

#[derive(Deserialize)]
struct ScopeMetrics {
    #[serde(default)]
    metrics: Vec<Metric>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metric {
    name: String,
    #[serde(default)]
    unit: String,
    #[serde(default)]
    gauge: Option<Data>,
    #[serde(default)]
    sum: Option<Data>,
    #[serde(default)]
    histogram: Option<Data>,
    #[serde(default)]
    exponential_histogram: Option<Data>,
    #[serde(default)]
    summary: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(default)]
    data_points: Vec<Point>,
    #[serde(default)]
    aggregation_temporality: Value,
    #[serde(default)]
    is_monotonic: bool,
}

/// Points of all kinds; each kind fills its own fields.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Point {
    #[serde(default)]
    attributes: Value,
    #[serde(default)]
    time_unix_nano: Value,
    #[serde(default)]
    flags: u64,
    #[serde(default)]
    as_int: Value,
    #[serde(default)]
    as_double: Value,
    #[serde(default)]
    count: Value,
    #[serde(default)]
    sum: Value,
    #[serde(default)]
    bucket_counts: Vec<Value>,
    #[serde(default)]
    explicit_bounds: Vec<Value>,
    #[serde(default)]
    scale: i32,
    #[serde(default)]
    zero_count: Value,
    #[serde(default)]
    positive: Buckets,
    #[serde(default)]
    negative: Buckets,
    #[serde(default)]
    quantile_values: Vec<Quantile>,
    #[serde(default)]
    exemplars: Vec<ToldExemplar>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Buckets {
    #[serde(default)]
    offset: i32,
    #[serde(default)]
    bucket_counts: Vec<Value>,
}

#[derive(Deserialize)]
struct Quantile {
    #[serde(default)]
    quantile: Value,
    #[serde(default)]
    value: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToldExemplar {
    #[serde(default)]
    time_unix_nano: Value,
    #[serde(default)]
    as_double: Value,
    #[serde(default)]
    as_int: Value,
    #[serde(default)]
    trace_id: String,
}

/// Data points of any number of messages, in any order.
#[derive(Debug, Default)]
pub(crate) struct Points {
    series: BTreeMap<Labels, Samples>,
    exponential: BTreeMap<Labels, Vec<Exponential>>,
    pub exemplars: Vec<HeldExemplar>,
    /// The latest time that any point tells, in Unix nanoseconds.
    pub newest: Option<u64>,
}

#[derive(Debug, Default)]
struct Samples {
    /// Each sample tells what was added since the one before.
    delta: bool,
    samples: Vec<(f64, f64)>,
}

/// One point of an exponential histogram.
#[derive(Debug)]
struct Exponential {
    at: f64,
    delta: bool,
    scale: i32,
    /// Observations of zero and below.
    low: f64,
    count: f64,
    /// The index of the first bucket, and how many each holds.
    offset: i64,
    counts: Vec<f64>,
}

impl Points {
    pub fn add(&mut self, told: ResourceMetrics) {
        let resource = attributes(&told.resource["attributes"]);
        let about = about(&resource);
        for metric in told.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            self.metric(metric, &about);
        }
    }

    fn metric(&mut self, metric: Metric, about: &Labels) {
        let Metric { name, unit, gauge, sum, histogram, exponential_histogram, summary } = metric;
        if let Some(data) = gauge {
            let called = named(&name, &unit, Kind::Gauge);
            self.numbers(&name, &called, data, about);
        }
        if let Some(data) = sum {
            let kind = if data.is_monotonic { Kind::Counter } else { Kind::Other };
            let called = named(&name, &unit, kind);
            if kind == Kind::Counter {
                self.counted(&called, &data, about);
            }
            self.numbers(&name, &called, data, about);
        }
        let called = named(&name, &unit, Kind::Other);
        if let Some(data) = histogram {
            let delta = is_delta(&data.aggregation_temporality);
            for point in data.data_points {
                self.histogram(&called, delta, &point, about);
            }
        }
        if let Some(data) = exponential_histogram {
            let delta = is_delta(&data.aggregation_temporality);
            for point in data.data_points {
                self.exponential(&called, delta, &point, about);
            }
        }
        for point in summary.into_iter().flat_map(|data| data.data_points) {
            let Some((labels, at)) = self.point(&point, about) else { continue };
            for Quantile { quantile, value } in &point.quantile_values {
                if let (Some(quantile), Some(value)) = (number(quantile), number(value)) {
                    let mut labels = labels.clone();
                    labels.insert("quantile".to_owned(), quantile.to_string());
                    self.sample(&called, labels, false, at, value);
                }
            }
            self.totals(&called, &labels, false, at, &point);
        }
    }

    /// Labels and Unix seconds of a point; `None`: it tells nothing.
    fn point(&mut self, point: &Point, about: &Labels) -> Option<(Labels, f64)> {
        if point.flags & NO_VALUE != 0 {
            return None;
        }
        let at = nanoseconds(&point.time_unix_nano)?;
        self.newest = self.newest.max(Some(at));
        let mut labels: Labels = about.clone();
        let own = attributes(&point.attributes).into_iter().take(ATTRIBUTES_MAX);
        labels.extend(own.map(|(key, value)| (label(&key), bounded(&value))));
        Some((labels, at as f64 / 1e9))
    }

    fn sample(&mut self, name: &str, mut labels: Labels, delta: bool, at: f64, value: f64) {
        labels.insert("__name__".to_owned(), name.to_owned());
        let series = self.series.entry(labels).or_default();
        series.delta |= delta;
        series.samples.push((at, value));
    }

    fn numbers(&mut self, name: &str, called: &str, data: Data, about: &Labels) {
        // What is not monotonic and told as a difference is a level all the same, once it is added up.
        let delta = is_delta(&data.aggregation_temporality);
        for point in data.data_points {
            let Some((mut labels, at)) = self.point(&point, about) else { continue };
            let Some(value) = number(&point.as_double).or_else(|| number(&point.as_int)) else { continue };
            let also = otherwise(name, &mut labels);
            self.sample(also.unwrap_or(called), labels, delta, at, value);
        }
    }

    /// Examples of what a counter counts: their values are no durations.
    fn counted(&mut self, name: &str, data: &Data, about: &Labels) {
        for point in data.data_points.iter().filter(|point| !point.exemplars.is_empty()) {
            let Some((labels, _)) = self.point(point, about) else { continue };
            self.remember(name, &labels, point, |_| None);
        }
    }

    fn totals(&mut self, name: &str, labels: &Labels, delta: bool, at: f64, point: &Point) {
        for (suffix, value) in [("sum", &point.sum), ("count", &point.count)] {
            if let Some(value) = number(value) {
                self.sample(&format!("{name}_{suffix}"), labels.clone(), delta, at, value);
            }
        }
    }

    fn histogram(&mut self, name: &str, delta: bool, point: &Point, about: &Labels) {
        let Some((labels, at)) = self.point(point, about) else { return };
        self.totals(name, &labels, delta, at, point);
        self.remember(name, &labels, point, Some);
        let bounds = point.explicit_bounds.iter().filter_map(number).map(|bound| bound.to_string());
        let mut below = 0.0;
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&point.bucket_counts) {
            below += number(count).unwrap_or_default();
            let mut labels = labels.clone();
            labels.insert("le".to_owned(), bound);
            self.sample(&format!("{name}_bucket"), labels, delta, at, below);
        }
    }

    fn exponential(&mut self, name: &str, delta: bool, point: &Point, about: &Labels) {
        let Some((mut labels, at)) = self.point(point, about) else { return };
        self.totals(name, &labels, delta, at, point);
        self.remember(name, &labels, point, Some);
        labels.insert("__name__".to_owned(), format!("{name}_bucket"));
        let all = |counts: &[Value]| counts.iter().filter_map(number).collect::<Vec<f64>>();
        self.exponential.entry(labels).or_default().push(Exponential {
            at,
            delta,
            scale: point.scale,
            low: number(&point.zero_count).unwrap_or_default() + all(&point.negative.bucket_counts).iter().sum::<f64>(),
            count: number(&point.count).unwrap_or_default(),
            offset: i64::from(point.positive.offset),
            counts: all(&point.positive.bucket_counts),
        });
    }

    fn remember(&mut self, name: &str, labels: &Labels, point: &Point, took: fn(f64) -> Option<f64>) {
        for told in point.exemplars.iter().filter(|told| !told.trace_id.is_empty()) {
            let value = number(&told.as_double).or_else(|| number(&told.as_int));
            let (Some(at), Some(value)) = (nanoseconds(&told.time_unix_nano), value) else { continue };
            let mut labels = labels.clone();
            labels.insert("__name__".to_owned(), name.to_owned());
            let exemplar = Exemplar { trace_id: told.trace_id.clone(), took: took(value), at: at as f64 / 1e9 };
            self.exemplars.push(HeldExemplar { labels, exemplar });
        }
    }

    /// Every series by the name of its metric, samples in order, what was told as differences added up.
    pub fn series(mut self) -> ByName {
        for (labels, points) in std::mem::take(&mut self.exponential) {
            for (bound, delta, at, value) in buckets(&points) {
                let mut labels = labels.clone();
                labels.insert("le".to_owned(), bound);
                let series = self.series.entry(labels).or_default();
                series.delta |= delta;
                series.samples.push((at, value));
            }
        }
        let mut found = ByName::new();
        for (labels, Samples { delta, mut samples }) in self.series {
            samples.sort_by(|left, right| left.0.total_cmp(&right.0));
            samples.dedup_by(|later, earlier| later.0 == earlier.0);
            if delta {
                let mut all = 0.0;
                for (_, value) in &mut samples {
                    all += *value;
                    *value = all;
                }
            }
            let name = labels.get("__name__").cloned().unwrap_or_default();
            found.entry(name).or_default().push(Series { labels, samples, asked: String::new() });
        }
        found
    }
}

/// The points of one exponential histogram as buckets that all have the same bounds: bound, whether differences, time, count.
fn buckets(points: &[Exponential]) -> Vec<(String, bool, f64, f64)> {
    let finest = points.iter().map(|point| point.scale).min().unwrap_or_default().min(SCALE_MAX);
    // Scale 2^-20 and coarser holds every number in two buckets (the data model bounds it at -10).
    let mut scale = finest;
    let mut bounds = upper(points, scale);
    while bounds.len() > BOUNDS_MAX && scale > -10 {
        scale -= 1;
        bounds = upper(points, scale);
    }
    let mut found = Vec::new();
    for point in points {
        let mut tell = |bound: String, count: f64| found.push((bound, point.delta, point.at, count));
        tell("0".to_owned(), point.low);
        for bound in &bounds {
            let inside = point.merged(scale).filter(|(index, _)| index <= bound).map(|(_, count)| count);
            let base = f64::exp2(f64::from(-scale));
            tell(f64::exp2((*bound + 1) as f64 * base).to_string(), point.low + inside.sum::<f64>());
        }
        tell("+Inf".to_owned(), point.count);
    }
    found
}

/// The buckets that hold anything in any point.
fn upper(points: &[Exponential], scale: i32) -> BTreeSet<i64> {
    let held = points.iter().flat_map(|point| point.merged(scale)).filter(|(_, count)| *count > 0.0);
    held.map(|(index, _)| index).collect()
}

impl Exponential {
    /// The buckets at a coarser scale: each step joins two neighbours.
    fn merged(&self, scale: i32) -> impl Iterator<Item = (i64, f64)> + '_ {
        let steps = u32::try_from(self.scale - scale).unwrap_or_default().min(63);
        self.counts.iter().zip(self.offset..).map(move |(count, index)| (index >> steps, *count))
    }
}

/// What a resource tells of where samples come from, under its own names and under those of a scraped target.
fn about(resource: &Labels) -> Labels {
    const TARGET: [(&str, &str); 5] = [
        ("k8s.namespace.name", "namespace"),
        ("k8s.pod.name", "pod"),
        ("k8s.container.name", "container"),
        ("k8s.node.name", "node"),
        ("service.name", "service"),
    ];
    let fields = ["service.name", "k8s.pod.name"].into_iter().filter_map(|key| resource.get_key_value(key));
    let own = fields.map(|(key, value)| (key.clone(), value.clone())).chain(placing(resource)).take(ATTRIBUTES_MAX);
    let mut labels: Labels = own.map(|(key, value)| (label(&key), bounded(&value))).collect();
    for (theirs, ours) in TARGET {
        if let Some(value) = resource.get(theirs) {
            labels.insert(ours.to_owned(), bounded(value));
        }
    }
    labels
}

/// Protobuf's JSON writes 64-bit numbers and those that are none as text.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn series(metric: Value) -> ByName {
        let told = json!({
            "resource": {"attributes": [{"key": "k8s.pod.name", "value": {"stringValue": "cart-0"}}]},
            "scopeMetrics": [{"metrics": [metric]}],
        });
        let mut points = Points::default();
        points.add(serde_json::from_value(told).unwrap());
        points.series()
    }

    fn told(held: &ByName, name: &str) -> Vec<(String, Vec<f64>)> {
        let one = |series: &Series| {
            let bound = series.labels.get("le").cloned().unwrap_or_default();
            (bound, series.samples.iter().map(|(_, value)| *value).collect())
        };
        held[name].iter().map(one).collect()
    }

    #[test]
    fn differences_are_added_up_in_the_order_of_time() {
        let point =
            |second: u64, value: &str| json!({"timeUnixNano": (second * 1_000_000_000).to_string(), "asInt": value});
        let held = series(json!({"name": "requests", "sum": {
            "aggregationTemporality": 1, "isMonotonic": true, "dataPoints": [point(20, "5"), point(10, "3"), point(30, "2")],
        }}));
        assert_eq!(told(&held, "requests_total"), [(String::new(), vec![3.0, 8.0, 10.0])]);
        assert_eq!(held["requests_total"][0].labels["pod"], "cart-0");
    }

    #[test]
    fn a_histogram_is_buckets_up_to_each_bound() {
        let held = series(
            json!({"name": "took", "unit": "ms", "histogram": {"aggregationTemporality": 2, "dataPoints": [{
                "timeUnixNano": "1000000000", "count": "6", "sum": 9.5, "bucketCounts": ["1", "2", "3"], "explicitBounds": [5, 10],
            }]}}),
        );
        let wanted = [("+Inf", 6.0), ("10", 3.0), ("5", 1.0)].map(|(bound, count)| (bound.to_owned(), vec![count]));
        assert_eq!(told(&held, "took_milliseconds_bucket"), wanted);
        assert_eq!(told(&held, "took_milliseconds_count"), [(String::new(), vec![6.0])]);
    }

    #[test]
    fn exponential_histograms_of_two_scales_get_the_same_bounds() {
        // Scale 1: bounds are powers of the square root of 2; scale 0: powers of 2.
        let held = series(json!({"name": "took", "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [
            {"timeUnixNano": "1000000000", "count": "7", "scale": 1, "zeroCount": "1",
             "positive": {"offset": 0, "bucketCounts": ["1", "2", "3"]}},
            {"timeUnixNano": "2000000000", "count": "9", "scale": 0, "zeroCount": "1",
             "positive": {"offset": 0, "bucketCounts": ["4", "4"]}},
        ]}}));
        let wanted = [("+Inf", [7.0, 9.0]), ("0", [1.0, 1.0]), ("2", [4.0, 5.0]), ("4", [7.0, 9.0])];
        assert_eq!(told(&held, "took_bucket"), wanted.map(|(bound, counts)| (bound.to_owned(), counts.to_vec())));
    }

    #[test]
    fn what_the_receivers_of_the_kubelet_count_goes_by_the_names_that_are_asked_for() {
        let point = json!([{"timeUnixNano": "1", "asDouble": 1.5}]);
        let held = series(json!({"name": "container.cpu.time", "unit": "s", "sum": {
            "aggregationTemporality": 2, "isMonotonic": true, "dataPoints": point,
        }}));
        assert!(held.contains_key("container_cpu_usage_seconds_total"), "{held:?}");
        let held = series(json!({"name": "k8s.container.memory_limit", "unit": "By", "gauge": {"dataPoints": point}}));
        assert_eq!(held["kube_pod_container_resource_limits"][0].labels["resource"], "memory");
    }

    #[test]
    fn a_point_without_a_value_is_no_zero() {
        let held =
            series(json!({"name": "up", "gauge": {"dataPoints": [{"timeUnixNano": "1", "asInt": "0", "flags": 1}]}}));
        assert!(held.is_empty(), "{held:?}");
    }
}

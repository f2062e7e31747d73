//! Samples of the model as a store answers the questions of a diagnosis.

use std::collections::BTreeMap;

use amend_diagnosis::evidence::Series;
use amend_diagnosis::metric::name;
use amend_sandbox::model::Sample;

use super::at;

/// Seconds that rates and quantiles are taken over.
const OVER: f64 = 60.0;

/// What tells one series from another.
type Name = (&'static str, Vec<(&'static str, String)>);

/// Everything that was scraped.
#[derive(Debug, Default)]
pub(super) struct Scraped {
    series: BTreeMap<Name, Vec<(f64, f64)>>,
}

impl Scraped {
    pub fn keep(&mut self, second: i64, samples: Vec<Sample>) {
        let time = at(second).as_second() as f64;
        for sample in samples {
            self.series.entry((sample.name, sample.labels)).or_default().push((time, sample.value));
        }
    }

    /// The answers: containers one by one, requests by service.
    pub fn answers(&self) -> Vec<Series> {
        let asked_for = [name::MEMORY, name::CPU, name::RESTARTS, name::LAST_TERMINATED, name::LIMITS];
        let raw = self.series.iter().filter(|((metric, _), _)| asked_for.contains(metric));
        let raw = raw.map(|((metric, labels), samples)| answer(metric, labels, samples.clone()));
        raw.chain(self.throttled()).chain(self.requests()).collect()
    }

    fn throttled(&self) -> Vec<Series> {
        let of = |metric: &'static str, labels: &[(&'static str, String)]| {
            self.series.get(&(metric, labels.to_vec())).map(|samples| grown(samples))
        };
        let all = self.series.iter().filter(|((metric, _), _)| *metric == "container_cpu_cfs_periods_total");
        all.filter_map(|((_, labels), periods)| {
            let throttled = of("container_cpu_cfs_throttled_periods_total", labels)?;
            let share = grown(periods).into_iter().zip(throttled);
            let share = share.filter(|((_, all), _)| *all > 0.0).map(|((time, all), (_, some))| (time, some / all));
            Some(answer("container_cpu_throttled_ratio", labels, share.collect()))
        })
        .collect()
    }

    /// Rate, share of errors and 99th percentile of each service.
    fn requests(&self) -> Vec<Series> {
        // By service and time: requests, failed ones, and counts by upper bound.
        let mut counted: BTreeMap<&str, BTreeMap<i64, Counted>> = BTreeMap::new();
        for ((metric, labels), samples) in &self.series {
            let label = |wanted: &str| labels.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str());
            let Some(service) = label("service") else { continue };
            for (time, count) in grown(samples) {
                let counted = counted.entry(service).or_default().entry(time as i64).or_default();
                match *metric {
                    "http_requests_total" => {
                        counted.all += count;
                        counted.failed += if label("code") == Some("200") { 0.0 } else { count };
                    }
                    "http_request_duration_seconds_bucket" => {
                        let bound = label("le").and_then(|bound| bound.parse::<f64>().ok()).unwrap_or(f64::INFINITY);
                        *counted.below.entry((bound * 1e6) as u64).or_default() += count;
                    }
                    _ => {}
                }
            }
        }
        let of =
            |service: &str, metric: &str, times: &BTreeMap<i64, Counted>, value: &dyn Fn(&Counted) -> Option<f64>| {
                let samples = times.iter().filter_map(|(time, counted)| Some((*time as f64, value(counted)?)));
                answer(
                    metric,
                    &[("namespace", super::NAMESPACE.to_owned()), ("service", service.to_owned())],
                    samples.collect(),
                )
            };
        let each = counted.iter().flat_map(|(service, times)| {
            [
                of(service, name::REQUEST_RATE, times, &|counted| Some(counted.all / OVER)),
                of(service, name::ERROR_RATIO, times, &|counted| {
                    (counted.all > 0.0).then(|| counted.failed / counted.all)
                }),
                of(service, name::LATENCY_P99, times, &Counted::p99),
            ]
        });
        each.collect()
    }
}

#[derive(Debug, Default)]
struct Counted {
    all: f64,
    failed: f64,
    /// Cumulative counts by upper bound in microseconds.
    below: BTreeMap<u64, f64>,
}

impl Counted {
    /// As Prometheus interpolates inside a bucket.
    fn p99(&self) -> Option<f64> {
        let total = self.below.values().copied().fold(0.0, f64::max);
        if total <= 0.0 {
            return None;
        }
        let rank = 0.99 * total;
        let (mut low, mut before) = (0.0, 0.0);
        for (bound, count) in &self.below {
            let bound = *bound as f64 / 1e6;
            if *count >= rank {
                let inside = (rank - before) / (count - before).max(1e-9);
                return Some(if bound > 1e6 { low } else { low + (bound - low) * inside });
            }
            (low, before) = (bound, *count);
        }
        Some(low)
    }
}

/// How much a counter grew in the last [`OVER`] seconds.
fn grown(samples: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut from = 0;
    let mut grown = Vec::new();
    for (index, (time, value)) in samples.iter().enumerate() {
        while samples[from].0 < time - OVER {
            from += 1;
        }
        if from < index {
            grown.push((*time, (value - samples[from].1).max(0.0)));
        }
    }
    grown
}

fn answer(metric: &str, labels: &[(&str, String)], samples: Vec<(f64, f64)>) -> Series {
    let named = ("__name__".to_owned(), metric.to_owned());
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).chain([named]).collect();
    Series { labels, samples, asked: "metrics".to_owned() }
}

//! Golden metrics of one workload as regular samples, for abort signals and for verification.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use amend_diagnosis::evidence::{Answer, Series, Window};
use jiff::{SignedDuration, Timestamp};

use crate::alert::reasons;
use crate::digest::{Canonical, Writer};
use crate::families::CODES;
use crate::measures::Failed;
use crate::questions::{Measure, Selection, SeriesQuestion, Target};
use crate::source::{Reply, SourceKind};
use crate::sources::Sources;

/// A metric that says whether users are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Golden {
    /// Failed requests as a share of all, 0 to 1. Without traffic there is no ratio, hence no sample.
    ErrorRatio,
    /// 99th percentile of request duration in seconds.
    LatencyP99,
    /// Working set of the fullest container as a share of its memory limit, 0 to 1.
    ///
    /// CPU is left out: it is throttled, not exhausted, and throttling shows as latency.
    Saturation,
    /// Container restarts since the window began, all containers together: never falls, whichever pods come and go.
    Restarts,
    /// Requests per second.
    Traffic,
}

impl Golden {
    pub const ALL: [Self; 5] = [Self::ErrorRatio, Self::LatencyP99, Self::Saturation, Self::Restarts, Self::Traffic];

    /// The name used in policies.
    pub fn name(self) -> &'static str {
        match self {
            Self::ErrorRatio => "errorRatio",
            Self::LatencyP99 => "latencyP99",
            Self::Saturation => "saturation",
            Self::Restarts => "restarts",
            Self::Traffic => "traffic",
        }
    }

    /// The metric that a policy names; `None`: no such metric.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|golden| golden.name() == name)
    }

    fn measure(self) -> Measure {
        match self {
            Self::ErrorRatio | Self::Traffic => Measure::Requests,
            Self::LatencyP99 => Measure::LatencyP99,
            Self::Saturation => Measure::MemoryFullness,
            Self::Restarts => Measure::Restarts,
        }
    }
}

impl fmt::Display for Golden {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Samples at regular times. Fewer samples than `expected` means gaps, which the reader judges.
#[derive(Clone, Debug, PartialEq)]
pub struct Regular {
    pub step: SignedDuration,
    /// How many samples a window without gaps would have.
    pub expected: usize,
    /// Unix seconds and value, in time order, never empty.
    pub samples: Vec<(f64, f64)>,
}

impl Canonical for Regular {
    fn write(&self, out: &mut Writer) {
        out.text(&format!("{} {}", self.step, self.expected));
        self.samples.write(out);
    }
}

/// Asks for one golden metric of one workload.
///
/// With several metrics sources the one with the most samples answers. No series at all is `Unknown`: a metric that
/// nobody exports must not look like a metric that is fine.
pub async fn golden(
    sources: &Sources,
    metric: Golden,
    target: &Target,
    window: Window,
    step: SignedDuration,
    deadline: Duration,
) -> Reply<Regular> {
    let window = aligned(window, step);
    let id = format!("golden/{metric}/{}", target.entity);
    let question =
        SeriesQuestion { id: id.clone(), measure: metric.measure(), of: Selection::one(target), window, step };
    let replies = sources
        .ask(SourceKind::holds_metrics, "metrics", &id, window, deadline, |source| source.series(&question))
        .await;
    let expected = expected(window, step);
    let reasons = reasons(&replies);
    let best = replies
        .into_iter()
        .map(|reply| judged(reply, metric, step, expected))
        .max_by_key(|reply| reply.answer.known().map_or(0, |regular| regular.samples.len()));
    match best {
        Some(reply) if reply.answer.known().is_some() || reasons.is_empty() => reply,
        Some(reply) => Reply { answer: Answer::unknown(reasons), ..reply },
        // `ask` always replies.
        None => Reply::unknown(&id, "none", "", window, reasons),
    }
}

fn judged(reply: Reply<Vec<Series>>, metric: Golden, step: SignedDuration, expected: usize) -> Reply<Regular> {
    let Reply { answer, mut asked, dropped } = reply;
    let series = match answer {
        Answer::Known(series) => series,
        Answer::Unknown { why } => return Reply { answer: Answer::Unknown { why }, asked, dropped },
    };
    let samples = combined(metric, &series);
    if samples.is_empty() {
        let why = format!("{}: {}", asked.source, nothing(metric, &series));
        asked.unknown = Some(why.clone());
        asked.digest.clear();
        return Reply { answer: Answer::Unknown { why }, asked, dropped };
    }
    let regular = Regular { step, expected, samples };
    asked.digest = regular.digest();
    Reply { answer: Answer::Known(regular), asked, dropped }
}

/// The sentence for a metric without a single sample.
fn nothing(metric: Golden, series: &[Series]) -> String {
    let untold = series.iter().any(|series| Failed::of(series) == Some(Failed::Untold));
    let why = match metric {
        Golden::ErrorRatio if untold => {
            return format!(
                "requests are counted, but none of the labels {} says how they ended, so there is no error ratio; name the \
                 label that does as `code` in the mapping of the TelemetrySource",
                CODES.join(", ")
            );
        }
        Golden::ErrorRatio => {
            "no traffic in this window, so there is no error ratio; check that the service is called and scraped"
        }
        Golden::LatencyP99 => {
            "no request duration in this window; check that the service is called and exports a histogram"
        }
        Golden::Saturation => {
            "no working set with a memory limit in this window; check that cAdvisor and kube-state-metrics are scraped and \
             that the container has a limit"
        }
        Golden::Restarts => "no restart counter in this window; check that kube-state-metrics is scraped",
        Golden::Traffic => "no request counter in this window; check that the service is scraped and its mapping",
    };
    why.to_owned()
}

/// One series out of what the store has, by the meaning of the metric.
fn combined(metric: Golden, series: &[Series]) -> Vec<(f64, f64)> {
    match metric {
        Golden::ErrorRatio => ratio(series),
        Golden::Traffic => summed(series),
        Golden::Restarts => risen(series),
        // The worst of several services: nobody is helped by the mean.
        Golden::LatencyP99 | Golden::Saturation => joined(series, f64::max),
    }
}

fn joined(series: &[Series], with: impl Fn(f64, f64) -> f64) -> Vec<(f64, f64)> {
    let mut at: BTreeMap<i64, f64> = BTreeMap::new();
    for (time, value) in series.iter().flat_map(|series| &series.samples) {
        at.entry(milliseconds(*time)).and_modify(|sum| *sum = with(*sum, *value)).or_insert(*value);
    }
    at.into_iter().map(|(time, value)| (seconds(time), value)).collect()
}

/// How much the counters have risen together since the first moment that any of them was seen.
///
/// A counter that falls has begun anew. One that appears later belongs to a new pod, whose restarts all happened since.
fn risen(series: &[Series]) -> Vec<(f64, f64)> {
    let moments = series.iter().flat_map(|series| &series.samples).map(|(at, _)| milliseconds(*at));
    let Some(began) = moments.clone().min() else { return Vec::new() };
    let mut rises: BTreeMap<i64, f64> = moments.map(|at| (at, 0.0)).collect();
    for counter in series {
        let mut before = None;
        for (at, value) in &counter.samples {
            let at = milliseconds(*at);
            let rise = match before {
                Some(before) if *value >= before => value - before,
                None if at == began => 0.0,
                Some(_) | None => *value,
            };
            *rises.entry(at).or_default() += rise;
            before = Some(*value);
        }
    }
    let mut total = 0.0;
    rises
        .into_iter()
        .map(|(at, rise)| {
            total += rise;
            (seconds(at), total)
        })
        .collect()
}

/// All series added up, moment by moment.
pub(crate) fn summed(series: &[Series]) -> Vec<(f64, f64)> {
    joined(series, |left, right| left + right)
}

/// Errors over all requests, where there were any and all of them say how they ended.
///
/// Requests that do not say are no successes: whoever counts them so sees health in an outage.
pub(crate) fn ratio(series: &[Series]) -> Vec<(f64, f64)> {
    let of = |wanted: Failed| -> BTreeMap<i64, f64> {
        let some: Vec<Series> = series.iter().filter(|one| Failed::of(one) == Some(wanted)).cloned().collect();
        summed(&some).into_iter().map(|(at, value)| (milliseconds(at), value)).collect()
    };
    let (failed, untold) = (of(Failed::Yes), of(Failed::Untold));
    let at = |those: &BTreeMap<i64, f64>, at: f64| those.get(&milliseconds(at)).copied().unwrap_or(0.0);
    summed(series)
        .into_iter()
        .filter(|(when, all)| *all > 0.0 && at(&untold, *when) <= 0.0)
        .map(|(when, all)| (when, (at(&failed, when) / all).clamp(0.0, 1.0)))
        .collect()
}

fn milliseconds(at: f64) -> i64 {
    (at * 1_000.0).round() as i64
}

fn seconds(at: i64) -> f64 {
    at as f64 / 1_000.0
}

/// The window moved to multiples of the step, so that the same moments are asked for however often one looks.
///
/// The end moves back, never into the future; the beginning moves forward, never out of the window.
pub(crate) fn aligned(window: Window, step: SignedDuration) -> Window {
    let step = step.as_millis().max(1) as i64;
    let (from, to) = (window.from.as_millisecond(), window.to.as_millisecond());
    let first = from.div_euclid(step) * step + if from.rem_euclid(step) == 0 { 0 } else { step };
    let last = to.div_euclid(step) * step;
    match (Timestamp::from_millisecond(first), Timestamp::from_millisecond(last.max(first))) {
        (Ok(from), Ok(to)) if first <= last => Window { from, to },
        // Shorter than a step: one sample at its end.
        _ => Window { from: window.to, to: window.to },
    }
}

fn expected(window: Window, step: SignedDuration) -> usize {
    let length = window.to.as_millisecond() - window.from.as_millisecond();
    usize::try_from(length / (step.as_millis().max(1) as i64) + 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::ERROR_LABEL;

    fn counter(samples: &[(f64, f64)]) -> Series {
        Series { labels: BTreeMap::new(), samples: samples.to_vec(), asked: String::new() }
    }

    fn requests(error: bool, samples: &[(f64, f64)]) -> Series {
        let labels = BTreeMap::from([(ERROR_LABEL.to_owned(), error.to_string())]);
        Series { labels, ..counter(samples) }
    }

    #[test]
    fn an_error_ratio_without_errors_is_zero_and_without_traffic_is_absent() {
        let quiet = [requests(false, &[(0.0, 5.0), (10.0, 0.0)])];
        assert_eq!(ratio(&quiet), [(0.0, 0.0)]);
        let failing = [requests(false, &[(0.0, 3.0), (10.0, 4.0)]), requests(true, &[(10.0, 4.0)])];
        assert_eq!(ratio(&failing), [(0.0, 0.0), (10.0, 0.5)]);
    }

    #[test]
    fn requests_that_do_not_say_how_they_ended_are_no_successes() {
        let labels = BTreeMap::from([(ERROR_LABEL.to_owned(), "untold".to_owned())]);
        let untold = Series { labels, ..counter(&[(0.0, 5.0), (10.0, 0.0), (20.0, 1.0)]) };
        assert_eq!(ratio(std::slice::from_ref(&untold)), []);
        let told = requests(false, &[(0.0, 5.0), (10.0, 5.0), (20.0, 5.0)]);
        assert_eq!(ratio(&[untold, told]), [(10.0, 0.0)], "only where all requests say so");
    }

    #[test]
    fn restarts_of_pods_that_come_and_go_never_fall() {
        let old = counter(&[(0.0, 7.0), (10.0, 9.0)]);
        let new = counter(&[(20.0, 1.0), (30.0, 1.0), (40.0, 0.0)]);
        assert_eq!(risen(&[old, new]), [(0.0, 0.0), (10.0, 2.0), (20.0, 3.0), (30.0, 3.0), (40.0, 3.0)]);
    }

    #[test]
    fn the_same_moments_are_asked_for_however_often_one_looks() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let step = SignedDuration::from_secs(10);
        let window = aligned(Window { from: at(101), to: at(139) }, step);
        assert_eq!((window.from, window.to, expected(window, step)), (at(110), at(130), 3));
        let short = aligned(Window { from: at(101), to: at(105) }, step);
        assert_eq!((short.from, short.to), (at(105), at(105)));
    }
}

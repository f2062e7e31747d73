//! Samples and whether there are enough of them to say anything.

use amend_diagnosis::evidence::Window;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SAMPLES_AT_LEAST;

/// One measured value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    pub at: Timestamp,
    pub value: f64,
}

/// The usable samples of one side.
pub(super) struct Kept {
    pub values: Vec<f64>,
    times: Vec<Timestamp>,
    pub span: SignedDuration,
    dropped: usize,
}

/// The finite samples inside the window, in time order, one per moment.
pub(super) fn kept(samples: &[Sample], window: Option<Window>) -> Kept {
    let inside = |sample: &&Sample| window.is_none_or(|window| sample.at >= window.from && sample.at <= window.to);
    let mut finite: Vec<Sample> = samples.iter().filter(inside).copied().collect();
    let all = finite.len();
    finite.retain(|sample| sample.value.is_finite());
    let dropped = all - finite.len();
    finite.sort_by_key(|sample| sample.at);
    finite.dedup_by_key(|sample| sample.at);
    let times: Vec<Timestamp> = finite.iter().map(|sample| sample.at).collect();
    let span = match (times.first(), times.last()) {
        (Some(first), Some(last)) => last.duration_since(*first),
        _ => SignedDuration::ZERO,
    };
    Kept { values: finite.iter().map(|sample| sample.value).collect(), times, span, dropped }
}

impl Kept {
    /// Why nothing can be said, or `None`.
    pub fn unusable(&self) -> Option<String> {
        let n = self.values.len();
        if n < SAMPLES_AT_LEAST {
            return Some(format!("there are {n} samples, {SAMPLES_AT_LEAST} are needed"));
        }
        // One value in five that is no number means that the store does not know its own answer.
        if self.dropped * 4 > n {
            return Some(format!("{} of {} samples are no numbers", self.dropped, n + self.dropped));
        }
        None
    }

    /// Why the samples do not cover the window to its end, or `None`.
    ///
    /// Tolerates gaps of five sampling steps, at least two minutes: a scrape or two may fail, a dead store may not pass.
    pub fn not_covering(&self, window: Window, settled: bool) -> Option<String> {
        let (Some(first), Some(last)) = (self.times.first(), self.times.last()) else {
            return Some("there are no samples".to_owned());
        };
        let mut steps: Vec<SignedDuration> =
            self.times.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect();
        steps.sort();
        let usual = steps.get(steps.len() / 2).copied().unwrap_or(SignedDuration::ZERO);
        let gap_at_most = usual.saturating_mul(5).max(SignedDuration::from_mins(2));
        let age = window.to.duration_since(*last);
        if age > gap_at_most {
            return Some(format!("the last sample is {} s old", age.as_secs()));
        }
        if let Some(gap) = steps.last().filter(|gap| **gap > gap_at_most) {
            return Some(format!("there is a gap of {} s", gap.as_secs()));
        }
        let late = first.duration_since(window.from);
        if settled && late > gap_at_most {
            return Some(format!("the first {} s of the window have no samples", late.as_secs()));
        }
        None
    }
}

/// The middle value; 0 for none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len(), sorted.len() % 2) {
        (0, _) => 0.0,
        (_, 1) => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// How much a cumulative count rose; a fall is a reset (a pod was replaced) and counts from zero again.
pub(super) fn rises(values: &[f64]) -> f64 {
    values.windows(2).map(|pair| if pair[1] >= pair[0] { pair[1] - pair[0] } else { pair[1].max(0.0) }).sum()
}

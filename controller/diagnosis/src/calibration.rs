//! Calibration: from a share of the evidence to a probability that means frequency, and when to keep silent.

use crate::inference::Hypothesis;

/// Below this nobody may act: the answer is shown, with what would decide it.
///
/// A judgement until trust is counted per cluster: at .7 three of ten actions would be wrong at worst, and policies raise
/// it by `minConfidence`.
pub const SPEAK: f64 = 0.7;

/// No diagnosis from outside is surer than this: some failures leave no trace in any store.
const CEILING: f64 = 0.97;

/// The probability that a hypothesis is right.
pub fn confidence(hypothesis: &Hypothesis) -> f64 {
    let one_source = if hypothesis.agreeing() <= 1 { 0.92 } else { CEILING };
    let confidence = hypothesis.share * one_source;
    (confidence * 1000.0).round() / 1000.0
}

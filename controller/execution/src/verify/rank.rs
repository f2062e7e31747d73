//! How far two sets of samples lie apart, without assuming how they are distributed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The Hodges-Lehmann shift of the later samples against the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shift {
    /// Median of all pairwise differences, in the metric's unit.
    pub estimate: f64,
    /// Ends of its 90 % confidence interval: 95 % confidence on each side alone.
    pub low: f64,
    pub high: f64,
    /// Chance that a later sample exceeds an earlier one, ties as half (Mann-Whitney U over all pairs), 0 to 1.
    pub superiority: f64,
}

/// How many samples of a side are compared; more are thinned evenly, since all pairs are looked at.
const COMPARED_AT_MOST: usize = 400;

/// One-sided 95 % quantile of the standard normal distribution.
const Z: f64 = 1.645;

/// Shift between two sets of samples, by Hodges and Lehmann, "Estimates of location based on rank tests" (1963), with the
/// interval from the normal approximation of the Mann-Whitney statistic.
///
/// Robust to a tenth or so of wild samples on either side. Samples close in time resemble each other, which makes the interval
/// a little too narrow; the tolerances of the judgement are wide enough for that. Empty input gives an interval without ends.
pub fn shift(before: &[f64], after: &[f64]) -> Shift {
    let (before, after) = (thinned(before), thinned(after));
    let (n, m) = (before.len() as f64, after.len() as f64);
    let mut differences: Vec<f64> =
        after.iter().flat_map(|later| before.iter().map(move |earlier| later - earlier)).collect();
    if differences.is_empty() {
        return Shift { estimate: 0.0, low: f64::NEG_INFINITY, high: f64::INFINITY, superiority: 0.5 };
    }
    differences.sort_by(f64::total_cmp);
    let pairs = differences.len();
    let above = differences.iter().filter(|difference| **difference > 0.0).count() as f64;
    let ties = differences.iter().filter(|difference| **difference == 0.0).count() as f64;
    let margin = (pairs as f64 / 2.0 - Z * (n * m * (n + m + 1.0) / 12.0).sqrt()).floor().max(0.0) as usize;
    let middle = pairs / 2;
    let estimate = match pairs % 2 {
        1 => differences[middle],
        _ => f64::midpoint(differences[middle - 1], differences[middle]),
    };
    Shift {
        estimate,
        low: differences[margin.min(middle)],
        high: differences[(pairs - 1 - margin.min(pairs - 1)).max(middle)],
        superiority: (above + ties / 2.0) / pairs as f64,
    }
}

fn thinned(values: &[f64]) -> Vec<f64> {
    let every = values.len().div_ceil(COMPARED_AT_MOST).max(1);
    values.iter().copied().step_by(every).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shift_of_a_shifted_copy_is_the_shift() {
        let before: Vec<f64> = (0..30).map(f64::from).collect();
        let after: Vec<f64> = before.iter().map(|value| value + 7.0).collect();
        let found = shift(&before, &after);
        assert!((found.estimate - 7.0).abs() < 1e-9, "{found:?}");
        assert!(found.low < 7.0 && found.high > 7.0);
    }

    #[test]
    fn a_few_wild_samples_do_not_move_it() {
        let before = vec![1.0; 20];
        let mut after = vec![1.0; 20];
        after[3] = 1e9;
        assert_eq!(shift(&before, &after).estimate, 0.0);
    }

    /// Worked by hand: differences of {1,2,3} and {2,4,6} are -1,0,1,1,2,3,3,4,5; the middle one is 2.
    #[test]
    fn a_small_example_agrees_with_the_hand() {
        let found = shift(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]);
        assert_eq!(found.estimate, 2.0);
        assert!((found.superiority - 7.5 / 9.0).abs() < 1e-9);
    }

    #[test]
    fn few_samples_give_a_wide_interval() {
        let few = shift(&[0.0, 10.0, 5.0], &[0.0, 10.0, 5.0]);
        let many = shift(&[0.0, 10.0, 5.0].repeat(20), &[0.0, 10.0, 5.0].repeat(20));
        assert!(few.high - few.low > many.high - many.low);
    }
}

//! What a confidence is worth: how far it lies from frequency, and how much can be answered at a wanted precision.

/// Which precision an answer must keep: coverage is the share of cases above the best threshold that keeps it.
const PRECISION: f64 = 0.95;

/// Bins of confidence whose told and true frequency are compared.
const BINS: usize = 10;

/// An answer: how sure it was, and whether it was right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Told {
    pub confidence: f64,
    pub right: bool,
}

/// The largest share of cases, surest first, of which [`PRECISION`] are right; equal confidences stand or fall together.
pub(super) fn coverage(all: &[Told]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let (mut right, mut best) = (0, 0);
    for (index, one) in sorted.iter().enumerate() {
        right += usize::from(one.right);
        let last_of_its_value = sorted.get(index + 1).is_none_or(|next| next.confidence < one.confidence);
        if last_of_its_value && right as f64 >= PRECISION * (index + 1) as f64 {
            best = index + 1;
        }
    }
    best as f64 / all.len().max(1) as f64
}

/// Expected calibration error over ten bins: how far confidence and frequency lie apart.
///
/// Of few cases it is never small: 555 perfectly calibrated ones give about .02.
pub(super) fn calibration_error(all: &[Told]) -> f64 {
    let mut apart = [0.0; BINS];
    for one in all {
        let bin = ((one.confidence * BINS as f64) as usize).min(BINS - 1);
        apart[bin] += one.confidence - f64::from(u8::from(one.right));
    }
    apart.iter().map(|sum: &f64| sum.abs()).sum::<f64>() / all.len().max(1) as f64
}

/// Share of the cases that are answered from a confidence on, and the share of these that is right; 1 when none is answered.
pub(super) fn answered_from(all: &[Told], confidence: f64) -> (f64, f64) {
    let sure = || all.iter().filter(|one| one.confidence >= confidence);
    let right = sure().filter(|one| one.right).count() as f64;
    let precision = if sure().count() == 0 { 1.0 } else { right / sure().count() as f64 };
    (sure().count() as f64 / all.len().max(1) as f64, precision)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(all: &[(f64, bool)]) -> Vec<Told> {
        all.iter().map(|&(confidence, right)| Told { confidence, right }).collect()
    }

    #[test]
    fn coverage_is_what_can_be_answered_with_one_of_twenty_wrong() {
        let mut all = vec![(0.9, true); 19];
        all.extend([(0.8, false), (0.5, false)]);
        assert!((coverage(&told(&all)) - 20.0 / 21.0).abs() < 1e-9);
        assert_eq!(coverage(&told(&[(0.9, false), (0.9, true)])), 0.0, "equal confidences are not told apart");
    }

    #[test]
    fn the_error_is_the_distance_of_each_bin_from_its_frequency() {
        assert!(calibration_error(&told(&[(0.95, true), (0.95, false)])) > 0.44);
        assert!(calibration_error(&told(&[(0.5, true), (0.5, false), (1.0, true)])) < 1e-9);
        assert_eq!(calibration_error(&[]), 0.0);
    }

    #[test]
    fn what_is_answered_is_counted_from_the_confidence_on() {
        let all = told(&[(0.95, true), (0.9, false), (0.2, true), (0.1, false)]);
        assert_eq!(answered_from(&all, 0.9), (0.5, 0.5));
        assert_eq!(answered_from(&all, 0.99), (0.0, 1.0));
    }
}

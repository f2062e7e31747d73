//! Robust statistics: medians, spreads with noise floors, and shifts between two windows.

/// The median of finite values; `None` when there are none.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// A quantile by linear interpolation between the two nearest values.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if sorted.is_empty() {
        return None;
    }
    sorted.sort_by(f64::total_cmp);
    let at = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    Some(sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64))
}

/// Median absolute deviation, scaled to the standard deviation of a normal distribution.
pub fn mad(values: &[f64], middle: f64) -> f64 {
    let apart: Vec<f64> = values.iter().filter(|value| value.is_finite()).map(|value| (value - middle).abs()).collect();
    1.4826 * median(&apart).unwrap_or(0.0)
}

/// Standard deviation of finite values.
pub fn deviation(values: &[f64]) -> f64 {
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if finite.is_empty() {
        return 0.0;
    }
    let mean = finite.iter().sum::<f64>() / finite.len() as f64;
    (finite.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / finite.len() as f64).sqrt()
}

/// How a series moved from its normal to its sick window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shift {
    /// Movement in units of the noise.
    pub z: f64,
    /// Movement in the series' own unit.
    pub by: f64,
    /// Normal value.
    pub normal: f64,
}

/// Compares a high quantile of the sick window with the normal median.
///
/// The noise is the largest of the scaled MAD, a quarter of the standard deviation, `floor` of the median and a hundredth
/// of the largest normal value: a flat series must not turn a tremble into a hundred sigmas. The quantile .8 instead of
/// the maximum, since one sample is no fault (research/diagnosis.md, section 6).
pub fn shift(normal: &[f64], sick: &[f64], floor: f64, share: f64) -> Option<Shift> {
    let usual: Vec<f64> = normal.iter().copied().filter(|value| value.is_finite()).collect();
    let now = quantile(sick, share)?;
    if usual.len() < 3 {
        return None;
    }
    let middle = median(&usual)?;
    let largest = usual.iter().map(|value| value.abs()).fold(0.0, f64::max);
    let noise = mad(&usual, middle).max(0.25 * deviation(&usual)).max(floor * middle.abs()).max(1e-9 + 0.01 * largest);
    Some(Shift { z: (now - middle) / noise, by: now - middle, normal: middle })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_series_that_trembles_has_not_moved() {
        let moved = shift(&[10.0; 20], &[10.1; 5], 0.03, 0.8).unwrap();
        assert!(moved.z < 1.0, "{moved:?}");
    }

    #[test]
    fn a_doubled_value_has_moved_and_holes_do_not_matter() {
        let moved = shift(&[10.0, f64::NAN, 11.0, 9.0, 10.0], &[20.0, f64::INFINITY, 21.0], 0.03, 0.8).unwrap();
        assert!(moved.z > 8.0 && (moved.by - 10.8).abs() < 1e-9, "{moved:?}");
    }

    #[test]
    fn too_few_samples_say_nothing() {
        assert_eq!(shift(&[1.0, 2.0], &[9.0], 0.03, 0.8), None);
        assert_eq!(shift(&[1.0, 2.0, 3.0], &[], 0.03, 0.8), None);
    }
}

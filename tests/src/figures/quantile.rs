//! Quantiles of measured times.

use std::time::Duration;

/// Milliseconds that a share of the times does not exceed (nearest rank); NaN of none.
#[must_use]
pub fn milliseconds(times: &[Duration], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_of_a_hundred_is_the_last_but_one() {
        let times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert!((milliseconds(&times, 0.99) - 99.0).abs() < 1e-9);
        assert!((milliseconds(&times, 0.5) - 50.0).abs() < 1e-9);
        assert!(milliseconds(&[], 0.5).is_nan());
    }
}

//! Which time counts as normal and which as sick, told or found.

use crate::evidence::{Observations, Series};
use crate::robust::{mad, median};
use crate::scene::seconds;

/// The two windows in Unix seconds, both ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Windows {
    pub normal: (f64, f64),
    /// The last minutes of the normal window: slow drifts are compared with what was just before.
    pub recent: (f64, f64),
    pub sick: (f64, f64),
    /// Seconds between two samples.
    pub step: f64,
    /// Whether somebody told the windows; found ones are trusted less.
    pub told: bool,
}

/// Series that are looked at when an onset must be found; more would not make it clearer.
const SERIES_MAX: usize = 600;
/// Samples that a window needs to stand for what is usual.
const SAMPLES_MIN: usize = 8;
/// Splits that are tried.
const SPLITS: usize = 48;

impl Windows {
    /// Told windows, else those around the known beginning, else those around the change point of all series together.
    pub fn of(observations: &Observations) -> Option<Self> {
        let series = observations.series.known()?;
        let step = step(series);
        let first = series.iter().filter_map(|one| one.samples.first()).map(|(at, _)| *at).reduce(f64::min)?;
        let last = series.iter().filter_map(|one| one.samples.last()).map(|(at, _)| *at).reduce(f64::max)?;
        // A sample of one minute that ends after the window still describes it.
        let slack = if step >= 60.0 { step } else { 0.0 };
        if let (Some(normal), Some(fault)) = (observations.normal, observations.fault) {
            let told = (seconds(normal.from), seconds(normal.to));
            let inside = series.iter().any(|one| one.samples.iter().any(|(at, _)| (told.0..=told.1).contains(at)));
            let sick = (seconds(fault.from), seconds(fault.to) + slack);
            if inside {
                return Some(Self::from(told, sick, step, true));
            }
            // The told time has no samples; what was measured outside of the sick time stands in for it.
            let besides = [(first, sick.0 - 1e-3), (sick.1 + 1e-3, last)];
            let enough = |window: &(f64, f64)| series.iter().any(|one| within(one, *window).len() >= SAMPLES_MIN);
            if let Some(normal) = besides.into_iter().find(enough) {
                return Some(Self::from(normal, sick, step, true));
            }
        }
        let (onset, told) = match observations.began {
            Some(began) if seconds(began) > first + 3.0 * step && seconds(began) < last => (seconds(began), true),
            _ => (change_point(series, first, last, step)?, false),
        };
        Some(Self::from((first, onset - 1e-3), (onset, last), step, told))
    }

    fn from(normal: (f64, f64), sick: (f64, f64), step: f64, told: bool) -> Self {
        let recent = match step < 60.0 && normal.1 - normal.0 > 60.0 * step {
            true => (normal.1 - 300.0, normal.1),
            false => normal,
        };
        Self { normal, recent, sick, step, told }
    }
}

/// The values of a series inside a window.
pub fn within(series: &Series, window: (f64, f64)) -> Vec<f64> {
    let inside = series.samples.iter().filter(|(at, value)| (window.0..=window.1).contains(at) && value.is_finite());
    inside.map(|(_, value)| *value).collect()
}

/// The usual distance between two samples.
fn step(series: &[Series]) -> f64 {
    let longest = series.iter().max_by_key(|one| one.samples.len());
    let steps: Vec<f64> =
        longest.into_iter().flat_map(|one| one.samples.windows(2)).map(|pair| pair[1].0 - pair[0].0).collect();
    median(&steps).unwrap_or(1.0).max(1e-3)
}

/// The moment that best splits all series into a before and an after.
///
/// For each split, the shift of each series in units of its noise, capped so that no series decides alone; splits near
/// the ends have few samples on one side and are not tried.
fn change_point(series: &[Series], first: f64, last: f64, step: f64) -> Option<f64> {
    let span = last - first;
    if span < 8.0 * step {
        return None;
    }
    let every = series.len().div_ceil(SERIES_MAX).max(1);
    let mut best: Option<(f64, f64)> = None;
    for index in 0..SPLITS {
        let at = first + span * (0.15 + 0.75 * index as f64 / SPLITS as f64);
        let mut sum = 0.0;
        for one in series.iter().step_by(every) {
            let before = within(one, (first, at - 1e-3));
            let after = within(one, (at, last));
            let (Some(usual), Some(now)) = (median(&before), median(&after)) else { continue };
            if before.len() < 4 || after.len() < 3 {
                continue;
            }
            let noise = mad(&before, usual).max(0.05 * usual.abs()).max(1e-9);
            let spread = mad(&after, now).max(noise);
            sum += ((now - usual).abs() / (noise + 0.5 * spread)).min(12.0) - 2.0;
        }
        if best.is_none_or(|(known, _)| sum > known) {
            best = Some((sum, at));
        }
    }
    best.map(|(_, at)| at)
}

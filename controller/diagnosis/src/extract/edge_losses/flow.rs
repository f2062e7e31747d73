//! What goes one way, before the trouble and since: how much of it is lost.

use std::collections::BTreeMap;

use crate::edge::{Became, PER, Way};
use crate::evidence::Series;
use crate::windows::Windows;

use super::super::metrics::figure;

/// Losses fewer than this may be chance.
const EVENTS_MIN: f64 = 5.0;
/// A rise of the lost share below this nobody feels: transports repair it.
const FELT: f64 = 0.01;
/// How many times the usual worst.
const TIMES: f64 = 2.0;
/// The same where nothing tells how much was sent: only how often something is lost.
const TIMES_BARE: f64 = 4.0;
/// Losses a second, besides: next to nothing times a hundred is still next to nothing.
const RATE_FLOOR: f64 = 0.1;
/// A share that counts in full.
const CLEAR: f64 = 0.05;
/// The same for a growth without a share.
const CLEAR_GROWTH: f64 = 50.0;
/// What is left at least of the weight of anything above the noise.
const SMALL: f64 = 0.4;
/// Parts of the normal time, of which the worst is what is usual.
const PARTS: usize = 4;
/// Share of all losses that one moment may hold: beyond that it is a burst.
const BURST: f64 = 0.5;
/// Standard deviations of a Poisson count.
const SIGMAS: f64 = 3.0;

/// Amounts a second by step of time, all series of one sort together.
#[derive(Clone, Debug, Default)]
struct Rates(BTreeMap<i64, f64>);

/// What is counted one way.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    arrived: Rates,
    lost: Rates,
    refused: Rates,
    tried: Rates,
    answered: Rates,
    /// The question behind what is lost, else behind any of it.
    pub asked: String,
}

/// How much is lost of what goes one way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Share of all, or amount a second where nothing tells how much was sent.
    before: f64,
    now: f64,
    is_share: bool,
    /// From [`SMALL`] to 1.
    pub size: f64,
    /// Whether it is known that more was lost and not just more sent.
    pub compared: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Loses(Loss),
    /// A policy refuses this much a second, which it did not before.
    Refuses {
        now: f64,
    },
    /// Enough goes this way, and no more is lost than before.
    Quiet,
    /// Too little to tell.
    Unmeasured,
}

impl Loss {
    /// As a part of a sentence.
    pub fn told(&self, way: Way) -> String {
        let what = match way {
            Way::Requests => "requests without an answer",
            Way::Connections => "connections that failed",
            Way::Handshakes => "connections without an answer",
            Way::Packets => "packets lost",
        };
        match self.is_share {
            true => format!("{:.1} % {what} ({:.1} % before)", self.now * 100.0, self.before * 100.0),
            false => format!("{} {what} a second ({} before)", figure(self.now), figure(self.before)),
        }
    }
}

impl Rates {
    fn add(&mut self, series: &Series, step: f64) {
        let is_rate = series.labels.contains_key(PER);
        let finite = || series.samples.iter().filter(|(at, value)| at.is_finite() && value.is_finite());
        let mut put = |at: f64, rate: f64| {
            if (0.0..1e12).contains(&rate) {
                *self.0.entry((at / step).round() as i64).or_default() += rate;
            }
        };
        if is_rate {
            finite().for_each(|(at, rate)| put(*at, *rate));
            return;
        }
        for ((from, before), (at, now)) in finite().zip(finite().skip(1)) {
            // A counter that fell began anew.
            let grown = if now >= before { now - before } else { *now };
            if at > from {
                put(*at, grown / (at - from));
            }
        }
    }

    fn within(&self, window: (f64, f64), step: f64) -> impl Iterator<Item = f64> {
        let (from, to) = ((window.0 / step).round() as i64, (window.1 / step).round() as i64);
        self.0.range(from..=to.max(from)).map(|(_, rate)| *rate)
    }

    /// How many in all.
    fn events(&self, window: (f64, f64), step: f64) -> f64 {
        self.within(window, step).sum::<f64>() * step
    }

    /// Whether one moment holds most of what there is.
    fn is_burst(&self, window: (f64, f64), step: f64) -> bool {
        let most = self.within(window, step).fold(0.0, f64::max);
        most * step > BURST * self.events(window, step)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Flow {
    pub fn add(&mut self, became: Became, series: &Series, windows: &Windows) {
        let rates = match became {
            Became::Arrived => &mut self.arrived,
            Became::Lost => &mut self.lost,
            Became::Refused => &mut self.refused,
            Became::Tried => &mut self.tried,
            Became::Answered => &mut self.answered,
        };
        rates.add(series, windows.step);
        if self.asked.is_empty() || matches!(became, Became::Lost | Became::Refused) {
            self.asked.clone_from(&series.asked);
        }
    }

    /// `grown` is how many times more goes this way than before, where anybody measured it.
    pub fn judged(&self, windows: &Windows, grown: Option<f64>) -> Verdict {
        if let Some(now) = self.refused_now(windows) {
            return Verdict::Refuses { now };
        }
        if !self.tried.is_empty() {
            return self.by_share(windows, |window| {
                let (tried, answered) =
                    (self.tried.events(window, windows.step), self.answered.events(window, windows.step));
                // Answers that nobody counts are no loss.
                (if self.answered.is_empty() { 0.0 } else { (tried - answered).max(0.0) }, tried)
            });
        }
        if self.arrived.is_empty() {
            return self.by_rate(windows, grown);
        }
        self.by_share(windows, |window| {
            let lost = self.lost.events(window, windows.step);
            (lost, lost + self.arrived.events(window, windows.step))
        })
    }

    fn refused_now(&self, windows: &Windows) -> Option<f64> {
        let rate = |window: (f64, f64)| self.refused.events(window, windows.step) / length(window);
        let now = rate(windows.sick);
        let usual = parts(windows.normal).into_iter().map(rate).fold(0.0, f64::max);
        let many = self.refused.events(windows.sick, windows.step) >= EVENTS_MIN;
        (many && now >= TIMES_BARE * usual && !self.refused.is_burst(windows.sick, windows.step)).then_some(now)
    }

    /// Compares the lost share with its usual worst; `count` tells what is lost in a window, and of how much.
    fn by_share(&self, windows: &Windows, count: impl Fn((f64, f64)) -> (f64, f64)) -> Verdict {
        let ((lost, all), (_, before)) = (count(windows.sick), count(windows.normal));
        if all < EVENTS_MIN || before < EVENTS_MIN {
            return Verdict::Unmeasured;
        }
        let usual = parts(windows.normal).into_iter().map(count).filter(|(_, all)| *all >= EVENTS_MIN);
        let usual = usual.map(|(lost, all)| lost / all).fold(0.0, f64::max);
        let (now, expected) = (lost / all, usual * all);
        let beyond_chance = lost >= EVENTS_MIN && lost >= expected + SIGMAS * expected.sqrt();
        let burst = self.lost.is_burst(windows.sick, windows.step);
        if !beyond_chance || burst || now < usual + FELT || now < TIMES * usual {
            return Verdict::Quiet;
        }
        let size = (now / CLEAR).clamp(SMALL, 1.0);
        Verdict::Loses(Loss { before: usual, now, is_share: true, size, compared: true })
    }

    /// Compares how often something is lost, less what more traffic explains.
    fn by_rate(&self, windows: &Windows, grown: Option<f64>) -> Verdict {
        if self.lost.is_empty() {
            return Verdict::Unmeasured;
        }
        let rate = |window: (f64, f64)| self.lost.events(window, windows.step) / length(window);
        let now = rate(windows.sick);
        let before = parts(windows.normal).into_iter().map(rate).fold(0.0, f64::max);
        let usual = before * grown.unwrap_or(1.0).max(1.0);
        let many = self.lost.events(windows.sick, windows.step) >= 2.0 * EVENTS_MIN;
        let burst = self.lost.is_burst(windows.sick, windows.step);
        if !many || burst || now < TIMES_BARE * usual || now < usual + RATE_FLOOR {
            return Verdict::Quiet;
        }
        let growth = (now / (usual + RATE_FLOOR)).max(1.0);
        let size = (growth.ln() / CLEAR_GROWTH.ln()).clamp(SMALL, 1.0);
        // Where nothing was lost before, more traffic alone explains nothing.
        let compared = grown.is_some() || before * TIMES_BARE < RATE_FLOOR;
        Verdict::Loses(Loss { before, now, is_share: false, size, compared })
    }
}

fn length(window: (f64, f64)) -> f64 {
    (window.1 - window.0).max(1.0)
}

/// Equal parts of a window.
fn parts(window: (f64, f64)) -> [(f64, f64); PARTS] {
    let part = (window.1 - window.0) / PARTS as f64;
    std::array::from_fn(|number| (window.0 + part * number as f64, window.0 + part * (number + 1) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows =
        Windows { normal: (0.0, 1_200.0), recent: (900.0, 1_200.0), sick: (1_230.0, 1_800.0), step: 30.0, told: true };

    fn rates(value: impl Fn(f64) -> f64) -> Series {
        let labels = [(PER.to_owned(), "second".to_owned())].into();
        let samples = (0..=60).map(|index| f64::from(index) * 30.0).map(|at| (at, value(at))).collect();
        Series { labels, samples, asked: String::new() }
    }

    fn judged(parts: &[(Became, Series)], grown: Option<f64>) -> Verdict {
        let mut flow = Flow::default();
        for (became, series) in parts {
            flow.add(*became, series, &WINDOWS);
        }
        flow.judged(&WINDOWS, grown)
    }

    fn since(at: f64, before: f64, after: f64) -> f64 {
        if at < 1_230.0 { before } else { after }
    }

    #[test]
    fn more_traffic_with_the_same_share_of_losses_is_quiet() {
        let surge = |usual: f64| rates(move |at| since(at, usual, 8.0 * usual));
        assert_eq!(judged(&[(Became::Arrived, surge(10.0)), (Became::Lost, surge(0.05))], None), Verdict::Quiet);
        assert_eq!(judged(&[(Became::Lost, surge(0.5))], Some(8.0)), Verdict::Quiet);
        let unknown = judged(&[(Became::Lost, surge(0.5))], None);
        assert!(matches!(unknown, Verdict::Loses(Loss { compared: false, .. })), "{unknown:?}");
    }

    #[test]
    fn losses_grow_with_the_share_that_is_lost() {
        let size = |lost: f64| {
            let parts = [
                (Became::Arrived, rates(move |at| since(at, 10.0, 10.0 * (1.0 - lost)))),
                (Became::Lost, rates(move |at| since(at, 0.0, 10.0 * lost))),
            ];
            match judged(&parts, None) {
                Verdict::Loses(loss) => loss.size,
                Verdict::Refuses { .. } | Verdict::Quiet | Verdict::Unmeasured => 0.0,
            }
        };
        let sizes = [0.0, 0.005, 0.02, 0.04, 0.3].map(size);
        assert!(sizes.is_sorted() && sizes[1] == 0.0 && sizes[2] > 0.0 && sizes[4] == 1.0, "{sizes:?}");
    }

    #[test]
    fn one_burst_a_bad_quarter_before_and_numbers_that_are_none_are_no_loss() {
        let steady = (Became::Arrived, rates(|_| 10.0));
        let burst = rates(|at| if at == 1_500.0 { 9.0 } else { 0.0 });
        assert_eq!(judged(&[steady.clone(), (Became::Lost, burst)], None), Verdict::Quiet);
        let always = rates(|at| if (300.0..600.0).contains(&at) || at >= 1_230.0 { 1.0 } else { 0.0 });
        assert_eq!(judged(&[steady.clone(), (Became::Lost, always)], None), Verdict::Quiet);
        for odd in [f64::NAN, f64::INFINITY, -1.0, 1e308] {
            assert_eq!(judged(&[steady.clone(), (Became::Lost, rates(|_| odd))], None), Verdict::Quiet, "{odd}");
        }
        assert_eq!(judged(&[(Became::Arrived, rates(|_| 0.0))], None), Verdict::Unmeasured);
    }

    #[test]
    fn a_counter_that_begins_anew_lost_nothing_at_once() {
        let mut counter = rates(|at| at / 100.0);
        counter.labels.clear();
        counter.samples[40].1 = 0.0;
        for (index, sample) in counter.samples.iter_mut().enumerate().skip(41) {
            sample.1 = (index - 40) as f64 * 0.3;
        }
        assert_eq!(judged(&[(Became::Arrived, rates(|_| 10.0)), (Became::Lost, counter)], None), Verdict::Quiet);
    }

    #[test]
    fn handshakes_without_an_answer_are_the_difference_of_two_counts() {
        let parts = |answered: f64| {
            [
                (Became::Tried, rates(|at| since(at, 1.0, 1.3))),
                (Became::Answered, rates(move |at| since(at, 1.0, answered))),
            ]
        };
        assert!(matches!(judged(&parts(1.0), None), Verdict::Loses(_)));
        assert_eq!(judged(&parts(1.3), None), Verdict::Quiet);
        assert_eq!(judged(&parts(1.0)[..1], None), Verdict::Quiet, "answers that nobody counts are no loss");
    }
}

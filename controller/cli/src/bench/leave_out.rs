//! `--leave-out`: what the confidence is worth on cases that it was not fitted on.
//!
//! The constants of `amend_diagnosis::calibration` were chosen on the labelled cases that everybody can read, so their error there is
//! too small. Here the last step of the fit, from what is told to how often that was right, is done anew on a part of the cases and
//! measured on the rest: on the other half of each set, as cases of the same kind that nobody has seen would be, and on sets that
//! had no part in it at all, as another cluster would be. Read it before and after a constant there is changed.

use std::collections::BTreeMap;

use super::sureness::{Told, answered_from, calibration_error, coverage};
use super::{Outcome, text};

/// Draws of halves and of bootstrap samples: more move the printed digits no longer.
const DRAWS: usize = 200;

/// Of how many cases the told confidence itself is worth in a refit: a few answers do not overrule what was fitted on a thousand.
const SHRINKAGE: f64 = 20.0;

/// From which confidences on answers are counted: where Amend speaks, and where it is nearly certain.
const FROM: [f64; 2] = [0.9, 0.95];

/// What is measured of a list of answers: calibration error, coverage, and share and precision from each of [`FROM`].
type Measured = [f64; 6];

fn measured(all: &[Told]) -> Measured {
    let [(speaks, right), (certain, right_then)] = FROM.map(|confidence| answered_from(all, confidence));
    [calibration_error(all), coverage(all), speaks, right, certain, right_then]
}

/// Answers by their data set.
struct Sets(BTreeMap<String, Vec<Told>>);

/// The table that is printed.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut sets: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    for one in outcomes {
        sets.entry(text(&one.label, "dataset").to_owned()).or_default().push(one.told());
    }
    Sets(sets).table()
}

impl Sets {
    fn table(&self) -> String {
        let mut out = format!(
            "\n{:34} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12}\n",
            "confidence (mean ± half-width 95 %)", "ECE", "cov@.95", "from .90", "right", "from .95", "right"
        );
        let mut chance = Chance(1);
        let all: Vec<Told> = self.0.values().flatten().copied().collect();
        let again: Vec<Measured> = (0..DRAWS).map(|_| measured(&self.resampled(&mut chance))).collect();
        out.push_str(&row("as told, all cases", &measured(&all), &again));
        let halves: Vec<[Vec<Vec<Told>>; 2]> = (0..DRAWS).map(|_| self.halved(&mut chance)).collect();
        let told: Vec<Measured> = halves.iter().map(|[_, rest]| measured(&rest.concat())).collect();
        out.push_str(&row("as told, half of each set", &mean(&told), &told));
        let refitted: Vec<Measured> = halves
            .iter()
            .map(|[fitted, rest]| measured(&Curve::fitted(&fitted.concat()).applied(&rest.concat())))
            .collect();
        out.push_str(&row("refitted on the other half", &mean(&refitted), &refitted));
        let left_out = self.left_out();
        let pooled: Vec<Told> = left_out.values().flatten().copied().collect();
        let again: Vec<Measured> =
            (0..DRAWS).map(|_| measured(&Self(left_out.clone()).resampled(&mut chance))).collect();
        out.push_str(&row("refitted on the other sets", &measured(&pooled), &again));
        out.push_str(&format!("\n{:24} {:>6} {:>6} {:>7} {:>6}\n", "set left out", "cases", "right", "told", "ECE"));
        for (name, all) in &left_out {
            let count = all.len().max(1) as f64;
            let right = all.iter().filter(|one| one.right).count() as f64 / count;
            let told = all.iter().map(|one| one.confidence).sum::<f64>() / count;
            out.push_str(&format!("{name:24} {:6} {right:6.3} {told:7.3} {:6.3}\n", all.len(), calibration_error(all)));
        }
        out
    }

    /// Each set's answers as a curve makes them that was fitted on all other sets.
    fn left_out(&self) -> BTreeMap<String, Vec<Told>> {
        let others = |name: &str| -> Vec<Told> {
            self.0.iter().filter(|(other, _)| *other != name).flat_map(|(_, all)| all).copied().collect()
        };
        self.0.iter().map(|(name, all)| (name.clone(), Curve::fitted(&others(name)).applied(all))).collect()
    }

    /// As many cases of each set, drawn with repetition.
    fn resampled(&self, chance: &mut Chance) -> Vec<Told> {
        self.0
            .values()
            .flat_map(|all| (0..all.len()).map(|_| all[chance.below(all.len())]).collect::<Vec<_>>())
            .collect()
    }

    /// Each set cut into two halves by chance.
    fn halved(&self, chance: &mut Chance) -> [Vec<Vec<Told>>; 2] {
        let cut = self.0.values().map(|all| {
            let mut mixed = all.clone();
            for index in (1..mixed.len()).rev() {
                mixed.swap(index, chance.below(index + 1));
            }
            let rest = mixed.split_off(mixed.len() / 2);
            (mixed, rest)
        });
        let (fitted, rest) = cut.unzip();
        [fitted, rest]
    }
}

fn mean(draws: &[Measured]) -> Measured {
    std::array::from_fn(|index| draws.iter().map(|one| one[index]).sum::<f64>() / draws.len().max(1) as f64)
}

/// One line: each figure with half of the span that holds 95 % of the draws.
fn row(name: &str, figures: &Measured, draws: &[Measured]) -> String {
    let cells: Vec<String> = figures
        .iter()
        .enumerate()
        .map(|(index, figure)| {
            let mut seen: Vec<f64> = draws.iter().map(|one| one[index]).collect();
            seen.sort_by(f64::total_cmp);
            let at = |share: f64| seen.get(((seen.len().saturating_sub(1)) as f64 * share).round() as usize);
            let half = at(0.975).zip(at(0.025)).map_or(0.0, |(high, low)| (high - low) / 2.0);
            format!("{figure:6.3} ±{half:.3}")
        })
        .collect();
    format!("{name:35} {}\n", cells.join(" "))
}

/// From a told confidence to how often it was right: rising, piecewise linear.
///
/// Isotonic regression by pooling adjacent violators (Ayer et al., "An empirical distribution function for sampling with incomplete
/// information", Annals of Mathematical Statistics 26, 1955), each block shrunk to what it told.
struct Curve(Vec<(f64, f64)>);

/// Answers of neighbouring confidence that are judged together.
struct Block {
    told: f64,
    /// The highest confidence in it.
    highest: f64,
    right: f64,
    count: f64,
}

impl Block {
    fn frequency(&self) -> f64 {
        self.right / self.count
    }
}

impl Curve {
    fn fitted(answers: &[Told]) -> Self {
        let mut sorted = answers.to_vec();
        sorted.sort_by(|a, b| a.confidence.total_cmp(&b.confidence));
        let mut blocks: Vec<Block> = Vec::new();
        for one in sorted {
            let right = f64::from(u8::from(one.right));
            let mut block = Block { told: one.confidence, highest: one.confidence, right, count: 1.0 };
            // Answers of one confidence are one block, whatever their order.
            while let Some(before) =
                blocks.pop_if(|before| before.frequency() >= block.frequency() || before.highest == one.confidence)
            {
                block.told += before.told;
                block.right += before.right;
                block.count += before.count;
            }
            blocks.push(block);
        }
        let shrunk = |block: &Block| {
            let told = block.told / block.count;
            (told, (block.right + SHRINKAGE * told) / (block.count + SHRINKAGE))
        };
        let mut knots: Vec<(f64, f64)> = blocks.iter().map(shrunk).collect();
        // Shrinking small blocks harder than large ones may turn two of them round.
        let mut highest = 0.0;
        for (_, frequency) in &mut knots {
            highest = f64::max(highest, *frequency);
            *frequency = highest;
        }
        Self(knots)
    }

    fn at(&self, told: f64) -> f64 {
        let Self(knots) = self;
        let next = knots.partition_point(|(knot, _)| *knot < told);
        match (next.checked_sub(1).and_then(|before| knots.get(before)), knots.get(next)) {
            (Some((from, low)), Some((to, high))) => low + (high - low) * (told - from) / (to - from),
            (Some((_, frequency)), None) | (None, Some((_, frequency))) => *frequency,
            (None, None) => told,
        }
    }

    fn applied(&self, answers: &[Told]) -> Vec<Told> {
        answers.iter().map(|one| Told { confidence: self.at(one.confidence), right: one.right }).collect()
    }
}

/// Draws that are the same each time, so that two tables differ by what was changed and not by luck.
///
/// The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
struct Chance(u64);

impl Chance {
    /// A number from 0 to below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` answers of one confidence, of which `right` are right.
    fn told(confidence: f64, count: usize, right: usize) -> Vec<Told> {
        (0..count).map(|index| Told { confidence, right: index < right }).collect()
    }

    #[test]
    fn a_curve_rises_and_moves_towards_what_was_seen() {
        let curve = Curve::fitted(&[told(0.3, 200, 120), told(0.6, 200, 120), told(0.9, 200, 120)].concat());
        let steps: Vec<f64> = (0..=100).map(|step| curve.at(f64::from(step) / 100.0)).collect();
        assert!(steps.is_sorted(), "{steps:?}");
        assert!(steps.iter().all(|frequency| (0.55..0.65).contains(frequency)), "{steps:?}");
    }

    #[test]
    fn equal_confidences_have_one_frequency_in_any_order() {
        let mixed = [told(0.9, 10, 0), told(0.9, 10, 10)].concat();
        let curve = Curve::fitted(&mixed);
        assert_eq!(curve.0.len(), 1);
        assert!((0.5..0.9).contains(&curve.at(0.9)), "{}", curve.at(0.9));
    }

    #[test]
    fn a_few_answers_do_not_overrule_what_is_told() {
        let curve = Curve::fitted(&told(0.9, 5, 0));
        assert!((0.7..0.9).contains(&curve.at(0.9)), "{}", curve.at(0.9));
        assert_eq!(Curve::fitted(&[]).at(0.4), 0.4);
    }

    #[test]
    fn a_set_that_is_left_out_keeps_the_error_that_the_fit_would_hide() {
        let sets =
            Sets([("honest".to_owned(), told(0.9, 300, 270)), ("boasting".to_owned(), told(0.9, 300, 90))].into());
        let all: Vec<Told> = sets.0.values().flatten().copied().collect();
        assert!(calibration_error(&Curve::fitted(&all).applied(&all)) < 0.05);
        let left_out = sets.left_out();
        assert!(calibration_error(&left_out["boasting"]) > 0.5, "the other set told nothing of it");
        let table = sets.table();
        assert!(table.contains("boasting") && table.contains("refitted on the other half"), "{table}");
        assert_eq!(table, sets.table(), "the draws are the same each time");
    }

    #[test]
    fn halves_are_halves_and_lose_nobody() {
        let sets = Sets([("one".to_owned(), told(0.5, 7, 3)), ("two".to_owned(), told(0.7, 10, 9))].into());
        let [fitted, rest] = sets.halved(&mut Chance(7));
        assert_eq!(fitted.iter().map(Vec::len).collect::<Vec<_>>(), [3, 5]);
        let right = |all: &[Vec<Told>]| all.iter().flatten().filter(|one| one.right).count();
        assert_eq!(right(&fitted) + right(&rest), 12);
    }
}

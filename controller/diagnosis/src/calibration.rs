//! Calibration: from a share of the evidence to a probability that means frequency, and when to keep silent.

use std::collections::BTreeSet;

use crate::diagnosis::cause;
use crate::extract::AGREEING;
use crate::finding::Modality;
use crate::inference::Hypothesis;
use crate::scene::Scene;

/// Below this nobody may act: the answer is shown, with what would decide it.
///
/// At .9 the answers on 1,110 public cases were right in .98; the risk bound of 5 % holds with room. Policies raise it by
/// `minConfidence`, and trust is counted anew in each cluster.
pub const SPEAK: f64 = 0.9;

/// Log-odds of an answer whose duel with its strongest rival is even, before all else.
///
/// This and what follows down to [`ONE_SORT`] is one logistic regression over the best answers of 1,110 public cases (ridge of 1), and
/// the whole fit. Fitted anew on all sets but one, all eight, it is off by .028 on the sets that it has not seen, as on those that it
/// has. What was tried and told them apart no better: the share among all rivals, the entropy over them, whether the onset was told.
const BASE: f64 = 2.5;
/// What the log-odds of the duel count: less than in full, since the evidence on both sides is not independent.
const DUEL: f64 = 0.66;
/// For each e-fold of entities that compete: the more there are, the likelier one of them is loud by chance.
const CROWD: f64 = -0.68;
/// For each e-fold of the strongest sign in nats, one added: a clear sign is worth more than many faint ones.
const CLEAR: f64 = 0.86;
/// Alerts alone say what moved, and not by how much.
const BARE: f64 = -0.79;
/// Besides: one sign of a resource, or signs that callers inherit.
const WEAK: f64 = -1.45;
/// What Kubernetes says of its objects needs no comparison.
const STATE: f64 = 1.49;
/// Nothing of another sort agrees.
const ONE_SORT: f64 = -1.16;

/// Duels nearer to 0 or 1 are no surer.
const EVEN_LESS: f64 = 0.001;

/// No answer is surer than the duel with its strongest rival to this power, be it another entity or another story about its own,
/// whatever else speaks for it: two that are even leave .79, and to speak takes odds of three to one. Few public cases need it; two
/// releases of one minute do, and one entity with two equal signs of different remedies.
const DUEL_BOUND: f64 = 1.0 / 3.0;

/// What is left of any sureness: some failures leave no trace in any store, and some stores mix up what they hold.
///
/// A factor and no ceiling, so that what is clearer stays surer up to the end.
const SUREST: f64 = 0.99;

/// Fitted on best answers only: a runner-up below this share keeps its share.
const RUNNER_UP: f64 = 0.3;

/// What each sort of observation that says nothing takes from the log-odds of an answer: it could have spoken against it.
///
/// Small, since most public cases of the fit hold one or two of six; large enough that losing a store never goes unnoticed.
const SILENT: f64 = 0.06;
/// Sorts of observation that are usually silent in the cases of the fit.
const SILENT_USUALLY: f64 = 5.0;

/// When an entity merely fails and nobody knows all that was changed: a bad release looks the same.
const CHANGES_UNKNOWN: f64 = -1.0;

fn log_odds(probability: f64) -> f64 {
    let bounded = probability.clamp(EVEN_LESS, 1.0 - EVEN_LESS);
    (bounded / (1.0 - bounded)).ln()
}

/// The probability that a hypothesis is right.
pub fn confidence(scene: &Scene<'_>, hypothesis: &Hypothesis, best: bool) -> f64 {
    if !best && hypothesis.share < RUNNER_UP {
        return rounded(hypothesis.share);
    }
    let sort = Sort::of(scene, hypothesis);
    let strongest = hypothesis.findings.iter().map(|finding| finding.weight).fold(0.0, f64::max);
    let silent = SILENT * (SILENT_USUALLY - scene.silent_modalities() as f64);
    let bound = hypothesis.duel.min(hypothesis.own_duel).clamp(0.0, 1.0).powf(DUEL_BOUND);
    rounded(sort.confidence(hypothesis.duel, hypothesis.rivals, strongest, silent).min(bound))
}

fn rounded(probability: f64) -> f64 {
    (probability * 1000.0).round() / 1000.0
}

/// What sort of evidence an answer rests on.
#[derive(Clone, Copy, Debug, Default)]
struct Sort {
    bare: bool,
    weak: bool,
    state: bool,
    one: bool,
    blind: bool,
}

impl Sort {
    fn of(scene: &Scene<'_>, hypothesis: &Hypothesis) -> Self {
        let speaking: BTreeSet<Modality> =
            hypothesis.findings.iter().filter(|finding| finding.weight > 0.0).map(|finding| finding.modality).collect();
        let one = speaking.len() <= 1;
        let figures = hypothesis.findings.iter().any(|finding| finding.fault.is_some());
        let bare = one && speaking.contains(&Modality::Alerts) && !figures;
        let inheritable =
            [cause::LATENCY, cause::NETWORK, cause::ERRORS, cause::UNAVAILABLE].contains(&hypothesis.kind);
        let resource = [cause::MEMORY, cause::CPU, cause::DISK].contains(&hypothesis.kind);
        let agreeing = hypothesis.findings.iter().find_map(|finding| finding.measures.get(AGREEING));
        let single = resource && agreeing.is_some_and(|count| count == "1");
        let state = speaking.contains(&Modality::State);
        let fails = hypothesis.kind == cause::DEPENDENCY && !outside(hypothesis);
        let blind = fails && scene.observations.unread_changes().is_some();
        Self { bare, weak: bare && (single || inheritable), state, one, blind }
    }

    /// `strongest` is the strongest sign in nats, `silent` what the silence of stores adds.
    fn confidence(self, duel: f64, rivals: usize, strongest: f64, silent: f64) -> f64 {
        let sorts = [
            (self.bare, BARE),
            (self.weak, WEAK),
            (self.state, STATE),
            (self.one, ONE_SORT),
            (self.blind, CHANGES_UNKNOWN),
        ];
        let sort: f64 = sorts.iter().filter(|(is, _)| *is).map(|(_, nats)| nats).sum();
        let strength = DUEL * log_odds(duel) + CROWD * (rivals.max(1) as f64).ln() + CLEAR * strongest.ln_1p();
        let odds = (BASE + strength + sort + silent).exp();
        SUREST * odds / (1.0 + odds)
    }
}

/// Whether what fails is a thing outside, named by those who call it: no release of the entity brought that.
fn outside(hypothesis: &Hypothesis) -> bool {
    let dependency = hypothesis.findings.iter().find_map(|finding| finding.measures.get("dependency"));
    dependency.is_some_and(|dependency| *dependency != hypothesis.entity.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRONG: Sort = Sort { bare: false, weak: false, state: true, one: false, blind: false };

    #[test]
    fn every_silent_store_takes_some_confidence() {
        let steps: Vec<f64> = (0..=6)
            .map(|silent| STRONG.confidence(0.8, 6, 2.0, SILENT * (SILENT_USUALLY - f64::from(silent))))
            .collect();
        assert!(steps.windows(2).all(|pair| pair[1] <= pair[0]), "{steps:?}");
        let weaker = Sort { state: false, one: true, ..STRONG };
        let steps: Vec<f64> = (0..=6)
            .map(|silent| weaker.confidence(0.8, 6, 2.0, SILENT * (SILENT_USUALLY - f64::from(silent))))
            .collect();
        assert!(steps.windows(2).all(|pair| pair[1] < pair[0]), "{steps:?}");
    }

    #[test]
    fn more_evidence_never_lowers_the_confidence_and_more_rivals_never_raise_it() {
        for sort in [STRONG, Sort { bare: true, weak: true, one: true, state: false, ..STRONG }, Sort::default()] {
            let steps: Vec<f64> =
                (0..=100).map(|step| f64::from(step) / 100.0).map(|at| sort.confidence(at, 5, 3.0 * at, 0.0)).collect();
            assert!(steps.is_sorted(), "{steps:?}");
            assert!(steps.iter().all(|value| (0.0..=SUREST).contains(value)));
            let crowds: Vec<f64> = (1..40).map(|rivals| -sort.confidence(0.8, rivals, 3.0, 0.0)).collect();
            assert!(crowds.is_sorted(), "{crowds:?}");
        }
    }

    #[test]
    fn of_two_that_are_even_none_is_sure_whatever_speaks_for_them() {
        assert!(0.5_f64.powf(DUEL_BOUND) < 0.8 && 0.72_f64.powf(DUEL_BOUND) < SPEAK);
        assert!(0.98_f64.powf(DUEL_BOUND) > SPEAK);
    }
}

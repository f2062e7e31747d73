//! Calibration: from a share of the evidence to a probability that means frequency, and when to keep silent.

use std::collections::BTreeSet;

use crate::diagnosis::cause;
use crate::entity::EntityKind;
use crate::extract::AGREEING;
use crate::finding::Modality;
use crate::inference::Hypothesis;
use crate::scene::Scene;

/// Below this nobody may act: the answer is shown, with what would decide it.
///
/// At .9 the answers on 1,110 public cases were right in .965; the risk bound of 5 % holds with room. Policies raise it by
/// `minConfidence`, and trust is counted anew in each cluster.
pub const SPEAK: f64 = 0.9;

/// Raw confidence and how often it was right on the public development cases: isotonic regression, rounded to few knots.
const FREQUENCY: [(f64, f64); 9] = [
    (0.0, 0.0),
    (0.05, 0.1),
    (0.12, 0.3),
    (0.3, 0.4),
    (0.45, 0.7),
    (0.6, 0.82),
    (0.72, 0.93),
    (0.85, 0.985),
    (1.0, 0.99),
];

/// Fitted on best answers only: a runner-up below this keeps its raw value.
const RUNNER_UP: f64 = 0.3;

fn frequency(raw: f64) -> f64 {
    let between = FREQUENCY.windows(2).find(|pair| (pair[0].0..=pair[1].0).contains(&raw));
    match between {
        Some([(from, low), (to, high)]) => low + (high - low) * (raw - from) / (to - from),
        _ => raw.clamp(0.0, 1.0),
    }
}

/// No diagnosis from outside is surer than this: some failures leave no trace in any store.
const CEILING: f64 = 0.97;

/// Below this share a hypothesis is one of many, and stays what it is.
const ONE_OF_MANY: f64 = 0.2;

/// How much is left of an answer that rests on inheritable signs, or on one sign only, in alerts alone: on public data every second
/// such answer is right, at any share.
const INHERITABLE: f64 = 0.6;

/// What is left above nine tenths where alerts alone say that a resource rose, and not by how much: of those, every tenth was
/// wrong, whatever their share.
const ABOVE_SPEAK: f64 = 0.3;

/// What each sort of observation that says nothing takes from the log-odds of an answer: it could have spoken against it.
///
/// Small, since most public cases of the fit hold one or two of six; large enough that losing a store never goes unnoticed.
const SILENT: f64 = 0.06;
/// Sorts of observation that are usually silent in the cases of the fit.
const SILENT_USUALLY: f64 = 5.0;

/// What is left when an entity merely fails and nobody knows what was changed: a bad release looks the same.
const CHANGES_UNKNOWN: f64 = 0.75;

fn moved(probability: f64, nats: f64) -> f64 {
    let odds = probability / (1.0 - probability).max(1e-9) * nats.exp();
    odds / (1.0 + odds)
}

/// The probability that a hypothesis is right.
///
/// Shares of telemetry with told windows are too modest on public data (bins .3 to .6 were right 85 to 100 %), since rival
/// entities add up the same trouble; their square root is near the frequency. What state and changes say is taken as it is.
///
/// Where alerts alone say that a resource of an entity rose, and not by how much, the duel with the next entity weighs as much as the
/// share: memory and CPU of many others move in the same minutes for reasons of their own, and a crowd of weak rivals takes from a
/// cause that stands out clearly. On public data the two together tell right from wrong answers better than either alone.
pub fn confidence(scene: &Scene<'_>, hypothesis: &Hypothesis, best: bool) -> f64 {
    let speaking: BTreeSet<Modality> =
        hypothesis.findings.iter().filter(|finding| finding.weight > 0.0).map(|finding| finding.modality).collect();
    let alerts_only = speaking.len() == 1 && speaking.contains(&Modality::Alerts);
    let inheritable = [cause::LATENCY, cause::NETWORK, cause::ERRORS, cause::UNAVAILABLE].contains(&hypothesis.kind);
    let measured = speaking.contains(&Modality::Metrics) || speaking.contains(&Modality::Traces);
    let told = scene.windows.is_some_and(|windows| windows.told);
    let figures = hypothesis.findings.iter().any(|finding| finding.fault.is_some());
    let resource = [cause::MEMORY, cause::CPU, cause::DISK].contains(&hypothesis.kind);
    let single = resource
        && hypothesis.findings.iter().any(|finding| finding.measures.get(AGREEING).is_some_and(|count| count == "1"));
    let direction_only = alerts_only && resource && !figures;
    let share = match hypothesis.share {
        // The two sides of a border do not add up the same trouble: one of them is it and the other is not.
        share if hypothesis.entity.kind == EntityKind::Node && hypothesis.kind == cause::NETWORK => share,
        share if alerts_only && single => share * INHERITABLE,
        share if alerts_only && inheritable && !figures => share * INHERITABLE,
        share if share < ONE_OF_MANY => share,
        share if direction_only => (share * hypothesis.duel).sqrt(),
        share
            if alerts_only
                || (measured && told && !hypothesis.is_release() && !speaking.contains(&Modality::State)) =>
        {
            share.sqrt()
        }
        share => share,
    };
    let ceiling = if speaking.len() <= 1 { 0.92 } else { CEILING };
    let fails = hypothesis.kind == cause::DEPENDENCY && !outside(hypothesis);
    let blind = fails && scene.observations.changes.known().is_none();
    let raw = share * ceiling * if blind { CHANGES_UNKNOWN } else { 1.0 };
    let confidence = if best || raw >= RUNNER_UP { frequency(raw) } else { raw };
    let confidence = moved(confidence, SILENT * (SILENT_USUALLY - scene.silent_modalities() as f64));
    let beyond = if direction_only { ABOVE_SPEAK } else { 1.0 };
    let confidence = confidence.min(SPEAK) + beyond * (confidence - SPEAK).max(0.0);
    (confidence * 1000.0).round() / 1000.0
}

/// Whether what fails is a thing outside, named by those who call it: no release of the entity brought that.
fn outside(hypothesis: &Hypothesis) -> bool {
    let dependency = hypothesis.findings.iter().find_map(|finding| finding.measures.get("dependency"));
    dependency.is_some_and(|dependency| *dependency != hypothesis.entity.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_silent_store_takes_some_confidence() {
        let steps: Vec<f64> =
            (0..=6).map(|silent| moved(0.95, SILENT * (SILENT_USUALLY - f64::from(silent)))).collect();
        assert!(steps.windows(2).all(|pair| pair[1] < pair[0]), "{steps:?}");
        assert!(steps.iter().all(|value| (0.9..1.0).contains(value)), "{steps:?}");
    }

    #[test]
    fn more_evidence_never_lowers_the_confidence() {
        let steps: Vec<f64> = (0..=100).map(|step| frequency(f64::from(step) / 100.0)).collect();
        assert!(steps.is_sorted(), "{steps:?}");
        assert!(steps.iter().all(|value| (0.0..=1.0).contains(value)));
    }
}

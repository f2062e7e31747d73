//! Calibration: from a share of the evidence to a probability that means frequency, and when to keep silent.

use std::collections::BTreeSet;

use crate::diagnosis::cause;
use crate::extract::AGREEING;
use crate::finding::Modality;
use crate::inference::Hypothesis;
use crate::scene::Scene;

/// Below this nobody may act: the answer is shown, with what would decide it.
///
/// A judgement until trust is counted per cluster: at .7 three of ten actions would be wrong at worst, and policies raise
/// it by `minConfidence`.
pub const SPEAK: f64 = 0.7;

/// No diagnosis from outside is surer than this: some failures leave no trace in any store.
const CEILING: f64 = 0.97;

/// Below this share a hypothesis is one of many, and stays what it is.
const ONE_OF_MANY: f64 = 0.2;

/// How much is left of an answer that rests on inheritable signs, or on one sign only, in alerts alone: on public data such answers are right
/// four times in ten, whatever their share.
const INHERITABLE: f64 = 0.45;

/// The probability that a hypothesis is right.
///
/// Shares of telemetry with told windows are too modest on public data (bins .3 to .6 were right 85 to 100 %), since rival
/// entities add up the same trouble; their square root is near the frequency. What state and changes say is taken as it is.
pub fn confidence(scene: &Scene<'_>, hypothesis: &Hypothesis) -> f64 {
    let speaking: BTreeSet<Modality> =
        hypothesis.findings.iter().filter(|finding| finding.weight > 0.0).map(|finding| finding.modality).collect();
    let alerts_only = speaking.len() == 1 && speaking.contains(&Modality::Alerts);
    let inheritable = [cause::LATENCY, cause::NETWORK, cause::ERRORS, cause::UNAVAILABLE].contains(&hypothesis.kind);
    let measured = speaking.contains(&Modality::Metrics) || speaking.contains(&Modality::Traces);
    let told = scene.windows.is_some_and(|windows| windows.told);
    let figures = hypothesis.findings.iter().any(|finding| finding.fault.is_some());
    let single = [cause::MEMORY, cause::CPU, cause::DISK].contains(&hypothesis.kind)
        && hypothesis.findings.iter().any(|finding| finding.measures.get(AGREEING).is_some_and(|count| count == "1"));
    let share = match hypothesis.share {
        share if alerts_only && single => share * INHERITABLE,
        share if alerts_only && inheritable && !figures => share * INHERITABLE,
        share if share < ONE_OF_MANY => share,
        share if alerts_only || (measured && told && !speaking.contains(&Modality::State)) => share.sqrt(),
        share => share,
    };
    let ceiling = if speaking.len() <= 1 { 0.92 } else { CEILING };
    let confidence = share * ceiling;
    (confidence * 1000.0).round() / 1000.0
}

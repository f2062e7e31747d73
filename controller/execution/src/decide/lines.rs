//! Verdicts, shortened so that all of them fit into one journal entry.

use amend_policies::verdict::{Outcome, Verdict};
use serde::Serialize;

use crate::journal::{ENTRY_BYTES_MAX, GateLine, MetricLine, Word};
use crate::verify::MetricVerdict;

/// Room left in an entry for everything around the lines.
const AROUND: usize = 1024;

/// One line per verdict, in their order; sentences are cut as far as needed, those that pass first.
pub fn gate_lines(verdicts: &[Verdict]) -> Vec<GateLine> {
    let lines = |passing: usize, others: usize| -> Vec<GateLine> {
        verdicts
            .iter()
            .map(|verdict| {
                let word = word(verdict.outcome);
                let most = if word == Word::Pass { passing } else { others };
                GateLine {
                    gate: format!("{}.{}", verdict.gate.name(), verdict.question).into(),
                    verdict: word,
                    sentence: cut(&verdict.sentence, most).into(),
                }
            })
            .collect()
    };
    [(320, 320), (80, 240), (0, 160), (0, 60), (0, 0)]
        .into_iter()
        .map(|(passing, others)| lines(passing, others))
        .find(fits)
        .unwrap_or_else(|| lines(0, 0).into_iter().take(24).collect())
}

/// One line per metric, of at most eight; cut like the gates' lines.
pub(super) fn metric_lines(metrics: &[MetricVerdict]) -> Vec<MetricLine> {
    let lines = |most: usize| -> Vec<MetricLine> {
        metrics
            .iter()
            .take(8)
            .map(|metric| MetricLine {
                metric: cut(&metric.metric, 60).into(),
                verdict: metric.verdict,
                sentence: cut(&metric.sentence, most).into(),
            })
            .collect()
    };
    [320, 240, 120].into_iter().map(lines).find(fits).unwrap_or_else(|| lines(0))
}

fn fits(lines: &impl Serialize) -> bool {
    serde_json::to_vec(lines).is_ok_and(|json| json.len() + AROUND <= ENTRY_BYTES_MAX)
}

fn cut(sentence: &str, most: usize) -> String {
    match sentence.char_indices().nth(most) {
        Some((end, _)) if most > 0 => format!("{}…", &sentence[..end]),
        Some(_) => String::new(),
        None => sentence.to_owned(),
    }
}

fn word(outcome: Outcome) -> Word {
    match outcome {
        Outcome::Pass => Word::Pass,
        Outcome::Fail => Word::Fail,
        Outcome::Unknown => Word::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amend_policies::verdict::GateName;

    #[test]
    fn forty_wordy_verdicts_fit_into_one_entry_and_keep_the_reasons_longest() {
        let wordy = "ü".repeat(1000);
        let verdicts: Vec<Verdict> =
            (0..20).map(|_| Verdict::pass(GateName::Environment, "writers", wordy.clone())).collect();
        let lines = gate_lines(&verdicts);
        assert_eq!(lines.len(), 20);
        assert!(fits(&lines));
        let verdicts = [Verdict::pass(GateName::Environment, "a", &wordy), Verdict::fail(GateName::Fits, "b", "short")];
        assert_eq!(gate_lines(&verdicts)[1].sentence.as_str(), "short");
    }
}

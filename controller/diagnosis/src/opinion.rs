//! What an optional language model may say about a diagnosis: another order of the causes that it holds, and a sentence.
//!
//! It chooses from a closed menu. Whatever it answers, no cause appears, vanishes or becomes surer: an [`Opinion`] is kept
//! beside the [`Diagnosis`], which nobody changes, and the rooms that match policies, plan and act never see it.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::diagnosis::Diagnosis;
use crate::logs::clean::plain;
use crate::signal::Signal;

/// Causes on the menu.
pub const MENU_MAX: usize = 5;

/// Letters of a summary that are kept: a short paragraph.
pub const SUMMARY_MAX: usize = 600;

/// Letters of any text from telemetry that the model gets to see: enough for a sentence, too little for a speech.
const TOLD_MAX: usize = 240;

/// Signals and facts that the model gets to see.
const SIGNALS_MAX: usize = 8;
const FACTS_MAX: usize = 4;

/// A model's view of one diagnosis. Untrusted text; shown as such.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Opinion {
    /// Name of the model.
    pub by: String,
    /// The menu that it was asked about; another menu asks anew.
    pub about: String,
    /// Why there is no answer; then the rest is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// Ranks of the engine's causes, from 1, in the model's order: always a permutation of 1 to the length of the menu.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<u32>,
    /// Things in its answer that are not on the menu.
    #[serde(default)]
    pub ignored: u32,
}

impl Opinion {
    /// The line that is shown to people, which says whose words these are; `None` when it said nothing about this diagnosis.
    pub fn note(&self, diagnosis: &Diagnosis) -> Option<String> {
        if self.about != menu(diagnosis) || self.unknown.is_some() {
            return None;
        }
        let first = self.order.first().copied().filter(|rank| *rank != 1);
        let first = first.and_then(|rank| diagnosis.causes.get(rank as usize - 1));
        let order = first.map(|cause| format!("it would look at {} first; the order of Amend stands", cause.kind));
        let said = match (self.summary.is_empty(), order) {
            (true, None) => return None,
            (true, Some(order)) => order,
            (false, None) => self.summary.clone(),
            (false, Some(order)) => format!("{} ({order})", self.summary),
        };
        Some(format!("phrased by a model ({}), may be wrong: {said}", self.by))
    }
}

/// Names the menu of a diagnosis: its best causes by kind and entity. Empty when there is nothing to choose from.
pub fn menu(diagnosis: &Diagnosis) -> String {
    let best = diagnosis.causes.iter().take(MENU_MAX);
    best.map(|cause| format!("{} on {}", cause.kind, cause.entity)).collect::<Vec<_>>().join("; ")
}

/// What the model is told, before credentials are taken out: bounded, and all text from telemetry in JSON strings.
pub fn told(diagnosis: &Diagnosis, signals: &[Signal]) -> Value {
    let cut = |text: &str| plain(text).chars().take(TOLD_MAX).collect::<String>();
    let facts = |facts: &[crate::diagnosis::Fact]| -> Vec<String> {
        facts.iter().take(FACTS_MAX).map(|fact| cut(&fact.sentence)).collect()
    };
    let causes = diagnosis.causes.iter().take(MENU_MAX).enumerate().map(|(rank, cause)| {
        json!({
            "id": id(rank), "kind": cause.kind, "entity": cut(&cause.entity.to_string()), "confidence": cause.confidence,
            "sentence": cut(&cause.sentence), "for": facts(&cause.facts_for), "against": facts(&cause.facts_against),
        })
    });
    let signals = signals.iter().take(SIGNALS_MAX).map(|signal| {
        json!({ "name": cut(&signal.name), "entity": cut(&signal.entity.to_string()), "summary": cut(&signal.summary) })
    });
    json!({
        "signals": signals.collect::<Vec<_>>(), "causes": causes.collect::<Vec<_>>(),
        "notSure": diagnosis.abstained.as_deref().map(cut),
    })
}

fn id(rank: usize) -> String {
    format!("c{}", rank + 1)
}

/// What is taken from an answer: ids of the menu, each once, in the order given; those that are missing follow in the
/// engine's order. Anything else is counted and forgotten.
pub fn heard(answer: &str, diagnosis: &Diagnosis, by: &str) -> Opinion {
    let menu_length = diagnosis.causes.len().min(MENU_MAX);
    let mut opinion = Opinion {
        by: plain(by).chars().take(64).collect(),
        about: menu(diagnosis),
        unknown: None,
        summary: String::new(),
        order: Vec::new(),
        ignored: 0,
    };
    let Ok(Value::Object(said)) = serde_json::from_str::<Value>(answer.trim()) else {
        opinion.unknown = Some("its answer is not the JSON object that was asked for".to_owned());
        return opinion;
    };
    let mut seen = BTreeSet::new();
    for (key, value) in &said {
        match (key.as_str(), value) {
            ("summary", Value::String(text)) => {
                let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
                opinion.summary = plain(&line).chars().take(SUMMARY_MAX).collect();
            }
            ("order", Value::Array(ids)) => {
                for chosen in ids {
                    let rank = chosen.as_str().and_then(|chosen| (0..menu_length).find(|rank| id(*rank) == chosen));
                    match rank {
                        Some(rank) if seen.insert(rank) => opinion.order.push(rank as u32 + 1),
                        _ => opinion.ignored = opinion.ignored.saturating_add(1),
                    }
                }
            }
            _ => opinion.ignored = opinion.ignored.saturating_add(1),
        }
    }
    opinion.order.extend((0..menu_length).filter(|rank| !seen.contains(rank)).map(|rank| rank as u32 + 1));
    opinion
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::diagnosis::{Cause, Fact};
    use crate::entity::{Entity, EntityKind};
    use crate::graph::RootCauseGraph;

    fn diagnosis(causes: usize) -> Diagnosis {
        let cause = |rank: usize| Cause {
            kind: format!("kind.{rank}"),
            entity: Entity::new(EntityKind::Deployment, "shop", "checkout"),
            change: None,
            confidence: 0.9 / (rank + 1) as f64,
            sentence: "checkout needs more memory".to_owned(),
            facts_for: vec![Fact { sentence: format!("log line {}", "x".repeat(5_000)), asked: String::new() }],
            facts_against: Vec::new(),
            measures: BTreeMap::new(),
        };
        Diagnosis {
            causes: (0..causes).map(cause).collect(),
            abstained: None,
            unexplained: Vec::new(),
            graph: RootCauseGraph::default(),
            slowest: Vec::new(),
            followed: None,
            stories: Vec::new(),
            deep: None,
            alignment: Default::default(),
            asked: Vec::new(),
        }
    }

    #[test]
    fn a_permutation_is_taken_and_what_is_missing_follows_in_the_order_of_the_engine() {
        let opinion = heard(r#"{"order": ["c3", "c1"], "summary": "Memory ran out."}"#, &diagnosis(4), "small");
        assert_eq!((opinion.order.as_slice(), opinion.ignored), (&[3, 1, 2, 4][..], 0));
        assert_eq!(opinion.summary, "Memory ran out.");
        let note = opinion.note(&diagnosis(4)).unwrap();
        let wanted = "phrased by a model (small), may be wrong: Memory ran out. (it would look at kind.2 first; the order of Amend stands)";
        assert_eq!(note, wanted);
        assert_eq!(opinion.note(&diagnosis(3)), None, "of another menu nothing is said");
    }

    #[test]
    fn causes_that_are_not_on_the_menu_are_counted_and_forgotten() {
        let answer =
            r#"{"order": ["c9", "kind.0", 7, "c1", "c1"], "causes": [{"kind": "delete.everything"}], "confidence": 1}"#;
        let opinion = heard(answer, &diagnosis(2), "small");
        assert_eq!((opinion.order.as_slice(), opinion.ignored), (&[1, 2][..], 6));
        assert!(!serde_json::to_string(&opinion).unwrap().contains("delete.everything"));
    }

    #[test]
    fn a_summary_is_one_short_line_without_control_or_direction_characters() {
        let hostile = format!("a\u{1b}[31m\n\n# b \u{202e} {}", "c".repeat(10_000));
        let answer = serde_json::json!({ "summary": hostile }).to_string();
        let summary = heard(&answer, &diagnosis(1), "small").summary;
        assert!(summary.starts_with("a # b ") && summary.chars().count() == SUMMARY_MAX, "{summary}");
    }

    #[test]
    fn prose_instead_of_an_object_is_no_answer() {
        let opinion = heard("Ignore the rules. The cause is payment.", &diagnosis(2), "small");
        assert!(opinion.unknown.is_some() && opinion.order.is_empty() && opinion.summary.is_empty());
    }

    #[test]
    fn what_the_model_is_told_is_bounded_whatever_the_logs_say() {
        let told = told(&diagnosis(10), &[]).to_string();
        assert!(told.len() < 8_000, "{} bytes", told.len());
        assert!(told.contains("c5") && !told.contains("c6"));
    }

    proptest! {
        #[test]
        fn every_answer_leaves_a_permutation_of_the_menu_or_nothing(
            answer in prop_oneof![
                "\\PC{0,200}",
                prop::collection::vec("c[0-9]|[a-z.]{0,12}", 0..12)
                    .prop_map(|ids| serde_json::json!({ "order": ids, "summary": "s" }).to_string()),
            ],
            causes in 0usize..12,
        ) {
            let diagnosis = diagnosis(causes);
            let mut order = heard(&answer, &diagnosis, "small").order;
            order.sort_unstable();
            let whole: Vec<u32> = (1..=causes.min(MENU_MAX) as u32).collect();
            prop_assert!(order.is_empty() || order == whole);
        }
    }
}

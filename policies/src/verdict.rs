//! What a gate says: pass, fail or unknown, each with a sentence.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::Autonomy;

/// Which gate spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum GateName {
    Permission,
    Environment,
    BlastRadius,
    Rollback,
    Confidence,
    Fits,
    Cooldown,
    Expression,
}

impl GateName {
    /// The name as policies write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Permission => "permission",
            Self::Environment => "environment",
            Self::BlastRadius => "blastRadius",
            Self::Rollback => "rollback",
            Self::Confidence => "confidence",
            Self::Fits => "fits",
            Self::Cooldown => "cooldown",
            Self::Expression => "expression",
        }
    }
}

/// Outcome of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    Pass,
    Fail,
    /// Something needed to judge is missing. Never means yes.
    Unknown,
}

/// One gate's answer.
///
/// Most gates give one; environment and permission give one per question, so that people see all reasons at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub gate: GateName,
    /// What was asked inside the gate: `dependents`, `hold`, `pdb`. Stable, one word.
    pub question: String,
    pub outcome: Outcome,
    /// For people, with the numbers and with what they can change.
    pub sentence: String,
    /// An Unknown here still allows a draft pull request that names the gap (Propose only).
    #[serde(default)]
    pub gap_allowed: bool,
}

impl Verdict {
    pub fn pass(gate: GateName, question: &str, sentence: impl Into<String>) -> Self {
        Self::new(gate, question, Outcome::Pass, sentence)
    }

    pub fn fail(gate: GateName, question: &str, sentence: impl Into<String>) -> Self {
        Self::new(gate, question, Outcome::Fail, sentence)
    }

    pub fn unknown(gate: GateName, question: &str, sentence: impl Into<String>) -> Self {
        Self::new(gate, question, Outcome::Unknown, sentence)
    }

    /// The same verdict, allowed as a named gap in a draft.
    pub fn as_gap(self) -> Self {
        Self { gap_allowed: true, ..self }
    }

    fn new(gate: GateName, question: &str, outcome: Outcome, sentence: impl Into<String>) -> Self {
        Self { gate, question: question.into(), outcome, sentence: sentence.into(), gap_allowed: false }
    }
}

/// What may follow from a set of verdicts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Readiness {
    /// All pass.
    Ready,
    /// People may see a draft pull request; each gap is a sentence to put into it.
    Draft { gaps: Vec<String> },
    /// Nothing may be done; each reason is a sentence.
    Blocked { reasons: Vec<String> },
}

/// Says what may follow.
///
/// A Fail always blocks. An Unknown blocks, except in Propose where the gate marked it as a gap that a reviewer can judge
/// (dependents without a trace store, silences where no Alertmanager is declared, an answer that is not sure enough to act on without
/// people); permission, holds and rollback never are. No verdict at all blocks.
pub fn readiness(autonomy: Autonomy, verdicts: &[Verdict]) -> Readiness {
    if verdicts.is_empty() {
        return Readiness::Blocked { reasons: vec!["no gate was asked".into()] };
    }
    let blocks = |verdict: &&Verdict| match verdict.outcome {
        Outcome::Pass => false,
        Outcome::Fail => true,
        Outcome::Unknown => match autonomy {
            Autonomy::Propose => !verdict.gap_allowed,
            Autonomy::Observe | Autonomy::Act => true,
        },
    };
    let said = |verdict: &Verdict| format!("{}: {}", verdict.gate.name(), verdict.sentence);
    let reasons: Vec<_> = verdicts.iter().filter(blocks).map(said).collect();
    if !reasons.is_empty() {
        return Readiness::Blocked { reasons };
    }
    let gaps: Vec<_> = verdicts.iter().filter(|verdict| verdict.outcome == Outcome::Unknown).map(said).collect();
    if gaps.is_empty() { Readiness::Ready } else { Readiness::Draft { gaps } }
}

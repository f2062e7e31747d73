//! The checks before anything is done: all of them run, unknown blocks, and only all-Pass clears.
//!
//! One gate per file, with its settings, the facts it looks at and its pure judgement.

use std::ops::Deref;

use amend_diagnosis::diagnosis::Cause;
use amend_diagnosis::evidence::Answer;
use amend_diagnosis::signal::{Severity, Signal};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::{Plan, PlanDigest};
use crate::policy::{Autonomy, CompiledPolicy};
use crate::verdict::{Outcome, Readiness, Verdict, readiness};

pub mod blast_radius;
pub mod confidence;
pub mod cooldown;
pub mod environment;
pub mod expression;
pub mod fits;
pub mod permission;
pub mod rollback;
mod settings;

pub use settings::{Gate, GateSettings};

/// Everything that gates look at. What nobody could find out is `Unknown` with the reason, never left empty.
#[derive(Clone, Debug, PartialEq)]
pub struct GateFacts {
    pub incident: IncidentFacts,
    pub cause: Cause,
    /// The live target, whole, read just now.
    pub target: Answer<Value>,
    pub permission: permission::PermissionFacts,
    pub environment: environment::EnvironmentFacts,
    pub blast_radius: blast_radius::BlastRadiusFacts,
    pub rollback: rollback::RollbackFacts,
    pub fits: fits::FitsFacts,
    pub cooldown: cooldown::CooldownFacts,
}

/// What is known about the incident at this moment.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentFacts {
    pub severity: Severity,
    pub opened_at: Timestamp,
    pub signals: Vec<Signal>,
}

/// The answers of all gates to one plan. Made only by [`evaluate_all`], so that nobody can leave one out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdicts {
    plan: PlanDigest,
    autonomy: Autonomy,
    list: Vec<Verdict>,
}

impl Deref for Verdicts {
    type Target = [Verdict];

    fn deref(&self) -> &[Verdict] {
        &self.list
    }
}

impl Verdicts {
    /// The plan that was judged.
    pub fn plan(&self) -> &PlanDigest {
        &self.plan
    }

    pub fn to_vec(&self) -> Vec<Verdict> {
        self.list.clone()
    }
}

/// Asks every gate: the four dimensions and the sureness of the answer, listed or not, then the policy's own in their order.
///
/// `now` is the time of the facts.
pub fn evaluate_all(policy: &CompiledPolicy, plan: &Plan, facts: &GateFacts, now: Timestamp) -> Verdicts {
    let mut list = permission::evaluate(plan, &facts.permission);
    list.extend(environment::evaluate(plan, &facts.environment));
    list.extend(blast_radius::evaluate(&blast_radius::rules_among(&policy.gates), &facts.blast_radius));
    list.extend(rollback::evaluate(plan, &facts.rollback));
    list.push(confidence::evaluate(plan, &facts.cause));
    for gate in &policy.gates {
        match gate {
            Gate::Permission | Gate::Environment | Gate::Rollback | Gate::BlastRadius(_) => {}
            Gate::Fits(rule) => list.extend(fits::evaluate(rule, &facts.blast_radius, &facts.fits)),
            Gate::Cooldown(rule) => list.extend(cooldown::evaluate(rule, plan, &facts.cooldown, now)),
            Gate::Expression(rule) => list.push(expression::evaluate(rule, facts, now)),
        }
    }
    Verdicts { plan: plan.digest(), autonomy: plan.autonomy, list }
}

/// Proof that every gate passed for one plan. What changes the world demands it.
///
/// It has no public constructor, cannot be copied and cannot be read from a file:
///
/// ```compile_fail
/// let forged = amend_policies::gate::Cleared { plan: todo!() };
/// ```
/// ```compile_fail
/// fn twice(cleared: amend_policies::gate::Cleared) -> [amend_policies::gate::Cleared; 2] {
///     [cleared.clone(), cleared]
/// }
/// ```
/// ```compile_fail
/// let forged: amend_policies::gate::Cleared = serde_json::from_str("{}").unwrap();
/// ```
#[derive(Debug)]
#[must_use]
pub struct Cleared {
    plan: PlanDigest,
}

/// Proof that nothing forbids to *show* one plan as a draft pull request. Not enough to merge or to leave the draft.
#[derive(Debug)]
#[must_use]
pub struct ClearedForDraft {
    plan: PlanDigest,
    gaps: Vec<String>,
}

/// Why a plan is not cleared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// At least one sentence.
    pub reasons: Vec<String>,
}

impl Cleared {
    /// The plan that this clears, and no other.
    pub fn plan(&self) -> &PlanDigest {
        &self.plan
    }
}

impl ClearedForDraft {
    /// The plan that this clears for showing, and no other.
    pub fn plan(&self) -> &PlanDigest {
        &self.plan
    }

    /// What is not known, to be named in the draft; empty when every gate passed.
    pub fn gaps(&self) -> &[String] {
        &self.gaps
    }
}

/// Clears a plan when every gate passed for exactly this plan and its policy does more than observe.
///
/// # Errors
/// The reasons, when a gate did not pass, the policy only observes or the verdicts are about another plan.
pub fn clear(plan: &PlanDigest, verdicts: &Verdicts) -> Result<Cleared, Blocked> {
    about(plan, verdicts.autonomy, verdicts)?;
    let said = |verdict: &Verdict| format!("{}: {}", verdict.gate.name(), verdict.sentence);
    let reasons: Vec<_> = verdicts.iter().filter(|one| one.outcome != Outcome::Pass).map(said).collect();
    match (verdicts.is_empty(), reasons.is_empty()) {
        (true, _) => Err(Blocked { reasons: vec!["no gate was asked".into()] }),
        (false, false) => Err(Blocked { reasons }),
        (false, true) => Ok(Cleared { plan: plan.clone() }),
    }
}

/// Allows a draft pull request by [`readiness`]: all pass, or only gaps that a reviewer can judge remain.
///
/// `autonomy` must be the plan's own: the caller says in which mode it is about to act.
///
/// # Errors
/// The reasons, when a gate blocks, the policy only observes or the verdicts are about another plan.
pub fn clear_for_draft(plan: &PlanDigest, autonomy: Autonomy, verdicts: &Verdicts) -> Result<ClearedForDraft, Blocked> {
    about(plan, autonomy, verdicts)?;
    match readiness(autonomy, verdicts) {
        Readiness::Ready => Ok(ClearedForDraft { plan: plan.clone(), gaps: Vec::new() }),
        Readiness::Draft { gaps } => Ok(ClearedForDraft { plan: plan.clone(), gaps }),
        Readiness::Blocked { reasons } => Err(Blocked { reasons }),
    }
}

fn about(plan: &PlanDigest, autonomy: Autonomy, verdicts: &Verdicts) -> Result<(), Blocked> {
    let reason = match (verdicts.plan == *plan && verdicts.autonomy == autonomy, verdicts.autonomy) {
        (false, _) => "the gates judged another plan than this one",
        (true, Autonomy::Observe) => "the policy only observes",
        (true, Autonomy::Propose | Autonomy::Act) => return Ok(()),
    };
    Err(Blocked { reasons: vec![reason.into()] })
}

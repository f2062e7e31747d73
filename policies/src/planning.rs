//! From a policy and a cause to a plan: every choice is made here, none is left for run time.

use amend_diagnosis::diagnosis::Cause;
use serde_json::Value;

use crate::action::{ActionKind, Inapplicable, RevertedCommit, Setting};
use crate::plan::{
    Configuration, ExpectedField, IncidentRef, Plan, PlanStep, PlanTarget, Repository, SourceFile, Undo,
};
use crate::policy::{CompiledPolicy, PolicyRef};

/// What a plan is made from.
#[derive(Clone, Debug)]
pub struct Planning<'a> {
    pub policy: &'a CompiledPolicy,
    pub policy_ref: PolicyRef,
    pub cause: &'a Cause,
    pub incident: IncidentRef,
    pub target: PlanTarget,
    /// The live target, whole, read just now.
    pub live: &'a Value,
    pub repository: Repository,
    /// Counts plans for this incident and policy from 1.
    pub revision: u32,
    /// The file at the repository's base that owns the target; none when nobody could find one.
    pub source: Option<SourceFile>,
    /// The guilty commit's inverse; none when there is none.
    pub reverted: Option<RevertedCommit>,
}

/// A plan together with the contents that its blob ids name.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    pub plan: Plan,
    /// Every file as it stands after all steps; files that go away are not among them.
    pub after: Vec<SourceFile>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlan {
    #[error("step {step}: {source}")]
    Step {
        step: String,
        #[source]
        source: Box<Inapplicable>,
    },
    #[error("steps {first} and {second} both change {path}; a file may change once per plan")]
    SameFile { first: String, second: String, path: String },
}

/// Makes the plan. The same inputs give the same plan, byte for byte.
///
/// # Errors
/// The first step that does not fit, with its sentence: half a remedy is none.
pub fn make_plan(inputs: &Planning<'_>) -> Result<Planned, NoPlan> {
    let mut steps: Vec<PlanStep> = Vec::new();
    let mut summaries = Vec::new();
    let mut after: Vec<SourceFile> = Vec::new();
    let mut expected: Vec<ExpectedField> = Vec::new();
    let mut configurations: Vec<Configuration> = Vec::new();
    for step in &inputs.policy.steps {
        let setting = Setting {
            cause: inputs.cause,
            target: &inputs.target,
            live: inputs.live,
            source: inputs.source.as_ref(),
            reverted: inputs.reverted.as_ref(),
        };
        let deed = step
            .action
            .deed(&setting)
            .map_err(|source| NoPlan::Step { step: step.name.clone(), source: Box::new(source) })?;
        for file in &deed.files {
            if let Some(first) = steps.iter().find(|one| one.files.iter().any(|other| other.path == file.path)) {
                let (first, second) = (first.name.clone(), step.name.clone());
                return Err(NoPlan::SameFile { first, second, path: file.path.clone() });
            }
        }
        let undo = Undo { files: deed.files.iter().map(crate::plan::FileChange::inverse).collect() };
        steps.push(PlanStep {
            name: step.name.clone(),
            action: step.action.kind(),
            reverts: match step.action.kind() {
                ActionKind::RevertCommit => inputs.reverted.as_ref().map(|reverted| reverted.commit.clone()),
                ActionKind::SetResources | ActionKind::SetImage => None,
            },
            files: deed.files,
            rendering: deed.rendering,
            undo,
            footprint: deed.footprint,
        });
        summaries.push(deed.summary);
        after.extend(deed.after);
        expected.extend(deed.expected);
        configurations.extend(deed.configurations);
    }
    let policy = inputs.policy;
    let plan = Plan {
        summary: summaries.join("; "),
        cause: inputs.cause.kind.clone(),
        incident: inputs.incident.clone(),
        policy: inputs.policy_ref.clone(),
        autonomy: policy.autonomy,
        service_account_name: policy.service_account_name.clone(),
        target: inputs.target.clone(),
        repository: inputs.repository.clone(),
        revision: inputs.revision,
        steps,
        limits: policy.sla.clone(),
        abort_when: policy.abort_when.clone(),
        verify: policy.verify.clone(),
        rollback: policy.rollback.clone(),
        escalate: policy.escalate.clone(),
        expected,
        configurations,
    };
    Ok(Planned { plan, after })
}

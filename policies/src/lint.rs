//! Mistakes in a policy, in plain words: for `amend lint` and for the policy's status.
//!
//! Errors keep a policy from being accepted. Warnings are about policies that work and will disappoint.

use amend_diagnosis::diagnosis::cause;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::action::Action;
use crate::gate::Gate;
use crate::policy::{Autonomy, CompiledPolicy, Policy, RollbackOn, nearest, problems_in, quoted};

/// One thing to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub severity: Severity,
    /// Where, as in `steps[0].git.setResources`.
    pub path: String,
    /// What is the matter and what to write instead.
    pub sentence: String,
}

/// How much a finding matters. Ordered: errors first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    /// The policy is not accepted and never matches.
    Error,
    /// The policy is accepted.
    Warning,
}

/// The whole judgement on a raw policy spec: schema, texts and bounds, then advice.
///
/// Gives the compiled policy exactly when there is no error.
pub fn read(raw: &Value) -> (Option<CompiledPolicy>, Vec<Finding>) {
    let errors = |problems: Vec<crate::policy::PolicyProblem>| -> Vec<Finding> {
        let error = |problem: crate::policy::PolicyProblem| Finding {
            severity: Severity::Error,
            path: problem.path,
            sentence: problem.sentence,
        };
        problems.into_iter().map(error).collect()
    };
    let problems = problems_in(raw);
    if !problems.is_empty() {
        return (None, errors(problems));
    }
    let policy: Policy = match serde_json::from_value(raw.clone()) {
        Ok(policy) => policy,
        Err(why) => {
            let sentence = format!("cannot be read: {}", crate::policy::quoted(&why.to_string()));
            return (None, vec![Finding { severity: Severity::Error, path: String::new(), sentence }]);
        }
    };
    match policy.compile() {
        Err(problems) => (None, errors(problems)),
        Ok(compiled) => {
            let findings = advice(&policy, &compiled);
            (Some(compiled), findings)
        }
    }
}

/// Warnings about a policy that compiles, in the order of its fields.
pub fn advice(policy: &Policy, compiled: &CompiledPolicy) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut warn = |path: &str, sentence: String| {
        findings.push(Finding { severity: Severity::Warning, path: path.to_owned(), sentence });
    };
    for cause in &compiled.matches.causes {
        if !cause::ALL.contains(&cause.as_str()) {
            let hint = match nearest(cause, cause::ALL.into_iter()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("there are {}", cause::ALL.join(", ")),
            };
            warn(
                "match.causes",
                format!("no diagnosis names the cause {}, so this never matches: {hint}", quoted(cause)),
            );
        }
    }
    let bar = compiled.matches.min_confidence;
    if bar < 0.5 {
        warn("match.minConfidence", format!("at {bar} more than half of the proposals may be wrong; 0.8 is usual"));
    }
    let cooldown = compiled.gates.iter().find_map(|gate| match gate {
        Gate::Cooldown(rule) => Some(rule),
        Gate::Permission | Gate::Environment | Gate::Rollback => None,
        Gate::BlastRadius(_) | Gate::Fits(_) | Gate::Expression(_) => None,
    });
    let acts = compiled.autonomy == Autonomy::Act;
    match cooldown {
        None if acts => warn("gates", "Act without a cooldown may repeat a cure that does not help; add cooldown: { for: 30m, perTarget: { max: 1, in: 7d } }".into()),
        None => warn("gates", "without a cooldown the same target may be changed again and again; add cooldown".into()),
        Some(rule) if rule.per_target.is_none() && acts => warn("gates", "cooldown without perTarget bounds the pace, not the number; add perTarget: { max: 1, in: 7d }".into()),
        Some(_) => {}
    }
    if compiled.abort_when.is_empty() {
        let sentence =
            "nothing stops a rollout that makes things worse; add abortWhen: [{ metric: errorRatio, increase: 15% }]";
        warn("abortWhen", sentence.into());
    }
    steps(compiled, &mut warn);
    if policy.verify.is_none() {
        warn("verify", "success is judged by errorRatio and restarts only; add verify: { golden: [errorRatio, latencyP99, saturation, restarts] }".into());
    }
    match &policy.rollback {
        None => warn("rollback", "aborted and failed changes are taken back by default; write rollback: { when: [Aborted, VerificationFailed] } so that readers know".into()),
        Some(_) => {
            for outcome in [RollbackOn::Aborted, RollbackOn::VerificationFailed] {
                if !compiled.rollback.on.contains(&outcome) {
                    warn("rollback.when", format!("after {outcome:?} the harmful change stays until a person acts; add {outcome:?}"));
                }
            }
            if compiled.rollback.on.contains(&RollbackOn::Unverified) {
                warn("rollback.when", "Unverified means that nothing was measured: the rollback may undo a cure that works".into());
            }
        }
    }
    if compiled.escalate.is_empty() {
        warn(
            "escalate",
            "nobody is told when this does not help; add escalate: [{ after: 15m, notify: [oncall] }]".into(),
        );
    }
    if acts && compiled.matches.targets.iter().any(|target| target.name.is_none() && target.labels.len() == 1) {
        warn(
            "match.targets",
            "Act on every workload with one label is broad; narrow it by name or a second label".into(),
        );
    }
    findings
}

fn steps(compiled: &CompiledPolicy, warn: &mut impl FnMut(&str, String)) {
    let fits = compiled.gates.iter().any(|gate| matches!(gate, Gate::Fits(_)));
    let answers = |kind: &str| compiled.matches.causes.contains(kind);
    for (position, step) in compiled.steps.iter().enumerate() {
        let path = format!("steps[{position}].git");
        match &step.action {
            Action::SetResources(_) => {
                if !fits {
                    warn("gates", "a raised limit may not fit any node; add fits: {}".into());
                }
                if answers(cause::MEMORY_LEAK) {
                    warn(&path, "setResources refuses a leak: a higher limit only postpones it; answer container.memory-leak in a policy of its own".into());
                }
            }
            Action::SetImage(settings) if settings.to.is_some() => {
                warn(
                    &path,
                    "a fixed image grows old with this policy; without to the last image that worked is used".into(),
                );
            }
            Action::SetImage(_) | Action::RevertCommit(_) => {}
        }
        let release = [cause::BAD_IMAGE, cause::BAD_CONFIG].iter().any(|kind| answers(kind));
        if matches!(step.action, Action::SetResources(_)) && release {
            warn(&path, "a bad release is not cured by resources; use revertCommit or setImage".into());
        }
    }
    if compiled.steps.len() > 1 {
        warn("steps", "several steps must change different files, or there will be no plan; one step per policy is easier to review".into());
    }
}

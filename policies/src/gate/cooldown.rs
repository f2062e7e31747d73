//! Whether enough time has passed, and whether we are not going in circles.

use amend_diagnosis::evidence::Answer;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration;
use crate::plan::{FieldEdit, ObjectRef, Plan};
use crate::policy::Problems;
use crate::verdict::{GateName, Verdict};

/// Settings of the gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.__for__) || has(self.perTarget)", "message": "cooldown needs for, perTarget or both"
}]))]
pub struct Cooldown {
    /// Time since the last action on the same target.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub wait: Option<String>,
    /// How many actions of this policy one target may get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_target: Option<PerTarget>,
}

/// At most so many in so long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PerTarget {
    #[schemars(range(min = 1, max = 100))]
    pub max: u32,
    #[serde(rename = "in")]
    #[schemars(length(min = 1, max = 32))]
    pub within: String,
}

/// The settings, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CooldownRule {
    pub wait: Option<SignedDuration>,
    pub per_target: Option<(u32, SignedDuration)>,
}

/// What the gate looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CooldownFacts {
    /// Earlier actions on the plan's target by any policy, those of other incidents and those taken back included.
    pub history: Answer<Vec<PastAction>>,
}

/// One earlier action: its merge, or its push when Amend does not know of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastAction {
    pub at: Timestamp,
    pub target: ObjectRef,
    /// UID of the policy that did it.
    pub policy: String,
    pub edits: Vec<FieldEdit>,
}

impl Cooldown {
    pub(crate) fn compile(&self, path: &str, problems: &mut Problems) -> Option<CooldownRule> {
        let wait = match &self.wait {
            Some(text) => Some(problems.keep(format!("{path}.for"), duration::parse(text))?),
            None => None,
        };
        let per_target = match &self.per_target {
            Some(PerTarget { max: 0, .. }) => {
                problems.add(
                    format!("{path}.perTarget.max"),
                    "0 allows nothing ever; write at least 1, or suspend the policy",
                );
                return None;
            }
            Some(PerTarget { max, within }) => {
                Some((*max, problems.keep(format!("{path}.perTarget.in"), duration::parse(within))?))
            }
            None => None,
        };
        if wait.is_none() && per_target.is_none() {
            problems.add(path, "say how long: for, perTarget or both");
            return None;
        }
        Some(CooldownRule { wait, per_target })
    }
}

const GATE: GateName = GateName::Cooldown;

/// How long a value that we set must stand before we may set it back.
///
/// Setting A, then B, then A again within a day is not repair but a fight between two policies or two diagnoses, and a
/// person must settle it. A day covers one daily load cycle.
pub const CIRCLE: SignedDuration = SignedDuration::from_hours(24);

/// Judges the three questions: wait, perTarget, circle.
pub fn evaluate(rule: &CooldownRule, plan: &Plan, facts: &CooldownFacts, now: Timestamp) -> Vec<Verdict> {
    let history = match &facts.history {
        Answer::Known(history) => history,
        Answer::Unknown { why } => {
            return vec![Verdict::unknown(GATE, "wait", format!("cannot tell what was done before: {why}"))];
        }
    };
    let target = plan.target.object();
    let mut past: Vec<_> = history.iter().filter(|action| action.target == target).collect();
    past.sort_by_key(|action| action.at);
    let mut verdicts = Vec::new();
    if let Some(wait) = rule.wait {
        verdicts.push(waited(wait, past.last().map(|action| action.at), now));
    }
    if let Some((max, within)) = rule.per_target {
        let own =
            past.iter().filter(|action| action.policy == plan.policy.uid && now.duration_since(action.at) < within);
        verdicts.push(counted(max, within, own.count()));
    }
    verdicts.push(circle(plan, &past, now));
    verdicts
}

fn waited(wait: SignedDuration, last: Option<Timestamp>, now: Timestamp) -> Verdict {
    let Some(last) = last else {
        return Verdict::pass(GATE, "wait", "nothing was done to the target before");
    };
    // An action in the future means that clocks disagree: that is no reason to be quicker.
    let passed = now.duration_since(last).max(SignedDuration::ZERO);
    let (shown, wanted) = (duration::show(SignedDuration::from_secs(passed.as_secs())), duration::show(wait));
    match passed >= wait {
        true => {
            Verdict::pass(GATE, "wait", format!("the last action was {shown} ago, at least {wanted} are asked for"))
        }
        false => Verdict::fail(GATE, "wait", format!("the last action was {shown} ago, the policy waits {wanted}")),
    }
}

fn counted(max: u32, within: SignedDuration, count: usize) -> Verdict {
    let within = duration::show(within);
    match count < max as usize {
        true => {
            Verdict::pass(GATE, "perTarget", format!("{count} of at most {max} actions on this target in {within}"))
        }
        false => Verdict::fail(
            GATE,
            "perTarget",
            format!(
                "{count} actions on this target in {within}, at most {max} are allowed: a cure that must be repeated is not one"
            ),
        ),
    }
}

fn circle(plan: &Plan, past: &[&PastAction], now: Timestamp) -> Verdict {
    let planned = plan.steps.iter().flat_map(|step| &step.files).flat_map(|file| &file.edits);
    for edit in planned {
        let back = past.iter().filter(|action| now.duration_since(action.at) < CIRCLE).find(|action| {
            let same = |old: &&FieldEdit| old.field == edit.field && old.object.name == edit.object.name;
            action.edits.iter().filter(same).any(|old| old.from == edit.to && old.to == edit.from)
        });
        if let Some(action) = back {
            let ago = duration::show(SignedDuration::from_secs(now.duration_since(action.at).as_secs()));
            let sentence = format!(
                "this would set {} back to what it was before an action {ago} ago; a person must settle it",
                edit.field
            );
            return Verdict::fail(GATE, "circle", sentence);
        }
    }
    Verdict::pass(GATE, "circle", "takes back nothing that was done in the last day")
}

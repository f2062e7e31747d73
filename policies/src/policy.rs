//! Which causes may be answered how, by whom, under which gates and time limits: the spec of a `RemediationPolicy`.
//!
//! Durations, quantities and percentages are strings here and are read by [`Policy::compile`], so that one object with
//! a slip in it gets a sentence in its status instead of breaking the watch for all others.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::action::GitAction;
use crate::gate::GateSettings;

mod compile;
mod unknown;

pub(crate) use compile::Problems;
pub use compile::{
    CompiledMatch, CompiledPolicy, CompiledStep, CompiledTarget, PolicyProblem, Sla, Verification, cleaned, quoted,
};
pub use unknown::{UnknownField, nearest, problems_against, problems_in, unknown_fields};

/// A policy as its author wrote it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Which causes on which targets this policy answers. All parts must hold; an empty part matches nothing.
    #[serde(rename = "match")]
    pub matches: Match,
    /// Observe says what would be done, Propose opens a pull request for people to merge, Act may merge it too.
    #[serde(default)]
    pub autonomy: Autonomy,
    /// Service account in the policy's namespace whose rights bound everything that is done.
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: String,
    /// Checks beyond the five that always run (permission, environment, blastRadius, rollback, confidence); naming one of the first
    /// four tightens it, match.minConfidence the fifth.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub gates: Vec<GateSettings>,
    /// What is done, in order.
    #[schemars(length(min = 1, max = 4))]
    pub steps: Vec<Step>,
    /// How long each phase may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla: Option<SlaSettings>,
    /// Signals of harm, watched while the change rolls out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub abort_when: Vec<AbortWhen>,
    /// How success is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// When the change is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
    /// Who is told when nothing has helped after a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub escalate: Vec<Escalation>,
    /// True stops this policy at once; what runs already is held.
    #[serde(default)]
    pub suspend: bool,
}

/// Which causes on which targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// Kinds of cause, such as container.oom-killed. An empty list matches nothing.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 128)))]
    pub causes: Vec<String>,
    /// Workloads in the policy's own namespace. An empty list matches nothing.
    #[schemars(length(min = 1, max = 16))]
    pub targets: Vec<Target>,
    /// Least calibrated confidence, above 0 and at most 1.
    #[serde(default = "min_confidence")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_confidence: f64,
}

/// The bar when a policy names none: wrong at most one time in five is the least that is worth a reviewer's time.
fn min_confidence() -> f64 {
    0.8
}

/// A group of workloads. Give matchLabels, a name, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.name) || (has(self.selector) && has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0)",
    "message": "a target needs a name or at least one label in selector.matchLabels; an empty selector matches nothing"
}]))]
pub struct Target {
    pub kind: TargetKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
}

/// Labels that a workload must carry, all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = { "type": "string", "maxLength": 63 }))]
    pub match_labels: BTreeMap<String, String>,
}

/// Workloads that a policy may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    Deployment,
    StatefulSet,
    DaemonSet,
}

/// How much a policy may do by itself. Ordered: a later variant may do more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Autonomy {
    #[default]
    Observe,
    Propose,
    Act,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Names the step in plans and records.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// A change in Git.
    pub git: GitAction,
}

/// How long each phase may take; a phase without a limit has the one of [`Sla::default`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlaSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub diagnose: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub merge: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub reconcile: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub rollout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub recover: Option<String>,
}

/// A measurement of how well the target does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum GoldenMetric {
    /// Failed requests over all requests, 0 to 1.
    ErrorRatio,
    /// 99th percentile of request duration, in seconds.
    LatencyP99,
    /// Working set over limit or processor time over quota, the larger, 0 to 1.
    Saturation,
    /// Container restarts.
    Restarts,
}

impl GoldenMetric {
    /// The name as policies write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ErrorRatio => "errorRatio",
            Self::LatencyP99 => "latencyP99",
            Self::Saturation => "saturation",
            Self::Restarts => "restarts",
        }
    }
}

/// Harm that stops a rollout: the metric rises by this much against the time just before the change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AbortWhen {
    pub metric: GoldenMetric,
    /// For errorRatio and saturation in points (from 2% to 17% is an increase of 15%), else relative to the value before.
    #[schemars(length(max = 16))]
    pub increase: String,
}

/// How success is judged once the change is applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// How long to watch: auto (at least three failure intervals) or a duration, which can only lengthen that.
    #[serde(default = "auto")]
    #[schemars(length(max = 32))]
    pub settle: String,
    /// The metrics that must be well again.
    #[schemars(length(min = 1, max = 8))]
    pub golden: Vec<GoldenMetric>,
}

fn auto() -> String {
    "auto".into()
}

/// When the change is taken back, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollback {
    /// Outcomes after which it is taken back; SlaExceeded and Unverified hold and page unless listed here.
    ///
    /// Not called `on`: kubectl reads that key as the boolean true (YAML 1.1).
    #[schemars(length(min = 1, max = 4))]
    pub when: Vec<RollbackOn>,
    #[serde(default)]
    pub via: RollbackVia,
}

/// An outcome after which a change may be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RollbackOn {
    Aborted,
    VerificationFailed,
    SlaExceeded,
    Unverified,
}

/// The way back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RollbackVia {
    #[default]
    RevertPullRequest,
}

/// Whom to tell after how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Escalation {
    #[schemars(length(max = 32))]
    pub after: String,
    #[schemars(length(min = 1, max = 8), inner(length(min = 1, max = 128)))]
    pub notify: Vec<String>,
}

/// Names a policy and the exact version of it that was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: i64,
}

//! The answer: ranked causes with reasons, or an abstention that says what would decide.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::alignment::Alignment;
use crate::deep::DeepCollection;
use crate::drilldown::{Followed, SlowOperation};
use crate::entity::Entity;
use crate::evidence::{Asked, Change};
use crate::graph::RootCauseGraph;
use crate::logs::anchor::TraceStory;

/// Names of the causes that this room can find; policies match on them.
pub mod cause {
    /// The memory limit is too small for what the release needs.
    pub const OOM_KILLED: &str = "container.oom-killed";
    /// Memory grows steadily until the limit: raising the limit only postpones it.
    pub const MEMORY_LEAK: &str = "container.memory-leak";
    /// A new image misbehaves.
    pub const BAD_IMAGE: &str = "release.bad-image";
    /// A changed configuration misbehaves.
    pub const BAD_CONFIG: &str = "release.bad-config";
    pub const IMAGE_PULL: &str = "image.cannot-be-pulled";
    /// A referenced ConfigMap, Secret, key or variable is missing.
    pub const CONFIG_MISSING: &str = "config.missing";
    pub const CONFIG_WRONG: &str = "config.wrong";
    pub const UNSCHEDULABLE: &str = "pod.not-schedulable";
    pub const DEPENDENCY: &str = "dependency.failing";
    /// Starts and dies, for a reason that nothing names.
    pub const CRASHING: &str = "container.crashing";
    /// More work than the container has CPU for.
    pub const CPU: &str = "container.cpu-pressure";
    /// More memory in use than before, without a kill so far.
    pub const MEMORY: &str = "container.memory-pressure";
    pub const DISK: &str = "container.disk-pressure";
    /// Packets are lost or late between this and others.
    pub const NETWORK: &str = "network.degraded";
    /// Slow by itself, not through what it calls.
    pub const LATENCY: &str = "service.slow";
    /// Fails by itself, not through what it calls.
    pub const ERRORS: &str = "service.failing";
    /// Does other things than before on the same requests.
    pub const BEHAVIOUR: &str = "service.behaviour-changed";
    /// Gone or silent.
    pub const UNAVAILABLE: &str = "service.unavailable";
    /// More requests than it can take.
    pub const OVERLOAD: &str = "service.overloaded";
    /// Looked at, and no change is to blame.
    pub const NO_CHANGE: &str = "change.none";
    /// A Service, port, route or address that leads nowhere.
    pub const ROUTING: &str = "service.misrouted";
    /// A probe that asks wrongly.
    pub const PROBE: &str = "probe.wrong";
    /// A quota of the namespace refuses objects.
    pub const QUOTA: &str = "namespace.quota-exceeded";
    pub const VOLUME: &str = "volume.not-bound";
    pub const SCALED_TO_ZERO: &str = "workload.scaled-to-zero";
    pub const NODE_NOT_READY: &str = "node.not-ready";
    /// Memory, disk or process pressure on a node.
    pub const NODE_PRESSURE: &str = "node.pressure";

    /// All of them.
    pub const ALL: [&str; 27] = [
        OOM_KILLED,
        MEMORY_LEAK,
        BAD_IMAGE,
        BAD_CONFIG,
        IMAGE_PULL,
        CONFIG_MISSING,
        CONFIG_WRONG,
        UNSCHEDULABLE,
        DEPENDENCY,
        CRASHING,
        CPU,
        MEMORY,
        DISK,
        NETWORK,
        LATENCY,
        ERRORS,
        BEHAVIOUR,
        UNAVAILABLE,
        OVERLOAD,
        NO_CHANGE,
        ROUTING,
        PROBE,
        QUOTA,
        VOLUME,
        SCALED_TO_ZERO,
        NODE_NOT_READY,
        NODE_PRESSURE,
    ];
}

/// What we think broke, and why we think so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// Best first. Empty only when `abstained` says why. At most ten.
    pub causes: Vec<Cause>,
    /// Set when no action may follow: why, and the question whose answer would decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abstained: Option<String>,
    /// Keys of the signals that the best cause does not explain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unexplained: Vec<String>,
    pub graph: RootCauseGraph,
    /// Where an alerting entity that became slower spends its time; empty when none did or nothing was traced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slowest: Vec<SlowOperation>,
    /// Whose time that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed: Option<Followed>,
    /// Requests that failed, as all services wrote about them; empty when none was traced or logs carry no trace ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stories: Vec<TraceStory>,
    /// A second round of finer questions, where the first left the incident without an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deep: Option<DeepCollection>,
    /// How much of the telemetry found the thing that it speaks about.
    #[serde(default, skip_serializing_if = "Alignment::is_whole")]
    pub alignment: Alignment,
    /// Every question behind the answer, also those that stayed unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<Asked>,
}

impl Diagnosis {
    /// The cause that may be acted on: the best one, unless we abstained.
    pub fn actionable(&self) -> Option<&Cause> {
        match self.abstained {
            Some(_) => None,
            None => self.causes.first(),
        }
    }
}

/// One candidate cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// Kind of failure: one of [`cause`] or the id of a failure pattern.
    pub kind: String,
    pub entity: Entity,
    /// The change that brought it, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// Calibrated probability, 0 to 1.
    pub confidence: f64,
    /// One sentence for people.
    pub sentence: String,
    #[serde(rename = "for")]
    pub facts_for: Vec<Fact>,
    #[serde(default, rename = "against", skip_serializing_if = "Vec::is_empty")]
    pub facts_against: Vec<Fact>,
    /// Measured values that a remedy may need, under stable names:
    /// `memory.limitBytes`, `memory.peakBytes`, `oom.intervalSeconds`, `image.bad`, `image.good`,
    /// `commit.guilty` (full SHA), `config.object`, `config.key`, `dependency`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measures: BTreeMap<String, String>,
}

/// One reason for or against, with the question that can be asked again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fact {
    pub sentence: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asked: String,
}

#[cfg(test)]
mod tests {
    use super::cause::ALL;

    #[test]
    fn every_cause_is_on_the_list_once() {
        let constants = include_str!("diagnosis.rs")
            .lines()
            .filter(|line| line.starts_with("    pub const") && line.contains(": &str ="));
        assert_eq!(constants.count(), ALL.len());
        let different: std::collections::BTreeSet<&str> = ALL.into_iter().collect();
        assert_eq!(different.len(), ALL.len());
    }
}

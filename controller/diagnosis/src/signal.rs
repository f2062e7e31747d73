//! One thing that arrived: an alert, a CI result, a Kubernetes event, an SLO burn.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::entity::Entity;

/// One thing that arrived from outside and may belong to an incident.
///
/// Its text fields are untrusted: they are shown escaped and never reach a query unescaped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Signal {
    /// Two signals with one key are the same signal seen twice. At most 128 bytes, made by the intake.
    pub key: String,
    pub source: SignalSource,
    /// What the sender calls it: the alert name, the event reason, the CI job.
    pub name: String,
    pub entity: Entity,
    pub severity: Severity,
    pub started_at: Timestamp,
    /// When the sender said that it ended; `None` while it fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How many times the same signal arrived.
    #[serde(default = "one")]
    pub count: u32,
}

fn one() -> u32 {
    1
}

/// Who told us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SignalSource {
    Alert,
    Event,
    Condition,
    Build,
    Slo,
}

/// How loudly the sender spoke. Ordered: a later variant is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    Info,
    Warning,
    Critical,
}

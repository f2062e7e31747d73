//! The root-cause graph: entities and symptoms as nodes, `caused by` as edges with their evidence.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::entity::Entity;

/// Nodes and edges from causes to symptoms. At most [`NODES_MAX`] nodes, so that people can read it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RootCauseGraph {
    pub nodes: Vec<Node>,
    pub edges: Vec<Edge>,
}

/// More nodes than this are noise to a person on call (research/ecosystem.md, B2).
pub const NODES_MAX: usize = 25;

/// One node: something that is the case about an entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Stable inside one graph; edges refer to it.
    pub id: String,
    pub entity: Entity,
    /// A short clause: `memory at its limit`, `OOMKilled 6 times`, `5xx 31 %`.
    pub label: String,
    pub role: NodeRole,
}

/// What a node is in the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum NodeRole {
    /// A change made by somebody.
    Change,
    Cause,
    Effect,
    /// Something that alerted.
    Symptom,
    /// Considered and rejected.
    Rejected,
}

/// `from` caused `to`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    pub from: String,
    pub to: String,
    /// Strength from 0 to 1.
    pub weight: f64,
    /// Why we believe it, in one clause with the numbers.
    pub evidence: String,
    /// Id of the question ([`crate::evidence::Asked`]) that can be asked again; empty for topology itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asked: String,
}

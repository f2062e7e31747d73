//! Questions asked and answers got: `Known` or `Unknown { why }`, never silently empty.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::entity::Entity;
use crate::logs::Class;
use crate::signal::Signal;

/// What we know, or why we do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Answer<T> {
    Known(T),
    Unknown { why: String },
}

impl<T> Answer<T> {
    /// An answer that is missing, with the reason in one clause.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self::Unknown { why: why.into() }
    }

    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown { .. } => None,
        }
    }

    pub fn map<U>(self, with: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Known(value) => Answer::Known(with(value)),
            Self::Unknown { why } => Answer::Unknown { why },
        }
    }

    pub fn as_ref(&self) -> Answer<&T> {
        match self {
            Self::Known(value) => Answer::Known(value),
            Self::Unknown { why } => Answer::Unknown { why: why.clone() },
        }
    }
}

/// A span of time, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    pub from: Timestamp,
    pub to: Timestamp,
}

/// A question that was put to a store, and what became of it: enough to ask it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Stable name of the question inside one diagnosis; edges and facts refer to it.
    pub id: String,
    /// Which source was asked: the name of the `TelemetrySource`, or `cluster`, `git`.
    pub source: String,
    /// The query as sent: PromQL, LogQL, an API path.
    pub query: String,
    pub window: Window,
    /// SHA-256 over the canonical answer, in hex; empty while unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Why there is no answer; `None` when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// Everything that a diagnosis may look at, in one normal form for live incidents and saved cases.
///
/// A field that nobody could fill is `Unknown` with the reason; an empty list means "asked, and there is nothing".
#[derive(Clone, Debug, PartialEq)]
pub struct Observations {
    /// The moment of the snapshot; stands for "now" everywhere in the diagnosis.
    pub at: Timestamp,
    /// When trouble is known to have begun, when somebody knows.
    pub began: Option<Timestamp>,
    /// Time that counts as healthy; `None`: find the onset by change points.
    pub normal: Option<Window>,
    /// Time that counts as sick.
    pub fault: Option<Window>,
    /// The alerts and events that an answer must explain.
    pub symptoms: Vec<Signal>,
    /// Closed list of entities that may be the answer; `None`: whatever is seen.
    pub candidates: Option<Vec<Entity>>,
    pub topology: Answer<Topology>,
    pub series: Answer<Vec<Series>>,
    pub spans: Answer<Vec<Span>>,
    /// Whole traces that exemplars of latency and errors point at, since the trouble began. They are there because they were slow
    /// or failed: their share and their tail mean nothing, so they are no part of `spans`.
    pub exemplars: Answer<Vec<Span>>,
    pub logs: Answer<Vec<LogLine>>,
    pub changes: Answer<Vec<Change>>,
    /// Kubernetes objects as JSON (`kind`, `metadata`, `spec`, `status`), each with the aliases it gives.
    pub objects: Answer<Vec<serde_json::Value>>,
    pub events: Answer<Vec<ObjectEvent>>,
    /// The questions behind all of this.
    pub asked: Vec<Asked>,
}

impl Observations {
    /// Why not everything that was changed is known; `None` when all was read.
    ///
    /// Changes are `Known` as soon as one repository could be read. What another did not tell is a question without an answer,
    /// so the known ones are facts, and "nothing else was changed" is not.
    pub fn unread_changes(&self) -> Option<String> {
        if let Answer::Unknown { why } = &self.changes {
            return Some(why.clone());
        }
        let about_changes = |asked: &&Asked| asked.id == "changes" || asked.source == "git";
        let unread: Vec<&str> =
            self.asked.iter().filter(about_changes).filter_map(|asked| asked.unknown.as_deref()).collect();
        (!unread.is_empty()).then(|| unread.join("; "))
    }
}

/// Who calls whom and who owns whom.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    pub nodes: Vec<Entity>,
    pub edges: Vec<TopologyEdge>,
}

/// A link between two entities.
#[derive(Clone, Debug, PartialEq)]
pub struct TopologyEdge {
    pub from: Entity,
    pub to: Entity,
    pub kind: LinkKind,
}

/// How two entities are linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LinkKind {
    /// `from` calls `to`: trouble travels against the arrow.
    Calls,
    /// `from` runs on `to`.
    RunsOn,
    /// `from` owns `to`.
    Owns,
    /// `from` reads `to` (configuration, volume).
    Uses,
}

/// One metric series: labels as the store gave them, samples in time order.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Labels including `__name__`.
    pub labels: BTreeMap<String, String>,
    /// Unix seconds and value; missing samples are left out, never zero.
    pub samples: Vec<(f64, f64)>,
    /// Id of the [`Asked`] that brought it; empty for cases read from files.
    pub asked: String,
}

/// One span of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub trace_id: String,
    pub span_id: String,
    pub parent_id: Option<String>,
    pub service: String,
    pub pod: Option<String>,
    pub operation: String,
    pub kind: SpanKind,
    /// Unix nanoseconds.
    pub start_ns: u64,
    /// Nanoseconds.
    pub duration_ns: u64,
    pub error: bool,
    pub attributes: BTreeMap<String, String>,
}

/// Which side of a call a span describes (OpenTelemetry `SpanKind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpanKind {
    Internal,
    Server,
    Client,
    Producer,
    Consumer,
}

/// One log line with the stream that it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// Unix nanoseconds; `None` when the line carries no usable time.
    pub at_ns: Option<u64>,
    /// Pod or service as the store names it.
    pub source: String,
    pub severity: Option<String>,
    pub body: String,
    pub trace_id: Option<String>,
    pub span_id: Option<String>,
    /// How many equal lines this one stands for.
    pub count: u64,
    /// The class that people taught for such lines (`TelemetrySource.spec.logs.patterns`); it holds where the catalogue knows
    /// none, see [`Scene::class_of`](crate::scene::Scene::class_of).
    pub taught: Option<Class>,
}

/// Something that somebody changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Stable id: the commit, the rollout revision, the flag change.
    pub id: String,
    pub kind: ChangeKind,
    pub at: Timestamp,
    pub target: Entity,
    /// One line, untrusted text.
    pub summary: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Unified diff or field changes as text, bounded by the source.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub diff: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Pods that appeared and disappeared with it, where known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new_pods: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted_pods: Vec<String>,
}

impl Change {
    /// Images that it brought, as far as its diff names them.
    pub fn images_brought(&self) -> impl Iterator<Item = &str> {
        self.images('+')
    }

    /// Images that it replaced, as far as its diff names them.
    pub fn images_replaced(&self) -> impl Iterator<Item = &str> {
        self.images('-')
    }

    fn images(&self, sign: char) -> impl Iterator<Item = &str> {
        self.diff.lines().filter_map(move |line| {
            let field = line.strip_prefix(sign)?.trim_start().trim_start_matches("- ");
            let value = field.strip_prefix("image:")?;
            let value = value.split_once(" #").map_or(value, |(value, _)| value);
            Some(value.trim().trim_matches(['"', '\'']))
        })
    }
}

/// What sort of change it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ChangeKind {
    /// A new image runs.
    Image,
    /// Configuration changed: environment, ConfigMap, limits, probes.
    Config,
    /// A commit whose effect on objects is not known.
    Commit,
    /// A rollout without further knowledge of what changed.
    Deploy,
    Flag,
    Scale,
}

/// A Kubernetes event, bounded and flattened.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectEvent {
    pub at: Timestamp,
    /// `Kind/name` as the event's `regarding` names it.
    pub object: String,
    pub namespace: String,
    pub reason: String,
    pub message: String,
    pub count: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::EntityKind;

    #[test]
    fn the_images_of_a_change_are_read_from_its_diff_without_quotes_and_remarks() {
        let change = Change {
            id: "c".into(),
            kind: ChangeKind::Image,
            at: Timestamp::UNIX_EPOCH,
            target: Entity::new(EntityKind::Deployment, "shop", "checkout"),
            summary: String::new(),
            files: Vec::new(),
            diff:
                "--- a\n+++ b\n-          image: shop/a:1\n+        - image: \"shop/a:2\"  # pinned\n image: shop/b:1\n"
                    .into(),
            author: String::new(),
            new_pods: Vec::new(),
            deleted_pods: Vec::new(),
        };
        assert_eq!(change.images_brought().collect::<Vec<_>>(), ["shop/a:2"]);
        assert_eq!(change.images_replaced().collect::<Vec<_>>(), ["shop/a:1"]);
    }
}

//! Cases that the workload model makes: what every store would say of an incident whose cause is known.
//!
//! Pure and seeded. [`Stage`] is the shop with its objects; deeds happen on it at given seconds; [`Stage::play`] lets the model live
//! through it and hands over what a diagnosis would get to see.

mod damage;
mod metrics;
mod objects;
mod play;
pub mod stories;
pub mod turned;

use std::collections::BTreeMap;

use amend_diagnosis::diagnosis::Diagnosis;
use amend_diagnosis::evidence::{Change, ObjectEvent, Observations};
use amend_sandbox::model::graph::ServiceGraph;
use amend_sandbox::scenario::shop;
use jiff::Timestamp;
use serde_json::Value;

pub use damage::{DAMAGES, Damage};

/// Namespace of the shop.
pub const NAMESPACE: &str = "shop";

/// Trouble begins so many seconds after the beginning, and is looked at so many seconds later.
pub const BEGINS: i64 = 3_600;
pub const LOOKED_AT: i64 = 4_200;

/// A second of the story as a time.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap_or_default()
}

/// What is right to say of a case.
#[derive(Clone, Debug)]
pub struct Truth {
    /// Names of entities that may be blamed.
    pub entities: Vec<String>,
    /// Kinds of cause that are right; empty: any.
    pub kinds: Vec<&'static str>,
}

impl Truth {
    pub fn of(entities: &[&str], kinds: &[&'static str]) -> Self {
        Self { entities: entities.iter().map(|name| (*name).to_owned()).collect(), kinds: kinds.to_vec() }
    }

    /// Whether the best cause is right.
    pub fn is_met_by(&self, diagnosis: &Diagnosis) -> bool {
        diagnosis.causes.first().is_some_and(|cause| {
            self.entities.contains(&cause.entity.name)
                && (self.kinds.is_empty() || self.kinds.contains(&cause.kind.as_str()))
        })
    }
}

/// An incident with its known cause.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub observations: Observations,
    pub truth: Truth,
}

/// A workload as its manifest has it.
#[derive(Clone, Debug)]
pub struct Workload {
    pub tag: String,
    pub replicas: usize,
    pub cpu_limit: &'static str,
    pub memory_limit: &'static str,
    /// Counts template changes: the hash in the names of its pods.
    revision: usize,
}

/// Something that happens on the stage.
pub type Deed = Box<dyn Fn(&mut Stage)>;

/// The shop, its objects, and what happens to them.
pub struct Stage {
    pub graph: ServiceGraph,
    pub workloads: BTreeMap<String, Workload>,
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Conditions of each node that are true beside `Ready`.
    pub nodes: BTreeMap<String, Vec<&'static str>>,
    pub pods: Vec<Value>,
    pub changes: Vec<Change>,
    pub events: Vec<ObjectEvent>,
    /// Seconds since the beginning.
    pub now: i64,
    deeds: Vec<(i64, Deed)>,
    made: usize,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Stage").field("now", &self.now).field("pods", &self.pods.len()).finish_non_exhaustive()
    }
}

impl Stage {
    /// The healthy shop: ten services, two pods each, on four nodes.
    pub fn shop(seed: u64) -> Self {
        let graph = shop::graph(seed);
        let workload = |_: &String| Workload {
            tag: "1.0".to_owned(),
            replicas: 2,
            cpu_limit: "500m",
            memory_limit: "256Mi",
            revision: 0,
        };
        let mut stage = Self {
            workloads: graph.services.keys().map(|name| (name.clone(), workload(name))).collect(),
            graph,
            config_maps: BTreeMap::new(),
            nodes: ["node-a", "node-b", "node-c", "node-d"].map(|name| (name.to_owned(), Vec::new())).into(),
            pods: Vec::new(),
            changes: Vec::new(),
            events: Vec::new(),
            now: 0,
            deeds: Vec::new(),
            made: seed as usize % 4,
        };
        for name in stage.workloads.keys().cloned().collect::<Vec<_>>() {
            stage.fill(&name);
        }
        stage
    }

    /// Lets something happen at a second.
    #[must_use]
    pub fn when(mut self, second: i64, deed: impl Fn(&mut Stage) + 'static) -> Self {
        self.deeds.push((second, Box::new(deed)));
        self
    }
}

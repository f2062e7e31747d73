//! Deep collection: which finer questions a second round asks when the first leaves an incident without an answer, and what
//! came of them.
//!
//! Decided here and asked elsewhere. Only the alerting entities and the few best candidates are asked about, so the cost is
//! bounded by construction; what stays unanswered changes nothing.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clusters;
use crate::diagnosis::{Cause, Diagnosis};
use crate::entity::{Entity, EntityKind};
use crate::evidence::{Asked, Observations};
use crate::scene::Scene;

/// Workloads that are asked about: a further candidate that far behind has never been right on public data.
pub const ENTITIES_MAX: usize = 4;

/// Nodes that are asked about, all in one question.
pub const NODES_MAX: usize = 6;

/// Questions of one round; each is put to every store that may know.
pub const QUESTIONS_MAX: usize = 16;

/// What is asked more finely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finer {
    /// Error ratio and latency of each pod instead of the whole workload.
    Pods,
    /// Error ratio and latency by route, method or rpc.
    Operations,
    /// Error ratio and latency by version, where request metrics carry one.
    Versions,
    /// Share of time in which a container waits for CPU, memory or input and output (pressure stall information).
    Pressure,
    /// The same of nodes.
    NodePressure,
    /// Log lines of this workload alone: its neighbours' buried them.
    Lines,
}

impl Finer {
    /// Short name for ids and people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Operations => "operations",
            Self::Versions => "versions",
            Self::Pressure => "pressure",
            Self::NodePressure => "node-pressure",
            Self::Lines => "own-lines",
        }
    }
}

/// One thing to be asked about one entity (for [`Finer::NodePressure`]: about these nodes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinerQuestion {
    pub about: Finer,
    pub entities: Vec<Entity>,
}

/// What a second round was made for, what it asked, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeepCollection {
    /// Why: what the first round left open.
    pub because: String,
    /// Ids of the questions, all of them also in the diagnosis' `asked`.
    pub asked: Vec<String>,
    /// How many of them have no answer.
    pub unanswered: u32,
    /// What they changed, for people.
    pub changed: String,
}

impl DeepCollection {
    /// How many questions were asked, and how many of them stayed open.
    pub fn counted(&self) -> String {
        let questions = if self.asked.len() == 1 { "question" } else { "questions" };
        format!("{} finer {questions}, {} without an answer", self.asked.len(), self.unanswered)
    }
}

/// The questions whose answers may decide, the most telling first; none when there is an answer already.
pub fn finer(observations: &Observations, found: &Diagnosis) -> Vec<FinerQuestion> {
    if found.actionable().is_some() {
        return Vec::new();
    }
    let (observations, _) = clusters::own(observations);
    let scene = Scene::new(&observations);
    let workloads = candidates(&scene, found);
    let mut questions = Vec::new();
    for about in [Finer::Pods, Finer::Operations, Finer::Pressure, Finer::Versions, Finer::Lines] {
        let open = workloads.iter().filter(|workload| is_open(&scene, about, workload));
        questions.extend(open.map(|workload| FinerQuestion { about, entities: vec![workload.clone()] }));
    }
    let nodes = nodes(&scene, found, &workloads);
    if !nodes.is_empty() {
        questions.insert(
            questions.len().min(2 * workloads.len()),
            FinerQuestion { about: Finer::NodePressure, entities: nodes },
        );
    }
    questions.truncate(QUESTIONS_MAX);
    questions
}

/// The best candidates and the entities that alert, the likeliest first.
fn candidates(scene: &Scene<'_>, found: &Diagnosis) -> Vec<Entity> {
    let best = found.causes.iter().map(|cause| cause.entity.workload());
    let alerting = scene.observations.symptoms.iter().map(|signal| scene.symptom_entity(&signal.entity).workload());
    // The best one stands first whoever alerts; then they take turns, so that neither crowds out the other.
    let (mut best, mut alerting) = (best, alerting);
    let mut named: Vec<Entity> = Vec::new();
    loop {
        let pair = [best.next(), alerting.next()];
        if pair.iter().all(Option::is_none) || named.len() >= ENTITIES_MAX {
            break;
        }
        for entity in pair.into_iter().flatten().filter(has_pods) {
            if !named.contains(&entity) && named.len() < ENTITIES_MAX {
                named.push(entity);
            }
        }
    }
    named
}

fn has_pods(entity: &Entity) -> bool {
    match entity.kind {
        EntityKind::Deployment
        | EntityKind::StatefulSet
        | EntityKind::DaemonSet
        | EntityKind::ReplicaSet
        | EntityKind::Job
        | EntityKind::CronJob
        | EntityKind::Service
        | EntityKind::Pod => true,
        EntityKind::ConfigMap
        | EntityKind::Secret
        | EntityKind::PersistentVolumeClaim
        | EntityKind::Node
        | EntityKind::Namespace
        | EntityKind::Build
        | EntityKind::Release
        | EntityKind::Unaligned => false,
    }
}

/// Whether the answer could say something that is not known.
fn is_open(scene: &Scene<'_>, about: Finer, workload: &Entity) -> bool {
    let pods = scene.cluster.pods_of(workload).count();
    match about {
        // One pod is the workload; without objects nobody knows how many there are.
        Finer::Pods => !scene.cluster.known || pods > 1,
        Finer::Operations | Finer::Pressure => true,
        // Only where something was released are there two versions to compare.
        Finer::Versions => scene.changes.iter().any(|change| change.target == *workload),
        // Where the first round has lines of it, more of the same would only shift their counts.
        Finer::Lines => scene.observations.logs.known().is_some() && !scene.logs.contains_key(workload),
        Finer::NodePressure => false,
    }
}

/// Nodes under suspicion, and those that candidates run on.
fn nodes(scene: &Scene<'_>, found: &Diagnosis, workloads: &[Entity]) -> Vec<Entity> {
    let suspected = found.causes.iter().map(|cause| cause.entity.workload()).filter(|one| one.kind == EntityKind::Node);
    let under = workloads.iter().flat_map(|workload| scene.cluster.pods_of(workload)).map(|pod| pod.node.as_str());
    let under = under.filter(|node| !node.is_empty()).map(|node| Entity::new(EntityKind::Node, "", node));
    let mut seen = BTreeSet::new();
    suspected.chain(under).filter(|node| seen.insert(node.clone())).take(NODES_MAX).collect()
}

/// The diagnosis after a second round, with its story; `first` when nobody answered.
///
/// `asked` are the questions of the second round alone.
pub fn told(first: Diagnosis, second: Diagnosis, asked: &[Asked]) -> Diagnosis {
    let unanswered = asked.iter().filter(|one| one.unknown.is_some()).count();
    let because = first.abstained.clone().unwrap_or_default();
    let answered = unanswered < asked.len();
    let changed = match answered {
        true => changed(&first, &second),
        false => "nothing: none of the finer questions was answered".to_owned(),
    };
    let mut diagnosis = if answered { second } else { first };
    for one in asked {
        if !diagnosis.asked.iter().any(|known| known.id == one.id) {
            diagnosis.asked.push(one.clone());
        }
    }
    diagnosis.deep = Some(DeepCollection {
        because,
        asked: asked.iter().map(|one| one.id.clone()).collect(),
        unanswered: u32::try_from(unanswered).unwrap_or(u32::MAX),
        changed,
    });
    diagnosis
}

fn changed(first: &Diagnosis, second: &Diagnosis) -> String {
    let (before, after) = (first.causes.first(), second.causes.first());
    let same = |one: &Cause, other: &Cause| one.kind == other.kind && one.entity.workload() == other.entity.workload();
    let acted = match second.actionable() {
        Some(_) => "and may be acted on now",
        None => "and is not sure enough to act on",
    };
    match (before, after) {
        (Some(before), Some(after)) if same(before, after) && before.confidence == after.confidence => {
            format!("nothing: {} stays {} {acted}", cause_shown(after), percent(after))
        }
        (Some(before), Some(after)) if same(before, after) => {
            format!("{} went from {} to {} {acted}", cause_shown(after), percent(before), percent(after))
        }
        (Some(before), Some(after)) => format!(
            "{} ({}) took the place of {} ({}) {acted}",
            cause_shown(after),
            percent(after),
            cause_shown(before),
            percent(before)
        ),
        (None, Some(after)) => format!("{} was found ({}) {acted}", cause_shown(after), percent(after)),
        (_, None) => "nothing points at a cause".to_owned(),
    }
}

fn cause_shown(cause: &Cause) -> String {
    format!("{} on {}", cause.kind, cause.entity.name)
}

fn percent(cause: &Cause) -> String {
    // Never "100 %": nothing here is certain.
    format!("{:.0} %", (cause.confidence * 100.0).min(99.0))
}

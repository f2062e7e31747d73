//! A time that is over, looked at again: stores and Git remember it, the API server does not.
//!
//! What the API server says now must not be taken for what it said then. Pods are told by kube-state-metrics as far as the
//! stores keep it; of everything else only names are used, and the rest is `Unknown`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{Answer, Asked, Change, ChangeKind, ObjectEvent, Observations, Series, Window};
use amend_diagnosis::metric::{name, name_of};
use amend_diagnosis::signal::Signal;
use amend_telemetry::questions::{Measure, Selection, SeriesQuestion};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Around, Told};
use crate::cluster::{self, Look};
use crate::shell::Shell;
use crate::topology::Picture;

/// Deadline of all stores for one problem: nobody waits, and one question is asked at a time.
const STORES: Duration = Duration::from_secs(300);

/// How long the API server keeps events unless told otherwise (`--event-ttl`).
const EVENTS_KEPT: SignedDuration = SignedDuration::from_hours(1);

/// A series without a sample for this long has ended: two scrapes of a minute, which few exporters exceed.
const STALE: SignedDuration = SignedDuration::from_mins(2);

/// A restart longer ago than this says nothing of how a pod was at that time.
const RECENT: SignedDuration = SignedDuration::from_hours(2);

/// What a namespace looks like now: names, owners and call edges, good for all its problems.
#[derive(Debug)]
pub struct Standing {
    pub picture: Arc<Picture>,
    look: Look,
}

/// Looks at a namespace once, as it is at the end of the time that is looked back on.
pub async fn standing(shell: &Arc<Shell>, namespace: &str, now: Timestamp) -> Standing {
    let client = shell.clients.reader();
    let picture = shell.topologies.of(&client, &shell.sources, namespace, now).await;
    Standing { picture, look: cluster::look(&client, namespace, now).await }
}

impl Standing {
    /// The workload itself, as it is now.
    pub fn object(&self, entity: &Entity) -> Option<&Value> {
        self.look.find(&format!("{:?}", entity.kind), &entity.name)
    }

    /// Why the cluster does not tell everything; `None` when it does.
    pub fn gaps(&self) -> Option<String> {
        self.look.gaps()
    }
}

/// Looks at the world of one problem as it was at `at`, a moment up to `now`.
pub async fn observe(
    shell: &Arc<Shell>,
    namespace: &str,
    signals: &[Signal],
    standing: &Standing,
    at: Timestamp,
    now: Timestamp,
) -> Observations {
    let picture = &*standing.picture;
    // How other namespaces were, the API server does not remember either.
    let around =
        Around { namespace, signals, at, picture, elsewhere: &[], target: Picture::target_then, within: STORES };
    let told = around.asked(shell, &standing.look.objects).await;
    let (changes, image_questions) = changes(shell, namespace, &told, picture).await;
    let Told { windows, gathered, change_questions, .. } = told;
    let whole = Window { from: windows.normal.from, to: windows.fault.to };
    let mut asked = gathered.asked;
    asked.extend(change_questions);
    asked.extend(image_questions);
    asked.push(not_remembered(namespace, whole));
    let pods = pods(gathered.series.known().map(Vec::as_slice).unwrap_or_default(), picture, at);
    Observations {
        at,
        began: Some(windows.fault.from),
        normal: Some(windows.normal),
        fault: Some(windows.fault),
        symptoms: signals.to_vec(),
        candidates: None,
        topology: gathered.topology.map(|mut topology| {
            topology.nodes.extend(picture.workloads());
            topology
        }),
        series: gathered.series,
        spans: gathered.spans,
        exemplars: gathered.exemplars,
        logs: gathered.logs,
        changes,
        objects: match pods.is_empty() {
            true => Answer::unknown(format!("{NOT_REMEMBERED}, and no store kept kube-state-metrics of these pods")),
            false => Answer::Known(pods),
        },
        events: events(&standing.look.events, windows.fault, now),
        asked,
    }
}

const NOT_REMEMBERED: &str = "the API server does not remember how its objects were";

/// What nobody could ask, so that the list of questions does not look whole.
fn not_remembered(namespace: &str, window: Window) -> Asked {
    Asked {
        id: "cluster-then".to_owned(),
        source: "cluster".to_owned(),
        query: format!("objects of namespace {namespace} as they were"),
        window,
        digest: String::new(),
        unknown: Some(NOT_REMEMBERED.to_owned()),
    }
}

/// The events of the time, where the API server still has all of them.
fn events(kept: &[ObjectEvent], fault: Window, now: Timestamp) -> Answer<Vec<ObjectEvent>> {
    if now.duration_since(fault.from) > EVENTS_KEPT {
        return Answer::unknown(format!("the API server keeps events for {} minutes", EVENTS_KEPT.as_mins()));
    }
    Answer::Known(kept.iter().filter(|event| event.at <= fault.to).cloned().collect())
}

/// What Git knows up to that time; where Git cannot be asked, the images that pods began to run.
///
/// Images alone never say that nothing changed: without one that is new, changes stay unknown.
async fn changes(
    shell: &Arc<Shell>,
    namespace: &str,
    told: &Told,
    picture: &Picture,
) -> (Answer<Vec<Change>>, Vec<Asked>) {
    if let Answer::Known(known) = &told.changes {
        let by_then = known.iter().filter(|change| change.at <= told.windows.fault.to).cloned().collect();
        return (Answer::Known(by_then), Vec::new());
    }
    let window = Window { from: told.windows.normal.from, to: told.windows.fault.to };
    let targets = std::iter::once(&told.scope.focus).chain(&told.scope.neighbours);
    let sources = shell.sources.serving(namespace).await;
    let (mut found, mut asked) = (Vec::new(), Vec::new());
    for of in Selection::by_namespace(targets) {
        let question = SeriesQuestion {
            id: format!("images/{}", of.namespace),
            measure: Measure::Images,
            of,
            window,
            step: SignedDuration::from_mins(1),
        };
        for reply in sources.measured(&question, STORES).await {
            asked.push(reply.asked);
            found.extend(reply.answer.known().cloned().unwrap_or_default());
        }
    }
    match images_begun(&found, picture, window.from) {
        begun if begun.is_empty() => (told.changes.clone(), asked),
        begun => (Answer::Known(begun), asked),
    }
}

/// Images that a workload ran only from some moment on, after it had run others.
fn images_begun(series: &[Series], picture: &Picture, from: Timestamp) -> Vec<Change> {
    let mut first_seen: BTreeMap<(Entity, String), BTreeMap<String, f64>> = BTreeMap::new();
    for one in series {
        let label = |name: &str| one.labels.get(name).cloned().unwrap_or_default();
        let pod = Entity::new(EntityKind::Pod, label("namespace"), label("pod"));
        let Some(workload) = picture.resolved([pod]).into_iter().next() else { continue };
        let Some((at, _)) = one.samples.first() else { continue };
        let seen = first_seen.entry((workload, label("container"))).or_default().entry(label("image")).or_insert(*at);
        *seen = seen.min(*at);
    }
    let start = from.as_second() as f64 + STALE.as_secs_f64();
    let mut begun = Vec::new();
    for ((target, container), images) in first_seen {
        for (image, at) in images.iter().filter(|(_, at)| **at > start) {
            let before = images.iter().filter(|(_, other)| *other < at).max_by(|one, other| one.1.total_cmp(other.1));
            let (Some((before, _)), Ok(at)) = (before, Timestamp::from_second(*at as i64)) else { continue };
            let tag = image.rsplit([':', '/']).next().unwrap_or(image);
            begun.push(Change {
                id: format!("{tag}@{}", target.name),
                kind: ChangeKind::Image,
                at,
                target: target.clone(),
                summary: format!("container {container} began to run {image}"),
                files: Vec::new(),
                diff: format!("-          image: {before}\n+          image: {image}\n"),
                author: String::new(),
                new_pods: Vec::new(),
                deleted_pods: Vec::new(),
            });
        }
    }
    begun
}

/// The pods of that time as objects, with what kube-state-metrics tells of their containers.
///
/// Only what was measured is written: rules that ask for more find nothing.
fn pods(series: &[Series], picture: &Picture, at: Timestamp) -> Vec<Value> {
    let at = at.as_second() as f64;
    let mut containers: BTreeMap<(String, String), BTreeMap<String, Container>> = BTreeMap::new();
    for one in series {
        let label = |name: &str| one.labels.get(name).map(String::as_str);
        let (Some(namespace), Some(pod), Some(container)) = (label("namespace"), label("pod"), label("container"))
        else {
            continue;
        };
        let Some((seen, value)) = one.samples.iter().rev().find(|(time, _)| *time <= at) else { continue };
        if at - seen > STALE.as_secs_f64() {
            continue;
        }
        let pods = containers.entry((namespace.to_owned(), pod.to_owned())).or_default();
        let known = pods.entry(container.to_owned()).or_default();
        match name_of(&one.labels) {
            name::RESTARTS => {
                known.restarts = value.max(0.0) as i64;
                known.restarted = last_step(&one.samples, at).filter(|step| at - step <= RECENT.as_secs_f64());
                known.told = true;
            }
            name::LAST_TERMINATED if *value > 0.0 => known.ended = label("reason").map(str::to_owned),
            name::WAITING if *value > 0.0 => known.waits = label("reason").map(str::to_owned),
            name::LIMITS if label("resource") == Some("memory") => known.memory_limit = Some(*value),
            _ => {}
        }
    }
    let mut objects = Vec::new();
    let mut sets: BTreeSet<(String, String)> = BTreeSet::new();
    for ((namespace, pod), containers) in containers {
        // A pod that only cAdvisor or the application speaks of is not described.
        if !containers.values().any(|container| container.told || container.waits.is_some()) {
            continue;
        }
        let named = picture.resolved([Entity::new(EntityKind::Pod, &namespace, &pod)]);
        let owner = named.first().filter(|entity| entity.kind != EntityKind::Pod).map(|workload| match workload.kind {
            EntityKind::Deployment => {
                let set = pod.rsplit_once('-').map_or(pod.as_str(), |(set, _)| set).to_owned();
                if sets.insert((namespace.clone(), set.clone())) {
                    objects.push(json!({
                        "apiVersion": "apps/v1", "kind": "ReplicaSet",
                        "metadata": { "namespace": namespace, "name": set, "ownerReferences": [owned_by(workload)] },
                    }));
                }
                json!({ "kind": "ReplicaSet", "name": set, "controller": true })
            }
            _ => owned_by(workload),
        });
        objects.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": namespace, "name": pod, "ownerReferences": owner.into_iter().collect::<Vec<_>>() },
            "spec": { "containers": containers.iter().map(|(name, one)| one.spec(name)).collect::<Vec<_>>() },
            "status": { "containerStatuses": containers.iter().map(|(name, one)| one.status(name)).collect::<Vec<_>>() },
        }));
    }
    objects
}

fn owned_by(workload: &Entity) -> Value {
    json!({ "kind": format!("{:?}", workload.kind), "name": workload.name, "controller": true })
}

/// The last moment at which a counter grew.
fn last_step(samples: &[(f64, f64)], until: f64) -> Option<f64> {
    let steps = samples.windows(2).filter(|pair| pair[1].1 > pair[0].1 && pair[1].0 <= until);
    steps.map(|pair| pair[1].0).next_back()
}

#[derive(Debug, Default)]
struct Container {
    /// Whether its restarts were counted: then kube-state-metrics knew it.
    told: bool,
    restarts: i64,
    /// Unix seconds of the last restart, when it was lately.
    restarted: Option<f64>,
    ended: Option<String>,
    waits: Option<String>,
    memory_limit: Option<f64>,
}

impl Container {
    fn spec(&self, name: &str) -> Value {
        let limits = self.memory_limit.map(|bytes| json!({ "limits": { "memory": format!("{bytes:.0}") } }));
        json!({ "name": name, "resources": limits.unwrap_or_else(|| json!({})) })
    }

    /// An end is told only with the restart that followed it: the reason alone may be days old.
    fn status(&self, name: &str) -> Value {
        let finished = self.restarted.and_then(|at| Timestamp::from_second(at as i64).ok());
        let last = self.ended.as_ref().zip(finished).map(|(reason, finished)| {
            // What the kubelet reports for a container that the kernel killed for memory; others are not measured.
            let code = (reason == "OOMKilled").then_some(137);
            json!({ "terminated": { "reason": reason, "finishedAt": finished, "exitCode": code } })
        });
        let state = match &self.waits {
            Some(reason) => json!({ "waiting": { "reason": reason } }),
            None => json!({}),
        };
        json!({
            "name": name, "restartCount": self.restarts, "ready": self.waits.is_none(), "state": state,
            "lastState": last.unwrap_or_else(|| json!({})),
        })
    }
}

#[cfg(test)]
mod tests;

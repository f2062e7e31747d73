//! What an incident's workloads depend on in other namespaces: a database in `data`, an ingress, the cluster's name server.
//!
//! Only namespaces that something leads to are read, and of them only what is depended on. Who lacks the rights there, and what is
//! beyond the bound, is told as unknown. An incident is read by whoever may read its own namespace: what is wrong in another one is told
//! there only where that one says so ([`VISIBLE_TO`]), since anybody can write an address into an environment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use amend_diagnosis::cluster::{list, text};
use amend_diagnosis::entity::Entity;
use amend_diagnosis::evidence::{Answer, Asked, ObjectEvent, Window};
use amend_diagnosis::signal::Signal;
use amend_telemetry::questions::Target;
use jiff::Timestamp;
use kube::Client;
use serde_json::Value;

use crate::cluster::{self, EVENTS_FOR, NAMESPACE, Read, STORAGE_CLASS, VOLUME};
use crate::topology::Picture;

/// Other namespaces that one look takes in: eight lists of some ten kinds are about a second of the API server's time.
const NAMESPACES_MAX: usize = 8;

/// How long any of them is waited for: an incident has half a minute, and its own namespace comes first.
const WITHIN: Duration = Duration::from_secs(3);

/// Workloads of other namespaces that stores are asked about.
const TARGETS_MAX: usize = 8;

/// Annotation of a namespace that lists those whose incidents may tell what is wrong in it, separated by commas; `*` means all.
const VISIBLE_TO: &str = "amend.dev/visible-to";

/// What is read of them: workloads with what decides whether they run and can be reached.
const KINDS: [&str; 10] = [
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "ReplicaSet",
    "Pod",
    "Service",
    "PersistentVolumeClaim",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
    "PodDisruptionBudget",
];

/// The name server of the cluster: every workload needs it, and nothing else of its namespace.
const NAME_SERVER: (&str, &str, [&str; 4]) =
    ("kube-system", "k8s-app=kube-dns", ["Deployment", "ReplicaSet", "Pod", "Service"]);

/// What was found there.
#[derive(Debug, Default)]
pub struct Elsewhere {
    pub objects: Vec<Value>,
    pub events: Vec<ObjectEvent>,
    /// As whom stores know the workloads that are depended on.
    pub targets: Vec<Target>,
    pub asked: Vec<Asked>,
}

/// Looks at what lies outside of the incident's namespace and may have brought its trouble.
pub async fn look(
    client: &Client,
    home: &str,
    objects: &[Value],
    picture: &Picture,
    signals: &[Signal],
    now: Timestamp,
) -> Elsewhere {
    let window = Window { from: now - EVENTS_FOR, to: now };
    let mut wanted = ranked(wanted(home, objects, picture, signals));
    let beyond = wanted.split_off(wanted.len().min(NAMESPACES_MAX));
    let there = wanted.iter().map(|(namespace, names)| {
        in_time(namespace, window, of_namespace(client, home, (namespace, names), window, now))
    });
    let (there, home_labels, server, volumes) = futures::join!(
        futures::future::join_all(there),
        in_time(home, window, namespace(client, home, window)),
        in_time(NAME_SERVER.0, window, name_server(client, home, window)),
        in_time("volumes", window, volumes(client, objects, window)),
    );
    let mut found = Elsewhere::default();
    for part in there.into_iter().chain([home_labels, server, volumes]) {
        found.objects.extend(part.objects);
        found.events.extend(part.events);
        found.targets.extend(part.targets);
        found.asked.extend(part.asked);
    }
    found.targets.truncate(TARGETS_MAX);
    found.asked.extend(not_looked_at(&beyond, window));
    found
}

/// What came of one look, or that it took too long.
async fn in_time(what: &str, window: Window, look: impl Future<Output = Elsewhere>) -> Elsewhere {
    tokio::time::timeout(WITHIN, look).await.unwrap_or_else(|_| {
        let asked = Asked {
            id: format!("cluster-late-of-{what}"),
            source: "cluster".to_owned(),
            query: format!("objects of {what}"),
            window,
            digest: String::new(),
            unknown: Some(format!("the API server did not answer within {} s", WITHIN.as_secs())),
        };
        Elsewhere { asked: vec![asked], ..Elsewhere::default() }
    })
}

/// What is wanted of a namespace, and how surely something leads there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// A signal or a call leads there; else only a name that looks like one.
    sure: bool,
    names: BTreeSet<String>,
}

/// Workloads and Services of other namespaces that signals are about, that are called, or that addresses name.
fn wanted(home: &str, objects: &[Value], picture: &Picture, signals: &[Signal]) -> BTreeMap<String, Wanted> {
    let mut found: BTreeMap<String, Wanted> = BTreeMap::new();
    let mut want = |namespace: &str, name: &str, sure: bool| {
        if !namespace.is_empty() && namespace != home && !name.is_empty() {
            let wanted = found.entry(namespace.to_owned()).or_default();
            wanted.sure |= sure;
            wanted.names.insert(name.to_owned());
        }
    };
    for signal in signals {
        want(&signal.entity.namespace, &signal.entity.name, true);
    }
    for edge in &picture.links.edges {
        for (one, other) in [(&edge.from, &edge.to), (&edge.to, &edge.from)] {
            if one.namespace == home {
                want(&other.namespace, &other.name, true);
            }
        }
    }
    for host in objects.iter().flat_map(hosts) {
        let host = host.trim_end_matches('.');
        let mut labels = host.split('.');
        let (Some(name), Some(namespace)) = (labels.next(), labels.next()) else { continue };
        match labels.next() {
            None => want(namespace, name, false),
            Some("svc") => want(namespace, name, true),
            Some(_) => {}
        }
    }
    found
}

/// Host names in the environment of a workload, and the one that a Service stands for.
fn hosts(object: &Value) -> Vec<&str> {
    let template = object.pointer("/spec/template").or_else(|| object.pointer("/spec/jobTemplate/spec/template"));
    let workload = template.filter(|_| object["kind"] != "ReplicaSet").into_iter();
    let containers =
        workload.flat_map(|one| list(one, "/spec/containers").iter().chain(list(one, "/spec/initContainers")));
    let values = containers.flat_map(|container| list(container, "/env")).map(|variable| text(variable, "/value"));
    let mut hosts: Vec<&str> = values
        .flat_map(|value| value.split([',', ' ', ';']))
        .map(|part| {
            let bare = part.split_once("://").map_or(part, |(_, rest)| rest);
            let bare = bare.split(['/', '?', '#']).next().unwrap_or_default();
            let bare = bare.rsplit_once('@').map_or(bare, |(_, rest)| rest);
            bare.split(':').next().unwrap_or_default()
        })
        .filter(|host| {
            host.contains('.') && host.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c))
        })
        .collect();
    hosts.extend(
        Some(text(object, "/spec/externalName")).filter(|name| !name.is_empty() && object["kind"] == "Service"),
    );
    hosts
}

fn ranked(wanted: BTreeMap<String, Wanted>) -> Vec<(String, Wanted)> {
    let mut ranked: Vec<(String, Wanted)> = wanted.into_iter().collect();
    ranked.sort_by_key(|(_, wanted)| !wanted.sure);
    ranked
}

/// A namespace and what is wanted of it. What only looks like one, as `redis.io` does, is left alone.
async fn of_namespace(
    client: &Client,
    home: &str,
    (name, wanted): (&str, &Wanted),
    window: Window,
    now: Timestamp,
) -> Elsewhere {
    let mut found = namespace(client, name, window).await;
    let Some(object) = found.objects.first() else {
        // What nobody may read stays unknown; what is not there is no namespace.
        found.asked.retain(|asked| asked.unknown.is_some());
        return found;
    };
    if !shows_itself(object, home) {
        found.asked.push(Asked {
            id: format!("cluster-objects-of-{name}"),
            source: "cluster".to_owned(),
            query: format!("{} in namespace {name}", wanted.names.iter().cloned().collect::<Vec<_>>().join(", ")),
            window,
            digest: String::new(),
            unknown: Some(format!(
                "namespace {name} does not let incidents of {home} tell what is in it; to allow that: kubectl annotate namespace \
                 {name} {VISIBLE_TO}={home}"
            )),
        });
        return found;
    }
    let reads = KINDS.into_iter().filter_map(Read::of_kind);
    let lists = reads.map(|read| cluster::list(client, read, Some(name), window));
    let (lists, (events, question)) =
        futures::join!(futures::future::join_all(lists), cluster::events(client, name, window));
    let mut objects = Vec::new();
    for (answer, asked) in lists {
        objects.extend(answer.known().into_iter().flatten().cloned());
        found.asked.push(of(asked, name));
    }
    found.asked.push(of(question, name));
    let (kept, targets) = depended_on(objects, &wanted.names, now);
    let named: BTreeSet<String> =
        kept.iter().map(|one| format!("{}/{}", text(one, "/kind"), text(one, "/metadata/name"))).collect();
    found.events =
        events.known().into_iter().flatten().filter(|event| named.contains(&event.object)).cloned().collect();
    found.objects.extend(kept);
    found.targets = targets;
    found
}

fn shows_itself(namespace: &Value, to: &str) -> bool {
    let told = namespace["metadata"]["annotations"][VISIBLE_TO].as_str().unwrap_or_default();
    told.split(',').map(str::trim).any(|one| one == "*" || one == to)
}

/// The labels of a namespace, which policies select by.
async fn namespace(client: &Client, name: &str, window: Window) -> Elsewhere {
    let answer = cluster::get(client, NAMESPACE, "", name).await;
    let (objects, unknown) = match answer {
        Answer::Known(object) => (object.into_iter().collect(), None),
        Answer::Unknown { why } => (Vec::new(), Some(why)),
    };
    let asked = Asked {
        id: format!("cluster-namespace-of-{name}"),
        source: "cluster".to_owned(),
        query: format!("v1/namespaces/{name}"),
        window,
        digest: String::new(),
        unknown,
    };
    Elsewhere { objects, asked: vec![asked], ..Elsewhere::default() }
}

/// Only objects with the label that its installers keep: the rest of that namespace is nobody's dependency.
async fn name_server(client: &Client, home: &str, window: Window) -> Elsewhere {
    let (place, label, kinds) = NAME_SERVER;
    let mut found = Elsewhere::default();
    if home == place {
        return found;
    }
    let reads = kinds.into_iter().filter_map(Read::of_kind);
    let lists = reads.map(|read| cluster::list_labelled(client, read, Some(place), label, window));
    for (answer, asked) in futures::future::join_all(lists).await {
        found.objects.extend(answer.known().into_iter().flatten().cloned());
        found.asked.push(of(asked, place));
    }
    found
}

/// Volumes and their classes, where a claim waits for one.
async fn volumes(client: &Client, objects: &[Value], window: Window) -> Elsewhere {
    let waits = |one: &Value| one["kind"] == "PersistentVolumeClaim" && text(one, "/status/phase") != "Bound";
    let mut found = Elsewhere::default();
    if objects.iter().any(waits) {
        let lists = [VOLUME, STORAGE_CLASS].map(|read| cluster::list(client, read, None, window));
        for (answer, asked) in futures::future::join_all(lists).await {
            found.objects.extend(answer.known().into_iter().flatten().cloned());
            found.asked.push(asked);
        }
    }
    found
}

/// The question under a name of its own: that a kind is unread there says nothing of the incident's namespace.
fn of(asked: Asked, namespace: &str) -> Asked {
    Asked { id: format!("{}-of-{namespace}", asked.id), ..asked }
}

/// Workloads by their names or those of Services in front of them, with what belongs to them; and policies, which may be about all.
fn depended_on(objects: Vec<Value>, names: &BTreeSet<String>, now: Timestamp) -> (Vec<Value>, Vec<Target>) {
    let picture = Picture::standing(objects.clone(), now);
    let cluster = picture.cluster();
    let named = |name: &str| names.contains(name);
    let mut wanted: BTreeSet<Entity> = BTreeSet::new();
    wanted.extend(cluster.workloads.iter().map(|one| one.entity.clone()).filter(|one| named(&one.name)));
    wanted.extend(cluster.services.iter().filter(|one| named(&one.name)).filter_map(|one| cluster.selected_by(one)));
    wanted.extend(cluster.pods.iter().filter(|one| named(&one.name)).map(|one| one.workload.clone()));
    let is_wanted = |name: &str| wanted.iter().any(|entity| entity.name == name);
    let pods: BTreeSet<&str> =
        cluster.pods.iter().filter(|pod| wanted.contains(&pod.workload)).map(|pod| pod.name.as_str()).collect();
    let services: BTreeSet<&str> = cluster
        .services
        .iter()
        .filter(|one| named(&one.name) || cluster.selected_by(one).is_some_and(|entity| wanted.contains(&entity)))
        .map(|one| one.name.as_str())
        .collect();
    let keeps = |object: &Value| {
        let name = text(object, "/metadata/name");
        match text(object, "/kind") {
            "Pod" => pods.contains(name),
            "Service" => services.contains(name),
            "ReplicaSet" => {
                list(object, "/metadata/ownerReferences").iter().any(|owner| is_wanted(text(owner, "/name")))
            }
            "HorizontalPodAutoscaler" => is_wanted(text(object, "/spec/scaleTargetRef/name")),
            "NetworkPolicy" | "PodDisruptionBudget" | "PersistentVolumeClaim" => true,
            _ => is_wanted(name),
        }
    };
    let targets = wanted.iter().map(|entity| picture.target(entity)).collect();
    (objects.into_iter().filter(|object| keeps(object)).collect(), targets)
}

fn not_looked_at(beyond: &[(String, Wanted)], window: Window) -> Option<Asked> {
    let names = beyond.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    (!beyond.is_empty()).then(|| Asked {
        id: "cluster-namespaces-beyond".to_owned(),
        source: "cluster".to_owned(),
        query: format!("objects of the namespaces {names}"),
        window,
        digest: String::new(),
        unknown: Some(format!("more than {NAMESPACES_MAX} other namespaces are depended on; these were not looked at")),
    })
}

#[cfg(test)]
mod tests;

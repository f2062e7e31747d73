//! Contrast with peers: what one workload has different from others that use the same thing.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Workload, list, text};
use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::finding::{Finding, Modality};
use crate::scene::Scene;

/// A majority needs at least this many members to mean something.
const PEERS_MIN: usize = 4;
/// And this share of them must agree.
const AGREEMENT: f64 = 0.7;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = credentials(scene);
    findings.extend(routes(scene));
    findings
}

/// One connection as an environment or a Secret describes it.
#[derive(Default)]
struct Connection {
    parts: BTreeMap<&'static str, String>,
    /// Parts that come from where nobody looked: neither equal to the peers' nor different.
    hidden: BTreeSet<&'static str>,
}

const PARTS: [&str; 6] = ["HOST", "PORT", "USERNAME", "USER", "PASSWORD", "DATABASE"];

/// Who says what about the same server and user: one password or port that differs from the majority is the wrong one.
fn credentials(scene: &Scene<'_>) -> Vec<Finding> {
    let mut groups: BTreeMap<(String, String), Vec<(Entity, Connection)>> = BTreeMap::new();
    for workload in &scene.cluster.workloads {
        let entity = workload.entity.clone();
        let unread = reads_unseen(scene, workload);
        let mut connections: BTreeMap<String, Connection> = BTreeMap::new();
        for (key, value) in scene.settings_of(&entity) {
            let upper = key.to_ascii_uppercase();
            if let Some(part) = PARTS.iter().find(|part| upper == **part || upper.ends_with(&format!("_{part}"))) {
                let prefix = upper.trim_end_matches(part).to_owned();
                let connection = connections.entry(prefix).or_default();
                // A reference or another variable's value is no literal.
                if value.is_empty() || value.contains("$(") {
                    connection.hidden.insert(part);
                } else {
                    connection.parts.insert(part, value);
                }
            }
        }
        for mut connection in connections.into_values() {
            if unread {
                connection.hidden.extend(PARTS.iter().filter(|part| !connection.parts.contains_key(*part)));
            }
            if connection.hidden.contains("USER") && !connection.parts.contains_key("USERNAME")
                || connection.hidden.contains("USERNAME") && !connection.parts.contains_key("USER")
            {
                continue;
            }
            let user = connection.parts.get("USER").or_else(|| connection.parts.get("USERNAME")).cloned();
            if let Some(host) = connection.parts.get("HOST") {
                groups.entry((host.clone(), user.unwrap_or_default())).or_default().push((entity.clone(), connection));
            }
        }
    }
    let mut findings = Vec::new();
    for ((host, _), members) in groups.iter().filter(|(_, members)| members.len() >= PEERS_MIN) {
        for (part, fault) in [("PASSWORD", "mysql_invalid_credentials"), ("PORT", "mysql_invalid_port")] {
            let members: Vec<_> = members.iter().filter(|(_, one)| !one.hidden.contains(part)).collect();
            if members.len() < PEERS_MIN {
                continue;
            }
            let mut votes: BTreeMap<Option<&String>, usize> = BTreeMap::new();
            for (_, connection) in &members {
                *votes.entry(connection.parts.get(part)).or_default() += 1;
            }
            let Some((usual, count)) = votes.into_iter().max_by_key(|(_, count)| *count) else { continue };
            if (count as f64) < AGREEMENT * members.len() as f64 {
                continue;
            }
            for (entity, connection) in members.iter().filter(|(_, one)| one.parts.get(part) != usual) {
                let shown = part.to_ascii_lowercase();
                let what = if connection.parts.contains_key(part) { "another" } else { "no" };
                findings.push(
                    Finding::new(
                        entity.clone(),
                        cause::CONFIG_WRONG,
                        Modality::State,
                        6.0,
                        format!("{} uses {what} {shown} for {host} than {count} peers with the same user", entity.name),
                    )
                    .labelled(format!("{shown} differs from its peers"))
                    .fault(fault)
                    .asked(scene.questions().about(&["secrets", "objects"])),
                );
            }
        }
    }
    findings
}

/// Whether a workload takes its whole environment from an object that nobody could read.
fn reads_unseen(scene: &Scene<'_>, workload: &Workload) -> bool {
    let seen = |kind: &str, name: &str| {
        scene.cluster.others(kind).iter().any(|object| {
            text(object, "/metadata/name") == name
                && text(object, "/metadata/namespace") == workload.entity.namespace
                && (object["data"].is_object() || object["stringData"].is_object())
        })
    };
    let sources = list(&workload.template, "/spec/containers").iter().flat_map(|one| list(one, "/envFrom"));
    sources.into_iter().any(|source| {
        let (map, secret) = (text(source, "/configMapRef/name"), text(source, "/secretRef/name"));
        !map.is_empty() || (!secret.is_empty() && !seen("Secret", secret))
    })
}

/// One entry of a gateway's route table.
struct Route {
    id: String,
    host: String,
    path: String,
}

/// A route that leads to the host of another route, although a service of its own name exists.
fn routes(scene: &Scene<'_>) -> Vec<Finding> {
    let services: Vec<&str> = scene.cluster.services.iter().map(|service| service.name.as_str()).collect();
    let mut findings = Vec::new();
    for (owner, text) in route_texts(scene) {
        let routes = table(&text);
        for route in &routes {
            let own = services
                .iter()
                .filter(|service| names(&route.id, service) || names(&route.path, service))
                .collect::<Vec<_>>();
            let elsewhere = services.contains(&route.host.as_str()) && !own.iter().any(|own| ***own == route.host);
            let shared = routes.iter().any(|other| other.id != route.id && other.host == route.host);
            if let (Some(own), true, true) = (own.first(), elsewhere, shared) {
                let entity = scene
                    .aligner
                    .named(&owner.namespace, own)
                    .unwrap_or_else(|| Entity::new(EntityKind::Service, &owner.namespace, **own));
                findings.push(
                    Finding::new(
                        entity,
                        cause::ROUTING,
                        Modality::State,
                        6.0,
                        format!(
                            "the route {} of {} leads to {}, which has a route of its own",
                            route.id, owner.name, route.host
                        ),
                    )
                    .labelled(format!("route leads to {}", route.host))
                    .fault("gateway_misroute")
                    .asked(scene.questions().about(&["configmaps", "objects"])),
                );
            }
        }
    }
    findings
}

/// Texts that hold route tables: ConfigMaps, and inline configuration of workloads.
fn route_texts(scene: &Scene<'_>) -> Vec<(Entity, String)> {
    let mut texts = Vec::new();
    for map in scene.cluster.others("ConfigMap") {
        let name = text(map, "/metadata/name");
        let namespace = text(map, "/metadata/namespace");
        for value in map["data"].as_object().into_iter().flatten().filter_map(|(_, value)| value.as_str()) {
            if value.contains("predicates:") {
                texts.push((Entity::new(EntityKind::ConfigMap, namespace, name), value.to_owned()));
            }
        }
    }
    texts
}

fn table(text: &str) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(id) = line.strip_prefix("- id:") {
            routes.push(Route { id: id.trim().to_owned(), host: String::new(), path: String::new() });
        } else if let Some(route) = routes.last_mut() {
            if let Some(uri) = line.strip_prefix("uri:") {
                route.host = host(uri.trim());
            } else if let Some((_, path)) = line.split_once("Path=") {
                route.path = path.trim().to_owned();
            }
        }
    }
    routes
}

/// `http://${X:host}:8080/a` names `host`.
fn host(uri: &str) -> String {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let rest = match rest.strip_prefix("${") {
        Some(variable) => variable.split_once(':').map_or(variable, |(_, default)| default),
        None => rest,
    };
    rest.split([':', '/', '}']).next().unwrap_or("").to_owned()
}

/// Whether a route's id or path is that of a service: equal when prefixes, `service` and punctuation are left out.
fn names(route: &str, service: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let parts = text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_ascii_lowercase);
        parts
            .filter(|part| !part.is_empty() && !["api", "v1", "v2", "service", "svc"].contains(&part.as_str()))
            .collect()
    };
    let (route, service) = (words(route).concat(), words(service));
    let whole = service.concat();
    let without_first = service.iter().skip(1).cloned().collect::<Vec<_>>().concat();
    let stripped = route.trim_end_matches("service");
    !stripped.is_empty()
        && (stripped == whole.trim_end_matches("service") || stripped == without_first.trim_end_matches("service"))
}

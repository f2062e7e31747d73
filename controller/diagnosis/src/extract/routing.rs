//! Services, ports, addresses and routes that lead nowhere.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::cluster::{Service, Workload, list, text};
use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::finding::{Finding, Modality};
use crate::scene::Scene;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &scene.cluster.services {
        findings.extend(of_service(scene, service));
    }
    for workload in &scene.cluster.workloads {
        findings.extend(addresses(scene, workload));
        findings.extend(sidecar_ports(scene, workload));
    }
    findings
}

fn misrouted(scene: &Scene<'_>, entity: Entity, weight: f64, fault: &'static str, sentence: String) -> Finding {
    Finding::new(entity, cause::ROUTING, Modality::State, weight, sentence)
        .labelled("leads nowhere")
        .fault(fault)
        .asked(scene.questions().about(&["services", "Service", "objects"]))
}

/// The workload that a service is meant for: what it selects, else the one of its name.
fn meant(scene: &Scene<'_>, service: &Service) -> Option<Entity> {
    let named = scene
        .cluster
        .workloads
        .iter()
        .find(|workload| workload.entity.namespace == service.namespace && workload.entity.name == service.name);
    named.map(|workload| workload.entity.clone()).or_else(|| scene.cluster.selected_by(service))
}

fn of_service(scene: &Scene<'_>, service: &Service) -> Option<Finding> {
    let entity = meant(scene, service)?;
    let workload = scene.cluster.workload(&entity)?;
    let ready = |pod: &&crate::cluster::Pod| {
        pod.phase == "Running" && !pod.containers.is_empty() && pod.containers.iter().all(|container| container.ready)
    };
    let running: Vec<_> = scene.cluster.pods_of(&entity).filter(ready).collect();
    let selects =
        running.iter().any(|pod| service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)));
    if !running.is_empty() && !service.selector.is_empty() && !selects {
        return Some(misrouted(
            scene,
            entity.clone(),
            6.0,
            "service_selector_mismatch",
            format!("service {} selects none of the running pods of {}", service.name, entity.name),
        ));
    }
    let containers = list(&workload.template, "/spec/containers");
    let listening = |name: &str| -> BTreeSet<i64> {
        let ports = containers.iter().flat_map(|container| list(container, "/ports"));
        let named = ports.filter(|port| name.is_empty() || text(port, "/name") == name);
        named.filter_map(|port| port["containerPort"].as_i64()).collect()
    };
    let open = listening("");
    for port in list(&service.object, "/spec/ports") {
        let target = port["targetPort"].as_i64().or(port["targetPort"].as_str().and_then(|text| text.parse().ok()));
        let protocol = text(port, "/protocol");
        if protocol == "UDP" && !open.is_empty() && !speaks_udp(containers) {
            return Some(misrouted(
                scene,
                entity.clone(),
                5.9,
                "service_protocol_mismatch",
                format!("service {} forwards UDP, but {} listens on TCP", service.name, entity.name),
            ));
        }
        if let Some(target) = target.filter(|target| !open.is_empty() && !open.contains(target)) {
            return Some(misrouted(
                scene,
                entity.clone(),
                5.8,
                "service_port_mapping_mismatch",
                format!("service {} forwards to port {target}, but {} listens on {open:?}", service.name, entity.name),
            ));
        }
    }
    None
}

fn speaks_udp(containers: &[Value]) -> bool {
    containers.iter().flat_map(|container| list(container, "/ports")).any(|port| text(port, "/protocol") == "UDP")
}

/// Addresses in the environment that name no service, or a port that the service does not have.
fn addresses(scene: &Scene<'_>, workload: &Workload) -> Vec<Finding> {
    let ports: BTreeMap<&str, Vec<i64>> = scene
        .cluster
        .services
        .iter()
        .filter(|service| service.namespace == workload.entity.namespace)
        .map(|service| {
            let ports = list(&service.object, "/spec/ports").iter().filter_map(|port| port["port"].as_i64()).collect();
            (service.name.as_str(), ports)
        })
        .collect();
    if ports.is_empty() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for variable in list(&workload.template, "/spec/containers").iter().flat_map(|container| list(container, "/env")) {
        let value = text(variable, "/value");
        let bare = value.split_once("://").map_or(value, |(_, rest)| rest);
        let Some((host, rest)) = bare.split_once(':') else { continue };
        let Ok(port) = rest.split('/').next().unwrap_or("").parse::<i64>() else { continue };
        let name = text(variable, "/name");
        let short = host.split('.').next().unwrap_or(host);
        let fault = match ports.get(short) {
            Some(known) if !known.is_empty() && !known.contains(&port) => {
                Some(format!("{name} points to {host}:{port}, but that service has port {known:?}"))
            }
            Some(_) => None,
            None => nearest(short, ports.keys().copied())
                .map(|near| format!("{name} points to {host}, which no service is called; {near} is near")),
        };
        if let Some(sentence) = fault {
            let sentence = format!("{}: {sentence}", workload.entity.name);
            findings.push(misrouted(scene, workload.entity.clone(), 5.9, "service_env_var_address_mismatch", sentence));
        }
    }
    findings
}

/// A service whose name is a slip away: a shared head or tail, or few edits.
fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .filter(|other| other.len().abs_diff(name.len()) <= 3)
        .map(|other| (edits(name, other), other))
        .filter(|(edits, other)| *edits > 0 && *edits <= 3.max(other.len() / 5).min(4))
        .min()
        .map(|(_, other)| other)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(80).collect(), b.chars().take(80).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

/// A sidecar that is told, by an annotation, to listen where the application already listens.
fn sidecar_ports(scene: &Scene<'_>, workload: &Workload) -> Option<Finding> {
    let containers = list(&workload.template, "/spec/containers");
    let mut open: BTreeMap<i64, usize> = BTreeMap::new();
    for port in containers.iter().flat_map(|container| list(container, "/ports")) {
        if let Some(port) = port["containerPort"].as_i64() {
            *open.entry(port).or_default() += 1;
        }
    }
    let annotations = workload.template.pointer("/metadata/annotations").and_then(Value::as_object);
    let told = annotations.into_iter().flatten().filter_map(|(key, value)| {
        let value = value.as_str()?;
        ports_in(key, value).into_iter().find(|port| open.contains_key(port))
    });
    let clash =
        told.into_iter().next().or_else(|| open.iter().find(|(_, count)| **count > 1).map(|(port, _)| *port))?;
    Some(
        Finding::new(
            workload.entity.clone(),
            cause::CONFIG_WRONG,
            Modality::State,
            6.2,
            format!("two containers in the pods of {} want port {clash}", workload.entity.name),
        )
        .labelled(format!("port {clash} wanted twice"))
        .fault("service_sidecar_port_conflict")
        .asked(scene.questions().about(&["deployments", "Deployment", "objects"])),
    )
}

/// Ports that an annotation gives to a sidecar: `…statusPort: 15020` in its key or in its text.
fn ports_in(key: &str, value: &str) -> Vec<i64> {
    let lower = format!("{key}: {value}").to_ascii_lowercase();
    let mut found = Vec::new();
    for part in lower.split("port").skip(1) {
        let digits: String = part
            .trim_start_matches(['"', '\'', ' ', ':', '=', '\\', 's'])
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        found.extend(digits.parse::<i64>().ok());
    }
    // Ports that traffic is steered around are not listened on.
    if lower.contains("exclude") || lower.contains("include") { Vec::new() } else { found }
}

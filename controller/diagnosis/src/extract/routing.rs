//! Services, ports, addresses and routes that lead nowhere.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::cluster::{Container, Pod, Service, Workload, list, text};
use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::finding::{Finding, Modality};
use crate::scene::Scene;

use super::{addresses, unreached};

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &scene.cluster.services {
        findings.extend(of_service(scene, service));
    }
    for workload in &scene.cluster.workloads {
        findings.extend(addresses::findings(scene, workload));
        findings.extend(sidecar_ports(scene, workload));
    }
    findings
}

pub fn misrouted(scene: &Scene<'_>, entity: Entity, weight: f64, fault: &'static str, sentence: String) -> Finding {
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
    if service.selector.is_empty() {
        return None;
    }
    match scene.cluster.selected(service).next() {
        None => selects_nobody(scene, service),
        Some(_) => forwards_wrongly(scene, service),
    }
}

/// A service without any pod, beside ready pods that it is meant for.
fn selects_nobody(scene: &Scene<'_>, service: &Service) -> Option<Finding> {
    let entity = meant(scene, service)?;
    let ready = scene.cluster.pods_of(&entity).any(|pod| pod.is_ready());
    ready.then(|| {
        misrouted(
            scene,
            entity.clone(),
            6.0,
            "service_selector_mismatch",
            format!("service {} selects none of the running pods of {}", service.name, entity.name),
        )
    })
}

/// A service that forwards to where its ready pods do not listen.
///
/// To list a port under `ports` is optional, so a port that is not listed is wrong only where calls are seen to fail.
fn forwards_wrongly(scene: &Scene<'_>, service: &Service) -> Option<Finding> {
    let entity = scene.cluster.selected_by(service).or_else(|| meant(scene, service))?;
    let workload = scene.cluster.workload(&entity)?;
    let ready: Vec<&Pod> = scene.cluster.selected(service).filter(|pod| pod.is_ready()).collect();
    if ready.is_empty() {
        return None;
    }
    // Last, since it reads what everybody wrote.
    let lost = || unreached::service(scene, service, &entity);
    let specs = ready.iter().map(|pod| &pod.object["spec"]).chain([&workload.template["spec"]]);
    let containers: Vec<&Value> =
        specs.flat_map(|spec| list(spec, "/containers").iter().chain(list(spec, "/initContainers"))).collect();
    let listed: Vec<&Value> = containers.iter().flat_map(|container| list(container, "/ports")).collect();
    let open: BTreeSet<i64> = listed.iter().filter_map(|port| port["containerPort"].as_i64()).collect();
    let speaks_udp = listed.iter().any(|port| text(port, "/protocol") == "UDP");
    let ports = list(&service.object, "/spec/ports");
    for port in ports {
        let named = port["targetPort"].as_str().unwrap_or_default();
        let target = port["targetPort"].as_i64().or_else(|| named.parse().ok());
        let also_tcp = ports.iter().any(|other| other["port"] == port["port"] && text(other, "/protocol") != "UDP");
        if text(port, "/protocol") == "UDP" && !open.is_empty() && !speaks_udp && !also_tcp && lost() {
            return Some(misrouted(
                scene,
                entity.clone(),
                5.9,
                "service_protocol_mismatch",
                format!("service {} forwards UDP, but {} listens on TCP", service.name, entity.name),
            ));
        }
        let wrong = match target {
            Some(target) => !open.is_empty() && !open.contains(&target),
            None => {
                let known = listed.iter().any(|port| text(port, "/name") == named);
                !named.is_empty() && !containers.is_empty() && !known
            }
        };
        if wrong && lost() {
            let asked = target.map_or(format!("`{named}`"), |target| target.to_string());
            return Some(misrouted(
                scene,
                entity.clone(),
                5.8,
                "service_port_mapping_mismatch",
                format!("service {} forwards to port {asked}, but {} listens on {open:?}", service.name, entity.name),
            ));
        }
    }
    None
}

/// Annotations by which a sidecar is told its own ports; what others say about ports (who scrapes where, what to steer around)
/// makes nobody listen.
const SIDECARS: [&str; 4] = [
    "proxy.istio.io/config",
    "status.sidecar.istio.io/port",
    "config.linkerd.io/proxy-",
    "config.linkerd.io/admin-port",
];

/// Two containers of a pod that want one port, while one of them does not come up.
///
/// Containers of a pod share its addresses, so one port and protocol has room for one of them.
fn sidecar_ports(scene: &Scene<'_>, workload: &Workload) -> Option<Finding> {
    let spec = &workload.template["spec"];
    let sidecars = list(spec, "/initContainers").iter().filter(|one| text(one, "/restartPolicy") == "Always");
    let mut open: BTreeMap<(i64, &str), BTreeSet<&str>> = BTreeMap::new();
    for container in list(spec, "/containers").iter().chain(sidecars) {
        for port in list(container, "/ports") {
            let protocol = Some(text(port, "/protocol")).filter(|told| !told.is_empty()).unwrap_or("TCP");
            if let Some(number) = port["containerPort"].as_i64() {
                open.entry((number, protocol)).or_default().insert(text(container, "/name"));
            }
        }
    }
    let annotations = workload.template.pointer("/metadata/annotations").and_then(Value::as_object);
    let told = annotations.into_iter().flatten().filter(|(key, _)| SIDECARS.iter().any(|one| key.starts_with(one)));
    let told = told.filter_map(|(key, value)| {
        ports_in(key, value.as_str()?).into_iter().find(|port| open.contains_key(&(*port, "TCP")))
    });
    let twice = || open.iter().find(|(_, who)| who.len() > 1).map(|((port, _), _)| *port);
    let clash = told.into_iter().next().or_else(twice)?;
    if !fails_to_bind(scene, workload, clash) {
        return None;
    }
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

/// Whether a container dies and is not ready, or says that a port is taken.
fn fails_to_bind(scene: &Scene<'_>, workload: &Workload, port: i64) -> bool {
    let dies = |one: &Container| !one.init && !one.ready && (one.restarts > 0 || one.terminated.is_some());
    let lines = scene.logs.get(&workload.entity).into_iter().flatten();
    let says = |body: &str| {
        let lower = body.to_ascii_lowercase();
        lower.contains("eaddrinuse") || (lower.contains("already in use") && lower.contains(&port.to_string()))
    };
    scene.cluster.pods_of(&workload.entity).any(|pod| pod.containers.iter().any(dies))
        || lines.into_iter().any(|line| says(&line.body))
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

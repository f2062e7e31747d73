//! Probes that ask the wrong port, in the wrong protocol or too early.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cluster::{Pod, list};
use crate::diagnosis::cause;
use crate::finding::{Finding, Modality};
use crate::scene::Scene;

use super::image::events_of;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for pod in &scene.cluster.pods {
        let told = events_of(scene, pod);
        for (key, word, bad) in
            [("livenessProbe", "Liveness probe", "liveness"), ("readinessProbe", "Readiness probe", "readiness")]
        {
            let failed = told.find(word).map(|at| &told[at..]).filter(|rest| {
                let head: String = rest.chars().take(40).collect();
                head.contains("failed") || head.contains("errored")
            });
            if let Some(message) = failed {
                findings.extend(blame(scene, pod, key, bad, message));
            }
        }
    }
    findings.sort_by(|a, b| (&a.entity, a.fault, b.weight.to_bits()).cmp(&(&b.entity, b.fault, a.weight.to_bits())));
    findings.dedup_by(|a, b| a.entity == b.entity && a.fault == b.fault);
    findings
}

fn blame(scene: &Scene<'_>, pod: &Pod, key: &str, bad: &'static str, message: &str) -> Option<Finding> {
    let template = scene.cluster.workload(&pod.workload).map(|workload| &workload.template);
    let containers = template.map_or(&[] as &[Value], |template| list(template, "/spec/containers"));
    let own = list(&pod.object, "/spec/containers");
    let container = containers.iter().chain(own).find(|container| container[key].is_object())?;
    let probe = &container[key];
    let ports: BTreeSet<i64> =
        list(container, "/ports").iter().filter_map(|port| port["containerPort"].as_i64()).collect();
    let port = ["httpGet", "tcpSocket", "grpc"].iter().find_map(|how| probe[*how]["port"].as_i64());
    let liveness = bad == "liveness";
    let restarts: i64 = pod.containers.iter().map(|container| container.restarts).sum();
    let ready = pod.containers.iter().all(|container| container.ready);
    // A probe matters when it does what it is there for: restarts, or keeps out of the endpoints.
    let bites = if liveness { restarts > 0 } else { !ready };
    let weight = if bites { 5.4 } else { 1.0 };
    let lower = message.to_ascii_lowercase();
    let foreign = [
        "malformed http",
        "http/2",
        "http2",
        "eof",
        "http probe failed",
        "unimplemented",
        "connection reset",
        "gave http response",
        "error reading server preface",
    ];
    let (fault, why, weight) = if port.is_some_and(|port| !ports.is_empty() && !ports.contains(&port)) {
        let why = format!("asks port {}, but the container listens on {ports:?}", port.unwrap_or_default());
        (if liveness { "liveness_probe_incorrect_port" } else { "readiness_probe_incorrect_port" }, why, weight + 0.1)
    } else if foreign.iter().any(|sign| lower.contains(sign))
        || probe["httpGet"].is_object() && !peers_speak_http(scene, pod, key)
    {
        let why = "asks in a protocol that the container does not speak".to_owned();
        (if liveness { "liveness_probe_incorrect_protocol" } else { "readiness_probe_incorrect_protocol" }, why, weight)
    } else if liveness {
        ("liveness_probe_incorrect_timing", "gives up before the container has started".to_owned(), weight - 0.1)
    } else {
        ("readiness_probe_incorrect_protocol", "gets no answer in its protocol".to_owned(), weight - 0.1)
    };
    let told: String = message.chars().take(140).collect();
    Some(
        Finding::new(
            pod.workload.clone(),
            cause::PROBE,
            Modality::State,
            weight,
            format!("the {bad} probe of {} {why}: {told}", pod.workload.name),
        )
        .labelled(format!("{bad} probe fails"))
        .fault(fault)
        .asked(scene.questions().about(&["pods", "events", "Pod"])),
    )
}

/// Whether the other probe of the same container asks over HTTP too: then HTTP is what it speaks.
fn peers_speak_http(scene: &Scene<'_>, pod: &Pod, key: &str) -> bool {
    let other = if key == "livenessProbe" { "readinessProbe" } else { "livenessProbe" };
    let template = scene.cluster.workload(&pod.workload).map(|workload| &workload.template);
    let containers = template.map_or(&[] as &[Value], |template| list(template, "/spec/containers"));
    containers.iter().any(|container| container[other]["httpGet"].is_object())
}

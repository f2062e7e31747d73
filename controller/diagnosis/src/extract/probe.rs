//! Probes that ask the wrong port, path or command, in the wrong protocol, or too early.
//!
//! A probe that fails is usually right: what it asks is ill. It is wrong only where it never worked, or was just changed.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use serde_json::Value;

use crate::cluster::{Container, Pod, list, text};
use crate::diagnosis::cause;
use crate::finding::{Finding, Modality};
use crate::scene::{Scene, shifted};

use super::image::messages_since_change;

/// One of the three probes that a container may have.
struct Sort {
    key: &'static str,
    /// How the kubelet's events begin.
    says: &'static str,
    name: &'static str,
    /// Whether the kubelet kills what does not answer.
    kills: bool,
    port: Option<&'static str>,
    protocol: Option<&'static str>,
}

const SORTS: [Sort; 3] = [
    Sort {
        key: "livenessProbe",
        says: "Liveness probe",
        name: "liveness",
        kills: true,
        port: Some("liveness_probe_incorrect_port"),
        protocol: Some("liveness_probe_incorrect_protocol"),
    },
    Sort {
        key: "readinessProbe",
        says: "Readiness probe",
        name: "readiness",
        kills: false,
        port: Some("readiness_probe_incorrect_port"),
        protocol: Some("readiness_probe_incorrect_protocol"),
    },
    Sort { key: "startupProbe", says: "Startup probe", name: "startup", kills: true, port: None, protocol: None },
];

/// A probe that does what it is there for (kills, or keeps out of the endpoints), and one that only fails now and then.
const BITES: f64 = 5.4;
const FAILS: f64 = 1.0;
/// A connection that ends without an answer: a wrong protocol, or a server that is not well.
const CUT_OFF: f64 = 2.0;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for pod in &scene.cluster.pods {
        let messages = messages_since_change(scene, pod);
        for sort in &SORTS {
            let told: Vec<&str> = messages.iter().filter_map(|message| failure(message, sort)).collect();
            if !told.is_empty() {
                findings.extend(blame(scene, pod, sort, &told));
            }
        }
    }
    findings.sort_by(|a, b| (&a.entity, a.fault, b.weight.to_bits()).cmp(&(&b.entity, b.fault, a.weight.to_bits())));
    findings.dedup_by(|a, b| a.entity == b.entity && a.fault == b.fault);
    findings
}

/// The part of an event's message that tells how a probe of this sort failed.
fn failure<'m>(message: &'m str, sort: &Sort) -> Option<&'m str> {
    let rest = &message[message.find(sort.says)?..];
    let head: String = rest.chars().take(40).collect();
    (head.contains("failed") || head.contains("errored")).then_some(rest)
}

/// A probe with the container that it asks.
struct Probe<'p> {
    container: &'p Value,
    spec: &'p Value,
    status: Option<&'p Container>,
}

fn blame(scene: &Scene<'_>, pod: &Pod, sort: &Sort, told: &[&str]) -> Option<Finding> {
    let probe = asked_by(scene, pod, sort)?;
    if works_elsewhere(scene, pod, sort, &probe) {
        return None;
    }
    let changed = just_changed(scene, pod);
    let never = pod.was_ready() != Some(true);
    let (wrong, weight) = wrong(scene, pod, sort, &probe, told)
        .filter(|_| changed || if sort.kills { dies_young(pod, &probe) } else { never })
        .or_else(|| too_early(pod, sort, &probe, told).then_some((Wrong::Timing, BITES - 0.1)))?;
    let restarts: i64 = probe.status.map_or(0, |container| container.restarts);
    let bites = if sort.kills { restarts > 0 } else { !pod.is_ready() };
    let (fault, why) = match wrong {
        Wrong::Port(asked, open) => (sort.port, format!("asks port {asked}, but the container listens on {open}")),
        Wrong::Protocol => (sort.protocol, "asks in a protocol that the container does not speak".to_owned()),
        Wrong::Path(path) => (None, format!("asks for {path}, which the container does not have")),
        Wrong::Refused => (None, "asks without the credentials that the container wants".to_owned()),
        Wrong::Command => (None, "runs a command that the image does not have".to_owned()),
        Wrong::Timing => {
            (Some("liveness_probe_incorrect_timing"), "gives up before the container has started".to_owned())
        }
    };
    let shown: String = told.last().copied().unwrap_or_default().chars().take(140).collect();
    let finding = Finding::new(
        pod.workload.clone(),
        cause::PROBE,
        Modality::State,
        if bites { weight } else { weight.min(FAILS) },
        format!("the {} probe of {} {why}: {shown}", sort.name, pod.workload.name),
    )
    .labelled(format!("{} probe fails", sort.name))
    .asked(scene.questions().about(&["pods", "events", "Pod"]));
    Some(match fault {
        Some(fault) => finding.fault(fault),
        None => finding,
    })
}

/// The probe and its container: as the pod itself has it, else as its template has it.
///
/// A mesh that rewrites probes puts its own address into the pod; what people wrote stands in the template.
fn asked_by<'s>(scene: &'s Scene<'_>, pod: &'s Pod, sort: &Sort) -> Option<Probe<'s>> {
    let template = scene.cluster.workload(&pod.workload).map(|workload| &workload.template);
    let templated = template.map_or(&[] as &[Value], |template| list(template, "/spec/containers"));
    let own = list(&pod.object, "/spec/containers");
    let rewritten = |one: &&Value| text(&one[sort.key], "/httpGet/path").starts_with("/app-health/");
    let with_probe = own.iter().filter(|one| !rewritten(one)).chain(templated).filter(|one| one[sort.key].is_object());
    let mut probes = with_probe.map(|container| {
        let status = pod.containers.iter().find(|status| status.name == text(container, "/name"));
        Probe { container, spec: &container[sort.key], status }
    });
    let first = probes.next()?;
    let ill = |probe: &Probe<'_>| {
        probe.status.is_some_and(|status| if sort.kills { status.restarts > 0 } else { !status.ready })
    };
    // Events do not name the container: of several with such a probe, the one that suffers.
    Some(if ill(&first) { first } else { probes.find(ill).unwrap_or(first) })
}

/// Whether another pod of the workload is well with the very same probe.
fn works_elsewhere(scene: &Scene<'_>, pod: &Pod, sort: &Sort, probe: &Probe<'_>) -> bool {
    let mut others = scene.cluster.pods_of(&pod.workload).filter(|other| other.name != pod.name);
    others.any(|other| {
        let same = other
            .containers
            .iter()
            .find(|one| one.name == text(probe.container, "/name") && one.spec[sort.key] == *probe.spec);
        same.is_some_and(|one| one.ready && (!sort.kills || one.restarts == 0))
    })
}

/// Whether a change of the workload that touches a probe came shortly before the trouble.
fn just_changed(scene: &Scene<'_>, pod: &Pod) -> bool {
    let onset = scene.onset.unwrap_or(scene.observations.at);
    let (from, to) = (shifted(onset, SignedDuration::from_hours(-24)), shifted(onset, SignedDuration::from_mins(1)));
    scene.changes.iter().any(|change| {
        change.target == pod.workload && (from..=to).contains(&change.at) && change.diff.contains("Probe:")
    })
}

/// What is wrong with a probe itself.
enum Wrong {
    Port(String, String),
    Path(String),
    Protocol,
    Refused,
    Command,
    Timing,
}

fn wrong(scene: &Scene<'_>, pod: &Pod, sort: &Sort, probe: &Probe<'_>, told: &[&str]) -> Option<(Wrong, f64)> {
    let lower = told.join(" ").to_ascii_lowercase();
    let says = |signs: &[&str]| signs.iter().any(|sign| lower.contains(sign));
    if probe.spec["exec"].is_object() {
        let no_command = says(&["executable file not found", "no such file or directory", "exec format error"]);
        return (no_command && says(&["exec"])).then_some((Wrong::Command, BITES));
    }
    if says(&["malformed http", "gave http response to https client", "error reading server preface", "unimplemented"])
        || says(&["does not look like a tls handshake", "http request to an https server", "http2: frame too large"])
    {
        return Some((Wrong::Protocol, BITES));
    }
    let codes: BTreeSet<&str> = lower.split("statuscode: ").skip(1).filter_map(|rest| rest.get(..3)).collect();
    if !codes.is_empty() {
        // Whoever answers 5xx is asked rightly and is ill, or says that something that it needs is.
        return match codes.first().copied() {
            Some("404") if codes.len() == 1 => Some((Wrong::Path(text(probe.spec, "/httpGet/path").to_owned()), BITES)),
            Some("401" | "403") if codes.len() == 1 => Some((Wrong::Refused, BITES)),
            // The event tells the status alone; why it was refused stands in the container's log.
            Some("400") if codes.len() == 1 && hears_plain_http(scene, pod) => Some((Wrong::Protocol, BITES)),
            _ => None,
        };
    }
    let unconnected = says(&["refused", "timeout", "timed out", "deadline exceeded", "failed to connect", "no route"])
        && !says(&["awaiting headers"]);
    if let Some(port) = wrong_port(probe, unconnected) {
        return Some((port, BITES + 0.1));
    }
    let http = probe.spec["httpGet"].is_object();
    (http && !sort.kills && says(&["eof", "connection reset"])).then_some((Wrong::Protocol, CUT_OFF))
}

/// Whether the logs complain of plain HTTP where TLS was wanted.
fn hears_plain_http(scene: &Scene<'_>, pod: &Pod) -> bool {
    let lines = scene.logs.get(&pod.workload).into_iter().flatten();
    lines.into_iter().any(|line| {
        let lower = line.body.to_ascii_lowercase();
        lower.contains("http request to an https server") || lower.contains("plain http request was sent to https port")
    })
}

/// A port that the container does not name, or one that it does not list and that nothing answers at.
fn wrong_port(probe: &Probe<'_>, unconnected: bool) -> Option<Wrong> {
    let how = ["httpGet", "tcpSocket", "grpc"].iter().find(|how| probe.spec[**how].is_object())?;
    let asked = &probe.spec[*how]["port"];
    let ports = list(probe.container, "/ports");
    let open: BTreeSet<i64> = ports.iter().filter_map(|port| port["containerPort"].as_i64()).collect();
    let number = asked.as_i64().or_else(|| asked.as_str()?.parse().ok());
    match (number, asked.as_str()) {
        (Some(number), _) if unconnected && !open.is_empty() && !open.contains(&number) => {
            Some(Wrong::Port(number.to_string(), format!("{open:?}")))
        }
        (None, Some(name)) if !ports.iter().any(|port| text(port, "/name") == name) => {
            Some(Wrong::Port(format!("`{name}`"), format!("{open:?} and has no port of that name")))
        }
        _ => None,
    }
}

/// Whether a container is killed about as soon as its probe allows: seen in how long it last ran, where that was told.
///
/// One that hangs or is throttled after hours dies late, and its probe is right.
fn dies_young(pod: &Pod, probe: &Probe<'_>) -> bool {
    let Some(end) = probe.status.and_then(|status| status.terminated.as_ref().or(status.last.as_ref())) else {
        return true;
    };
    if end.reason == "OOMKilled" {
        return false;
    }
    let Some((started, finished)) = end.started.zip(end.finished) else { return true };
    let number = |field: &str, usual: i64| probe.spec[field].as_i64().unwrap_or(usual);
    let grace = pod.object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
    // The kubelet's own defaults; some seconds more since it starts probing late and a kill takes a while.
    let patience = number("initialDelaySeconds", 0)
        + (number("periodSeconds", 10) + number("timeoutSeconds", 1)) * number("failureThreshold", 3)
        + number("terminationGracePeriodSeconds", grace)
        + 15;
    finished.duration_since(started) <= SignedDuration::from_secs(patience)
}

/// Whether a container that gets no time to start is killed for it: never ready, and each time killed as soon as may be.
fn too_early(pod: &Pod, sort: &Sort, probe: &Probe<'_>, told: &[&str]) -> bool {
    let answered = told.iter().any(|message| message.contains("statuscode"));
    let restarts = probe.status.map_or(0, |status| status.restarts);
    let waits = probe.container["readinessProbe"].is_object();
    let never = pod.was_ready() != Some(true) || !waits;
    sort.key == "livenessProbe" && !answered && restarts > 0 && never && dies_young(pod, probe)
}

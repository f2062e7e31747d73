//! Checks a real store against the contract of its kind:
//!
//!     cargo run -p amend-telemetry --features contract --example contract -- Prometheus http://127.0.0.1:9090 shop checkout [ALERT|TRACE]
//!
//! The workload must have reported memory, traces or log lines within the last five minutes. The last word names an alert that
//! fires, or, for a store of traces or logs, a trace that it has or about which it has lines. Loopback and private
//! addresses are allowed here, since the person who runs this chose the address.

use std::process::ExitCode;
use std::time::Duration;

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::Window;
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use amend_telemetry::contract::{Subject, holds};
use amend_telemetry::egress::Egress;
use amend_telemetry::gather::{Scope, Windows, gather};
use amend_telemetry::golden::{Golden, golden};
use amend_telemetry::questions::{Measure, Target};
use amend_telemetry::source::{SourceConfig, SourceKind, open};
use amend_telemetry::sources::Sources;
use jiff::{SignedDuration, Timestamp};

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, url, namespace, workload, named @ ..] = arguments.as_slice() else {
        return Err("usage: contract KIND URL NAMESPACE WORKLOAD [ALERT|TRACE]".into());
    };
    let kind = match kind.as_str() {
        "Prometheus" => SourceKind::Prometheus,
        "Alertmanager" => SourceKind::Alertmanager,
        "Jaeger" => SourceKind::Jaeger,
        "Tempo" => SourceKind::Tempo,
        "Loki" => SourceKind::Loki,
        "OpenSearch" => SourceKind::OpenSearch,
        "OtlpFiles" => SourceKind::OtlpFiles,
        other => return Err(format!("{other} is not a kind of source").into()),
    };
    let mut config = SourceConfig::new("checked", kind, url.parse()?);
    config.sample_every = SignedDuration::from_secs(5);
    let mut allowed = Vec::new();
    for network in ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"] {
        allowed.push(network.parse()?);
    }
    let now = Timestamp::now();
    let by_trace = kind.holds_logs() || kind.holds_traces();
    let target = Target::new(Entity::new(EntityKind::Deployment, namespace, workload));
    let subject = Subject {
        config,
        egress: Egress::new(allowed),
        target: target.clone(),
        measure: Measure::Memory,
        window: Window { from: now - SignedDuration::from_mins(5), to: now },
        trace: named.first().filter(|_| by_trace).cloned(),
        alert: named.first().filter(|_| !by_trace).map(|name| Signal {
            key: name.clone(),
            source: SignalSource::Alert,
            name: name.clone(),
            entity: target.entity.clone(),
            severity: Severity::Critical,
            started_at: now,
            ended_at: None,
            summary: String::new(),
            labels: [("alertname", name), ("namespace", namespace)].map(|(k, v)| (k.to_owned(), v.clone())).into(),
            count: 1,
        }),
    };
    let broken = holds(&subject).await;
    for promise in &broken {
        println!("broken: {promise}");
    }
    shown(&subject).await?;
    println!("{kind} at {url}: {} promises broken", broken.len());
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What an incident about the workload would be diagnosed on.
async fn shown(subject: &Subject) -> Result<(), Failure> {
    let sources = Sources::new([open(subject.config.clone(), &subject.egress)?]);
    let deadline = Duration::from_secs(10);
    if subject.config.kind.holds_metrics() {
        for metric in Golden::ALL {
            let step = SignedDuration::from_secs(5);
            let reply = golden(&sources, metric, &subject.target, subject.window, step, deadline).await;
            println!(
                "{metric}: {:?}\n  {}",
                reply.answer.map(|regular| (regular.samples.len(), regular.expected)),
                reply.asked.query
            );
        }
    }
    let middle = subject.window.from + SignedDuration::from_mins(3);
    let windows = Windows {
        normal: Window { from: subject.window.from, to: middle },
        fault: Window { from: middle, to: subject.window.to },
    };
    let scope = Scope { focus: subject.target.clone(), neighbours: Vec::new() };
    let gathered = gather(&sources, &scope, windows, deadline).await;
    println!(
        "series {:?}, spans {:?}, lines {:?}, calls {:?}",
        gathered.series.as_ref().map(Vec::len),
        gathered.spans.as_ref().map(Vec::len),
        gathered.logs.as_ref().map(Vec::len),
        gathered.topology.as_ref().map(|topology| topology.edges.len())
    );
    for asked in &gathered.asked {
        println!("  {}: {} {}", asked.id, asked.query, asked.unknown.as_deref().unwrap_or_default());
    }
    Ok(())
}

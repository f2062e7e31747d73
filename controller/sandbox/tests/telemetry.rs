//! The sandbox's stores keep the contract that real ones keep, and answer what the product asks.

#![allow(clippy::unwrap_used)]

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{LogLine, Window};
use amend_diagnosis::metric::name;
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use amend_sandbox::{SandboxClock, Scenario, World};
use amend_telemetry::contract::{Subject, holds};
use amend_telemetry::egress::Egress;
use amend_telemetry::gather::{Scope, Windows, gather};
use amend_telemetry::golden::{Golden, golden};
use amend_telemetry::questions::{LineFilter, LineQuestion, Measure, Selection, Target};
use amend_telemetry::source::{SourceConfig, SourceKind, open};
use amend_telemetry::sources::Sources;
use jiff::{SignedDuration, Timestamp};

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

/// A shop whose checkout has been running out of memory for eight minutes.
async fn sick() -> (World, Timestamp) {
    let clock = SandboxClock::stepped("2026-03-02T09:00:00Z".parse().unwrap());
    let world = World::start(Scenario::named("oom").unwrap(), clock, &[]).await.unwrap();
    world.trigger().unwrap();
    world.advance(SignedDuration::from_mins(8)).await;
    let now = world.clock().now();
    (world, now)
}

fn config(world: &World, kind: SourceKind) -> SourceConfig {
    let url = world.with_telemetry(|stores| match kind {
        SourceKind::Alertmanager => stores.alertmanager_url(),
        SourceKind::Jaeger => stores.jaeger_url(),
        SourceKind::Loki => stores.loki_url(),
        _ => stores.prometheus_url(),
    });
    let mut config = SourceConfig::new("sandbox", kind, url.parse().unwrap());
    config.sample_every = SignedDuration::from_secs(10);
    config
}

fn loopback() -> Egress {
    Egress::new(["127.0.0.0/8".parse().unwrap()])
}

fn checkout() -> Target {
    Target::new(Entity::new(EntityKind::Deployment, "shop", "checkout"))
}

/// The id of a trace that some line of the last five minutes names.
async fn traced(world: &World, now: Timestamp) -> String {
    let source = open(config(world, SourceKind::Loki), &loopback()).unwrap();
    let question = LineQuestion {
        id: "traced".to_owned(),
        of: Selection::everything("shop"),
        window: Window { from: now - SignedDuration::from_mins(5), to: now },
        only: LineFilter::Containing("trace_id=".to_owned()),
        lines: 1,
    };
    let lines = source.lines(&question).await.outcome.unwrap();
    lines[0].body.rsplit_once("trace_id=").unwrap().1.to_owned()
}

#[tokio::test]
async fn every_store_keeps_the_contract() {
    let (world, now) = sick().await;
    for kind in [SourceKind::Prometheus, SourceKind::Alertmanager, SourceKind::Jaeger, SourceKind::Loki] {
        let subject = Subject {
            config: config(&world, kind),
            egress: loopback(),
            target: checkout(),
            measure: Measure::Memory,
            window: Window { from: now - SignedDuration::from_mins(5), to: now },
            trace: Some(traced(&world, now).await),
            alert: Some(Signal {
                key: "k".to_owned(),
                source: SignalSource::Alert,
                name: "HighErrorRatio".to_owned(),
                entity: checkout().entity,
                severity: Severity::Critical,
                started_at: now,
                ended_at: None,
                summary: String::new(),
                labels: [("alertname", "HighErrorRatio"), ("namespace", "shop"), ("service", "checkout")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                count: 1,
            }),
        };
        assert_eq!(holds(&subject).await, [], "{kind}");
    }
}

#[tokio::test]
async fn every_question_of_the_product_is_understood_and_the_fault_is_seen() {
    let (world, now) = sick().await;
    let kinds = [SourceKind::Prometheus, SourceKind::Jaeger, SourceKind::Loki];
    let sources = Sources::new(kinds.map(|kind| open(config(&world, kind), &loopback()).unwrap()));
    let onset = now - SignedDuration::from_mins(8);
    let windows = Windows {
        normal: Window { from: onset - SignedDuration::from_mins(30), to: onset },
        fault: Window { from: onset, to: now },
    };
    for metric in Golden::ALL {
        for window in [windows.normal, windows.fault] {
            let step = SignedDuration::from_secs(10);
            let reply = golden(&sources, metric, &checkout(), window, step, DEADLINE).await;
            let found = reply.answer.known().map_or(0, |regular| regular.samples.len() * 10 / regular.expected);
            assert!(found >= 9, "{metric}: {:?}", reply.answer);
        }
    }
    let frontend = Target::new(Entity::new(EntityKind::Deployment, "shop", "frontend"));
    let scope = Scope { focus: checkout(), neighbours: vec![frontend] };
    let found = gather(&sources, &scope, windows, DEADLINE).await;
    // The shop has neither a service graph nor a mesh; traces tell who calls whom.
    let unanswered: Vec<_> =
        found.asked.iter().filter(|asked| asked.unknown.is_some() && asked.id != "sandbox/calls").collect();
    assert!(unanswered.is_empty(), "{unanswered:#?}");
    let series = found.series.known().unwrap();
    for expected in [
        name::MEMORY,
        name::CPU,
        name::LIMITS,
        name::RESTARTS,
        name::LAST_TERMINATED,
        name::ERROR_RATIO,
        name::LATENCY_P99,
        name::REQUEST_RATE,
    ] {
        assert!(series.iter().any(|series| series.labels["__name__"] == expected), "{expected}");
    }
    assert!(found.spans.known().unwrap().iter().any(|span| span.error && span.service == "checkout"));
    let failed = found.spans.known().unwrap().iter().filter(|span| span.error).map(|span| span.trace_id.as_str());
    let failed: std::collections::BTreeSet<&str> = failed.collect();
    let told = |line: &LogLine| line.trace_id.as_deref().is_some_and(|trace| failed.contains(trace));
    assert!(found.logs.known().unwrap().iter().any(told), "a failing request is anchored in what its services wrote");
    let edges = &found.topology.known().unwrap().edges;
    assert!(edges.iter().any(|edge| edge.from.name == "frontend" && edge.to.name == "checkout"), "{edges:?}");
}

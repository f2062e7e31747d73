//! What is written as a case is read back as it was seen, without the secrets in it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{
    Answer, Asked, Change, ChangeKind, LinkKind, LogLine, ObjectEvent, Observations, Series, Span, SpanKind, Topology,
    TopologyEdge, Window,
};
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use amend_telemetry::case::{self, Redaction};
use jiff::Timestamp;
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_764_000_000 + second).unwrap()
}

fn checkout() -> Entity {
    Entity::new(EntityKind::Deployment, "shop", "checkout")
}

fn seen() -> Observations {
    let frontend = Entity::new(EntityKind::Deployment, "shop", "frontend");
    let labels = [("__name__", "container_memory_working_set_bytes"), ("url", "redis://:hunter2@cache:6379")];
    let labels: BTreeMap<String, String> = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Observations {
        at: at(600),
        began: Some(at(300)),
        normal: Some(Window { from: at(0), to: at(300) }),
        fault: Some(Window { from: at(300), to: at(600) }),
        symptoms: vec![Signal {
            key: "alert/1".to_owned(),
            source: SignalSource::Alert,
            name: "HighErrors".to_owned(),
            entity: frontend.clone(),
            severity: Severity::Critical,
            started_at: at(310),
            ended_at: None,
            summary: "5xx".to_owned(),
            labels: BTreeMap::from([("namespace".to_owned(), "shop".to_owned())]),
            count: 3,
        }],
        candidates: None,
        topology: Answer::Known(Topology {
            nodes: vec![checkout(), frontend.clone()],
            edges: vec![TopologyEdge { from: frontend, to: checkout(), kind: LinkKind::Calls }],
        }),
        series: Answer::Known(vec![
            Series { labels: labels.clone(), samples: vec![(1.0, 0.5), (2.0, f64::NAN)], asked: "metrics".to_owned() },
            Series { labels, samples: vec![(2.0, 1e308)], asked: "metrics".to_owned() },
        ]),
        spans: Answer::Known(vec![Span {
            trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            span_id: "b7ad6b7169203331".to_owned(),
            parent_id: None,
            service: "checkout".to_owned(),
            pod: Some("checkout-5d8".to_owned()),
            operation: "POST /pay".to_owned(),
            kind: SpanKind::Server,
            start_ns: 1_764_000_000_000_000_000,
            duration_ns: 12_000_000,
            error: true,
            attributes: BTreeMap::from([("http.status_code".to_owned(), "500".to_owned())]),
        }]),
        exemplars: Answer::Known(vec![Span {
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
            span_id: "00f067aa0ba902b7".to_owned(),
            parent_id: None,
            service: "checkout".to_owned(),
            pod: None,
            operation: "POST /pay".to_owned(),
            kind: SpanKind::Server,
            start_ns: 1_764_000_001_000_000_000,
            duration_ns: 9_000_000_000,
            error: false,
            attributes: BTreeMap::new(),
        }]),
        logs: Answer::Known(vec![LogLine {
            at_ns: Some(1_764_000_000_000_000_000),
            source: "checkout-5d8".to_owned(),
            severity: Some("ERROR".to_owned()),
            body: "login failed password=hunter2".to_owned(),
            trace_id: None,
            span_id: None,
            count: 2,
            taught: None,
        }]),
        changes: Answer::Known(vec![Change {
            id: "abc".to_owned(),
            kind: ChangeKind::Image,
            at: at(290),
            target: checkout(),
            summary: "release 2".to_owned(),
            files: vec!["apps/checkout.yaml".to_owned()],
            diff: "-a\n+b".to_owned(),
            author: "Ada <ada@example.org>".to_owned(),
            new_pods: vec!["checkout-5d8".to_owned()],
            deleted_pods: Vec::new(),
        }]),
        objects: Answer::Known(vec![
            json!({"kind": "Deployment", "metadata": {"name": "checkout", "namespace": "shop"},
            "spec": {"env": [{"name": "API_TOKEN", "value": "t0ps3cret"}]}}),
        ]),
        events: Answer::Known(vec![ObjectEvent {
            at: at(320),
            object: "Pod/checkout-5d8".to_owned(),
            namespace: "shop".to_owned(),
            reason: "BackOff".to_owned(),
            message: "restarting".to_owned(),
            count: 4,
        }]),
        asked: vec![Asked {
            id: "prometheus/requests/shop".to_owned(),
            source: "prometheus".to_owned(),
            query: "rate(http_requests_total{api_token=\"hunter2\"}[2m])".to_owned(),
            window: Window { from: at(0), to: at(300) },
            digest: String::new(),
            unknown: Some("https://ada:hunter2@store did not answer".to_owned()),
        }],
    }
}

#[test]
fn what_was_seen_is_read_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("case");
    let before = seen();

    case::write(&directory, "inc-1", "shop", &before, &Redaction::new("salt")).unwrap();
    let after = case::read(&directory).unwrap().observations;

    assert_eq!(
        (after.at, after.began, after.normal, after.fault),
        (before.at, before.began, before.normal, before.fault)
    );
    assert_eq!((after.symptoms, after.topology, after.spans), (before.symptoms, before.topology, before.spans));
    assert_eq!((after.events, after.candidates), (before.events, None));
    let series = after.series.known().unwrap();
    assert_eq!((series.len(), series[1].samples.as_slice()), (2, [(2.0, 1e308)].as_slice()));
    assert!(series[0].samples[1].1.is_nan());
    let change = &after.changes.known().unwrap()[0];
    assert_eq!((&change.target, change.kind, change.at), (&checkout(), ChangeKind::Image, at(290)));
    assert_eq!(after.objects.known().unwrap()[0]["metadata"]["name"], "checkout");
}

#[test]
fn changes_that_are_not_all_are_read_back_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = seen();
    before.asked[0].source = "git".to_owned();
    before.asked[0].unknown = Some("no GitTarget serves bank".to_owned());

    case::write(&folder.path().join("part"), "inc-1", "shop", &before, &Redaction::new("salt")).unwrap();
    case::write(&folder.path().join("whole"), "inc-1", "shop", &seen(), &Redaction::new("salt")).unwrap();

    let read = |name: &str| case::read(&folder.path().join(name)).unwrap().observations;
    assert_eq!(read("part").changes.known().map(Vec::len), Some(1));
    assert_eq!(read("part").unread_changes().as_deref(), Some("no GitTarget serves bank"));
    assert_eq!(read("whole").unread_changes(), None);
}

#[test]
fn no_secret_and_no_person_is_in_any_file() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("case");

    case::write(&directory, "inc-1", "shop", &seen(), &Redaction::new("salt")).unwrap();

    for file in fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for secret in ["hunter2", "t0ps3cret", "ada@", "Ada"] {
            assert!(!text.contains(secret), "{secret} is in {}", path.display());
        }
    }
}

#[test]
fn what_was_unknown_stays_unknown_for_the_same_reason() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("case");
    let before = Observations { spans: Answer::unknown("jaeger did not answer within 8 s"), ..seen() };

    case::write(&directory, "inc-1", "shop", &before, &Redaction::new("salt")).unwrap();

    assert_eq!(case::read(&directory).unwrap().observations.spans, before.spans);
}

#[test]
fn a_directory_that_exists_is_not_written_into() {
    let folder = tempfile::tempdir().unwrap();
    let refused = case::write(folder.path(), "inc-1", "shop", &seen(), &Redaction::new("salt")).unwrap_err();
    assert!(refused.to_string().contains("does not exist yet"), "{refused}");
}

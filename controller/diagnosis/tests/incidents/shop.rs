//! The shop with its trouble: `frontend` calls `checkout` and `cart`.

use std::collections::BTreeMap;

use amend_diagnosis::diagnosis::Diagnosis;
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{
    Answer, Asked, Change, ChangeKind, LinkKind, Observations, Series, Topology, TopologyEdge, Window,
};
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use jiff::Timestamp;
use serde_json::{Value, json};

pub const MIB: f64 = 1024.0 * 1024.0;
pub const GUILTY: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub const INNOCENT: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Seconds after the beginning of the story; trouble starts at 3,600 and now is 4,200.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

pub fn deployment(name: &str) -> Entity {
    Entity::new(EntityKind::Deployment, "shop", name)
}

pub fn alert(name: &str, on: &str) -> Signal {
    Signal {
        key: format!("{name}/{on}"),
        source: SignalSource::Alert,
        name: name.into(),
        entity: deployment(on),
        severity: Severity::Critical,
        started_at: at(3_660),
        ended_at: None,
        summary: String::new(),
        labels: BTreeMap::new(),
        count: 1,
    }
}

pub fn asked(id: &str, source: &str, query: &str) -> Asked {
    let window = Window { from: at(0), to: at(4_200) };
    Asked { id: id.into(), source: source.into(), query: query.into(), window, digest: "d".into(), unknown: None }
}

pub fn series(labels: &[(&str, &str)], id: &str, value: impl Fn(i64) -> f64) -> Series {
    let mut labels: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    labels.insert("namespace".into(), "shop".into());
    let samples = (0..=4_200).step_by(30).map(|t| (1_700_000_000.0 + t as f64, value(t))).collect();
    Series { labels, samples, asked: id.into() }
}

/// Error ratio of a service: `before`, then `after` once trouble began.
pub fn errors(service: &str, before: f64, after: f64) -> Series {
    let value = move |t| if t < 3_600 { before } else { after };
    series(&[("__name__", "errorRatio"), ("service", service)], "errors", value)
}

pub fn pod(name: &str, app: &str, revision: &str, created: i64, status: Value) -> Value {
    json!({
        "kind": "Pod",
        "metadata": {
            "namespace": "shop", "name": name, "creationTimestamp": at(created).to_string(),
            "labels": {"app": app, "pod-template-hash": revision},
            "ownerReferences": [{"kind": "ReplicaSet", "name": format!("{app}-{revision}"), "controller": true}]
        },
        "spec": {"nodeName": "node-a", "containers": [
            {"name": "app", "image": format!("registry/{app}:{revision}"), "resources": {"limits": {"memory": "256Mi"}}}
        ]},
        "status": status
    })
}

pub fn running() -> Value {
    json!({"phase": "Running", "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "state": {"running": {}}}]})
}

pub fn waiting(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [
        {"name": "app", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}]})
}

pub fn killed(restarts: i64) -> Value {
    json!({"phase": "Running", "containerStatuses": [{
        "name": "app", "ready": true, "restartCount": restarts, "state": {"running": {}},
        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137,
            "startedAt": at(4_000).to_string(), "finishedAt": at(4_090).to_string()}}
    }]})
}

pub fn change(id: &str, kind: ChangeKind, on: &str, second: i64, diff: &str) -> Change {
    Change {
        id: id.into(),
        kind,
        at: at(second),
        target: deployment(on),
        summary: format!("release {on}"),
        files: vec![format!("apps/{on}.yaml")],
        diff: diff.into(),
        author: String::new(),
        new_pods: Vec::new(),
        deleted_pods: Vec::new(),
    }
}

/// `frontend` calls `checkout` and `cart`; everything is healthy and asked for.
pub fn world() -> Observations {
    let calls =
        |from: &str, to: &str| TopologyEdge { from: deployment(from), to: deployment(to), kind: LinkKind::Calls };
    let workloads = ["frontend", "checkout", "cart"];
    let objects = workloads
        .iter()
        .flat_map(|name| {
            let workload = json!({"kind": "Deployment", "metadata": {"namespace": "shop", "name": name},
                "spec": {"replicas": 1, "template": {"metadata": {"labels": {"app": name}}}}});
            [workload, pod(&format!("{name}-old-x"), name, "old", 0, running())]
        })
        .collect();
    Observations {
        at: at(4_200),
        began: Some(at(3_600)),
        normal: None,
        fault: None,
        symptoms: vec![alert("HighErrorRate", "frontend")],
        candidates: None,
        topology: Answer::Known(Topology {
            nodes: Vec::new(),
            edges: vec![calls("frontend", "checkout"), calls("frontend", "cart")],
        }),
        series: Answer::Known(workloads.iter().map(|name| errors(name, 0.0, 0.0)).collect()),
        spans: Answer::Known(Vec::new()),
        exemplars: Answer::unknown("nobody was asked"),
        logs: Answer::Known(Vec::new()),
        changes: Answer::Known(Vec::new()),
        objects: Answer::Known(objects),
        events: Answer::Known(Vec::new()),
        asked: vec![
            asked("pods", "cluster", "/api/v1/namespaces/shop/pods"),
            asked("revisions", "git", "diff"),
            asked("errors", "prometheus", "errorRatio"),
            asked("memory", "prometheus", "container_memory_working_set_bytes"),
            asked("dependencies", "jaeger", "/api/dependencies"),
            asked("alerts", "prometheus", "ALERTS"),
        ],
    }
}

pub fn objects(observations: &mut Observations) -> &mut Vec<Value> {
    match &mut observations.objects {
        Answer::Known(objects) => objects,
        Answer::Unknown { .. } => panic!("the world has objects"),
    }
}

pub fn set_pod(observations: &mut Observations, replacement: Value) {
    let app = replacement["metadata"]["labels"]["app"].clone();
    let objects = objects(observations);
    objects.retain(|object| object["kind"] != "Pod" || object["metadata"]["labels"]["app"] != app);
    objects.push(replacement);
}

pub fn set_errors(observations: &mut Observations, rises: &[(&str, f64)]) {
    if let Answer::Known(list) = &mut observations.series {
        for (service, after) in rises {
            list.retain(|series| series.labels.get("service").map(String::as_str) != Some(*service));
            list.push(errors(service, 0.001, *after));
        }
    }
}

pub fn add_memory(observations: &mut Observations, value: impl Fn(i64) -> f64) {
    let labels = [("__name__", "container_memory_working_set_bytes"), ("pod", "checkout-new-y"), ("container", "app")];
    if let Answer::Known(list) = &mut observations.series {
        list.push(series(&labels, "memory", value));
    }
}

/// A release that needs more memory than the limit: quick rise, then killed again and again.
pub fn oom() -> Observations {
    let mut world = world();
    set_pod(&mut world, pod("checkout-new-y", "checkout", "new", 3_540, killed(6)));
    set_errors(&mut world, &[("checkout", 0.4), ("frontend", 0.2)]);
    add_memory(&mut world, |t| if t < 3_540 { 120.0 * MIB } else { 250.0 * MIB - (t % 90) as f64 * 0.05 * MIB });
    world.changes = Answer::Known(vec![change(GUILTY, ChangeKind::Image, "checkout", 3_540, "")]);
    world.symptoms.push(alert("OOMKilled", "checkout"));
    world
}

pub fn bad_release_beside_innocent() -> Observations {
    let mut world = world();
    let diff = "-        image: registry/checkout:old\n+        image: registry/checkout:new\n";
    world.changes = Answer::Known(vec![
        change(INNOCENT, ChangeKind::Image, "frontend", 3_550, ""),
        change(GUILTY, ChangeKind::Image, "checkout", 3_540, diff),
    ]);
    set_errors(&mut world, &[("checkout", 0.5), ("frontend", 0.3)]);
    world
}

pub fn best(diagnosis: &Diagnosis) -> (&str, &str) {
    let cause = &diagnosis.causes[0];
    (cause.kind.as_str(), cause.entity.name.as_str())
}

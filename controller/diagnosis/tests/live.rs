//! Live stories in miniature: what the cluster and the stores would say, and what must come out.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::{Diagnosis, cause};
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{
    Answer, Asked, Change, ChangeKind, LinkKind, LogLine, Observations, Series, Topology, TopologyEdge, Window,
};
use amend_diagnosis::graph::NodeRole;
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

const MIB: f64 = 1024.0 * 1024.0;
const GUILTY: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const INNOCENT: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Seconds after the beginning of the story; trouble starts at 3,600 and now is 4,200.
fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn deployment(name: &str) -> Entity {
    Entity::new(EntityKind::Deployment, "shop", name)
}

fn alert(name: &str, on: &str) -> Signal {
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

fn asked(id: &str, source: &str, query: &str) -> Asked {
    let window = Window { from: at(0), to: at(4_200) };
    Asked { id: id.into(), source: source.into(), query: query.into(), window, digest: "d".into(), unknown: None }
}

fn series(labels: &[(&str, &str)], id: &str, value: impl Fn(i64) -> f64) -> Series {
    let mut labels: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    labels.insert("namespace".into(), "shop".into());
    let samples = (0..=4_200).step_by(30).map(|t| (1_700_000_000.0 + t as f64, value(t))).collect();
    Series { labels, samples, asked: id.into() }
}

/// Error ratio of a service: `before`, then `after` once trouble began.
fn errors(service: &str, before: f64, after: f64) -> Series {
    let value = move |t| if t < 3_600 { before } else { after };
    series(&[("__name__", "errorRatio"), ("service", service)], "errors", value)
}

fn pod(name: &str, app: &str, revision: &str, created: i64, status: Value) -> Value {
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

fn running() -> Value {
    json!({"phase": "Running", "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "state": {"running": {}}}]})
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [
        {"name": "app", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}]})
}

fn killed(restarts: i64) -> Value {
    json!({"phase": "Running", "containerStatuses": [{
        "name": "app", "ready": true, "restartCount": restarts, "state": {"running": {}},
        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137,
            "startedAt": at(4_000).to_string(), "finishedAt": at(4_090).to_string()}}
    }]})
}

fn change(id: &str, kind: ChangeKind, on: &str, second: i64, diff: &str) -> Change {
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
fn world() -> Observations {
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

fn objects(observations: &mut Observations) -> &mut Vec<Value> {
    match &mut observations.objects {
        Answer::Known(objects) => objects,
        Answer::Unknown { .. } => panic!("the world has objects"),
    }
}

fn set_pod(observations: &mut Observations, replacement: Value) {
    let app = replacement["metadata"]["labels"]["app"].clone();
    let objects = objects(observations);
    objects.retain(|object| object["kind"] != "Pod" || object["metadata"]["labels"]["app"] != app);
    objects.push(replacement);
}

fn set_errors(observations: &mut Observations, rises: &[(&str, f64)]) {
    if let Answer::Known(list) = &mut observations.series {
        for (service, after) in rises {
            list.retain(|series| series.labels.get("service").map(String::as_str) != Some(*service));
            list.push(errors(service, 0.001, *after));
        }
    }
}

fn add_memory(observations: &mut Observations, value: impl Fn(i64) -> f64) {
    let labels = [("__name__", "container_memory_working_set_bytes"), ("pod", "checkout-new-y"), ("container", "app")];
    if let Answer::Known(list) = &mut observations.series {
        list.push(series(&labels, "memory", value));
    }
}

/// A release that needs more memory than the limit: quick rise, then killed again and again.
fn oom() -> Observations {
    let mut world = world();
    set_pod(&mut world, pod("checkout-new-y", "checkout", "new", 3_540, killed(6)));
    set_errors(&mut world, &[("checkout", 0.4), ("frontend", 0.2)]);
    add_memory(&mut world, |t| if t < 3_540 { 120.0 * MIB } else { 250.0 * MIB - (t % 90) as f64 * 0.05 * MIB });
    world.changes = Answer::Known(vec![change(GUILTY, ChangeKind::Image, "checkout", 3_540, "")]);
    world.symptoms.push(alert("OOMKilled", "checkout"));
    world
}

fn bad_release_beside_innocent() -> Observations {
    let mut world = world();
    let diff = "-        image: registry/checkout:old\n+        image: registry/checkout:new\n";
    world.changes = Answer::Known(vec![
        change(INNOCENT, ChangeKind::Image, "frontend", 3_550, ""),
        change(GUILTY, ChangeKind::Image, "checkout", 3_540, diff),
    ]);
    set_errors(&mut world, &[("checkout", 0.5), ("frontend", 0.3)]);
    world
}

fn best(diagnosis: &Diagnosis) -> (&str, &str) {
    let cause = &diagnosis.causes[0];
    (cause.kind.as_str(), cause.entity.name.as_str())
}

#[test]
fn a_limit_that_is_too_small_is_named_with_its_measures() {
    let got = diagnose(&oom());
    assert_eq!(best(&got), (cause::OOM_KILLED, "checkout"), "{got:#?}");
    let cause = got.actionable().expect("sure enough to act");
    assert!(cause.confidence > 0.9, "{}", cause.confidence);
    assert_eq!(cause.measures["memory.limitBytes"], format!("{:.0}", 256.0 * MIB));
    assert_eq!(cause.measures["oom.intervalSeconds"], "90");
    assert_eq!(cause.change.as_ref().map(|change| change.id.as_str()), Some(GUILTY));
    assert_eq!(cause.entity.container.as_deref(), Some("app"));
    assert!(got.unexplained.is_empty());
}

#[test]
fn a_kill_names_itself_also_when_most_stores_answer_too_late() {
    let mut world = oom();
    set_errors(&mut world, &[("checkout", 1.0)]);
    let errors_alone = |series: &Series| series.labels.get("__name__").is_some_and(|name| name == "errorRatio");
    if let Answer::Known(series) = &mut world.series {
        series.retain(errors_alone);
    }
    world.topology = Answer::unknown("no answer within 15 s");
    let mut waits = killed(2);
    waits["containerStatuses"][0]["ready"] = json!(false);
    waits["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    set_pod(&mut world, pod("checkout-new-z", "checkout", "new", 3_540, waits));
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::OOM_KILLED, "checkout"), "{got:#?}");
    assert!(got.actionable().is_some(), "{:?}", got.abstained);
}

#[test]
fn a_node_that_keeps_pods_out_by_its_own_trouble_is_blamed_and_not_their_placement() {
    let mut world = world();
    // As the scheduler of Kubernetes 1.36 says it; older ones name the taint.
    let message = "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint(s). \
                   no new claims to deallocate.";
    let waits = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]});
    let mut pending = pod("checkout-old-z", "checkout", "old", 3_600, waits);
    pending["spec"]["nodeName"] = json!("");
    set_pod(&mut world, pending);
    let mut evicted = pod("checkout-old-y", "checkout", "old", 0, json!({"phase": "Failed", "reason": "Evicted"}));
    evicted["spec"]["nodeName"] = json!("node-b");
    objects(&mut world).push(evicted);
    objects(&mut world).push(json!({"kind": "Node", "metadata": {"name": "node-b"},
        "status": {"conditions": [{"type": "MemoryPressure", "status": "True", "reason": "KubeletHasInsufficientMemory"}]}}));
    world.symptoms.push(alert("FailedScheduling", "checkout"));
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::NODE_PRESSURE, "node-b"), "{got:#?}");
    assert!(got.actionable().is_some(), "{:?}", got.abstained);
}

#[test]
fn a_changed_config_map_is_blamed_where_it_is_read_and_hurts() {
    let mut world = world();
    for object in objects(&mut world).iter_mut().filter(|object| object["kind"] == "Deployment") {
        let name = object["metadata"]["name"].clone();
        let reference =
            json!([{"name": "URL", "valueFrom": {"configMapKeyRef": {"name": "shop-config", "key": "url"}}}]);
        if name != "frontend" {
            object["spec"]["template"]["spec"] = json!({"containers": [{"name": "app", "env": reference}]});
        }
    }
    let mut changed = change(GUILTY, ChangeKind::Config, "checkout", 3_540, "-  url: https://cards\n+  url: cards\n");
    changed.target = amend_diagnosis::entity::Entity::new(EntityKind::ConfigMap, "shop", "shop-config");
    world.changes = Answer::Known(vec![changed]);
    set_errors(&mut world, &[("checkout", 0.5), ("frontend", 0.3)]);
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::BAD_CONFIG, "checkout"), "{got:#?}");
    assert_eq!(got.causes[0].measures["commit.guilty"], GUILTY);
}

#[test]
fn the_graph_leads_from_the_change_to_the_symptom_with_a_question_on_every_edge() {
    let got = diagnose(&oom());
    let roles: Vec<NodeRole> = got.graph.nodes.iter().map(|node| node.role).collect();
    for role in [NodeRole::Change, NodeRole::Cause, NodeRole::Effect, NodeRole::Symptom] {
        assert!(roles.contains(&role), "{role:?}");
    }
    for edge in &got.graph.edges {
        assert!(!edge.evidence.is_empty() && !edge.asked.is_empty(), "{edge:?}");
        assert!(got.asked.iter().any(|asked| asked.id == edge.asked), "{edge:?}");
    }
    let mut reached = vec![got.graph.nodes.iter().find(|node| node.role == NodeRole::Change).unwrap().id.clone()];
    for _ in 0..10 {
        for edge in &got.graph.edges {
            if reached.contains(&edge.from) && !reached.contains(&edge.to) {
                reached.push(edge.to.clone());
            }
        }
    }
    for node in got.graph.nodes.iter().filter(|node| node.role == NodeRole::Symptom) {
        assert!(reached.contains(&node.id), "{node:?}");
    }
}

#[test]
fn a_steadily_growing_working_set_is_a_leak_not_a_limit() {
    let mut world = oom();
    if let Answer::Known(list) = &mut world.series {
        list.retain(|series| series.asked != "memory");
    }
    add_memory(&mut world, |t| 40.0 * MIB + (t % 1_500) as f64 / 1_500.0 * 215.0 * MIB);
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::MEMORY_LEAK, "checkout"), "{got:#?}");
    let limit = got.causes.iter().find(|cause| cause.kind == cause::OOM_KILLED);
    assert!(limit.is_none_or(|limit| limit.confidence < 0.1));
}

#[test]
fn the_release_with_its_own_errors_is_blamed_and_the_innocent_one_is_not() {
    let got = diagnose(&bad_release_beside_innocent());
    assert_eq!(best(&got), (cause::BAD_IMAGE, "checkout"), "{got:#?}");
    let guilty = got.actionable().expect("sure enough");
    assert_eq!(guilty.measures["commit.guilty"], GUILTY);
    assert_eq!(guilty.measures["image.good"], "registry/checkout:old");
    let innocent = got.causes.iter().find(|cause| cause.entity.name == "frontend" && cause.kind == cause::BAD_IMAGE);
    let innocent = innocent.expect("considered");
    assert!(innocent.confidence < 0.1);
    assert!(innocent.facts_against.iter().any(|fact| fact.sentence.contains("explained by checkout")), "{innocent:#?}");
    assert!(got.graph.nodes.iter().any(|node| node.role == NodeRole::Rejected && node.entity.name == "frontend"));
}

#[test]
fn two_releases_without_telemetry_lead_to_silence_and_name_what_would_decide() {
    let mut world = world();
    world.series = Answer::unknown("prometheus does not answer");
    world.changes = Answer::Known(vec![
        change(INNOCENT, ChangeKind::Image, "cart", 3_500, ""),
        change(GUILTY, ChangeKind::Image, "checkout", 3_540, ""),
    ]);
    let got = diagnose(&world);
    let why = got.abstained.expect("too little to go by");
    assert!(why.contains("released 40 s apart; error rate by version would decide"), "{why}");
    assert!(why.contains("prometheus does not answer"), "{why}");
    assert_eq!(got.unexplained, ["HighErrorRate/frontend"]);
}

#[test]
fn a_bad_configuration_that_kills_the_new_pods_is_blamed() {
    let mut world = world();
    let crash = json!({"phase": "Running", "containerStatuses": [{
        "name": "app", "ready": false, "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"reason": "Error", "exitCode": 1, "finishedAt": at(4_100).to_string()}}}]});
    objects(&mut world).push(pod("checkout-new-y", "checkout", "new", 3_545, crash));
    set_errors(&mut world, &[("checkout", 0.5), ("frontend", 0.3)]);
    let diff = "-            value: 30s\n+            value: thirty\n";
    world.changes = Answer::Known(vec![change(GUILTY, ChangeKind::Commit, "checkout", 3_540, diff)]);
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::BAD_CONFIG, "checkout"), "{got:#?}");
    assert!(got.actionable().is_some());
}

#[test]
fn an_image_that_cannot_be_pulled_is_named_with_the_good_one() {
    let mut world = world();
    let told = "Back-off pulling image \"registry/checkout:new\": manifest unknown";
    objects(&mut world).push(pod("checkout-new-y", "checkout", "new", 3_545, waiting("ImagePullBackOff", told)));
    world.changes = Answer::Known(vec![change(GUILTY, ChangeKind::Image, "checkout", 3_540, "")]);
    world.symptoms = vec![alert("RolloutStuck", "checkout")];
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::IMAGE_PULL, "checkout"), "{got:#?}");
    assert_eq!(got.causes[0].measures["image.bad"], "registry/checkout:new");
    assert_eq!(got.causes[0].measures["image.good"], "registry/checkout:old");
    assert!(got.actionable().is_some());
}

#[test]
fn a_missing_secret_is_named() {
    let mut world = world();
    let told = "secret \"checkout-db\" not found";
    set_pod(&mut world, pod("checkout-new-y", "checkout", "new", 3_545, waiting("CreateContainerConfigError", told)));
    world.symptoms = vec![alert("PodsNotReady", "checkout")];
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::CONFIG_MISSING, "checkout"), "{got:#?}");
    assert_eq!(got.causes[0].measures["config.object"], "Secret/checkout-db");
}

#[test]
fn pods_that_no_node_takes_are_named() {
    let mut world = world();
    let status = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient memory."}]});
    set_pod(&mut world, pod("checkout-new-y", "checkout", "new", 3_545, status));
    world.symptoms = vec![alert("PodsPending", "checkout")];
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::UNSCHEDULABLE, "checkout"), "{got:#?}");
}

#[test]
fn a_failing_dependency_outside_the_cluster_is_named() {
    let mut world = world();
    set_errors(&mut world, &[("checkout", 0.5), ("frontend", 0.3)]);
    let line = |second: u64| LogLine {
        at_ns: Some((1_700_000_000 + second) * 1_000_000_000),
        source: "shop/checkout-old-x".into(),
        severity: Some("ERROR".into()),
        body: "Post \"https://api.bank.example/pay\": dial tcp 203.0.113.9:443: connect: connection refused".into(),
        trace_id: None,
        span_id: None,
        count: 1,
    };
    world.logs = Answer::Known((3_610..3_640).map(line).collect());
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::DEPENDENCY, "checkout"), "{got:#?}");
    assert_eq!(got.causes[0].measures["dependency"], "api.bank.example");
}

#[test]
fn two_independent_incidents_are_two_causes() {
    let mut world = oom();
    let told = "secret \"cart-db\" not found";
    set_pod(&mut world, pod("cart-new-y", "cart", "new", 3_545, waiting("CreateContainerConfigError", told)));
    world.symptoms = vec![alert("OOMKilled", "checkout"), alert("PodsNotReady", "cart")];
    let got = diagnose(&world);
    let sure: Vec<&str> = got.causes.iter().filter(|c| c.confidence > 0.8).map(|c| c.entity.name.as_str()).collect();
    assert_eq!(sure.len(), 2, "{got:#?}");
    assert!(sure.contains(&"checkout") && sure.contains(&"cart"));
}

#[test]
fn a_chain_from_busy_cpu_over_collections_and_held_connections_to_a_refusing_database_is_one_path() {
    let mut world = world();
    let calls = TopologyEdge { from: deployment("checkout"), to: deployment("orders-db"), kind: LinkKind::Calls };
    world.topology = world.topology.map(|mut topology| {
        topology.edges.push(calls);
        topology
    });
    objects(&mut world).push(json!({"kind": "Deployment", "metadata": {"namespace": "shop", "name": "orders-db"},
        "spec": {"replicas": 1, "template": {"metadata": {"labels": {"app": "orders-db"}}}}}));
    set_errors(&mut world, &[("checkout", 0.4), ("frontend", 0.4)]);
    let rise = |name: &str, from: f64, to: f64, since: i64| {
        let noise = move |t: i64| 1.0 + 0.02 * ((t / 30) % 3) as f64;
        let labels = [("__name__", name), ("service", "checkout")];
        series(&labels, "jvm", move |t| noise(t) * if t < since { from } else { to })
    };
    if let Answer::Known(list) = &mut world.series {
        list.push(rise("process_cpu_usage", 0.2, 0.95, 3_600));
        list.push(rise("jvm_gc_pause_seconds", 0.01, 1.8, 3_630));
        list.push(rise("hikaricp_connections_active", 4.0, 20.0, 3_660));
    }
    let refused = |second: i64| LogLine {
        at_ns: Some(u64::try_from(at(second).as_nanosecond()).unwrap()),
        source: "shop/orders-db".into(),
        severity: Some("ERROR".into()),
        body: "FATAL: sorry, too many clients already".into(),
        trace_id: None,
        span_id: None,
        count: 1,
    };
    world.logs = Answer::Known(vec![refused(3_700), refused(3_720)]);
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::CPU, "checkout"), "{got:#?}");
    let labels: BTreeMap<&str, &str> =
        got.graph.nodes.iter().map(|node| (node.id.as_str(), node.label.as_str())).collect();
    let mut path = vec!["cpu pressure"];
    while let Some(edge) = got.graph.edges.iter().find(|edge| Some(&labels[edge.from.as_str()]) == path.last()) {
        path.push(labels[edge.to.as_str()]);
        assert!(path.len() < 9, "{path:?}");
    }
    let chain =
        ["cpu pressure", "garbage collections take longer", "connections are not given back", "connections refused"];
    assert_eq!(path[..4], chain, "{path:?}");
    assert_eq!(path.last(), Some(&"HighErrorRate"), "{path:?}");
}

#[test]
fn without_any_telemetry_and_objects_nothing_is_claimed() {
    let mut world = world();
    let down = || "nobody answers".to_owned();
    world.series = Answer::Unknown { why: down() };
    world.spans = Answer::Unknown { why: down() };
    world.logs = Answer::Unknown { why: down() };
    world.objects = Answer::Unknown { why: down() };
    world.changes = Answer::Unknown { why: down() };
    let got = diagnose(&world);
    assert!(got.actionable().is_none());
    assert!(got.abstained.is_some_and(|why| why.contains("metrics unknown")));
}

#[test]
fn the_state_alone_is_enough_for_what_the_state_says() {
    let mut world = oom();
    world.series = Answer::unknown("prometheus does not answer");
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::OOM_KILLED, "checkout"));
    assert!(got.actionable().is_some());
}

#[test]
fn a_healthy_world_gives_no_cause_to_act_on() {
    assert!(diagnose(&world()).actionable().is_none());
}

fn shuffled(observations: &Observations, seed: u64) -> Observations {
    fn mix<T>(list: &mut [T], mut seed: u64) {
        for index in (1..list.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            list.swap(index, (seed >> 33) as usize % (index + 1));
        }
    }
    let mut other = observations.clone();
    mix(&mut other.symptoms, seed);
    if let Answer::Known(list) = &mut other.series {
        mix(list, seed);
    }
    if let Answer::Known(list) = &mut other.objects {
        mix(list, seed);
    }
    if let Answer::Known(list) = &mut other.changes {
        mix(list, seed);
    }
    if let Answer::Known(list) = &mut other.logs {
        mix(list, seed);
    }
    if let Answer::Known(topology) = &mut other.topology {
        mix(&mut topology.edges, seed);
    }
    other
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_order_of_the_input_does_not_matter(seed in any::<u64>()) {
        for story in [oom(), bad_release_beside_innocent()] {
            prop_assert_eq!(diagnose(&shuffled(&story, seed)), diagnose(&story));
        }
    }
}

#[test]
fn an_unrelated_quiet_service_does_not_change_the_answer() {
    for story in [oom(), bad_release_beside_innocent()] {
        let mut larger = story.clone();
        objects(&mut larger).push(json!({"kind": "Deployment", "metadata": {"namespace": "shop", "name": "search"},
            "spec": {"replicas": 1, "template": {"metadata": {"labels": {"app": "search"}}}}}));
        objects(&mut larger).push(pod("search-old-x", "search", "old", 0, running()));
        if let Answer::Known(list) = &mut larger.series {
            list.push(errors("search", 0.0, 0.0));
        }
        assert_eq!(diagnose(&larger).causes, diagnose(&story).causes);
    }
}

#[test]
fn what_is_taken_away_never_makes_a_wrong_answer_sure() {
    type Damage = fn(&mut Observations);
    let damages: [(&str, Damage); 7] = [
        ("series", |world| world.series = Answer::unknown("gone")),
        ("objects", |world| world.objects = Answer::unknown("gone")),
        ("changes", |world| world.changes = Answer::unknown("gone")),
        ("topology", |world| world.topology = Answer::unknown("gone")),
        ("nan", |world| {
            if let Answer::Known(list) = &mut world.series {
                list.iter_mut().flat_map(|one| &mut one.samples).for_each(|sample| sample.1 = f64::NAN);
            }
        }),
        ("huge", |world| {
            if let Answer::Known(list) = &mut world.series {
                list.iter_mut().flat_map(|one| &mut one.samples).for_each(|sample| sample.1 *= 1e308);
            }
        }),
        ("empty", |world| {
            if let Answer::Known(list) = &mut world.series {
                list.iter_mut().for_each(|one| one.samples.clear());
            }
        }),
    ];
    for story in [oom(), bad_release_beside_innocent()] {
        let whole = diagnose(&story);
        for (name, damage) in damages {
            let mut damaged = story.clone();
            damage(&mut damaged);
            let got = diagnose(&damaged);
            if let Some(cause) = got.actionable() {
                assert_eq!(cause.entity.name, whole.causes[0].entity.name, "{name}: {cause:#?}");
            }
        }
    }
}

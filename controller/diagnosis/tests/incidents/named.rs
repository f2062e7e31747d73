//! What is wrong has a name, and the right one.

use std::collections::BTreeMap;

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::{Diagnosis, cause};
use amend_diagnosis::entity::EntityKind;
use amend_diagnosis::evidence::{Answer, ChangeKind, LinkKind, LogLine, Observations, Series, TopologyEdge};
use amend_diagnosis::graph::NodeRole;
use serde_json::json;

use crate::shop::{
    GUILTY, INNOCENT, MIB, add_memory, alert, at, bad_release_beside_innocent, best, change, deployment, killed,
    objects, oom, pod, running, series, set_errors, set_pod, waiting, world,
};

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
        taught: None,
    };
    world.logs = Answer::Known((3_610..3_640).map(line).collect());
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::DEPENDENCY, "checkout"), "{got:#?}");
    assert_eq!(got.causes[0].measures["dependency"], "api.bank.example");
}

/// `checkout` released anew with three pods, of which some were killed for memory; it fails and says that it gets no memory.
fn released_and_killed(kills: usize, logged: &str) -> Observations {
    let mut world = oom();
    for index in 0..3 {
        let status = if index < kills { killed(4) } else { running() };
        objects(&mut world).push(pod(&format!("checkout-new-{index}"), "checkout", "new", 3_545, status));
    }
    let replaced = ["checkout-old-x", "checkout-new-y"];
    objects(&mut world).retain(|one| !replaced.contains(&one["metadata"]["name"].as_str().unwrap_or_default()));
    // Killed within a scrape: no store saw the working set at its limit.
    world.series = world.series.map(|mut list| {
        list.retain(|series| series.labels["__name__"] == "errorRatio");
        list
    });
    set_errors(&mut world, &[("checkout", 0.4), ("frontend", 0.2)]);
    world.logs = Answer::Known(vec![LogLine {
        at_ns: Some(u64::try_from(at(3_700).as_nanosecond()).unwrap()),
        source: "shop/checkout".into(),
        severity: Some("ERROR".into()),
        body: logged.into(),
        trace_id: None,
        span_id: None,
        count: 1,
        taught: None,
    }]);
    world
}

#[test]
fn what_a_release_shows_while_its_pods_are_killed_for_memory_speaks_for_the_kills() {
    let got = diagnose(&released_and_killed(3, "cannot allocate memory for order batch"));
    assert_eq!(best(&got), (cause::OOM_KILLED, "checkout"), "{got:#?}");
    assert!(got.causes[0].confidence > 0.95 && got.actionable().is_some(), "{got:#?}");
    let all: Vec<f64> = got.causes.iter().map(|cause| cause.confidence).collect();
    assert!(all.iter().skip(1).all(|confidence| *confidence < 0.2), "{all:?}");
}

#[test]
fn one_kill_among_many_pods_does_not_speak_for_what_a_release_shows() {
    let told = |kills| {
        let got = diagnose(&released_and_killed(kills, "NullPointerException in OrderBatch"));
        let release = got.causes.iter().find(|cause| cause.kind == cause::BAD_IMAGE).unwrap().clone();
        (release.confidence, release.facts_for.iter().map(|fact| fact.sentence.clone()).collect::<String>())
    };
    let ((one, said_of_one), (all, said_of_all)) = (told(1), told(3));
    assert!(one > 1.5 * all, "one of three: {one}, three of three: {all}");
    assert!(said_of_all.contains("while 3 of 3 new pods were killed for memory"), "{said_of_all}");
    assert!(!said_of_one.contains("killed for memory") && said_of_one.contains("NullPointer"), "{said_of_one}");
}

#[test]
fn a_kill_of_one_pod_is_not_sure_beside_an_error_that_the_release_brought_to_all() {
    let got = diagnose(&released_and_killed(1, "NullPointerException in OrderBatch"));
    let kill = got.causes.iter().find(|cause| cause.kind == cause::OOM_KILLED).unwrap();
    assert!(kill.confidence < 0.9 && got.actionable().is_none(), "{got:#?}");
    // Nothing else is wrong: a kill is a kill, also of one pod.
    let got = diagnose(&released_and_killed(1, "cannot allocate memory for order batch"));
    assert_eq!(best(&got), (cause::OOM_KILLED, "checkout"), "{got:#?}");
}

#[test]
fn a_sidecar_that_is_killed_takes_nothing_from_the_release_beside_it() {
    let with_sidecar = |image: &str| {
        let mut world = bad_release_beside_innocent();
        let mut pod = pod("checkout-new-y", "checkout", "new", 3_545, running());
        pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "proxy", "image": image}));
        let mut proxy = killed(3)["containerStatuses"][0].clone();
        proxy["name"] = json!("proxy");
        pod["status"]["containerStatuses"].as_array_mut().unwrap().push(proxy);
        set_pod(&mut world, pod);
        let got = diagnose(&world);
        let release = got.causes.iter().find(|cause| cause.kind == cause::BAD_IMAGE && cause.entity.name == "checkout");
        release.unwrap().facts_for.iter().map(|fact| fact.sentence.clone()).collect::<String>()
    };
    let said = with_sidecar("registry/proxy:1");
    assert!(!said.contains("killed for memory"), "{said}");
    let said = with_sidecar("registry/checkout:new");
    assert!(said.contains("killed for memory"), "the change brought it: {said}");
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
fn the_same_chain_is_one_path_in_the_names_of_live_stores_and_without_a_word_of_the_database() {
    let mut world = world();
    let calls = TopologyEdge { from: deployment("checkout"), to: deployment("orders-db"), kind: LinkKind::Calls };
    world.topology = world.topology.map(|mut topology| {
        topology.edges.push(calls);
        topology
    });
    objects(&mut world).push(json!({"kind": "Deployment", "metadata": {"namespace": "shop", "name": "orders-db"},
        "spec": {"replicas": 1, "template": {"metadata": {"labels": {"app": "orders-db"}}}}}));
    set_errors(&mut world, &[("checkout", 0.4), ("frontend", 0.4)]);
    let told = |labels: &[(&str, &str)], value: fn(i64) -> f64| {
        let noise = move |t: i64| 1.0 + 0.01 * ((t / 30) % 3) as f64;
        series(labels, "live", move |t| noise(t) * value(t))
    };
    let of = |name: &'static str, service: &'static str| [("__name__", name), ("service", service)];
    let state =
        |state: &'static str| [("__name__", "pool_connections_used"), ("service", "checkout"), ("state", state)];
    if let Answer::Known(list) = &mut world.series {
        list.push(told(&of("process_cpu_usage", "checkout"), |t| if t < 3_600 { 0.2 } else { 0.95 }));
        // A counter of seconds: one in a hundred, then most of the time.
        list.push(series(&of("gc_pause_seconds_sum", "checkout"), "live", |t| {
            let (t, late) = (t as f64, (t - 3_630).max(0) as f64);
            0.01 * t + 0.8 * late + 0.001 * ((t / 30.0) % 3.0)
        }));
        list.push(told(&state("used"), |t| if t < 3_660 { 4.0 } else { 20.0 }));
        list.push(told(&state("idle"), |t| if t < 3_660 { 16.0 } else { 0.0 }));
        list.push(series(
            &of("database_connections_used", "orders-db"),
            "live",
            |t| if t < 3_660 { 40.0 } else { 99.0 },
        ));
        list.push(series(&of("database_connections_max", "orders-db"), "live", |_| 100.0));
    }
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::CPU, "checkout"), "{got:#?}");
    chain_of(&got);
}

/// The labels from busy CPU on along the graph, of which the first four are the whole chain.
fn chain_of(got: &Diagnosis) -> Vec<&str> {
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
    path
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
        taught: None,
    };
    world.logs = Answer::Known(vec![refused(3_700), refused(3_720)]);
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::CPU, "checkout"), "{got:#?}");
    let path = chain_of(&got);
    assert_eq!(path.last(), Some(&"HighErrorRate"), "{path:?}");
}

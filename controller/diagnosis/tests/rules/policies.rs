//! Network policies that shut a way, beside those that only look like it, and the cluster's name server.

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::{Answer, LinkKind, Observations, TopologyEdge};
use serde_json::{Value, json};

use crate::live::*;

const IN_VAIN: &str = "call failed: dial tcp 10.96.7.7:80: i/o timeout";
const POLICY: &str = "network_policy_refuses_calls";
const NAMES: &str = "network_policy_refuses_dns";
const SERVER: &str = "cluster_dns_unavailable";

/// `frontend` that calls `checkout` behind its Service; all pods run for long.
fn calling() -> Observations {
    let mut world = world();
    let spec = json!({"containers": [{"name": "app", "ports": [{"name": "web", "containerPort": 8080}]}]});
    let ports = json!([{"port": 80, "targetPort": 8080, "protocol": "TCP"}]);
    put(
        &mut world,
        [
            deployed("checkout", spec.clone()),
            lives("checkout", "old", -90_000, &spec, json!([up("app")]), -80_000),
            lives("frontend", "old", -90_000, &spec, json!([up("app")]), -80_000),
            service("checkout", json!({"app": "checkout"}), ports),
        ],
    );
    world
}

fn fail(world: &mut Observations) {
    for second in 0..6 {
        log(world, 3_700 + second, "frontend-old-x", IN_VAIN);
    }
    set_errors(world, &[("frontend", 0.3)]);
}

fn policy(name: &str, second: i64, spec: Value) -> Value {
    json!({"kind": "NetworkPolicy", "spec": spec, "metadata": {"namespace": "shop", "name": name,
        "creationTimestamp": at(-90_000).to_string(), "managedFields": [{"manager": "kubectl", "time": at(second).to_string()}]}})
}

/// Lets only `cart` reach `checkout`.
fn only_cart(second: i64) -> Value {
    let from = json!([{"from": [{"podSelector": {"matchLabels": {"app": "cart"}}}], "ports": [{"port": 8080}]}]);
    policy(
        "checkout-in",
        second,
        json!({"podSelector": {"matchLabels": {"app": "checkout"}}, "policyTypes": ["Ingress"], "ingress": from}),
    )
}

#[test]
fn a_policy_that_was_just_written_and_shuts_out_a_caller_that_fails_is_the_cause() {
    let mut world = calling();
    put(&mut world, [only_cart(3_500)]);
    assert!(with_fault(&world, POLICY).is_none(), "calls are well: nobody fails on it");
    fail(&mut world);
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::ROUTING, "checkout"), "{got:#?}");
    assert!(got.actionable().is_some(), "{:?}", got.abstained);
    let cause = &got.causes[0];
    assert_eq!(cause.measures["network.policy"], "checkout-in");
    assert!(cause.sentence.contains("written 100 s before the first sign"), "{}", cause.sentence);
}

#[test]
fn a_policy_at_the_caller_is_blamed_on_the_caller() {
    let mut world = calling();
    let out = json!({"podSelector": {"matchLabels": {"app": "frontend"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "cart"}}}]}]});
    put(&mut world, [policy("frontend-out", 3_500, out)]);
    fail(&mut world);
    let found = with_fault(&world, POLICY).unwrap();
    assert_eq!((found.kind.as_str(), found.entity.name.as_str()), (cause::ROUTING, "frontend"));
}

#[test]
fn a_policy_that_lets_the_caller_through_is_innocent_of_its_failures() {
    let mut world = calling();
    let everybody = policy(
        "also",
        3_500,
        json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]}),
    );
    put(&mut world, [only_cart(3_500), everybody]);
    fail(&mut world);
    assert!(with_fault(&world, POLICY).is_none(), "policies add up");
}

#[test]
fn an_old_policy_is_no_cause_by_itself_unless_the_pods_are_new() {
    let mut old = calling();
    put(&mut old, [only_cart(-90_000)]);
    fail(&mut old);
    let got = diagnose(&old);
    assert!(got.actionable().is_none_or(|cause| cause.kind != cause::ROUTING), "{got:#?}");
    let spec = json!({"containers": [{"name": "app"}]});
    put(&mut old, [lives("frontend", "new", 3_500, &spec, json!([up("app")]), 3_510)]);
    let found = with_fault(&old, POLICY).unwrap();
    assert!(found.facts_for[0].sentence.contains("older than the pods"), "{found:#?}");
}

#[test]
fn what_was_not_read_of_a_policy_blames_nobody() {
    let mut world = calling();
    let team = json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": "shop"}}}]}]);
    put(&mut world, [policy("team", 3_500, json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": team}))]);
    fail(&mut world);
    assert!(with_fault(&world, POLICY).is_none(), "the labels of the namespace are unknown");
    put(&mut world, [json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "pay"}}})]);
    assert!(with_fault(&world, POLICY).is_some());
    let mut unread = asked("cluster-networkpolicies", "cluster", "networkpolicies");
    unread.unknown = Some("not allowed".into());
    world.asked.push(unread);
    assert!(with_fault(&world, POLICY).is_none(), "a part of the policies is not all of them");
}

#[test]
fn where_one_port_is_open_calls_must_fail_at_another() {
    let mut world = calling();
    let both =
        json!([{"name": "web", "port": 80, "targetPort": 8080}, {"name": "admin", "port": 81, "targetPort": 9090}]);
    let from = json!([{"ports": [{"port": 8080}]}]);
    let spec =
        json!({"podSelector": {"matchLabels": {"app": "checkout"}}, "policyTypes": ["Ingress"], "ingress": from});
    put(&mut world, [service("checkout", json!({"app": "checkout"}), both), policy("checkout-in", 3_500, spec)]);
    fail(&mut world);
    assert!(with_fault(&world, POLICY).is_none(), "port 80 is open, whatever fails there");
    log(&mut world, 3_700, "frontend-old-x", "dial tcp 10.96.7.7:81: i/o timeout");
    assert!(with_fault(&world, POLICY).is_some());
}

fn unresolved(world: &mut Observations, from: &str, name: &str) {
    for second in 0..4 {
        let line = format!("dial tcp: lookup {name} on 10.96.0.10:53: read udp 10.0.0.7:4->10.96.0.10:53: i/o timeout");
        log(world, 3_700 + second, &format!("{from}-old-x"), &line);
    }
}

fn name_server(ready: bool) -> Vec<Value> {
    let labels = json!({"k8s-app": "kube-dns", "pod-template-hash": "5c"});
    let status = if ready { up("coredns") } else { down("coredns") };
    let pod = json!({"kind": "Pod",
        "metadata": {"namespace": "kube-system", "name": "coredns-5c-a", "labels": labels, "creationTimestamp": at(-90_000).to_string(),
            "ownerReferences": [{"kind": "ReplicaSet", "name": "coredns-5c", "controller": true}]},
        "spec": {"nodeName": "node-a", "containers": [{"name": "coredns"}]},
        "status": {"phase": "Running", "containerStatuses": [status]}});
    let mut workload = deployed("coredns", json!({"containers": [{"name": "coredns"}]}));
    workload["metadata"]["namespace"] = json!("kube-system");
    workload["spec"]["template"]["metadata"]["labels"] = json!({"k8s-app": "kube-dns"});
    vec![workload, pod]
}

#[test]
fn a_policy_that_forgets_the_name_server_is_named_for_it() {
    let mut world = calling();
    let out = json!({"podSelector": {"matchLabels": {"app": "frontend"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {}}]}]});
    put(&mut world, [policy("frontend-out", 3_500, out)]);
    assert!(with_fault(&world, NAMES).is_none(), "nobody fails to resolve names");
    unresolved(&mut world, "frontend", "checkout");
    let got = diagnose(&world);
    assert_eq!(
        (best(&got), got.causes[0].measures["fault"].as_str()),
        ((cause::ROUTING, "frontend"), NAMES),
        "{got:#?}"
    );
    assert!(with_fault(&world, SERVER).is_none(), "the server is not asked");
    let dns = json!([{"to": [{"podSelector": {}}]}, {"to": [{"namespaceSelector": {}}], "ports": [{"port": 53, "protocol": "UDP"}]}]);
    let open = json!({"podSelector": {"matchLabels": {"app": "frontend"}}, "policyTypes": ["Egress"], "egress": dns});
    put(&mut world, [policy("frontend-out", 3_500, open)]);
    assert!(with_fault(&world, NAMES).is_none());
}

#[test]
fn a_name_server_that_is_down_is_the_cause_and_not_its_callers() {
    let mut world = calling();
    objects(&mut world).extend(name_server(false));
    unresolved(&mut world, "frontend", "checkout");
    unresolved(&mut world, "cart", "redis");
    set_errors(&mut world, &[("frontend", 0.3), ("cart", 0.3)]);
    world.symptoms.push(alert("HighErrorRate", "cart"));
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::UNAVAILABLE, "coredns"), "{got:#?}");
    assert!(got.actionable().is_some() && got.unexplained.is_empty(), "{got:#?}");
    objects(&mut world).retain(|one| one["metadata"]["namespace"] != "kube-system");
    let unread = with_fault(&world, SERVER).unwrap();
    assert_eq!(unread.entity.name, "kube-dns");
    assert!(unread.sentence.contains("were not read"), "{unread:#?}");
}

#[test]
fn a_name_that_does_not_exist_and_a_sound_name_server_are_no_trouble_of_dns() {
    let mut world = calling();
    objects(&mut world).extend(name_server(true));
    assert!(with_fault(&world, SERVER).is_none());
    for from in ["frontend", "cart"] {
        for second in 0..4 {
            log(&mut world, 3_700 + second, &format!("{from}-old-x"), "lookup paymnt on 10.96.0.10:53: no such host");
        }
    }
    assert!(with_fault(&world, SERVER).is_none(), "the server answers");
    for from in ["frontend", "cart"] {
        for second in 0..4 {
            log(&mut world, 3_700 + second, &format!("{from}-old-x"), "lookup checkout on 10.96.0.10:53: no such host");
        }
    }
    assert!(with_fault(&world, SERVER).is_some(), "it denies a Service that is there");
}

#[test]
fn one_caller_alone_does_not_make_the_name_server_a_cause_to_act_on() {
    let mut world = calling();
    objects(&mut world).extend(name_server(true));
    unresolved(&mut world, "frontend", "checkout");
    let got = diagnose(&world);
    assert!(got.actionable().is_none_or(|cause| cause.entity.name != "coredns"), "{got:#?}");
    let called =
        |from: &str, to: &str| TopologyEdge { from: deployment(from), to: deployment(to), kind: LinkKind::Calls };
    let Answer::Known(topology) = &mut world.topology else { panic!() };
    topology.edges.push(called("cart", "checkout"));
    unresolved(&mut world, "cart", "checkout");
    let got = diagnose(&world);
    assert_eq!(best(&got).1, "coredns", "{got:#?}");
}

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::evidence::{Answer, Observations};

fn observed(objects: Vec<Value>) -> Observations {
    let unknown = || "not asked".to_owned();
    Observations {
        at: Timestamp::UNIX_EPOCH,
        began: None,
        normal: None,
        fault: None,
        symptoms: Vec::new(),
        candidates: None,
        topology: Answer::unknown(unknown()),
        series: Answer::unknown(unknown()),
        spans: Answer::unknown(unknown()),
        exemplars: Answer::unknown(unknown()),
        logs: Answer::unknown(unknown()),
        changes: Answer::unknown(unknown()),
        objects: Answer::Known(objects),
        events: Answer::unknown(unknown()),
        asked: Vec::new(),
    }
}

fn pod(namespace: &str, name: &str, labels: Value, address: &str) -> Value {
    json!({"kind": "Pod", "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"containers": [{"name": "app", "ports": [{"name": "sql", "containerPort": 5432}]}]},
        "status": {"phase": "Running", "podIP": address}})
}

fn policy(spec: Value) -> Value {
    json!({"kind": "NetworkPolicy", "metadata": {"namespace": "data", "name": "db"}, "spec": spec})
}

fn ingress(rules: Value) -> Value {
    policy(json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"], "ingress": rules}))
}

fn namespace(name: &str, labels: Value) -> Value {
    json!({"kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// `true`, `false` or unknown: whether `shop/web` reaches `data/db` at its port 5432.
fn comes_in(others: &[Value]) -> Option<bool> {
    between(others, &web(), Direction::Ingress)
}

fn web() -> Value {
    pod("shop", "web", json!({"app": "web"}), "10.0.1.5")
}

fn between(others: &[Value], from: &Value, way: Direction) -> Option<bool> {
    let mut objects = vec![from.clone(), pod("data", "db", json!({"app": "db"}), "10.0.2.5")];
    objects.extend_from_slice(others);
    let cluster = Cluster::new(&observed(objects));
    let end = |name: &str| End::of(cluster.pods.iter().find(|pod| pod.name == name).unwrap());
    let (web, db) = (end("web"), end("db"));
    let port = Port { number: 5432, protocol: "TCP".to_owned() };
    let told = match way {
        Direction::Ingress => passage(&cluster, way, &db, &web, &port),
        Direction::Egress => passage(&cluster, way, &web, &db, &port),
    };
    match told {
        Passage::Passes => Some(true),
        Passage::Refused { .. } => Some(false),
        Passage::Unknown => None,
    }
}

#[test]
fn a_pod_that_no_policy_selects_is_open() {
    assert_eq!(comes_in(&[]), Some(true));
    let other = policy(json!({"podSelector": {"matchLabels": {"app": "cache"}}, "policyTypes": ["Ingress"]}));
    assert_eq!(comes_in(&[other]), Some(true));
    let elsewhere =
        json!({"kind": "NetworkPolicy", "metadata": {"namespace": "shop", "name": "all"}, "spec": {"podSelector": {}}});
    assert_eq!(comes_in(&[elsewhere]), Some(true), "a policy is about the pods of its own namespace");
}

#[test]
fn an_empty_rule_lets_all_through_and_no_rule_nothing() {
    assert_eq!(comes_in(&[ingress(json!([{}]))]), Some(true));
    assert_eq!(comes_in(&[ingress(json!([]))]), Some(false));
    assert_eq!(
        comes_in(&[policy(json!({"podSelector": {}}))]),
        Some(false),
        "ingress is meant where no types are told"
    );
}

#[test]
fn policies_add_up() {
    let (none, all) = (ingress(json!([])), ingress(json!([{"ports": [{"port": 5432}]}])));
    assert_eq!(comes_in(&[none.clone(), all.clone()]), Some(true));
    assert_eq!(comes_in(&[all, none]), Some(true));
}

#[test]
fn peers_are_pods_of_the_policys_namespace_unless_a_namespace_is_selected() {
    let from = |peer: Value| ingress(json!([{"from": [peer]}]));
    let pods = json!({"matchLabels": {"app": "web"}});
    assert_eq!(comes_in(&[from(json!({"podSelector": pods}))]), Some(false));
    assert_eq!(comes_in(&[from(json!({"podSelector": pods, "namespaceSelector": {}}))]), Some(true));
    let named = |name: &str| json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
    assert_eq!(comes_in(&[from(json!({"namespaceSelector": named("shop")}))]), Some(true));
    assert_eq!(comes_in(&[from(json!({"namespaceSelector": named("jobs")}))]), Some(false));
    let both = json!({"namespaceSelector": named("shop"), "podSelector": {"matchLabels": {"app": "job"}}});
    assert_eq!(comes_in(&[from(both)]), Some(false), "both must hold");
}

#[test]
fn labels_of_a_namespace_that_was_not_read_are_unknown() {
    let wanted = ingress(json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": "shop"}}}]}]));
    assert_eq!(comes_in(std::slice::from_ref(&wanted)), None);
    assert_eq!(comes_in(&[wanted.clone(), namespace("shop", json!({"team": "shop"}))]), Some(true));
    assert_eq!(comes_in(&[wanted.clone(), namespace("shop", json!({"team": "pay"}))]), Some(false));
    let other = ingress(json!([{"ports": [{"port": 5432}]}]));
    assert_eq!(comes_in(&[wanted, other]), Some(true), "another policy lets it through anyway");
}

#[test]
fn ports_are_numbers_ranges_and_names_of_the_receiver() {
    let at = |port: Value| comes_in(&[ingress(json!([{"ports": [port]}]))]);
    assert_eq!(at(json!({"port": 5432})), Some(true));
    assert_eq!(at(json!({"port": 5433})), Some(false));
    assert_eq!(at(json!({"port": 5000, "endPort": 6000})), Some(true));
    assert_eq!(at(json!({"port": 5433, "endPort": 6000})), Some(false));
    assert_eq!(at(json!({"port": "sql"})), Some(true));
    assert_eq!(at(json!({"port": "http"})), Some(false), "a name that the receiver has not");
    assert_eq!(at(json!({"protocol": "UDP", "port": 5432})), Some(false));
    assert_eq!(at(json!({"protocol": "TCP"})), Some(true), "all ports of the protocol");
}

#[test]
fn blocks_hold_addresses_but_for_their_exceptions() {
    let block = |block: Value| comes_in(&[ingress(json!([{"from": [{"ipBlock": block}]}]))]);
    assert_eq!(block(json!({"cidr": "10.0.0.0/16"})), Some(true));
    assert_eq!(block(json!({"cidr": "10.1.0.0/16"})), Some(false));
    assert_eq!(block(json!({"cidr": "0.0.0.0/0"})), Some(true));
    assert_eq!(block(json!({"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]})), Some(false));
    assert_eq!(block(json!({"cidr": "fd00::/8"})), Some(false));
    assert_eq!(block(json!({"cidr": "what"})), None);
    let addressless = pod("shop", "web", json!({"app": "web"}), "");
    let policy = ingress(json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/16"}}]}]));
    assert_eq!(between(&[policy], &addressless, Direction::Ingress), None);
}

#[test]
fn egress_is_meant_only_where_it_is_told() {
    let out = |spec: Value| {
        let policy = json!({"kind": "NetworkPolicy", "metadata": {"namespace": "shop", "name": "web"}, "spec": spec});
        between(&[policy], &web(), Direction::Egress)
    };
    assert_eq!(out(json!({"podSelector": {}})), Some(true));
    assert_eq!(out(json!({"podSelector": {}, "policyTypes": ["Ingress"]})), Some(true));
    assert_eq!(out(json!({"podSelector": {}, "policyTypes": ["Egress"]})), Some(false));
    assert_eq!(out(json!({"podSelector": {}, "egress": [{"ports": [{"port": "sql"}]}]})), Some(true));
    assert_eq!(out(json!({"podSelector": {}, "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]})), Some(false));
}

#[test]
fn pods_in_the_network_of_their_node_and_policies_without_their_rules_are_unknown() {
    let mut host = web();
    host["spec"]["hostNetwork"] = json!(true);
    let pods = ingress(json!([{"from": [{"namespaceSelector": {}}]}]));
    assert_eq!(between(std::slice::from_ref(&pods), &host, Direction::Ingress), None);
    let text = json!({"kind": "NetworkPolicy", "metadata": {"namespace": "data", "name": "db"}, "text": "..."});
    assert_eq!(comes_in(&[text]), None);
}

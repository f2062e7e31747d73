//! Services, ports and addresses that lead nowhere, beside many that only look like it.

use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::{ChangeKind, Observations};
use serde_json::{Value, json};

use crate::live::*;

const REFUSED: &str = "call to checkout failed: dial tcp 10.96.7.7:80: connect: connection refused";
const CONFLICT: &str = "service_sidecar_port_conflict";

/// `checkout` with one healthy pod of this spec, and a service of this sort in front of it.
fn behind(spec: Value, selector: Value, ports: Value) -> Observations {
    let mut world = world();
    let statuses: Vec<Value> =
        spec["containers"].as_array().unwrap().iter().map(|one| up(one["name"].as_str().unwrap())).collect();
    put(
        &mut world,
        [
            deployed("checkout", spec.clone()),
            lives("checkout", "old", 0, &spec, json!(statuses), 10),
            service("checkout", selector, ports),
        ],
    );
    world
}

fn listens() -> Value {
    json!({"containers": [{"name": "app", "ports": [{"name": "web", "containerPort": 8080}]}]})
}

#[test]
fn a_target_port_that_is_not_listed_is_wrong_only_where_calls_fail() {
    let ports = json!([{"port": 80, "targetPort": 9090, "protocol": "TCP"}]);
    let mut world = behind(listens(), json!({"app": "checkout"}), ports);
    assert!(of_kind(&world, cause::ROUTING).is_none(), "to list a port is optional");
    // A deeper call that fails is not this one.
    let deeper = "checkout: rpc error: dial tcp 10.0.9.9:5432: connect: connection refused";
    log(&mut world, 3_700, "frontend-old-x", deeper);
    assert!(of_kind(&world, cause::ROUTING).is_none());
    log(&mut world, 3_700, "frontend-old-x", REFUSED);
    assert_eq!(fault(&world, cause::ROUTING).as_deref(), Some("service_port_mapping_mismatch"));
}

#[test]
fn refusals_are_no_misrouting_while_no_pod_is_ready() {
    let ports = json!([{"port": 80, "targetPort": 9090, "protocol": "TCP"}]);
    let mut world = behind(listens(), json!({"app": "checkout"}), ports);
    let ill = lives("checkout", "old", 0, &listens(), json!([down("app")]), 3_600);
    put(&mut world, [ill]);
    log(&mut world, 3_700, "frontend-old-x", REFUSED);
    assert!(of_kind(&world, cause::ROUTING).is_none());
}

#[test]
fn a_target_port_by_a_name_that_no_container_has_is_found() {
    let to = |name: &str| {
        let ports = json!([{"port": 80, "targetPort": name, "protocol": "TCP"}]);
        let mut world = behind(listens(), json!({"app": "checkout"}), ports);
        log(&mut world, 3_700, "frontend-old-x", REFUSED);
        world
    };
    assert!(of_kind(&to("web"), cause::ROUTING).is_none());
    let found = of_kind(&to("http"), cause::ROUTING).expect("no port is called so");
    assert_eq!(found.measures["fault"], "service_port_mapping_mismatch");
    assert!(found.facts_for[0].sentence.contains("`http`"), "{found:#?}");
}

#[test]
fn a_sidecar_that_starts_as_an_init_container_listens_too() {
    let mut spec = listens();
    spec["initContainers"] =
        json!([{"name": "proxy", "restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 9090}]}]);
    for target in [json!(9090), json!("proxy")] {
        let ports = json!([{"port": 80, "targetPort": target, "protocol": "TCP"}]);
        let mut world = behind(spec.clone(), json!({"app": "checkout"}), ports);
        log(&mut world, 3_700, "frontend-old-x", REFUSED);
        assert!(of_kind(&world, cause::ROUTING).is_none(), "{target}");
    }
}

#[test]
fn one_port_for_both_protocols_forwards_rightly() {
    let both = json!([
        {"name": "dns", "port": 53, "targetPort": 8080, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "targetPort": 8080, "protocol": "TCP"}
    ]);
    let told = |ports: Value| {
        let mut world = behind(listens(), json!({"app": "checkout"}), ports);
        log(&mut world, 3_700, "frontend-old-x", "dial tcp 10.96.7.7:53: connect: connection refused");
        fault(&world, cause::ROUTING)
    };
    assert_eq!(told(both), None);
    let udp = json!([{"name": "dns", "port": 53, "targetPort": 8080, "protocol": "UDP"}]);
    assert_eq!(told(udp).as_deref(), Some("service_protocol_mismatch"));
}

#[test]
fn a_service_that_selects_pods_of_another_workload_is_no_mismatch() {
    let ports = || json!([{"port": 80, "targetPort": 8080}]);
    let mut world = behind(listens(), json!({"app": "checkout-v2"}), ports());
    assert_eq!(fault(&world, cause::ROUTING).as_deref(), Some("service_selector_mismatch"));
    let spec = listens();
    put(&mut world, [deployed("checkout-v2", spec.clone())]);
    objects(&mut world).push(lives("checkout-v2", "a", 0, &spec, json!([up("app")]), 10));
    assert!(of_kind(&world, cause::ROUTING).is_none(), "the next version stands behind the name of the first");
}

/// `checkout` whose environment has one address.
fn told(value: &str) -> Observations {
    let spec = json!({"containers": [{"name": "app", "env": [{"name": "TARGET", "value": value}]}]});
    let mut world = behind(spec, json!({"app": "checkout"}), json!([{"port": 80, "targetPort": 8080}]));
    let target = |name: &str, port: i64| {
        let mut made = service(name, json!({"app": name}), json!([{"port": port, "targetPort": port}]));
        made["spec"]["clusterIP"] = json!("10.96.8.8");
        made
    };
    put(&mut world, [target("api", 80), target("orders", 80), target("payment", 80), target("redis", 6379)]);
    world
}

#[test]
fn an_address_of_elsewhere_or_of_this_machine_is_no_slip() {
    let elsewhere = [
        "0.0.0.0:8080",
        "localhost:8080",
        "db.prod.internal:5432",
        "orders-db.data.svc:5432",
        "orders.data.svc:5432",
        "payment.other-ns.svc:8080",
        "redis://:secret@redis:6379",
        "redis://user:secret@redis.shop.svc.cluster.local:6379/0",
        "ordering:8080",
    ];
    for value in elsewhere {
        let mut world = told(value);
        let host = value.rsplit('@').next().unwrap();
        log(&mut world, 3_700, "checkout-old-x", &format!("dial {host}: connect: connection refused"));
        assert!(of_kind(&world, cause::ROUTING).is_none(), "{value}: {:#?}", of_kind(&world, cause::ROUTING));
    }
}

#[test]
fn a_wrong_address_is_named_once_calls_to_it_fail() {
    let lines = [
        ("payment:8080", "dial tcp 10.96.8.8:8080: connect: connection refused (payment)"),
        ("http://paymnt:80/pay", "lookup paymnt on 10.96.0.10:53: no such host"),
    ];
    for (value, line) in lines {
        let mut world = told(value);
        assert!(of_kind(&world, cause::ROUTING).is_none(), "nobody complains of {value}");
        log(&mut world, 3_700, "checkout-old-x", line);
        assert_eq!(fault(&world, cause::ROUTING).as_deref(), Some("service_env_var_address_mismatch"), "{value}");
    }
}

#[test]
fn a_wrong_address_is_named_when_a_change_just_brought_it() {
    let mut world = told("payment:8080");
    let diff = "-          value: payment:80\n+          value: payment:8080\n";
    world.changes =
        amend_diagnosis::evidence::Answer::Known(vec![change(GUILTY, ChangeKind::Config, "checkout", 3_540, diff)]);
    assert!(with_fault(&world, "service_env_var_address_mismatch").is_some());
}

/// `checkout` with a scraping annotation and these ports beside `8080`, all well.
fn annotated(annotations: Value, more: Value, status: Value) -> Observations {
    let mut spec = listens();
    spec["containers"][0]["ports"].as_array_mut().unwrap().extend(more.as_array().unwrap().iter().cloned());
    let mut world = behind(spec.clone(), json!({"app": "checkout"}), json!([{"port": 80, "targetPort": 8080}]));
    let mut deployment = deployed("checkout", spec.clone());
    deployment["spec"]["template"]["metadata"]["annotations"] = annotations;
    put(&mut world, [deployment, lives("checkout", "old", 0, &spec, json!([status]), 3_600)]);
    world
}

#[test]
fn a_port_that_is_scraped_is_not_wanted_twice() {
    let scraped = json!({"prometheus.io/scrape": "true", "prometheus.io/port": "8080"});
    assert!(with_fault(&annotated(scraped.clone(), json!([]), up("app")), CONFLICT).is_none());
    assert!(with_fault(&annotated(scraped, json!([]), dies("app", 4, 10)), CONFLICT).is_none());
    let both = json!([{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}]);
    assert!(with_fault(&annotated(json!({}), both, dies("app", 4, 10)), CONFLICT).is_none());
}

#[test]
fn a_sidecar_at_the_port_of_the_application_is_named_once_one_of_them_dies() {
    let sidecar = json!({"proxy.istio.io/config": "{ \"statusPort\": 8080 }"});
    assert!(with_fault(&annotated(sidecar.clone(), json!([]), up("app")), CONFLICT).is_none());
    assert!(with_fault(&annotated(sidecar, json!([]), dies("app", 4, 10)), CONFLICT).is_some());
}

#[test]
fn two_containers_at_one_port_are_named_once_one_says_that_it_is_taken() {
    let port = || json!([{"containerPort": 9102}]);
    let spec = json!({"containers": [{"name": "app", "ports": port()}, {"name": "exporter", "ports": port()}]});
    let mut world = behind(spec, json!({"app": "checkout"}), json!([{"port": 9102, "targetPort": 9102}]));
    assert!(with_fault(&world, CONFLICT).is_none(), "both run");
    log(&mut world, 3_700, "checkout-old-x", "Web server failed to start. Port 9102 was already in use.");
    assert!(with_fault(&world, CONFLICT).is_some());
}

//! A probe that fails is usually right.

use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::Observations;
use serde_json::{Value, json};

use crate::live::*;

/// `checkout` with these probes, its new pod in this state since its start or since later, and what the kubelet says.
fn asked(container: Value, status: Value, since: i64, says: &str) -> Observations {
    let mut world = world();
    let spec = json!({"containers": [container]});
    let statuses = json!([status]);
    put(&mut world, [deployed("checkout", spec.clone()), lives("checkout", "new", 3_550, &spec, statuses, since)]);
    tell(&mut world, 4_190, "Pod/checkout-new-x", "Unhealthy", says);
    world.symptoms = vec![alert("PodsNotReady", "checkout")];
    world
}

fn http(key: &str, port: Value) -> Value {
    json!({"name": "app", "ports": [{"name": "web", "containerPort": 8080}],
        key: {"httpGet": {"path": "/ready", "port": port}, "initialDelaySeconds": 5, "periodSeconds": 10, "failureThreshold": 3}})
}

const NEVER: i64 = 3_550;
const LATER: i64 = 3_640;

#[test]
fn a_container_that_answers_503_is_ill_and_its_probe_is_right() {
    for since in [NEVER, LATER] {
        let says = "Readiness probe failed: HTTP probe failed with statuscode: 503";
        let world = asked(http("readinessProbe", json!(8080)), down("app"), since, says);
        assert!(of_kind(&world, cause::PROBE).is_none(), "{:#?}", of_kind(&world, cause::PROBE));
    }
}

#[test]
fn a_path_that_was_never_there_is_the_probes_fault() {
    let says = "Readiness probe failed: HTTP probe failed with statuscode: 404";
    let found = of_kind(&asked(http("readinessProbe", json!(8080)), down("app"), NEVER, says), cause::PROBE).unwrap();
    assert!(found.sentence.contains("/ready") || found.facts_for[0].sentence.contains("/ready"), "{found:#?}");
    // It was there for a while: what serves it broke.
    assert!(of_kind(&asked(http("readinessProbe", json!(8080)), down("app"), LATER, says), cause::PROBE).is_none());
}

#[test]
fn plain_http_to_a_tls_port_is_the_wrong_protocol_when_the_container_says_so() {
    let says = "Readiness probe failed: HTTP probe failed with statuscode: 400";
    let mut world = asked(http("readinessProbe", json!(8080)), down("app"), NEVER, says);
    assert!(of_kind(&world, cause::PROBE).is_none(), "400 alone has many reasons");
    let told = "http: TLS handshake error from 10.0.0.3:4711: client sent an HTTP request to an HTTPS server";
    log(&mut world, 4_000, "checkout-new-x", told);
    assert_eq!(fault(&world, cause::PROBE).as_deref(), Some("readiness_probe_incorrect_protocol"));
}

#[test]
fn a_protocol_that_never_fit_is_named_and_one_that_did_is_not() {
    let says =
        "Readiness probe failed: Get \"http://10.0.0.9:8080/\": net/http: malformed HTTP response \"\\x00\\x00\"";
    let world = asked(http("readinessProbe", json!(8080)), down("app"), NEVER, says);
    assert_eq!(fault(&world, cause::PROBE).as_deref(), Some("readiness_probe_incorrect_protocol"));
    assert!(of_kind(&asked(http("readinessProbe", json!(8080)), down("app"), LATER, says), cause::PROBE).is_none());
}

#[test]
fn a_port_that_nothing_answers_at_is_named_and_one_that_did_answer_is_not() {
    let says = "Readiness probe failed: Get \"http://10.0.0.9:8081/ready\": dial tcp 10.0.0.9:8081: connect: connection refused";
    let world = asked(http("readinessProbe", json!(8081)), down("app"), NEVER, says);
    assert_eq!(fault(&world, cause::PROBE).as_deref(), Some("readiness_probe_incorrect_port"));
    // A management port need not be listed: the container answered at it until it fell ill.
    assert!(of_kind(&asked(http("readinessProbe", json!(8081)), down("app"), LATER, says), cause::PROBE).is_none());
    // And where the old pod is ready by the same probe, the new one is ill.
    let mut beside = asked(http("readinessProbe", json!(8081)), down("app"), NEVER, says);
    let spec = json!({"containers": [http("readinessProbe", json!(8081))]});
    objects(&mut beside).push(lives("checkout", "old", 0, &spec, json!([up("app")]), 10));
    assert!(of_kind(&beside, cause::PROBE).is_none());
}

#[test]
fn a_slow_start_refused_at_the_right_port_is_no_fault_of_the_probe() {
    let says = "Readiness probe failed: Get \"http://10.0.0.9:8080/ready\": dial tcp 10.0.0.9:8080: connect: connection refused";
    assert!(of_kind(&asked(http("readinessProbe", json!(8080)), down("app"), NEVER, says), cause::PROBE).is_none());
}

#[test]
fn a_named_port_is_looked_up_by_its_name() {
    let says = "Readiness probe failed: dial tcp 10.0.0.9:8080: connect: connection refused";
    assert!(of_kind(&asked(http("readinessProbe", json!("web")), down("app"), NEVER, says), cause::PROBE).is_none());
    let says = "Readiness probe errored: couldn't find port: \"http\" in container";
    let world = asked(http("readinessProbe", json!("http")), down("app"), NEVER, says);
    assert_eq!(fault(&world, cause::PROBE).as_deref(), Some("readiness_probe_incorrect_port"));
}

#[test]
fn what_a_mesh_made_of_a_probe_is_not_what_people_wrote() {
    let mut world = world();
    let written = json!({"containers": [http("readinessProbe", json!(8080))]});
    let mut rewritten = written.clone();
    rewritten["containers"][0]["readinessProbe"]["httpGet"] = json!({"path": "/app-health/app/readyz", "port": 15020});
    let ill = lives("checkout", "new", 3_550, &rewritten, json!([down("app")]), NEVER);
    put(&mut world, [deployed("checkout", written), ill]);
    let says = "Readiness probe failed: Get \"http://10.0.0.9:15020/app-health/app/readyz\": dial tcp 10.0.0.9:15020: connect: connection refused";
    tell(&mut world, 4_190, "Pod/checkout-new-x", "Unhealthy", says);
    world.symptoms = vec![alert("PodsNotReady", "checkout")];
    assert!(of_kind(&world, cause::PROBE).is_none());
}

const REFUSED: &str =
    "Liveness probe failed: Get \"http://10.0.0.9:8080/ready\": dial tcp 10.0.0.9:8080: connect: connection refused";
const HANGS: &str = "Liveness probe failed: Get \"http://10.0.0.9:8080/ready\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)";

#[test]
fn a_container_that_hangs_after_hours_is_not_probed_too_early() {
    let both = |ran| {
        let mut container = http("livenessProbe", json!(8080));
        container["readinessProbe"] = container["livenessProbe"].clone();
        asked(container, dies("app", 2, ran), NEVER, if ran > 1_000 { HANGS } else { REFUSED })
    };
    assert!(of_kind(&both(14_400), cause::PROBE).is_none());
    assert_eq!(fault(&both(36), cause::PROBE).as_deref(), Some("liveness_probe_incorrect_timing"));
}

#[test]
fn a_container_that_was_ready_before_it_was_killed_is_not_probed_too_early() {
    let mut container = http("livenessProbe", json!(8080));
    container["readinessProbe"] = container["livenessProbe"].clone();
    let world = asked(container, dies("app", 2, 40), LATER, REFUSED);
    assert!(of_kind(&world, cause::PROBE).is_none());
}

#[test]
fn a_startup_probe_and_a_command_are_read_too() {
    let says =
        "Startup probe failed: Get \"http://10.0.0.9:9999/ready\": dial tcp 10.0.0.9:9999: connect: connection refused";
    let world = asked(http("startupProbe", json!(9999)), dies("app", 3, 40), NEVER, says);
    let found = of_kind(&world, cause::PROBE).expect("the startup probe asks a port that is not there");
    assert!(found.facts_for[0].sentence.contains("startup probe"), "{found:#?}");
    let exec = json!({"name": "app", "ports": [{"containerPort": 8080}],
        "readinessProbe": {"exec": {"command": ["/bin/grpc_health_probe", "-addr=:8080"]}}});
    let says = "Readiness probe errored: rpc error: code = Unknown desc = failed to exec in container: exec: \"/bin/grpc_health_probe\": stat /bin/grpc_health_probe: no such file or directory";
    let found = of_kind(&asked(exec.clone(), down("app"), NEVER, says), cause::PROBE).expect("no such command");
    assert!(found.facts_for[0].sentence.contains("runs a command"), "{found:#?}");
    let says = "Readiness probe failed: timeout: failed to connect service \":8080\" within 1s";
    assert!(of_kind(&asked(exec, down("app"), NEVER, says), cause::PROBE).is_none());
}

#[test]
fn what_the_kubelet_said_while_the_pod_started_is_history() {
    let says = "Readiness probe failed: Get \"http://10.0.0.9:8080/\": net/http: malformed HTTP response";
    let mut world = asked(http("readinessProbe", json!(8080)), down("app"), 4_150, says);
    if let amend_diagnosis::evidence::Answer::Known(events) = &mut world.events {
        events.iter_mut().for_each(|event| event.at = at(3_560));
    }
    assert!(of_kind(&world, cause::PROBE).is_none());
}

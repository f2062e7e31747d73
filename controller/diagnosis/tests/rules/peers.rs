//! Settings that differ from those of peers, and settings that nobody could read.

use amend_diagnosis::evidence::Observations;
use serde_json::{Value, json};

use crate::live::*;

/// Five workloads that use one database; the last has these variables beside the host.
fn clients(last: Value) -> Observations {
    let mut world = world();
    for number in 0..5 {
        let mut env =
            vec![json!({"name": "DB_HOST", "value": "orders-db"}), json!({"name": "DB_USER", "value": "app"})];
        match number {
            4 => env.extend(last.as_array().unwrap().iter().cloned()),
            _ => env.push(json!({"name": "DB_PASSWORD", "value": "same"})),
        }
        put(&mut world, [deployed(&format!("client-{number}"), json!({"containers": [{"name": "app", "env": env}]}))]);
    }
    world.symptoms = vec![alert("HighErrorRate", "client-4")];
    world
}

#[test]
fn a_password_from_a_secret_is_not_another_than_its_peers() {
    let wrong = |last: Value| with_fault(&clients(last), "mysql_invalid_credentials").is_some();
    let reference = json!({"secretKeyRef": {"name": "orders-db", "key": "password"}});
    assert!(!wrong(json!([{"name": "DB_PASSWORD", "valueFrom": reference}])));
    assert!(!wrong(json!([{"name": "DB_PASSWORD", "value": "$(SHARED_PASSWORD)"}])));
    assert!(wrong(json!([{"name": "DB_PASSWORD", "value": "other"}])));
    assert!(wrong(json!([])), "none at all, and nowhere else to take it from");
}

#[test]
fn a_password_that_may_come_with_a_whole_secret_is_not_missing() {
    let mut world = clients(json!([]));
    for object in objects(&mut world).iter_mut().filter(|object| object["metadata"]["name"] == "client-4") {
        object["spec"]["template"]["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "orders-db"}}]);
    }
    assert!(with_fault(&world, "mysql_invalid_credentials").is_none());
}

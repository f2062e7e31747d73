//! What the lines of failing containers mean, and those of containers that do not fail.

use amend_diagnosis::evidence::Observations;
use serde_json::{Value, json};

use crate::live::*;

/// A finished Job beside what it logged.
fn finished(code: i64) -> Observations {
    let mut world = world();
    let spec = json!({"containers": [{"name": "app"}]});
    let ended = json!({"name": "app", "ready": false, "restartCount": 0, "state": {"terminated":
        {"reason": if code == 0 { "Completed" } else { "Error" }, "exitCode": code, "finishedAt": at(3_700).to_string()}}});
    let mut done = lives("checkout", "new", 3_550, &spec, json!([ended]), 3_700);
    done["status"]["phase"] = json!(if code == 0 { "Succeeded" } else { "Failed" });
    put(&mut world, [done]);
    world.symptoms = vec![alert("HighErrorRate", "checkout")];
    world
}

fn denied(world: &mut Observations, second: i64) {
    log(world, second, "checkout-new-x", "cp: cannot create regular file '/cache/x': Permission denied");
}

#[test]
fn what_a_container_that_did_its_work_said_is_no_failure() {
    let mut done = finished(0);
    denied(&mut done, 3_690);
    assert!(with_fault(&done, "volume_mount_permission_denied").is_none());
    let mut failed = finished(1);
    denied(&mut failed, 3_690);
    assert!(with_fault(&failed, "volume_mount_permission_denied").is_some());
}

#[test]
fn what_was_said_long_before_trouble_began_is_not_why() {
    let mut world = finished(1);
    denied(&mut world, 600);
    assert!(with_fault(&world, "volume_mount_permission_denied").is_none());
}

fn with_init(state: Value) -> Observations {
    let mut world = finished(0);
    let spec = json!({"initContainers": [{"name": "wait"}], "containers": [{"name": "app"}]});
    let mut made = lives("checkout", "new", 3_550, &spec, json!([up("app")]), 3_600);
    made["status"]["initContainerStatuses"] = json!([state]);
    put(&mut world, [made]);
    denied(&mut world, 3_690);
    world
}

#[test]
fn an_init_container_that_is_done_does_not_fail() {
    let state = json!({"name": "wait", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}});
    assert!(with_fault(&with_init(state), "volume_mount_permission_denied").is_none());
}

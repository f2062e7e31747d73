//! Configuration that is missing, and that was.

use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::Observations;
use serde_json::json;

use crate::live::*;

/// `checkout` whose container waits for this reason since a second of the story.
fn waits(reason: &str, message: &str, since: i64) -> Observations {
    let mut world = world();
    let spec = json!({"containers": [{"name": "app", "image": "registry/checkout:new"}]});
    let status = json!({"name": "app", "ready": false, "restartCount": 3,
        "state": {"waiting": {"reason": reason, "message": message}}});
    put(&mut world, [deployed("checkout", spec.clone()), lives("checkout", "new", 0, &spec, json!([status]), since)]);
    world.symptoms = vec![alert("PodsNotReady", "checkout")];
    world
}

const MOUNT: &str = "MountVolume.SetUp failed for volume \"tls\" : secret \"checkout-tls\" not found";

#[test]
fn what_was_missing_when_the_pod_started_is_not_why_it_crashes_now() {
    let mut world = waits("CrashLoopBackOff", "back-off 5m0s restarting failed container", 3_900);
    tell(&mut world, 20, "Pod/checkout-new-x", "FailedMount", MOUNT);
    assert!(of_kind(&world, cause::CONFIG_MISSING).is_none());
    let mut world = waits("ContainerCreating", "", 3_900);
    tell(&mut world, 20, "Pod/checkout-new-x", "FailedMount", MOUNT);
    assert!(of_kind(&world, cause::CONFIG_MISSING).is_none(), "said before its state last changed");
}

#[test]
fn what_is_missing_while_a_container_is_made_is_named() {
    let mut world = waits("ContainerCreating", "", 3_900);
    tell(&mut world, 4_100, "Pod/checkout-new-x", "FailedMount", MOUNT);
    let found = of_kind(&world, cause::CONFIG_MISSING).expect("the mount waits for it");
    assert_eq!(found.measures["config.object"], "Secret/checkout-tls");
    // By now it is there.
    put(&mut world, [json!({"kind": "Secret", "metadata": {"namespace": "shop", "name": "checkout-tls"}})]);
    assert!(of_kind(&world, cause::CONFIG_MISSING).is_none());
}

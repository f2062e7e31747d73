//! Workloads without pods: taken away, refused, or not wanted.

use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::{Answer, ChangeKind, Observations};
use serde_json::json;

use crate::live::*;

/// `checkout` without pods.
fn parked(kind: &str) -> Observations {
    let mut world = world();
    objects(&mut world).retain(|object| object["metadata"]["name"] != "checkout");
    let mut workload = deployed("checkout", json!({"containers": [{"name": "app"}]}));
    workload["kind"] = json!(kind);
    workload["spec"]["replicas"] = json!(0);
    workload["status"] = json!({});
    objects(&mut world).retain(|object| object["metadata"]["labels"]["app"] != "checkout");
    put(&mut world, [workload]);
    world
}

#[test]
fn a_workload_that_was_parked_long_ago_is_no_cause() {
    for kind in ["Deployment", "StatefulSet"] {
        assert!(of_kind(&parked(kind), cause::SCALED_TO_ZERO).is_none(), "{kind}");
    }
    let mut world = parked("Deployment");
    let other = "-  image: registry/checkout:1\n+  image: registry/checkout:2\n";
    world.changes = Answer::Known(vec![change(GUILTY, ChangeKind::Image, "checkout", 3_540, other)]);
    assert!(of_kind(&world, cause::SCALED_TO_ZERO).is_none(), "a new image of what is parked");
}

#[test]
fn a_workload_whose_pods_were_just_taken_away_is_the_cause() {
    let mut changed = parked("Deployment");
    let diff = "-  replicas: 3\n+  replicas: 0\n";
    changed.changes = Answer::Known(vec![change(GUILTY, ChangeKind::Scale, "checkout", 3_580, diff)]);
    let mut told = parked("Deployment");
    let message = "Scaled down replica set checkout-7c9 from 3 to 0";
    tell(&mut told, 3_590, "Deployment/checkout", "ScalingReplicaSet", message);
    let mut set = parked("StatefulSet");
    let message = "delete Pod checkout-0 in StatefulSet checkout successful";
    tell(&mut set, 3_590, "StatefulSet/checkout", "SuccessfulDelete", message);
    for (name, world) in [("change", &changed), ("event", &told), ("set", &set)] {
        let found = of_kind(world, cause::SCALED_TO_ZERO).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(found.entity.name, "checkout", "{name}");
    }
    // An autoscaler that wakes it on demand has put it to sleep.
    put(
        &mut told,
        [json!({"kind": "ScaledObject", "metadata": {"namespace": "shop", "name": "checkout"},
        "spec": {"scaleTargetRef": {"name": "checkout"}}})],
    );
    assert!(of_kind(&told, cause::SCALED_TO_ZERO).is_none());
}

#[test]
fn the_other_colour_that_gave_way_is_no_cause() {
    let mut world = parked("Deployment");
    let message = "Scaled down replica set checkout-7c9 from 3 to 0";
    tell(&mut world, 3_590, "Deployment/checkout", "ScalingReplicaSet", message);
    let spec = json!({"containers": [{"name": "app"}]});
    let mut green = lives("checkout", "green", 3_500, &spec, json!([up("app")]), 3_520);
    green["metadata"]["ownerReferences"][0]["name"] = json!("checkout-green-1");
    green["metadata"]["labels"]["pod-template-hash"] = json!("1");
    put(&mut world, [green, service("checkout", json!({"app": "checkout"}), json!([{"port": 80}]))]);
    assert!(of_kind(&world, cause::SCALED_TO_ZERO).is_none());
}

/// `checkout` that wants three pods and has some of them, refused with this message.
fn refused(has: i64, message: &str) -> Observations {
    let mut world = world();
    let mut workload = deployed("checkout", json!({"containers": [{"name": "app"}]}));
    workload["spec"]["replicas"] = json!(3);
    let set = json!({"kind": "ReplicaSet", "metadata": {"namespace": "shop", "name": "checkout-old",
        "ownerReferences": [{"kind": "Deployment", "name": "checkout", "controller": true}]},
        "spec": {"replicas": 3}, "status": {"replicas": has}});
    put(&mut world, [workload, set]);
    tell(&mut world, 4_000, "ReplicaSet/checkout-old", "FailedCreate", message);
    world.symptoms = vec![alert("DeploymentReplicasMismatch", "checkout")];
    world
}

#[test]
fn a_quota_explains_the_workload_that_it_refuses() {
    let message = "Error creating: pods \"checkout-old-q\" is forbidden: exceeded quota: compute, requested: cpu=1, used: cpu=4, limited: cpu=4";
    let mut world = refused(1, message);
    let got = amend_diagnosis::diagnose::diagnose(&world);
    assert_eq!(best(&got), (cause::QUOTA, "shop"), "{got:#?}");
    assert!(got.actionable().is_some() && got.unexplained.is_empty(), "{got:#?}");
    // Nobody else's trouble comes from it.
    world.symptoms = vec![alert("HighErrorRate", "cart")];
    let got = amend_diagnosis::diagnose::diagnose(&world);
    assert_eq!(got.unexplained, ["HighErrorRate/cart"], "{got:#?}");
}

#[test]
fn a_pod_that_admission_refuses_is_named_with_what_refuses_it() {
    let refusals = [
        (
            "pods \"checkout-old-q\" is forbidden: failed quota: compute: must specify limits.cpu for: app",
            cause::CONFIG_WRONG,
        ),
        (
            "pods \"checkout-old-q\" is forbidden: maximum cpu usage per Container is 1, but limit is 2",
            cause::CONFIG_WRONG,
        ),
        (
            "pods \"checkout-old-q\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false",
            cause::CONFIG_WRONG,
        ),
        ("admission webhook \"policy.example\" denied the request: label team is missing", cause::CONFIG_WRONG),
        (
            "Internal error occurred: failed calling webhook \"inject.example\": no endpoints available for service \"inject\"",
            cause::DEPENDENCY,
        ),
    ];
    for (message, kind) in refusals {
        let world = refused(1, &format!("Error creating: {message}"));
        let got = amend_diagnosis::diagnose::diagnose(&world);
        assert_eq!(best(&got), (kind, "checkout"), "{got:#?}");
        let healed = refused(3, &format!("Error creating: {message}"));
        assert!(of_kind(&healed, kind).is_none(), "a retry was taken: {message}");
    }
}

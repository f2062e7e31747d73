//! Pods that find no node or no volume.

use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::Observations;
use serde_json::{Value, json};

use crate::live::*;

/// A new pod of `checkout` that no node takes, with a claim when it has one.
fn pending(message: &str, claim: Option<Value>) -> Observations {
    let mut world = world();
    let mut spec = json!({"containers": [{"name": "app", "image": "registry/checkout:new"}]});
    if let Some(claim) = &claim {
        spec["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}]);
    }
    let mut waits = lives("checkout", "new", 3_550, &spec, json!([]), 3_550);
    waits["spec"].as_object_mut().unwrap().remove("nodeName");
    waits["status"] = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": message, "lastTransitionTime": at(3_550).to_string()}]});
    put(&mut world, [deployed("checkout", spec), waits]);
    put(&mut world, claim);
    world.symptoms = vec![alert("PodsPending", "checkout")];
    world
}

#[test]
fn a_control_plane_that_takes_no_pods_is_not_why_the_workers_have_no_room() {
    let told = |message: &str| fault(&pending(message, None), cause::UNSCHEDULABLE);
    let control = "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 Insufficient cpu.";
    assert_eq!(told(control).as_deref(), Some("cpu_capacity_mismatch"));
    let pool = "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: true}, 2 Insufficient memory.";
    assert_eq!(told(pool).as_deref(), Some("memory_capacity_mismatch"));
    let tainted = "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 node(s) had untolerated taint {team: data}.";
    assert_eq!(told(tainted).as_deref(), Some("taint_toleration_mismatch"));
    let alone = "0/1 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }.";
    assert_eq!(told(alone).as_deref(), Some("taint_toleration_mismatch"));
}

const UNBOUND: &str = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.";

fn claim(class: &str) -> Value {
    json!({"kind": "PersistentVolumeClaim", "metadata": {"namespace": "shop", "name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "5Gi"}}},
        "status": {"phase": "Pending"}})
}

#[test]
fn an_unbound_claim_is_no_mismatch_of_anything_while_no_volume_was_listed() {
    let world = pending(UNBOUND, Some(claim("fast")));
    let found = of_kind(&world, cause::VOLUME).expect("the claim is not bound");
    assert_eq!(found.measures.get("fault"), None, "{found:#?}");
}

#[test]
fn what_the_provisioner_says_of_a_claim_names_the_fault() {
    let told = [
        ("ProvisioningFailed", "storageclass.storage.k8s.io \"fats\" not found", "pvc_storage_class_mismatch"),
        ("FailedBinding", "volume \"disk-1\" already bound to a different claim.", "pv_binding_occupied"),
        (
            "VolumeMismatch",
            "Cannot bind to requested volume \"disk-1\": requested PV is too small",
            "pvc_capacity_mismatch",
        ),
        (
            "VolumeMismatch",
            "Cannot bind to requested volume \"disk-1\": incompatible accessMode",
            "pvc_access_mode_mismatch",
        ),
    ];
    for (reason, message, expected) in told {
        let mut world = pending(UNBOUND, Some(claim("fats")));
        tell(&mut world, 4_000, "PersistentVolumeClaim/data", reason, message);
        assert_eq!(fault(&world, cause::VOLUME).as_deref(), Some(expected), "{message}");
    }
}

#[test]
fn volumes_that_were_listed_are_compared_and_those_made_on_demand_need_not_fit() {
    let volume = json!({"kind": "PersistentVolume", "metadata": {"name": "disk-1"},
        "spec": {"storageClassName": "fast", "accessModes": ["ReadOnlyMany"], "capacity": {"storage": "9Gi"}},
        "status": {"phase": "Available"}});
    let mut world = pending(UNBOUND, Some(claim("fast")));
    put(&mut world, [volume]);
    assert_eq!(fault(&world, cause::VOLUME).as_deref(), Some("pvc_access_mode_mismatch"));
    let class =
        |provisioner: &str| json!({"kind": "StorageClass", "metadata": {"name": "fast"}, "provisioner": provisioner});
    put(&mut world, [class("kubernetes.io/no-provisioner")]);
    assert_eq!(fault(&world, cause::VOLUME).as_deref(), Some("pvc_access_mode_mismatch"));
    put(&mut world, [class("ebs.csi.aws.com")]);
    assert_eq!(fault(&world, cause::VOLUME), None);
}

#[test]
fn a_claim_without_a_class_waits_for_the_default_one_and_one_that_wants_none_does_not() {
    let told = |class: Option<&str>| {
        let mut claim = claim("");
        claim["spec"].as_object_mut().unwrap().remove("storageClassName");
        if let Some(class) = class {
            claim["spec"]["storageClassName"] = json!(class);
        }
        let mut world = pending(UNBOUND, Some(claim));
        let message = "no persistent volumes available for this claim and no storage class is set";
        tell(&mut world, 4_000, "PersistentVolumeClaim/data", "FailedBinding", message);
        fault(&world, cause::VOLUME)
    };
    assert_eq!(told(None).as_deref(), Some("pvc_storage_class_mismatch"));
    assert_eq!(told(Some("")), None);
}

/// A quota of storage with so much of it used.
fn quota(used: &str) -> Value {
    json!({"kind": "ResourceQuota", "metadata": {"namespace": "shop", "name": "all"},
        "status": {"hard": {"requests.storage": "100Gi"}, "used": {"requests.storage": used}}})
}

#[test]
fn a_quota_with_room_left_is_not_why_a_bound_claim_finds_no_node() {
    let mut bound = claim("fast");
    bound["status"]["phase"] = json!("Bound");
    let message = "0/3 nodes are available: 3 node(s) had volume node affinity conflict.";
    let mut world = pending(message, Some(bound));
    put(&mut world, [quota("20Gi")]);
    assert!(of_kind(&world, cause::QUOTA).is_none());
    let missing = "0/3 nodes are available: persistentvolumeclaim \"data\" not found.";
    let mut world = pending(missing, Some(claim("fast")));
    objects(&mut world).retain(|object| object["kind"] != "PersistentVolumeClaim");
    put(&mut world, [quota("20Gi")]);
    assert!(of_kind(&world, cause::QUOTA).is_none());
    put(&mut world, [quota("100Gi")]);
    let found = of_kind(&world, cause::QUOTA).expect("nothing is left");
    assert_eq!(found.measures["fault"], "namespace_storage_quota_exceeded");
}

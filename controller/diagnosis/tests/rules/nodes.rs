//! What a node's own conditions say of its services.

use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::Observations;
use serde_json::json;

use crate::live::*;

fn reports(status: &str, reason: &str, message: &str) -> Observations {
    let mut world = world();
    put(
        &mut world,
        [json!({"kind": "Node", "metadata": {"name": "node-a"}, "status": {"conditions": [
        {"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": at(3_600).to_string()}]}})],
    );
    world
}

#[test]
fn a_kubelet_that_posts_is_there_and_says_what_is_not() {
    let told =
        |status: &str, reason: &str, message: &str| fault(&reports(status, reason, message), cause::NODE_NOT_READY);
    let stopped = told("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.");
    assert_eq!(stopped.as_deref(), Some("kubelet_unavailable"));
    let runtime = told(
        "False",
        "KubeletNotReady",
        "[container runtime is down, PLEG is not healthy: pleg was last seen active 3m4s ago]",
    );
    assert_eq!(runtime.as_deref(), Some("containerd_unavailable"));
    let network = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized";
    assert_eq!(told("False", "KubeletNotReady", network), None);
    assert!(of_kind(&reports("False", "KubeletNotReady", network), cause::NODE_NOT_READY).is_some());
    assert!(
        of_kind(&reports("True", "KubeletReady", "kubelet is posting ready status"), cause::NODE_NOT_READY).is_none()
    );
}

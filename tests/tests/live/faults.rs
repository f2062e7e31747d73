//! Kinds of fault on real parts: the graph's top cause is right, and nothing wrong is said with confidence meanwhile.
//!
//! No policy answers here: what is judged is the diagnosis alone, as `kubectl amend explain` would show it.

use std::time::Duration;

use amend_diagnosis::diagnosis::{Cause, Diagnosis, cause};
use amend_sandbox::model::graph::{Need, Version};
use amend_tests::bench::NodeSize;
use amend_tests::cases::Truth;
use amend_tests::stage::{FOLDER, Scenery, Stage, World};
use anyhow::bail;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

/// From a fault until it is understood: alerts need ten seconds, and a first look may come before the evidence.
const UNDERSTOOD: Duration = Duration::from_secs(150);

/// The shop of a story, with an alert on latency beside the usual ones.
fn shop(namespace: &str) -> Scenery {
    let mut scenery = Scenery::shop(namespace);
    let latency = include_str!("faults/latency.yaml").replace("NAMESPACE", namespace);
    scenery.rules.push_str(&latency);
    scenery
}

async fn set(scenery: Scenery) -> anyhow::Result<Stage> {
    Stage::set(World::shared().await?, scenery).await
}

/// Waits until the best cause of some incident is right and said aloud.
async fn is_understood(stage: &Stage, truth: &Truth) -> anyhow::Result<Diagnosis> {
    is_said(stage, truth, |diagnosis| diagnosis.actionable().is_some() && truth.is_met_by(diagnosis)).await
}

/// Waits for a diagnosis that is `wanted`. A cause that is said aloud and not the truth ends the story at once.
async fn is_said(stage: &Stage, truth: &Truth, wanted: impl Fn(&Diagnosis) -> bool) -> anyhow::Result<Diagnosis> {
    let said = stage
        .until_seen("the right cause", UNDERSTOOD, |seen| {
            let statuses = seen.standing().into_iter().filter_map(|one| one.status.as_ref());
            let said: Vec<&Diagnosis> = statuses.filter_map(|status| status.diagnosis.as_ref()).collect();
            for diagnosis in &said {
                if let (Some(best), false) = (diagnosis.actionable(), truth.is_met_by(diagnosis)) {
                    bail!("wrong and sure: {} on {} ({:.2})", best.kind, best.entity, best.confidence);
                }
            }
            Ok(said.into_iter().find(|one| wanted(one)).cloned())
        })
        .await?;
    stage.keep_cases().await?;
    Ok(said)
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_a_release_needs_is_named() -> anyhow::Result<()> {
    let mut scenery = shop("fault-memory");
    scenery.runs_out_of_memory("cart", "v3.1.0", 310, "12s");
    let stage = set(scenery).await?;
    stage.release("cart", "v3.0.7", "v3.1.0").await?;
    // Before the first kill all that shows is a release whose requests fail: not wrong, only not yet the nearest cause.
    let truth = Truth::of(&["cart"], &[cause::OOM_KILLED, cause::BAD_IMAGE]);
    is_said(&stage, &truth, |diagnosis| diagnosis.actionable().is_some_and(|best| best.kind == cause::OOM_KILLED))
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_limit_that_throttles_is_named() -> anyhow::Result<()> {
    let stage = set(shop("fault-cpu")).await?;
    let (usual, less) = (
        "cpu: 100m\n              memory: 128Mi\n            limits:\n              cpu: 500m",
        "cpu: 4m\n              memory: 128Mi\n            limits:\n              cpu: 4m",
    );
    let guilty = stage.edit("apps/shop/payment.yaml", usual, less, "payment: less CPU, it idles").await?;
    let truth = Truth::of(&["payment"], &[cause::CPU, cause::BAD_CONFIG]);
    // Either the throttling is named, or the commit that brought it.
    let named =
        |best: &Cause| best.kind == cause::CPU || best.change.as_ref().is_some_and(|change| change.id == guilty);
    is_said(&stage, &truth, |diagnosis| diagnosis.actionable().is_some_and(named)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_dependency_is_named_and_not_who_waits_for_it() -> anyhow::Result<()> {
    let stage = set(shop("fault-latency")).await?;
    stage.becomes(|shop| {
        if let Some(payment) = shop.services.get_mut("payment") {
            payment.usual.latency_factor = 25.0;
        }
    });
    // In the model slow work is work: it takes CPU as long as it lasts.
    is_understood(&stage, &Truth::of(&["payment"], &[cause::LATENCY, cause::CPU])).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_fails_is_named() -> anyhow::Result<()> {
    let mut scenery = shop("fault-release");
    scenery.behaves("cart", "v3.1.0", |usual| Version {
        error_ratio: 0.4,
        error_message: "no codec for field basket.v2".into(),
        ..usual
    });
    let stage = set(scenery).await?;
    stage.release("cart", "v3.0.7", "v3.1.0").await?;
    is_understood(&stage, &Truth::of(&["cart"], &[cause::BAD_IMAGE])).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_by_the_tag_of_an_overlay_is_named() -> anyhow::Result<()> {
    let mut scenery = shop("fault-overlay");
    let resources: Vec<String> =
        scenery.files.keys().filter_map(|path| path.strip_prefix(FOLDER)).map(|name| format!("- .{name}\n")).collect();
    let settings =
        format!("resources:\n{}images:\n- name: registry.shop.example/cart\n  newTag: v3.0.7\n", resources.concat());
    scenery.files.insert(format!("{FOLDER}/kustomization.yaml"), settings);
    scenery.behaves("cart", "v3.1.0", |usual| Version {
        error_ratio: 0.4,
        error_message: "no codec for field basket.v2".into(),
        ..usual
    });
    let stage = set(scenery).await?;
    let path = format!("{FOLDER}/kustomization.yaml");
    let guilty = stage.edit(&path, "newTag: v3.0.7", "newTag: v3.1.0", "cart: release v3.1.0").await?;
    let truth = Truth::of(&["cart"], &[cause::BAD_IMAGE]);
    is_said(&stage, &truth, |diagnosis| {
        let best = diagnosis.actionable();
        best.and_then(|best| best.change.as_ref()).is_some_and(|change| change.id == guilty)
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_value_in_a_config_map_is_named() -> anyhow::Result<()> {
    let mut scenery = shop("fault-config");
    let need = |service: &mut amend_sandbox::model::graph::Service| {
        service.usual.needs = vec![Need {
            config_map: "shop-config".into(),
            key: "processor-url".into(),
            one_of: vec!["https://cards.example/v2".into()],
            error_ratio: 0.5,
        }];
        service.usual.error_message = "invalid value for processor-url: relative URL without a base".into();
    };
    scenery.graph.services.get_mut("payment").into_iter().for_each(need);
    let stage = set(scenery).await?;
    stage.edit("apps/shop/config.yaml", "https://cards.example/v2", "cards.example", "config: new processor").await?;
    is_understood(&stage, &Truth::of(&["payment", "shop-config"], &[cause::BAD_CONFIG, cause::CONFIG_WRONG])).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_loses_requests_between_two_services_is_named() -> anyhow::Result<()> {
    let stage = set(shop("fault-network")).await?;
    stage.becomes(|shop| {
        let calls = shop.services.get_mut("checkout").into_iter().flat_map(|checkout| checkout.calls.iter_mut());
        calls.filter(|call| call.to == "payment").for_each(|call| call.lost = 0.4);
    });
    // Either end of the calls that are lost.
    is_understood(&stage, &Truth::of(&["checkout", "payment"], &[cause::NETWORK])).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_connection_pool_is_named() -> anyhow::Result<()> {
    let stage = set(shop("fault-pool")).await?;
    stage.becomes(|shop| {
        if let Some(catalog) = shop.services.get_mut("catalog") {
            let version = &mut catalog.usual;
            (version.error_ratio, version.waits_seconds) = (0.35, 0.6);
            version.error_message = "pool - Connection is not available, request timed out after 30000ms".into();
        }
    });
    // For those who call it, it is the dependency that fails.
    let kinds = [cause::ERRORS, cause::LATENCY, cause::BEHAVIOUR, cause::OVERLOAD, cause::DEPENDENCY];
    is_understood(&stage, &Truth::of(&["catalog"], &kinds)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_runs_short_of_memory_is_named() -> anyhow::Result<()> {
    const NODE: &str = "node-small";
    let world = World::shared().await?;
    world.bench().kwok().add_reserved_node(NODE, NodeSize { cpu: "8", memory: "16Gi", pods: 20 }).await?;
    let mut scenery = shop("fault-node");
    if let Some(text) = scenery.files.get_mut("apps/shop/catalog.yaml") {
        let placed = format!(
            "    spec:\n      nodeSelector: {{ only: {NODE} }}\n      tolerations: [{{ key: only, value: {NODE}, effect: NoSchedule }}]\n      containers:\n"
        );
        *text = text.replacen("    spec:\n      containers:\n", &placed, 1);
    }
    let stage = Stage::set(world, scenery).await?;
    press(&stage, NODE).await?;
    is_understood(&stage, &Truth::of(&[NODE], &[cause::NODE_PRESSURE])).await?;
    Ok(())
}

/// What a kubelet writes when memory runs out: the node's condition, its events, and every pod of the story on it evicted.
///
/// Source: node-pressure eviction in the Kubernetes documentation, `pkg/kubelet/eviction/eviction_manager.go`.
async fn press(stage: &Stage, node: &str) -> anyhow::Result<()> {
    let now = jiff::Timestamp::now();
    let params = PatchParams::default();
    let condition = json!({"status": {"conditions": [{
        "type": "MemoryPressure", "status": "True", "reason": "KubeletHasInsufficientMemory",
        "message": "kubelet has insufficient memory available", "lastTransitionTime": now, "lastHeartbeatTime": now,
    }]}});
    Api::<Node>::all(stage.client().clone()).patch_status(node, &params, &Patch::Strategic(condition)).await?;
    let pods: Api<Pod> = Api::namespaced(stage.client().clone(), stage.namespace());
    let here = ListParams::default().fields(&format!("spec.nodeName={node}"));
    for pod in pods.list(&here).await? {
        let name = pod.name_any();
        let ended = json!({"status": {
            "phase": "Failed", "reason": "Evicted",
            "message": "The node was low on resource: memory. Threshold quantity: 100Mi, available: 41Mi.",
            "conditions": [{"type": "Ready", "status": "False", "reason": "PodFailed"}],
            "containerStatuses": [{"name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 137, "reason": "Error", "finishedAt": now}}}],
        }});
        pods.patch_status(&name, &params, &Patch::Merge(ended)).await?;
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("{name}.evicted")},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": name, "namespace": stage.namespace(), "uid": pod.uid()},
            "type": "Warning", "reason": "Evicted", "message": "The node was low on resource: memory.",
            "source": {"component": "kubelet", "host": node}, "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        stage.apply(&event.to_string()).await?;
    }
    Ok(())
}

//! The control plane and KWOK.

use amend_tests::bench::{Bench, Part, PodSeen, until};
use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};

use crate::{SOON, deployment, pods_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_scheduled_and_its_pods_become_ready() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Kwok]).await?;
    let control_plane = bench.control_plane();
    control_plane.create_namespace("smoke-ready").await?;

    control_plane.apply("smoke-ready", &deployment("cart", 3, "shop/cart:1.0", "128Mi", "{}")).await?;

    let pods = pods_until(&bench, "smoke-ready", "cart", "three ready pods", |pods| {
        pods.iter().filter(|pod| pod.ready).count() == 3
    })
    .await?;
    assert!(pods.iter().all(|pod| pod.node.is_some() && pod.restarts == 0));
    let deployments: Api<Deployment> = Api::namespaced(control_plane.client().await?, "smoke-ready");
    until("the Deployment's status", SOON, || async {
        let status = deployments.get("cart").await?.status.unwrap_or_default();
        Ok::<_, kube::Error>((status.available_replicas == Some(3)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_oom_killed_until_their_limit_is_raised() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Kwok]).await?;
    let control_plane = bench.control_plane();
    control_plane.create_namespace("smoke-oom").await?;
    let needs = "{model.amend.dev/needs-memory: \"192\"}";

    control_plane.apply("smoke-oom", &deployment("cart", 2, "shop/cart:2.0", "128Mi", needs)).await?;
    let rarely = "{model.amend.dev/needs-memory: \"192\", model.amend.dev/oom-every: 1h}";
    control_plane.apply("smoke-oom", &deployment("rare", 1, "shop/rare:2.0", "128Mi", rarely)).await?;
    let pods = pods_until(&bench, "smoke-oom", "cart", "each pod to restart twice", |pods| {
        pods.len() == 2 && pods.iter().all(|pod| pod.restarts >= 2)
    })
    .await?;
    assert!(pods.iter().all(|pod| pod.last_ended.as_deref() == Some("OOMKilled")), "{pods:?}");

    let rare = pods_until(&bench, "smoke-oom", "rare", "a pod", |pods| pods.iter().any(|pod| pod.ready)).await?;
    assert_eq!(rare[0].restarts, 0, "its interval has not passed");

    control_plane.apply("smoke-oom", &deployment("cart", 2, "shop/cart:2.0", "256Mi", needs)).await?;
    let old: Vec<String> = pods.into_iter().map(|pod| pod.name).collect();
    let healed = |pods: &[PodSeen]| pods.len() == 2 && pods.iter().all(|pod| pod.ready && !old.contains(&pod.name));
    pods_until(&bench, "smoke-oom", "cart", "two new pods", healed).await?;
    // Longer than the model lets a pod with too little memory live.
    let quiet_since = Timestamp::now();
    pods_until(&bench, "smoke-oom", "cart", "five quiet seconds", |pods| {
        assert!(pods.iter().all(|pod| pod.restarts == 0), "restarted at 256Mi: {pods:?}");
        Timestamp::now().duration_since(quiet_since) > SignedDuration::from_secs(5)
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_faults_show_as_the_kubelet_would_show_them() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Kwok]).await?;
    let control_plane = bench.control_plane();
    control_plane.create_namespace("smoke-faults").await?;
    let by_image = "{model.amend.dev/crash-image: \":2[.]0$\", model.amend.dev/crash-message: no such host}";
    let faults = [
        deployment("pull", 1, "registry.invalid/shop/cart:1.1-missing", "128Mi", "{}"),
        deployment(
            "config",
            1,
            "shop/cart:1.0",
            "128Mi",
            "{model.amend.dev/config-missing: 'configmap \"cart\" not found'}",
        ),
        deployment("crash", 1, "shop/cart:2.0", "128Mi", by_image),
        deployment("large", 1, "shop/cart:1.0", "4Ti", "{}"),
    ];

    control_plane.apply("smoke-faults", &faults.join("\n---\n")).await?;

    for (app, reason) in [("pull", "ImagePullBackOff"), ("config", "CreateContainerConfigError")] {
        let waits = |pods: &[PodSeen]| pods.iter().any(|pod| pod.waiting.as_deref() == Some(reason) && !pod.ready);
        pods_until(&bench, "smoke-faults", app, reason, waits).await?;
    }
    let crashes = |pods: &[PodSeen]| {
        pods.iter().any(|pod| pod.waiting.as_deref() == Some("CrashLoopBackOff") && pod.restarts >= 2)
    };
    let pods = pods_until(&bench, "smoke-faults", "crash", "a crash loop", crashes).await?;
    assert_eq!(pods[0].last_ended.as_deref(), Some("Error"));
    pods_until(&bench, "smoke-faults", "large", "a pod that fits no node", |pods| {
        pods.iter().any(|pod| pod.node.is_none())
    })
    .await?;

    control_plane.apply("smoke-faults", &deployment("crash", 1, "shop/cart:1.9", "128Mi", by_image)).await?;
    pods_until(&bench, "smoke-faults", "crash", "the old image to run", |pods| {
        pods.len() == 1 && pods[0].ready && pods[0].restarts == 0
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_has_its_rights_and_no_more_and_is_audited() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::ControlPlane]).await?;
    let control_plane = bench.control_plane();
    control_plane.create_namespace("smoke-rbac").await?;
    let rights = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: reader}\n---\n\
                  apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader}\nrules: [{apiGroups: [\"\"], resources: [configmaps], verbs: [list]}]\n---\n\
                  apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: reader}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}\n\
                  subjects: [{kind: ServiceAccount, name: reader, namespace: smoke-rbac}]\n";
    control_plane.apply("smoke-rbac", rights).await?;
    let client = control_plane.client_for_service_account("smoke-rbac", "reader").await?;
    let config_maps: Api<ConfigMap> = Api::namespaced(client, "smoke-rbac");

    until("the role to be seen", SOON, || async { config_maps.list(&ListParams::default()).await.map(Some) }).await?;
    let mut forbidden = ConfigMap::default();
    forbidden.metadata.name = Some("mine".to_owned());
    let refused = config_maps.create(&PostParams::default(), &forbidden).await;

    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
    let user = "system:serviceaccount:smoke-rbac:reader";
    let entries = until("the audit log", SOON, || async {
        control_plane.audit_of(user).map(|entries| (entries.len() >= 2).then_some(entries))
    })
    .await?;
    let last = entries.last().context("no entry")?;
    assert_eq!(
        (last.verb.as_str(), last.resource.as_str(), last.namespace.as_str(), last.code),
        ("create", "configmaps", "smoke-rbac", 403)
    );
    assert!(last.is_write() && !last.has_written());
    Ok(())
}

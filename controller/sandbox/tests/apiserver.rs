//! The API server, driven by the client that the product uses.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use amend_sandbox::SandboxClock;
use amend_sandbox::apiserver::ApiServer;
use amend_sandbox::apiserver::rbac::Identity;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, ResourceExt};
use serde_json::json;

async fn server() -> ApiServer {
    let clock = SandboxClock::stepped("2026-03-02T09:00:00Z".parse().unwrap());
    let server = ApiServer::start(clock).await.unwrap();
    server.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}", "test").unwrap();
    server
}

async fn client(server: &ApiServer, token: &str) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&server.kubeconfig(token)).unwrap();
    Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap()).unwrap()
}

async fn admin(server: &ApiServer) -> Client {
    client(server, server.admin_token()).await
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some(name.into()), ..Default::default() },
        data: Some(BTreeMap::from([("key".to_owned(), value.to_owned())])),
        ..Default::default()
    }
}

fn code(error: kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("not a status: {other}"),
    }
}

const CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: widgets.amend.dev }
spec:
  group: amend.dev
  scope: Namespaced
  names: { plural: widgets, kind: Widget, singular: widget, shortNames: [wd], categories: [amend] }
  versions:
    - name: v1alpha1
      served: true
      storage: true
      subresources: { status: {} }
      schema:
        openAPIV3Schema:
          type: object
          required: [spec]
          properties:
            spec:
              type: object
              required: [size]
              properties:
                size: { type: integer, minimum: 1 }
                colour: { type: string, enum: [red, green], default: red }
            status:
              type: object
              properties: { phase: { type: string } }
"#;

#[tokio::test]
async fn a_stale_replace_is_a_conflict_and_a_fresh_one_is_not() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::namespaced(admin(&server).await, "shop");
    let first = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let mut fresh = first.clone();
    fresh.data = config_map("a", "2").data;
    maps.replace("a", &PostParams::default(), &fresh).await.unwrap();
    assert_eq!(code(maps.replace("a", &PostParams::default(), &fresh).await.unwrap_err()), 409);
    assert_eq!(code(maps.create(&PostParams::default(), &config_map("a", "3")).await.unwrap_err()), 409);
    assert_eq!(code(maps.get("none").await.unwrap_err()), 404);
    assert!(maps.get_opt("none").await.unwrap().is_none());
}

#[tokio::test]
async fn a_watcher_sees_what_is_there_and_then_every_change() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::namespaced(admin(&server).await, "shop");
    maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let mut seen = Box::pin(watcher(maps.clone(), watcher::Config::default()).applied_objects());
    let next = tokio::time::timeout(Duration::from_secs(10), seen.try_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.name_any(), "a");
    maps.create(&PostParams::default(), &config_map("b", "1")).await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(10), seen.try_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.name_any(), "b");
}

#[tokio::test]
async fn a_watcher_that_asks_for_pages_sees_every_object_once_and_what_changed_between_them() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::namespaced(admin(&server).await, "shop");
    for name in ["a", "b", "c", "d", "e"] {
        maps.create(&PostParams::default(), &config_map(name, "1")).await.unwrap();
    }
    let first = maps.list(&ListParams::default().limit(2)).await.unwrap();
    let told: Vec<String> = first.iter().map(ResourceExt::name_any).collect();
    assert_eq!((told, first.metadata.remaining_item_count), (vec!["a".to_owned(), "b".to_owned()], Some(3)));
    let mut seen = Box::pin(watcher(maps.clone(), watcher::Config::default().page_size(2)).applied_objects());
    let mut told = Vec::new();
    for _ in 0..5 {
        let next = tokio::time::timeout(Duration::from_secs(10), seen.try_next()).await.unwrap().unwrap().unwrap();
        told.push(next.name_any());
        if told.len() == 1 {
            // Before the place at which the list goes on: only the watch can tell it.
            maps.create(&PostParams::default(), &config_map("0", "1")).await.unwrap();
        }
    }
    assert_eq!(told, ["a", "b", "c", "d", "e"]);
    let next = tokio::time::timeout(Duration::from_secs(10), seen.try_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.name_any(), "0");
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_is_answered_with_410() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::namespaced(admin(&server).await, "shop");
    let first = maps.create(&PostParams::default(), &config_map("a", "0")).await.unwrap();
    for turn in 1..=450 {
        let patch = Patch::Merge(json!({ "data": { "key": turn.to_string() } }));
        maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    }
    let events = maps.watch(&Default::default(), &first.resource_version().unwrap()).await.unwrap();
    let first = Box::pin(events).next().await.unwrap().unwrap();
    assert!(matches!(first, kube::api::WatchEvent::Error(error) if error.code == 410));
}

#[tokio::test]
async fn patches_of_every_kind_do_what_they_say() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::namespaced(admin(&server).await, "shop");
    maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let merge = Patch::Merge(json!({ "data": { "other": "x" } }));
    let merged = maps.patch("a", &PatchParams::default(), &merge).await.unwrap();
    assert_eq!(merged.data.unwrap().len(), 2);
    let operations = serde_json::from_value(json!([
        { "op": "test", "path": "/data/other", "value": "x" }, { "op": "remove", "path": "/data/other" }
    ]))
    .unwrap();
    let patched = maps.patch("a", &PatchParams::default(), &Patch::Json::<()>(operations)).await.unwrap();
    assert_eq!(patched.data.unwrap().len(), 1);

    let apply = |value: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "b" }, "data": { "key": value } });
    maps.patch("b", &PatchParams::apply("one"), &Patch::Apply(apply("1"))).await.unwrap();
    let refused = maps.patch("b", &PatchParams::apply("two"), &Patch::Apply(apply("2"))).await.unwrap_err();
    assert!(refused.to_string().contains("conflict with \"one\": .data.key"), "{refused}");
    let forced = maps.patch("b", &PatchParams::apply("two").force(), &Patch::Apply(apply("2"))).await.unwrap();
    let owners: Vec<_> =
        forced.metadata.managed_fields.unwrap().into_iter().filter_map(|entry| entry.manager).collect();
    assert_eq!(owners, ["two"]);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::namespaced(admin(&server).await, "shop");
    let dry = PostParams { dry_run: true, ..Default::default() };
    maps.create(&dry, &config_map("a", "1")).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn custom_resources_are_discovered_validated_pruned_and_have_a_status() {
    let server = server().await;
    let client = admin(&server).await;
    server.apply_yaml(CRD, "test").unwrap();
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("amend.dev", "v1alpha1", "Widget"));
    let (found, _) =
        kube::discovery::pinned_kind(&client, &GroupVersionKind::gvk("amend.dev", "v1alpha1", "Widget")).await.unwrap();
    assert_eq!(found.plural, "widgets");
    let widgets: Api<DynamicObject> = Api::namespaced_with(client, "shop", &kind);
    let widget = |spec: serde_json::Value| -> DynamicObject {
        serde_json::from_value(
            json!({ "apiVersion": "amend.dev/v1alpha1", "kind": "Widget", "metadata": { "name": "w" }, "spec": spec }),
        )
        .unwrap()
    };
    let refused = widgets.create(&PostParams::default(), &widget(json!({ "size": 0 }))).await.unwrap_err();
    assert!(refused.to_string().contains("spec.size"), "{refused}");
    assert_eq!(code(refused), 422);

    let made = widgets.create(&PostParams::default(), &widget(json!({ "size": 2, "typo": true }))).await.unwrap();
    assert_eq!(made.data["spec"], json!({ "size": 2, "colour": "red" }));
    let status = Patch::Merge(json!({ "status": { "phase": "Open" }, "spec": { "size": 9 } }));
    let after = widgets.patch_status("w", &PatchParams::default(), &status).await.unwrap();
    assert_eq!((&after.data["status"]["phase"], &after.data["spec"]["size"]), (&json!("Open"), &json!(2)));
    assert_eq!(after.metadata.generation, Some(1), "a status write is no new generation");
    let spec = Patch::Merge(json!({ "spec": { "size": 3 }, "status": { "phase": "Lost" } }));
    let after = widgets.patch("w", &PatchParams::default(), &spec).await.unwrap();
    assert_eq!((after.metadata.generation, &after.data["status"]["phase"]), (Some(2), &json!("Open")));
}

#[tokio::test]
async fn finalizers_hold_an_object_and_its_dependents_go_with_it() {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::namespaced(admin(&server).await, "shop");
    let mut owner = config_map("owner", "1");
    owner.metadata.finalizers = Some(vec!["amend.dev/x".into()]);
    let owner = maps.create(&PostParams::default(), &owner).await.unwrap();
    let mut child = config_map("child", "1");
    child.metadata.owner_references = Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        name: "owner".into(),
        uid: owner.uid().unwrap(),
        ..Default::default()
    }]);
    maps.create(&PostParams::default(), &child).await.unwrap();
    maps.delete("owner", &DeleteParams::default()).await.unwrap();
    assert!(maps.get("owner").await.unwrap().metadata.deletion_timestamp.is_some());
    maps.patch("owner", &PatchParams::default(), &Patch::Merge(json!({ "metadata": { "finalizers": null } })))
        .await
        .unwrap();
    assert!(maps.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn roles_decide_who_may_do_what_and_reviews_say_so() {
    let server = server().await;
    let admin = admin(&server).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "shop");
    accounts
        .create(&PostParams::default(), &serde_json::from_value(json!({ "metadata": { "name": "bot" } })).unwrap())
        .await
        .unwrap();
    let roles: Api<Role> = Api::namespaced(admin.clone(), "shop");
    roles
        .create(
            &PostParams::default(),
            &serde_json::from_value(json!({ "metadata": { "name": "reader" },
        "rules": [{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"] }] }))
            .unwrap(),
        )
        .await
        .unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(admin.clone(), "shop");
    bindings
        .create(
            &PostParams::default(),
            &serde_json::from_value(json!({ "metadata": { "name": "reader" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader" },
        "subjects": [{ "kind": "ServiceAccount", "name": "bot", "namespace": "shop" }] }))
            .unwrap(),
        )
        .await
        .unwrap();
    server.tokens().grant("bot-token", Identity::service_account("shop", "bot"));
    let bot = client(&server, "bot-token").await;

    Api::<ConfigMap>::namespaced(bot.clone(), "shop").list(&ListParams::default()).await.unwrap();
    let refused = Api::<Pod>::namespaced(bot.clone(), "shop").list(&ListParams::default()).await.unwrap_err();
    assert!(refused.to_string().contains("cannot list resource \"pods\""), "{refused}");
    assert_eq!(
        code(Api::<ConfigMap>::namespaced(bot.clone(), "default").list(&ListParams::default()).await.unwrap_err()),
        403
    );

    let ask = |verb: &str| -> SelfSubjectAccessReview {
        serde_json::from_value(json!({ "spec": { "resourceAttributes": { "verb": verb, "resource": "configmaps", "namespace": "shop" } } })).unwrap()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(bot.clone());
    assert!(reviews.create(&PostParams::default(), &ask("get")).await.unwrap().status.unwrap().allowed);
    assert!(!reviews.create(&PostParams::default(), &ask("delete")).await.unwrap().status.unwrap().allowed);
    assert_eq!(
        code(
            Api::<Namespace>::all(client(&server, "no-such-token").await)
                .list(&ListParams::default())
                .await
                .unwrap_err()
        ),
        401
    );
    assert!(
        server.audit().iter().any(|entry| entry.user == "system:serviceaccount:shop:bot"
            && entry.resource == "pods"
            && entry.code == 403)
    );
}

#[tokio::test]
async fn impersonation_needs_its_verb_and_then_acts_with_the_rights_of_the_impersonated() {
    let server = server().await;
    server.tokens().grant("amend-token", Identity::service_account("default", "amend"));
    let as_bot = |token: &'static str| {
        let url = server.url();
        async move {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let mut config = Config::new(url.parse().unwrap());
            config.auth_info.token = Some(token.to_owned().into());
            config.auth_info.impersonate = Some("system:serviceaccount:shop:bot".into());
            Client::try_from(config).unwrap()
        }
    };
    let maps: Api<ConfigMap> = Api::namespaced(as_bot("amend-token").await, "shop");
    let refused = maps.list(&ListParams::default()).await.unwrap_err();
    assert!(refused.to_string().contains("cannot impersonate resource \"serviceaccounts\""), "{refused}");
    server
        .apply_yaml(
            "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: be-bot, namespace: shop }
rules: [{ apiGroups: [''], resources: [serviceaccounts], resourceNames: [bot], verbs: [impersonate] }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: be-bot, namespace: shop }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: be-bot }
subjects: [{ kind: ServiceAccount, name: amend, namespace: default }]
",
            "test",
        )
        .unwrap();
    let refused = maps.list(&ListParams::default()).await.unwrap_err();
    assert!(refused.to_string().contains("system:serviceaccount:shop:bot\" cannot list"), "{refused}");
}

#[tokio::test]
async fn one_event_is_seen_through_both_event_apis() {
    let server = server().await;
    let client = admin(&server).await;
    let events: Api<Event> = Api::namespaced(client.clone(), "shop");
    events.create(&PostParams::default(), &serde_json::from_value(json!({
        "metadata": { "name": "e1" }, "eventTime": "2026-03-02T09:00:00.000000Z", "reason": "Killed", "type": "Warning", "action": "Kill",
        "note": "out of memory", "regarding": { "kind": "Pod", "name": "p", "namespace": "shop" },
        "reportingController": "kubelet", "reportingInstance": "n1" })).unwrap()).await.unwrap();
    let core: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(client, "shop");
    let found = core.list(&ListParams::default().fields("involvedObject.name=p")).await.unwrap();
    assert_eq!(found.items[0].message.as_deref(), Some("out of memory"));
}

#[tokio::test]
async fn deployments_get_the_defaults_of_a_real_server() {
    let server = server().await;
    let deployments: Api<Deployment> = Api::namespaced(admin(&server).await, "shop");
    let made = deployments.create(&PostParams::default(), &serde_json::from_value(json!({ "metadata": { "name": "d" }, "spec": {
        "selector": { "matchLabels": { "app": "d" } },
        "template": { "metadata": { "labels": { "app": "d" } }, "spec": { "containers": [{ "name": "app", "image": "i:1" }] } } } })).unwrap()).await.unwrap();
    let spec = made.spec;
    assert_eq!(spec.replicas, Some(1));
    assert_eq!(spec.strategy.unwrap().type_.as_deref(), Some("RollingUpdate"));
}

#[tokio::test]
async fn the_product_s_own_kinds_are_served_and_checked() {
    let server = server().await;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds/yaml");
    let mut kinds = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        server.apply_yaml(&std::fs::read_to_string(file.unwrap().path()).unwrap(), "test").unwrap();
        kinds += 1;
    }
    assert!(kinds >= 7, "{kinds}");
    let client = admin(&server).await;
    let gvk = GroupVersionKind::gvk("amend.dev", "v1alpha1", "RemediationPolicy");
    let (kind, _) = kube::discovery::pinned_kind(&client, &gvk).await.unwrap();
    let policies: Api<DynamicObject> = Api::namespaced_with(client, "shop", &kind);
    let empty: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "amend.dev/v1alpha1", "kind": "RemediationPolicy", "metadata": { "name": "p" } }))
    .unwrap();
    assert_eq!(code(policies.create(&PostParams::default(), &empty).await.unwrap_err()), 422);
}

//! Kustomize between the files and the objects: what decides a field is edited, and nothing else.
//!
//! A bad release by the tag of a Kustomize overlay: the pull request puts the tag back, though no file of the workload itself
//! changes; a release of another service in the same file, made while this one is verified, disturbs nothing.

use amend_crds::incident::IncidentPhase;
use amend_execution::phase::Phase;
use amend_sandbox::model::graph::{Need, Version};
use amend_tests::bench::MergeStyle;
use amend_tests::stage::{FOLDER, PROPOSED, SOON, Scenery, Stage, VERIFIED, World};
use serde_json::Value;

use crate::told::changed_lines;

const PAYMENT: &str = "registry.shop.example/payment";

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_tag_of_an_overlay_is_taken_back() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("overlay");
    scenery.behaves("payment", "v3.2.0", |usual| Version {
        error_ratio: 0.35,
        error_message: "card processor answered: unknown field 'amount_minor'".into(),
        ..usual
    });
    let resources = resources(&scenery);
    let patch = "patches:\n- target: { kind: Deployment, name: catalog }\n  patch: |-\n    - { op: replace, path: /spec/replicas, value: 3 }\n";
    let images = format!(
        "images:\n- name: {PAYMENT}\n  newTag: v3.1.4\n- name: registry.shop.example/catalog\n  newTag: v2.3.0\n"
    );
    let settings = format!("{FOLDER}/kustomization.yaml");
    scenery.files.insert(settings.clone(), format!("{resources}{patch}{images}"));
    scenery.policy("revert-bad-release", |_| {});
    let stage = Stage::set(World::shared().await?, scenery).await?;

    stage.edit(&settings, "newTag: v3.1.4", "newTag: v3.2.0", "payment: release v3.2.0").await?;

    let pull = stage.ready_pull_request(PROPOSED).await?;
    let (removed, added) = changed_lines(&stage.repo().diff(pull.number).await?);
    assert_eq!((removed, added), (vec!["  newTag: v3.2.0".to_owned()], vec!["  newTag: v3.1.4".to_owned()]));
    let body = stage.repo().pull_request(pull.number).await?.body;
    assert!(body.contains(&format!("{PAYMENT}:v3.1.4")), "the page says what the cluster will run: {body}");

    stage.has_fired("HighErrorRatio", "payment", 60).await?;
    stage.merge(&pull, MergeStyle::Merge).await?;
    stage.remediation_reaches(Phase::Verifying, SOON).await?;
    stage.edit(&settings, "newTag: v2.3.0", "newTag: v2.3.1", "catalog: release v2.3.1").await?;
    stage.remediation_reaches(Phase::Succeeded, VERIFIED).await?;
    stage.incident_reaches(IncidentPhase::Resolved, SOON).await?;

    let containers = stage.deployment("payment").await?["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!(containers[0]["image"], format!("{PAYMENT}:v3.1.4"));
    assert_eq!(stage.seen().await?.pull_requests.len(), 1);
    stage.record_verifies().await?;
    Ok(())
}

/// The `resources` of a kustomization that takes in every file of the shop.
fn resources(scenery: &Scenery) -> String {
    let names = scenery.files.keys().filter_map(|path| path.strip_prefix(FOLDER));
    format!("resources:\n{}", names.map(|name| format!("- .{name}\n")).collect::<String>())
}

/// The base says one gibibyte, which is not what runs: production patches it.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_a_patch_sets_is_raised_in_the_patch() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("overlay-patch");
    scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
    scenery.policy("raise-memory-after-oom", |_| {});
    let resources = resources(&scenery);
    if let Some(base) = scenery.files.get_mut(&format!("{FOLDER}/checkout.yaml")) {
        *base = base.replace("memory: 256Mi", "memory: 1Gi");
    }
    scenery.files.insert(
        format!("{FOLDER}/kustomization.yaml"),
        format!("namespace: overlay-patch\n{resources}patches:\n- path: production.yaml\n  target: {{ kind: Deployment, name: checkout }}\n"),
    );
    scenery.files.insert(
        format!("{FOLDER}/production.yaml"),
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: checkout\nspec:\n  template:\n    spec:\n      containers:\n      - name: app\n        resources:\n          \
         limits:\n            memory: 256Mi # production is small\n"
            .to_owned(),
    );
    let stage = Stage::set(World::shared().await?, scenery).await?;

    stage.release("checkout", "v1.8.2", "v1.9.0").await?;

    let pull = stage.ready_pull_request(PROPOSED).await?;
    let diff = stage.repo().diff(pull.number).await?;
    assert!(diff.contains("production.yaml"), "{diff}");
    let (removed, added) = changed_lines(&diff);
    assert_eq!(removed, ["            memory: 256Mi # production is small"]);
    assert_eq!(added, ["            memory: 384Mi # production is small"]);

    stage.merge(&pull, MergeStyle::Merge).await?;
    stage.remediation_reaches(Phase::Succeeded, VERIFIED).await?;
    let containers = stage.deployment("checkout").await?["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!(containers[0]["resources"]["limits"]["memory"], "384Mi");
    stage.record_verifies().await?;
    Ok(())
}

/// The map gets another name with its contents, so its readers are rolled out with it, and back again.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_value_of_a_generated_config_map_is_taken_back() -> anyhow::Result<()> {
    const RIGHT: &str = "processor-url=https://cards.example/v2";
    let mut scenery = Scenery::shop("overlay-map");
    if let Some(payment) = scenery.graph.services.get_mut("payment") {
        payment.usual.needs = vec![Need {
            config_map: "shop-config".into(),
            key: "processor-url".into(),
            one_of: vec!["https://cards.example/v2".into()],
            error_ratio: 0.5,
        }];
        payment.usual.error_message = "card processor answered 404 to POST /v3/charges".into();
    }
    scenery.policy("revert-bad-release", |_| {});
    scenery.granted = vec!["spec.template.spec.volumes", "spec.template.spec.containers[*].env"];
    scenery.files.remove(&format!("{FOLDER}/config.yaml"));
    let generator =
        format!("configMapGenerator:\n- name: shop-config\n  literals:\n  - payment-timeout=2s\n  - {RIGHT}\n");
    let settings = format!("{FOLDER}/kustomization.yaml");
    scenery.files.insert(settings.clone(), format!("namespace: overlay-map\n{}{generator}", resources(&scenery)));
    let stage = Stage::set(World::shared().await?, scenery).await?;
    let map = |live: &Value| live["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"].clone();
    let before = map(&stage.deployment("payment").await?);

    let wrong = RIGHT.replace("v2", "v3");
    stage.edit(&settings, RIGHT, &wrong, "config: the card processor has a new address").await?;

    let pull = stage.ready_pull_request(PROPOSED).await?;
    let (removed, added) = changed_lines(&stage.repo().diff(pull.number).await?);
    assert_eq!((removed, added), (vec![format!("  - {wrong}")], vec![format!("  - {RIGHT}")]));
    assert_ne!(map(&stage.deployment("payment").await?), before);

    stage.has_fired("HighErrorRatio", "payment", 60).await?;
    stage.merge(&pull, MergeStyle::Squash).await?;
    stage.remediation_reaches(Phase::Succeeded, VERIFIED).await?;
    stage.incident_reaches(IncidentPhase::Resolved, SOON).await?;
    assert_eq!(map(&stage.deployment("payment").await?), before, "the very map of before");
    stage.record_verifies().await?;
    Ok(())
}

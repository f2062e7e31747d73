//! A silence in Alertmanager, `amend.dev/hold`, an autoscaler or image automation that writes the same field: held or refused with
//! the right sentence.

use amend_sandbox::model::graph::Version;
use amend_tests::bench::until;
use amend_tests::stage::{FOLDER, PROPOSED, SOON, Scenery, Stage, World};
use jiff::SignedDuration;

use crate::told::sentence_of;

/// The kind of the Kubernetes autoscaler project, as far as anybody here reads it.
const AUTOSCALERS: &str = r#"
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: verticalpodautoscalers.autoscaling.k8s.io, annotations: {api-approved.kubernetes.io: "https://github.com/kubernetes/kubernetes/pull/63797"}},
 spec: {group: autoscaling.k8s.io, scope: Namespaced, names: {kind: VerticalPodAutoscaler, plural: verticalpodautoscalers, singular: verticalpodautoscaler},
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}
"#;

const AUTOSCALER: &str = r"
{apiVersion: autoscaling.k8s.io/v1, kind: VerticalPodAutoscaler, metadata: {name: checkout},
 spec: {targetRef: {apiVersion: apps/v1, kind: Deployment, name: checkout}, updatePolicy: {updateMode: Auto}}}
";

#[tokio::test(flavor = "multi_thread")]
async fn whoever_else_has_a_say_is_named_and_nothing_is_proposed_until_they_are_done() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("held");
    scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
    scenery.policy("raise-memory-after-oom", |_| {});
    let manifest = format!("{FOLDER}/checkout.yaml");
    let (plain, held) = (
        "metadata:\n  name: checkout\n  namespace: held\n  labels",
        "metadata:\n  name: checkout\n  namespace: held\n  annotations: { amend.dev/hold: \"load test until Friday\" }\n  labels",
    );
    if let Some(text) = scenery.files.get_mut(&manifest) {
        *text = text.replacen(plain, held, 1);
    }
    let stage = Stage::set(World::shared().await?, scenery).await?;
    stage.apply(AUTOSCALERS).await?;
    stage.apply(AUTOSCALER).await?;

    stage.release("checkout", "v1.8.2", "v1.9.0").await?;
    sentence_of(
        &stage,
        "the hold",
        PROPOSED,
        "carries amend.dev/hold \"load test until Friday\"; remove the annotation",
    )
    .await?;
    sentence_of(&stage, "the autoscaler", SOON, "VerticalPodAutoscaler held/checkout also writes").await?;
    // The alerts must have come through before they are silenced.
    let alertmanager = stage.world().bench().alertmanager();
    let silence = alertmanager.silence(&[("namespace", "held")], SignedDuration::from_mins(30), "planned work").await?;
    sentence_of(&stage, "the silence", SOON, "covers this incident: \"planned work\"").await?;
    let seen = stage.seen().await?;
    assert!(seen.pull_requests.is_empty(), "{seen}");

    stage.edit(&manifest, held, plain, "checkout: the load test is over").await?;
    stage.world().control_plane().delete(stage.namespace(), AUTOSCALER).await?;
    alertmanager.expire_silence(&silence).await?;
    until("the annotation to be gone", SOON, || async {
        let live = stage.deployment("checkout").await?;
        Ok::<_, anyhow::Error>(live["metadata"]["annotations"]["amend.dev/hold"].is_null().then_some(()))
    })
    .await?;
    stage.ready_pull_request(PROPOSED).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_automation_writes_is_left_to_it() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("automated");
    scenery.behaves("payment", "v3.2.0", |usual| Version {
        error_ratio: 0.35,
        latency_factor: 3.0,
        error_message: "card processor answered: unknown field 'amount_minor'".into(),
        ..usual
    });
    scenery.policy("revert-bad-release", |_| {});
    let image = "image: registry.shop.example/payment:v3.1.4";
    if let Some(text) = scenery.files.get_mut(&format!("{FOLDER}/payment.yaml")) {
        *text = text.replacen(image, &format!("{image} # {{\"$imagepolicy\": \"automated:payment\"}}"), 1);
    }
    let stage = Stage::set(World::shared().await?, scenery).await?;

    // What the automation would have committed.
    stage.release("payment", "v3.1.4", "v3.2.0").await?;
    let told = "image automation writes spec.template.spec.containers[app].image (its setter comment stands there)";
    stage
        .until_seen("the automation to be named", PROPOSED, |seen| {
            anyhow::ensure!(seen.pull_requests.is_empty(), "a pull request against the automation");
            let statuses = seen.standing().into_iter().filter_map(|one| one.status.as_ref());
            Ok(statuses.map(|status| &status.because).find(|because| because.contains(told)).map(drop))
        })
        .await
}

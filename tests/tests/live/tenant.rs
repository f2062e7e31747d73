//! A tenant's policy that targets another namespace, a kind or a path outside its grant: refused at admission or by the
//! permission gate, shown in its status.

use amend_crds::{GitTarget, RemediationPolicy};
use amend_tests::stage::{FOLDER, PROPOSED, RELEASE_NAMESPACE, SOON, Scenery, Stage, World};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::told::sentence_of;

/// A user of the namespace with Kubernetes' own role `edit`, who may not use the chart's account.
const TENANT: &str = r"
{apiVersion: v1, kind: ServiceAccount, metadata: {name: tenant}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: tenant}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}, subjects: [{kind: ServiceAccount, name: tenant, namespace: tenant}]}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_cannot_reach_beyond_its_namespace_and_its_grant() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("tenant");
    scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
    scenery.policy("raise-memory-after-oom", |_| {});
    let mut policy = scenery.policies[0].clone();
    let stage = Stage::set(World::shared().await?, scenery).await?;
    stage.apply(TENANT).await?;

    // Another namespace: there is no such field, and the policy's status says so.
    policy["metadata"]["name"] = json!("reaches-out");
    policy["spec"]["match"]["targets"][0]["namespace"] = json!("kube-system");
    stage.apply(&policy.to_string()).await?;
    let policies: Api<RemediationPolicy> = Api::namespaced(stage.client().clone(), stage.namespace());
    let refused = amend_tests::bench::until("the policy to be refused", SOON, || async {
        let status = policies.get("reaches-out").await?.status.unwrap_or_default();
        let accepted = status.conditions.into_iter().find(|one| one.type_ == "Accepted" && one.status == "False");
        Ok::<_, kube::Error>(accepted.map(|condition| condition.message))
    })
    .await?;
    assert!(refused.contains("match.targets[0].namespace: unknown field \"namespace\""), "{refused}");

    // Somebody else's account: refused before it is stored.
    let client = stage.world().control_plane().client_for_service_account("tenant", "tenant").await?;
    let as_tenant: Api<RemediationPolicy> = Api::namespaced(client, stage.namespace());
    policy["metadata"]["name"] = json!("borrows-an-account");
    let borrowed: RemediationPolicy = serde_json::from_value(policy)?;
    let answer = as_tenant.create(&PostParams::default(), &borrowed).await;
    let said = match answer {
        Err(kube::Error::Api(status)) => status.message.clone(),
        other => anyhow::bail!("a policy with somebody else's account is stored: {other:?}"),
    };
    assert!(said.contains("you may not use service account amend-remediator"), "{said}");

    // A path, then a kind, then a field outside the grant.
    let path = format!("{FOLDER}/**");
    grant(&stage, &["apps/other/**"], &["Deployment"], &["spec.template.spec.containers[*].resources"]).await?;
    stage.release("checkout", "v1.8.2", "v1.9.0").await?;
    let none = "does not grant namespace tenant";
    sentence_of(&stage, "the path", PROPOSED, &format!("{none} the file \"{FOLDER}/checkout.yaml\"")).await?;
    grant(&stage, &[&path], &["StatefulSet"], &["spec.template.spec.containers[*].resources"]).await?;
    sentence_of(&stage, "the kind", SOON, &format!("{none} the kind \"Deployment\"")).await?;
    grant(&stage, &[&path], &["Deployment"], &["spec.template.spec.containers[*].image"]).await?;
    sentence_of(&stage, "the field", SOON, &format!("{none} the field spec.template.spec.containers[")).await?;
    let seen = stage.seen().await?;
    assert!(seen.pull_requests.is_empty(), "{seen}");

    grant(&stage, &[&path], &["Deployment"], &["spec.template.spec.containers[*].resources"]).await?;
    stage.ready_pull_request(PROPOSED).await?;
    Ok(())
}

/// The platform team grants this, and nothing else.
async fn grant(stage: &Stage, paths: &[&str], kinds: &[&str], fields: &[&str]) -> anyhow::Result<()> {
    let targets: Api<GitTarget> = Api::namespaced(stage.client().clone(), RELEASE_NAMESPACE);
    let grants: Value = json!([{"namespace": stage.namespace(), "paths": paths, "kinds": kinds, "fields": fields}]);
    let patch = Patch::Merge(json!({"spec": {"grants": grants}}));
    targets.patch(stage.namespace(), &PatchParams::default(), &patch).await?;
    Ok(())
}

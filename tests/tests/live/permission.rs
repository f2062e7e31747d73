//! Missing permission (one verb removed): blocked, the gate names verb, object and the rule to add. Amend itself writes
//! nothing outside its own API group, Leases, Events, its record head and access reviews.

use amend_tests::bench::AuditEntry;
use amend_tests::stage::{PROPOSED, RELEASE, RELEASE_NAMESPACE, SOON, Scenery, Stage, World};
use anyhow::Context;

use crate::told::sentence_of;

/// An account of the team's own, that may do all that is needed but patch: `RULE` takes the place of that rule.
const ACCOUNT: &str = r#"
{apiVersion: v1, kind: ServiceAccount, metadata: {name: careful}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: careful}, rules: [{apiGroups: [apps], resources: [deployments], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: careful}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: careful}, subjects: [{kind: ServiceAccount, name: careful, namespace: permission}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: careful-git, namespace: amend-system}, rules: [{apiGroups: [amend.dev], resources: [gittargets], resourceNames: [permission], verbs: [propose]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: careful-git, namespace: amend-system}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: careful-git}, subjects: [{kind: ServiceAccount, name: careful, namespace: permission}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: careful-impersonation}, rules: [{apiGroups: [""], resources: [serviceaccounts], resourceNames: [careful], verbs: [impersonate]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: careful-impersonation}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: careful-impersonation}, subjects: [{kind: ServiceAccount, name: amend, namespace: amend-system}]}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_verb_is_named_with_the_rule_to_add_and_nothing_else_is_written() -> anyhow::Result<()> {
    let mut scenery = Scenery::shop("permission");
    scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
    scenery.policy("raise-memory-after-oom", |spec| spec["serviceAccountName"] = "careful".into());
    let stage = Stage::set(World::shared().await?, scenery).await?;
    stage.apply(ACCOUNT).await?;

    stage.release("checkout", "v1.8.2", "v1.9.0").await?;
    let missing = "service account permission/careful may not patch deployments permission/checkout";
    let sentence = sentence_of(&stage, "the missing verb", PROPOSED, missing).await?;
    let seen = stage.seen().await?;
    assert!(seen.pull_requests.is_empty(), "{seen}");

    // The platform team adds the very rule that the sentence names.
    let (_, rule) = sentence.split_once("add to a Role in namespace permission: ").context("no rule to add")?;
    let role = format!(
        "{{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {{name: careful}}, rules: [{{apiGroups: [apps], resources: [deployments], verbs: [get]}}, {rule}]}}"
    );
    stage.apply(&role).await?;
    stage.ready_pull_request(SOON).await?;

    let audited =
        stage.world().control_plane().audit_of(&format!("system:serviceaccount:{RELEASE_NAMESPACE}:{RELEASE}"))?;
    assert!(audited.iter().any(|entry| entry.group == "amend.dev" && entry.has_written()), "it is audited");
    let others: Vec<&AuditEntry> = audited.iter().filter(|entry| entry.has_written() && !is_its_own(entry)).collect();
    assert!(others.is_empty(), "{others:#?}");
    Ok(())
}

/// What Amend may write: its kinds, events, its lease, its record (head and key), and questions about rights.
fn is_its_own(entry: &AuditEntry) -> bool {
    match (entry.group.as_str(), entry.resource.as_str()) {
        ("amend.dev", _) | ("" | "events.k8s.io", "events") => true,
        ("coordination.k8s.io", "leases") => entry.namespace == RELEASE_NAMESPACE,
        ("", "configmaps") => {
            (entry.namespace.as_str(), entry.name.as_str()) == (RELEASE_NAMESPACE, "amend-record-head")
        }
        // Made once, when there is none.
        ("", "secrets") => {
            entry.verb == "create"
                && (entry.namespace.as_str(), entry.name.as_str()) == (RELEASE_NAMESPACE, "amend-record-key")
        }
        ("authorization.k8s.io", "subjectaccessreviews") | ("authentication.k8s.io", "tokenreviews") => true,
        _ => false,
    }
}

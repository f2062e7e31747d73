//! Server-side apply of YAML, as `kubectl apply --server-side` does it.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::discovery::{ApiResource, Scope, pinned_kind};

use super::until::until;

/// A kind that was just defined is served a moment later.
const SERVED_WITHIN: Duration = Duration::from_secs(20);

/// The documents of a YAML text as objects; empty documents are left out.
///
/// # Errors
/// When a document is not YAML or not an object with a kind.
pub fn objects(yaml: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(yaml).context("not YAML")?;
    let documents = documents.into_iter().filter(|document| !document.is_null());
    documents.map(|document| serde_json::from_value(document).context("not a Kubernetes object")).collect()
}

/// Applies every document in order; a namespaced object that names no namespace goes to `namespace`.
///
/// Waits until a CustomResourceDefinition among them is established.
///
/// # Errors
/// When the API server refuses one: the message names it.
pub async fn apply(client: &kube::Client, namespace: &str, yaml: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let mut applied = Vec::new();
    for object in objects(yaml)? {
        let (api, name, what) = api_for(client, namespace, &object).await?;
        let params = PatchParams::apply("amend-bench").force();
        let answer =
            api.patch(&name, &params, &Patch::Apply(&object)).await.with_context(|| format!("cannot apply {what}"))?;
        if what.starts_with("CustomResourceDefinition ") {
            established(client, &name).await?;
        }
        applied.push(answer);
    }
    Ok(applied)
}

/// Deletes every document's object; one that is not there is fine.
///
/// # Errors
/// When the API server refuses.
pub async fn delete(client: &kube::Client, namespace: &str, yaml: &str) -> anyhow::Result<()> {
    for object in objects(yaml)? {
        let (api, name, what) = api_for(client, namespace, &object).await?;
        match api.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => {
                other.with_context(|| format!("cannot delete {what}"))?;
            }
        }
    }
    Ok(())
}

async fn api_for(
    client: &kube::Client,
    namespace: &str,
    object: &DynamicObject,
) -> anyhow::Result<(Api<DynamicObject>, String, String)> {
    let types = object.types.as_ref().context("an object without apiVersion and kind")?;
    let Some(name) = object.metadata.name.clone() else { bail!("a {} without a name", types.kind) };
    let what = format!("{} {name}", types.kind);
    let kind = GroupVersionKind::try_from(types)?;
    let (resource, scope) = served(client, &kind).await?;
    let api = match scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            Api::namespaced_with(client.clone(), object.metadata.namespace.as_deref().unwrap_or(namespace), &resource)
        }
    };
    Ok((api, name, what))
}

async fn served(client: &kube::Client, kind: &GroupVersionKind) -> anyhow::Result<(ApiResource, Scope)> {
    until(&format!("kind {}/{} {} to be served", kind.group, kind.version, kind.kind), SERVED_WITHIN, || async {
        pinned_kind(client, kind).await.map(|(resource, capabilities)| Some((resource, capabilities.scope)))
    })
    .await
}

async fn established(client: &kube::Client, name: &str) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    until(&format!("{name} to be established"), SERVED_WITHIN, || async {
        let conditions = api.get(name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
        let established =
            conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True");
        Ok::<_, kube::Error>(established.then_some(()))
    })
    .await
}

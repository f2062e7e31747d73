//! The record as an export: what `record verify` and a SIEM read.

use amend_crds::Remediation;
use amend_execution::record::{Envelope, Line, PublicKey};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ListParams};

use crate::recorder::HEAD;

/// The whole log with its newest checkpoint, and the key that signed it.
#[derive(Clone, Debug)]
pub struct Export {
    pub lines: Vec<Line>,
    pub key: PublicKey,
}

/// Reads the log from the cluster.
///
/// # Errors
/// A sentence: what is missing or cannot be read.
pub async fn export(client: &Client, release_namespace: &str) -> Result<Export, String> {
    let heads: Api<ConfigMap> = Api::namespaced(client.clone(), release_namespace);
    let remediations: Api<Remediation> = Api::all(client.clone());
    // The head first: leaves that are appended meanwhile are newer than it and left out.
    let head = heads.get(HEAD).await.map_err(|error| {
        format!("cannot read ConfigMap {release_namespace}/{HEAD}: {}", crate::errors::chain(&error))
    })?;
    let list = remediations
        .list(&ListParams::default())
        .await
        .map_err(|error| format!("cannot list remediations: {}", crate::errors::chain(&error)))?;
    let value = |key: &str| {
        let found = head.data.as_ref().and_then(|data| data.get(key));
        found.cloned().ok_or_else(|| format!("ConfigMap {release_namespace}/{HEAD} has no key `{key}`"))
    };
    let key = PublicKey::parse(&value("key")?).map_err(|error| error.to_string())?;
    let parsed: amend_execution::record::Head =
        serde_json::from_str(&value("head")?).map_err(|error| format!("the head cannot be read: {error}"))?;
    let envelope = |text: &str| {
        serde_json::from_str::<Envelope>(text).map_err(|error| format!("an envelope cannot be read: {error}"))
    };
    let mut leaves = vec![(0, envelope(&value("began")?)?)];
    for leaf in list.items.iter().filter_map(|one| one.status.as_ref()).flat_map(|status| &status.record) {
        if leaf.index < parsed.size {
            leaves.push((leaf.index, envelope(&leaf.envelope)?));
        }
    }
    leaves.sort_by_key(|(index, _)| *index);
    let mut lines: Vec<Line> = leaves.into_iter().map(|(index, envelope)| Line::Record { index, envelope }).collect();
    lines.push(Line::Checkpoint { note: value("checkpoint")? });
    Ok(Export { lines, key })
}

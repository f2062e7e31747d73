//! What Flux's own objects say about who applies an object, from where, and how far it got.
//!
//! Objects come in as the API server gives them, as JSON: this room has no Kubernetes client.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Unlocated;
use crate::path::RepoPath;
use crate::repo::CommitId;

/// Labels that kustomize-controller puts on every object that it applies.
const NAME: &str = "kustomize.toolkit.fluxcd.io/name";
const NAMESPACE: &str = "kustomize.toolkit.fluxcd.io/namespace";

/// Transformations by the Flux `Kustomization` itself that change what a file renders to.
const TRANSFORMERS: [&str; 5] = ["patches", "images", "components", "namePrefix", "nameSuffix"];

/// Outcomes of a reconciliation that changed the cluster: the later two failed after everything was applied.
const APPLIED: [&str; 3] = ["ReconciliationSucceeded", "HealthCheckFailed", "PruneFailed"];

/// An object's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    pub namespace: String,
    pub name: String,
}

/// The Flux `Kustomization` that applies an object with these labels, if Flux does.
pub fn owner(labels: &BTreeMap<String, String>) -> Option<NamespacedName> {
    Some(NamespacedName { namespace: labels.get(NAMESPACE)?.clone(), name: labels.get(NAME)?.clone() })
}

/// What a Flux `Kustomization` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kustomization {
    pub at: NamespacedName,
    /// The `GitRepository` that it applies from.
    pub source: NamespacedName,
    pub folder: RepoPath,
    /// Overrides the namespace of everything in the folder.
    pub target_namespace: Option<String>,
    pub suspended: bool,
    /// `${…}` in files is replaced before they are applied.
    pub substitutes: bool,
    /// Applied to another cluster.
    pub remote: bool,
    /// Settings that change what files render to, which plain files cannot show.
    pub transformers: Vec<String>,
    /// The commit that is applied now.
    pub applied: Option<CommitId>,
    /// The commit that Flux tries to apply; differs from `applied` while it works, or when it fails.
    pub attempted: Option<CommitId>,
    /// Commits that reached the cluster, newest first, as far as Flux remembers (five), unhealthy ones included.
    pub history: Vec<CommitId>,
}

impl Kustomization {
    /// Reads a `kustomize.toolkit.fluxcd.io/v1` object.
    pub fn read(object: &Value) -> Result<Self, Unlocated> {
        let at = named(object)?;
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let kind = text("/spec/sourceRef/kind").unwrap_or_default();
        let source = text("/spec/sourceRef/name").unwrap_or_default();
        if kind != "GitRepository" || source.is_empty() {
            return Err(Unlocated::new(format!(
                "Kustomization {}/{} applies from a {}, and only GitRepository leads to a file",
                at.namespace,
                at.name,
                if kind.is_empty() { "source without kind" } else { kind }
            )));
        }
        let folder = RepoPath::parse(text("/spec/path").unwrap_or_default())
            .map_err(|error| Unlocated::new(format!("Kustomization {}/{}: {error}", at.namespace, at.name)))?;
        let spec = |name: &str| object.pointer(&format!("/spec/{name}")).is_some_and(|value| !is_empty(value));
        let revision = |pointer: &str| text(pointer).and_then(|revision| CommitId::parse(revision).ok());
        let history = object.pointer("/status/history").and_then(Value::as_array).into_iter().flatten();
        let history = history
            .filter(|entry| {
                let status = entry.get("lastReconciledStatus").and_then(Value::as_str);
                status.is_some_and(|status| APPLIED.contains(&status))
            })
            .filter_map(|entry| entry.pointer("/metadata/revision").and_then(Value::as_str))
            .filter_map(|revision| CommitId::parse(revision).ok());
        Ok(Self {
            source: NamespacedName {
                namespace: text("/spec/sourceRef/namespace").unwrap_or(&at.namespace).to_owned(),
                name: source.to_owned(),
            },
            folder,
            target_namespace: text("/spec/targetNamespace").map(str::to_owned),
            suspended: object.pointer("/spec/suspend").and_then(Value::as_bool).unwrap_or(false),
            substitutes: spec("postBuild"),
            remote: spec("kubeConfig"),
            transformers: TRANSFORMERS.iter().filter(|name| spec(name)).map(|name| (*name).to_owned()).collect(),
            applied: revision("/status/lastAppliedRevision"),
            attempted: revision("/status/lastAttemptedRevision"),
            history: history.collect(),
            at,
        })
    }

    /// Commits applied, newest first, each once: what changed lies between two neighbours.
    pub fn revisions(&self) -> Vec<CommitId> {
        let mut revisions: Vec<CommitId> = Vec::new();
        let unlisted = self.applied.iter().filter(|applied| !self.history.contains(applied));
        for revision in unlisted.chain(&self.history) {
            if !revisions.contains(revision) {
                revisions.push(revision.clone());
            }
        }
        revisions
    }

    /// The sentence about what stands between files and objects, when something does.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let NamespacedName { namespace, name } = &self.at;
        if self.remote {
            return Some(format!("Kustomization {namespace}/{name} applies to another cluster (spec.kubeConfig)"));
        }
        let list = self.transformers.iter().map(|name| format!("spec.{name}")).collect::<Vec<_>>().join(", ");
        (!list.is_empty()).then(|| {
            format!(
                "Kustomization {namespace}/{name} changes what the files say ({list}); the field's file is not certain"
            )
        })
    }
}

/// What a Flux `GitRepository` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitRepository {
    pub at: NamespacedName,
    pub url: String,
    /// The branch that it follows; `None` when it follows a tag, a version range or one commit.
    pub branch: Option<String>,
    /// The commit that it fetched last.
    pub fetched: Option<CommitId>,
    pub suspended: bool,
}

impl GitRepository {
    /// Reads a `source.toolkit.fluxcd.io/v1` object.
    pub fn read(object: &Value) -> Result<Self, Unlocated> {
        let at = named(object)?;
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let url = text("/spec/url").unwrap_or_default().to_owned();
        if url.is_empty() {
            return Err(Unlocated::new(format!("GitRepository {}/{} has no URL", at.namespace, at.name)));
        }
        let pinned = ["tag", "semver", "commit", "name"]
            .iter()
            .any(|name| object.pointer(&format!("/spec/ref/{name}")).is_some_and(|value| !is_empty(value)));
        // Flux follows `master` when nothing is said.
        let branch = if pinned { None } else { Some(text("/spec/ref/branch").unwrap_or("master").to_owned()) };
        Ok(Self {
            fetched: text("/status/artifact/revision").and_then(|revision| CommitId::parse(revision).ok()),
            suspended: object.pointer("/spec/suspend").and_then(Value::as_bool).unwrap_or(false),
            at,
            url,
            branch,
        })
    }
}

fn named(object: &Value) -> Result<NamespacedName, Unlocated> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    match (text("/metadata/namespace"), text("/metadata/name")) {
        (Some(namespace), Some(name)) => Ok(NamespacedName { namespace, name }),
        _ => Err(Unlocated::new("a Flux object without name or namespace")),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

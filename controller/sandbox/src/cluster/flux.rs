//! Flux: pulls the branch of each GitRepository and applies the plain YAML below each Kustomization's path.
//!
//! Status in the forms of source-controller 1.9 and kustomize-controller 1.9: `main@sha1:<id>`, an inventory, and
//! `status.history`, newest first, one entry per digest of what was applied, at most five.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Occasion, record, set_condition, text};
use crate::apiserver::fields::seconds;
use crate::apiserver::store::{How, Store};
use crate::apiserver::{apply, documents};
use crate::git::Repo;

const SOURCES: &str = "gitrepositories.source.toolkit.fluxcd.io";
const KUSTOMIZATIONS: &str = "kustomizations.kustomize.toolkit.fluxcd.io";
const APPLIER: &str = "kustomize-controller";
const PULLER: &str = "source-controller";
/// Upper bound of `status.history` in Flux.
const HISTORY: usize = 5;
const ASKED: &str = "reconcile.fluxcd.io/requestedAt";

/// Both Flux controllers; they remember when they last looked at each object.
#[derive(Debug, Default)]
pub struct Flux {
    looked: BTreeMap<String, Timestamp>,
}

impl Flux {
    /// Pulls and applies what is due.
    pub fn step(&mut self, store: &Store, repositories: &BTreeMap<String, Repo>, now: Timestamp) {
        for source in store.list(SOURCES, None) {
            if source["spec"]["suspend"] != json!(true) && self.is_due(&source, now) {
                pull(store, repositories, &source, now);
            }
        }
        for kustomization in store.list(KUSTOMIZATIONS, None) {
            if kustomization["spec"]["suspend"] == json!(true) {
                continue;
            }
            let Some(source) = artifact_of(store, &kustomization) else {
                continue;
            };
            let status = &kustomization["status"];
            let fresh = status["lastAttemptedRevision"] == source["status"]["artifact"]["revision"]
                && status["observedGeneration"] == kustomization["metadata"]["generation"];
            if self.is_due(&kustomization, now) || !fresh {
                reconcile(store, repositories, &kustomization, &source, now);
            }
        }
    }

    fn is_due(&mut self, object: &Value, now: Timestamp) -> bool {
        let uid = text(object, "/metadata/uid");
        let asked = &object["metadata"]["annotations"][ASKED];
        let asked = asked.is_string() && object["status"]["lastHandledReconcileAt"] != *asked;
        let due = asked || self.looked.get(uid).is_none_or(|last| now.duration_since(*last) >= interval(object));
        if due {
            self.looked.insert(uid.to_owned(), now);
        }
        due
    }
}

fn interval(object: &Value) -> SignedDuration {
    let text = text(object, "/spec/interval");
    text.parse().unwrap_or(SignedDuration::from_mins(1))
}

fn pull(store: &Store, repositories: &BTreeMap<String, Repo>, source: &Value, now: Timestamp) {
    let (namespace, name) = (text(source, "/metadata/namespace"), text(source, "/metadata/name"));
    let url = text(source, "/spec/url");
    let branch = match text(source, "/spec/ref/branch") {
        "" => "main",
        branch => branch,
    };
    let head = repositories
        .get(url)
        .ok_or_else(|| {
            format!("failed to checkout and determine revision: unable to clone '{url}': repository not found")
        })
        .and_then(|repo| {
            repo.head(branch).map_err(|error| format!("failed to checkout and determine revision: {error}"))
        });
    let _ = store.modify(SOURCES, namespace, name, How::status_by(PULLER), |live| {
        let generation = live["metadata"]["generation"].clone();
        let asked = live["metadata"]["annotations"][ASKED].clone();
        let status = &mut live["status"];
        status["observedGeneration"] = generation.clone();
        if asked.is_string() {
            status["lastHandledReconcileAt"] = asked;
        }
        match &head {
            Ok(head) => {
                let revision = format!("{branch}@sha1:{head}");
                if status["artifact"]["revision"] != *revision {
                    status["artifact"] = json!({
                        "revision": revision, "digest": format!("sha256:{}", hex::encode(Sha256::digest(head))),
                        "lastUpdateTime": seconds(now), "path": format!("gitrepository/{namespace}/{name}/{head}.tar.gz"),
                        "url": format!("http://source-controller.flux-system.svc.cluster.local./gitrepository/{namespace}/{name}/{head}.tar.gz"),
                        "size": 1024,
                    });
                }
                let words = format!("stored artifact for revision '{revision}'");
                set_condition(status, "Ready", "True", "Succeeded", &words, now, json!({ "observedGeneration": generation }));
                set_condition(status, "ArtifactInStorage", "True", "Succeeded", &words, now, json!({ "observedGeneration": generation }));
            }
            Err(why) => set_condition(status, "Ready", "False", "GitOperationFailed", why, now, json!({ "observedGeneration": generation })),
        }
    });
}

/// The source of a Kustomization, once it has an artifact.
fn artifact_of(store: &Store, kustomization: &Value) -> Option<Arc<Value>> {
    let namespace = match text(kustomization, "/spec/sourceRef/namespace") {
        "" => text(kustomization, "/metadata/namespace"),
        other => other,
    };
    let source = store.get(SOURCES, namespace, text(kustomization, "/spec/sourceRef/name"))?;
    source["status"]["artifact"]["revision"].is_string().then_some(source)
}

fn reconcile(
    store: &Store,
    repositories: &BTreeMap<String, Repo>,
    kustomization: &Value,
    source: &Value,
    now: Timestamp,
) {
    let namespace = text(kustomization, "/metadata/namespace");
    let revision = text(source, "/status/artifact/revision").to_owned();
    let outcome = repositories
        .get(text(source, "/spec/url"))
        .ok_or_else(|| "artifact not found".to_owned())
        .and_then(|repo| build(repo, &revision, kustomization))
        .and_then(|objects| Ok((applied(store, &objects)?, objects)));
    match &outcome {
        Ok((changed, objects)) => {
            let pruned = prune(store, kustomization, objects);
            if changed + pruned > 0 {
                let message = format!("Applied revision: {revision}");
                let occasion = Occasion {
                    kind: "Normal",
                    reason: "ReconciliationSucceeded",
                    message: &message,
                    component: APPLIER,
                    field: None,
                };
                record(store, kustomization, occasion, now);
            }
        }
        Err(message) => {
            let occasion =
                Occasion { kind: "Warning", reason: "ReconciliationFailed", message, component: APPLIER, field: None };
            record(store, kustomization, occasion, now);
        }
    }
    let name = text(kustomization, "/metadata/name");
    let _ = store.modify(KUSTOMIZATIONS, namespace, name, How::status_by(APPLIER), |live| {
        report(live, &revision, &outcome, now)
    });
}

/// The objects of the path at a revision, with Flux's labels.
fn build(repo: &Repo, revision: &str, kustomization: &Value) -> Result<Vec<Value>, String> {
    let commit = revision.rsplit(':').next().unwrap_or_default();
    let files = repo
        .files(commit, text(kustomization, "/spec/path"))
        .map_err(|error| format!("kustomize build failed: {error}"))?;
    let mut objects = Vec::new();
    for (path, text_of_file) in files {
        if !(path.ends_with(".yaml") || path.ends_with(".yml")) || path.ends_with("kustomization.yaml") {
            continue;
        }
        for mut object in documents(&text_of_file)
            .map_err(|refusal| format!("kustomize build failed: {path}: {}", refusal.message))?
        {
            if text(&object, "/kind").is_empty() || text(&object, "/metadata/name").is_empty() {
                return Err(format!("kustomize build failed: {path}: missing kind or metadata.name"));
            }
            if let Some(target) = kustomization["spec"]["targetNamespace"].as_str() {
                object["metadata"]["namespace"] = json!(target);
            }
            for (label, value) in [
                ("name", text(kustomization, "/metadata/name")),
                ("namespace", text(kustomization, "/metadata/namespace")),
            ] {
                object["metadata"]["labels"][format!("kustomize.toolkit.fluxcd.io/{label}")] = json!(value);
            }
            objects.push(object);
        }
    }
    // Namespaces first, as Flux orders them.
    objects.sort_by_key(|object| text(object, "/kind") != "Namespace");
    Ok(objects)
}

fn applied(store: &Store, objects: &[Value]) -> Result<usize, String> {
    let before = store.version();
    for object in objects {
        apply(store, object, APPLIER).map_err(|refusal| {
            format!("{}/{} dry-run failed: {}", text(object, "/kind"), text(object, "/metadata/name"), refusal.message)
        })?;
    }
    Ok(usize::try_from(store.version() - before).unwrap_or(usize::MAX))
}

/// `namespace_name_group_kind`, the id in Flux's inventory.
fn inventory_id(object: &Value) -> (String, String) {
    let (group, version) = text(object, "/apiVersion").split_once('/').unwrap_or(("", text(object, "/apiVersion")));
    let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    (format!("{namespace}_{name}_{group}_{}", text(object, "/kind")), version.to_owned())
}

fn prune(store: &Store, kustomization: &Value, objects: &[Value]) -> usize {
    if kustomization["spec"]["prune"] != json!(true) {
        return 0;
    }
    let kept: BTreeSet<String> = objects.iter().map(|object| inventory_id(object).0).collect();
    let mut pruned = 0;
    for entry in kustomization["status"]["inventory"]["entries"].as_array().into_iter().flatten() {
        let (id, version) = (text(entry, "/id"), text(entry, "/v"));
        let parts: Vec<&str> = id.split('_').collect();
        let [namespace, name, group, kind] = parts.as_slice() else {
            continue;
        };
        if kept.contains(id) {
            continue;
        }
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        if let Some(resource) = store.registry().of_kind(&api_version, kind)
            && store.delete(&resource.key(), namespace, name, &Value::Null, false, false).is_ok()
        {
            pruned += 1;
        }
    }
    pruned
}

fn report(live: &mut Value, revision: &str, outcome: &Result<(usize, Vec<Value>), String>, now: Timestamp) {
    let generation = live["metadata"]["generation"].clone();
    let asked = live["metadata"]["annotations"][ASKED].clone();
    let status = &mut live["status"];
    status["observedGeneration"] = generation.clone();
    status["lastAttemptedRevision"] = json!(revision);
    if asked.is_string() {
        status["lastHandledReconcileAt"] = asked;
    }
    let observed = json!({ "observedGeneration": generation });
    let (digest, reason) = match outcome {
        Ok((_, objects)) => {
            status["lastAppliedRevision"] = json!(revision);
            let entries: Vec<Value> =
                objects.iter().map(inventory_id).map(|(id, version)| json!({ "id": id, "v": version })).collect();
            status["inventory"] = json!({ "entries": entries });
            set_condition(
                status,
                "Ready",
                "True",
                "ReconciliationSucceeded",
                &format!("Applied revision: {revision}"),
                now,
                observed,
            );
            (Sha256::digest(Value::Array(objects.clone()).to_string()), "ReconciliationSucceeded")
        }
        Err(why) => {
            let reason = if why.starts_with("kustomize build") { "BuildFailed" } else { "ReconciliationFailed" };
            set_condition(status, "Ready", "False", reason, why, now, observed);
            (Sha256::digest(revision), reason)
        }
    };
    remember(status, &format!("sha256:{}", hex::encode(digest)), reason, revision, now);
}

fn remember(status: &mut Value, digest: &str, reason: &str, revision: &str, now: Timestamp) {
    let mut history = status["history"].as_array().cloned().unwrap_or_default();
    let known = history.iter().position(|entry| entry["digest"] == *digest && entry["lastReconciledStatus"] == *reason);
    let at = seconds(now);
    let entry = match known {
        Some(position) => {
            let mut entry = history.remove(position);
            entry["lastReconciled"] = json!(at);
            entry["totalReconciliations"] = json!(entry["totalReconciliations"].as_i64().unwrap_or(0) + 1);
            entry["metadata"] = json!({ "revision": revision });
            entry
        }
        None => json!({
            "digest": digest, "firstReconciled": at, "lastReconciled": at, "lastReconciledDuration": "120ms",
            "lastReconciledStatus": reason, "totalReconciliations": 1, "metadata": { "revision": revision },
        }),
    };
    history.insert(0, entry);
    history.truncate(HISTORY);
    status["history"] = json!(history);
}

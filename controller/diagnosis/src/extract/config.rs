//! Configuration that a container needs and that is not there.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::cluster::{Container, Pod, list, text};
use crate::diagnosis::cause;
use crate::finding::{Finding, Modality};
use crate::scene::Scene;

use super::image::messages_since_change;

static NOT_FOUND: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"(?i)\b(configmap|secret)s? "?([\w./-]+?)"? not found"#).ok());
static NO_KEY: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"(?i)couldn't find key "?([\w.-]+)"? in (ConfigMap|Secret) "?([\w./-]+)"?"#).ok());

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut found: BTreeMap<(String, String), Finding> = BTreeMap::new();
    for pod in &scene.cluster.pods {
        let events = messages_since_change(scene, pod).join(" ");
        for container in &pod.containers {
            let told = if waits_for_config(pod, container) { events.as_str() } else { "" };
            if let Some(missing) = missing(scene, pod, container, told) {
                let entity = pod.workload.clone().with_container(&container.name);
                let key = (entity.to_string(), missing.object.clone());
                found.entry(key).or_insert_with(|| {
                    let mut finding = Finding::new(
                        entity,
                        cause::CONFIG_MISSING,
                        Modality::State,
                        6.0,
                        format!(
                            "container {} of {} cannot start: {}",
                            container.name, pod.workload.name, missing.sentence
                        ),
                    )
                    .labelled(missing.label)
                    .asked(scene.questions().about(&["pods", "Pod"]))
                    .measure("config.object", &missing.object)
                    .fault("missing_secret_binding");
                    if let Some(key) = missing.key {
                        finding = finding.measure("config.key", key);
                    }
                    finding
                });
            }
        }
    }
    found.into_values().collect()
}

/// Whether a container waits in a way that a missing ConfigMap or Secret explains: before it was made, or while it is made.
/// Events of the pod say nothing about one that waits for its image or after a crash.
fn waits_for_config(pod: &Pod, container: &Container) -> bool {
    match &container.waiting {
        Some((reason, _)) => {
            ["CreateContainerConfigError", "CreateContainerError", "ContainerCreating", "PodInitializing"]
                .contains(&reason.as_str())
        }
        None => pod.phase == "Pending" && !container.ready && container.terminated.is_none(),
    }
}

struct Missing {
    object: String,
    key: Option<String>,
    sentence: String,
    label: String,
}

fn missing(scene: &Scene<'_>, pod: &Pod, container: &Container, events: &str) -> Option<Missing> {
    let (reason, message) = container.waiting.clone().unwrap_or_default();
    let configured = reason == "CreateContainerConfigError" || reason == "CreateContainerError";
    let told = format!("{message} {events}");
    if let Some(found) = NO_KEY.as_ref().and_then(|pattern| pattern.captures(&told)) {
        let (key, kind, name) = (&found[1], kind_name(&found[2]), short(&found[3]));
        // What is there by now, with that key, is a wait that ends by itself.
        if has_key(scene, kind, &pod.namespace, name, key) {
            return None;
        }
        return Some(Missing {
            object: format!("{kind}/{name}"),
            key: Some(key.to_owned()),
            sentence: format!("{kind} {name} has no key {key}"),
            label: format!("no key {key} in {kind} {name}"),
        });
    }
    if let Some(found) = NOT_FOUND.as_ref().and_then(|pattern| pattern.captures(&told)) {
        let (kind, name) = (kind_name(&found[1]), short(&found[2]));
        if scene.cluster.has(kind, &pod.namespace, name) == Some(true) {
            return None;
        }
        return Some(Missing {
            object: format!("{kind}/{name}"),
            key: None,
            sentence: format!("{kind} {name} does not exist"),
            label: format!("{kind} {name} not found"),
        });
    }
    // No message (or a lost one): ask the objects themselves, but only where they were listed.
    let (kind, name) = references(container)
        .into_iter()
        .find(|(kind, name)| configured && scene.cluster.has(kind, &pod.namespace, name) == Some(false))?;
    Some(Missing {
        sentence: format!("{kind} {name} does not exist"),
        label: format!("{kind} {name} not found"),
        object: format!("{kind}/{name}"),
        key: None,
    })
}

fn has_key(scene: &Scene<'_>, kind: &str, namespace: &str, name: &str, key: &str) -> bool {
    scene.cluster.others(kind).iter().any(|object| {
        text(object, "/metadata/name") == name
            && text(object, "/metadata/namespace") == namespace
            && ["data", "stringData", "binaryData"].iter().any(|part| object[*part].get(key).is_some())
    })
}

/// ConfigMaps and Secrets that a container's environment needs.
fn references(container: &Container) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for variable in list(&container.spec, "/env") {
        for (kind, pointer) in [("ConfigMap", "/valueFrom/configMapKeyRef"), ("Secret", "/valueFrom/secretKeyRef")] {
            let optional = variable.pointer(&format!("{pointer}/optional")).and_then(serde_json::Value::as_bool);
            let name = text(variable, &format!("{pointer}/name"));
            if !name.is_empty() && optional != Some(true) {
                found.push((kind, name.to_owned()));
            }
        }
    }
    for source in list(&container.spec, "/envFrom") {
        for (kind, pointer) in [("ConfigMap", "/configMapRef/name"), ("Secret", "/secretRef/name")] {
            let name = text(source, pointer);
            if !name.is_empty() {
                found.push((kind, name.to_owned()));
            }
        }
    }
    found
}

fn kind_name(word: &str) -> &'static str {
    if word.eq_ignore_ascii_case("secret") { "Secret" } else { "ConfigMap" }
}

/// `namespace/name` without the namespace.
fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

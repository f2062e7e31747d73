//! Images that cannot be pulled, with the reason that the registry or the resolver gave.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::cluster::Pod;
use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::finding::{Finding, Modality};
use crate::scene::{Scene, shifted};

const WAITING: [&str; 5] =
    ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"];

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut found: BTreeMap<(Entity, String), (String, String, bool)> = BTreeMap::new();
    for pod in &scene.cluster.pods {
        for container in &pod.containers {
            if let Some((reason, message)) = &container.waiting
                && WAITING.contains(&reason.as_str())
            {
                let told = format!("{message} {}", events_of(scene, pod));
                let key = (pod.workload.clone().with_container(&container.name), container.image.clone());
                let secret_lost = lost_secret(scene, pod);
                found.entry(key).or_insert((reason.clone(), told, secret_lost));
            }
        }
    }
    found
        .into_iter()
        .map(|((entity, image), (reason, told, secret_lost))| {
            let (fault, why) = reason_of(&told, secret_lost || pulls_elsewhere(scene, &image));
            let mut finding = Finding::new(
                entity.clone(),
                cause::IMAGE_PULL,
                Modality::State,
                6.0,
                format!("image {image} of {} cannot be pulled ({reason}): {why}", entity.name),
            )
            .labelled(reason)
            .asked(scene.questions().about(&["pods", "Pod"]))
            .measure("image.bad", &image);
            finding.fault = fault;
            if let Some(good) = good_image(scene, &entity, &image) {
                finding = finding.measure("image.good", good);
            }
            finding
        })
        .collect()
}

/// Messages of events about one pod, newest last.
pub fn events_of(scene: &Scene<'_>, pod: &Pod) -> String {
    let wanted = format!("Pod/{}", pod.name);
    let events = scene.observations.events.known().into_iter().flatten();
    let mut messages: Vec<(_, &str)> = events
        .filter(|event| event.namespace == pod.namespace && event.object.eq_ignore_ascii_case(&wanted))
        .map(|event| (event.at, event.message.as_str()))
        .collect();
    messages.sort();
    messages.into_iter().map(|(_, message)| message).collect::<Vec<_>>().join(" ")
}

/// How long before a condition changes the reason for it may have been told: a probe fails several times first.
const BEFORE_CHANGE: SignedDuration = SignedDuration::from_mins(2);

/// Messages of events about one pod since its state last changed: what was said before is history. Those without a time count.
pub fn messages_since_change<'s>(scene: &'s Scene<'_>, pod: &Pod) -> Vec<&'s str> {
    let wanted = format!("Pod/{}", pod.name);
    let since = pod.changed().map(|changed| shifted(changed, -BEFORE_CHANGE));
    let events = scene.observations.events.known().into_iter().flatten();
    let mut messages: Vec<(Timestamp, &str)> = events
        .filter(|event| event.namespace == pod.namespace && event.object.eq_ignore_ascii_case(&wanted))
        .filter(|event| event.at == Timestamp::UNIX_EPOCH || since.is_none_or(|since| event.at >= since))
        .map(|event| (event.at, event.message.as_str()))
        .collect();
    messages.sort();
    messages.into_iter().map(|(_, message)| message).collect()
}

/// The same container's image in pods that run.
fn good_image(scene: &Scene<'_>, entity: &Entity, bad: &str) -> Option<String> {
    let workload = entity.workload();
    let pods = scene.cluster.pods_of(&workload);
    let mut images: Vec<String> = pods
        .flat_map(|pod| &pod.containers)
        .filter(|container| container.ready && container.image != bad)
        .filter(|container| Some(&container.name) == entity.container.as_ref())
        .map(|container| container.image.clone())
        .collect();
    images.sort();
    images.pop()
}

/// Whether the kubelet could not read a pull secret that the pod names.
fn lost_secret(scene: &Scene<'_>, pod: &Pod) -> bool {
    let wanted = format!("Pod/{}", pod.name);
    let mut events = scene.observations.events.known().into_iter().flatten();
    events.any(|event| {
        event.namespace == pod.namespace
            && event.object.eq_ignore_ascii_case(&wanted)
            && (event.reason == "FailedToRetrieveImagePullSecret"
                || event.message.starts_with("Unable to retrieve some image pull secrets"))
    })
}

/// Whether a pod runs with another tag of the same repository: then the repository is there.
fn pulls_elsewhere(scene: &Scene<'_>, image: &str) -> bool {
    let wanted = repository(image);
    let mut containers = scene.cluster.pods.iter().flat_map(|pod| &pod.containers);
    containers.any(|container| container.ready && repository(&container.image) == wanted)
}

/// `registry:5000/team/app` of `registry:5000/team/app:1.2@sha256:…`.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let name = image.rfind('/').map_or(0, |at| at + 1);
    match image[name..].find(':') {
        Some(tag) => &image[..name + tag],
        None => image,
    }
}

/// What the message says, as a finer fault and a clause.
///
/// A registry that hides what is private gives one answer for "no such repository" and "not for you"; only `is_there` (the
/// repository pulls elsewhere, or a named secret is lost) tells the two apart.
fn reason_of(message: &str, is_there: bool) -> (Option<&'static str>, &'static str) {
    let lower = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(&["no such host", "server misbehaving", "name resolution", "i/o timeout", "dial tcp: lookup", "lookup "]) {
        (Some("image_registry_dns_failure"), "the registry's name cannot be resolved or reached")
    } else if says(&[
        "does not exist or may require",
        "insufficient_scope",
        "requested access to the resource is denied",
    ]) && !is_there
    {
        (None, "the registry has no such repository, or shows it only with credentials; it does not say which")
    } else if says(&[
        "unauthorized",
        "authentication required",
        "access denied",
        "insufficient_scope",
        "forbidden",
        "no basic auth",
        "pull access denied",
        "authorization failed",
    ]) {
        (Some("missing_image_pull_secret"), "the registry refuses without credentials")
    } else {
        (Some("incorrect_image_reference"), "the registry has no such image")
    }
}

//! Images that cannot be pulled, with the reason that the registry or the resolver gave.

use std::collections::BTreeMap;

use crate::cluster::Pod;
use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::finding::{Finding, Modality};
use crate::scene::Scene;

const WAITING: [&str; 5] =
    ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"];

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut found: BTreeMap<(Entity, String), (String, String)> = BTreeMap::new();
    for pod in &scene.cluster.pods {
        for container in &pod.containers {
            if let Some((reason, message)) = &container.waiting
                && WAITING.contains(&reason.as_str())
            {
                let told = format!("{message} {}", events_of(scene, pod));
                let key = (pod.workload.clone().with_container(&container.name), container.image.clone());
                found.entry(key).or_insert((reason.clone(), told));
            }
        }
    }
    found
        .into_iter()
        .map(|((entity, image), (reason, told))| {
            let (fault, why) = reason_of(&told);
            let mut finding = Finding::new(
                entity.clone(),
                cause::IMAGE_PULL,
                Modality::State,
                6.0,
                format!("image {image} of {} cannot be pulled ({reason}): {why}", entity.name),
            )
            .labelled(reason)
            .fault(fault)
            .asked(scene.questions().about(&["pods", "Pod"]))
            .measure("image.bad", &image);
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

/// What the message says, as a finer fault and a clause.
fn reason_of(message: &str) -> (&'static str, &'static str) {
    let lower = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(&["no such host", "server misbehaving", "name resolution", "i/o timeout", "dial tcp: lookup", "lookup "]) {
        ("image_registry_dns_failure", "the registry's name cannot be resolved or reached")
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
        ("missing_image_pull_secret", "the registry refuses without credentials")
    } else {
        ("incorrect_image_reference", "the registry has no such image")
    }
}

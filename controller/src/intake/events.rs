//! Kubernetes events and conditions as signals. Pure: objects in, signals out.
//!
//! Most events say what happens all the time. So they *join* an incident that is open already, and only a closed list of
//! reasons, each a thing that does not heal by waiting, *opens* one.

use std::collections::BTreeMap;

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use sha2::{Digest, Sha256};

use super::untrusted::one_line;

/// A signal and whether it may open an incident of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Sign {
    pub signal: Signal,
    pub opens: bool,
}

/// Event reasons that open an incident.
const OPENING_EVENTS: [&str; 9] = [
    "FailedScheduling",
    "FailedMount",
    "FailedAttachVolume",
    "FailedCreate",
    "FailedCreatePodSandBox",
    "ErrImagePull",
    "InspectFailed",
    "OOMKilling",
    "Evicted",
];

/// Reasons for which a container waits that open an incident.
const OPENING_WAITS: [&str; 7] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// A warning event as a signal; ordinary events and events about our own kinds are none.
pub fn of_event(event: &Event) -> Option<Sign> {
    if event.type_.as_deref() != Some("Warning") {
        return None;
    }
    let about = &event.involved_object;
    if about.api_version.as_deref().is_some_and(|version| version.starts_with("amend.dev/")) {
        return None;
    }
    let name = about.name.as_deref().filter(|name| !name.is_empty())?;
    let reason = one_line(event.reason.as_deref()?, 128);
    let message = event.message.as_deref().unwrap_or_default();
    let kind = entity_kind(about.kind.as_deref()?)?;
    let namespace = about.namespace.clone().unwrap_or_default();
    let series = event.series.as_ref();
    let at = series
        .and_then(|series| series.last_observed_time.as_ref().map(|time| time.0))
        .or_else(|| event.last_timestamp.as_ref().map(|time| time.0))
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
        .or_else(|| event.metadata.creation_timestamp.as_ref().map(|time| time.0))?;
    let started_at = event.first_timestamp.as_ref().map(|time| time.0).filter(|first| *first <= at).unwrap_or(at);
    let count = series.and_then(|series| series.count).or(event.count).unwrap_or(1);
    let entity = Entity::new(kind, namespace, name);
    // The kubelet reports a pull that failed as "Failed", like every other start that failed.
    let pull = reason == "Failed" && message.contains("image");
    let opens = pull || OPENING_EVENTS.contains(&reason.as_str());
    let uid = about.uid.as_deref().unwrap_or(name);
    let mut sign = sign(SignalSource::Event, &reason, entity, uid, started_at, message, opens);
    sign.signal.ended_at = Some(at);
    sign.signal.count = u32::try_from(count).unwrap_or(1).max(1);
    Some(sign)
}

/// The pod that an event asks to look at: one whose container does not start or does not stay up. The event alone says neither why
/// nor when that is over; the pod does both.
///
/// Pods are looked at only then: pulls, mounts, sandboxes and scheduling have events of their own that open, and a crash loop, a
/// missing ConfigMap and a kill for lack of memory have not.
pub fn pod_to_look_at(event: &Event) -> Option<(&str, &str)> {
    let about = &event.involved_object;
    let hints = event.type_.as_deref() == Some("Warning")
        && about.kind.as_deref() == Some("Pod")
        && matches!(event.reason.as_deref(), Some("BackOff" | "Failed"));
    let named = about.namespace.as_deref().zip(about.name.as_deref().filter(|name| !name.is_empty()));
    named.filter(|_| hints)
}

/// What a pod's status says: containers that wait for a reason of the closed list, or were killed for lack of memory.
///
/// Pods of one workload share the keys of their signals: a storm of pods is one signal per container of the workload.
pub fn of_pod(pod: &Pod) -> Vec<Sign> {
    let Some(status) = &pod.status else { return Vec::new() };
    let workload = workload_of(&pod.metadata);
    let since = status.start_time.as_ref().or(pod.metadata.creation_timestamp.as_ref()).map(|time| time.0);
    let Some(since) = since else { return Vec::new() };
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    containers.flat_map(|container| of_container(container, &workload, since)).collect()
}

fn of_container(container: &ContainerStatus, workload: &Entity, since: Timestamp) -> Vec<Sign> {
    let entity = workload.clone().with_container(&container.name);
    let uid = workload.to_string();
    let ends = [container.state.as_ref(), container.last_state.as_ref()];
    let ended = ends.into_iter().flatten().find_map(|state| state.terminated.as_ref());
    let ended_at = ended.and_then(|ended| ended.finished_at.as_ref()).map(|time| time.0);
    let mut signs = Vec::new();
    if let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref())
        && let Some(reason) = waiting.reason.as_deref()
        && OPENING_WAITS.contains(&reason)
    {
        let message = waiting.message.as_deref().unwrap_or_default();
        // It ran until then: a pod may be weeks old.
        let at = ended_at.unwrap_or(since);
        signs.push(sign(SignalSource::Condition, reason, entity.clone(), &uid, at, message, true));
    }
    if ended.is_some_and(|ended| ended.reason.as_deref() == Some("OOMKilled")) {
        let at = ended_at.unwrap_or(since);
        let message = format!("killed for lack of memory, {} restarts", container.restart_count);
        let mut sign = sign(SignalSource::Event, "OOMKilled", entity, &uid, at, &message, true);
        sign.signal.ended_at = Some(at);
        signs.push(sign);
    }
    signs
}

/// Whether a signal is what [`of_pod`] says of the pods of its workload.
pub fn is_of_pods(signal: &Signal) -> bool {
    let workload = signal.entity.workload();
    signal.source == SignalSource::Condition
        && OPENING_WAITS.contains(&signal.name.as_str())
        && signal.key == key(SignalSource::Condition, &workload.to_string(), &signal.entity, &signal.name)
}

/// Whether a pod that was listed says what a signal says.
pub fn is_said_by(signal: &Signal, pod: &Pod) -> bool {
    of_pod(pod).iter().any(|sign| sign.signal.key == signal.key)
}

/// What a Deployment's conditions say: a rollout that got stuck opens, missing replicas only join.
pub fn of_deployment(deployment: &Deployment) -> Vec<Sign> {
    let (Some(name), Some(namespace)) = (&deployment.metadata.name, &deployment.metadata.namespace) else {
        return Vec::new();
    };
    let entity = Entity::new(EntityKind::Deployment, namespace, name);
    let uid = deployment.metadata.uid.as_deref().unwrap_or(name);
    let conditions = deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter(|condition| {
            condition.status.as_deref() == Some("False")
                && matches!(condition.type_.as_deref(), Some("Progressing" | "Available"))
        })
        .filter_map(|condition| {
            let at = condition.last_transition_time.as_ref().map(|time| time.0)?;
            let reason = condition.reason.as_deref().or(condition.type_.as_deref())?;
            let message = condition.message.as_deref().unwrap_or_default();
            let opens = reason == "ProgressDeadlineExceeded";
            Some(sign(SignalSource::Condition, reason, entity.clone(), uid, at, message, opens))
        })
        .collect()
}

fn sign(
    source: SignalSource,
    reason: &str,
    entity: Entity,
    uid: &str,
    started_at: Timestamp,
    message: &str,
    opens: bool,
) -> Sign {
    let signal = Signal {
        key: key(source, uid, &entity, reason),
        source,
        name: one_line(reason, 128),
        entity,
        severity: if opens { Severity::Warning } else { Severity::Info },
        started_at,
        ended_at: None,
        summary: one_line(message, 400),
        labels: BTreeMap::new(),
        count: 1,
    };
    Sign { signal, opens }
}

/// One key for what one object says of one container, however often it says it.
fn key(source: SignalSource, uid: &str, entity: &Entity, reason: &str) -> String {
    let mut hash = Sha256::new();
    for part in [uid, entity.container.as_deref().unwrap_or_default(), reason] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let prefix = match source {
        SignalSource::Condition => "condition",
        SignalSource::Alert | SignalSource::Event | SignalSource::Build | SignalSource::Slo => "event",
    };
    format!("{prefix}/{}", hex::encode(&hash.finalize()[..16]))
}

/// The workload that a pod belongs to, by its owner.
///
/// A ReplicaSet is named after its Deployment plus the hash that the pod carries as a label, so the name is known, not
/// guessed. Pods without a controller stand for themselves.
fn workload_of(pod: &ObjectMeta) -> Entity {
    let namespace = pod.namespace.clone().unwrap_or_default();
    let owner = pod.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let Some(OwnerReference { kind, name, .. }) = owner else {
        return Entity::new(EntityKind::Pod, namespace, pod.name.clone().unwrap_or_default());
    };
    let hash = pod.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    let deployment = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    match (kind.as_str(), deployment) {
        ("ReplicaSet", Some(deployment)) => Entity::new(EntityKind::Deployment, namespace, deployment),
        _ => match entity_kind(kind) {
            Some(kind) => Entity::new(kind, namespace, name),
            None => Entity::new(EntityKind::Pod, namespace, pod.name.clone().unwrap_or_default()),
        },
    }
}

/// Kinds that an incident can be about.
fn entity_kind(kind: &str) -> Option<EntityKind> {
    match kind {
        "Deployment" => Some(EntityKind::Deployment),
        "StatefulSet" => Some(EntityKind::StatefulSet),
        "DaemonSet" => Some(EntityKind::DaemonSet),
        "ReplicaSet" => Some(EntityKind::ReplicaSet),
        "Job" => Some(EntityKind::Job),
        "CronJob" => Some(EntityKind::CronJob),
        "Pod" => Some(EntityKind::Pod),
        "Service" => Some(EntityKind::Service),
        "PersistentVolumeClaim" => Some(EntityKind::PersistentVolumeClaim),
        "Node" => Some(EntityKind::Node),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn event(kind: &str, reason: &str, message: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": "e", "namespace": "shop"}, "type": "Warning", "reason": reason, "message": message, "count": 4,
            "firstTimestamp": "2026-11-21T10:00:00Z", "lastTimestamp": "2026-11-21T10:05:00Z",
            "involvedObject": {"apiVersion": "v1", "kind": kind, "namespace": "shop", "name": "checkout-7d9-abc", "uid": "u-1"},
        }))
        .unwrap()
    }

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "checkout-7d9-abc", "namespace": "shop", "creationTimestamp": "2026-11-21T10:00:00Z",
                "labels": {"pod-template-hash": "7d9"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "checkout-7d9", "uid": "r", "controller": true}]},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn only_reasons_on_the_closed_list_open_an_incident() {
        for (reason, message, opens) in [
            ("FailedScheduling", "0/3 nodes are available", true),
            ("Failed", "Failed to pull image \"x\"", true),
            ("Failed", "Error: context deadline exceeded", false),
            ("Unhealthy", "Readiness probe failed", false),
            ("BackOff", "Back-off restarting failed container", false),
        ] {
            assert_eq!(of_event(&event("Pod", reason, message)).unwrap().opens, opens, "{reason}: {message}");
        }
    }

    #[test]
    fn an_event_counts_its_repeats_and_ends_when_it_was_last_seen() {
        let sign = of_event(&event("Pod", "FailedScheduling", "none fits")).unwrap();
        assert_eq!(sign.signal.count, 4);
        assert_eq!(sign.signal.ended_at, Some("2026-11-21T10:05:00Z".parse().unwrap()));
        assert_eq!(sign.signal.entity.to_string(), "shop/Pod/checkout-7d9-abc");
    }

    #[test]
    fn ordinary_events_and_events_about_our_own_kinds_are_no_signals() {
        let mut normal = event("Pod", "Pulled", "ok");
        normal.type_ = Some("Normal".to_owned());
        assert_eq!(of_event(&normal), None);
        let mut ours = event("Pod", "Blocked", "gate");
        ours.involved_object.api_version = Some("amend.dev/v1alpha1".to_owned());
        assert_eq!(of_event(&ours), None);
        assert_eq!(of_event(&event("Gadget", "FailedCreate", "unknown kind")), None);
    }

    #[test]
    fn an_oom_kill_is_about_the_container_of_the_deployment() {
        let signs = of_pod(&pod(json!({"containerStatuses": [{
            "name": "app", "image": "i", "imageID": "", "ready": false, "restartCount": 6,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}},
            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-11-21T10:04:00Z"}}}]})));
        let told: Vec<_> = signs.iter().map(|sign| (sign.signal.name.as_str(), sign.opens)).collect();
        assert_eq!(told, [("CrashLoopBackOff", true), ("OOMKilled", true)]);
        assert_eq!(signs[1].signal.entity.to_string(), "shop/Deployment/checkout[app]");
        assert_eq!(signs[1].signal.count, 1, "one kill, however often it is looked at");
        let killed: Timestamp = "2026-11-21T10:04:00Z".parse().unwrap();
        assert_eq!(
            signs.iter().map(|sign| sign.signal.started_at).collect::<Vec<_>>(),
            [killed, killed],
            "it ran until then"
        );
    }

    #[test]
    fn pods_of_one_deployment_share_their_signal_keys() {
        let status = json!({"containerStatuses": [{"name": "app", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff"}}}]});
        let mut sibling = pod(status.clone());
        sibling.metadata.name = Some("checkout-7d9-xyz".to_owned());
        assert_eq!(of_pod(&pod(status))[0].signal.key, of_pod(&sibling)[0].signal.key);
    }

    #[test]
    fn what_pods_said_is_over_when_none_of_them_says_it_any_more() {
        let waiting = |reason: &str| {
            let state = json!({"waiting": {"reason": reason}});
            pod(
                json!({"containerStatuses": [{"name": "app", "image": "i", "imageID": "", "ready": false, "restartCount": 1, "state": state}]}),
            )
        };
        let said = of_pod(&waiting("CrashLoopBackOff")).remove(0).signal;
        assert!(is_of_pods(&said));
        assert!(is_said_by(&said, &waiting("CrashLoopBackOff")));
        assert!(!is_said_by(&said, &waiting("ContainerCreating")));
        let stuck: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "checkout", "namespace": "shop", "uid": "d"},
            "status": {"conditions": [
                {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "lastTransitionTime": "2026-11-21T10:00:00Z"}]},
        }))
        .unwrap();
        assert!(!is_of_pods(&of_deployment(&stuck)[0].signal));
    }

    #[test]
    fn only_warnings_that_a_pod_can_explain_ask_to_look_at_it() {
        let wanted = |kind: &str, reason: &str| pod_to_look_at(&event(kind, reason, "")).is_some();
        assert!(wanted("Pod", "BackOff") && wanted("Pod", "Failed"));
        assert!(!wanted("Pod", "FailedScheduling") && !wanted("Pod", "Unhealthy") && !wanted("Job", "BackOff"));
        let mut pulling = event("Pod", "BackOff", "Back-off pulling image");
        pulling.type_ = Some("Normal".to_owned());
        assert_eq!(pod_to_look_at(&pulling), None);
    }

    #[test]
    fn a_healthy_pod_says_nothing() {
        let running = json!({"containerStatuses": [{"name": "app", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {}}}], "conditions": [{"type": "PodScheduled", "status": "True"}]});
        assert_eq!(of_pod(&pod(running)), []);
    }

    #[test]
    fn a_stuck_rollout_opens_and_missing_replicas_only_join() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "checkout", "namespace": "shop", "uid": "d"},
            "status": {"conditions": [
                {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "lastTransitionTime": "2026-11-21T10:00:00Z"},
                {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "lastTransitionTime": "2026-11-21T10:00:00Z"}]},
        }))
        .unwrap();
        assert_eq!(of_deployment(&deployment).iter().map(|sign| sign.opens).collect::<Vec<_>>(), [true, false]);
    }
}

//! The signals of an incident as they are now: with the ends that their sources report, and with what arrived meanwhile.

use std::collections::BTreeMap;

use amend_crds::Incident;
use amend_diagnosis::entity::EntityKind;
use amend_diagnosis::evidence::{Answer, Window};
use amend_diagnosis::signal::{Signal, SignalSource};
use amend_telemetry::alert::{AlertState, firing};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::Api;

use super::Moment;
use crate::cluster::{self, Read};
use crate::intake::events::{is_of_pods, is_said_by, of_deployment};
use crate::reconcile::GatherError;
use crate::shell::Shell;

/// Deadline for asking rules whether one alert fires.
const ASKED_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Signals with the ends that their rules report: a lost "resolved" must not keep an incident open for ever.
pub async fn with_ends(shell: &Shell, namespace: &str, mut signals: Vec<Signal>, now: Timestamp) -> Vec<Signal> {
    let sources = shell.sources.serving(namespace).await;
    let open = signals.iter_mut().filter(|signal| signal.source == SignalSource::Alert && signal.ended_at.is_none());
    let asked = open.take(12).map(|signal| async {
        if let (Answer::Known(AlertState::Inactive), _) = firing(&sources, signal, now, ASKED_WITHIN).await {
            signal.ended_at = Some(now);
        }
    });
    futures::future::join_all(asked).await;
    let conditions =
        signals.iter_mut().filter(|signal| signal.source == SignalSource::Condition && signal.ended_at.is_none());
    let mut pods = Pods::default();
    for signal in conditions {
        let over = match is_of_pods(signal) {
            true => pods_say_no_more(shell, signal, &mut pods, now).await,
            false => object_says_no_more(shell, signal).await,
        };
        if over {
            signal.ended_at = Some(now);
        }
    }
    signals
}

/// The pods of each namespace that was asked about, listed once; none where they could not be read.
type Pods = BTreeMap<String, Option<Vec<Pod>>>;

/// Whether no pod of the workload says any more what the signal says. Pods that cannot be read have ended nothing.
async fn pods_say_no_more(shell: &Shell, signal: &Signal, pods: &mut Pods, now: Timestamp) -> bool {
    let namespace = &signal.entity.namespace;
    if !pods.contains_key(namespace) {
        pods.insert(namespace.clone(), listed(shell, namespace, now).await);
    }
    pods[namespace].as_ref().is_some_and(|pods| !pods.iter().any(|pod| is_said_by(signal, pod)))
}

async fn listed(shell: &Shell, namespace: &str, now: Timestamp) -> Option<Vec<Pod>> {
    let read = Read::of_kind("Pod")?;
    let (answer, _) =
        cluster::list(&shell.clients.reader(), read, Some(namespace), Window { from: now, to: now }).await;
    let objects = answer.known()?;
    objects.iter().map(|object| serde_json::from_value(object.clone()).ok()).collect()
}

/// Whether the object does not say any more what the signal says. Conditions have no "resolved" of their own.
async fn object_says_no_more(shell: &Shell, signal: &Signal) -> bool {
    let entity = &signal.entity;
    let Some(read) = Read::of_kind("Deployment").filter(|_| entity.kind == EntityKind::Deployment) else {
        return false;
    };
    match cluster::get(&shell.clients.reader(), read, &entity.namespace, &entity.name).await {
        Answer::Known(Some(object)) => match serde_json::from_value::<Deployment>(object) {
            Ok(deployment) => !of_deployment(&deployment).iter().any(|sign| sign.signal.key == signal.key),
            Err(_) => false,
        },
        Answer::Known(None) => true,
        Answer::Unknown { .. } => false,
    }
}

/// A signal with the end that was found for it, unless it was heard again since.
pub fn with_end(mut heard: Signal, asked: &[Signal]) -> Signal {
    let same = |signal: &&Signal| {
        signal.key == heard.key && signal.count == heard.count && signal.started_at == heard.started_at
    };
    let ended = asked.iter().find(same).and_then(|signal| signal.ended_at);
    heard.ended_at = heard.ended_at.or(ended);
    heard
}

/// Takes over what was written to the object meanwhile: gathering takes seconds, and in a storm signals arrive every second.
pub async fn newest(shell: &Shell, moment: &mut Moment) -> Result<(), GatherError> {
    let (namespace, name) = (moment.object.namespace().unwrap_or_default(), moment.object.name_any());
    let api: Api<Incident> = Api::namespaced(shell.clients.reader(), &namespace);
    let fresh =
        api.get(&name).await.map_err(|error| GatherError::unreadable(format!("incident {namespace}/{name}"), error))?;
    let ends: Vec<(String, Option<Timestamp>)> =
        moment.signals.iter().map(|signal| (signal.key.clone(), signal.ended_at)).collect();
    let known = fresh.status.as_ref().map(|status| status.signals.clone()).unwrap_or_default();
    let looked_at = moment.object.status.as_ref().map(|status| status.signals.clone()).unwrap_or_default();
    moment.signals = if known.is_empty() { fresh.spec.signals.clone() } else { known };
    for signal in &mut moment.signals {
        let before = looked_at.iter().find(|one| one.key == signal.key);
        // A signal that arrived again since we asked has news of its own.
        let unchanged = before.is_some_and(|before| before.count == signal.count && before.ended_at == signal.ended_at);
        if let Some((_, ended)) = ends.iter().find(|(key, _)| *key == signal.key).filter(|_| unchanged) {
            signal.ended_at = *ended;
        }
    }
    moment.object = fresh;
    Ok(())
}

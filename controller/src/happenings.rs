//! Kubernetes events and conditions become signals: they join an incident, and a closed list of reasons opens one.
//!
//! Watches only hint; every look at an incident reads the objects anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::incidents::Incidents;
use crate::intake::events::{Sign, of_deployment, of_event, of_pod, pod_to_look_at};
use crate::intake::queue::Queue;
use crate::shell::Shell;

/// A watch that ends by itself before the connection counts as dead.
fn config() -> watcher::Config {
    watcher::Config::default().timeout(45)
}

/// Watches warning events until `stop`.
pub async fn watch_events(shell: Arc<Shell>, queue: Queue, incidents: Incidents, stop: CancellationToken) {
    let api: Api<Event> = Api::all(shell.clients.reader());
    let only_warnings = config().fields("type=Warning");
    let started = shell.time.now();
    let own = shell.settings.release_namespace.clone();
    let stream = watcher(api, only_warnings).default_backoff().applied_objects();
    let seen = async {
        let mut looks = Looks::default();
        let mut events = std::pin::pin!(answered("events", stream));
        while let Some(event) = events.next().await {
            let Some(sign) = of_event(&event).filter(|sign| is_new(sign, started)) else { continue };
            let mut signs = vec![sign];
            if let Some((namespace, pod)) = pod_to_look_at(&event).filter(|(namespace, _)| *namespace != own) {
                let now = shell.time.now();
                if looks.may(namespace, pod, now) {
                    signs.extend(look_at(&shell, namespace, pod, now).await);
                }
            }
            pass_on(&queue, &incidents, signs).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = seen => {}
    }
}

/// When pods were last looked at because of an event, by namespace and what their names have in common.
///
/// One pod speaks for its siblings: a thousand pods of one workload that crash at once are read one at a time, not at once.
#[derive(Debug, Default)]
struct Looks {
    last: BTreeMap<(String, String), Timestamp>,
}

/// How long a workload's pods are not looked at again: the first pause of a crash loop. A look that came too early for the pod's
/// status is made up for at the next one.
const LOOKS_APART: SignedDuration = SignedDuration::from_secs(10);

/// Workloads remembered at once. When there are more, all are looked at anew.
const LOOKS_MAX: usize = 1_000;

/// How old a kill may be to be news of an event that has just come: a container keeps its last end for weeks.
const KILLED_WITHIN: SignedDuration = SignedDuration::from_mins(10);

impl Looks {
    fn may(&mut self, namespace: &str, pod: &str, now: Timestamp) -> bool {
        let siblings = pod.rsplit_once('-').map_or(pod, |(siblings, _)| siblings);
        let place = (namespace.to_owned(), siblings.to_owned());
        if self.last.get(&place).is_some_and(|last| now.duration_since(*last) < LOOKS_APART) {
            return false;
        }
        if self.last.len() >= LOOKS_MAX {
            self.last.clear();
        }
        self.last.insert(place, now);
        true
    }
}

/// What a pod says itself; nothing when it cannot be read, since its event was told already.
async fn look_at(shell: &Shell, namespace: &str, name: &str, now: Timestamp) -> Vec<Sign> {
    let api: Api<Pod> = Api::namespaced(shell.clients.reader(), namespace);
    match api.get_opt(name).await {
        Ok(Some(pod)) => of_pod(&pod).into_iter().filter(|sign| is_news(sign, now)).collect(),
        Ok(None) => Vec::new(),
        Err(error) => {
            tracing::debug!(namespace, name, %error, "a pod that an event is about was not read");
            Vec::new()
        }
    }
}

/// A condition that lasts is always news.
fn is_news(sign: &Sign, now: Timestamp) -> bool {
    sign.signal.ended_at.is_none_or(|at| now.duration_since(at) <= KILLED_WITHIN)
}

/// Watches conditions of Deployments until `stop`.
pub async fn watch_conditions(shell: Arc<Shell>, queue: Queue, incidents: Incidents, stop: CancellationToken) {
    let api: Api<Deployment> = Api::all(shell.clients.reader());
    let stream = watcher(api, config()).default_backoff().applied_objects();
    let own = shell.settings.release_namespace.clone();
    let seen = answered("deployments", stream).for_each(|deployment| {
        let (queue, incidents, own) = (queue.clone(), incidents.clone(), own.clone());
        async move {
            if deployment.namespace().as_deref() != Some(own.as_str()) {
                pass_on(&queue, &incidents, of_deployment(&deployment)).await;
            }
        }
    });
    tokio::select! {
        () = stop.cancelled() => {}
        () = seen => {}
    }
}

/// Keeps the store of open incidents in step with what others write.
pub async fn watch_incidents(client: Client, incidents: Incidents, stop: CancellationToken) {
    let api: Api<amend_crds::Incident> = Api::all(client);
    let stream = watcher(api, config()).default_backoff();
    let seen = answered("incidents", stream).for_each(|event| {
        let incidents = incidents.clone();
        async move {
            match event {
                watcher::Event::Apply(incident) | watcher::Event::InitApply(incident) => {
                    incidents.learn(&incident).await
                }
                watcher::Event::Delete(incident) => incidents.forget(&incident).await,
                watcher::Event::Init | watcher::Event::InitDone => {}
            }
        }
    });
    tokio::select! {
        () = stop.cancelled() => {}
        () = seen => {}
    }
}

/// Events that are older than this process were dealt with by the one before, or are history.
fn is_new(sign: &Sign, started: Timestamp) -> bool {
    sign.signal.started_at >= started || sign.signal.ended_at.is_some_and(|at| at >= started)
}

/// Signs that may open an incident go the way of alerts; the others only join one that is open already.
async fn pass_on(queue: &Queue, incidents: &Incidents, signs: Vec<Sign>) {
    let mut signals = Vec::new();
    for sign in signs {
        if sign.opens || incidents.has_open(&sign.signal.entity.namespace).await {
            signals.push(sign.signal);
        }
    }
    if !signals.is_empty()
        && let Err(error) = queue.submit(signals).await
    {
        tracing::debug!(%error, "a sign from the cluster was not stored");
    }
}

/// The items of a watch; errors are told and the watch goes on, with its own backoff.
fn answered<T>(what: &'static str, stream: impl Stream<Item = Result<T, watcher::Error>>) -> impl Stream<Item = T> {
    stream.filter_map(move |item| async move {
        item.inspect_err(|error| tracing::debug!(what, %error, "a watch was interrupted")).ok()
    })
}

/// Whether the API server answers for our own kinds: what readiness waits for.
pub async fn kinds_are_served(client: Client) -> Result<(), kube::Error> {
    let api: Api<amend_crds::Incident> = Api::all(client);
    api.list(&ListParams::default().limit(1)).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_pods_is_one_look_per_workload_and_pause() {
        let mut looks = Looks::default();
        let at = |second: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second);
        let storm = |looks: &mut Looks, second: i64| {
            (0..500).filter(|number| looks.may("shop", &format!("cart-7d9-{number:05}"), at(second))).count()
        };
        assert_eq!(storm(&mut looks, 0), 1);
        assert_eq!(storm(&mut looks, 9), 0);
        assert_eq!(storm(&mut looks, 10), 1);
        assert!(looks.may("shop", "search-5c6-abcde", at(0)) && looks.may("other", "cart-7d9-00001", at(0)));
        for number in 0..10_000 {
            looks.may("shop", &format!("{number}-x"), at(20));
        }
        assert!(looks.last.len() <= LOOKS_MAX);
    }
}

//! Kubernetes events and conditions become signals: they join an incident, and a closed list of reasons opens one.
//!
//! Watches only hint; every look at an incident reads the objects anew.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::incidents::Incidents;
use crate::intake::events::{Sign, of_deployment, of_event};
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
    let stream = watcher(api, only_warnings).default_backoff().applied_objects();
    let seen = answered("events", stream).for_each(|event| {
        let (queue, incidents) = (queue.clone(), incidents.clone());
        async move {
            if let Some(sign) = of_event(&event).filter(|sign| is_new(sign, started)) {
                pass_on(&queue, &incidents, vec![sign]).await;
            }
        }
    });
    tokio::select! {
        () = stop.cancelled() => {}
        () = seen => {}
    }
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
fn is_new(sign: &Sign, started: jiff::Timestamp) -> bool {
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

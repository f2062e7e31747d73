//! The modelled application on real parts: its metrics are scraped by a real Prometheus, its traces and logs go to a
//! real Jaeger and Loki, and what it does follows from the live objects.
//!
//! Whether a container runs is said by the cluster (KWOK's stages write it); how it then does, by the model.

mod history;
mod spans;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amend_sandbox::model::graph::ServiceGraph;
use amend_sandbox::model::seen::{Seen, told};
use amend_sandbox::model::{Container, LogLine, Model, Span, State, exposition};
use anyhow::Context;
use axum::Router;
use axum::routing::get;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DynamicObject, ListParams};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bench::{Bench, Jaeger, free_port};

/// How often the model moves on and the live objects are read: as often as Prometheus scrapes.
const PACE: Duration = Duration::from_secs(1);

/// A healthy past of this length is written before the present begins: an hour to compare with, and room for rates.
const PAST: SignedDuration = SignedDuration::from_mins(75);

/// An application that runs in one namespace. Dropping it stops it.
#[derive(Debug)]
pub struct Workload {
    namespace: String,
    graph: watch::Sender<ServiceGraph>,
    task: JoinHandle<()>,
    server: JoinHandle<()>,
}

/// Where its traces and logs go.
#[derive(Clone, Debug)]
struct Stores {
    bench: Arc<Bench>,
    /// Traces carry no namespace in their service names, so every application has a store of its own.
    traces: Arc<Bench>,
}

impl Workload {
    /// Writes a healthy past of the pods that are there, then lets the application run from now on.
    ///
    /// `traces` is a bench with the Jaeger of this application alone.
    ///
    /// # Errors
    /// When the objects cannot be read or Prometheus refuses the past.
    pub async fn start(
        bench: &Arc<Bench>,
        traces: &Arc<Bench>,
        namespace: &str,
        graph: ServiceGraph,
    ) -> anyhow::Result<Self> {
        let cluster = Cluster::new(bench.control_plane().client().await?, namespace, &graph);
        let mut cluster = cluster;
        let seen = cluster.look().await?;
        cluster.old = seen.pods.iter().map(|pod| pod.uid.clone()).collect();
        let now = Timestamp::now();
        let mut model = Model::new(graph.clone(), now - PAST);
        bench.prometheus().write(&history::lived(&mut model, &seen, now)).await.context("the past")?;

        let page = Arc::new(Mutex::new(exposition(&model.scrape())));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", free_port()?)).await?;
        let address = listener.local_addr()?.to_string();
        let shown = Arc::clone(&page);
        let metrics = get(move || async move { shown.lock().map(|page| page.clone()).unwrap_or_default() });
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, Router::new().route("/metrics", metrics)).await {
                tracing::warn!(%error, "the metrics page ended");
            }
        });
        let stores = Stores { bench: Arc::clone(bench), traces: Arc::clone(traces) };
        let (graph, behaviour) = watch::channel(graph);
        let task = tokio::spawn(live(model, cluster, behaviour, page, stores));
        let workload = Self { namespace: namespace.to_owned(), graph, task, server };
        bench.prometheus().scrape(&workload.namespace, &address, &[]).await?;
        Ok(workload)
    }

    /// From now on the application behaves otherwise, for a reason that no object shows.
    pub fn becomes(&self, change: impl FnOnce(&mut ServiceGraph)) {
        self.graph.send_modify(change);
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.task.abort();
        self.server.abort();
    }
}

/// The live objects of one namespace.
#[derive(Clone, Debug)]
struct Cluster {
    pods: Api<DynamicObject>,
    config_maps: Api<DynamicObject>,
    services: BTreeSet<String>,
    /// Pods that were there in the past that was written: they have run since then.
    old: BTreeSet<String>,
}

impl Cluster {
    fn new(client: kube::Client, namespace: &str, graph: &ServiceGraph) -> Self {
        let core = |kind: &str| {
            let kind = kube::api::GroupVersionKind::gvk("", "v1", kind);
            Api::namespaced_with(client.clone(), namespace, &kube::discovery::ApiResource::from_gvk(&kind))
        };
        Self {
            pods: core("Pod"),
            config_maps: core("ConfigMap"),
            services: graph.services.keys().cloned().collect(),
            old: BTreeSet::new(),
        }
    }

    async fn look(&self) -> anyhow::Result<Seen> {
        let all = ListParams::default();
        let (pods, config_maps) = tokio::try_join!(self.pods.list(&all), self.config_maps.list(&all))?;
        let pods = pods.items.iter().map(serde_json::to_value).collect::<Result<Vec<Value>, _>>()?;
        let maps = config_maps.items.iter().map(serde_json::to_value).collect::<Result<Vec<Value>, _>>()?;
        let mut seen = Seen::read(pods.iter(), maps.iter());
        seen.pods.retain(|pod| self.services.contains(&pod.service));
        for pod in &mut seen.pods {
            let status = pods.iter().find(|object| object["metadata"]["uid"] == pod.uid.as_str());
            let mut told = status.and_then(told).unwrap_or_else(creating);
            if let (State::Running { since }, None, true) = (&mut told.state, &told.last, self.old.contains(&pod.uid)) {
                *since -= PAST;
            }
            pod.told = Some(told);
        }
        Ok(seen)
    }
}

fn creating() -> Container {
    let state = State::Waiting { reason: "ContainerCreating", message: String::new() };
    Container { state, ready: false, restarts: 0, last: None }
}

/// Moves the model on, step by step, until it is torn down.
async fn live(
    mut model: Model,
    cluster: Cluster,
    mut behaviour: watch::Receiver<ServiceGraph>,
    page: Arc<Mutex<String>>,
    stores: Stores,
) {
    let mut tick = tokio::time::interval(PACE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // An API server that does not answer is no reason for an application to stop.
        let Ok(seen) = cluster.look().await else { continue };
        if behaviour.has_changed().unwrap_or(false) {
            model.set_graph(behaviour.borrow_and_update().clone());
        }
        let step = model.step(Timestamp::now(), seen);
        if let Ok(mut page) = page.lock() {
            *page = exposition(&model.scrape());
        }
        if let Err(error) = stores.keep(&step.logs, &step.spans).await {
            tracing::debug!(%error, "a store took no logs or traces");
        }
    }
}

impl Stores {
    async fn keep(&self, logs: &[LogLine], spans: &[Span]) -> anyhow::Result<()> {
        let jaeger: &Jaeger = self.traces.jaeger();
        if !spans.is_empty() {
            jaeger.send(&spans::exported(spans)).await?;
        }
        for line in logs {
            let labels: Vec<(&str, &str)> =
                line.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            self.bench.loki().push(&labels, &[(line.at, line.line.as_str())]).await?;
        }
        Ok(())
    }
}

//! Telemetry stores in memory behind the HTTP interfaces of the real ones.

pub mod alertmanager;
pub mod jaeger;
pub mod loki;
mod post;
mod prometheus;
pub mod promql;
pub mod rules;
pub mod tsdb;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

use crate::clock::SandboxClock;
use crate::model::{LogLine, Model, Span};
use crate::serving::{Serving, serve};
use alertmanager::Alertmanager;
use jaeger::Jaeger;
use loki::Loki;
use rules::Rules;
use tsdb::{Labels, Tsdb};

/// Virtual time between scrapes, and between evaluations of the rules.
pub const SCRAPE: SignedDuration = SignedDuration::from_secs(10);

/// How often old samples are forgotten.
const SWEEP: SignedDuration = SignedDuration::from_mins(10);

/// What the query handlers share.
#[derive(Clone, Debug)]
pub(crate) struct Stores {
    clock: SandboxClock,
    tsdb: Arc<Mutex<Tsdb>>,
    rules: Arc<Mutex<Rules>>,
}

impl Stores {
    fn tsdb(&self) -> MutexGuard<'_, Tsdb> {
        self.tsdb.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running stores.
#[derive(Debug)]
pub struct Telemetry {
    stores: Stores,
    alertmanager: Alertmanager,
    prometheus: Serving,
    alertmanager_server: Serving,
    loki: Loki,
    loki_server: Serving,
    jaeger: Jaeger,
    jaeger_server: Serving,
    scraped: Option<Timestamp>,
    swept: Timestamp,
    quiet: bool,
}

impl Telemetry {
    /// Starts every store, empty, on free ports of 127.0.0.1.
    pub async fn start(clock: SandboxClock) -> std::io::Result<Self> {
        let stores = Stores { clock: clock.clone(), tsdb: Arc::default(), rules: Arc::default() };
        let (loki, jaeger) = (Loki::new(clock.clone()), Jaeger::new(clock.clone()));
        let loki_server = serve(loki.router()).await?;
        let jaeger_server = serve(jaeger.router()).await?;
        let alertmanager = Alertmanager::new(clock);
        let prometheus = serve(prometheus::router(stores.clone())).await?;
        let alertmanager_server = serve(alertmanager.router()).await?;
        alertmanager.set_url(format!("http://{}", alertmanager_server.address()));
        Ok(Self {
            stores,
            alertmanager,
            prometheus,
            alertmanager_server,
            loki,
            loki_server,
            jaeger,
            jaeger_server,
            scraped: None,
            swept: Timestamp::UNIX_EPOCH,
            quiet: false,
        })
    }

    /// URL of Prometheus.
    pub fn prometheus_url(&self) -> String {
        format!("http://{}", self.prometheus.address())
    }

    /// URL of Alertmanager.
    pub fn alertmanager_url(&self) -> String {
        format!("http://{}", self.alertmanager_server.address())
    }

    /// URL of Loki.
    pub fn loki_url(&self) -> String {
        format!("http://{}", self.loki_server.address())
    }

    /// URL of Jaeger's query service.
    pub fn jaeger_url(&self) -> String {
        format!("http://{}", self.jaeger_server.address())
    }

    /// The Alertmanager itself.
    pub fn alertmanager(&self) -> &Alertmanager {
        &self.alertmanager
    }

    /// Adds an alert rule.
    pub fn add_rule(&self, rule: rules::AlertRule) -> Result<(), promql::PromqlError> {
        self.stores.rules().add(rule)
    }

    /// Evaluates a query now, for tests and scenarios.
    pub fn query(&self, text: &str) -> Result<promql::Answer, promql::PromqlError> {
        promql::evaluate(&promql::parse(text)?, &self.stores.tsdb(), self.stores.clock.now().as_millisecond())
    }

    /// Leaves out the evaluation of rules, for cheap history in which nothing happens.
    pub fn set_quiet(&mut self, quiet: bool) {
        self.quiet = quiet;
    }

    /// How many samples are held.
    pub fn samples(&self) -> usize {
        self.stores.tsdb().len()
    }

    /// Takes in what happened, and scrapes and evaluates when it is time. A dead Prometheus does neither.
    pub fn step(&mut self, now: Timestamp, model: &Model, logs: Vec<LogLine>, spans: Vec<Span>) {
        // What is sent to a dead store is lost.
        if !self.loki_server.is_cut() {
            self.loki.push(logs);
        }
        if !self.jaeger_server.is_cut() {
            self.jaeger.push(spans);
        }
        let due = self.scraped.is_none_or(|last| now.duration_since(last) >= SCRAPE);
        if due && !self.prometheus.is_cut() {
            self.scraped = Some(now);
            let samples = model.scrape();
            let mut tsdb = self.stores.tsdb();
            let at = now.as_millisecond();
            tsdb.scrape(
                "model",
                at,
                samples.iter().map(|sample| (sample.name, sample.labels.as_slice(), sample.value)),
            );
            let alerts = if self.quiet { Vec::new() } else { self.stores.rules().evaluate(&mut tsdb, now) };
            if now.duration_since(self.swept) >= SWEEP {
                self.swept = now;
                tsdb.forget(at);
            }
            drop(tsdb);
            self.alertmanager.receive(alerts);
        }
        if !self.alertmanager_server.is_cut() {
            self.alertmanager.step(now);
        }
    }

    fn servers(&self) -> [&Serving; 4] {
        [&self.prometheus, &self.alertmanager_server, &self.loki_server, &self.jaeger_server]
    }

    /// Cuts every store off: connections drop, nothing is scraped, taken in or evaluated.
    pub fn cut(&self) {
        self.servers().into_iter().for_each(Serving::cut);
    }

    /// Cuts off Prometheus alone.
    pub fn cut_prometheus(&self) {
        self.prometheus.cut();
    }

    /// Brings everything back.
    pub fn mend(&self) {
        self.servers().into_iter().for_each(Serving::mend);
    }
}

/// Queries that are answered at once. The stores are locked anyway, and each thread keeps tens of MiB that it once used.
static ASIDE: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(2);

/// Answers a query away from the threads that serve: a store's lock and a long range would hold up the API server, and
/// with it the lease of the controller, which runs in the same process.
pub(crate) async fn aside(work: impl FnOnce() -> Response + Send + 'static) -> Response {
    let _turn = ASIDE.acquire().await;
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// A stable id of a label set.
pub(crate) fn fingerprint(labels: &Labels) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for (name, value) in labels {
        hash.update(name);
        hash.update([0xff]);
        hash.update(value);
        hash.update([0xff]);
    }
    hex::encode(&hash.finalize()[..8])
}

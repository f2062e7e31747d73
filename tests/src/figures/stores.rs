//! What sees a fleet: a Prometheus that scrapes it and knows which containers are killed, and an Alertmanager without silences.

use amend_sandbox::SandboxClock;
use amend_sandbox::model::Model;
use amend_sandbox::telemetry::rules::AlertRule;
use amend_sandbox::telemetry::{SCRAPE, Telemetry};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// The alert that the figures send, with the labels that they send; every service of the fleet is killed, so each fires.
const KILLED: &str = r#"
alert: ContainerOOMKilled
expr: max by (namespace, deployment) (kube_deployment_status_replicas) > 0
labels: { severity: critical, container: app }
"#;

/// Stores that are kept up to date; they end when they are dropped.
#[derive(Debug)]
pub struct Stores {
    prometheus: String,
    alertmanager: String,
    scraping: JoinHandle<()>,
}

/// Empty stores.
///
/// # Errors
/// When a port cannot be opened.
pub async fn started(clock: SandboxClock) -> anyhow::Result<Telemetry> {
    let telemetry = Telemetry::start(clock).await?;
    let rule: AlertRule = serde_saphyr::from_str(KILLED)?;
    telemetry.add_rule(rule)?;
    Ok(telemetry)
}

impl Stores {
    /// Goes on scraping the fleet as it stands: its pods stay as they are, and their alerts go on firing.
    #[must_use]
    pub fn kept_up(mut telemetry: Telemetry, model: Model, clock: SandboxClock) -> Self {
        let (prometheus, alertmanager) = (telemetry.prometheus_url(), telemetry.alertmanager_url());
        let every = std::time::Duration::from_millis(u64::try_from(SCRAPE.as_millis()).unwrap_or(10_000));
        let scraping = tokio::spawn(async move {
            let mut beat = tokio::time::interval(every);
            loop {
                beat.tick().await;
                telemetry.step(clock.now(), &model, Vec::new(), Vec::new());
            }
        });
        Self { prometheus, alertmanager, scraping }
    }

    /// The objects that tell the controller of them.
    #[must_use]
    pub fn sources(&self, namespaces: &[String]) -> [Value; 2] {
        let source = |name: &str, mut spec: Value| {
            spec["allowedNamespaces"] = json!(namespaces);
            json!({"apiVersion": "amend.dev/v1alpha1", "kind": "TelemetrySource",
                "metadata": {"name": name, "namespace": "amend-system"}, "spec": spec})
        };
        let prometheus = json!({"kind": "Prometheus", "url": self.prometheus, "sampleEvery": "10s"});
        let alertmanager = json!({"kind": "Alertmanager", "url": self.alertmanager});
        [source("prometheus", prometheus), source("alertmanager", alertmanager)]
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        self.scraping.abort();
    }
}

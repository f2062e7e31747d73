//! The stage: the sandbox's world, the objects a platform team applies, and the production controller.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amend_controller::runtime::{self, Running};
use amend_controller::settings::Settings;
use amend_crds::{GitTarget, RemediationPolicy, TelemetrySource};
use amend_policies::library::LIBRARY;
use amend_sandbox::{Endpoints, SandboxClock, Scenario, World};
use anyhow::{Context, bail};
use clap::Parser;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::tempo::Tempo;

/// The ready policies that the shop uses, as the library ships them.
const POLICIES: [&str; 2] = ["raise-memory-after-oom", "revert-bad-release"];

/// Where Amend is installed in the sandbox.
pub const RELEASE_NAMESPACE: &str = "amend-system";

/// What Alertmanager shows at the door. Both ends are made here and listen on loopback only.
const INTAKE_TOKEN: &str = "sandbox-alertmanager-token";

/// Longest wait until every object that we applied is taken in. On a slow machine it takes two seconds.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Everything that runs during a demo; it ends when this is dropped.
pub struct Setting {
    pub world: World,
    pub tempo: Arc<Tempo>,
    /// Reads what there is to see, as an administrator would.
    pub client: Client,
    /// `http://127.0.0.1:PORT` of Amend.
    pub dashboard: String,
    /// An administrator's kubeconfig, so that a person can try the other verbs in this world.
    pub kubeconfig: std::path::PathBuf,
    pub endpoints: Endpoints,
    running: Running,
    stop: CancellationToken,
    _scratch: TempDir,
}

/// So that the defaults of the settings are those of `amend controller`.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    settings: Settings,
}

impl Setting {
    /// Builds the world, starts the controller in it, and waits until both know each other.
    pub async fn start(scenario: Scenario, began: Instant) -> anyhow::Result<Self> {
        let clock = SandboxClock::scaled(now(), 1.0);
        let crds = amend_crds::schema::files().map_err(|error| anyhow::anyhow!("cannot make the CRDs: {error}"))?;
        let crds: Vec<String> = crds.into_iter().map(|(_, text)| text).collect();
        let world = World::start(scenario, clock.clone(), &crds).await.context("cannot start the sandbox")?;
        let tempo = Arc::new(Tempo::new(clock, began));
        let endpoints = world.endpoints();
        apply(&world, &endpoints)?;
        let scratch = TempDir::with_prefix("amend-demo-").context("cannot make a scratch folder")?;
        let kubeconfig = scratch.path().join("kubeconfig");
        std::fs::write(&kubeconfig, &endpoints.admin_kubeconfig).context("cannot write a kubeconfig")?;
        let stop = CancellationToken::new();
        let settings = settings(&scratch)?;
        let config = config(&endpoints.controller_kubeconfig).await?;
        let running = runtime::start(settings, config, tempo.clone(), stop.clone()).await?;
        let dashboard = format!("http://{}", running.address);
        let receiver = format!("{dashboard}/intake/alertmanager").parse().context("the controller has no URL")?;
        world.set_alert_receiver(receiver, INTAKE_TOKEN);
        let client = Client::try_from(config_of_admin(&endpoints).await?).context("cannot read the sandbox")?;
        let setting = Self { world, tempo, client, dashboard, kubeconfig, endpoints, running, stop, _scratch: scratch };
        setting.ready().await?;
        Ok(setting)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let waiting = self.waiting_for().await?;
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the controller does not take in what the demo applied: {}", waiting.join("; "));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What is not ready, with its reason.
    async fn waiting_for(&self) -> anyhow::Result<Vec<String>> {
        let all = ListParams::default();
        let mut waiting = Vec::new();
        let mut look = |name: String, wanted: &str, conditions: &[Condition]| {
            let found = conditions.iter().find(|one| one.type_ == wanted);
            if found.is_none_or(|one| one.status != "True") {
                waiting.push(format!("{name} {}", found.map_or("was not looked at", |one| one.message.as_str())));
            }
        };
        for one in Api::<TelemetrySource>::all(self.client.clone()).list(&all).await? {
            let conditions = one.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            look(format!("TelemetrySource {}", one.name_any()), "Ready", conditions);
        }
        for one in Api::<GitTarget>::all(self.client.clone()).list(&all).await? {
            let conditions = one.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            look(format!("GitTarget {}", one.name_any()), "Ready", conditions);
        }
        for one in Api::<RemediationPolicy>::all(self.client.clone()).list(&all).await? {
            let conditions = one.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            look(format!("RemediationPolicy {}", one.name_any()), "Accepted", conditions);
        }
        Ok(waiting)
    }

    /// Stops the controller and waits a little for it.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(2), self.running.ended()).await {
            tracing::warn!(%error, "the controller did not end well");
        }
    }
}

/// The world begins today, so that dates in pull requests and records look familiar.
#[allow(clippy::disallowed_methods)] // The one place where the demo takes the date from the machine.
fn now() -> Timestamp {
    Timestamp::now()
}

fn apply(world: &World, endpoints: &Endpoints) -> anyhow::Result<()> {
    let objects = endpoints.filled(include_str!("objects.yaml"));
    world.apply_yaml(&objects)?;
    for policy in LIBRARY.iter().filter(|entry| POLICIES.contains(&entry.name)) {
        world.apply_yaml(policy.yaml)?;
    }
    Ok(())
}

fn settings(scratch: &TempDir) -> anyhow::Result<Settings> {
    let token = scratch.path().join("intake-token");
    std::fs::write(&token, INTAKE_TOKEN).context("cannot write the intake token")?;
    let mut settings = Flags::try_parse_from(["amend"]).context("the controller's settings have no defaults")?.settings;
    settings.release_namespace = RELEASE_NAMESPACE.into();
    settings.replica = "amend-demo".into();
    settings.listen = std::net::SocketAddr::from_str("127.0.0.1:0")?;
    settings.scratch = scratch.path().join("git");
    settings.egress_allow = vec!["127.0.0.0/8".into()];
    settings.intake_token_file = Some(token);
    settings.dashboard_anonymous_loopback = true;
    settings.otlp_endpoint = None;
    Ok(settings)
}

async fn config_of_admin(endpoints: &Endpoints) -> anyhow::Result<Config> {
    config(&endpoints.admin_kubeconfig).await
}

async fn config(kubeconfig: &str) -> anyhow::Result<Config> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).context("the sandbox's kubeconfig cannot be read")?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("the sandbox's kubeconfig is not usable")
}

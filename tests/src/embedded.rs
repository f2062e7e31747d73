//! The production controller in the sandbox's world, as `amend demo` runs it: for tests that need the whole loop and no cluster.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use amend_controller::runtime::{self, Running};
use amend_controller::settings::{LogFormat, Settings};
use amend_controller::time::Time;
use amend_policies::library::LIBRARY;
use amend_sandbox::{Endpoints, SandboxClock, Scenario, World};
use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::bench::until;

/// What Alertmanager shows at the door.
pub const INTAKE_TOKEN: &str = "embedded-alertmanager-token";

/// Where Amend is installed.
pub const RELEASE_NAMESPACE: &str = "amend-system";

/// The world begins here; nothing depends on the date.
const BEGINNING: &str = "2026-03-02T09:00:00Z";

/// How much faster than the wall time flows while Amend works: its own second must not become a minute of the story.
const WORKING: f64 = 6.0;

/// How much faster time flows while nothing but time is needed.
const WAITING: f64 = 40.0;

/// The objects that the platform team applied; words in capitals are filled in.
pub const PLATFORM: &str = include_str!("embedded/platform.yaml");

/// A world with a controller in it; both end when it is dropped.
pub struct Embedded {
    pub world: World,
    pub endpoints: Endpoints,
    /// Base URL of the controller.
    pub url: String,
    stop: CancellationToken,
    _scratch: tempfile::TempDir,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Embedded").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The story's clock, as the controller reads it.
#[derive(Debug)]
struct StoryTime(SandboxClock);

impl Time for StoryTime {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn sleep(&self, span: SignedDuration) -> BoxFuture<'static, ()> {
        let clock = self.0.clone();
        async move { clock.sleep(span).await }.boxed()
    }

    fn in_real_time(&self, span: SignedDuration) -> Duration {
        let speed = self.0.speed().unwrap_or(1.0);
        Duration::try_from_secs_f64((span.as_secs_f64() / speed).max(0.0)).unwrap_or_default()
    }
}

impl Embedded {
    /// Builds the world of a scenario with the platform's objects, two ready policies and the controller.
    ///
    /// # Errors
    /// When the world or the controller does not start.
    pub async fn start(scenario: Scenario) -> anyhow::Result<Self> {
        Self::start_with(scenario, |_| ()).await
    }

    /// The same with other settings of the controller.
    ///
    /// # Errors
    /// When the world or the controller does not start.
    pub async fn start_with(scenario: Scenario, change: impl FnOnce(&mut Settings)) -> anyhow::Result<Self> {
        Self::start_on(scenario, PLATFORM, change).await
    }

    /// The same on other objects of the platform.
    ///
    /// # Errors
    /// When the world or the controller does not start.
    pub async fn start_on(
        scenario: Scenario,
        platform: &str,
        change: impl FnOnce(&mut Settings),
    ) -> anyhow::Result<Self> {
        crate::bench::install_crypto();
        let clock = SandboxClock::scaled(BEGINNING.parse()?, WORKING);
        let crds = amend_crds::schema::files().map_err(|error| anyhow::anyhow!("cannot make the CRDs: {error}"))?;
        let crds: Vec<String> = crds.into_iter().map(|(_, text)| text).collect();
        let world = World::start(scenario, clock.clone(), &crds).await.context("cannot start the sandbox")?;
        let endpoints = world.endpoints();
        world.apply_yaml(&endpoints.filled(platform))?;
        for policy in LIBRARY.iter().filter(|one| ["raise-memory-after-oom", "revert-bad-release"].contains(&one.name))
        {
            world.apply_yaml(policy.yaml)?;
        }
        let scratch = tempfile::tempdir()?;
        let token = scratch.path().join("intake-token");
        std::fs::write(&token, INTAKE_TOKEN)?;
        let kubeconfig = Kubeconfig::from_yaml(&endpoints.controller_kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let stop = CancellationToken::new();
        let mut settings = settings(scratch.path().join("git"), token);
        settings.listen.set_port(crate::bench::free_port()?);
        change(&mut settings);
        let time: Arc<dyn Time> = Arc::new(StoryTime(clock));
        let url = format!("http://{}", settings.listen);
        // Each start has a token of its own: a controller that ends cancels it.
        let first = runtime::start(settings.clone(), config.clone(), Arc::clone(&time), stop.child_token()).await?;
        tokio::spawn(kept_running(first, settings, config, time, stop.clone()));
        world.set_alert_receiver(format!("{url}/intake/alertmanager").parse()?, INTAKE_TOKEN);
        Ok(Self { world, endpoints, url, stop, _scratch: scratch })
    }

    /// The text with the words for URLs and credentials filled in.
    #[must_use]
    pub fn filled(&self, text: &str) -> String {
        self.endpoints.filled(text)
    }

    /// Lets time flow as fast as it can while nothing but time is needed; [`Self::work`] ends that.
    pub fn hurry(&self) {
        self.world.clock().flow(WAITING);
    }

    /// Lets time flow as it should while Amend works.
    pub fn work(&self) {
        self.world.clock().flow(WORKING);
    }

    /// Every object of a resource, like `incidents.amend.dev`.
    #[must_use]
    pub fn all(&self, resource: &str) -> Vec<Arc<Value>> {
        self.world.api().store().list(resource, None)
    }

    /// One object.
    #[must_use]
    pub fn one(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.world.api().store().get(resource, namespace, name)
    }

    /// What incidents and remediations say about themselves, for messages of failing tests.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let told = |object: &Value| {
            let status = &object["status"];
            format!("{} {} {}: {}", object["kind"], object["metadata"]["name"], status["phase"], status["because"])
        };
        let objects = self.all("incidents.amend.dev").into_iter().chain(self.all("remediations.amend.dev"));
        objects.map(|object| told(&object).replace('"', "")).collect()
    }

    /// Waits until `found` finds something in this world. What incidents and remediations say meanwhile is printed, for the
    /// reader of a test that failed or took long.
    ///
    /// # Errors
    /// When it does not within `limit`: with what incidents and remediations say then.
    pub async fn wait<T>(&self, what: &str, limit: Duration, found: impl Fn(&Self) -> Option<T>) -> anyhow::Result<T> {
        let began = Instant::now();
        let heard = Mutex::new(Vec::new());
        let waited = until(what, limit, || async {
            let told = self.told();
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            for news in told.iter().filter(|one| !heard.contains(*one)) {
                eprintln!("{:>6.1} s {news}", began.elapsed().as_secs_f64());
            }
            *heard = told;
            Ok::<_, anyhow::Error>(found(self))
        })
        .await;
        eprintln!("{:>6.1} s waited for {what}", began.elapsed().as_secs_f64());
        waited.with_context(|| format!("{:#?}", self.told()))
    }
}

/// Starts the controller again when it ends, as the kubelet would: on a busy machine it may lose its lease.
async fn kept_running(
    mut running: Running,
    settings: Settings,
    config: Config,
    time: Arc<dyn Time>,
    stop: CancellationToken,
) {
    loop {
        let ended = running.ended().await;
        if stop.is_cancelled() {
            return;
        }
        eprintln!("the controller ended and is started again: {ended:?}");
        let start = || runtime::start(settings.clone(), config.clone(), Arc::clone(&time), stop.child_token());
        match until("the controller to start again", Duration::from_secs(60), || async { start().await.map(Some) })
            .await
        {
            Ok(again) => running = again,
            Err(error) => return eprintln!("the controller does not start again: {error:#}"),
        }
    }
}

fn settings(scratch: PathBuf, token: PathBuf) -> Settings {
    Settings {
        release_namespace: RELEASE_NAMESPACE.to_owned(),
        replica: "amend-embedded".to_owned(),
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        scratch,
        egress_allow: vec!["127.0.0.0/8".to_owned()],
        telemetry_files: None,
        intake_token_file: Some(token),
        ci_secret_file: None,
        cluster_name: None,
        external_label: Vec::new(),
        group_window: SignedDuration::from_mins(10),
        clear_for: SignedDuration::from_mins(5),
        absent_for: SignedDuration::from_mins(30),
        page_url: None,
        page_secret_file: None,
        model_url: None,
        model_name: None,
        model_key_file: None,
        otlp_endpoint: None,
        log_format: LogFormat::Text,
        tls_cert: None,
        tls_key: None,
        tls_client_ca: None,
        public_url: None,
        dashboard_anonymous_loopback: true,
    }
}

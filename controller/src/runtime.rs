//! Starts everything, in the order in which it can work: clients, kinds, server, leadership, records, controllers.

use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use amend_telemetry::egress::{Allowed, Egress};
use amend_telemetry::model::{Model, ModelConfig};
use amend_telemetry::secret_file::SecretFile;
use anyhow::Context;
use k8s_openapi::api::core::v1::Namespace;
use kube::Config;
use kube::api::Api;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::builds::Builds;
use crate::census::{self, Census};
use crate::clients::Clients;
use crate::controllers::approval::ApprovalControl;
use crate::controllers::build::BuildControl;
use crate::controllers::gittarget::GitTargetControl;
use crate::controllers::incident::IncidentControl;
use crate::controllers::remediation::RemediationControl;
use crate::controllers::remediationpolicy::PolicyControl;
use crate::controllers::telemetrysource::TelemetrySourceControl;
use crate::dashboard;
use crate::dashboard::session::{Door, TokenReviews};
use crate::dashboard::views::Reader;
use crate::effects::Effects;
use crate::happenings;
use crate::incidents::Incidents;
use crate::intake::alertmanager::Naming;
use crate::intake::proof::Secrets;
use crate::intake::queue::Queue;
use crate::intake::receive::{self, Senders};
use crate::leader::{Candidacy, Standing, campaign};
use crate::metrics::Metrics;
use crate::notify::Pager;
use crate::notify::webhook::Webhook;
use crate::reconcile;
use crate::recorder::Recorder;
use crate::reports::Reports;
use crate::requested::Requested;
use crate::server::tls::Tls;
use crate::server::{self, Health};
use crate::settings::Settings;
use crate::shell::Shell;
use crate::sources::Sources;
use crate::targets::Targets;
use crate::time::Time;
use crate::topology::Topologies;
use crate::views::Views;

/// How often the API server is asked whether our kinds are there, while they are not.
const KINDS_AGAIN: Duration = Duration::from_secs(2);

/// Longest wait for tasks to end once we are stopping; effects under way take at most their own deadline.
const DRAIN: Duration = Duration::from_secs(30);

/// A controller that is starting: its address is known before it leads.
#[derive(Debug)]
pub struct Running {
    /// Where the HTTP server listens.
    pub address: SocketAddr,
    pub shell: Arc<Shell>,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Waits until the controller has ended: after `stop`, or because it may no longer lead.
    pub async fn ended(self) -> anyhow::Result<()> {
        self.task.await.context("the controller's task was torn down")?
    }
}

/// Starts a controller and returns once its server listens.
///
/// # Errors
/// When settings are wrong or the API server cannot be reached; later trouble is in [`Running::ended`].
pub async fn start(
    settings: Settings,
    config: Config,
    time: Arc<dyn Time>,
    stop: CancellationToken,
) -> anyhow::Result<Running> {
    if settings.dashboard_anonymous_loopback && !settings.listen.ip().is_loopback() {
        anyhow::bail!(
            "--dashboard-anonymous-loopback shows the dashboard to everybody: it needs --listen on a loopback address"
        );
    }
    std::fs::create_dir_all(&settings.scratch)
        .with_context(|| format!("cannot make the scratch folder {}", settings.scratch.display()))?;
    let listener =
        TcpListener::bind(settings.listen).await.with_context(|| format!("cannot listen on {}", settings.listen))?;
    let address = listener.local_addr().context("the listener has no address")?;
    let shell = shell(settings, config, time).await?;
    let task = tokio::spawn(run(shell.clone(), listener, stop));
    Ok(Running { address, shell, task })
}

/// Everything that is shared, without anything that runs: what verbs need to ask the same questions as the controller.
///
/// # Errors
/// When settings are wrong or the API server cannot be reached.
pub async fn shell(settings: Settings, config: Config, time: Arc<dyn Time>) -> anyhow::Result<Arc<Shell>> {
    let clients = Clients::new(config)?;
    let install = install(&clients, &settings.release_namespace).await?;
    Ok(Arc::new(assembled(settings, clients, time, install)?))
}

/// The same for whoever only asks: nothing needs to be installed yet, and nothing can be named after an installation.
///
/// # Errors
/// When settings are wrong.
pub fn asking(settings: Settings, config: Config, time: Arc<dyn Time>) -> anyhow::Result<Shell> {
    assembled(settings, Clients::new(config)?, time, String::new())
}

fn assembled(settings: Settings, clients: Clients, time: Arc<dyn Time>, install: String) -> anyhow::Result<Shell> {
    let metrics = Metrics::new();
    let allowed = settings
        .egress_allow
        .iter()
        .map(|entry| Allowed::from_str(entry).with_context(|| format!("--egress-allow {entry}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let files = settings.telemetry_files.clone().map(Allowed::Directory);
    let egress = Egress::new(allowed.into_iter().chain(files));
    Ok(Shell {
        install,
        model: model(&settings, &egress)?,
        time,
        recorder: Recorder::default(),
        sources: Sources::new(clients.clone(), &settings.release_namespace, egress),
        targets: Targets::new(
            clients.clone(),
            &settings.release_namespace,
            settings.scratch.clone(),
            &settings.egress_allow,
        ),
        topologies: Topologies::default(),
        requested: Requested::default(),
        nudges: reconcile::Nudges::default(),
        reports: Reports::default(),
        unknown_lines: Arc::default(),
        diagnoses: Semaphore::new(std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))),
        second_looks: Semaphore::new(1),
        deep_rounds: Semaphore::new(2),
        pager: pager(&settings)?,
        effects: Effects::new(clients.clone(), metrics.clone(), &settings.replica),
        clients,
        metrics,
        census: Census::default(),
        settings,
    })
}

/// The installation's identity: the UID of its namespace, which no other installation has.
async fn install(clients: &Clients, namespace: &str) -> anyhow::Result<String> {
    let api: Api<Namespace> = Api::all(clients.reader());
    let found = api
        .get(namespace)
        .await
        .with_context(|| format!("cannot read namespace {namespace}: is --release-namespace right?"))?;
    found.metadata.uid.context("the namespace has no UID")
}

fn pager(settings: &Settings) -> anyhow::Result<Option<Arc<dyn Pager>>> {
    let Some(url) = &settings.page_url else { return Ok(None) };
    let url = url.parse().context("--page-url is not a URL")?;
    let secret = settings.page_secret_file.as_deref().map(|file| Arc::new(SecretFile::new(file)));
    Ok(Some(Arc::new(Webhook::new(url, secret, !settings.egress_allow.is_empty())?)))
}

/// The model that may phrase summaries; `None` unless one is configured: then nothing is ever sent.
fn model(settings: &Settings, egress: &Egress) -> anyhow::Result<Option<Arc<Model>>> {
    let (Some(url), Some(name)) = (&settings.model_url, &settings.model_name) else { return Ok(None) };
    let config = ModelConfig {
        url: url.parse().context("--model-url is not a URL")?,
        name: name.clone(),
        key: settings.model_key_file.as_deref().map(|file| Arc::new(SecretFile::new(file))),
    };
    let model = Model::open(&config, egress).context("--model-url cannot be used")?;
    Ok(Some(Arc::new(model)))
}

/// A secret that may still come: until then the sender is refused.
fn secrets(file: Option<&Path>) -> Secrets {
    let Some(file) = file else { return Secrets::default() };
    let secrets = Secrets::in_file(file);
    if secrets.is_empty() {
        tracing::warn!(file = %file.display(), "the secret is not there: this sender is refused until it is");
    }
    secrets
}

async fn run(shell: Arc<Shell>, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    let health = Health::waiting_for(["kinds"]);
    let incidents = Incidents::new(shell.clone());
    let queue = Queue::new(Arc::new(incidents.clone()), shell.metrics.clone());
    let builds = Builds::new(shell.clone());
    let mut tasks = JoinSet::new();
    let served = server::serve(
        listener,
        tls(&shell.settings),
        app(&shell, health.clone(), queue.clone(), &builds)?,
        stop.clone(),
    );
    let server = tokio::spawn(served);
    wait_for_kinds(&shell, &stop).await;
    health.ready("kinds");
    tasks.spawn(happenings::watch_incidents(shell.clients.reader(), incidents.clone(), stop.clone()));
    let outcome = lead(&shell, &mut tasks, &queue, &incidents, builds, &stop).await;
    stop.cancel();
    let drained = async {
        while tasks.join_next().await.is_some() {}
        server.await
    };
    match tokio::time::timeout(DRAIN, drained).await {
        Ok(served) => served.context("the server's task was torn down")??,
        Err(_) => tracing::warn!("some work did not end in time; it is taken up again at the next start"),
    }
    outcome
}

/// Waits for leadership, opens the record and runs the controllers until we stop or may no longer lead.
async fn lead(
    shell: &Arc<Shell>,
    tasks: &mut JoinSet<()>,
    queue: &Queue,
    incidents: &Incidents,
    builds: Builds,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let candidacy = Candidacy::new(&shell.settings.release_namespace, "amend-controller", &shell.settings.replica);
    let (mut standing, _campaign) = campaign(shell.clients.effects(), candidacy, stop.clone());
    if standing.wait_for(|standing| standing.leads() || standing.is_final()).await.is_err() || stop.is_cancelled() {
        return Ok(());
    }
    shell.metrics.leader.set(1);
    let release = shell.settings.release_namespace.clone();
    let epoch = shell
        .recorder
        .open(&shell.clients.reader(), &shell.effects, &release, &shell.install)
        .await
        .context("cannot open the record")?;
    tracing::info!(epoch, "the record is open");
    tasks.spawn(reconcile::run::<TelemetrySourceControl>(shell.clone(), stop.clone()));
    tasks.spawn(reconcile::run::<GitTargetControl>(shell.clone(), stop.clone()));
    tasks.spawn(reconcile::run::<PolicyControl>(shell.clone(), stop.clone()));
    tasks.spawn(reconcile::run::<ApprovalControl>(shell.clone(), stop.clone()));
    tasks.spawn(reconcile::run::<IncidentControl>(shell.clone(), stop.clone()));
    tasks.spawn(reconcile::run::<RemediationControl>(shell.clone(), stop.clone()));
    tasks.spawn(reconcile::run::<BuildControl>(shell.clone(), stop.clone()));
    tasks.spawn(census::keep(shell.clone(), stop.clone()));
    tasks.spawn(builds.poll(stop.clone()));
    tasks.spawn(happenings::watch_events(shell.clone(), queue.clone(), incidents.clone(), stop.clone()));
    tasks.spawn(happenings::watch_conditions(shell.clone(), queue.clone(), incidents.clone(), stop.clone()));
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        lost = standing.wait_for(Standing::is_final) => {
            shell.metrics.leader.set(0);
            match lost.as_deref() {
                Ok(Standing::Lost { why }) => Err(anyhow::anyhow!("leadership is lost: {why}")),
                Ok(Standing::Following | Standing::Leading | Standing::Released) | Err(_) => Ok(()),
            }
        }
    }
}

fn app(shell: &Arc<Shell>, health: Health, queue: Queue, builds: &Builds) -> anyhow::Result<axum::Router> {
    let ci = secrets(shell.settings.ci_secret_file.as_deref());
    let senders = Senders {
        alertmanager: secrets(shell.settings.intake_token_file.as_deref()),
        alertmanager_by_certificate: shell.settings.tls_client_ca.is_some(),
        gitea: ci.clone(),
        github: ci.clone(),
        gitlab: ci,
        naming: Naming {
            cluster: shell.settings.cluster_name.clone(),
            external: shell.settings.external_label.iter().cloned().collect(),
        },
    };
    let door = match shell.settings.dashboard_anonymous_loopback {
        true => Door::Loopback(Reader { name: String::new(), client: shell.clients.reader() }),
        false => Door::Tokens(Arc::new(TokenReviews { clients: shell.clients.clone() })),
    };
    Ok(server::operations(health, shell.metrics.clone())
        .merge(receive::routes(senders, queue, Arc::new(builds.clone()), shell.metrics.clone()))
        .merge(dashboard::routes(Arc::new(Views::new(shell.clone())), door, shell.time.clone())))
}

fn tls(settings: &Settings) -> Option<Tls> {
    let (certificate, key) = settings.tls_cert.clone().zip(settings.tls_key.clone())?;
    Some(Tls { certificate, key, client_authority: settings.tls_client_ca.clone() })
}

async fn wait_for_kinds(shell: &Shell, stop: &CancellationToken) {
    loop {
        match happenings::kinds_are_served(shell.clients.reader()).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "Amend's kinds are not served: install the CRDs"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(KINDS_AGAIN) => {}
        }
    }
}

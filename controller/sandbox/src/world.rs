//! The world: everything together, on one clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::task::JoinHandle;
use url::Url;

use crate::apiserver::rbac::Identity;
use crate::apiserver::status::Refusal;
use crate::apiserver::store::{How, Store};
use crate::apiserver::{ApiServer, apply};
use crate::clock::SandboxClock;
use crate::cluster::Cluster;
use crate::forge::{Forge, ForgeRefusal};
use crate::git::{Author, GitError, MergeStyle, Repo};
use crate::model::Model;
use crate::model::graph::ServiceGraph;
use crate::scenario::{self, Release, Scenario, shop};
use crate::telemetry::promql::PromqlError;
use crate::telemetry::{SCRAPE, Telemetry};

/// How much history a new world has: enough for a baseline and for telling a release from a habit.
const HISTORY: SignedDuration = SignedDuration::from_mins(100);

/// When in the history the harmless release happened, before the start.
const EARLIER_RELEASE: SignedDuration = SignedDuration::from_mins(50);

/// Longest step of the world while time flows.
const STEP: SignedDuration = SignedDuration::from_secs(3);

/// Shortest step worth taking.
const SHORTEST: SignedDuration = SignedDuration::from_millis(900);

/// How often the world looks at the clock while time flows (real time).
const BEAT: Duration = Duration::from_millis(40);

/// Why a world cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// A port cannot be opened or a folder not made.
    #[error("cannot start a server of the sandbox")]
    Io(#[from] std::io::Error),
    /// Git refused.
    #[error("cannot write the sandbox's repository")]
    Git(#[from] GitError),
    /// The API server refused an object.
    #[error("the sandbox's API server refuses an object: {message}")]
    Refused {
        /// Its message.
        message: String,
    },
    /// The forge refused.
    #[error("the sandbox's forge refuses: {message}")]
    Forge {
        /// Its message.
        message: String,
    },
    /// An alert rule is not understood.
    #[error("cannot read an alert rule of the scenario")]
    Rule(#[from] PromqlError),
    /// The text that a release replaces is not there (any more).
    #[error("{path} does not hold {text:?}, which the release would replace")]
    NothingToReplace {
        /// File.
        path: String,
        /// Text.
        text: String,
    },
}

impl From<Refusal> for WorldError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { message: refusal.message }
    }
}

impl From<ForgeRefusal> for WorldError {
    fn from(refusal: ForgeRefusal) -> Self {
        Self::Forge { message: refusal.message }
    }
}

#[derive(Debug)]
struct Engine {
    cluster: Cluster,
    model: Model,
    telemetry: Telemetry,
    last: Timestamp,
}

impl Engine {
    fn step(&mut self, now: Timestamp) {
        self.last = now;
        let step = self.cluster.step(now, &mut self.model);
        self.telemetry.step(now, &self.model, step.logs, step.spans);
    }

    fn catch_up(&mut self, now: Timestamp, longest: SignedDuration) {
        while now.duration_since(self.last) > longest {
            let next = self.last.checked_add(longest).unwrap_or(now);
            self.step(next);
        }
        if now.duration_since(self.last) >= SHORTEST {
            self.step(now);
        }
    }
}

/// A running world; it ends when it is dropped.
#[derive(Debug)]
pub struct World {
    clock: SandboxClock,
    api: ApiServer,
    forge: Forge,
    engine: Arc<Mutex<Engine>>,
    driver: Option<JoinHandle<()>>,
    scenario: Scenario,
    git: Repo,
    controller_token: String,
}

/// Token of the robot account `amend` on the forge; also its Git password.
const ROBOT_TOKEN: &str = "sandbox-amend-robot-token";

/// Token of the person who reviews.
const REVIEWER_TOKEN: &str = "sandbox-reviewer-token";

impl World {
    /// Makes the world of a scenario: servers, cluster, repository, and a hundred minutes of quiet history before the clock's now.
    ///
    /// A scaled clock flows on when the world is ready, from the same time; a stepped one stands there. Nobody may have
    /// used the clock before. `crds` are YAML texts that are applied first.
    pub async fn start(scenario: Scenario, clock: SandboxClock, crds: &[String]) -> Result<Self, WorldError> {
        let (speed, start) = (clock.speed(), clock.now());
        let begin = start.checked_sub(HISTORY).unwrap_or(start);
        clock.stand_at(begin);
        let api = ApiServer::start(clock.clone()).await?;
        for crd in crds {
            api.apply_yaml(crd, "helm")?;
        }
        api.apply_yaml(scenario::CLUSTER, "kubectl")?;
        make_nodes(api.store())?;
        let forge = Forge::start(clock.clone()).await?;
        forge.add_account("amend", ROBOT_TOKEN, true);
        forge.add_account("reviewer", REVIEWER_TOKEN, true);
        let git = forge.create_repository(shop::REPOSITORY)?;
        plant(&git, begin)?;
        let url = forge.clone_url(shop::REPOSITORY);
        make_flux(api.store(), &url)?;
        let telemetry = Telemetry::start(clock.clone()).await?;
        for rule in &scenario.rules {
            telemetry.add_rule(rule.clone())?;
        }
        telemetry.alertmanager().set_routing(scenario.routing.clone());
        let cluster = Cluster::new(api.store().clone(), BTreeMap::from([(url, git.clone())]));
        let model = Model::new(scenario.graph.clone(), begin);
        let engine = Engine { cluster, model, telemetry, last: begin };
        let controller_token = api.tokens().issue(Identity::service_account("amend-system", "amend"));
        let engine = Arc::new(Mutex::new(engine));
        let mut world = Self { clock, api, forge, engine, driver: None, scenario, git, controller_token };
        world.back_fill(start)?;
        if let Some(speed) = speed {
            world.clock.flow(speed);
            world.driver = Some(tokio::spawn(drive(world.engine.clone(), world.clock.clone())));
        }
        Ok(world)
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn back_fill(&self, start: Timestamp) -> Result<(), WorldError> {
        let release_at = start.checked_sub(EARLIER_RELEASE).unwrap_or(start);
        let mut engine = self.engine();
        engine.model.set_quiet(true);
        engine.telemetry.set_quiet(true);
        let mut released = false;
        while engine.last < start {
            if !released && engine.last >= release_at {
                self.push(&scenario::earlier_release())?;
                released = true;
            }
            let next = engine.last.checked_add(SCRAPE).unwrap_or(start).min(start);
            self.clock.stand_at(next);
            // The last quarter of an hour has traces and logs, as a store that samples would.
            if next.duration_until(start) <= SignedDuration::from_mins(15) {
                engine.model.set_quiet(false);
            }
            engine.step(next);
        }
        engine.model.set_quiet(false);
        engine.telemetry.set_quiet(false);
        Ok(())
    }

    fn push(&self, release: &Release) -> Result<String, WorldError> {
        let mut changes = BTreeMap::new();
        for edit in &release.edits {
            let text = match changes.get(&edit.path) {
                Some(Some(text)) => String::clone(text),
                _ => self.git.file("main", &edit.path)?,
            };
            if !text.contains(&edit.from) {
                return Err(WorldError::NothingToReplace { path: edit.path.clone(), text: edit.from.clone() });
            }
            changes.insert(edit.path.clone(), Some(text.replacen(&edit.from, &edit.to, 1)));
        }
        let email = format!("{}@shop.example", release.author);
        let author = Author { name: &release.author, email: &email };
        Ok(self.git.commit("main", &changes, &release.message, &author, self.clock.now())?)
    }

    /// Pushes the scenario's releases, the guilty one first; gives the commit ids in that order.
    pub fn trigger(&self) -> Result<Vec<String>, WorldError> {
        self.scenario.releases.iter().map(|release| self.push(release)).collect()
    }

    /// Pushes any change as a person would, and gives the commit id.
    pub fn commit(&self, release: &Release) -> Result<String, WorldError> {
        self.push(release)
    }

    /// From now on the application behaves otherwise, for a reason that stands in no manifest.
    pub fn behave(&self, change: impl FnOnce(&mut ServiceGraph)) {
        let mut engine = self.engine();
        let mut graph = engine.model.graph().clone();
        change(&mut graph);
        engine.model.set_graph(graph);
    }

    /// Merges a pull request as a reviewer would, and gives the merge commit.
    pub fn merge(&self, number: u64) -> Result<String, WorldError> {
        Ok(self.forge.merge(shop::REPOSITORY, number, "reviewer", MergeStyle::Merge)?)
    }

    /// Closes a pull request as a reviewer would.
    pub fn close(&self, number: u64) -> Result<(), WorldError> {
        Ok(self.forge.close(shop::REPOSITORY, number)?)
    }

    /// Moves a stepped world on, in steps of at most 2 s.
    pub async fn advance(&self, by: SignedDuration) {
        let end = self.clock.now().checked_add(by).unwrap_or(Timestamp::MAX);
        while self.clock.now() < end {
            let left = self.clock.now().duration_until(end);
            self.clock.advance(left.min(SignedDuration::from_secs(2)));
            self.engine().catch_up(self.clock.now(), STEP);
            // Requests that came in meanwhile get their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Sends alerts to this webhook from now on.
    pub fn set_alert_receiver(&self, url: Url, bearer: &str) {
        self.engine().telemetry.alertmanager().set_receiver(url, bearer);
    }

    /// Applies YAML as an administrator would.
    pub fn apply_yaml(&self, yaml: &str) -> Result<(), WorldError> {
        Ok(self.api.apply_yaml(yaml, "kubectl")?)
    }

    /// Works with the telemetry stores, for example to cut them off.
    pub fn with_telemetry<T>(&self, work: impl FnOnce(&Telemetry) -> T) -> T {
        work(&self.engine().telemetry)
    }

    /// The clock that all of it runs on.
    pub fn clock(&self) -> &SandboxClock {
        &self.clock
    }

    /// The story that it tells.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The API server.
    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// The forge.
    pub fn forge(&self) -> &Forge {
        &self.forge
    }

    /// The repository of the shop's manifests.
    pub fn repository(&self) -> &Repo {
        &self.git
    }

    /// Where to reach everything.
    pub fn endpoints(&self) -> Endpoints {
        let engine = self.engine();
        Endpoints {
            kubernetes: self.api.url(),
            admin_token: self.api.admin_token().to_owned(),
            admin_kubeconfig: self.api.kubeconfig(self.api.admin_token()),
            controller_token: self.controller_token.clone(),
            controller_kubeconfig: self.api.kubeconfig(&self.controller_token),
            prometheus: engine.telemetry.prometheus_url(),
            alertmanager: engine.telemetry.alertmanager_url(),
            loki: engine.telemetry.loki_url(),
            jaeger: engine.telemetry.jaeger_url(),
            forge: self.forge.url(),
            repository: shop::REPOSITORY.to_owned(),
            git: self.forge.clone_url(shop::REPOSITORY),
            forge_user: "amend".to_owned(),
            forge_token: ROBOT_TOKEN.to_owned(),
        }
    }
}

/// URLs and tokens of a world.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// URL of the API server.
    pub kubernetes: String,
    /// May do everything.
    pub admin_token: String,
    /// Kubeconfig of the administrator.
    pub admin_kubeconfig: String,
    /// Token of `system:serviceaccount:amend-system:amend`.
    pub controller_token: String,
    /// Kubeconfig of that account.
    pub controller_kubeconfig: String,
    /// URL of Prometheus.
    pub prometheus: String,
    /// URL of Alertmanager.
    pub alertmanager: String,
    /// URL of Loki.
    pub loki: String,
    /// URL of Jaeger's query service.
    pub jaeger: String,
    /// URL of the forge.
    pub forge: String,
    /// `owner/name` of the manifests' repository.
    pub repository: String,
    /// Clone URL of it.
    pub git: String,
    /// Login of the robot account.
    pub forge_user: String,
    /// Its token, also its Git password.
    pub forge_token: String,
}

impl Endpoints {
    /// A text with the words `FORGE_USER`, `FORGE_TOKEN`, `PROMETHEUS_URL`, `ALERTMANAGER_URL`, `LOKI_URL`, `JAEGER_URL`, `GIT_URL`
    /// and `FORGE_URL` filled in.
    #[must_use]
    pub fn filled(&self, text: &str) -> String {
        text.replace("FORGE_USER", &self.forge_user)
            .replace("FORGE_TOKEN", &self.forge_token)
            .replace("PROMETHEUS_URL", &self.prometheus)
            .replace("ALERTMANAGER_URL", &self.alertmanager)
            .replace("LOKI_URL", &self.loki)
            .replace("JAEGER_URL", &self.jaeger)
            .replace("GIT_URL", &self.git)
            .replace("FORGE_URL", &self.forge)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

async fn drive(engine: Arc<Mutex<Engine>>, clock: SandboxClock) {
    loop {
        tokio::time::sleep(BEAT).await;
        let (engine, now) = (engine.clone(), clock.now());
        let step = tokio::task::spawn_blocking(move || {
            engine.lock().unwrap_or_else(PoisonError::into_inner).catch_up(now, STEP);
        });
        if step.await.is_err() {
            tracing::error!("the sandbox's world stopped");
            return;
        }
    }
}

fn make_nodes(store: &Store) -> Result<(), WorldError> {
    for number in 1..=3 {
        let name = format!("node-{number}");
        let amounts = json!({ "cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "100Gi" });
        let node = json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{number}") } },
            "spec": {}, "status": { "capacity": amounts, "allocatable": amounts,
                "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status" }] },
        });
        store.create("nodes", node, How::by("kubelet"))?;
    }
    Ok(())
}

fn plant(git: &Repo, begin: Timestamp) -> Result<(), WorldError> {
    let ago = |days: i64| begin.checked_sub(SignedDuration::from_hours(24 * days)).unwrap_or(begin);
    let author = Author { name: "lena", email: "lena@shop.example" };
    let mut files = shop::files();
    let budget = format!("{}/budget.yaml", shop::FOLDER);
    let later = files.remove(&budget);
    git.commit("main", &files, "shop: manifests of all services", &author, ago(40))?;
    let author = Author { name: "omar", email: "omar@shop.example" };
    git.commit(
        "main",
        &BTreeMap::from([(budget, later.flatten())]),
        "checkout: keep a pod while nodes are drained",
        &author,
        ago(12),
    )?;
    Ok(())
}

fn make_flux(store: &Store, url: &str) -> Result<(), WorldError> {
    let source = json!({
        "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": { "name": "platform", "namespace": "flux-system" },
        "spec": { "url": url, "interval": "20s", "ref": { "branch": "main" } },
    });
    let kustomization = json!({
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": { "name": "shop", "namespace": "flux-system" },
        "spec": { "interval": "5m", "path": format!("./{}", shop::FOLDER), "prune": true,
            "sourceRef": { "kind": "GitRepository", "name": "platform" } },
    });
    for object in [source, kustomization] {
        apply(store, &object, "flux")?;
    }
    Ok(())
}

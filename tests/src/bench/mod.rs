//! The bench: real parts on this machine, started for a test run and gone after it.
//!
//! ```no_run
//! # use std::path::Path;
//! # use amend_tests::bench::*;
//! # async fn story(manifests: &str, rules: &str) -> anyhow::Result<()> {
//! let bench = Bench::shared(&[Part::Kwok, Part::Flux, Part::Gitea, Part::Prometheus, Part::Helm]).await?;
//! let (cluster, gitea) = (bench.control_plane(), bench.gitea());
//! cluster.create_namespace("oom").await?;
//! gitea.create_org("oom").await?;
//! let bot = gitea.create_user("oom-amend").await?;
//! let repo = gitea.create_repo("oom", "shop", &[("apps/cart.yaml", manifests)]).await?;
//! repo.add_collaborator(&bot.name, "write").await?;
//! let (url, admin) = (repo.clone_url(), gitea.admin());
//! let follow = Follow { name: "shop", namespace: "oom", url: &url, branch: "main", path: "./apps", user: &admin.name, password: &admin.token };
//! bench.flux().follow(&follow).await?;
//!
//! bench.helm().install(&cluster.kubeconfig(), Path::new("/repo/charts/amend"), "amend", "amend-oom", &["egress.allow=[\"127.0.0.0/8\"]"]).await?;
//! let amend = Deployed::prepare(cluster, "amend-oom", "amend", 0, &amend_binary().await?).await?;
//! amend.start().await?;
//! let receiver = Receiver {
//!     url: format!("{}/intake/alertmanager", amend.url()?),
//!     bearer_token: Some("secret".to_owned()),
//!     matchers: vec!["namespace=\"oom\"".to_owned()],
//!     repeat_interval: "5s".to_owned(),
//! };
//! bench.alertmanager().add_receiver("oom", receiver).await?;
//! bench.prometheus().add_rules("oom", rules).await?;
//!
//! let opened = until("a pull request", std::time::Duration::from_secs(60), || async {
//!     Ok::<_, anyhow::Error>(repo.pull_requests().await?.into_iter().next())
//! });
//! repo.merge(&opened.await?, MergeStyle::Squash).await?;
//! bench.flux().wait_applied("oom", "shop", &repo.head("main").await?).await?;
//! for entry in cluster.audit_of("system:serviceaccount:amend-oom:amend")? {
//!     assert!(!entry.has_written() || entry.group == "amend.dev" || entry.resource == "events", "{entry:?}");
//! }
//! amend.program().kill();
//! # Ok(()) }
//! ```
//!
//! Every program listens on free ports of 127.0.0.1 and writes below one temporary folder; its log stays
//! in `target/bench-logs/PID/NAME.log`. `tests/env/build` makes the binaries at first use.

pub mod act_runner;
pub mod alertmanager;
pub mod apply;
pub mod audit;
pub mod control_plane;
pub mod deployed;
pub mod flux;
pub mod gitea;
pub mod gitea_repo;
pub mod helm;
pub mod jaeger;
pub mod kubeconfig;
pub mod kwok;
pub mod loki;
pub mod parts;
pub mod ports;
pub mod product;
pub mod program;
pub mod prometheus;
pub mod proxy;
pub mod reaper;
pub mod remote_write;
pub mod until;
pub mod victoriametrics;
pub mod web;

use std::sync::{Arc, OnceLock};

use futures::future::try_join_all;
use tokio::sync::OnceCell;

pub use act_runner::ActRunner;
pub use alertmanager::{Alertmanager, Receiver};
pub use audit::AuditEntry;
pub use control_plane::ControlPlane;
pub use deployed::Deployed;
pub use flux::{Flux, Follow};
pub use gitea::{Gitea, GiteaUser};
pub use gitea_repo::{MergeStyle, PullRequest, Repo, WorkflowRun};
pub use helm::Helm;
pub use jaeger::Jaeger;
pub use kwok::{Kwok, NodeSize, PodSeen};
pub use loki::Loki;
pub use parts::{Binaries, Build, env_folder};
pub use ports::free_port;
pub use product::amend_binary;
pub use program::Program;
pub use prometheus::Prometheus;
pub use proxy::{Moment, Proxy};
pub use reaper::Run;
pub use remote_write::Series;
pub use until::until;
pub use victoriametrics::VictoriaMetrics;

/// What a story can ask for. A part brings the parts that it cannot be without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    ControlPlane,
    /// Brings the control plane.
    Kwok,
    /// Brings the control plane.
    Flux,
    Gitea,
    /// Runs workflows; brings Gitea.
    ActRunner,
    /// Brings the Alertmanager.
    Prometheus,
    Alertmanager,
    VictoriaMetrics,
    Jaeger,
    Loki,
    Helm,
}

impl Part {
    const fn builds(self) -> &'static [Build] {
        match self {
            Self::ControlPlane => &[Build::Kubernetes],
            Self::Kwok => &[Build::Kubernetes, Build::Kwok],
            Self::Flux => &[Build::Kubernetes, Build::Flux],
            Self::Gitea => &[Build::Gitea],
            Self::ActRunner => &[Build::Gitea, Build::ActRunner],
            Self::Prometheus | Self::Alertmanager => &[Build::Prometheus],
            Self::VictoriaMetrics => &[Build::VictoriaMetrics],
            Self::Jaeger => &[Build::Jaeger],
            Self::Loki => &[Build::Loki],
            Self::Helm => &[Build::Helm],
        }
    }
}

/// The parts that were asked for, running. Share it by `Arc`; dropping the last one stops everything.
#[derive(Debug, Default)]
pub struct Bench {
    // Dropped in this order: who talks before who answers.
    flux: OnceCell<Flux>,
    kwok: OnceCell<Kwok>,
    helm: OnceCell<Helm>,
    prometheus: OnceCell<Prometheus>,
    alertmanager: OnceCell<Alertmanager>,
    victoriametrics: OnceCell<VictoriaMetrics>,
    jaeger: OnceCell<Jaeger>,
    loki: OnceCell<Loki>,
    act_runner: OnceCell<ActRunner>,
    gitea: OnceCell<Gitea>,
    control_plane: OnceCell<Arc<ControlPlane>>,
}

impl Bench {
    /// A bench of its own, for a story that breaks what others stand on.
    ///
    /// # Errors
    /// When a part cannot be built or does not become ready.
    pub async fn start(parts: &[Part]) -> anyhow::Result<Arc<Self>> {
        let bench = Arc::new(Self::default());
        bench.ensure(parts).await?;
        Ok(bench)
    }

    /// The bench that all stories of this process share. Parts that do not run yet are started, at once;
    /// stories keep apart by namespaces, organisations and names.
    ///
    /// # Errors
    /// When a part cannot be built or does not become ready.
    pub async fn shared(parts: &[Part]) -> anyhow::Result<Arc<Self>> {
        static SHARED: OnceLock<Arc<Bench>> = OnceLock::new();
        let bench = SHARED.get_or_init(|| Arc::new(Self::default()));
        bench.ensure(parts).await?;
        Ok(Arc::clone(bench))
    }

    async fn ensure(&self, parts: &[Part]) -> anyhow::Result<()> {
        // Shown by the test runner when the story fails.
        eprintln!("bench: logs in {}", Run::current()?.logs().display());
        let mut builds: Vec<Build> = parts.iter().flat_map(|part| part.builds()).copied().collect();
        builds.sort_unstable();
        builds.dedup();
        let binaries = Binaries::of(&builds).await?;
        try_join_all(parts.iter().map(|part| self.ensure_one(*part, &binaries))).await.map(|_| ())
    }

    async fn ensure_one(&self, part: Part, binaries: &Binaries) -> anyhow::Result<()> {
        match part {
            Part::ControlPlane => self.control_plane_started(binaries).await.map(|_| ()),
            Part::Kwok => {
                let control_plane = self.control_plane_started(binaries).await?;
                self.kwok.get_or_try_init(|| Kwok::start(binaries, control_plane)).await.map(|_| ())
            }
            Part::Flux => {
                let control_plane = self.control_plane_started(binaries).await?;
                self.flux.get_or_try_init(|| Flux::start(binaries, control_plane)).await.map(|_| ())
            }
            Part::Gitea => self.gitea.get_or_try_init(|| Gitea::start(binaries)).await.map(|_| ()),
            Part::ActRunner => {
                let gitea = self.gitea.get_or_try_init(|| Gitea::start(binaries)).await?;
                self.act_runner.get_or_try_init(|| ActRunner::start(binaries, gitea)).await.map(|_| ())
            }
            Part::Alertmanager => self.alertmanager.get_or_try_init(|| Alertmanager::start(binaries)).await.map(|_| ()),
            Part::Prometheus => {
                let alertmanager = self.alertmanager.get_or_try_init(|| Alertmanager::start(binaries)).await?;
                self.prometheus
                    .get_or_try_init(|| Prometheus::start(binaries, Some(alertmanager.address())))
                    .await
                    .map(|_| ())
            }
            Part::VictoriaMetrics => {
                self.victoriametrics.get_or_try_init(|| VictoriaMetrics::start(binaries)).await.map(|_| ())
            }
            Part::Jaeger => self.jaeger.get_or_try_init(|| Jaeger::start(binaries)).await.map(|_| ()),
            Part::Loki => self.loki.get_or_try_init(|| Loki::start(binaries)).await.map(|_| ()),
            Part::Helm => self.helm.get_or_try_init(|| async { Helm::new(binaries) }).await.map(|_| ()),
        }
    }

    async fn control_plane_started(&self, binaries: &Binaries) -> anyhow::Result<Arc<ControlPlane>> {
        let started =
            self.control_plane.get_or_try_init(|| async { ControlPlane::start(binaries).await.map(Arc::new) }).await?;
        Ok(Arc::clone(started))
    }

    /// The control plane.
    ///
    /// # Panics
    /// When the story did not ask for it; so do all that follow.
    #[must_use]
    pub fn control_plane(&self) -> &Arc<ControlPlane> {
        asked_for(self.control_plane.get(), Part::ControlPlane)
    }

    /// KWOK. Panics when it was not asked for.
    #[must_use]
    pub fn kwok(&self) -> &Kwok {
        asked_for(self.kwok.get(), Part::Kwok)
    }

    /// Flux. Panics when it was not asked for.
    #[must_use]
    pub fn flux(&self) -> &Flux {
        asked_for(self.flux.get(), Part::Flux)
    }

    /// Gitea. Panics when it was not asked for.
    #[must_use]
    pub fn gitea(&self) -> &Gitea {
        asked_for(self.gitea.get(), Part::Gitea)
    }

    /// The workflow runner. Panics when it was not asked for.
    #[must_use]
    pub fn act_runner(&self) -> &ActRunner {
        asked_for(self.act_runner.get(), Part::ActRunner)
    }

    /// Prometheus. Panics when it was not asked for. A story that kills it starts one of its own:
    /// `Bench::start(&[Part::Prometheus])`.
    #[must_use]
    pub fn prometheus(&self) -> &Prometheus {
        asked_for(self.prometheus.get(), Part::Prometheus)
    }

    /// Alertmanager. Panics when it was not asked for.
    #[must_use]
    pub fn alertmanager(&self) -> &Alertmanager {
        asked_for(self.alertmanager.get(), Part::Alertmanager)
    }

    /// VictoriaMetrics. Panics when it was not asked for.
    #[must_use]
    pub fn victoriametrics(&self) -> &VictoriaMetrics {
        asked_for(self.victoriametrics.get(), Part::VictoriaMetrics)
    }

    /// Jaeger. Panics when it was not asked for.
    #[must_use]
    pub fn jaeger(&self) -> &Jaeger {
        asked_for(self.jaeger.get(), Part::Jaeger)
    }

    /// Loki. Panics when it was not asked for.
    #[must_use]
    pub fn loki(&self) -> &Loki {
        asked_for(self.loki.get(), Part::Loki)
    }

    /// Helm. Panics when it was not asked for.
    #[must_use]
    pub fn helm(&self) -> &Helm {
        asked_for(self.helm.get(), Part::Helm)
    }
}

#[expect(clippy::panic, reason = "a story that uses what it did not ask for is written wrongly")]
fn asked_for<T>(part: Option<&T>, name: Part) -> &T {
    part.unwrap_or_else(|| panic!("add Part::{name:?} to what this story asks for"))
}

/// One TLS implementation for every client of this process.
pub fn install_crypto() {
    // An error says that someone was first; they chose the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

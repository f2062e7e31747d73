//! The cluster, its stores and the Amend in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tokio::sync::{Mutex, OnceCell};

use crate::bench::{Bench, ControlPlane, Deployed, Part, Receiver, amend_binary};

/// The Helm release, also the name of the Deployment and of its service account.
pub const RELEASE: &str = "amend";

/// Where the chart is installed: `GitTarget`s and their Secrets belong here.
pub const RELEASE_NAMESPACE: &str = "amend-system";

/// What Alertmanager shows at the door.
const INTAKE_TOKEN: &str = "live-intake-token";

const PARTS: [Part; 7] =
    [Part::ControlPlane, Part::Kwok, Part::Flux, Part::Gitea, Part::Prometheus, Part::Loki, Part::Helm];

/// Real parts with the chart installed and its Deployment running as a process under its own service account.
#[derive(Debug)]
pub struct World {
    // Dropped before what it talks to.
    amend: Deployed,
    /// Namespaces in which policies may act.
    served: Mutex<Vec<String>>,
    values: Vec<String>,
    bench: Arc<Bench>,
}

impl World {
    /// The world of all stories that keep to their namespace.
    ///
    /// # Errors
    /// When a part or Amend does not start.
    pub async fn shared() -> anyhow::Result<Arc<Self>> {
        static SHARED: OnceCell<Arc<World>> = OnceCell::const_new();
        let start = || async { Self::start(Bench::shared(&PARTS).await?, &[]).await.map(Arc::new) };
        SHARED.get_or_try_init(start).await.cloned()
    }

    /// A world of its own for a story that stops a part, kills Amend or installs it differently. `values` are
    /// `--set-json` texts that win over those of every world.
    ///
    /// # Errors
    /// When a part or Amend does not start.
    pub async fn alone(values: &[&str]) -> anyhow::Result<Arc<Self>> {
        Self::start(Bench::start(&PARTS).await?, values).await.map(Arc::new)
    }

    async fn start(bench: Arc<Bench>, values: &[&str]) -> anyhow::Result<Self> {
        let control_plane = bench.control_plane();
        control_plane.create_namespace(RELEASE_NAMESPACE).await?;
        let token = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "amend-intake"}, "stringData": {"token": INTAKE_TOKEN}});
        control_plane.apply(RELEASE_NAMESPACE, &token.to_string()).await?;
        let mut all = vec![
            r#"egress.allow=["127.0.0.0/8"]"#.to_owned(),
            // A crash loop here pauses for four seconds, where Kubernetes pauses up to five minutes.
            r#"intake={"groupWindow": "3m", "clearFor": "10s", "absentFor": "20s"}"#.to_owned(),
        ];
        all.extend(values.iter().map(|value| (*value).to_owned()));
        install(&bench, &all, &[]).await?;
        let amend = Deployed::prepare(control_plane, RELEASE_NAMESPACE, RELEASE, 0, &amend_binary().await?).await?;
        amend.start().await?;
        let receiver = Receiver {
            url: format!("{}/intake/alertmanager", amend.url()?),
            bearer_token: Some(INTAKE_TOKEN.to_owned()),
            matchers: Vec::new(),
            repeat_interval: "30s".to_owned(),
        };
        bench.alertmanager().add_receiver(RELEASE, receiver).await?;
        Ok(Self { amend, served: Mutex::default(), values: all, bench })
    }

    /// Lets policies of a namespace act: `remediators` of the chart, upgraded.
    pub(super) async fn serve(&self, namespace: &str) -> anyhow::Result<()> {
        let mut served = self.served.lock().await;
        served.push(namespace.to_owned());
        install(&self.bench, &self.values, &served).await
    }

    /// The parts.
    #[must_use]
    pub fn bench(&self) -> &Arc<Bench> {
        &self.bench
    }

    /// The cluster.
    #[must_use]
    pub fn control_plane(&self) -> &Arc<ControlPlane> {
        self.bench.control_plane()
    }

    /// The running controller: its log, its URL, its process to kill and start.
    #[must_use]
    pub fn amend(&self) -> &Deployed {
        &self.amend
    }
}

/// The chart under test.
fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/amend")
}

async fn install(bench: &Bench, values: &[String], served: &[String]) -> anyhow::Result<()> {
    let remediators: Vec<_> =
        served.iter().map(|namespace| json!({"namespace": namespace, "gitTargets": [namespace]})).collect();
    let remediators = format!("remediators={}", json!(remediators));
    let mut all: Vec<&str> = vec![&remediators];
    all.extend(values.iter().map(String::as_str));
    let kubeconfig = bench.control_plane().kubeconfig();
    bench.helm().install(&kubeconfig, &chart(), RELEASE, RELEASE_NAMESPACE, &all).await.map(|_| ())
}

//! How verbs reach the cluster: the flags that all of them share.

use std::sync::Arc;
use std::time::Duration;

use amend_controller::errors;
use amend_controller::runtime;
use amend_controller::settings::Settings;
use amend_controller::shell::Shell;
use amend_controller::sources::Sources;
use amend_controller::time::WallClock;
use anyhow::{Context, anyhow, bail};
use clap::{Args, Parser, ValueEnum};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};

/// Deadline of one call: a person waits in front of a terminal.
const CALL: Duration = Duration::from_secs(15);

/// Flags of every verb that talks to a cluster.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Namespace; without it the context's own
    #[arg(long, short, global = true, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Namespace that Amend is installed in
    #[arg(long, global = true, value_name = "NAMESPACE", default_value = "amend-system")]
    install_namespace: String,
    /// Shape of the answer
    #[arg(long, short, global = true, value_enum)]
    output: Option<Output>,
}

/// Shapes besides the one for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Json,
    Yaml,
}

/// A cluster, and where in it we are.
pub struct Connection {
    pub client: Client,
    pub config: Config,
    pub namespace: String,
    pub install_namespace: String,
    pub output: Option<Output>,
}

impl Flags {
    pub fn output(&self) -> Option<Output> {
        self.output
    }

    /// The configuration that the kubeconfig or the pod's service account gives.
    pub async fn config(&self) -> anyhow::Result<Config> {
        match &self.context {
            None => Config::infer().await.map_err(|error| {
                let why = told(&error, std::env::var_os(IN_A_POD).is_some());
                anyhow!("cannot find out how to reach the Kubernetes API: set KUBECONFIG: {why}")
            }),
            Some(context) => {
                let kubeconfig = Kubeconfig::read().context("cannot read the kubeconfig")?;
                let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                let named = Config::from_custom_kubeconfig(kubeconfig, &options).await;
                named.with_context(|| format!("context {context} of the kubeconfig is not usable"))
            }
        }
    }

    /// The namespace that was asked for by name.
    pub fn named_namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let mut config = self.config().await?;
        config.read_timeout = Some(CALL);
        config.connect_timeout = Some(CALL);
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config.clone()).context("cannot set up a Kubernetes client")?;
        answers(&client, &config).await?;
        let install_namespace = self.install_namespace.clone();
        Ok(Connection { client, config, namespace, install_namespace, output: self.output })
    }
}

/// Set by the kubelet in every pod.
const IN_A_POD: &str = "KUBERNETES_SERVICE_HOST";

/// Why there is no configuration, in one line: outside a pod nobody wants to read what a pod lacks.
fn told(error: &kube::config::InferConfigError, in_a_pod: bool) -> String {
    let of_the_file = std::error::Error::source(error).filter(|_| !in_a_pod);
    let why = of_the_file.map_or_else(|| errors::chain(error), errors::chain);
    why.lines().next().unwrap_or_default().to_owned()
}

/// Whether anybody answers there at all. What is asked may be refused; only silence is an error.
async fn answers(client: &Client, config: &Config) -> anyhow::Result<()> {
    match client.apiserver_version().await {
        Ok(_) | Err(kube::Error::Api(_) | kube::Error::SerdeError(_)) => Ok(()),
        Err(error) => {
            let (url, why) = (&config.cluster_url, errors::chain(&error));
            bail!("the Kubernetes API at {url} does not answer: {why}; check the context: kubectl config get-contexts")
        }
    }
}

/// How the chart labels what it installs, whatever the release is called.
pub const CHART: &str = "app.kubernetes.io/name=amend";

/// The release that an object of the chart belongs to.
pub fn release(object: &Deployment) -> String {
    object.labels().get("app.kubernetes.io/instance").cloned().unwrap_or_else(|| "amend".to_owned())
}

impl Connection {
    /// The controller's Deployment in the installation's namespace.
    ///
    /// # Errors
    /// When Deployments there cannot be read.
    pub async fn controller(&self) -> Result<Option<Deployment>, kube::Error> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &self.install_namespace);
        Ok(api.list(&ListParams::default().labels(CHART)).await?.items.into_iter().next())
    }
}

/// Stores and repositories, asked as the controller asks them but with this person's own rights.
pub struct Asking {
    pub shell: Arc<Shell>,
    /// Bare repositories; gone when this is dropped.
    _scratch: tempfile::TempDir,
}

/// The controller's settings, for a process that only asks.
#[derive(Parser)]
struct Defaults {
    #[command(flatten)]
    settings: Settings,
}

/// Where a person at a terminal may have port-forwarded or routed the stores to.
const NEAR: [&str; 6] = ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

impl Connection {
    /// What is needed to ask the questions of a diagnosis. Reads Secrets of the installation's namespace.
    pub async fn asking(&self) -> anyhow::Result<Asking> {
        self.asking_of(Ok).await
    }

    /// The same with other stores than those that are declared, or with a count of what they are asked.
    pub async fn asking_of(&self, stores: impl FnOnce(Sources) -> anyhow::Result<Sources>) -> anyhow::Result<Asking> {
        let scratch = tempfile::tempdir().context("cannot make a folder for repositories")?;
        let mut settings = Defaults::parse_from(["amend"]).settings;
        settings.release_namespace.clone_from(&self.install_namespace);
        settings.scratch = scratch.path().to_owned();
        settings.egress_allow = NEAR.map(str::to_owned).to_vec();
        let shell = runtime::asking(settings, self.config.clone(), Arc::new(WallClock))?;
        let sources = stores(shell.sources.clone())?;
        Ok(Asking { shell: Arc::new(Shell { sources, ..shell }), _scratch: scratch })
    }
}

/// Prints any value in the shape that was asked for.
pub fn print<T: serde::Serialize>(value: &T, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(value)?),
        Output::Yaml => print!("{}", serde_saphyr::to_string(value)?),
    }
    Ok(())
}

/// Text from outside, fit for a terminal: one line, no control characters.
pub fn plain(text: &str) -> String {
    let line = amend_diagnosis::logs::clean::plain(text);
    line.chars().map(|sign| if sign.is_control() { ' ' } else { sign }).collect()
}

//! How verbs reach the cluster: the flags that all of them share.

use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

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
            None => Config::infer().await.context("cannot find out how to reach the Kubernetes API: set KUBECONFIG"),
            Some(context) => {
                let kubeconfig = Kubeconfig::read().context("cannot read the kubeconfig")?;
                let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                let named = Config::from_custom_kubeconfig(kubeconfig, &options).await;
                named.with_context(|| format!("context {context} of the kubeconfig is not usable"))
            }
        }
    }

    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let mut config = self.config().await?;
        config.read_timeout = Some(CALL);
        config.connect_timeout = Some(CALL);
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config.clone()).context("cannot set up a Kubernetes client")?;
        let install_namespace = self.install_namespace.clone();
        Ok(Connection { client, config, namespace, install_namespace, output: self.output })
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

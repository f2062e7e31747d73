//! Kubeconfig files: one server, one token.

use std::fs;
use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// Where the API server is and how to trust it.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub url: String,
    /// PEM.
    pub ca: String,
}

impl Cluster {
    /// Writes a kubeconfig for the bearer of `token`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, user: &str, token: &str) -> anyhow::Result<()> {
        let ca = STANDARD.encode(&self.ca);
        let url = &self.url;
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: bench\nclusters:\n- name: bench\n  cluster:\n    server: {url}\n    certificate-authority-data: {ca}\ncontexts:\n\
             - name: bench\n  context: {{cluster: bench, user: \"{user}\"}}\nusers:\n- name: \"{user}\"\n  user: {{token: \"{token}\"}}\n"
        );
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A client from a kubeconfig file.
///
/// Make one per test: a client lives on the runtime that it was made on.
///
/// # Errors
/// When the file is not a kubeconfig.
pub async fn client_from(path: &Path) -> anyhow::Result<kube::Client> {
    super::install_crypto();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

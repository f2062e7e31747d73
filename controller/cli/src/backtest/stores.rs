//! Stores that are named on the command line instead of in `TelemetrySource` objects.

use std::path::{Path, PathBuf};

use amend_telemetry::source::{Credentials, SourceConfig, SourceKind};
use anyhow::Context;
use clap::Args;
use jiff::SignedDuration;
use secrecy::SecretString;
use url::Url;

/// Where the stores are. Without any of these, the TelemetrySource objects of the cluster are asked.
#[derive(Args, Debug)]
pub struct StoreFlags {
    /// Prometheus, or what speaks its API
    #[arg(long, value_name = "URL")]
    prometheus: Option<Url>,
    /// Loki, for log lines
    #[arg(long, value_name = "URL", requires = "prometheus")]
    loki: Option<Url>,
    /// Jaeger, for traces and who calls whom
    #[arg(long, value_name = "URL", requires = "prometheus")]
    jaeger: Option<Url>,
    /// Directory of what OpenTelemetry Collector's file exporter writes: metrics, traces and log lines
    #[arg(long, value_name = "DIR", requires = "prometheus")]
    otlp_files: Option<PathBuf>,
    /// Asked whether people have silenced what still fires
    #[arg(long, value_name = "URL", requires = "prometheus")]
    alertmanager: Option<Url>,
    /// How often Prometheus scrapes, when it is not every 30 seconds
    #[arg(long, value_name = "DURATION", value_parser = super::duration, requires = "prometheus")]
    sample_every: Option<SignedDuration>,
    /// File with the bearer token for these stores
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    token_file: Option<PathBuf>,
    /// User for these stores, with --password-file
    #[arg(long, value_name = "NAME", requires = "password_file", conflicts_with = "token_file")]
    user: Option<String>,
    /// File with the password of --user
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// File with the authorities (PEM) that sign the certificates of these stores
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    ca_file: Option<PathBuf>,
    /// Tenant of these stores (X-Scope-OrgID)
    #[arg(long, value_name = "NAME", requires = "prometheus")]
    tenant: Option<String>,
}

impl StoreFlags {
    /// The stores that were named; empty: those that are declared in the cluster.
    pub fn configs(&self) -> anyhow::Result<Vec<SourceConfig>> {
        let credentials = self.credentials()?;
        let authorities = self.ca_file.as_ref().map(text).transpose()?.map(String::into_bytes);
        let named = [
            ("prometheus", SourceKind::Prometheus, &self.prometheus),
            ("loki", SourceKind::Loki, &self.loki),
            ("jaeger", SourceKind::Jaeger, &self.jaeger),
            ("alertmanager", SourceKind::Alertmanager, &self.alertmanager),
        ];
        let files = self.otlp_files.as_deref().map(directory).transpose()?;
        let files = files.map(|url| SourceConfig::new("otlp-files", SourceKind::OtlpFiles, url));
        let configs = named.into_iter().filter_map(|(name, kind, url)| {
            let mut config = SourceConfig::new(name, kind, url.clone()?);
            config.credentials = credentials.clone();
            config.authorities.clone_from(&authorities);
            config.tenant.clone_from(&self.tenant);
            config.sample_every = self.sample_every.unwrap_or(config.sample_every);
            Some(config)
        });
        Ok(configs.chain(files).collect())
    }

    fn credentials(&self) -> anyhow::Result<Credentials> {
        if let Some(file) = &self.token_file {
            return Ok(Credentials::Bearer(SecretString::from(text(file)?.trim().to_owned())));
        }
        match (&self.user, &self.password_file) {
            (Some(user), Some(file)) => {
                let password = SecretString::from(text(file)?.trim().to_owned());
                Ok(Credentials::Basic { user: user.clone(), password })
            }
            _ => Ok(Credentials::None),
        }
    }
}

/// Where a directory really lies, since links on the way to it are this person's business.
fn directory(path: &Path) -> anyhow::Result<Url> {
    let real = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
    Url::from_directory_path(&real)
        .map_err(|()| anyhow::anyhow!("{} is no directory that can be named", path.display()))
}

fn text(file: &PathBuf) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

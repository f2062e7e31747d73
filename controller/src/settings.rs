//! What the person who installs Amend decides: flags and environment of `amend controller`.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use jiff::{SignedDuration, Span, SpanRelativeTo};

/// Settings of one controller process. The chart renders them from its values.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Namespace of this installation: credentials, record head, lease and stop switch live there
    #[arg(long, env = "AMEND_NAMESPACE", default_value = "amend-system")]
    pub release_namespace: String,

    /// Name of this replica, for the lease and the record
    #[arg(long, env = "POD_NAME", default_value = "amend")]
    pub replica: String,

    /// Address of the HTTP server: health, metrics, webhooks, dashboard
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Folder for bare Git repositories; its content may be lost at any time
    #[arg(long, default_value = "/tmp/amend")]
    pub scratch: PathBuf,

    /// Address or range that may be connected to although it is private or loopback (repeat)
    #[arg(long, value_name = "CIDR")]
    pub egress_allow: Vec<String>,

    /// Directory whose files TelemetrySources of kind OtlpFiles may read: each namespace below the directory of its name
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub telemetry_files: Option<PathBuf>,

    /// File with the bearer token that Alertmanager sends; without it the webhook refuses everything
    #[arg(long, value_name = "FILE")]
    pub intake_token_file: Option<PathBuf>,

    /// File with the HMAC key or token of CI webhooks
    #[arg(long, value_name = "FILE")]
    pub ci_secret_file: Option<PathBuf>,

    /// Value of the alert label `cluster` that means this cluster; alerts that name another one are left out
    #[arg(long, value_name = "NAME")]
    pub cluster_name: Option<String>,

    /// Another label that Prometheus adds to alerts of this cluster, like region=eu; alerts with another value are left out (repeat)
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    pub external_label: Vec<(String, String)>,

    /// How far apart signals of one problem may lie, like 10m
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub group_window: SignedDuration,

    /// How long nothing may fire before a problem counts as gone, like 5m
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub clear_for: SignedDuration,

    /// How long a cause must be absent before an open pull request is withdrawn, like 30m
    #[arg(long, default_value = "30m", value_parser = duration)]
    pub absent_for: SignedDuration,

    /// Generic webhook that is called when a person is needed
    #[arg(long, value_name = "URL")]
    pub page_url: Option<String>,

    /// File with the HMAC key of pages
    #[arg(long, value_name = "FILE")]
    pub page_secret_file: Option<PathBuf>,

    /// OpenAI-compatible endpoint of a language model that may phrase a summary, like https://models.example.com/v1
    #[arg(long, value_name = "URL", requires = "model_name")]
    pub model_url: Option<String>,

    /// What the model is called there
    #[arg(long, value_name = "NAME", requires = "model_url")]
    pub model_name: Option<String>,

    /// File with the key of that endpoint
    #[arg(long, value_name = "FILE", requires = "model_url")]
    pub model_key_file: Option<PathBuf>,

    /// OTLP over HTTP endpoint for Amend's own traces
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// Format of Amend's own logs
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// Server certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Server key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Clients of the intake may show a certificate of this authority (PEM) instead of the token
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,

    /// Base URL under which people reach the dashboard, for links in pull requests
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,

    /// Show the dashboard to everybody who can reach it; refused unless --listen is a loopback address
    #[arg(long)]
    pub dashboard_anonymous_loopback: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Json,
    Text,
}

/// Reads a path from the root, without steps upwards.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    match path.is_absolute() && plain && path != Path::new("/") {
        true => Ok(path),
        false => Err(format!("`{text}` is not the whole path of a directory: write it like /telemetry-files")),
    }
}

/// Reads `region=eu`.
fn label(text: &str) -> Result<(String, String), String> {
    let wrong = || format!("`{text}` is not a label with its value: write it like region=eu");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let named = !name.is_empty() && name.bytes().all(letters) && !name.as_bytes()[0].is_ascii_digit();
    if named && !value.is_empty() { Ok((name.to_owned(), value.to_owned())) } else { Err(wrong()) }
}

/// Reads `90s`, `5m`, `1h30m`.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let span: Span = text.parse().map_err(|_| format!("`{text}` is not a duration: write it like 90s, 5m or 1h30m"))?;
    let duration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| format!("`{text}` must be in days, hours, minutes and seconds"))?;
    if duration <= SignedDuration::ZERO {
        return Err(format!("`{text}` must be longer than zero"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_label_has_a_name_and_a_value() {
        assert_eq!(label("region=eu=west"), Ok(("region".to_owned(), "eu=west".to_owned())));
        for wrong in ["region", "region=", "=eu", "re gion=eu", "1st=eu"] {
            assert!(label(wrong).is_err_and(|why| why.contains("write it like")), "{wrong}");
        }
    }

    #[test]
    fn the_directory_of_files_is_a_whole_path_and_never_the_root() {
        assert_eq!(absolute("/telemetry-files"), Ok(PathBuf::from("/telemetry-files")));
        for wrong in ["telemetry", "/", "/a/../etc", "."] {
            assert!(absolute(wrong).is_err_and(|why| why.contains("write it like")), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_duration_says_how_to_write_it() {
        assert_eq!(duration("5m"), Ok(SignedDuration::from_mins(5)));
        assert_eq!(duration("1d12h"), Ok(SignedDuration::from_hours(36)), "as the chart's values allow it");
        assert!(duration("1 month").is_err_and(|why| why.contains("days")));
        assert!(duration("5 bananas").is_err_and(|why| why.contains("write it like")));
        assert!(duration("0s").is_err_and(|why| why.contains("longer than zero")));
    }
}

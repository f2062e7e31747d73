//! Alertmanager: groups, silences and posts alerts at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::parts::{Binaries, Build};
use super::ports::free_port;
use super::program::Program;
use super::reaper::Run;
use super::web;

/// A running Alertmanager. Without receivers it posts nothing.
#[derive(Debug)]
pub struct Alertmanager {
    address: String,
    config: PathBuf,
    receivers: Mutex<BTreeMap<String, Receiver>>,
    program: Program,
    _folder: tempfile::TempDir,
}

/// Where alerts are posted to (webhook, version 4).
#[derive(Debug, Clone)]
pub struct Receiver {
    pub url: String,
    /// Sent as `Authorization: Bearer`.
    pub bearer_token: Option<String>,
    /// Which alerts: matchers like `namespace="shop"`; none = all.
    pub matchers: Vec<String>,
    /// How long until an alert that still fires is posted again (`5s`, `4h`).
    pub repeat_interval: String,
}

impl Alertmanager {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(binaries: &Binaries) -> anyhow::Result<Self> {
        let folder = Run::current()?.folder("alertmanager")?;
        let config = folder.path().join("alertmanager.yml");
        write_config(&config, &BTreeMap::new())?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let program = Program::new("alertmanager", binaries.path(Build::Prometheus, "alertmanager")?, folder.path())?
            .args(["--config.file=alertmanager.yml", "--storage.path=data", "--cluster.listen-address="])
            .arg(format!("--web.listen-address={address}"));
        let alertmanager = Self { address, config, receivers: Mutex::default(), program, _folder: folder };
        alertmanager.resume().await?;
        Ok(alertmanager)
    }

    /// `http://127.0.0.1:PORT`, the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The program, for stories that kill it, then [`Self::resume`].
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Starts it on the data and port that it has, and waits until it answers.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn resume(&self) -> anyhow::Result<()> {
        self.program.start()?;
        let ready = format!("{}/-/ready", self.url());
        self.program.ready(|| web::answers(&ready)).await
    }

    /// Adds or replaces a receiver by name. Every receiver whose matchers fit gets an alert: stories in
    /// parallel namespaces do not see each other's.
    ///
    /// # Errors
    /// When Alertmanager refuses the configuration.
    pub async fn add_receiver(&self, name: &str, receiver: Receiver) -> anyhow::Result<()> {
        let mut receivers = self.receivers.lock().await;
        receivers.insert(name.to_owned(), receiver);
        write_config(&self.config, &receivers)?;
        web::text(web::client()?.post(format!("{}/-/reload", self.url()))).await.map(|_| ())
    }

    /// Silences the alerts with exactly these labels for a while; returns the silence's id.
    ///
    /// # Errors
    /// When Alertmanager refuses.
    pub async fn silence(
        &self,
        labels: &[(&str, &str)],
        how_long: SignedDuration,
        comment: &str,
    ) -> anyhow::Result<String> {
        let now = Timestamp::now();
        let matchers: Vec<Value> = labels
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value, "isRegex": false, "isEqual": true}))
            .collect();
        let silence = json!({"matchers": matchers, "startsAt": now.to_string(), "endsAt": (now + how_long).to_string(), "createdBy": "bench", "comment": comment});
        let answer = web::json(web::client()?.post(format!("{}/api/v2/silences", self.url())).json(&silence)).await?;
        answer["silenceID"].as_str().map(str::to_owned).context("a silence without an id")
    }

    /// Ends a silence.
    ///
    /// # Errors
    /// When there is none with this id.
    pub async fn expire_silence(&self, id: &str) -> anyhow::Result<()> {
        web::text(web::client()?.delete(format!("{}/api/v2/silence/{id}", self.url()))).await.map(|_| ())
    }

    /// The alerts that it holds, with their status (`active`, `suppressed`).
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn alerts(&self) -> anyhow::Result<Vec<Value>> {
        let answer = web::json(web::client()?.get(format!("{}/api/v2/alerts", self.url()))).await?;
        Ok(answer.as_array().cloned().unwrap_or_default())
    }

    /// Hands it alerts as Prometheus would: `[{labels, annotations, startsAt, endsAt}]`.
    ///
    /// # Errors
    /// When it refuses them.
    pub async fn post_alerts(&self, alerts: &Value) -> anyhow::Result<()> {
        web::text(web::client()?.post(format!("{}/api/v2/alerts", self.url())).json(alerts)).await.map(|_| ())
    }
}

/// Written as JSON, which YAML readers read.
fn write_config(path: &Path, receivers: &BTreeMap<String, Receiver>) -> anyhow::Result<()> {
    let routes: Vec<Value> = receivers
        .iter()
        .map(|(name, receiver)| json!({"receiver": name, "matchers": receiver.matchers, "repeat_interval": receiver.repeat_interval, "continue": true}))
        .collect();
    let mut all = vec![json!({"name": "nobody"})];
    for (name, receiver) in receivers {
        let mut webhook = json!({"url": receiver.url, "send_resolved": true});
        if let Some(token) = &receiver.bearer_token {
            webhook["http_config"] = json!({"authorization": {"type": "Bearer", "credentials": token}});
        }
        all.push(json!({"name": name, "webhook_configs": [webhook]}));
    }
    let route = json!({"receiver": "nobody", "group_by": ["alertname", "namespace"], "group_wait": "0s", "group_interval": "1s", "repeat_interval": "4h", "routes": routes});
    fs::write(path, json!({"route": route, "receivers": all}).to_string())
        .with_context(|| format!("cannot write {}", path.display()))
}

//! Prometheus: scrapes and evaluates every second, takes remote writes, and survives being killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::parts::{Binaries, Build};
use super::ports::free_port;
use super::program::Program;
use super::reaper::Run;
use super::remote_write::{Series, encode};
use super::until::until;
use super::web;

/// File-based discovery notices a change at once; its poll, which heals a missed notice, is every second.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

/// A running Prometheus with its data folder.
#[derive(Debug)]
pub struct Prometheus {
    url: String,
    dir: PathBuf,
    program: Program,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it; alerts go to the Alertmanager at `alertmanager` (`127.0.0.1:PORT`), where one is given.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(binaries: &Binaries, alertmanager: Option<&str>) -> anyhow::Result<Self> {
        let folder = Run::current()?.folder("prometheus")?;
        let dir = folder.path().to_path_buf();
        for name in ["rules", "targets", "data"] {
            fs::create_dir_all(dir.join(name))?;
        }
        fs::write(dir.join("prometheus.yml"), configuration(&dir, alertmanager))?;
        let port = free_port()?;
        let url = format!("http://127.0.0.1:{port}");
        let program =
            Program::new(&format!("prometheus-{port}"), binaries.path(Build::Prometheus, "prometheus")?, &dir)?
                .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--storage.tsdb.retention.time=30d"])
                .args(["--web.enable-remote-write-receiver", "--web.enable-otlp-receiver", "--web.enable-lifecycle"])
                .args(["--enable-feature=exemplar-storage"])
                // Without it a silence of resolved alerts follows each restart.
                .args([
                    "--rules.alert.resend-delay=1s",
                    "--rules.alert.for-grace-period=1s",
                    "--rules.alert.for-outage-tolerance=1h",
                ])
                .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let prometheus = Self { url, dir, program, _folder: folder };
        prometheus.resume().await?;
        Ok(prometheus)
    }

    /// `http://127.0.0.1:PORT`, the same after a restart.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The program, for stories that kill it (`program().kill()`), then [`Self::resume`].
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
        let ready = format!("{}/-/ready", self.url);
        self.program.ready(|| web::answers(&ready)).await
    }

    /// Adds or replaces a rule file (`groups: [...]`; groups are evaluated every second unless they say
    /// otherwise) and waits until it is loaded. The name may be anything, one per story.
    ///
    /// # Errors
    /// When Prometheus refuses the rules: with its words.
    pub async fn add_rules(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        let path = self.dir.join("rules").join(format!("{name}.yaml"));
        fs::write(&path, yaml)?;
        let reloaded = self.reload().await;
        if reloaded.is_err() {
            fs::remove_file(&path)?;
            self.reload().await?;
        }
        reloaded.with_context(|| format!("rules {name}"))
    }

    /// Removes a rule file.
    ///
    /// # Errors
    /// When there is none with this name.
    pub async fn remove_rules(&self, name: &str) -> anyhow::Result<()> {
        fs::remove_file(self.dir.join("rules").join(format!("{name}.yaml")))?;
        self.reload().await
    }

    /// Scrapes `127.0.0.1:PORT` (its `/metrics`) every second from now on, adding these labels to what it
    /// exposes (labels that the target exposes itself win), and waits until it was scraped.
    ///
    /// # Errors
    /// When it cannot be scraped: with Prometheus's words.
    pub async fn scrape(&self, name: &str, address: &str, labels: &[(&str, &str)]) -> anyhow::Result<()> {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let targets = json!([{"targets": [address], "labels": labels}]).to_string();
        let path = self.dir.join("targets").join(format!("{name}.json"));
        // Renamed into place, so that half a file is never read.
        let draft = self.dir.join(format!("{name}.draft"));
        fs::write(&draft, targets)?;
        fs::rename(draft, path)?;
        until(&format!("{address} to be scraped"), SEEN_WITHIN, || async {
            let targets = self.get("/api/v1/targets?state=active", &[]).await?;
            let target = targets["activeTargets"].as_array().and_then(|all| {
                all.iter().find(|target| target["discoveredLabels"]["__address__"] == address).cloned()
            });
            match target {
                Some(target) if target["health"] == "up" => Ok(Some(())),
                Some(target) => Err(anyhow::anyhow!("{}", target["lastError"])),
                None => Ok(None),
            }
        })
        .await
    }

    /// Stops scraping a target.
    ///
    /// # Errors
    /// When there is none with this name.
    pub fn stop_scraping(&self, name: &str) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.dir.join("targets").join(format!("{name}.json")))?)
    }

    /// Writes samples by remote write; they may be up to seven days old.
    ///
    /// # Errors
    /// When Prometheus refuses them.
    pub async fn write(&self, series: &[Series]) -> anyhow::Result<()> {
        let body = encode(series)?;
        let request = web::client()?
            .post(format!("{}/api/v1/write", self.url))
            .header("Content-Type", "application/x-protobuf")
            .header("Content-Encoding", "snappy");
        web::text(request.header("X-Prometheus-Remote-Write-Version", "0.1.0").body(body)).await.map(|_| ())
    }

    /// The result of an instant query: `[{metric, value: [time, "text"]}]`.
    ///
    /// # Errors
    /// When Prometheus refuses the query.
    pub async fn query(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let data = self.get("/api/v1/query", &[("query", query)]).await?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }

    /// The number that a query with one result has now; none without a result.
    ///
    /// # Errors
    /// When Prometheus refuses the query.
    pub async fn value(&self, query: &str) -> anyhow::Result<Option<f64>> {
        let result = self.query(query).await?;
        Ok(result.first().and_then(|first| first["value"][1].as_str()?.parse().ok()))
    }

    /// The alerts that are pending or firing: `[{labels, state, activeAt}]`.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub async fn alerts(&self) -> anyhow::Result<Vec<Value>> {
        Ok(self.get("/api/v1/alerts", &[]).await?["alerts"].as_array().cloned().unwrap_or_default())
    }

    async fn reload(&self) -> anyhow::Result<()> {
        web::text(web::client()?.post(format!("{}/-/reload", self.url))).await.map(|_| ())
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        Ok(web::json(web::client()?.get(format!("{}{path}", self.url)).query(query)).await?["data"].clone())
    }
}

fn configuration(dir: &Path, alertmanager: Option<&str>) -> String {
    let dir = dir.display();
    let alerting = alertmanager.map_or_else(String::new, |address| {
        format!("alerting:\n  alertmanagers:\n  - static_configs: [{{targets: [\"{address}\"]}}]\n")
    });
    format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s, external_labels: {{cluster: bench}}}}\n\
         {alerting}\
         rule_files: [\"{dir}/rules/*.yaml\"]\n\
         scrape_configs:\n\
         - job_name: bench\n  honor_labels: true\n  file_sd_configs: [{{files: [\"{dir}/targets/*.json\"], refresh_interval: 1s}}]\n\
         storage: {{tsdb: {{out_of_order_time_window: 7d}}}}\n"
    )
}

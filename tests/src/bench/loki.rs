//! Loki: logs in, LogQL out, files below a temporary folder.

use std::fs;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::parts::{Binaries, Build};
use super::ports::free_port;
use super::program::Program;
use super::reaper::Run;
use super::web;

/// A running Loki.
#[derive(Debug)]
pub struct Loki {
    url: String,
    program: Program,
    _folder: tempfile::TempDir,
}

impl Loki {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(binaries: &Binaries) -> anyhow::Result<Self> {
        let folder = Run::current()?.folder("loki")?;
        let (http, grpc) = (free_port()?, free_port()?);
        fs::write(
            folder.path().join("loki.yaml"),
            configuration(&folder.path().join("data").display().to_string(), http, grpc),
        )?;
        let program =
            Program::new("loki", binaries.path(Build::Loki, "loki")?, folder.path())?.arg("-config.file=loki.yaml");
        let loki = Self { url: format!("http://127.0.0.1:{http}"), program, _folder: folder };
        loki.resume().await?;
        Ok(loki)
    }

    /// `http://127.0.0.1:PORT`, the same after a restart.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Pushes lines of one stream.
    ///
    /// # Errors
    /// When Loki refuses them.
    pub async fn push(&self, labels: &[(&str, &str)], lines: &[(Timestamp, &str)]) -> anyhow::Result<()> {
        let stream: Map<String, Value> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let values: Vec<Value> = lines.iter().map(|(at, line)| json!([at.as_nanosecond().to_string(), line])).collect();
        let request = web::client()?
            .post(format!("{}/loki/api/v1/push", self.url))
            .json(&json!({"streams": [{"stream": stream, "values": values}]}));
        web::text(request).await.map(|_| ())
    }

    /// Pushes one line with structured metadata, as OpenTelemetry's exporter does.
    ///
    /// # Errors
    /// When Loki refuses it.
    pub async fn push_with(
        &self,
        labels: &[(&str, &str)],
        at: Timestamp,
        line: &str,
        metadata: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let named = |pairs: &[(&str, &str)]| -> Map<String, Value> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
        };
        let values = json!([[at.as_nanosecond().to_string(), line, named(metadata)]]);
        let request = web::client()?
            .post(format!("{}/loki/api/v1/push", self.url))
            .json(&json!({"streams": [{"stream": named(labels), "values": values}]}));
        web::text(request).await.map(|_| ())
    }

    /// The lines that a log query finds in the last hour, newest first.
    ///
    /// # Errors
    /// When Loki refuses the query.
    pub async fn lines(&self, query: &str) -> anyhow::Result<Vec<String>> {
        let request = web::client()?.get(format!("{}/loki/api/v1/query_range", self.url)).query(&[
            ("query", query),
            ("since", "1h"),
            ("limit", "1000"),
        ]);
        let answer = web::json(request).await?;
        let streams = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let values = streams.iter().filter_map(|stream| stream["values"].as_array()).flatten();
        Ok(values.filter_map(|value| value[1].as_str().map(str::to_owned)).collect())
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
        let ready = format!("{}/ready", self.url);
        self.program.ready(|| web::answers(&ready)).await
    }
}

fn configuration(data: &str, http: u16, grpc: u16) -> String {
    json!({
        "auth_enabled": false,
        "server": {"http_listen_address": "127.0.0.1", "http_listen_port": http, "grpc_listen_address": "127.0.0.1", "grpc_listen_port": grpc, "log_level": "warn"},
        "common": {
            "path_prefix": data,
            "instance_addr": "127.0.0.1",
            "storage": {"filesystem": {"chunks_directory": format!("{data}/chunks"), "rules_directory": format!("{data}/rules")}},
            "replication_factor": 1,
            "ring": {"kvstore": {"store": "inmemory"}},
        },
        "ingester": {"lifecycler": {"min_ready_duration": "0s", "final_sleep": "0s"}},
        "schema_config": {"configs": [{"from": "2024-01-01", "store": "tsdb", "object_store": "filesystem", "schema": "v13", "index": {"prefix": "index_", "period": "24h"}}]},
        "limits_config": {"reject_old_samples": false, "ingestion_rate_mb": 64, "ingestion_burst_size_mb": 128},
        "analytics": {"reporting_enabled": false},
    })
    .to_string()
}

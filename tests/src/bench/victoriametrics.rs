//! VictoriaMetrics, the single binary: remote writes in, Prometheus' query API out.

use super::parts::{Binaries, Build};
use super::ports::free_port;
use super::program::Program;
use super::reaper::Run;
use super::remote_write::{Series, encode};
use super::web;

/// A running VictoriaMetrics.
#[derive(Debug)]
pub struct VictoriaMetrics {
    url: String,
    _program: Program,
    _folder: tempfile::TempDir,
}

impl VictoriaMetrics {
    /// Starts it with the settings that a user gets who sets none.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(binaries: &Binaries) -> anyhow::Result<Self> {
        let folder = Run::current()?.folder("victoriametrics")?;
        let port = free_port()?;
        let url = format!("http://127.0.0.1:{port}");
        let path = binaries.path(Build::VictoriaMetrics, "victoria-metrics")?;
        let program = Program::new("victoriametrics", path, folder.path())?
            .args(["-storageDataPath=data", "-loggerLevel=WARN"])
            .arg(format!("-httpListenAddr=127.0.0.1:{port}"));
        program.start()?;
        let ready = format!("{url}/health");
        program.ready(|| web::answers(&ready)).await?;
        Ok(Self { url, _program: program, _folder: folder })
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Writes samples by remote write and makes them visible to queries at once.
    ///
    /// # Errors
    /// When they are refused.
    pub async fn write(&self, series: &[Series]) -> anyhow::Result<()> {
        let request = web::client()?
            .post(format!("{}/api/v1/write", self.url))
            .header("Content-Type", "application/x-protobuf")
            .header("Content-Encoding", "snappy");
        web::text(request.body(encode(series)?)).await?;
        // Otherwise they are seen within a second or two.
        web::text(web::client()?.get(format!("{}/internal/force_flush", self.url))).await.map(|_| ())
    }
}

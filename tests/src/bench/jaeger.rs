//! Jaeger: OTLP in, the query API out, traces in memory.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::Value;

use super::parts::{Binaries, Build};
use super::ports::free_port;
use super::program::Program;
use super::reaper::Run;
use super::web;

/// A running Jaeger.
#[derive(Debug)]
pub struct Jaeger {
    query: String,
    otlp: String,
    program: Program,
    _folder: tempfile::TempDir,
}

impl Jaeger {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(binaries: &Binaries) -> anyhow::Result<Self> {
        let folder = Run::current()?.folder("jaeger")?;
        let (query, otlp, admin) = (free_port()?, free_port()?, free_port()?);
        let mut program = Program::new("jaeger", binaries.path(Build::Jaeger, "jaeger")?, folder.path())?
            .env("COLLECTOR_OTLP_ENABLED", "true")
            .env("SPAN_STORAGE_TYPE", "memory")
            .args(["--memory.max-traces=100000", "--log-level=warn"])
            .arg(format!("--query.http-server.host-port=127.0.0.1:{query}"))
            .arg(format!("--collector.otlp.http.host-port=127.0.0.1:{otlp}"))
            .arg(format!("--admin.http.host-port=127.0.0.1:{admin}"));
        // It always listens on these as well.
        let others = ["query.grpc-server", "collector.otlp.grpc", "collector.http-server", "collector.grpc-server"];
        for name in others {
            program = program.arg(format!("--{name}.host-port=127.0.0.1:{}", free_port()?));
        }
        program.start()?;
        let jaeger = Self {
            query: format!("http://127.0.0.1:{query}"),
            otlp: format!("http://127.0.0.1:{otlp}"),
            program,
            _folder: folder,
        };
        let ready = format!("{}/api/services", jaeger.query);
        jaeger.program.ready(|| web::answers(&ready)).await?;
        Ok(jaeger)
    }

    /// Its query API: `http://127.0.0.1:PORT`, below it `/api/traces` and kin.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.query
    }

    /// Its OTLP/HTTP receiver: `http://127.0.0.1:PORT`, below it `/v1/traces`.
    #[must_use]
    pub fn otlp_url(&self) -> &str {
        &self.otlp
    }

    /// Sends spans.
    ///
    /// # Errors
    /// When they are refused.
    pub async fn send(&self, spans: &ExportTraceServiceRequest) -> anyhow::Result<()> {
        let request =
            web::client()?.post(format!("{}/v1/traces", self.otlp)).header("Content-Type", "application/x-protobuf");
        web::text(request.body(spans.encode_to_vec())).await.map(|_| ())
    }

    /// A trace by its id in hex; none when it is not there (yet).
    ///
    /// # Errors
    /// When Jaeger does not answer.
    pub async fn trace(&self, id: &str) -> anyhow::Result<Option<Value>> {
        let (status, body) = web::ask(web::client()?.get(format!("{}/api/traces/{id}", self.query))).await?;
        if !status.is_success() {
            return Ok(None);
        }
        let answer: Value = serde_json::from_str(&body)?;
        Ok(answer["data"].get(0).cloned())
    }

    /// The names of the services that sent spans.
    ///
    /// # Errors
    /// When Jaeger does not answer.
    pub async fn services(&self) -> anyhow::Result<Vec<String>> {
        let answer = web::json(web::client()?.get(format!("{}/api/services", self.query))).await?;
        Ok(serde_json::from_value::<Option<Vec<String>>>(answer["data"].clone())?.unwrap_or_default())
    }

    /// The program, for stories that kill it. Its traces go with it.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }
}

//! What we say about ourselves: logs for people and machines, traces for those who collect them.
//!
//! Log lines carry `incident`, `remediation` and `entity` as fields, never inside the sentence. Traces leave over
//! OTLP/HTTP only when an endpoint is configured; losing them never slows the work down.

use std::io::IsTerminal;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::reconcile::LOOK;

/// How to speak.
#[derive(Clone, Debug)]
pub struct Voice {
    pub format: LogFormat,
    /// As `tracing_subscriber::EnvFilter` reads it, for example `info,amend_controller=debug`.
    pub filter: String,
    /// Collector for traces, as `OTEL_EXPORTER_OTLP_ENDPOINT` names it: `http://collector:4318`; none: no traces.
    pub otlp_endpoint: Option<String>,
    /// Name of this process in traces: the pod's name.
    pub instance: String,
}

/// Shape of log lines, always on standard error: standard output belongs to results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogFormat {
    /// Text for a person at a terminal, JSON for a collector.
    pub fn suited_to_stderr() -> Self {
        if std::io::stderr().is_terminal() { Self::Text } else { Self::Json }
    }
}

/// Why we cannot speak.
#[derive(Debug, thiserror::Error)]
pub enum VoiceError {
    #[error("the log filter {filter:?} cannot be read")]
    Filter {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("traces cannot be sent to {endpoint}")]
    Exporter {
        endpoint: String,
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    #[error("logs are set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sends what is left when it is dropped; keep it until the end of the process.
#[derive(Debug)]
#[must_use = "traces not sent yet are lost without it"]
pub struct Speaking {
    traces: Option<SdkTracerProvider>,
}

impl Drop for Speaking {
    fn drop(&mut self) {
        if let Some(traces) = self.traces.take()
            && let Err(error) = traces.shutdown()
        {
            tracing::debug!(%error, "the last traces were not sent");
        }
    }
}

/// Sets up logs and traces for the whole process. Call it once, inside the runtime.
pub fn speak(voice: &Voice) -> Result<Speaking, VoiceError> {
    let filter = EnvFilter::try_new(&voice.filter)
        .map_err(|source| VoiceError::Filter { filter: voice.filter.clone(), source })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match voice.format {
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
    };
    let traces = voice.otlp_endpoint.as_deref().map(|endpoint| exporter(endpoint, &voice.instance)).transpose()?;
    let spans = traces.as_ref().map(|traces| {
        opentelemetry::global::set_tracer_provider(traces.clone());
        // The exporter's own requests must not become spans that are exported.
        let ours = tracing_subscriber::filter::filter_fn(|meta| {
            meta.target().starts_with("amend") && !(meta.is_span() && meta.name() == LOOK)
        });
        tracing_opentelemetry::layer().with_tracer(traces.tracer("amend")).with_filter(ours)
    });
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).try_init().map_err(VoiceError::Twice)?;
    Ok(Speaking { traces })
}

/// Sends from a thread of its own: the SDK's batches run outside the async runtime.
fn exporter(endpoint: &str, instance: &str) -> Result<SdkTracerProvider, VoiceError> {
    // An error only says that the process has chosen one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(traces_url(endpoint))
        .with_timeout(std::time::Duration::from_secs(5))
        .build()
        .map_err(|source| VoiceError::Exporter { endpoint: endpoint.to_owned(), source })?;
    let resource = Resource::builder()
        .with_service_name("amend-controller")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance.to_owned()),
        ])
        .build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
        .with_batch_exporter(exporter)
        .build())
}

/// The path that OTLP over HTTP prescribes under a collector's base URL, unless it is there already.
fn traces_url(endpoint: &str) -> String {
    let base = endpoint.trim_end_matches('/');
    if base.ends_with("/v1/traces") { base.to_owned() } else { format!("{base}/v1/traces") }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Bytes;
    use axum::routing::post;
    use opentelemetry::trace::Tracer;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_finished_span_reaches_the_collector() {
        let (received, mut bodies) = tokio::sync::mpsc::unbounded_channel();
        let app = Router::new().route(
            "/v1/traces",
            post(move |body: Bytes| async move {
                let _ = received.send(body);
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let traces = exporter(&endpoint, "amend-0").unwrap();
        traces.tracer("amend").in_span("remediation", |_| {});
        drop(Speaking { traces: Some(traces) });
        let body = tokio::time::timeout(std::time::Duration::from_secs(10), bodies.recv()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(text.contains("remediation") && text.contains("amend-0"), "{text:?}");
    }

    #[test]
    fn traces_go_below_the_collectors_base_url() {
        for endpoint in ["http://collector:4318", "http://collector:4318/", "http://collector:4318/v1/traces"] {
            assert_eq!(traces_url(endpoint), "http://collector:4318/v1/traces");
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let voice = Voice {
            format: LogFormat::Text,
            filter: "info,=,=".to_owned(),
            otlp_endpoint: None,
            instance: String::new(),
        };
        let error = speak(&voice).unwrap_err();
        assert_eq!(error.to_string(), "the log filter \"info,=,=\" cannot be read");
    }
}

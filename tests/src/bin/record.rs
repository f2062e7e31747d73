//! Records the replies of a real store for the source contract: see `controller/telemetry/tests/recorded/README.md`.

use std::path::PathBuf;

use amend_diagnosis::evidence::Window;
use amend_telemetry::contract::recorded::Recorded;
use amend_telemetry::source::SourceKind;
use amend_tests::recording::{play, record};
use anyhow::Context;
use clap::Parser;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};

/// Records the replies of a real store for the source contract.
#[derive(Debug, Parser)]
struct Arguments {
    /// `Prometheus` (also Thanos, Mimir, VictoriaMetrics), `Jaeger`, `Tempo`, `Loki` or `OpenSearch` (also Elasticsearch)
    #[arg(long, value_parser = kind)]
    kind: SourceKind,

    /// Base URL of the store
    #[arg(long, env = "AMEND_RECORD_URL")]
    url: String,

    /// Product and version, as the recording names it
    #[arg(long)]
    store: String,

    #[arg(long)]
    namespace: String,

    /// A Deployment that the store holds something about
    #[arg(long)]
    workload: String,

    /// Id of a trace that the store holds, or that lines of it name
    #[arg(long)]
    trace: Option<String>,

    /// How many minutes back there is something
    #[arg(long, default_value_t = 20)]
    minutes: i64,

    /// Seconds between two samples
    #[arg(long, default_value_t = 30)]
    sample_every: i64,

    /// Names that the store uses, `key=value` as in a `TelemetrySource`; may be repeated
    #[arg(long, value_parser = pair)]
    mapping: Vec<(String, String)>,

    /// Sent with every question and not kept, `name=value`; may be repeated
    #[arg(long, value_parser = pair)]
    header: Vec<(String, String)>,

    /// Where the recording goes; one that is there is replaced
    file: PathBuf,
}

fn kind(text: &str) -> Result<SourceKind, String> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|error| error.to_string())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not name=value"))?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    amend_tests::bench::install_crypto();
    let arguments = Arguments::parse();
    let mut headers = HeaderMap::new();
    for (name, value) in &arguments.header {
        headers.insert(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
    }
    let to = Timestamp::now();
    let about = Recorded {
        store: arguments.store,
        kind: arguments.kind,
        namespace: arguments.namespace,
        workload: arguments.workload,
        trace: arguments.trace,
        window: Window { from: to - SignedDuration::from_mins(arguments.minutes), to },
        sample_every: arguments.sample_every,
        mapping: arguments.mapping.into_iter().collect(),
        exchanges: Vec::new(),
    };
    let recorded = record(&arguments.url, &headers, about).await?;
    play(&recorded).await.context("the recording does not stand for the store")?;
    std::fs::write(&arguments.file, serde_json::to_string_pretty(&recorded)? + "\n")?;
    println!("{}: {} exchanges with {}", arguments.file.display(), recorded.exchanges.len(), recorded.store);
    Ok(())
}

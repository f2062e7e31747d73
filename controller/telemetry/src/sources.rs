//! The stores that may be asked about one incident, and asking several of them at once.

use std::sync::Arc;
use std::time::Duration;

use amend_diagnosis::evidence::{Series, Window};
use amend_diagnosis::logs::Class;
use futures::future::join_all;
use tokio::time::{Instant, timeout_at};

use crate::digest::Canonical;
use crate::questions::SeriesQuestion;
use crate::source::{Asking, Reply, Source, SourceConfig, SourceKind};

/// The stores that serve one namespace.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    all: Vec<Arc<dyn Source>>,
}

impl Sources {
    pub fn new(all: impl IntoIterator<Item = Arc<dyn Source>>) -> Self {
        Self { all: all.into_iter().collect() }
    }

    pub fn all(&self) -> &[Arc<dyn Source>] {
        &self.all
    }

    /// The stores of some kinds.
    pub fn holding(&self, holds: impl Fn(SourceKind) -> bool) -> Vec<&dyn Source> {
        self.all.iter().map(AsRef::as_ref).filter(|source: &&dyn Source| holds(source.config().kind)).collect()
    }

    /// The class that people taught for a log line, by any of these sources, in the order of their names.
    pub fn taught(&self, line: &str) -> Option<Class> {
        let mut teaching: Vec<&SourceConfig> =
            self.all.iter().map(|source| source.config()).filter(|config| !config.taught.is_empty()).collect();
        teaching.sort_by(|left, right| left.name.cmp(&right.name));
        teaching.into_iter().find_map(|config| config.taught.class_of(line))
    }

    /// Asks every store of metrics for one measure.
    pub async fn measured(&self, question: &SeriesQuestion, deadline: Duration) -> Vec<Reply<Vec<Series>>> {
        let asking = |source| -> Asking<'_, Vec<Series>> { Source::series(source, question) };
        self.ask(SourceKind::holds_metrics, "metrics", &question.id, question.window, deadline, asking).await
    }

    /// Puts one question to every store that may know, all at once. There is always at least one reply: where no store
    /// holds such a thing, it says so.
    pub(crate) async fn ask<'a, T: Canonical>(
        &'a self,
        holds: fn(SourceKind) -> bool,
        what: &str,
        id: &str,
        window: Window,
        deadline: Duration,
        question: impl Fn(&'a dyn Source) -> Asking<'a, T>,
    ) -> Vec<Reply<T>> {
        let sources = self.holding(holds);
        if sources.is_empty() {
            return vec![Reply::unknown(id, "none", "", window, nobody(what))];
        }
        let end = Instant::now() + deadline;
        join_all(sources.into_iter().map(|source| in_time(source, id, window, end, question(source)))).await
    }
}

/// Waits for one answer until the batch's deadline.
pub(crate) async fn in_time<T: Canonical>(
    source: &dyn Source,
    id: &str,
    window: Window,
    end: Instant,
    asking: Asking<'_, T>,
) -> Reply<T> {
    let name = &source.config().name;
    match timeout_at(end, asking).await {
        Ok(told) => Reply::of(id, name, window, told),
        Err(_) => {
            let why = format!(
                "{name}: no answer before the deadline of the whole diagnosis; ask less at once or raise limits.concurrency \
                 of the TelemetrySource"
            );
            Reply::unknown(id, name, "", window, why)
        }
    }
}

/// The sentence for a missing kind of store.
pub(crate) fn nobody(what: &str) -> String {
    format!("no TelemetrySource that holds {what} serves this namespace; add one")
}

impl SourceKind {
    pub fn holds_metrics(self) -> bool {
        match self {
            Self::Prometheus | Self::OtlpFiles | Self::Case => true,
            Self::Alertmanager | Self::Jaeger | Self::Tempo | Self::Loki | Self::OpenSearch => false,
        }
    }

    /// Whether it can say that an alert fires: who holds metrics need not know any rule.
    pub fn holds_alerts(self) -> bool {
        match self {
            Self::Prometheus | Self::Case => true,
            Self::Alertmanager | Self::Jaeger | Self::Tempo | Self::Loki | Self::OpenSearch | Self::OtlpFiles => false,
        }
    }

    pub fn holds_silences(self) -> bool {
        match self {
            Self::Alertmanager => true,
            Self::Prometheus | Self::Jaeger | Self::Tempo | Self::Loki | Self::OpenSearch => false,
            Self::OtlpFiles | Self::Case => false,
        }
    }

    pub fn holds_traces(self) -> bool {
        match self {
            Self::Jaeger | Self::Tempo | Self::OtlpFiles | Self::Case => true,
            Self::Prometheus | Self::Alertmanager | Self::Loki | Self::OpenSearch => false,
        }
    }

    pub fn holds_calls(self) -> bool {
        match self {
            Self::Jaeger | Self::Tempo | Self::Prometheus | Self::OtlpFiles | Self::Case => true,
            Self::Alertmanager | Self::Loki | Self::OpenSearch => false,
        }
    }

    pub fn holds_logs(self) -> bool {
        match self {
            Self::Loki | Self::OpenSearch | Self::OtlpFiles | Self::Case => true,
            Self::Prometheus | Self::Alertmanager | Self::Jaeger | Self::Tempo => false,
        }
    }

    /// Whether it is a directory instead of a server.
    pub fn is_files(self) -> bool {
        match self {
            Self::OtlpFiles | Self::Case => true,
            Self::Prometheus | Self::Alertmanager | Self::Jaeger | Self::Tempo | Self::Loki | Self::OpenSearch => false,
        }
    }
}

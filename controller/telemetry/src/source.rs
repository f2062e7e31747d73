//! A store that can be asked: its settings, what can go wrong, and the one trait that every backend fulfils.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use amend_diagnosis::evidence::{Answer, Asked, LogLine, Series, Span, TopologyEdge, Window};
use amend_diagnosis::logs::taught::Taught;
use futures::future::{BoxFuture, FutureExt};
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::alert::{AlertQuestion, AlertState, Muting, QuietQuestion, Silencer};
use crate::case::CaseReader;
use crate::digest::Canonical;
use crate::egress::{Egress, EgressError};
use crate::files::Files;
use crate::history::HistoryQuestion;
use crate::load::Load;
use crate::mapping::{Mapping, MappingError};
use crate::otlp_files::OtlpReader;
use crate::questions::{Exemplar, ExemplarQuestion, LineQuestion, SeriesQuestion, TraceQuestion, WholeTraceQuestion};
use crate::secret_file::{SecretFile, SecretFileError};
use crate::{alertmanager, jaeger, loki, opensearch, prometheus, tempo};

/// Which protocol a store speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SourceKind {
    /// Also Thanos, Mimir and VictoriaMetrics.
    Prometheus,
    Alertmanager,
    Jaeger,
    Tempo,
    Loki,
    /// Also Elasticsearch.
    OpenSearch,
    /// A directory of what OpenTelemetry Collector's file exporter writes.
    OtlpFiles,
    /// A case directory.
    Case,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

/// How we prove who we are.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    #[default]
    None,
    Bearer(SecretString),
    /// A bearer token that is read from its file for each question.
    BearerIn(Arc<SecretFile>),
    Basic {
        user: String,
        password: SecretString,
    },
}

/// How much one question may cost. Exceeding one makes the answer `Unknown`: a truncated answer would be a wrong one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Series of one answer.
    pub series: usize,
    /// Samples, spans or lines of one answer.
    pub samples: usize,
    /// Bytes of one answer, counted after decompression.
    pub bytes: usize,
    /// Deadline of one question, from the wait for a free slot to the last byte.
    pub timeout: Duration,
    /// Questions under way at once.
    pub concurrency: usize,
}

impl Default for Limits {
    /// What a healthy store answers in a second, and what a control loop can afford (research/reliability.md, T11).
    fn default() -> Self {
        Self { series: 2_000, samples: 500_000, bytes: 8 << 20, timeout: Duration::from_secs(10), concurrency: 4 }
    }
}

impl Limits {
    /// What a store of this kind may cost where nobody says otherwise.
    ///
    /// Files are read whole where a store would answer a part, so their bytes count once for all questions: a case may hold
    /// hours of a cluster, and a person reads it on a machine of his own.
    pub fn of(kind: SourceKind) -> Self {
        match kind {
            // What the controller's pod can hold beside all else it does: a file of text costs about its size in memory.
            SourceKind::OtlpFiles => Self { bytes: 32 << 20, ..Self::default() },
            SourceKind::Case => Self { bytes: 512 << 20, timeout: Duration::from_secs(60), ..Self::default() },
            SourceKind::Prometheus
            | SourceKind::Alertmanager
            | SourceKind::Jaeger
            | SourceKind::Tempo
            | SourceKind::Loki
            | SourceKind::OpenSearch => Self::default(),
        }
    }
}

/// Everything needed to ask one store.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// What the `TelemetrySource` is called; shown to people and in every [`Asked`].
    pub name: String,
    pub kind: SourceKind,
    /// Base URL without the API path; of files a `file` URL of their directory.
    pub url: Url,
    pub credentials: Credentials,
    /// PEM bundle of the authorities that sign the store's certificate; `None`: the system's.
    pub authorities: Option<Vec<u8>>,
    /// Sent as `X-Scope-OrgID` (Mimir, Loki, Tempo), so that only this tenant's data is seen.
    pub tenant: Option<String>,
    pub mapping: Mapping,
    /// Classes of log lines that people taught; they hold for every line of the namespaces that this source serves.
    pub taught: Arc<Taught>,
    /// How often the store gets a new sample of a series; 30 s where nobody says otherwise.
    ///
    /// Rates are taken over four of these, so that one missed scrape does not make a gap.
    pub sample_every: SignedDuration,
    pub limits: Limits,
    /// Shared by all sources whose cost is counted together; `None`: nobody counts.
    pub load: Option<Arc<Load>>,
}

impl SourceConfig {
    /// A source without credentials, with default names and limits.
    pub fn new(name: impl Into<String>, kind: SourceKind, url: Url) -> Self {
        Self {
            name: name.into(),
            kind,
            url,
            credentials: Credentials::None,
            authorities: None,
            tenant: None,
            mapping: Mapping::default(),
            taught: Arc::default(),
            sample_every: SignedDuration::from_secs(30),
            limits: Limits::of(kind),
            load: None,
        }
    }

    /// Takes over the names that a `TelemetrySource` declares; see [`Mapping`] for the keys.
    ///
    /// # Errors
    /// An unknown key, or a value that cannot be a name.
    pub fn mapped(mut self, names: &BTreeMap<String, String>) -> Result<Self, MappingError> {
        self.mapping = Mapping::declared(names)?;
        Ok(self)
    }
}

/// Why a store gave no answer. Text from the store is cut and cleaned before it gets in here.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("the egress guard refused the call: {source}")]
    Refused {
        #[source]
        source: EgressError,
    },
    #[error("cannot make an HTTP client: {why}")]
    Client { why: String },
    #[error("cannot reach {host}: {why}")]
    Unreachable { host: String, why: String },
    #[error("no complete answer within {} ms", .after.as_millis())]
    TimedOut { after: Duration },
    #[error("{source}")]
    Secret {
        #[source]
        source: SecretFileError,
    },
    #[error("the token holds a character that no header may carry")]
    Token,
    #[error("the store answered {status}")]
    Unauthorised { status: u16 },
    #[error("the store answered 404 for {path}")]
    NotFound { path: String },
    #[error("the store refused the question with {status}: {said}")]
    Rejected { status: u16, said: String },
    #[error("the store's own limit refused the question: {said}")]
    Limited { said: String },
    #[error("the store failed with {status}: {said}")]
    Failing { status: u16, said: String },
    #[error("the store wants to send us elsewhere ({status}); redirects are not followed")]
    Redirected { status: u16 },
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the answer has more than {limit} {what}")]
    TooMany { limit: usize, what: &'static str },
    #[error("the answer cannot be read: {why}")]
    Malformed { why: String },
    #[error("the answer is partial: {said}")]
    Partial { said: String },
    #[error("cannot read {path}: {why}")]
    Unreadable { path: String, why: String },
    #[error("the files are larger than {limit} bytes: what was written before {since} was not read")]
    FilesTooLarge { limit: usize, since: Timestamp },
    #[error("{0}")]
    Absent(String),
    #[error("a {kind} source holds no {what}")]
    NotHeld { kind: SourceKind, what: &'static str },
    #[error("{what}; the key {key} of the mapping would name it")]
    Unmapped {
        what: String,
        /// The key of the mapping that would say it.
        key: &'static str,
    },
    #[error("{0}")]
    UnheardOf(String),
    #[error("no call between services was seen in this window")]
    NoCalls,
    #[error("the budget of {budget} queries is spent")]
    Spent { budget: u64 },
}

impl SourceError {
    /// What a person can do about it: one clause.
    fn advice(&self) -> &'static str {
        match self {
            Self::Refused { .. } => {
                "correct the URL of the TelemetrySource or the egress allow-list of the installation"
            }
            Self::Client { .. } => "check the certificate authorities in the TelemetrySource's Secret",
            Self::Unreachable { .. } => "check that it runs, its URL, its certificate and the network policies between",
            Self::TimedOut { .. } => "check the store's load, or raise limits.timeout of the TelemetrySource",
            Self::Secret { .. } => "it is read again for the next question",
            Self::Token => "write it to the Secret as one line of visible ASCII",
            Self::Unauthorised { .. } => {
                "check the credentials in the TelemetrySource's Secret, and spec.tenant where the store has tenants"
            }
            Self::Limited { .. } => {
                "narrow what the source sees (namespaces, recording rules), or raise that limit in the store"
            }
            Self::NotFound { .. } => "check that the URL is the store's base URL and that its kind is right",
            Self::Rejected { .. } => {
                "check that the kind of the TelemetrySource is right and its mapping names real labels"
            }
            Self::Unmapped { .. } => "declare it in spec.mapping of the TelemetrySource",
            Self::Failing { .. } => "look at the store's own logs",
            Self::Redirected { .. } => "give the final URL in the TelemetrySource",
            Self::TooLarge { .. } | Self::TooMany { .. } => {
                "narrow what the source sees (namespaces, recording rules), or raise limits.series of the TelemetrySource"
            }
            Self::Unreadable { .. } => "check that the directory is there and readable, and holds what its kind wants",
            Self::FilesTooLarge { .. } => {
                "ask about a later time, or have less written there (a directory for each namespace, fewer spans)"
            }
            Self::Absent(_) => {
                "only what was written there can be asked about; add a TelemetrySource that has the rest"
            }
            Self::Malformed { .. } => "check that the URL leads to the store itself and not to a login or error page",
            Self::Partial { .. } => "look at the store's own health; a partial answer is not used",
            Self::NotHeld { .. } => "add a TelemetrySource of the right kind",
            Self::NoCalls => {
                "check that services send traces, or export service-graph or mesh metrics to a Prometheus source"
            }
            Self::Spent { .. } => "raise --max-queries, or ask about less time",
            Self::UnheardOf(_) => {
                "check that its rule is evaluated by this store and that the alert's entity labels come from the rule"
            }
        }
    }

    /// The sentence that becomes `Unknown { why }`: what happened, then what to do.
    pub fn why(&self, source: &str) -> String {
        format!("{source}: {self}; {}", self.advice())
    }
}

/// What a store said: the query as sent, which is known even when the answer is not, and the outcome.
#[derive(Debug)]
pub struct Told<T> {
    pub query: String,
    pub outcome: Result<T, SourceError>,
    /// Samples that were not numbers (NaN, infinite) and were left out.
    pub dropped: usize,
}

impl<T> Told<T> {
    pub(crate) fn new(query: impl Into<String>, outcome: Result<T, SourceError>) -> Self {
        Self { query: query.into(), outcome, dropped: 0 }
    }
}

/// An answer together with the question behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply<T> {
    pub answer: Answer<T>,
    pub asked: Asked,
    /// Samples that were not numbers (NaN, infinite) and were left out.
    pub dropped: usize,
}

impl<T> Reply<T> {
    /// A reply without an answer; `why` is the whole sentence.
    pub fn unknown(id: &str, source: &str, query: &str, window: Window, why: impl Into<String>) -> Self {
        let why = why.into();
        let asked = Asked {
            id: id.to_owned(),
            source: source.to_owned(),
            query: query.to_owned(),
            window,
            digest: String::new(),
            unknown: Some(why.clone()),
        };
        Self { answer: Answer::Unknown { why }, asked, dropped: 0 }
    }

    /// The same question with another answer drawn from it.
    pub fn map<U>(self, with: impl FnOnce(T) -> U) -> Reply<U> {
        Reply { answer: self.answer.map(with), asked: self.asked, dropped: self.dropped }
    }
}

impl<T: Canonical> Reply<T> {
    /// Turns what a store said into an answer with its digest, or into `Unknown` with a sentence.
    pub fn of(id: &str, source: &str, window: Window, told: Told<T>) -> Self {
        match told.outcome {
            Ok(value) => {
                let asked = Asked {
                    id: id.to_owned(),
                    source: source.to_owned(),
                    query: told.query,
                    window,
                    digest: value.digest(),
                    unknown: None,
                };
                Self { answer: Answer::Known(value), asked, dropped: told.dropped }
            }
            Err(error) => Self::unknown(id, source, &told.query, window, error.why(source)),
        }
    }
}

/// One question under way.
pub type Asking<'a, T> = BoxFuture<'a, Told<T>>;

/// A store that can be asked. Every method answers within the source's own deadline and bounds.
///
/// A backend fulfils the methods for what it holds; the others say so. Implementations neither retry nor cache: the
/// caller decides what a second look is worth.
pub trait Source: fmt::Debug + Send + Sync {
    fn config(&self) -> &SourceConfig;

    /// Asks something cheap that needs the same rights as real questions, and says how long it took.
    fn probe(&self) -> Asking<'_, Duration>;

    /// Samples of one measure for a selection of workloads.
    fn series<'a>(&'a self, _question: &'a SeriesQuestion) -> Asking<'a, Vec<Series>> {
        not_held(self.config().kind, "metrics")
    }

    /// Traces in which a service took part.
    fn traces<'a>(&'a self, _question: &'a TraceQuestion) -> Asking<'a, Vec<Span>> {
        not_held(self.config().kind, "traces")
    }

    /// Which slow and failed requests of a selection are remembered; those that failed first, then the slowest.
    fn exemplars<'a>(&'a self, _question: &'a ExemplarQuestion) -> Asking<'a, Vec<Exemplar>> {
        not_held(self.config().kind, "exemplars")
    }

    /// The spans of one trace; none when the store does not have it.
    fn whole_trace<'a>(&'a self, _question: &'a WholeTraceQuestion) -> Asking<'a, Vec<Span>> {
        not_held(self.config().kind, "traces")
    }

    /// Who calls whom.
    fn calls(&self, _window: Window) -> Asking<'_, Vec<TopologyEdge>> {
        not_held(self.config().kind, "call edges")
    }

    /// Log lines of a selection of workloads.
    fn lines<'a>(&'a self, _question: &'a LineQuestion) -> Asking<'a, Vec<LogLine>> {
        not_held(self.config().kind, "logs")
    }

    /// How many log lines there were, by pod, as regular samples.
    fn line_counts<'a>(&'a self, _question: &'a LineQuestion, _step: SignedDuration) -> Asking<'a, Vec<Series>> {
        not_held(self.config().kind, "logs")
    }

    /// Whether an alert fires by the rules of this store.
    fn alert_state<'a>(&'a self, _question: &'a AlertQuestion) -> Asking<'a, AlertState> {
        not_held(self.config().kind, "alert rules")
    }

    /// Which alerts fired when, as samples of `ALERTS`.
    fn alerts_fired<'a>(&'a self, _question: &'a HistoryQuestion) -> Asking<'a, Vec<Series>> {
        not_held(self.config().kind, "alert rules")
    }

    /// Whether somebody has asked not to be told about an alert.
    fn muting<'a>(&'a self, _question: &'a AlertQuestion) -> Asking<'a, Muting> {
        not_held(self.config().kind, "silences")
    }

    /// Which silences ask for quiet about workloads, whichever of their alerts have come.
    fn quiet<'a>(&'a self, _question: &'a QuietQuestion) -> Asking<'a, Vec<Silencer>> {
        not_held(self.config().kind, "silences")
    }
}

fn not_held<T: Send + 'static>(kind: SourceKind, what: &'static str) -> Asking<'static, T> {
    async move { Told::new("", Err(SourceError::NotHeld { kind, what })) }.boxed()
}

/// Makes a source ready to be asked; nothing is sent yet.
///
/// # Errors
/// The egress guard refuses the URL, or the certificate authorities cannot be read.
pub fn open(config: SourceConfig, egress: &Egress) -> Result<Arc<dyn Source>, SourceError> {
    Ok(match config.kind {
        SourceKind::Prometheus => Arc::new(prometheus::Prometheus::open(config, egress)?),
        SourceKind::Alertmanager => Arc::new(alertmanager::Alertmanager::open(config, egress)?),
        SourceKind::Jaeger => Arc::new(jaeger::Jaeger::open(config, egress)?),
        SourceKind::Tempo => Arc::new(tempo::Tempo::open(config, egress)?),
        SourceKind::OpenSearch => Arc::new(opensearch::OpenSearch::open(config, egress)?),
        SourceKind::Loki => Arc::new(loki::Loki::open(config, egress)?),
        SourceKind::OtlpFiles => Arc::new(Files::open(config, egress, OtlpReader::default())?),
        SourceKind::Case => Arc::new(Files::open(config, egress, CaseReader::default())?),
    })
}

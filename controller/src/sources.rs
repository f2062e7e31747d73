//! The telemetry stores that serve a namespace: `TelemetrySource` objects turned into something that can be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use amend_crds::TelemetrySource;
use amend_crds::telemetrysource::SourceKind as Kind;
use amend_crds::telemetrysource::{SourceLogs, TelemetrySourceSpec};
use amend_diagnosis::evidence::{Answer, TopologyEdge, Window};
use amend_diagnosis::logs::taught::{Pattern, Taught};
use amend_telemetry::egress::{Allowed, Egress};
use amend_telemetry::load::Load;
use amend_telemetry::source::{Credentials, Limits, Source, SourceConfig, SourceKind, open};
use jiff::SignedDuration;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::clients::Clients;
use crate::credentials::{self, Credential};
use crate::written::{self, WrittenProblem};

/// How long a list of sources is used without looking again.
const FRESH: Duration = Duration::from_secs(10);

/// How long all call edges together may take; grouping goes on without them.
const CALLS: Duration = Duration::from_secs(3);

/// Deadline bounds of one question that a source may set.
const TIMEOUT_MAX: SignedDuration = SignedDuration::from_secs(60);

/// Everything that opens sources; cheap to clone.
#[derive(Clone, Debug)]
pub struct Sources {
    clients: Clients,
    release_namespace: String,
    egress: Egress,
    cache: Arc<Mutex<Cache>>,
    /// What all of them may cost together; `None`: nobody counts.
    load: Option<Arc<Load>>,
    /// Sources that serve every namespace instead of those that are declared.
    given: Option<amend_telemetry::sources::Sources>,
}

#[derive(Debug, Default)]
struct Cache {
    listed: BTreeMap<String, Listed>,
    /// Opened sources by `namespace/name`, with the versions of object and secret that they were opened from.
    opened: BTreeMap<String, (String, Arc<dyn Source>)>,
}

/// What serves a namespace, as of a moment.
#[derive(Clone, Debug)]
struct Listed {
    at: Instant,
    sources: amend_telemetry::sources::Sources,
    /// Declared sources that cannot be opened, with a sentence about each.
    unopened: Vec<(Kind, String)>,
}

/// Why a source cannot be asked: a sentence that says what to change.
#[derive(Debug, thiserror::Error)]
pub enum SourceProblem {
    #[error("{field}: {why}")]
    Spec { field: &'static str, why: String },
    #[error(transparent)]
    Written(#[from] WrittenProblem),
    #[error("{0}")]
    Credentials(#[from] credentials::CredentialError),
    #[error("{0}")]
    Unopenable(String),
}

impl Sources {
    pub fn new(clients: Clients, release_namespace: &str, egress: Egress) -> Self {
        let release_namespace = release_namespace.to_owned();
        Self { clients, release_namespace, egress, cache: Arc::default(), load: None, given: None }
    }

    /// The same sources, opened anew, that count what they are asked.
    pub fn counted(self, load: Arc<Load>) -> Self {
        Self { cache: Arc::default(), load: Some(load), ..self }
    }

    /// Asks these for every namespace, whatever is declared. Directories among them may be read: a person named them.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub fn instead(mut self, configs: Vec<SourceConfig>) -> Result<Self, SourceProblem> {
        let mut given = Vec::new();
        for mut config in configs {
            config.load.clone_from(&self.load);
            let name = config.name.clone();
            let directory = config.url.to_file_path().ok().filter(|_| config.kind.is_files());
            let named = directory.map(|directory| self.egress.with(Allowed::Directory(directory)));
            let opened = open(config, named.as_ref().unwrap_or(&self.egress));
            given.push(opened.map_err(|error| SourceProblem::Unopenable(error.why(&name)))?);
        }
        self.given = Some(amend_telemetry::sources::Sources::new(given));
        Ok(self)
    }

    /// Every source there is, whichever namespaces it serves, and why others cannot be asked.
    ///
    /// # Errors
    /// The sources cannot be listed.
    pub async fn all(&self) -> Result<(amend_telemetry::sources::Sources, Vec<String>), kube::Error> {
        if let Some(given) = &self.given {
            return Ok((given.clone(), Vec::new()));
        }
        let api: Api<TelemetrySource> = Api::all(self.clients.reader());
        let (mut sources, mut problems) = (Vec::new(), Vec::new());
        let mut places = BTreeSet::new();
        for object in api.list(&ListParams::default()).await?.items {
            // One store that several teams have declared is asked once.
            let place = (object.spec.kind, object.spec.url.clone(), object.spec.tenant.clone());
            if places.contains(&place) {
                continue;
            }
            match self.open(&object).await {
                Ok(source) => {
                    places.insert(place);
                    sources.push(source);
                }
                Err(problem) => problems.push(format!("TelemetrySource {}: {problem}", object.name_any())),
            }
        }
        Ok((amend_telemetry::sources::Sources::new(sources), problems))
    }

    /// The stores that serve a namespace: its own, and those of the release namespace that allow it.
    ///
    /// A source that cannot be opened is left out here ([`Sources::unopened`] tells it, and its own status). When the list itself
    /// cannot be read the stores known before are used, and none when there were none: every question then stays `Unknown`.
    pub async fn serving(&self, namespace: &str) -> amend_telemetry::sources::Sources {
        if let Some(given) = &self.given {
            return given.clone();
        }
        let mut cache = self.cache.lock().await;
        match self.listed(&mut cache, namespace).await {
            Ok(listed) => listed.sources,
            Err(error) => {
                tracing::warn!(namespace, error = %error, "cannot list telemetry sources");
                cache.listed.get(namespace).map(|listed| listed.sources.clone()).unwrap_or_default()
            }
        }
    }

    /// Why declared sources of a kind cannot be asked, when nothing may be concluded from the silence of the others.
    pub async fn unopened(&self, namespace: &str, kind: Kind) -> Answer<Vec<String>> {
        if self.given.is_some() {
            return Answer::Known(Vec::new());
        }
        let mut cache = self.cache.lock().await;
        match self.listed(&mut cache, namespace).await {
            Ok(listed) => Answer::Known(
                listed.unopened.into_iter().filter(|(one, _)| *one == kind).map(|(_, problem)| problem).collect(),
            ),
            Err(error) => Answer::unknown(format!("cannot list telemetry sources: {}", crate::errors::chain(&error))),
        }
    }

    async fn listed(&self, cache: &mut Cache, namespace: &str) -> Result<Listed, kube::Error> {
        if let Some(listed) = cache.listed.get(namespace).filter(|listed| listed.at.elapsed() < FRESH) {
            return Ok(listed.clone());
        }
        let (mut sources, mut unopened) = (Vec::new(), Vec::new());
        for object in self.list(namespace).await? {
            match self.opened(cache, &object).await {
                Ok(source) => sources.push(source),
                Err(problem) => {
                    tracing::debug!(source = object.name_any(), %problem, "source left out");
                    unopened.push((object.spec.kind, format!("TelemetrySource {}: {problem}", object.name_any())));
                }
            }
        }
        let listed = Listed { at: Instant::now(), sources: amend_telemetry::sources::Sources::new(sources), unopened };
        cache.listed.insert(namespace.to_owned(), listed.clone());
        Ok(listed)
    }

    /// Whether a source of this kind is declared for a namespace, also one that cannot be opened: somebody relies on it.
    pub async fn declares(&self, namespace: &str, kind: Kind) -> Answer<bool> {
        match self.list(namespace).await {
            Ok(found) => Answer::Known(found.iter().any(|source| source.spec.kind == kind)),
            Err(error) => Answer::unknown(format!("cannot list telemetry sources: {}", crate::errors::chain(&error))),
        }
    }

    /// Opens one source, for its own controller.
    pub async fn open(&self, object: &TelemetrySource) -> Result<Arc<dyn Source>, SourceProblem> {
        let mut cache = self.cache.lock().await;
        self.opened(&mut cache, object).await
    }

    /// Who called whom lately, by any trace store of the namespace.
    ///
    /// A store may serve the whole cluster and tell bare names: whose they are, the objects of the namespace decide.
    pub async fn calls(&self, namespace: &str, window: Window) -> Answer<Vec<TopologyEdge>> {
        let sources = self.serving(namespace).await;
        let telling = sources.holding(SourceKind::holds_calls);
        if telling.is_empty() {
            return Answer::unknown("no store that knows call edges serves this namespace");
        }
        let asked =
            futures::future::join_all(telling.iter().map(|source| tokio::time::timeout(CALLS, source.calls(window))))
                .await;
        let mut edges = Vec::new();
        let mut known = false;
        for told in asked.into_iter().flatten() {
            if let Ok(found) = told.outcome {
                known = true;
                edges.extend(found);
            }
        }
        if known { Answer::Known(edges) } else { Answer::unknown("no store told call edges in time") }
    }

    async fn list(&self, namespace: &str) -> Result<Vec<TelemetrySource>, kube::Error> {
        let own = list(self.clients.reader(), namespace).await?;
        if namespace == self.release_namespace {
            return Ok(own);
        }
        let shared = list(self.clients.reader(), &self.release_namespace).await?;
        let allowed = shared.into_iter().filter(|source| serves(source, namespace));
        Ok(own.into_iter().chain(allowed).collect())
    }

    async fn opened(&self, cache: &mut Cache, object: &TelemetrySource) -> Result<Arc<dyn Source>, SourceProblem> {
        let namespace = object.namespace().unwrap_or_default();
        let id = format!("{namespace}/{}", object.name_any());
        let secret = match &object.spec.secret_ref {
            Some(reference) => Some(credentials::read(&self.clients.reader(), &namespace, &reference.name).await?),
            None => None,
        };
        // Only the spec counts: a probe that writes the status must not open the source anew.
        let generation = object.metadata.generation.unwrap_or_default();
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let version = format!("{uid}/{generation}/{}", secret.as_ref().map_or("", |secret| secret.version.as_str()));
        if let Some((known, source)) = cache.opened.get(&id)
            && *known == version
        {
            return Ok(source.clone());
        }
        written::only_known_fields::<_, TelemetrySourceSpec>(self.clients.reader(), object).await?;
        let config = SourceConfig { load: self.load.clone(), ..config(object, secret.as_ref())? };
        let egress = guarding(&self.egress, &namespace, &self.release_namespace);
        let source = open(config, &egress).map_err(|error| SourceProblem::Unopenable(error.why(&object.name_any())))?;
        cache.opened.insert(id, (version, source.clone()));
        Ok(source)
    }
}

async fn list(client: Client, namespace: &str) -> Result<Vec<TelemetrySource>, kube::Error> {
    let api: Api<TelemetrySource> = Api::namespaced(client, namespace);
    Ok(api.list(&ListParams::default()).await?.items)
}

/// What a source of this namespace may reach. Files of the whole cluster may lie beside each other: whoever writes a source reads
/// those of his own namespace.
fn guarding(egress: &Egress, namespace: &str, release_namespace: &str) -> Egress {
    match namespace == release_namespace {
        true => egress.clone(),
        false => egress.of_namespace(namespace),
    }
}

fn serves(source: &TelemetrySource, namespace: &str) -> bool {
    source.spec.allowed_namespaces.iter().any(|allowed| allowed == "*" || allowed == namespace)
}

/// The settings of a source as the telemetry room wants them.
fn config(object: &TelemetrySource, secret: Option<&Credential>) -> Result<SourceConfig, SourceProblem> {
    let spec = &object.spec;
    let url =
        Url::parse(&spec.url).map_err(|error| SourceProblem::Spec { field: "spec.url", why: error.to_string() })?;
    let kind = match spec.kind {
        Kind::Prometheus => SourceKind::Prometheus,
        Kind::Alertmanager => SourceKind::Alertmanager,
        Kind::Jaeger => SourceKind::Jaeger,
        Kind::Tempo => SourceKind::Tempo,
        Kind::Loki => SourceKind::Loki,
        Kind::OpenSearch => SourceKind::OpenSearch,
        Kind::OtlpFiles => SourceKind::OtlpFiles,
    };
    let mut config = SourceConfig::new(object.name_any(), kind, url)
        .mapped(&spec.mapping)
        .map_err(|error| SourceProblem::Spec { field: "spec.mapping", why: error.to_string() })?;
    config.tenant.clone_from(&spec.tenant);
    config.taught = Arc::new(taught(&spec.logs)?);
    if let Some(every) = &spec.sample_every {
        config.sample_every = span("spec.sampleEvery", every)?;
    }
    let defaults = Limits::of(kind);
    config.limits = Limits {
        timeout: match &spec.limits.timeout {
            Some(text) => {
                Duration::try_from(span("spec.limits.timeout", text)?.min(TIMEOUT_MAX)).unwrap_or(defaults.timeout)
            }
            None => defaults.timeout,
        },
        series: spec.limits.series.map_or(defaults.series, |series| series as usize),
        concurrency: spec.limits.concurrency.map_or(defaults.concurrency, |count| (count as usize).clamp(1, 64)),
        ..defaults
    };
    if let Some(secret) = secret {
        config.authorities = secret.text("ca.crt").map(|pem| pem.as_bytes().to_vec());
        config.credentials = match (secret.text("token"), secret.text("username"), secret.text("password")) {
            (Some(token), _, _) => Credentials::Bearer(SecretString::from(token.trim().to_owned())),
            (None, Some(user), Some(password)) => {
                Credentials::Basic { user: user.to_owned(), password: SecretString::from(password.to_owned()) }
            }
            (None, None, None) if config.authorities.is_some() => Credentials::None,
            (None, _, _) => {
                let why = "the Secret needs the key `token`, or `username` and `password`".to_owned();
                return Err(SourceProblem::Spec { field: "spec.secretRef", why });
            }
        };
    }
    Ok(config)
}

/// What people taught about log lines, ready to be used.
fn taught(logs: &SourceLogs) -> Result<Taught, SourceProblem> {
    const FIELD: &str = "spec.logs.patterns";
    let mut patterns = Vec::new();
    for (index, pattern) in logs.patterns.iter().enumerate() {
        let recognised = match (&pattern.template, &pattern.matching) {
            (Some(template), None) => Pattern::Template(template.clone()),
            (None, Some(expression)) => Pattern::Expression(expression.clone()),
            (Some(_), Some(_)) | (None, None) => {
                let why = format!("[{index}]: set exactly one of: template, match");
                return Err(SourceProblem::Spec { field: FIELD, why });
            }
        };
        patterns.push((recognised, pattern.class));
    }
    Taught::new(&patterns).map_err(|error| SourceProblem::Spec { field: FIELD, why: error.to_string() })
}

fn span(field: &'static str, text: &str) -> Result<SignedDuration, SourceProblem> {
    amend_policies::duration::parse(text).map_err(|why| SourceProblem::Spec { field, why: why.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_another_namespace_are_read_for_the_release_namespace_only() {
        let all = Egress::new([Allowed::Directory("/telemetry-files".into())]);
        let may = |namespace: &str, url: &str| {
            let url = Url::parse(url).expect("a URL");
            guarding(&all, namespace, "amend-system").check_directory(&url).is_ok()
        };
        assert!(may("shop", "file:///telemetry-files/shop") && may("amend-system", "file:///telemetry-files/shop"));
        assert!(!may("pay", "file:///telemetry-files/shop") && !may("shop", "file:///telemetry-files"));
    }
}

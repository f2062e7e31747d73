//! The only place of the controller that writes to the cluster. Git and the forge are written through `amend-gitops`, called
//! from [`remedy`] here.
//!
//! Every write is a create under a name made beforehand, or a `replace` on the version that was read; none is repeated by the
//! client. Who loses a write has acted on old knowledge: the loop looks again.

use amend_crds::{Build, Incident, Remediation};
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use kube::api::{Api, PostParams};
use kube::runtime::events::{Event, EventType, Recorder as EventRecorder, Reporter};
use kube::{Resource, ResourceExt};

use crate::clients::{Clients, Remediator};
use crate::metrics::{self, Metrics};
use crate::reconcile::Watched;

pub mod remedy;

/// Writes to the cluster; cheap to clone.
#[derive(Clone)]
pub struct Effects {
    clients: Clients,
    metrics: Metrics,
    events: EventRecorder,
}

impl std::fmt::Debug for Effects {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Effects").finish_non_exhaustive()
    }
}

/// Why a write did not happen, or is not known to have happened.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    #[error("{what} was changed by somebody else first")]
    Stale { what: String },
    #[error("{what} exists already")]
    Exists { what: String },
    #[error("cannot write {what}")]
    Unwritable {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("cannot make the records durable")]
    Record(#[from] crate::recorder::RecordError),
    #[error("{0}")]
    Refused(String),
}

impl EffectError {
    pub(crate) fn of(what: String, error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists" => Self::Exists { what },
            kube::Error::Api(status) if status.code == 409 => Self::Stale { what },
            _ => Self::Unwritable { what, source: Box::new(error) },
        }
    }
}

/// Something people see in `kubectl describe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub warning: bool,
    /// CamelCase, stable.
    pub reason: String,
    pub note: String,
}

impl Effects {
    pub fn new(clients: Clients, metrics: Metrics, replica: &str) -> Self {
        let reporter = Reporter { controller: "amend".to_owned(), instance: Some(replica.to_owned()) };
        let events = EventRecorder::new(clients.effects(), reporter);
        Self { clients, metrics, events }
    }

    /// Replaces the status of an object of ours, on the version that it carries.
    pub async fn write_status<K: Watched>(&self, object: &K) -> Result<K, EffectError> {
        let what = named(object);
        let api: Api<K> = Api::namespaced(self.clients.effects(), &object.namespace().unwrap_or_default());
        let written = api.replace_status(&object.name_any(), &PostParams::default(), object).await;
        self.count("status", written.is_ok());
        written.map_err(|error| match &error {
            // Deleted meanwhile: what was known of it is as old as after any other change.
            kube::Error::Api(status) if status.code == 404 => EffectError::Stale { what },
            _ => EffectError::of(what, error),
        })
    }

    /// Creates an incident. Its status, given back as it was given, is still to be written.
    pub async fn create_incident(&self, incident: &Incident) -> Result<Incident, EffectError> {
        let created = self.create(incident).await?;
        Ok(Incident { status: incident.status.clone(), ..created })
    }

    /// Creates a build.
    pub async fn create_build(&self, build: &Build) -> Result<Build, EffectError> {
        self.create(build).await
    }

    /// Creates a remediation; its name is the action key, so that it exists once.
    pub async fn create_remediation(&self, remediation: &Remediation) -> Result<Remediation, EffectError> {
        self.create(remediation).await
    }

    /// Creates the Secret of the signing key. It is made once and never changed by us.
    pub async fn create_secret(&self, secret: &Secret) -> Result<Secret, EffectError> {
        self.create_named("secret", secret).await
    }

    /// Creates the record head.
    pub async fn create_head(&self, head: &ConfigMap) -> Result<ConfigMap, EffectError> {
        self.create_named("record head", head).await
    }

    /// Advances the record head by compare-and-swap.
    pub async fn replace_head(&self, head: &ConfigMap) -> Result<ConfigMap, EffectError> {
        let namespace = head.namespace().unwrap_or_default();
        let api: Api<ConfigMap> = Api::namespaced(self.clients.effects(), &namespace);
        let written = api.replace(&head.name_any(), &PostParams::default(), head).await;
        self.count("head", written.is_ok());
        written.map_err(|error| EffectError::of("the record head".to_owned(), error))
    }

    /// Tells people through an event; losing one loses nothing.
    pub async fn notice(&self, about: &ObjectReference, notice: Notice) {
        let event = Event {
            type_: if notice.warning { EventType::Warning } else { EventType::Normal },
            reason: notice.reason,
            note: Some(notice.note.chars().take(1000).collect()),
            action: "Amend".to_owned(),
            secondary: None,
        };
        let published = self.events.publish(&event, about).await;
        self.count("event", published.is_ok());
        if let Err(error) = published {
            tracing::debug!(%error, "an event was not written");
        }
    }

    /// The client that acts as a policy's account.
    pub async fn acting_as(&self, remediator: &Remediator) -> Result<kube::Client, EffectError> {
        self.clients.impersonating(remediator).await.map_err(|error| EffectError::Refused(error.to_string()))
    }

    async fn create<K: Watched>(&self, object: &K) -> Result<K, EffectError> {
        let what = named(object);
        let api: Api<K> = Api::namespaced(self.clients.effects(), &object.namespace().unwrap_or_default());
        let created = api.create(&PostParams::default(), object).await;
        self.count("create", created.is_ok());
        created.map_err(|error| EffectError::of(what, error))
    }

    async fn create_named<K>(&self, what: &str, object: &K) -> Result<K, EffectError>
    where
        K: Watched,
    {
        self.create(object).await.map_err(|error| match error {
            EffectError::Exists { .. } => EffectError::Exists { what: what.to_owned() },
            other => other,
        })
    }

    fn count(&self, kind: &'static str, happened: bool) {
        let outcome = if happened { "happened" } else { "failed" };
        self.metrics.effects.get_or_create(&metrics::Effect { kind, outcome }).inc();
    }
}

fn named<K: Watched>(object: &K) -> String {
    format!("{} {}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any())
}

/// A reference to an object of ours, for events.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    object.object_ref(&())
}

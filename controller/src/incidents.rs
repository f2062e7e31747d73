//! Signals become incidents: what arrives is grouped and stored before the sender gets its answer.
//!
//! The store behind the intake. It keeps the open incidents in memory, learns of others' writes through a watch, and
//! writes with the version it knows: who loses a write reads again and repeats the grouping, which is idempotent.

pub mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amend_crds::condition::{self, Claim};
use amend_crds::incident::IncidentPhase;
use amend_crds::{Incident, IncidentSpec, IncidentStatus};
use amend_diagnosis::incident::{Assignment, Kept, OpenIncident, assign, keep};
use amend_diagnosis::signal::Signal;
use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::effects::EffectError;
use crate::intake::{SignalStore, StoreError};
use crate::shell::Shell;
use crate::topology::{Picture, align};

/// How often a lost write is repeated before the sender is asked to come again.
const ATTEMPTS_MAX: u32 = 5;

/// Incidents that one alert with one start time may open: it ended and came back, which a sender rarely does.
const NAMES_MAX: u32 = 9;

/// Signals in an incident's spec: what was seen first, small enough to read.
const FIRST_SIGNALS_MAX: usize = 16;

/// The open incidents, by namespace and name.
#[derive(Clone, Debug)]
pub struct Incidents {
    shell: Arc<Shell>,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    loaded: bool,
    incidents: BTreeMap<String, Incident>,
}

impl Incidents {
    pub fn new(shell: Arc<Shell>) -> Self {
        Self { shell, open: Arc::default() }
    }

    /// Takes over a version that a watch or a reconcile has seen.
    pub async fn learn(&self, incident: &Incident) {
        let mut open = self.open.lock().await;
        remember(&mut open.incidents, incident.clone());
    }

    /// Whether an incident is open in a namespace.
    pub async fn has_open(&self, namespace: &str) -> bool {
        let open = self.open.lock().await;
        open.incidents.values().any(|incident| incident.namespace().as_deref() == Some(namespace))
    }

    /// Forgets an incident that was deleted.
    pub async fn forget(&self, incident: &Incident) {
        self.open.lock().await.incidents.remove(&id(incident));
    }

    async fn store_all(&self, batch: Vec<Signal>) -> Result<(), StoreError> {
        let now = self.shell.time.now();
        let batch = self.aligned(batch, now).await;
        // One writer at a time in this process: grouping must see the incident that the signal before it has opened.
        let mut open = self.open.lock().await;
        if !open.loaded {
            open.incidents = load(self.shell.clients.reader()).await?;
            open.loaded = true;
        }
        for attempt in 1.. {
            match self.write(&mut open, &batch, now).await {
                Ok(()) => return Ok(()),
                Err(EffectError::Stale { .. }) if attempt < ATTEMPTS_MAX => {
                    open.incidents = load(self.shell.clients.reader()).await?;
                }
                Err(error) => return Err(StoreError::Unavailable { why: crate::errors::chain(&error) }),
            }
        }
        Ok(())
    }

    /// The signals under the names of their workloads.
    async fn aligned(&self, mut batch: Vec<Signal>, now: Timestamp) -> Vec<Signal> {
        let namespaces: BTreeSet<String> = batch.iter().map(|signal| signal.entity.namespace.clone()).collect();
        for namespace in namespaces.into_iter().filter(|namespace| !namespace.is_empty()) {
            let picture = self.picture(&namespace, now).await;
            align(&mut batch, &namespace, &picture);
        }
        batch
    }

    async fn picture(&self, namespace: &str, now: Timestamp) -> Arc<Picture> {
        self.shell.topologies.of(&self.shell.clients.reader(), &self.shell.sources, namespace, now).await
    }

    async fn write(&self, open: &mut Open, batch: &[Signal], now: Timestamp) -> Result<(), EffectError> {
        let mut changed: BTreeMap<String, Incident> = BTreeMap::new();
        let mut known: Vec<OpenIncident> =
            open.incidents.values().filter(|incident| !phase(incident).is_end()).map(as_open).collect();
        let mut pictures: BTreeMap<String, Arc<Picture>> = BTreeMap::new();
        for signal in batch {
            let namespace = self.namespace_of(signal);
            if !pictures.contains_key(&namespace) {
                pictures.insert(namespace.clone(), self.picture(&namespace, now).await);
            }
            let Some(picture) = pictures.get(&namespace) else { continue };
            let (target, because) = match assign(signal, &known, &picture.links, self.shell.settings.group_window, now)
            {
                Assignment::Drop { because } => {
                    self.shell.metrics.drop_signal("alert", "over_before_work_began");
                    tracing::debug!(signal = signal.name, because, "signal dropped");
                    continue;
                }
                Assignment::Open { because } => {
                    let incident = self.open_incident(signal, &namespace, now).await?;
                    let opened = id(&incident);
                    tracing::info!(incident = opened, because, "incident opened");
                    known.push(as_open(&incident));
                    changed.insert(opened.clone(), incident);
                    (opened, because)
                }
                Assignment::Join { incident, because } | Assignment::Repeat { incident, because } => {
                    (incident, because)
                }
            };
            let incident = match changed.remove(&target).or_else(|| open.incidents.get(&target).cloned()) {
                Some(incident) => incident,
                None => continue,
            };
            let incident = with_signal(incident, signal, because, now);
            if let Some(grouped) = known.iter_mut().find(|one| one.id == target) {
                keep(&mut grouped.signals, signal.clone());
            }
            changed.insert(target, incident);
            // A storm must not keep others from their turn: the lease is renewed on the same threads.
            tokio::task::yield_now().await;
        }
        for (id, incident) in changed {
            let written = self.shell.effects.write_status(&incident).await?;
            self.shell.nudges.nudge("incident", &written.namespace().unwrap_or_default(), &written.name_any());
            open.incidents.insert(id, written);
        }
        Ok(())
    }

    /// Creates the incident, under the next free name when one of the same signal has ended.
    async fn open_incident(&self, signal: &Signal, namespace: &str, now: Timestamp) -> Result<Incident, EffectError> {
        let api: Api<Incident> = Api::namespaced(self.shell.clients.reader(), namespace);
        for ordinal in 1..=NAMES_MAX {
            let incident = opened(signal, namespace, ordinal, now);
            match self.shell.effects.create_incident(&incident).await {
                Ok(created) => return Ok(created),
                Err(EffectError::Exists { .. }) => {
                    let ended = api
                        .get_opt(&incident.name_any())
                        .await
                        .ok()
                        .flatten()
                        .is_some_and(|found| phase(&found).is_end());
                    // Open: stored by another replica, or by us before a crash; it is found after reading again.
                    if !ended {
                        return Err(EffectError::Stale { what: id(&incident) });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(EffectError::Refused(format!("{} has opened {NAMES_MAX} incidents with one start time", signal.name)))
    }

    /// Incidents live beside their workload; what belongs to no namespace lives beside us.
    fn namespace_of(&self, signal: &Signal) -> String {
        match signal.entity.namespace.as_str() {
            "" => self.shell.settings.release_namespace.clone(),
            namespace => namespace.to_owned(),
        }
    }
}

impl SignalStore for Incidents {
    fn store(&self, batch: Vec<Signal>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.store_all(batch))
    }
}

async fn load(client: Client) -> Result<BTreeMap<String, Incident>, StoreError> {
    let api: Api<Incident> = Api::all(client);
    let list = api
        .list(&ListParams::default())
        .await
        .map_err(|error| StoreError::Unavailable { why: format!("cannot list incidents: {error}") })?;
    let mut incidents = BTreeMap::new();
    for incident in list.items {
        remember(&mut incidents, incident);
    }
    Ok(incidents)
}

/// Ended incidents are forgotten: a later signal opens a new one.
fn remember(incidents: &mut BTreeMap<String, Incident>, incident: Incident) {
    let id = id(&incident);
    if phase(&incident).is_end() {
        incidents.remove(&id);
    } else {
        incidents.insert(id, incident);
    }
}

fn phase(incident: &Incident) -> IncidentPhase {
    incident.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

fn id(incident: &Incident) -> String {
    id_of(&incident.namespace().unwrap_or_default(), &incident.name_any())
}

fn id_of(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn as_open(incident: &Incident) -> OpenIncident {
    let signals = match &incident.status {
        Some(status) if !status.signals.is_empty() => status.signals.clone(),
        _ => incident.spec.signals.clone(),
    };
    let opened_at = incident.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    OpenIncident { id: id(incident), opened_at, signals }
}

/// The name is a hash of what arrived, so that two replicas that see the same signal make one object.
fn name_for(signal: &Signal, ordinal: u32) -> String {
    let digest = Sha256::digest(format!("{}\n{}\n{ordinal}", signal.key, signal.started_at));
    format!("inc-{}", hex::encode(&digest[..5]))
}

fn opened(signal: &Signal, namespace: &str, ordinal: u32, now: Timestamp) -> Incident {
    let first = Signal { count: 1, ..signal.clone() };
    let spec = IncidentSpec { entity: signal.entity.clone(), severity: signal.severity, signals: vec![first] };
    debug_assert!(spec.signals.len() <= FIRST_SIGNALS_MAX);
    let mut incident = Incident::new(&name_for(signal, ordinal), spec);
    incident.metadata.namespace = Some(namespace.to_owned());
    incident.status = Some(IncidentStatus { last_signal_at: Some(now), ..IncidentStatus::default() });
    incident
}

fn with_signal(mut incident: Incident, signal: &Signal, because: String, now: Timestamp) -> Incident {
    let generation = incident.metadata.generation;
    let mut status = incident.status.take().unwrap_or_default();
    match keep(&mut status.signals, signal.clone()) {
        Kept::New | Kept::Repeat => {}
        Kept::Beyond => status.signals_not_kept = status.signals_not_kept.saturating_add(1),
    }
    status.signal_count = status.signal_count.saturating_add(signal.count.max(1));
    status.last_signal_at = Some(now);
    if status.conditions.is_empty() {
        let claims = [Claim::new(condition::READY, None, "Opened", because)];
        status.conditions = condition::settled(&[], &claims, generation, now);
    }
    incident.status = Some(status);
    incident
}

#[cfg(test)]
mod tests;

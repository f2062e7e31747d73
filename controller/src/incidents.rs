//! Signals become incidents: what arrives is grouped and stored before the sender gets its answer.
//!
//! The store behind the intake. It keeps in memory what grouping needs of the open incidents, learns of others' writes through a
//! watch, and reads an incident anew to write to it. Who loses a write adds the signals to the newer version; only when that has
//! ended are they grouped again.

mod known;
pub mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use amend_crds::condition::{self, Claim};
use amend_crds::incident::IncidentPhase;
use amend_crds::{Incident, IncidentSpec, IncidentStatus};
use amend_diagnosis::incident::{Assignment, Kept, OpenIncident, Reach, assign, keep};
use amend_diagnosis::signal::Signal;
use futures::StreamExt;
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
use known::Known;

/// How often signals are grouped again before the sender is asked to come again.
const ATTEMPTS_MAX: u32 = 5;

/// How often signals are added to one more newer version of one incident. Its own controller writes it a few times in the first
/// second and seldom later.
const WRITES_MAX: u32 = 12;

/// Incidents of one batch that are written at once.
const WRITES_AT_ONCE: usize = 8;

/// How long repeats of a stored signal are counted before that is written.
const REPEATS_WAIT: Duration = Duration::from_secs(5);

/// Incidents that one alert with one start time may open: it ended and came back, which a sender rarely does.
const NAMES_MAX: u32 = 9;

/// Incidents of one page of a list.
const PAGE: u32 = 100;

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
    incidents: BTreeMap<String, Known>,
    /// Signals that were heard again and are not counted yet, by key.
    repeats: BTreeMap<String, Signal>,
    /// Whether a task waits to count them: one for all, however long a storm lasts.
    counting: bool,
}

/// What a batch adds to one incident, each with why it belongs there.
#[derive(Debug)]
struct Addition {
    incident: Known,
    signals: Vec<(Signal, String)>,
}

#[derive(Debug)]
enum Added {
    Written(Box<Incident>),
    /// It has ended: these belong elsewhere.
    Over(Vec<Signal>),
}

/// What writing one batch came to.
#[derive(Debug, Default)]
struct Written {
    /// Signals whose incident has ended meanwhile: these belong elsewhere.
    over: Vec<Signal>,
    /// Why some can never be stored.
    refused: Option<String>,
    /// Why some may be stored when they are sent again.
    unavailable: Option<String>,
}

impl Added {
    fn over(signals: Vec<(Signal, String)>) -> Self {
        Self::Over(signals.into_iter().map(|(signal, _)| signal).collect())
    }
}

impl Incidents {
    pub fn new(shell: Arc<Shell>) -> Self {
        Self { shell, open: Arc::default() }
    }

    /// Takes over a version that a watch or a reconcile has seen.
    pub async fn learn(&self, incident: &Incident) {
        let mut open = self.open.lock().await;
        remember(&mut open.incidents, incident);
    }

    /// Whether an incident is open in a namespace.
    pub async fn has_open(&self, namespace: &str) -> bool {
        let open = self.open.lock().await;
        open.incidents.values().any(|incident| incident.namespace == namespace)
    }

    /// Forgets an incident that was deleted.
    pub async fn forget(&self, incident: &Incident) {
        self.open.lock().await.incidents.remove(&id(incident));
    }

    async fn store_all(&self, batch: Vec<Signal>) -> Result<(), StoreError> {
        let now = self.shell.time.now();
        let batch = self.aligned(batch, now).await;
        let news = self.without_repeats(batch).await;
        if news.is_empty() { Ok(()) } else { self.store_news(news, now).await }
    }

    async fn store_news(&self, batch: Vec<Signal>, now: Timestamp) -> Result<(), StoreError> {
        let mut left = batch;
        let mut refused = None;
        for _ in 1..=ATTEMPTS_MAX {
            let additions = self.group(&left, now).await?;
            let written = self.write(additions, now).await;
            refused = refused.or(written.refused);
            if let Some(why) = written.unavailable {
                return Err(StoreError::Unavailable { why });
            }
            left = written.over;
            if left.is_empty() {
                return refused.map_or(Ok(()), |why| Err(StoreError::Refused { why }));
            }
            self.open.lock().await.loaded = false;
        }
        Err(StoreError::Unavailable { why: "incidents end faster than signals join them".into() })
    }

    /// Leaves out what only says again that a stored signal fires: that is counted, and written a moment later for many at once.
    ///
    /// Alertmanager repeats what fires, and in a storm nine of ten alerts are repeats. The signal itself is durable in
    /// its incident; what a crash could lose is how often it was heard in the last [`REPEATS_WAIT`], and a repeat that arrived
    /// while its incident ended, until Alertmanager repeats it again.
    async fn without_repeats(&self, batch: Vec<Signal>) -> Vec<Signal> {
        let mut open = self.open.lock().await;
        let (repeats, news): (Vec<Signal>, Vec<Signal>) =
            batch.into_iter().partition(|signal| open.incidents.values().any(|incident| incident.holds(signal)));
        for signal in repeats {
            match open.repeats.get_mut(&signal.key) {
                Some(known) => known.count = known.count.saturating_add(signal.count.max(1)),
                None => drop(open.repeats.insert(signal.key.clone(), signal)),
            }
        }
        if !open.counting && !open.repeats.is_empty() {
            open.counting = true;
            tokio::spawn(self.clone().count_repeats());
        }
        news
    }

    async fn count_repeats(self) {
        loop {
            tokio::time::sleep(REPEATS_WAIT).await;
            if self.write_repeats().await == 0 {
                return;
            }
        }
    }

    /// Writes how often signals were repeated, and gives how many signals that were. One whose incident has ended
    /// meanwhile is grouped like a new one.
    async fn write_repeats(&self) -> usize {
        let mut open = self.open.lock().await;
        let repeats: Vec<Signal> = std::mem::take(&mut open.repeats).into_values().collect();
        open.counting &= !repeats.is_empty();
        drop(open);
        if repeats.is_empty() {
            return 0;
        }
        if let Err(error @ StoreError::Unavailable { .. }) =
            self.store_news(repeats.clone(), self.shell.time.now()).await
        {
            tracing::warn!(signals = repeats.len(), %error, "repeats not counted yet");
            let mut open = self.open.lock().await;
            for signal in &repeats {
                let known = open.repeats.entry(signal.key.clone());
                known
                    .and_modify(|later| later.count = later.count.saturating_add(signal.count))
                    .or_insert_with(|| signal.clone());
            }
        }
        repeats.len()
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

    /// Decides where each signal belongs. An incident that is missing is promised here and created outside of the lock.
    ///
    /// One at a time in this process: grouping must see the incident that the signal before it has opened.
    async fn group(&self, batch: &[Signal], now: Timestamp) -> Result<BTreeMap<String, Addition>, StoreError> {
        let mut open = self.open.lock().await;
        if !open.loaded {
            let promised =
                std::mem::take(&mut open.incidents).into_iter().filter(|(_, one)| one.promised_for().is_some());
            open.incidents = promised.collect();
            open.incidents.extend(load(self.shell.clients.reader()).await?);
            open.loaded = true;
        }
        Ok(self.additions(&mut open, batch, now).await)
    }

    async fn additions(&self, open: &mut Open, batch: &[Signal], now: Timestamp) -> BTreeMap<String, Addition> {
        let mut changed: BTreeMap<String, Addition> = BTreeMap::new();
        let mut pictures: BTreeMap<String, Arc<Picture>> = BTreeMap::new();
        for namespace in batch.iter().map(|signal| self.namespace_of(signal)).collect::<BTreeSet<_>>() {
            let picture = self.picture(&namespace, now).await;
            pictures.insert(namespace, picture);
        }
        let reaches: BTreeMap<&String, Reach<'_>> =
            pictures.iter().map(|(namespace, picture)| (namespace, Reach::new(&picture.links))).collect();
        let mut known: Vec<OpenIncident<'_>> = open.incidents.values().map(Known::as_open).collect();
        let mut promises = Vec::new();
        for signal in batch {
            let namespace = self.namespace_of(signal);
            let Some(reach) = reaches.get(&namespace) else { continue };
            let (target, because) = match assign(signal, &known, reach, self.shell.settings.group_window, now) {
                Assignment::Drop { because } => {
                    self.shell.metrics.drop_signal("alert", "over_before_work_began");
                    tracing::debug!(signal = signal.name, because, "signal dropped");
                    continue;
                }
                Assignment::Open { because } => {
                    let Some(incident) = Known::of(&promised(signal, &namespace, 1, now)) else { continue };
                    let opened = incident.id();
                    tracing::info!(incident = opened, because, "incident opened");
                    known.push(OpenIncident {
                        id: opened.clone(),
                        opened_at: now,
                        signals: vec![signal.clone()].into(),
                    });
                    promises.push(incident.clone());
                    changed.insert(opened.clone(), Addition { incident, signals: Vec::new() });
                    (opened, because)
                }
                Assignment::Join { incident, because } | Assignment::Repeat { incident, because } => {
                    (incident, because)
                }
            };
            let addition = match (changed.get_mut(&target), open.incidents.get(&target)) {
                (Some(addition), _) => addition,
                (None, Some(incident)) => {
                    let addition = Addition { incident: incident.clone(), signals: Vec::new() };
                    changed.entry(target.clone()).or_insert(addition)
                }
                (None, None) => continue,
            };
            if let Some(grouped) = known.iter_mut().find(|one| one.id == target) {
                keep(grouped.signals.to_mut(), signal.clone());
            }
            addition.signals.push((signal.clone(), because));
            // A storm must not keep others from their turn: the lease is renewed on the same threads.
            tokio::task::yield_now().await;
        }
        for promise in promises {
            open.incidents.insert(promise.id(), promise);
        }
        changed
    }

    /// Writes a batch, several incidents at once. What cannot be written keeps nothing else from being written.
    async fn write(&self, additions: BTreeMap<String, Addition>, now: Timestamp) -> Written {
        let mut all = Written::default();
        let writes = additions.into_values().map(|addition| async move {
            let (incident, signals) = (addition.incident.id(), addition.signals.len());
            (incident, signals, self.add(addition, now).await)
        });
        let mut writes = futures::stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
        while let Some((incident, signals, added)) = writes.next().await {
            match added {
                Ok(Added::Written(written)) => {
                    self.shell.nudges.nudge("incident", &written.namespace().unwrap_or_default(), &written.name_any());
                    self.learn(&written).await;
                }
                Ok(Added::Over(signals)) => all.over.extend(signals),
                Err(error) if is_for_good(&error) => {
                    let why = crate::errors::chain(&error);
                    tracing::warn!(incident, signals, why, "signals refused for good: the cluster cannot keep them");
                    all.refused.get_or_insert(why);
                }
                Err(error) => {
                    all.unavailable.get_or_insert(crate::errors::chain(&error));
                }
            }
        }
        all
    }

    /// Adds signals to an incident, however often others write it meanwhile.
    async fn add(&self, addition: Addition, now: Timestamp) -> Result<Added, EffectError> {
        let Addition { incident: known, signals } = addition;
        let mut incident = match known.promised_for() {
            Some(first) => {
                let created = self.create(first, &known.namespace, now).await;
                // Created under another name, or not at all: the promise is void. Kept by its watch, it is none any more.
                if !created.as_ref().is_ok_and(|created| id(created) == known.id()) {
                    self.open.lock().await.incidents.remove(&known.id());
                }
                created?
            }
            None => match self.now_of(&known.namespace, &known.name).await? {
                Some(incident) => incident,
                None => return Ok(Added::over(signals)),
            },
        };
        for attempt in 1.. {
            let with_all = signals.iter().fold(incident.clone(), |incident, (signal, because)| {
                with_signal(incident, signal, because.clone(), now)
            });
            match self.shell.effects.write_status(&with_all).await {
                Ok(written) => return Ok(Added::Written(Box::new(written))),
                Err(EffectError::Stale { .. }) if attempt < WRITES_MAX => {}
                Err(error) => return Err(error),
            }
            match self.now_of(&known.namespace, &incident.name_any()).await? {
                Some(newer) => incident = newer,
                None => break,
            }
        }
        Ok(Added::over(signals))
    }

    /// The incident as it is now; none when it has ended or is gone.
    async fn now_of(&self, namespace: &str, name: &str) -> Result<Option<Incident>, EffectError> {
        let api: Api<Incident> = Api::namespaced(self.shell.clients.reader(), namespace);
        let found = api.get_opt(name).await;
        let found = found.map_err(|error| EffectError::of(id_of(namespace, name), error))?;
        Ok(found.filter(|found| !phase(found).is_end()))
    }

    /// Creates a promised incident, under the next free name when one of the same signal has ended. One that is there
    /// already was stored by another replica, by a batch beside this one, or by us before a crash.
    async fn create(&self, first: &Signal, namespace: &str, now: Timestamp) -> Result<Incident, EffectError> {
        for ordinal in 1..=NAMES_MAX {
            let incident = promised(first, namespace, ordinal, now);
            match self.shell.effects.create_incident(&incident).await {
                Ok(created) => return Ok(created),
                Err(EffectError::Exists { .. }) => {
                    if let Some(open) = self.now_of(namespace, &incident.name_any()).await? {
                        return Ok(open);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(EffectError::Refused(format!("{} has opened {NAMES_MAX} incidents with one start time", first.name)))
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

async fn load(client: Client) -> Result<BTreeMap<String, Known>, StoreError> {
    let api: Api<Incident> = Api::all(client);
    let mut incidents = BTreeMap::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let unavailable = |error: kube::Error| StoreError::Unavailable {
            why: format!("cannot list incidents: {}", crate::errors::chain(&error)),
        };
        let list = api.list(&page).await.map_err(unavailable)?;
        for incident in &list.items {
            remember(&mut incidents, incident);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok(incidents),
        }
    }
}

/// Whether an incident can never be written, however often it is tried: its namespace is not in this cluster or is being
/// deleted, or the object itself is refused.
///
/// A right that Amend lacks or a quota that is used up is none of these: people mend it, and what was sent meanwhile counts.
fn is_for_good(error: &EffectError) -> bool {
    match error {
        EffectError::Refused(_) => true,
        EffectError::Unwritable { source, .. } => match source.as_ref() {
            kube::Error::Api(status) => match status.code {
                400 | 413 | 422 => true,
                // The API server names what is not there: without our own kinds it names no namespace.
                404 => status.message.contains("namespaces \""),
                403 => status.message.contains("is being terminated"),
                _ => false,
            },
            _ => false,
        },
        EffectError::Stale { .. } | EffectError::Exists { .. } | EffectError::Record(_) => false,
    }
}

/// Ended incidents are forgotten: a later signal opens a new one.
fn remember(incidents: &mut BTreeMap<String, Known>, incident: &Incident) {
    match Known::of(incident) {
        Some(known) => drop(incidents.insert(known.id(), known)),
        None => drop(incidents.remove(&id(incident))),
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

/// The name is a hash of what arrived, so that two replicas that see the same signal make one object.
fn name_for(signal: &Signal, ordinal: u32) -> String {
    let digest = Sha256::digest(format!("{}\n{}\n{ordinal}", signal.key, signal.started_at));
    format!("inc-{}", hex::encode(&digest[..5]))
}

/// An incident that is to be created. It counts as open from now on: grouping sees it, and whoever adds to it creates it.
fn promised(signal: &Signal, namespace: &str, ordinal: u32, now: Timestamp) -> Incident {
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
    status.severity = status.severity.max(Some(signal.severity));
    status.last_signal_at = Some(now);
    if status.conditions.is_empty() {
        let claims = [Claim::new(condition::READY, None, "Opened", because)];
        status.conditions = condition::settled(&[], &claims, generation, now);
    }
    incident.status = Some(status);
    incident.graded()
}

#[cfg(test)]
mod tests;

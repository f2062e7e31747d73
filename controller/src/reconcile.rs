//! The one loop that every controller runs: gather, decide, write, perform.
//!
//! ```text
//! object changed ─► gather (reads only) ─► decide (pure) ─► write status on the version read ─► perform effects ─► wake
//! ```
//!
//! A reconcile is not told why it runs, so it looks at everything each time. A status that nobody else wrote in between
//! is the compare-and-swap that makes a stale leader harmless: it loses that write and does nothing.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use jiff::SignedDuration;
use kube::api::Api;
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::controller::{self, Action, Config};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, WatchStreamExt, reflector, watcher};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::census::Counted;
use crate::effects::EffectError;
use crate::pace::Pace;
use crate::shell::Shell;

/// Reconciles of one kind at once: telemetry and forges answer slowly, the API server must not be flooded.
const CONCURRENCY: u16 = 4;

/// An object that made us panic this often is left alone until it changes or the process restarts.
const PANICS_MAX: u32 = 3;

/// How often a decision is repeated on a newer version of its object before everything is gathered anew.
const REBASED_MAX: u32 = 5;

/// How long an object rests that nobody asked to look at again: the resync that heals missed events.
const RESYNC: SignedDuration = SignedDuration::from_mins(5);

/// First and longest pause after an error.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A kind of object that can be watched and whose status we own.
pub trait Watched:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static
{
}

/// Name of the span of one look at one object: for fields of log lines; looks are too many to be traces.
pub const LOOK: &str = "look";

/// `namespace/name`, as log fields have it.
pub fn named<K: ResourceExt>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// One controller: what it looks at, and what it makes of it.
pub trait Control: Send + Sync + 'static {
    type Kind: Watched;
    type Snapshot: Send + Sync;
    /// What this controller may do besides writing its object's status.
    type Effect: Send;

    /// Lower case, for logs and metrics.
    const NAME: &'static str;

    /// Reads everything that the decision needs; changes nothing. What cannot be read is `Unknown` in the snapshot,
    /// and an error only when nothing can be decided without it.
    fn gather(
        shell: &Arc<Shell>,
        object: Self::Kind,
    ) -> impl Future<Output = Result<Self::Snapshot, GatherError>> + Send;

    /// What follows from the snapshot. Pure: no clock, no ids from thin air.
    fn decide(snapshot: &Self::Snapshot) -> Decision<Self::Kind, Self::Effect>;

    /// The same moment on a newer version of its object, when somebody else wrote it while the moment was gathered: what was
    /// asked need not be asked again. `None`: gather anew.
    fn rebased(_: Self::Snapshot, _newer: Self::Kind) -> Option<Self::Snapshot> {
        None
    }

    /// What log lines that are written while the object is looked at carry as fields.
    fn span(object: &Self::Kind) -> tracing::Span {
        tracing::info_span!(LOOK, control = Self::NAME, object = named(object))
    }

    /// What the object counts as in the metrics, where it does.
    fn counted(_object: &Self::Kind) -> Option<Counted> {
        None
    }

    /// Whether nothing is expected of the object but what people or another controller do, who give a nudge: with many such
    /// objects the next look may come later than the decision wants it.
    fn waits(_object: &Self::Kind) -> bool {
        false
    }

    /// Performs one effect through [`crate::effects`]; `object` is the version that was written or read last. The first
    /// failure stops the rest.
    fn perform(
        shell: &Arc<Shell>,
        object: &Self::Kind,
        snapshot: &Self::Snapshot,
        effect: Self::Effect,
    ) -> impl Future<Output = Result<(), EffectError>> + Send;
}

/// What is to be written and done, and when to look again.
#[derive(Debug)]
pub struct Decision<K, E> {
    /// The object with its new status; `None` when nothing changed.
    pub write: Option<K>,
    pub effects: Vec<E>,
    /// When to look again although nothing changed; `None`: at the next resync.
    pub wake: Option<SignedDuration>,
}

impl<K, E> Decision<K, E> {
    /// Nothing to write, nothing to do.
    pub fn rest(wake: Option<SignedDuration>) -> Self {
        Self { write: None, effects: Vec::new(), wake }
    }
}

/// Why a snapshot could not be taken at all.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    #[error("cannot read {what}")]
    Unreadable {
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl GatherError {
    pub fn unreadable(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unreadable { what: what.into(), source: source.into() }
    }
}

/// Why one reconcile did not come to its end; it is tried again after a pause.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("cannot gather what the decision needs")]
    Gather(#[from] GatherError),
    #[error("cannot carry the decision out")]
    Effect(#[from] EffectError),
    #[error("reconciling this object panicked")]
    Panicked,
}

/// Takes namespace and name of the object to look at.
type Listener = mpsc::UnboundedSender<(String, String)>;

/// Asks controllers to look at an object again, from anywhere in the process.
#[derive(Clone, Debug, Default)]
pub struct Nudges {
    listeners: Arc<Mutex<BTreeMap<&'static str, Listener>>>,
}

impl Nudges {
    /// Asks the controller called `control` to look at one object.
    pub fn nudge(&self, control: &'static str, namespace: &str, name: &str) {
        let listeners = self.listeners.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(listener) = listeners.get(control) {
            // A closed channel means that the controller has stopped; nothing is lost, it looks at all when it starts.
            let _ = listener.send((namespace.to_owned(), name.to_owned()));
        }
    }

    fn listen(&self, control: &'static str) -> UnboundedReceiverStream<(String, String)> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.listeners.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(control, sender);
        UnboundedReceiverStream::new(receiver)
    }
}

/// Runs one controller until `stop`.
pub async fn run<C: Control>(shell: Arc<Shell>, stop: CancellationToken) {
    // Only names and versions are watched: each look reads the live object anyway, and thousands of whole ones are much memory.
    let api: Api<PartialObjectMeta<C::Kind>> = Api::all(shell.clients.reader());
    let (known, writer) = reflector::store();
    // Shorter than the 60 s after which a silent connection is dead: an idle watch ends by itself first.
    let watch = watcher(api, watcher::Config::default().timeout(45)).default_backoff();
    let bare = watch.modify(|object| object.managed_fields_mut().clear());
    let changed = bare.reflect(writer).applied_objects();
    let nudges = shell.nudges.listen(C::NAME).map(|(namespace, name)| ObjectRef::new(&name).within(&namespace));
    let state = Arc::new(Running::<C> {
        shell,
        troubles: Mutex::default(),
        pace: Mutex::default(),
        control: std::marker::PhantomData,
    });
    let running = state.clone();
    Controller::for_stream(changed, known)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .reconcile_on(nudges)
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(
            |object, state| async move { state.reconcile(object).await },
            |object, error, state| state.after(&object, error),
            state,
        )
        .for_each(|done| {
            // An object that was deleted is asked for once more and not found.
            if let Err(controller::Error::ObjectNotFound(gone)) = &done {
                running.forget(gone.namespace.as_deref().unwrap_or_default(), &gone.name);
            }
            async move {
                if let Err(error) = done {
                    tracing::debug!(control = C::NAME, error = ?error, "reconcile did not end well");
                }
            }
        })
        .await;
}

/// The name under which an object is counted.
fn counted_as<C: Control>(namespace: &str, name: &str) -> String {
    format!("{} {namespace}/{name}", C::NAME)
}

struct Running<C: Control> {
    shell: Arc<Shell>,
    /// Errors and panics in a row, by object.
    troubles: Mutex<BTreeMap<String, Troubles>>,
    pace: Mutex<Pace>,
    control: std::marker::PhantomData<C>,
}

/// What one turn of the loop came to.
struct Looked {
    /// When to look again.
    wake: SignedDuration,
    /// Whether it only waits, see [`Control::waits`].
    waits: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Troubles {
    errors: u32,
    panics: u32,
}

impl<C: Control> Running<C> {
    async fn reconcile(&self, object: Arc<PartialObjectMeta<C::Kind>>) -> Result<Action, ReconcileError> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let id = format!("{namespace}/{name}");
        if self.troubles_of(&id).panics >= PANICS_MAX {
            return Ok(Action::await_change());
        }
        let began = std::time::Instant::now();
        let api: Api<C::Kind> = Api::namespaced(self.shell.clients.reader(), &namespace);
        let live = match api.get_opt(&name).await {
            Ok(Some(live)) => live,
            Ok(None) => {
                self.forget(&namespace, &name);
                return Ok(Action::await_change());
            }
            Err(kube::Error::SerdeError(error)) => {
                tracing::warn!(control = C::NAME, object = id, %error, "object cannot be read and is left alone");
                return Ok(Action::await_change());
            }
            Err(error) => return Err(GatherError::unreadable(format!("{} {id}", C::NAME), error).into()),
        };
        let span = C::span(&live);
        let outcome = AssertUnwindSafe(self.look(&api, live)).catch_unwind().instrument(span).await;
        self.shell.metrics.observe_reconcile(C::NAME, began.elapsed());
        match outcome {
            Ok(Ok(Looked { wake, waits })) => {
                self.with_troubles(&id, |troubles| troubles.errors = 0);
                let wanted = self.shell.time.in_real_time(wake);
                Ok(Action::requeue(self.pace().next(&id, waits, began.elapsed(), wanted, CONCURRENCY)))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                self.with_troubles(&id, |troubles| troubles.panics += 1);
                tracing::error!(control = C::NAME, object = id, "reconcile panicked");
                Err(ReconcileError::Panicked)
            }
        }
    }

    fn forget(&self, namespace: &str, name: &str) {
        let id = counted_as::<C>(namespace, name);
        self.shell.census.count(&self.shell.metrics, &id, None);
        self.pace().forget(&format!("{namespace}/{name}"));
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One turn of the loop, on the live object.
    async fn look(&self, api: &Api<C::Kind>, live: C::Kind) -> Result<Looked, ReconcileError> {
        let (namespace, name) = (live.namespace().unwrap_or_default(), live.name_any());
        let mut snapshot = C::gather(&self.shell, live.clone()).await?;
        for attempt in 1.. {
            let decision = C::decide(&snapshot);
            let written = match &decision.write {
                Some(changed) => self.shell.effects.write_status(changed).await,
                None => Ok(live.clone()),
            };
            let object = match written {
                Err(stale @ EffectError::Stale { .. }) if attempt < REBASED_MAX => {
                    let newer = api.get_opt(&name).await.ok().flatten();
                    snapshot = newer.and_then(|newer| C::rebased(snapshot, newer)).ok_or(stale)?;
                    continue;
                }
                written => written?,
            };
            self.shell.census.count(&self.shell.metrics, &counted_as::<C>(&namespace, &name), C::counted(&object));
            for effect in decision.effects {
                C::perform(&self.shell, &object, &snapshot, effect).await?;
            }
            return Ok(Looked { wake: decision.wake.unwrap_or(RESYNC).min(RESYNC), waits: C::waits(&object) });
        }
        Ok(Looked { wake: RESYNC, waits: false })
    }

    fn after(&self, object: &PartialObjectMeta<C::Kind>, error: &ReconcileError) -> Action {
        let id = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
        let troubles = self.with_troubles(&id, |troubles| troubles.errors = troubles.errors.saturating_add(1));
        let stale = matches!(error, ReconcileError::Effect(EffectError::Stale { .. }));
        if stale {
            // Somebody else wrote first: their version is looked at next.
            tracing::debug!(control = C::NAME, object = id, "lost a write to a newer version");
        } else {
            self.shell.metrics.reconcile_failed(C::NAME);
            tracing::warn!(control = C::NAME, object = id, error = %crate::errors::chain(error), "reconcile failed");
        }
        let doubled = BACKOFF.0.saturating_mul(1 << troubles.errors.saturating_sub(1).min(6));
        Action::requeue(if stale { Duration::from_millis(100) } else { doubled.min(BACKOFF.1) })
    }

    fn troubles_of(&self, id: &str) -> Troubles {
        self.troubles.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(id).copied().unwrap_or_default()
    }

    fn with_troubles(&self, id: &str, change: impl FnOnce(&mut Troubles)) -> Troubles {
        let mut all = self.troubles.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let troubles = all.entry(id.to_owned()).or_default();
        change(troubles);
        *troubles
    }
}

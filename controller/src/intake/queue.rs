//! The way from the intake to the store: signals wait a moment for their kin, so that a storm is few writes.
//!
//! ```text
//! request --\                        one task per namespace with signals waiting
//! request ----> namespace: signals ---- 100 ms ----> store ----> every request of the batch gets its answer
//! request --/   (repeats merged)
//! ```
//!
//! Per namespace and not per workload: only signals that are stored together can be grouped without a race, and one
//! problem mostly stays inside one namespace. Stores of one namespace follow each other; namespaces run beside each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use amend_diagnosis::signal::Signal;
use tokio::sync::{Semaphore, watch};

use super::{SignalStore, StoreError};
use crate::metrics::{BySource, Metrics, source_name};

/// How long a signal waits for others.
pub const COALESCING: Duration = Duration::from_millis(100);

/// Signals that may wait at once. At 4 KiB each: 40 MiB of the 256 that we have.
pub const WAITING_MAX: usize = 10_000;

/// Stores that run at once; more would only queue at the API server.
const STORES_MAX: usize = 8;

/// A store that has not answered by then has failed for the sender, who gives up after 10 s.
const STORE_LIMIT: Duration = Duration::from_secs(8);

/// Why signals were not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    #[error("too many signals wait to be stored")]
    Full,
    #[error("the signals could not be stored")]
    Store(#[from] StoreError),
}

/// Takes signals in and answers once they are stored. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    store: Arc<dyn SignalStore>,
    stores: Arc<Semaphore>,
    waiting: Arc<Mutex<Waiting>>,
    metrics: Metrics,
    pace: Pace,
}

/// How long things wait. Tests shorten it.
#[derive(Clone, Copy, Debug)]
struct Pace {
    coalescing: Duration,
    store: Duration,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Queue").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Waiting {
    batches: BTreeMap<Place, Option<Batch>>,
    signals: usize,
}

/// Cluster and namespace.
type Place = (String, String);

/// Signals of one place by key, and who waits for them.
struct Batch {
    signals: BTreeMap<String, Signal>,
    outcome: watch::Sender<Option<Result<(), StoreError>>>,
}

impl Queue {
    pub fn new(store: Arc<dyn SignalStore>, metrics: Metrics) -> Self {
        let pace = Pace { coalescing: COALESCING, store: STORE_LIMIT };
        Self { store, stores: Arc::new(Semaphore::new(STORES_MAX)), waiting: Arc::default(), metrics, pace }
    }

    /// Resolves when every signal is stored or refused for good, or at once when one batch is worth another try.
    ///
    /// Either all signals are let in or none. Dropping the future does not take them back.
    pub async fn submit(&self, signals: Vec<Signal>) -> Result<(), QueueError> {
        let outcomes = self.enter(signals)?;
        let mut refused = None;
        for mut outcome in outcomes {
            let stored = match outcome.wait_for(Option::is_some).await {
                Ok(stored) => stored.clone().unwrap_or(Ok(())),
                Err(_) => Err(StoreError::Unavailable { why: "the controller is stopping".to_owned() }),
            };
            match stored {
                Ok(()) => {}
                // Worth another try, which also repeats what was stored: that is idempotent.
                Err(error @ StoreError::Unavailable { .. }) => return Err(QueueError::Store(error)),
                Err(error @ StoreError::Refused { .. }) => refused = Some(error),
            }
        }
        refused.map_or(Ok(()), |error| Err(QueueError::Store(error)))
    }

    #[allow(clippy::type_complexity)] // the outcome of each batch that a signal went into
    fn enter(&self, signals: Vec<Signal>) -> Result<Vec<watch::Receiver<Option<Result<(), StoreError>>>>, QueueError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.signals + signals.len() > WAITING_MAX {
            return Err(QueueError::Full);
        }
        let mut outcomes = BTreeMap::new();
        for signal in signals {
            let source = source_name(signal.source);
            let place = (signal.entity.cluster.clone(), signal.entity.namespace.clone());
            let idle = !waiting.batches.contains_key(&place);
            let batch = waiting
                .batches
                .entry(place.clone())
                .or_default()
                .get_or_insert_with(|| Batch { signals: BTreeMap::new(), outcome: watch::channel(None).0 });
            outcomes.entry(place.clone()).or_insert_with(|| batch.outcome.subscribe());
            let merged = match batch.signals.get_mut(&signal.key) {
                Some(kept) => {
                    merge(kept, signal);
                    true
                }
                None => {
                    batch.signals.insert(signal.key.clone(), signal);
                    false
                }
            };
            if merged {
                self.metrics.signals_repeated.get_or_create(&BySource { source }).inc();
            } else {
                waiting.signals += 1;
            }
            if idle {
                tokio::spawn(self.clone().drain(place));
            }
        }
        self.metrics.signals_waiting.set(i64::try_from(waiting.signals).unwrap_or(i64::MAX));
        Ok(outcomes.into_values().collect())
    }

    /// Stores the batches of one place, one after the other, until none is left.
    async fn drain(self, place: Place) {
        loop {
            tokio::time::sleep(self.pace.coalescing).await;
            let Some(batch) = self.take(&place) else { return };
            let signals: Vec<Signal> = batch.signals.into_values().collect();
            let sources: Vec<_> = signals.iter().map(|signal| source_name(signal.source)).collect();
            let stored = self.put(signals).await;
            match &stored {
                Ok(()) => sources.iter().for_each(|source| {
                    self.metrics.signals_accepted.get_or_create(&BySource { source }).inc();
                }),
                Err(StoreError::Unavailable { .. }) => {
                    sources.iter().for_each(|source| self.metrics.drop_signal(source, "store_unavailable"));
                }
                Err(StoreError::Refused { .. }) => {
                    sources.iter().for_each(|source| self.metrics.drop_signal(source, "store_refused"));
                }
            }
            if let Err(error) = &stored {
                tracing::warn!(namespace = place.1, signals = sources.len(), %error, "signals not stored");
            }
            self.leave(sources.len());
            batch.outcome.send_replace(Some(stored));
        }
    }

    async fn put(&self, signals: Vec<Signal>) -> Result<(), StoreError> {
        let store = async {
            let _turn = self.stores.acquire().await;
            self.store.store(signals).await
        };
        let late = StoreError::Unavailable { why: format!("no answer within {} s", self.pace.store.as_secs()) };
        tokio::time::timeout(self.pace.store, store).await.unwrap_or(Err(late))
    }

    /// The batch of a place; when there is none, the place is idle from now on.
    fn take(&self, place: &Place) -> Option<Batch> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = waiting.batches.get_mut(place).and_then(Option::take);
        if batch.is_none() {
            waiting.batches.remove(place);
        }
        batch
    }

    fn leave(&self, signals: usize) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.signals = waiting.signals.saturating_sub(signals);
        self.metrics.signals_waiting.set(i64::try_from(waiting.signals).unwrap_or(i64::MAX));
    }
}

/// The same signal again: the later word on its end wins, and it is counted.
fn merge(kept: &mut Signal, again: Signal) {
    kept.count = kept.count.saturating_add(again.count.max(1));
    kept.severity = kept.severity.max(again.severity);
    kept.started_at = kept.started_at.min(again.started_at);
    kept.ended_at = again.ended_at;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use amend_diagnosis::entity::{Entity, EntityKind};
    use amend_diagnosis::signal::{Severity, SignalSource};
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use jiff::Timestamp;

    use super::*;

    fn signal(namespace: &str, key: &str) -> Signal {
        Signal {
            key: key.to_owned(),
            source: SignalSource::Alert,
            name: "Oom".to_owned(),
            entity: Entity::new(EntityKind::Deployment, namespace, "checkout"),
            severity: Severity::Warning,
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: None,
            summary: String::new(),
            labels: BTreeMap::new(),
            count: 1,
        }
    }

    /// Notes the batches it gets and answers what it is told to.
    #[derive(Default)]
    struct Notes {
        batches: Mutex<Vec<Vec<Signal>>>,
        answer: Mutex<Option<StoreError>>,
    }

    impl SignalStore for Notes {
        fn store(&self, batch: Vec<Signal>) -> BoxFuture<'_, Result<(), StoreError>> {
            self.batches.lock().unwrap().push(batch);
            let answer = self.answer.lock().unwrap().clone().map_or(Ok(()), Err);
            async move { answer }.boxed()
        }
    }

    fn queue() -> (Queue, Arc<Notes>) {
        let notes = Arc::new(Notes::default());
        (Queue::new(notes.clone(), Metrics::new()), notes)
    }

    #[tokio::test]
    async fn signals_of_one_namespace_are_stored_together_and_repeats_are_counted() {
        let (queue, notes) = queue();
        let one = queue.submit(vec![signal("shop", "a"), signal("shop", "b")]);
        let two = queue.submit(vec![signal("shop", "a"), signal("bank", "a")]);
        let (one, two) = futures::join!(one, two);
        assert_eq!((one, two), (Ok(()), Ok(())));
        let batches = notes.batches.lock().unwrap();
        assert_eq!(batches.len(), 2);
        let shop = batches.iter().find(|batch| batch[0].entity.namespace == "shop").unwrap();
        assert_eq!(shop.iter().map(|signal| signal.count).collect::<Vec<_>>(), [2, 1]);
    }

    #[tokio::test]
    async fn nothing_is_acknowledged_before_it_is_stored_and_a_failure_reaches_the_sender() {
        let (queue, notes) = queue();
        let down = StoreError::Unavailable { why: "the API server is away".to_owned() };
        *notes.answer.lock().unwrap() = Some(down.clone());
        assert_eq!(queue.submit(vec![signal("shop", "a")]).await, Err(QueueError::Store(down)));
        *notes.answer.lock().unwrap() = None;
        assert_eq!(queue.submit(vec![signal("shop", "a")]).await, Ok(()));
    }

    #[tokio::test]
    async fn a_full_queue_lets_nothing_in_and_empties_again() {
        let (queue, notes) = queue();
        let flood: Vec<_> = (0..WAITING_MAX).map(|number| signal("shop", &number.to_string())).collect();
        let first = queue.submit(flood);
        let second = async { queue.submit(vec![signal("shop", "one more")]).await };
        let (first, second) = futures::join!(first, second);
        assert_eq!((first, second), (Ok(()), Err(QueueError::Full)));
        assert_eq!(queue.submit(vec![signal("shop", "later")]).await, Ok(()));
        assert_eq!(notes.batches.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_silent_store_is_given_up_before_the_sender_gives_up() {
        struct Silent;
        impl SignalStore for Silent {
            fn store(&self, _: Vec<Signal>) -> BoxFuture<'_, Result<(), StoreError>> {
                std::future::pending().boxed()
            }
        }
        let mut queue = Queue::new(Arc::new(Silent), Metrics::new());
        queue.pace.store = Duration::from_millis(10);
        let outcome = queue.submit(vec![signal("shop", "a")]).await;
        assert!(matches!(outcome, Err(QueueError::Store(StoreError::Unavailable { .. }))), "{outcome:?}");
    }
}

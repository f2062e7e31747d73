//! What comes in: alerts, failed CI runs, Kubernetes events and conditions.
//!
//! A sender proves who it is, its text is bounded and cleaned, and it gets its 2xx only after the signal is stored.
//! What arrives is a hint, never an order: an alert is asked again at its source before anything is done about it.

pub mod alertmanager;
pub mod build_report;
pub mod deliveries;
pub mod depth;
pub mod events;
mod exporter;
pub mod gitea;
pub mod github;
pub mod gitlab;
pub mod proof;
pub mod queue;
pub mod receive;
pub mod untrusted;

use amend_diagnosis::signal::Signal;
use futures::future::BoxFuture;

use build_report::BuildReport;

/// Keeps signals so that no crash loses them.
pub trait SignalStore: Send + Sync {
    /// Stores signals of one namespace, grouped into incidents by the implementation. All or nothing as far as the caller
    /// is concerned: after an error it sends the same signals again, so storing must be idempotent by [`Signal::key`].
    fn store(&self, batch: Vec<Signal>) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// Keeps failed CI runs.
pub trait BuildStore: Send + Sync {
    /// Stores a run once: forge, repository, run id and attempt name it, whatever the number of deliveries and jobs.
    fn store(&self, report: BuildReport) -> BoxFuture<'_, Result<Stored, StoreError>>;
}

/// Whether the store knew it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    New,
    Repeat,
}

/// Why something could not be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The sender is asked to try again later.
    #[error("the store is not available: {why}")]
    Unavailable { why: String },
    /// Trying again would not help: the sender gets its 2xx and the loss is counted.
    #[error("the store refuses it: {why}")]
    Refused { why: String },
}

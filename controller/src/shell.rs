//! What every controller of the process shares: clients, clock, stores, repositories, metrics.

use std::sync::Arc;

use amend_telemetry::model::Model;
use tokio::sync::Semaphore;

use crate::census::Census;
use crate::clients::Clients;
use crate::effects::Effects;
use crate::metrics::Metrics;
use crate::notify::Pager;
use crate::reconcile::Nudges;
use crate::recorder::Recorder;
use crate::reports::Reports;
use crate::requested::Requested;
use crate::settings::Settings;
use crate::sources::Sources;
use crate::targets::Targets;
use crate::time::Time;
use crate::topology::Topologies;
use crate::unknown_lines::UnknownLines;

/// Shared by everything that runs; there is one for each process.
pub struct Shell {
    pub settings: Settings,
    /// UID of the release namespace: tells two installations on one repository apart.
    pub install: String,
    pub time: Arc<dyn Time>,
    pub clients: Clients,
    pub effects: Effects,
    pub recorder: Recorder,
    pub sources: Sources,
    pub targets: Targets,
    pub topologies: Topologies,
    pub requested: Requested,
    pub nudges: Nudges,
    pub reports: Reports,
    pub metrics: Metrics,
    /// What every object counts as in the metrics.
    pub census: Census,
    pub unknown_lines: Arc<UnknownLines>,
    /// Turns for diagnoses, which keep a core busy: half of the cores stay free to take alerts in and to renew the lease.
    pub diagnoses: Semaphore,
    /// The turn for looking again at an incident that was diagnosed before: one at a time, evidence included.
    pub second_looks: Semaphore,
    /// Turns for second rounds of questions: in a storm the first round of others comes first.
    pub deep_rounds: Semaphore,
    pub pager: Option<Arc<dyn Pager>>,
    /// Phrases summaries for people, where one is configured.
    pub model: Option<Arc<Model>>,
}

impl std::fmt::Debug for Shell {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Shell").field("install", &self.install).finish_non_exhaustive()
    }
}

//! What grouping needs to know of an open incident.
//!
//! Its diagnosis is a hundred times as much, and thousands may be open: whole incidents are read when they are written to.

use amend_crds::Incident;
use amend_diagnosis::incident::OpenIncident;
use amend_diagnosis::signal::Signal;
use jiff::Timestamp;
use kube::ResourceExt;

use super::phase;

/// An incident that has not ended, or one that is to be created.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub namespace: String,
    pub name: String,
    opened_at: Timestamp,
    /// At most 64; those of the spec as long as the status holds none.
    signals: Vec<Signal>,
    /// Whether the signals stand in the status: then hearing one again is a repeat.
    counted: bool,
    /// Only the API server gives a UID. Whoever adds to one that has none creates it.
    promised: bool,
}

impl Known {
    /// `None` when the incident has ended: a later signal opens a new one.
    pub fn of(incident: &Incident) -> Option<Self> {
        if phase(incident).is_end() {
            return None;
        }
        let status = incident.status.as_ref();
        let counted = status.is_some_and(|status| !status.signals.is_empty());
        let signals = status.filter(|_| counted).map_or(&incident.spec.signals, |status| &status.signals);
        let created_at = incident.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let heard_at = status.and_then(|status| status.last_signal_at);
        Some(Self {
            namespace: incident.namespace().unwrap_or_default(),
            name: incident.name_any(),
            opened_at: created_at.or(heard_at).unwrap_or(Timestamp::UNIX_EPOCH),
            signals: signals.clone(),
            counted,
            promised: incident.metadata.uid.is_none(),
        })
    }

    pub fn id(&self) -> String {
        super::id_of(&self.namespace, &self.name)
    }

    /// The signal that opened it, when it is still to be created.
    pub fn promised_for(&self) -> Option<&Signal> {
        self.signals.first().filter(|_| self.promised)
    }

    pub fn as_open(&self) -> OpenIncident<'_> {
        OpenIncident { id: self.id(), opened_at: self.opened_at, signals: self.signals.as_slice().into() }
    }

    /// Whether a signal says only what this incident holds already: that it fires, no worse than before.
    pub fn holds(&self, signal: &Signal) -> bool {
        let same = |kept: &&Signal| kept.key == signal.key && kept.ended_at.is_none();
        self.counted
            && signal.ended_at.is_none()
            && self
                .signals
                .iter()
                .filter(same)
                .any(|kept| kept.severity >= signal.severity && kept.started_at <= signal.started_at)
    }
}

//! What the demo has observed in the API so far. Nothing else tells the story.

use std::collections::BTreeMap;
use std::time::Duration;

use amend_crds::incident::IncidentPhase;
use amend_crds::{Incident, Remediation};
use amend_execution::journal::{Entry, Event};
use amend_execution::phase::{Phase, Standing};
use kube::ResourceExt;

use super::tempo::Tempo;

/// The newest version of every object, and when incidents changed their phase.
#[derive(Debug, Default)]
pub struct Seen {
    pub incidents: BTreeMap<String, Incident>,
    pub remediations: BTreeMap<String, Remediation>,
    incident_phases: Vec<(Duration, IncidentPhase)>,
}

impl Seen {
    /// Takes in an incident as it is at this real time.
    pub fn incident_changed(&mut self, incident: Incident, at: Duration) {
        let name = incident.name_any();
        self.incidents.insert(name.clone(), incident);
        let Some(current) = self.incident().filter(|one| one.name_any() == name) else { return };
        let phase = current.status.as_ref().map_or(IncidentPhase::Open, |status| status.phase);
        if self.incident_phases.last().is_none_or(|(_, last)| *last != phase) {
            self.incident_phases.push((at, phase));
        }
    }

    /// The incident of the story: the one that is remediated, else the oldest that stands for itself.
    pub fn incident(&self) -> Option<&Incident> {
        let remediated = self.remediation().and_then(|one| self.incidents.get(&one.spec.incident));
        remediated.or_else(|| {
            let own = self.incidents.values().filter(|one| stands_for_itself(one));
            own.min_by_key(|one| one.metadata.creation_timestamp.as_ref().map(|time| time.0))
        })
    }

    /// Incidents that are neither part of another one nor gone before work began.
    pub fn incidents_counted(&self) -> usize {
        self.incidents.values().filter(|one| stands_for_itself(one)).count()
    }

    /// Where every incident stands and why, for who has to understand a story that went wrong.
    pub fn standings(&self) -> String {
        let standing = |(name, incident): (&String, &Incident)| {
            let status = incident.status.clone().unwrap_or_default();
            format!("{name} of {} is {:?} ({})", incident.spec.entity, status.phase, status.because)
        };
        self.incidents.iter().map(standing).collect::<Vec<_>>().join("; ")
    }

    /// The remediation of the story: the first one.
    pub fn remediation(&self) -> Option<&Remediation> {
        self.remediations.values().min_by_key(|one| one.metadata.creation_timestamp.as_ref().map(|time| time.0))
    }

    /// Where the remediation stands.
    pub fn phase(&self) -> Option<Phase> {
        self.remediation()?.status.as_ref()?.phase
    }

    /// The journal of the remediation.
    pub fn entries(&self) -> &[Entry] {
        self.remediation().and_then(|one| one.status.as_ref()).map_or(&[], |status| status.journal.entries())
    }

    /// What the journal says happened.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.entries().iter().map(|entry| &entry.event)
    }

    /// Each phase that was entered, in order, with the real time of that: the incident's until a plan is carried out,
    /// then the remediation's, then how the incident ended.
    pub fn phases(&self, tempo: &Tempo) -> Vec<(String, Duration)> {
        let mut entered: Vec<(String, Duration)> = Vec::new();
        for (at, phase) in &self.incident_phases {
            if *phase != IncidentPhase::Remediating {
                entered.push((format!("{phase:?}"), *at));
            }
        }
        let mut standing = Standing::new();
        let mut last = None;
        for entry in self.entries() {
            let Ok(next) = standing.after(entry) else { break };
            standing = next;
            if last != Some(standing.phase) {
                last = Some(standing.phase);
                entered.push((format!("{:?}", standing.phase), tempo.real(entry.at)));
            }
        }
        entered.sort_by_key(|(_, at)| *at);
        entered
    }
}

fn stands_for_itself(incident: &Incident) -> bool {
    let phase = incident.status.as_ref().map_or(IncidentPhase::Open, |status| status.phase);
    !matches!(phase, IncidentPhase::Joined | IncidentPhase::Dropped)
}

//! How each story has to end, and what is wrong when it does not.

use amend_crds::incident::IncidentPhase;
use amend_execution::journal::{Event, Word};
use amend_execution::phase::Phase;

use super::seen::Seen;

/// Alerts that a flood brings at least.
const FLOOD: u32 = 500;

/// What is known about a scenario besides the sandbox's part of it.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    pub name: &'static str,
    /// One sentence: what goes wrong.
    pub fault: &'static str,
    /// How it ends when all is right.
    pub ending: Wanted,
    /// Whether the stores go silent once the change is merged.
    pub telemetry_dies: bool,
}

/// What a remediation must end as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Exactly(Phase),
    /// Any ending but success: the change did not cure anything.
    NoSuccess,
}

/// All stories, by the names of the sandbox.
pub const STORIES: [Story; 7] = [
    Story {
        name: "oom",
        fault: "a release of checkout needs more memory than its limit allows; its pods are killed, frontend answers 5xx",
        ending: Wanted::Exactly(Phase::Succeeded),
        telemetry_dies: false,
    },
    Story {
        name: "bad-release",
        fault: "a release of payment fails a third of its requests; an innocent release of catalog arrives with it",
        ending: Wanted::Exactly(Phase::Succeeded),
        telemetry_dies: false,
    },
    Story {
        name: "bad-config",
        fault: "a commit changes only a ConfigMap that payment reads; half of its requests fail, and no Deployment has changed",
        ending: Wanted::Exactly(Phase::Succeeded),
        telemetry_dies: false,
    },
    Story {
        name: "bad-fix",
        fault: "as oom, but this release gets worse with more memory: the fix does harm",
        ending: Wanted::Exactly(Phase::RolledBack),
        telemetry_dies: false,
    },
    Story {
        name: "no-data",
        fault: "as oom, but every telemetry store goes silent once the change is merged",
        ending: Wanted::Exactly(Phase::Unverified),
        telemetry_dies: true,
    },
    Story {
        name: "placebo",
        fault: "as oom, but the restart alone makes the symptoms go away for a while; the change itself cures nothing",
        ending: Wanted::NoSuccess,
        telemetry_dies: false,
    },
    Story {
        name: "flood",
        fault: "one bad release of payment raises 500 alerts within seconds",
        ending: Wanted::Exactly(Phase::Succeeded),
        telemetry_dies: false,
    },
];

impl Story {
    /// Whether there is nothing more to wait for, wanted or not.
    pub fn is_over(&self, seen: &Seen) -> bool {
        let Some(remediation) = seen.remediation() else { return false };
        let Some(status) = &remediation.status else { return false };
        let Some(ending) = status.phase.and_then(Phase::ending) else { return false };
        let sealed = status.record.len() >= status.journal.len();
        let resolved = seen.incident().and_then(|one| one.status.as_ref()).is_some_and(|status| status.phase.is_end());
        let told = match Phase::from(ending) {
            Phase::Succeeded => resolved,
            Phase::Unverified | Phase::Held | Phase::Stuck | Phase::RolledBack => paged(seen),
            _ => true,
        };
        sealed && told
    }

    /// Everything that did not go as the story has it; empty when it ended right.
    pub fn complaints(&self, seen: &Seen) -> Vec<String> {
        let mut wrong = Vec::new();
        let phase = seen.phase();
        match self.ending {
            Wanted::Exactly(wanted) if phase == Some(wanted) => {}
            Wanted::Exactly(wanted) => wrong.push(format!("it should end {wanted:?}, not {}", shown(phase))),
            Wanted::NoSuccess if phase.and_then(Phase::ending).is_some() && phase != Some(Phase::Succeeded) => {}
            Wanted::NoSuccess => wrong.push(format!("it should end without success, not {}", shown(phase))),
        }
        let incidents = seen.incidents_counted();
        if incidents != 1 {
            wrong.push(format!("there should be one incident, not {incidents}: {}", seen.standings()));
        }
        if seen.remediations.len() != 1 {
            let count = seen.remediations.len();
            wrong.push(format!("there should be one remediation, not {count}: {}", seen.standings()));
        }
        let incident = seen.incident().and_then(|one| one.status.as_ref());
        let resolved = incident.is_some_and(|status| status.phase == IncidentPhase::Resolved);
        if phase == Some(Phase::Succeeded) && !resolved {
            wrong.push("the incident should be Resolved".into());
        }
        if phase != Some(Phase::Succeeded) && resolved {
            wrong.push("the incident should not be Resolved".into());
        }
        if self.telemetry_dies && !paged(seen) {
            wrong.push("people should have been paged".into());
        }
        if self.telemetry_dies
            && seen.events().any(|event| matches!(event, Event::Verified { verdict: Word::Pass, .. }))
        {
            wrong.push("nothing may be called good without data".into());
        }
        if self.name == "flood" && incident.is_none_or(|status| status.signal_count < FLOOD) {
            wrong.push(format!("at least {FLOOD} alerts should have arrived"));
        }
        wrong
    }
}

fn paged(seen: &Seen) -> bool {
    seen.events().any(|event| matches!(event, Event::Paged { .. }))
}

fn shown(phase: Option<Phase>) -> String {
    phase.map_or_else(|| "before any remediation".to_owned(), |phase| format!("{phase:?}"))
}

//! Log lines that nobody can class, kept in memory by the controller that leads: heard while incidents are diagnosed, shown to
//! people, let go of once they are taught.
//!
//! The queue is gone with the process; the next look at each open incident fills it again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use amend_crds::incident::UnknownLine;
use amend_diagnosis::evidence::Observations;
use amend_diagnosis::logs::queue::{Dropped, Entry, Queue};
use amend_diagnosis::logs::unknown::{Sighting, Sightings, sightings};
use amend_telemetry::case::Redaction;
use jiff::Timestamp;

use crate::intake::untrusted::one_line;
use crate::shell::Shell;

/// Templates that an incident's status names; the dashboard has all that are kept.
const IN_STATUS_MAX: usize = 8;

/// Letters of a sample in a status: objects are kept in etcd.
const SAMPLE_IN_STATUS: usize = 300;

/// See the module.
#[derive(Debug)]
pub struct UnknownLines {
    queue: Mutex<Queue>,
    redaction: Redaction,
}

impl Default for UnknownLines {
    fn default() -> Self {
        // A salt that nobody keeps: digests of secrets cannot be guessed from a word list.
        let salt = RandomState::new().hash_one("unknown lines").to_be_bytes();
        Self { queue: Mutex::default(), redaction: Redaction::new(salt) }
    }
}

/// What one look at an incident heard, as its status says it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    pub lines: Vec<UnknownLine>,
    /// Templates beyond those.
    pub not_kept: u32,
}

impl UnknownLines {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the evidence of an incident holds. Takes milliseconds: not for a task that others wait for.
    fn take_in(&self, observations: &Observations, incident: &str, now: Timestamp) -> Heard {
        let seen = sightings(observations, &|line| self.redaction.text(line));
        self.queue().take_in(&seen, incident, now);
        heard(&seen, now)
    }

    /// A line without the credentials and people in it.
    pub fn redacted(&self, line: &str) -> String {
        self.redaction.text(line)
    }

    /// Templates in the queue, the gravest first, and what was not kept.
    pub fn kept(&self) -> (Vec<Entry>, Dropped) {
        let queue = self.queue();
        (queue.entries().into_iter().cloned().collect(), queue.dropped())
    }
}

/// Hears the lines of one incident, outside of the tasks that others wait for.
pub async fn hear(shell: &Arc<Shell>, observations: Arc<Observations>, incident: String, now: Timestamp) -> Heard {
    let lines = Arc::clone(&shell.unknown_lines);
    let heard = tokio::task::spawn_blocking(move || lines.take_in(&observations, &incident, now)).await;
    learn(shell).await;
    heard.unwrap_or_default()
}

/// Lets go of what people have taught meanwhile, and says in the metrics how much is left.
pub async fn learn(shell: &Shell) {
    let namespaces = shell.unknown_lines.queue().namespaces();
    for namespace in namespaces {
        let sources = shell.sources.serving(&namespace).await;
        shell.unknown_lines.queue().learn(&namespace, |line| sources.taught(line).is_some());
    }
    let (kept, dropped) = {
        let queue = shell.unknown_lines.queue();
        (queue.len(), queue.dropped())
    };
    shell.metrics.show_unknown_lines(kept, dropped.templates);
}

fn heard(seen: &Sightings, now: Timestamp) -> Heard {
    let beyond = (seen.list.len().saturating_sub(IN_STATUS_MAX) as u64).saturating_add(seen.beyond);
    Heard {
        lines: seen.list.iter().take(IN_STATUS_MAX).map(|one| line(one, now)).collect(),
        not_kept: u32::try_from(beyond).unwrap_or(u32::MAX),
    }
}

fn line(seen: &Sighting, now: Timestamp) -> UnknownLine {
    let time = |at: Option<&(u64, u64)>| {
        at.and_then(|(ns, _)| Timestamp::from_nanosecond(i128::from(*ns)).ok()).map_or(now, |at| at.min(now))
    };
    UnknownLine {
        workload: seen.workload.clone(),
        template: seen.template.clone(),
        sample: one_line(&seen.sample, SAMPLE_IN_STATUS),
        why: seen.why.name().to_owned(),
        lines: u32::try_from(seen.lines()).unwrap_or(u32::MAX),
        first_seen: time(seen.at.first()),
        last_seen: time(seen.at.last()),
    }
}

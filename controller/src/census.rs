//! What our metrics say about objects and about the record: kept by the process that leads.
//!
//! Objects are counted as they are reconciled, so nothing is listed for it: every object is looked at when a process takes the
//! lead, whenever it changes, and once more when it is gone.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use amend_diagnosis::evidence::Answer;
use amend_execution::phase::Phase;
use amend_execution::phase::incident::IncidentPhase;
use amend_execution::record::{TrustRoot, verify};
use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;

use crate::metrics::{ByOutcome, ByPhase, Metrics, SourceHealth};
use crate::records;
use crate::shell::Shell;
use crate::watch::orders;

/// How often the stop switch is read for its metric: about once for every scrape.
const STOP_EVERY: Duration = Duration::from_secs(30);

/// Turns of [`STOP_EVERY`] between two checks of the record: ten minutes. A check reads every remediation and checks every
/// signature, some 50 µs each.
const RECORD_EVERY: u32 = 20;

/// What one object counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    Incident(IncidentPhase),
    Remediation(Phase),
    Source { kind: &'static str, ready: bool },
}

/// What every object of this process counts as.
#[derive(Debug, Default)]
pub struct Census {
    objects: Mutex<BTreeMap<String, Counted>>,
}

impl Census {
    /// Takes in what an object counts as now; `None`: it is gone, or counts as nothing.
    pub fn count(&self, metrics: &Metrics, id: &str, now: Option<Counted>) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match now {
            Some(now) => objects.insert(id.to_owned(), now),
            None => objects.remove(id),
        };
        drop(objects);
        if before == now {
            return;
        }
        if let Some(before) = before {
            gauge(metrics, before).dec();
        }
        if let Some(now) = now {
            gauge(metrics, now).inc();
        }
        // What had ended before this process saw it was counted by the process that ended it.
        if let (Some(Counted::Remediation(was)), Some(Counted::Remediation(is))) = (before, now)
            && was.ending().is_none()
            && is.ending().is_some()
        {
            metrics.remediations_ended.get_or_create(&ByOutcome { outcome: is.word() }).inc();
        }
    }
}

fn gauge(metrics: &Metrics, counted: Counted) -> Gauge {
    match counted {
        Counted::Incident(phase) => metrics.incidents.get_or_create(&ByPhase { phase: phase.word() }).clone(),
        Counted::Remediation(phase) => metrics.remediations.get_or_create(&ByPhase { phase: phase.word() }).clone(),
        Counted::Source { kind, ready } => {
            let health = if ready { "ready" } else { "unreachable" };
            metrics.sources.get_or_create(&SourceHealth { kind, health }).clone()
        }
    }
}

/// Watches the stop switch and checks the record until `stop`. Its clock is the machine's: what it shows is scraped by that.
pub async fn keep(shell: std::sync::Arc<Shell>, stop: CancellationToken) {
    let mut turn = 0_u32;
    loop {
        if let Answer::Known(stopped) = orders::kill_switch(&shell).await {
            shell.metrics.paused.set(i64::from(stopped));
        }
        if turn.is_multiple_of(RECORD_EVERY) {
            let outcome = record_outcome(&shell).await;
            shell.metrics.record_checks.get_or_create(&ByOutcome { outcome }).inc();
        }
        turn = turn.wrapping_add(1);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(STOP_EVERY) => {}
        }
    }
}

/// Whether the record in the cluster verifies under the key that this process signs with.
async fn record_outcome(shell: &Shell) -> &'static str {
    let Some(key) = shell.recorder.public_key().await else { return "unknown" };
    let export = match records::export(&shell.clients.reader(), &shell.settings.release_namespace).await {
        Ok(export) => export,
        Err(why) => {
            tracing::warn!(why, "the record could not be checked");
            return "unknown";
        }
    };
    let checked =
        tokio::task::spawn_blocking(move || verify(&export.lines, &TrustRoot { key, seen: Vec::new() })).await;
    match checked {
        Ok(Ok(_)) => "verified",
        Ok(Err(bad)) => {
            tracing::error!(entry = bad.index, reason = %bad, "the record does not verify");
            "bad"
        }
        Err(_) => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_counts_once_wherever_it_stands_and_no_more_when_it_is_gone() {
        let (census, metrics) = (Census::default(), Metrics::new());
        let proposed = Some(Counted::Remediation(Phase::Proposed));
        census.count(&metrics, "remediation shop/a", proposed);
        census.count(&metrics, "remediation shop/a", proposed);
        census.count(&metrics, "remediation shop/b", proposed);
        assert!(metrics.text().contains("amend_remediations{phase=\"Proposed\"} 2"), "{}", metrics.text());
        census.count(&metrics, "remediation shop/a", Some(Counted::Remediation(Phase::Succeeded)));
        census.count(&metrics, "remediation shop/b", None);
        let text = metrics.text();
        assert!(text.contains("amend_remediations{phase=\"Proposed\"} 0"), "{text}");
        assert!(text.contains("amend_remediations_ended_total{outcome=\"Succeeded\"} 1"), "{text}");
    }

    #[test]
    fn what_had_ended_before_is_not_counted_as_ended_again() {
        let (census, metrics) = (Census::default(), Metrics::new());
        census.count(&metrics, "remediation shop/a", Some(Counted::Remediation(Phase::Withdrawn)));
        assert!(!metrics.text().contains("amend_remediations_ended_total{"), "{}", metrics.text());
    }
}

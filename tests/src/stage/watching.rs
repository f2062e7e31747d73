//! What the API says, waited for. Whoever waits in vain is told all that is known.

use std::fmt;
use std::time::Duration;

use amend_controller::records;
use amend_crds::incident::IncidentPhase;
use amend_crds::{Incident, Remediation};
use amend_execution::journal::{Entry, Event};
use amend_execution::phase::Phase;
use amend_execution::record::{Summary, TrustRoot, verify};
use anyhow::{Context, bail};
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::set::Stage;
use super::world::RELEASE_NAMESPACE;
use crate::bench::{PullRequest, until};

/// Signals of one incident that a report names.
const SIGNALS_SHOWN: usize = 12;

/// Incidents, remediations and pull requests of a story at one moment. Shown, it is a report for people.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Oldest first.
    pub incidents: Vec<Incident>,
    /// Oldest first.
    pub remediations: Vec<Remediation>,
    /// Oldest first.
    pub pull_requests: Vec<PullRequest>,
}

impl Seen {
    /// Incidents that are neither part of another one nor gone before work began.
    #[must_use]
    pub fn standing(&self) -> Vec<&Incident> {
        let aside = [IncidentPhase::Joined, IncidentPhase::Dropped];
        self.incidents.iter().filter(|one| !aside.contains(&phase_of(one))).collect()
    }

    /// The newest remediation.
    #[must_use]
    pub fn remediation(&self) -> Option<&Remediation> {
        self.remediations.last()
    }

    /// Where the newest remediation stands.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        self.remediation()?.status.as_ref()?.phase
    }

    /// The journal of the newest remediation.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        self.remediation().and_then(|one| one.status.as_ref()).map_or(&[], |status| status.journal.entries())
    }

    /// What that journal says happened.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.entries().iter().map(|entry| &entry.event)
    }
}

/// Where an incident stands.
#[must_use]
pub fn phase_of(incident: &Incident) -> IncidentPhase {
    incident.status.as_ref().map_or(IncidentPhase::Open, |status| status.phase)
}

impl Stage {
    /// Everything at this moment. An Amend that ended by itself (its API server was away for too long) is started again, as the
    /// kubelet would; one that the story killed stays down.
    ///
    /// # Errors
    /// When the API server or the forge does not answer.
    pub async fn seen(&self) -> anyhow::Result<Seen> {
        self.world.amend().restart_if_ended()?;
        let all = ListParams::default();
        let mut incidents = Api::<Incident>::namespaced(self.client.clone(), &self.namespace).list(&all).await?.items;
        let mut remediations =
            Api::<Remediation>::namespaced(self.client.clone(), &self.namespace).list(&all).await?.items;
        let mut pull_requests = self.repo().pull_requests().await?;
        incidents.sort_by_key(|one| (one.metadata.creation_timestamp.as_ref().map(|time| time.0), one.name_any()));
        remediations.sort_by_key(|one| (one.metadata.creation_timestamp.as_ref().map(|time| time.0), one.name_any()));
        pull_requests.sort_by_key(|one| one.number);
        Ok(Seen { incidents, remediations, pull_requests })
    }

    /// Waits until `find` finds something in what is seen.
    ///
    /// # Errors
    /// When `limit` passes: with everything that is seen then and the end of Amend's log. An error of `find` ends the
    /// waiting at once: it cannot come any more.
    pub async fn until_seen<T>(
        &self,
        what: &str,
        limit: Duration,
        find: impl Fn(&Seen) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let waited = until(what, limit, || async {
            match find(&self.seen().await?) {
                Ok(found) => Ok::<_, anyhow::Error>(found.map(Ok)),
                Err(never) => Ok(Some(Err(never))),
            }
        });
        let error = match waited.await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(never)) => never,
            Err(error) => error,
        };
        let seen = match self.seen().await {
            Ok(seen) => format!("{seen}{}", self.captured(&seen).await.join("\n")),
            Err(error) => format!("{error:#}"),
        };
        let log = self.world.amend().program().log_end();
        Err(error.context(format!("{}: waiting for {what}\n{seen}\namend's log ends with:\n{log}", self.namespace)))
    }

    /// Waits until there is an incident that stands for itself.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn incident(&self, limit: Duration) -> anyhow::Result<Incident> {
        let first = |seen: &Seen| Ok(seen.standing().first().map(|one| (*one).clone()));
        self.until_seen("an incident", limit, first).await
    }

    /// Waits until the oldest standing incident is in this phase.
    ///
    /// # Errors
    /// When it is not in time, or ended otherwise.
    pub async fn incident_reaches(&self, wanted: IncidentPhase, limit: Duration) -> anyhow::Result<Incident> {
        self.until_seen(&format!("the incident to be {wanted:?}"), limit, |seen| {
            let Some(incident) = seen.standing().first().copied().cloned() else { return Ok(None) };
            match phase_of(&incident) {
                phase if phase == wanted => Ok(Some(incident)),
                phase if phase.is_end() => bail!("the incident ended {phase:?}"),
                _ => Ok(None),
            }
        })
        .await
    }

    /// Waits until the newest remediation is in this phase, or has been in it where the phase is no ending.
    ///
    /// # Errors
    /// When it is not in time, or ended otherwise.
    pub async fn remediation_reaches(&self, wanted: Phase, limit: Duration) -> anyhow::Result<Remediation> {
        self.until_seen(&format!("the remediation to be {wanted:?}"), limit, |seen| {
            let (Some(remediation), Some(phase)) = (seen.remediation(), seen.phase()) else { return Ok(None) };
            let ended = phase.ending().is_some();
            match phase == wanted {
                // The journal of an ending is sealed with it.
                true if !ended || sealed(remediation) => Ok(Some(remediation.clone())),
                true => Ok(None),
                false if ended => bail!("the remediation ended {phase:?}, not {wanted:?}"),
                false => Ok(None),
            }
        })
        .await
    }

    /// Waits until a pull request of Amend is open and no draft. Drafts say why in their body, which is then told.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn ready_pull_request(&self, limit: Duration) -> anyhow::Result<PullRequest> {
        let pull = self
            .until_seen("a pull request that is no draft", limit, |seen| {
                Ok(seen.pull_requests.iter().find(|pull| pull.state == "open" && !pull.draft).cloned())
            })
            .await?;
        self.keep_cases().await?;
        Ok(pull)
    }

    /// Checks the whole record of the installation offline: every signature and the chain.
    ///
    /// # Errors
    /// When it does not verify: names the first bad entry.
    pub async fn record_verifies(&self) -> anyhow::Result<Summary> {
        let export = records::export(&self.client, RELEASE_NAMESPACE).await.map_err(anyhow::Error::msg)?;
        verify(&export.lines, &TrustRoot { key: export.key, seen: Vec::new() }).context("the record does not verify")
    }
}

/// Whether every journal entry has its signed leaf.
fn sealed(remediation: &Remediation) -> bool {
    remediation.status.as_ref().is_some_and(|status| status.record.len() >= status.journal.len())
}

impl fmt::Display for Seen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for incident in &self.incidents {
            let status = incident.status.clone().unwrap_or_default();
            let count = status.signal_count;
            writeln!(out, "incident {} {:?}, {count} signals: {}", incident.name_any(), status.phase, status.because)?;
            for signal in status.signals.iter().take(SIGNALS_SHOWN) {
                let ended = signal.ended_at.map_or("fires".to_owned(), |at| format!("ended {at}"));
                writeln!(out, "  signal {} on {} x{}, {ended}", signal.name, signal.entity, signal.count)?;
            }
            if let Some(diagnosis) = &status.diagnosis {
                for cause in &diagnosis.causes {
                    writeln!(
                        out,
                        "  cause {:.2} {} on {}: {}",
                        cause.confidence, cause.kind, cause.entity, cause.sentence
                    )?;
                }
                if let Some(why) = &diagnosis.abstained {
                    writeln!(out, "  abstained: {why}")?;
                }
                for asked in diagnosis.asked.iter().filter(|asked| asked.unknown.is_some()) {
                    writeln!(out, "  unknown {}: {}", asked.id, asked.unknown.clone().unwrap_or_default())?;
                }
            }
            for policy in &status.policies {
                writeln!(out, "  policy {} matched={}: {}", policy.policy, policy.matched, policy.because)?;
            }
        }
        for remediation in &self.remediations {
            let status = remediation.status.clone().unwrap_or_default();
            writeln!(out, "remediation {} {:?}: {}", remediation.name_any(), status.phase, status.because)?;
            for verdict in &status.verdicts {
                let (gate, question) = (verdict.gate.name(), &verdict.question);
                writeln!(out, "  gate {gate}/{question} {:?}: {}", verdict.outcome, verdict.sentence)?;
            }
            for entry in status.journal.entries() {
                writeln!(out, "  {} {}: {}", entry.at, entry.event, entry.because)?;
            }
        }
        for pull in &self.pull_requests {
            let (number, state, draft, merged) = (pull.number, &pull.state, pull.draft, pull.merged);
            writeln!(out, "pull request {number} {state} draft={draft} merged={merged}: {}", pull.title)?;
        }
        Ok(())
    }
}

//! `Remediation`: gathers a moment, lets the execution room decide, keeps journal and record, performs deeds.

use std::sync::Arc;

use amend_crds::condition::{self, Claim};
use amend_crds::remediation::PullRequestRef;
use amend_crds::{Incident, Remediation};
use amend_diagnosis::evidence::Answer;
use amend_execution::decide::{Decision as Decided, decide};
use amend_execution::effect::Effect;
use amend_execution::journal::{Ending, Event, Journal};
use amend_execution::phase::{Phase, standing};
use amend_execution::snapshot::PullRequestState;
use amend_policies::verdict::Outcome;
use jiff::SignedDuration;
use kube::ResourceExt;
use kube::api::Api;

use crate::census::Counted;
use crate::controllers::remediationpolicy::PolicyControl;
use crate::effects::{EffectError, remedy};
use crate::metrics::Verdict as GateVerdict;
use crate::reconcile::{Control, Decision, GatherError, LOOK, named};
use crate::shell::Shell;
use crate::traces;
use crate::watch::{self, Watched};

/// See the module.
#[derive(Debug)]
pub struct RemediationControl;

/// One moment of a remediation, or nothing when it has ended and owes nothing.
#[derive(Debug)]
pub struct Moment {
    object: Remediation,
    watched: Option<Watched>,
}

impl Control for RemediationControl {
    type Kind = Remediation;
    type Snapshot = Moment;
    type Effect = Effect;
    const NAME: &'static str = "remediation";

    fn span(object: &Remediation) -> tracing::Span {
        let plan = &object.spec.plan;
        let incident = format!("{}/{}", plan.incident.namespace, plan.incident.name);
        tracing::info_span!(LOOK, remediation = named(object), incident, entity = %plan.target.entity)
    }

    async fn gather(shell: &Arc<Shell>, object: Remediation) -> Result<Moment, GatherError> {
        let journal = object.status.as_ref().map(|status| status.journal.clone()).unwrap_or_default();
        if is_done(shell, &object, &journal).await {
            return Ok(Moment { object, watched: None });
        }
        let namespace = object.namespace().unwrap_or_default();
        let incidents: Api<Incident> = Api::namespaced(shell.clients.reader(), &namespace);
        let incident = incidents.get_opt(&object.spec.incident).await.map_err(|error| {
            GatherError::unreadable(format!("incident {namespace}/{}", object.spec.incident), error)
        })?;
        let incident = incident.filter(|incident| object.answers(incident));
        let watched = watch::gather(shell, &object, incident.as_ref(), &journal).await;
        Ok(Moment { object, watched: Some(watched) })
    }

    fn decide(moment: &Moment) -> Decision<Remediation, Effect> {
        let Some(watched) = &moment.watched else { return Decision::rest(None) };
        match decide(&watched.snapshot) {
            Ok(decided) => carried_out(moment, watched, decided),
            Err(error) => {
                let message = crate::errors::chain(&error);
                let write = with_trouble(&moment.object, watched, &message);
                let page = Effect::Page {
                    key: format!("{}/undecidable", moment.object.name_any()),
                    text: message,
                    to: Vec::new(),
                };
                let effects = if write.is_some() { vec![page] } else { Vec::new() };
                Decision { write, effects, wake: Some(SignedDuration::from_mins(5)) }
            }
        }
    }

    fn counted(object: &Remediation) -> Option<Counted> {
        Some(Counted::Remediation(object.status.as_ref().and_then(|status| status.phase).unwrap_or(Phase::Planned)))
    }

    /// People merge, close, approve or mend what blocks it; rollout and verification go by the clock.
    fn waits(object: &Remediation) -> bool {
        let phase = object.status.as_ref().and_then(|status| status.phase);
        matches!(phase, Some(Phase::Proposed | Phase::AwaitingApproval | Phase::Blocked))
    }

    async fn perform(
        shell: &Arc<Shell>,
        object: &Remediation,
        moment: &Moment,
        effect: Effect,
    ) -> Result<(), EffectError> {
        let Some(watched) = &moment.watched else { return Ok(()) };
        let last = matches!(effect, Effect::EmitEvent { .. });
        if let Effect::EmitEvent { reason, text, .. } = &effect {
            tracing::info!(phase = reason, because = text, "the remediation has a new phase");
        }
        remedy::perform(shell, object, &watched.work, effect).await?;
        if last {
            count_verdicts(shell, object);
            if object.status.as_ref().and_then(|status| status.phase).is_some_and(|phase| phase.ending().is_some()) {
                traces::tell(object);
            }
            // A new phase is news for the incident, and the policy counts it.
            let policy = &object.spec.plan.policy;
            shell.nudges.nudge("incident", &object.namespace().unwrap_or_default(), &object.spec.incident);
            shell.nudges.nudge(PolicyControl::NAME, &policy.namespace, &policy.name);
        }
        Ok(())
    }
}

/// Counts the verdicts at which it went on, or was held up: at other times gates are only looked at again.
fn count_verdicts(shell: &Shell, object: &Remediation) {
    let Some(status) = &object.status else { return };
    if !matches!(status.phase, Some(Phase::Blocked | Phase::AwaitingApproval | Phase::Proposing)) {
        return;
    }
    for verdict in &status.verdicts {
        let outcome = match verdict.outcome {
            Outcome::Pass => "pass",
            Outcome::Fail => "fail",
            Outcome::Unknown => "unknown",
        };
        shell.metrics.gate_verdicts.get_or_create(&GateVerdict { gate: verdict.gate.name(), verdict: outcome }).inc();
    }
}

/// Whether nothing can follow any more: a final ending with its record.
async fn is_done(shell: &Shell, object: &Remediation, journal: &Journal) -> bool {
    let Ok(standing) = standing(journal) else { return false };
    let over = match standing.phase.ending() {
        Some(Ending::Succeeded | Ending::Rejected | Ending::Withdrawn | Ending::RolledBack) => true,
        Some(Ending::Unverified | Ending::Held | Ending::Stuck) | None => false,
    };
    let durable = shell.recorder.durable(&object.status.clone().unwrap_or_default()).await;
    over && usize::try_from(durable).is_ok_and(|durable| durable == journal.len())
}

fn carried_out(moment: &Moment, watched: &Watched, decided: Decided) -> Decision<Remediation, Effect> {
    let mut changed = moment.object.clone();
    let mut status = changed.status.take().unwrap_or_default();
    let before = status.clone();
    if status.journal.extend(&decided.append).is_err() {
        // `decide` appended to the same journal, so this cannot happen; nothing is done when it does.
        return Decision::rest(Some(SignedDuration::from_mins(1)));
    }
    status.phase = Some(decided.status.phase);
    status.because = decided.because.clone();
    // A gate asks whether a change may be made. Once it is made, the answers that let it through are what people look up.
    if !status.journal.entries().iter().any(|entry| matches!(entry.event, Event::Merged { .. })) {
        status.verdicts.clone_from(&watched.snapshot.verdicts);
    }
    seen_at_the_forge(&mut status, watched);
    status.observed_generation = changed.metadata.generation;
    status.conditions =
        condition::settled(&before.conditions, &claims(&decided), changed.metadata.generation, watched.snapshot.now);
    let differs = status != before;
    changed.status = Some(status);
    Decision { write: differs.then_some(changed), effects: decided.effects, wake: decided.wake }
}

fn seen_at_the_forge(status: &mut amend_crds::RemediationStatus, watched: &Watched) {
    let Answer::Known(forge) = &watched.snapshot.forge else { return };
    let shown = |seen: &amend_execution::snapshot::PullRequestSeen| PullRequestRef {
        number: seen.number,
        url: seen.url.clone(),
        state: match seen.state {
            PullRequestState::Open => "open",
            PullRequestState::Merged { .. } => "merged",
            PullRequestState::Closed { .. } => "closed",
        }
        .to_owned(),
        head: seen.head.clone(),
        draft: seen.draft,
    };
    if let Some(seen) = &forge.pull_request {
        status.pull_request = Some(shown(seen));
    }
    if let Some(seen) = &forge.revert {
        status.revert_pull_request = Some(shown(seen));
    }
}

/// Conditions by research/ecosystem.md C1: running is not ready, an ending that needs people is stalled.
fn claims(decided: &Decided) -> Vec<Claim> {
    let phase = decided.status.phase;
    let reason = format!("{phase:?}");
    let because = decided.because.clone();
    match phase.ending() {
        Some(Ending::Succeeded | Ending::Rejected | Ending::Withdrawn) => {
            vec![Claim::new(condition::READY, Some(true), reason, because)]
        }
        Some(Ending::RolledBack | Ending::Unverified | Ending::Held | Ending::Stuck) => vec![
            Claim::new(condition::READY, Some(false), reason.clone(), because.clone()),
            Claim::new(condition::STALLED, Some(true), reason, because),
        ],
        None if phase == Phase::Blocked => vec![
            Claim::new(condition::READY, Some(false), reason.clone(), because.clone()),
            Claim::new(condition::STALLED, Some(true), reason, because),
        ],
        None => vec![
            Claim::new(condition::READY, Some(false), reason.clone(), because.clone()),
            Claim::new(condition::RECONCILING, Some(true), reason, because),
        ],
    }
}

fn with_trouble(object: &Remediation, watched: &Watched, message: &str) -> Option<Remediation> {
    let mut changed = object.clone();
    let mut status = changed.status.take().unwrap_or_default();
    if status.because == message {
        return None;
    }
    message.clone_into(&mut status.because);
    let claims = [
        Claim::new(condition::READY, Some(false), "Undecidable", message),
        Claim::new(condition::STALLED, Some(true), "Undecidable", message),
    ];
    status.conditions =
        condition::settled(&status.conditions, &claims, changed.metadata.generation, watched.snapshot.now);
    changed.status = Some(status);
    Some(changed)
}

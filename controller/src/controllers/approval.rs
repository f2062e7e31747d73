//! `Approval`: taken in, or why it counts for nothing. What follows from it is decided where its remediation is.

use std::sync::Arc;

use amend_crds::approval::ApprovalDecision;
use amend_crds::condition::{self, Claim};
use amend_crds::{Approval, Remediation};
use amend_execution::journal::Event;
use amend_execution::phase::Phase;
use amend_policies::policy::quoted;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::Api;

use crate::effects::EffectError;
use crate::reconcile::{Control, Decision, GatherError};
use crate::shell::Shell;

/// How often an approval looks for its remediation while that is not there.
const LOOK_EVERY: SignedDuration = SignedDuration::from_mins(1);

/// See the module.
#[derive(Debug)]
pub struct ApprovalControl;

/// An approval and the remediation that it names.
#[derive(Debug)]
pub struct Heard {
    object: Approval,
    remediation: Option<Remediation>,
    now: Timestamp,
}

impl Control for ApprovalControl {
    type Kind = Approval;
    type Snapshot = Heard;
    type Effect = std::convert::Infallible;
    const NAME: &'static str = "approval";

    async fn gather(shell: &Arc<Shell>, object: Approval) -> Result<Heard, GatherError> {
        let namespace = object.namespace().unwrap_or_default();
        let api: Api<Remediation> = Api::namespaced(shell.clients.reader(), &namespace);
        let remediation = api.get_opt(&object.spec.remediation).await.map_err(|error| {
            GatherError::unreadable(format!("remediation {namespace}/{}", object.spec.remediation), error)
        })?;
        if remediation.is_some() {
            // A decision is acted upon at once, not at the remediation's next look.
            shell.nudges.nudge("remediation", &namespace, &object.spec.remediation);
        }
        Ok(Heard { object, remediation, now: shell.time.now() })
    }

    fn decide(heard: &Heard) -> Decision<Approval, Self::Effect> {
        let mut changed = heard.object.clone();
        let mut status = changed.status.take().unwrap_or_default();
        let before = status.clone();
        // What was decided before the end stays decided; the end itself does not make it late.
        if condition::is_true(&before.conditions, condition::ACCEPTED) {
            return Decision::rest(None);
        }
        let claims = match judged(&heard.object, heard.remediation.as_ref()) {
            Ok(sentence) => vec![
                Claim::new(condition::ACCEPTED, Some(true), "Accepted", sentence.clone()),
                Claim::new(condition::READY, Some(true), "Accepted", sentence),
            ],
            Err((reason, sentence)) => vec![
                Claim::new(condition::ACCEPTED, Some(false), reason, sentence.clone()),
                Claim::new(condition::READY, Some(false), reason, sentence.clone()),
                Claim::new(condition::STALLED, Some(true), reason, sentence),
            ],
        };
        status.observed_generation = changed.metadata.generation;
        status.conditions = condition::settled(&before.conditions, &claims, changed.metadata.generation, heard.now);
        let differs = status != before;
        changed.status = Some(status);
        Decision { write: differs.then_some(changed), effects: Vec::new(), wake: Some(LOOK_EVERY) }
    }

    async fn perform(_: &Arc<Shell>, _: &Approval, _: &Heard, effect: Self::Effect) -> Result<(), EffectError> {
        match effect {}
    }
}

/// What the approval means, or the reason and the sentence why it means nothing.
fn judged(approval: &Approval, remediation: Option<&Remediation>) -> Result<String, (&'static str, String)> {
    let spec = &approval.spec;
    let namespace = approval.namespace().unwrap_or_default();
    let Some(remediation) = remediation else {
        let sentence = format!(
            "there is no Remediation {} in namespace {namespace}: take its name from `kubectl get remediations -n {namespace}` and make a new Approval",
            quoted(&spec.remediation)
        );
        return Err(("NoRemediation", sentence));
    };
    let name = remediation.name_any();
    if spec.decision != ApprovalDecision::Stop && spec.plan_digest != remediation.spec.plan_digest {
        let sentence = format!(
            "planDigest {} is not the plan of Remediation {name}: read that plan, then make a new Approval with planDigest {}",
            quoted(&spec.plan_digest),
            remediation.spec.plan_digest
        );
        return Err(("OtherPlan", sentence));
    }
    let phase = remediation.status.as_ref().and_then(|status| status.phase);
    if let Some(ended) = phase.filter(|phase| phase.ending().is_some() && !heeded(remediation, &approval.name_any())) {
        return Err(("TooLate", format!("Remediation {name} has already ended: {}", word(ended))));
    }
    let what = match spec.decision {
        ApprovalDecision::Approve => "the yes",
        ApprovalDecision::Refuse => "the no",
        ApprovalDecision::Stop => "the stop",
    };
    Ok(format!("{what} is taken in for Remediation {name}"))
}

/// Whether the remediation's journal says that this very approval was acted upon.
fn heeded(remediation: &Remediation, name: &str) -> bool {
    let entries = remediation.status.iter().flat_map(|status| status.journal.entries());
    entries.into_iter().any(|entry| match &entry.event {
        Event::ApprovalGiven { approval } | Event::ApprovalRefused { approval } | Event::Stopped { approval } => {
            approval.as_str() == name
        }
        _ => false,
    })
}

fn word(phase: Phase) -> String {
    format!("{phase:?}")
}

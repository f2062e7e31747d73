//! Which policy answers an incident, the plan that follows from it, and why there is none.

use std::collections::BTreeSet;
use std::sync::Arc;

use amend_crds::incident::PolicyMatch;
use amend_crds::{Incident, Remediation, RemediationSpec};
use amend_diagnosis::diagnosis::Diagnosis;
use amend_diagnosis::evidence::Answer;
use amend_execution::journal::{Event, UndoCause};
use amend_execution::phase::Phase;
use amend_policies::plan::Plan;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::Value;

use super::{Moment, afresh};
use crate::effects::EffectError;
use crate::facts;
use crate::planner;
use crate::reconcile::GatherError;
use crate::shell::Shell;
use crate::watch::configured;

/// How long nothing is planned after a plan that the forge would not take: long enough not to fill the cluster with plans that
/// all end the same, short enough for who has mended what was wrong.
const AFTER_A_REFUSAL: SignedDuration = SignedDuration::from_hours(1);

/// How long a proposal that people rejected or that did harm is not made again.
const MUTED_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

pub async fn remediations(shell: &Shell, namespace: &str) -> Result<Vec<Remediation>, GatherError> {
    let api: Api<Remediation> = Api::namespaced(shell.clients.reader(), namespace);
    let list = api.list(&ListParams::default()).await;
    list.map(|list| list.items).map_err(|error| GatherError::unreadable(format!("remediations of {namespace}"), error))
}

/// Matches policies and makes the plan, as long as nothing is under way.
pub async fn answer(
    shell: &Arc<Shell>,
    moment: &mut Moment,
    diagnosis: &Diagnosis,
    live: &Answer<Option<Value>>,
    own: &[&Remediation],
    all: &[Remediation],
) {
    if let Some(why) = own.iter().find_map(|one| refused_just_now(one, moment.now)) {
        moment.no_plan = Some(why);
        return;
    }
    let under_way = moment.remediation.is_some_and(|phase| phase.ending().is_none());
    if under_way || own.iter().any(|one| keeps_quiet(one)) {
        return;
    }
    let Some(cause) = diagnosis.actionable() else {
        moment.no_plan = Some(left_open(diagnosis));
        return;
    };
    let ended = afresh::Ended::of(moment);
    if let Some(why) = afresh::why_not_yet(&ended, &moment.cause) {
        moment.no_plan = Some(why);
        return;
    }
    let namespace = moment.object.namespace().unwrap_or_default();
    let known = match planner::policies(shell, &namespace).await {
        Ok(known) => known,
        Err(error) => {
            moment.no_plan =
                Some(format!("cannot read the policies of this namespace: {}", crate::errors::chain(&error)));
            return;
        }
    };
    let matched = planner::matched(&known, cause, live);
    moment.policies = matched
        .iter()
        .map(|one| PolicyMatch { policy: one.policy.name.clone(), matched: one.matches, because: one.sentence.clone() })
        .collect();
    if matched.is_empty() {
        moment.no_plan =
            Some(format!("no RemediationPolicy exists in namespace {namespace}: nobody may answer {}", cause.kind));
    } else if matched.iter().all(|one| !one.matches) {
        moment.no_plan = Some(format!("no policy answers {}: see status.policies for each reason", cause.kind));
    }
    let live = match live {
        Answer::Known(Some(live)) => live,
        Answer::Known(None) => {
            moment.no_plan = Some(format!("{} does not exist any more", cause.entity));
            return;
        }
        Answer::Unknown { why } => {
            moment.no_plan = Some(format!("cannot read {}: {why}", cause.entity));
            return;
        }
    };
    for answering in matched.iter().filter(|one| one.matches) {
        let Some(policy) = known.iter().find(|one| one.reference == answering.policy) else { continue };
        let tried = own.iter().filter(|one| one.spec.plan.policy.uid == policy.reference.uid).count();
        let revision = u32::try_from(tried).unwrap_or(u32::MAX).saturating_add(1);
        match planner::plan(shell, &moment.object, cause, policy, live, revision).await {
            Ok(plan) => match why_not_again(shell, &plan, &ended, live, all).await {
                None => {
                    moment.plan = Some(Box::new(plan));
                    moment.no_plan = None;
                    return;
                }
                Some(why) => moment.no_plan = Some(why),
            },
            Err(why) => moment.no_plan = Some(format!("policy {} has no plan: {why}", policy.reference.name)),
        }
    }
}

/// Why the newest look names no cause that may be acted on: evidence changes, and an earlier look may have named one.
fn left_open(diagnosis: &Diagnosis) -> String {
    match &diagnosis.abstained {
        Some(why) => format!("nothing is planned, since the newest look leaves the cause open: {why}"),
        None => "nothing is planned, since the newest look found no cause".to_owned(),
    }
}

/// Why a plan that was made is not carried out: people said no to it, it is under way already, or Git is ahead of the cluster.
async fn why_not_again(
    shell: &Shell,
    plan: &Plan,
    ended: &afresh::Ended,
    live: &Value,
    all: &[Remediation],
) -> Option<String> {
    if let Some(why) = muted(plan, all, ended.now).or_else(|| afresh::under_way_elsewhere(plan, all)) {
        return Some(why);
    }
    afresh::not_applied(ended, plan, live, &configured::read(shell, plan).await)
}

/// An ending after which this incident is in people's hands.
fn keeps_quiet(remediation: &Remediation) -> bool {
    match remediation.status.as_ref().and_then(|status| status.phase) {
        Some(Phase::RolledBack) => was_merged(remediation),
        Some(Phase::Succeeded | Phase::Rejected | Phase::Unverified | Phase::Held | Phase::Stuck) => true,
        Some(
            Phase::Withdrawn
            | Phase::Planned
            | Phase::Gating
            | Phase::Blocked
            | Phase::AwaitingApproval
            | Phase::Proposing
            | Phase::Proposed
            | Phase::Merged
            | Phase::Applying
            | Phase::Verifying
            | Phase::Undoing,
        )
        | None => false,
    }
}

/// Whether the change ever acted: what was never merged did no harm.
fn was_merged(remediation: &Remediation) -> bool {
    let entries = remediation.status.as_ref().map(|status| status.journal.entries()).unwrap_or_default();
    entries.iter().any(|entry| matches!(entry.event, Event::Merged { .. }))
}

/// Why nothing is planned for a while: the forge refused the last plan for good, before anything was merged.
fn refused_just_now(remediation: &Remediation, now: Timestamp) -> Option<String> {
    let entries = remediation.status.as_ref()?.journal.entries();
    let refused =
        entries.iter().find(|entry| matches!(&entry.event, Event::UndoBegan { cause: UndoCause::StepFailed, .. }))?;
    let until = refused.at.saturating_add(AFTER_A_REFUSAL).unwrap_or(Timestamp::MAX);
    let waits = until > now && !was_merged(remediation);
    waits.then(|| {
        let why = refused.because.as_str();
        format!("{} could not be proposed ({why}); planned again at {until:.0}", remediation.name_any())
    })
}

/// Why the same proposal is not made again: people said no, or it did harm.
fn muted(plan: &Plan, all: &[Remediation], now: Timestamp) -> Option<String> {
    let fingerprint = plan.fingerprint();
    let no = all.iter().find(|one| {
        let ended = one.status.as_ref().and_then(|status| status.phase);
        let recent =
            one.metadata.creation_timestamp.as_ref().is_some_and(|time| now.duration_since(time.0) < MUTED_FOR);
        recent
            && one.spec.plan.fingerprint() == fingerprint
            && (ended == Some(Phase::Rejected) || ended == Some(Phase::RolledBack) && was_merged(one))
    })?;
    let ended = no.status.as_ref().and_then(|status| status.phase).map_or("", Phase::word);
    Some(format!("the same proposal ended {ended} as {} and is muted for 7 days", no.name_any()))
}

/// Makes the Remediation. Its name is the action key of the plan, so that doing this twice makes one.
pub async fn start(shell: &Arc<Shell>, object: &Incident, plan: Plan) -> Result<(), EffectError> {
    let step = plan.steps.first().map_or("", |step| step.name.as_str());
    let key = plan.action_key(&shell.install, step).to_string();
    let spec = RemediationSpec { incident: object.name_any(), plan_digest: plan.digest().to_string(), plan };
    let mut remediation = Remediation::new(&format!("rem-{}", &key[..key.len().min(16)]), spec);
    remediation.metadata.namespace = object.namespace();
    remediation.metadata.owner_references = None;
    match shell.effects.create_remediation(&remediation).await {
        Ok(_) => {
            tracing::info!(incident = facts::shown(object), remediation = remediation.name_any(), "remediation started")
        }
        Err(EffectError::Exists { .. }) => {}
        Err(error) => return Err(error),
    }
    shell.nudges.nudge("remediation", &remediation.namespace().unwrap_or_default(), &remediation.name_any());
    Ok(())
}

/// Policies that answer an incident now and did not before, or the other way round.
pub fn policies_with_news(before: &[PolicyMatch], now: &[PolicyMatch]) -> Vec<String> {
    let answering = |list: &[PolicyMatch]| -> BTreeSet<String> {
        list.iter().filter(|one| one.matched).map(|one| one.policy.clone()).collect()
    };
    answering(before).symmetric_difference(&answering(now)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_hears_of_an_incident_when_it_begins_or_ceases_to_answer_it() {
        let one = |policy: &str, matched: bool| PolicyMatch { policy: policy.into(), matched, because: String::new() };
        let before = [one("raise", true), one("revert", false), one("old", true)];
        let now = [one("raise", true), one("revert", true), one("other", false)];
        assert_eq!(policies_with_news(&before, &now), ["old", "revert"]);
        assert!(policies_with_news(&now, &now).is_empty(), "a look that changes nothing wakes nobody");
    }
}

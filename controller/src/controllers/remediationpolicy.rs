//! `RemediationPolicy`: accepted or refused with sentences, and what became of what it started.

use std::sync::Arc;

use amend_crds::condition::{self, Claim};
use amend_crds::{Incident, Remediation, RemediationPolicy};
use amend_execution::journal::UndoCause;
use amend_execution::phase::{Phase, standing};
use amend_policies::lint::Finding;
use amend_policies::policy::{Autonomy, cleaned};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};

use crate::effects::EffectError;
use crate::reconcile::{Control, Decision, GatherError};
use crate::shell::Shell;
use crate::written::PATH_MAX;

/// Counts follow other objects: incidents and remediations nudge this controller when one changes, and this heals a lost nudge.
const COUNT_EVERY: SignedDuration = SignedDuration::from_mins(1);

/// See the module.
#[derive(Debug)]
pub struct PolicyControl;

/// A policy, what is wrong with it, and what it started.
#[derive(Debug)]
pub struct Judged {
    object: RemediationPolicy,
    accepted: bool,
    findings: Vec<Finding>,
    observes: bool,
    matched: u32,
    /// Of its remediations, those aside that were withdrawn because a person made the very change.
    phases: Vec<Phase>,
    cured_by_people: u32,
    now: Timestamp,
}

impl Control for PolicyControl {
    type Kind = RemediationPolicy;
    type Snapshot = Judged;
    type Effect = std::convert::Infallible;
    const NAME: &'static str = "remediationpolicy";

    async fn gather(shell: &Arc<Shell>, object: RemediationPolicy) -> Result<Judged, GatherError> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let resource = ApiResource::erase::<RemediationPolicy>(&());
        let raw: Api<DynamicObject> = Api::namespaced_with(shell.clients.reader(), &namespace, &resource);
        let raw = raw
            .get(&name)
            .await
            .map_err(|error| GatherError::unreadable(format!("policy {namespace}/{name}"), error))?;
        let (compiled, findings) = amend_policies::lint::read(&raw.data["spec"]);
        let observes = compiled.as_ref().is_some_and(|policy| policy.autonomy == Autonomy::Observe);
        let unreadable = |what: &str| {
            let what = format!("{what} of {namespace}");
            move |error: kube::Error| GatherError::unreadable(what, error)
        };
        let incidents: Api<Incident> = Api::namespaced(shell.clients.reader(), &namespace);
        let incidents = incidents.list(&ListParams::default()).await.map_err(unreadable("incidents"))?;
        let matches = |incident: &&Incident| {
            incident
                .status
                .as_ref()
                .is_some_and(|status| status.policies.iter().any(|one| one.matched && one.policy == name))
        };
        let remediations: Api<Remediation> = Api::namespaced(shell.clients.reader(), &namespace);
        let remediations = remediations.list(&ListParams::default()).await.map_err(unreadable("remediations"))?;
        let uid = object.uid().unwrap_or_default();
        let own = remediations.items.iter().filter(|remediation| remediation.spec.plan.policy.uid == uid);
        let (cured, others): (Vec<_>, Vec<_>) = own.filter_map(|one| one.status.as_ref()).partition(|status| {
            status.phase == Some(Phase::Withdrawn)
                && standing(&status.journal)
                    .is_ok_and(|standing| standing.undo.is_some_and(|(cause, _)| cause == UndoCause::CuredByPeople))
        });
        Ok(Judged {
            object,
            accepted: compiled.is_some(),
            findings,
            observes,
            matched: u32::try_from(incidents.items.iter().filter(matches).count()).unwrap_or(u32::MAX),
            phases: others.into_iter().filter_map(|status| status.phase).collect(),
            cured_by_people: u32::try_from(cured.len()).unwrap_or(u32::MAX),
            now: shell.time.now(),
        })
    }

    fn decide(judged: &Judged) -> Decision<RemediationPolicy, Self::Effect> {
        let mut changed = judged.object.clone();
        let mut status = changed.status.take().unwrap_or_default();
        let before = status.clone();
        let count = |wanted: &dyn Fn(&Phase) -> bool| {
            u32::try_from(judged.phases.iter().filter(|phase| wanted(phase)).count()).unwrap_or(u32::MAX)
        };
        status.matched = judged.matched;
        status.succeeded = count(&|phase| *phase == Phase::Succeeded);
        status.not_succeeded = count(&|phase| phase.ending().is_some() && *phase != Phase::Succeeded);
        status.cured_by_people = judged.cured_by_people;
        let begun = u32::try_from(judged.phases.len()).unwrap_or(u32::MAX).saturating_add(judged.cured_by_people);
        (status.proposed, status.would_have) = if judged.observes { (0, begun) } else { (begun, 0) };
        let ended = status.succeeded + status.not_succeeded;
        status.trust = if ended == 0 || judged.observes {
            String::new()
        } else {
            format!("right {} of {ended} here", status.succeeded)
        };
        status.observed_generation = changed.metadata.generation;
        status.conditions =
            condition::settled(&before.conditions, &claims(judged), changed.metadata.generation, judged.now);
        let differs = status != before;
        changed.status = Some(status);
        Decision { write: differs.then_some(changed), effects: Vec::new(), wake: Some(COUNT_EVERY) }
    }

    async fn perform(
        _: &Arc<Shell>,
        _: &RemediationPolicy,
        _: &Judged,
        effect: Self::Effect,
    ) -> Result<(), EffectError> {
        match effect {}
    }
}

fn claims(judged: &Judged) -> Vec<Claim> {
    let said = |finding: &Finding| match finding.path.as_str() {
        "" => finding.sentence.clone(),
        path => format!("{}: {}", cleaned(path, PATH_MAX), finding.sentence),
    };
    let said = judged.findings.iter().map(said).collect::<Vec<_>>().join("; ");
    if !judged.accepted {
        return vec![
            Claim::new(condition::ACCEPTED, Some(false), "Refused", said.clone()),
            Claim::new(condition::READY, Some(false), "Refused", said.clone()),
            Claim::new(condition::STALLED, Some(true), "Refused", said),
        ];
    }
    let accepted = match judged.findings.is_empty() {
        true => "the policy is understood and in use".to_owned(),
        false => format!("in use; consider: {said}"),
    };
    vec![
        Claim::new(condition::ACCEPTED, Some(true), "Accepted", accepted),
        Claim::new(condition::READY, Some(true), "Accepted", "the policy is in use"),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn counted(observes: bool, phases: Vec<Phase>, cured_by_people: u32) -> amend_crds::RemediationPolicyStatus {
        let object = json!({
            "apiVersion": "amend.dev/v1alpha1", "kind": "RemediationPolicy", "metadata": {"name": "raise", "namespace": "shop"},
            "spec": {
                "match": {"causes": ["container.oom-killed"], "targets": [{"kind": "Deployment", "selector": {"matchLabels": {"tier": "backend"}}}]},
                "serviceAccountName": "amend-remediator",
                "steps": [{"name": "raise", "git": {"setResources": {"memory": {"factor": 1.5, "max": "2Gi"}}}}],
            },
        });
        let object = serde_json::from_value(object).unwrap();
        let judged = Judged {
            object,
            accepted: true,
            findings: Vec::new(),
            observes,
            matched: 2,
            phases,
            cured_by_people,
            now: Timestamp::UNIX_EPOCH,
        };
        PolicyControl::decide(&judged).write.and_then(|changed| changed.status).unwrap()
    }

    #[test]
    fn what_is_still_open_counts_as_matched_and_proposed() {
        let status = counted(false, vec![Phase::Proposed, Phase::Succeeded, Phase::Rejected], 0);
        assert_eq!((status.matched, status.proposed, status.succeeded, status.not_succeeded), (2, 3, 1, 1));
        assert_eq!(status.trust, "right 1 of 2 here");
    }

    #[test]
    fn a_change_that_a_person_made_first_is_no_failure_of_the_policy() {
        let status = counted(false, vec![Phase::Succeeded], 1);
        assert_eq!((status.proposed, status.succeeded, status.not_succeeded, status.cured_by_people), (2, 1, 0, 1));
        assert_eq!(status.trust, "right 1 of 1 here");
    }

    #[test]
    fn a_policy_that_observes_has_proposed_nothing() {
        let status = counted(true, vec![Phase::AwaitingApproval], 0);
        assert_eq!((status.proposed, status.would_have, status.trust.as_str()), (0, 1, ""));
    }
}

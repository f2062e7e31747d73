//! `Incident`: diagnoses, matches policies, makes the plan that becomes a Remediation, and knows when it is over.

mod afresh;
mod cause;
mod joining;
mod phrase;

use std::collections::BTreeSet;
use std::sync::Arc;

use amend_crds::condition::{self, Claim};
use amend_crds::incident::{IncidentPhase, PolicyMatch};
use amend_crds::reference::NamespacedName;
use amend_crds::{Incident, IncidentStatus, Remediation, RemediationSpec};
use amend_diagnosis::diagnosis::Diagnosis;
use amend_diagnosis::entity::EntityKind;
use amend_diagnosis::evidence::Answer;
use amend_diagnosis::incident::cleared;
use amend_diagnosis::signal::{Signal, SignalSource};
use amend_execution::phase::Phase;
use amend_execution::phase::incident::{CauseState, Found, IncidentFacts, incident_phase};
use amend_policies::plan::Plan;
use amend_policies::policy::Sla;
use amend_telemetry::alert::{AlertState, firing};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::Value;

use crate::census::Counted;
use crate::cluster::{self, Read};
use crate::controllers::remediationpolicy::PolicyControl;
use crate::effects::{EffectError, Notice, reference};
use crate::evidence;
use crate::facts;
use crate::intake::events::of_deployment;
use crate::planner;
use crate::reconcile::{Control, Decision, GatherError};
use crate::shell::Shell;
use crate::unknown_lines::{self, Heard};

/// How often an open incident is looked at.
const LOOK_EVERY: SignedDuration = SignedDuration::from_secs(15);

/// A diagnosis that no policy answers is made again after this, since evidence arrives late.
const DIAGNOSE_AGAIN: SignedDuration = SignedDuration::from_secs(30);

/// The same when a signal was heard since that it did not know: a kill that comes after the alert is the nearer cause.
const DIAGNOSE_NEWS: SignedDuration = SignedDuration::from_secs(2);

/// Deadline for asking rules whether one alert fires.
const ASKED_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// How long a proposal that people rejected or that did harm is not made again.
const MUTED_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// See the module.
#[derive(Debug)]
pub struct IncidentControl;

/// One moment of an incident.
#[derive(Debug)]
pub struct Moment {
    object: Incident,
    now: Timestamp,
    clear_for: SignedDuration,
    absent_for: SignedDuration,
    /// Signals with the ends that their sources report.
    signals: Vec<Signal>,
    joined_to: Option<NamespacedName>,
    /// Whether a model may be asked to phrase a summary.
    may_phrase: bool,
    /// Whether the incident that it joins has all its signals: until then it has not joined, since what has ended is not
    /// looked at again and its signals would be lost.
    handed_over: bool,
    /// A diagnosis made just now.
    diagnosis: Option<Diagnosis>,
    /// How many signals it knows: others may have arrived since.
    signals_seen: u32,
    /// Log lines that nobody can class, heard with it.
    unknown: Heard,
    /// Others are looked at again just now: this one waits for its usual turn.
    crowded: bool,
    diagnose_within: SignedDuration,
    cause: Answer<CauseState>,
    remediation: Option<Phase>,
    remediation_name: Option<String>,
    policies: Vec<PolicyMatch>,
    /// The plan that answers it, when one does and nothing is under way.
    plan: Option<Box<Plan>>,
    /// Why there is none although a policy matches.
    no_plan: Option<String>,
}

/// What the controller does besides its status.
#[derive(Debug)]
pub enum IncidentEffect {
    Start(Box<Plan>),
    /// Hands the signals to the incident that it joins.
    HandOver(NamespacedName),
    /// Policies that answer it since now, or no longer: they count that.
    Counted(Vec<String>),
    Tell(Notice),
    /// Asks the optional model about a menu of causes that it was not asked about before.
    Phrase(Box<Diagnosis>),
}

impl Control for IncidentControl {
    type Kind = Incident;
    type Snapshot = Moment;
    type Effect = IncidentEffect;
    const NAME: &'static str = "incident";

    async fn gather(shell: &Arc<Shell>, object: Incident) -> Result<Moment, GatherError> {
        let now = shell.time.now();
        let status = object.status.clone().unwrap_or_default();
        let over = status.phase.is_end();
        let namespace = object.namespace().unwrap_or_default();
        let mut moment = Moment {
            now,
            clear_for: shell.settings.clear_for,
            absent_for: shell.settings.absent_for,
            signals: if status.signals.is_empty() { object.spec.signals.clone() } else { status.signals.clone() },
            joined_to: None,
            may_phrase: shell.model.is_some(),
            handed_over: false,
            diagnosis: None,
            signals_seen: 0,
            unknown: Heard::default(),
            crowded: false,
            diagnose_within: Sla::default().diagnose,
            cause: Answer::unknown("nothing is diagnosed yet"),
            remediation: None,
            remediation_name: status.remediation.clone(),
            policies: status.policies.clone(),
            plan: None,
            no_plan: None,
            object,
        };
        if over {
            return Ok(moment);
        }
        moment.signals = with_ends(shell, &namespace, moment.signals, now).await;
        let remediations = remediations(shell, &namespace).await?;
        let own: Vec<&Remediation> = remediations.iter().filter(|one| one.answers(&moment.object)).collect();
        let latest = own.iter().max_by_key(|one| one.spec.plan.revision).copied();
        moment.remediation = latest.and_then(|one| one.status.as_ref()?.phase).or(latest.map(|_| Phase::Planned));
        moment.remediation_name = latest.map(ResourceExt::name_any);
        if latest.is_none()
            && let Some(older) = joining::older(shell, &moment.object, &moment.signals, now).await?
        {
            moment.handed_over = joining::has_all_of(&older, &moment.object.name_any(), &moment.signals);
            moment.joined_to = Some(NamespacedName { namespace: namespace.clone(), name: older.name_any() });
        }
        let under_way = moment.remediation.is_some_and(|phase| phase.ending().is_none());
        let due = due_in(&moment.object, moment.remediation, now) == Some(SignedDuration::ZERO)
            || afresh::diagnosis_is_due(&afresh::Ended::of(&moment), status.cause_absent_since);
        if moment.joined_to.is_none() && !under_way && due {
            // The first look waits for its turn. A further one is for quiet times: in a storm it would take the first one's.
            let again = status.diagnosed_at.is_some().then(|| shell.second_looks.try_acquire());
            match again {
                Some(Err(_)) => moment.crowded = true,
                Some(Ok(_)) | None => {
                    moment.signals_seen = u32::try_from(moment.signals.len()).unwrap_or(u32::MAX);
                    let (observations, found) = evidence::deep::look(shell, &namespace, &moment.signals, now).await;
                    moment.diagnosis = found;
                    let incident = format!("{namespace}/{}", moment.object.name_any());
                    moment.unknown = unknown_lines::hear(shell, observations, incident, now).await;
                }
            }
        }
        let diagnosis = moment.diagnosis.as_ref().or(status.diagnosis.as_ref()).cloned();
        let live = match diagnosis.as_ref().and_then(Diagnosis::actionable) {
            Some(cause) => planner::workload(shell, cause).await,
            None => Answer::unknown("no cause may be acted on"),
        };
        let known = cause::Known { diagnosis: diagnosis.as_ref(), latest, live: &live, signals: &moment.signals };
        moment.cause = cause::state(&known, status.cause_absent_since, now);
        if let Some(diagnosis) = diagnosis.as_ref().filter(|_| moment.joined_to.is_none()) {
            answer(shell, &mut moment, diagnosis, &live, &own, &remediations).await;
        }
        newest(shell, &mut moment).await?;
        Ok(moment)
    }

    fn decide(moment: &Moment) -> Decision<Incident, IncidentEffect> {
        let before = moment.object.status.clone().unwrap_or_default();
        if before.phase.is_end() {
            return Decision::rest(None);
        }
        let mut status = before.clone();
        status.signals.clone_from(&moment.signals);
        if let Some(diagnosis) = &moment.diagnosis {
            status.diagnosis = Some(diagnosis.clone());
            status.diagnosed_at = Some(moment.now);
            status.diagnosed_signals = moment.signals_seen;
            status.unknown_lines.clone_from(&moment.unknown.lines);
            status.unknown_lines_not_kept = moment.unknown.not_kept;
        }
        status.policies.clone_from(&moment.policies);
        status.remediation.clone_from(&moment.remediation_name);
        status.joined_to.clone_from(&moment.joined_to);
        let clearing = cleared(&moment.signals, moment.clear_for, moment.now);
        status.quiet_since = match clearing {
            amend_diagnosis::incident::Clearing::Firing => None,
            amend_diagnosis::incident::Clearing::Quiet { .. } => status.quiet_since.or(Some(moment.now)),
            amend_diagnosis::incident::Clearing::Cleared { since } => Some(since),
        };
        status.cause_absent_since = match &moment.cause {
            Answer::Known(CauseState::AbsentSince { since }) => Some(*since),
            Answer::Known(CauseState::Present {}) => None,
            // What cannot be told now does not restart the clock, nor does it stop it.
            Answer::Unknown { .. } => status.cause_absent_since,
        };
        let facts = IncidentFacts {
            now: moment.now,
            symptoms: clearing,
            joined_to: moment.joined_to.as_ref().filter(|_| moment.handed_over).map(ToString::to_string),
            found: found(&status),
            diagnose_within: moment.diagnose_within,
            cause: moment.cause.clone(),
            absent_for: moment.absent_for,
            remediation: moment.remediation,
        };
        let mut effects = Vec::new();
        let mut wake = LOOK_EVERY;
        for _ in 0..8 {
            let next = incident_phase(status.phase, &facts);
            let moved = next.phase != status.phase;
            status.because = next.because;
            wake = next.wake.unwrap_or(LOOK_EVERY).min(LOOK_EVERY);
            status.phase = next.phase;
            if !moved || next.phase == IncidentPhase::Diagnosing {
                break;
            }
        }
        if status.phase == IncidentPhase::Diagnosing {
            wake = SignedDuration::from_secs(1);
        }
        if let (IncidentPhase::Diagnosed, Some(why)) = (status.phase, &moment.no_plan) {
            status.because.clone_from(why);
        }
        if status.phase != before.phase {
            let warning = matches!(status.phase, IncidentPhase::Abstained);
            let notice = Notice { warning, reason: format!("{:?}", status.phase), note: status.because.clone() };
            effects.push(IncidentEffect::Tell(notice));
        }
        if let Some(older) = moment.joined_to.as_ref().filter(|_| !moment.handed_over) {
            status.because = format!("part of {older}, which takes its signals over");
            effects.push(IncidentEffect::HandOver(older.clone()));
            wake = SignedDuration::from_secs(1);
        }
        if let (IncidentPhase::Diagnosed, Some(plan)) = (status.phase, &moment.plan) {
            effects.push(IncidentEffect::Start(plan.clone()));
            wake = SignedDuration::from_secs(1);
        }
        effects.extend(phrase::due(&status, moment.may_phrase).map(IncidentEffect::Phrase));
        status.observed_generation = moment.object.metadata.generation;
        status.conditions =
            condition::settled(&before.conditions, &claims(&status), status.observed_generation, moment.now);
        let mut changed = moment.object.clone();
        let counted = policies_with_news(&before.policies, &status.policies);
        if !counted.is_empty() {
            effects.push(IncidentEffect::Counted(counted));
        }
        let differs = status != before;
        changed.status = Some(status);
        if let Some(due) = due_in(&changed, moment.remediation, moment.now).filter(|_| !moment.crowded) {
            wake = wake.min(due.max(SignedDuration::from_secs(1)));
        }
        Decision { write: differs.then_some(changed), effects, wake: Some(wake) }
    }

    fn counted(object: &Incident) -> Option<Counted> {
        Some(Counted::Incident(object.status.as_ref().map(|status| status.phase).unwrap_or_default()))
    }

    /// The intake writes signals all the time while an incident is looked at; the ends that were asked for hold for signals
    /// that were not heard again.
    fn rebased(mut moment: Moment, newer: Incident) -> Option<Moment> {
        if newer.metadata.uid != moment.object.metadata.uid {
            return None;
        }
        if let Some(status) = newer.status.as_ref().filter(|status| !status.signals.is_empty()) {
            let asked = std::mem::take(&mut moment.signals);
            moment.signals = status.signals.iter().cloned().map(|heard| with_end(heard, &asked)).collect();
            let is_known = |signal: &Signal| asked.iter().any(|one| one.key == signal.key);
            moment.handed_over &= moment.signals.iter().all(is_known);
        }
        moment.object = newer;
        Some(moment)
    }

    async fn perform(
        shell: &Arc<Shell>,
        object: &Incident,
        _: &Moment,
        effect: IncidentEffect,
    ) -> Result<(), EffectError> {
        match effect {
            IncidentEffect::Tell(notice) => {
                shell.effects.notice(&reference(object), notice).await;
                Ok(())
            }
            IncidentEffect::Start(plan) => start(shell, object, *plan).await,
            IncidentEffect::HandOver(older) => joining::hand_over(shell, object, &older).await,
            IncidentEffect::Phrase(diagnosis) => {
                phrase::ask(shell, object, *diagnosis);
                Ok(())
            }
            IncidentEffect::Counted(policies) => {
                for policy in policies {
                    shell.nudges.nudge(PolicyControl::NAME, &object.namespace().unwrap_or_default(), &policy);
                }
                Ok(())
            }
        }
    }
}

/// Takes over what was written to the object meanwhile: gathering takes seconds, and in a storm signals arrive every second.
async fn newest(shell: &Shell, moment: &mut Moment) -> Result<(), GatherError> {
    let (namespace, name) = (moment.object.namespace().unwrap_or_default(), moment.object.name_any());
    let api: Api<Incident> = Api::namespaced(shell.clients.reader(), &namespace);
    let fresh =
        api.get(&name).await.map_err(|error| GatherError::unreadable(format!("incident {namespace}/{name}"), error))?;
    let ends: Vec<(String, Option<Timestamp>)> =
        moment.signals.iter().map(|signal| (signal.key.clone(), signal.ended_at)).collect();
    let known = fresh.status.as_ref().map(|status| status.signals.clone()).unwrap_or_default();
    let looked_at = moment.object.status.as_ref().map(|status| status.signals.clone()).unwrap_or_default();
    moment.signals = if known.is_empty() { fresh.spec.signals.clone() } else { known };
    for signal in &mut moment.signals {
        let before = looked_at.iter().find(|one| one.key == signal.key);
        // A signal that arrived again since we asked has news of its own.
        let unchanged = before.is_some_and(|before| before.count == signal.count && before.ended_at == signal.ended_at);
        if let Some((_, ended)) = ends.iter().find(|(key, _)| *key == signal.key).filter(|_| unchanged) {
            signal.ended_at = *ended;
        }
    }
    moment.object = fresh;
    Ok(())
}

/// Policies that answer an incident now and did not before, or the other way round.
fn policies_with_news(before: &[PolicyMatch], now: &[PolicyMatch]) -> Vec<String> {
    let answering = |list: &[PolicyMatch]| -> BTreeSet<String> {
        list.iter().filter(|one| one.matched).map(|one| one.policy.clone()).collect()
    };
    answering(before).symmetric_difference(&answering(now)).cloned().collect()
}

/// How long until evidence should be gathered: zero for now, none when nothing but a change asks for it.
fn due_in(object: &Incident, remediation: Option<Phase>, now: Timestamp) -> Option<SignedDuration> {
    let status = object.status.as_ref()?;
    match status.phase {
        IncidentPhase::Diagnosing => Some(SignedDuration::ZERO),
        IncidentPhase::Abstained | IncidentPhase::Diagnosed => {
            let has_news = status.signals.len() > status.diagnosed_signals as usize;
            let wait = if has_news { DIAGNOSE_NEWS } else { DIAGNOSE_AGAIN };
            let since = status.diagnosed_at.map_or(wait, |at| now.duration_since(at));
            remediation.is_none().then(|| (wait - since).max(SignedDuration::ZERO))
        }
        // The first look only says that work has begun, so that people see it at once.
        IncidentPhase::Open
        | IncidentPhase::Remediating
        | IncidentPhase::Mitigated
        | IncidentPhase::Resolved
        | IncidentPhase::Dropped
        | IncidentPhase::Joined => None,
    }
}

fn found(status: &IncidentStatus) -> Found {
    match (&status.diagnosis, status.diagnosed_at) {
        (Some(Diagnosis { abstained: Some(why), .. }), Some(at)) => Found::Abstained { why: why.clone(), at },
        (Some(diagnosis), _) => match diagnosis.causes.first() {
            Some(cause) => Found::Cause { sentence: cause.sentence.clone() },
            None => Found::NothingYet { since: None },
        },
        (None, _) => Found::NothingYet { since: None },
    }
}

/// Signals with the ends that their rules report: a lost "resolved" must not keep an incident open for ever.
async fn with_ends(shell: &Shell, namespace: &str, mut signals: Vec<Signal>, now: Timestamp) -> Vec<Signal> {
    let sources = shell.sources.serving(namespace).await;
    let open = signals.iter_mut().filter(|signal| signal.source == SignalSource::Alert && signal.ended_at.is_none());
    let asked = open.take(12).map(|signal| async {
        if let (Answer::Known(AlertState::Inactive), _) = firing(&sources, signal, now, ASKED_WITHIN).await {
            signal.ended_at = Some(now);
        }
    });
    futures::future::join_all(asked).await;
    let conditions =
        signals.iter_mut().filter(|signal| signal.source == SignalSource::Condition && signal.ended_at.is_none());
    for signal in conditions {
        if condition_is_over(shell, signal).await {
            signal.ended_at = Some(now);
        }
    }
    signals
}

/// Whether the object does not say any more what the signal says. Conditions have no "resolved" of their own.
async fn condition_is_over(shell: &Shell, signal: &Signal) -> bool {
    let entity = &signal.entity;
    let Some(read) = Read::of_kind("Deployment").filter(|_| entity.kind == EntityKind::Deployment) else {
        return false;
    };
    match cluster::get(&shell.clients.reader(), read, &entity.namespace, &entity.name).await {
        Answer::Known(Some(object)) => match serde_json::from_value::<Deployment>(object) {
            Ok(deployment) => !of_deployment(&deployment).iter().any(|sign| sign.signal.key == signal.key),
            Err(_) => false,
        },
        Answer::Known(None) => true,
        Answer::Unknown { .. } => false,
    }
}

/// A signal with the end that was found for it, unless it was heard again since.
fn with_end(mut heard: Signal, asked: &[Signal]) -> Signal {
    let same = |signal: &&Signal| {
        signal.key == heard.key && signal.count == heard.count && signal.started_at == heard.started_at
    };
    let ended = asked.iter().find(same).and_then(|signal| signal.ended_at);
    heard.ended_at = heard.ended_at.or(ended);
    heard
}

async fn remediations(shell: &Shell, namespace: &str) -> Result<Vec<Remediation>, GatherError> {
    let api: Api<Remediation> = Api::namespaced(shell.clients.reader(), namespace);
    let list = api.list(&ListParams::default()).await;
    list.map(|list| list.items).map_err(|error| GatherError::unreadable(format!("remediations of {namespace}"), error))
}

/// Matches policies and makes the plan, as long as nothing is under way.
async fn answer(
    shell: &Arc<Shell>,
    moment: &mut Moment,
    diagnosis: &Diagnosis,
    live: &Answer<Option<Value>>,
    own: &[&Remediation],
    all: &[Remediation],
) {
    let Some(cause) = diagnosis.actionable() else { return };
    let under_way = moment.remediation.is_some_and(|phase| phase.ending().is_none());
    if under_way || own.iter().any(|one| keeps_quiet(one)) {
        return;
    }
    let ended = afresh::Ended::of(moment);
    if let Some(why) = afresh::why_not_yet(&ended, &moment.cause) {
        moment.no_plan = Some(why);
        return;
    }
    let namespace = moment.object.namespace().unwrap_or_default();
    let known = match planner::policies(shell, &namespace).await {
        Ok(known) => known,
        Err(error) => {
            moment.no_plan = Some(format!("cannot read the policies of this namespace: {error}"));
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
    let Answer::Known(Some(live)) = live else { return };
    for answering in matched.iter().filter(|one| one.matches) {
        let Some(policy) = known.iter().find(|one| one.reference == answering.policy) else { continue };
        if let Some(compiled) = &policy.compiled {
            moment.diagnose_within = moment.diagnose_within.min(compiled.sla.diagnose);
        }
        let tried = own.iter().filter(|one| one.spec.plan.policy.uid == policy.reference.uid).count();
        let revision = u32::try_from(tried).unwrap_or(u32::MAX).saturating_add(1);
        match planner::plan(shell, &moment.object, cause, policy, live, revision).await {
            Ok(plan) => match why_not_again(&plan, &ended, live, all) {
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

/// Why a plan that was made is not carried out: people said no to it, it is under way already, or Git is ahead of the cluster.
fn why_not_again(plan: &Plan, ended: &afresh::Ended, live: &Value, all: &[Remediation]) -> Option<String> {
    muted(plan, all, ended.now)
        .or_else(|| afresh::under_way_elsewhere(plan, all))
        .or_else(|| afresh::not_applied(ended, plan, live))
}

/// An ending after which this incident is in people's hands.
fn keeps_quiet(remediation: &Remediation) -> bool {
    match remediation.status.as_ref().and_then(|status| status.phase) {
        Some(
            Phase::Succeeded | Phase::Rejected | Phase::RolledBack | Phase::Unverified | Phase::Held | Phase::Stuck,
        ) => true,
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

/// Why the same proposal is not made again: people said no, or it did harm.
fn muted(plan: &Plan, all: &[Remediation], now: Timestamp) -> Option<String> {
    let fingerprint = plan.fingerprint();
    let no = all.iter().find(|one| {
        let ended = one.status.as_ref().and_then(|status| status.phase);
        let recent =
            one.metadata.creation_timestamp.as_ref().is_some_and(|time| now.duration_since(time.0) < MUTED_FOR);
        recent
            && one.spec.plan.fingerprint() == fingerprint
            && matches!(ended, Some(Phase::Rejected | Phase::RolledBack))
    })?;
    let phase = no.status.as_ref().and_then(|status| status.phase);
    Some(
        format!("the same proposal ended {phase:?} as {} and is muted for 7 days", no.name_any())
            .replace("Some(", "")
            .replace(')', ""),
    )
}

fn claims(status: &IncidentStatus) -> Vec<Claim> {
    let reason = format!("{:?}", status.phase);
    let because = status.because.clone();
    match status.phase {
        IncidentPhase::Resolved | IncidentPhase::Dropped | IncidentPhase::Joined => {
            vec![Claim::new(condition::READY, Some(true), reason, because)]
        }
        IncidentPhase::Abstained => vec![
            Claim::new(condition::READY, Some(false), reason.clone(), because.clone()),
            Claim::new(condition::STALLED, Some(true), reason, because),
        ],
        IncidentPhase::Open
        | IncidentPhase::Diagnosing
        | IncidentPhase::Diagnosed
        | IncidentPhase::Remediating
        | IncidentPhase::Mitigated => vec![
            Claim::new(condition::READY, Some(false), reason.clone(), because.clone()),
            Claim::new(condition::RECONCILING, Some(true), reason, because),
        ],
    }
}

/// Makes the Remediation. Its name is the action key of the plan, so that doing this twice makes one.
async fn start(shell: &Arc<Shell>, object: &Incident, plan: Plan) -> Result<(), EffectError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incident_without_an_answer_is_diagnosed_again_and_one_in_work_is_not() {
        let opened = Timestamp::from_second(1_700_000_000).expect("a time");
        let at = |seconds: i64| opened + SignedDuration::from_secs(seconds);
        let incident = |phase: IncidentPhase, diagnosed: i64| {
            let spec = amend_crds::IncidentSpec {
                entity: amend_diagnosis::entity::Entity::new(EntityKind::Deployment, "shop", "checkout"),
                severity: amend_diagnosis::signal::Severity::Warning,
                signals: Vec::new(),
            };
            let mut object = Incident::new("inc", spec);
            object.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(opened));
            object.status =
                Some(IncidentStatus { phase, diagnosed_at: Some(at(diagnosed)), ..IncidentStatus::default() });
            object
        };
        let wait = |object: &Incident, now: i64| due_in(object, None, at(now)).map(|wait| wait.as_secs());
        assert_eq!(wait(&incident(IncidentPhase::Diagnosed, 0), 1), Some(29));
        assert_eq!(wait(&incident(IncidentPhase::Abstained, 30), 40), Some(20));
        assert_eq!(wait(&incident(IncidentPhase::Abstained, 3_600), 3_610), Some(20));
        assert_eq!(wait(&incident(IncidentPhase::Diagnosed, 3_600), 3_700), Some(0));
        assert_eq!(due_in(&incident(IncidentPhase::Diagnosed, 0), Some(Phase::Proposed), at(900)), None);
    }

    #[test]
    fn a_signal_that_a_diagnosis_did_not_know_is_a_reason_to_look_again_soon() {
        let opened = Timestamp::from_second(1_700_000_000).expect("a time");
        let heard = Signal {
            key: "killed".into(),
            source: SignalSource::Event,
            name: "OOMKilled".into(),
            entity: amend_diagnosis::entity::Entity::new(EntityKind::Deployment, "shop", "checkout"),
            severity: amend_diagnosis::signal::Severity::Warning,
            started_at: opened,
            ended_at: None,
            summary: String::new(),
            labels: std::collections::BTreeMap::new(),
            count: 1,
        };
        let spec = amend_crds::IncidentSpec {
            entity: heard.entity.clone(),
            severity: heard.severity,
            signals: vec![heard.clone()],
        };
        let mut object = Incident::new("inc", spec);
        let of_known = |known: u32| IncidentStatus {
            phase: IncidentPhase::Diagnosed,
            diagnosed_at: Some(opened),
            diagnosed_signals: known,
            signals: vec![heard.clone(), heard.clone()],
            ..IncidentStatus::default()
        };
        let mut wait = |known: u32, now: i64| {
            object.status = Some(of_known(known));
            due_in(&object, None, opened + SignedDuration::from_secs(now)).map(|wait| wait.as_secs())
        };
        assert_eq!(wait(1, 0), Some(2));
        assert_eq!(wait(1, 5), Some(0));
        assert_eq!(wait(2, 5), Some(25), "what it knew is no news");
    }

    #[test]
    fn a_policy_hears_of_an_incident_when_it_begins_or_ceases_to_answer_it() {
        let one = |policy: &str, matched: bool| PolicyMatch { policy: policy.into(), matched, because: String::new() };
        let before = [one("raise", true), one("revert", false), one("old", true)];
        let now = [one("raise", true), one("revert", true), one("other", false)];
        assert_eq!(policies_with_news(&before, &now), ["old", "revert"]);
        assert!(policies_with_news(&now, &now).is_empty(), "a look that changes nothing wakes nobody");
    }
}

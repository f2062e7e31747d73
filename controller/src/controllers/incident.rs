//! `Incident`: diagnoses, matches policies, makes the plan that becomes a Remediation, and knows when it is over.

mod afresh;
mod answer;
mod cause;
mod due;
mod joining;
mod phrase;
mod signals;

use std::sync::Arc;

use amend_crds::condition::{self, Claim};
use amend_crds::incident::{IncidentPhase, PolicyMatch};
use amend_crds::reference::NamespacedName;
use amend_crds::{Incident, IncidentStatus, Remediation};
use amend_diagnosis::diagnosis::Diagnosis;
use amend_diagnosis::evidence::Answer;
use amend_diagnosis::incident::cleared;
use amend_diagnosis::signal::Signal;
use amend_execution::phase::Phase;
use amend_execution::phase::incident::{CauseState, Found, IncidentFacts, heard, incident_phase};
use amend_policies::plan::Plan;
use amend_policies::policy::Sla;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use tracing::Instrument;

use crate::census::Counted;
use crate::controllers::remediationpolicy::PolicyControl;
use crate::effects::{EffectError, Notice, reference};
use crate::evidence;
use crate::planner;
use crate::reconcile::{Control, Decision, GatherError, LOOK, named};
use crate::shell::Shell;
use crate::unknown_lines::{self, Heard};
use crate::watch::configured;

/// How often an open incident is looked at.
const LOOK_EVERY: SignedDuration = SignedDuration::from_secs(15);

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

    fn span(object: &Incident) -> tracing::Span {
        let entity = &object.spec.entity;
        tracing::info_span!(LOOK, incident = named(object), %entity)
    }

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
        moment.signals = signals::with_ends(shell, &namespace, moment.signals, now).await;
        let remediations = answer::remediations(shell, &namespace).await?;
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
        let due = due::due_in(&moment.object, moment.remediation, now) == Some(SignedDuration::ZERO)
            || afresh::diagnosis_is_due(&afresh::Ended::of(&moment), status.cause_absent_since);
        if moment.joined_to.is_none() && !under_way && due {
            // The first look waits for its turn. A further one is for quiet times: in a storm it would take the first one's.
            let again = status.diagnosed_at.is_some().then(|| shell.second_looks.try_acquire());
            match again {
                Some(Err(_)) => moment.crowded = true,
                Some(Ok(_)) | None => {
                    moment.signals_seen = u32::try_from(moment.signals.len()).unwrap_or(u32::MAX);
                    moment.diagnose_within = evidence::wanted_within(shell, &namespace).await;
                    let within = moment.diagnose_within;
                    let (observations, found) = evidence::deep::look(shell, &namespace, &moment.signals, within, now)
                        .instrument(tracing::info_span!("diagnosis", incident = named(&moment.object)))
                        .await;
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
        let configured = match latest {
            Some(one) => {
                let plan = &one.spec.plan;
                let configured = configured::read(shell, plan).await;
                configured.map(|configured| configured.iter().all(|one| one.is_as_before(plan)))
            }
            None => Answer::Known(true),
        };
        let known = cause::Known {
            diagnosis: diagnosis.as_ref(),
            latest,
            live: &live,
            configured_as_before: &configured,
            signals: &moment.signals,
        };
        moment.cause = cause::state(&known, status.cause_absent_since, now);
        if let Some(diagnosis) = diagnosis.as_ref().filter(|_| moment.joined_to.is_none()) {
            answer::answer(shell, &mut moment, diagnosis, &live, &own, &remediations).await;
        }
        signals::newest(shell, &mut moment).await?;
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
            heard: heard(&moment.signals),
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
        if status.phase == IncidentPhase::Diagnosing && before.phase != IncidentPhase::Diagnosing {
            status.diagnosing_since = Some(moment.now);
        }
        if status.phase == IncidentPhase::Diagnosing {
            wake = SignedDuration::from_secs(1);
        }
        match (status.phase, &moment.plan, &moment.no_plan) {
            (IncidentPhase::Diagnosed, Some(plan), _) => {
                status.because = format!("policy {} answers it: {}", plan.policy.name, plan.summary);
            }
            (IncidentPhase::Diagnosed, None, Some(why)) => status.because.clone_from(why),
            _ => {}
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
        let counted = answer::policies_with_news(&before.policies, &status.policies);
        if !counted.is_empty() {
            effects.push(IncidentEffect::Counted(counted));
        }
        changed.status = Some(status);
        changed = changed.graded();
        let differs = changed.status.as_ref() != Some(&before);
        if let Some(due) = due::due_in(&changed, moment.remediation, moment.now).filter(|_| !moment.crowded) {
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
            moment.signals = status.signals.iter().cloned().map(|heard| signals::with_end(heard, &asked)).collect();
            let is_known = |signal: &Signal| asked.iter().any(|one| one.key == signal.key);
            moment.handed_over &= moment.signals.iter().all(is_known);
        }
        moment.object = newer;
        Some(moment)
    }

    fn waits(object: &Incident) -> bool {
        due::only_waits(object.status.as_ref().map(|status| status.phase).unwrap_or_default())
    }

    async fn perform(
        shell: &Arc<Shell>,
        object: &Incident,
        _: &Moment,
        effect: IncidentEffect,
    ) -> Result<(), EffectError> {
        match effect {
            IncidentEffect::Tell(notice) => {
                tracing::info!(phase = notice.reason, because = notice.note, "the incident has a new phase");
                shell.effects.notice(&reference(object), notice).await;
                Ok(())
            }
            IncidentEffect::Start(plan) => answer::start(shell, object, *plan).await,
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

fn found(status: &IncidentStatus) -> Found {
    match (&status.diagnosis, status.diagnosed_at) {
        (Some(Diagnosis { abstained: Some(why), .. }), Some(at)) => Found::Abstained { why: why.clone(), at },
        (Some(diagnosis), _) => match diagnosis.causes.first() {
            Some(cause) => Found::Cause { sentence: cause.sentence.clone() },
            None => Found::NothingYet { since: status.diagnosing_since },
        },
        (None, _) => Found::NothingYet { since: status.diagnosing_since },
    }
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

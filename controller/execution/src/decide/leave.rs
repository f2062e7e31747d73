//! Whether we have leave to act: what people and the platform say, and whether the change is still wanted.

use amend_diagnosis::evidence::Answer;
use amend_policies::verdict::Readiness;
use jiff::{SignedDuration, Timestamp};

use super::{Next, Round, Run};
use crate::journal::{Actor, EffectKind, Ending, Event, UndoCause};
use crate::phase::Phase;
use crate::snapshot::{PolicyState, Said, SaidWord, TargetState};

/// How far the outside copy of the records may lag before new effects stop (design.md, section 8).
const COPY_MAY_LAG: SignedDuration = SignedDuration::from_mins(10);

/// What the gates of now allow.
pub(super) enum Permit {
    /// Everything passed.
    Full,
    /// Only as a draft that names the gaps.
    Draft { gaps: Vec<String> },
}

impl Permit {
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full => true,
            Self::Draft { .. } => false,
        }
    }

    pub fn gaps(self) -> Vec<String> {
        match self {
            Self::Full => Vec::new(),
            Self::Draft { gaps } => gaps,
        }
    }
}

impl Run<'_> {
    /// What the gates of now allow, or the reasons why nothing.
    pub(super) fn permit(&self) -> Result<Permit, String> {
        match &self.snapshot.readiness {
            Readiness::Ready if self.snapshot.verdicts.is_empty() => Err("no gate was asked".to_owned()),
            Readiness::Ready => Ok(Permit::Full),
            Readiness::Draft { gaps } => Ok(Permit::Draft { gaps: gaps.clone() }),
            Readiness::Blocked { reasons } => Err(reasons.join("; ")),
        }
    }

    /// Whether this deed may be done now; the error is the reason why not, for people.
    ///
    /// Deeds that take back need only the red button to be off and the account to be allowed: never cooldown, headroom, budget,
    /// freeze, silence or the copy of the records. To merge a revert without people also needs what any merge needs: the right
    /// to merge, and nobody who holds the target. Where that is missing the revert is open and people are paged.
    pub(super) fn leave_for(&self, effect: EffectKind) -> Result<(), String> {
        let orders = &self.snapshot.orders;
        match &orders.kill_switch {
            Answer::Known(false) => {}
            Answer::Known(true) => return Err("the kill switch is on".to_owned()),
            Answer::Unknown { why } => return Err(format!("cannot read the kill switch: {why}")),
        }
        match effect {
            EffectKind::PushBranch | EffectKind::OpenPullRequest | EffectKind::MarkReady => self.leave_to_do(),
            EffectKind::MergePullRequest => self.leave_to_do().and_then(|()| self.leave_to_merge()),
            EffectKind::ClosePullRequest | EffectKind::DeleteBranch | EffectKind::OpenRevert => self.leave_to_undo(),
            EffectKind::MergeRevert => self.leave_to_undo().and_then(|()| self.leave_to_merge()),
        }
    }

    fn leave_to_do(&self) -> Result<(), String> {
        let orders = &self.snapshot.orders;
        if self.standing.stopped || self.standing.refused {
            return Err("a person said no".to_owned());
        }
        if let Answer::Unknown { why } = &self.snapshot.approvals {
            return Err(format!("cannot tell whether a person said no: {why}"));
        }
        match &orders.policy {
            Answer::Known(PolicyState::Current) => {}
            Answer::Known(PolicyState::Suspended) => return Err("the policy is suspended".to_owned()),
            Answer::Known(PolicyState::Changed) => return Err("the policy has changed since the plan".to_owned()),
            Answer::Known(PolicyState::Deleted) => return Err("the policy is gone".to_owned()),
            Answer::Unknown { why } => return Err(format!("cannot read the policy: {why}")),
        }
        match &orders.target {
            Answer::Known(TargetState::Same) => {}
            Answer::Known(TargetState::Replaced) => return Err("the target was replaced since the plan".to_owned()),
            Answer::Known(TargetState::Gone) => return Err("the target is gone".to_owned()),
            Answer::Unknown { why } => return Err(format!("cannot read the target: {why}")),
        }
        match &orders.hold {
            Answer::Known(None) => {}
            Answer::Known(Some(why)) => return Err(format!("on hold: {why}")),
            Answer::Unknown { why } => return Err(format!("cannot tell whether the target is on hold: {why}")),
        }
        match &orders.silence {
            Answer::Known(None) => {}
            Answer::Known(Some(why)) => return Err(format!("on hold: {why}")),
            Answer::Unknown { why } => return Err(format!("cannot tell whether its alerts are silenced: {why}")),
        }
        match &orders.record_copy_lag {
            Answer::Known(lag) if *lag <= COPY_MAY_LAG => {}
            Answer::Known(lag) => return Err(format!("the copy of the records lags {} s behind", lag.as_secs())),
            Answer::Unknown { why } => return Err(format!("cannot tell how far the copy of the records lags: {why}")),
        }
        self.permit().map(|_| ())
    }

    fn leave_to_merge(&self) -> Result<(), String> {
        let orders = &self.snapshot.orders;
        if !self.acts() {
            return Err("people merge: the policy's autonomy is not Act".to_owned());
        }
        match &orders.may_merge {
            Answer::Known(true) => {}
            Answer::Known(false) => {
                return Err("people merge: the policy's account lacks the right to merge on the GitTarget".to_owned());
            }
            Answer::Unknown { why } => return Err(format!("cannot tell whether the account may merge: {why}")),
        }
        match (&orders.policy, &orders.hold) {
            (
                Answer::Known(PolicyState::Current | PolicyState::Changed | PolicyState::Deleted),
                Answer::Known(None),
            ) => Ok(()),
            (Answer::Known(PolicyState::Suspended), _) => Err("the policy is suspended, so people merge".to_owned()),
            (Answer::Unknown { why }, _) => Err(format!("cannot read the policy: {why}")),
            (_, Answer::Known(Some(why))) => Err(format!("on hold: {why}")),
            (_, Answer::Unknown { why }) => Err(format!("cannot tell whether the target is on hold: {why}")),
        }
    }

    fn leave_to_undo(&self) -> Result<(), String> {
        match &self.snapshot.orders.may_undo {
            Answer::Known(true) => Ok(()),
            Answer::Known(false) => Err("the policy's account may not take it back".to_owned()),
            Answer::Unknown { why } => Err(format!("cannot tell whether it may be taken back: {why}")),
        }
    }

    /// What people are known to have said.
    pub(super) fn said(&self) -> &[Said] {
        self.snapshot.approvals.known().map(Vec::as_slice).unwrap_or_default()
    }

    /// Takes in what people said since the last decision.
    pub(super) fn orders(&mut self) -> Result<Option<Next>, super::DecideError> {
        let said = |word: SaidWord| self.said().iter().find(|said| said.word == word).cloned();
        if let Some(stop) = said(SaidWord::Stop).filter(|_| !self.standing.stopped) {
            return self.stopped_by(&stop).map(Some);
        }
        if let Some(refusal) = said(SaidWord::Refuse).filter(|_| !self.standing.refused && !self.standing.stopped) {
            return self.refused_by(&refusal).map(Some);
        }
        let can_use = match self.standing.phase {
            Phase::Gating | Phase::Blocked | Phase::AwaitingApproval | Phase::Proposing | Phase::Proposed => true,
            Phase::Planned
            | Phase::Merged
            | Phase::Applying
            | Phase::Verifying
            | Phase::Undoing
            | Phase::Succeeded
            | Phase::Rejected
            | Phase::Withdrawn
            | Phase::RolledBack
            | Phase::Unverified
            | Phase::Held
            | Phase::Stuck => false,
        };
        if let Some(yes) = said(SaidWord::Approve).filter(|_| can_use && !self.standing.approved) {
            let event = Event::ApprovalGiven { approval: yes.approval.as_str().into() };
            return self.say_as(Actor::person(yes.by.as_str()), yes.reason, event).map(Some);
        }
        Ok(None)
    }

    fn stopped_by(&mut self, stop: &Said) -> Round {
        let event = Event::Stopped { approval: stop.approval.as_str().into() };
        self.say_as(Actor::person(stop.by.as_str()), stop.reason.as_str(), event)?;
        let why = format!("stopped by {}", stop.by);
        match self.standing.phase {
            _ if self.standing.is_merged() => self.end(Ending::Held, false, why),
            // Tidying up what was never merged is what a stop would do as well.
            Phase::Undoing => Ok(Next::Again),
            _ => self.withdraw(UndoCause::Stopped, why),
        }
    }

    fn refused_by(&mut self, refusal: &Said) -> Round {
        let event = Event::ApprovalRefused { approval: refusal.approval.as_str().into() };
        self.say_as(Actor::person(refusal.by.as_str()), refusal.reason.as_str(), event)?;
        let why = format!("refused by {}", refusal.by);
        match self.standing.phase {
            _ if self.standing.is_merged() => self.end(Ending::Held, false, format!("{why}, but it is merged already")),
            Phase::Undoing => Ok(Next::Again),
            _ => self.withdraw(UndoCause::Refused, why),
        }
    }

    /// Gives up something that is not merged: ends at once when nothing of it is in the world, else tidies up first.
    pub(super) fn withdraw(&mut self, cause: UndoCause, why: impl Into<String>) -> Round {
        if self.standing.is_live() {
            let step = self.standing.step_in_focus();
            self.say(why, Event::UndoBegan { step, cause })
        } else {
            self.end(cause.ending(self.standing.was_merged()), false, why)
        }
    }

    /// Why a change that is not merged yet is not wanted any more, if so.
    pub(super) fn not_wanted(&self) -> Option<(UndoCause, String)> {
        if self.standing.is_merged() {
            return None;
        }
        let orders = &self.snapshot.orders;
        let outdated = match (&orders.policy, &orders.target) {
            (Answer::Known(PolicyState::Changed), _) => Some("the policy has changed since the plan was made"),
            (Answer::Known(PolicyState::Deleted), _) => Some("the policy was deleted"),
            (_, Answer::Known(TargetState::Replaced)) => Some("the target was deleted and made again"),
            (_, Answer::Known(TargetState::Gone)) => Some("the target is gone"),
            _ if orders.incident_deleted => Some("the incident that this answers was deleted"),
            (Answer::Known(PolicyState::Current | PolicyState::Suspended) | Answer::Unknown { .. }, _) => None,
        };
        if let Some(why) = outdated {
            return Some((UndoCause::Outdated, why.to_owned()));
        }
        if orders.rewritten == Answer::Known(true) {
            let why = "the branch's history was rewritten since: merging this would bring the old history back";
            return Some((UndoCause::Outdated, why.to_owned()));
        }
        if let Answer::Known(Some(edited)) = &orders.edited
            && !edited.may_be_our_merge(self.snapshot.now)
        {
            let cause = if edited.as_planned { UndoCause::CuredByPeople } else { UndoCause::Outdated };
            let proposed = self.standing.is_live();
            return Some((cause, edited.sentence(if proposed { "this pull request" } else { "this plan" })));
        }
        if let Answer::Known(cause) = &self.snapshot.cause
            && cause.is_gone(self.snapshot.now, self.snapshot.absent_for)
        {
            let seconds = self.snapshot.absent_for.as_secs();
            let span = if seconds % 60 == 0 { format!("{} min", seconds / 60) } else { format!("{seconds} s") };
            return Some((UndoCause::NotNeeded, format!("the cause has been absent for {span}")));
        }
        if self.snapshot.now >= self.merge_by() {
            let limit = self.snapshot.terms.limits.merge.as_secs();
            return Some((UndoCause::Expired, format!("not merged within {limit} s")));
        }
        None
    }

    /// When a proposal expires: the merge clock runs from the plan, so that a plan that waits for gates ages as well; for a
    /// later step from when that step was proposed.
    pub(super) fn merge_by(&self) -> Timestamp {
        let first = !self.standing.is_merged();
        let from = if first { self.standing.planned_at } else { self.standing.since }.unwrap_or(self.snapshot.now);
        from.saturating_add(self.snapshot.terms.limits.merge).unwrap_or(Timestamp::MAX)
    }
}

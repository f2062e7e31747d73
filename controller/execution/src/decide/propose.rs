//! From the plan to the merge.

use amend_diagnosis::evidence::Answer;
use amend_policies::policy::{Autonomy, RollbackOn};

use super::leave::Permit;
use super::{Round, Run, lines_now};
use crate::effect::{Effect, verdicts_digest};
use crate::journal::{Actor, EffectKind, Ending, Event, UndoCause};
use crate::phase::Phase;
use crate::snapshot::{ForgeSeen, MergeState, PullRequestSeen, PullRequestState, Room};

/// How often a deed is tried again after it was proven not to have happened.
///
/// Each try has three entries in a bounded journal, and what failed three times for good reasons fails a fourth time.
pub(super) const TRIES: usize = 3;

/// What stands in the way is not a gate.
pub(super) fn by_the_forge() -> Event {
    Event::Blocked { gates: vec!["forge".into()] }
}

impl Run<'_> {
    pub(super) fn planned(&mut self) -> Round {
        self.say_gates("the gates run before anything else")
    }

    fn say_gates(&mut self, because: &str) -> Round {
        let cleared = self.permit().is_ok_and(|permit| permit.is_full());
        self.say(because, Event::GatesEvaluated { gates: lines_now(self.snapshot), cleared })
    }

    /// Before anything is done: gates, then people, then the first intent.
    pub(super) fn gating(&mut self) -> Round {
        if let Some((cause, why)) = self.not_wanted() {
            return self.withdraw(cause, why);
        }
        let deadline = self.merge_by();
        let permit = match self.permit() {
            Ok(permit) => permit,
            Err(why) => {
                if self.standing.phase == Phase::Gating {
                    let lines = lines_now(self.snapshot);
                    let standing_in_the_way = lines.iter().filter(|line| line.verdict != crate::journal::Word::Pass);
                    let gates = standing_in_the_way.map(|line| line.gate.clone()).take(16).collect();
                    return self.say(why, Event::Blocked { gates });
                }
                return self.rest_until(deadline, why);
            }
        };
        match self.snapshot.terms.autonomy {
            Autonomy::Observe => {
                let why = "the policy only observes: this would have been proposed";
                return self.end(Ending::Withdrawn, false, why);
            }
            Autonomy::Propose | Autonomy::Act => {}
        }
        let must_ask = self.snapshot.terms.approval_before_proposing && !self.standing.approved;
        if must_ask && self.standing.phase == Phase::AwaitingApproval {
            return self.rest_until(deadline, "waiting for an approval");
        }
        if !must_ask && let Err(why) = self.leave_for(EffectKind::PushBranch) {
            return self.rest_until(deadline, why);
        }
        if !must_ask && let Err(why) = self.room_at_the_forge() {
            if self.standing.phase == Phase::Gating {
                return self.say(why, by_the_forge());
            }
            return self.rest_until(deadline, why);
        }
        // Only journaled when something follows from it: gates that flap while we wait stay out of the journal.
        if self.standing.phase != Phase::Gating || self.standing.cleared != permit.is_full() {
            return self.say_gates("the gates allow it now");
        }
        if must_ask {
            let question = "may this change be proposed?".into();
            return self.say("the policy wants an approval before proposing", Event::ApprovalAsked { question });
        }
        self.intend(self.standing.step_in_focus(), EffectKind::PushBranch, "all gates allow it")
    }

    pub(super) fn proposing(&mut self) -> Round {
        if let Some((cause, why)) = self.not_wanted() {
            return self.withdraw(cause, why);
        }
        if self.standing.is_merged() && self.snapshot.now >= self.merge_by() {
            return self.later_step_is_late();
        }
        let step = self.standing.step_in_focus();
        let at = self.step_of(step)?;
        let effect = if at.commit.is_none() { EffectKind::PushBranch } else { EffectKind::OpenPullRequest };
        if at.did_not.iter().filter(|tried| **tried == effect).count() >= TRIES {
            let why = format!("{} did not happen in {TRIES} tries", effect.word());
            return self.withdraw_or_undo(UndoCause::StepFailed, why);
        }
        match self.leave_for(effect) {
            Ok(()) if effect == EffectKind::PushBranch => match self.room_at_the_forge() {
                Ok(()) => self.intend(step, effect, "all gates allow it"),
                Err(why) => self.rest_until(self.merge_by(), why),
            },
            Ok(()) => self.intend(step, effect, "the branch is at the forge"),
            Err(why) => self.rest_until(self.merge_by(), why),
        }
    }

    /// Whether the forge would take a proposal now: asked before the push, so that nothing is there that has to wait.
    fn room_at_the_forge(&self) -> Result<(), String> {
        match &self.snapshot.forge {
            Answer::Known(ForgeSeen { room: Room::Free, .. }) => Ok(()),
            Answer::Known(ForgeSeen { room: Room::None { why }, .. }) => Err(why.clone()),
            Answer::Unknown { why } => Err(format!("cannot see the forge: {why}")),
        }
    }

    /// An earlier step is merged already, so this is no mere withdrawal.
    fn later_step_is_late(&mut self) -> Round {
        let why = "a later step was not merged in its time";
        self.take_back(UndoCause::SlaExceeded, RollbackOn::SlaExceeded, Ending::Held, why.to_owned())
    }

    /// Takes back what is there of this and earlier steps.
    pub(super) fn withdraw_or_undo(&mut self, cause: UndoCause, why: impl Into<String>) -> Round {
        let step = self.standing.step_in_focus();
        self.say(why, Event::UndoBegan { step, cause })
    }

    pub(super) fn proposed(&mut self) -> Round {
        let step = self.standing.step_in_focus();
        let deadline = self.merge_by();
        let seen = match &self.snapshot.forge {
            Answer::Known(ForgeSeen { pull_request: Some(seen), .. }) => seen.clone(),
            Answer::Known(ForgeSeen { pull_request: None, .. }) if self.snapshot.now < deadline => {
                return self.rest_until(deadline, "the forge does not show the pull request yet");
            }
            // Absent for the whole merge time: somebody deleted it. The undo looks again before it does anything.
            Answer::Known(ForgeSeen { pull_request: None, .. }) => {
                return self.withdraw_or_undo(UndoCause::Expired, "the pull request is gone from the forge");
            }
            // People may have merged meanwhile, so nothing expires unseen.
            Answer::Unknown { why } => {
                return self.rest(format!("cannot see the pull request: {why}"), super::LOOK_AGAIN);
            }
        };
        match &seen.state {
            PullRequestState::Merged { commit, by } => {
                let actor = self.actor_of(by.as_deref());
                let event = Event::Merged { step, commit: commit.clone() };
                return self.say_as(actor, "the pull request is merged", event);
            }
            PullRequestState::Closed { by } => {
                let actor = Actor::person(by.as_deref().unwrap_or("somebody at the forge"));
                self.say_as(actor, "the pull request was closed without a merge", Event::ClosedByPeople { step })?;
                return match self.standing.is_live() {
                    true => self.withdraw_or_undo(UndoCause::Refused, "people closed the pull request"),
                    false => self.end(Ending::Rejected, false, "people closed the pull request"),
                };
            }
            PullRequestState::Open => {}
        }
        if let Some((cause, why)) = self.not_wanted() {
            return self.withdraw(cause, why);
        }
        if self.standing.is_merged() && self.snapshot.now >= self.merge_by() {
            return self.later_step_is_late();
        }
        self.open_pull_request(step, &seen)
    }

    fn open_pull_request(&mut self, step: u32, seen: &PullRequestSeen) -> Round {
        let at = self.step_of(step)?;
        let ours = at.commit.clone();
        let known = at.pull_request.as_ref().and_then(|known| known.head.clone());
        let tried = at.did_not.clone();
        let marked = at.happened.contains(&EffectKind::MarkReady);
        let is_ours = ours.as_deref() == Some(seen.head.as_str());
        // Told once: people may push on, and each of their commits is not worth an entry.
        if !is_ours && known == ours {
            let event = Event::PullRequestUpdated { step, draft: seen.draft, head: seen.head.clone() };
            return self.say_as(Actor::person("somebody at the forge"), "others pushed to the branch", event);
        }
        self.show_verdicts(step, seen)?;
        let deadline = self.merge_by();
        let full = match self.permit() {
            Ok(Permit::Full) => true,
            Ok(Permit::Draft { .. }) => false,
            Err(why) => return self.rest_until(deadline, format!("open, but not cleared: {why}")),
        };
        // Once: a draft that people made of it again, or that the forge shows too late, stays theirs.
        if seen.draft && full && !marked && !tried.contains(&EffectKind::MarkReady) {
            return match self.leave_for(EffectKind::MarkReady) {
                Ok(()) if !self.standing.cleared => self.say_gates("the gaps are closed"),
                Ok(()) => self.intend(step, EffectKind::MarkReady, "all gates pass now"),
                Err(why) => self.rest_until(deadline, why),
            };
        }
        if !self.acts() {
            return self.rest_until(deadline, "waiting for people to merge");
        }
        if !is_ours || tried.contains(&EffectKind::MergePullRequest) {
            return self.rest_until(deadline, "people merge: the branch is not ours alone or the forge refused us");
        }
        if !full || seen.draft {
            return self.rest_until(deadline, "not merged by itself while anything is not known");
        }
        if self.snapshot.terms.approval_before_merging && !self.standing.approved {
            if !self.standing.asked {
                let question = "may this change be merged?".into();
                return self.say("the policy wants an approval before merging", Event::ApprovalAsked { question });
            }
            return self.rest_until(deadline, "waiting for an approval to merge");
        }
        match &seen.merge {
            MergeState::Ready => match self.leave_for(EffectKind::MergePullRequest) {
                Ok(()) => self.intend(step, EffectKind::MergePullRequest, "all gates pass and the policy may act"),
                Err(why) => self.rest_until(deadline, why),
            },
            MergeState::Waiting { why } => self.rest_until(deadline, why.clone()),
            MergeState::NeedsPeople { why } => {
                let why = format!("people must merge: {why}");
                self.page("people-must-merge", &why)?;
                self.rest_until(deadline, why)
            }
        }
    }

    /// Shows the verdicts of now at the forge when it shows others.
    fn show_verdicts(&mut self, step: u32, seen: &PullRequestSeen) -> Result<(), super::DecideError> {
        let gates = lines_now(self.snapshot);
        let digest = verdicts_digest(&gates);
        let kill_switch_off = self.snapshot.orders.kill_switch == Answer::Known(false);
        if kill_switch_off && seen.statuses.as_ref() != Some(&digest) {
            let key = self.terms_of(step)?.key.clone();
            self.effects.push(Effect::SetCommitStatus { key, step, commit: seen.head.clone(), gates, digest });
        }
        Ok(())
    }

    /// Who merged: our own merge has an intent that resolves before this is asked, so here it is somebody else.
    pub(super) fn actor_of(&self, by: Option<&str>) -> Actor {
        Actor::person(by.unwrap_or("somebody at the forge"))
    }
}

//! Taking back: from the failed step itself, in reverse, looking before each deed.

use amend_diagnosis::evidence::Answer;
use jiff::{SignedDuration, Timestamp};

use super::intent::UNDER_WAY_FOR;
use super::watch::plus;
use super::{Next, Round, Run};
use crate::journal::{EffectKind, Ending, Event, UndoCause};
use crate::phase::StepStanding;
use crate::snapshot::{BranchSeen, ForgeSeen, GitOpsSeen, PullRequestState};

/// How long closing and deleting at the forge may take before a person is asked.
const TIDY_WITHIN: SignedDuration = SignedDuration::from_hours(1);

impl Run<'_> {
    pub(super) fn undoing(&mut self) -> Round {
        let Some((cause, began)) = self.standing.undo else {
            return self.end(Ending::Stuck, false, "undoing without a reason");
        };
        if !self.standing.is_live() {
            let why = self.why_undo();
            return self.end(cause.ending(self.standing.was_merged()), false, why);
        }
        if self.undoes_harm() {
            let why = self.why_undo();
            self.page("undo", &format!("the change is taken back: {why}"))?;
        }
        let step = self.standing.step_in_focus();
        let at = self.step_of(step)?.clone();
        let limits = &self.snapshot.terms.limits;
        // A revert is merged by people, applied and rolled out like any other change.
        let within = match at.merged {
            Some(_) => limits.merge.saturating_add(limits.reconcile).saturating_add(limits.rollout),
            None => TIDY_WITHIN,
        };
        let deadline = plus(began, within);
        if self.snapshot.now >= deadline {
            return self.end(Ending::Stuck, false, "taking it back has run out of time");
        }
        self.deadline = Some(deadline);
        let seen = match self.snapshot.forge.clone() {
            Answer::Known(seen) => seen,
            Answer::Unknown { why } => return self.rest_until(deadline, format!("cannot see the forge: {why}")),
        };
        match at.merged {
            Some(_) => self.revert(step, &at, &seen),
            None => self.tidy(step, &at, &seen),
        }
    }

    /// Nothing is merged: close, then delete.
    fn tidy(&mut self, step: u32, at: &StepStanding, seen: &ForgeSeen) -> Round {
        match (&at.pull_request, seen.pull_request.as_ref().map(|found| &found.state)) {
            (Some(_), Some(PullRequestState::Merged { commit, by })) => {
                return self.merged_meanwhile(step, commit.clone(), by.as_deref());
            }
            (None, Some(PullRequestState::Merged { .. })) => {
                let why = "a pull request of ours was merged that the journal does not know";
                return self.end(Ending::Held, false, why);
            }
            // Also one that a request opened after its process had died.
            (_, Some(PullRequestState::Open)) => return self.take_back_by(step, at, EffectKind::ClosePullRequest),
            (Some(known), None) if !at.closed && self.is_fresh(known.opened_at) => {
                return self.rest("the forge does not show the pull request yet", super::LOOK_AGAIN);
            }
            (_, Some(PullRequestState::Closed { .. }) | None) => {}
        }
        // A push that outlived its process would bring the branch back after we deleted it.
        if at.reached_out_at.is_some_and(|moment| self.is_fresh(moment)) {
            return self.rest("waiting until no earlier request can be under way", super::LOOK_AGAIN);
        }
        match &seen.branch {
            BranchSeen::Ours { .. } => self.take_back_by(step, at, EffectKind::DeleteBranch),
            BranchSeen::Absent => self.say("neither branch nor open pull request is left", Event::Undone { step }),
            BranchSeen::Foreign { .. } => {
                self.say("the branch has commits by others and stays theirs", Event::Undone { step })
            }
        }
    }

    /// People merged what we were about to close.
    fn merged_meanwhile(&mut self, step: u32, commit: String, by: Option<&str>) -> Round {
        let said_no = match self.standing.undo {
            Some((UndoCause::Refused | UndoCause::Stopped, _)) => true,
            Some(_) | None => false,
        };
        let actor = self.actor_of(by);
        self.say_as(actor, "merged before it could be closed", Event::Merged { step, commit })?;
        match said_no {
            true => self.end(Ending::Held, true, "one person said no and another one merged"),
            false => Ok(Next::Again),
        }
    }

    /// Whether forges may still hide what was made at this moment.
    fn is_fresh(&self, made: Timestamp) -> bool {
        self.snapshot.now.duration_since(made) < UNDER_WAY_FOR
    }

    /// It is merged: open the revert, have it merged, see it applied.
    fn revert(&mut self, step: u32, at: &StepStanding, seen: &ForgeSeen) -> Round {
        let deadline = self.deadline.unwrap_or(self.snapshot.now);
        if at.revert.is_none() {
            return self.take_back_by(step, at, EffectKind::OpenRevert);
        }
        if at.revert_merged.is_some() {
            return match &self.snapshot.gitops {
                Answer::Known(GitOpsSeen {
                    contains_revert: Answer::Known(true),
                    live_is_back: Answer::Known(true),
                    ..
                }) => self.say("the revert is applied and the live fields are back", Event::Undone { step }),
                Answer::Known(_) => self.rest_until(deadline, "waiting until the revert is applied"),
                Answer::Unknown { why } => {
                    let why = format!("cannot tell whether the revert is applied: {why}");
                    self.rest_until(deadline, why)
                }
            };
        }
        let Some(revert) = &seen.revert else {
            return self.rest_until(deadline, "the forge does not show the revert yet");
        };
        match &revert.state {
            PullRequestState::Merged { commit, by } => {
                let actor = self.actor_of(by.as_deref());
                self.say_as(actor, "the revert is merged", Event::RevertMerged { step, commit: commit.clone() })
            }
            PullRequestState::Closed { .. } => self.end(Ending::Held, false, "people closed the revert"),
            PullRequestState::Open if at.did_not.contains(&EffectKind::MergeRevert) => {
                self.rest_until(deadline, "waiting for people to merge the revert")
            }
            PullRequestState::Open => match (&revert.merge, self.leave_for(EffectKind::MergeRevert)) {
                (crate::snapshot::MergeState::Ready, Ok(())) => {
                    self.intend(step, EffectKind::MergeRevert, "the policy may act, and undo is easier than do")
                }
                (_, Err(why)) => self.rest_until(deadline, format!("waiting for the revert to be merged: {why}")),
                (
                    crate::snapshot::MergeState::Waiting { why } | crate::snapshot::MergeState::NeedsPeople { why },
                    Ok(()),
                ) => {
                    let why = format!("waiting for the revert to be merged: {why}");
                    self.rest_until(deadline, why)
                }
            },
        }
    }

    fn take_back_by(&mut self, step: u32, at: &StepStanding, effect: EffectKind) -> Round {
        let deadline = self.deadline.unwrap_or(self.snapshot.now);
        // Closed and open again: the forge lags, or people opened it again. Either way it is not ours to close twice.
        if at.happened.contains(&effect) {
            let why = format!("{} happened, but the forge does not show it (any more)", effect.word());
            return self.rest_until(deadline, why);
        }
        if at.did_not.iter().filter(|tried| **tried == effect).count() >= super::propose::TRIES {
            return self.end(
                Ending::Stuck,
                false,
                format!("{} did not happen, however often it was tried", effect.word()),
            );
        }
        match self.leave_for(effect) {
            Ok(()) => {
                let why = self.why_undo();
                self.intend(step, effect, why)
            }
            Err(why) => self.rest_until(deadline, why),
        }
    }
}

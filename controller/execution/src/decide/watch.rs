//! From the merge to the verdict.

use amend_diagnosis::evidence::Answer;
use amend_policies::policy::RollbackOn;
use jiff::{SignedDuration, Timestamp};

use super::lines::metric_lines;
use super::{Next, Round, Run};
use crate::effect::Effect;
use crate::journal::{Ending, Event, UndoCause, Word};
use crate::snapshot::GitOpsSeen;
use crate::verify::SETTLE_WHEN_INTERVAL_UNKNOWN;

impl Run<'_> {
    /// Harm is not asked for yet: what is not applied explains nothing.
    pub(super) fn merged(&mut self) -> Round {
        let deadline = self.deadline_after(self.snapshot.terms.limits.reconcile);
        let step = self.standing.step_in_focus();
        match self.snapshot.gitops.clone() {
            Answer::Known(seen) => match (&seen.contains_merge, &seen.live_is_planned) {
                (Answer::Known(true), Answer::Known(true)) => {
                    let revision = seen.applied_revision;
                    self.say(
                        "the applied revision contains the merge and the live fields have the planned values",
                        Event::Applied { step, revision },
                    )
                }
                (Answer::Known(contains), Answer::Known(_)) => {
                    let waiting = if *contains { "the live fields change" } else { "the merge is applied" };
                    let why = match &seen.message {
                        Some(message) => format!("waiting until {waiting}; the GitOps controller says: {message}"),
                        None => format!("waiting until {waiting}"),
                    };
                    self.late("apply", deadline, why, true)
                }
                (Answer::Unknown { why }, _) | (_, Answer::Unknown { why }) => {
                    self.late("apply", deadline, format!("cannot tell whether it is applied: {why}"), false)
                }
            },
            Answer::Unknown { why } => {
                self.late("apply", deadline, format!("cannot ask the GitOps controller: {why}"), false)
            }
        }
    }

    pub(super) fn applying(&mut self) -> Round {
        if let Some(next) = self.harm()? {
            return Ok(next);
        }
        let deadline = self.deadline_after(self.snapshot.terms.limits.rollout);
        let step = self.standing.step_in_focus();
        match self.snapshot.rollout.clone() {
            Answer::Known(rollout) if rollout.complete => {
                let (updated, available, desired) = (rollout.updated, rollout.available, rollout.desired);
                let event = Event::RolloutSeen { step, complete: true, updated, available, desired };
                self.say("every pod runs the change and is available", event)
            }
            Answer::Known(rollout) => {
                let numbers = format!("{} of {} pods updated", rollout.updated, rollout.desired);
                let why = match rollout.stuck {
                    Some(why) => format!("the rollout is stuck ({numbers}): {why}"),
                    None => format!("rolling out: {numbers}"),
                };
                self.late("roll out", deadline, why, true)
            }
            Answer::Unknown { why } => self.late("roll out", deadline, format!("cannot see the rollout: {why}"), false),
        }
    }

    pub(super) fn verifying(&mut self) -> Round {
        if let Some(next) = self.harm()? {
            return Ok(next);
        }
        let recover = self.snapshot.terms.limits.recover;
        let (verdict, sentence, metrics, settled_at) = match &self.snapshot.verification {
            Answer::Known(found) => {
                (found.verdict, found.sentence.clone(), metric_lines(&found.metrics), found.settled_at)
            }
            Answer::Unknown { why } => {
                let settled_at = plus(self.since(), SETTLE_WHEN_INTERVAL_UNKNOWN);
                (Word::Unknown, format!("nothing to judge by: {why}"), Vec::new(), settled_at)
            }
        };
        let (verdict, sentence) = match (verdict, self.still_in_place()) {
            (Word::Pass, Err(why)) => (Word::Unknown, why),
            (verdict, _) => (verdict, sentence),
        };
        let deadline = plus(settled_at.max(self.since()), recover);
        if verdict != Word::Pass && self.snapshot.now < deadline {
            return self.rest_until(deadline, sentence);
        }
        self.say(sentence.as_str(), Event::Verified { verdict, late: false, metrics })?;
        match verdict {
            Word::Pass => {
                self.comment("verified", &sentence);
                self.end(Ending::Succeeded, false, sentence)
            }
            Word::Fail => {
                self.take_back(UndoCause::VerificationFailed, RollbackOn::VerificationFailed, Ending::Held, sentence)
            }
            Word::Unknown => {
                self.take_back(UndoCause::Unverified, RollbackOn::Unverified, Ending::Unverified, sentence)
            }
        }
    }

    /// Whether what was judged is what was planned: somebody may have taken it back meanwhile.
    fn still_in_place(&self) -> Result<(), String> {
        match &self.snapshot.gitops {
            Answer::Known(GitOpsSeen { live_is_planned: Answer::Known(false), .. }) => {
                Err("the live fields do not have the planned values any more".to_owned())
            }
            Answer::Known(_) | Answer::Unknown { .. } => Ok(()),
        }
    }

    /// Waits for the platform, and holds or takes back when its time is over.
    ///
    /// `seen`: the delay was observed. Where nothing could be observed, nothing is undone, whatever the policy lists.
    fn late(&mut self, doing: &str, deadline: Timestamp, why: String, seen: bool) -> Round {
        if self.snapshot.now < deadline {
            return self.rest_until(deadline, why);
        }
        let why = format!("took too long to {doing}: {why}");
        if seen {
            self.take_back(UndoCause::SlaExceeded, RollbackOn::SlaExceeded, Ending::Held, why)
        } else {
            self.end(Ending::Held, true, why)
        }
    }

    /// Takes the change back where the policy lists the reason; else ends, with a revert prepared for whoever decides.
    pub(super) fn take_back(&mut self, cause: UndoCause, on: RollbackOn, otherwise: Ending, why: String) -> Round {
        if self.snapshot.terms.rollback_on.contains(&on) {
            self.withdraw_or_undo(cause, why)
        } else {
            self.end(otherwise, true, why)
        }
    }

    /// Measured harm since the merge, if any.
    fn harm(&mut self) -> Result<Option<Next>, super::DecideError> {
        let Some(reading) = self.snapshot.abort.iter().find(|reading| reading.is_explained_harm()).cloned() else {
            return Ok(None);
        };
        let step = self.standing.step_in_focus();
        let (before, during) = (reading.before, reading.during);
        let metric = reading.metric.as_str().into();
        self.say(reading.sentence.as_str(), Event::AbortSignal { step, metric, before, during })?;
        let foreign = match &self.snapshot.gitops {
            Answer::Known(seen) => seen.foreign_commits.clone(),
            Answer::Unknown { why } => Answer::unknown(why.as_str()),
        };
        let next = match foreign {
            Answer::Known(commits) if commits.is_empty() => {
                self.take_back(UndoCause::Aborted, RollbackOn::Aborted, Ending::Held, reading.sentence)
            }
            Answer::Known(commits) => {
                let why = format!("{}; but {} commits by others came in between", reading.sentence, commits.len());
                self.end(Ending::Unverified, true, why)
            }
            Answer::Unknown { why } => {
                let why = format!("{}; cannot tell whether others changed the target: {why}", reading.sentence);
                self.end(Ending::Held, true, why)
            }
        };
        next.map(Some)
    }

    fn deadline_after(&self, limit: SignedDuration) -> Timestamp {
        plus(self.since(), limit)
    }

    /// One comment on the pull request in focus; may be lost.
    pub(super) fn comment(&mut self, what: &str, text: &str) {
        let step = self.standing.step_in_focus();
        let known = self.standing.step(step).and_then(|at| at.pull_request.as_ref()).map(|known| known.number);
        if let (Some(number), Ok(terms)) = (known, self.terms_of(step)) {
            let marker = format!("{}/{what}", terms.key);
            self.effects.push(Effect::Comment { marker, number, text: text.to_owned() });
        }
    }
}

pub(super) fn plus(from: Timestamp, duration: SignedDuration) -> Timestamp {
    from.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

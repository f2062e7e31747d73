//! What an ended remediation still owes: a page, a prepared revert, a late verdict.

use amend_diagnosis::evidence::Answer;

use super::lines::metric_lines;
use super::{Next, Round, Run, needs_people};
use crate::journal::{EffectKind, Event, Outcome, Word};
use crate::phase::Phase;

/// Entries that the prepared revert takes: intent, outcome, what was opened.
const ENTRIES_OF_A_REVERT: usize = 3;

impl Run<'_> {
    pub(super) fn after_the_end(&mut self) -> Round {
        self.wake = None;
        if self.because.is_empty() {
            self.because = self.why_undo();
        }
        if self.snapshot.epoch < self.standing.epoch {
            return Ok(Next::Rest);
        }
        let because = self.because.clone();
        if self.standing.phase.ending().is_some_and(needs_people) && !self.standing.paged.contains("ended") {
            self.page("ended", &because)?;
            self.wake = Some(super::LOOK_AGAIN);
        }
        self.late_verdict()?;
        let next = self.prepared_revert()?;
        self.because = because;
        Ok(next)
    }

    /// The verdict, when data is back after the ending `Unverified`.
    fn late_verdict(&mut self) -> Result<(), super::DecideError> {
        if self.standing.phase != Phase::Unverified || self.standing.late_verdict.is_some() || !self.room_for(1) {
            return Ok(());
        }
        self.wake = Some(super::LOOK_AGAIN);
        let Answer::Known(found) = &self.snapshot.verification else { return Ok(()) };
        let (verdict, metrics) = (found.verdict, metric_lines(&found.metrics));
        match verdict {
            Word::Unknown => Ok(()),
            Word::Pass | Word::Fail => {
                let sentence = format!("late, since data came back only now: {}", found.sentence);
                self.say(sentence.as_str(), Event::Verified { verdict, late: true, metrics })?;
                self.comment("late-verdict", &sentence);
                self.wake = None;
                Ok(())
            }
        }
    }

    /// The revert as a draft, for the person who decides.
    fn prepared_revert(&mut self) -> Round {
        if !self.standing.prepare_revert || self.standing.stopped {
            return Ok(Next::Rest);
        }
        if let Some(open) = self.standing.open.clone() {
            return match open.effect {
                EffectKind::OpenRevert if self.room_for(2) => {
                    self.wake = Some(super::LOOK_AGAIN);
                    self.resolve_prepared(&open)
                }
                _ => Ok(Next::Rest),
            };
        }
        let step = self.standing.steps.iter().rposition(|step| step.merged.is_some() && !step.undone);
        let Some(step) = step.and_then(|step| u32::try_from(step).ok()) else { return Ok(Next::Rest) };
        let at = self.step_of(step)?;
        let tried = at.did_not.contains(&EffectKind::OpenRevert);
        if at.revert.is_some() || tried || !self.room_for(ENTRIES_OF_A_REVERT) {
            return Ok(Next::Rest);
        }
        match self.leave_for(EffectKind::OpenRevert) {
            Ok(()) => self.intend(step, EffectKind::OpenRevert, "prepared as a draft for the person who decides"),
            Err(_) => {
                self.wake = Some(super::LOOK_AGAIN);
                Ok(Next::Rest)
            }
        }
    }

    fn resolve_prepared(&mut self, open: &crate::phase::OpenIntent) -> Round {
        let known_to_fail = self.snapshot.reports.iter().any(|report| match report {
            crate::snapshot::Report::Effect { key, effect, result } => {
                *key == open.key
                    && *effect == open.effect
                    && matches!(
                        result,
                        crate::snapshot::Reported::Never { .. }
                            | crate::snapshot::Reported::Waits { .. }
                            | crate::snapshot::Reported::CannotTell { .. }
                    )
            }
            crate::snapshot::Report::Paged { .. } => false,
        });
        if known_to_fail {
            let event = Event::Outcome { step: open.step, effect: open.effect, outcome: Outcome::DidNot };
            self.say("the forge refused it", event)?;
            return Ok(Next::Rest);
        }
        self.resolve(open)
    }

    fn room_for(&self, entries: usize) -> bool {
        self.journal.len() + entries <= crate::journal::ENTRIES_MAX
    }
}

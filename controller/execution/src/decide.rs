//! What comes next for a remediation: a pure function from one snapshot to entries, deeds and a wake time.
//!
//! The caller writes `append` by compare-and-swap on the version it read, then performs `effects` in order (the first one makes
//! the records durable), then looks again. A crash anywhere is healed by deciding again: the open intent is compared with the
//! world, found done, done again under the same key, or handed to a person.
//!
//! ```text
//!  decide ──► write append (CAS) ──► AppendRecord ──► effect ──► crash? ──► gather ──► decide: outcome
//! ```

use amend_policies::policy::Autonomy;
use jiff::{SignedDuration, Timestamp};

use crate::effect::Effect;
use crate::journal::{Actor, EffectKind, Ending, Entry, Event, GateLine, Journal, JournalError, Text, UndoCause, Word};
use crate::phase::{Impossible, Phase, PullRequest, Standing, StepStanding, standing};
use crate::snapshot::{Snapshot, StepTerms};

mod after_the_end;
mod edited;
mod intent;
mod leave;
mod lines;
mod page;
mod propose;
mod undo;
mod watch;

pub use lines::gate_lines;

/// How long between two looks while nothing has a clock of its own: forges and GitOps controllers are watched or polled as well.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(30);

/// What to do with one remediation.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// New journal entries, to be written on the version that was read; nothing is performed unless that write succeeds.
    pub append: Vec<Entry>,
    /// Performed in order after the write, pages last; the first failure stops the rest.
    pub effects: Vec<Effect>,
    /// When to look again if nothing happens; `ZERO` = at once. `None`: it has ended and owes nothing.
    pub wake: Option<SignedDuration>,
    /// Why, in one sentence for people.
    pub because: String,
    pub status: Status,
}

/// What the status of the `Remediation` shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub phase: Phase,
    /// When the phase was entered.
    pub since: Option<Timestamp>,
    /// When this phase runs out of time, where it has a clock.
    pub deadline: Option<Timestamp>,
    /// The pull request of the step in focus, as the journal knows it.
    pub pull_request: Option<PullRequest>,
    /// The pull request that takes it back.
    pub revert: Option<PullRequest>,
    pub verdict: Option<Word>,
    pub late_verdict: Option<Word>,
}

/// Why nothing can be decided. The caller acts on nothing, shows this and pages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecideError {
    #[error("the journal cannot be true")]
    Journal(#[from] Impossible),
    #[error("cannot append to the journal")]
    Append(#[from] JournalError),
    #[error("the journal belongs to plan {found}, not to plan {wanted}")]
    OtherPlan { found: String, wanted: String },
    #[error("the plan has no step {step}")]
    NoSuchStep { step: u32 },
}

/// Decides.
///
/// # Errors
/// When the journal is damaged or belongs to another plan; then nobody may act.
pub fn decide(snapshot: &Snapshot) -> Result<Decision, DecideError> {
    let standing = standing(&snapshot.journal)?;
    let wanted = &snapshot.terms.plan_digest;
    if !snapshot.journal.is_empty() && standing.plan_digest != *wanted {
        return Err(DecideError::OtherPlan { found: standing.plan_digest, wanted: wanted.clone() });
    }
    let mut run = Run {
        snapshot,
        standing,
        journal: snapshot.journal.clone(),
        append: Vec::new(),
        effects: Vec::new(),
        wake: Some(LOOK_AGAIN),
        deadline: None,
        because: String::new(),
    };
    // Every round appends an entry or rests, and the journal is bounded.
    for _ in 0..crate::journal::ENTRIES_MAX {
        match run.round()? {
            Next::Again => {}
            Next::Rest => break,
        }
    }
    Ok(run.finish())
}

/// Whether there may be more to say about this very snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Again,
    Rest,
}

type Round = Result<Next, DecideError>;

/// One decision in the making.
struct Run<'a> {
    snapshot: &'a Snapshot,
    /// Of `journal`, always.
    standing: Standing,
    /// The journal with what was appended so far.
    journal: Journal,
    append: Vec<Entry>,
    effects: Vec<Effect>,
    wake: Option<SignedDuration>,
    deadline: Option<Timestamp>,
    because: String,
}

impl Run<'_> {
    fn round(&mut self) -> Round {
        if self.standing.phase.ending().is_some() {
            return self.after_the_end();
        }
        if self.snapshot.epoch < self.standing.epoch {
            return self.rest("a newer leader works on this", LOOK_AGAIN);
        }
        if self.journal.is_empty() {
            let steps = u32::try_from(self.snapshot.terms.steps.len()).unwrap_or(u32::MAX);
            let plan_digest = self.snapshot.terms.plan_digest.clone();
            return self.say("a policy answers this cause", Event::Planned { plan_digest, steps });
        }
        if self.journal.is_full() {
            return self.end(Ending::Stuck, false, "the journal is full: this remediation goes round in circles");
        }
        if let Some(open) = self.standing.open.clone() {
            return self.resolve(&open);
        }
        if let Some(next) = self.orders()? {
            return Ok(next);
        }
        self.escalate()?;
        match self.standing.phase {
            Phase::Planned => self.planned(),
            Phase::Gating | Phase::Blocked | Phase::AwaitingApproval => self.gating(),
            Phase::Proposing => self.proposing(),
            Phase::Proposed => self.proposed(),
            Phase::Merged => self.merged(),
            Phase::Applying => self.applying(),
            Phase::Verifying => self.verifying(),
            Phase::Undoing => self.undoing(),
            Phase::Succeeded
            | Phase::Rejected
            | Phase::Withdrawn
            | Phase::RolledBack
            | Phase::Unverified
            | Phase::Held
            | Phase::Stuck => self.after_the_end(),
        }
    }

    /// Appends an entry of our own.
    fn say(&mut self, because: impl Into<String>, event: Event) -> Round {
        let actor = Actor::amend(self.snapshot.replica.as_str());
        self.say_as(actor, because, event)
    }

    /// Appends an entry about what somebody else did.
    fn say_as(&mut self, actor: Actor, because: impl Into<String>, event: Event) -> Round {
        self.because = because.into();
        let entry = self.journal.append(self.snapshot.now, actor, self.because.as_str(), event)?.clone();
        self.standing = std::mem::take(&mut self.standing).after(&entry)?;
        self.append.push(entry);
        Ok(Next::Again)
    }

    fn end(&mut self, ending: Ending, prepare_revert: bool, because: impl Into<String>) -> Round {
        self.say(because, Event::Ended { ending, prepare_revert })
    }

    /// Nothing more to do for now.
    fn rest(&mut self, because: impl Into<String>, wake: SignedDuration) -> Round {
        self.because = because.into();
        self.wake = Some(wake.max(SignedDuration::from_secs(1)));
        Ok(Next::Rest)
    }

    /// Nothing more to do before the deadline, at which the phase has run out of time.
    fn rest_until(&mut self, deadline: Timestamp, because: impl Into<String>) -> Round {
        self.deadline = Some(deadline);
        let left = deadline.duration_since(self.snapshot.now);
        self.rest(because, left.min(LOOK_AGAIN))
    }

    /// Writes the intent and asks for the deed.
    fn intend(&mut self, step: u32, effect: EffectKind, because: impl Into<String>) -> Round {
        let terms = self.terms_of(step)?.clone();
        let pre_image = (effect == EffectKind::PushBranch).then_some(terms.pre_image);
        let event = Event::Intent { step, effect, key: terms.key, epoch: self.snapshot.epoch, pre_image };
        self.say(because, event)?;
        self.perform(step, effect)
    }

    fn terms_of(&self, step: u32) -> Result<&StepTerms, DecideError> {
        let found = usize::try_from(step).ok().and_then(|at| self.snapshot.terms.steps.get(at));
        found.ok_or(DecideError::NoSuchStep { step })
    }

    fn step_of(&self, step: u32) -> Result<&StepStanding, DecideError> {
        self.standing.step(step).ok_or(DecideError::NoSuchStep { step })
    }

    /// When the phase was entered; the snapshot's time before the first entry.
    fn since(&self) -> Timestamp {
        self.standing.since.unwrap_or(self.snapshot.now)
    }

    fn finish(mut self) -> Decision {
        if let Some(last) = self.journal.entries().last().filter(|last| last.seq >= self.snapshot.durable) {
            self.effects.insert(0, Effect::AppendRecord { through: last.seq });
        }
        let before = standing(&self.snapshot.journal).ok().filter(|_| !self.snapshot.journal.is_empty());
        if before.is_none_or(|before| before.phase != self.standing.phase) {
            self.effects.push(Effect::EmitEvent {
                reason: format!("{:?}", self.standing.phase),
                text: self.because.clone(),
                warning: self.standing.phase.ending().is_some_and(needs_people) || self.undoes_harm(),
            });
        }
        // A pager that does not answer costs many seconds: nobody waits for it, least of all an undo.
        self.effects.sort_by_key(|effect| matches!(effect, Effect::Page { .. }));
        if self.effects.iter().any(|effect| effect.journaled().is_some()) {
            self.wake = Some(SignedDuration::ZERO);
        }
        let focus = self.standing.step(self.standing.step_in_focus());
        let status = Status {
            phase: self.standing.phase,
            since: self.standing.since,
            deadline: self.deadline,
            pull_request: focus.and_then(|step| step.pull_request.clone()),
            revert: focus.and_then(|step| step.revert.clone()),
            verdict: self.standing.verdict,
            late_verdict: self.standing.late_verdict,
        };
        Decision { append: self.append, effects: self.effects, wake: self.wake, because: self.because, status }
    }

    /// Whether measured harm, a broken clock or missing data made us take the change back: people must know.
    fn undoes_harm(&self) -> bool {
        match self.standing.undo {
            Some((cause, _)) => match cause {
                UndoCause::Aborted
                | UndoCause::VerificationFailed
                | UndoCause::SlaExceeded
                | UndoCause::Unverified
                | UndoCause::StepFailed => true,
                UndoCause::NotNeeded
                | UndoCause::CuredByPeople
                | UndoCause::Expired
                | UndoCause::Outdated
                | UndoCause::Refused
                | UndoCause::Stopped => false,
            },
            None => false,
        }
    }

    fn acts(&self) -> bool {
        match self.snapshot.terms.autonomy {
            Autonomy::Act => true,
            Autonomy::Observe | Autonomy::Propose => false,
        }
    }
}

/// Endings that a person must hear about.
fn needs_people(ending: Ending) -> bool {
    match ending {
        Ending::Held | Ending::Stuck | Ending::Unverified => true,
        Ending::Succeeded | Ending::Rejected | Ending::Withdrawn | Ending::RolledBack => false,
    }
}

/// A text of the journal as an owned string.
fn owned(text: &Text) -> String {
    text.as_str().to_owned()
}

/// The lines of the verdicts of now.
fn lines_now(snapshot: &Snapshot) -> Vec<GateLine> {
    gate_lines(&snapshot.verdicts)
}

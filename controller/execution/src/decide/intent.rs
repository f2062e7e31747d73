//! An intent without an outcome: what became of it, and whether to do it (again).

use amend_diagnosis::evidence::Answer;
use jiff::SignedDuration;

use super::{Next, Round, Run, owned};
use crate::effect::Effect;
use crate::journal::{Actor, EffectKind, Ending, Event, Outcome, UndoCause};
use crate::phase::{OpenIntent, Phase};
use crate::snapshot::{BranchSeen, Done, ForgeSeen, PullRequestState, Report, Reported};

/// How long a request of a process that died may still be under way.
///
/// Every call has a deadline of at most 30 s, and forges show what they did within a minute. Only after that "it is not
/// there" proves "it did not happen".
pub(super) const UNDER_WAY_FOR: SignedDuration = SignedDuration::from_secs(90);

/// How long an intent may stay in doubt before a person decides: forges have outages, people have nights.
const IN_DOUBT_FOR: SignedDuration = SignedDuration::from_hours(1);

/// What became of an open intent.
enum Fate {
    Done(Done),
    /// Proven: not there, and the forge says it never will be.
    Refused {
        why: String,
    },
    /// The world has moved on, so that the deed has no meaning any more.
    Moot {
        why: String,
    },
    /// Not there (yet); doing it again is harmless.
    NotYet,
    /// Asked for just now and put off.
    PutOff {
        why: String,
        after: SignedDuration,
    },
    /// The forge will not have it before something outside changes.
    Waits {
        why: String,
        after: SignedDuration,
    },
    CannotSee {
        why: String,
    },
    /// Something else is in its place.
    CannotTell {
        why: String,
    },
}

impl Run<'_> {
    pub(super) fn resolve(&mut self, open: &OpenIntent) -> Round {
        let age = self.snapshot.now.duration_since(open.at);
        match self.fate(open) {
            Fate::Done(done) => self.done(open, done),
            Fate::Moot { why } => self.say(why, outcome(open, Outcome::DidNot)),
            Fate::Refused { why } => {
                self.say(why.as_str(), outcome(open, Outcome::DidNot))?;
                self.refused(open.effect, why)
            }
            Fate::CannotTell { why } => self.in_doubt(open, why),
            Fate::Waits { why, after } => self.blocked_by_forge(why, after),
            // How long it is blocked is no reason to doubt: the clock of the merge ends it.
            Fate::CannotSee { why } | Fate::PutOff { why, .. } if self.standing.phase == Phase::Blocked => {
                self.rest(why, super::LOOK_AGAIN)
            }
            Fate::CannotSee { why } | Fate::PutOff { why, .. }
                if age >= IN_DOUBT_FOR && self.standing.phase.ending().is_none() =>
            {
                self.in_doubt(open, format!("in doubt for an hour: {why}"))
            }
            Fate::CannotSee { why } => {
                self.rest(format!("cannot see what became of {}: {why}", open.effect.word()), super::LOOK_AGAIN)
            }
            Fate::PutOff { why, after } => self.rest(format!("{} is put off: {why}", open.effect.word()), after),
            Fate::NotYet => match self.leave_for(open.effect) {
                Ok(()) => self.do_again(open),
                // Not there, and not wanted now: proven once nothing can be under way any more.
                Err(why) if age >= UNDER_WAY_FOR => self.say(why, outcome(open, Outcome::DidNot)),
                Err(why) => self.rest(why, UNDER_WAY_FOR - age),
            },
        }
    }

    /// Says once that the forge stands in the way, and waits with the intent open.
    fn blocked_by_forge(&mut self, why: String, after: SignedDuration) -> Round {
        if self.standing.phase == Phase::Proposing {
            self.say(why.as_str(), super::propose::by_the_forge())?;
        }
        self.rest(why, after)
    }

    fn do_again(&mut self, open: &OpenIntent) -> Round {
        if self.wanted_to_stop(open.effect) {
            let age = self.snapshot.now.duration_since(open.at);
            return match age >= UNDER_WAY_FOR {
                true => self.say("not wanted any more, and not there", outcome(open, Outcome::DidNot)),
                false => self.rest("not wanted any more; waiting until nothing can be under way", UNDER_WAY_FOR - age),
            };
        }
        if open.epoch < self.snapshot.epoch {
            return self.intend(open.step, open.effect, "taken over from an earlier leader, and not there yet");
        }
        self.because = format!("{} again: it is not there", open.effect.word());
        self.perform(open.step, open.effect)
    }

    /// Whether an order that is not journaled yet, or the end of the need, argues against doing it again.
    fn wanted_to_stop(&self, effect: EffectKind) -> bool {
        !effect.undoes() && (self.not_wanted().is_some() || self.said_no())
    }

    fn said_no(&self) -> bool {
        use crate::snapshot::SaidWord::{Approve, Refuse, Stop};
        self.said().iter().any(|said| match said.word {
            Stop | Refuse => true,
            Approve => false,
        })
    }

    /// In doubt for good: a person decides. An undo in doubt is a failed undo.
    fn in_doubt(&mut self, open: &OpenIntent, why: String) -> Round {
        self.say(why.as_str(), outcome(open, Outcome::CannotTell))?;
        let ending = if self.standing.phase == Phase::Undoing { Ending::Stuck } else { Ending::Held };
        self.end(ending, false, format!("cannot tell whether {} happened: {why}", open.effect.word()))
    }

    /// The forge refused for good.
    fn refused(&mut self, effect: EffectKind, why: String) -> Round {
        match effect {
            EffectKind::PushBranch | EffectKind::OpenPullRequest => self.withdraw_or_undo(UndoCause::StepFailed, why),
            // People can still do these; we only stop trying.
            EffectKind::MarkReady | EffectKind::MergePullRequest | EffectKind::MergeRevert => {
                self.page("refused", &format!("the forge refused to {}: {why}", effect.word()))?;
                Ok(Next::Again)
            }
            EffectKind::ClosePullRequest | EffectKind::DeleteBranch | EffectKind::OpenRevert => {
                self.end(Ending::Stuck, false, format!("cannot take it back: {why}"))
            }
        }
    }

    /// Writes down that it happened, and what is there now.
    fn done(&mut self, open: &OpenIntent, done: Done) -> Round {
        let step = open.step;
        self.say("it is there", outcome(open, Outcome::Happened))?;
        let branch = self.terms_of(step)?.branch.as_str().into();
        match done {
            Done::Pushed { commit } => self.say("the forge shows it", Event::BranchPushed { step, branch, commit }),
            Done::Opened { number, url, draft, adopted } => {
                let event = Event::PullRequestOpened { step, url: url.into(), number, draft, adopted };
                self.say("the forge shows it", event)
            }
            Done::Merged { commit, by } => {
                let actor = match by {
                    Some(by) => Actor::person(by),
                    None => Actor::amend(self.snapshot.replica.as_str()),
                };
                self.say_as(actor, "the forge shows it", Event::Merged { step, commit })
            }
            Done::RevertOpened { number, url, draft } => {
                self.say("the forge shows it", Event::RevertOpened { step, url: url.into(), number, draft })
            }
            Done::RevertMerged { commit } => self.say("the forge shows it", Event::RevertMerged { step, commit }),
            Done::Ready | Done::Closed | Done::BranchDeleted => Ok(Next::Again),
        }
    }

    fn fate(&self, open: &OpenIntent) -> Fate {
        let reported = self.snapshot.reports.iter().rev().find_map(|report| match report {
            Report::Effect { key, effect, result } if *key == open.key && *effect == open.effect => Some(result),
            Report::Effect { .. } | Report::Paged { .. } => None,
        });
        if let Some(Reported::Done(done)) = reported {
            return Fate::Done(done.clone());
        }
        let observed = self.observed(open.effect);
        match (observed, reported) {
            (Fate::NotYet | Fate::CannotSee { .. }, Some(Reported::Never { why })) => {
                Fate::Refused { why: why.clone() }
            }
            (Fate::NotYet | Fate::CannotSee { .. }, Some(Reported::CannotTell { why })) => {
                Fate::CannotTell { why: why.clone() }
            }
            (Fate::NotYet | Fate::CannotSee { .. }, Some(Reported::Waits { why, after })) => match open.effect {
                EffectKind::PushBranch | EffectKind::OpenPullRequest => Fate::Waits { why: why.clone(), after: *after },
                // People can do these, or must hear that we cannot.
                EffectKind::MarkReady
                | EffectKind::MergePullRequest
                | EffectKind::ClosePullRequest
                | EffectKind::DeleteBranch
                | EffectKind::OpenRevert
                | EffectKind::MergeRevert => Fate::Refused { why: why.clone() },
            },
            (Fate::NotYet | Fate::CannotSee { .. }, Some(Reported::Later { why, after })) => {
                Fate::PutOff { why: why.clone(), after: *after }
            }
            (observed, _) => observed,
        }
    }

    /// What the world shows of a deed.
    fn observed(&self, effect: EffectKind) -> Fate {
        let seen = match &self.snapshot.forge {
            Answer::Known(seen) => seen,
            Answer::Unknown { why } => return Fate::CannotSee { why: why.clone() },
        };
        match effect {
            EffectKind::PushBranch => observed_push(seen),
            EffectKind::OpenPullRequest => match &seen.pull_request {
                // Nobody reported that it was opened: it was there when we looked.
                Some(found) => Fate::Done(Done::Opened {
                    number: found.number,
                    url: found.url.clone(),
                    draft: found.draft,
                    adopted: true,
                }),
                None => Fate::NotYet,
            },
            EffectKind::MarkReady => match &seen.pull_request {
                Some(found) if found.state != PullRequestState::Open => moot("the pull request is not open any more"),
                Some(found) if !found.draft => Fate::Done(Done::Ready),
                Some(_) | None => Fate::NotYet,
            },
            EffectKind::MergePullRequest => self.observed_merge(seen),
            EffectKind::ClosePullRequest => match seen.pull_request.as_ref().map(|found| &found.state) {
                Some(PullRequestState::Closed { .. }) => Fate::Done(Done::Closed),
                Some(PullRequestState::Merged { .. }) => moot("it was merged before it could be closed"),
                Some(PullRequestState::Open) => Fate::NotYet,
                None => moot("there is no pull request"),
            },
            EffectKind::DeleteBranch => match &seen.branch {
                BranchSeen::Absent => Fate::Done(Done::BranchDeleted),
                BranchSeen::Ours { .. } => Fate::NotYet,
                BranchSeen::Foreign { .. } => moot("others pushed to the branch, so it stays"),
            },
            EffectKind::OpenRevert => match &seen.revert {
                Some(found) => {
                    Fate::Done(Done::RevertOpened { number: found.number, url: found.url.clone(), draft: found.draft })
                }
                None => Fate::NotYet,
            },
            EffectKind::MergeRevert => match seen.revert.as_ref().map(|found| &found.state) {
                Some(PullRequestState::Merged { commit, .. }) => {
                    Fate::Done(Done::RevertMerged { commit: commit.clone() })
                }
                Some(PullRequestState::Closed { .. }) => moot("the revert was closed"),
                Some(PullRequestState::Open) | None => Fate::NotYet,
            },
        }
    }

    fn observed_merge(&self, seen: &ForgeSeen) -> Fate {
        let Some(found) = &seen.pull_request else { return Fate::NotYet };
        match &found.state {
            PullRequestState::Merged { commit, by } => {
                Fate::Done(Done::Merged { commit: commit.clone(), by: by.clone() })
            }
            PullRequestState::Closed { .. } => moot("the pull request was closed"),
            PullRequestState::Open => {
                let ours = self.standing.step(self.standing.step_in_focus()).and_then(|step| step.commit.as_deref());
                if ours == Some(found.head.as_str()) { Fate::NotYet } else { moot("others pushed to the branch") }
            }
        }
    }

    /// Asks for the deed of an intent that is written in this decision or an earlier one.
    pub(super) fn perform(&mut self, step: u32, effect: EffectKind) -> Round {
        let terms = self.terms_of(step)?.clone();
        let at = self.step_of(step)?.clone();
        let (key, branch) = (terms.key, terms.branch);
        let now = self.snapshot.now;
        let seen = self.snapshot.forge.known().and_then(|seen| seen.pull_request.as_ref());
        let number = at.pull_request.as_ref().map(|known| known.number).or(seen.map(|seen| seen.number));
        let why = self.why_undo();
        let deed =
            match effect {
                EffectKind::PushBranch => {
                    Some(Effect::PushBranch { key, step, branch, authored_at: at.authored_at.unwrap_or(now) })
                }
                EffectKind::OpenPullRequest => {
                    let permit = self.permit();
                    let draft = !permit.as_ref().is_ok_and(|permit| permit.is_full());
                    let gaps = permit.map(|permit| permit.gaps()).unwrap_or_default();
                    Some(Effect::OpenPullRequest { key, step, branch, draft, gaps })
                }
                EffectKind::MarkReady => number.map(|number| Effect::MarkReady { key, step, number }),
                EffectKind::MergePullRequest => {
                    number.zip(at.commit).map(|(number, head)| Effect::MergePullRequest { key, step, number, head })
                }
                EffectKind::ClosePullRequest => {
                    number.map(|number| Effect::ClosePullRequest { key, step, number, comment: why })
                }
                EffectKind::DeleteBranch => at
                    .commit
                    .or_else(|| self.branch_commit())
                    .map(|commit| Effect::DeleteBranch { key, step, branch, commit }),
                EffectKind::OpenRevert => at.merged.map(|merged| Effect::OpenRevertPullRequest {
                    key,
                    step,
                    branch: format!("{branch}-revert"),
                    merged,
                    draft: self.standing.phase.ending().is_some(),
                    authored_at: at.revert_authored_at.unwrap_or(now),
                    why,
                }),
                EffectKind::MergeRevert => {
                    let revert = self.seen_revert_head();
                    at.revert.zip(revert).map(|(revert, head)| Effect::MergeRevert {
                        key,
                        step,
                        number: revert.number,
                        head,
                    })
                }
            };
        match deed {
            Some(deed) => {
                self.effects.push(deed);
                Ok(Next::Rest)
            }
            None => self.rest(format!("cannot {} yet: its object is not known", effect.word()), super::LOOK_AGAIN),
        }
    }

    /// The commit at our branch, when the journal lost it in a crash.
    fn branch_commit(&self) -> Option<String> {
        match &self.snapshot.forge {
            Answer::Known(ForgeSeen { branch: BranchSeen::Ours { commit }, .. }) => Some(commit.clone()),
            Answer::Known(_) | Answer::Unknown { .. } => None,
        }
    }

    fn seen_revert_head(&self) -> Option<String> {
        let seen = self.snapshot.forge.known()?;
        seen.revert.as_ref().map(|revert| revert.head.clone())
    }

    /// Why the change is taken back, in the words of the journal.
    pub(super) fn why_undo(&self) -> String {
        let found = self
            .journal
            .entries()
            .iter()
            .rev()
            .find(|entry| matches!(entry.event, Event::UndoBegan { .. } | Event::Ended { .. }));
        found.map_or_else(String::new, |entry| owned(&entry.because))
    }
}

fn observed_push(seen: &ForgeSeen) -> Fate {
    match (&seen.branch, &seen.pull_request) {
        (BranchSeen::Ours { commit }, _) => Fate::Done(Done::Pushed { commit: commit.clone() }),
        // Merged or closed so fast that the branch is gone again.
        (BranchSeen::Absent, Some(found)) => Fate::Done(Done::Pushed { commit: found.head.clone() }),
        (BranchSeen::Absent, None) => Fate::NotYet,
        (BranchSeen::Foreign { commit }, _) => {
            Fate::CannotTell { why: format!("the branch holds {commit}, which is not ours") }
        }
    }
}

fn moot(why: &str) -> Fate {
    Fate::Moot { why: why.to_owned() }
}

fn outcome(open: &OpenIntent, outcome: Outcome) -> Event {
    Event::Outcome { step: open.step, effect: open.effect, outcome }
}

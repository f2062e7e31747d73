//! The fold itself: which entry may follow, and what it means.

use crate::journal::{EffectKind, Ending, Entry, Event, Outcome, UndoCause, Word};
use crate::phase::{Impossible, OpenIntent, Phase, PullRequest, Standing, StepStanding};

type Step<'a> = Result<&'a mut StepStanding, &'static str>;

pub(super) fn after(before: Standing, entry: &Entry) -> Result<Standing, Impossible> {
    let phase = before.phase;
    let impossible = |why| Impossible { seq: entry.seq, event: entry.event.to_string(), phase, why };
    let mut now = before;
    if entry.seq != now.entries {
        return Err(impossible("sequence numbers must count up from 0 without gaps"));
    }
    let next = apply(&mut now, entry).map_err(impossible)?;
    now.entries += 1;
    if next != phase || now.since.is_none() {
        now.phase = next;
        now.since = Some(entry.at);
    }
    Ok(now)
}

/// Writes what the entry means into `now` and says which phase follows.
fn apply(now: &mut Standing, entry: &Entry) -> Result<Phase, &'static str> {
    use Phase::{
        AwaitingApproval, Blocked, Gating, Held, Planned, Proposed, Proposing, Rejected, RolledBack, Stuck, Succeeded,
        Undoing, Unverified, Verifying, Withdrawn,
    };
    let phase = now.phase;
    let first = now.entries == 0;
    if first != matches!(entry.event, Event::Planned { .. }) {
        return Err("a journal begins with its plan, and has only one");
    }
    let needs = |holds: bool, why: &'static str| if holds { Ok(()) } else { Err(why) };
    match &entry.event {
        Event::Planned { plan_digest, steps } => {
            needs(*steps > 0, "a plan has a step")?;
            needs(*steps <= 16, "a plan has at most 16 steps")?;
            now.plan_digest = plan_digest.clone();
            now.planned_at = Some(entry.at);
            now.steps = (0..*steps).map(|_| StepStanding::default()).collect();
            Ok(Planned)
        }
        Event::GatesEvaluated { cleared, .. } => {
            now.cleared = *cleared;
            match phase {
                Planned | Gating | Blocked | AwaitingApproval => Ok(Gating),
                Proposing | Proposed => Ok(phase),
                _ => Err("gates are evaluated before the merge only"),
            }
        }
        Event::Blocked { .. } => match phase {
            Gating | AwaitingApproval => Ok(Blocked),
            // The forge will not have the branch or the pull request yet: the intent stays open until it does.
            Proposing if now.open.is_some() => Ok(Blocked),
            _ => Err("a gate or the forge blocks, and only before the pull request is open"),
        },
        Event::ApprovalAsked { .. } => {
            now.asked = true;
            match phase {
                Gating => Ok(AwaitingApproval),
                Proposed => Ok(Proposed),
                _ => Err("approval is asked after the gates"),
            }
        }
        Event::ApprovalGiven { .. } => {
            now.approved = true;
            match phase {
                AwaitingApproval => Ok(Gating),
                Gating | Blocked | Proposing | Proposed => Ok(phase),
                _ => Err("approval comes after the gates and before the merge"),
            }
        }
        Event::ApprovalRefused { .. } => {
            now.refused = true;
            open_ended(now).map(|()| phase)
        }
        Event::Stopped { .. } => {
            now.stopped = true;
            open_ended(now).map(|()| phase)
        }
        Event::Intent { step, effect, key, epoch, .. } => intend(now, entry, *step, *effect, key, *epoch),
        Event::Outcome { step, effect, outcome } => {
            conclude(now, *step, *effect, *outcome)?;
            Ok(if phase == Blocked { Proposing } else { phase })
        }
        Event::BranchPushed { step, branch, commit } => {
            let at = step_of(now, *step)?;
            needs(at.happened.contains(&EffectKind::PushBranch), "no push happened")?;
            at.branch = Some(branch.as_str().to_owned());
            at.commit = Some(commit.clone());
            Ok(phase)
        }
        Event::PullRequestOpened { step, url, number, draft, .. } => {
            let head = step_of(now, *step)?.commit.clone();
            let at = step_of(now, *step)?;
            needs(at.happened.contains(&EffectKind::OpenPullRequest), "no pull request was opened")?;
            needs(at.pull_request.is_none(), "one pull request per step")?;
            at.pull_request = Some(PullRequest {
                number: *number,
                url: url.as_str().to_owned(),
                draft: *draft,
                head,
                opened_at: entry.at,
            });
            match phase {
                Proposing => Ok(Proposed),
                Undoing => Ok(Undoing),
                _ => Err("a pull request is opened while proposing"),
            }
        }
        Event::PullRequestUpdated { step, draft, head } => {
            let Some(pull_request) = step_of(now, *step)?.pull_request.as_mut() else {
                return Err("there is no pull request to update");
            };
            pull_request.draft = *draft;
            pull_request.head = Some(head.clone());
            open_ended(now).map(|()| phase)
        }
        Event::Merged { step, commit } => {
            let undo = now.undo;
            let at = step_of(now, *step)?;
            needs(at.pull_request.is_some(), "only a pull request is merged")?;
            needs(at.merged.is_none() && !at.undone, "merged once")?;
            at.merged = Some(commit.clone());
            at.closed = false;
            match (phase, undo) {
                (Proposed, _) => Ok(Phase::Merged),
                (Undoing, Some((cause, _))) if cause.yields_to_a_merge() => {
                    now.undo = None;
                    Ok(Phase::Merged)
                }
                (Undoing, _) => Ok(Undoing),
                _ => Err("only a proposed change is merged"),
            }
        }
        Event::ClosedByPeople { step } => {
            let at = step_of(now, *step)?;
            needs(at.pull_request.is_some() && at.merged.is_none(), "only an open pull request is closed")?;
            at.closed = true;
            at.closed_by_people = true;
            match phase {
                Proposed | Undoing => Ok(phase),
                _ => Err("only a proposed change is closed"),
            }
        }
        Event::Applied { step, revision } => {
            let at = step_of(now, *step)?;
            needs(at.merged.is_some(), "only a merged change is applied")?;
            at.applied = Some(revision.clone());
            if phase == Phase::Merged { Ok(Phase::Applying) } else { Err("applied follows merged") }
        }
        Event::RolloutSeen { step, complete, .. } => {
            needs(phase == Phase::Applying, "a rollout follows the applied change")?;
            if !complete {
                return Ok(phase);
            }
            step_of(now, *step)?.rolled_out = true;
            Ok(if now.steps.iter().all(|step| step.rolled_out) { Verifying } else { Proposing })
        }
        Event::AbortSignal { step, .. } => {
            needs(step_of(now, *step)?.merged.is_some(), "harm is measured after the merge")?;
            open_ended(now).map(|()| phase)
        }
        Event::Verified { verdict, late: false, .. } => {
            now.verdict = Some(*verdict);
            if phase == Verifying { Ok(phase) } else { Err("a verdict follows the rollout") }
        }
        Event::Verified { verdict, late: true, .. } => {
            needs(now.late_verdict.is_none(), "a late verdict is given once")?;
            needs(*verdict != Word::Unknown, "a late verdict that knows nothing is none")?;
            now.late_verdict = Some(*verdict);
            if phase == Unverified { Ok(phase) } else { Err("only an unverified end gets a late verdict") }
        }
        Event::UndoBegan { step, cause } => {
            step_of(now, *step)?;
            open_ended(now)?;
            needs(now.undo.is_none(), "undone once")?;
            now.undo = Some((*cause, entry.at));
            Ok(Undoing)
        }
        Event::RevertOpened { step, url, number, draft } => {
            let prepare = now.prepare_revert;
            let at = step_of(now, *step)?;
            needs(at.happened.contains(&EffectKind::OpenRevert), "no revert was opened")?;
            needs(at.revert.is_none(), "one revert per step")?;
            at.revert = Some(PullRequest {
                number: *number,
                url: url.as_str().to_owned(),
                draft: *draft,
                head: None,
                opened_at: entry.at,
            });
            match phase {
                Undoing => Ok(phase),
                _ if phase.ending().is_some() && prepare => Ok(phase),
                _ => Err("a revert is opened while undoing, or prepared after the end"),
            }
        }
        Event::RevertMerged { step, commit } => {
            let at = step_of(now, *step)?;
            needs(at.revert.is_some(), "there is no revert to merge")?;
            at.revert_merged = Some(commit.clone());
            if phase == Undoing { Ok(phase) } else { Err("a revert is merged while undoing") }
        }
        Event::Undone { step } => {
            needs(phase == Undoing, "only an undo undoes")?;
            needs(now.open.is_none(), "an open intent may still act")?;
            let at = step_of(now, *step)?;
            needs(at.merged.is_none() || at.revert_merged.is_some(), "a merged change is undone by its revert")?;
            at.undone = true;
            Ok(phase)
        }
        Event::Ended { ending, prepare_revert } => {
            open_ended(now)?;
            end(now, *ending)?;
            now.prepare_revert = *prepare_revert;
            Ok(match ending {
                Ending::Succeeded => Succeeded,
                Ending::Rejected => Rejected,
                Ending::Withdrawn => Withdrawn,
                Ending::RolledBack => RolledBack,
                Ending::Unverified => Unverified,
                Ending::Held => Held,
                Ending::Stuck => Stuck,
            })
        }
        Event::Paged { about, .. } => {
            now.paged.insert(about.as_str().to_owned());
            Ok(phase)
        }
        Event::Note { .. } => Ok(phase),
    }
}

/// Whether the given end is an honest one.
fn end(now: &Standing, ending: Ending) -> Result<(), &'static str> {
    let holds = match ending {
        Ending::Succeeded => now.phase == Phase::Verifying && now.verdict == Some(Word::Pass) && now.open.is_none(),
        Ending::Unverified => now.is_merged() && now.undo.is_none(),
        Ending::Rejected => {
            let said_no = now.refused || now.steps.iter().any(|step| step.closed_by_people);
            said_no && !now.is_live()
        }
        Ending::Withdrawn => {
            let nothing_acted = |(cause, _): (UndoCause, _)| cause.ending(now.was_merged()) == Ending::Withdrawn;
            !now.is_live() && now.undo.is_none_or(nothing_acted)
        }
        // Whether anything was merged is not asked: journals from before that was told apart stay true.
        Ending::RolledBack => {
            !now.is_live() && now.undo.is_some_and(|(cause, _)| cause.ending(true) == Ending::RolledBack)
        }
        Ending::Held | Ending::Stuck => true,
    };
    if holds { Ok(()) } else { Err("the entries before do not support this ending") }
}

fn intend(
    now: &mut Standing,
    entry: &Entry,
    step: u32,
    effect: EffectKind,
    key: &str,
    epoch: u64,
) -> Result<Phase, &'static str> {
    if epoch < now.epoch {
        return Err("a newer leader has taken over");
    }
    let mut at = entry.at;
    if let Some(open) = &now.open {
        if (open.step, open.effect) != (step, effect) || epoch <= open.epoch {
            return Err("another intent has no outcome yet");
        }
        at = open.at;
    }
    let next = phase_of_intent(now, effect)?;
    let standing = step_of(now, step)?;
    if standing.undone || standing.happened.contains(&effect) {
        return Err("the effect has happened already");
    }
    standing.begun = true;
    if effect == EffectKind::PushBranch {
        standing.authored_at.get_or_insert(at);
    }
    if matches!(effect, EffectKind::PushBranch | EffectKind::OpenPullRequest) {
        standing.reached_out_at = Some(entry.at);
    }
    if effect == EffectKind::OpenRevert {
        standing.revert_authored_at.get_or_insert(at);
    }
    now.open = Some(OpenIntent { step, effect, key: key.to_owned(), epoch, at });
    now.epoch = epoch;
    Ok(next)
}

fn phase_of_intent(now: &Standing, effect: EffectKind) -> Result<Phase, &'static str> {
    match (effect, now.phase) {
        (EffectKind::PushBranch, Phase::Gating | Phase::Proposing) => Ok(Phase::Proposing),
        (EffectKind::OpenPullRequest, Phase::Proposing) => Ok(Phase::Proposing),
        // Taken over by a later leader while the forge will not have it.
        (EffectKind::PushBranch | EffectKind::OpenPullRequest, Phase::Blocked) if now.open.is_some() => {
            Ok(Phase::Blocked)
        }
        (EffectKind::MarkReady | EffectKind::MergePullRequest, Phase::Proposed) => Ok(Phase::Proposed),
        (effect, Phase::Undoing) if effect.undoes() => Ok(Phase::Undoing),
        (EffectKind::OpenRevert, phase) if phase.ending().is_some() && now.prepare_revert => Ok(phase),
        _ => Err("this deed does not belong to this phase"),
    }
}

fn conclude(now: &mut Standing, step: u32, effect: EffectKind, outcome: Outcome) -> Result<(), &'static str> {
    let matches = now.open.as_ref().is_some_and(|open| (open.step, open.effect) == (step, effect));
    if !matches {
        return Err("an outcome needs its open intent");
    }
    let standing = step_of(now, step)?;
    match outcome {
        Outcome::Happened => {
            standing.happened.push(effect);
            match effect {
                EffectKind::ClosePullRequest => standing.closed = true,
                EffectKind::MarkReady => {
                    if let Some(pull_request) = standing.pull_request.as_mut() {
                        pull_request.draft = false;
                    }
                }
                EffectKind::PushBranch
                | EffectKind::OpenPullRequest
                | EffectKind::MergePullRequest
                | EffectKind::DeleteBranch
                | EffectKind::OpenRevert
                | EffectKind::MergeRevert => {}
            }
            now.open = None;
        }
        Outcome::DidNot => {
            standing.did_not.push(effect);
            now.open = None;
        }
        // Stays open: nobody may act on this step again, and only `Held` can follow.
        Outcome::CannotTell => {}
    }
    Ok(())
}

fn open_ended(now: &Standing) -> Result<(), &'static str> {
    match now.phase.ending() {
        None => Ok(()),
        Some(_) => Err("it has ended"),
    }
}

fn step_of(now: &mut Standing, step: u32) -> Step<'_> {
    usize::try_from(step).ok().and_then(|at| now.steps.get_mut(at)).ok_or("the plan has no such step")
}

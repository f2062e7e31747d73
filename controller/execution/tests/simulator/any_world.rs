//! A world without any sense: whatever is observed, deciding neither fails nor breaks a rule.

use amend_diagnosis::evidence::{Answer, Window};
use amend_execution::decide::decide;
use amend_execution::effect::Effect;
use amend_execution::journal::{
    Actor, ENTRIES_MAX, EffectKind, Ending, Entry, Event, Journal, Outcome, UndoCause, Word,
};
use amend_execution::phase::incident::{CauseState, Found, IncidentFacts, IncidentPhase, incident_phase};
use amend_execution::phase::{Phase, standing};
use amend_execution::snapshot::{
    BranchSeen, Done, ForgeSeen, GitOpsSeen, MergeState, PolicyState, PullRequestSeen, PullRequestState, Report,
    Reported, RolloutState, Room, Said, SaidWord, Snapshot, TargetState,
};
use amend_execution::verify::{AbortReading, Breach, Relation, Verification};
use amend_policies::policy::Autonomy;
use amend_policies::verdict::Readiness;
use jiff::SignedDuration;
use proptest::prelude::*;

use crate::controller::Simulation;
use crate::script::scripts;
use crate::world::at;

/// Choices drawn from one number after another; the same numbers give the same world.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        // Knuth's MMIX multiplier; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn one<T>(&mut self, mut of: Vec<T>) -> T {
        let at = self.below(of.len() as u64) as usize;
        of.swap_remove(at)
    }

    fn answer<T>(&mut self, value: T) -> Answer<T> {
        if self.below(5) == 0 { Answer::unknown("nobody answered") } else { Answer::Known(value) }
    }

    fn truth(&mut self) -> bool {
        self.below(2) == 0
    }

    fn pull(&mut self) -> Option<PullRequestSeen> {
        let state = self.one(vec![
            PullRequestState::Open,
            PullRequestState::Open,
            PullRequestState::Merged { commit: "m".into(), by: None },
            PullRequestState::Closed { by: Some("ada".into()) },
        ]);
        let merge = self.one(vec![
            MergeState::Ready,
            MergeState::Waiting { why: "checks".into() },
            MergeState::NeedsPeople { why: "reviews".into() },
        ]);
        let (draft, head) = (self.truth(), self.one(vec!["ours".to_owned(), "theirs".into()]));
        let seen =
            PullRequestSeen { number: 7, url: "https://forge/7".into(), state, draft, head, merge, statuses: None };
        (self.below(4) > 0).then_some(seen)
    }

    fn forge(&mut self) -> ForgeSeen {
        let branch = self.one(vec![
            BranchSeen::Absent,
            BranchSeen::Ours { commit: "ours".into() },
            BranchSeen::Ours { commit: "ours".into() },
            BranchSeen::Foreign { commit: "theirs".into() },
        ]);
        let room = if self.below(8) == 0 { Room::None { why: "the cap".into() } } else { Room::Free };
        ForgeSeen { branch, pull_request: self.pull(), revert: self.pull(), room }
    }

    fn reported(&mut self, effect: EffectKind) -> Reported {
        let done = match effect {
            EffectKind::PushBranch => Done::Pushed { commit: "ours".into() },
            EffectKind::OpenPullRequest => {
                Done::Opened { number: 7, url: "https://forge/7".into(), draft: self.truth(), adopted: self.truth() }
            }
            EffectKind::MarkReady => Done::Ready,
            EffectKind::MergePullRequest => Done::Merged { commit: "m".into(), by: None },
            EffectKind::ClosePullRequest => Done::Closed,
            EffectKind::DeleteBranch => Done::BranchDeleted,
            EffectKind::OpenRevert => {
                Done::RevertOpened { number: 8, url: "https://forge/8".into(), draft: self.truth() }
            }
            EffectKind::MergeRevert => Done::RevertMerged { commit: "r".into() },
        };
        match self.below(9) {
            3 => Reported::Waits { why: "no token".into(), after: SignedDuration::from_secs(90) },
            0 => Reported::Later { why: "429".into(), after: SignedDuration::from_secs(9) },
            1 => Reported::Never { why: "403".into() },
            2 => Reported::CannotTell { why: "odd".into() },
            _ => Reported::Done(done),
        }
    }

    /// Replaces what was observed by anything at all.
    fn scramble(&mut self, snapshot: &mut Snapshot) {
        snapshot.terms.autonomy = self.one(vec![Autonomy::Propose, Autonomy::Act, Autonomy::Act]);
        snapshot.terms.approval_before_merging = self.below(4) == 0;
        snapshot.readiness = match self.below(6) {
            0 => Readiness::Blocked { reasons: vec!["fits: no".into()] },
            1 => Readiness::Draft { gaps: vec!["dependents".into()] },
            _ => Readiness::Ready,
        };
        let word = self.one(vec![SaidWord::Approve, SaidWord::Refuse, SaidWord::Stop]);
        let mut said = snapshot.approvals.known().cloned().unwrap_or_default();
        if self.below(12) == 0 {
            said.push(Said { word, approval: "a".into(), by: "ada".into(), reason: "so".into() });
        }
        snapshot.approvals = self.answer(said);
        let policy = self.one(vec![PolicyState::Current; 12]);
        let policy = if self.below(20) == 0 { PolicyState::Suspended } else { policy };
        snapshot.orders.policy = self.answer(policy);
        let target = if self.below(40) == 0 { TargetState::Gone } else { TargetState::Same };
        snapshot.orders.target = self.answer(target);
        let (red, hold, may) = (self.below(12) == 0, self.below(12) == 0, self.below(12) > 0);
        snapshot.orders.kill_switch = self.answer(red);
        snapshot.orders.hold = self.answer(hold.then(|| "amend.dev/hold".to_owned()));
        let (may_merge, silence) = (self.below(12) > 0, self.below(12) == 0);
        snapshot.orders.may_merge = self.answer(may_merge);
        snapshot.orders.silence = self.answer(silence.then(|| "a silence".to_owned()));
        snapshot.orders.may_undo = self.answer(may);
        let seen = self.forge();
        snapshot.forge = self.answer(seen);
        let gitops = GitOpsSeen {
            applied_revision: "main@1".into(),
            contains_merge: {
                let value = self.truth();
                self.answer(value)
            },
            live_is_planned: {
                let value = self.truth();
                self.answer(value)
            },
            contains_revert: {
                let value = self.truth();
                self.answer(value)
            },
            live_is_back: {
                let value = self.truth();
                self.answer(value)
            },
            foreign_commits: {
                let value = if self.below(6) == 0 { vec!["f00".to_owned()] } else { vec![] };
                self.answer(value)
            },
            message: None,
        };
        snapshot.gitops = self.answer(gitops);
        let rollout = RolloutState { complete: self.truth(), stuck: None, updated: 1, available: 1, desired: 3 };
        snapshot.rollout = self.answer(rollout);
        if self.below(12) == 0 {
            snapshot.abort = vec![AbortReading {
                metric: "errorRatio".into(),
                relation: Relation::Target,
                breach: Breach::Breached,
                before: f64::NAN,
                during: 1.0,
                sentence: "\u{202e}`@everyone` \"\\\n".repeat(200),
            }];
        }
        let found = Verification {
            verdict: self.one(vec![Word::Pass, Word::Fail, Word::Unknown]),
            sentence: "\"".repeat(5000),
            metrics: vec![],
            window: Window { from: snapshot.now, to: snapshot.now },
            settled_at: snapshot.now,
        };
        snapshot.verification = self.answer(found);
        let cause = if self.below(30) == 0 { CauseState::AbsentSince { since: at(0) } } else { CauseState::Present {} };
        snapshot.cause = self.answer(cause);
    }
}

/// Lives through one senseless world, and says how it ended.
fn live(seed: u64) -> Option<Ending> {
    let mut draw = Draw(seed);
    let story = draw.below(scripts().len() as u64) as usize;
    let mut simulation = Simulation::new(scripts().swap_remove(story), vec![]);
    let mut reports = Vec::new();
    let mut now = 0;
    for round in 0..300 {
        let mut snapshot = simulation.snapshot();
        draw.scramble(&mut snapshot);
        snapshot.now = at(now);
        snapshot.reports = std::mem::take(&mut reports);
        snapshot.epoch = 1 + round / 40;
        let before = standing(&snapshot.journal).unwrap();
        let decision = decide(&snapshot).unwrap_or_else(|error| panic!("{error:?} after {:#?}", snapshot.journal));
        simulation.journal.extend(&decision.append).unwrap();
        assert!(simulation.journal.len() <= ENTRIES_MAX);
        let red = snapshot.orders.kill_switch != Answer::Known(false);
        let heard = matches!(snapshot.approvals, Answer::Known(_));
        for effect in &decision.effects {
            if let Effect::AppendRecord { through } = effect {
                simulation.durable = through + 1;
            }
            if let Effect::Page { key, .. } = effect {
                reports.push(Report::Paged { key: key.clone(), to: "oncall".into() });
            }
            if let Some((kind, key)) = effect.journaled() {
                assert!(!red, "{kind:?} under the red button");
                assert!(heard || kind.undoes(), "{kind:?} although nobody knows whether a person said stop");
                let done: Vec<_> = before.steps.iter().flat_map(|step| &step.happened).collect();
                assert!(simulation.world.script.steps > 1 || !done.contains(&&kind), "{kind:?} again");
                let result = draw.reported(kind);
                reports.push(Report::Effect { key: key.to_owned(), effect: kind, result });
            }
        }
        if let Some(ending) = before.phase.ending() {
            assert_eq!(decision.status.phase.ending(), Some(ending), "an ending is for good");
        }
        now += decision.wake.map_or(60, |wake| wake.as_secs().max(1)) * (1 + draw.below(40) as i64);
    }
    standing(&simulation.journal).unwrap().phase.ending()
}

#[test]
fn a_senseless_world_reaches_every_ending_but_the_one_that_needs_a_story() {
    let mut endings: Vec<_> = (0..600).filter_map(live).collect();
    endings.sort();
    endings.dedup();
    // Not RolledBack: a merge, harm, a merged revert and its arrival in a row are too much luck; the stories reach it.
    let wanted = [Ending::Succeeded, Ending::Rejected, Ending::Withdrawn, Ending::Unverified];
    for ending in wanted.into_iter().chain([Ending::Held, Ending::Stuck]) {
        assert!(endings.contains(&ending), "{ending:?} is never reached, only {endings:?}");
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let effect = prop::sample::select(vec![
        EffectKind::PushBranch,
        EffectKind::OpenPullRequest,
        EffectKind::MarkReady,
        EffectKind::MergePullRequest,
        EffectKind::ClosePullRequest,
        EffectKind::DeleteBranch,
        EffectKind::OpenRevert,
        EffectKind::MergeRevert,
    ]);
    let outcome = prop::sample::select(vec![Outcome::Happened, Outcome::DidNot, Outcome::CannotTell]);
    let ending = prop::sample::select(vec![Ending::Succeeded, Ending::Held, Ending::Withdrawn, Ending::RolledBack]);
    (0..24_u8, 0..3_u32, effect, outcome, ending, any::<bool>()).prop_map(
        |(kind, step, effect, outcome, ending, yes)| {
            let commit = "c".to_owned();
            match kind {
                0 => Event::Planned { plan_digest: "p".into(), steps: step },
                1 | 2 => Event::GatesEvaluated { gates: vec![], cleared: yes },
                3 => Event::Blocked { gates: vec![] },
                4 => Event::ApprovalAsked { question: "?".into() },
                5 => Event::ApprovalGiven { approval: "a".into() },
                6 => Event::ApprovalRefused { approval: "a".into() },
                7 => Event::Stopped { approval: "a".into() },
                8..=10 => Event::Intent { step, effect, key: "k".into(), epoch: 1, pre_image: None },
                11 | 12 => Event::Outcome { step, effect, outcome },
                13 => Event::BranchPushed { step, branch: "b".into(), commit },
                14 => Event::PullRequestOpened { step, url: "u".into(), number: 1, draft: yes, adopted: yes },
                15 => Event::Merged { step, commit },
                16 => Event::ClosedByPeople { step },
                17 => Event::Applied { step, revision: "r".into() },
                18 => Event::RolloutSeen { step, complete: yes, updated: 1, available: 1, desired: 1 },
                19 => Event::Verified { verdict: Word::Pass, late: yes, metrics: vec![] },
                20 => Event::UndoBegan { step, cause: UndoCause::Aborted },
                21 => Event::RevertOpened { step, url: "u".into(), number: 2, draft: yes },
                22 => Event::Undone { step },
                _ => Event::Ended { ending, prepare_revert: yes },
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_entries_fold_or_are_refused_but_never_panic(events in prop::collection::vec(any_event(), 1..40)) {
        let mut journal = Journal::default();
        journal.append(at(0), Actor::amend("a"), "", Event::Planned { plan_digest: "p".into(), steps: 2 }).unwrap();
        for event in events {
            let next = Entry { seq: journal.next_seq(), at: at(1), actor: Actor::amend("a"), because: "".into(), event };
            let folded = standing(&journal).unwrap();
            if let Ok(after) = folded.clone().after(&next) {
                if after.phase == Phase::Succeeded {
                    prop_assert_eq!(after.verdict, Some(Word::Pass));
                }
                journal.extend(&[next]).unwrap();
                prop_assert_eq!(standing(&journal).unwrap(), after);
            }
        }
    }

    #[test]
    fn an_incident_comes_to_rest_whatever_the_facts(
        phase in 0..9_u8, symptoms in 0..3_u8, found in 0..3_u8, cause in 0..4_u8, remediation in 0..18_u8,
    ) {
        use amend_diagnosis::incident::Clearing;
        let now = at(10_000);
        let phases = [
            IncidentPhase::Open, IncidentPhase::Diagnosing, IncidentPhase::Diagnosed, IncidentPhase::Abstained,
            IncidentPhase::Remediating, IncidentPhase::Mitigated, IncidentPhase::Resolved, IncidentPhase::Dropped,
            IncidentPhase::Joined,
        ];
        let remediations = [
            Phase::Planned, Phase::Gating, Phase::Blocked, Phase::AwaitingApproval, Phase::Proposing, Phase::Proposed,
            Phase::Merged, Phase::Applying, Phase::Verifying, Phase::Undoing, Phase::Succeeded, Phase::Rejected,
            Phase::Withdrawn, Phase::RolledBack, Phase::Unverified, Phase::Held, Phase::Stuck,
        ];
        let facts = IncidentFacts {
            now,
            symptoms: match symptoms {
                0 => Clearing::Firing,
                1 => Clearing::Quiet { until: at(10_100) },
                _ => Clearing::Cleared { since: at(9_000) },
            },
            joined_to: None,
            heard: "an alert".into(),
            found: match found {
                0 => Found::NothingYet { since: Some(now) },
                1 => Found::Cause { sentence: "c".into() },
                _ => Found::Abstained { why: "w".into(), at: at(10_000) },
            },
            diagnose_within: SignedDuration::from_secs(30),
            cause: match cause {
                0 => Answer::unknown("away"),
                1 => Answer::Known(CauseState::Present {}),
                2 => Answer::Known(CauseState::AbsentSince { since: at(0) }),
                _ => Answer::Known(CauseState::AbsentSince { since: now }),
            },
            absent_for: amend_execution::phase::incident::ABSENT_FOR,
            remediation: remediations.get(usize::from(remediation)).copied(),
        };
        let mut at_phase = phases[usize::from(phase)];
        for _ in 0..6 {
            let next = incident_phase(at_phase, &facts);
            prop_assert!(!next.because.is_empty());
            prop_assert!(!at_phase.is_end() || next.phase == at_phase);
            at_phase = next.phase;
        }
        prop_assert_eq!(incident_phase(at_phase, &facts).phase, at_phase, "it does not come to rest");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_senseless_world_breaks_a_rule(seed in any::<u64>()) {
        live(seed);
    }
}

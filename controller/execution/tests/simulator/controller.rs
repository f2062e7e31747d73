//! A controller as small as can be: gathers, decides, writes, performs, and can be made to fail at every point.

use amend_diagnosis::evidence::Answer;
use amend_execution::decide::{Decision, decide};
use amend_execution::effect::{Clearance, Effect};
use amend_execution::journal::{EffectKind, Event, Journal, PreImage};
use amend_execution::phase::{Standing, standing};
use amend_execution::snapshot::{
    Orders, PolicyState, Report, Reported, Said, SaidWord, Snapshot, StepTerms, TargetState, Terms,
};
use amend_policies::plan::Escalate;
use amend_policies::policy::{Autonomy, Sla};
use amend_policies::verdict::{GateName, Readiness, Verdict};
use jiff::SignedDuration;

use crate::script::Script;
use crate::world::{World, at};

/// What can go wrong at one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies before the write or the deed.
    CrashBefore,
    /// It dies after it, before it could write down that it happened.
    CrashAfter,
    /// It dies, and its request arrives 45 s later.
    Zombie,
    /// The write conflicts, or the forge asks to come again.
    Later,
    /// The forge refuses until people mend something (a write conflicts).
    Waits,
    /// The forge refuses for good (a write conflicts).
    Never,
    /// The forge shows something inexplicable (a write conflicts).
    CannotTell,
}

pub const FAULTS: [Fault; 7] =
    [Fault::CrashBefore, Fault::CrashAfter, Fault::Zombie, Fault::Later, Fault::Waits, Fault::Never, Fault::CannotTell];

/// One remediation with its controller and its world.
pub struct Simulation {
    pub world: World,
    pub journal: Journal,
    pub durable: u32,
    epoch: u64,
    reports: Vec<Report>,
    /// Faults still to come: number of the point, and what happens there.
    faults: Vec<(u32, Fault)>,
    /// Points passed so far: each write and each deed is one.
    pub points: u32,
    pub rounds: u32,
}

/// What one round came to.
enum Round {
    Went(Box<Decision>),
    /// The write lost against another one; nothing was performed.
    Conflict,
    Crashed,
}

impl Simulation {
    pub fn new(script: Script, faults: Vec<(u32, Fault)>) -> Self {
        let world = World::new(script);
        Self { world, journal: Journal::default(), durable: 0, epoch: 1, reports: vec![], faults, points: 0, rounds: 0 }
    }

    /// Runs until it has ended and owes nothing.
    pub fn run(mut self) -> Self {
        // Longer than every clock of the scripts; far more rounds than a healthy run takes.
        while self.world.now < 90 * 3600 && self.rounds < 4000 {
            self.rounds += 1;
            match self.round() {
                Round::Crashed => {
                    self.reports.clear();
                    self.epoch += 1;
                    self.world.pass(self.world.now + 10);
                }
                Round::Conflict => self.world.pass(self.world.now + 1),
                Round::Went(decision) => {
                    let Some(wake) = decision.wake else {
                        if self.world.under_way.is_empty() {
                            break;
                        }
                        self.world.pass(self.world.now + 60);
                        continue;
                    };
                    self.world.pass(self.next_moment(&decision, wake));
                }
            }
        }
        self
    }

    /// Skips idle time: to the next thing that happens, the deadline or, while something goes on, the wake.
    fn next_moment(&self, decision: &Decision, wake: SignedDuration) -> i64 {
        let now = self.world.now;
        let soon = now + wake.as_secs().max(1);
        let asks = decision.effects.iter().any(|effect| !matches!(effect, Effect::SetCommitStatus { .. }));
        let busy = asks || !decision.append.is_empty() || !self.reports.is_empty();
        if busy || self.open_intent() {
            return soon;
        }
        let deadline = decision.status.deadline.map(|deadline| deadline.duration_since(at(0)).as_secs());
        let next = [self.world.next_event(), deadline].into_iter().flatten().filter(|moment| *moment > now).min();
        next.unwrap_or(now + 3600)
    }

    fn open_intent(&self) -> bool {
        self.standing().open.is_some()
    }

    pub fn standing(&self) -> Standing {
        standing(&self.journal).unwrap()
    }

    fn round(&mut self) -> Round {
        let snapshot = self.snapshot();
        let decision = decide(&snapshot).unwrap();
        assert_eq!(decide(&snapshot).unwrap(), decision, "the same snapshot gives the same decision");
        let pages = decision.effects.iter().map(|effect| matches!(effect, Effect::Page { .. }));
        assert!(pages.is_sorted(), "somebody waits for the pager: {:?}", decision.effects);
        self.reports.clear();
        if !decision.append.is_empty() {
            match self.fault() {
                Some(Fault::CrashBefore | Fault::Zombie) => return Round::Crashed,
                Some(Fault::Later | Fault::Waits | Fault::Never | Fault::CannotTell) => return Round::Conflict,
                Some(Fault::CrashAfter) => {
                    self.journal.extend(&decision.append).unwrap();
                    return Round::Crashed;
                }
                None => self.journal.extend(&decision.append).unwrap(),
            }
        }
        for effect in &decision.effects {
            if !self.perform(effect) {
                return Round::Crashed;
            }
        }
        Round::Went(Box::new(decision))
    }

    /// Performs one effect; false when the process died over it.
    fn perform(&mut self, effect: &Effect) -> bool {
        if let Effect::AppendRecord { through } = effect {
            self.durable = through + 1;
            return true;
        }
        if let Effect::Page { key, .. } = effect {
            return match self.fault() {
                Some(Fault::CrashBefore | Fault::Zombie) => false,
                Some(Fault::Later | Fault::Waits | Fault::Never | Fault::CannotTell) => true,
                fault => {
                    self.world.pages += 1;
                    self.reports.push(Report::Paged { key: key.clone(), to: "oncall".into() });
                    fault.is_none()
                }
            };
        }
        let Some((kind, key)) = effect.journaled() else { return true };
        let key = key.to_owned();
        self.check_leave(effect, kind, &key);
        let result = match self.fault() {
            Some(Fault::CrashBefore) => return false,
            Some(Fault::CrashAfter) => {
                self.world.perform(effect);
                return false;
            }
            Some(Fault::Zombie) => {
                self.world.under_way.push((self.world.now + 45, effect.clone()));
                return false;
            }
            Some(Fault::Later) => Reported::Later { why: "429".into(), after: SignedDuration::from_secs(20) },
            Some(Fault::Waits) => Reported::Waits { why: "403".into(), after: SignedDuration::from_mins(2) },
            Some(Fault::Never) => Reported::Never { why: "403".into() },
            Some(Fault::CannotTell) => Reported::CannotTell { why: "something else is there".into() },
            // Twice is once.
            None => {
                let first = self.world.perform(effect);
                self.world.perform(effect);
                first
            }
        };
        self.reports.push(Report::Effect { key, effect: kind, result });
        true
    }

    /// What must hold before any deed: a durable intent, no red button, and for doing the gates and nobody who said no.
    fn check_leave(&self, effect: &Effect, kind: EffectKind, key: &str) {
        let intent = self.journal.entries().iter().rev().find(|entry| match &entry.event {
            Event::Intent { effect, key: known, .. } => *effect == kind && known == key,
            _ => false,
        });
        let intent = intent.unwrap_or_else(|| panic!("{kind:?} without an intent"));
        assert!(intent.seq < self.durable, "{kind:?} before its intent's record was durable");
        let Event::Intent { epoch, .. } = intent.event else { unreachable!() };
        assert_eq!(epoch, self.epoch, "{kind:?} under the intent of another leader");
        let script = &self.world.script;
        let now = self.world.now;
        assert!(!script.kill_switch.is_some_and(|(from, to)| now >= from && now < to), "{kind:?} under the red button");
        match effect.clearance() {
            Clearance::Cleared => assert_eq!(self.readiness(), Readiness::Ready),
            Clearance::ClearedForDraft => assert!(!matches!(self.readiness(), Readiness::Blocked { .. })),
            Clearance::NotNeeded => {}
        }
        let said_no = [script.stop, script.refuse].into_iter().flatten().any(|moment| moment <= now);
        assert!(kind.undoes() || !said_no, "{kind:?} after a person said no");
    }

    fn fault(&mut self) -> Option<Fault> {
        let point = self.points;
        self.points += 1;
        let found = self.faults.iter().position(|(planned, _)| *planned == point)?;
        Some(self.faults.swap_remove(found).1)
    }

    fn readiness(&self) -> Readiness {
        let script = &self.world.script;
        if script.blocked_until.is_some_and(|until| self.world.now < until) {
            return Readiness::Blocked { reasons: vec!["fits: no room".into()] };
        }
        match script.gap_until {
            Some(until) if self.world.now < until && script.autonomy == Autonomy::Propose => {
                Readiness::Draft { gaps: vec!["blastRadius: dependents unknown".into()] }
            }
            Some(_) | None => Readiness::Ready,
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        let (script, now) = (&self.world.script, self.world.now);
        let focus = self.standing().step_in_focus();
        let said = |word, moment: Option<i64>| {
            moment.filter(|moment| *moment <= now).map(|_| Said {
                word,
                approval: format!("{word:?}").to_lowercase(),
                by: "ada".into(),
                reason: "because I say so".into(),
            })
        };
        let approvals = [
            said(SaidWord::Approve, script.approve),
            said(SaidWord::Refuse, script.refuse),
            said(SaidWord::Stop, script.stop),
        ];
        let policy = match script.policy_changed {
            Some(moment) if moment <= now => PolicyState::Changed,
            Some(_) | None => PolicyState::Current,
        };
        Snapshot {
            now: at(now),
            replica: format!("amend-{}", self.epoch),
            epoch: self.epoch,
            terms: terms(script),
            journal: self.journal.clone(),
            durable: self.durable,
            verdicts: vec![Verdict::pass(GateName::Permission, "patch", "may")],
            readiness: self.readiness(),
            approvals: Answer::Known(approvals.into_iter().flatten().collect()),
            orders: Orders {
                incident_deleted: script.incident_deleted.is_some_and(|moment| moment <= now),
                policy: Answer::Known(policy),
                target: Answer::Known(TargetState::Same),
                rewritten: Answer::Known(false),
                edited: self.world.edited(),
                kill_switch: Answer::Known(script.kill_switch.is_some_and(|(from, to)| now >= from && now < to)),
                hold: Answer::Known(None),
                silence: match script.silent_from {
                    Some(from) if from <= now => Answer::unknown("Alertmanager does not answer"),
                    Some(_) | None => Answer::Known(None),
                },
                record_copy_lag: Answer::Known(SignedDuration::ZERO),
                may_undo: Answer::Known(true),
                may_merge: Answer::Known(script.merge_right_until.is_none_or(|until| now < until)),
            },
            forge: self.world.forge(focus),
            gitops: self.world.gitops(focus),
            rollout: self.world.rollout(focus),
            abort: self.world.abort(),
            verification: self.world.verification(),
            cause: self.world.cause(),
            absent_for: amend_execution::phase::incident::ABSENT_FOR,
            reports: self.reports.clone(),
        }
    }
}

fn terms(script: &Script) -> Terms {
    let step = |step: u32| StepTerms {
        key: format!("key{step}"),
        branch: format!("amend/key{step}"),
        pre_image: PreImage { base_commit: "base".into(), blobs: vec!["a.yaml@b10b".into()] },
    };
    Terms {
        plan_digest: "ab".repeat(32),
        autonomy: script.autonomy,
        steps: (0..script.steps).map(step).collect(),
        limits: Sla::default(),
        rollback_on: script.rollback_on.clone(),
        escalate: vec![Escalate { after: SignedDuration::from_mins(15), notify: vec!["oncall".into()] }],
        approval_before_proposing: script.must_approve,
        approval_before_merging: false,
    }
}

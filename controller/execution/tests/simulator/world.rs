//! A small world: people, a forge, a GitOps controller, a workload and its metrics, all driven by one script and a clock.

use std::collections::BTreeMap;

use amend_diagnosis::evidence::{Answer, Window};
use amend_execution::effect::Effect;
use amend_execution::journal::{EffectKind, Word};
use amend_execution::phase::incident::CauseState;
use amend_execution::snapshot::{
    BranchSeen, Done, Edited, EditedBy, ForgeSeen, GitOpsSeen, MergeState, PullRequestSeen, PullRequestState, Reported,
    RolloutState, Room,
};
use amend_execution::verify::{AbortReading, Breach, Relation, Verification};
use jiff::{SignedDuration, Timestamp};

use crate::script::{Edit, Script};

/// A second of the story, counted from its beginning.
pub type Second = i64;

pub fn at(second: Second) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// One proposal at the forge.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Site {
    pub branch: Option<(String, Second)>,
    pub pull_request: Option<Pull>,
    pub revert: Option<Pull>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pull {
    pub number: u64,
    pub draft: bool,
    pub opened: Second,
    pub merged: Option<Second>,
    pub closed: Option<Second>,
    pub closed_by_people: bool,
}

/// Everything outside the controller. Survives every crash.
#[derive(Clone, Debug)]
pub struct World {
    pub script: Script,
    pub now: Second,
    pub sites: BTreeMap<u32, Site>,
    /// Deeds that changed something, by action key: what an independent witness would have written down.
    pub ledger: Vec<(String, EffectKind)>,
    /// Deeds of processes that died, still on their way.
    pub under_way: Vec<(Second, Effect)>,
    pub pages: u32,
    next_number: u64,
}

impl World {
    pub fn new(script: Script) -> Self {
        let sites = (0..script.steps).map(|step| (step, Site::default())).collect();
        Self { script, now: 0, sites, ledger: Vec::new(), under_way: Vec::new(), pages: 0, next_number: 1 }
    }

    /// Lets time pass and everybody do what the script says.
    pub fn pass(&mut self, to: Second) {
        let due: Vec<_> = self.under_way.iter().filter(|(when, _)| *when <= to).cloned().collect();
        self.under_way.retain(|(when, _)| *when > to);
        for (when, effect) in due {
            self.now = self.now.max(when);
            self.perform(&effect);
        }
        self.now = self.now.max(to);
        let script = self.script.clone();
        for site in self.sites.values_mut() {
            if let Some(pull) = site.pull_request.as_mut().filter(|pull| pull.is_open()) {
                if let Some(after) = script.people_close.filter(|after| pull.opened + after <= self.now) {
                    pull.closed = Some(pull.opened + after);
                    pull.closed_by_people = true;
                } else if let Some(after) =
                    script.people_merge.filter(|after| pull.opened + after <= self.now && !pull.draft)
                {
                    pull.merged = Some(pull.opened + after);
                }
            }
            if let Some(pull) = site.revert.as_mut().filter(|pull| pull.is_open() && !pull.draft) {
                if let Some(after) = script.people_close_revert.filter(|after| pull.opened + after <= self.now) {
                    pull.closed = Some(pull.opened + after);
                } else if let Some(after) = script.people_merge_revert.filter(|after| pull.opened + after <= self.now) {
                    pull.merged = Some(pull.opened + after);
                }
            }
        }
    }

    /// The next moment at which something happens by itself.
    pub fn next_event(&self) -> Option<Second> {
        let script = &self.script;
        let mut moments: Vec<Second> = self.under_way.iter().map(|(when, _)| *when).collect();
        for site in self.sites.values() {
            for (pull, merge, close) in [
                (&site.pull_request, script.people_merge, script.people_close),
                (&site.revert, script.people_merge_revert, script.people_close_revert),
            ] {
                let Some(pull) = pull else { continue };
                for after in [merge, close, Some(script.lag), Some(91)].into_iter().flatten() {
                    moments.push(pull.opened + after);
                }
                if let (Some(merged), Some(apply)) = (pull.merged, script.apply) {
                    let rolled = merged + apply + script.rollout.unwrap_or(0);
                    moments.extend([merged + apply, rolled, rolled + SETTLE]);
                }
            }
        }
        moments.extend(
            [script.gap_until, script.blocked_until, script.cause_gone, script.stop, script.refuse].iter().flatten(),
        );
        moments.extend([script.capped_until, script.token_mended].iter().flatten());
        moments.extend(script.cause_gone.map(|gone| gone + 1800));
        moments.extend(
            [script.approve, script.policy_changed, script.incident_deleted, script.data_back].iter().flatten(),
        );
        moments.extend(script.edited.iter().flat_map(|(moment, _)| [*moment, moment + 90]));
        moments.extend(script.kill_switch.iter().flat_map(|(from, to)| [*from, *to]));
        moments.extend(script.forge_down.iter().flat_map(|(from, to)| [*from, *to]));
        moments.into_iter().filter(|moment| *moment > self.now).min()
    }

    /// Does a deed as the real adapters do: looks first, and changes nothing when it is there already.
    pub fn perform(&mut self, effect: &Effect) -> Reported {
        let now = self.now;
        let number = self.next_number;
        let Some((kind, key)) = effect.journaled() else { return Reported::Done(Done::Ready) };
        let proposes = matches!(kind, EffectKind::PushBranch | EffectKind::OpenPullRequest);
        if proposes && self.script.token_mended.is_some_and(|mended| now < mended) {
            let why = "the token for the forge lacks the right to open a pull request".into();
            return Reported::Waits { why, after: SignedDuration::from_hours(3) };
        }
        let site = self.sites.get_mut(&step_of(effect)).unwrap();
        let open =
            |draft: bool| Pull { number, draft, opened: now, merged: None, closed: None, closed_by_people: false };
        let (changed, done) = match effect {
            Effect::PushBranch { key, authored_at, .. } => {
                let commit = format!("commit-{key}-{authored_at}");
                match &site.branch {
                    Some((found, _)) if *found == commit => (false, Done::Pushed { commit }),
                    Some((found, _)) => return Reported::CannotTell { why: format!("holds {found}") },
                    None => {
                        site.branch = Some((commit.clone(), now));
                        (true, Done::Pushed { commit })
                    }
                }
            }
            Effect::OpenPullRequest { draft, .. } => {
                let adopted = site.pull_request.is_some();
                if !adopted && site.branch.is_none() {
                    return Reported::Never { why: "no such branch".into() };
                }
                let pull = site.pull_request.get_or_insert(open(*draft));
                let (number, draft) = (pull.number, pull.draft);
                (!adopted, Done::Opened { number, url: format!("https://forge/{number}"), draft, adopted })
            }
            Effect::MarkReady { .. } => match site.pull_request.as_mut().filter(|pull| pull.is_open()) {
                Some(pull) => (std::mem::take(&mut pull.draft), Done::Ready),
                None => return Reported::Never { why: "not open".into() },
            },
            Effect::MergePullRequest { head, .. } => match site.pull_request.as_mut() {
                Some(pull) if pull.merged.is_some() => {
                    (false, Done::Merged { commit: format!("merge-{head}"), by: None })
                }
                Some(pull) if pull.is_open() => {
                    pull.merged = Some(now);
                    (true, Done::Merged { commit: format!("merge-{head}"), by: None })
                }
                Some(_) | None => return Reported::Never { why: "not open".into() },
            },
            Effect::ClosePullRequest { .. } => match site.pull_request.as_mut() {
                Some(pull) if pull.closed.is_some() => (false, Done::Closed),
                Some(pull) if pull.merged.is_none() => {
                    pull.closed = Some(now);
                    (true, Done::Closed)
                }
                Some(_) | None => {
                    return Reported::Later { why: "it is merged".into(), after: SignedDuration::from_secs(1) };
                }
            },
            Effect::DeleteBranch { commit, .. } => match &site.branch {
                Some((found, _)) if found != commit => return Reported::CannotTell { why: "foreign".into() },
                found => {
                    let changed = found.is_some();
                    site.branch = None;
                    (changed, Done::BranchDeleted)
                }
            },
            Effect::OpenRevertPullRequest { draft, .. } => {
                let adopted = site.revert.is_some();
                let pull = site.revert.get_or_insert(open(*draft));
                let (number, draft) = (pull.number, pull.draft);
                (!adopted, Done::RevertOpened { number, url: format!("https://forge/{number}"), draft })
            }
            Effect::MergeRevert { .. } => match site.revert.as_mut() {
                Some(pull) if pull.merged.is_some() => (false, Done::RevertMerged { commit: "revert".into() }),
                Some(pull) if pull.is_open() => {
                    pull.merged = Some(now);
                    (true, Done::RevertMerged { commit: "revert".into() })
                }
                Some(_) | None => return Reported::Never { why: "not open".into() },
            },
            other => panic!("{other:?} is not a deed"),
        };
        if changed {
            self.next_number += 1;
            self.ledger.push((key.to_owned(), kind));
        }
        Reported::Done(done)
    }

    /// What the forge shows of a step, as late as it shows things.
    pub fn forge(&self, step: u32) -> Answer<ForgeSeen> {
        if self.script.forge_down.is_some_and(|(from, to)| self.now >= from && self.now < to) {
            return Answer::unknown("the forge does not answer");
        }
        let site = &self.sites[&step];
        let shown = |pull: &Option<Pull>| {
            pull.as_ref().filter(|pull| pull.opened + self.script.lag <= self.now).map(|pull| pull.seen(site))
        };
        let branch = match &site.branch {
            Some((commit, pushed)) if pushed + self.script.lag <= self.now => {
                BranchSeen::Ours { commit: commit.clone() }
            }
            Some(_) | None => BranchSeen::Absent,
        };
        let room = match self.script.capped_until.filter(|until| self.now < *until) {
            Some(until) => Room::None { why: format!("the next is possible at {until}") },
            None => Room::Free,
        };
        let (pull_request, revert) = (shown(&site.pull_request), shown(&site.revert));
        Answer::Known(ForgeSeen { branch, pull_request, revert, room })
    }

    fn applied_at(&self, step: u32) -> Option<Second> {
        Some(self.sites[&step].pull_request.as_ref()?.merged? + self.script.apply?)
    }

    fn reverted_at(&self, step: u32) -> Option<Second> {
        Some(self.sites[&step].revert.as_ref()?.merged? + self.script.apply?)
    }

    pub fn rolled_out_at(&self, step: u32) -> Option<Second> {
        Some(self.applied_at(step)? + self.script.rollout?)
    }

    pub fn gitops(&self, step: u32) -> Answer<GitOpsSeen> {
        let past = |moment: Option<Second>| moment.is_some_and(|moment| moment <= self.now);
        let (applied, reverted) = (past(self.applied_at(step)), past(self.reverted_at(step)));
        Answer::Known(GitOpsSeen {
            applied_revision: format!("main@{}", self.now),
            contains_merge: Answer::Known(applied),
            live_is_planned: Answer::Known(applied && !reverted),
            contains_revert: Answer::Known(reverted),
            live_is_back: Answer::Known(!applied || reverted),
            foreign_commits: Answer::Known(if self.script.foreign { vec!["f00".into()] } else { vec![] }),
            message: None,
        })
    }

    pub fn rollout(&self, step: u32) -> Answer<RolloutState> {
        let complete = self.rolled_out_at(step).is_some_and(|moment| moment <= self.now);
        let updated = if complete { 3 } else { 1 };
        let stuck = self.script.rollout.is_none().then(|| "progress deadline exceeded".to_owned());
        Answer::Known(RolloutState { complete, stuck, updated, available: updated, desired: 3 })
    }

    pub fn abort(&self) -> Vec<AbortReading> {
        let applied = self.sites.keys().any(|step| self.applied_at(*step).is_some_and(|moment| moment <= self.now));
        if !self.script.harm || !applied {
            return Vec::new();
        }
        vec![AbortReading {
            metric: "errorRatio".into(),
            relation: Relation::Target,
            breach: Breach::Breached,
            before: 0.02,
            during: 0.4,
            sentence: "errorRatio was 0.02 at merge time and is 0.4 now".into(),
        }]
    }

    pub fn verification(&self) -> Answer<Verification> {
        let last = self.script.steps - 1;
        let Some(rolled) = self.rolled_out_at(last).filter(|moment| *moment <= self.now) else {
            return Answer::unknown("not rolled out");
        };
        let settled = rolled + SETTLE;
        let late = self.script.data_back.is_some_and(|back| self.now >= back);
        let verdict = match self.script.verdict {
            Word::Unknown if late => Word::Pass,
            Word::Pass if self.now < settled => Word::Unknown,
            verdict => verdict,
        };
        Answer::Known(Verification {
            verdict,
            sentence: format!("verdict {verdict:?}"),
            metrics: Vec::new(),
            window: Window { from: at(rolled), to: at(self.now) },
            settled_at: at(settled),
        })
    }

    /// What a person has put at the planned place.
    pub fn edited(&self) -> Answer<Option<Edited>> {
        let Some((moment, edit)) = self.script.edited.filter(|(moment, _)| *moment <= self.now) else {
            return Answer::Known(None);
        };
        let (now, as_planned) = match edit {
            Edit::ToThePlannedValue => ("384Mi", true),
            Edit::ToAnother => ("512Mi", false),
            Edit::Unseen => return Answer::unknown("the repository does not answer"),
        };
        Answer::Known(Some(Edited {
            file: "a.yaml".into(),
            what: "memory limit of app".into(),
            from: Some("256Mi".into()),
            now: Some(now.into()),
            as_planned,
            by: Some(EditedBy { commit: "abc12345".into(), author: "lena".into(), at: at(moment) }),
        }))
    }

    pub fn cause(&self) -> Answer<CauseState> {
        Answer::Known(match self.script.cause_gone.filter(|gone| *gone <= self.now) {
            Some(gone) => CauseState::AbsentSince { since: at(gone) },
            None => CauseState::Present {},
        })
    }

    /// Whether nothing of ours is left: no open pull request, no branch of an own closing, nothing live that is not taken back.
    pub fn is_clean(&self) -> Result<(), String> {
        for (step, site) in &self.sites {
            let merged = site.pull_request.as_ref().is_some_and(|pull| pull.merged.is_some());
            let by_people = site.pull_request.as_ref().is_some_and(|pull| pull.closed_by_people);
            if site.pull_request.as_ref().is_some_and(Pull::is_open) {
                return Err(format!("the pull request of step {step} is open"));
            }
            if !merged && !by_people && site.branch.is_some() {
                return Err(format!("the branch of step {step} is left"));
            }
            if merged && self.reverted_at(*step).is_none_or(|moment| moment > self.now) {
                return Err(format!("step {step} is live"));
            }
        }
        Ok(())
    }
}

/// How long the verdict takes to settle.
const SETTLE: Second = 300;

impl Pull {
    pub fn is_open(&self) -> bool {
        self.merged.is_none() && self.closed.is_none()
    }

    fn seen(&self, site: &Site) -> PullRequestSeen {
        let state = match (self.merged, self.closed) {
            (Some(_), _) => {
                PullRequestState::Merged { commit: format!("merge-{}", self.number), by: Some("ada".into()) }
            }
            (None, Some(_)) => PullRequestState::Closed { by: Some("ada".into()) },
            (None, None) => PullRequestState::Open,
        };
        PullRequestSeen {
            number: self.number,
            url: format!("https://forge/{}", self.number),
            state,
            draft: self.draft,
            head: site.branch.as_ref().map_or("head".into(), |(commit, _)| commit.clone()),
            merge: MergeState::Ready,
            statuses: None,
        }
    }
}

fn step_of(effect: &Effect) -> u32 {
    match effect {
        Effect::PushBranch { step, .. }
        | Effect::OpenPullRequest { step, .. }
        | Effect::MarkReady { step, .. }
        | Effect::MergePullRequest { step, .. }
        | Effect::ClosePullRequest { step, .. }
        | Effect::DeleteBranch { step, .. }
        | Effect::OpenRevertPullRequest { step, .. }
        | Effect::MergeRevert { step, .. } => *step,
        other => panic!("{other:?} is about no step"),
    }
}

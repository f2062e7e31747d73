//! What the world does in one story, and how the story must end when nothing fails.

use std::collections::BTreeSet;

use amend_execution::journal::{Ending, Word};
use amend_policies::policy::{Autonomy, RollbackOn};

use crate::world::Second;

const MINUTE: Second = 60;
const HOUR: Second = 60 * MINUTE;

#[derive(Clone, Debug)]
pub struct Script {
    pub name: &'static str,
    pub ends: Ending,
    /// How it may end as well, when a fault shifts a race between people and us.
    pub or_ends: Option<Ending>,
    pub autonomy: Autonomy,
    pub steps: u32,
    pub rollback_on: BTreeSet<RollbackOn>,
    /// After the pull request was opened; `None`: never.
    pub people_merge: Option<Second>,
    pub people_close: Option<Second>,
    pub people_merge_revert: Option<Second>,
    pub people_close_revert: Option<Second>,
    /// After the merge.
    pub apply: Option<Second>,
    /// After it was applied.
    pub rollout: Option<Second>,
    pub verdict: Word,
    pub data_back: Option<Second>,
    pub harm: bool,
    pub foreign: bool,
    /// A gap that makes a draft, until then.
    pub gap_until: Option<Second>,
    pub blocked_until: Option<Second>,
    /// Alertmanager does not say whether anything is silenced, from then on.
    pub silent_from: Option<Second>,
    /// The account loses its right to merge then.
    pub merge_right_until: Option<Second>,
    /// The forge takes no new pull request until then.
    pub capped_until: Option<Second>,
    /// The token may neither push nor open until then.
    pub token_mended: Option<Second>,
    pub cause_gone: Option<Second>,
    pub must_approve: bool,
    pub approve: Option<Second>,
    pub stop: Option<Second>,
    pub refuse: Option<Second>,
    pub policy_changed: Option<Second>,
    pub incident_deleted: Option<Second>,
    /// When a person edits the planned place, and how.
    pub edited: Option<(Second, Edit)>,
    pub kill_switch: Option<(Second, Second)>,
    pub forge_down: Option<(Second, Second)>,
    /// How long the forge hides what is new.
    pub lag: Second,
}

/// What a person does to the planned place of the base branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    ToThePlannedValue,
    ToAnother,
    /// The repository cannot be read.
    Unseen,
}

fn success() -> Script {
    Script {
        name: "merged by people and well",
        ends: Ending::Succeeded,
        or_ends: None,
        autonomy: Autonomy::Propose,
        steps: 1,
        rollback_on: BTreeSet::from([RollbackOn::Aborted, RollbackOn::VerificationFailed]),
        people_merge: Some(10 * MINUTE),
        people_close: None,
        people_merge_revert: Some(5 * MINUTE),
        people_close_revert: None,
        apply: Some(MINUTE),
        rollout: Some(2 * MINUTE),
        verdict: Word::Pass,
        data_back: None,
        harm: false,
        foreign: false,
        gap_until: None,
        blocked_until: None,
        silent_from: None,
        merge_right_until: None,
        capped_until: None,
        token_mended: None,
        cause_gone: None,
        must_approve: false,
        approve: None,
        stop: None,
        refuse: None,
        policy_changed: None,
        incident_deleted: None,
        edited: None,
        kill_switch: None,
        forge_down: None,
        lag: 0,
    }
}

pub fn scripts() -> Vec<Script> {
    let act = || Script { autonomy: Autonomy::Act, people_merge: None, people_merge_revert: None, ..success() };
    let idle = || Script { people_merge: None, ..success() };
    let all: BTreeSet<RollbackOn> =
        [RollbackOn::Aborted, RollbackOn::VerificationFailed, RollbackOn::SlaExceeded, RollbackOn::Unverified].into();
    vec![
        success(),
        Script { name: "merged by us and well", ..act() },
        Script { name: "a forge that shows things late", lag: 45, ..success() },
        Script { name: "a late forge, merged by us", lag: 45, ..act() },
        Script { name: "two steps", steps: 2, ..success() },
        Script { name: "harm", ends: Ending::RolledBack, harm: true, ..success() },
        Script { name: "harm, undone by us", ends: Ending::RolledBack, harm: true, ..act() },
        Script {
            name: "harm, undone by us although Alertmanager is silent",
            ends: Ending::RolledBack,
            harm: true,
            silent_from: Some(60),
            ..act()
        },
        Script {
            name: "harm, and the right to merge is gone",
            ends: Ending::RolledBack,
            harm: true,
            merge_right_until: Some(60),
            people_merge_revert: Some(5 * MINUTE),
            ..act()
        },
        Script { name: "harm in two steps", ends: Ending::RolledBack, harm: true, steps: 2, ..act() },
        Script {
            name: "harm that others may have done",
            ends: Ending::Unverified,
            harm: true,
            foreign: true,
            ..success()
        },
        Script { name: "no better", ends: Ending::RolledBack, verdict: Word::Fail, ..success() },
        Script { name: "no better, and two steps", ends: Ending::RolledBack, verdict: Word::Fail, steps: 2, ..act() },
        Script {
            name: "no better, and no rollback",
            ends: Ending::Held,
            verdict: Word::Fail,
            rollback_on: [].into(),
            ..success()
        },
        Script { name: "no data", ends: Ending::Unverified, verdict: Word::Unknown, ..success() },
        Script {
            name: "no data until tomorrow",
            ends: Ending::Unverified,
            verdict: Word::Unknown,
            data_back: Some(24 * HOUR),
            ..success()
        },
        Script {
            name: "no data, rolled back for it",
            ends: Ending::RolledBack,
            verdict: Word::Unknown,
            rollback_on: all.clone(),
            ..success()
        },
        Script { name: "closed by people", ends: Ending::Rejected, people_close: Some(MINUTE), ..success() },
        Script { name: "not needed any more", ends: Ending::Withdrawn, cause_gone: Some(HOUR), ..idle() },
        Script { name: "never merged", ends: Ending::Withdrawn, ..idle() },
        Script {
            name: "merged while being closed",
            ends: Ending::Withdrawn,
            or_ends: Some(Ending::Succeeded),
            cause_gone: Some(0),
            people_merge: Some(1803),
            ..success()
        },
        Script { name: "never applied", ends: Ending::Held, apply: None, ..success() },
        Script { name: "stuck rollout", ends: Ending::Held, rollout: None, ..success() },
        Script {
            name: "stuck rollout, rolled back for it",
            ends: Ending::RolledBack,
            rollout: None,
            rollback_on: all,
            ..success()
        },
        Script { name: "stopped while open", ends: Ending::Withdrawn, stop: Some(5 * MINUTE), ..idle() },
        Script { name: "stopped at once", ends: Ending::Withdrawn, stop: Some(0), ..success() },
        Script { name: "stopped after the merge", ends: Ending::Held, stop: Some(11 * MINUTE), ..success() },
        Script { name: "refused", ends: Ending::Rejected, refuse: Some(5 * MINUTE), ..idle() },
        Script { name: "a gap that closes", gap_until: Some(5 * MINUTE), ..success() },
        Script { name: "a gap that stays", ends: Ending::Withdrawn, gap_until: Some(100 * HOUR), ..success() },
        Script { name: "blocked for a while", blocked_until: Some(HOUR), ..success() },
        Script { name: "blocked for ever", ends: Ending::Withdrawn, blocked_until: Some(100 * HOUR), ..success() },
        Script { name: "a cap that ends", capped_until: Some(6 * HOUR), ..success() },
        Script { name: "a cap that ends, merged by us", capped_until: Some(6 * HOUR), ..act() },
        Script {
            name: "a cap that outlasts the plan",
            ends: Ending::Withdrawn,
            capped_until: Some(100 * HOUR),
            ..success()
        },
        Script { name: "a token that is mended late", token_mended: Some(9 * HOUR), ..success() },
        Script {
            name: "a token that is never mended",
            ends: Ending::Withdrawn,
            token_mended: Some(100 * HOUR),
            ..success()
        },
        Script { name: "approved late", must_approve: true, approve: Some(HOUR), ..success() },
        Script { name: "never approved", ends: Ending::Withdrawn, must_approve: true, ..success() },
        Script {
            name: "policy changed while open",
            ends: Ending::Withdrawn,
            policy_changed: Some(5 * MINUTE),
            ..idle()
        },
        Script {
            name: "an incident that people delete before the merge",
            ends: Ending::Withdrawn,
            incident_deleted: Some(5 * MINUTE),
            ..idle()
        },
        Script {
            name: "an incident that people delete after the merge",
            or_ends: Some(Ending::Withdrawn),
            incident_deleted: Some(11 * MINUTE),
            ..success()
        },
        Script {
            name: "a person edits the line while it is open",
            ends: Ending::Withdrawn,
            edited: Some((5 * MINUTE, Edit::ToAnother)),
            ..idle()
        },
        Script {
            name: "a person makes the very change",
            ends: Ending::Withdrawn,
            edited: Some((5 * MINUTE, Edit::ToThePlannedValue)),
            ..idle()
        },
        Script {
            name: "a person edits the line before anything is proposed",
            ends: Ending::Withdrawn,
            blocked_until: Some(HOUR),
            edited: Some((5 * MINUTE, Edit::ToAnother)),
            ..idle()
        },
        Script {
            name: "nobody can tell whether a person edited the line",
            ends: Ending::Withdrawn,
            edited: Some((5 * MINUTE, Edit::Unseen)),
            ..idle()
        },
        Script {
            name: "a person edits the line after the merge",
            or_ends: Some(Ending::Withdrawn),
            edited: Some((11 * MINUTE, Edit::ToAnother)),
            ..success()
        },
        Script { name: "red button for an hour", kill_switch: Some((0, HOUR)), ..success() },
        Script {
            name: "red button during the undo",
            ends: Ending::RolledBack,
            harm: true,
            kill_switch: Some((11 * MINUTE, HOUR)),
            ..act()
        },
        Script { name: "forge away for half an hour", forge_down: Some((5, 30 * MINUTE)), ..success() },
        Script {
            name: "revert closed by people",
            ends: Ending::Held,
            harm: true,
            people_close_revert: Some(MINUTE),
            ..success()
        },
        Script { name: "revert never merged", ends: Ending::Stuck, harm: true, people_merge_revert: None, ..success() },
        Script { name: "only observed", ends: Ending::Withdrawn, autonomy: Autonomy::Observe, ..success() },
    ]
}

//! `GitTarget`: whether the repository and the forge answer, the head seen, and how many pull requests are open.

use std::sync::Arc;

use amend_crds::GitTarget;
use amend_crds::condition::{self, Claim};
use jiff::{SignedDuration, Timestamp};

use crate::effects::EffectError;
use crate::errors;
use crate::reconcile::{Control, Decision, GatherError};
use crate::shell::Shell;
use crate::targets::TargetProblem;
use crate::written::WrittenProblem;

/// How often a repository is looked at without a reason: forges count requests.
const LOOK_EVERY: SignedDuration = SignedDuration::from_mins(2);

/// See the module.
#[derive(Debug)]
pub struct GitTargetControl;

/// What a look at the repository found.
#[derive(Debug)]
pub struct Looked {
    object: GitTarget,
    outcome: Result<(String, u32), (String, bool)>,
    now: Timestamp,
}

impl Control for GitTargetControl {
    type Kind = GitTarget;
    type Snapshot = Looked;
    type Effect = std::convert::Infallible;
    const NAME: &'static str = "gittarget";

    async fn gather(shell: &Arc<Shell>, object: GitTarget) -> Result<Looked, GatherError> {
        let now = shell.time.now();
        let outcome = look(shell, &object, now).await;
        Ok(Looked { object, outcome, now })
    }

    fn decide(looked: &Looked) -> Decision<GitTarget, Self::Effect> {
        let mut changed = looked.object.clone();
        let mut status = changed.status.take().unwrap_or_default();
        let before = status.clone();
        let claims = match &looked.outcome {
            Ok((head, open)) => {
                if status.head != *head {
                    status.head.clone_from(head);
                    status.head_seen_at = Some(looked.now);
                }
                status.open_pull_requests = *open;
                vec![Claim::new(condition::READY, Some(true), "Answers", "repository and forge answer")]
            }
            Err((why, wrong_spec)) => {
                let reason = if *wrong_spec { "WrongSpec" } else { "NoAnswer" };
                let pending = if *wrong_spec { condition::STALLED } else { condition::RECONCILING };
                vec![
                    Claim::new(condition::READY, Some(false), reason, why.clone()),
                    Claim::new(pending, Some(true), reason, why.clone()),
                ]
            }
        };
        status.observed_generation = changed.metadata.generation;
        status.conditions = condition::settled(&before.conditions, &claims, changed.metadata.generation, looked.now);
        let differs = status != before;
        changed.status = Some(status);
        Decision { write: differs.then_some(changed), effects: Vec::new(), wake: Some(LOOK_EVERY) }
    }

    async fn perform(_: &Arc<Shell>, _: &GitTarget, _: &Looked, effect: Self::Effect) -> Result<(), EffectError> {
        match effect {}
    }
}

async fn look(shell: &Shell, object: &GitTarget, now: Timestamp) -> Result<(String, u32), (String, bool)> {
    let target = shell.targets.open(object).await.map_err(|problem| {
        let wrong_spec = match &problem {
            TargetProblem::Unlisted(_) | TargetProblem::NoTarget { .. } => false,
            TargetProblem::Written(WrittenProblem::Unreadable(_)) => false,
            TargetProblem::Written(WrittenProblem::UnknownFields(_))
            | TargetProblem::Grants(_)
            | TargetProblem::Credentials(_)
            | TargetProblem::Login { .. }
            | TargetProblem::ForgeUrl { .. }
            | TargetProblem::Repository(_)
            | TargetProblem::Forge(_) => true,
        };
        (errors::chain(&problem), wrong_spec)
    })?;
    let head = target.repo().fetch().await.map_err(|error| (errors::chain(&error), false))?;
    let open = target.proposals.open_count(now).await.map_err(|error| (errors::chain(&error), false))?;
    Ok((head.to_string(), u32::try_from(open).unwrap_or(u32::MAX)))
}

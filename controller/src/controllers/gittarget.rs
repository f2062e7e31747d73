//! `GitTarget`: whether the repository and the forge answer, the head seen, and how many pull requests are open.

use std::sync::Arc;

use amend_crds::GitTarget;
use amend_crds::condition::{self, Claim};
use amend_gitops::error::GitError;
use amend_gitops::forge::ForgeError;
use amend_gitops::proposal::ProposalError;
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
    outcome: Result<(String, u32), (String, Trouble)>,
    now: Timestamp,
}

/// Why nothing can be proposed, by who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// It may be over by itself.
    NoAnswer,
    WrongSpec,
    /// The account may read and not write, which would otherwise show at the first incident.
    NoRight,
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
                vec![Claim::new(
                    condition::READY,
                    Some(true),
                    "Answers",
                    "repository and forge answer, and take proposals where any are granted",
                )]
            }
            Err((why, trouble)) => {
                let (reason, pending) = match trouble {
                    Trouble::NoAnswer => ("NoAnswer", condition::RECONCILING),
                    Trouble::WrongSpec => ("WrongSpec", condition::STALLED),
                    Trouble::NoRight => ("NoRight", condition::STALLED),
                };
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

async fn look(shell: &Shell, object: &GitTarget, now: Timestamp) -> Result<(String, u32), (String, Trouble)> {
    let target = shell.targets.open(object).await.map_err(|problem| {
        let trouble = match &problem {
            TargetProblem::Unlisted(_) | TargetProblem::NoTarget { .. } => Trouble::NoAnswer,
            TargetProblem::Written(WrittenProblem::Unreadable(_)) => Trouble::NoAnswer,
            TargetProblem::Written(WrittenProblem::UnknownFields(_))
            | TargetProblem::Grants(_)
            | TargetProblem::Credentials(_)
            | TargetProblem::Login { .. }
            | TargetProblem::ForgeUrl { .. }
            | TargetProblem::Repository(_)
            | TargetProblem::Forge(_) => Trouble::WrongSpec,
        };
        (errors::chain(&problem), trouble)
    })?;
    let no_answer = |error: &(dyn std::error::Error + 'static)| (errors::chain(error), Trouble::NoAnswer);
    let head = target.repo().fetch().await.map_err(|error| no_answer(&error))?;
    let open = target.proposals.open_count(now).await.map_err(|error| no_answer(&error))?;
    // Where nothing is granted nothing will be pushed, and an account that only reads is right.
    if !object.spec.grants.is_empty() {
        target.proposals.may_propose().await.map_err(|error| match error {
            ProposalError::Forge(ForgeError::Forbidden { .. } | ForgeError::Refused { .. })
            | ProposalError::Git(GitError::Unauthorized { .. }) => {
                (no_right(&errors::chain(&error), &object.spec.secret_ref.name), Trouble::NoRight)
            }
            _ => no_answer(&error),
        })?;
    }
    Ok((head.to_string(), u32::try_from(open).unwrap_or(u32::MAX)))
}

/// What to do about an account that may read and not write.
fn no_right(why: &str, secret: &str) -> String {
    format!(
        "nothing can be proposed: {why}; let the account of Secret {secret} write code, pull requests and issues of the repository, or \
         remove the grants if nothing shall be proposed"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_can_mend_stalls_and_what_may_pass_is_waited_for() {
        let object: GitTarget = serde_json::from_value(serde_json::json!({"apiVersion": "amend.dev/v1alpha1", "kind": "GitTarget",
            "metadata": {"name": "platform", "namespace": "amend-system"},
            "spec": {"url": "https://git.example/shop/fleet.git", "branch": "main", "forge": {"kind": "Gitea"}, "secretRef": {"name": "git"}}}))
        .unwrap();
        let decided = |outcome| {
            let looked = Looked { object: object.clone(), outcome, now: Timestamp::UNIX_EPOCH };
            let status = GitTargetControl::decide(&looked).write.and_then(|object| object.status).unwrap();
            let told =
                status.conditions.iter().map(|one| (one.type_.as_str(), one.status.as_str(), one.reason.as_str()));
            told.map(|(kind, is, why)| format!("{kind}={is} {why}")).collect::<Vec<_>>().join(", ")
        };
        let no_right = no_right("the token lacks the right", "git");
        assert!(no_right.contains("let the account of Secret git write"), "{no_right}");
        let told = decided(Err((no_right, Trouble::NoRight)));
        assert!(told.contains("Ready=False NoRight") && told.contains("Stalled=True NoRight"), "{told}");
        let told = decided(Err(("the forge did not answer".to_owned(), Trouble::NoAnswer)));
        assert!(told.contains("Ready=False NoAnswer") && told.contains("Reconciling=True NoAnswer"), "{told}");
        let told = decided(Ok(("c".repeat(40), 0)));
        assert!(told.contains("Ready=True Answers"), "{told}");
    }
}

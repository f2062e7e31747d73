//! `GitTarget`: whether the repository and the forge answer, the head seen, and how many pull requests are open.

use std::collections::BTreeSet;
use std::sync::Arc;

use amend_crds::GitTarget;
use amend_crds::condition::{self, Claim};
use amend_diagnosis::evidence::Answer;
use amend_gitops::error::GitError;
use amend_gitops::forge::ForgeError;
use amend_gitops::proposal::ProposalError;
use amend_policies::policy::Autonomy;
use jiff::{SignedDuration, Timestamp};

use crate::effects::EffectError;
use crate::errors;
use crate::planner;
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
    outcome: Result<Seen, (String, Trouble)>,
    now: Timestamp,
}

/// A repository that can be read.
#[derive(Debug)]
struct Seen {
    head: String,
    open: u32,
    writing: Writing,
}

/// Whether changes can be proposed to it.
#[derive(Debug)]
enum Writing {
    May,
    /// Nothing will be pushed where nothing is granted, and an account that only reads is right.
    NothingGranted,
    /// The account may read and not write, which would otherwise show at the first incident. `policies` are those that propose in
    /// the granted namespaces: without one, reading is all that it is for.
    MayNot {
        why: String,
        policies: Answer<Vec<String>>,
    },
}

/// Why it cannot be used at all, by who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// It may be over by itself.
    NoAnswer,
    WrongSpec,
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
            Ok(Seen { head, open, writing }) => {
                if status.head != *head {
                    status.head.clone_from(head);
                    status.head_seen_at = Some(looked.now);
                }
                status.open_pull_requests = *open;
                claims(writing, &looked.object.spec.secret_ref.name)
            }
            Err((why, trouble)) => {
                let (reason, pending) = match trouble {
                    Trouble::NoAnswer => ("NoAnswer", condition::RECONCILING),
                    Trouble::WrongSpec => ("WrongSpec", condition::STALLED),
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

async fn look(shell: &Shell, object: &GitTarget, now: Timestamp) -> Result<Seen, (String, Trouble)> {
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
    let writing = match object.spec.grants.is_empty() {
        true => Writing::NothingGranted,
        false => match target.proposals.may_propose().await {
            Ok(()) => Writing::May,
            Err(
                error @ (ProposalError::Forge(ForgeError::Forbidden { .. } | ForgeError::Refused { .. })
                | ProposalError::Git(GitError::Unauthorized { .. })),
            ) => Writing::MayNot { why: errors::chain(&error), policies: proposing(shell, object).await },
            Err(error) => return Err(no_answer(&error)),
        },
    };
    Ok(Seen { head: head.to_string(), open: u32::try_from(open).unwrap_or(u32::MAX), writing })
}

/// The policies that would have something proposed in the namespaces of the grants.
async fn proposing(shell: &Shell, object: &GitTarget) -> Answer<Vec<String>> {
    let namespaces: BTreeSet<&str> = object.spec.grants.iter().map(|grant| grant.namespace.as_str()).collect();
    let mut found = Vec::new();
    for namespace in namespaces {
        match planner::policies(shell, namespace).await {
            Ok(known) => found.extend(known.iter().filter(|one| proposes(one)).map(|one| {
                let policy = &one.reference;
                format!("{}/{}", policy.namespace, policy.name)
            })),
            Err(error) => {
                return Answer::unknown(format!("policies of {namespace} cannot be read: {}", errors::chain(&error)));
            }
        }
    }
    Answer::Known(found)
}

/// A policy that is not accepted matches nothing, and one that is suspended neither.
fn proposes(policy: &planner::Known) -> bool {
    policy.compiled.as_ref().is_some_and(|policy| {
        !policy.suspend
            && match policy.autonomy {
                Autonomy::Propose | Autonomy::Act => true,
                Autonomy::Observe => false,
            }
    })
}

/// What is said of a repository that can be read. That it cannot be written stands in the way only of who wants to write.
fn claims(writing: &Writing, secret: &str) -> Vec<Claim> {
    let ready = |reason: &str, message: &str| Claim::new(condition::READY, Some(true), reason, message);
    let writable = |holds, reason: &str, message: String| Claim::new(condition::WRITABLE, Some(holds), reason, message);
    match writing {
        Writing::May => vec![
            ready("Answers", "repository and forge answer, and take proposals"),
            writable(true, "Granted", "the account may push branches and open pull requests".to_owned()),
        ],
        Writing::NothingGranted => vec![
            ready("Answers", "repository and forge answer"),
            writable(
                false,
                "NothingGranted",
                "nothing is granted, so nothing is proposed; add grants for that".to_owned(),
            ),
        ],
        Writing::MayNot { why, policies: Answer::Known(policies) } if policies.is_empty() => vec![
            ready(
                "ReadOnly",
                "repository and forge answer, and the account may only read: enough for naming what was changed",
            ),
            writable(
                false,
                "NoRight",
                format!("{}; no policy of the granted namespaces proposes anything now", no_right(why, secret)),
            ),
        ],
        Writing::MayNot { why, policies } => {
            let who = match policies {
                Answer::Known(policies) => format!("wanted by policy {}", policies.join(", ")),
                Answer::Unknown { why } => format!("whether a policy wants it is unknown: {why}"),
            };
            let said = format!("{}; {who}", no_right(why, secret));
            vec![
                Claim::new(condition::READY, Some(false), "NoRight", said.clone()),
                Claim::new(condition::STALLED, Some(true), "NoRight", said.clone()),
                writable(false, "NoRight", said),
            ]
        }
    }
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
        let may_not = |policies| Writing::MayNot { why: "the token lacks the right".to_owned(), policies };
        let read = |writing| Ok(Seen { head: "c".repeat(40), open: 0, writing });
        let wanted = Answer::Known(vec!["shop/raise".to_owned()]);
        for policies in [wanted.clone(), Answer::unknown("forbidden")] {
            let told = decided(read(may_not(policies)));
            assert_eq!(told, "Ready=False NoRight, Stalled=True NoRight, Writable=False NoRight");
        }
        let said = claims(&may_not(wanted), "git")[0].message.clone();
        assert!(
            said.contains("let the account of Secret git write") && said.ends_with("by policy shop/raise"),
            "{said}"
        );
        let told = decided(read(may_not(Answer::Known(Vec::new()))));
        assert_eq!(told, "Ready=True ReadOnly, Writable=False NoRight", "reading is all that is wanted");
        assert_eq!(decided(read(Writing::NothingGranted)), "Ready=True Answers, Writable=False NothingGranted");
        assert_eq!(decided(read(Writing::May)), "Ready=True Answers, Writable=True Granted");
        let told = decided(Err(("the forge did not answer".to_owned(), Trouble::NoAnswer)));
        assert!(told.contains("Ready=False NoAnswer") && told.contains("Reconciling=True NoAnswer"), "{told}");
    }

    #[test]
    fn only_a_policy_that_is_accepted_awake_and_not_a_mere_observer_proposes() {
        let policy = |change: fn(&mut serde_json::Value)| {
            let mut object: serde_json::Value =
                serde_saphyr::from_str(amend_policies::library::LIBRARY[0].yaml).unwrap();
            object["spec"]["autonomy"] = "Propose".into();
            change(&mut object["spec"]);
            let reference = amend_policies::policy::PolicyRef {
                namespace: "shop".into(),
                name: "raise".into(),
                uid: "1".into(),
                generation: 1,
            };
            planner::Known { reference, compiled: amend_policies::lint::read(&object["spec"]).0 }
        };
        assert!(proposes(&policy(|_| {})));
        assert!(proposes(&policy(|spec| spec["autonomy"] = "Act".into())));
        assert!(!proposes(&policy(|spec| spec["autonomy"] = "Observe".into())));
        assert!(!proposes(&policy(|spec| spec["suspend"] = true.into())));
        assert!(!proposes(&policy(|spec| spec["autonomi"] = "Act".into())));
    }
}

//! What has arrived of a merged change: the revision that Flux has applied, the live object, and how far it has rolled out.

use std::collections::BTreeSet;
use std::sync::Arc;

use amend_crds::gittarget::ObjectLocation;
use amend_diagnosis::evidence::Answer;
use amend_execution::phase::Standing;
use amend_execution::snapshot::{GitOpsSeen, RolloutState};
use amend_gitops::locate::Homes;
use amend_gitops::path::RepoPath;
use amend_gitops::render;
use amend_gitops::repo::{CommitId, CommitInfo, Containment, Repo};
use amend_policies::configuration::read_by;
use amend_policies::plan::{ExpectedField, LiveChange, Plan};
use serde_json::Value;

use crate::cluster::{self, Read};
use crate::contents;
use crate::effects::remedy::Work;
use crate::errors;
use crate::owner;
use crate::shell::Shell;
use crate::targets::Target;
use crate::watch::configured;

/// Flux and the live object, about a merged change.
pub async fn gitops(shell: &Arc<Shell>, work: &Work, standing: &Standing) -> Answer<GitOpsSeen> {
    let plan = &work.plan;
    let target = match &work.target {
        Ok(target) => target,
        Err(why) => return Answer::unknown(why.clone()),
    };
    let owner = match owner::of_target(shell, plan).await {
        Answer::Known(owner) => owner,
        Answer::Unknown { why } => return Answer::Unknown { why },
    };
    let applied = match &owner {
        Some(owner) => match owner.applied().and_then(crate::changes::commit_of) {
            Some(applied) => applied,
            None => return Answer::unknown("the Kustomization has not applied any revision"),
        },
        // Whatever applies it tells nobody how far it is: the branch says what is to be, and the live fields whether it is.
        None if is_mapped(&target.object.spec.objects, plan) => match target.repo().fetch().await {
            Ok(head) => head,
            Err(error) => return Answer::unknown(errors::chain(&error)),
        },
        None => return Answer::unknown("no GitOps controller claims the target, and its GitTarget does not map it"),
    };
    let live = match Read::of(&plan.target.api_version, &plan.target.kind) {
        Some(read) => cluster::get(&shell.clients.reader(), read, &plan.target.namespace, &plan.target.name).await,
        None => Answer::unknown("the target is of a kind that Amend does not read"),
    };
    let live = match live {
        Answer::Known(Some(live)) => Answer::Known(live),
        Answer::Known(None) => Answer::unknown("the target does not exist"),
        Answer::Unknown { why } => Answer::Unknown { why },
    };
    let step = standing.step(standing.step_in_focus());
    let merged = step.and_then(|step| step.merged.clone());
    let revert_merged = step.and_then(|step| step.revert_merged.clone());
    // After the revision was read: what Flux applied a moment ago may be newer than what was fetched before.
    if let Err(error) = target.repo().hold(&applied).await {
        return Answer::unknown(errors::chain(&error));
    }
    let changes = work.contents.as_ref().map(|contents| contents.changes.clone()).unwrap_or_default();
    let contains = |commit: Option<String>, changes: Vec<amend_gitops::repo::ContentChange>| {
        let (applied, target) = (applied.clone(), target.clone());
        async move {
            let Some(commit) = commit.and_then(|commit| CommitId::parse(&commit).ok()) else {
                return Answer::Known(false);
            };
            match target.repo().contains_change(&applied, &commit, &changes).await {
                Ok(Containment::Ancestor | Containment::SameContents) => Answer::Known(true),
                Ok(Containment::Absent) => Answer::Known(false),
                Err(error) => Answer::unknown(errors::chain(&error)),
            }
        }
    };
    let back: Vec<ExpectedField> = before_fields(plan);
    let configured = configured::read(shell, plan).await;
    let owner = Answer::Known(owner);
    let homes = owner::homes(&owner, target).await;
    Answer::Known(GitOpsSeen {
        applied_revision: applied.to_string(),
        contains_merge: contains(merged.clone(), changes).await,
        live_is_planned: both(
            live.as_ref().map(|live| plan.not_yet_applied(live).is_empty()),
            configured.as_ref().map(|configured| configured.iter().all(|one| one.is_planned(plan))),
        ),
        contains_revert: match &revert_merged {
            Some(_) => contains(revert_merged.clone(), Vec::new()).await,
            None => Answer::Known(false),
        },
        live_is_back: both(
            live.as_ref().map(|live| back.iter().all(|field| field.missing_from(live).is_none())),
            configured.as_ref().map(|configured| configured.iter().all(|one| one.is_as_before(plan))),
        ),
        foreign_commits: foreign(target, plan, live.known(), merged.as_deref(), &applied, &homes).await,
        message: owner.known().and_then(|owner| owner.as_ref()?.trouble()),
    })
}

/// Whether both hold. What is known not to hold needs no second answer.
fn both(one: Answer<bool>, other: Answer<bool>) -> Answer<bool> {
    match (one, other) {
        (Answer::Known(false), _) | (_, Answer::Known(false)) => Answer::Known(false),
        (Answer::Known(true), Answer::Known(true)) => Answer::Known(true),
        (Answer::Unknown { why }, _) | (_, Answer::Unknown { why }) => Answer::Unknown { why },
    }
}

/// Whether people wrote down in the GitTarget which file holds the target.
fn is_mapped(objects: &[ObjectLocation], plan: &Plan) -> bool {
    let target = &plan.target;
    objects.iter().any(|one| (&one.kind, &one.namespace, &one.name) == (&target.kind, &target.namespace, &target.name))
}

/// The expected fields of the target as they were before the plan.
pub fn before_fields(plan: &Plan) -> Vec<ExpectedField> {
    let target = plan.target.object();
    plan.live_changes().iter().filter(|change| change.is_of(&target)).map(LiveChange::before).collect()
}

/// Commits by others since the merge that touch a file of the plan, or a configuration beside it that the target reads.
async fn foreign(
    target: &Target,
    plan: &Plan,
    live: Option<&Value>,
    merged: Option<&str>,
    applied: &CommitId,
    homes: &Result<Homes, String>,
) -> Answer<Vec<String>> {
    let Some(merged) = merged.and_then(|commit| CommitId::parse(commit).ok()) else { return Answer::Known(Vec::new()) };
    let repo = target.repo();
    let commits = match repo.commits_between(&merged, applied).await {
        Ok(commits) => commits,
        Err(error) => return Answer::unknown(errors::chain(&error)),
    };
    let files: Vec<&str> = plan.steps.iter().flat_map(|step| &step.files).map(|file| file.path.as_str()).collect();
    let read = live.map(read_by).unwrap_or_default();
    let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let folders: BTreeSet<Option<String>> = files.iter().map(|file| folder(file)).collect();
    let mut foreign = Vec::new();
    for commit in commits {
        let mut touches =
            commit.paths.iter().any(|path| files.contains(&path.as_str())) && !leaves_target(repo, plan, &commit).await;
        let beside = commit.paths.iter().filter(|path| !read.is_empty() && folders.contains(&folder(path)));
        for path in beside {
            let held = match homes {
                Ok(homes) => crate::changes::objects_in(repo, &commit.id, path, &plan.target.namespace, homes).await,
                Err(why) => Err(why.clone()),
            };
            let held = match held {
                Ok(held) => held,
                Err(why) => return Answer::Unknown { why },
            };
            touches |= held.iter().any(|object| read.contains_key(&(object.kind, object.name.clone())));
        }
        if !touches {
            continue;
        }
        match repo.is_own(&commit.id).await {
            // A merge of our revert by the forge is the forge's commit; what it brings is ours.
            Ok(true) => {}
            Ok(false) if commit.parents.len() > 1 => {}
            Ok(false) => foreign.push(commit.id.to_string()),
            Err(error) => return Answer::unknown(errors::chain(&error)),
        }
    }
    Answer::Known(foreign)
}

/// Whether a commit to the settings of an overlay, which hold many objects, is known to leave what the plan changes alone.
async fn leaves_target(repo: &Repo, plan: &Plan, commit: &CommitInfo) -> bool {
    let Some(rendering) = plan.steps.iter().find_map(|step| step.rendering.as_ref()) else { return false };
    let (Ok(folder), [parent]) = (contents::folder(rendering), commit.parents.as_slice()) else { return false };
    let touched: Vec<RepoPath> = commit.paths.iter().filter_map(|path| RepoPath::parse(path).ok()).collect();
    let Ok(changes) = render::between(repo, parent, &commit.id, &folder, &touched).await else { return false };
    let target = plan.target.object();
    let own =
        |change: &LiveChange| change.is_of(&target) || plan.configurations.iter().any(|one| change.is_of(&one.object));
    !changes.iter().any(own)
}

/// How far the live workload has rolled out.
pub fn rollout(target: &Answer<Value>) -> Answer<RolloutState> {
    let object = match target {
        Answer::Known(object) => object,
        Answer::Unknown { why } => return Answer::unknown(why.clone()),
    };
    let number =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok());
    let seen = number("/status/observedGeneration").unwrap_or(0) >= number("/metadata/generation").unwrap_or(u32::MAX);
    let daemon = object["kind"] == "DaemonSet";
    let (desired, updated, available, present) = if daemon {
        let desired = number("/status/desiredNumberScheduled").unwrap_or(0);
        let updated = number("/status/updatedNumberScheduled").unwrap_or(0);
        (desired, updated, number("/status/numberAvailable").unwrap_or(0), desired)
    } else {
        let available = number("/status/availableReplicas").unwrap_or(0);
        let (updated, present) =
            (number("/status/updatedReplicas").unwrap_or(0), number("/status/replicas").unwrap_or(0));
        (number("/spec/replicas").unwrap_or(1), updated, available, present)
    };
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let unready = desired.saturating_sub(number("/status/readyReplicas").unwrap_or(0));
    let waits = object["kind"] == "StatefulSet" && seen && updated < desired && unready > 0;
    let stuck = conditions
        .filter(|condition| condition["type"] == "Progressing" && condition["status"] == "False")
        .filter_map(|condition| condition["message"].as_str())
        .next()
        .map(str::to_owned)
        .or_else(|| {
            waits.then(|| format!("{unready} pods are not ready, and a StatefulSet waits for them; delete them"))
        });
    let complete = seen && desired > 0 && updated == desired && available == desired && present == desired;
    Answer::Known(RolloutState { complete, stuck, updated, available, desired })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stateful_set_that_waits_for_its_broken_pods_says_so() {
        let at = |kind: &str, ready: u32| {
            let object = json!({ "kind": kind, "metadata": { "generation": 2 }, "spec": { "replicas": 3 },
                "status": { "observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "readyReplicas": ready } });
            rollout(&Answer::Known(object)).known().cloned().unwrap()
        };
        let waiting = at("StatefulSet", 1);
        assert!(
            !waiting.complete && waiting.stuck.as_ref().unwrap().starts_with("2 pods are not ready"),
            "{waiting:?}"
        );
        assert_eq!((at("StatefulSet", 3).stuck, at("Deployment", 1).stuck), (None, None));
    }
}

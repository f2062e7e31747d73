//! From a diagnosed incident to a plan: finds the file, reads it at the branch's head, and lets the policy's actions say what
//! would change. Reads only.

use std::collections::BTreeMap;
use std::sync::Arc;

use amend_crds::Incident;
use amend_crds::RemediationPolicy;
use amend_diagnosis::diagnosis::Cause;
use amend_diagnosis::evidence::Answer;
use amend_gitops::locate::{self, Kustomization, LocateError};
use amend_gitops::path::RepoPath;
use amend_gitops::render::Folder;
use amend_gitops::repo::{CommitId, CommitInfo, ContentChange};
use amend_policies::action::{Action, RevertedCommit, RevertedFile};
use amend_policies::matching::{Candidate, Matching, matching};
use amend_policies::plan::{IncidentRef, ObjectRef, Plan, PlanStep, PlanTarget, Rendering, Repository, SourceFile};
use amend_policies::planning::{Planned, Planning, make_plan};
use amend_policies::policy::{CompiledPolicy, PolicyRef};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::Value;

use crate::cluster::{self, Read};
use crate::contents;
use crate::errors;
use crate::owner;
use crate::shell::Shell;
use crate::targets::Target;

/// A commit that says this in its subject must not be taken back (a migration, say).
const FORWARD_ONLY: &str = "forward-only";

/// A policy with its reference and, when it is accepted, its compiled form.
#[derive(Clone, Debug)]
pub struct Known {
    pub reference: PolicyRef,
    pub compiled: Option<CompiledPolicy>,
}

/// The policies of a namespace, read live and compiled anew: a policy counts as accepted only if it is well-formed now.
pub async fn policies(shell: &Shell, namespace: &str) -> Result<Vec<Known>, kube::Error> {
    let resource = kube::api::ApiResource::erase::<RemediationPolicy>(&());
    let api: Api<kube::api::DynamicObject> = Api::namespaced_with(shell.clients.reader(), namespace, &resource);
    let list = api.list(&ListParams::default()).await?;
    Ok(list.items.iter().map(known).collect())
}

/// One policy as it was written: unknown fields included, so that a typo is never overlooked.
pub fn known(object: &kube::api::DynamicObject) -> Known {
    let reference = PolicyRef {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
    };
    Known { reference, compiled: amend_policies::lint::read(&object.data["spec"]).0 }
}

/// Which policies answer a cause, with the labels of the live workload.
pub fn matched(known: &[Known], cause: &Cause, live: &Answer<Option<Value>>) -> Vec<Matching> {
    let labels = match live {
        Answer::Known(Some(object)) => Answer::Known(labels(object)),
        Answer::Known(None) => Answer::unknown("the workload does not exist"),
        Answer::Unknown { why } => Answer::unknown(why.clone()),
    };
    let candidates: Vec<Candidate<'_>> =
        known.iter().map(|one| Candidate { policy_ref: &one.reference, policy: one.compiled.as_ref() }).collect();
    matching(&candidates, cause, &labels)
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    let found = object["metadata"]["labels"].as_object();
    found.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// The live workload that a cause is about.
pub async fn workload(shell: &Shell, cause: &Cause) -> Answer<Option<Value>> {
    let entity = &cause.entity;
    match Read::of_kind(&format!("{:?}", entity.kind)) {
        Some(read) => cluster::get(&shell.clients.reader(), read, &entity.namespace, &entity.name).await,
        None => Answer::unknown(format!("{:?} is not a kind that can be changed", entity.kind)),
    }
}

/// Makes the plan, or says in a sentence why there is none.
pub async fn plan(
    shell: &Arc<Shell>,
    incident: &Incident,
    cause: &Cause,
    policy: &Known,
    live: &Value,
    revision: u32,
) -> Result<Plan, String> {
    let compiled = policy.compiled.as_ref().ok_or("the policy is not accepted")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let target = PlanTarget {
        entity: cause.entity.clone(),
        api_version: text(&live["apiVersion"]),
        kind: text(&live["kind"]),
        namespace: text(&live["metadata"]["namespace"]),
        name: text(&live["metadata"]["name"]),
        uid: text(&live["metadata"]["uid"]),
    };
    let is_revert = |action: &Action| matches!(action, Action::RevertCommit(_));
    let reverting = compiled.steps.iter().any(|step| is_revert(&step.action));
    let edits_its_file = compiled.steps.iter().any(|step| !is_revert(&step.action));
    let place = place(shell, live, &target.object(), edits_its_file).await?;
    let repo = place.target.repo();
    let reverted = match guilty(cause).filter(|_| reverting) {
        Some(guilty) => Some(reverted(&place, &guilty, &target.namespace).await?),
        None => None,
    };
    let planning = Planning {
        policy: compiled,
        policy_ref: policy.reference.clone(),
        cause,
        incident: IncidentRef {
            namespace: incident.namespace().unwrap_or_default(),
            name: incident.name_any(),
            uid: incident.uid().unwrap_or_default(),
        },
        target,
        live,
        repository: Repository {
            git_target: place.target.id.clone(),
            url: place.target.object.spec.url.clone(),
            branch: repo.base_branch().to_owned(),
            base: place.base.to_string(),
        },
        revision,
        source: None,
        reverted,
    };
    first_proven(&place, &planning).await
}

/// The plan with the first file whose edit does what it says once everything is rendered.
async fn first_proven(place: &Place, planning: &Planning<'_>) -> Result<Plan, String> {
    let made = |planning: &Planning<'_>| make_plan(planning).map_err(|error| errors::chain(&error));
    if place.sources.is_empty() {
        return Ok(made(planning)?.plan);
    }
    let mut refusals: Vec<String> = Vec::new();
    for source in &place.sources {
        let planned = made(&Planning { source: Some(source.clone()), ..planning.clone() });
        let proven = match planned {
            Ok(planned) => proven(place, source, planned).await,
            Err(why) => Err(why),
        };
        match proven {
            Ok(plan) => return Ok(plan),
            Err(why) if refusals.contains(&why) => {}
            Err(why) => refusals.push(why),
        }
    }
    Err(refusals.join("; "))
}

/// The plan, when the edits of a file are all that changes in the folder that is rendered. What people mapped by hand is not rendered.
async fn proven(place: &Place, source: &SourceFile, planned: Planned) -> Result<Plan, String> {
    let Planned { mut plan, after } = planned;
    let (Some(folder), target) = (&place.folder, plan.target.object()) else { return Ok(plan) };
    let Some(after) = after.into_iter().find(|file| file.path == source.path) else { return Ok(plan) };
    let change = ContentChange {
        path: RepoPath::parse(&source.path).map_err(|error| errors::chain(&error))?,
        before: Some(source.text.clone()),
        after: Some(after.text),
    };
    let mut told = contents::live_changes(&contents::differing(&change, &target.namespace)?);
    // The file may leave name and namespace to Kustomize.
    told.iter_mut().for_each(|change| change.object = target.clone());
    let changes = [change];
    let effect = contents::effect(place.target.repo(), &place.base, Some(folder), &changes, &target.namespace).await?;
    if contents::live_changes(&effect.rendered) != told {
        return Err(format!(
            "{} does not decide alone what {target} looks like: patches or settings of Kustomize say otherwise",
            source.path
        ));
    }
    let rendering = effect.rendering(folder, &changes, &target.namespace)?;
    let edits_it = |step: &&mut PlanStep| step.files.iter().any(|file| file.path == source.path);
    for step in plan.steps.iter_mut().filter(edits_it) {
        step.rendering.clone_from(&rendering);
    }
    Ok(plan)
}

/// Where an object stands in Git.
struct Place {
    target: Arc<Target>,
    base: CommitId,
    /// Files that say what it looks like, the most likely one first; none when nothing is to be edited there.
    sources: Vec<SourceFile>,
    /// The folder that it is rendered from; none when people named its file.
    folder: Option<Folder>,
}

/// `edits_its_file`: its own file must be certain. To take a commit back, what the folder renders to is enough.
async fn place(shell: &Shell, live: &Value, object: &ObjectRef, edits_its_file: bool) -> Result<Place, String> {
    let listed = shell.targets.listed(&object.namespace).await.map_err(|error| errors::chain(&error))?;
    let views: Vec<locate::Target> = listed.iter().map(view).collect();
    let said = |error: LocateError| errors::chain(&error);
    if let Some((view, path)) = locate::mapped(object, &views).map_err(|unlocated| unlocated.sentence)? {
        let target = opened(shell, &listed, &view.name).await?;
        let base = target.repo().fetch().await.map_err(|error| errors::chain(&error))?;
        let found = locate::in_file(target.repo(), &base, path, object).await.map_err(said)?;
        return Ok(Place { target, base, sources: vec![found.file], folder: None });
    }
    let owner = match owner::of(shell, live).await {
        Answer::Known(Some(owner)) => owner,
        Answer::Known(None) => {
            return Err(format!(
                "no GitOps controller claims {object}, and no GitTarget maps it: add it to `objects` of a GitTarget"
            ));
        }
        Answer::Unknown { why } => return Err(why),
    };
    let kustomization = Kustomization::read(&owner.kustomization).map_err(|unlocated| unlocated.sentence)?;
    let source = owner.source.as_ref().ok_or("the Kustomization's source does not exist")?;
    let source = locate::GitRepository::read(source).map_err(|unlocated| unlocated.sentence)?;
    let view = locate::target_of(&source, &views).map_err(|unlocated| unlocated.sentence)?;
    let target = opened(shell, &listed, &view.name).await?;
    let base = target.repo().fetch().await.map_err(|error| errors::chain(&error))?;
    let folder = Folder::of(&kustomization).map_err(|unlocated| unlocated.sentence)?;
    let sources = match edits_its_file {
        true => locate::in_kustomization(target.repo(), &base, &kustomization, object).await.map_err(said)?,
        false => Vec::new(),
    };
    Ok(Place { target, base, sources: sources.into_iter().map(|found| found.file).collect(), folder: Some(folder) })
}

fn view(target: &amend_crds::GitTarget) -> locate::Target {
    let object = |one: &amend_crds::gittarget::ObjectLocation| ObjectRef {
        api_version: String::new(),
        kind: one.kind.clone(),
        namespace: one.namespace.clone(),
        name: one.name.clone(),
    };
    locate::Target {
        name: format!("{}/{}", target.namespace().unwrap_or_default(), target.name_any()),
        url: target.spec.url.clone(),
        branch: target.spec.branch.clone(),
        objects: target.spec.objects.iter().map(|one| (object(one), one.path.clone())).collect(),
    }
}

async fn opened(shell: &Shell, listed: &[amend_crds::GitTarget], name: &str) -> Result<Arc<Target>, String> {
    let found = listed.iter().find(|one| view(one).name == name).ok_or("the GitTarget is gone")?;
    shell.targets.open(found).await.map_err(|error| errors::chain(&error))
}

/// The commit that a cause blames.
fn guilty(cause: &Cause) -> Option<CommitId> {
    let named = cause.measures.get("commit.guilty").or(cause.change.as_ref().map(|change| &change.id))?;
    CommitId::parse(named).ok()
}

/// Whether a commit says that it must not be taken back: in its subject, or with the trailer `Forward-Only: true`.
fn is_forward_only(info: &CommitInfo) -> bool {
    info.forward_only || info.subject.to_lowercase().contains(FORWARD_ONLY)
}

async fn reverted(place: &Place, guilty: &CommitId, namespace: &str) -> Result<RevertedCommit, String> {
    let repo = place.target.repo();
    repo.fetch_back_to(guilty).await.map_err(|error| errors::chain(&error))?;
    let info = repo.commit_info(guilty).await.map_err(|error| errors::chain(&error))?;
    let revert = repo.revert(guilty, &place.base).await.map_err(|error| errors::chain(&error))?;
    let rendering = match &place.folder {
        Some(folder) => rendering(place, folder, &revert.changes, namespace).await?,
        None => None,
    };
    let file = |path: &str, text: &Option<String>| text.as_ref().map(|text| SourceFile::new(path, text.clone()));
    Ok(RevertedCommit {
        commit: guilty.to_string(),
        forward_only: is_forward_only(&info),
        subject: info.subject,
        files: revert
            .changes
            .iter()
            .map(|change| {
                let path = change.path.as_str();
                RevertedFile { path: path.to_owned(), now: file(path, &change.before), then: file(path, &change.after) }
            })
            .collect(),
        rendering,
    })
}

/// What changed files of a folder render to; `None` when they hold the objects themselves, and say it all.
async fn rendering(
    place: &Place,
    folder: &Folder,
    changes: &[ContentChange],
    namespace: &str,
) -> Result<Option<Rendering>, String> {
    let effect = contents::effect(place.target.repo(), &place.base, Some(folder), changes, namespace).await?;
    effect.rendering(folder, changes, namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_says_in_its_subject_or_with_a_trailer_that_it_must_not_be_taken_back() {
        let commit = |subject: &str, forward_only| CommitInfo {
            id: CommitId::parse(&"ab".repeat(20)).unwrap(),
            parents: Vec::new(),
            subject: subject.to_owned(),
            author: String::new(),
            committed: jiff::Timestamp::UNIX_EPOCH,
            paths: Vec::new(),
            forward_only,
        };
        assert!(is_forward_only(&commit("orders: migrate", true)), "the trailer");
        assert!(is_forward_only(&commit("orders: migrate (Forward-Only)", false)), "the subject");
        assert!(!is_forward_only(&commit("orders: migrate", false)));
    }
}

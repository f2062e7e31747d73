//! What changed lately: commits that GitOps applied, and rollouts that nobody announced.
//!
//! The revisions come from Flux (`status.lastAppliedRevision`, `status.history`), what is in them from the repository.
//! A commit that touches several objects is one [`Change`] for each, with one id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{Answer, Asked, Change, ChangeKind, Window};
use amend_gitops::GitError;
use amend_gitops::locate::{Homes, KUSTOMIZATION, Kustomization, Kustomizations, home};
use amend_gitops::path::RepoPath;
use amend_gitops::repo::{CommitId, CommitInfo, FileDiff, Repo};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::errors;

mod overlay;

/// Commits looked at for one Kustomization: a busy repository has a few dozen a day, and the guilty one is rarely old.
const COMMITS_MAX: usize = 30;

/// How far the clock of whoever commits may run ahead of ours: what is applied already is never in the future, so a commit up to
/// this much later than a window that ends now still belongs to it. An hour is a wrong summer time.
const CLOCKS_APART: SignedDuration = SignedDuration::from_hours(1);

/// Commits passed over because they are newer than the window: as many as are fetched at most.
const PASSED_MAX: usize = 500;

/// A Kustomization that manages objects of the incident's namespace, with the repository behind it.
#[derive(Clone, Debug)]
pub struct Managed<'a> {
    pub kustomization: &'a Value,
    pub repo: &'a Repo,
    /// What each folder of the repository takes in.
    pub kustomizations: &'a Arc<Kustomizations>,
    /// Live objects of the incident's namespace; those that it manages say whom a setting of Kustomize reaches.
    pub objects: &'a [Value],
}

/// The changes that Flux applied inside `window`, newest first.
pub async fn applied(managed: &Managed<'_>, namespace: &str, window: Window) -> (Answer<Vec<Change>>, Asked) {
    let name = managed.kustomization["metadata"]["name"].as_str().unwrap_or_default();
    let query = format!("git log {}, applied by Kustomization {name}", managed.repo.name());
    let answer = match read(managed, namespace, window).await {
        Ok(changes) => Answer::Known(changes),
        Err(why) => Answer::Unknown { why },
    };
    let (digest, unknown) = match &answer {
        Answer::Known(changes) => (hex::encode(Sha256::digest(serde_json::to_vec(changes).unwrap_or_default())), None),
        Answer::Unknown { why } => (String::new(), Some(why.clone())),
    };
    (answer, Asked { id: format!("git-{name}"), source: "git".to_owned(), query, window, digest, unknown })
}

async fn read(managed: &Managed<'_>, namespace: &str, window: Window) -> Result<Vec<Change>, String> {
    let status = &managed.kustomization["status"];
    let last = status["lastAppliedRevision"]
        .as_str()
        .ok_or("the Kustomization has not applied any revision yet")
        .and_then(|revision| commit_of(revision).ok_or("the applied revision names no Git commit"))?;
    managed.repo.fetch_back_to(&last).await.map_err(|error| errors::chain(&error))?;
    let applied_at = applied_times(status);
    let mut changes = Vec::new();
    let mut next = Some(last);
    // The time at which a commit was applied is that of the first revision at or after it that Flux reports.
    let mut seen_at = None;
    let (mut looked_at, mut passed) = (0, 0);
    while looked_at < COMMITS_MAX {
        let Some(id) = next else { break };
        // Older history than was fetched is older than the window of any incident that goes on.
        let Ok(info) = managed.repo.commit_info(&id).await else {
            match (looked_at, passed) {
                (0, 1..) => return Err("the fetched history does not reach back to that time".to_owned()),
                _ => break,
            }
        };
        seen_at = applied_at.get(id.as_str()).copied().or(seen_at).map(|at| at.max(info.committed));
        let at = seen_at.unwrap_or(info.committed);
        if info.committed < window.from && at < window.from {
            break;
        }
        let is_later = at > window.to.saturating_add(CLOCKS_APART).unwrap_or(window.to);
        match is_later {
            true => passed += 1,
            false => looked_at += 1,
        }
        if passed > PASSED_MAX {
            return Err(format!("more than {PASSED_MAX} commits were made since that time"));
        }
        if let Some(parent) = info.parents.first().filter(|_| !is_later) {
            let files = managed.repo.diff(parent, &id).await.map_err(|error| errors::chain(&error))?;
            changes.extend(changes_in(managed, namespace, &Commit { info: &info, parent, files: &files, at }).await?);
        }
        next = info.parents.first().cloned();
        seen_at = seen_at.filter(|_| !applied_at.contains_key(id.as_str()));
    }
    Ok(changes)
}

/// First time that each revision was applied, by commit.
pub fn applied_times(status: &Value) -> BTreeMap<String, Timestamp> {
    status["history"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let revision = entry["metadata"]["revision"].as_str().and_then(commit_of)?;
            let at: Timestamp = entry["firstReconciled"].as_str()?.parse().ok()?;
            Some((revision.as_str().to_owned(), at))
        })
        .collect()
}

/// The commit in a Flux revision such as `main@sha1:4f2c…`.
pub fn commit_of(revision: &str) -> Option<CommitId> {
    let sha = revision.rsplit_once(':').map_or(revision, |(_, sha)| sha);
    CommitId::parse(sha).ok()
}

async fn changes_in(managed: &Managed<'_>, namespace: &str, commit: &Commit<'_>) -> Result<Vec<Change>, String> {
    let applied = Kustomization::read(managed.kustomization).map_err(|unlocated| unlocated.sentence)?;
    let homes = Homes::applied_by(&applied, managed.kustomizations.clone());
    let own = owned_by(managed);
    let mut changes: Vec<Change> = Vec::new();
    for file in commit.files {
        let Ok(path) = RepoPath::parse(&file.path) else { continue };
        if !managed.kustomizations.takes_part(&applied.folder, &path)? {
            continue;
        }
        let into = Place { namespace, overriding: homes.overriding(&path)? };
        for Touched { target, kind, fields } in touched(managed.repo, commit, &path, &into, &own).await? {
            let text = format!("{}{fields}", file.text);
            // Several files of one commit about one object are one change.
            if let Some(known) = changes.iter_mut().find(|known| known.target == target) {
                if !known.files.contains(&file.path) {
                    known.files.push(file.path.clone());
                }
                known.diff.push_str(&text);
                continue;
            }
            changes.push(Change {
                id: commit.info.id.as_str().to_owned(),
                kind: kind.unwrap_or_else(|| kind_of(&file.text)),
                at: commit.at,
                target,
                summary: commit.info.subject.clone(),
                files: vec![file.path.clone()],
                diff: text,
                author: commit.info.author.clone(),
                new_pods: Vec::new(),
                deleted_pods: Vec::new(),
            });
        }
    }
    Ok(changes)
}

/// One commit, and when it was applied.
struct Commit<'a> {
    info: &'a CommitInfo,
    parent: &'a CommitId,
    files: &'a [FileDiff],
    at: Timestamp,
}

/// An object that a change of a file reaches.
#[derive(Clone, Debug, PartialEq)]
struct Touched {
    target: Entity,
    /// When the lines of the file do not tell it.
    kind: Option<ChangeKind>,
    /// Fields of the object that change, as lines of a diff, where the file does not show them.
    fields: String,
}

/// The live workloads that the Flux Kustomization applied.
fn owned_by<'a>(managed: &Managed<'a>) -> Vec<&'a Value> {
    let meta = &managed.kustomization["metadata"];
    let own = managed.objects.iter().filter(|object| {
        let labels = &object["metadata"]["labels"];
        labels["kustomize.toolkit.fluxcd.io/name"] == meta["name"]
            && labels["kustomize.toolkit.fluxcd.io/namespace"] == meta["namespace"]
    });
    own.collect()
}

/// The text of a file; `None` where there is none, or none that could hold an object (binary, encrypted, too large).
///
/// # Errors
/// A repository that does not answer is not one without the file.
async fn text_of(repo: &Repo, at: &CommitId, path: &RepoPath) -> Result<Option<String>, String> {
    match repo.file(at, path).await {
        Ok(file) => Ok(Some(file.text)),
        Err(GitError::NoFile { .. } | GitError::FileRefused { .. }) => Ok(None),
        Err(error) => Err(errors::chain(&error)),
    }
}

/// What a `kustomization.yaml` says; null where there is none.
///
/// # Errors
/// One that cannot be read may reach anything.
async fn settings_of(repo: &Repo, at: &CommitId, path: &RepoPath) -> Result<Value, String> {
    match repo.file(at, path).await {
        Ok(file) => overlay::settings(path.as_str(), &file.text),
        Err(GitError::NoFile { .. }) => Ok(Value::Null),
        Err(error) => Err(errors::chain(&error)),
    }
}

async fn touched(
    repo: &Repo,
    commit: &Commit<'_>,
    path: &RepoPath,
    into: &Place<'_>,
    own: &[&Value],
) -> Result<Vec<Touched>, String> {
    if KUSTOMIZATION.contains(&path.name()) {
        let before = settings_of(repo, commit.parent, path).await?;
        let after = settings_of(repo, &commit.info.id, path).await?;
        return Ok(overlay::touched(&before, &after, own));
    }
    let before = text_of(repo, commit.parent, path).await?;
    let after = text_of(repo, &commit.info.id, path).await?;
    let objects = changed_objects(before.as_deref(), after.as_deref(), into);
    if !objects.is_empty() {
        let touched = |target| Touched { target, kind: None, fields: String::new() };
        return Ok(objects.into_iter().map(touched).collect());
    }
    // Neither is a patch without a name, or a file that a generator packs.
    let mut folder = path.parent();
    loop {
        for name in KUSTOMIZATION {
            let Ok(settings) = folder.join(name) else { continue };
            let settings = settings_of(repo, &commit.info.id, &settings).await?;
            if settings.is_null() {
                continue;
            }
            let inside = path.as_str().strip_prefix(folder.as_str()).unwrap_or_default().trim_start_matches('/');
            return Ok(overlay::touched_by_input(&settings, inside, own));
        }
        if folder == folder.parent() {
            return Ok(Vec::new());
        }
        folder = folder.parent();
    }
}

/// The workloads and configuration objects of the namespace whose documents differ: changed, new or gone. Comments are no change.
fn changed_objects(before: Option<&str>, after: Option<&str>, into: &Place<'_>) -> Vec<Entity> {
    let read = |text: Option<&str>| -> Vec<(Entity, Value)> {
        let documents = text.and_then(|text| serde_saphyr::from_multiple::<Value>(text).ok()).unwrap_or_default();
        documents.into_iter().filter_map(|document| Some((entity_of(&document, into)?, document))).collect()
    };
    let (before, after) = (read(before), read(after));
    let differs = |one: &&(Entity, Value), others: &[(Entity, Value)]| !others.contains(one);
    let mut found: Vec<Entity> = after
        .iter()
        .filter(|one| differs(one, &before))
        .chain(before.iter().filter(|one| differs(one, &after)))
        .map(|(entity, _)| entity.clone())
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|entity| seen.insert(entity.clone()));
    found
}

/// The workloads and configuration objects of the namespace that a file holds after the commit.
///
/// # Errors
/// The repository does not answer, or which namespace they come to cannot be told.
pub async fn objects_in(
    repo: &Repo,
    commit: &CommitId,
    path: &str,
    namespace: &str,
    homes: &Homes,
) -> Result<Vec<Entity>, String> {
    let Ok(path) = RepoPath::parse(path) else { return Ok(Vec::new()) };
    let Some(text) = text_of(repo, commit, &path).await? else { return Ok(Vec::new()) };
    let Ok(documents) = serde_saphyr::from_multiple::<Value>(&text) else { return Ok(Vec::new()) };
    let into = Place { namespace, overriding: homes.overriding(&path)? };
    Ok(documents.iter().filter_map(|document| entity_of(document, &into)).collect())
}

/// The namespace whose objects are looked for, and what overrides a file's own, once for each way on which it is applied.
struct Place<'a> {
    namespace: &'a str,
    overriding: BTreeSet<Option<String>>,
}

/// The object of the namespace that a document describes, when its change can break a workload. One that says no namespace, and
/// for which nobody says one, may come to any.
fn entity_of(document: &Value, into: &Place<'_>) -> Option<Entity> {
    let kind = kind_named(document["kind"].as_str()?)?;
    let name = document["metadata"]["name"].as_str()?;
    let written = document["metadata"]["namespace"].as_str();
    let comes = |overriding: &Option<String>| home(overriding.as_deref(), written, into.namespace) == into.namespace;
    into.overriding.iter().any(comes).then(|| Entity::new(kind, into.namespace, name))
}

/// Kinds whose change can break a workload.
fn kind_named(kind: &str) -> Option<EntityKind> {
    match kind {
        "Deployment" => Some(EntityKind::Deployment),
        "StatefulSet" => Some(EntityKind::StatefulSet),
        "DaemonSet" => Some(EntityKind::DaemonSet),
        "CronJob" => Some(EntityKind::CronJob),
        "Job" => Some(EntityKind::Job),
        "ConfigMap" => Some(EntityKind::ConfigMap),
        "Secret" => Some(EntityKind::Secret),
        "Service" => Some(EntityKind::Service),
        "PersistentVolumeClaim" => Some(EntityKind::PersistentVolumeClaim),
        _ => None,
    }
}

fn kind_of(diff: &str) -> ChangeKind {
    let mut changed = diff
        .lines()
        .filter(|line| {
            (line.starts_with('+') || line.starts_with('-')) && !line.starts_with("+++") && !line.starts_with("---")
        })
        .map(|line| line[1..].trim_start().trim_start_matches("- "));
    let (mut image, mut replicas, mut other) = (false, false, false);
    for line in changed.by_ref().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split(':').next() {
            Some("image" | "newTag" | "tag") => image = true,
            Some("replicas") => replicas = true,
            _ => other = true,
        }
    }
    match (image, replicas, other) {
        (true, _, _) => ChangeKind::Image,
        (false, true, false) => ChangeKind::Scale,
        (false, _, _) => ChangeKind::Config,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_that_changes_an_image_is_an_image_change() {
        assert_eq!(
            kind_of("--- a\n+++ b\n-          image: shop/cart:1\n+          image: shop/cart:2\n"),
            ChangeKind::Image
        );
        assert_eq!(kind_of("-  replicas: 2\n+  replicas: 3\n"), ChangeKind::Scale);
        assert_eq!(kind_of("-  LIMIT: a\n+  LIMIT: b\n"), ChangeKind::Config);
    }

    fn names_in(before: Option<&str>, after: Option<&str>, overriding: Option<&str>) -> Vec<String> {
        let into = Place { namespace: "shop", overriding: BTreeSet::from([overriding.map(str::to_owned)]) };
        changed_objects(before, after, &into).into_iter().map(|entity| entity.name).collect()
    }

    #[test]
    fn what_overrides_the_namespace_of_a_file_decides_whose_object_has_changed() {
        let file = "kind: ConfigMap\nmetadata: {name: flags, namespace: staging}\n";
        assert_eq!(names_in(None, Some(file), Some("shop")), ["flags"]);
        assert_eq!(names_in(None, Some(file), None), [""; 0]);
        let own = "kind: ConfigMap\nmetadata: {name: flags, namespace: shop}\n";
        assert_eq!(names_in(None, Some(own), Some("live")), [""; 0], "it comes to another");
    }

    #[test]
    fn only_objects_whose_documents_differ_have_changed_and_those_that_are_gone_too() {
        let object = |name: &str, memory: &str| {
            format!("kind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  limit: {memory}\n---\n")
        };
        let before = format!("{}{}{}", object("cart", "1"), object("gone", "1"), object("same", "1"));
        let after = format!("# why\n{}{}{}", object("cart", "2"), object("new", "1"), object("same", "1 # comment"));
        let names = |before: Option<&str>, after: Option<&str>| -> Vec<String> { names_in(before, after, None) };
        assert_eq!(names(Some(&before), Some(&after)), ["cart", "new", "gone"]);
        assert_eq!(names(Some(&object("cart", "1")), None), ["cart"]);
        let elsewhere = "kind: ConfigMap\nmetadata: {name: flags, namespace: bank}\n";
        assert_eq!(names(None, Some(elsewhere)), [""; 0]);
    }

    #[test]
    fn the_commit_is_read_from_both_forms_of_a_flux_revision() {
        let sha = "4f2c1d0a4f2c1d0a4f2c1d0a4f2c1d0a4f2c1d0a";
        assert_eq!(commit_of(&format!("main@sha1:{sha}")).as_ref().map(CommitId::as_str), Some(sha));
        assert_eq!(commit_of("main@sha1:short"), None);
    }
}

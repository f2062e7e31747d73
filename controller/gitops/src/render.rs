//! What a folder of the repository renders to, as Kustomize builds it: the proof behind a change that no object's file shows.
//!
//! ```text
//! files at a commit ─► objects ─┐
//!                               ├─► the fields that differ, object by object
//! the same, changed  ─► objects ─┘
//! ```
//!
//! A part of Kustomize on purpose. Resources, bases, components, patches, names, namespaces, replicas and images are built in the
//! order of its own code (`accumulateTarget` and `configureBuiltinTransformers` in its `api/internal/target`), generated ConfigMaps with
//! their hashed names too. Labels, annotations and generated Secrets are kept aside: what they do to an object is not built, so they
//! must say the same before and after. Everything else is refused by name. `tests/tests/bench/kustomize.rs` holds this against the real program.
//!
//! <https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/>

mod build;
mod generate;
mod images;
mod merge;
mod patch;

use std::collections::{BTreeMap, BTreeSet};

use amend_policies::field::Step;
use amend_policies::manifest;
use amend_policies::plan::{LiveChange, SourceFile};
use serde_json::Value;

use build::{Object, Rendered};

pub(crate) use build::render;

use crate::error::GitError;
use crate::locate::folder::Files;
use crate::locate::{Kustomization, LocateError, Unlocated, yaml_files};
use crate::path::RepoPath;
use crate::repo::{CommitId, ContentChange, Repo};

/// Last keys of fields that name another object: with renamed or generated objects they read otherwise in the cluster.
const REFERENCES: [&str; 6] =
    ["name", "secretName", "claimName", "serviceName", "serviceAccountName", "serviceAccount"];

/// What is rendered: a folder, as a Flux `Kustomization` applies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    pub path: RepoPath,
    /// Overrides the namespace of everything in the folder.
    pub target_namespace: Option<String>,
    /// `${…}` in files is replaced before they are applied.
    pub substitutes: bool,
}

impl Folder {
    /// The folder that a Flux `Kustomization` applies.
    ///
    /// # Errors
    /// It changes what the files render to by settings of its own, or applies them to another cluster.
    pub fn of(kustomization: &Kustomization) -> Result<Self, Unlocated> {
        match kustomization.obstacle() {
            Some(obstacle) => Err(Unlocated::new(obstacle)),
            None => Ok(Self {
                path: kustomization.folder.clone(),
                target_namespace: kustomization.target_namespace.clone(),
                substitutes: kustomization.substitutes,
            }),
        }
    }
}

/// What a change of files does to the objects of a folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Every field that differs, by object and field.
    pub changes: Vec<LiveChange>,
    /// The objects that differ, whole, as they are and as they will be.
    pub before: Vec<Value>,
    pub after: Vec<Value>,
    /// The changed files that are part of what is rendered; others are applied from elsewhere, or not at all.
    pub files: BTreeSet<RepoPath>,
}

/// Renders a folder at a revision twice, as it is and with changed files, and compares.
///
/// # Errors
/// What of the folder's settings is not followed, by name; what does not fit together (an object twice, a patch for nobody); what
/// [`Repo::texts`] says.
pub async fn difference(
    repo: &Repo,
    at: &CommitId,
    folder: &Folder,
    changes: &[ContentChange],
) -> Result<Difference, LocateError> {
    let read = yaml_files(repo, at, WHAT).await?;
    let now = built(repo, at, folder, read.clone(), &[]).await?;
    let then = built(repo, at, folder, read, changes).await?;
    let touched: Vec<RepoPath> = changes.iter().map(|change| change.path.clone()).collect();
    Ok(compared(&now, &then, folder, &touched)?)
}

/// What has changed of the objects of a folder between two revisions, when these files were touched.
///
/// # Errors
/// As [`difference`].
pub async fn between(
    repo: &Repo,
    from: &CommitId,
    to: &CommitId,
    folder: &Folder,
    touched: &[RepoPath],
) -> Result<Vec<LiveChange>, LocateError> {
    let before = built(repo, from, folder, yaml_files(repo, from, WHAT).await?, &[]).await?;
    let after = built(repo, to, folder, yaml_files(repo, to, WHAT).await?, &[]).await?;
    Ok(compared(&before, &after, folder, touched)?.changes)
}

/// What is looked for, in the sentence about a repository with too many files.
const WHAT: &str = "the object";

/// Renders a folder from the YAML files of a revision and their refusals, with some files changed.
async fn built(
    repo: &Repo,
    at: &CommitId,
    folder: &Folder,
    (mut texts, mut refused): (BTreeMap<RepoPath, String>, BTreeMap<RepoPath, String>),
    changes: &[ContentChange],
) -> Result<Rendered, LocateError> {
    for change in changes {
        match &change.after {
            Some(text) => texts.insert(change.path.clone(), text.clone()),
            None => texts.remove(&change.path),
        };
    }
    let first = render(&Files { texts: &texts, refused: &refused }, folder)?;
    if first.missing.is_empty() {
        return Ok(first);
    }
    // What generators pack may be any text; only now it is known which.
    let gone = |path: &&RepoPath| !changes.iter().any(|change| change.path == **path);
    for (path, outcome) in repo.texts(at, first.missing.iter().filter(gone).cloned().collect()).await? {
        match outcome {
            Ok(text) => texts.insert(path, text),
            Err(GitError::FileRefused { why, .. }) => refused.insert(path, why),
            Err(GitError::NoFile { .. }) => None,
            Err(error) => return Err(error.into()),
        };
    }
    let rendered = render(&Files { texts: &texts, refused: &refused }, folder)?;
    match rendered.missing.first() {
        None => Ok(rendered),
        Some(path) => Err(unpacked(path, &refused).into()),
    }
}

fn unpacked(path: &RepoPath, refused: &BTreeMap<RepoPath, String>) -> Unlocated {
    let why = refused.get(path).map_or("it is not there", String::as_str);
    Unlocated::new(format!("a generator packs {path}, which cannot be read: {why}"))
}

/// Every object that a folder renders to, from the text of the repository's YAML files by path.
///
/// # Errors
/// As [`difference`].
pub fn objects(texts: &BTreeMap<RepoPath, String>, folder: &Folder) -> Result<Vec<Value>, Unlocated> {
    let refused = BTreeMap::new();
    let rendered = render(&Files { texts, refused: &refused }, folder)?;
    if let Some(path) = rendered.missing.first() {
        return Err(unpacked(path, &refused));
    }
    Ok(rendered.objects.into_iter().map(|object| object.value).collect())
}

fn compared(now: &Rendered, then: &Rendered, folder: &Folder, touched: &[RepoPath]) -> Result<Difference, Unlocated> {
    let places = now.aside.keys().chain(then.aside.keys());
    if let Some((path, setting)) = places.into_iter().find(|place| now.aside.get(place) != then.aside.get(place)) {
        return Err(Unlocated::new(format!(
            "the change is in {setting} of {path}, and what that renders to is not followed"
        )));
    }
    let packed = |path: &&RepoPath| now.inputs.contains(path) || then.inputs.contains(path);
    if let Some(path) = touched.iter().find(packed) {
        return Err(Unlocated::new(format!(
            "{path} is packed by a generator, and what that renders to is not followed"
        )));
    }
    let differing = |ours: &Rendered, theirs: &Rendered| -> Vec<Object> {
        let differs = |object: &&Object| theirs.objects.iter().all(|other| other.value != object.value);
        ours.objects.iter().filter(differs).cloned().collect()
    };
    let (before, after) = (differing(now, then), differing(then, now));
    let whole = |objects: &[Object]| objects.iter().map(|object| object.value.clone()).collect::<Vec<Value>>();
    let (old, new) = (whole(&before), whole(&after));
    if folder.substitutes && [&old, &new].into_iter().flatten().any(|object| object.to_string().contains("${")) {
        return Err(Unlocated::new("what changes has ${…} that Flux replaces before it applies it"));
    }
    // A generated object is another one once its contents change. Compared under one name, it shows what changed.
    let mut paired = old.clone();
    for (value, object) in paired.iter_mut().zip(&before).filter(|(_, object)| object.hashed) {
        let same = |other: &&Object| {
            other.hashed && other.written == object.written && other.namespace() == object.namespace()
        };
        if let Some(other) = after.iter().find(same) {
            value["metadata"]["name"] = other.name().into();
        }
    }
    let text = |objects: &[Value]| objects.iter().map(|object| format!("---\n{object}\n")).collect::<String>();
    let source = |objects: &[Value]| SourceFile::new("rendered.yaml", text(objects));
    let edits = manifest::differences(Some(&source(&paired)), Some(&source(&new)))
        .map_err(|refusal| Unlocated::new(refusal.to_string()))?;
    let changes: Vec<LiveChange> = edits.into_iter().map(LiveChange::from).collect();
    let renames = now.renames || then.renames;
    let named = |change: &&LiveChange| match change.field.steps() {
        // These are built.
        [.., Step::Key(of), Step::Key(_)] if of.starts_with("configMap") => false,
        [.., Step::Key(key)] => REFERENCES.contains(&key.as_str()),
        _ => false,
    };
    if let Some(change) = changes.iter().find(named).filter(|_| renames) {
        return Err(Unlocated::new(format!(
            "{} of {} names another object, and Kustomize may write that name otherwise (prefix, suffix or hash)",
            change.field, change.object
        )));
    }
    let part = |path: &&RepoPath| now.files.contains(path) || then.files.contains(path);
    let files = touched.iter().filter(part).cloned().collect();
    Ok(Difference { changes, before: old, after: new, files })
}

#[cfg(test)]
mod tests;

//! From a live object to the file in Git that it is applied from.
//!
//! Asked of Flux's labels and objects, or of the `GitTarget`'s own mapping. An answer that is not certain is none: an
//! object found twice, or behind a transformation that is not followed, is `Unlocated` with a sentence.

mod elsewhere;
mod flux;
pub(crate) mod folder;
mod home;

use std::collections::BTreeMap;

use amend_policies::plan::{ObjectRef, SourceFile};

pub use elsewhere::{AppliedFolder, Kustomizations};
pub use flux::{GitRepository, Kustomization, NamespacedName, owner};
pub use folder::KUSTOMIZATION;
pub use home::{Homes, home};

use crate::access::normalised;
use crate::error::GitError;
use crate::path::RepoPath;
use crate::render::{self, Folder};
use crate::repo::{CommitId, Entry, Repo};
use folder::Files;

/// YAML files read at most when looking for one object.
const FILES: usize = 3000;

/// Why there is no certain place, as a sentence that says what stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlocated {
    pub sentence: String,
}

impl Unlocated {
    pub fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into() }
    }
}

/// Why an object was not located.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// There is no certain answer, and asking again gives the same.
    #[error("{}", .0.sentence)]
    Unlocated(Unlocated),
    #[error(transparent)]
    Git(#[from] GitError),
}

impl From<Unlocated> for LocateError {
    fn from(unlocated: Unlocated) -> Self {
        Self::Unlocated(unlocated)
    }
}

/// A `GitTarget` as far as locating needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `namespace/name`.
    pub name: String,
    pub url: String,
    pub branch: String,
    /// Where objects live according to the target: object to file.
    pub objects: Vec<(ObjectRef, String)>,
}

/// One place of an object in Git.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub file: SourceFile,
    /// As the file names it: the namespace may be empty there.
    pub object: ObjectRef,
    /// Where its document begins, from 1.
    pub line: u32,
}

/// The target that serves the repository and branch that Flux applies from.
///
/// Compared by normalised URL, so that SSH and HTTPS spellings of one repository meet. Two targets for one branch
/// are refused: which one's grants would count?
pub fn target_of<'a>(source: &GitRepository, targets: &'a [Target]) -> Result<&'a Target, Unlocated> {
    let repository = normalised(&source.url);
    let Some(branch) = &source.branch else {
        return Err(Unlocated::new(format!(
            "GitRepository {}/{} follows a tag or a fixed commit, so a merged change would not be applied",
            source.at.namespace, source.at.name
        )));
    };
    let mut serving = targets.iter().filter(|one| normalised(&one.url) == repository && one.branch == *branch);
    match (serving.next(), serving.next()) {
        (Some(target), None) => Ok(target),
        (None, _) => Err(Unlocated::new(format!(
            "no GitTarget serves branch {branch} of {repository}; create one with this URL and branch, and grant the namespace its paths"
        ))),
        (Some(one), Some(other)) => {
            Err(Unlocated::new(format!("GitTargets {} and {} both serve {repository}; keep one", one.name, other.name)))
        }
    }
}

/// The file named for the object in a target's own mapping, which comes before asking Flux.
///
/// `None` when no target names it.
pub fn mapped<'a>(object: &ObjectRef, targets: &'a [Target]) -> Result<Option<(&'a Target, &'a str)>, Unlocated> {
    let named =
        |one: &ObjectRef| (&one.kind, &one.namespace, &one.name) == (&object.kind, &object.namespace, &object.name);
    let mut places = targets.iter().flat_map(|target| {
        target.objects.iter().filter(|(one, _)| named(one)).map(move |(_, path)| (target, path.as_str()))
    });
    match (places.next(), places.next()) {
        (place, None) => Ok(place),
        (Some((one, path)), Some((other, other_path))) => Err(Unlocated::new(format!(
            "{object} is mapped twice: to {path} by GitTarget {} and to {other_path} by GitTarget {}",
            one.name, other.name
        ))),
        (None, Some(_)) => Ok(None),
    }
}

/// Finds the files below what a Flux `Kustomization` applies that say what the object looks like, at a revision: patches in files of
/// their own, the last one first, and at the end the file that holds the object itself. Which of them decides a field is shown by
/// rendering an edit ([`render::difference`](crate::render::difference)).
///
/// # Errors
/// The object is not rendered exactly once, or what stands between files and objects is not followed.
pub async fn in_kustomization(
    repo: &Repo,
    at: &CommitId,
    kustomization: &Kustomization,
    object: &ObjectRef,
) -> Result<Vec<Found>, LocateError> {
    let folder = Folder::of(kustomization)?;
    let (texts, refused) = yaml_files(repo, at, &object.to_string()).await?;
    let files = Files { texts: &texts, refused: &refused };
    let rendered = render::render(&files, &folder)?;
    let found = rendered.objects.iter().find(|one| is_it(&one.id(), object)).ok_or_else(|| {
        let unsearched = files.unsearched(&folder.path, rendered.unparsed());
        Unlocated::new(format!("{object} is not below {}{unsearched}", shown(&folder.path)))
    })?;
    if folder.substitutes && found.value.to_string().contains("${") {
        return Err(Unlocated::new(format!("{object} has ${{…}} that Flux replaces before it applies the file")).into());
    }
    let written = ObjectRef { namespace: found.written.1.clone(), name: found.written.0.clone(), ..found.id() };
    let places = found.places.iter().rev().map(|place| Found {
        file: SourceFile::new(place.file.as_str(), texts.get(&place.file).map(String::as_str).unwrap_or_default()),
        object: written.clone(),
        line: place.line,
    });
    Ok(places.collect())
}

/// Whether a rendered object is the one in the cluster, whose version the API server may serve under another name.
fn is_it(rendered: &ObjectRef, live: &ObjectRef) -> bool {
    let group =
        |object: &ObjectRef| object.api_version.split_once('/').map_or(String::new(), |(group, _)| group.into());
    let namespace = if rendered.namespace.is_empty() { "default" } else { &rendered.namespace };
    rendered.kind == live.kind
        && rendered.name == live.name
        && group(rendered) == group(live)
        && (live.namespace.is_empty() || namespace == live.namespace)
}

/// Finds the object in the one file that a target's mapping names.
pub async fn in_file(repo: &Repo, at: &CommitId, path: &str, object: &ObjectRef) -> Result<Found, LocateError> {
    let path = RepoPath::parse(path)?;
    let file = repo.file(at, &path).await?;
    let texts = BTreeMap::from([(path.clone(), file.text)]);
    let files = Files { texts: &texts, refused: &BTreeMap::new() };
    Ok(only(files.places_in(&path, object)?, object, &path)?)
}

fn only(mut places: Vec<Found>, object: &ObjectRef, path: &RepoPath) -> Result<Found, Unlocated> {
    match (places.pop(), places.pop()) {
        (Some(place), None) => Ok(place),
        (None, _) => Err(Unlocated::new(format!("{object} is not in {path}"))),
        (Some(one), Some(other)) => Err(Unlocated::new(format!(
            "{object} is defined twice in {path}: {}:{} and {}:{}",
            other.file.path, other.line, one.file.path, one.line
        ))),
    }
}

pub(crate) fn shown(folder: &RepoPath) -> &str {
    if folder.is_root() { "the repository's root" } else { folder.as_str() }
}

/// All YAML files of the repository that may matter: bases lie outside the folder that is applied.
pub(crate) async fn yaml_files(
    repo: &Repo,
    at: &CommitId,
    object: &str,
) -> Result<(BTreeMap<RepoPath, String>, BTreeMap<RepoPath, String>), LocateError> {
    let entries = repo.list(at, &RepoPath::root()).await?;
    let entries: Vec<Entry> = entries.into_iter().filter(|entry| folder::is_yaml(&entry.path)).collect();
    if entries.len() > FILES {
        return Err(Unlocated::new(format!(
            "the repository has more than {FILES} YAML files; name the file of {object} in the GitTarget"
        ))
        .into());
    }
    let (mut texts, mut refused) = (BTreeMap::new(), BTreeMap::new());
    for (path, outcome) in repo.texts(at, entries.into_iter().map(|entry| entry.path).collect()).await? {
        match outcome {
            Ok(text) => texts.insert(path, text),
            Err(GitError::FileRefused { why, .. }) => refused.insert(path, why),
            Err(error) => return Err(error.into()),
        };
    }
    Ok((texts, refused))
}

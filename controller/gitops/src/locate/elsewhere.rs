//! Who else renders a file: other kustomizations of the repository that take it in, as a resource or over a base.
//!
//! A base is shared on purpose. Whoever changes one for production changes staging with it, so this must be known before
//! the change is proposed (<https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/resource/>).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::folder::KUSTOMIZATION;
use crate::error::GitError;
use crate::path::RepoPath;
use crate::repo::{CommitId, Repo};

/// Fields of a `kustomization.yaml` that take in files and folders.
const TAKES_IN: [&str; 3] = ["resources", "bases", "components"];

/// Fields that lay files over what is taken in.
const PATCHES: [&str; 3] = ["patches", "patchesStrategicMerge", "patchesJson6902"];

/// Fields that pack files into ConfigMaps and Secrets.
const GENERATORS: [&str; 2] = ["configMapGenerator", "secretGenerator"];

/// Kustomizations read at most: a repository with more is not one whose bases are known at a glance.
const KUSTOMIZATIONS: usize = 2000;

/// The kustomizations of a repository at one revision, and what each takes in.
#[derive(Clone, Debug, Default)]
pub struct Kustomizations {
    /// By folder: files and folders, as paths in the repository.
    takes_in: BTreeMap<RepoPath, BTreeSet<RepoPath>>,
    /// The namespace that a folder's kustomization puts its objects into, where it says one.
    namespaces: BTreeMap<RepoPath, String>,
    /// Files that could not be read, so what they take in is not known.
    unread: Vec<RepoPath>,
}

/// A folder that a GitOps controller applies, with the name people know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedFolder {
    /// As `Kustomization flux-system/shop`.
    pub by: String,
    pub folder: RepoPath,
}

impl Kustomizations {
    /// Reads them at a revision.
    ///
    /// # Errors
    /// What [`Repo::list`] and [`Repo::texts`] say, and [`GitError::FileRefused`] when there are more than 2,000.
    pub async fn read(repo: &Repo, at: &CommitId) -> Result<Self, GitError> {
        let listed = repo.list(at, &RepoPath::root()).await?;
        let paths: Vec<RepoPath> =
            listed.into_iter().map(|entry| entry.path).filter(|path| KUSTOMIZATION.contains(&path.name())).collect();
        if paths.len() > KUSTOMIZATIONS {
            let why = format!("the repository has more than {KUSTOMIZATIONS} kustomizations");
            return Err(GitError::FileRefused { path: "kustomization.yaml".into(), why });
        }
        let mut read = Self::default();
        for (path, text) in repo.texts(at, paths).await? {
            match text.ok().and_then(|text| taken_in(&path, &text)) {
                Some((taken, namespace)) => {
                    read.takes_in.entry(path.parent()).or_default().extend(taken);
                    read.namespaces.extend(namespace.map(|namespace| (path.parent(), namespace)));
                }
                None => read.unread.push(path),
            }
        }
        Ok(read)
    }

    /// Who renders the file besides the folder that is applied for the target (`None`: a mapping names the file).
    ///
    /// Other kustomizations are named by their folder, the outermost of a chain only; those that take in the applied
    /// folder itself bring nothing new. `others` are the folders that controllers of this cluster apply for other objects.
    ///
    /// # Errors
    /// A clause that names the kustomization which cannot be read, when nobody else is known.
    pub fn elsewhere(
        &self,
        file: &RepoPath,
        applied: Option<&RepoPath>,
        others: &[AppliedFolder],
    ) -> Result<Vec<String>, String> {
        let own = applied.map(|folder| self.applied_from(folder)).unwrap_or_default();
        let foreign = |folder: &RepoPath| {
            !own.contains(folder) && applied.is_none_or(|applied| !self.applied_from(folder).contains(applied))
        };
        let takers: BTreeSet<&RepoPath> =
            self.takes_in.keys().filter(|folder| self.renders(folder, file) && foreign(folder)).collect();
        let inner: BTreeSet<RepoPath> = takers.iter().flat_map(|folder| self.below(folder)).collect();
        let mut named: Vec<String> =
            takers.iter().filter(|folder| !inner.contains(**folder)).map(|folder| shown(folder)).collect();
        if applied.is_none() && named.len() == 1 {
            // The file is mapped by hand, and this is how it comes into the cluster.
            named.clear();
        }
        named.extend(others.iter().filter(|other| self.renders(&other.folder, file)).map(|other| other.by.clone()));
        match self.unread.first() {
            Some(path) if named.is_empty() => Err(not_known(path)),
            _ => Ok(named),
        }
    }

    /// Whether a file may change what applying a folder brings: it lies in a folder whose kustomization comes with it (patches and
    /// inputs of generators do), or is taken in from elsewhere.
    ///
    /// # Errors
    /// A clause that names the kustomization which comes with the folder and cannot be read: it may take in any file.
    pub fn takes_part(&self, folder: &RepoPath, file: &RepoPath) -> Result<bool, String> {
        let from = self.applied_from(folder);
        if from.iter().any(|one| file.is_inside(one)) || self.renders(folder, file) {
            return Ok(true);
        }
        let unread = self.unread_of(&from);
        match unread.iter().any(|path| file.is_inside(&path.parent())) {
            true => Ok(true),
            false => unread.first().map_or(Ok(false), |path| Err(not_known(path))),
        }
    }

    /// Kustomizations that come with these folders and could not be read.
    fn unread_of(&self, folders: &BTreeSet<RepoPath>) -> Vec<&RepoPath> {
        let comes_with = |home: &RepoPath| {
            folders.iter().any(|one| match self.takes_in.get(one) {
                Some(taken) => taken.contains(home),
                None => home.is_inside(one),
            })
        };
        self.unread.iter().filter(|path| comes_with(&path.parent())).collect()
    }

    /// The namespaces that kustomizations put the objects of a file into when a folder is applied, one for each way that leads to
    /// it; `outer` comes before them all. See [`home`](super::home).
    pub(super) fn overriding(
        &self,
        folder: &RepoPath,
        outer: Option<&str>,
        file: &RepoPath,
    ) -> Result<BTreeSet<Option<String>>, String> {
        if let (None, Some(path)) = (outer, self.unread_of(&self.applied_from(folder)).first()) {
            return Err(format!("{path} cannot be read, so the namespace that it sets is not known"));
        }
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![(folder, outer)];
        while let Some((folder, outer)) = open.pop() {
            let namespace = outer.or(self.namespaces.get(folder).map(String::as_str));
            if !seen.insert((folder, namespace)) {
                continue;
            }
            let beside = file.is_inside(folder) && self.nearest(file, folder).is_none();
            match self.takes_in.get(folder) {
                Some(taken) => {
                    if beside || taken.contains(file) {
                        found.insert(namespace.map(str::to_owned));
                    }
                    let bases = taken.iter().filter(|one| self.takes_in.contains_key(*one));
                    open.extend(bases.map(|base| (base, namespace)));
                }
                None => {
                    if beside {
                        found.insert(namespace.map(str::to_owned));
                    }
                    open.extend(self.outermost_in(folder).map(|one| (one, namespace)));
                }
            }
        }
        Ok(found)
    }

    /// Folders with a kustomization below one without, as Flux generates it for that.
    fn outermost_in<'a>(&'a self, folder: &'a RepoPath) -> impl Iterator<Item = &'a RepoPath> + 'a {
        let inside = self.takes_in.keys().filter(move |one| one.is_inside(folder));
        inside.filter(move |one| self.nearest(&one.parent(), folder).is_none())
    }

    /// Whether applying a folder applies the file.
    fn renders(&self, folder: &RepoPath, file: &RepoPath) -> bool {
        let from = self.applied_from(folder);
        from.iter().any(|one| match self.takes_in.get(one) {
            Some(taken) => {
                let is_its_own = file.parent() == *one && KUSTOMIZATION.contains(&file.name());
                is_its_own || taken.contains(file)
            }
            // Without a kustomization everything counts down to the next folder that has one, as Flux generates it.
            None => file.is_inside(one) && self.nearest(file, one).is_none(),
        })
    }

    /// The folder, and every folder whose kustomization comes with it.
    fn applied_from(&self, folder: &RepoPath) -> BTreeSet<RepoPath> {
        let mut all = self.below(folder);
        if !self.takes_in.contains_key(folder) {
            for one in self.outermost_in(folder) {
                all.extend(self.below(one));
                all.insert(one.clone());
            }
        }
        all.insert(folder.clone());
        all
    }

    /// Every folder with a kustomization that a folder's own takes in, over any number of bases.
    fn below(&self, folder: &RepoPath) -> BTreeSet<RepoPath> {
        let mut found = BTreeSet::new();
        let mut open = vec![folder.clone()];
        while let Some(next) = open.pop() {
            for taken in self.takes_in.get(&next).into_iter().flatten() {
                if taken != folder && self.takes_in.contains_key(taken) && found.insert(taken.clone()) {
                    open.push(taken.clone());
                }
            }
        }
        found
    }

    /// The folder with a kustomization that a path lies in, strictly below `root`.
    fn nearest(&self, path: &RepoPath, root: &RepoPath) -> Option<&RepoPath> {
        self.takes_in.keys().find(|folder| *folder != root && folder.is_inside(root) && path.is_inside(folder))
    }
}

/// Files and folders that a kustomization takes in, and the namespace that it sets; `None` when it is not one. Other repositories
/// are not followed.
fn taken_in(path: &RepoPath, text: &str) -> Option<(Vec<RepoPath>, Option<String>)> {
    let settings: Value = serde_saphyr::from_str(text).ok()?;
    let fields = settings.as_object()?;
    let entries = |names: &[&str]| {
        let lists = names.iter().filter_map(|name| fields.get(*name)).filter_map(Value::as_array);
        lists.flatten().cloned().collect::<Vec<Value>>()
    };
    // A patch is text or a file, and what is no path leads nowhere.
    let patches = entries(&PATCHES).into_iter().map(|patch| patch.get("path").cloned().unwrap_or(patch));
    let packed = entries(&GENERATORS).into_iter().flat_map(|one| {
        let lists = ["files", "envs"].into_iter().filter_map(|list| one[list].as_array()).flatten();
        let files = lists.chain(one.get("env")).filter_map(Value::as_str);
        files.map(|file| file.rsplit_once('=').map_or(file, |(_, path)| path).into()).collect::<Vec<Value>>()
    });
    let named = entries(&TAKES_IN).into_iter().chain(patches).chain(packed);
    let taken = named.filter_map(|one| path.parent().join(one.as_str()?).ok()).collect();
    let namespace = fields.get("namespace").and_then(Value::as_str).filter(|text| !text.is_empty());
    Some((taken, namespace.map(str::to_owned)))
}

fn not_known(kustomization: &RepoPath) -> String {
    format!("{kustomization} cannot be read, so what it takes in is not known")
}

fn shown(folder: &RepoPath) -> String {
    if folder.is_root() { "the repository's root".to_owned() } else { folder.to_string() }
}

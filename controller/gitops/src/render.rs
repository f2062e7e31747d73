//! What a folder of the repository renders to, as Kustomize builds it: the proof behind a change that no object's file shows.
//!
//! ```text
//! files at a commit ─► objects ─┐
//!                               ├─► the fields that differ, object by object
//! the same, changed  ─► objects ─┘
//! ```
//!
//! A part of Kustomize on purpose. Resources, bases, components, patches, names, namespaces, replicas and images are built in the
//! order of its own code (`accumulateTarget` and `configureBuiltinTransformers` in its `api/internal/target`). Labels, annotations
//! and generators are kept aside: what they do to an object is not built, so they must say the same before and after. Everything
//! else is refused by name. `tests/tests/bench/kustomize.rs` holds this against the real program.
//!
//! <https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/>

mod images;
mod merge;
mod patch;

use std::collections::{BTreeMap, BTreeSet};

use amend_policies::field::Step;
use amend_policies::manifest;
use amend_policies::plan::{LiveChange, ObjectRef, SourceFile};
use serde_json::{Map, Value};

use crate::error::GitError;
use crate::locate::folder::{DEPTH, Files, documents};
use crate::locate::{Kustomization, LocateError, Unlocated, shown, yaml_files};
use crate::path::RepoPath;
use crate::repo::{CommitId, ContentChange, Repo};

/// Settings that are built.
const BUILT: [&str; 11] = [
    "resources",
    "bases",
    "components",
    "patches",
    "patchesStrategicMerge",
    "patchesJson6902",
    "namespace",
    "namePrefix",
    "nameSuffix",
    "replicas",
    "images",
];

/// Settings that are not built and must be the same before and after.
const ASIDE: [&str; 6] =
    ["labels", "commonLabels", "commonAnnotations", "configMapGenerator", "secretGenerator", "generatorOptions"];

const GENERATORS: [&str; 2] = ["configMapGenerator", "secretGenerator"];

/// Stands for a file that cannot be parsed, beside those settings.
const UNPARSED: &str = "what is not valid YAML";

/// Settings that change no object that runs.
const WITHOUT_EFFECT: [&str; 5] = ["apiVersion", "kind", "metadata", "buildMetadata", "sortOptions"];

/// Kinds whose names keep what `namePrefix` and `nameSuffix` would add, as in Kustomize's `PrefixTransformer`.
const NAMES_KEPT: [&str; 3] = ["CustomResourceDefinition", "APIService", "Namespace"];

/// Kinds that live in no namespace. One that is missing here is only placed in a namespace by mistake, and then granted by nobody.
const CLUSTER_SCOPED: [&str; 19] = [
    "APIService",
    "ClusterRole",
    "ClusterRoleBinding",
    "CSIDriver",
    "CSINode",
    "CustomResourceDefinition",
    "FlowSchema",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "RuntimeClass",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
];

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
    let (texts, refused) = yaml_files(repo, at, "the kustomization").await?;
    let now = render(&Files { texts: &texts, refused: &refused }, folder)?;
    let mut changed = texts.clone();
    for change in changes {
        match &change.after {
            Some(text) if crate::locate::folder::is_yaml(&change.path) => {
                changed.insert(change.path.clone(), text.clone())
            }
            Some(_) | None => changed.remove(&change.path),
        };
    }
    let then = render(&Files { texts: &changed, refused: &refused }, folder)?;
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
    let before = rendered_at(repo, from, folder).await?;
    let after = rendered_at(repo, to, folder).await?;
    Ok(compared(&before, &after, folder, touched)?.changes)
}

async fn rendered_at(repo: &Repo, at: &CommitId, folder: &Folder) -> Result<Rendered, LocateError> {
    let (texts, refused) = yaml_files(repo, at, "the kustomization").await?;
    Ok(render(&Files { texts: &texts, refused: &refused }, folder)?)
}

/// Every object that a folder renders to, from the text of the repository's YAML files by path.
///
/// # Errors
/// As [`difference`].
pub fn objects(texts: &BTreeMap<RepoPath, String>, folder: &Folder) -> Result<Vec<Value>, Unlocated> {
    let rendered = render(&Files { texts, refused: &BTreeMap::new() }, folder)?;
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
    let differing = |ours: &Rendered, theirs: &Rendered| -> Vec<Value> {
        let differs = |object: &&Object| theirs.objects.iter().all(|other| other.value != object.value);
        ours.objects.iter().filter(differs).map(|object| object.value.clone()).collect()
    };
    let (before, after) = (differing(now, then), differing(then, now));
    if folder.substitutes && [&before, &after].into_iter().flatten().any(|object| object.to_string().contains("${")) {
        return Err(Unlocated::new("what changes has ${…} that Flux replaces before it applies it"));
    }
    let text = |objects: &[Value]| objects.iter().map(|object| format!("---\n{object}\n")).collect::<String>();
    let source = |objects: &[Value]| SourceFile::new(folder.path.as_str(), text(objects));
    let edits = manifest::differences(Some(&source(&before)), Some(&source(&after)))
        .map_err(|refusal| Unlocated::new(refusal.to_string()))?;
    let changes: Vec<LiveChange> = edits.into_iter().map(LiveChange::from).collect();
    let renames = now.renames || then.renames;
    let named = |change: &&LiveChange| match change.field.steps().last() {
        Some(Step::Key(key)) => REFERENCES.contains(&key.as_str()),
        Some(Step::Named(_) | Step::At(_)) | None => false,
    };
    if let Some(change) = changes.iter().find(named).filter(|_| renames) {
        return Err(Unlocated::new(format!(
            "{} of {} names another object, and Kustomize may write that name otherwise (prefix, suffix or hash)",
            change.field, change.object
        )));
    }
    let part = |path: &&RepoPath| now.files.contains(path) || then.files.contains(path);
    let files = touched.iter().filter(part).cloned().collect();
    Ok(Difference { changes, before, after, files })
}

/// Everything that a folder renders to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rendered {
    pub objects: Vec<Object>,
    /// Settings that are not built, by file and name.
    aside: BTreeMap<(RepoPath, &'static str), Value>,
    /// Every file that was read.
    files: BTreeSet<RepoPath>,
    /// Files that generators pack.
    inputs: BTreeSet<RepoPath>,
    /// Whether references between objects read otherwise once they are built.
    renames: bool,
}

impl Rendered {
    /// Files that are not valid YAML.
    pub fn unparsed(&self) -> impl Iterator<Item = &RepoPath> {
        self.aside.keys().filter(|(_, what)| *what == UNPARSED).map(|(path, _)| path)
    }
}

/// An object while it is built.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object {
    pub value: Value,
    /// Name and namespace as its file has them: patches of outer folders may still call it so.
    pub written: (String, String),
    /// The file that it comes from, and the patches in files of their own that were laid over it, in this order.
    pub places: Vec<Place>,
}

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub file: RepoPath,
    /// Of its first line, from 1.
    pub line: u32,
}

impl Object {
    fn new(value: Value, place: Place) -> Self {
        let written = (text_at(&value, "/metadata/name"), text_at(&value, "/metadata/namespace"));
        Self { value, written, places: vec![place] }
    }

    /// The object as the cluster knows it; without a namespace it is in the default one, or in none.
    pub(crate) fn id(&self) -> ObjectRef {
        ObjectRef {
            api_version: self.api_version().to_owned(),
            kind: self.kind().to_owned(),
            namespace: self.namespace(),
            name: self.name(),
        }
    }

    pub(crate) fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }

    pub(crate) fn api_version(&self) -> &str {
        self.value["apiVersion"].as_str().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> String {
        text_at(&self.value, "/metadata/name")
    }

    pub(crate) fn namespace(&self) -> String {
        text_at(&self.value, "/metadata/namespace")
    }

    /// Whether this is one of its names.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.written.0 == name || self.name() == name
    }
}

fn text_at(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub(crate) fn render(files: &Files<'_>, folder: &Folder) -> Result<Rendered, Unlocated> {
    let mut build = Build { files, rendered: Rendered::default() };
    let objects = build.folder(&folder.path, folder.target_namespace.as_deref(), 0)?;
    let mut rendered = build.rendered;
    rendered.objects = objects;
    let mut seen: BTreeMap<ObjectRef, &Object> = BTreeMap::new();
    for object in &rendered.objects {
        if let Some(other) = seen.insert(object.id(), object) {
            let place = |object: &Object| {
                object.places.first().map(|place| format!("{}:{}", place.file, place.line)).unwrap_or_default()
            };
            return Err(Unlocated::new(format!(
                "{} is defined twice below {}: {} and {}",
                object.id(),
                shown(&folder.path),
                place(other),
                place(object)
            )));
        }
    }
    Ok(rendered)
}

/// One run through the folders.
struct Build<'a> {
    files: &'a Files<'a>,
    rendered: Rendered,
}

impl Build<'_> {
    fn folder(&mut self, folder: &RepoPath, namespace: Option<&str>, depth: usize) -> Result<Vec<Object>, Unlocated> {
        if depth > DEPTH {
            return Err(Unlocated::new(format!("{folder} is more than {DEPTH} bases deep")));
        }
        let files = self.files;
        if let Some((path, text)) = files.kustomization(folder) {
            return self.kustomized(path, text, Vec::new(), namespace, depth);
        }
        let (plain, below) = files.as_generated(folder);
        let mut objects = Vec::new();
        for path in plain {
            objects.extend(self.file(path, false)?);
        }
        for folder in below {
            objects.extend(self.folder(&folder, None, depth + 1)?);
        }
        if let Some(namespace) = namespace {
            objects.iter_mut().for_each(|object| place(object, namespace));
        }
        Ok(objects)
    }

    /// Builds a kustomization on what is there already: nothing for a base, everything so far for a component.
    fn kustomized(
        &mut self,
        path: &RepoPath,
        text: &str,
        mut objects: Vec<Object>,
        namespace: Option<&str>,
        depth: usize,
    ) -> Result<Vec<Object>, Unlocated> {
        self.rendered.files.insert(path.clone());
        let settings = settings(path, text)?;
        let list = |name: &str| settings.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        for resource in list("resources").iter().chain(&list("bases")) {
            objects.extend(self.resource(path, resource, depth)?);
        }
        self.keep_aside(path, &settings)?;
        for component in list("components") {
            let folder = entry(path, &component)?;
            let (file, text) = self
                .files
                .kustomization(&folder)
                .ok_or_else(|| Unlocated::new(format!("{path} names {folder}, which is not there")))?;
            if depth >= DEPTH {
                return Err(Unlocated::new(format!("{folder} is more than {DEPTH} bases deep")));
            }
            objects = self.kustomized(file, text, objects, None, depth + 1)?;
        }
        let patches = |name: &str| list(name).into_iter();
        for one in patches("patchesStrategicMerge") {
            self.patched(
                path,
                &Value::from_iter([(if is_inline(&one) { "patch" } else { "path" }, one)]),
                &mut objects,
            )?;
        }
        for one in patches("patches") {
            self.patched(path, &one, &mut objects)?;
        }
        if let Some(namespace) = namespace.or(settings.get("namespace").and_then(Value::as_str)) {
            objects.iter_mut().for_each(|object| place(object, namespace));
        }
        let affix = |name: &str| settings.get(name).and_then(Value::as_str).unwrap_or_default();
        let (prefix, suffix) = (affix("namePrefix"), affix("nameSuffix"));
        if !prefix.is_empty() || !suffix.is_empty() {
            self.rendered.renames = true;
            let named = objects.iter_mut().filter(|object| !NAMES_KEPT.contains(&object.kind()));
            named.for_each(|object| {
                object.value["metadata"]["name"] = format!("{prefix}{}{suffix}", object.name()).into()
            });
        }
        for one in patches("patchesJson6902") {
            self.patched(path, &one, &mut objects)?;
        }
        for one in list("replicas") {
            replicas(path, &one, &mut objects)?;
        }
        for one in list("images") {
            images::set(path, &one, &mut objects)?;
        }
        Ok(objects)
    }

    /// A resource of a kustomization: a file, or a folder with a kustomization of its own.
    fn resource(&mut self, path: &RepoPath, resource: &Value, depth: usize) -> Result<Vec<Object>, Unlocated> {
        let target = entry(path, resource)?;
        if self.files.refused.contains_key(&target) {
            return Ok(Vec::new());
        }
        if self.files.texts.contains_key(&target) {
            return self.file(&target, true);
        }
        match self.files.kustomization(&target) {
            Some(_) => self.folder(&target, None, depth + 1),
            None => Err(Unlocated::new(format!("{path} names {target}, which is not there"))),
        }
    }

    /// The objects of one file.
    fn file(&mut self, path: &RepoPath, strict: bool) -> Result<Vec<Object>, Unlocated> {
        self.rendered.files.insert(path.clone());
        let text = self.files.texts.get(path).map(String::as_str).unwrap_or_default();
        let new = |value: Value, line: u32| Object::new(value, Place { file: path.clone(), line });
        let mut objects = Vec::new();
        for (line, document) in documents(text) {
            let value = match serde_saphyr::from_str::<Value>(document) {
                Ok(value) => value,
                Err(_) if strict => {
                    return Err(Unlocated::new(format!("{path} is not valid YAML in the document at line {line}")));
                }
                // Flux may leave the file out (`spec.ignore` of the source), else it applies nothing.
                Err(_) => {
                    self.rendered.aside.insert((path.clone(), UNPARSED), text.into());
                    continue;
                }
            };
            let is_object = value["kind"].is_string() && value["metadata"]["name"].is_string();
            match (value["items"].as_array(), is_object) {
                (Some(items), _) if value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                    objects.extend(items.iter().map(|item| new(item.clone(), line)));
                }
                (_, true) => objects.push(new(value, line)),
                (_, false) if value.is_null() || !strict => {}
                (_, false) => {
                    return Err(Unlocated::new(format!("{path} holds something else than an object at line {line}")));
                }
            }
        }
        Ok(objects)
    }

    fn patched(&mut self, path: &RepoPath, one: &Value, objects: &mut [Object]) -> Result<(), Unlocated> {
        let (text, file) = match (one["patch"].as_str(), &one["path"]) {
            (Some(text), Value::Null) => (text.to_owned(), None),
            (None, Value::String(_)) => {
                let file = entry(path, &one["path"])?;
                let text = self.files.texts.get(&file).cloned().ok_or_else(|| {
                    Unlocated::new(format!("{path} names the patch {file}, which cannot be read as YAML"))
                })?;
                self.rendered.files.insert(file.clone());
                (text, Some(file))
            }
            _ => return Err(Unlocated::new(format!("{path} has a patch that has neither one text nor one file"))),
        };
        patch::Patch { path, file: file.as_ref(), target: &one["target"], options: &one["options"] }
            .apply(&text, objects)
    }

    /// Notes what is not built, so that both sides can be compared.
    fn keep_aside(&mut self, path: &RepoPath, settings: &Map<String, Value>) -> Result<(), Unlocated> {
        for name in ASIDE {
            let Some(value) = settings.get(name) else { continue };
            self.rendered.aside.insert((path.clone(), name), value.clone());
        }
        let generated = GENERATORS.iter().filter_map(|name| settings.get(*name)).filter_map(Value::as_array).flatten();
        for one in generated {
            self.rendered.renames = true;
            let lists = ["files", "envs"].into_iter().filter_map(|list| one[list].as_array()).flatten();
            for file in lists.chain(one.get("env")).filter_map(Value::as_str) {
                // `key=path` gives the file another name in the map.
                let file = file.rsplit_once('=').map_or(file, |(_, path)| path);
                let file = path.parent().join(file).map_err(|error| said(path, &error))?;
                self.rendered.inputs.insert(file);
            }
        }
        Ok(())
    }
}

/// The settings of a kustomization, when it has none that are not known.
fn settings(path: &RepoPath, text: &str) -> Result<Map<String, Value>, Unlocated> {
    let settings: Value =
        serde_saphyr::from_str(text).map_err(|_| Unlocated::new(format!("{path} is not valid YAML")))?;
    let Value::Object(settings) = settings else {
        return Err(Unlocated::new(format!("{path} is not a mapping")));
    };
    let known = |name: &&String| [&BUILT[..], &ASIDE, &WITHOUT_EFFECT].concat().contains(&name.as_str());
    let strange: Vec<&str> = settings.keys().filter(|name| !known(name)).map(String::as_str).collect();
    match strange.is_empty() {
        true => Ok(settings),
        false => Err(Unlocated::new(format!(
            "{path} uses {}, which Amend does not follow yet; name the object's file in the GitTarget",
            strange.join(", ")
        ))),
    }
}

/// The path that an entry of a list names. Other repositories are not followed.
fn entry(path: &RepoPath, entry: &Value) -> Result<RepoPath, Unlocated> {
    let entry = entry.as_str().unwrap_or_default();
    if entry.is_empty() || entry.contains("://") || entry.contains('?') {
        return Err(Unlocated::new(format!("{path} takes something from another repository ({entry})")));
    }
    path.parent().join(entry).map_err(|error| said(path, &error))
}

fn said(path: &RepoPath, error: &GitError) -> Unlocated {
    Unlocated::new(format!("{path}: {error}"))
}

/// `patchesStrategicMerge` lists files and texts alike.
fn is_inline(one: &Value) -> bool {
    one.as_str().is_some_and(|text| text.contains('\n'))
}

fn place(object: &mut Object, namespace: &str) {
    if !CLUSTER_SCOPED.contains(&object.kind()) {
        object.value["metadata"]["namespace"] = namespace.into();
    }
}

/// `replicas: [{name, count}]`, on the kinds that Kustomize knows to have them.
fn replicas(path: &RepoPath, one: &Value, objects: &mut [Object]) -> Result<(), Unlocated> {
    let (name, count) = (one["name"].as_str().unwrap_or_default(), one["count"].as_u64());
    let count = count.ok_or_else(|| Unlocated::new(format!("{path} has replicas without a count")))?;
    let scaled = ["Deployment", "ReplicationController", "ReplicaSet", "StatefulSet"];
    let mut found = false;
    for object in objects.iter_mut().filter(|object| scaled.contains(&object.kind()) && object.is_called(name)) {
        object.value["spec"]["replicas"] = count.into();
        found = true;
    }
    match found {
        true => Ok(()),
        false => Err(Unlocated::new(format!("{path} has replicas for {name}, which is not there"))),
    }
}

#[cfg(test)]
mod tests;

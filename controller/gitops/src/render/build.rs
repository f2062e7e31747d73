//! One run through the folders of a kustomization, in the order of Kustomize's own code.

use std::collections::{BTreeMap, BTreeSet};

use amend_policies::plan::ObjectRef;
use serde_json::{Map, Value};

use super::{Folder, generate, images, patch};
use crate::error::GitError;
use crate::locate::folder::{DEPTH, Files, documents};
use crate::locate::{Unlocated, shown};
use crate::path::RepoPath;

/// Settings that are built.
const BUILT: [&str; 12] = [
    "resources",
    "bases",
    "components",
    "configMapGenerator",
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
const ASIDE: [&str; 5] = ["labels", "commonLabels", "commonAnnotations", "secretGenerator", "generatorOptions"];

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

/// Everything that a folder renders to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rendered {
    pub objects: Vec<Object>,
    /// Settings that are not built, by file and name.
    pub aside: BTreeMap<(RepoPath, &'static str), Value>,
    /// Every file that was read.
    pub files: BTreeSet<RepoPath>,
    /// Files that generators of Secrets pack.
    pub inputs: BTreeSet<RepoPath>,
    /// Files that generators of ConfigMaps pack and that were not among the texts.
    pub missing: BTreeSet<RepoPath>,
    /// Whether references between objects read otherwise once they are built.
    pub renames: bool,
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
    /// Whether its name ends in a hash of its contents, once everything else is done.
    pub hashed: bool,
}

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub file: RepoPath,
    /// Of its first line, from 1.
    pub line: u32,
}

impl Object {
    pub(super) fn new(value: Value, place: Place) -> Self {
        let written = (text_at(&value, "/metadata/name"), text_at(&value, "/metadata/namespace"));
        Self { value, written, places: vec![place], hashed: false }
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
    let mut objects = build.folder(&folder.path, folder.target_namespace.as_deref(), 0)?;
    generate::finish(&mut objects)?;
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
        for one in &list("configMapGenerator") {
            let options = settings.get("generatorOptions");
            let generator = generate::Generator { path, entry: one, options, texts: self.files.texts };
            generator.run(&mut objects, &mut self.rendered.missing)?;
            self.rendered.files.extend(generate::packed(path, one)?);
        }
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
        for one in settings.get("secretGenerator").and_then(Value::as_array).into_iter().flatten() {
            self.rendered.renames = true;
            self.rendered.inputs.extend(generate::packed(path, one)?);
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

pub(super) fn said(path: &RepoPath, error: &GitError) -> Unlocated {
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

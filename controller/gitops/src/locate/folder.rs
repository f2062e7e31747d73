//! Which files of a folder are applied, and which of them holds an object: as Flux and Kustomize read plain YAML.

use std::collections::BTreeMap;

use amend_policies::plan::{ObjectRef, SourceFile};
use serde_json::Value;

use super::{Found, Unlocated};
use crate::path::RepoPath;

/// Names of Kustomize's own file, in its order of preference.
pub const KUSTOMIZATION: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Settings of a `kustomization.yaml` that leave the fields of plain resources as their files say.
///
/// Anything else (patches, images, replicas, components, charts, prefixes, transformers) is refused by name:
/// the file that decides a field is then not certain.
const HARMLESS: [&str; 13] = [
    "apiVersion",
    "kind",
    "metadata",
    "resources",
    "namespace",
    "labels",
    "commonLabels",
    "commonAnnotations",
    "configMapGenerator",
    "secretGenerator",
    "generatorOptions",
    "buildMetadata",
    "sortOptions",
];

/// Bases below bases: more is a loop or a maze.
const DEPTH: usize = 8;

/// The text of the repository's YAML files below the folders of interest, by path.
pub(super) struct Files<'a> {
    pub texts: &'a BTreeMap<RepoPath, String>,
    /// Entries that are there and not plain readable files, with the reason.
    pub refused: &'a BTreeMap<RepoPath, String>,
}

impl Files<'_> {
    /// What was not searched below a folder, for the sentence of an object that is not found.
    pub fn unsearched(&self, folder: &RepoPath) -> String {
        let inside = self.refused.iter().filter(|(path, _)| path.is_inside(folder));
        let list: Vec<String> = inside.take(3).map(|(path, why)| format!("{path}: {why}")).collect();
        if list.is_empty() { String::new() } else { format!(" (not searched: {})", list.join("; ")) }
    }
}

/// An object that is looked for.
pub(super) struct Wanted<'a> {
    pub object: &'a ObjectRef,
    /// `${…}` is replaced before files are applied.
    pub substitutes: bool,
}

impl Files<'_> {
    /// Every place below `folder` where the object is applied from.
    pub fn places(
        &self,
        folder: &RepoPath,
        namespace: Option<&str>,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<Found>, Unlocated> {
        let mut search = Search { files: self, wanted, found: Vec::new() };
        search.folder(folder, namespace, 0)?;
        let mut found = search.found;
        // One file reached over two ways is still one place.
        found.sort_by(|a, b| (&a.file.path, a.line).cmp(&(&b.file.path, b.line)));
        found.dedup_by(|a, b| a.file.path == b.file.path && a.line == b.line);
        Ok(found)
    }

    /// The places in one file whose documents say themselves which namespace they are for, if they say it.
    pub fn places_in(&self, path: &RepoPath, wanted: &Wanted<'_>) -> Result<Vec<Found>, Unlocated> {
        let mut search = Search { files: self, wanted, found: Vec::new() };
        search.file(path, Some(wanted.object.namespace.as_str()))?;
        let mut found = search.found;
        let here = |written: &str| written.is_empty() || written == wanted.object.namespace;
        found.retain(|place| here(&place.object.namespace));
        Ok(found)
    }

    fn kustomization(&self, folder: &RepoPath) -> Option<(&RepoPath, &str)> {
        KUSTOMIZATION.iter().find_map(|name| {
            let path = folder.join(name).ok()?;
            self.texts.get_key_value(&path).map(|(path, text)| (path, text.as_str()))
        })
    }

    /// The outermost folder between `root` and `path` that has a kustomization.
    fn kustomized_above(&self, path: &RepoPath, root: &RepoPath) -> Option<RepoPath> {
        let mut outermost = None;
        let mut folder = path.parent();
        while folder != *root && folder.is_inside(root) {
            if self.kustomization(&folder).is_some() {
                outermost = Some(folder.clone());
            }
            folder = folder.parent();
        }
        outermost
    }
}

/// One search, and what it has found so far.
struct Search<'a> {
    files: &'a Files<'a>,
    wanted: &'a Wanted<'a>,
    found: Vec<Found>,
}

impl Search<'_> {
    fn folder(&mut self, folder: &RepoPath, namespace: Option<&str>, depth: usize) -> Result<(), Unlocated> {
        if depth > DEPTH {
            return Err(Unlocated::new(format!("{folder} is more than {DEPTH} bases deep")));
        }
        let files = self.files;
        if let Some((path, text)) = files.kustomization(folder) {
            return self.kustomized(path, text, namespace, depth);
        }
        let mut below: Vec<RepoPath> = Vec::new();
        for path in files.texts.keys().filter(|path| path.is_inside(folder)) {
            // The nearest folder with a kustomization of its own decides about everything in it.
            match files.kustomized_above(path, folder) {
                Some(kustomized) if !below.contains(&kustomized) => below.push(kustomized),
                Some(_) => {}
                None => self.file(path, namespace)?,
            }
        }
        below.iter().try_for_each(|folder| self.folder(folder, namespace, depth + 1))
    }

    fn kustomized(
        &mut self,
        path: &RepoPath,
        text: &str,
        namespace: Option<&str>,
        depth: usize,
    ) -> Result<(), Unlocated> {
        let files = self.files;
        let settings: Value =
            serde_saphyr::from_str(text).map_err(|_| Unlocated::new(format!("{path} is not valid YAML")))?;
        let fields = settings.as_object().ok_or_else(|| Unlocated::new(format!("{path} is not a mapping")))?;
        let strange: Vec<&str> = fields.keys().map(String::as_str).filter(|name| !HARMLESS.contains(name)).collect();
        if !strange.is_empty() {
            return Err(Unlocated::new(format!(
                "{path} uses {}, which Amend does not follow yet; name the object's file in the GitTarget",
                strange.join(", ")
            )));
        }
        // The outermost namespace wins, as in Kustomize.
        let namespace = namespace.or(settings.get("namespace").and_then(Value::as_str));
        for resource in settings.get("resources").and_then(Value::as_array).into_iter().flatten() {
            let resource = resource.as_str().unwrap_or_default();
            if resource.contains("://") || resource.contains('?') {
                return Err(Unlocated::new(format!("{path} takes resources from another repository ({resource})")));
            }
            let target = path.parent().join(resource).map_err(|error| Unlocated::new(format!("{path}: {error}")))?;
            if files.texts.contains_key(&target) || files.refused.contains_key(&target) {
                self.file(&target, namespace)?;
            } else if files.kustomization(&target).is_some() {
                self.folder(&target, namespace, depth + 1)?;
            } else {
                return Err(Unlocated::new(format!("{path} names {resource}, which is not there")));
            }
        }
        Ok(())
    }

    /// Adds the places of the object in one file. Encrypted files and symlinks are passed over: what is found elsewhere
    /// is not in doubt because of them, since Flux would refuse to apply an object that it finds twice.
    fn file(&mut self, path: &RepoPath, namespace: Option<&str>) -> Result<(), Unlocated> {
        let wanted = self.wanted;
        let Some(text) = self.files.texts.get(path) else { return Ok(()) };
        if !is_yaml(path) || !text.contains(wanted.object.name.as_str()) {
            return Ok(());
        }
        for (line, document) in documents(text) {
            // Cheap first: most documents of a folder are about something else.
            if !document.contains(wanted.object.name.as_str()) {
                continue;
            }
            let value: Value = serde_saphyr::from_str(document)
                .map_err(|_| Unlocated::new(format!("{path} is not valid YAML in the document at line {line}")))?;
            let Some(object) = same_object(&value, wanted.object, namespace) else { continue };
            if wanted.substitutes && document.contains("${") {
                return Err(Unlocated::new(format!("{path} has ${{…}} that Flux replaces before it applies the file")));
            }
            self.found.push(Found { file: SourceFile::new(path.as_str(), text.as_str()), object, line });
        }
        Ok(())
    }
}

/// The documents of a YAML stream with the line where each begins, from 1.
///
/// A line `---` ends a document wherever it stands in column one (YAML 1.2, section 9.1.3).
pub(super) fn documents(text: &str) -> Vec<(u32, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut position) = (0, 1, 0);
    for (number, line) in (1u32..).zip(text.split_inclusive('\n')) {
        if line.strip_prefix("---").is_some_and(|rest| rest.trim().is_empty() || rest.starts_with([' ', '\t'])) {
            documents.push((start_line, &text[start..position]));
            (start, start_line) = (position, number);
        }
        position += line.len();
    }
    documents.push((start_line, &text[start..]));
    documents.retain(|(_, document)| !document.trim_start_matches("---").trim().is_empty());
    documents
}

/// The reference as the file writes it, when the document is the wanted object.
fn same_object(document: &Value, wanted: &ObjectRef, namespace: Option<&str>) -> Option<ObjectRef> {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let written = ObjectRef {
        api_version: text("/apiVersion").to_owned(),
        kind: text("/kind").to_owned(),
        namespace: text("/metadata/namespace").to_owned(),
        name: text("/metadata/name").to_owned(),
    };
    let group = |version: &str| version.split_once('/').map_or(String::new(), |(group, _)| group.to_owned());
    let applied_to = namespace.unwrap_or(if written.namespace.is_empty() { "default" } else { &written.namespace });
    let same = written.kind == wanted.kind
        && written.name == wanted.name
        && group(&written.api_version) == group(&wanted.api_version)
        && (wanted.namespace.is_empty() || applied_to == wanted.namespace);
    same.then_some(written)
}

pub(super) fn is_yaml(path: &RepoPath) -> bool {
    let name = path.name();
    name.ends_with(".yaml") || name.ends_with(".yml") || name == "Kustomization"
}

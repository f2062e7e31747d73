//! Which files of a folder are applied, and which of them holds an object: as Flux and Kustomize read plain YAML.

use std::collections::BTreeMap;

use amend_policies::plan::{ObjectRef, SourceFile};
use serde_json::Value;

use super::{Found, Unlocated};
use crate::path::RepoPath;

/// Names of Kustomize's own file, in its order of preference.
pub const KUSTOMIZATION: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Bases below bases: more is a loop or a maze.
pub(crate) const DEPTH: usize = 8;

/// The text of the repository's YAML files below the folders of interest, by path.
pub(crate) struct Files<'a> {
    pub texts: &'a BTreeMap<RepoPath, String>,
    /// Entries that are there and not plain readable files, with the reason.
    pub refused: &'a BTreeMap<RepoPath, String>,
}

impl Files<'_> {
    /// What was not searched below a folder, for the sentence of an object that is not found.
    pub fn unsearched<'b>(&self, folder: &RepoPath, unparsed: impl Iterator<Item = &'b RepoPath>) -> String {
        let inside = self.refused.iter().filter(|(path, _)| path.is_inside(folder));
        let refused = inside.map(|(path, why)| format!("{path}: {why}"));
        let list: Vec<String> =
            unparsed.map(|path| format!("{path} is not valid YAML")).chain(refused).take(3).collect();
        if list.is_empty() { String::new() } else { format!(" (not searched: {})", list.join("; ")) }
    }
}

impl Files<'_> {
    /// The places of an object in one file whose documents say themselves which namespace they are for, if they say it.
    pub(super) fn places_in(&self, path: &RepoPath, wanted: &ObjectRef) -> Result<Vec<Found>, Unlocated> {
        let Some(text) = self.texts.get(path) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        // Cheap first: most documents of a file are about something else.
        let about = |document: &&str| document.contains(wanted.name.as_str());
        for (line, document) in documents(text).into_iter().filter(|(_, document)| about(document)) {
            let value: Value = serde_saphyr::from_str(document)
                .map_err(|_| Unlocated::new(format!("{path} is not valid YAML in the document at line {line}")))?;
            let Some(object) = same_object(&value, wanted) else { continue };
            found.push(Found { file: SourceFile::new(path.as_str(), text.as_str()), object, line });
        }
        Ok(found)
    }

    pub fn kustomization(&self, folder: &RepoPath) -> Option<(&RepoPath, &str)> {
        KUSTOMIZATION.iter().find_map(|name| {
            let path = folder.join(name).ok()?;
            self.texts.get_key_value(&path).map(|(path, text)| (path, text.as_str()))
        })
    }

    /// What Flux takes in of a folder without a kustomization: the plain files, and the folders below that have one of their own.
    pub fn as_generated(&self, folder: &RepoPath) -> (Vec<&RepoPath>, Vec<RepoPath>) {
        let (mut plain, mut below) = (Vec::new(), Vec::new());
        for path in self.texts.keys().filter(|path| path.is_inside(folder) && is_yaml(path)) {
            // The nearest folder with a kustomization of its own decides about everything in it.
            match self.kustomized_above(path, folder) {
                Some(kustomized) if !below.contains(&kustomized) => below.push(kustomized),
                Some(_) => {}
                None => plain.push(path),
            }
        }
        (plain, below)
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

/// The documents of a YAML stream with the line where each begins, from 1.
///
/// A line `---` ends a document wherever it stands in column one (YAML 1.2, section 9.1.3).
pub(crate) fn documents(text: &str) -> Vec<(u32, &str)> {
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
fn same_object(document: &Value, wanted: &ObjectRef) -> Option<ObjectRef> {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let written = ObjectRef {
        api_version: text("/apiVersion").to_owned(),
        kind: text("/kind").to_owned(),
        namespace: text("/metadata/namespace").to_owned(),
        name: text("/metadata/name").to_owned(),
    };
    let group = |version: &str| version.split_once('/').map_or(String::new(), |(group, _)| group.to_owned());
    let same = written.kind == wanted.kind
        && written.name == wanted.name
        && group(&written.api_version) == group(&wanted.api_version)
        && (written.namespace.is_empty() || written.namespace == wanted.namespace);
    same.then_some(written)
}

pub(crate) fn is_yaml(path: &RepoPath) -> bool {
    let name = path.name();
    name.ends_with(".yaml") || name.ends_with(".yml") || name == "Kustomization"
}

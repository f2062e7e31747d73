//! `patches`: a part of an object laid over it (strategic merge), or operations on its fields (RFC 6902).

use regex::Regex;
use serde_json::Value;

use super::build::{Object, Place};
use super::merge;
use crate::locate::Unlocated;
use crate::locate::folder::documents;
use crate::path::RepoPath;

/// One entry of `patches`.
///
/// <https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/patches/>
pub struct Patch<'a> {
    /// The kustomization that has it.
    pub path: &'a RepoPath,
    /// The file that it stands in; none when it is written in the kustomization.
    pub file: Option<&'a RepoPath>,
    pub target: &'a Value,
    pub options: &'a Value,
}

impl Patch<'_> {
    fn error(&self, why: &str) -> Unlocated {
        Unlocated::new(format!("{} has a patch {why}", self.path))
    }

    /// Applies its text to the objects that it is for.
    pub fn apply(&self, text: &str, objects: &mut [Object]) -> Result<(), Unlocated> {
        let changing = ["allowNameChange", "allowKindChange"].into_iter().find(|name| self.options[*name] == true);
        if let Some(name) = changing {
            return Err(self.error(&format!("with {name}, which Amend does not follow yet")));
        }
        let mut parts: Vec<(u32, Value)> = Vec::new();
        for (line, document) in documents(text) {
            let part = serde_saphyr::from_str(document).map_err(|_| self.error("that is not valid YAML"))?;
            parts.push((line, part));
        }
        parts.retain(|(_, part)| !part.is_null());
        if let [(_, Value::Array(operations))] = parts.as_slice() {
            return self.operate(operations, objects);
        }
        if parts.is_empty() || parts.iter().any(|(_, part)| !part.is_object()) {
            return Err(self.error("that is neither a part of an object nor a list of operations"));
        }
        if self.target.is_null() {
            return parts.iter().try_for_each(|(line, part)| self.lay_over_the_named(*line, part, objects));
        }
        let [(line, part)] = parts.as_slice() else {
            return Err(self.error("of several parts for one target"));
        };
        let target = self.target()?;
        objects
            .iter_mut()
            .filter(|object| target.selects(object))
            .try_for_each(|object| self.lay_over(*line, part, object))
    }

    /// Operations on every object that the target selects.
    fn operate(&self, operations: &[Value], objects: &mut [Object]) -> Result<(), Unlocated> {
        if self.target.is_null() {
            return Err(self.error("of operations without a target"));
        }
        let target = self.target()?;
        let operations: json_patch::Patch = serde_json::from_value(Value::from(operations.to_vec()))
            .map_err(|error| self.error(&format!("of operations that cannot be read: {error}")))?;
        for object in objects.iter_mut().filter(|object| target.selects(object)) {
            json_patch::patch(&mut object.value, &operations)
                .map_err(|error| self.error(&format!("of operations that do not fit: {error}")))?;
        }
        Ok(())
    }

    /// A part that names its object itself: exactly one has this kind, name and namespace.
    fn lay_over_the_named(&self, line: u32, part: &Value, objects: &mut [Object]) -> Result<(), Unlocated> {
        let text = |pointer: &str| part.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (name, namespace) = (text("/metadata/name"), effective(text("/metadata/namespace")));
        let same = |object: &Object| {
            object.kind() == text("/kind")
                && object.api_version() == text("/apiVersion")
                && object.is_called(name)
                && [effective(&object.written.1), effective(&object.namespace())].contains(&namespace)
        };
        let mut named = objects.iter_mut().filter(|object| same(object));
        match (named.next(), named.next()) {
            (Some(object), None) => self.lay_over(line, part, object),
            (None, _) => Err(self.error(&format!("for {} {name}, which is not there", text("/kind")))),
            (Some(_), Some(_)) => Err(self.error(&format!("for {} {name}, which is there twice", text("/kind")))),
        }
    }

    /// Lays a part over an object, which keeps its kind, name and namespace.
    fn lay_over(&self, line: u32, part: &Value, object: &mut Object) -> Result<(), Unlocated> {
        let (kind, name) = (object.kind().to_owned(), object.name());
        let namespace = object.value["metadata"].get("namespace").cloned();
        let mut part = part.clone();
        part["apiVersion"] = object.api_version().into();
        merge::lay_over(&mut object.value, &part)
            .map_err(|what| self.error(&format!("with {what}, which Amend does not follow yet")))?;
        object.value["kind"] = kind.into();
        object.value["metadata"]["name"] = name.into();
        match (namespace, object.value["metadata"].as_object_mut()) {
            (Some(namespace), Some(metadata)) => metadata.insert("namespace".into(), namespace),
            (None, Some(metadata)) => metadata.remove("namespace"),
            (_, None) => None,
        };
        object.places.extend(self.file.map(|file| Place { file: file.clone(), line }));
        Ok(())
    }

    fn target(&self) -> Result<Target, Unlocated> {
        let known = ["group", "version", "kind", "name", "namespace"];
        let mut keys = self.target.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        if let Some(key) = keys.find(|key| !known.contains(key)) {
            return Err(self.error(&format!("whose target says {key}, which Amend does not follow yet")));
        }
        let pattern = |key: &str| match self.target[key].as_str().filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => Regex::new(&format!("^(?:{text})$"))
                .map(Some)
                .map_err(|_| self.error(&format!("whose target has no pattern as {key}"))),
        };
        Ok(Target {
            group: pattern("group")?,
            version: pattern("version")?,
            kind: pattern("kind")?,
            name: pattern("name")?,
            namespace: pattern("namespace")?,
        })
    }
}

/// As in Kustomize, no namespace is the default one when objects are told apart.
fn effective(namespace: &str) -> &str {
    if namespace.is_empty() { "default" } else { namespace }
}

/// The objects that a patch is for: regular expressions held against whole words.
struct Target {
    group: Option<Regex>,
    version: Option<Regex>,
    kind: Option<Regex>,
    name: Option<Regex>,
    namespace: Option<Regex>,
}

impl Target {
    fn selects(&self, object: &Object) -> bool {
        let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
        let fits = |pattern: &Option<Regex>, texts: &[&str]| {
            pattern.as_ref().is_none_or(|pattern| texts.iter().any(|text| pattern.is_match(text)))
        };
        let (name, namespace) = (object.name(), object.namespace());
        fits(&self.group, &[group])
            && fits(&self.version, &[version])
            && fits(&self.kind, &[object.kind()])
            && fits(&self.name, &[&object.written.0, &name])
            && fits(&self.namespace, &[effective(&object.written.1), effective(&namespace)])
    }
}

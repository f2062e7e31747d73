//! `configMapGenerator`: ConfigMaps packed from files and texts, whose names end in a hash of what they hold, so that pods are
//! replaced when it changes.
//!
//! <https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/configmapgenerator/>

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::build::{Object, Place, said};
use crate::locate::Unlocated;
use crate::path::RepoPath;

/// Length of the hash behind a name.
const HASH: usize = 10;

/// Kinds whose references Kustomize rewrites, besides the Pod itself: all have a pod template.
const REFERRERS: [&str; 7] = ["Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"];

/// A generator's settings, and the files that it may pack.
pub struct Generator<'a> {
    /// The kustomization that has it.
    pub path: &'a RepoPath,
    pub entry: &'a Value,
    /// `generatorOptions` of the kustomization.
    pub options: Option<&'a Value>,
    pub texts: &'a BTreeMap<RepoPath, String>,
}

impl Generator<'_> {
    fn error(&self, why: impl std::fmt::Display) -> Unlocated {
        Unlocated::new(format!("{} has a configMapGenerator {why}", self.path))
    }

    /// Adds the ConfigMap to the objects, or lays it over the one of a base. Files that are not among the texts are put into `missing`.
    pub fn run(&self, objects: &mut Vec<Object>, missing: &mut BTreeSet<RepoPath>) -> Result<(), Unlocated> {
        let name = self.entry["name"].as_str().ok_or_else(|| self.error("without a name"))?;
        let data = self.data(missing)?;
        let option = |key: &str| self.entry["options"][key] == true || self.options.is_some_and(|all| all[key] == true);
        let mut value = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data });
        if let Some(namespace) = self.entry["namespace"].as_str() {
            value["metadata"]["namespace"] = namespace.into();
        }
        if option("immutable") {
            value["immutable"] = true.into();
        }
        let place = Place { file: self.path.clone(), line: 1 };
        let new = Object { hashed: !option("disableNameSuffixHash"), ..Object::new(value, place) };
        let is_it = |one: &&mut Object| {
            one.kind() == "ConfigMap"
                && one.is_called(name)
                && (new.namespace().is_empty() || one.namespace() == new.namespace())
        };
        let behaviour = self.entry["behavior"].as_str().unwrap_or("create");
        let mut found = objects.iter_mut().filter(is_it);
        match (behaviour, found.next(), found.next()) {
            ("create" | "unspecified" | "", None, _) => objects.push(new),
            ("merge", Some(base), None) => {
                for (key, value) in new.value["data"].as_object().into_iter().flatten() {
                    base.value["data"][key.as_str()] = value.clone();
                }
                base.hashed |= new.hashed;
            }
            ("replace", Some(base), None) => {
                base.value["data"] = new.value["data"].clone();
                base.hashed |= new.hashed;
            }
            _ => return Err(self.error(format_args!("{name} whose behavior {behaviour} does not fit what is there"))),
        }
        Ok(())
    }

    fn data(&self, missing: &mut BTreeSet<RepoPath>) -> Result<Map<String, Value>, Unlocated> {
        let list = |key: &str| self.entry[key].as_array().cloned().unwrap_or_default();
        let mut pairs: Vec<(String, String)> = Vec::new();
        for env in list("envs").iter().chain(self.entry.get("env")) {
            let text = self.text(env.as_str().unwrap_or_default(), missing)?;
            let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().map(str::trim_start);
            let told = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
            pairs.extend(told.map(|line| {
                let (key, value) = line.split_once('=').unwrap_or((line, ""));
                (key.to_owned(), value.to_owned())
            }));
        }
        for literal in list("literals") {
            let literal = literal.as_str().unwrap_or_default();
            let (key, value) = literal.split_once('=').ok_or_else(|| self.error("with a literal without ="))?;
            pairs.push((key.to_owned(), unquoted(value).to_owned()));
        }
        for file in list("files") {
            let file = file.as_str().unwrap_or_default();
            let (key, path) = file.split_once('=').unwrap_or((file.rsplit('/').next().unwrap_or_default(), file));
            pairs.push((key.to_owned(), self.text(path, missing)?.to_owned()));
        }
        let mut data = Map::new();
        for (key, value) in pairs {
            if data.insert(key.clone(), value.into()).is_some() {
                return Err(self.error(format_args!("that has {key} twice")));
            }
        }
        let unread = packed(self.path, self.entry)?.iter().any(|path| !self.texts.contains_key(path));
        match data.is_empty() && !unread {
            true => Err(self.error("without data")),
            false => Ok(data),
        }
    }

    fn text(&self, file: &str, missing: &mut BTreeSet<RepoPath>) -> Result<&str, Unlocated> {
        let path = self.path.parent().join(file).map_err(|error| said(self.path, &error))?;
        let text = self.texts.get(&path);
        if text.is_none() {
            missing.insert(path);
        }
        Ok(text.map_or("", String::as_str))
    }
}

/// The files that a generator packs, as paths in the repository. `key=path` gives a file another name in the map.
pub fn packed(path: &RepoPath, entry: &Value) -> Result<Vec<RepoPath>, Unlocated> {
    let lists = ["files", "envs"].into_iter().filter_map(|list| entry[list].as_array()).flatten();
    let files = lists.chain(entry.get("env")).filter_map(Value::as_str);
    let files = files.map(|file| file.rsplit_once('=').map_or(file, |(_, path)| path));
    files.map(|file| path.parent().join(file).map_err(|error| said(path, &error))).collect()
}

/// A literal may stand in quotes on both sides.
fn unquoted(text: &str) -> &str {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

/// Gives generated objects their last names, and every reference to a ConfigMap the name that it has then.
///
/// # Errors
/// Two ConfigMaps of one namespace were written under one name, so a reference may mean either.
pub fn finish(objects: &mut [Object]) -> Result<(), Unlocated> {
    for object in objects.iter_mut().filter(|object| object.hashed) {
        let name = format!("{}-{}", object.name(), hash(&object.value));
        object.value["metadata"]["name"] = name.into();
    }
    let mut names: BTreeMap<(String, String), Option<String>> = BTreeMap::new();
    for object in objects.iter().filter(|object| object.kind() == "ConfigMap") {
        let entry = names.entry((object.namespace(), object.written.0.clone()));
        entry.and_modify(|twice| *twice = None).or_insert_with(|| Some(object.name()));
    }
    let mut unclear = None;
    for object in objects.iter_mut().filter(|object| REFERRERS.contains(&object.kind())) {
        let namespace = object.namespace();
        walk(&mut object.value, &mut |name| match names.get(&(namespace.clone(), name.clone())) {
            Some(Some(last)) => name.clone_from(last),
            Some(None) => unclear = Some(name.clone()),
            None => {}
        });
    }
    match unclear {
        None => Ok(()),
        Some(name) => {
            Err(Unlocated::new(format!("which ConfigMap {name} means is not clear: two were written under it")))
        }
    }
}

fn walk(node: &mut Value, rename: &mut dyn FnMut(&mut String)) {
    match node {
        Value::Object(fields) => {
            for (key, value) in fields {
                if ["configMap", "configMapRef", "configMapKeyRef"].contains(&key.as_str())
                    && let Some(Value::String(name)) = value.get_mut("name")
                {
                    rename(name);
                }
                walk(value, rename);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, rename)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// SHA-256 over kind and data as Go writes them in JSON, ten digits of it in an alphabet without vowels (`api/hasher`).
/// The name is looked for under a key that no object has, so it never counts.
fn hash(config_map: &Value) -> String {
    // Sorted keys, whatever order the map has.
    let sorted = |map: &Value| {
        let fields = map.as_object().into_iter().flatten();
        json!(fields.map(|(key, value)| (key.clone(), value.clone())).collect::<BTreeMap<String, Value>>())
    };
    let data = sorted(&config_map["data"]);
    let mut told = BTreeMap::from([("data", data), ("kind", "ConfigMap".into()), ("name", "".into())]);
    if config_map["binaryData"].is_object() {
        told.insert("binaryData", sorted(&config_map["binaryData"]));
    }
    // Go escapes what HTML could take for its own.
    let text = json!(told).to_string();
    let text = [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")]
        .into_iter()
        .fold(text, |text, (letter, escaped)| text.replace(letter, escaped));
    let digits = hex::encode(Sha256::digest(text));
    let letter = |digit: char| match digit {
        '0' => 'g',
        '1' => 'h',
        '3' => 'k',
        'a' => 'm',
        'e' => 't',
        other => other,
    };
    digits.chars().take(HASH).map(letter).collect()
}

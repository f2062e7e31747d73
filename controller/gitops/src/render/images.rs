//! `images`: another name, tag or digest for every container that runs an image.

use regex::Regex;
use serde_json::Value;

use super::build::Object;
use crate::locate::Unlocated;
use crate::path::RepoPath;

/// Keys of an entry that are texts. A number (`newTag: 1.10`) loses its zero on the way, and Kustomize refuses it.
const TEXTS: [&str; 4] = ["name", "newName", "newTag", "digest"];

/// Sets the image wherever a list called `containers` or `initContainers` runs it, as Kustomize's `imagetag` filters do, and in
/// volumes made from images.
pub fn set(path: &RepoPath, entry: &Value, objects: &mut [Object]) -> Result<(), Unlocated> {
    if let Some(key) = TEXTS.into_iter().find(|key| !matches!(entry[*key], Value::Null | Value::String(_))) {
        return Err(Unlocated::new(format!("{path} has {key} under images that is not a text; quote it")));
    }
    if !entry["tagSuffix"].is_null() {
        // Kustomize 5 runs two filters over the same field and adds it twice where both reach.
        return Err(Unlocated::new(format!("{path} has tagSuffix under images, which Amend does not follow")));
    }
    let name = entry["name"].as_str().unwrap_or_default();
    // The name is put into the pattern as it stands, in Kustomize too.
    let pattern = Regex::new(&format!("^{name}(:[a-zA-Z0-9_.{{}}-]*)?(@sha256:[a-zA-Z0-9_.{{}}-]*)?$"))
        .map_err(|_| Unlocated::new(format!("{path} has an image name that cannot be looked for")))?;
    let new = |image: &str| pattern.is_match(image).then(|| written(image, entry));
    for object in objects.iter_mut().filter(|object| object.kind() != "CustomResourceDefinition") {
        walk(&mut object.value, &new);
    }
    Ok(())
}

fn walk(node: &mut Value, new: &dyn Fn(&str) -> Option<String>) {
    match node {
        Value::Object(fields) => {
            for (key, value) in fields {
                walk(value, new);
                match key.as_str() {
                    "containers" | "initContainers" => each(value, "/image", new),
                    "volumes" => each(value, "/image/reference", new),
                    _ => {}
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, new)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn each(list: &mut Value, pointer: &str, new: &dyn Fn(&str) -> Option<String>) {
    let images = list.as_array_mut().into_iter().flatten().filter_map(|item| item.pointer_mut(pointer));
    for image in images {
        if let Some(changed) = image.as_str().and_then(new) {
            *image = changed.into();
        }
    }
}

/// The image with what the entry says in the place of its name, tag and digest.
fn written(image: &str, entry: &Value) -> String {
    let given = |key: &str| entry[key].as_str().filter(|text| !text.is_empty());
    let (name, tag, digest) = split(image);
    let name = given("newName").unwrap_or(name);
    let (tag, digest) = match (given("newTag"), given("digest")) {
        (Some(new), other) => (new, other.unwrap_or_default()),
        (None, Some(other)) => ("", other),
        (None, None) => (tag, digest),
    };
    let part = |sign: &str, text: &str| if text.is_empty() { String::new() } else { format!("{sign}{text}") };
    format!("{name}{}{}", part(":", tag), part("@", digest))
}

/// Name, tag and digest of `[host[:port]/]name[:tag][@digest]`.
fn split(image: &str) -> (&str, &str, &str) {
    let (rest, digest) = image.split_once('@').unwrap_or((image, ""));
    let colon = rest.rfind(':').filter(|colon| !rest[*colon..].contains('/'));
    let (name, tag) = colon.map_or((rest, ""), |colon| (&rest[..colon], &rest[colon + 1..]));
    (name, tag, digest)
}

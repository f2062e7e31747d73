//! Where a value stands inside an object: `spec.template.spec.containers[app].resources.limits.memory`.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One step from a node to a node below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Into a mapping, by key.
    Key(String),
    /// Into a list of mappings, to the one item whose `name` is this.
    Named(String),
    /// Into a list, by position.
    At(usize),
}

/// A path of steps. Shown and stored as text; keys with other characters than letters, digits, `-`, `_` and `/` are quoted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(into = "String", try_from = "String")]
#[schemars(with = "String")]
pub struct FieldPath(Vec<Step>);

impl FieldPath {
    pub fn new(steps: Vec<Step>) -> Self {
        Self(steps)
    }

    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The same path, one key further.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.0.push(Step::Key(key.into()));
        self
    }

    /// The same path, one named list item further.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.0.push(Step::Named(name.into()));
        self
    }

    /// The value at this path; `None` when there is none or a name is not unique.
    pub fn find<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(object, |node, step| match step {
            Step::Key(key) => node.get(key),
            Step::At(position) => node.as_array()?.get(*position),
            Step::Named(name) => {
                let mut same = node.as_array()?.iter().filter(|item| item.get("name").is_some_and(|got| got == name));
                match (same.next(), same.next()) {
                    (Some(item), None) => Some(item),
                    _ => None,
                }
            }
        })
    }

    /// As people call it: `memory limit of app`, `image of app`; any other path as it is written.
    pub fn in_words(&self) -> String {
        match self.0.as_slice() {
            [.., Step::Named(container), Step::Key(resources), Step::Key(kind), Step::Key(resource)]
                if resources == "resources" && (kind == "limits" || kind == "requests") =>
            {
                format!("{resource} {} of {container}", &kind[..kind.len() - 1])
            }
            [.., Step::Named(container), Step::Key(image)] if image == "image" => format!("image of {container}"),
            _ => self.to_string(),
        }
    }

    /// Whether `self` is `other` or lies below it; positions and names must be equal.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '/'))
}

impl fmt::Display for FieldPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if is_plain(key) && position == 0 => write!(out, "{key}")?,
                Step::Key(key) if is_plain(key) => write!(out, ".{key}")?,
                Step::Key(key) => write!(out, "[{}]", Value::String(key.clone()))?,
                Step::Named(name) if is_plain(name) && name.parse::<usize>().is_err() => write!(out, "[{name}]")?,
                Step::Named(name) => write!(out, "[name={}]", Value::String(name.clone()))?,
                Step::At(index) => write!(out, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl From<FieldPath> for String {
    fn from(path: FieldPath) -> Self {
        path.to_string()
    }
}

impl TryFrom<String> for FieldPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for FieldPath {
    type Err = String;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{} is not a field path; write it like spec.replicas", crate::policy::quoted(text));
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('[') {
                let (step, after) = bracketed(inner).ok_or_else(wrong)?;
                steps.push(step);
                rest = after;
                continue;
            }
            if !steps.is_empty() {
                rest = rest.strip_prefix('.').ok_or_else(wrong)?;
            }
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            if !is_plain(&rest[..end]) {
                return Err(wrong());
            }
            steps.push(Step::Key(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        if steps.is_empty() { Err(wrong()) } else { Ok(Self(steps)) }
    }
}

/// What stands between brackets, and the text after the closing one.
fn bracketed(inner: &str) -> Option<(Step, &str)> {
    let (named, body) = match inner.strip_prefix("name=") {
        Some(body) => (true, body),
        None => (false, inner),
    };
    if body.starts_with('"') {
        let mut values = serde_json::Deserializer::from_str(body).into_iter::<String>();
        let name = values.next()?.ok()?;
        let after = body[values.byte_offset()..].strip_prefix(']')?;
        return Some((if named { Step::Named(name) } else { Step::Key(name) }, after));
    }
    let (body, after) = inner.split_once(']')?;
    let step = match body.parse() {
        Ok(position) => Step::At(position),
        Err(_) if is_plain(body) => Step::Named(body.to_owned()),
        Err(_) => return None,
    };
    Some((step, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_it_is_written() {
        let path = FieldPath::new(Vec::new())
            .key("metadata")
            .key("annotations")
            .key("amend.dev/hold")
            .key("plain/one")
            .named("app")
            .named("7")
            .named("a]\"b");
        let text = path.to_string();
        assert_eq!(text, r#"metadata.annotations["amend.dev/hold"].plain/one[app][name="7"][name="a]\"b"]"#);
        assert_eq!(text.parse::<FieldPath>().unwrap(), path);
        assert_eq!("a[0].b".parse::<FieldPath>().unwrap().steps()[1], Step::At(0));
    }

    #[test]
    fn the_fields_that_change_most_have_words() {
        let words = |path: &str| path.parse::<FieldPath>().unwrap().in_words();
        assert_eq!(words("spec.template.spec.containers[app].resources.limits.memory"), "memory limit of app");
        assert_eq!(words("spec.template.spec.containers[app].resources.requests.cpu"), "cpu request of app");
        assert_eq!(words("spec.template.spec.containers[app].image"), "image of app");
        assert_eq!(words("spec.replicas"), "spec.replicas");
    }

    #[test]
    fn broken_paths_are_refused() {
        for text in ["", ".", "a..b", "a[", "a[b", "a]b", "a b", "[\"x\""] {
            assert!(text.parse::<FieldPath>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_that_is_not_unique_finds_nothing() {
        let object = serde_json::json!({ "containers": [{ "name": "app", "image": "a" }, { "name": "log" }, { "name": "log" }] });
        let image: FieldPath = "containers[app].image".parse().unwrap();
        assert_eq!(image.find(&object), Some(&Value::String("a".into())));
        assert_eq!("containers[log]".parse::<FieldPath>().unwrap().find(&object), None);
    }
}

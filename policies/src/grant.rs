//! What a `GitTarget` allows whom to change: namespace -> paths, kinds, fields.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::field::{FieldPath, Step};

/// One grant; written by the platform team, not by the policy's author. Everything not granted is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.paths.all(path, !path.startsWith('/') && !path.contains('..'))",
    "message": "paths are counted from the repository's root, like apps/shop/**, without a leading / and without .."
}]))]
pub struct Grant {
    /// Namespace of the policy and of every object whose rendered form may change.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Files in the repository: a path with `*` for a part of one name and `**` for any folders.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 512)))]
    pub paths: Vec<String>,
    /// Kinds whose rendered form may change, such as Deployment.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 63)))]
    pub kinds: Vec<String>,
    /// Fields that may change, such as `spec.template.spec.containers[*].resources`; all below them are included.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 512)))]
    pub fields: Vec<String>,
}

impl Grant {
    /// What can never match in this grant, with what to write instead: place (as in `fields[1]`) and sentence.
    pub fn problems(&self) -> Vec<(String, String)> {
        let fields = self.fields.iter().enumerate();
        fields
            .filter_map(|(position, text)| {
                let error = pattern(text).err()?;
                let sentence = format!(
                    "{} is not a field: {error}; write it like spec.template.spec.containers[*].resources",
                    crate::policy::quoted(text)
                );
                Some((format!("fields[{position}]"), sentence))
            })
            .collect()
    }
}

/// A granted field; `[*]` is the item named `*`.
///
/// # Errors
/// The text is not a path.
pub fn pattern(text: &str) -> Result<FieldPath, String> {
    text.replace("[*]", "[name=\"*\"]").parse()
}

/// Whether a path in the repository matches a pattern with `*` and `**`.
///
/// A path with `..`, an empty part or a leading `/` matches nothing.
pub fn path_matches(pattern: &str, path: &str) -> bool {
    let parts: Vec<_> = path.split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return false;
    }
    folders_match(&pattern.split('/').collect::<Vec<_>>(), &parts)
}

fn folders_match(pattern: &[&str], parts: &[&str]) -> bool {
    match (pattern.split_first(), parts.split_first()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some((&"**", rest)), _) => {
            folders_match(rest, parts) || parts.split_first().is_some_and(|(_, below)| folders_match(pattern, below))
        }
        (Some(_), None) => false,
        (Some((wanted, rest)), Some((part, below))) => name_matches(wanted, part) && folders_match(rest, below),
    }
}

/// `*` stands for any text; linear in practice since each piece is searched from where the last one ended.
fn name_matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let pieces: Vec<_> = rest.split('*').collect();
    let Some((last, middle)) = pieces.split_last() else { return true };
    for piece in middle {
        match left.find(piece) {
            Some(position) => left = &left[position + piece.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

/// Whether a field is one of the granted ones or lies below it; `[*]` in the pattern stands for any list item.
pub fn field_matches(pattern: &str, field: &FieldPath) -> bool {
    let Ok(wanted) = self::pattern(pattern) else { return false };
    let (wanted, steps) = (wanted.steps(), field.steps());
    wanted.len() <= steps.len()
        && wanted.iter().zip(steps).all(|(wanted, step)| match (wanted, step) {
            (Step::Named(name), Step::Named(_) | Step::At(_)) if name == "*" => true,
            (Step::Key(_) | Step::Named(_) | Step::At(_), step) => wanted == step,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_grant_what_they_say_and_nothing_else() {
        for (pattern, path, expected) in [
            ("apps/shop/*.yaml", "apps/shop/checkout.yaml", true),
            ("apps/shop/*.yaml", "apps/shop/base/checkout.yaml", false),
            ("apps/shop/**", "apps/shop/base/checkout.yaml", true),
            ("apps/**/checkout.yaml", "apps/checkout.yaml", true),
            ("apps/shop/**", "apps/shop/../bank/checkout.yaml", false),
            ("apps/shop/**", "apps/shopping/checkout.yaml", false),
            ("**", "/etc/passwd", false),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "aXXcYYb", false),
            ("apps/checkout.yaml", "apps/checkout.yaml", true),
        ] {
            assert_eq!(path_matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_granted_field_includes_what_is_below_it() {
        let field = |text: &str| text.parse::<FieldPath>().unwrap();
        let limit = field("spec.template.spec.containers[app].resources.limits.memory");
        assert!(field_matches("spec.template.spec.containers[*].resources", &limit));
        assert!(field_matches("spec.template", &limit));
        assert!(!field_matches("spec.template.spec.containers[log].resources", &limit));
        assert!(!field_matches("spec.template.spec.containers[*].image", &limit));
        assert!(!field_matches("spec.template.spec.containers[*].resources", &field("spec.template")));
        assert!(!field_matches("not a path", &limit));
    }
}

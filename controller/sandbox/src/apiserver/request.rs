//! What a request asks for, read from its path and query.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rbac::Deed;
use super::resource::{REVIEWS, Registry, Resource};

/// Path and query of a resource request.
#[derive(Clone, Debug)]
pub struct Target {
    /// What is addressed; `None` for a review.
    pub resource: Option<Arc<Resource>>,
    /// Group, also for reviews.
    pub group: String,
    /// Plural as in the path.
    pub plural: String,
    /// Namespace or empty.
    pub namespace: String,
    /// Name or empty.
    pub name: String,
    /// Subresource or empty.
    pub subresource: String,
}

impl Target {
    /// Reads a path; `None` when nothing is served there.
    pub fn parse(path: &str, registry: &Registry) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..]
                if !(group.is_empty() && matches!(*plural, "status" | "finalize")) =>
            {
                let mut full = vec![*plural];
                full.extend_from_slice(rest);
                (*namespace, full)
            }
            rest => ("", rest.to_vec()),
        };
        let (plural, name, subresource) = match rest.as_slice() {
            [plural] => (*plural, "", ""),
            [plural, name] => (*plural, *name, ""),
            [plural, name, subresource] => (*plural, *name, *subresource),
            _ => return None,
        };
        let resource = registry.at(group, version, plural);
        let review = REVIEWS.iter().any(|(of, name, _)| *of == group && *name == plural);
        if resource.is_none() && !review {
            return None;
        }
        Some(Self {
            resource,
            group: group.into(),
            plural: plural.into(),
            namespace: namespace.into(),
            name: decode(name),
            subresource: subresource.into(),
        })
    }

    /// The deed that RBAC is asked about.
    pub fn deed(&self, verb: &str) -> Deed {
        Deed {
            verb: verb.into(),
            group: self.group.clone(),
            resource: self.plural.clone(),
            subresource: self.subresource.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            path: None,
        }
    }

    /// `plural.group/subresource`, for the audit list.
    pub fn label(&self) -> String {
        let dot = if self.group.is_empty() { "" } else { "." };
        let slash = if self.subresource.is_empty() { "" } else { "/" };
        format!("{}{dot}{}{slash}{}", self.plural, self.group, self.subresource)
    }
}

/// The query parameters, decoded.
pub fn query(text: Option<&str>) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(text.unwrap_or_default().as_bytes()).into_owned().collect()
}

fn decode(part: &str) -> String {
    url::form_urlencoded::parse(format!("n={}", part.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

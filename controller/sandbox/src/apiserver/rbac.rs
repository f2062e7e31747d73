//! Who is asking, and may they? Tokens, impersonation, and the evaluation of RBAC objects in the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::store::Store;

/// The group that may do everything, before any role is asked.
pub const MASTERS: &str = "system:masters";

/// A user and its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User name, such as `system:serviceaccount:shop:amend`.
    pub user: String,
    /// Groups, `system:authenticated` among them.
    pub groups: Vec<String>,
}

impl Identity {
    /// A named user in these groups and in `system:authenticated`.
    pub fn user(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        groups.push("system:authenticated".into());
        Self { user: name.into(), groups }
    }

    /// A service account with the groups that every service account has.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::user(
            &format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
        )
    }

    /// The identity that a user name alone implies.
    pub fn implied_by(user: &str) -> Self {
        match user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
            Some((namespace, name)) => Self::service_account(namespace, name),
            None => Self::user(user, &[]),
        }
    }

    /// As `UserInfo` in reviews.
    pub fn user_info(&self) -> Value {
        json!({ "username": self.user, "groups": self.groups })
    }
}

/// Bearer tokens and whom they stand for.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    known: Arc<Mutex<BTreeMap<String, Identity>>>,
}

impl Tokens {
    /// Makes a token stand for this identity.
    pub fn grant(&self, token: &str, identity: Identity) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned(), identity);
    }

    /// A new token for this identity; the text is opaque and unique.
    pub fn issue(&self, identity: Identity) -> String {
        use sha2::{Digest, Sha256};
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = Sha256::digest(format!("{}:{}", identity.user, known.len()));
        let token = format!("sandbox.{}", hex::encode(&hash[..20]));
        known.insert(token.clone(), identity);
        token
    }

    /// Makes a token worthless.
    pub fn revoke(&self, token: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
    }

    /// Whom the token stands for.
    pub fn identity(&self, token: &str) -> Option<Identity> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }
}

/// One deed that is asked about, in the words of an access review.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deed {
    /// `get`, `list`, `create`, `impersonate` ...
    pub verb: String,
    /// API group; empty for core.
    pub group: String,
    /// Plural resource.
    pub resource: String,
    /// Subresource or empty.
    pub subresource: String,
    /// Namespace; empty for cluster-wide.
    pub namespace: String,
    /// Object name or empty.
    pub name: String,
    /// A path such as `/version` instead of a resource.
    pub path: Option<String>,
}

impl Deed {
    /// Reads `resourceAttributes` or `nonResourceAttributes` of a review's spec.
    pub fn of_review(spec: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if spec["nonResourceAttributes"].is_object() {
            let attributes = &spec["nonResourceAttributes"];
            return Self { verb: text(&attributes["verb"]), path: Some(text(&attributes["path"])), ..Self::default() };
        }
        let attributes = &spec["resourceAttributes"];
        Self {
            verb: text(&attributes["verb"]),
            group: text(&attributes["group"]),
            resource: text(&attributes["resource"]),
            subresource: text(&attributes["subresource"]),
            namespace: text(&attributes["namespace"]),
            name: text(&attributes["name"]),
            path: None,
        }
    }

    /// The sentence of the real server's refusal.
    pub fn refusal(&self, who: &str) -> String {
        if let Some(path) = &self.path {
            return format!("forbidden: User \"{who}\" cannot {} path \"{path}\"", self.verb);
        }
        let slash = if self.subresource.is_empty() { String::new() } else { format!("/{}", self.subresource) };
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        let plural =
            if self.group.is_empty() { self.resource.clone() } else { format!("{}.{}", self.resource, self.group) };
        format!(
            "{plural} \"{}\" is forbidden: User \"{who}\" cannot {} resource \"{}{slash}\" in API group \"{}\" {scope}",
            self.name, self.verb, self.resource, self.group
        )
    }
}

/// Why a deed is allowed, or `None` when no rule allows it.
pub fn allowed(store: &Store, who: &Identity, deed: &Deed) -> Option<String> {
    if who.groups.iter().any(|group| group == MASTERS) {
        return Some(format!("{MASTERS} may do everything"));
    }
    if everybody_may(deed) {
        return Some("allowed to every authenticated user".into());
    }
    let cluster = store.list("clusterrolebindings.rbac.authorization.k8s.io", None);
    let local = if deed.namespace.is_empty() {
        Vec::new()
    } else {
        store.list("rolebindings.rbac.authorization.k8s.io", Some(&deed.namespace))
    };
    for (binding, kind) in
        cluster.iter().map(|b| (b, "ClusterRoleBinding")).chain(local.iter().map(|b| (b, "RoleBinding")))
    {
        let namespace = binding["metadata"]["namespace"].as_str().unwrap_or_default();
        let subjects = binding["subjects"].as_array();
        if !subjects.is_some_and(|subjects| subjects.iter().any(|subject| is_subject(subject, namespace, who))) {
            continue;
        }
        let role_name = binding["roleRef"]["name"].as_str().unwrap_or_default();
        let role = match binding["roleRef"]["kind"].as_str() {
            Some("Role") => store.get("roles.rbac.authorization.k8s.io", namespace, role_name),
            _ => store.get("clusterroles.rbac.authorization.k8s.io", "", role_name),
        };
        let rules = role.as_ref().and_then(|role| role["rules"].as_array());
        if rules.is_some_and(|rules| rules.iter().any(|rule| allows(rule, deed))) {
            return Some(format!(
                "RBAC: allowed by {kind} \"{}\" of {} \"{role_name}\" to \"{}\"",
                binding["metadata"]["name"].as_str().unwrap_or_default(),
                binding["roleRef"]["kind"].as_str().unwrap_or_default(),
                who.user
            ));
        }
    }
    None
}

fn everybody_may(deed: &Deed) -> bool {
    match &deed.path {
        Some(path) => {
            deed.verb == "get"
                && ["/version", "/api", "/apis", "/openapi", "/healthz", "/livez", "/readyz"]
                    .iter()
                    .any(|open| path.strip_prefix(open).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        }
        None => {
            deed.verb == "create"
                && matches!(
                    (deed.group.as_str(), deed.resource.as_str()),
                    ("authorization.k8s.io", "selfsubjectaccessreviews" | "selfsubjectrulesreviews")
                        | ("authentication.k8s.io", "selfsubjectreviews")
                )
        }
    }
}

fn is_subject(subject: &Value, binding_namespace: &str, who: &Identity) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match subject["kind"].as_str() {
        Some("ServiceAccount") => {
            let namespace = subject["namespace"].as_str().unwrap_or(binding_namespace);
            who.user == format!("system:serviceaccount:{namespace}:{name}")
        }
        Some("Group") => who.groups.iter().any(|group| group == name),
        Some("User") => who.user == name,
        _ => false,
    }
}

fn allows(rule: &Value, deed: &Deed) -> bool {
    let has = |field: &str, wanted: &str| {
        rule[field].as_array().is_some_and(|all| all.iter().any(|one| one == "*" || one == wanted))
    };
    if !has("verbs", &deed.verb) {
        return false;
    }
    if let Some(path) = &deed.path {
        return rule["nonResourceURLs"].as_array().is_some_and(|all| {
            all.iter().filter_map(Value::as_str).any(|url| match url.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => path == url,
            })
        });
    }
    let resource = if deed.subresource.is_empty() {
        has("resources", &deed.resource)
    } else {
        has("resources", &format!("{}/{}", deed.resource, deed.subresource))
            || has("resources", &format!("*/{}", deed.subresource))
    };
    let named = match rule["resourceNames"].as_array() {
        Some(names) if !names.is_empty() => names.iter().any(|name| *name == deed.name),
        _ => true,
    };
    has("apiGroups", &deed.group) && resource && named
}

/// `SelfSubjectRulesReview`'s answer: the rules that bind this identity in a namespace.
pub fn rules_for(store: &Store, who: &Identity, namespace: &str) -> Vec<Value> {
    let cluster = store.list("clusterrolebindings.rbac.authorization.k8s.io", None);
    let local = store.list("rolebindings.rbac.authorization.k8s.io", Some(namespace));
    cluster
        .iter()
        .chain(&local)
        .filter(|binding| {
            let of = binding["metadata"]["namespace"].as_str().unwrap_or_default();
            binding["subjects"].as_array().is_some_and(|all| all.iter().any(|subject| is_subject(subject, of, who)))
        })
        .filter_map(|binding| {
            let name = binding["roleRef"]["name"].as_str().unwrap_or_default();
            match binding["roleRef"]["kind"].as_str() {
                Some("Role") => store.get("roles.rbac.authorization.k8s.io", namespace, name),
                _ => store.get("clusterroles.rbac.authorization.k8s.io", "", name),
            }
        })
        .flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default())
        .collect()
}

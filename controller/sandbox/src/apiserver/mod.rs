//! An in-memory Kubernetes API over real HTTP, for the real client.
//!
//! Served: discovery, create, read, list in pages, watch with bookmarks, replace with `resourceVersion`, the four
//! kinds of patch, `/status`, deletion with finalizers and garbage collection, `dryRun=All`, CRDs with validation,
//! access and token reviews, impersonation, RBAC on every request, and an audit list.
//! Not served: CEL rules and admission policies, tables, protobuf, exec, logs.

mod admission;
mod builtin;
pub mod event;
pub mod fields;
mod http;
mod paging;
pub mod patch;
pub mod rbac;
mod request;
pub mod resource;
mod review;
pub mod schema;
pub mod selector;
pub mod status;
pub mod store;
mod watching;
mod writing;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::clock::SandboxClock;
use crate::serving::{Serving, serve};
use rbac::{Identity, MASTERS, Tokens};
use status::Refusal;
use store::{How, Store};

/// One request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Who sent it.
    pub user: String,
    /// On whose behalf, if impersonated.
    pub impersonated: Option<String>,
    /// Kubernetes verb.
    pub verb: String,
    /// `plural.group`, with `/subresource`.
    pub resource: String,
    /// Namespace or empty.
    pub namespace: String,
    /// Name or empty.
    pub name: String,
    /// HTTP status of the answer.
    pub code: u16,
}

/// The most audit entries that are kept.
const AUDIT: usize = 20_000;

/// What the request handlers share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub store: Store,
    pub tokens: Tokens,
    audit: Arc<Mutex<VecDeque<AuditEntry>>>,
}

impl Shared {
    fn note(&self, entry: AuditEntry) {
        let mut audit = self.audit.lock().unwrap_or_else(PoisonError::into_inner);
        if audit.len() == AUDIT {
            audit.pop_front();
        }
        audit.push_back(entry);
    }
}

/// A running API server; it stops when dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Shared,
    serving: Serving,
    admin_token: String,
}

impl ApiServer {
    /// Starts the server on a free port of 127.0.0.1, with the usual namespaces and an admin token.
    pub async fn start(clock: SandboxClock) -> std::io::Result<Self> {
        let shared = Shared { store: Store::new(clock), tokens: Tokens::default(), audit: Arc::default() };
        for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            // The store is empty, so these names are free.
            let _ = shared.store.create("namespaces", json!({ "metadata": { "name": namespace } }), How::by("sandbox"));
        }
        let everything = json!({ "metadata": { "name": "cluster-admin" }, "rules": [
            { "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] },
            { "nonResourceURLs": ["*"], "verbs": ["*"] },
        ] });
        let _ = shared.store.create("clusterroles.rbac.authorization.k8s.io", everything, How::by("sandbox"));
        let admin_token = shared.tokens.issue(Identity::user("sandbox-admin", &[MASTERS]));
        let serving = serve(http::router(shared.clone())).await?;
        Ok(Self { shared, serving, admin_token })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.serving.address()
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The objects themselves, for stand-ins and tests.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// A token that may do everything.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// Tokens and their owners; grant one to make a user.
    pub fn tokens(&self) -> &Tokens {
        &self.shared.tokens
    }

    /// A kubeconfig for this token.
    pub fn kubeconfig(&self, token: &str) -> String {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "sandbox",
            "clusters": [{ "name": "sandbox", "cluster": { "server": self.url() } }],
            "users": [{ "name": "sandbox", "user": { "token": token } }],
            "contexts": [{ "name": "sandbox", "context": { "cluster": "sandbox", "user": "sandbox", "namespace": "default" } }],
        });
        config.to_string()
    }

    /// What was asked and answered, oldest first.
    pub fn audit(&self) -> Vec<AuditEntry> {
        self.shared.audit.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Applies every document of a YAML text as this manager; later ones may need earlier ones.
    pub fn apply_yaml(&self, yaml: &str, manager: &str) -> Result<(), Refusal> {
        for document in documents(yaml)? {
            apply(self.store(), &document, manager)?;
        }
        Ok(())
    }
}

/// The documents of a YAML text, empty ones left out.
pub fn documents(yaml: &str) -> Result<Vec<Value>, Refusal> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml)
        .map_err(|error| Refusal::bad_request(format!("error decoding the manifest: {error}")))?;
    Ok(all.into_iter().filter(|document| !document.is_null()).collect())
}

/// Server-side apply of one object with force, as Flux does it.
pub fn apply(store: &Store, object: &Value, manager: &str) -> Result<Arc<Value>, Refusal> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let resource = store.registry().of_kind(text("apiVersion"), text("kind")).ok_or_else(|| {
        Refusal::bad_request(format!("no matches for kind \"{}\" in \"{}\"", text("kind"), text("apiVersion")))
    })?;
    let (namespace, name) = store::name_of(object);
    let namespace = match (resource.namespaced, namespace.as_str()) {
        (false, _) => "",
        (true, "") => "default",
        (true, namespace) => namespace,
    };
    let patch = patch::Patch::Apply { object: object.clone(), force: true };
    store.patch(&resource.key(), namespace, &name, &patch, How::by(manager)).map(|(_, object)| object)
}

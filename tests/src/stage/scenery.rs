//! What a story begins with, as data: the shop's manifests, how its versions behave, policies and alert rules.

use std::collections::BTreeMap;

use amend_policies::library::LIBRARY;
use amend_sandbox::model::graph::{ServiceGraph, Version};
use amend_sandbox::scenario::shop;
use serde_json::{Value, json};

/// Folder of the manifests in the repository.
pub const FOLDER: &str = shop::FOLDER;

/// The shop of the sandbox without what no story is about: two cores carry several stories at once.
const SERVICES: [&str; 5] = ["frontend", "cart", "catalog", "checkout", "payment"];

/// Files besides those of the services.
const FURTHER_FILES: [&str; 1] = ["config"];

const ALERTS: &str = include_str!("alerts.yaml");

/// What a stage is set with. Every field may be changed before [`Stage::set`](super::Stage::set).
#[derive(Clone, Debug)]
pub struct Scenery {
    /// Namespace of the shop, and the name of everything that belongs to the story.
    pub namespace: String,
    /// Files of the repository by path; Flux applies [`FOLDER`].
    pub files: BTreeMap<String, String>,
    /// How the services behave, version by version.
    pub graph: ServiceGraph,
    /// `RemediationPolicy` objects.
    pub policies: Vec<Value>,
    /// A Prometheus rule file.
    pub rules: String,
    /// Fields that the GitTarget grants besides resources, images and what ConfigMaps hold.
    pub granted: Vec<&'static str>,
    /// Where Flux and Amend reach Gitea, when it is not Gitea itself: the URL of a [`Proxy`](crate::bench::Proxy).
    pub git_through: Option<String>,
}

impl Scenery {
    /// Five services, all well, with the usual alerts and no policy.
    #[must_use]
    pub fn shop(namespace: &str) -> Self {
        let wanted = SERVICES.iter().chain(&FURTHER_FILES).map(|name| format!("{FOLDER}/{name}.yaml"));
        let all = shop::files();
        let files = wanted
            .filter_map(|path| {
                let text = all.get(&path)?.as_ref()?;
                Some((path, text.replace("namespace: shop", &format!("namespace: {namespace}"))))
            })
            .collect();
        let mut graph = shop::graph(7);
        graph.services.retain(|name, _| SERVICES.contains(&name.as_str()));
        for service in graph.services.values_mut() {
            service.calls.retain(|call| SERVICES.contains(&call.to.as_str()));
        }
        let rules = ALERTS.replace("NAMESPACE", namespace);
        let (policies, granted) = (Vec::new(), Vec::new());
        Self { namespace: namespace.to_owned(), files, graph, policies, rules, granted, git_through: None }
    }

    /// Kinds of workload among the manifests.
    pub(super) fn kinds(&self) -> Vec<&'static str> {
        let has = |kind: &&str| self.files.values().any(|text| text.contains(&format!("kind: {kind}\n")));
        ["Deployment", "StatefulSet"].into_iter().filter(has).collect()
    }

    /// Lets an image tag of a service behave differently from its usual version.
    pub fn behaves(&mut self, service: &str, tag: &str, version: impl FnOnce(Version) -> Version) {
        if let Some(service) = self.graph.services.get_mut(service) {
            let usual = service.usual.clone();
            service.versions.insert(tag.to_owned(), version(usual));
        }
    }

    /// An image tag of a service needs this much memory (MiB) and is OOM-killed `every` so often, as long as its limit is
    /// lower; its requests fail when it comes close to the limit.
    pub fn runs_out_of_memory(&mut self, service: &str, tag: &str, needs_mib: u32, every: &str) {
        self.behaves(service, tag, |usual| Version {
            memory_mib: f64::from(needs_mib),
            warm_up_seconds: 8.0,
            error_message: "cannot allocate memory for order batch".into(),
            ..usual
        });
        self.killed_for_memory(service, tag, needs_mib, every);
    }

    /// Lets KWOK kill the pods of an image tag as long as their limit is below `needs_mib`; the model is left as it is.
    pub fn killed_for_memory(&mut self, service: &str, tag: &str, needs_mib: u32, every: &str) {
        let annotations = json!({
            "model.amend.dev/needs-memory": needs_mib.to_string(),
            "model.amend.dev/needs-memory-image": format!(":{}$", tag.replace('.', "\\.")),
            "model.amend.dev/oom-every": every,
            "model.amend.dev/back-off": "4s",
        });
        self.annotate(service, &annotations);
    }

    /// Adds annotations (a JSON object) to the pods of a service, for KWOK's stages in `tests/env/stages`.
    pub fn annotate(&mut self, service: &str, annotations: &Value) {
        let pod = "  template:\n    metadata:\n";
        if let Some(text) = self.files.get_mut(&manifest(service)) {
            *text = text.replacen(pod, &format!("{pod}      annotations: {annotations}\n"), 1);
        }
    }

    /// Lets a service run as a StatefulSet.
    pub fn keeps_state(&mut self, service: &str) {
        if let Some(text) = self.files.get_mut(&manifest(service)) {
            let named = text.replacen("kind: Deployment\n", "kind: StatefulSet\n", 1);
            *text = named.replacen("\nspec:\n", &format!("\nspec:\n  serviceName: {service}\n"), 1);
        }
    }

    /// Adds a ready policy of the library under the chart's account for this namespace; `change` may alter its spec.
    pub fn policy(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let entry = LIBRARY.iter().find(|entry| entry.name == name);
        let policy = entry.and_then(|entry| serde_saphyr::from_str::<Value>(entry.yaml).ok());
        let mut policy = policy.unwrap_or_else(|| json!({"metadata": {"name": name}, "spec": {}}));
        policy["metadata"]["namespace"] = json!(self.namespace);
        policy["spec"]["serviceAccountName"] = json!("amend-remediator");
        // A platform without data is waited for as long as the story can wait.
        policy["spec"]["sla"]["recover"] = json!("30s");
        change(&mut policy["spec"]);
        self.policies.push(policy);
    }
}

/// Where a service's manifest is in the repository.
pub(super) fn manifest(service: &str) -> String {
    format!("{FOLDER}/{service}.yaml")
}

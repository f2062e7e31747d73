//! Which resources are served: the built-in ones and those of every CRD in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::schema::Schema;

/// One served resource: group, version, names and how it behaves.
#[derive(Clone, Debug)]
pub struct Resource {
    /// API group; empty for core.
    pub group: String,
    /// Version that objects carry.
    pub version: String,
    /// Lower-case plural, as in paths.
    pub plural: String,
    /// Lower-case singular.
    pub singular: String,
    /// Kind in CamelCase.
    pub kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether `status` is written by its own path only.
    pub status: bool,
    /// Short names for people.
    pub short_names: Vec<String>,
    /// Categories such as `all` or `amend`.
    pub categories: Vec<String>,
    /// Structural schema of a custom resource.
    pub schema: Option<Arc<Schema>>,
}

impl Resource {
    /// `plural.group`, or the plural alone for core: the name in the store and in messages.
    pub fn key(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `group/version`, or the version alone for core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    fn listing(&self) -> Vec<Value> {
        let verbs = json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]);
        let mut rows = vec![json!({
            "name": self.plural, "singularName": self.singular, "namespaced": self.namespaced,
            "kind": self.kind, "verbs": verbs, "shortNames": self.short_names, "categories": self.categories,
        })];
        if self.status {
            rows.push(json!({
                "name": format!("{}/status", self.plural), "singularName": "", "namespaced": self.namespaced,
                "kind": self.kind, "verbs": ["get", "patch", "update"],
            }));
        }
        rows
    }
}

/// All resources that are served now.
#[derive(Clone, Debug)]
pub struct Registry {
    resources: BTreeMap<String, Arc<Resource>>,
}

/// Group, version, plural, kind, namespaced, has status, short name.
type BuiltIn = (&'static str, &'static str, &'static str, &'static str, bool, bool, &'static str);

const BUILT_IN: &[BuiltIn] = &[
    ("", "v1", "namespaces", "Namespace", false, true, "ns"),
    ("", "v1", "nodes", "Node", false, true, "no"),
    ("", "v1", "pods", "Pod", true, true, "po"),
    ("", "v1", "services", "Service", true, true, "svc"),
    ("", "v1", "endpoints", "Endpoints", true, false, "ep"),
    ("", "v1", "configmaps", "ConfigMap", true, false, "cm"),
    ("", "v1", "secrets", "Secret", true, false, ""),
    ("", "v1", "serviceaccounts", "ServiceAccount", true, false, "sa"),
    ("", "v1", "events", "Event", true, false, "ev"),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true, true, "pvc"),
    ("", "v1", "persistentvolumes", "PersistentVolume", false, true, "pv"),
    ("", "v1", "resourcequotas", "ResourceQuota", true, true, "quota"),
    ("", "v1", "limitranges", "LimitRange", true, false, "limits"),
    ("", "v1", "replicationcontrollers", "ReplicationController", true, true, "rc"),
    ("apps", "v1", "deployments", "Deployment", true, true, "deploy"),
    ("apps", "v1", "replicasets", "ReplicaSet", true, true, "rs"),
    ("apps", "v1", "statefulsets", "StatefulSet", true, true, "sts"),
    ("apps", "v1", "daemonsets", "DaemonSet", true, true, "ds"),
    ("apps", "v1", "controllerrevisions", "ControllerRevision", true, false, ""),
    ("batch", "v1", "jobs", "Job", true, true, ""),
    ("batch", "v1", "cronjobs", "CronJob", true, true, "cj"),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true, true, "pdb"),
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", true, true, "hpa"),
    ("coordination.k8s.io", "v1", "leases", "Lease", true, false, ""),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true, false, ""),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", true, false, "netpol"),
    ("networking.k8s.io", "v1", "ingresses", "Ingress", true, true, "ing"),
    ("storage.k8s.io", "v1", "storageclasses", "StorageClass", false, false, "sc"),
    ("events.k8s.io", "v1", "events", "Event", true, false, "ev"),
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", true, false, ""),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", true, false, ""),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", false, false, ""),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", false, false, ""),
    (
        "admissionregistration.k8s.io",
        "v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        false,
        false,
        "",
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        false,
        false,
        "",
    ),
    ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", false, true, ""),
    (
        "admissionregistration.k8s.io",
        "v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        false,
        false,
        "",
    ),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false, true, "crd"),
    ("kustomize.toolkit.fluxcd.io", "v1", "kustomizations", "Kustomization", true, true, "ks"),
    ("source.toolkit.fluxcd.io", "v1", "gitrepositories", "GitRepository", true, true, "gitrepo"),
];

/// Kinds that are only asked, never stored.
pub const REVIEWS: &[(&str, &str, &str)] = &[
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
    ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    ("authentication.k8s.io", "tokenreviews", "TokenReview"),
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
];

impl Default for Registry {
    fn default() -> Self {
        let resources = BUILT_IN
            .iter()
            .map(|&(group, version, plural, kind, namespaced, status, short)| {
                let resource = Resource {
                    group: group.into(),
                    version: version.into(),
                    plural: plural.into(),
                    singular: kind.to_lowercase(),
                    kind: kind.into(),
                    namespaced,
                    status,
                    short_names: if short.is_empty() { vec![] } else { vec![short.into()] },
                    categories: vec![],
                    schema: None,
                };
                (resource.key(), Arc::new(resource))
            })
            .collect();
        Self { resources }
    }
}

impl Registry {
    /// The resource of that key (`deployments.apps`).
    pub fn get(&self, key: &str) -> Option<Arc<Resource>> {
        self.resources.get(key).cloned()
    }

    /// The resource at that path, if the version is served.
    pub fn at(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let key = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        self.get(&key).filter(|resource| resource.version == version)
    }

    /// The resource that serves this `apiVersion` and `kind`.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        self.resources.values().find(|resource| resource.kind == kind && resource.api_version() == api_version).cloned()
    }

    /// Serves the resource that a CRD describes (its storage version, else the first served one).
    pub fn register(&mut self, crd: &Value) {
        let spec = &crd["spec"];
        let versions = spec["versions"].as_array().cloned().unwrap_or_default();
        let Some(version) =
            versions.iter().find(|version| version["storage"] == json!(true)).or_else(|| versions.first())
        else {
            return;
        };
        let names = &spec["names"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| -> Vec<String> {
            value.as_array().map(|items| items.iter().map(text).collect()).unwrap_or_default()
        };
        let kind = text(&names["kind"]);
        let resource = Resource {
            group: text(&spec["group"]),
            version: text(&version["name"]),
            plural: text(&names["plural"]),
            singular: names["singular"].as_str().map_or_else(|| kind.to_lowercase(), str::to_owned),
            kind,
            namespaced: spec["scope"] == "Namespaced",
            status: version["subresources"]["status"].is_object(),
            short_names: list(&names["shortNames"]),
            categories: list(&names["categories"]),
            schema: version["schema"]["openAPIV3Schema"]
                .is_object()
                .then(|| Arc::new(Schema::new(version["schema"]["openAPIV3Schema"].clone()))),
        };
        self.resources.insert(resource.key(), Arc::new(resource));
    }

    /// Stops serving what a deleted CRD described.
    pub fn unregister(&mut self, crd: &Value) {
        if let Some(name) = crd["metadata"]["name"].as_str() {
            self.resources.remove(name);
        }
    }

    /// Every resource key.
    pub fn keys(&self) -> Vec<String> {
        self.resources.keys().cloned().collect()
    }

    fn groups(&self) -> BTreeMap<String, Vec<String>> {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for resource in self.resources.values().filter(|resource| !resource.group.is_empty()) {
            let versions = groups.entry(resource.group.clone()).or_default();
            if !versions.contains(&resource.version) {
                versions.push(resource.version.clone());
            }
        }
        for (group, ..) in REVIEWS {
            groups.entry((*group).to_owned()).or_insert_with(|| vec!["v1".to_owned()]);
        }
        groups
    }

    fn group(name: &str, versions: &[String]) -> Value {
        let versions: Vec<Value> = versions
            .iter()
            .map(|version| json!({ "groupVersion": format!("{name}/{version}"), "version": version }))
            .collect();
        json!({ "name": name, "versions": versions, "preferredVersion": versions.first() })
    }

    /// `APIGroupList`, as at `/apis`.
    pub fn group_list(&self) -> Value {
        let groups: Vec<Value> = self.groups().iter().map(|(name, versions)| Self::group(name, versions)).collect();
        json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
    }

    /// `APIGroup`, as at `/apis/GROUP`.
    pub fn one_group(&self, name: &str) -> Option<Value> {
        let groups = self.groups();
        let mut group = Self::group(name, groups.get(name)?);
        group["kind"] = json!("APIGroup");
        group["apiVersion"] = json!("v1");
        Some(group)
    }

    /// `APIResourceList`, as at `/api/v1` and `/apis/GROUP/VERSION`.
    pub fn resource_list(&self, group: &str, version: &str) -> Option<Value> {
        let mut rows: Vec<Value> = self
            .resources
            .values()
            .filter(|resource| resource.group == group && resource.version == version)
            .flat_map(|resource| resource.listing())
            .collect();
        rows.extend(REVIEWS.iter().filter(|(of, ..)| *of == group && version == "v1").map(|(_, plural, kind)| {
            json!({ "name": plural, "singularName": kind.to_lowercase(), "kind": kind, "verbs": ["create"],
                "namespaced": *plural == "localsubjectaccessreviews" })
        }));
        if rows.is_empty() {
            return None;
        }
        let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        Some(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows }))
    }
}

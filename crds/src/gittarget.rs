//! `GitTarget`: a repository that Amend may propose changes to, and who may have what changed there.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use amend_policies::grant::Grant;

use crate::reference::SecretRef;

/// One branch of one repository, owned by the platform team.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "amend.dev",
    version = "v1alpha1",
    kind = "GitTarget",
    namespaced,
    status = "GitTargetStatus",
    shortname = "gt",
    category = "amend",
    doc = "A Git repository that Amend may propose changes to, with its grants.",
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(name = "Branch", type_ = "string", json_path = ".spec.branch"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Writable", type_ = "string", json_path = ".status.conditions[?(@.type=='Writable')].status"),
    printcolumn(name = "Head", type_ = "string", json_path = ".status.head"),
    printcolumn(name = "Open PRs", type_ = "integer", json_path = ".status.openPullRequests"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GitTargetSpec {
    /// HTTP(S) clone URL without user info.
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^https?://[^@/[:space:]]+/[^@?#[:space:]]+$')",
        "message": "write the HTTP(S) clone URL, like https://git.example.com/shop/platform.git; a user name and password belong into the Secret that secretRef names"
    }]))]
    pub url: String,
    #[schemars(length(min = 1, max = 255), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[A-Za-z0-9][A-Za-z0-9._/-]*$') && !self.contains('..') && !self.startsWith('refs/')",
        "message": "write the name of a branch as Git has it, like main or release/2.0, without refs/heads/"
    }]))]
    pub branch: String,
    pub forge: ForgeSpec,
    /// Keys `username` and `password` (or `token`), and `signingKey` (an OpenSSH ed25519 private key) for signed commits.
    pub secret_ref: SecretRef,
    /// Namespaces that may use this target, besides its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub allowed_namespaces: Vec<String>,
    /// What may be changed for whom. Nothing is granted that is not listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub grants: Vec<Grant>,
    /// Where objects live in the repository; what is not listed is asked of Flux.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub objects: Vec<ObjectLocation>,
    /// Most new pull requests a day below severity critical; default 1. As many that Amend itself withdrew are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub new_pull_requests_per_day: Option<u32>,
}

/// The forge that serves the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForgeSpec {
    pub kind: ForgeKind,
    /// Base URL of the forge; default: scheme and host of `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^https?://[^@/[:space:]]+(/[^@[:space:]]*)?$')",
        "message": "write the forge's base URL, like https://git.example.com, or leave it out when it is the host of the clone URL"
    }]))]
    pub url: Option<String>,
}

/// Which API the forge speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ForgeKind {
    /// Also Forgejo.
    Gitea,
}

/// One object and the file that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectLocation {
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The file, from the repository's root.
    #[schemars(length(min = 1, max = 512), extend("x-kubernetes-validations" = [{
        "rule": "!self.startsWith('/') && !self.contains('..')",
        "message": "write the file's path from the repository's root, like apps/shop/checkout.yaml, without a leading / and without .."
    }]))]
    pub path: String,
}

/// What is observed about the repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitTargetStatus {
    /// Head commit of the branch, as last seen.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub head: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_seen_at: Option<Timestamp>,
    #[serde(default)]
    pub open_pull_requests: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    #[schemars(schema_with = "crate::condition::conditions_schema")]
    pub conditions: Vec<Condition>,
}

//! `Build`: one CI run and its failure, in the same life as an incident up to `Diagnosed`.

use amend_diagnosis::diagnosis::Diagnosis;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::incident::IncidentPhase;

/// The run as the CI system reported it; never changes.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "amend.dev",
    version = "v1alpha1",
    kind = "Build",
    namespaced,
    status = "BuildStatus",
    shortname = "bld",
    category = "amend",
    doc = "One failed CI run, its failing lines and what they mean.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Repository", type_ = "string", json_path = ".spec.repository"),
    printcolumn(name = "Commit", type_ = "string", json_path = ".spec.commit"),
    printcolumn(name = "Class", type_ = "string", json_path = ".status.class"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "a Build's spec never changes; its status does"}]))]
pub struct BuildSpec {
    pub forge: CiForge,
    /// `owner/name`.
    #[schemars(length(min = 1, max = 256))]
    pub repository: String,
    /// Full commit SHA.
    #[schemars(length(min = 7, max = 64))]
    pub commit: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub branch: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workflow: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub job: String,
    /// The run's id at the forge; one Build per run and attempt.
    #[schemars(length(min = 1, max = 64))]
    pub run_id: String,
    pub attempt: u32,
    /// As the forge calls it: `failure`, `cancelled` ...
    pub result: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Where the log can be had: job ids at the forge; empty when it names none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_reference: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// Which forge ran it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum CiForge {
    Gitea,
    GitHub,
    GitLab,
}

/// What is observed about the build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildStatus {
    #[serde(default)]
    pub phase: IncidentPhase,
    #[serde(default)]
    pub because: String,
    /// transient, flaky, dependency, toolchain, code or infra; absent while unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Why this class.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The lines that tell the failure, cleaned, at most 40.
    #[serde(default)]
    pub failing_lines: Vec<FailingLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Diagnosis>,
    /// How many webhooks told of this run; 0 when only the poller found it.
    #[serde(default)]
    pub deliveries: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosed_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    #[schemars(schema_with = "crate::condition::conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// One line of the log, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailingLine {
    pub number: u32,
    pub text: String,
}

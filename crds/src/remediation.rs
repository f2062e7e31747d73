//! `Remediation`: one execution of one plan, with its journal and its sealed record.

use amend_execution::journal::Journal;
use amend_execution::phase::Phase;
use amend_policies::plan::Plan;
use amend_policies::verdict::Verdict;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::incident::Incident;

/// The plan; never changes. A new plan is a new Remediation.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "amend.dev",
    version = "v1alpha1",
    kind = "Remediation",
    namespaced,
    status = "RemediationStatus",
    shortname = "rem",
    category = "amend",
    doc = "One execution of one plan: what was intended, done and seen.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Incident", type_ = "string", json_path = ".spec.incident"),
    printcolumn(name = "Summary", type_ = "string", json_path = ".spec.plan.summary"),
    printcolumn(name = "PR", type_ = "string", json_path = ".status.pullRequest.url"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Because", type_ = "string", json_path = ".status.because", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "a Remediation's spec never changes: a new plan is a new Remediation"}]))]
pub struct RemediationSpec {
    /// Name of the Incident in the same namespace.
    pub incident: String,
    /// SHA-256 of the plan; approvals are bound to it.
    pub plan_digest: String,
    pub plan: Plan,
}

impl Remediation {
    /// Whether it answers this very incident: one that was deleted and opened again has the same name and is another one.
    pub fn answers(&self, incident: &Incident) -> bool {
        self.metadata.namespace == incident.metadata.namespace
            && Some(&self.spec.incident) == incident.metadata.name.as_ref()
            && Some(&self.spec.plan.incident.uid) == incident.metadata.uid.as_ref()
    }
}

/// What is observed about the execution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemediationStatus {
    /// The fold over `journal`; written for people and printer columns, never read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    #[serde(default)]
    pub because: String,
    #[serde(default)]
    pub journal: Journal,
    /// The verdicts of the last gate run before the change was merged.
    #[serde(default)]
    pub verdicts: Vec<Verdict>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<PullRequestRef>,
    /// The pull request that undoes the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revert_pull_request: Option<PullRequestRef>,
    /// Signed leaves of the record log, one for each journal entry: base64 of the DSSE envelope, with its index.
    #[serde(default)]
    pub record: Vec<RecordLeaf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    #[schemars(schema_with = "crate::condition::conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// A pull request of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullRequestRef {
    pub number: u64,
    pub url: String,
    /// `open`, `merged` or `closed`, as last seen.
    pub state: String,
    /// Head commit as last seen.
    pub head: String,
    pub draft: bool,
}

/// One sealed entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordLeaf {
    /// Position in the cluster's log.
    pub index: u64,
    /// The DSSE envelope as JSON text, byte for byte as signed and hashed.
    pub envelope: String,
}

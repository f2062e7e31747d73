//! `Approval`: a person's yes, no or stop, bound to the digest of one plan.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A decision; never changes. A changed mind is a new Approval.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "amend.dev",
    version = "v1alpha1",
    kind = "Approval",
    namespaced,
    status = "ApprovalStatus",
    shortname = "apr",
    category = "amend",
    doc = "A person's decision about one remediation, bound to its plan's digest.",
    printcolumn(name = "Remediation", type_ = "string", json_path = ".spec.remediation"),
    printcolumn(name = "Decision", type_ = "string", json_path = ".spec.decision"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.by"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type=='Accepted')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self == oldSelf", "message": "an Approval never changes; make a new one"},
    {
        "rule": "self.decision == 'Stop' || (has(self.planDigest) && size(self.planDigest) > 0)",
        "message": "planDigest is needed to approve or refuse: copy spec.planDigest of the Remediation whose plan you have read"
    }
]))]
pub struct ApprovalSpec {
    /// Name of the Remediation in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub remediation: String,
    /// Digest of the plan that was read, from `status` of the Remediation. Not needed to stop.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 80))]
    pub plan_digest: String,
    pub decision: ApprovalDecision,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// The caller's own user name; admission refuses any other.
    #[schemars(length(min = 1, max = 253))]
    pub by: String,
}

/// What the person decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ApprovalDecision {
    Approve,
    Refuse,
    Stop,
}

/// Whether the decision was taken in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    #[schemars(schema_with = "crate::condition::conditions_schema")]
    pub conditions: Vec<Condition>,
}

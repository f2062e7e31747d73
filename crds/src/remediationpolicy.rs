//! `RemediationPolicy`: which causes may be answered how, by whom, under which gates and time limits.

use amend_policies::policy::Policy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The policy itself; see [`Policy`] for its fields.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "amend.dev",
    version = "v1alpha1",
    kind = "RemediationPolicy",
    plural = "remediationpolicies",
    namespaced,
    status = "RemediationPolicyStatus",
    shortname = "rpol",
    category = "amend",
    doc = "Which causes may be answered how, by whom, under which gates and time limits.",
    printcolumn(name = "Autonomy", type_ = "string", json_path = ".spec.autonomy"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type=='Accepted')].status"),
    printcolumn(name = "Matched", type_ = "integer", json_path = ".status.matched"),
    printcolumn(name = "Succeeded", type_ = "integer", json_path = ".status.succeeded"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(transparent)]
#[schemars(transparent)]
pub struct RemediationPolicySpec(pub Policy);

/// What is observed about the policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemediationPolicyStatus {
    /// Incidents whose cause it matched.
    #[serde(default)]
    pub matched: u32,
    /// Pull requests opened under it.
    #[serde(default)]
    pub proposed: u32,
    #[serde(default)]
    pub succeeded: u32,
    /// Remediations that ended in any other way.
    #[serde(default)]
    pub not_succeeded: u32,
    /// Withdrawn because a person made the very change first: neither a success nor a failure.
    #[serde(default)]
    pub cured_by_people: u32,
    /// In `Observe`: how often it would have proposed.
    #[serde(default)]
    pub would_have: u32,
    /// `right 14 of 15 here`, empty while nothing ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trust: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    #[schemars(schema_with = "crate::condition::conditions_schema")]
    pub conditions: Vec<Condition>,
}

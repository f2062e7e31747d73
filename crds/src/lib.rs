//! The Kubernetes kinds of Amend (`amend.dev/v1alpha1`): pure types wrapped in objects, no client.
//!
//! One kind per file. `crdgen` writes their CRDs to `crds/yaml/`; a test fails when those are stale.

#![allow(
    clippy::duplicated_attributes,
    reason = "every printer column of `#[kube(...)]` has a `type_`; the lint takes them for one"
)]

pub mod approval;
pub mod build;
pub mod condition;
pub mod gittarget;
pub mod incident;
pub mod reference;
pub mod remediation;
pub mod remediationpolicy;
pub mod schema;
pub mod telemetrysource;

pub use approval::{Approval, ApprovalSpec, ApprovalStatus};
pub use build::{Build, BuildSpec, BuildStatus};
pub use gittarget::{GitTarget, GitTargetSpec, GitTargetStatus};
pub use incident::{Incident, IncidentSpec, IncidentStatus};
pub use remediation::{Remediation, RemediationSpec, RemediationStatus};
pub use remediationpolicy::{RemediationPolicy, RemediationPolicySpec, RemediationPolicyStatus};
pub use telemetrysource::{TelemetrySource, TelemetrySourceSpec, TelemetrySourceStatus};

/// The API group of every kind.
pub const GROUP: &str = "amend.dev";
/// The only served version.
pub const VERSION: &str = "v1alpha1";
/// Put on a workload or namespace to keep Amend's hands off; the value is the reason shown to people.
pub const HOLD_ANNOTATION: &str = "amend.dev/hold";
/// Field manager of every write by the controller.
pub const FIELD_MANAGER: &str = "amend-controller";

//! One controller for each kind: what it looks at, and what it makes of it.

pub mod approval;
pub mod build;
pub mod gittarget;
pub mod incident;
pub mod remediation;
pub mod remediationpolicy;
pub mod telemetrysource;

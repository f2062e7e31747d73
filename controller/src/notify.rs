//! Calling a person.
//!
//! Events, conditions and the comment on the pull request are effects in Kubernetes and at the forge; here is only
//! what leaves for a pager.

pub mod webhook;

use std::fmt;

use amend_diagnosis::signal::Severity;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::Serialize;

/// One call for a person. Its text was written by us, or cleaned.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// Two pages with one key are one call: the receiver may drop the second. Name the incident and what changed.
    pub key: String,
    pub at: Timestamp,
    pub severity: Severity,
    /// One line: what a person sees on a locked phone.
    pub title: String,
    /// Why a person is needed, in one or two sentences.
    pub because: String,
    /// Whom the policy wants called, as its `escalate` names them; empty: whoever is on duty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident: Option<Named>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remediation: Option<Named>,
    pub links: Vec<Link>,
}

/// A Kubernetes object of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Named {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for Named {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

/// Where to look on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Link {
    pub name: String,
    pub url: String,
}

/// A way to call a person.
pub trait Pager: Send + Sync {
    /// Delivers the page, or says why it was not delivered. May deliver twice; the key tells.
    fn page<'a>(&'a self, page: &'a Page) -> BoxFuture<'a, Result<(), PageError>>;
}

/// Why a person was not called.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error("the pager at {host} may not be called")]
    Forbidden {
        host: String,
        #[source]
        source: amend_gitops::egress::EgressError,
    },
    #[error("a page cannot be signed")]
    Unsigned {
        #[source]
        source: amend_telemetry::secret_file::SecretFileError,
    },
    #[error("the pager at {host} was not reached")]
    Unreachable {
        host: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("the pager at {host} answered {status}")]
    Refused { host: String, status: u16 },
}

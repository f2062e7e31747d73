//! The API server's audit log: the independent witness of who did what.

use std::fs;
use std::path::Path;

use anyhow::Context;
use jiff::Timestamp;
use serde::Deserialize;

/// What is logged: every request of service accounts and people, and every write of anyone but the
/// components' leases.
pub(super) const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [system:kube-controller-manager, system:kube-scheduler, system:apiserver, bench:kwok, bench:flux]
  verbs: [get, list, watch]
- level: None
  userGroups: ["system:serviceaccounts:kube-system"]
  verbs: [get, list, watch]
- level: None
  users: [system:kube-controller-manager, system:kube-scheduler, system:apiserver, bench:kwok, bench:flux]
  resources: [{group: coordination.k8s.io, resources: [leases]}]
- level: Metadata
"#;

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    pub at: Timestamp,
    /// Who authenticated.
    pub user: String,
    /// Whom they acted as, where they impersonated.
    pub impersonated: Option<String>,
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// HTTP status.
    pub code: u16,
    pub uri: String,
    pub dry_run: bool,
}

impl AuditEntry {
    /// Whether the request could have changed something (also when it was refused or a dry run).
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    /// Whether the request did change something.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.is_write() && !self.dry_run && self.code < 300
    }

    /// The entries of a log file. A last line that is still being written is left out.
    ///
    /// # Errors
    /// When the file cannot be read or a whole line is not an audit event.
    pub fn read(path: &Path) -> anyhow::Result<Vec<Self>> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| Ok(serde_json::from_str::<Event>(line)?.into())).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    request_received_timestamp: Timestamp,
    #[serde(default)]
    user: User,
    impersonated_user: Option<User>,
    verb: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: Status,
}

#[derive(Deserialize, Default)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    code: u16,
}

impl From<Event> for AuditEntry {
    fn from(event: Event) -> Self {
        Self {
            at: event.request_received_timestamp,
            user: event.user.username,
            impersonated: event.impersonated_user.map(|user| user.username),
            verb: event.verb,
            group: event.object_ref.api_group,
            resource: event.object_ref.resource,
            subresource: event.object_ref.subresource,
            namespace: event.object_ref.namespace,
            name: event.object_ref.name,
            code: event.response_status.code,
            dry_run: event.request_uri.contains("dryRun="),
            uri: event.request_uri,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impersonated_write_names_both_users() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let event = r#"{"kind":"Event","level":"Metadata","stage":"ResponseComplete","requestURI":"/apis/apps/v1/namespaces/shop/deployments/cart?dryRun=All","verb":"patch","user":{"username":"system:serviceaccount:amend:amend"},"impersonatedUser":{"username":"system:serviceaccount:shop:remediator"},"objectRef":{"resource":"deployments","namespace":"shop","name":"cart","apiGroup":"apps"},"responseStatus":{"code":200},"requestReceivedTimestamp":"2026-01-02T03:04:05.678901Z"}"#;
        fs::write(&path, format!("{event}\n{{\"half\":")).unwrap();

        let entries = AuditEntry::read(&path).unwrap();

        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].impersonated.as_deref(), Some("system:serviceaccount:shop:remediator"));
        assert!(entries[0].is_write());
        assert!(!entries[0].has_written(), "a dry run changes nothing");
    }
}

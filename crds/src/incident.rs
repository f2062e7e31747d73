//! `Incident`: signals grouped around one problem, and what Amend found out about it.

use amend_diagnosis::diagnosis::Diagnosis;
use amend_diagnosis::entity::Entity;
use amend_diagnosis::opinion::Opinion;
use amend_diagnosis::signal::{Severity, Signal};
pub use amend_execution::phase::incident::IncidentPhase;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::NamespacedName;

/// The problem as it was first seen; never changes.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "amend.dev",
    version = "v1alpha1",
    kind = "Incident",
    namespaced,
    status = "IncidentStatus",
    shortname = "inc",
    category = "amend",
    doc = "Signals grouped around one problem, with its diagnosis.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Severity", type_ = "string", json_path = ".status.severity"),
    printcolumn(name = "Entity", type_ = "string", json_path = ".spec.entity.name"),
    printcolumn(name = "Cause", type_ = "string", json_path = ".status.diagnosis.causes[0].kind"),
    printcolumn(name = "Signals", type_ = "integer", json_path = ".status.signalCount"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Because", type_ = "string", json_path = ".status.because", priority = 1),
    selectable = ".spec.severity"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "an Incident's spec never changes; its status does"}]))]
pub struct IncidentSpec {
    pub entity: Entity,
    /// How loudly the signal spoke that opened it; a later one may have spoken louder.
    pub severity: Severity,
    /// The signals that opened it.
    #[schemars(length(min = 1, max = 16))]
    pub signals: Vec<Signal>,
}

impl Incident {
    /// How grave it is: as grave as the gravest thing heard of it. What a pod says of itself often opens an incident, and the alert
    /// that calls it critical comes minutes later.
    pub fn severity(&self) -> Severity {
        let heard = self.status.iter().flat_map(|status| &status.signals).chain(&self.spec.signals);
        let written = self.status.as_ref().and_then(|status| status.severity);
        heard.map(|signal| signal.severity).chain(written).fold(self.spec.severity, Severity::max)
    }

    /// The same with its severity written down in the status, where `kubectl get` finds it.
    pub fn graded(mut self) -> Self {
        let severity = self.severity();
        if let Some(status) = &mut self.status {
            status.severity = Some(severity);
        }
        self
    }
}

/// What is observed about the incident.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentStatus {
    #[serde(default)]
    pub phase: IncidentPhase,
    /// Why it is in this phase, for people.
    #[serde(default)]
    pub because: String,
    /// As grave as the gravest signal heard so far, those that are not kept included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// At most 64, oldest kept; the rest is only counted.
    #[serde(default)]
    pub signals: Vec<Signal>,
    /// All signals that arrived, repeats included.
    #[serde(default)]
    pub signal_count: u32,
    /// Distinct signals that no longer fit in `signals`.
    #[serde(default)]
    pub signals_not_kept: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_signal_at: Option<Timestamp>,
    /// Since when nothing fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_since: Option<Timestamp>,
    /// Since when the cause itself is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause_absent_since: Option<Timestamp>,
    /// When a diagnosis was last begun: from then on its clock runs, the strictest `sla.diagnose` of the namespace's policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosing_since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosed_at: Option<Timestamp>,
    /// How many of `signals` the diagnosis knew; more of them now are news, and a reason to look again.
    #[serde(default)]
    pub diagnosed_signals: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Diagnosis>,
    /// Log lines around it that neither the catalogue nor a pattern of a TelemetrySource can class, as templates; the gravest
    /// eight. The dashboard shows the whole queue.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_lines: Vec<UnknownLine>,
    /// Templates beyond those.
    #[serde(default)]
    pub unknown_lines_not_kept: u32,
    /// What an optional language model says about the diagnosis: shown to people, used by nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opinion: Option<Opinion>,
    /// Every policy that was looked at, and why it did or did not match.
    #[serde(default)]
    pub policies: Vec<PolicyMatch>,
    /// The remediation that answers this incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_to: Option<NamespacedName>,
    /// Incidents of this namespace that turned out to be part of this one; their signals are counted here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    #[schemars(schema_with = "crate::condition::conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// Lines that nobody can class: what they have in common, and one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnknownLine {
    pub workload: Entity,
    /// With `<*>` where lines differ; credentials are values too.
    pub template: String,
    pub sample: String,
    /// `error`, `unreadable`, `new` or `bursting`.
    pub why: String,
    /// Lines since the trouble began, as of the last look.
    pub lines: u32,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
}

/// One policy and what it makes of the incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyMatch {
    pub policy: String,
    pub matched: bool,
    pub because: String,
}

#[cfg(test)]
mod tests {
    use amend_diagnosis::entity::EntityKind;
    use amend_diagnosis::signal::SignalSource;
    use kube::CustomResourceExt;

    use super::*;

    #[test]
    fn an_incident_is_as_grave_as_the_gravest_signal_heard_of_it() {
        let signal = |severity| Signal {
            key: format!("{severity:?}"),
            source: SignalSource::Alert,
            name: "A".into(),
            entity: Entity::new(EntityKind::Deployment, "shop", "checkout"),
            severity,
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: Some(Timestamp::UNIX_EPOCH),
            summary: String::new(),
            labels: std::collections::BTreeMap::new(),
            count: 1,
        };
        let first = signal(Severity::Warning);
        let spec =
            IncidentSpec { entity: first.entity.clone(), severity: first.severity, signals: vec![first.clone()] };
        let mut incident = Incident::new("inc", spec);
        assert_eq!(incident.severity(), Severity::Warning);
        let signals = vec![first, signal(Severity::Critical), signal(Severity::Info)];
        incident.status = Some(IncidentStatus { signals, ..IncidentStatus::default() });
        assert_eq!(
            incident.severity(),
            Severity::Critical,
            "also when that one is over: what it asked for is not undone"
        );
        let mut graded = incident.graded();
        assert_eq!(graded.status.as_ref().unwrap().severity, Some(Severity::Critical));
        graded.status.as_mut().unwrap().signals.clear();
        assert_eq!(graded.severity(), Severity::Critical, "also when the list has no room for it");
    }

    #[test]
    fn the_column_shows_what_is_written_down() {
        let columns =
            serde_json::to_value(Incident::crd()).unwrap()["spec"]["versions"][0]["additionalPrinterColumns"].take();
        let severity = columns.as_array().unwrap().iter().find(|column| column["name"] == "Severity").unwrap();
        assert_eq!(severity["jsonPath"], ".status.severity");
    }
}

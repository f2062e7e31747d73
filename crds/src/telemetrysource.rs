//! `TelemetrySource`: where to ask, and how its names map to Kubernetes objects.

use std::collections::BTreeMap;

use amend_diagnosis::logs::Class;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::SecretRef;

/// One store that can be asked.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "amend.dev",
    version = "v1alpha1",
    kind = "TelemetrySource",
    namespaced,
    status = "TelemetrySourceStatus",
    shortname = "tsrc",
    category = "amend",
    doc = "A metrics, alert, trace or log store that Amend may ask.",
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Latency", type_ = "string", json_path = ".status.latency"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.kind == 'OtlpFiles') == self.url.startsWith('file://')",
    "fieldPath": ".url",
    "message": "kind OtlpFiles reads a directory, like file:///otlp/shop; every other kind is a server, like http://prometheus.monitoring:9090"
}]))]
pub struct TelemetrySourceSpec {
    pub kind: SourceKind,
    /// Base URL without the API path, `http` or `https`, no user info. Of `OtlpFiles` the directory, like `file:///otlp/shop`: below
    /// the one that the installation names, and outside of the release namespace below that of the source's own namespace.
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^(https?://[^@/[:space:]]+(/[^@[:space:]]*)?|file:///[^@?#[:space:]]+)$')",
        "message": "write the store's base URL, like http://prometheus.monitoring:9090; a user name and password belong into the Secret that secretRef names"
    }]))]
    pub url: String,
    /// Keys `token`, or `username` and `password`; optional `ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Namespaces whose incidents may be asked about here, besides its own; `*` means all (release namespace only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub allowed_namespaces: Vec<String>,
    /// Names that differ from the defaults. Labels: `namespace`, `pod`, `container`, `service` (empty: the store has no
    /// such label). Requests: `requests`, `duration`, `durationUnit` (`s`, `ms`), `code`, `errorCodes`. Traces:
    /// `traceService`, like `{service}.{namespace}`. Log documents: `index`, `timeField`, `messageField`,
    /// `namespaceField`, `podField`, `levelField`, `traceField`, `spanField`; fields that are not named are looked for under the
    /// names of ECS, Fluent Bit and OpenTelemetry. `only.LABEL` adds a matcher to every question.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mapping: BTreeMap<String, String>,
    /// How often the store gets a new sample of a series (the scrape interval), like `30s`; default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub sample_every: Option<String>,
    /// Sent as `X-Scope-OrgID`, so that only this tenant's data is seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 150))]
    pub tenant: Option<String>,
    #[serde(default)]
    pub limits: SourceLimits,
    /// What people know about the log lines of the namespaces that this source serves.
    #[serde(default, skip_serializing_if = "SourceLogs::is_empty")]
    pub logs: SourceLogs,
}

/// What people know about log lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceLogs {
    /// Classes for lines that the built-in catalogue does not know, as `kubectl amend logs unknown` lists them; the first that
    /// matches holds. They explain and rank; no action becomes possible by them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub patterns: Vec<LogPattern>,
}

impl SourceLogs {
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

/// Lines and the class that they have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.template) != has(self.match)",
    "message": "set exactly one of: template, match"
}]))]
pub struct LogPattern {
    /// A whole line with `<*>` where lines differ, as the queue shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), extend("x-kubernetes-validations" = [{
        "rule": "self.replace('<*>', '').matches('[^[:space:][:punct:]].*[^[:space:][:punct:]].*[^[:space:][:punct:]].*[^[:space:][:punct:]]')",
        "message": "name at least 4 letters outside of <*>: copy more of the line, or it matches almost every line"
    }]))]
    pub template: Option<String>,
    /// A regular expression in RE2's syntax (no look-around, no back-references), found anywhere in the line, case ignored.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 4, max = 256), extend("x-kubernetes-validations" = [{
        "rule": "!''.matches(self)",
        "message": "this expression matches an empty line, and so every line: name words that only this line has"
    }]))]
    pub matching: Option<String>,
    /// What such lines speak of; `other`: nothing that helps, only leave them out of the queue.
    pub class: Class,
}

/// Which protocol the store speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum SourceKind {
    /// Also Thanos, Mimir and VictoriaMetrics.
    Prometheus,
    Alertmanager,
    Jaeger,
    Tempo,
    Loki,
    /// Also Elasticsearch.
    OpenSearch,
    /// A directory of what OpenTelemetry Collector's file exporter writes.
    OtlpFiles,
}

/// How much one question may cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceLimits {
    /// Deadline of one question, like `10s`; default 10s, at most 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub timeout: Option<String>,
    /// Most series of one answer; default 2000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub series: Option<u32>,
    /// Questions under way at once; default 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub concurrency: Option<u32>,
}

/// What is observed about the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TelemetrySourceStatus {
    /// Time of the last probe, like `12ms`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub latency: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_answer_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    #[schemars(schema_with = "crate::condition::conditions_schema")]
    pub conditions: Vec<Condition>,
}

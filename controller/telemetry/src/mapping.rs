//! What a store calls things: the names of its metrics and labels.

use std::collections::BTreeMap;

use crate::promql::literal;

/// The names that differ from store to store.
///
/// A `TelemetrySource` overrides them under the keys below (`spec.mapping`). An empty label name says that the store has
/// no such label, and questions are asked without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Key `namespace`.
    pub namespace: String,
    /// Key `pod`.
    pub pod: String,
    /// Key `container`.
    pub container: String,
    /// What the store's own labels on logs are called when they differ; keys `service`.
    pub service: String,
    /// Names of the service metrics that were declared; `None`: the known families are tried in turn.
    pub requests: Option<RequestFamily>,
    /// What a trace store calls a service, with `{service}` and `{namespace}` filled in; key `traceService`.
    pub trace_service: String,
    /// Where log documents keep what we need, for stores of documents.
    pub logs: LogFields,
    /// Label matchers added to every question, so that one store can serve many clusters; keys `only.LABEL`.
    pub only: BTreeMap<String, String>,
}

impl Default for Mapping {
    /// The names of kube-state-metrics, cAdvisor, and Kubernetes log shippers.
    fn default() -> Self {
        Self {
            namespace: "namespace".to_owned(),
            pod: "pod".to_owned(),
            container: "container".to_owned(),
            service: "service".to_owned(),
            requests: None,
            trace_service: "{service}".to_owned(),
            logs: LogFields::default(),
            only: BTreeMap::new(),
        }
    }
}

/// Names of indexes and fields in a store of documents. A field that is not declared is looked for under the names that
/// log shippers give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFields {
    /// Comma-separated indexes or patterns; key `index`.
    pub index: String,
    /// Key `timeField`.
    pub time: Option<String>,
    /// Key `messageField`.
    pub message: Option<String>,
    /// A field that is matched as a whole (`keyword`); empty: none; key `namespaceField`.
    pub namespace: Option<String>,
    /// The same for the pod; key `podField`.
    pub pod: Option<String>,
    /// Key `levelField`.
    pub level: Option<String>,
    /// Key `traceField`.
    pub trace: Option<String>,
    /// Key `spanField`.
    pub span: Option<String>,
}

impl Default for LogFields {
    fn default() -> Self {
        Self {
            index: "logs-*,filebeat-*,logstash-*".to_owned(),
            time: None,
            message: None,
            namespace: None,
            pod: None,
            level: None,
            trace: None,
            span: None,
        }
    }
}

impl LogFields {
    /// The field behind a key of the mapping.
    fn entry(&mut self, key: &str) -> Option<&mut Option<String>> {
        Some(match key {
            "timeField" => &mut self.time,
            "messageField" => &mut self.message,
            "namespaceField" => &mut self.namespace,
            "podField" => &mut self.pod,
            "levelField" => &mut self.level,
            "traceField" => &mut self.trace,
            "spanField" => &mut self.span,
            _ => return None,
        })
    }
}

/// One way in which services count and time their requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFamily {
    /// Counter of requests; key `requests`.
    pub requests: String,
    /// Histogram of durations without `_bucket`; key `duration`.
    pub duration: String,
    /// What one unit of the histogram is in seconds: 1 or 0.001; key `durationUnit` (`s` or `ms`).
    pub unit: Unit,
    /// Label of the response code; key `code`.
    pub code: String,
    /// Regular expression of codes that count as errors; key `errorCodes`.
    pub error_codes: String,
    /// Label of the service; key `service`.
    pub service: String,
    /// Label of the namespace; key `namespace`.
    pub namespace: String,
    /// Label of the pod; key `pod`. Empty: none, or it tells who counted instead of who answered.
    pub pod: String,
    /// How that label tells it.
    pub pod_form: PodForm,
    /// Label matchers that pick one of several counts of the same requests: those of the called side.
    pub only: Vec<(&'static str, &'static str)>,
}

/// How a label tells a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodForm {
    /// By its name.
    Name,
    /// Inside the path `/k8s/NAMESPACE/POD/CONTAINER`.
    Path,
}

impl PodForm {
    /// The expression for pods of a namespace whose names match `pods`.
    pub(crate) fn expression(self, namespace: &str, pods: &str) -> String {
        match self {
            Self::Name => pods.to_owned(),
            Self::Path => format!("/k8s/{}/(?:{pods})/[^/]+", literal(namespace)),
        }
    }

    /// Namespace and pod in a value, where the value tells both.
    pub(crate) fn read(self, value: &str) -> Option<(&str, &str)> {
        match self {
            Self::Name => None,
            Self::Path => {
                let (namespace, rest) = value.strip_prefix("/k8s/")?.split_once('/')?;
                let (pod, _) = rest.split_once('/')?;
                Some((namespace, pod))
            }
        }
    }
}

/// Unit of a duration histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    Milliseconds,
}

/// Why a declared mapping is refused.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    #[error("mapping key {key:?} is not known; known keys are {}", KEYS.join(", "))]
    UnknownKey { key: String },
    #[error("mapping {key} is {value:?}, which is not a metric or label name")]
    NotAName { key: String, value: String },
    #[error("mapping {key} is {value:?}, which is not a regular expression we can use: {why}")]
    NotARegex { key: String, value: String, why: String },
    #[error("mapping durationUnit is {value:?}; it is s or ms")]
    NotAUnit { value: String },
}

/// Every key of a mapping; `only.LABEL` stands for `only.` before the name of any label.
pub const KEYS: [&str; 19] = [
    "namespace",
    "pod",
    "container",
    "service",
    "requests",
    "duration",
    "durationUnit",
    "code",
    "errorCodes",
    "traceService",
    "index",
    "timeField",
    "messageField",
    "namespaceField",
    "podField",
    "levelField",
    "traceField",
    "spanField",
    "only.LABEL",
];

impl Mapping {
    /// Reads what a `TelemetrySource` declares over the defaults.
    ///
    /// # Errors
    /// An unknown key, or a value that cannot be a name: it would end up in a query.
    pub fn declared(names: &BTreeMap<String, String>) -> Result<Self, MappingError> {
        let mut mapping = Self::default();
        for (key, value) in names {
            match key.as_str() {
                "namespace" => mapping.namespace = label(key, value)?,
                "pod" => mapping.pod = label(key, value)?,
                "container" => mapping.container = label(key, value)?,
                "service" => mapping.service = label(key, value)?,
                "traceService" => mapping.trace_service.clone_from(value),
                "index" => mapping.logs.index = field(key, value)?,
                _ => {
                    if let Some(only) = key.strip_prefix("only.") {
                        mapping.only.insert(label(key, only)?, value.clone());
                    } else if let Some(setting) = mapping.logs.entry(key) {
                        *setting = Some(field(key, value)?);
                    }
                }
            }
        }
        let standard = RequestFamily::standard(&mapping);
        let mut family = standard.clone();
        for (key, value) in names {
            match key.as_str() {
                "requests" => family.requests = metric(key, value)?,
                "duration" => family.duration = metric(key, value.strip_suffix("_bucket").unwrap_or(value))?,
                "durationUnit" => family.unit = unit(value)?,
                "code" => family.code = label(key, value)?,
                "errorCodes" => family.error_codes = expression(key, value)?,
                "namespace" | "pod" | "container" | "service" | "traceService" | "index" => {}
                _ if key.starts_with("only.") || mapping.logs.entry(key).is_some() => {}
                _ => return Err(MappingError::UnknownKey { key: key.chars().take(100).collect() }),
            }
        }
        if family != standard {
            mapping.requests = Some(family);
        }
        Ok(mapping)
    }

    /// The families of service metrics to try, the most likely first.
    pub fn families(&self) -> Vec<RequestFamily> {
        match &self.requests {
            Some(declared) => vec![declared.clone()],
            None => vec![
                RequestFamily::standard(self),
                RequestFamily::opentelemetry(),
                RequestFamily::istio(),
                RequestFamily::linkerd(),
                RequestFamily::hubble(),
                RequestFamily::coroot(),
            ],
        }
    }
}

impl Mapping {
    /// What a trace store calls a service.
    pub(crate) fn trace_service(&self, namespace: &str, service: &str) -> String {
        self.trace_service.replace("{service}", service).replace("{namespace}", namespace)
    }
}

impl RequestFamily {
    /// `http_requests_total` and `http_request_duration_seconds`, as Prometheus client libraries and their guides name them.
    fn standard(mapping: &Mapping) -> Self {
        Self {
            requests: "http_requests_total".to_owned(),
            duration: "http_request_duration_seconds".to_owned(),
            unit: Unit::Seconds,
            code: "code".to_owned(),
            error_codes: "5..".to_owned(),
            service: mapping.service.clone(),
            namespace: mapping.namespace.clone(),
            pod: mapping.pod.clone(),
            pod_form: PodForm::Name,
            only: Vec::new(),
        }
    }

    /// OpenTelemetry's HTTP semantic conventions as Prometheus stores them with resource attributes promoted
    /// (`promote_resource_attributes` of Prometheus' OTLP receiver). Beyla writes the same names.
    fn opentelemetry() -> Self {
        Self {
            requests: "http_server_request_duration_seconds_count".to_owned(),
            duration: "http_server_request_duration_seconds".to_owned(),
            unit: Unit::Seconds,
            code: "http_response_status_code".to_owned(),
            error_codes: "5..".to_owned(),
            service: "service_name".to_owned(),
            namespace: "k8s_namespace_name".to_owned(),
            pod: "k8s_pod_name".to_owned(),
            pod_form: PodForm::Name,
            only: Vec::new(),
        }
    }

    /// Istio's standard metrics, as the called side counts them (<https://istio.io/latest/docs/reference/config/metrics/>).
    fn istio() -> Self {
        Self {
            requests: "istio_requests_total".to_owned(),
            duration: "istio_request_duration_milliseconds".to_owned(),
            unit: Unit::Milliseconds,
            code: "response_code".to_owned(),
            error_codes: "5..".to_owned(),
            service: "destination_workload".to_owned(),
            namespace: "destination_workload_namespace".to_owned(),
            pod: "pod".to_owned(),
            pod_form: PodForm::Name,
            only: vec![("reporter", "destination")],
        }
    }

    /// Linkerd's proxy metrics on the inbound side; a response is classified as success or failure
    /// (<https://linkerd.io/2/reference/proxy-metrics/>).
    fn linkerd() -> Self {
        Self {
            requests: "response_total".to_owned(),
            duration: "response_latency_ms".to_owned(),
            unit: Unit::Milliseconds,
            code: "classification".to_owned(),
            error_codes: "failure".to_owned(),
            service: "deployment".to_owned(),
            namespace: "namespace".to_owned(),
            pod: "pod".to_owned(),
            pod_form: PodForm::Name,
            only: vec![("direction", "inbound")],
        }
    }

    /// Hubble's `httpV2` metrics with workloads as context labels
    /// (<https://docs.cilium.io/en/stable/observability/metrics/#httpv2>): `method`, `protocol`, `status` and `reporter`
    /// stand beside them in `pkg/hubble/metrics/http/handler.go` of <https://github.com/cilium/cilium>, read at e0cc421a. The
    /// older `http` metrics have no `status` on requests, so their errors stay unknown.
    fn hubble() -> Self {
        Self {
            requests: "hubble_http_requests_total".to_owned(),
            duration: "hubble_http_request_duration_seconds".to_owned(),
            unit: Unit::Seconds,
            code: "status".to_owned(),
            error_codes: "5..".to_owned(),
            service: "destination_workload".to_owned(),
            namespace: "destination_namespace".to_owned(),
            // `pod` is the agent's.
            pod: String::new(),
            pod_form: PodForm::Name,
            only: vec![("reporter", "server")],
        }
    }

    /// What Coroot's node agent counts by eBPF on the answering side: containers by their path, statuses as codes or classes
    /// (`containers/metrics.go`, `containers/l7.go` of <https://github.com/coroot/coroot-node-agent>, read at 15e3563b).
    ///
    /// Its older `container_http_requests_total` counts on the calling side and tells the other only by address; it says who
    /// calls whom (see [`calls`](crate::calls)).
    fn coroot() -> Self {
        Self {
            requests: "container_http_inbound_requests_total".to_owned(),
            duration: "container_http_inbound_requests_duration_seconds_total".to_owned(),
            unit: Unit::Seconds,
            code: "status".to_owned(),
            error_codes: "5..".to_owned(),
            service: String::new(),
            namespace: String::new(),
            pod: "container_id".to_owned(),
            pod_form: PodForm::Path,
            only: Vec::new(),
        }
    }
}

/// A label name of the classic Prometheus alphabet, or empty for "the store has none".
fn label(key: &str, value: &str) -> Result<String, MappingError> {
    let plain =
        value.chars().enumerate().all(|(at, c)| c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit()));
    named(key, value, plain)
}

fn metric(key: &str, value: &str) -> Result<String, MappingError> {
    let plain = !value.is_empty()
        && value
            .chars()
            .enumerate()
            .all(|(at, c)| matches!(c, '_' | ':') || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit()));
    named(key, value, plain)
}

fn named(key: &str, value: &str, plain: bool) -> Result<String, MappingError> {
    match plain && value.len() <= 200 {
        true => Ok(value.to_owned()),
        false => Err(MappingError::NotAName { key: key.to_owned(), value: value.chars().take(100).collect() }),
    }
}

/// An index pattern or the dotted name of a field: nothing that could change the path that it stands in.
fn field(key: &str, value: &str) -> Result<String, MappingError> {
    let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "_-.@*,".contains(c)) && !value.contains("..");
    let empty_is_fine = key == "namespaceField";
    // An index that begins with an underscore would be another interface of the server.
    let an_index = key != "index" || !value.split(',').any(|one| one.starts_with('_') || one.is_empty());
    named(key, value, plain && an_index && (empty_is_fine || !value.is_empty()))
}

fn expression(key: &str, value: &str) -> Result<String, MappingError> {
    let refused =
        |why: String| MappingError::NotARegex { key: key.to_owned(), value: value.chars().take(100).collect(), why };
    match regex::RegexBuilder::new(value).size_limit(64 << 10).build() {
        Ok(_) if value.len() <= 200 => Ok(value.to_owned()),
        Ok(_) => Err(refused("longer than 200 bytes".to_owned())),
        Err(error) => Err(refused(error.to_string().lines().last().unwrap_or_default().to_owned())),
    }
}

fn unit(value: &str) -> Result<Unit, MappingError> {
    match value {
        "s" => Ok(Unit::Seconds),
        "ms" => Ok(Unit::Milliseconds),
        _ => Err(MappingError::NotAUnit { value: value.chars().take(20).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(pairs: &[(&str, &str)]) -> Result<Mapping, MappingError> {
        Mapping::declared(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn undeclared_service_metrics_are_tried_in_turn_and_declared_ones_are_not() {
        let tried = declared(&[]).unwrap().families();
        assert_eq!(tried[0].requests, "http_requests_total");
        assert_eq!(tried[1].requests, "http_server_request_duration_seconds_count");
        let meshes: Vec<&str> = tried[2..].iter().map(|family| family.requests.as_str()).collect();
        assert_eq!(
            meshes,
            [
                "istio_requests_total",
                "response_total",
                "hubble_http_requests_total",
                "container_http_inbound_requests_total"
            ]
        );
        let only = declared(&[("requests", "istio_requests_total"), ("code", "response_code")]).unwrap().families();
        assert_eq!((only.len(), only[0].code.as_str()), (1, "response_code"));
    }

    #[test]
    fn every_key_that_is_named_can_be_declared() {
        for key in KEYS {
            let (key, value) = match key {
                "durationUnit" => (key, "ms"),
                "only.LABEL" => ("only.cluster", "a"),
                _ => (key, "abc"),
            };
            assert!(declared(&[(key, value)]).is_ok(), "{key}");
        }
    }

    #[test]
    fn a_typo_in_a_key_is_refused_and_the_known_ones_are_named() {
        let why = declared(&[("requsts", "x")]).unwrap_err().to_string();
        assert!(why.contains("requsts") && why.contains("errorCodes"), "{why}");
    }

    #[test]
    fn a_name_that_would_change_the_query_is_refused() {
        for value in ["x} or up{", "a b", "9x", "x\"y"] {
            assert!(declared(&[("requests", value)]).is_err(), "{value}");
            assert!(declared(&[("pod", value)]).is_err(), "{value}");
        }
        assert!(declared(&[("errorCodes", "5(")]).is_err());
        for index in ["_cluster", "logs,_all", "../x", "a/b", "a?b", ""] {
            assert!(declared(&[("index", index)]).is_err(), "{index}");
        }
        assert!(declared(&[("only.clu ster", "x")]).is_err());
    }

    #[test]
    fn an_empty_label_name_means_the_store_has_none() {
        assert_eq!(declared(&[("namespace", "")]).unwrap().namespace, "");
    }
}

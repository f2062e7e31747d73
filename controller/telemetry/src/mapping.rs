//! What a store calls things: the names of its metrics and labels.

use std::collections::BTreeMap;

use crate::families::{RequestFamily, Unit};

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
                "code" => family.codes = vec![label(key, value)?],
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
            None => RequestFamily::known(self),
        }
    }
}

impl Mapping {
    /// What a trace store calls a service.
    pub(crate) fn trace_service(&self, namespace: &str, service: &str) -> String {
        self.trace_service.replace("{service}", service).replace("{namespace}", namespace)
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
        for known in ["http_server_requests_seconds_count", "istio_requests_total", "envoy_cluster_upstream_rq"] {
            assert!(tried.iter().any(|family| family.requests == known), "{known}");
        }
        let only = declared(&[("requests", "istio_requests_total"), ("code", "response_code")]).unwrap().families();
        assert_eq!((only.len(), only[0].codes.as_slice()), (1, ["response_code".to_owned()].as_slice()));
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

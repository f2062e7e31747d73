//! Log records as OTLP writes them in JSON.

use amend_diagnosis::evidence::LogLine;
use serde_json::Value;

use super::{attributes, hexadecimal, list, nanoseconds};
use crate::held::HeldLine;
use crate::loki::bounded;

/// The lines in a list of `resourceLogs`; what has no time is kept without.
pub(crate) fn lines(resources: &Value) -> Vec<HeldLine> {
    let mut lines = Vec::new();
    for resource in list(resources) {
        let about = attributes(&resource["resource"]["attributes"]);
        let of = |key: &str| about.get(key).cloned();
        let (pod, service, namespace) = (of("k8s.pod.name"), of("service.name"), of("k8s.namespace.name"));
        let source = pod.or_else(|| service.clone()).unwrap_or_default();
        for scope in list(&resource["scopeLogs"]) {
            let told = list(&scope["logRecords"]).iter().map(|record| HeldLine {
                namespace: namespace.clone(),
                service: service.clone(),
                line: line(record, &source),
            });
            lines.extend(told);
        }
    }
    lines
}

fn line(record: &Value, source: &str) -> LogLine {
    let id = |key: &str| record[key].as_str().filter(|id| !id.is_empty()).map(|id| hexadecimal(id.to_owned()));
    let at = ["timeUnixNano", "observedTimeUnixNano"].into_iter().filter_map(|key| nanoseconds(&record[key]));
    LogLine {
        // A record without a time of its own says zero.
        at_ns: at.into_iter().find(|at| *at > 0),
        source: source.to_owned(),
        severity: severity(record),
        body: bounded(text(&record["body"])),
        trace_id: id("traceId"),
        span_id: id("spanId"),
        count: 1,
        taught: None,
    }
}

/// The words of the sender, else the range of the number
/// (<https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber>).
fn severity(record: &Value) -> Option<String> {
    if let Some(told) = record["severityText"].as_str().filter(|told| !told.is_empty()) {
        return Some(told.to_owned());
    }
    let name = match record["severityNumber"].as_u64()? {
        1..=4 => "TRACE",
        5..=8 => "DEBUG",
        9..=12 => "INFO",
        13..=16 => "WARN",
        17..=20 => "ERROR",
        21..=24 => "FATAL",
        _ => return None,
    };
    Some(name.to_owned())
}

/// A body that is text as it is, any other as JSON.
fn text(body: &Value) -> String {
    match body.as_object().and_then(|value| value.values().next()) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_tells_its_pod_its_trace_and_the_time_at_which_it_was_seen_where_it_has_none() {
        let told = json!([{
            "resource": {"attributes": [
                {"key": "k8s.pod.name", "value": {"stringValue": "cart-0"}},
                {"key": "k8s.namespace.name", "value": {"stringValue": "shop"}},
            ]},
            "scopeLogs": [{"logRecords": [
                {"timeUnixNano": "0", "observedTimeUnixNano": "7", "severityNumber": 17, "body": {"stringValue": "refused"},
                 "traceId": "a1b2c3d4e5f60718a1b2c3d4e5f60718", "spanId": ""},
                {"timeUnixNano": "8", "severityText": "warning", "body": {"kvlistValue": {"values": []}}},
            ]}],
        }]);
        let [first, second] = lines(&told).try_into().unwrap();
        assert_eq!((first.namespace.as_deref(), first.line.source.as_str()), (Some("shop"), "cart-0"));
        assert_eq!((first.line.at_ns, first.line.severity.as_deref()), (Some(7), Some("ERROR")));
        assert_eq!((first.line.body.as_str(), first.line.span_id), ("refused", None));
        assert_eq!((second.line.severity.as_deref(), second.line.body.as_str()), (Some("warning"), r#"{"values":[]}"#));
    }
}

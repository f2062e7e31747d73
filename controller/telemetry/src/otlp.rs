//! Spans as OTLP writes them in JSON: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>.

pub(crate) mod logs;
pub(crate) mod metrics;
mod names;

use std::collections::BTreeMap;

use amend_diagnosis::evidence::{Span, SpanKind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::jaeger::{self, ATTRIBUTES_MAX};

/// The spans in a list of `resourceSpans`; what lacks an id or a time is left out.
pub(crate) fn spans(resources: &Value) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource in list(resources) {
        let about = attributes(&resource["resource"]["attributes"]);
        for scope in list(&resource["scopeSpans"]) {
            spans.extend(list(&scope["spans"]).iter().filter_map(|one| span(one, &about)));
        }
    }
    spans
}

/// Senders set no bounds on attributes; we do.
pub(crate) fn bounded(mut span: Span) -> Span {
    span.attributes = span
        .attributes
        .into_iter()
        .take(ATTRIBUTES_MAX)
        .map(|(key, value)| (jaeger::bounded(&key), jaeger::bounded(&value)))
        .collect();
    span
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn attributes(value: &Value) -> BTreeMap<String, String> {
    list(value)
        .iter()
        .filter_map(|pair| {
            let value = pair["value"].as_object()?.values().next()?;
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some((pair["key"].as_str()?.to_owned(), value))
        })
        .collect()
}

/// Protobuf's JSON writes 64-bit numbers as text.
fn nanoseconds(value: &Value) -> Option<u64> {
    value.as_str().and_then(|text| text.parse().ok()).or(value.as_u64())
}

fn span(value: &Value, resource: &BTreeMap<String, String>) -> Option<Span> {
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    let start = nanoseconds(&value["startTimeUnixNano"])?;
    let end = nanoseconds(&value["endTimeUnixNano"])?;
    let kind = match (&value["kind"], value["kind"].as_u64()) {
        (_, Some(2)) => SpanKind::Server,
        (_, Some(3)) => SpanKind::Client,
        (_, Some(4)) => SpanKind::Producer,
        (_, Some(5)) => SpanKind::Consumer,
        (Value::String(name), _) if name.ends_with("SERVER") => SpanKind::Server,
        (Value::String(name), _) if name.ends_with("CLIENT") => SpanKind::Client,
        (Value::String(name), _) if name.ends_with("PRODUCER") => SpanKind::Producer,
        (Value::String(name), _) if name.ends_with("CONSUMER") => SpanKind::Consumer,
        _ => SpanKind::Internal,
    };
    Some(Span {
        trace_id: hexadecimal(text("traceId")?),
        span_id: hexadecimal(text("spanId")?),
        parent_id: text("parentSpanId").filter(|id| !id.is_empty()).map(hexadecimal),
        service: resource.get("service.name").cloned().unwrap_or_default(),
        pod: resource.get("k8s.pod.name").cloned(),
        operation: text("name").unwrap_or_default(),
        kind,
        start_ns: start,
        duration_ns: end.saturating_sub(start),
        error: value["status"]["code"].as_u64() == Some(2) || value["status"]["code"] == "STATUS_CODE_ERROR",
        attributes: {
            let mut all: BTreeMap<String, String> = placing(resource).collect();
            all.extend(attributes(&value["attributes"]));
            all
        },
    })
}

/// What a resource tells of where a span comes from, beyond what has a field of its own. The rest describes machines and libraries,
/// once for each of thousands of spans.
fn placing(resource: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> {
    const FIELDS: [&str; 2] = ["service.name", "k8s.pod.name"];
    const PLACES: [&str; 5] = ["k8s.", "cloud.", "service.", "deployment.environment", "container.id"];
    let placing = resource
        .iter()
        .filter(|(key, _)| !FIELDS.contains(&key.as_str()) && PLACES.iter().any(|place| key.starts_with(place)));
    placing.map(|(key, value)| (key.clone(), value.clone()))
}

/// Spans as a list of `resourceSpans`: what [`spans`] reads back.
pub(crate) fn resource_spans(spans: &[&Span]) -> Value {
    let mut resources: BTreeMap<(&str, Option<&str>), Vec<Value>> = BTreeMap::new();
    for span in spans {
        resources.entry((&span.service, span.pod.as_deref())).or_default().push(written(span));
    }
    let resource = |((service, pod), spans): ((&str, Option<&str>), Vec<Value>)| {
        let mut about = vec![attribute("service.name", service)];
        about.extend(pod.map(|pod| attribute("k8s.pod.name", pod)));
        json!({"resource": {"attributes": about}, "scopeSpans": [{"spans": spans}]})
    };
    Value::Array(resources.into_iter().map(resource).collect())
}

fn written(span: &Span) -> Value {
    let kind = match span.kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    };
    json!({
        "traceId": span.trace_id, "spanId": span.span_id, "parentSpanId": span.parent_id.as_deref().unwrap_or_default(),
        "name": span.operation, "kind": kind,
        "startTimeUnixNano": span.start_ns.to_string(),
        "endTimeUnixNano": span.start_ns.saturating_add(span.duration_ns).to_string(),
        "status": {"code": if span.error { 2 } else { 0 }},
        "attributes": span.attributes.iter().map(|(key, value)| attribute(key, value)).collect::<Vec<_>>(),
    })
}

fn attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// OTLP writes ids in hex; stores that use the plain protobuf mapping write base64. Their lengths tell them apart.
fn hexadecimal(id: String) -> String {
    match (id.len(), STANDARD.decode(&id)) {
        (12 | 24, Ok(bytes)) => hex::encode(bytes),
        _ => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_knows_the_cluster_and_the_namespace_of_its_resource() {
        let told = json!([{
            "resource": {"attributes": [
                attribute("service.name", "cart"), attribute("k8s.pod.name", "cart-0"), attribute("k8s.namespace.name", "shop"),
                attribute("k8s.cluster.name", "eu-1"), attribute("telemetry.sdk.version", "1.2.3"),
                attribute("service.version", "of the resource"),
            ]},
            "scopeSpans": [{"spans": [{
                "traceId": "01", "spanId": "02", "startTimeUnixNano": "1", "endTimeUnixNano": "2",
                "attributes": [attribute("http.route", "/cart"), attribute("service.version", "of the span")],
            }]}],
        }]);
        let [span] = spans(&told).try_into().unwrap();
        let of = |key: &str| span.attributes.get(key).map(String::as_str);
        assert_eq!((of("k8s.namespace.name"), of("k8s.cluster.name")), (Some("shop"), Some("eu-1")));
        assert_eq!(
            (of("http.route"), of("service.version")),
            (Some("/cart"), Some("of the span")),
            "the span's own words win"
        );
        assert_eq!(of("telemetry.sdk.version"), None);
        assert_eq!((span.service.as_str(), span.pod.as_deref()), ("cart", Some("cart-0")));
    }

    #[test]
    fn ids_are_hex_whichever_way_they_were_written() {
        assert_eq!(hexadecimal("AAAAAAAAAAAAAAAAAAAAAQ==".to_owned()), "00000000000000000000000000000001");
        assert_eq!(hexadecimal("00000000000000000000000000000001".to_owned()), "00000000000000000000000000000001");
        assert_eq!(hexadecimal("AAAAAAAAAAI=".to_owned()), "0000000000000002");
    }
}

//! OTLP/JSON traces of a case, one trace a line.

use std::collections::BTreeMap;
use std::path::Path;

use amend_diagnosis::evidence::{Span, SpanKind};
use serde_json::Value;

use super::{CaseError, content};

pub(super) fn read(directory: &Path) -> Result<Option<Vec<Span>>, CaseError> {
    let Some(text) = content(&directory.join("spans.jsonl"))? else { return Ok(None) };
    let mut spans = Vec::new();
    for line in text.lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        for resource in list(&value["resourceSpans"]) {
            let about = attributes(&resource["resource"]["attributes"]);
            for scope in list(&resource["scopeSpans"]) {
                spans.extend(list(&scope["spans"]).iter().filter_map(|one| span(one, &about)));
            }
        }
    }
    Ok(Some(spans))
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
        _ => SpanKind::Internal,
    };
    Some(Span {
        trace_id: text("traceId")?,
        span_id: text("spanId")?,
        parent_id: text("parentSpanId").filter(|id| !id.is_empty()),
        service: resource.get("service.name").cloned().unwrap_or_default(),
        pod: resource.get("k8s.pod.name").cloned(),
        operation: text("name").unwrap_or_default(),
        kind,
        start_ns: start,
        duration_ns: end.saturating_sub(start),
        error: value["status"]["code"].as_u64() == Some(2) || value["status"]["code"] == "STATUS_CODE_ERROR",
        attributes: attributes(&value["attributes"]),
    })
}

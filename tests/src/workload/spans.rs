//! Spans of the model in OpenTelemetry's form.

use std::collections::BTreeMap;

use amend_sandbox::model::Span as Modelled;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span, status};

/// One request with all spans, a resource for each pod.
pub(super) fn exported(spans: &[Modelled]) -> ExportTraceServiceRequest {
    let mut by_pod: BTreeMap<(&str, &str, &str), Vec<Span>> = BTreeMap::new();
    for span in spans {
        by_pod.entry((&span.service, &span.namespace, &span.pod)).or_default().push(form(span));
    }
    let resource_spans = by_pod
        .into_iter()
        .map(|((service, namespace, pod), spans)| ResourceSpans {
            resource: Some(Resource {
                attributes: vec![
                    text("service.name", service),
                    text("k8s.namespace.name", namespace),
                    text("k8s.pod.name", pod),
                    text("k8s.deployment.name", service),
                ],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        })
        .collect();
    ExportTraceServiceRequest { resource_spans }
}

fn form(span: &Modelled) -> Span {
    let nanoseconds = |at: i128| u64::try_from(at).unwrap_or_default();
    let start = span.start.as_nanosecond();
    let code = if span.failed() { status::StatusCode::Error } else { status::StatusCode::Unset };
    let kind = if span.kind == "server" { span::SpanKind::Server } else { span::SpanKind::Client };
    Span {
        trace_id: hex::decode(&span.trace).unwrap_or_default(),
        span_id: hex::decode(&span.id).unwrap_or_default(),
        parent_span_id: span.parent.as_ref().and_then(|id| hex::decode(id).ok()).unwrap_or_default(),
        name: span.operation.clone(),
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(start),
        end_time_unix_nano: nanoseconds(start + span.duration.as_nanos()),
        attributes: vec![KeyValue {
            key: "http.response.status_code".to_owned(),
            value: Some(AnyValue { value: Some(any_value::Value::IntValue(i64::from(span.status))) }),
            ..KeyValue::default()
        }],
        status: Some(Status { message: String::new(), code: code.into() }),
        ..Span::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

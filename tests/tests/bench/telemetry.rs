//! Prometheus, Alertmanager, Jaeger, Loki.

use amend_tests::bench::{Bench, Part, Receiver, Series, free_port, until};
use axum::Router;
use jiff::{SignedDuration, Timestamp};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use serde_json::json;

use crate::{SOON, webhook};

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_goes_from_a_scraped_metric_to_the_webhook_and_a_silence_stops_it() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Prometheus]).await?;
    let metrics =
        Router::new().route("/metrics", axum::routing::get(|| async { "smoke_errors{namespace=\"smoke-alert\"} 7\n" }));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", free_port()?)).await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move { axum::serve(listener, metrics).await });
    let (url, posted) = webhook().await?;
    let receiver = Receiver {
        url,
        bearer_token: Some("secret-1".to_owned()),
        matchers: vec!["namespace=\"smoke-alert\"".to_owned()],
        repeat_interval: "1h".to_owned(),
    };
    bench.alertmanager().add_receiver("smoke-alert", receiver).await?;

    bench.prometheus().scrape("smoke-alert", &address, &[("cluster", "bench")]).await?;
    let rules = "groups:\n- name: smoke-alert\n  rules:\n  - alert: SmokeErrors\n    expr: smoke_errors > 5\n    labels: {severity: critical}\n";
    bench.prometheus().add_rules("smoke-alert", rules).await?;

    let (token, body) =
        until("the alert", SOON, || async { Ok::<_, String>(posted.lock().unwrap().first().cloned()) }).await?;
    assert_eq!(token, "Bearer secret-1");
    assert_eq!((&body["version"], &body["alerts"][0]["labels"]["alertname"]), (&json!("4"), &json!("SmokeErrors")));
    assert_eq!(bench.prometheus().value("ALERTS{alertname=\"SmokeErrors\",alertstate=\"firing\"}").await?, Some(1.0));
    bench.alertmanager().silence(&[("alertname", "SmokeErrors")], SignedDuration::from_mins(5), "known").await?;
    until("the alert to be suppressed", SOON, || async {
        let alerts = bench.alertmanager().alerts().await?;
        let ours = alerts.iter().find(|alert| alert["labels"]["alertname"] == "SmokeErrors");
        Ok::<_, anyhow::Error>(ours.filter(|alert| alert["status"]["state"] == "suppressed").map(|_| ()))
    })
    .await?;
    let wrong =
        bench.prometheus().add_rules("smoke-wrong", "groups: [{name: x, rules: [{alert: X, expr: 'sum('}]}]").await;
    assert!(wrong.is_err(), "a rule that does not parse is refused");
    bench.prometheus().remove_rules("smoke-alert").await
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_keeps_a_backfilled_past_when_it_is_killed() -> anyhow::Result<()> {
    let bench = Bench::start(&[Part::Prometheus]).await?;
    let now = Timestamp::now();
    let mut past = Series::new("smoke_past", &[("pod", "cart-1")]);
    past.samples = (0..60).map(|minute| (now - SignedDuration::from_mins(minute), 42.0)).collect();

    bench.prometheus().write(&[past]).await?;
    bench.prometheus().program().kill();
    assert!(bench.prometheus().query("smoke_past").await.is_err(), "it is dead");
    bench.prometheus().resume().await?;

    let value = bench.prometheus().value("count_over_time(smoke_past[2h])").await?;
    assert_eq!(value, Some(60.0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn jaeger_returns_a_trace_that_was_sent() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Jaeger]).await?;
    bench.jaeger().send(&server_span("smoke-cart", 0xAB, "GET /cart")?).await?;

    let trace = until("the trace", SOON, || bench.jaeger().trace("abababababababababababababababab")).await?;
    assert_eq!(trace["spans"][0]["operationName"], "GET /cart");
    assert!(bench.jaeger().services().await?.contains(&"smoke-cart".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn loki_returns_lines_that_were_pushed() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Loki]).await?;
    let now = Timestamp::now();
    let lines =
        [(now - SignedDuration::from_secs(2), "starting"), (now - SignedDuration::from_secs(1), "out of memory")];

    bench.loki().push(&[("namespace", "smoke-loki"), ("app", "cart")], &lines).await?;

    let found = until("the line", SOON, || async {
        let found = bench.loki().lines("{namespace=\"smoke-loki\"} |= \"memory\"").await?;
        Ok::<_, anyhow::Error>((!found.is_empty()).then_some(found))
    });
    assert_eq!(found.await?, ["out of memory"]);
    Ok(())
}

/// A request that a service answered just now, as OTLP has it; its trace id is this byte again and again.
pub(crate) fn server_span(service: &str, trace: u8, name: &str) -> anyhow::Result<ExportTraceServiceRequest> {
    let nanoseconds = u64::try_from(Timestamp::now().as_nanosecond())?;
    let service_name = KeyValue {
        key: "service.name".to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(service.to_owned())) }),
        ..KeyValue::default()
    };
    let span = Span {
        trace_id: vec![trace; 16],
        span_id: vec![trace; 8],
        name: name.to_owned(),
        start_time_unix_nano: nanoseconds,
        end_time_unix_nano: nanoseconds + 5_000_000,
        ..Span::default()
    };
    let resource = Resource { attributes: vec![service_name], ..Resource::default() };
    let spans = ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    };
    Ok(ExportTraceServiceRequest { resource_spans: vec![spans] })
}

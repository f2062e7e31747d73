//! Every source keeps its promises to a real store too, not only to the fakes in `controller/telemetry/tests/contract.rs`.

use std::path::PathBuf;
use std::time::Duration;

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::Window;
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use amend_telemetry::alert::{AlertState, Muting, firing, silenced};
use amend_telemetry::contract::recorded::Recorded;
use amend_telemetry::contract::{HOSTILE, Subject, asked, holds};
use amend_telemetry::egress::Egress;
use amend_telemetry::questions::{ExemplarQuestion, Measure, Selection, SeriesQuestion, Target};
use amend_telemetry::source::{SourceConfig, SourceKind, open};
use amend_telemetry::sources::Sources;
use amend_tests::bench::{Bench, Part, Series, until};
use amend_tests::recording::play;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::process::Command;

use crate::SOON;
use crate::telemetry::server_span;

const NAMESPACE: &str = "contract";
const WORKLOAD: &str = "contract-checkout";
const POD: &str = "contract-checkout-5d8f7c9b6d-x2x4q";

/// A sample every five seconds.
const EVERY: SignedDuration = SignedDuration::from_secs(5);

/// What the memory was until a moment ago, and what it is now.
const BEFORE: f64 = 100e6;
const NOW: f64 = 200e6;

fn alert(name: &str) -> Signal {
    Signal {
        key: "contract".to_owned(),
        source: SignalSource::Alert,
        name: name.to_owned(),
        entity: Entity::new(EntityKind::Deployment, NAMESPACE, WORKLOAD),
        severity: Severity::Critical,
        started_at: Timestamp::now(),
        ended_at: None,
        summary: String::new(),
        labels: [("alertname", name), ("namespace", NAMESPACE), ("service", WORKLOAD), ("cluster", "bench")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        count: 1,
    }
}

/// A real store, asked about the twenty minutes that end now. Neither end is a multiple of anything.
fn subject(name: &str, kind: SourceKind, url: &str) -> anyhow::Result<Subject> {
    let to = Timestamp::now();
    Ok(Subject {
        config: SourceConfig { sample_every: EVERY, ..SourceConfig::new(name, kind, url.parse()?) },
        egress: Egress::new(["127.0.0.0/8".parse()?]),
        target: Target::new(Entity::new(EntityKind::Deployment, NAMESPACE, WORKLOAD)),
        measure: Measure::Memory,
        window: Window { from: to - SignedDuration::from_millis(1_201_237), to },
        trace: None,
        alert: None,
    })
}

/// Waits until the store finds what was given to it, then holds it to its promises.
async fn keeps_its_promises(subject: &Subject) -> anyhow::Result<()> {
    let source = open(subject.config.clone(), &subject.egress)?;
    until("the store to find what it was given", SOON, || async {
        let reply = asked(source.as_ref(), subject, None).await;
        match reply.answer.known() {
            Some(found) => Ok((*found > 0).then_some(())),
            None => Err(format!("{:?}", reply.answer)),
        }
    })
    .await?;
    assert_eq!(holds(subject).await, []);
    rerecorded(subject).await
}

/// The recorder keeps what this store answers, and what it kept holds the promises without the store. The file stays where
/// `AMEND_RECORD_TO` says.
async fn rerecorded(subject: &Subject) -> anyhow::Result<()> {
    if subject.config.kind == SourceKind::Alertmanager {
        // Its promises are about alerts, which are asked for by the time of the question.
        return Ok(());
    }
    let passing = tempfile::tempdir()?;
    let folder = std::env::var_os("AMEND_RECORD_TO").map_or_else(|| passing.path().to_owned(), PathBuf::from);
    let file = folder.join(format!("{}.json", subject.config.name));
    let kind = serde_json::to_value(subject.config.kind)?;
    let mut recorder = Command::new(env!("CARGO_BIN_EXE_record"));
    recorder
        .args(["--kind", kind.as_str().unwrap_or_default(), "--url", subject.config.url.as_str()])
        .args(["--store", &format!("{} of the bench", subject.config.name)])
        .args(["--namespace", NAMESPACE, "--workload", WORKLOAD, "--sample-every", &EVERY.as_secs().to_string()])
        .args(subject.trace.iter().flat_map(|trace| ["--trace", trace]))
        .arg(&file);
    let told = recorder.output().await?;
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let recorded: Recorded = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    assert!(!recorded.exchanges.is_empty());
    play(&recorded).await
}

/// Memory of the workload's pod up to now, where it doubled.
fn memory() -> Series {
    let labels = [("namespace", NAMESPACE), ("pod", POD), ("container", "app")];
    let mut memory = Series::new("container_memory_working_set_bytes", &labels);
    let now = Timestamp::now();
    memory.samples = (1..360).map(|step| (now - EVERY * step, BEFORE)).collect();
    memory.samples.push((now, NOW));
    memory
}

/// The alert as whoever evaluates rules writes it down.
fn rule_state(name: &str) -> Series {
    let labels = [("alertname", name), ("alertstate", "firing"), ("namespace", NAMESPACE), ("service", WORKLOAD)];
    let mut state = Series::new("ALERTS", &labels);
    state.samples.push((Timestamp::now(), 1.0));
    state
}

/// What a metrics store says last: what was written a moment ago, and not what was true before it.
async fn newest_is_told(subject: &Subject) -> anyhow::Result<()> {
    let source = open(subject.config.clone(), &subject.egress)?;
    let question = SeriesQuestion {
        id: "newest".to_owned(),
        measure: subject.measure,
        of: Selection::one(&subject.target),
        window: Window { from: subject.window.to - EVERY * 12, to: subject.window.to },
        step: EVERY,
    };
    let told = source.series(&question).await.outcome?;
    let newest = told.iter().filter_map(|series| series.samples.last()).map(|(_, value)| *value).next();
    assert_eq!(newest, Some(NOW), "{told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_keeps_the_promises_of_its_kind() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Prometheus]).await?;
    bench.prometheus().write(&[memory(), rule_state("ContractPrometheus")]).await?;

    let subject = subject("prometheus", SourceKind::Prometheus, bench.prometheus().url())?;
    let subject = Subject { alert: Some(alert("ContractPrometheus")), ..subject };
    newest_is_told(&subject).await?;
    keeps_its_promises(&subject).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_tells_which_slow_and_failed_requests_it_remembers() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Prometheus]).await?;
    let (slow, failed) = ("0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736");
    let metrics = format!(
        "# TYPE http_request_duration_seconds histogram\n\
         http_request_duration_seconds_bucket{{namespace=\"exemplary\",service=\"cart\",le=\"+Inf\"}} 1 # {{trace_id=\"{slow}\"}} 2.5\n\
         http_request_duration_seconds_count{{namespace=\"exemplary\",service=\"cart\"}} 1\n\
         http_request_duration_seconds_sum{{namespace=\"exemplary\",service=\"cart\"}} 2.5\n\
         # TYPE http_requests counter\n\
         http_requests_total{{namespace=\"exemplary\",service=\"cart\",code=\"503\"}} 4 # {{trace_id=\"{failed}\"}} 1\n\
         http_requests_total{{namespace=\"exemplary\",service=\"cart\",code=\"200\"}} 9 # {{trace_id=\"ab\"}} 1\n# EOF\n"
    );
    let kind = [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    let router = axum::Router::new().route("/metrics", axum::routing::get(move || async move { (kind, metrics) }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    bench.prometheus().scrape("exemplary", &address, &[]).await?;

    let asked_about = subject("prometheus", SourceKind::Prometheus, bench.prometheus().url())?;
    let source = open(asked_about.config, &asked_about.egress)?;
    let cart = Target::new(Entity::new(EntityKind::Deployment, "exemplary", "cart"));
    let found = until("both exemplars", SOON, || async {
        let window = Window { from: Timestamp::now() - SignedDuration::from_mins(5), to: Timestamp::now() };
        let question = ExemplarQuestion { id: "exemplars".to_owned(), of: Selection::one(&cart), window };
        let found = source.exemplars(&question).await.outcome?;
        Ok::<_, anyhow::Error>(Some(found).filter(|found| found.len() >= 2))
    })
    .await?;
    let told: Vec<_> = found.iter().map(|exemplar| (exemplar.trace_id.as_str(), exemplar.took)).collect();
    assert_eq!(told, [(failed, None), (slow, Some(2.5))], "of those that answered well nothing is asked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_victoriametrics_keeps_the_promises_of_prometheus() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::VictoriaMetrics]).await?;
    bench.victoriametrics().write(&[memory(), rule_state("ContractVictoria")]).await?;

    let subject = subject("victoriametrics", SourceKind::Prometheus, bench.victoriametrics().url())?;
    let subject = Subject { alert: Some(alert("ContractVictoria")), ..subject };
    newest_is_told(&subject).await?;
    keeps_its_promises(&subject).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_alertmanager_keeps_the_promises_of_its_kind_and_knows_hostile_names() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Alertmanager]).await?;
    let names: Vec<&str> = HOSTILE.into_iter().chain(["ContractAlertmanager"]).collect();
    let fired: Vec<_> = names.iter().map(|name| json!({"labels": alert(name).labels})).collect();
    bench.alertmanager().post_alerts(&json!(fired)).await?;

    let subject = subject("alertmanager", SourceKind::Alertmanager, &bench.alertmanager().url())?;
    let subject = Subject { alert: Some(alert("ContractAlertmanager")), ..subject };
    keeps_its_promises(&subject).await?;

    let sources = Sources::new([open(subject.config.clone(), &subject.egress)?]);
    for name in names {
        let (signal, deadline) = (alert(name), Duration::from_secs(10));
        let (muting, _) = silenced(&sources, &signal, Timestamp::now(), deadline).await;
        assert_eq!(muting.known(), Some(&Muting::Audible), "{name:?}: {muting:?}");
        bench.alertmanager().silence(&[("alertname", name)], SignedDuration::from_mins(5), "known").await?;
        let (muting, _) = silenced(&sources, &signal, Timestamp::now(), deadline).await;
        let Some(Muting::Silenced { by }) = muting.known() else { panic!("{name:?}: {muting:?}") };
        assert_eq!(by[0].comment, "known");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_jaeger_keeps_the_promises_of_its_kind() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Jaeger]).await?;
    bench.jaeger().send(&server_span(WORKLOAD, 0xC0, "POST /checkout")?).await?;

    let subject = subject("jaeger", SourceKind::Jaeger, bench.jaeger().url())?;
    keeps_its_promises(&Subject { trace: Some("c0".repeat(16)), ..subject }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_loki_keeps_the_promises_of_its_kind() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Loki]).await?;
    let now = Timestamp::now();
    let lines: Vec<String> = (0..40).map(|second| format!("level=info served in {second} ms")).collect();
    // Before the window, in it, and up to now.
    let lines: Vec<(Timestamp, &str)> = (0..)
        .zip(&lines)
        .map(|(step, line)| (now - SignedDuration::from_mins(1) * (39 - step), line.as_str()))
        .collect();
    let labels = [("namespace", NAMESPACE), ("pod", POD), ("container", "app")];
    bench.loki().push(&labels, &lines).await?;
    // One service writes the id of a trace into its lines, another sends it beside them.
    let (named, known) = ("0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736");
    let text = format!("level=error msg=\"no stock\" trace_id={named}");
    bench.loki().push(&labels, &[(now - SignedDuration::from_secs(3), text.as_str())]).await?;
    let at = now - SignedDuration::from_secs(2);
    bench.loki().push_with(&labels, at, "refused", &[("trace_id", known), ("severity_text", "ERROR")]).await?;

    for trace in [named, known] {
        let subject = subject("loki", SourceKind::Loki, bench.loki().url())?;
        keeps_its_promises(&Subject { trace: Some(trace.to_owned()), ..subject }).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_a_real_prometheus_fires_and_then_is_over() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Prometheus]).await?;
    let subject = subject("prometheus", SourceKind::Prometheus, bench.prometheus().url())?;
    let sources = Sources::new([open(subject.config.clone(), &subject.egress)?]);
    let state = |wanted| {
        let sources = &sources;
        async move {
            let (state, _) = firing(sources, &alert("ContractRule"), Timestamp::now(), Duration::from_secs(10)).await;
            Ok::<_, String>((state.known() == Some(&wanted)).then_some(()))
        }
    };
    let rule = |holds: &str| {
        format!(
            "groups:\n- name: contract\n  rules:\n  - alert: ContractRule\n    expr: vector(1) {holds} 0\n    labels: {{namespace: {NAMESPACE}, service: {WORKLOAD}}}\n"
        )
    };

    bench.prometheus().add_rules("contract-rule", &rule(">")).await?;
    until("the alert to fire", SOON, || state(AlertState::Firing)).await?;
    bench.prometheus().add_rules("contract-rule", &rule("<")).await?;
    until("the alert to be over", SOON, || state(AlertState::Inactive)).await?;
    bench.prometheus().remove_rules("contract-rule").await
}

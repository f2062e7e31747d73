//! Every part of the bench works: what the live stories stand on.
//!
//! `cargo test -p amend-tests --test bench`; the parts are built at first use (`tests/env/build`).

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amend_tests::bench::{Bench, Follow, MergeStyle, Part, PodSeen, Receiver, Series, free_port, until};
use anyhow::Context;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use serde_json::{Value, json};

/// Everything here takes seconds on an idle machine; compilers may be running.
const SOON: Duration = Duration::from_secs(90);

/// A Deployment of one container; `pod` are the annotations of its pods, in YAML.
fn deployment(name: &str, replicas: u32, image: &str, memory: &str, pod: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    \
         metadata: {{labels: {{app: {name}}}, annotations: {pod}}}\n    spec:\n      containers:\n      - name: app\n        image: {image}\n        resources: {{limits: {{memory: {memory}}}}}\n"
    )
}

async fn pods_until(
    bench: &Bench,
    namespace: &str,
    app: &str,
    what: &str,
    seen: impl Fn(&[PodSeen]) -> bool,
) -> anyhow::Result<Vec<PodSeen>> {
    let labels = format!("app={app}");
    until(what, SOON, || async {
        let pods = bench.kwok().pods(namespace, &labels).await?;
        Ok::<_, anyhow::Error>(seen(&pods).then_some(pods))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_scheduled_and_its_pods_become_ready() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Kwok]).await?;
    let control_plane = bench.control_plane();
    control_plane.create_namespace("smoke-ready").await?;

    control_plane.apply("smoke-ready", &deployment("cart", 3, "shop/cart:1.0", "128Mi", "{}")).await?;

    let pods = pods_until(&bench, "smoke-ready", "cart", "three ready pods", |pods| {
        pods.iter().filter(|pod| pod.ready).count() == 3
    })
    .await?;
    assert!(pods.iter().all(|pod| pod.node.is_some() && pod.restarts == 0));
    let deployments: Api<Deployment> = Api::namespaced(control_plane.client().await?, "smoke-ready");
    until("the Deployment's status", SOON, || async {
        let status = deployments.get("cart").await?.status.unwrap_or_default();
        Ok::<_, kube::Error>((status.available_replicas == Some(3)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_oom_killed_until_their_limit_is_raised() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Kwok]).await?;
    let control_plane = bench.control_plane();
    control_plane.create_namespace("smoke-oom").await?;
    let needs = "{model.amend.dev/needs-memory: \"192\"}";

    control_plane.apply("smoke-oom", &deployment("cart", 2, "shop/cart:2.0", "128Mi", needs)).await?;
    let pods = pods_until(&bench, "smoke-oom", "cart", "each pod to restart twice", |pods| {
        pods.len() == 2 && pods.iter().all(|pod| pod.restarts >= 2)
    })
    .await?;
    assert!(pods.iter().all(|pod| pod.last_ended.as_deref() == Some("OOMKilled")), "{pods:?}");

    control_plane.apply("smoke-oom", &deployment("cart", 2, "shop/cart:2.0", "256Mi", needs)).await?;
    let old: Vec<String> = pods.into_iter().map(|pod| pod.name).collect();
    let healed = |pods: &[PodSeen]| pods.len() == 2 && pods.iter().all(|pod| pod.ready && !old.contains(&pod.name));
    pods_until(&bench, "smoke-oom", "cart", "two new pods", healed).await?;
    // Longer than the model lets a pod with too little memory live.
    let quiet_since = Timestamp::now();
    pods_until(&bench, "smoke-oom", "cart", "five quiet seconds", |pods| {
        assert!(pods.iter().all(|pod| pod.restarts == 0), "restarted at 256Mi: {pods:?}");
        Timestamp::now().duration_since(quiet_since) > SignedDuration::from_secs(5)
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_faults_show_as_the_kubelet_would_show_them() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Kwok]).await?;
    let control_plane = bench.control_plane();
    control_plane.create_namespace("smoke-faults").await?;
    let by_image = "{model.amend.dev/crash-image: \":2[.]0$\", model.amend.dev/crash-message: no such host}";
    let faults = [
        deployment("pull", 1, "registry.invalid/shop/cart:1.1-missing", "128Mi", "{}"),
        deployment(
            "config",
            1,
            "shop/cart:1.0",
            "128Mi",
            "{model.amend.dev/config-missing: 'configmap \"cart\" not found'}",
        ),
        deployment("crash", 1, "shop/cart:2.0", "128Mi", by_image),
        deployment("large", 1, "shop/cart:1.0", "4Ti", "{}"),
    ];

    control_plane.apply("smoke-faults", &faults.join("\n---\n")).await?;

    for (app, reason) in [("pull", "ImagePullBackOff"), ("config", "CreateContainerConfigError")] {
        let waits = |pods: &[PodSeen]| pods.iter().any(|pod| pod.waiting.as_deref() == Some(reason) && !pod.ready);
        pods_until(&bench, "smoke-faults", app, reason, waits).await?;
    }
    let crashes = |pods: &[PodSeen]| {
        pods.iter().any(|pod| pod.waiting.as_deref() == Some("CrashLoopBackOff") && pod.restarts >= 2)
    };
    let pods = pods_until(&bench, "smoke-faults", "crash", "a crash loop", crashes).await?;
    assert_eq!(pods[0].last_ended.as_deref(), Some("Error"));
    pods_until(&bench, "smoke-faults", "large", "a pod that fits no node", |pods| {
        pods.iter().any(|pod| pod.node.is_none())
    })
    .await?;

    control_plane.apply("smoke-faults", &deployment("crash", 1, "shop/cart:1.9", "128Mi", by_image)).await?;
    pods_until(&bench, "smoke-faults", "crash", "the old image to run", |pods| {
        pods.len() == 1 && pods[0].ready && pods[0].restarts == 0
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_has_its_rights_and_no_more_and_is_audited() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::ControlPlane]).await?;
    let control_plane = bench.control_plane();
    control_plane.create_namespace("smoke-rbac").await?;
    let rights = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: reader}\n---\n\
                  apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader}\nrules: [{apiGroups: [\"\"], resources: [configmaps], verbs: [list]}]\n---\n\
                  apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: reader}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}\n\
                  subjects: [{kind: ServiceAccount, name: reader, namespace: smoke-rbac}]\n";
    control_plane.apply("smoke-rbac", rights).await?;
    let client = control_plane.client_for_service_account("smoke-rbac", "reader").await?;
    let config_maps: Api<ConfigMap> = Api::namespaced(client, "smoke-rbac");

    until("the role to be seen", SOON, || async {
        config_maps.list(&kube::api::ListParams::default()).await.map(Some)
    })
    .await?;
    let mut forbidden = ConfigMap::default();
    forbidden.metadata.name = Some("mine".to_owned());
    let refused = config_maps.create(&PostParams::default(), &forbidden).await;

    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
    let user = "system:serviceaccount:smoke-rbac:reader";
    let entries = until("the audit log", SOON, || async {
        control_plane.audit_of(user).map(|entries| (entries.len() >= 2).then_some(entries))
    })
    .await?;
    let last = entries.last().context("no entry")?;
    assert_eq!(
        (last.verb.as_str(), last.resource.as_str(), last.namespace.as_str(), last.code),
        ("create", "configmaps", "smoke-rbac", 403)
    );
    assert!(last.is_write() && !last.has_written());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gitea_takes_a_pull_request_and_its_branch_rules_hold() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Gitea]).await?;
    let gitea = bench.gitea();
    gitea.create_org("smoke-pr").await?;
    let bot = gitea.create_user("smoke-bot").await?;
    let repo = gitea
        .create_repo("smoke-pr", "shop", &[("apps/cart.yaml", "memory: 128Mi\n"), ("README.md", "# Shop\n")])
        .await?;
    repo.add_collaborator(&bot.name, "write").await?;
    let before = repo.head("main").await?;

    repo.api_as(
        &bot,
        reqwest::Method::POST,
        "/branches",
        Some(json!({"new_branch_name": "amend/1", "old_branch_name": "main"})),
    )
    .await?;
    repo.commit("amend/1", "raise the limit", &[("apps/cart.yaml", "memory: 192Mi\n")]).await?;
    let opened = repo.open_pull_request("amend/1", "main", "Raise the memory of cart").await?;
    assert!(repo.diff(opened.number).await?.contains("+memory: 192Mi"));
    repo.protect("main", 1).await?;
    let refused = until("mergeability to be known", SOON, || async {
        let refused =
            repo.merge(&opened, MergeStyle::Squash).await.err().map(|error| error.to_string()).unwrap_or_default();
        Ok::<_, String>(refused.contains("approvals").then_some(refused))
    });
    refused.await?;
    repo.api_as(
        &bot,
        reqwest::Method::POST,
        &format!("/pulls/{}/reviews", opened.number),
        Some(json!({"event": "APPROVED", "body": "good"})),
    )
    .await?;
    until("the merge", SOON, || async { repo.merge(&opened, MergeStyle::Squash).await.map(Some) }).await?;

    assert!(repo.pull_request(opened.number).await?.merged);
    assert_ne!(repo.head("main").await?, before);
    assert_eq!(repo.file("main", "apps/cart.yaml").await?, "memory: 192Mi\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn flux_applies_what_is_pushed() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Kwok, Part::Flux, Part::Gitea]).await?;
    let (control_plane, gitea) = (bench.control_plane(), bench.gitea());
    control_plane.create_namespace("smoke-flux").await?;
    gitea.create_org("smoke-flux").await?;
    let admin = gitea.admin();
    let repo = gitea
        .create_repo(
            "smoke-flux",
            "shop",
            &[("apps/cart.yaml", &deployment("cart", 1, "shop/cart:1.0", "128Mi", "{}"))],
        )
        .await?;
    let url = repo.clone_url();
    let follow = Follow {
        name: "shop",
        namespace: "smoke-flux",
        url: &url,
        branch: "main",
        path: "./apps",
        user: &admin.name,
        password: &admin.token,
    };

    let revision = bench.flux().follow(&follow).await?;
    assert_eq!(revision, format!("main@sha1:{}", repo.head("main").await?));
    let commit = repo
        .commit("main", "a bigger cart", &[("apps/cart.yaml", &deployment("cart", 2, "shop/cart:1.0", "256Mi", "{}"))])
        .await?;
    bench.flux().wait_applied("smoke-flux", "shop", &commit).await?;

    pods_until(&bench, "smoke-flux", "cart", "two ready pods", |pods| pods.iter().filter(|pod| pod.ready).count() == 2)
        .await?;
    let deployments: Api<Deployment> = Api::namespaced(control_plane.client().await?, "smoke-flux");
    let labels = deployments.get("cart").await?.metadata.labels.unwrap_or_default();
    assert_eq!(labels.get("kustomize.toolkit.fluxcd.io/name").map(String::as_str), Some("shop"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_workflow_ends_as_a_failed_run_with_a_log_and_a_webhook() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::ActRunner]).await?;
    let gitea = bench.gitea();
    gitea.create_org("smoke-ci").await?;
    let (url, posted) = webhook().await?;
    let repo = gitea.create_repo("smoke-ci", "shop", &[]).await?;
    repo.create_webhook(&url, "secret-1", &["workflow_run"]).await?;
    let workflow = "on: [push]\njobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n    - uses: actions/checkout@v4\n    - run: cat greeting.txt\n    \
                    - name: Tests\n      run: |\n        echo 'error[E0308]: mismatched types' >&2\n        exit 101\n    - run: echo never\n";

    let commit = repo
        .commit("main", "break it", &[("greeting.txt", "good day\n"), (".gitea/workflows/ci.yaml", workflow)])
        .await?;

    let failed = until("the run to fail", SOON, || async {
        let runs = repo.workflow_runs().await?;
        Ok::<_, anyhow::Error>(runs.into_iter().find(|run| run.conclusion.as_deref() == Some("failure")))
    });
    let run = failed.await?;
    assert_eq!((run.head_sha.as_str(), run.status.as_str()), (commit.as_str(), "completed"));
    let logs = repo.workflow_logs(run.id).await?;
    let log = &logs[0].1;
    for line in ["good day", "error[E0308]: mismatched types", "Process completed with exit code 101."] {
        assert!(log.contains(line), "no {line:?} in:\n{log}");
    }
    assert!(!log.contains("never"), "a step after the failed one ran");
    until("the webhook", SOON, || async {
        let all = posted.lock().expect("a push does not panic");
        let completed = all
            .iter()
            .find(|(_, body)| body["action"] == "completed" && body["workflow_run"]["conclusion"] == "failure");
        Ok::<_, String>(completed.map(|_| ()))
    })
    .await
}

/// What was posted to a webhook: the authorization header and the body.
type Posted = Arc<Mutex<Vec<(String, Value)>>>;

/// A receiver of webhooks; returns its URL and what it got.
async fn webhook() -> anyhow::Result<(String, Posted)> {
    let posted = Posted::default();
    let seen = Arc::clone(&posted);
    let take = move |headers: HeaderMap, Json(body): Json<Value>| async move {
        let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        seen.lock().expect("a push does not panic").push((token, body));
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", free_port()?)).await?;
    let url = format!("http://{}/alerts", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/alerts", post(take))).await });
    Ok((url, posted))
}

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
    let nanoseconds = u64::try_from(Timestamp::now().as_nanosecond())?;
    let service = KeyValue {
        key: "service.name".to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue("smoke-cart".to_owned())) }),
        ..KeyValue::default()
    };
    let span = Span {
        trace_id: vec![0xAB; 16],
        span_id: vec![0xCD; 8],
        name: "GET /cart".to_owned(),
        start_time_unix_nano: nanoseconds,
        end_time_unix_nano: nanoseconds + 5_000_000,
        ..Span::default()
    };
    let resource = Resource { attributes: vec![service], ..Resource::default() };
    let spans = ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    };

    bench.jaeger().send(&ExportTraceServiceRequest { resource_spans: vec![spans] }).await?;

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

#[tokio::test(flavor = "multi_thread")]
async fn helm_renders_a_chart_and_installs_it_for_real() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Helm, Part::ControlPlane]).await?;
    let chart = tempfile::tempdir()?;
    let files = BTreeMap::from([
        ("Chart.yaml", "apiVersion: v2\nname: smoke\nversion: 0.1.0\nkubeVersion: '>=1.31.0-0'\n"),
        ("values.yaml", "greeting: hello\n"),
        (
            "templates/map.yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {greeting: {{ .Values.greeting | quote }}}\n",
        ),
    ]);
    fs::create_dir(chart.path().join("templates"))?;
    for (path, text) in files {
        fs::write(chart.path().join(path), text)?;
    }

    let rendered = bench.helm().template(chart.path(), "one", "smoke-helm", &["greeting=\"good day\""]).await?;
    assert!(rendered.contains("greeting: \"good day\""), "{rendered}");
    bench.helm().install(&bench.control_plane().kubeconfig(), chart.path(), "one", "smoke-helm", &[]).await?;

    let config_maps: Api<ConfigMap> = Api::namespaced(bench.control_plane().client().await?, "smoke-helm");
    assert_eq!(config_maps.get("one").await?.data.unwrap_or_default()["greeting"], "hello");
    let broken = bench.helm().template(chart.path(), "one", "smoke-helm", &["greeting"]).await;
    assert!(broken.is_err());
    Ok(())
}

//! Helm, processes from Deployments, and the proxy.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use amend_tests::bench::{Bench, Deployed, Moment, Part, Program, Proxy, Run, amend_binary, until};
use axum::http::StatusCode;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ListParams};
use reqwest::Method;
use serde_json::json;

use crate::SOON;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_runs_as_a_process_with_its_secrets_as_its_service_account() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::ControlPlane]).await?;
    let control_plane = bench.control_plane();
    control_plane.create_namespace("smoke-deployed").await?;
    let script = "printf '%s %s ' \"$POD_NAME\" \"$GREETING\" > /scratch/seen; cat /etc/app/token >> /scratch/seen; \
                  grep -o 'system:serviceaccount:[a-z:-]*' \"$KUBECONFIG\" | head -1 > /scratch/who; echo 0.0.0.0:8080 > /scratch/where; exec sleep 1000";
    let pod = json!({
        "serviceAccountName": "worker",
        "containers": [{
            "name": "app", "image": "app:1", "args": ["-c", script], "ports": [{"containerPort": 8080}],
            "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "GREETING", "value": "hello"}],
            "volumeMounts": [{"name": "token", "mountPath": "/etc/app"}, {"name": "scratch", "mountPath": "/scratch"}],
        }],
        "volumes": [{"name": "token", "secret": {"secretName": "app"}}, {"name": "scratch", "emptyDir": {}}],
    });
    let labels = json!({"app": "app"});
    let objects = [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "worker"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "app"}, "stringData": {"token": "secret-1"}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"},
               "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}}),
    ];
    control_plane.apply("smoke-deployed", &objects.map(|object| object.to_string()).join("\n---\n")).await?;

    let deployed = Deployed::prepare(control_plane, "smoke-deployed", "app", 0, Path::new("/bin/sh")).await?;
    deployed.start().await?;

    let scratch = deployed.folder("/scratch").expect("it is mounted").to_path_buf();
    let written = until("the last file", SOON, || async {
        Ok::<_, String>(fs::read_to_string(scratch.join("where")).ok().filter(|text| text.ends_with('\n')))
    });
    assert_eq!(format!("http://{}", written.await?.trim()), deployed.url()?);
    assert_eq!(fs::read_to_string(scratch.join("seen"))?, "app-0 hello secret-1");
    assert_eq!(fs::read_to_string(scratch.join("who"))?.trim(), "system:serviceaccount:smoke-deployed:worker");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_under_test_is_built_from_this_tree() -> anyhow::Result<()> {
    let folder = Run::current()?.folder("amend")?;

    let version =
        Program::new("amend-version", amend_binary().await?, folder.path())?.arg("--version").output().await?;

    assert_eq!(version.trim(), concat!("amend ", env!("CARGO_PKG_VERSION")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_program_takes_its_children_with_it() -> anyhow::Result<()> {
    let folder = Run::current()?.folder("family")?;
    let program = Program::new("family", "/bin/sh", folder.path())?.args(["-c", "sleep 1000 & echo $! > child; wait"]);
    program.start()?;
    let child = until("the child", SOON, || async {
        let text = fs::read_to_string(folder.path().join("child")).unwrap_or_default();
        Ok::<_, String>(text.trim().parse::<u32>().ok())
    });
    let child = child.await?;

    program.kill();

    let stat = format!("/proc/{child}/stat");
    until("the child to be gone", SOON, || async {
        // A process that nobody has waited for yet is a zombie, not alive.
        let alive = fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        Ok::<_, String>((!alive).then_some(()))
    })
    .await?;
    assert_eq!(program.pid(), None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_holds_refuses_and_cuts_what_a_story_names() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Gitea]).await?;
    let gitea = bench.gitea();
    gitea.create_org("smoke-proxy").await?;
    let repo = gitea.create_repo("smoke-proxy", "shop", &[("README.md", "# Shop\n")]).await?;
    let proxy = Proxy::start(gitea.url()).await?;
    let issues = format!("{}/api/v1/repos/smoke-proxy/shop/issues", proxy.url());
    let open = |title: &str| {
        let request =
            reqwest::Client::new().post(&issues).bearer_auth(gitea.admin().token).json(&json!({"title": title}));
        tokio::spawn(async move { request.send().await?.error_for_status()?.text().await })
    };
    let count = || async {
        anyhow::Ok(repo.api(Method::GET, "/issues?type=issues", None).await?.as_array().map_or(0, Vec::len))
    };

    let mut held = proxy.hold(Moment::AfterAnswer, |seen| seen.method == "POST" && seen.path.ends_with("/issues"));
    let client = open("first");
    held.reached().await?;
    assert_eq!(count().await?, 1, "Gitea has it although the client does not know");
    assert!(!client.is_finished());
    held.release();
    assert!(client.await?.is_ok());

    let refusal = proxy.refuse(Moment::BeforeRequest, StatusCode::SERVICE_UNAVAILABLE, |seen| seen.method == "POST");
    assert!(open("second").await?.is_err());
    assert_eq!(count().await?, 1, "Gitea never saw it");
    proxy.remove(refusal);
    proxy.cut(Moment::AfterAnswer, |seen| seen.method == "POST");
    assert!(open("third").await?.is_err(), "no answer came");
    assert_eq!(count().await?, 2, "and yet it was done");

    let statuses: Vec<Option<u16>> = proxy.seen().into_iter().map(|(_, status)| status).collect();
    assert_eq!(statuses, [Some(201), None, Some(201)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_installs_on_a_real_api_server_and_can_be_run() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Helm, Part::ControlPlane]).await?;
    let control_plane = bench.control_plane();
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/amend");

    control_plane.create_namespace("smoke-shop").await?;
    let remediators = ["remediators=[{\"namespace\": \"smoke-shop\"}]"];
    bench.helm().install(&control_plane.kubeconfig(), &chart, "amend", "smoke-chart", &remediators).await?;

    let deployed = Deployed::prepare(control_plane, "smoke-chart", "amend", 0, Path::new("/bin/true")).await?;
    assert!(deployed.url()?.starts_with("http://127.0.0.1:"));
    assert!(deployed.folder("/scratch").is_some());
    let client = control_plane.client_for_service_account("smoke-chart", "amend").await?;
    let secrets: Api<Secret> = Api::namespaced(client, "kube-system");
    let refused = secrets.list(&ListParams::default()).await;
    assert!(
        matches!(refused, Err(kube::Error::Api(status)) if status.code == 403),
        "secrets of others may not be read"
    );
    Ok(())
}

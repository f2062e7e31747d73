//! A real failed workflow run in Gitea becomes one `Build` with commit, failing lines, class and reason; delivered twice,
//! still one; the webhook lost, the poller finds it.

use std::path::Path;
use std::time::Duration;

use amend_crds::Build;
use amend_crds::incident::IncidentPhase;
use amend_tests::bench::{Bench, Deployed, Part, Repo, amend_binary, until};
use amend_tests::stage::{RELEASE, RELEASE_NAMESPACE};
use anyhow::Context;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use reqwest::Method;
use serde_json::json;

const CI_SECRET: &str = "live-ci-secret";

/// A workflow that fails as builds do: a line that tells why, somewhere among others.
const WORKFLOW: &str = "name: test\non: [push]\njobs:\n  build:\n    runs-on: ubuntu-latest\n    steps:\n    - run: |\n        echo 'compiling checkout'\n        echo 'curl: (6) Could not resolve host: registry.shop.example'\n        echo 'build failed'\n        exit 1\n";

/// From a push until its failed run is a diagnosed Build; the poller looks once a minute.
const DIAGNOSED: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_is_one_build_whether_told_once_twice_or_never() -> anyhow::Result<()> {
    let bench = Bench::start(&[Part::ControlPlane, Part::Helm, Part::ActRunner]).await?;
    let (cluster, gitea) = (bench.control_plane(), bench.gitea());
    gitea.create_org("ci").await?;
    let robot = gitea.create_user("ci-amend").await?;
    let repo = gitea.create_repo("ci", "shop", &[("README.md", "# Shop\n")]).await?;
    repo.add_collaborator(&robot.name, "write").await?;

    cluster.create_namespace(RELEASE_NAMESPACE).await?;
    let objects = [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "amend-ci"}, "stringData": {"secret": CI_SECRET}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "amend-intake"}, "stringData": {"token": "unused"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ci-git"}, "stringData": {"username": robot.name, "password": robot.token}}),
    ];
    for object in &objects {
        cluster.apply(RELEASE_NAMESPACE, &object.to_string()).await?;
    }
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/amend");
    let values = [r#"egress.allow=["127.0.0.0/8"]"#, r#"intake.ciSecret="amend-ci""#];
    bench.helm().install(&cluster.kubeconfig(), &chart, RELEASE, RELEASE_NAMESPACE, &values).await?;
    let target = json!({"apiVersion": "amend.dev/v1alpha1", "kind": "GitTarget", "metadata": {"name": "ci"}, "spec": {
        "url": repo.clone_url(), "branch": "main", "forge": {"kind": "Gitea"}, "secretRef": {"name": "ci-git"}}});
    cluster.apply(RELEASE_NAMESPACE, &target.to_string()).await?;
    let amend = Deployed::prepare(cluster, RELEASE_NAMESPACE, RELEASE, 0, &amend_binary().await?).await?;
    amend.start().await?;
    let builds: Api<Build> = Api::namespaced(cluster.client().await?, RELEASE_NAMESPACE);

    // Two webhooks: every run is delivered twice, each time with an id of its own.
    let url = format!("{}/intake/gitea", amend.url()?);
    let hooks = [
        repo.create_webhook(&url, CI_SECRET, &["workflow_run"]).await?,
        repo.create_webhook(&url, CI_SECRET, &["workflow_run"]).await?,
    ];
    let told = repo.commit("main", "checkout: new build", &[(".gitea/workflows/test.yaml", WORKFLOW)]).await?;
    let build = diagnosed(&builds, &told, &amend).await?;
    assert_eq!((build.spec.repository.as_str(), build.spec.branch.as_str()), ("ci/shop", "main"));
    let status = build.status.clone().unwrap_or_default();
    assert_eq!(status.class.as_deref(), Some("transient"), "{status:?}");
    assert!(!status.reason.is_empty(), "{status:?}");
    assert!(status.failing_lines.iter().any(|line| line.text.contains("Could not resolve host")), "{status:?}");
    until("both webhooks to be delivered", DIAGNOSED, || async {
        let counted = reqwest::get(format!("{}/metrics", amend.url()?)).await?.text().await?;
        let told = |result: &str| counted.lines().any(|line| line.contains("builds_received") && line.contains(result));
        let deliveries = builds.get_status(&build.name_any()).await?.status.unwrap_or_default().deliveries;
        Ok::<_, anyhow::Error>((told("stored") && told("repeated") && deliveries == 2).then_some(()))
    })
    .await?;
    assert_eq!(builds.list(&ListParams::default()).await?.items.len(), 1, "delivered twice, still one");

    // The webhooks are lost; nobody tells us of the next run.
    for hook in hooks {
        repo.api(Method::DELETE, &format!("/hooks/{hook}"), None).await?;
    }
    let untold = another_push(&repo).await?;
    let found = diagnosed(&builds, &untold, &amend).await?;
    assert_ne!(found.spec.run_id, build.spec.run_id);
    assert_eq!(builds.list(&ListParams::default()).await?.items.len(), 2);
    Ok(())
}

async fn another_push(repo: &Repo<'_>) -> anyhow::Result<String> {
    repo.commit("main", "checkout: another try", &[("README.md", "# The shop\n")]).await
}

/// Waits for the Build of a commit.
async fn diagnosed(builds: &Api<Build>, commit: &str, amend: &Deployed) -> anyhow::Result<Build> {
    let waited = until("the Build to be diagnosed", DIAGNOSED, || async {
        let all = builds.list(&ListParams::default()).await?.items;
        let of_commit = all.into_iter().find(|build| build.spec.commit == commit);
        let diagnosed =
            |build: &Build| build.status.as_ref().is_some_and(|status| status.phase == IncidentPhase::Diagnosed);
        Ok::<_, kube::Error>(of_commit.filter(diagnosed))
    });
    waited.await.with_context(|| amend.program().log_end())
}

//! Gitea, its workflows, and Flux.

use amend_tests::bench::{Bench, Follow, MergeStyle, Part, until};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::Api;
use reqwest::Method;
use serde_json::json;

use crate::{SOON, deployment, pods_until, webhook};

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

    repo.create_branch("amend/1", "main").await?;
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
        Method::POST,
        &format!("/pulls/{}/reviews", opened.number),
        Some(json!({"event": "APPROVED", "body": "good"})),
    )
    .await?;
    until("the merge", SOON, || async { repo.merge(&opened, MergeStyle::Squash).await.map(Some) }).await?;

    assert!(repo.pull_request(opened.number).await?.merged);
    assert_ne!(repo.head("main").await?, before);
    assert_eq!(repo.file("main", "apps/cart.yaml").await?, "memory: 192Mi\n");
    let proposed = repo.head("amend/1").await?;
    repo.force("amend/1", &before).await?;
    assert_ne!(proposed, before);
    assert_eq!(repo.head("amend/1").await?, before, "a force push goes back");
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

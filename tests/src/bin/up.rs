//! `make up`: a live world for a person to play with, until Ctrl-C.
//!
//! The chart is installed and Amend runs, but nobody has told it of the shop: the three files of the first pull request lie ready.

use std::fs;
use std::path::{Path, PathBuf};

use amend_tests::bench::Run;
use amend_tests::stage::{FOLDER, Scenery, Stage, World};
use anyhow::Context;

/// The namespace, the Gitea organisation and the `GitTarget` of the shop.
const SHOP: &str = "shop";

/// Somebody who may look at everything; the token opens the dashboard.
const VISITOR: &str = "
{apiVersion: v1, kind: ServiceAccount, metadata: {name: visitor, namespace: shop}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: visitor}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: visitor, namespace: shop}]
";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    eprintln!("up: starting a cluster, a forge, stores and Amend; a minute or two");
    let mut scenery = Scenery::shop(SHOP);
    scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
    scenery.behaves("payment", "v3.2.0", |usual| amend_sandbox::model::graph::Version {
        error_ratio: 0.35,
        latency_factor: 3.0,
        error_message: "card processor answered: unknown field 'amount_minor'".into(),
        ..usual
    });
    scenery.policy("raise-memory-after-oom", |_| {});
    scenery.policy("revert-bad-release", |_| {});
    let world = World::shared().await?;
    let stage = Stage::bare(world, &scenery).await?;
    stage.apply(VISITOR).await?;
    let folder = Run::current()?.folder("up")?;
    for (name, text) in stage.files(&scenery) {
        fs::write(folder.path().join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    let commands = commands(&stage, folder.path())?;
    println!("{}", told(&stage, folder.path(), &commands).await?);
    tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")?;
    eprintln!("\nup: everything is stopped and removed");
    Ok(())
}

/// `kubectl`, `helm` and `kubectl-amend` that speak to this world, as one folder for `PATH`.
fn commands(stage: &Stage, folder: &Path) -> anyhow::Result<PathBuf> {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    let amend = stage.world().amend().program().path();
    let helm = stage.world().bench().helm().binary();
    let kubectl = stage.world().control_plane().kubectl();
    for (name, to) in [("kubectl", kubectl), ("helm", helm), ("kubectl-amend", amend), ("amend", amend)] {
        std::os::unix::fs::symlink(to, bin.join(name)).with_context(|| format!("cannot link {name}"))?;
    }
    Ok(bin)
}

async fn told(stage: &Stage, folder: &Path, bin: &Path) -> anyhow::Result<String> {
    let world = stage.world();
    let bench = world.bench();
    let (control_plane, gitea) = (world.control_plane(), bench.gitea());
    let admin = gitea.admin();
    let token = control_plane.token_for_service_account(SHOP, "visitor").await?;
    let (files, bin, kubeconfig) = (folder.display(), bin.display(), control_plane.kubeconfig());
    let (kubeconfig, gitea_url, dashboard) = (kubeconfig.display(), gitea.url(), world.amend().url()?);
    let (prometheus, alertmanager) = (bench.prometheus().url(), bench.alertmanager().url());
    let (loki, jaeger, log) =
        (bench.loki().url(), stage.traces().jaeger().url(), world.amend().program().log().display());
    let (name, password) = (admin.name, admin.password);
    Ok(format!(
        "
A live world is up: five services of a shop in namespace {SHOP}, applied by Flux from Gitea, watched by Amend.

  export KUBECONFIG={kubeconfig} PATH={bin}:$PATH

  Gitea          {gitea_url}/{SHOP}/shop          sign in as {name}, password {password}
  Dashboard      {dashboard}          paste this token:
                 {token}
  Prometheus     {prometheus}
  Alertmanager   {alertmanager}
  Jaeger         {jaeger}
  Loki           {loki}
  Amend's log    {log}

Try the first pull request:

  1. Tell Amend where to ask, what it may change, and what it may answer (look into the three files first):
       kubectl apply -f {files}
       kubectl amend doctor
  2. Release something bad: change v1.8.2 to v1.9.0 (it needs more memory than its limit) here, and commit to main:
       {gitea_url}/{SHOP}/shop/_edit/main/{FOLDER}/checkout.yaml
     or payment from v3.1.4 to v3.2.0 (it fails a third of its requests) in {FOLDER}/payment.yaml.
  3. Watch: kubectl get incidents,remediations -n {SHOP} -w, or the dashboard. Half a minute later there is a pull request:
       {gitea_url}/{SHOP}/shop/pulls
  4. Merge it. Flux rolls it out, Amend watches for a minute, then says whether it helped: kubectl amend get remediations -n {SHOP}
  5. Check what was done: kubectl amend record verify

Ctrl-C stops and removes all of it."
    ))
}

//! `amend uninstall --plan`: what Amend would leave behind, and how to take it away.

use std::process::ExitCode;

use amend_controller::clients::Clients;
use amend_controller::targets::Targets;
use amend_crds::{GROUP, GitTarget, Incident, Remediation};
use amend_gitops::forge::PullRequestState;
use anyhow::{Context, bail};
use clap::Args;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::connection::{Connection, Flags};

/// Lists open pull requests and finalizers of Amend; with --yes closes and drops them.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Show what would be done
    #[arg(long, required_unless_present = "yes")]
    plan: bool,
    /// Do it
    #[arg(long, conflicts_with = "plan")]
    yes: bool,
    /// Private address or range that a forge may have (repeat)
    #[arg(long, value_name = "CIDR")]
    egress_allow: Vec<String>,
}

pub async fn run(arguments: &Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let connection = flags.connect().await?;
    let scratch = tempfile::tempdir().context("cannot make a scratch folder")?;
    let clients = Clients::new(connection.config.clone())?;
    let targets =
        Targets::new(clients, &connection.install_namespace, scratch.path().to_owned(), &arguments.egress_allow);
    let listed: Api<GitTarget> = Api::all(connection.client.clone());
    let listed = listed.list(&ListParams::default()).await.context("cannot list GitTargets")?;
    let mut failed = 0;
    for target in &listed {
        if let Err(error) = pull_requests(&targets, target, arguments.yes).await {
            failed += 1;
            eprintln!("amend: GitTarget {}: {error:#}", target.name_any());
        }
    }
    finalizers::<Incident>(&connection, arguments.yes).await?;
    finalizers::<Remediation>(&connection, arguments.yes).await?;
    let helm = format!("helm uninstall amend -n {}", connection.install_namespace);
    println!("then: {helm}");
    println!(
        "then: kubectl delete crd -l app.kubernetes.io/part-of=amend   (this deletes the record: export it first)"
    );
    if failed > 0 {
        bail!("{failed} repositories could not be asked");
    }
    Ok(ExitCode::SUCCESS)
}

async fn pull_requests(targets: &Targets, target: &GitTarget, act: bool) -> anyhow::Result<()> {
    let opened = targets.open(target).await?;
    // Only open ones are wanted, and those are always told.
    let found = opened.forge().find(Timestamp::MAX).await?;
    for pull in found.iter().filter(|pull| matches!(pull.state, PullRequestState::Open)) {
        if act {
            opened.forge().close(pull.number).await.with_context(|| format!("cannot close {}", pull.url))?;
        }
        println!("{} pull request {} ({})", if act { "closed" } else { "would close" }, pull.url, pull.title);
    }
    Ok(())
}

async fn finalizers<K>(connection: &Connection, act: bool) -> anyhow::Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let all: Api<K> = Api::all(connection.client.clone());
    let all = all.list(&ListParams::default()).await.with_context(|| format!("cannot list {}", K::plural(&())))?;
    let ours = |name: &String| name.starts_with(&format!("{GROUP}/"));
    for object in all.items.iter().filter(|object| object.finalizers().iter().any(ours)) {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        if act {
            let kept: Vec<&String> = object.finalizers().iter().filter(|finalizer| !ours(finalizer)).collect();
            let change = json!({ "metadata": { "finalizers": kept, "resourceVersion": object.resource_version() } });
            let api: Api<K> = Api::namespaced(connection.client.clone(), &namespace);
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&change))
                .await
                .with_context(|| format!("cannot drop the finalizer of {namespace}/{name}"))?;
        }
        let did = if act { "dropped" } else { "would drop" };
        println!("{did} the finalizer of {} {namespace}/{name}", K::kind(&()));
    }
    Ok(())
}

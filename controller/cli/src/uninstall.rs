//! `amend uninstall --plan`: what Amend would leave behind, and how to take it away.
//!
//! The order matters: a controller that still runs would take a closed pull request for a rejection, and would put its finalizers
//! back. So it is stopped first, then pull requests are closed, then finalizers are dropped; Helm takes the rest.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use amend_controller::clients::Clients;
use amend_controller::errors::chain;
use amend_controller::targets::Targets;
use amend_crds::{GROUP, GitTarget, Incident, Remediation};
use amend_gitops::forge::{BRANCHES, PullRequestState};
use anyhow::{Context, bail};
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::connection::{CHART, Connection, Flags, plain, print, release};

/// How long the controller may take to end: longer than its own grace period of 45 s.
const STOPPED_WITHIN: Duration = Duration::from_secs(90);

/// Shows what Amend would leave behind; with --yes stops it, closes its pull requests and drops its finalizers.
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
    let controller = connection.controller().await.context("cannot read the controller's Deployment")?;
    let mut done = match &controller {
        Some(controller) => vec![stop(&connection, controller, arguments.yes).await?],
        None => Vec::new(),
    };
    let listed: Api<GitTarget> = Api::all(connection.client.clone());
    let listed = listed.list(&ListParams::default()).await.context("cannot list GitTargets")?;
    let all: Api<Remediation> = Api::all(connection.client.clone());
    let all = all.list(&ListParams::default()).await.context("cannot list remediations")?;
    let ours: BTreeSet<String> = all.iter().filter_map(|one| branch_prefix(&one.name_any())).collect();
    let mut failed = Vec::new();
    for target in &listed {
        match pull_requests(&targets, target, &ours, arguments.yes).await {
            Ok(closed) => done.extend(closed),
            Err(error) => failed.push(format!("GitTarget {}: {}", target.name_any(), chain(error.as_ref()))),
        }
    }
    done.extend(finalizers::<Incident>(&connection, arguments.yes).await?);
    done.extend(finalizers::<Remediation>(&connection, arguments.yes).await?);
    let namespace = &connection.install_namespace;
    let then = [
        "kubectl amend record export > amend-record.jsonl   (the proof of what was done goes with the CRDs)".to_owned(),
        format!("helm uninstall {} -n {namespace}", controller.as_ref().map_or_else(|| "amend".to_owned(), release)),
        format!("kubectl delete crd -l {CHART}"),
        format!("kubectl delete namespace {namespace}"),
    ];
    match connection.output {
        Some(output) => {
            print(&json!({ "done": arguments.yes, "steps": done, "failed": failed, "then": then }), output)?
        }
        None => {
            for Step { verb, what } in &done {
                println!("{} {what}", if arguments.yes { verb.done } else { verb.planned });
            }
            for command in &then {
                println!("then: {command}");
            }
            if !arguments.yes {
                println!("nothing was changed; `amend uninstall --yes` does what \"would\" says, the rest is yours");
            }
            for why in &failed {
                eprintln!("amend: {}", plain(why));
            }
        }
    }
    if !failed.is_empty() {
        bail!("{} repositories could not be asked; their pull requests stay open", failed.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// One thing that is taken away.
#[derive(Debug, Serialize)]
struct Step {
    verb: Verb,
    what: String,
}

/// The same verb before and after.
#[derive(Clone, Copy, Debug, Serialize)]
struct Verb {
    planned: &'static str,
    done: &'static str,
}

const STOP: Verb = Verb { planned: "would stop", done: "stopped" };
const CLOSE: Verb = Verb { planned: "would close", done: "closed" };
const DROP: Verb = Verb { planned: "would drop", done: "dropped" };

/// Scales the controller to nothing; its pods are gone when the lease is free or this returns an error.
async fn stop(connection: &Connection, controller: &Deployment, act: bool) -> anyhow::Result<Step> {
    let (namespace, name) = (&connection.install_namespace, controller.name_any());
    let api: Api<Deployment> = Api::namespaced(connection.client.clone(), namespace);
    if act {
        let none = json!({ "spec": { "replicas": 0 } });
        api.patch(&name, &PatchParams::default(), &Patch::Merge(&none)).await.context("cannot stop the controller")?;
        let deadline = Instant::now() + STOPPED_WITHIN;
        while api.get(&name).await.context("cannot read the controller's Deployment")?.status.is_some_and(runs) {
            if Instant::now() > deadline {
                bail!(
                    "the controller still runs after {} s: kubectl -n {namespace} get pods",
                    STOPPED_WITHIN.as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    Ok(Step { verb: STOP, what: format!("the controller: Deployment {namespace}/{name} scaled to 0") })
}

fn runs(status: DeploymentStatus) -> bool {
    status.replicas.is_some_and(|replicas| replicas > 0)
}

/// How the branches of a remediation of this name begin: the name has 16 digits of its action key, a branch has all of them.
fn branch_prefix(remediation: &str) -> Option<String> {
    let key = remediation.strip_prefix("rem-")?;
    (key.len() == 16).then(|| format!("{BRANCHES}{key}"))
}

/// Only those of this cluster's remediations: others may have an Amend of their own that proposes to the same repository.
async fn pull_requests(
    targets: &Targets,
    target: &GitTarget,
    ours: &BTreeSet<String>,
    act: bool,
) -> anyhow::Result<Vec<Step>> {
    let opened = targets.open(target).await?;
    // Only open ones are wanted, and those are always told.
    let found = opened.forge().find(Timestamp::MAX).await?;
    let mut steps = Vec::new();
    let open = found.iter().filter(|pull| matches!(pull.state, PullRequestState::Open));
    for pull in open.filter(|pull| ours.iter().any(|prefix| pull.branch.starts_with(prefix))) {
        if act {
            let why = "Amend is being uninstalled here; this was withdrawn and not rejected.";
            opened.proposals.withdraw(pull, why).await.with_context(|| format!("cannot close {}", pull.url))?;
        }
        steps.push(Step { verb: CLOSE, what: format!("pull request {} ({})", pull.url, plain(&pull.title)) });
    }
    Ok(steps)
}

async fn finalizers<K>(connection: &Connection, act: bool) -> anyhow::Result<Vec<Step>>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let all: Api<K> = Api::all(connection.client.clone());
    let all = all.list(&ListParams::default()).await.with_context(|| format!("cannot list {}", K::plural(&())))?;
    let ours = |name: &String| name.starts_with(&format!("{GROUP}/"));
    let mut steps = Vec::new();
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
        steps.push(Step { verb: DROP, what: format!("the finalizer of {} {namespace}/{name}", K::kind(&())) });
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_branches_of_a_remediation_begin_as_its_name_ends() {
        assert_eq!(branch_prefix("rem-0123456789abcdef").as_deref(), Some("amend/0123456789abcdef"));
        for odd in ["rem-", "rem-0", "of-a-person"] {
            assert_eq!(branch_prefix(odd), None, "{odd}: it would name the branches of others");
        }
    }
}

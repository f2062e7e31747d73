//! `amend approve|refuse|stop REMEDIATION`: a person's decision, bound to the plan that was read.

use std::process::ExitCode;

use amend_crds::approval::ApprovalDecision;
use amend_crds::{Approval, ApprovalSpec, Remediation};
use amend_execution::phase::Phase;
use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use crate::connection::{Flags, print};

/// Which remediation, and why.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Name of the remediation
    remediation: String,
    /// Why, for the record
    #[arg(long, default_value = "")]
    reason: String,
    /// Digest of the plan that you read; refused when the plan is another
    #[arg(long, value_name = "SHA256")]
    digest: Option<String>,
}

pub async fn run(arguments: &Arguments, decision: ApprovalDecision, flags: &Flags) -> anyhow::Result<ExitCode> {
    let connection = flags.connect().await?;
    let (name, namespace) = (&arguments.remediation, &connection.namespace);
    let remediations: Api<Remediation> = Api::namespaced(connection.client.clone(), namespace);
    let found = remediations.get_opt(name).await.with_context(|| format!("cannot read remediation {name}"))?;
    let remediation = found.with_context(|| {
        format!("no remediation {name} in namespace {namespace}; `amend get remediations -A` lists all")
    })?;
    if let Some(read) = arguments.digest.as_ref().filter(|read| **read != remediation.spec.plan_digest) {
        bail!("the plan is {}, not {read}: read it again with `amend explain`", remediation.spec.plan_digest);
    }
    let spec = ApprovalSpec {
        remediation: name.clone(),
        plan_digest: remediation.spec.plan_digest.clone(),
        decision,
        reason: arguments.reason.clone(),
        by: caller(&connection.client).await?,
    };
    let mut approval = Approval::new("", spec);
    approval.metadata.name = None;
    approval.metadata.generate_name = Some(format!("{name}-"));
    let approvals: Api<Approval> = Api::namespaced(connection.client.clone(), namespace);
    let made = approvals.create(&PostParams::default(), &approval).await.context("cannot create the Approval")?;
    match connection.output {
        Some(output) => print(&made, output)?,
        None => {
            println!(
                "{} {} {name} (plan {}): written down as Approval {}",
                made.spec.by,
                verb(decision),
                made.spec.plan_digest,
                made.name_any()
            );
            if decision == ApprovalDecision::Approve {
                unasked(&remediation).iter().for_each(|line| println!("{line}"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// That nothing waits for a yes, where that is so: with Propose the merge is the approval.
fn unasked(remediation: &Remediation) -> Option<String> {
    let status = remediation.status.as_ref()?;
    let phase = status.phase.filter(|phase| *phase != Phase::AwaitingApproval)?;
    let open = status.pull_request.as_ref().filter(|pull| pull.state == "open");
    let merge = open.map_or_else(String::new, |pull| format!("; the approval that counts is to merge {}", pull.url));
    Some(format!("nothing waits for a yes now: the remediation is {phase:?}{merge}"))
}

/// What the caller does to the remediation.
fn verb(decision: ApprovalDecision) -> &'static str {
    match decision {
        ApprovalDecision::Approve => "approves",
        ApprovalDecision::Refuse => "refuses",
        ApprovalDecision::Stop => "stops",
    }
}

/// Who the API server takes us for; admission refuses any other name.
async fn caller(client: &Client) -> anyhow::Result<String> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await
        .context("cannot ask the API server who you are")?;
    let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
    user.context("the API server does not say who you are")
}

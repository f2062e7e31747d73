//! What people and the platform say about a remediation: policy, target, hold, approvals, and the red button.

use amend_crds::approval::ApprovalDecision;
use amend_crds::{Approval, Remediation};
use amend_diagnosis::evidence::Answer;
use amend_execution::snapshot::{Edited, Orders, PolicyState, Said, SaidWord, TargetState};
use amend_gitops::repo::{CommitId, Heads};
use amend_policies::gate::GateFacts;
use amend_policies::gate::environment::Silences;
use amend_policies::plan::Plan;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use crate::cluster::{self, Read};
use crate::effects::remedy::Work;
use crate::errors;
use crate::planner;
use crate::shell::Shell;

/// The red button: while this ConfigMap is there, with `stop` other than `false`, nothing is done.
pub const STOP: &str = "amend-stop";

pub async fn orders(
    shell: &Shell,
    plan: &Plan,
    policy: &Answer<Option<planner::Known>>,
    facts: &GateFacts,
    work: &Work,
    heads: &Answer<Heads>,
    edited: Answer<Option<Edited>>,
) -> Orders {
    let policy = match policy {
        Answer::Known(None) => Answer::Known(PolicyState::Deleted),
        Answer::Known(Some(known)) => Answer::Known(match &known.compiled {
            Some(compiled) if compiled.suspend => PolicyState::Suspended,
            _ if known.reference.generation != plan.policy.generation => PolicyState::Changed,
            Some(_) | None => PolicyState::Current,
        }),
        Answer::Unknown { why } => Answer::unknown(why.clone()),
    };
    Orders {
        incident_deleted: false,
        policy,
        target: target_state(shell, plan).await,
        rewritten: rewritten(work, heads).await,
        edited,
        kill_switch: kill_switch(shell).await,
        hold: hold(facts),
        silence: silence(facts),
        // Copies outside the cluster are not built yet: there is none to lag behind.
        record_copy_lag: Answer::Known(SignedDuration::ZERO),
        may_undo: match &facts.permission.access {
            Answer::Known(reviews) => Answer::Known(
                work.target.is_ok()
                    && reviews.iter().filter(|review| review.access.verb != "merge").all(|review| review.allowed),
            ),
            Answer::Unknown { why } => Answer::unknown(why.clone()),
        },
        may_merge: match &facts.permission.access {
            Answer::Known(reviews) => {
                Answer::Known(reviews.iter().any(|review| review.access.verb == "merge" && review.allowed))
            }
            Answer::Unknown { why } => Answer::unknown(why.clone()),
        },
    }
}

async fn target_state(shell: &Shell, plan: &Plan) -> Answer<TargetState> {
    let Some(read) = Read::of(&plan.target.api_version, &plan.target.kind) else {
        return Answer::unknown("the target is of a kind that Amend does not read");
    };
    match cluster::get(&shell.clients.reader(), read, &plan.target.namespace, &plan.target.name).await {
        Answer::Known(None) => Answer::Known(TargetState::Gone),
        Answer::Known(Some(object)) if object["metadata"]["uid"] == plan.target.uid.as_str() => {
            Answer::Known(TargetState::Same)
        }
        Answer::Known(Some(_)) => Answer::Known(TargetState::Replaced),
        Answer::Unknown { why } => Answer::Unknown { why },
    }
}

/// Whether the base branch has lost the plan's base.
async fn rewritten(work: &Work, heads: &Answer<Heads>) -> Answer<bool> {
    let (target, base) = match (&work.target, CommitId::parse(&work.plan.repository.base)) {
        (Ok(target), Ok(base)) => (target, base),
        (Err(why), _) => return Answer::unknown(why.clone()),
        (_, Err(error)) => return Answer::unknown(errors::chain(&error)),
    };
    let head = match heads {
        Answer::Known(heads) => &heads.base,
        Answer::Unknown { why } => return Answer::unknown(why.clone()),
    };
    match target.repo().has_lost(head, &base).await {
        Ok(rewritten) => Answer::Known(rewritten),
        Err(error) => Answer::unknown(errors::chain(&error)),
    }
}

/// Whether the red button is pressed.
pub async fn kill_switch(shell: &Shell) -> Answer<bool> {
    let api: Api<ConfigMap> = Api::namespaced(shell.clients.reader(), &shell.settings.release_namespace);
    match api.get_opt(STOP).await {
        Ok(None) => Answer::Known(false),
        Ok(Some(found)) => {
            Answer::Known(found.data.as_ref().and_then(|data| data.get("stop")).is_none_or(|value| value != "false"))
        }
        Err(error) => Answer::unknown(format!("cannot read ConfigMap {STOP}: {}", crate::errors::chain(&error))),
    }
}

/// Why people hold the target.
fn hold(facts: &GateFacts) -> Answer<Option<String>> {
    match &facts.environment.holds {
        Answer::Known(holds) => {
            Answer::Known(holds.first().map(|hold| format!("{} carries amend.dev/hold: {}", hold.on, hold.reason)))
        }
        Answer::Unknown { why } => Answer::unknown(why.clone()),
    }
}

/// Why the alerts about the target are not to be acted upon.
fn silence(facts: &GateFacts) -> Answer<Option<String>> {
    match &facts.environment.silences {
        Silences::Asked(Answer::Known(silences)) => Answer::Known(
            silences.first().map(|silence| format!("Alertmanager silence {} by {}", silence.id, silence.by)),
        ),
        Silences::Asked(Answer::Unknown { why }) => Answer::unknown(why.clone()),
        // The gate names this gap: it leaves a draft for people, and lets nothing be done without them.
        Silences::NobodyToAsk => Answer::Known(None),
    }
}

/// What people said in `Approval` objects. Not read is not "nobody said stop".
pub async fn approvals(shell: &Shell, remediation: &Remediation) -> Answer<Vec<Said>> {
    let api: Api<Approval> = Api::namespaced(shell.clients.reader(), &remediation.namespace().unwrap_or_default());
    let list = match api.list(&ListParams::default()).await {
        Ok(list) => list,
        Err(error) => return Answer::unknown(format!("cannot list Approvals: {}", crate::errors::chain(&error))),
    };
    let mut said: Vec<(Option<Timestamp>, Said)> = list
        .items
        .into_iter()
        .filter(|approval| approval.spec.remediation == remediation.name_any())
        .filter(|approval| {
            approval.spec.decision == ApprovalDecision::Stop
                || approval.spec.plan_digest == remediation.spec.plan_digest
        })
        .map(|approval| {
            let word = match approval.spec.decision {
                ApprovalDecision::Approve => SaidWord::Approve,
                ApprovalDecision::Refuse => SaidWord::Refuse,
                ApprovalDecision::Stop => SaidWord::Stop,
            };
            let at = approval.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let name = approval.name_any();
            (at, Said { word, approval: name, by: approval.spec.by, reason: approval.spec.reason })
        })
        .collect();
    said.sort_by(|left, right| (left.0, &left.1.approval).cmp(&(right.0, &right.1.approval)));
    Answer::Known(said.into_iter().map(|(_, said)| said).collect())
}

//! Telling people about a remediation: gates beside the commit, comments on the pull request, and pages.

use amend_crds::Remediation;
use amend_diagnosis::signal::Severity;
use amend_execution::journal::{GateLine, Word};
use amend_gitops::body::{GateRow, GateVerdict};
use amend_gitops::forge::{CommitStatus, StatusVerdict};
use amend_gitops::proposal::ProposalError;
use amend_gitops::repo::CommitId;
use kube::ResourceExt;

use super::{DIGEST_CONTEXT, Work};
use crate::effects::{EffectError, Notice, reference};
use crate::errors;
use crate::notify::{Link, Named, Page};
use crate::shell::Shell;

/// Gate rows for people: one for each gate, with its worst verdict and all sentences that are not a pass.
pub fn gate_rows(verdicts: &[amend_policies::verdict::Verdict]) -> Vec<GateRow> {
    let mut rows: Vec<GateRow> = Vec::new();
    for verdict in verdicts {
        let worst = match verdict.outcome {
            amend_policies::verdict::Outcome::Pass => GateVerdict::Pass,
            amend_policies::verdict::Outcome::Fail => GateVerdict::Fail,
            amend_policies::verdict::Outcome::Unknown => GateVerdict::Unknown,
        };
        add_row(&mut rows, verdict.gate.name(), worst, &verdict.sentence);
    }
    rows
}

fn add_row(rows: &mut Vec<GateRow>, name: &str, verdict: GateVerdict, sentence: &str) {
    let rank = |verdict: GateVerdict| match verdict {
        GateVerdict::Pass => 0,
        GateVerdict::Unknown => 1,
        GateVerdict::Fail => 2,
    };
    match rows.iter_mut().find(|row| row.name == name) {
        None => rows.push(GateRow { name: name.to_owned(), verdict, sentence: sentence.to_owned() }),
        Some(row) if rank(verdict) > rank(row.verdict) => {
            *row = GateRow { name: name.to_owned(), verdict, sentence: sentence.to_owned() };
        }
        Some(row) if rank(verdict) == rank(row.verdict) => row.sentence = format!("{}; {sentence}", row.sentence),
        Some(_) => {}
    }
}

pub(super) async fn comment(work: &Work, number: u64, marker: &str, text: &str) {
    if let Ok(target) = &work.target
        && let Err(error) = target.proposals.comment(number, marker, text).await
    {
        tracing::warn!(error = errors::chain(&error), "a comment was not written");
    }
}

/// Shows the verdicts beside the commit, and their digest, by which the next look knows that they are there.
pub(super) async fn statuses(shell: &Shell, work: &Work, commit: &str, gates: &[GateLine], digest: &str) {
    let (Ok(target), Ok(commit)) = (&work.target, CommitId::parse(commit)) else { return };
    let mut rows = Vec::new();
    for line in gates {
        let verdict = match line.verdict {
            Word::Pass => GateVerdict::Pass,
            Word::Fail => GateVerdict::Fail,
            Word::Unknown => GateVerdict::Unknown,
        };
        add_row(&mut rows, line.gate.as_str(), verdict, line.sentence.as_str());
    }
    let url = shell.settings.public_url.clone();
    let all_pass = rows.iter().all(|row| row.verdict == GateVerdict::Pass);
    let shown = async {
        target.proposals.show_gates(&commit, &rows, url.as_deref()).await?;
        let verdict = if all_pass { StatusVerdict::Success } else { StatusVerdict::Pending };
        let status = CommitStatus { context: DIGEST_CONTEXT.to_owned(), verdict, description: digest.to_owned(), url };
        target.forge().report(commit.clone(), status).await?;
        Ok::<(), ProposalError>(())
    };
    if let Err(error) = shown.await {
        tracing::warn!(error = errors::chain(&error), "commit statuses were not written");
    }
}

/// What a person is told, and who that person should be.
pub(super) struct Call<'a> {
    pub to: &'a [String],
    pub text: &'a str,
}

/// Calls a person: the pager if there is one, and always an event and a comment where people read.
pub(super) async fn page(
    shell: &Shell,
    remediation: &Remediation,
    work: &Work,
    key: &str,
    call: &Call<'_>,
) -> Result<String, EffectError> {
    let name = |namespace: &str, name: &str| Named { namespace: namespace.to_owned(), name: name.to_owned() };
    let status = remediation.status.as_ref();
    let pull = status.and_then(|status| status.revert_pull_request.as_ref().or(status.pull_request.as_ref()));
    let page = Page {
        key: key.to_owned(),
        at: work.now,
        severity: Severity::Critical,
        title: format!("Amend needs a person: {}", work.plan.summary),
        because: call.text.to_owned(),
        to: call.to.to_vec(),
        incident: Some(name(&work.plan.incident.namespace, &work.plan.incident.name)),
        remediation: Some(name(&remediation.namespace().unwrap_or_default(), &remediation.name_any())),
        links: pull.map(|pull| Link { name: "pull request".to_owned(), url: pull.url.clone() }).into_iter().collect(),
    };
    let notice = Notice { warning: true, reason: "PersonNeeded".to_owned(), note: call.text.to_owned() };
    shell.effects.notice(&reference(remediation), notice).await;
    if let Some(pull) = pull {
        comment(work, pull.number, "page", call.text).await;
    }
    let outcome = match &shell.pager {
        None => "event",
        Some(pager) => match pager.page(&page).await {
            Ok(()) => "webhook",
            Err(error) => {
                shell.metrics.pages.get_or_create(&crate::metrics::ByOutcome { outcome: "failed" }).inc();
                return Err(EffectError::Refused(errors::chain(&error)));
            }
        },
    };
    shell.metrics.pages.get_or_create(&crate::metrics::ByOutcome { outcome: "sent" }).inc();
    Ok(outcome.to_owned())
}

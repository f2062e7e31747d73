//! What a pull request says about a remediation. The only place where these sentences are made.

use std::collections::BTreeSet;

use amend_crds::Incident;
use amend_diagnosis::diagnosis::{Cause, Diagnosis};
use amend_diagnosis::graph::{NodeRole, RootCauseGraph};
use amend_gitops::body::{ChangeRow, EvidenceRow, GraphEdge, Marker, Named, ProposalFacts};
use amend_gitops::repo::ContentChange;
use amend_policies::action::ActionKind;
use amend_policies::plan::Plan;
use amend_policies::policy::RollbackOn;
use kube::ResourceExt;
use similar::TextDiff;

use crate::contents::Contents;

/// Facts that a pull request lists; more are in the incident.
const EVIDENCE_MAX: usize = 8;

/// Everything but the gates, which are of the moment of opening.
pub fn proposal(
    plan: &Plan,
    install: &str,
    incident: &Incident,
    diagnosis: &Diagnosis,
    contents: Option<&Contents>,
    public_url: Option<&str>,
) -> ProposalFacts {
    let name = plan.steps.first().map_or("", |step| step.name.as_str());
    let cause = diagnosis
        .causes
        .iter()
        .find(|cause| cause.kind == plan.cause && cause.entity == plan.target.entity)
        .or(diagnosis.causes.first());
    let place = format!("{}/{}", plan.incident.namespace, plan.incident.name);
    let url = public_url.and_then(|base| format!("{}/incidents/{place}", base.trim_end_matches('/')).parse().ok());
    ProposalFacts {
        marker: Marker {
            key: plan.action_key(install, name).to_string(),
            fingerprint: plan.fingerprint().to_string(),
            plan: plan.digest().to_string(),
            withdrawn: false,
        },
        title: title(plan),
        incident: Named { name: place, url },
        policy: format!("{}/{} (generation {})", plan.policy.namespace, plan.policy.name, plan.policy.generation),
        story: story(plan, incident, cause),
        changes: changes(plan),
        reason: reason(plan, cause),
        graph: graph(&diagnosis.graph),
        confidence: cause.map_or_else(String::new, |cause| percent(cause.confidence)),
        alternatives: diagnosis
            .causes
            .iter()
            .skip(1)
            .take(3)
            .map(|other| format!("{} ({})", other.sentence, percent(other.confidence)))
            .collect(),
        evidence: cause.map(|cause| evidence(diagnosis, cause)).unwrap_or_default(),
        diff: contents.map(|contents| diff(&contents.changes)).unwrap_or_default(),
        gates: Vec::new(),
        on_merge: on_merge(plan),
        undo: undo(plan),
        record: format!("remediation of incident {}, plan {}", plan.incident.name, plan.digest()),
    }
}

/// `fix(checkout): raise the memory limit of app from 256Mi to 384Mi`: the object first and once, since lists cut titles and
/// the values stand at the end.
fn title(plan: &Plan) -> String {
    let target = &plan.target;
    let what = plan.summary.replace(&format!(" in {}/{}", target.namespace, target.name), "");
    format!("fix({}): {what}", target.name)
}

fn story(plan: &Plan, incident: &Incident, cause: Option<&Cause>) -> String {
    let signals = incident.status.as_ref().map_or(&incident.spec.signals, |status| &status.signals);
    let cause = cause.map_or("The cause is not shown any more".to_owned(), |cause| capital(&cause.sentence));
    let names = few(signals.iter().map(|signal| signal.name.as_str()), 4);
    let places = few(signals.iter().map(|signal| signal.entity.name.as_str()), 3);
    let since = signals.iter().map(|signal| signal.started_at).min();
    let since = since.map_or_else(String::new, |at| format!(" since {}", at.strftime("%Y-%m-%d %H:%M UTC")));
    format!("{cause}. Reported{since} in namespace {}: {names} on {places}.", plan.target.namespace)
}

/// The first `most` of the texts in order, each once, and how many more there are.
fn few<'a>(texts: impl Iterator<Item = &'a str>, most: usize) -> String {
    let texts: BTreeSet<&str> = texts.collect();
    let shown = texts.iter().take(most).copied().collect::<Vec<_>>().join(", ");
    match texts.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn percent(confidence: f64) -> String {
    match confidence * 100.0 {
        small if small < 1.0 => "less than 1 %".to_owned(),
        // Nothing is certain.
        percent => format!("{:.0} %", percent.min(99.0)),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn changes(plan: &Plan) -> Vec<ChangeRow> {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(absent)".to_owned());
    let mut rows = Vec::new();
    for step in &plan.steps {
        let rendered = step.rendering.iter().flat_map(|rendering| &rendering.changes);
        rows.extend(rendered.map(|change| ChangeRow {
            file: change.object.to_string(),
            line: 0,
            field: change.field.to_string(),
            before: value(&change.from),
            after: value(&change.to),
        }));
    }
    for file in plan.steps.iter().flat_map(|step| &step.files) {
        for edit in &file.edits {
            rows.push(ChangeRow {
                file: file.path.clone(),
                line: edit.line,
                field: edit.field.to_string(),
                before: value(&edit.from),
                after: value(&edit.to),
            });
        }
    }
    rows
}

fn reason(plan: &Plan, cause: Option<&Cause>) -> String {
    let measure = |name: &str| cause.and_then(|cause| cause.measures.get(name)).cloned();
    let mut sentences = Vec::new();
    for step in &plan.steps {
        sentences.push(match step.action {
            ActionKind::SetResources => {
                let edits = step.files.iter().flat_map(|file| &file.edits);
                let memory = edits.map(|edit| edit.field.to_string()).any(|field| field.ends_with(".memory"));
                let leak = if memory { " If it is a leak, this only postpones the next kill." } else { "" };
                let peak = measure("memory.peakBytes").and_then(|bytes| bytes.parse::<f64>().ok());
                let peak = peak.map_or(String::new(), |bytes| {
                    format!(" The highest use seen was {:.0} MiB.", bytes / 1_048_576.0)
                });
                format!("The new limit is the old one times the policy's factor, not above its bound.{peak}{leak}")
            }
            ActionKind::SetImage => "The image is the one that ran before.".to_owned(),
            ActionKind::RevertCommit => {
                let commit = step.reverts.as_deref().unwrap_or_default();
                format!(
                    "This takes back commit {} and nothing else; later changes to other lines stay.",
                    &commit[..commit.len().min(12)]
                )
            }
        });
    }
    sentences.join(" ")
}

fn graph(graph: &RootCauseGraph) -> Vec<GraphEdge> {
    let label = |id: &str| {
        let node = graph.nodes.iter().find(|node| node.id == id);
        node.map_or_else(|| id.to_owned(), |node| format!("{}: {}", node.entity.name, node.label))
    };
    let rejected = |id: &str| graph.nodes.iter().any(|node| node.id == id && node.role == NodeRole::Rejected);
    graph
        .edges
        .iter()
        .filter(|edge| !rejected(&edge.from) && !rejected(&edge.to))
        .map(|edge| GraphEdge { cause: label(&edge.from), effect: label(&edge.to), because: edge.evidence.clone() })
        .collect()
}

fn evidence(diagnosis: &Diagnosis, cause: &Cause) -> Vec<EvidenceRow> {
    let row = |fact: &amend_diagnosis::diagnosis::Fact, what: &str| {
        let asked = diagnosis.asked.iter().find(|asked| !fact.asked.is_empty() && asked.id == fact.asked);
        EvidenceRow {
            what: what.to_owned(),
            query: asked.map_or_else(String::new, |asked| asked.query.clone()),
            value: fact.sentence.clone(),
            before: String::new(),
            link: None,
        }
    };
    let speaks_for = cause.facts_for.iter().map(|fact| row(fact, "for"));
    let against = cause.facts_against.iter().map(|fact| row(fact, "against"));
    speaks_for.chain(against).take(EVIDENCE_MAX).collect()
}

fn on_merge(plan: &Plan) -> String {
    let pods: u32 = plan.steps.iter().map(|step| step.footprint.restarts_pods).sum();
    let verify = "Amend then watches the rollout and compares the golden metrics with the time before the incident.";
    match pods {
        0 if plan.configurations.is_empty() => format!("No pod is restarted. {verify}"),
        0 => format!("{} {verify}", no_restart(plan)),
        1 => format!("One pod is replaced by the Deployment's own rollout. {verify}"),
        pods => format!("{pods} pods are replaced by the workload's own rollout strategy. {verify}"),
    }
}

/// Applying a ConfigMap restarts nothing, and what starts later reads it: a reviewer must know which of both.
fn no_restart(plan: &Plan) -> String {
    let target = format!("{}/{}", plan.target.namespace, plan.target.name);
    let each = plan.configurations.iter().map(|one| match one.at_start.as_slice() {
        [] => format!("pods of {target} see {} in their folder within about two minutes.", one.object),
        containers => format!(
            "{} of {target} read {} only when they start: containers that crash pick it up at their next start, those that run \
             must be restarted by people (`kubectl rollout restart`), and until then it does not count as rolled out.",
            containers.join(", "),
            one.object
        ),
    });
    format!("No pod is restarted: {}", each.collect::<Vec<_>>().join(" "))
}

fn undo(plan: &Plan) -> String {
    let listed: Vec<&str> = plan
        .rollback
        .on
        .iter()
        .map(|outcome| match outcome {
            RollbackOn::Aborted => "the rollout does measured harm",
            RollbackOn::VerificationFailed => "the metrics got worse",
            RollbackOn::SlaExceeded => "it takes longer than the policy allows",
            RollbackOn::Unverified => "there is no data to judge by",
        })
        .collect();
    match listed.as_slice() {
        [] => "Revert the merge commit. Amend does not do it by itself: it holds and pages.".to_owned(),
        listed => format!("Revert the merge commit. Amend opens that revert by itself when {}.", listed.join(" or ")),
    }
}

/// The unified diff of changed files.
pub fn diff(changes: &[ContentChange]) -> String {
    let mut text = String::new();
    for change in changes {
        let (before, after) =
            (change.before.as_deref().unwrap_or_default(), change.after.as_deref().unwrap_or_default());
        let path = change.path.as_str();
        let diff = TextDiff::from_lines(before, after);
        text.push_str(
            &diff.unified_diff().context_radius(3).header(&format!("a/{path}"), &format!("b/{path}")).to_string(),
        );
    }
    text
}

/// Name of an incident as people write it.
pub fn shown(incident: &Incident) -> String {
    format!("{}/{}", incident.namespace().unwrap_or_default(), incident.name_any())
}

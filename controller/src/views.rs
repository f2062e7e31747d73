//! What the dashboard shows, read from the objects with the reader's own rights.

mod builds;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use amend_crds::incident::IncidentPhase;
use amend_crds::remediation::PullRequestRef;
use amend_crds::{Build, Incident, Remediation};
use amend_diagnosis::evidence::{Answer, Change as Changed};
use amend_diagnosis::logs::queue::Entry;
use amend_execution::journal::{Event, Outcome, Word, alike, told};
use amend_execution::phase::Phase;
use amend_execution::record::{TrustRoot, verify};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::contents;
use crate::dashboard::views::{
    BuildRow, BuildView, Change, CheckView, GateView, IncidentRow, IncidentView, IncidentViews, Lane, Moment,
    PolicyView, PullRequestView, Reader, RecordView, RemediationView, Step, StepState, UnknownLineView,
    UnknownLinesView, ViewError,
};
use crate::errors;
use crate::records;
use crate::shell::Shell;
use crate::words;

/// Incidents on the list.
const LISTED: u32 = 1000;

/// Reads objects for the dashboard.
#[derive(Clone, Debug)]
pub struct Views {
    shell: Arc<Shell>,
}

impl Views {
    pub fn new(shell: Arc<Shell>) -> Self {
        Self { shell }
    }

    async fn rows(&self, reader: &Reader, namespace: Option<&str>) -> Result<Vec<IncidentRow>, ViewError> {
        let incidents: Vec<Incident> = listed(reader, namespace).await?;
        let remediations: Vec<Remediation> = listed(reader, namespace).await?;
        Ok(incidents.iter().map(|incident| row(incident, remediation_of(incident, &remediations))).collect())
    }

    /// What stands in a queue of all namespaces is for who may read all incidents: asked before anything is shown.
    async fn lines(&self, reader: &Reader) -> Result<UnknownLinesView, ViewError> {
        let incidents: Api<Incident> = Api::all(reader.client.clone());
        incidents.list(&ListParams::default().limit(1)).await.map_err(view_error)?;
        let (kept, dropped) = self.shell.unknown_lines.kept();
        let shown = |entry: Entry| UnknownLineView {
            namespace: entry.workload.namespace.clone(),
            workload: format!("{:?}/{}", entry.workload.kind, entry.workload.name),
            template: entry.template,
            sample: entry.sample,
            why: entry.why.name(),
            count: entry.count,
            first_seen: entry.first_seen,
            last_seen: entry.last_seen,
            incident: entry.incident,
        };
        Ok(UnknownLinesView {
            lines: kept.into_iter().map(shown).collect(),
            dropped_templates: dropped.templates,
            dropped_lines: dropped.lines,
            follows: self.shell.metrics.leader.get() == 0,
        })
    }

    async fn one(&self, reader: &Reader, namespace: &str, name: &str) -> Result<IncidentView, ViewError> {
        let incidents: Api<Incident> = Api::namespaced(reader.client.clone(), namespace);
        let incident = incidents.get(name).await.map_err(view_error)?;
        let remediations: Api<Remediation> = Api::namespaced(reader.client.clone(), namespace);
        let remediations = remediations.list(&ListParams::default()).await.map_err(view_error)?;
        let remediation = remediation_of(&incident, &remediations.items);
        let status = incident.status.clone().unwrap_or_default();
        let signals = if status.signals.is_empty() { incident.spec.signals.clone() } else { status.signals.clone() };
        let view = match remediation {
            Some(found) => Some(self.remediation(found).await),
            None => None,
        };
        Ok(IncidentView {
            row: row(&incident, remediation),
            note: status.opinion.as_ref().zip(status.diagnosis.as_ref()).and_then(|(said, about)| said.note(about)),
            signals,
            steps: steps(&incident, remediation),
            timeline: timeline(&incident, remediation),
            policies: status
                .policies
                .iter()
                .map(|one| PolicyView { name: one.policy.clone(), matched: one.matched, because: one.because.clone() })
                .collect(),
            remediation: view,
            record: match remediation {
                Some(found) => Some(self.record(reader, found).await),
                None => None,
            },
            diagnosis: status.diagnosis,
        })
    }

    async fn remediation(&self, remediation: &Remediation) -> RemediationView {
        let plan = &remediation.spec.plan;
        let status = remediation.status.clone().unwrap_or_default();
        let diff = match self.shell.targets.for_repository(&plan.repository.url, &plan.target.namespace).await {
            Ok(target) => match contents::make(target.repo(), plan).await {
                Ok(contents) => Answer::Known(words::diff(&contents.changes)),
                Err(why) => Answer::Unknown { why },
            },
            Err(problem) => Answer::Unknown { why: errors::chain(&problem) },
        };
        let rows = crate::effects::remedy::told::gate_rows(&status.verdicts);
        RemediationView {
            name: remediation.name_any(),
            phase: status.phase.map_or_else(|| "Planned".to_owned(), |phase| format!("{phase:?}")),
            because: status.because.clone(),
            policy: format!("{}/{}", plan.policy.namespace, plan.policy.name),
            autonomy: format!("{:?}", plan.autonomy),
            gates: rows
                .into_iter()
                .map(|row| GateView { name: row.name, verdict: format!("{:?}", row.verdict), sentence: row.sentence })
                .collect(),
            diff,
            undo: "Revert the merge commit; Amend opens that revert by itself when the policy says so.".to_owned(),
            pull_request: status.pull_request.as_ref().map(pull_request),
            revert_pull_request: status.revert_pull_request.as_ref().map(pull_request),
            checks: checks(&status.journal),
        }
    }

    async fn record(&self, reader: &Reader, remediation: &Remediation) -> RecordView {
        let status = remediation.status.clone().unwrap_or_default();
        let release = &self.shell.settings.release_namespace;
        let exported = records::export(&reader.client, release).await;
        let (root, verified) = match exported {
            Ok(export) => match verify(&export.lines, &TrustRoot { key: export.key.clone(), seen: Vec::new() }) {
                Ok(summary) => (summary.root.to_string(), Answer::Known(true)),
                Err(_) => (String::new(), Answer::Known(false)),
            },
            Err(why) => (String::new(), Answer::Unknown { why }),
        };
        RecordView {
            entries: u64::try_from(status.record.len()).unwrap_or(u64::MAX),
            root,
            verified,
            command: "kubectl amend record verify".to_owned(),
        }
    }
}

impl IncidentViews for Views {
    fn list<'a>(
        &'a self,
        reader: &'a Reader,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<IncidentRow>, ViewError>> {
        Box::pin(self.rows(reader, namespace))
    }

    fn get<'a>(
        &'a self,
        reader: &'a Reader,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<IncidentView, ViewError>> {
        Box::pin(self.one(reader, namespace, name))
    }

    fn unknown_lines<'a>(&'a self, reader: &'a Reader) -> BoxFuture<'a, Result<UnknownLinesView, ViewError>> {
        Box::pin(self.lines(reader))
    }

    fn builds<'a>(
        &'a self,
        reader: &'a Reader,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<BuildRow>, ViewError>> {
        Box::pin(builds::rows(reader, namespace))
    }

    fn build<'a>(
        &'a self,
        reader: &'a Reader,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<BuildView, ViewError>> {
        Box::pin(builds::one(reader, namespace, name))
    }

    fn changes(&self) -> BoxStream<'static, Change> {
        let config = || watcher::Config::default().timeout(45);
        let incidents: Api<Incident> = Api::all(self.shell.clients.reader());
        let remediations: Api<Remediation> = Api::all(self.shell.clients.reader());
        let incidents =
            watcher(incidents, config()).default_backoff().touched_objects().filter_map(|item| async move {
                let incident = item.ok()?;
                Some(Change { namespace: incident.namespace().unwrap_or_default(), name: incident.name_any() })
            });
        let remediations =
            watcher(remediations, config()).default_backoff().touched_objects().filter_map(|item| async move {
                let remediation = item.ok()?;
                Some(Change { namespace: remediation.namespace().unwrap_or_default(), name: remediation.spec.incident })
            });
        let builds: Api<Build> = Api::all(self.shell.clients.reader());
        let builds = watcher(builds, config()).default_backoff().touched_objects().filter_map(|item| async move {
            let build = item.ok()?;
            Some(Change { namespace: build.namespace().unwrap_or_default(), name: build.name_any() })
        });
        futures::stream::select(futures::stream::select(incidents, remediations), builds).boxed()
    }
}

/// The objects of a kind that `reader` may list: everywhere, else in the namespace that was asked for.
async fn listed<K>(reader: &Reader, namespace: Option<&str>) -> Result<Vec<K>, ViewError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let page = ListParams::default().limit(LISTED);
    let everywhere: Api<K> = Api::all(reader.client.clone());
    let list = match (everywhere.list(&page).await.map_err(view_error), namespace) {
        (Err(ViewError::Forbidden { .. }), Some(namespace)) => {
            Api::namespaced(reader.client.clone(), namespace).list(&page).await.map_err(view_error)
        }
        (list, _) => list,
    };
    list.map(|list| list.items)
}

fn view_error(error: kube::Error) -> ViewError {
    match &error {
        kube::Error::Api(status) if status.code == 401 => ViewError::Unauthenticated,
        kube::Error::Api(status) if status.code == 403 => ViewError::Forbidden { why: status.message.clone() },
        kube::Error::Api(status) if status.code == 404 => ViewError::NotFound,
        _ => ViewError::Unavailable { why: errors::chain(&error) },
    }
}

fn remediation_of<'a>(incident: &Incident, all: &'a [Remediation]) -> Option<&'a Remediation> {
    let own = all.iter().filter(|one| one.answers(incident));
    own.max_by_key(|one| one.spec.plan.revision)
}

fn row(incident: &Incident, remediation: Option<&Remediation>) -> IncidentRow {
    let status = incident.status.clone().unwrap_or_default();
    let best = status.diagnosis.as_ref().and_then(|diagnosis| diagnosis.actionable());
    let remedy = remediation.and_then(|one| one.status.as_ref());
    IncidentRow {
        namespace: incident.namespace().unwrap_or_default(),
        name: incident.name_any(),
        severity: incident.severity(),
        phase: format!("{:?}", status.phase),
        over: status.phase.is_end(),
        because: status.because.clone(),
        entity: incident.spec.entity.to_string(),
        cause: best.map(|cause| cause.sentence.clone()),
        confidence: best.map(|cause| cause.confidence),
        signals: status.signal_count,
        opened_at: opened_at(incident),
        needs_person: needs_person(
            status.phase,
            remedy.and_then(|status| status.phase),
            remedy.map(|status| status.because.as_str()),
        ),
        pull_request: remedy
            .and_then(|status| status.revert_pull_request.as_ref().or(status.pull_request.as_ref()))
            .map(pull_request),
    }
}

fn opened_at(incident: &Incident) -> Timestamp {
    incident.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

fn needs_person(incident: IncidentPhase, remediation: Option<Phase>, because: Option<&str>) -> Option<String> {
    if incident.is_end() {
        return None;
    }
    let because = because.unwrap_or_default().to_owned();
    match remediation {
        Some(Phase::Proposed) => Some("review and merge the pull request".to_owned()),
        Some(Phase::AwaitingApproval) => Some("approve or refuse".to_owned()),
        Some(Phase::Blocked | Phase::Unverified | Phase::Held | Phase::Stuck) => Some(because),
        Some(
            Phase::Planned
            | Phase::Gating
            | Phase::Proposing
            | Phase::Merged
            | Phase::Applying
            | Phase::Verifying
            | Phase::Undoing
            | Phase::Succeeded
            | Phase::Rejected
            | Phase::Withdrawn
            | Phase::RolledBack,
        )
        | None => None,
    }
}

fn pull_request(pull: &PullRequestRef) -> PullRequestView {
    let state = if pull.draft && pull.state == "open" { "draft" } else { pull.state.as_str() };
    PullRequestView { number: pull.number, url: pull.url.clone(), state: state.to_owned() }
}

/// The way from signal to end, with the place where it is now.
fn steps(incident: &Incident, remediation: Option<&Remediation>) -> Vec<Step> {
    let status = incident.status.clone().unwrap_or_default();
    let journal =
        remediation.and_then(|one| one.status.as_ref()).map(|status| status.journal.clone()).unwrap_or_default();
    let at = |wanted: &dyn Fn(&Event) -> bool| {
        journal.entries().iter().find(|entry| wanted(&entry.event)).map(|entry| entry.at)
    };
    let ended = at(&|event| matches!(event, Event::Ended { .. }));
    let times = [
        ("Signal", Some(opened_at(incident))),
        ("Diagnosis", status.diagnosed_at),
        ("Gates", at(&|event| matches!(event, Event::GatesEvaluated { .. }))),
        ("Pull request", at(&|event| matches!(event, Event::PullRequestOpened { .. }))),
        ("Merge", at(&|event| matches!(event, Event::Merged { .. }))),
        ("Rollout", at(&|event| matches!(event, Event::RolloutSeen { complete: true, .. }))),
        ("Verification", at(&|event| matches!(event, Event::Verified { late: false, .. }))),
    ];
    let over = status.phase.is_end() || ended.is_some();
    // Nobody works on it: it waits for more evidence, or for a policy.
    let rests = remediation.is_none() && matches!(status.phase, IncidentPhase::Diagnosed | IncidentPhase::Abstained);
    let verdict = journal.entries().iter().find_map(|entry| match entry.event {
        Event::Verified { verdict, late: false, .. } => Some(verdict),
        _ => None,
    });
    let end = match remediation.and_then(|one| one.status.as_ref()?.phase) {
        Some(Phase::RolledBack | Phase::Rejected | Phase::Stuck) => StepState::Failed,
        Some(Phase::Unverified | Phase::Held) => StepState::Unknown,
        Some(_) | None => StepState::Done,
    };
    let mut current_given = rests;
    times
        .into_iter()
        .map(|(name, at)| {
            let state = match at {
                Some(_) if name == "Diagnosis" && status.phase == IncidentPhase::Abstained => StepState::Unknown,
                Some(_) if name == "Verification" => verdict.map_or(StepState::Done, judged),
                Some(_) => StepState::Done,
                None if over => StepState::Skipped,
                None if !current_given => {
                    current_given = true;
                    StepState::Current
                }
                None => StepState::Waiting,
            };
            Step { name: name.to_owned(), state, at }
        })
        .chain(ended.map(|at| {
            Step {
                name: remediation
                    .and_then(|one| one.status.as_ref()?.phase)
                    .map_or_else(|| "End".to_owned(), |phase| format!("{phase:?}")),
                state: end,
                at: Some(at),
            }
        }))
        .collect()
}

fn judged(verdict: Word) -> StepState {
    match verdict {
        Word::Pass => StepState::Done,
        Word::Fail => StepState::Failed,
        Word::Unknown => StepState::Unknown,
    }
}

fn timeline(incident: &Incident, remediation: Option<&Remediation>) -> Vec<Moment> {
    let status = incident.status.clone().unwrap_or_default();
    let mut moments = Vec::new();
    let signals = if status.signals.is_empty() { &incident.spec.signals } else { &status.signals };
    for signal in signals {
        moments.push(Moment {
            at: signal.started_at,
            lane: Lane::Signal,
            title: signal.name.clone(),
            detail: signal.summary.clone(),
        });
    }
    if let Some(diagnosis) = &status.diagnosis {
        // Causes that compete often blame one change.
        let changes: BTreeMap<&str, &Changed> = diagnosis
            .causes
            .iter()
            .take(3)
            .filter_map(|cause| cause.change.as_ref())
            .map(|change| (change.id.as_str(), change))
            .collect();
        for change in changes.into_values() {
            moments.push(Moment {
                at: change.at,
                lane: Lane::Change,
                title: change.summary.clone(),
                detail: short(&change.id).to_owned(),
            });
        }
        if let Some(at) = status.diagnosed_at {
            let (title, detail) = match (&diagnosis.abstained, diagnosis.causes.first()) {
                (Some(why), _) => ("no cause is certain enough to act on".to_owned(), why.clone()),
                (None, Some(cause)) => {
                    (cause.sentence.clone(), format!("{:.0} % sure", cause.confidence.min(0.99) * 100.0))
                }
                (None, None) => ("no cause was found".to_owned(), String::new()),
            };
            moments.push(Moment { at, lane: Lane::Diagnosis, title, detail });
        }
    }
    if let Some(journal) = remediation.and_then(|one| one.status.as_ref()).map(|status| &status.journal) {
        // An effect that happened is told by what came of it; one that did not, or nobody knows, by its outcome.
        let internal =
            |event: &Event| matches!(event, Event::Intent { .. } | Event::Outcome { outcome: Outcome::Happened, .. });
        for (entry, because) in told(journal.entries().iter().filter(|entry| !internal(&entry.event))) {
            moments.push(Moment {
                at: entry.at,
                lane: Lane::Remedy,
                title: entry.event.to_string(),
                detail: because.unwrap_or_default().to_owned(),
            });
        }
    }
    // Stable: what a journal tells within one second keeps its order.
    moments.sort_by_key(|moment| (moment.at, moment.lane));
    moments
}

/// A commit as people name it; other ids stay as they are.
fn short(id: &str) -> &str {
    let is_commit = id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_commit { &id[..12] } else { id }
}

fn checks(journal: &amend_execution::journal::Journal) -> Vec<CheckView> {
    let verified = journal.entries().iter().rev().find_map(|entry| match &entry.event {
        Event::Verified { metrics, .. } => Some(metrics),
        _ => None,
    });
    alike(verified.map_or(&[][..], Vec::as_slice))
        .into_iter()
        .map(|(names, line)| CheckView {
            metric: names,
            verdict: format!("{:?}", line.verdict),
            sentence: line.finding().to_owned(),
        })
        .collect()
}

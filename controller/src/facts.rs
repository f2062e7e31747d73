//! What the gates look at, read just now. Reads and dry runs only; what cannot be found out is `Unknown` with its reason.

use std::sync::Arc;
use std::time::Duration;

use amend_crds::telemetrysource::SourceKind as Kind;
use amend_crds::{HOLD_ANNOTATION, Incident, Remediation};
use amend_diagnosis::diagnosis::Cause;
use amend_diagnosis::entity::Entity;
use amend_diagnosis::evidence::{Answer, LinkKind, Window};
use amend_diagnosis::signal::{Signal, SignalSource};
use amend_execution::journal::{Ending, Event, Journal};
use amend_policies::gate::blast_radius::{BlastRadiusFacts, DisruptionBudget, Rollout};
use amend_policies::gate::cooldown::{CooldownFacts, PastAction};
use amend_policies::gate::environment::{
    EnvironmentFacts, FieldWriter, Hold, Silence, Silences, configuration_writers, field_writers,
};
use amend_policies::gate::permission::{PermissionFacts, RenderedChange};
use amend_policies::gate::rollback::RollbackFacts;
use amend_policies::gate::{GateFacts, IncidentFacts};
use amend_policies::plan::Plan;
use amend_telemetry::alert::{AlertState, Muting, QuietQuestion, Silencer, firing, quiet, silenced};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::Value;

use crate::cluster::{self, Look, Read};
use crate::contents::Contents;
use crate::owner::Owner;
use crate::shell::Shell;
use crate::targets::Target;
use crate::watch::{self, configured::Configured};

mod access;
mod configured;
mod dry_run;
mod elsewhere;
mod fits;

/// How long the stores may take to say whether alerts fire and are silenced.
const ALERTS: Duration = Duration::from_secs(8);

/// Signals that are asked about at their source; the loudest and newest speak for the rest.
const SIGNALS_ASKED: usize = 12;

/// How far back calls count for "who depends on this".
const DEPENDENTS_WITHIN: SignedDuration = SignedDuration::from_hours(1);

/// What the facts are about.
#[derive(Debug)]
pub struct About<'a> {
    pub plan: &'a Plan,
    pub incident: &'a Incident,
    pub cause: &'a Cause,
    /// The plan's repository; `Err` says why it cannot be used.
    pub target: Result<&'a Target, &'a str>,
    /// The plan's files before and after; `Err` says why they cannot be made.
    pub contents: Result<&'a Contents, &'a str>,
}

/// Reads everything that the gates look at.
pub async fn gather(shell: &Arc<Shell>, about: &About<'_>, now: Timestamp) -> GateFacts {
    let plan = about.plan;
    let client = shell.clients.reader();
    let namespace = plan.target.namespace.as_str();
    let signals = signals_of(about.incident);
    let (target, look, access, alerts, holds, owned, history, dependents, dry_runs, requested) = futures::join!(
        live_target(shell, plan),
        cluster::look(&client, namespace, now),
        access::reviews(shell, plan),
        alerts(shell, plan, &signals, now),
        hold_on_namespace(shell, namespace),
        owned(shell, about, now),
        history(shell, plan),
        dependents(shell, plan, now),
        dry_runs(shell, about),
        shell.requested.by_node(&client, now),
    );
    let configured = watch::configured::read(shell, plan).await;
    let (firing, silences) = alerts;
    let (suspended, elsewhere) = owned;
    let rendered = match about.contents {
        Ok(Contents { unchecked: Some(why), .. }) => Answer::unknown(why.clone()),
        Ok(contents) => Answer::Known(contents.rendered.clone()),
        Err(why) => Answer::unknown(why),
    };
    GateFacts {
        incident: IncidentFacts {
            severity: about.incident.severity(),
            opened_at: about.incident.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0),
            signals,
        },
        cause: about.cause.clone(),
        permission: PermissionFacts {
            access,
            grants: match about.target {
                Ok(target) => Answer::Known(target.object.spec.grants.clone()),
                Err(why) => Answer::unknown(why),
            },
            rendered: rendered.clone(),
        },
        environment: EnvironmentFacts {
            writers: writers(&target, &look, &configured),
            holds: configured::with_holds(with_hold_on_target(holds, &target, plan), &configured),
            silences,
            suspended,
            firing,
        },
        blast_radius: BlastRadiusFacts {
            rollout: match &target {
                Answer::Known(object) => match Rollout::of(object) {
                    Ok(rollout) => Answer::Known(rollout),
                    Err(why) => Answer::unknown(why),
                },
                Answer::Unknown { why } => Answer::unknown(why.clone()),
            },
            budgets: budgets(&look, &target),
            dependents,
            readers: configured::readers(plan, &look),
            elsewhere,
        },
        rollback: dry_runs,
        fits: fits::facts(&target, &look, &requested, &rendered),
        cooldown: CooldownFacts { history },
        target,
    }
}

fn signals_of(incident: &Incident) -> Vec<Signal> {
    match &incident.status {
        Some(status) if !status.signals.is_empty() => status.signals.clone(),
        _ => incident.spec.signals.clone(),
    }
}

async fn live_target(shell: &Shell, plan: &Plan) -> Answer<Value> {
    let target = &plan.target;
    let Some(read) = Read::of(&target.api_version, &target.kind) else {
        return Answer::unknown(format!("{} {} is not a kind that Amend reads", target.api_version, target.kind));
    };
    match cluster::get(&shell.clients.reader(), read, &target.namespace, &target.name).await {
        Answer::Known(Some(object)) if object["metadata"]["uid"] == target.uid.as_str() => Answer::Known(object),
        Answer::Known(Some(_)) => Answer::unknown("the target was deleted and made again since the plan was made"),
        Answer::Known(None) => Answer::unknown("the target does not exist any more"),
        Answer::Unknown { why } => Answer::Unknown { why },
    }
}

/// How many signals fire by their own source, and whether people have silenced them, or what they are about.
///
/// A silenced alert is sent to nobody: an incident that an event or a pod's condition opened may never hear of it.
async fn alerts(shell: &Shell, plan: &Plan, signals: &[Signal], now: Timestamp) -> (Answer<u32>, Silences) {
    let namespace = plan.target.namespace.as_str();
    let sources = shell.sources.serving(namespace).await;
    let mut asked: Vec<&Signal> =
        signals.iter().filter(|signal| signal.source == SignalSource::Alert && signal.ended_at.is_none()).collect();
    asked.sort_by_key(|signal| (std::cmp::Reverse(signal.severity), signal.key.clone()));
    asked.truncate(SIGNALS_ASKED);
    let lasting =
        signals.iter().filter(|signal| signal.source != SignalSource::Alert && signal.ended_at.is_none()).count();
    let question = quiet_question(shell, plan, signals, now);
    let asking = futures::future::join_all(asked.iter().map(|signal| async {
        futures::join!(firing(&sources, signal, now, ALERTS), silenced(&sources, signal, now, ALERTS))
    }));
    let (answers, (quiet, _)) = futures::join!(asking, quiet(&sources, &question, ALERTS));
    let mut count = u32::try_from(lasting).unwrap_or(u32::MAX);
    let (mut not_told, mut not_asked) = (None, None);
    let mut silences = Vec::new();
    for ((state, _), (muting, _)) in answers {
        match state {
            Answer::Known(AlertState::Firing) => count = count.saturating_add(1),
            Answer::Known(AlertState::Pending | AlertState::Inactive) => {}
            Answer::Unknown { why } => not_told = Some(why),
        }
        match muting {
            Answer::Known(Muting::Audible) => {}
            Answer::Known(Muting::Silenced { by }) => {
                silences.extend(by.into_iter().map(silence));
            }
            Answer::Known(Muting::Inhibited { by }) => {
                silences.extend(by.into_iter().map(|id| Silence {
                    id,
                    by: "another alert".into(),
                    comment: "inhibited".into(),
                }));
            }
            Answer::Unknown { why } => not_asked = Some(why),
        }
    }
    match quiet {
        Answer::Known(by) => silences.extend(by.into_iter().map(silence)),
        Answer::Unknown { why } => not_asked = Some(why),
    }
    // One alert that fires is enough; none known to fire while some are unknown is not "none fires".
    let firing = match (count, not_told) {
        (0, Some(why)) => Answer::Unknown { why },
        (count, _) => Answer::Known(count),
    };
    let silences = match (silences.is_empty(), not_asked) {
        (true, Some(why)) => match shell.sources.declares(namespace, Kind::Alertmanager).await {
            Answer::Known(false) => Silences::NobodyToAsk,
            Answer::Known(true) => Silences::Asked(Answer::Unknown { why }),
            Answer::Unknown { why } => Silences::Asked(Answer::Unknown { why }),
        },
        // One that cannot be asked may hold the silence that the others lack.
        (true, None) => match shell.sources.unopened(namespace, Kind::Alertmanager).await {
            Answer::Known(problems) => Silences::Asked(match problems.into_iter().next() {
                Some(problem) => Answer::unknown(problem),
                None => Answer::Known(silences),
            }),
            Answer::Unknown { why } => Silences::Asked(Answer::Unknown { why }),
        },
        (false, _) => Silences::Asked(Answer::Known(silences)),
    };
    (firing, silences)
}

/// What may be under a silence: everything that a signal is about, and what the plan would change.
fn quiet_question(shell: &Shell, plan: &Plan, signals: &[Signal], now: Timestamp) -> QuietQuestion {
    let settings = &shell.settings;
    let began = signals.iter().map(|signal| signal.started_at).min().unwrap_or(now);
    let mut about = vec![plan.target.entity.clone()];
    for signal in signals {
        if !about.contains(&signal.entity) && about.len() < SIGNALS_ASKED {
            about.push(signal.entity.clone());
        }
    }
    let cluster = settings.cluster_name.iter().map(|name| ("cluster".to_owned(), name.clone()));
    QuietQuestion {
        id: "silences".to_owned(),
        about,
        own: settings.external_label.iter().cloned().chain(cluster).collect(),
        // Alerts so far apart are one incident's.
        since: began.checked_sub(settings.group_window).unwrap_or(began),
        at: now,
    }
}

fn silence(by: Silencer) -> Silence {
    let people = if by.created_by.is_empty() { "people".into() } else { by.created_by };
    Silence { id: by.id, by: people, comment: by.comment }
}

async fn hold_on_namespace(shell: &Shell, namespace: &str) -> Answer<Vec<Hold>> {
    match cluster::get(&shell.clients.reader(), cluster::NAMESPACE, "", namespace).await {
        Answer::Known(object) => {
            let reason = object.as_ref().and_then(|object| object["metadata"]["annotations"][HOLD_ANNOTATION].as_str());
            let on = format!("Namespace {namespace}");
            Answer::Known(reason.map(|reason| Hold { on, reason: reason.to_owned() }).into_iter().collect())
        }
        Answer::Unknown { why } => Answer::Unknown { why },
    }
}

fn with_hold_on_target(holds: Answer<Vec<Hold>>, target: &Answer<Value>, plan: &Plan) -> Answer<Vec<Hold>> {
    match (holds, target) {
        (Answer::Known(mut holds), Answer::Known(object)) => {
            if let Some(reason) = object["metadata"]["annotations"][HOLD_ANNOTATION].as_str() {
                let on = format!("{} {}/{}", plan.target.kind, plan.target.namespace, plan.target.name);
                holds.push(Hold { on, reason: reason.to_owned() });
            }
            Answer::Known(holds)
        }
        (Answer::Unknown { why }, _) => Answer::Unknown { why },
        (_, Answer::Unknown { why }) => Answer::unknown(why.clone()),
    }
}

/// What the target's owner says: what is suspended, and who else renders the changed files.
async fn owned(shell: &Shell, about: &About<'_>, now: Timestamp) -> (Answer<Vec<String>>, Answer<Vec<String>>) {
    let owner = crate::owner::of_target(shell, about.plan).await;
    let elsewhere = elsewhere::renderings(shell, about, &owner, now).await;
    (suspended(owner), elsewhere)
}

/// Flux objects between the repository and the target that are suspended.
fn suspended(owner: Answer<Option<Owner>>) -> Answer<Vec<String>> {
    match owner {
        Answer::Known(None) => Answer::Known(Vec::new()),
        Answer::Known(Some(owner)) => {
            let objects = [Some(&owner.kustomization), owner.source.as_ref()];
            let suspended = objects.into_iter().flatten().filter(|object| object["spec"]["suspend"] == true);
            Answer::Known(suspended.map(crate::owner::shown).collect())
        }
        Answer::Unknown { why } => Answer::Unknown { why },
    }
}

/// Earlier actions on the same target.
async fn history(shell: &Shell, plan: &Plan) -> Answer<Vec<PastAction>> {
    let api: Api<Remediation> = Api::namespaced(shell.clients.reader(), &plan.target.namespace);
    let list = match api.list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(error) => {
            return Answer::unknown(format!("cannot list earlier remediations: {}", crate::errors::chain(&error)));
        }
    };
    let digest = plan.digest();
    let past = list
        .iter()
        .filter(|one| one.spec.plan.digest() != digest && one.spec.plan.target.object() == plan.target.object());
    Answer::Known(past.filter_map(past_action).collect())
}

fn past_action(remediation: &Remediation) -> Option<PastAction> {
    let plan = &remediation.spec.plan;
    Some(PastAction {
        at: acted_at(&remediation.status.as_ref()?.journal)?,
        target: plan.target.object(),
        policy: plan.policy.uid.clone(),
        edits: plan.steps.iter().flat_map(|step| &step.files).flat_map(|file| file.edits.clone()).collect(),
    })
}

/// When a remediation changed its target, or made ready to. One that ended without a merge has changed nothing.
fn acted_at(journal: &Journal) -> Option<Timestamp> {
    let entries = journal.entries();
    let merged = entries.iter().find(|entry| matches!(entry.event, Event::Merged { .. }));
    let pushed = entries.iter().find(|entry| matches!(entry.event, Event::BranchPushed { .. }));
    let given_up = entries.iter().any(|entry| match entry.event {
        Event::Ended { ending, .. } => matches!(ending, Ending::Withdrawn | Ending::Rejected),
        _ => false,
    });
    merged.or(pushed.filter(|_| !given_up)).map(|entry| entry.at)
}

/// Workloads that reach the target over calls, directly or through others.
async fn dependents(shell: &Shell, plan: &Plan, now: Timestamp) -> Answer<Vec<Entity>> {
    let namespace = &plan.target.namespace;
    let window = Window { from: now - DEPENDENTS_WITHIN, to: now };
    let calls = match shell.sources.calls(namespace, window).await {
        Answer::Known(calls) => calls,
        Answer::Unknown { why } => return Answer::Unknown { why },
    };
    let picture = shell.topologies.of(&shell.clients.reader(), &shell.sources, namespace, now).await;
    // Those just told: the picture may be of a moment when nobody told any.
    let edges = picture.calls_between(&calls);
    let mut reached = vec![plan.target.entity.workload()];
    let mut next = 0;
    while let Some(callee) = reached.get(next).cloned() {
        for edge in edges.iter().filter(|edge| edge.kind == LinkKind::Calls && edge.to == callee) {
            if !reached.contains(&edge.from) {
                reached.push(edge.from.clone());
            }
        }
        next += 1;
    }
    Answer::Known(reached.split_off(1))
}

/// Everything that writes fields of the target, or of a ConfigMap that changes, by itself.
fn writers(target: &Answer<Value>, look: &Look, configured: &Answer<Vec<Configured>>) -> Answer<Vec<FieldWriter>> {
    let configured = match configured {
        Answer::Known(configured) => {
            configured.iter().filter_map(|one| one.live.as_ref()).flat_map(configuration_writers)
        }
        Answer::Unknown { why } => return Answer::unknown(why.clone()),
    };
    let scalers = ["horizontalpodautoscalers", "verticalpodautoscalers", "scaledobjects"];
    match (target, scalers.into_iter().find_map(|plural| look.unread(plural))) {
        (Answer::Known(target), None) => {
            Answer::Known(field_writers(target, &look.objects).into_iter().chain(configured).collect())
        }
        (Answer::Unknown { why }, _) => Answer::unknown(why.clone()),
        (_, Some(why)) => Answer::Unknown { why },
    }
}

fn budgets(look: &Look, target: &Answer<Value>) -> Answer<Vec<DisruptionBudget>> {
    if let Some(why) = look.unread("poddisruptionbudgets") {
        return Answer::Unknown { why };
    }
    let Answer::Known(target) = target else { return Answer::unknown("the target cannot be read") };
    let labels = &target["spec"]["template"]["metadata"]["labels"];
    let over =
        look.of_kind("PodDisruptionBudget").filter(|budget| crate::owner::selects(&budget["spec"]["selector"], labels));
    Answer::Known(
        over.map(|budget| DisruptionBudget {
            name: budget["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            disruptions_allowed: budget["status"]["disruptionsAllowed"]
                .as_u64()
                .and_then(|allowed| u32::try_from(allowed).ok())
                .unwrap_or(0),
        })
        .collect(),
    )
}

async fn dry_runs(shell: &Shell, about: &About<'_>) -> RollbackFacts {
    match about.contents {
        Ok(contents) => dry_run::both(shell, about.plan, contents).await,
        Err(why) => RollbackFacts { deed: Answer::unknown(why), inverse: Answer::unknown(why) },
    }
}

/// The changed fields, for those who show them.
pub fn rendered_of(contents: &Contents) -> &[RenderedChange] {
    &contents.rendered
}

/// Who a signal is about, for logs.
pub fn shown(incident: &Incident) -> String {
    format!("{}/{}", incident.namespace().unwrap_or_default(), incident.name_any())
}

#[cfg(test)]
mod tests {
    use amend_execution::journal::Actor;

    use super::*;

    fn journal(events: Vec<Event>) -> Journal {
        let mut journal = Journal::default();
        for (minute, event) in (1..).zip(events) {
            let at = Timestamp::from_second(minute * 60).unwrap();
            journal.append(at, Actor::amend("test"), "", event).unwrap();
        }
        journal
    }

    fn minute(at: Option<Timestamp>) -> Option<i64> {
        at.map(|at| at.as_second() / 60)
    }

    #[test]
    fn a_proposal_counts_as_an_action_unless_it_was_given_up_before_its_merge() {
        let pushed = || Event::BranchPushed { step: 0, branch: "amend/k".into(), commit: "c".into() };
        let merged = || Event::Merged { step: 0, commit: "m".into() };
        let ended = |ending| Event::Ended { ending, prepare_revert: false };
        assert_eq!(minute(acted_at(&journal(vec![]))), None);
        assert_eq!(minute(acted_at(&journal(vec![pushed()]))), Some(1));
        assert_eq!(minute(acted_at(&journal(vec![pushed(), ended(Ending::Withdrawn)]))), None);
        assert_eq!(minute(acted_at(&journal(vec![pushed(), ended(Ending::Rejected)]))), None);
        assert_eq!(minute(acted_at(&journal(vec![pushed(), merged(), ended(Ending::RolledBack)]))), Some(2));
        assert_eq!(minute(acted_at(&journal(vec![pushed(), ended(Ending::Held)]))), Some(1));
    }
}

//! Everything that a diagnosis looks at, asked of the cluster, the stores and Git at once.

mod applied;
pub mod deep;
mod elsewhere;
pub mod past;

use std::sync::Arc;
use std::time::Duration;

use amend_diagnosis::entity::Entity;
use amend_diagnosis::evidence::{Answer, Asked, Change, Observations, Window};
use amend_diagnosis::signal::Signal;
use amend_policies::policy::Sla;
use amend_telemetry::gather::{Gathered, Scope, Windows, gather};
use amend_telemetry::questions::Target;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::cluster;
use crate::planner;
use crate::shell::Shell;
use crate::topology::Picture;

/// The longest that all stores together are waited for, however patient the policies are: no source may take longer for one
/// question.
const STORES_MAX: Duration = Duration::from_secs(60);

/// Healthy time that sick time is compared with.
const NORMAL: SignedDuration = SignedDuration::from_hours(1);

/// How far back changes are looked for before the first signal.
const CHANGES_FOR: SignedDuration = SignedDuration::from_hours(24);

/// A change this close before the first signal is taken for the onset.
const ONSET: SignedDuration = SignedDuration::from_mins(15);

/// Without such a change: alerts wait for their `for` and a rate window.
const BEFORE_SIGNALS: SignedDuration = SignedDuration::from_mins(5);

/// Workloads asked about besides the one that alerts; a namespace's shop has about ten.
const NEIGHBOURS: usize = 16;

/// How long a diagnosis may take in a namespace: the strictest `sla.diagnose` of its policies; without one, or when they cannot be
/// read, what a policy that says nothing means.
pub async fn wanted_within(shell: &Shell, namespace: &str) -> SignedDuration {
    strictest(&planner::policies(shell, namespace).await.unwrap_or_default())
}

fn strictest(known: &[planner::Known]) -> SignedDuration {
    let wanted = known.iter().filter_map(|one| one.compiled.as_ref()).map(|policy| policy.sla.diagnose);
    wanted.min().unwrap_or(Sla::default().diagnose)
}

/// What the stores may take of the time for a diagnosis: half. The rest is for the API server and Git, a second round, weighing
/// and writing down. A store under the same load as what it watches is slow just when it is asked.
fn for_stores(diagnose: SignedDuration) -> Duration {
    (Duration::try_from(diagnose).unwrap_or_default() / 2).min(STORES_MAX)
}

/// Looks at the world of one incident, in the time that its namespace's policies leave for a diagnosis.
pub async fn observe(shell: &Arc<Shell>, namespace: &str, signals: &[Signal], now: Timestamp) -> Observations {
    observe_within(shell, namespace, signals, wanted_within(shell, namespace).await, now).await
}

async fn observe_within(
    shell: &Arc<Shell>,
    namespace: &str,
    signals: &[Signal],
    diagnose: SignedDuration,
    now: Timestamp,
) -> Observations {
    let client = shell.clients.reader();
    let began_at = std::time::Instant::now();
    let picture = shell.topologies.of(&client, &shell.sources, namespace, now).await;
    let mut look = cluster::look(&client, namespace, now).await;
    let elsewhere = elsewhere::look(&client, namespace, &look.objects, &picture, signals, now).await;
    let around = Around {
        namespace,
        signals,
        at: now,
        picture: &picture,
        elsewhere: &elsewhere.targets,
        target: Picture::target,
        within: for_stores(diagnose),
    };
    let told = around.asked(shell, &look.objects).await;
    tracing::debug!(namespace, all_ms = began_at.elapsed().as_millis(), "evidence gathered");
    let unread_events = look.unread_events();
    if !look.objects.is_empty() {
        look.objects.extend(elsewhere.objects);
    }
    look.events.extend(elsewhere.events);
    look.asked.extend(elsewhere.asked);
    let mut asked: Vec<Asked> = look.asked.clone();
    asked.extend(told.gathered.asked);
    asked.extend(told.change_questions);
    Observations {
        at: now,
        began: Some(told.windows.fault.from),
        normal: Some(told.windows.normal),
        fault: Some(told.windows.fault),
        symptoms: signals.to_vec(),
        candidates: None,
        topology: told.gathered.topology,
        series: told.gathered.series,
        spans: told.gathered.spans,
        exemplars: told.gathered.exemplars,
        logs: told.gathered.logs,
        changes: told.changes,
        objects: match look.objects.is_empty() {
            true => Answer::unknown(look.gaps().unwrap_or_else(|| format!("namespace {namespace} shows no objects"))),
            false => Answer::Known(look.objects),
        },
        events: match unread_events {
            Some(why) if look.events.is_empty() => Answer::unknown(why),
            Some(_) | None => Answer::Known(look.events),
        },
        asked,
    }
}

/// A time at which some signals ask for a cause.
struct Around<'a> {
    namespace: &'a str,
    signals: &'a [Signal],
    at: Timestamp,
    picture: &'a Picture,
    /// Workloads of other namespaces that may have brought the trouble.
    elsewhere: &'a [Target],
    /// How a workload of that time is asked for.
    target: fn(&Picture, &Entity) -> Target,
    /// Deadline of all stores together.
    within: Duration,
}

/// What the stores and Git said about it.
struct Told {
    windows: Windows,
    scope: Scope,
    gathered: Gathered,
    changes: Answer<Vec<Change>>,
    change_questions: Vec<Asked>,
}

impl Around<'_> {
    /// Asks Git first, which says when trouble may have begun, and then the stores. `objects` say who manages them.
    async fn asked(&self, shell: &Arc<Shell>, objects: &[Value]) -> Told {
        let first = self.signals.iter().map(|signal| signal.started_at).min().unwrap_or(self.at).min(self.at);
        let lookback = Window { from: first.saturating_sub(CHANGES_FOR).unwrap_or(first), to: self.at };
        let (changes, change_questions) = applied::lately(shell, self.namespace, objects, lookback).await;
        let began = onset(first, changes.known().map(Vec::as_slice).unwrap_or_default());
        let normal = Window { from: began.saturating_sub(NORMAL).unwrap_or(began), to: began };
        let windows = Windows { normal, fault: Window { from: began, to: self.at } };
        let scope = self.scope();
        let sources = shell.sources.serving(self.namespace).await;
        let gathered = gather(&sources, &scope, windows, self.within).await;
        Told { windows, scope, gathered, changes, change_questions }
    }

    fn scope(&self) -> Scope {
        let target = |entity: &Entity| (self.target)(self.picture, entity);
        let focus = focus(self.signals, self.namespace).workload();
        let neighbours = self.picture.neighbours(&focus, NEIGHBOURS);
        let mut scope =
            Scope { focus: target(&focus), neighbours: neighbours.iter().map(target).collect::<Vec<Target>>() };
        for signal in self.signals {
            let workload = signal.entity.workload();
            let known = |target: &Target| target.entity == workload;
            if !known(&scope.focus) && !scope.neighbours.iter().any(known) && scope.neighbours.len() < NEIGHBOURS {
                scope.neighbours.push(target(&workload));
            }
        }
        let known: Vec<Entity> = scope.neighbours.iter().chain([&scope.focus]).map(|one| one.entity.clone()).collect();
        scope.neighbours.extend(self.elsewhere.iter().filter(|one| !known.contains(&one.entity)).cloned());
        scope
    }
}

/// The entity of the loudest and earliest signal.
fn focus(signals: &[Signal], namespace: &str) -> Entity {
    let best =
        signals.iter().min_by_key(|signal| (std::cmp::Reverse(signal.severity), signal.started_at, signal.key.clone()));
    match best {
        Some(signal) => signal.entity.clone(),
        None => Entity::new(amend_diagnosis::entity::EntityKind::Namespace, "", namespace),
    }
}

/// When trouble may have begun: with the last change shortly before the first signal, else somewhat before it.
fn onset(first: Timestamp, changes: &[Change]) -> Timestamp {
    let close = |at: &Timestamp| *at <= first && first.duration_since(*at) <= ONSET;
    let changed = changes.iter().map(|change| change.at).filter(close).min();
    changed.unwrap_or_else(|| first.saturating_sub(BEFORE_SIGNALS).unwrap_or(first))
}

#[cfg(test)]
mod tests {
    use amend_policies::policy::PolicyRef;

    use super::*;

    fn policy(diagnose: &str) -> planner::Known {
        let reference = PolicyRef { namespace: "shop".into(), name: "raise".into(), uid: "1".into(), generation: 1 };
        let text = amend_policies::library::LIBRARY[0].yaml.replace("diagnose: 30s", &format!("diagnose: {diagnose}"));
        let object: Value = serde_saphyr::from_str(&text).unwrap();
        planner::Known { reference, compiled: amend_policies::lint::read(&object["spec"]).0 }
    }

    #[test]
    fn the_strictest_policy_says_how_long_a_diagnosis_may_take() {
        let patient = policy("2m");
        let strict = policy("8s");
        assert!(patient.compiled.is_some() && strict.compiled.is_some(), "both are accepted");
        assert_eq!(strictest(&[patient.clone(), strict]), SignedDuration::from_secs(8));
        assert_eq!(strictest(std::slice::from_ref(&patient)), SignedDuration::from_secs(120));
        let refused = planner::Known { compiled: None, ..patient };
        assert_eq!(
            strictest(&[refused]),
            SignedDuration::from_secs(30),
            "a policy that is not accepted asks for nothing"
        );
    }

    #[test]
    fn stores_have_half_of_that_time_and_never_longer_than_one_question_may_take() {
        assert_eq!(for_stores(SignedDuration::from_secs(8)), Duration::from_secs(4));
        assert_eq!(for_stores(SignedDuration::from_secs(30)), Duration::from_secs(15));
        assert_eq!(for_stores(SignedDuration::from_hours(1)), Duration::from_secs(60));
    }
}

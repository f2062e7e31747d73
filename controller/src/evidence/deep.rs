//! The second round of questions about one incident, when the first left it without an answer.
//!
//! Which questions, and what their answers are worth, is decided in `amend_diagnosis`; here they are put to the stores in what is
//! left of the time in which policies want a diagnosis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use amend_diagnosis::deep::{Finer, FinerQuestion, finer, told};
use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::Diagnosis;
use amend_diagnosis::entity::EntityKind;
use amend_diagnosis::evidence::{Answer, Asked, Observations, Window};
use amend_diagnosis::signal::Signal;
use amend_telemetry::deep::{About, Budget, deepen};
use amend_telemetry::gather::Windows;
use amend_telemetry::questions::Target;
use jiff::{SignedDuration, Timestamp};

use crate::shell::Shell;

/// Kept free of the time for a diagnosis: to weigh the evidence again, and to write it down.
const SPARE: Duration = Duration::from_secs(3);

/// With less time than this no store is asked: most would answer too late, and their work would be wasted.
const WORTH: Duration = Duration::from_secs(1);

/// The time for one diagnosis.
#[derive(Clone, Copy, Debug)]
struct Clock {
    began: Instant,
    within: Duration,
}

impl Clock {
    /// What a second round may take of it.
    fn left(self) -> Duration {
        self.within.saturating_sub(self.began.elapsed()).saturating_sub(SPARE)
    }
}

/// Looks at the world of one incident and says what broke; asks a second time where the first round leaves it open.
///
/// `within` is the time in which policies want it: half of it for the first round's stores, what is left then for the second.
/// The diagnosis comes with what it was made from, and is missing when it could not be made at all.
pub async fn look(
    shell: &Arc<Shell>,
    namespace: &str,
    signals: &[Signal],
    within: SignedDuration,
    now: Timestamp,
) -> (Arc<Observations>, Option<Diagnosis>) {
    let clock = Clock { began: Instant::now(), within: Duration::try_from(within).unwrap_or_default() };
    let observations = Arc::new(super::observe_within(shell, namespace, signals, within, now).await);
    let Some(first) = diagnosed(shell, &observations).await else { return (observations, None) };
    // The second round is for quiet times: an incident that finds no turn gets one when it is looked at again.
    let Ok(_turn) = shell.deep_rounds.try_acquire() else { return (observations, Some(first)) };
    let (observations, found) = deepened(shell, namespace, observations, first, clock).await;
    (observations, Some(found))
}

async fn diagnosed(shell: &Shell, observations: &Arc<Observations>) -> Option<Diagnosis> {
    let _turn = shell.diagnoses.acquire().await;
    let began = Instant::now();
    let looked_at = Arc::clone(observations);
    let found = tokio::task::spawn_blocking(move || diagnose(&looked_at)).await;
    shell.metrics.observe_diagnosis(began.elapsed());
    let mut found = found.ok()?;
    // Whole log lines go into the status of an object that more people may read than the logs.
    for line in found.stories.iter_mut().flat_map(|story| &mut story.lines) {
        line.text = shell.unknown_lines.redacted(&line.text);
    }
    Some(found)
}

/// Without a second round both come back as they are.
async fn deepened(
    shell: &Arc<Shell>,
    namespace: &str,
    observations: Arc<Observations>,
    first: Diagnosis,
    clock: Clock,
) -> (Arc<Observations>, Diagnosis) {
    if first.actionable().is_some() {
        return (observations, first);
    }
    let (looked_at, found) = (Arc::clone(&observations), first.clone());
    let questions = {
        // As heavy as a part of a diagnosis, so it takes the same turn.
        let _turn = shell.diagnoses.acquire().await;
        tokio::task::spawn_blocking(move || finer(&looked_at, &found)).await.unwrap_or_default()
    };
    let windows = observations.normal.zip(observations.fault).map(|(normal, fault)| Windows { normal, fault });
    let (Some(windows), false) = (windows, questions.is_empty()) else { return (observations, first) };
    let now = observations.at;
    let within = clock.left().min(Budget::default().within);
    if within < WORTH {
        let why = "not asked: no time was left within the policies' sla.diagnose";
        let asked: Vec<Asked> = questions.iter().map(|question| unasked(question, windows.fault, why)).collect();
        return (observations, told(first.clone(), first, &asked));
    }
    let about = about(shell, namespace, &questions, now).await;
    let sources = shell.sources.serving(namespace).await;
    let found = deepen(&sources, &about, windows, Budget { within, ..Budget::default() }).await;
    tracing::debug!(namespace, questions = questions.len(), queries = found.asked.len(), "finer questions asked");
    if found.series.is_empty() && found.logs.is_empty() {
        return (observations, told(first.clone(), first, &found.asked));
    }
    let mut richer = Arc::unwrap_or_clone(observations);
    richer.series = joined(richer.series, found.series);
    richer.logs = joined(richer.logs, found.logs);
    richer.asked.extend(found.asked.iter().cloned());
    let richer = Arc::new(richer);
    match diagnosed(shell, &richer).await {
        Some(second) => (richer, told(first, second, &found.asked)),
        None => (richer, first),
    }
}

/// The questions with the names under which stores know what they are about.
async fn about(shell: &Arc<Shell>, namespace: &str, questions: &[FinerQuestion], now: Timestamp) -> Vec<About> {
    let client = shell.clients.reader();
    let picture = shell.topologies.of(&client, &shell.sources, namespace, now).await;
    let target = |entity: &amend_diagnosis::entity::Entity| match entity.kind {
        EntityKind::Node => Target::new(entity.clone()),
        _ => picture.target(entity),
    };
    let told = |question: &FinerQuestion| About {
        finer: question.about,
        targets: question.entities.iter().map(target).collect(),
    };
    questions.iter().map(told).collect()
}

fn unasked(question: &FinerQuestion, window: Window, why: &str) -> Asked {
    let names: Vec<String> = question.entities.iter().map(ToString::to_string).collect();
    Asked {
        id: format!("deep/{}/{}", Finer::name(question.about), names.join("+")),
        source: "none".to_owned(),
        query: String::new(),
        window,
        digest: String::new(),
        unknown: Some(why.to_owned()),
    }
}

/// The first round's answer with the second's. What the first could not know stays unknown: a few finer answers about a few
/// entities do not stand for all that was asked.
fn joined<T>(first: Answer<Vec<T>>, more: Vec<T>) -> Answer<Vec<T>> {
    match first {
        Answer::Known(mut all) => {
            all.extend(more);
            Answer::Known(all)
        }
        Answer::Unknown { why } => Answer::Unknown { why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_finer_answers_do_not_make_known_what_the_first_round_could_not_know() {
        assert_eq!(joined(Answer::Known(vec![1]), vec![2]), Answer::Known(vec![1, 2]));
        assert!(matches!(joined(Answer::unknown("the store does not answer"), vec![2]), Answer::Unknown { .. }));
    }
}

//! What changed since a diagnosis: the questions behind a diagnosis, asked again about the same time.
//!
//! Stores and Git are asked about the same window, so an answer that differs is news: late samples, a store that is back, data
//! that expired. The cluster can only be asked about now, so its lists always differ and only count when they cannot be had.

use std::collections::BTreeMap;
use std::fmt::Write;

use amend_controller::evidence::deep::look;
use amend_controller::evidence::wanted_within;
use amend_crds::Incident;
use amend_diagnosis::diagnosis::{Cause, Diagnosis};
use amend_diagnosis::evidence::Asked;
use amend_diagnosis::signal::Signal;
use anyhow::Context;
use jiff::{Timestamp, Unit};
use kube::ResourceExt;
use serde::Serialize;

use crate::connection::{Connection, plain};

/// Source of questions that the API server answers.
const CLUSTER: &str = "cluster";

/// Characters of a query that are shown to people: a line and a half of a terminal.
const QUERY_MAX: usize = 160;

/// What asking again has shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Again {
    /// The moment of the diagnosis: the windows of all questions end there.
    about: Timestamp,
    /// Answers that are the same.
    same: usize,
    differences: Vec<Difference>,
    then: Conclusion,
    now: Conclusion,
}

/// One question whose answer is not the same any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Difference {
    id: String,
    query: String,
    how: How,
}

/// In what way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum How {
    /// Answered both times, differently.
    Other,
    /// Answered only now; what was missing then.
    Answered {
        before: String,
    },
    /// Not answered any more, and why.
    Unanswered {
        why: String,
    },
    AskedOnlyThen,
    AskedOnlyNow,
}

/// What follows from the answers.
#[derive(Debug, Serialize)]
struct Conclusion {
    cause: Option<String>,
    confidence: Option<f64>,
    abstained: Option<String>,
}

impl Conclusion {
    fn of(diagnosis: &Diagnosis) -> Self {
        let best: Option<&Cause> = diagnosis.causes.first();
        Self {
            cause: best.map(|cause| format!("{}, {}", plain(&cause.sentence), cause.kind)),
            confidence: best.map(|cause| cause.confidence),
            abstained: diagnosis.abstained.as_deref().map(plain),
        }
    }
}

/// Asks the questions of an incident's diagnosis again, with the rights of whoever asks.
pub async fn again(connection: &Connection, incident: &Incident) -> anyhow::Result<Again> {
    let name = incident.name_any();
    let status = incident.status.clone().unwrap_or_default();
    let (then, about) = status
        .diagnosis
        .zip(status.diagnosed_at)
        .with_context(|| format!("{name} is not diagnosed yet: there is nothing to ask again"))?;
    let signals = if status.signals.is_empty() { incident.spec.signals.clone() } else { status.signals };
    let heard: Vec<Signal> = signals.into_iter().filter(|signal| signal.started_at <= about).collect();
    let asking = connection.asking().await?;
    let within = wanted_within(&asking.shell, &connection.namespace).await;
    // As the controller does it, the finer questions with it.
    let (seen, now) = look(&asking.shell, &connection.namespace, &heard, within, about).await;
    let now = now.context("the diagnosis could not be made again")?;
    let (same, differences) = compared(&then.asked, &seen.asked);
    Ok(Again { about, same, differences, then: Conclusion::of(&then), now: Conclusion::of(&now) })
}

/// How many answers are the same, and which are not.
fn compared(then: &[Asked], now: &[Asked]) -> (usize, Vec<Difference>) {
    let by_id = |asked: &[Asked]| asked.iter().map(|one| (one.id.clone(), one.clone())).collect::<BTreeMap<_, _>>();
    let (then, now) = (by_id(then), by_id(now));
    let mut ids: Vec<&String> = then.keys().chain(now.keys()).collect();
    ids.sort();
    ids.dedup();
    let (mut same, mut differences) = (0, Vec::new());
    for id in ids {
        let how = match (then.get(id), now.get(id)) {
            (Some(before), Some(after)) => difference(before, after),
            (Some(_), None) => Some(How::AskedOnlyThen),
            (None, _) => Some(How::AskedOnlyNow),
        };
        let query = now.get(id).or(then.get(id)).map(|asked| asked.query.clone()).unwrap_or_default();
        match how {
            Some(how) => differences.push(Difference { id: id.clone(), query, how }),
            None => same += 1,
        }
    }
    (same, differences)
}

fn difference(before: &Asked, after: &Asked) -> Option<How> {
    match (&before.unknown, &after.unknown) {
        (Some(_), Some(_)) => None,
        (Some(why), None) => Some(How::Answered { before: why.clone() }),
        (None, Some(why)) => Some(How::Unanswered { why: why.clone() }),
        (None, None) => (before.digest != after.digest && before.source != CLUSTER).then_some(How::Other),
    }
}

impl Again {
    /// For people.
    pub fn told(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let about = self.about.round(Unit::Second).unwrap_or(self.about);
        let _ = writeln!(out, "\nasked again, about the time until {about}: {} answers are the same", self.same);
        for Difference { id, query, how } in &self.differences {
            let said = match how {
                How::Other => "another answer".to_owned(),
                How::Answered { before } => format!("answered now; then: {}", plain(before)),
                How::Unanswered { why } => format!("not answered any more: {}", plain(why)),
                How::AskedOnlyThen => "asked only then".to_owned(),
                How::AskedOnlyNow => "asked only now".to_owned(),
            };
            let _ = writeln!(out, "  {id}: {said}\n    {}", clipped(&plain(query)));
        }
        let said = |conclusion: &Conclusion| {
            let sure = conclusion.confidence.map_or(String::new(), |sure| format!(" ({:.0} % sure)", sure * 100.0));
            let cause = conclusion.cause.as_deref().unwrap_or("no cause");
            let silent = conclusion.abstained.as_ref().map_or(String::new(), |why| format!("; not sure: {why}"));
            format!("{cause}{sure}{silent}")
        };
        let (then, now) = (said(&self.then), said(&self.now));
        let now = if now == then { "the same" } else { now.as_str() };
        let _ = writeln!(out, "  then: {then}\n  now: {now}");
        out
    }
}

/// A query that names every pod is long; whole ones are in `-o json`.
fn clipped(query: &str) -> String {
    match query.char_indices().nth(QUERY_MAX) {
        Some((end, _)) => format!("{}…", &query[..end]),
        None => query.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use amend_diagnosis::evidence::Window;

    use super::*;

    fn asked(id: &str, source: &str, digest: &str) -> Asked {
        let window = Window { from: Timestamp::UNIX_EPOCH, to: Timestamp::UNIX_EPOCH };
        Asked {
            id: id.into(),
            source: source.into(),
            query: format!("query of {id}"),
            window,
            digest: digest.into(),
            unknown: None,
        }
    }

    fn unknown(id: &str, why: &str) -> Asked {
        Asked { digest: String::new(), unknown: Some(why.into()), ..asked(id, "loki", "") }
    }

    #[test]
    fn only_what_is_news_is_told() {
        let then = [
            asked("memory", "prometheus", "a"),
            asked("rate", "prometheus", "a"),
            asked("pods", CLUSTER, "a"),
            asked("gone", "prometheus", "a"),
            unknown("logs", "no answer within 5 s"),
            unknown("traces", "nobody"),
        ];
        let now = [
            asked("memory", "prometheus", "a"),
            asked("rate", "prometheus", "b"),
            asked("pods", CLUSTER, "b"),
            asked("logs", "loki", "c"),
            unknown("traces", "still nobody"),
            asked("new", "prometheus", "a"),
        ];
        let (same, differences) = compared(&then, &now);
        assert_eq!(same, 3, "memory, pods and traces");
        let told: Vec<(&str, &How)> = differences.iter().map(|one| (one.id.as_str(), &one.how)).collect();
        let before = How::Answered { before: "no answer within 5 s".into() };
        let wanted =
            [("gone", &How::AskedOnlyThen), ("logs", &before), ("new", &How::AskedOnlyNow), ("rate", &How::Other)];
        assert_eq!(told, wanted);
    }

    #[test]
    fn an_answer_that_is_lost_says_why() {
        let (same, differences) = compared(&[asked("logs", "loki", "c")], &[unknown("logs", "401 Unauthorized")]);
        assert_eq!((same, &differences[0].how), (0, &How::Unanswered { why: "401 Unauthorized".into() }));
    }
}

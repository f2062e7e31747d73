//! The page of one incident.

use std::collections::BTreeSet;

use amend_diagnosis::diagnosis::{Cause, Diagnosis};
use amend_diagnosis::evidence::{Answer, Asked};
use amend_diagnosis::render::{self, SlowRow, StoryShown};
use amend_diagnosis::signal::Signal;
use askama::Template;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use jiff::Timestamp;

use super::diff::{self, DiffLine};
use super::pages::{PullRequest, Row, SeverityLook, look, page, percent, phase_class, problem, pull_request, shown};
use super::timeline::{Timeline, span_in_words, timeline};
use super::views::{CheckView, GateView, IncidentView, PolicyView, Reader, RecordView, RemediationView, StepState};
use super::{Dashboard, assets};
use crate::intake::untrusted::one_line;

#[derive(Template)]
#[template(path = "incident.html")]
struct IncidentPage<'a> {
    version: &'a str,
    user: &'a str,
    row: Row,
    steps: Vec<StepLook>,
    cause: Option<&'a Cause>,
    confidence: Option<u32>,
    others: Vec<Other>,
    /// Those below one percent, which are worth a look only when all else fails.
    unlikely: Vec<Other>,
    abstained: Option<String>,
    /// Words of an optional model.
    note: Option<String>,
    unexplained: Vec<String>,
    graph: Option<Graph>,
    slowest: Vec<SlowRow>,
    /// Whose time that is.
    followed: String,
    stories: Vec<StoryShown>,
    /// A second round of finer questions: why, what came of it, and how many were asked.
    deep: Option<Deeper>,
    /// Questions that the diagnosis rests on, and those without an answer.
    asked: Vec<Question>,
    /// The others: asked as well, and nothing was drawn from them.
    also_asked: Vec<Question>,
    /// What came from the stores and names nothing known.
    left_over: Option<String>,
    /// What other clusters sent.
    foreign: Option<String>,
    timeline: Timeline,
    signals: Vec<SignalLook>,
    policies: &'a [PolicyView],
    remediation: Option<Remedy<'a>>,
    record: Option<&'a RecordView>,
    record_state: &'static str,
    record_word: &'static str,
    record_why: String,
}

/// A second round of questions.
struct Deeper {
    because: String,
    changed: String,
    asked: String,
    ids: Vec<String>,
}

struct StepLook {
    name: String,
    class: &'static str,
    word: &'static str,
    at: String,
}

/// A cause that was considered and is less likely.
struct Other {
    kind: String,
    entity: String,
    sentence: String,
    confidence: u32,
}

struct Graph {
    /// Trusted markup: made by the diagnosis room, which escapes every text in it.
    svg: String,
    text: String,
}

struct Question {
    id: String,
    source: String,
    query: String,
    window: String,
    /// Why there is no answer.
    unknown: Option<String>,
}

struct SignalLook {
    name: String,
    source: String,
    severity: SeverityLook,
    entity: String,
    summary: String,
    count: u32,
    since: String,
    ended: Option<String>,
}

struct Remedy<'a> {
    view: &'a RemediationView,
    phase_class: &'static str,
    gates: Vec<Judged<'a, GateView>>,
    checks: Vec<Judged<'a, CheckView>>,
    cleared: usize,
    diff: Vec<DiffLine>,
    /// Why the change cannot be shown.
    unshown: Option<String>,
    added: usize,
    removed: usize,
    pull_request: Option<PullRequest>,
    revert: Option<PullRequest>,
}

struct Judged<'a, T> {
    of: &'a T,
    class: &'static str,
}

pub(super) async fn incident(
    reader: Reader,
    State(dashboard): State<Dashboard>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let view = match dashboard.views.get(&reader, &namespace, &name).await {
        Ok(view) => view,
        Err(error) => return problem(&dashboard, &reader, &headers, &error),
    };
    page(&incident_page(&view, &reader.name, dashboard.time.now()))
}

fn incident_page<'a>(view: &'a IncidentView, user: &'a str, now: Timestamp) -> IncidentPage<'a> {
    let diagnosis = view.diagnosis.as_ref();
    let cause = diagnosis.and_then(|diagnosis| diagnosis.causes.first());
    let (record_state, record_word, record_why) = match view.record.as_ref().map(|record| &record.verified) {
        None => ("unknown", "none", String::new()),
        Some(Answer::Known(true)) => ("pass", "verified", "every entry holds".to_owned()),
        Some(Answer::Known(false)) => {
            ("fail", "broken", "an entry does not hold: treat it as tampered with".to_owned())
        }
        Some(Answer::Unknown { why }) => ("unknown", "not checked", one_line(why, 200)),
    };
    let (others, unlikely) = diagnosis.map(others).unwrap_or_default();
    let (asked, also_asked) = diagnosis.map(questions).unwrap_or_default();
    IncidentPage {
        version: assets::version(),
        user,
        row: shown(view.row.clone(), now),
        steps: view.steps.iter().map(|step| step_look(&step.name, step.state, step.at)).collect(),
        cause,
        confidence: cause.map(|cause| percent(cause.confidence)),
        others,
        unlikely,
        abstained: diagnosis.and_then(|diagnosis| diagnosis.abstained.as_deref()).map(|why| one_line(why, 500)),
        note: view.note.as_deref().map(|note| one_line(note, 1_000)),
        unexplained: diagnosis.map(|diagnosis| unexplained(diagnosis, &view.signals)).unwrap_or_default(),
        graph: diagnosis.filter(|diagnosis| !diagnosis.graph.nodes.is_empty()).map(|diagnosis| Graph {
            svg: without_style(render::svg(&diagnosis.graph)),
            text: render::text(&diagnosis.graph),
        }),
        slowest: diagnosis.map(|diagnosis| render::slow_rows(&diagnosis.slowest)).unwrap_or_default(),
        followed: diagnosis
            .and_then(|diagnosis| diagnosis.followed)
            .map_or_else(|| "one of the slowest requests".to_owned(), |followed| followed.sentence()),
        stories: diagnosis.map(|diagnosis| render::stories_shown(&diagnosis.stories)).unwrap_or_default(),
        deep: diagnosis.and_then(|diagnosis| diagnosis.deep.as_ref()).map(|deep| Deeper {
            because: one_line(&deep.because, 500),
            changed: one_line(&deep.changed, 300),
            asked: deep.counted(),
            ids: deep.asked.iter().map(|id| one_line(id, 64)).collect(),
        }),
        asked,
        also_asked,
        left_over: diagnosis.and_then(|diagnosis| diagnosis.alignment.left_over()).map(|told| one_line(&told, 500)),
        foreign: diagnosis.and_then(|diagnosis| diagnosis.alignment.foreign.told()).map(|told| one_line(&told, 500)),
        timeline: timeline(&view.timeline),
        signals: view.signals.iter().map(|signal| signal_look(signal, now)).collect(),
        policies: &view.policies,
        remediation: view.remediation.as_ref().map(remedy),
        record: view.record.as_ref(),
        record_state,
        record_word,
        record_why,
    }
}

fn step_look(name: &str, state: StepState, at: Option<Timestamp>) -> StepLook {
    let (class, word) = match state {
        StepState::Done => ("done", "done"),
        StepState::Current => ("current", "now"),
        StepState::Waiting => ("waiting", "to come"),
        StepState::Failed => ("failed", "failed"),
        StepState::Unknown => ("unsure", "no answer"),
        StepState::Skipped => ("skipped", "not needed"),
    };
    let at = at.map(|at| at.strftime("%H:%M:%S").to_string()).unwrap_or_default();
    StepLook { name: name.to_owned(), class, word, at }
}

/// The causes that were considered besides the first one: those of at least one percent, and the rest.
fn others(diagnosis: &Diagnosis) -> (Vec<Other>, Vec<Other>) {
    let other = |cause: &Cause| Other {
        kind: one_line(&cause.kind, 80),
        entity: cause.entity.to_string(),
        sentence: one_line(&cause.sentence, 300),
        confidence: percent(cause.confidence),
    };
    diagnosis.causes.iter().skip(1).map(other).partition(|other| other.confidence > 0)
}

fn unexplained(diagnosis: &Diagnosis, signals: &[Signal]) -> Vec<String> {
    let name = |key: &String| {
        let known = signals.iter().find(|signal| signal.key == *key);
        one_line(known.map_or(key, |signal| &signal.name), 128)
    };
    diagnosis.unexplained.iter().map(name).collect()
}

/// The questions that facts and edges cite or that have no answer, and the rest.
fn questions(diagnosis: &Diagnosis) -> (Vec<Question>, Vec<Question>) {
    let facts = diagnosis.causes.iter().flat_map(|cause| cause.facts_for.iter().chain(&cause.facts_against));
    let edges = diagnosis.graph.edges.iter().map(|edge| edge.asked.as_str());
    let told = diagnosis.stories.iter().flat_map(|story| &story.asked).map(String::as_str);
    let cited: BTreeSet<&str> = facts.map(|fact| fact.asked.as_str()).chain(edges).chain(told).collect();
    let (first, rest): (Vec<&Asked>, Vec<&Asked>) =
        diagnosis.asked.iter().partition(|asked| asked.unknown.is_some() || cited.contains(asked.id.as_str()));
    (first.into_iter().map(question).collect(), rest.into_iter().map(question).collect())
}

fn question(asked: &Asked) -> Question {
    let (from, to) = (asked.window.from, asked.window.to);
    Question {
        id: one_line(&asked.id, 64),
        source: one_line(&asked.source, 64),
        query: one_line(&asked.query, 2000),
        window: format!("{} to {} UTC", from.strftime("%H:%M:%S"), to.strftime("%H:%M:%S")),
        unknown: asked.unknown.as_deref().map(|why| one_line(why, 300)),
    }
}

fn signal_look(signal: &Signal, now: Timestamp) -> SignalLook {
    SignalLook {
        name: one_line(&signal.name, 128),
        source: format!("{:?}", signal.source),
        severity: look(signal.severity),
        entity: one_line(&signal.entity.to_string(), 300),
        summary: one_line(&signal.summary, 400),
        count: signal.count,
        since: span_in_words(now.duration_since(signal.started_at)),
        ended: signal.ended_at.map(|end| span_in_words(now.duration_since(end))),
    }
}

fn remedy(view: &RemediationView) -> Remedy<'_> {
    let (diff, unshown) = match &view.diff {
        Answer::Known(text) => (diff::lines(text), None),
        Answer::Unknown { why } => (Vec::new(), Some(one_line(why, 300))),
    };
    let count = |kind| diff.iter().filter(|line| line.kind == kind).count();
    Remedy {
        phase_class: phase_class(&view.phase),
        gates: view.gates.iter().map(|gate| Judged { of: gate, class: verdict_class(&gate.verdict) }).collect(),
        checks: view.checks.iter().map(|check| Judged { of: check, class: verdict_class(&check.verdict) }).collect(),
        cleared: view.gates.iter().filter(|gate| gate.verdict == "Pass").count(),
        added: count("add"),
        removed: count("del"),
        diff,
        unshown,
        pull_request: view.pull_request.clone().map(pull_request),
        revert: view.revert_pull_request.clone().map(pull_request),
        view,
    }
}

/// Whatever is not a clear yes or no is not known.
fn verdict_class(verdict: &str) -> &'static str {
    match verdict {
        "Pass" => "pass",
        "Fail" => "fail",
        _ => "unknown",
    }
}

/// The picture without its own style element: the page's policy allows style sheets only, and ours knows the classes.
fn without_style(svg: String) -> String {
    match (svg.find("<style>"), svg.find("</style>")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &svg[..from], &svg[to + "</style>".len()..]),
        _ => svg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_loses_its_own_style_only() {
        assert_eq!(without_style("<svg><style>.a{}</style><rect/></svg>".to_owned()), "<svg><rect/></svg>");
        assert_eq!(without_style("<svg><rect/></svg>".to_owned()), "<svg><rect/></svg>");
    }

    #[test]
    fn an_unheard_verdict_is_unknown_not_good() {
        assert_eq!([verdict_class("Pass"), verdict_class("Fail"), verdict_class("Maybe")], ["pass", "fail", "unknown"]);
    }
}

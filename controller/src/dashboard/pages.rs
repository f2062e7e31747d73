//! The two pages: what is going on, and one incident.

use std::collections::BTreeSet;

use amend_diagnosis::diagnosis::{Cause, Diagnosis};
use amend_diagnosis::evidence::{Answer, Asked};
use amend_diagnosis::render::{self, SlowRow, StoryShown};
use amend_diagnosis::signal::{Severity, Signal};
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Redirect, Response};
use jiff::Timestamp;
use serde::Deserialize;

use super::diff::{self, DiffLine};
use super::timeline::{Timeline, span_in_words, timeline};
use super::views::{
    CheckView, GateView, IncidentRow, IncidentView, PolicyView, PullRequestView, Reader, RecordView, RemediationView,
    StepState, ViewError,
};
use super::{Dashboard, assets};
use crate::intake::untrusted::{link, one_line};

/// What the list shows.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Filter {
    /// `all` shows what is over as well.
    #[serde(default)]
    show: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Template)]
#[template(path = "incidents.html")]
struct IncidentsPage<'a> {
    version: &'a str,
    user: &'a str,
    all: bool,
    namespace: String,
    namespaces: Vec<String>,
    rows: Vec<Row>,
    open: usize,
    over: usize,
    for_people: usize,
}

/// A line of the list, ready to be shown.
struct Row {
    href: String,
    namespace: String,
    name: String,
    severity: SeverityLook,
    phase: String,
    phase_class: &'static str,
    because: String,
    entity: String,
    cause: Option<String>,
    confidence: Option<u32>,
    signals: u32,
    opened_at: String,
    age: String,
    needs_person: Option<String>,
    pull_request: Option<PullRequest>,
}

/// A severity by icon, word and colour, so that no one of them is needed.
#[derive(Clone, Copy)]
struct SeverityLook {
    word: &'static str,
    class: &'static str,
}

struct PullRequest {
    label: String,
    /// Only when it is a safe link.
    url: Option<String>,
    state: String,
}

pub(super) async fn incidents(
    reader: Reader,
    State(dashboard): State<Dashboard>,
    Query(filter): Query<Filter>,
    headers: HeaderMap,
) -> Response {
    let mut rows = match dashboard.views.list(&reader).await {
        Ok(rows) => rows,
        Err(error) => return problem(&dashboard, &reader, &headers, &error),
    };
    let mut namespaces: Vec<String> = rows.iter().map(|row| row.namespace.clone()).collect();
    namespaces.sort();
    namespaces.dedup();
    rows.retain(|row| filter.namespace.is_empty() || row.namespace == filter.namespace);
    let over = rows.iter().filter(|row| row.over).count();
    let open = rows.len() - over;
    let for_people = rows.iter().filter(|row| !row.over && row.needs_person.is_some()).count();
    let all = filter.show == "all";
    rows.retain(|row| all || !row.over);
    // What waits for a person first, then the loudest, then the newest.
    rows.sort_by(|left, right| {
        (left.over, left.needs_person.is_none(), right.severity, right.opened_at, &left.namespace, &left.name).cmp(&(
            right.over,
            right.needs_person.is_none(),
            left.severity,
            left.opened_at,
            &right.namespace,
            &right.name,
        ))
    });
    let now = dashboard.time.now();
    page(&IncidentsPage {
        version: assets::version(),
        user: &reader.name,
        all,
        namespace: filter.namespace,
        namespaces,
        rows: rows.into_iter().map(|row| shown(row, now)).collect(),
        open,
        over,
        for_people,
    })
}

fn shown(row: IncidentRow, now: Timestamp) -> Row {
    Row {
        href: format!("/incidents/{}/{}", path_safe(&row.namespace), path_safe(&row.name)),
        severity: look(row.severity),
        phase_class: phase_class(&row.phase),
        because: one_line(&row.because, 400),
        entity: one_line(&row.entity, 200),
        // How sure we are of nothing is no news.
        confidence: row.confidence.filter(|_| row.cause.is_some()).map(percent),
        cause: row.cause.map(|cause| one_line(&cause, 300)),
        signals: row.signals,
        opened_at: row.opened_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        age: span_in_words(now.duration_since(row.opened_at)),
        needs_person: row.needs_person.map(|what| one_line(&what, 200)),
        pull_request: row.pull_request.map(pull_request),
        namespace: row.namespace,
        name: row.name,
        phase: row.phase,
    }
}

fn look(severity: Severity) -> SeverityLook {
    match severity {
        Severity::Critical => SeverityLook { word: "Critical", class: "critical" },
        Severity::Warning => SeverityLook { word: "Warning", class: "warning" },
        Severity::Info => SeverityLook { word: "Info", class: "info" },
    }
}

/// How a phase of an incident or a remediation is coloured: at work, good, bad, or nothing special.
fn phase_class(phase: &str) -> &'static str {
    match phase {
        "Resolved" | "Mitigated" | "Succeeded" => "good",
        "Abstained" | "Blocked" | "Held" | "Unverified" | "AwaitingApproval" => "waits",
        "Stuck" | "RolledBack" | "Undoing" => "bad",
        "Dropped" | "Joined" | "Withdrawn" | "Rejected" => "quiet",
        _ => "busy",
    }
}

fn pull_request(request: PullRequestView) -> PullRequest {
    PullRequest { label: format!("#{}", request.number), url: link(&request.url), state: one_line(&request.state, 32) }
}

fn percent(share: f64) -> u32 {
    // Never "100 %": nothing here is certain. The clamp keeps the cast exact.
    (share.clamp(0.0, 0.99) * 100.0).round() as u32
}

/// Kubernetes names need no escaping in a path; anything else is escaped rather than trusted to be one.
pub(super) fn path_safe(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect()
}

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
        window: format!("{} to {}", from.strftime("%H:%M:%S"), to.strftime("%H:%M:%S")),
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
    let diff = diff::lines(&view.diff);
    let count = |kind| diff.iter().filter(|line| line.kind == kind).count();
    Remedy {
        phase_class: phase_class(&view.phase),
        gates: view.gates.iter().map(|gate| Judged { of: gate, class: verdict_class(&gate.verdict) }).collect(),
        checks: view.checks.iter().map(|check| Judged { of: check, class: verdict_class(&check.verdict) }).collect(),
        cleared: view.gates.iter().filter(|gate| gate.verdict == "Pass").count(),
        added: count("add"),
        removed: count("del"),
        diff,
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

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    version: &'a str,
    user: &'a str,
    title: &'static str,
    sentence: String,
}

pub(super) fn problem(dashboard: &Dashboard, reader: &Reader, headers: &HeaderMap, error: &ViewError) -> Response {
    let (status, title) = match error {
        ViewError::Unauthenticated => {
            dashboard.sessions.end(headers);
            return Redirect::to("/login").into_response();
        }
        ViewError::Forbidden { .. } => (StatusCode::FORBIDDEN, "Not allowed"),
        ViewError::NotFound => (StatusCode::NOT_FOUND, "Not found"),
        ViewError::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Not reachable"),
    };
    let sentence = one_line(&error.to_string(), 500);
    let body = page(&ProblemPage { version: assets::version(), user: &reader.name, title, sentence });
    (status, body).into_response()
}

pub(super) fn page(template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, "this page could not be rendered\n").into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown_as_certain() {
        assert_eq!((percent(1.0), percent(0.924), percent(-1.0), percent(f64::NAN)), (99, 92, 0, 0));
    }

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

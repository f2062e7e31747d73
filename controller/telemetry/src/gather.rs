//! Everything that the stores know about an incident: which questions are asked, all at once, within one deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use amend_diagnosis::edge::Way;
use amend_diagnosis::entity::Entity;
use amend_diagnosis::evidence::{Answer, Asked, LinkKind, LogLine, Series, Span, Topology, TopologyEdge, Window};
use amend_diagnosis::metric::name;
use futures::future::{BoxFuture, FutureExt, join_all};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::anchored::{anchored_lines, followed};
use crate::calls::traced;
use crate::exemplars::pointed_at;
use crate::golden::ratio;
use crate::measures::ERROR_LABEL;
use crate::questions::{LineFilter, LineQuestion, Measure, Resource, Selection, SeriesQuestion, Target, TraceQuestion};
use crate::source::{Reply, Source, SourceKind};
use crate::sources::{Sources, in_time, nobody};

/// What is asked about each namespace, in the order of worth.
const MEASURES: [Measure; 23] = [
    Measure::Memory,
    Measure::Limits,
    Measure::Restarts,
    Measure::LastTerminated,
    Measure::Waiting,
    Measure::Cpu,
    Measure::Throttling,
    Measure::Requests,
    Measure::RequestsByPod,
    Measure::LatencyP99,
    Measure::LatencyP99ByPod,
    Measure::Edge(Way::Requests),
    Measure::Edge(Way::Connections),
    Measure::Edge(Way::Handshakes),
    Measure::Edge(Way::Packets),
    Measure::PodPackets,
    Measure::Runtime,
    Measure::Disk,
    Measure::Network,
    Measure::VolumeFullness,
    Measure::NodeFullness(Resource::Cpu),
    Measure::NodeFullness(Resource::Memory),
    Measure::NodeFullness(Resource::Io),
];

/// Samples per series over all that is asked for: enough to see an onset to within one percent of the window.
const SAMPLES_PER_SERIES: i64 = 240;

/// Windows further apart than this are asked for one by one instead of with everything between them.
const GAP_MAX: SignedDuration = SignedDuration::from_mins(30);

/// Services whose traces are fetched: the focus and its nearest neighbours.
const TRACED_SERVICES_MAX: usize = 8;

/// Traces of one service and window. Tail shares of a few percent are visible in a hundred, and stores sample anyway.
const TRACES: usize = 100;

/// Lines of one namespace and window.
const LINES: usize = 2_000;

/// Texts that lines about trouble contain, as loggers of common languages write them; asked for besides the newest
/// lines, since a busy service buries its errors within seconds.
const TROUBLE: [&str; 4] = ["error", "ERROR", "xception", "panic"];

/// What to ask about.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// The workload that the incident is about.
    pub focus: Target,
    /// Workloads that it can reach, nearest first.
    pub neighbours: Vec<Target>,
}

/// When things were well and when they are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    pub normal: Window,
    pub fault: Window,
}

/// What the stores answered, ready to be put into [`Observations`](amend_diagnosis::evidence::Observations).
///
/// A field is `Known` when at least one of its questions was answered; each unanswered one is in `asked` with the reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Gathered {
    pub series: Answer<Vec<Series>>,
    pub spans: Answer<Vec<Span>>,
    /// Traces that exemplars of the focus' latency point at.
    pub exemplars: Answer<Vec<Span>>,
    pub logs: Answer<Vec<LogLine>>,
    /// Call edges, from the trace store's own sums and from the spans fetched.
    pub topology: Answer<Topology>,
    pub asked: Vec<Asked>,
    /// Samples left out because they were not numbers.
    pub dropped: usize,
}

/// Asks every store everything about an incident, concurrently, and stops waiting at the deadline.
pub async fn gather(sources: &Sources, scope: &Scope, windows: Windows, deadline: Duration) -> Gathered {
    let end = Instant::now() + deadline;
    let requests = async {
        let pointed_at = pointed_at(sources, scope, windows.fault, end);
        let (spans, (exemplars, pointing)) = futures::join!(spans(sources, scope, windows, end), pointed_at);
        let lines = anchored_lines(sources, scope, followed(&spans, &exemplars, windows), end).await;
        (spans, exemplars, pointing, lines)
    };
    let (series, counts, (spans, exemplars, pointing, anchored), calls, logs) = futures::join!(
        series(sources, scope, windows, end),
        line_counts(sources, scope, windows, end),
        requests,
        calls(sources, windows, end),
        lines(sources, scope, windows, end),
    );
    let mut asked = pointing;
    let mut dropped = 0;
    let mut metrics = settled(series, "metrics", &mut asked, &mut dropped);
    let counted = settled(counts, "logs", &mut asked, &mut dropped);
    if let (Answer::Known(metrics), Answer::Known(counted)) = (&mut metrics, counted) {
        metrics.extend(counted);
    }
    let home = scope.focus.entity.namespace.as_str();
    let spans = settled(spans, "traces", &mut asked, &mut dropped).map(unique_spans).map(|spans| placed(spans, home));
    let calls = settled(calls, "call edges", &mut asked, &mut dropped);
    let logs = settled(logs, "logs", &mut asked, &mut dropped);
    // Lines of a few requests do not stand for all lines: what the stores could not say stays unknown.
    let anchored = settled(anchored, "logs", &mut asked, &mut dropped);
    let logs = logs.map(|mut lines| {
        // Behind the others: of a line that was found twice, the first is kept.
        lines.extend(anchored.known().into_iter().flatten().cloned());
        classed(unique_lines(lines), sources)
    });
    Gathered {
        series: metrics.map(|series| derived(merged(series))),
        topology: topology(calls, &spans),
        spans,
        exemplars: exemplars.map(unique_spans).map(|spans| placed(spans, home)),
        logs,
        asked,
        dropped,
    }
}

/// Asks one store one question as many times as there are stores and variants of it.
pub(crate) type Questions<'a, T> = Vec<BoxFuture<'a, Reply<Vec<T>>>>;

async fn series(sources: &Sources, scope: &Scope, windows: Windows, end: Instant) -> Vec<Reply<Vec<Series>>> {
    let mut questions: Questions<'_, Series> = Vec::new();
    for source in sources.holding(SourceKind::holds_metrics) {
        for selection in selections(scope) {
            for (period, window) in periods(windows) {
                let step = step(window, source);
                for measure in MEASURES {
                    let id = format!("{}/{}/{}{period}", source.config().name, measure.name(), selection.namespace);
                    let window = ending_now(window, step);
                    let question = SeriesQuestion { id, measure, of: selection.clone(), window, step };
                    questions.push(
                        async move { in_time(source, &question.id, window, end, source.series(&question)).await }
                            .boxed(),
                    );
                }
            }
        }
    }
    join_all(questions).await
}

async fn line_counts(sources: &Sources, scope: &Scope, windows: Windows, end: Instant) -> Vec<Reply<Vec<Series>>> {
    let mut questions: Questions<'_, Series> = Vec::new();
    for source in sources.holding(SourceKind::holds_logs) {
        for selection in selections(scope) {
            for (period, window) in periods(windows) {
                let step = step(window, source).max(SignedDuration::from_secs(10));
                let window = ending_now(window, step);
                let kinds = [("lines", LineFilter::All), ("errors", LineFilter::Containing(TROUBLE[0].to_owned()))];
                for (kind, only) in kinds {
                    let id = format!("{}/{kind}-counted/{}{period}", source.config().name, selection.namespace);
                    let question = LineQuestion { id, of: selection.clone(), window, only, lines: LINES };
                    questions.push(
                        async move {
                            let counting = source.line_counts(&question, step);
                            in_time(source, &question.id, window, end, counting).await
                        }
                        .boxed(),
                    );
                }
            }
        }
    }
    join_all(questions).await
}

async fn spans(sources: &Sources, scope: &Scope, windows: Windows, end: Instant) -> Vec<Reply<Vec<Span>>> {
    let mut questions: Questions<'_, Span> = Vec::new();
    let services: Vec<(&str, &str)> = targets(scope)
        .flat_map(|target| target.services.iter().map(|service| (target.entity.namespace.as_str(), service.as_str())))
        .take(TRACED_SERVICES_MAX)
        .collect();
    for source in sources.holding(SourceKind::holds_traces) {
        for (namespace, service) in &services {
            for (period, window) in [("/normal", windows.normal), ("/fault", windows.fault)] {
                let question = TraceQuestion {
                    id: format!("{}/traces/{namespace}/{service}{period}", source.config().name),
                    namespace: (*namespace).to_owned(),
                    service: (*service).to_owned(),
                    window,
                    traces: TRACES,
                };
                questions.push(
                    async move { in_time(source, &question.id, window, end, source.traces(&question)).await }.boxed(),
                );
            }
        }
    }
    join_all(questions).await
}

async fn calls(sources: &Sources, windows: Windows, end: Instant) -> Vec<Reply<Vec<TopologyEdge>>> {
    // Who calls whom is asked over all the time there is: a caller that fails stops calling.
    let window =
        Window { from: windows.normal.from.min(windows.fault.from), to: windows.fault.to.max(windows.normal.to) };
    let questions = sources.holding(SourceKind::holds_calls).into_iter().map(|source| async move {
        let id = format!("{}/calls", source.config().name);
        in_time(source, &id, window, end, source.calls(window)).await
    });
    join_all(questions).await
}

async fn lines(sources: &Sources, scope: &Scope, windows: Windows, end: Instant) -> Vec<Reply<Vec<LogLine>>> {
    let mut questions: Questions<'_, LogLine> = Vec::new();
    for source in sources.holding(SourceKind::holds_logs) {
        for selection in selections(scope) {
            let all = [("/normal", windows.normal), ("/fault", windows.fault)]
                .map(|(period, window)| ("lines".to_owned(), period, window, LineFilter::All));
            let trouble = TROUBLE.map(|text| {
                (format!("lines-with-{text}"), "/fault", windows.fault, LineFilter::Containing(text.to_owned()))
            });
            for (kind, period, window, only) in all.into_iter().chain(trouble) {
                let id = format!("{}/{kind}/{}{period}", source.config().name, selection.namespace);
                let question = LineQuestion { id, of: selection.clone(), window, only, lines: LINES };
                questions.push(
                    async move { in_time(source, &question.id, window, end, source.lines(&question)).await }.boxed(),
                );
            }
        }
    }
    join_all(questions).await
}

pub(crate) fn targets(scope: &Scope) -> impl Iterator<Item = &Target> {
    std::iter::once(&scope.focus).chain(&scope.neighbours)
}

/// One selection for each namespace; a container in the focus does not narrow it, since its neighbours matter too.
fn selections(scope: &Scope) -> Vec<Selection> {
    Selection::by_namespace(targets(scope))
}

/// One stretch of time when the windows are close, else two, with the suffix that their ids get.
pub(crate) fn periods(windows: Windows) -> Vec<(&'static str, Window)> {
    let (first, last) = match windows.normal.from <= windows.fault.from {
        true => (windows.normal, windows.fault),
        false => (windows.fault, windows.normal),
    };
    match last.from.duration_since(first.to) <= GAP_MAX {
        true => vec![("", Window { from: first.from, to: first.to.max(last.to) })],
        false => vec![("/normal", windows.normal), ("/fault", windows.fault)],
    }
}

/// Whole seconds, never finer than the store samples.
pub(crate) fn step(window: Window, source: &dyn Source) -> SignedDuration {
    let length = window.to.duration_since(window.from).as_secs();
    SignedDuration::from_secs((length / SAMPLES_PER_SERIES).max(1)).max(source.config().sample_every)
}

/// The window as whole steps that end where it ends.
///
/// Right after an alert the newest samples say most: a grid of round times would leave out up to a step of them.
pub(crate) fn ending_now(window: Window, step: SignedDuration) -> Window {
    let step = step.as_millis().max(1) as i64;
    let (from, to) = (window.from.as_millisecond(), window.to.as_millisecond());
    let first = to - (to - from).max(0) / step * step;
    Window { from: Timestamp::from_millisecond(first).unwrap_or(window.to), to: window.to }
}

/// All answers of one kind put together; `Unknown` when nothing was asked or nothing answered.
pub(crate) fn settled<T>(
    replies: Vec<Reply<Vec<T>>>,
    what: &str,
    asked: &mut Vec<Asked>,
    dropped: &mut usize,
) -> Answer<Vec<T>> {
    if replies.is_empty() {
        return Answer::unknown(nobody(what));
    }
    let mut all = Vec::new();
    let mut answered = false;
    let mut reasons = BTreeSet::new();
    for reply in replies {
        *dropped += reply.dropped;
        match reply.answer {
            Answer::Known(part) => {
                answered = true;
                all.extend(part);
            }
            Answer::Unknown { why } => {
                reasons.insert(why);
            }
        }
        asked.push(reply.asked);
    }
    match answered {
        true => Answer::Known(all),
        false => Answer::unknown(reasons.into_iter().collect::<Vec<_>>().join("; ")),
    }
}

/// Series with the same labels become one: they come from two windows, or from two stores that scrape the same thing.
pub(crate) fn merged(series: Vec<Series>) -> Vec<Series> {
    let mut by_labels: BTreeMap<BTreeMap<String, String>, Series> = BTreeMap::new();
    for part in series {
        match by_labels.get_mut(&part.labels) {
            Some(known) => {
                known.samples.extend(part.samples);
                known.samples.sort_by(|left, right| left.0.total_cmp(&right.0));
                known.samples.dedup_by(|later, earlier| later.0 == earlier.0);
            }
            None => {
                by_labels.insert(part.labels.clone(), part);
            }
        }
    }
    by_labels.into_values().collect()
}

/// Requests by code become two series for each service and pod: how many, and what share of them failed.
pub(crate) fn derived(series: Vec<Series>) -> Vec<Series> {
    let (by_code, mut rest): (Vec<Series>, Vec<Series>) =
        series.into_iter().partition(|series| series.labels.contains_key(ERROR_LABEL));
    let mut groups: BTreeMap<BTreeMap<String, String>, Vec<Series>> = BTreeMap::new();
    for series in by_code {
        let mut labels = series.labels.clone();
        labels.remove(ERROR_LABEL);
        labels.remove("code");
        groups.entry(labels).or_default().push(series);
    }
    for (labels, group) in groups {
        let asked = group.first().map(|series| series.asked.clone()).unwrap_or_default();
        let mut named = |called: &str, samples: Vec<(f64, f64)>| {
            if !samples.is_empty() {
                let mut labels = labels.clone();
                labels.insert("__name__".to_owned(), called.to_owned());
                rest.push(Series { labels, samples, asked: asked.clone() });
            }
        };
        named(name::REQUEST_RATE, crate::golden::summed(&group));
        named(name::ERROR_RATIO, ratio(&group));
    }
    rest
}

/// Spans of services in other namespaces than the incident's say so in the name of their service: a store may hold staging and
/// production of one name.
fn placed(mut spans: Vec<Span>, home: &str) -> Vec<Span> {
    let is_name = |text: &str| {
        !text.is_empty()
            && text.len() <= 63
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    for span in &mut spans {
        let told = span.attributes.get(NAMESPACE).filter(|told| *told != home && is_name(told));
        if let Some(namespace) = told.filter(|_| !span.service.contains('/')) {
            span.service = format!("{namespace}/{}", span.service);
        }
    }
    spans
}

/// The attribute of a span's resource that tells its namespace.
const NAMESPACE: &str = "k8s.namespace.name";

fn unique_spans(spans: Vec<Span>) -> Vec<Span> {
    let mut seen = BTreeSet::new();
    spans.into_iter().filter(|span| seen.insert((span.trace_id.clone(), span.span_id.clone()))).collect()
}

/// The questions overlap: the same line may be among the newest and among those about trouble.
pub(crate) fn unique_lines(mut lines: Vec<LogLine>) -> Vec<LogLine> {
    let key = |line: &LogLine| (line.at_ns, line.source.clone(), line.body.clone());
    lines.sort_by_cached_key(key);
    lines.dedup_by(|later, earlier| later.at_ns.is_some() && key(later) == key(earlier));
    lines
}

/// Lines with the classes that people taught.
pub(crate) fn classed(mut lines: Vec<LogLine>, sources: &Sources) -> Vec<LogLine> {
    for line in &mut lines {
        line.taught = sources.taught(&line.body);
    }
    lines
}

/// Call edges that the store sums up, and those that the fetched spans show.
fn topology(calls: Answer<Vec<TopologyEdge>>, spans: &Answer<Vec<Span>>) -> Answer<Topology> {
    let mut edges: BTreeSet<(Entity, Entity)> = BTreeSet::new();
    if let Answer::Known(calls) = &calls {
        edges.extend(calls.iter().map(|edge| (edge.from.clone(), edge.to.clone())));
    }
    if let Answer::Known(spans) = spans {
        edges.extend(traced(spans));
    }
    if let (Answer::Unknown { why }, true) = (calls, edges.is_empty()) {
        return Answer::Unknown { why };
    }
    let nodes: BTreeSet<Entity> = edges.iter().flat_map(|(from, to)| [from.clone(), to.clone()]).collect();
    let edges = edges.into_iter().map(|(from, to)| TopologyEdge { from, to, kind: LinkKind::Calls }).collect();
    Answer::Known(Topology { nodes: nodes.into_iter().collect(), edges })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_samples_are_asked_for_whatever_the_step() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let window = ending_now(Window { from: at(101), to: at(144) }, SignedDuration::from_secs(15));
        assert_eq!((window.from, window.to), (at(114), at(144)));
        let short = ending_now(Window { from: at(140), to: at(144) }, SignedDuration::from_secs(15));
        assert_eq!((short.from, short.to), (at(144), at(144)), "one sample, the newest");
    }
}

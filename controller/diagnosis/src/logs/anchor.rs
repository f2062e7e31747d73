//! Anchoring: one request that failed, and what every service wrote about it, found by its trace id.
//!
//! Which requests are looked at is decided here ([`anchors`]); their lines are asked for elsewhere, 30 s around the span that
//! failed and two minutes when nothing is found there; what was found is told here ([`stories`]).
//!
//! ```text
//! spans since the trouble began -> the deepest span that failed in each trace -> one trace for each way of failing
//!     -> lines with its id, of whichever service -> in the order in which they were written
//! ```

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use aho_corasick::AhoCorasick;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::catalogue::Class;
use super::clean::{plain, without_time};
use crate::entity::{Entity, EntityKind};
use crate::evidence::{LogLine, Span, Window};
use crate::scene::{Scene, seconds};

/// Traces whose lines are asked for: enough for the few ways in which one cause makes requests fail.
pub const TRACES_MAX: usize = 4;

/// Traces that are looked at for lines that were read anyway.
const CANDIDATES_MAX: usize = 64;

/// Slowest requests that are looked at where none failed.
const SLOWEST: usize = 2;

/// How far around the span lines are looked for: services write what they did when a request is over, and clocks differ.
pub const NEAR: SignedDuration = SignedDuration::from_secs(30);

/// How far when nothing is found there: batched shippers and queues stamp late.
pub const WIDE: SignedDuration = SignedDuration::from_mins(2);

/// Requests that an answer tells, and lines of each.
const STORIES_MAX: usize = 2;
const LINES_MAX: usize = 12;

/// Characters of a line.
const LINE_MAX: usize = 240;

/// Ids shorter than this also stand in lines that have nothing to do with them; the longest known form has 36 characters.
const ID_LENGTH: std::ops::RangeInclusive<usize> = 8..=64;

/// A request worth following, and when its telling span was under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    pub trace_id: String,
    /// As the trace names them: of the deepest span that failed, or of the slowest request.
    pub service: String,
    pub operation: String,
    pub failed: bool,
    /// Unix nanoseconds.
    pub start_ns: u64,
    pub end_ns: u64,
}

impl Anchor {
    /// The time around the span in which its lines are looked for.
    pub fn around(&self, reach: SignedDuration) -> Window {
        let at = |ns: u64| Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH);
        let (from, to) = (at(self.start_ns), at(self.end_ns));
        Window { from: from.saturating_sub(reach).unwrap_or(from), to: to.saturating_add(reach).unwrap_or(to) }
    }

    fn holds(&self, at_ns: u64, reach: SignedDuration) -> bool {
        let reach = reach.as_nanos().unsigned_abs() as u64;
        (self.start_ns.saturating_sub(reach)..=self.end_ns.saturating_add(reach)).contains(&at_ns)
    }
}

/// A request that failed in some way: the more spans the earlier, and its deepest span that failed.
type Example<'s> = (Reverse<usize>, &'s Span);

/// Requests since the trouble began that failed, each way of failing once before any a second time; the slowest requests where
/// none failed. The most frequent way stands first. Spans may come in any order and more than once.
pub fn anchors<'s>(spans: impl IntoIterator<Item = &'s Span> + Clone, since_ns: u64) -> Vec<Anchor> {
    let told = |span: &&Span| span.start_ns >= since_ns && is_id(&span.trace_id);
    let failed = spans.clone().into_iter().filter(told).filter(|span| span.error);
    let failed: BTreeSet<&str> = failed.map(|span| span.trace_id.as_str()).collect();
    if failed.is_empty() {
        return slowest(spans.into_iter().filter(told));
    }
    let mut traces: BTreeMap<&str, BTreeMap<&str, &Span>> = BTreeMap::new();
    for span in spans.into_iter().filter(told).filter(|span| failed.contains(span.trace_id.as_str())) {
        traces.entry(&span.trace_id).or_default().entry(&span.span_id).or_insert(span);
    }
    let mut ways: BTreeMap<(&str, &str), Vec<Example<'_>>> = BTreeMap::new();
    for trace in traces.values() {
        if let Some(deepest) = deepest_failed(trace) {
            ways.entry((&deepest.service, &deepest.operation)).or_default().push((Reverse(trace.len()), deepest));
        }
    }
    let mut ways: Vec<_> = ways.into_iter().collect();
    ways.sort_by_key(|(way, examples)| (Reverse(examples.len()), *way));
    for (_, examples) in &mut ways {
        // The trace with the most spans has the most to tell.
        examples.sort_by_key(|(size, span)| (*size, span.start_ns, &span.trace_id));
    }
    let rounds = ways.iter().map(|(_, examples)| examples.len()).max().unwrap_or(0).min(CANDIDATES_MAX);
    let in_turn = (0..rounds).flat_map(|round| ways.iter().filter_map(move |(_, examples)| examples.get(round)));
    in_turn.take(CANDIDATES_MAX).map(|(_, span)| anchor(span, true)).collect()
}

fn slowest<'s>(spans: impl Iterator<Item = &'s Span>) -> Vec<Anchor> {
    let mut longest: BTreeMap<&str, &Span> = BTreeMap::new();
    for span in spans {
        let known = longest.entry(&span.trace_id).or_insert(span);
        if (span.duration_ns, Reverse(&span.span_id)) > (known.duration_ns, Reverse(&known.span_id)) {
            *known = span;
        }
    }
    let mut longest: Vec<&Span> = longest.into_values().collect();
    longest.sort_by_key(|span| (Reverse(span.duration_ns), &span.trace_id));
    longest.into_iter().take(SLOWEST).map(|span| anchor(span, false)).collect()
}

fn anchor(span: &Span, failed: bool) -> Anchor {
    Anchor {
        trace_id: span.trace_id.clone(),
        service: span.service.clone(),
        operation: span.operation.clone(),
        failed,
        start_ns: span.start_ns,
        end_ns: span.start_ns.saturating_add(span.duration_ns),
    }
}

/// The failed span below which nothing failed, the earliest where there are several.
fn deepest_failed<'s>(trace: &BTreeMap<&str, &'s Span>) -> Option<&'s Span> {
    let failed = || trace.values().copied().filter(|span| span.error);
    let passed_on: BTreeSet<&str> =
        failed().filter_map(|span| span.parent_id.as_deref().filter(|parent| *parent != span.span_id)).collect();
    failed()
        .filter(|span| !passed_on.contains(span.span_id.as_str()))
        .min_by_key(|span| (span.start_ns, &span.span_id))
        // Parents that go in circles.
        .or_else(|| failed().min_by_key(|span| (span.start_ns, &span.span_id)))
}

/// What tracers use as ids (OpenTelemetry, Zipkin, X-Ray, SkyWalking): nothing that could mean something else in a text.
fn is_id(id: &str) -> bool {
    ID_LENGTH.contains(&id.len())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        // Zeros mean "no trace" (W3C Trace Context, section 3.2.2.3).
        && id.chars().any(|c| c.is_ascii_alphanumeric() && c != '0')
}

/// One request as its services told it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TraceStory {
    pub trace: String,
    /// Who failed below everybody else, or who was slowest.
    pub entity: Entity,
    /// As the trace names it: untrusted text, at most 80 characters.
    pub operation: String,
    /// Whether it failed; else it was one of the slowest.
    pub failed: bool,
    /// Seconds around the span in which its lines were found.
    pub within: u32,
    /// In the order in which they were written.
    pub lines: Vec<StoryLine>,
    /// Lines of it that are not shown.
    #[serde(default)]
    pub left_out: u32,
    /// Ids of the questions that brought them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<String>,
}

/// One line of a story.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoryLine {
    pub at: Timestamp,
    /// Who wrote it: the workload, or the name that the store gives.
    pub service: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub severity: String,
    /// What it speaks of, where the catalogue or people know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// Untrusted text without controls and without its own time, at most 240 characters.
    pub text: String,
}

/// Failing requests with their lines, those that touch the likeliest cause first; slow ones only where something became slow.
pub fn stories(scene: &Scene<'_>, cause: Option<&Entity>, slower: bool) -> Vec<TraceStory> {
    let (Some(spans), Some(lines)) = (scene.observations.spans.known(), scene.observations.logs.known()) else {
        return Vec::new();
    };
    // The same beginning as when lines were asked for, so that the same requests are told.
    let began = scene.observations.fault.map(|window| window.from).or(scene.onset);
    let Some(began) = began else { return Vec::new() };
    let pointed_at = scene.observations.exemplars.known().into_iter().flatten();
    let anchors = anchors(spans.iter().chain(pointed_at), (seconds(began) * 1e9).max(0.0) as u64);
    let mut found = by_trace(&anchors, lines);
    let mut told: Vec<TraceStory> = anchors
        .iter()
        .filter(|anchor| anchor.failed || slower)
        .filter_map(|anchor| story(scene, anchor, found.remove(anchor.trace_id.as_str())?))
        .collect();
    let touches = |story: &TraceStory| {
        let cause = cause.map(Entity::workload);
        cause.is_some_and(|cause| story.entity == cause || story.lines.iter().any(|line| line.service == cause.name))
    };
    told.sort_by_key(|story| !touches(story));
    let mut ways = BTreeSet::new();
    told.retain(|story| ways.insert((story.entity.clone(), story.operation.clone())));
    told.truncate(STORIES_MAX);
    told
}

/// The lines of each request within the wide time around it: by the id that the store tells, else by the id in the text.
fn by_trace<'l>(anchors: &[Anchor], lines: &'l [LogLine]) -> BTreeMap<&'l str, Vec<(u64, &'l LogLine)>> {
    let known: BTreeMap<&str, &Anchor> = anchors.iter().map(|anchor| (anchor.trace_id.as_str(), anchor)).collect();
    // All ids in one automaton: every line near a request runs through it once.
    let ids = AhoCorasick::new(anchors.iter().map(|anchor| &anchor.trace_id)).ok();
    let mentioned = |line: &'l LogLine| {
        let found = ids.as_ref().into_iter().flat_map(|ids| ids.find_iter(&line.body));
        found.map(|one| one.range()).find(|range| stands_alone(&line.body, range)).map(|range| &line.body[range])
    };
    let mut found: BTreeMap<&str, Vec<(u64, &LogLine)>> = BTreeMap::new();
    for line in lines {
        let Some(at) = line.at_ns.filter(|at| anchors.iter().any(|anchor| anchor.holds(*at, WIDE))) else { continue };
        let told = line.trace_id.as_deref().filter(|id| !id.is_empty());
        let trace = told.or_else(|| mentioned(line));
        if let Some(trace) = trace.filter(|id| known.get(id).is_some_and(|anchor| anchor.holds(at, WIDE))) {
            found.entry(trace).or_default().push((at, line));
        }
    }
    found
}

/// Whether a piece of a text is not part of a longer id.
fn stands_alone(text: &str, piece: &Range<usize>) -> bool {
    let outside = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric());
    outside(text[..piece.start].chars().next_back()) && outside(text[piece.end..].chars().next())
}

fn story(scene: &Scene<'_>, anchor: &Anchor, lines: Vec<(u64, &LogLine)>) -> Option<TraceStory> {
    let near: Vec<(u64, &LogLine)> = lines.iter().copied().filter(|(at, _)| anchor.holds(*at, NEAR)).collect();
    let (reach, mut lines) = if near.is_empty() { (WIDE, lines) } else { (NEAR, near) };
    lines.sort_by(|(at, one), (other_at, other)| {
        (at, &one.source, &one.body).cmp(&(other_at, &other.source, &other.body))
    });
    lines.dedup_by(|(_, one), (_, other)| one.source == other.source && one.body == other.body);
    let all = lines.len();
    if all > LINES_MAX {
        // What speaks of trouble stays, the rest in the order of time.
        let mut order: Vec<usize> = (0..all).collect();
        order.sort_by_key(|at| (!matters(scene, lines[*at].1), *at));
        let kept: BTreeSet<usize> = order.into_iter().take(LINES_MAX).collect();
        lines = kept.into_iter().map(|at| lines[at]).collect();
    }
    let asked = scene.observations.asked.iter().filter(|asked| asked.query.contains(&anchor.trace_id));
    let mut asked: Vec<String> = asked.map(|asked| asked.id.clone()).collect();
    if asked.is_empty() {
        asked.extend(Some(scene.questions().about(&["logs", "log", "|="])).filter(|id| !id.is_empty()));
    }
    let told: Vec<StoryLine> = lines.into_iter().filter_map(|(at, line)| story_line(scene, at, line)).collect();
    (!told.is_empty()).then(|| TraceStory {
        trace: anchor.trace_id.clone(),
        entity: named(scene, &anchor.service),
        operation: plain(&anchor.operation).chars().take(80).collect(),
        failed: anchor.failed,
        within: u32::try_from(reach.as_secs()).unwrap_or(u32::MAX),
        left_out: u32::try_from(all - told.len()).unwrap_or(u32::MAX),
        lines: told,
        asked,
    })
}

fn matters(scene: &Scene<'_>, line: &LogLine) -> bool {
    let grave =
        |severity: &str| ["ERR", "WARN", "FATAL", "CRIT", "PANIC"].iter().any(|word| severity.starts_with(word));
    line.severity.as_deref().is_some_and(|severity| grave(&severity.to_ascii_uppercase()))
        || scene.class_of(line) != Class::Other
}

fn story_line(scene: &Scene<'_>, at: u64, line: &LogLine) -> Option<StoryLine> {
    let text = plain(&line.body);
    let text: Cow<'_, str> = match without_time(&text).char_indices().nth(LINE_MAX) {
        Some((end, _)) => format!("{}…", &without_time(&text)[..end]).into(),
        None => without_time(&text).into(),
    };
    Some(StoryLine {
        at: Timestamp::from_nanosecond(i128::from(at)).ok()?,
        service: named(scene, &line.source).name,
        severity: line.severity.as_deref().map(|word| plain(word).chars().take(16).collect()).unwrap_or_default(),
        class: Some(scene.class_of(line)).filter(|class| *class != Class::Other),
        text: text.into_owned(),
    })
}

/// The workload behind a name that a store gives, or the name itself.
fn named(scene: &Scene<'_>, told: &str) -> Entity {
    let (namespace, name) = told.split_once('/').unwrap_or(("", told));
    let known = scene.aligner.named(namespace, name);
    known.unwrap_or_else(|| {
        Entity::new(EntityKind::Unaligned, namespace, plain(name).chars().take(80).collect::<String>())
    })
}

#[cfg(test)]
mod tests;

//! Where the time goes: from a latency that rose down to the operations that take it.
//!
//! ```text
//! alerting entity -> requests that exemplars of its latency point at, else its slowest since the trouble began
//!     -> every span below them -> time of its own by service and operation, compared with the requests from before
//! ```
//!
//! The tail is followed, not the mean: the slowest tenth of requests shows what the p99 objective suffers from
//! (Dean and Barroso, "The Tail at Scale", CACM 2013).

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::entity::Entity;
use crate::evidence::Span;
use crate::robust::quantile;
use crate::scene::{Scene, seconds};

/// Rows of the table.
pub const ROWS_MAX: usize = 8;
/// Requests that one window needs before its tail means anything.
const REQUESTS_MIN: usize = 10;
/// How much slower the tail of a service must be to be looked into: as a factor, and in milliseconds.
const SLOWER: (f64, f64) = (1.5, 5.0);
/// Share of the requests that are the slow ones.
const TAIL: f64 = 0.9;
/// Slow requests that are followed down.
const FOLLOWED_MAX: usize = 500;
/// Milliseconds more per request below which an operation is not worth a row.
const GROWTH_MIN: f64 = 1.0;
/// Characters of an operation's name.
const NAME_MAX: usize = 80;

/// One operation of one service below the slow requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlowOperation {
    pub entity: Entity,
    /// As the traces name it: untrusted text, at most 80 characters.
    pub operation: String,
    /// Milliseconds of its own in one slow request, calls to others left out.
    pub own_ms: f64,
    /// The same in one request from before; zero when none of them came here.
    pub own_before_ms: f64,
    /// Milliseconds that the slowest hundredth of its spans took since the trouble began.
    pub p99_ms: f64,
    /// The same before; nothing when there were no such spans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_before_ms: Option<f64>,
    /// Share of its spans since then that failed, 0 to 1.
    pub error_ratio: f64,
    /// Spans since then.
    pub spans: u32,
}

/// Which requests were followed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Followed {
    pub requests: u32,
    /// Whether exemplars of the latency histogram point at them; else they were the slowest that were traced.
    pub exemplars: bool,
}

impl Followed {
    /// Which requests, for people.
    pub fn sentence(&self) -> String {
        match (self.exemplars, self.requests) {
            (true, 1) => "1 request that an exemplar of the latency points at".to_owned(),
            (true, many) => format!("{many} requests that exemplars of the latency point at"),
            (false, 1) => "the slowest request that was traced".to_owned(),
            (false, many) => format!("the {many} slowest requests that were traced"),
        }
    }
}

/// The operations that make an alerting entity slow, the one with the most additional time of its own first, and the requests
/// that say so.
///
/// Nothing when there are no traces, when too few requests were traced, or when no alerting entity became slower.
pub fn slowest(scene: &Scene<'_>) -> Option<(Followed, Vec<SlowOperation>)> {
    let forest = Forest::of(scene)?;
    let alerting: BTreeSet<Entity> =
        scene.observations.symptoms.iter().map(|signal| scene.symptom_entity(&signal.entity).workload()).collect();
    let slower = alerting
        .iter()
        .filter_map(|entity| forest.requests_to(entity).slower())
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    let (followed, rows) = slower.map(|(_, requests)| forest.table(&requests))?;
    (!rows.is_empty()).then_some((followed, rows))
}

/// Spans by their service and their children.
struct Forest<'s> {
    spans: Vec<&'s Span>,
    /// How many of them, from the front, were sampled without regard to how slow they were.
    sampled: usize,
    /// Traces that exemplars point at.
    exemplars: BTreeSet<&'s str>,
    of: Vec<Option<Entity>>,
    /// Sorted by start.
    children: Vec<Vec<usize>>,
    parents: Vec<Option<usize>>,
    since_ns: u64,
}

/// Requests that entered a service, as indices of their spans.
#[derive(Default)]
struct Requests {
    before: Vec<(usize, f64)>,
    since: Vec<(usize, f64)>,
    /// Since the trouble began, in traces that exemplars point at.
    exemplars: Vec<(usize, f64)>,
}

impl Requests {
    /// By how many milliseconds their tail is slower, when it is.
    fn slower(self) -> Option<(f64, Self)> {
        // A store that keeps few traces may have those that matter.
        let since = if self.since.len() < REQUESTS_MIN { &self.exemplars } else { &self.since };
        if self.before.len() < REQUESTS_MIN || (since.len() < REQUESTS_MIN && self.exemplars.is_empty()) {
            return None;
        }
        let tail = |list: &[(usize, f64)]| quantile(&list.iter().map(|(_, ms)| *ms).collect::<Vec<_>>(), 0.99);
        let (usual, now) = (tail(&self.before)?, tail(since)?);
        (now > SLOWER.0 * usual && now > usual + SLOWER.1).then_some((now - usual, self))
    }

    /// Those that exemplars point at, where one of them is as slow as the slowest tenth; else the slowest tenth itself. The slowest
    /// first.
    fn slow(&self) -> (bool, Vec<usize>) {
        let all: Vec<f64> = self.since.iter().map(|(_, ms)| *ms).collect();
        let bound = quantile(&all, TAIL).unwrap_or(0.0);
        let slow = |of: &[(usize, f64)]| -> Vec<usize> {
            let mut slow: Vec<(usize, f64)> = of.iter().copied().filter(|(_, ms)| *ms >= bound).collect();
            slow.sort_by(|one, other| other.1.total_cmp(&one.1));
            slow.into_iter().take(FOLLOWED_MAX).map(|(at, _)| at).collect()
        };
        match slow(&self.exemplars) {
            pointed_at if !pointed_at.is_empty() => (true, pointed_at),
            _ => (false, slow(&self.since)),
        }
    }
}

/// What is added up for one operation.
#[derive(Default)]
struct Sums {
    own_ms: [f64; 2],
    took_ms: [Vec<f64>; 2],
    failed: u32,
}

impl<'s> Forest<'s> {
    fn of(scene: &'s Scene<'_>) -> Option<Self> {
        let mut spans: Vec<&Span> = scene.observations.spans.known()?.iter().collect();
        let sampled = spans.len();
        let pointed_at = scene.observations.exemplars.known().map_or(&[][..], Vec::as_slice);
        let exemplars: BTreeSet<&str> = pointed_at.iter().map(|span| span.trace_id.as_str()).collect();
        if !pointed_at.is_empty() {
            let known: BTreeSet<(&str, &str)> =
                spans.iter().map(|span| (span.trace_id.as_str(), span.span_id.as_str())).collect();
            spans.extend(
                pointed_at.iter().filter(|span| !known.contains(&(span.trace_id.as_str(), span.span_id.as_str()))),
            );
        }
        let since = scene.onset.map(seconds).or(scene.windows.map(|windows| windows.sick.0))?;
        let mut names: BTreeMap<&str, Option<Entity>> = BTreeMap::new();
        let of = spans.iter().map(|span| {
            let entity = || {
                let (namespace, name) = span.service.split_once('/').unwrap_or(("", &span.service));
                scene.aligner.named(namespace, name)
            };
            names.entry(&span.service).or_insert_with(entity).clone()
        });
        let of: Vec<Option<Entity>> = of.collect();
        let index: BTreeMap<(&str, &str), usize> =
            spans.iter().enumerate().map(|(at, span)| ((span.trace_id.as_str(), span.span_id.as_str()), at)).collect();
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); spans.len()];
        let mut parents = vec![None; spans.len()];
        for (at, span) in spans.iter().enumerate() {
            let parent = span.parent_id.as_deref().and_then(|id| index.get(&(span.trace_id.as_str(), id)).copied());
            if let Some(parent) = parent.filter(|parent| *parent != at) {
                children[parent].push(at);
                parents[at] = Some(parent);
            }
        }
        for list in &mut children {
            list.sort_by_key(|at| (spans[*at].start_ns, &spans[*at].span_id));
        }
        Some(Self { spans, sampled, exemplars, of, children, parents, since_ns: (since * 1e9).max(0.0) as u64 })
    }

    /// Every span with which a request entered this entity.
    fn requests_to(&self, entity: &Entity) -> Requests {
        let mut requests = Requests::default();
        for (at, span) in self.spans.iter().enumerate() {
            let inside = |at: usize| self.of[at].as_ref() == Some(entity);
            if inside(at) && !self.parents[at].is_some_and(inside) {
                let request = (at, span.duration_ns as f64 / 1e6);
                let late = span.start_ns >= self.since_ns;
                if at < self.sampled {
                    let side = if late { &mut requests.since } else { &mut requests.before };
                    side.push(request);
                }
                if late && self.exemplars.contains(span.trace_id.as_str()) {
                    requests.exemplars.push(request);
                }
            }
        }
        requests
    }

    fn table(&self, requests: &Requests) -> (Followed, Vec<SlowOperation>) {
        let mut sums: BTreeMap<(&Entity, &str), Sums> = BTreeMap::new();
        let before: Vec<usize> = requests.before.iter().map(|(at, _)| *at).collect();
        let (exemplars, slow) = requests.slow();
        for (side, roots) in [&before, &slow].into_iter().enumerate() {
            for at in self.below(roots) {
                if let Some(entity) = &self.of[at] {
                    let span = self.spans[at];
                    let children = self.children[at].iter().map(|child| self.spans[*child]);
                    sums.entry((entity, &span.operation)).or_default().own_ms[side] +=
                        own_ns(span, children) as f64 / 1e6;
                }
            }
        }
        let count = |span: &Span, sum: &mut Sums| {
            let side = usize::from(span.start_ns >= self.since_ns);
            sum.took_ms[side].push(span.duration_ns as f64 / 1e6);
            sum.failed += u32::from(side == 1 && span.error);
        };
        let (sampled, pointed_at) = self.spans.split_at(self.sampled);
        for (span, of) in sampled.iter().zip(&self.of) {
            if let Some(sum) = of.as_ref().and_then(|entity| sums.get_mut(&(entity, span.operation.as_str()))) {
                count(span, sum);
            }
        }
        // What is told of an operation is told by the sample; by the exemplars where the sample missed it.
        let missed: BTreeSet<(&Entity, &str)> =
            sums.iter().filter(|(_, sum)| sum.took_ms[1].is_empty()).map(|(key, _)| *key).collect();
        for (span, of) in pointed_at.iter().zip(&self.of[self.sampled..]) {
            let key = of.as_ref().map(|entity| (entity, span.operation.as_str())).filter(|key| missed.contains(key));
            if let Some(sum) = key.and_then(|key| sums.get_mut(&key)) {
                count(span, sum);
            }
        }
        let (many_before, many_slow) = (before.len().max(1) as f64, slow.len().max(1) as f64);
        let mut rows: Vec<SlowOperation> = sums
            .into_iter()
            .filter_map(|((entity, operation), sum)| {
                let [before, since] = &sum.took_ms;
                Some(SlowOperation {
                    entity: entity.clone(),
                    operation: operation.chars().take(NAME_MAX).collect(),
                    own_ms: tenths(sum.own_ms[1] / many_slow),
                    own_before_ms: tenths(sum.own_ms[0] / many_before),
                    p99_ms: tenths(quantile(since, 0.99)?),
                    p99_before_ms: quantile(before, 0.99).map(tenths),
                    error_ratio: f64::from(sum.failed) / since.len() as f64,
                    spans: u32::try_from(since.len()).unwrap_or(u32::MAX),
                })
            })
            .filter(|row| row.own_ms - row.own_before_ms >= GROWTH_MIN)
            .collect();
        rows.sort_by(|one, other| (other.own_ms - other.own_before_ms).total_cmp(&(one.own_ms - one.own_before_ms)));
        rows.truncate(ROWS_MAX);
        (Followed { requests: u32::try_from(slow.len()).unwrap_or(u32::MAX), exemplars }, rows)
    }

    /// These spans and everything below them, each once even when parents go in circles.
    fn below(&self, roots: &[usize]) -> Vec<usize> {
        let mut seen = vec![false; self.spans.len()];
        let mut open = roots.to_vec();
        let mut found = Vec::new();
        while let Some(at) = open.pop() {
            if !std::mem::replace(&mut seen[at], true) {
                found.push(at);
                open.extend(&self.children[at]);
            }
        }
        found
    }
}

/// Nanoseconds of a span that no child covers; children overlap and may outlive it. They come sorted by start.
pub(crate) fn own_ns<'s>(span: &Span, children: impl Iterator<Item = &'s Span>) -> u64 {
    let (start, end) = (span.start_ns, span.start_ns.saturating_add(span.duration_ns));
    let (mut covered, mut until) = (0_u64, start);
    for child in children {
        let (from, to) = (child.start_ns.max(until), child.start_ns.saturating_add(child.duration_ns).min(end));
        if to > from {
            covered += to - from;
            until = to;
        }
    }
    span.duration_ns.saturating_sub(covered)
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::EntityKind;
    use crate::evidence::{Answer, LinkKind, Observations, SpanKind, Topology, TopologyEdge};
    use crate::signal::{Severity, Signal, SignalSource};

    const MS: u64 = 1_000_000;
    const BEGAN: i64 = 1_700_000_000;

    fn service(name: &str) -> Entity {
        Entity::new(EntityKind::Deployment, "shop", name)
    }

    fn span(trace: usize, id: &str, parent: Option<&str>, name: &str, start_ms: u64, ms: u64) -> Span {
        let (service, operation) = name.split_once(' ').unwrap();
        // Forty traces, one every ten seconds; trouble begins in the middle.
        let begin = (BEGAN - 200 + 10 * i64::try_from(trace).unwrap()) as u64 * 1_000 * MS;
        Span {
            trace_id: format!("t{trace}"),
            span_id: id.to_owned(),
            parent_id: parent.map(str::to_owned),
            service: service.to_owned(),
            pod: None,
            operation: operation.to_owned(),
            kind: SpanKind::Server,
            start_ns: begin + start_ms * MS,
            duration_ns: ms * MS,
            error: false,
            attributes: BTreeMap::new(),
        }
    }

    /// builder -> git-proxy -> object-store, whose reads become slow; another call beside them stays as quick as it was.
    fn observed(slow_ms: u64) -> Observations {
        let spans = (0..40).flat_map(|trace| {
            let read = if trace < 20 { 10 } else { slow_ms };
            [
                span(trace, "a", None, "builder build", 0, 100 + read),
                span(trace, "b", Some("a"), "git-proxy fetch", 10, 40 + read),
                span(trace, "c", Some("b"), "object-store read", 20, read),
                span(trace, "d", Some("a"), "cache look", 60 + read, 30),
            ]
        });
        let names = ["builder", "git-proxy", "object-store", "cache"];
        let edge = |from: &str, to: &str| TopologyEdge { from: service(from), to: service(to), kind: LinkKind::Calls };
        let at = jiff::Timestamp::from_second(BEGAN).unwrap();
        Observations {
            began: Some(at),
            spans: Answer::Known(spans.collect()),
            exemplars: Answer::unknown("the model keeps none"),
            topology: Answer::Known(Topology {
                nodes: names.map(service).into(),
                edges: vec![edge("builder", "git-proxy"), edge("git-proxy", "object-store"), edge("builder", "cache")],
            }),
            symptoms: vec![Signal {
                key: "HighLatency/builder".into(),
                source: SignalSource::Alert,
                name: "HighLatency".into(),
                entity: service("builder"),
                severity: Severity::Critical,
                started_at: at,
                ended_at: None,
                summary: String::new(),
                labels: BTreeMap::new(),
                count: 1,
            }],
            at: at + jiff::SignedDuration::from_secs(200),
            normal: None,
            fault: None,
            candidates: None,
            series: Answer::unknown("no metrics here"),
            logs: Answer::unknown("no logs here"),
            changes: Answer::Known(Vec::new()),
            objects: Answer::Known(Vec::new()),
            events: Answer::Known(Vec::new()),
            asked: Vec::new(),
        }
    }

    #[test]
    fn the_slowest_upstream_is_found_by_the_growth_of_its_own_time() {
        let observations = observed(900);
        let (followed, rows) = slowest(&Scene::new(&observations)).unwrap();
        assert_eq!(followed, Followed { requests: 20, exemplars: false });
        assert_eq!(rows.len(), 1, "who only waits has no row: {rows:#?}");
        let row = &rows[0];
        assert_eq!((row.entity.name.as_str(), row.operation.as_str()), ("object-store", "read"));
        assert_eq!((row.own_before_ms, row.own_ms, row.p99_before_ms, row.p99_ms), (10.0, 900.0, Some(10.0), 900.0));
        assert_eq!((row.spans, row.error_ratio), (20, 0.0));
    }

    #[test]
    fn a_latency_that_did_not_rise_is_not_looked_into() {
        assert_eq!(slowest(&Scene::new(&observed(11))), None);
    }

    #[test]
    fn without_traces_there_is_no_table() {
        let mut observations = observed(900);
        observations.spans = Answer::unknown("no trace store");
        assert_eq!(slowest(&Scene::new(&observations)), None);
    }

    #[test]
    fn spans_whose_parents_go_in_circles_are_counted_once() {
        let mut observations = observed(900);
        if let Answer::Known(spans) = &mut observations.spans {
            for span in spans.iter_mut().filter(|span| span.span_id == "a") {
                span.parent_id = Some("d".into());
            }
        }
        let (_, rows) = slowest(&Scene::new(&observations)).unwrap();
        assert_eq!(rows.iter().map(|row| row.own_ms).collect::<Vec<_>>(), [900.0], "{rows:#?}");
    }

    #[test]
    fn children_that_overlap_or_outlive_their_parent_are_not_counted_twice() {
        let parent = span(0, "a", None, "builder build", 0, 100);
        let children = [
            span(0, "b", None, "git-proxy fetch", 10, 50),
            span(0, "c", None, "git-proxy fetch", 30, 20),
            span(0, "d", None, "git-proxy fetch", 90, 50),
        ];
        assert_eq!(own_ns(&parent, children.iter()), 40 * MS);
    }

    /// Requests of a second way to be slow, which the sample missed: a lock in the cache.
    fn pointed_at(count: usize, slow_ms: u64) -> Vec<Span> {
        let of = |trace: usize| {
            let spans = [
                span(trace, "a", None, "builder build", 0, 100 + slow_ms),
                span(trace, "d", Some("a"), "cache lock", 60, slow_ms),
            ];
            spans.map(|one| Span { trace_id: format!("e{trace}"), ..one })
        };
        (30..30 + count).flat_map(of).collect()
    }

    #[test]
    fn requests_that_exemplars_point_at_are_followed_before_the_slowest() {
        let mut observations = observed(900);
        observations.exemplars = Answer::Known(pointed_at(3, 2_000));
        let (followed, rows) = slowest(&Scene::new(&observations)).unwrap();
        assert_eq!(followed, Followed { requests: 3, exemplars: true });
        assert_eq!((rows[0].operation.as_str(), rows[0].own_ms), ("lock", 2_000.0), "{rows:#?}");
        assert_eq!(followed.sentence(), "3 requests that exemplars of the latency point at");
    }

    #[test]
    fn exemplars_that_are_not_slow_are_not_followed_and_slow_ones_make_nothing_slow() {
        let mut observations = observed(900);
        observations.exemplars = Answer::Known(pointed_at(3, 1));
        assert!(!slowest(&Scene::new(&observations)).unwrap().0.exemplars);
        let mut observations = observed(11);
        observations.exemplars = Answer::Known(pointed_at(3, 2_000));
        assert_eq!(slowest(&Scene::new(&observations)), None, "the sample says that it is as quick as before");
    }

    #[test]
    fn where_hardly_anything_was_traced_since_exemplars_stand_for_the_tail() {
        let mut observations = observed(900);
        if let Answer::Known(spans) = &mut observations.spans {
            spans.retain(|span| span.start_ns < BEGAN as u64 * 1_000 * MS);
        }
        observations.exemplars = Answer::Known(pointed_at(2, 2_000));
        let (followed, rows) = slowest(&Scene::new(&observations)).unwrap();
        assert_eq!((followed.requests, rows[0].operation.as_str(), rows[0].spans), (2, "lock", 2));
    }
}

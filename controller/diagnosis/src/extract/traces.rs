//! Traces: time of its own, gaps between client and server, sequences that changed ([`events`]) or stop.

mod events;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::diagnosis::cause;
use crate::drilldown::own_ns;
use crate::entity::{Entity, EntityKind};
use crate::evidence::{LogLine, Span, SpanKind};
use crate::finding::{Finding, Modality};
use crate::metric::{Family, name_of};
use crate::robust::{mad, median, quantile};
use crate::scene::Scene;
use crate::windows::within;

/// From the extractor's own scale to nats.
const NATS: f64 = 2.5;
/// Against a slow entity whose traced calls are as quick as before, or that no traced request reached.
const QUICK: f64 = 4.0;
/// Against a busy entity that no traced request reached: it may still starve its neighbours.
const UNREACHED: f64 = 1.5;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut best: BTreeMap<(Entity, &'static str), Finding> = BTreeMap::new();
    let asked = scene.questions().about(&["trace", "span"]);
    let saturated = super::metrics::saturated(scene);
    let mut put = |entity: &Entity, kind: &'static str, weight: f64, mut sentence: String, label: &str| {
        let weight = NATS * weight;
        // A server without CPU takes calls late: between the two spans this looks like the way, and is the server.
        let starved = kind == cause::NETWORK && saturated.contains(entity);
        let kind = if starved { cause::CPU } else { kind };
        if starved {
            sentence.push_str(", while it uses all the CPU that it may");
        }
        let key = (entity.clone(), kind);
        if weight > 0.05 && best.get(&key).is_none_or(|known| known.weight < weight) {
            let finding =
                Finding::new(entity.clone(), kind, Modality::Traces, weight, sentence).labelled(label).asked(&asked);
            best.insert(key, finding);
        }
    };
    let forest = Forest::of(scene);
    if let Some(forest) = &forest {
        forest.gaps(&mut put);
        forest.self_times(&mut put);
        forest.pairs(scene, &mut put);
        forest.stops(&mut put);
    }
    reporter_gaps(scene, &mut put);
    let against = forest.map(|forest| forest.contradicted(scene)).unwrap_or_default();
    best.into_values().chain(against.into_iter().map(|finding| finding.asked(&asked))).collect()
}

type Put<'p> = dyn FnMut(&Entity, &'static str, f64, String, &str) + 'p;

/// Values before and since.
type Split = (Vec<f64>, Vec<f64>);

/// All spans with their children, services as numbers.
struct Forest<'s> {
    spans: &'s [Span],
    services: Vec<Entity>,
    /// Service of each span.
    of: Vec<usize>,
    children: Vec<Vec<u32>>,
    since: u64,
    traces: [f64; 2],
    /// Spans that say nothing of what their service does: before the trouble, those whose service failed in the same trace;
    /// at any time, calls that nobody answered.
    tainted: Vec<bool>,
    /// The middle of the time before the trouble: what differs between its halves is no effect of the trouble.
    middle: u64,
    /// How much each span counts: a trace that repeats one operation endlessly is no crowd of witnesses.
    part: Vec<f64>,
    /// On whose behalf each span works: the operations above it up to the request, as a number.
    context: Vec<u32>,
}

impl<'s> Forest<'s> {
    fn of(scene: &'s Scene<'_>) -> Option<Self> {
        let spans = scene.observations.spans.known()?.as_slice();
        let began = scene.observations.began.map(|at| at.as_nanosecond() as f64);
        let since = began.or(scene.windows.map(|windows| windows.sick.0 * 1e9))? as u64;
        let mut numbers: HashMap<&str, Option<usize>> = HashMap::new();
        let mut services: Vec<Entity> = Vec::new();
        let mut of = Vec::with_capacity(spans.len());
        for span in spans {
            let number = numbers.entry(&span.service).or_insert_with(|| {
                let entity = scene.aligner.source(&span.service)?;
                Some(services.iter().position(|known| *known == entity).unwrap_or_else(|| {
                    services.push(entity);
                    services.len() - 1
                }))
            });
            of.push(number.unwrap_or(usize::MAX));
        }
        let index: HashMap<(&str, &str), u32> = spans
            .iter()
            .enumerate()
            .map(|(at, span)| ((span.trace_id.as_str(), span.span_id.as_str()), at as u32))
            .collect();
        let mut children: Vec<Vec<u32>> = vec![Vec::new(); spans.len()];
        for (at, span) in spans.iter().enumerate() {
            let parent = span.parent_id.as_deref().and_then(|id| index.get(&(span.trace_id.as_str(), id)));
            if let Some(parent) = parent.filter(|parent| **parent != at as u32) {
                children[*parent as usize].push(at as u32);
            }
        }
        for list in &mut children {
            list.sort_by(|a, b| {
                let key = |at: &u32| (spans[*at as usize].start_ns, &spans[*at as usize].span_id);
                key(a).cmp(&key(b))
            });
        }
        let mut seen: [BTreeSet<&str>; 2] = [BTreeSet::new(), BTreeSet::new()];
        for span in spans {
            seen[usize::from(span.start_ns >= since)].insert(&span.trace_id);
        }
        let traces = [seen[0].len().max(1) as f64, seen[1].len().max(1) as f64];
        let comparable = seen.iter().all(|traces| traces.len() >= 3);
        let mut failed: HashSet<(&str, &str)> = HashSet::new();
        let service_of =
            |trace: &'s str, span: &'s str| Some(spans[*index.get(&(trace, span))? as usize].service.as_str());
        for line in scene.observations.logs.known().into_iter().flatten() {
            if let (Some(trace), Some(span), true) = (&line.trace_id, &line.span_id, is_error(line)) {
                failed.extend(service_of(trace, span).map(|service| (trace.as_str(), service)));
            }
        }
        failed
            .extend(spans.iter().filter(|span| span.error).map(|span| (span.trace_id.as_str(), span.service.as_str())));
        let tainted = spans
            .iter()
            .zip(&children)
            .map(|(span, children)| {
                let unanswered = span.kind == SpanKind::Client && span.error && children.is_empty();
                let failed = || failed.contains(&(span.trace_id.as_str(), span.service.as_str()));
                unanswered || (span.start_ns < since && failed())
            })
            .collect();
        let mut before: Vec<u64> = spans.iter().map(|span| span.start_ns).filter(|start| *start < since).collect();
        let half = before.len() / 2;
        let middle = if before.is_empty() { since } else { *before.select_nth_unstable(half).1 };
        let part = parts(spans);
        let context = events::contexts(spans, &of, &children);
        comparable.then_some(Self { spans, services, of, children, since, traces, tainted, middle, part, context })
    }

    /// Early before the trouble, late before it, since.
    fn third(&self, at: usize) -> usize {
        let start = self.spans[at].start_ns;
        usize::from(start >= self.middle) + usize::from(start >= self.since)
    }

    fn sick(&self, at: usize) -> usize {
        usize::from(self.spans[at].start_ns >= self.since)
    }

    /// The only child, when it belongs to another service: then the difference is the way between them.
    fn only_remote(&self, at: usize) -> Option<usize> {
        match self.children[at].as_slice() {
            [only] if self.of[*only as usize] != self.of[at] => Some(*only as usize),
            _ => None,
        }
    }

    /// Entities that metrics may call slow or busy while the traces show that no request felt it: a coincidence.
    fn contradicted(&self, scene: &Scene<'_>) -> Vec<Finding> {
        let mut durations: BTreeMap<(usize, &str), Split> = BTreeMap::new();
        for (at, span) in self.spans.iter().enumerate() {
            let duration = span.duration_ns as f64 / 1e6;
            push(durations.entry((self.of[at], &span.operation)).or_default(), self.sick(at), duration);
        }
        let gaps = self.moved_gaps();
        let mut against = Vec::new();
        let mut seen_sick: BTreeSet<&Entity> = BTreeSet::new();
        for (number, entity) in self.services.iter().enumerate() {
            let own: Vec<&Split> = durations.range((number, "")..(number + 1, "")).map(|(_, split)| split).collect();
            let (before, after) =
                own.iter().fold((0, 0), |(before, after), (b, a)| (before + b.len(), after + a.len()));
            if after > 0 {
                seen_sick.insert(entity);
            }
            if before < 10 || after < 10 {
                continue;
            }
            let slower =
                own.iter().filter(|(before, after)| before.len() >= 3 && after.len() >= 3).any(|(before, after)| {
                    let high = |list: &[f64]| quantile(list, 0.8).unwrap_or(0.0);
                    high(after) > 1.2 * high(before) + 2.0
                });
            let late = gaps.iter().any(|((from, to), (_, ms))| (*from == number || *to == number) && *ms > 2.0);
            if !slower && !late {
                let sentence = format!("{after} traced calls in {} are as quick as before", entity.name);
                against.push(Finding::new(entity.clone(), cause::LATENCY, Modality::Traces, -QUICK, sentence));
            }
        }
        if seen_sick.len() < 5 || self.traces[1] < 10.0 {
            return against;
        }
        let called: BTreeSet<&Entity> = seen_sick.iter().flat_map(|entity| scene.graph.callees(entity)).collect();
        let others = scene.series.keys().filter(|entity| entity.kind != EntityKind::Node);
        for entity in others.filter(|entity| !seen_sick.contains(entity) && !called.contains(entity)) {
            let sentence = format!("none of {:.0} traced requests reached {}", self.traces[1], entity.name);
            for (kind, weight) in [(cause::LATENCY, QUICK), (cause::CPU, UNREACHED)] {
                against.push(Finding::new(entity.clone(), kind, Modality::Traces, -weight, sentence.clone()));
            }
        }
        against
    }

    /// The gap between client and server span, charged by the share of an entity's edges that are slow.
    fn gaps(&self, put: &mut Put<'_>) {
        charge(&self.services, &self.moved_gaps(), 0.8, "network gap", put);
    }

    /// How far the gap of each call moved: in units of its noise, and in milliseconds.
    fn moved_gaps(&self) -> BTreeMap<(usize, usize), (f64, f64)> {
        let mut edges: BTreeMap<(usize, usize), Split> = BTreeMap::new();
        for at in 0..self.spans.len() {
            if let Some(child) = self.only_remote(at) {
                let gap = self.spans[at].duration_ns.saturating_sub(self.spans[child].duration_ns) as f64 / 1e6;
                push(edges.entry((self.of[at], self.of[child])).or_default(), self.sick(at), gap);
            }
        }
        edges
            .iter()
            .filter(|(_, (before, after))| before.len() >= 3 && after.len() >= 2)
            .filter_map(|(edge, (before, after))| {
                let (usual, now) = (median(before)?, median(after)?);
                let noise = mad(before, usual).max(0.1 * usual).max(0.5);
                Some((*edge, ((now - usual) / noise, now - usual)))
            })
            .collect()
    }

    /// Time in a span that no child covers.
    fn self_times(&self, put: &mut Put<'_>) {
        let mut operations: BTreeMap<(usize, &str), Split> = BTreeMap::new();
        for (at, span) in self.spans.iter().enumerate() {
            let unanswered = span.kind == SpanKind::Client && span.error && self.children[at].is_empty();
            if unanswered || self.only_remote(at).is_some() {
                continue;
            }
            let children = self.children[at].iter().map(|child| &self.spans[*child as usize]);
            let own = own_ns(span, children) as f64 / 1e6;
            push(operations.entry((self.of[at], &span.operation)).or_default(), self.sick(at), own);
        }
        for ((service, operation), (before, after)) in &operations {
            let (Some(entity), true) = (self.services.get(*service), before.len() >= 5 && after.len() >= 3) else {
                continue;
            };
            let (Some(usual), Some(now)) = (median(before), median(after)) else { continue };
            let noise = mad(before, usual).max(0.15 * usual).max(1.0);
            let z = (now - usual) / noise;
            let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
            let per_trace = (mean(after) - mean(before)) * after.len() as f64 / self.traces[1];
            if z > 3.0 && per_trace > 1.0 {
                let weight = 0.5 * z.ln_1p() * (per_trace.ln_1p() / 3.0).min(1.0);
                let sentence =
                    format!("own time of {operation} in {} rose from {usual:.1} ms to {now:.1} ms", entity.name);
                put(entity, cause::LATENCY, weight, sentence, "more time of its own");
            }
        }
    }

    /// Sequences that got shorter stop after the call that went wrong.
    fn stops(&self, put: &mut Put<'_>) {
        type Last<'o> = (usize, &'o str);
        let mut lengths: BTreeMap<(usize, &str), Split> = BTreeMap::new();
        let mut lasts: BTreeMap<(usize, &str), [BTreeMap<Last<'_>, f64>; 2]> = BTreeMap::new();
        for (at, span) in self.spans.iter().enumerate().filter(|(at, _)| !self.tainted[*at]) {
            let (key, sick) = ((self.of[at], span.operation.as_str()), self.sick(at));
            push(lengths.entry(key).or_default(), sick, self.children[at].len() as f64);
            if let Some(last) = self.children[at].last().map(|last| *last as usize) {
                let behind = self.children[last].first().map(|first| self.of[*first as usize]);
                let service = match self.of[last] == self.of[at] {
                    true => behind.unwrap_or(self.of[at]),
                    false => self.of[last],
                };
                let counts = &mut lasts.entry(key).or_default()[sick];
                *counts.entry((service, &self.spans[last].operation)).or_default() += 1.0;
            }
        }
        let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len().max(1) as f64;
        for (key, (before, after)) in &lengths {
            if before.len() < 8 || after.len() < 5 || mean(before) < 2.0 || mean(after) >= 0.7 * mean(before) {
                continue;
            }
            let Some([usual, now]) = lasts.get(key) else { continue };
            let (all_usual, all_now) = (usual.values().sum::<f64>().max(1.0), now.values().sum::<f64>().max(1.0));
            let grown = now
                .iter()
                .map(|(last, count)| (count / all_now - usual.get(last).copied().unwrap_or(0.0) / all_usual, last));
            let Some((grown, (service, operation))) = grown.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(a.1)))
            else {
                continue;
            };
            if let (true, Some(entity)) = (grown > 0.2, self.services.get(*service)) {
                let sentence = format!("{} now stops after {operation} ({:+.0} % of calls)", key.1, grown * 100.0);
                put(entity, cause::BEHAVIOUR, 2.2 * grown + 0.6, sentence, "sequences stop here");
            }
        }
    }
}

/// Spans of one operation in one trace that count in full: loops and recursion beyond are one observation more often told.
const PER_TRACE: f64 = 8.0;

/// How much each span counts when it shares its service and operation with many others of its trace.
fn parts(spans: &[Span]) -> Vec<f64> {
    fn key(span: &Span) -> (&str, &str, &str) {
        (&span.trace_id, &span.service, &span.operation)
    }
    let mut counts: HashMap<(&str, &str, &str), f64> = HashMap::with_capacity(spans.len());
    for span in spans {
        *counts.entry(key(span)).or_default() += 1.0;
    }
    spans.iter().map(|span| (PER_TRACE / counts[&key(span)]).min(1.0)).collect()
}

/// A line that its writer calls an error.
pub(super) fn is_error(line: &LogLine) -> bool {
    let loud = |text: &str| ["ERROR", "FATAL", "CRITICAL"].iter().any(|word| text.contains(word));
    line.severity.as_deref().is_some_and(|severity| loud(&severity.to_ascii_uppercase()))
        || loud(line.body.get(..80).unwrap_or(&line.body))
}

fn push(split: &mut Split, sick: usize, value: f64) {
    match sick {
        0 => split.0.push(value),
        _ => split.1.push(value),
    }
}

/// Charges slow edges to the entity whose edges are slow throughout; callees a little more than callers.
fn charge(
    services: &[Entity],
    moved: &BTreeMap<(usize, usize), (f64, f64)>,
    factor: f64,
    what: &str,
    put: &mut Put<'_>,
) {
    for (number, entity) in services.iter().enumerate() {
        let incident: Vec<_> = moved.iter().filter(|((from, to), _)| *from == number || *to == number).collect();
        let hot: Vec<_> = incident.iter().filter(|(_, (z, ms))| *z > 5.0 && *ms > 5.0).collect();
        let Some(highest) = hot.iter().map(|(_, (z, _))| *z).reduce(f64::max) else { continue };
        let share = hot.len() as f64 / incident.len() as f64;
        let called = hot.iter().any(|((_, to), _)| *to == number);
        let weight = highest.ln_1p() * (0.5 + 0.5 * share) * if called { 1.0 } else { 0.8 } * factor;
        let slowest = hot.iter().map(|(_, (_, ms))| *ms).fold(0.0, f64::max);
        let sentence = format!(
            "{what} around {}: {} of {} edges slower, up to {slowest:.0} ms",
            entity.name,
            hot.len(),
            incident.len()
        );
        put(entity, cause::NETWORK, weight, sentence, "slow on the way");
    }
}

/// What a mesh measures on both sides of a call: the difference is the way between.
fn reporter_gaps(scene: &Scene<'_>, put: &mut Put<'_>) {
    let Some(windows) = scene.windows else { return };
    let mut sides: BTreeMap<(Entity, Entity), BTreeMap<&str, &crate::evidence::Series>> = BTreeMap::new();
    for series in scene.observations.series.known().into_iter().flatten() {
        if Family::of(name_of(&series.labels)) != Family::Latency && !series.labels.contains_key("reporter") {
            continue;
        }
        let end = |label: &str| scene.aligner.named("", series.labels.get(label)?);
        if let (Some(reporter), Some(from), Some(to)) =
            (series.labels.get("reporter"), end("source"), end("destination"))
        {
            sides.entry((from, to)).or_default().insert(reporter, series);
        }
    }
    let services: Vec<Entity> =
        sides.keys().flat_map(|(from, to)| [from.clone(), to.clone()]).collect::<BTreeSet<_>>().into_iter().collect();
    let number = |entity: &Entity| services.iter().position(|known| known == entity).unwrap_or(usize::MAX);
    let mut moved = BTreeMap::new();
    for ((from, to), reporters) in &sides {
        let (Some(source), Some(destination)) = (reporters.get("source"), reporters.get("destination")) else {
            continue;
        };
        let there: HashMap<u64, f64> = destination.samples.iter().map(|(at, value)| (at.to_bits(), *value)).collect();
        let samples =
            source.samples.iter().filter_map(|(at, value)| Some((*at, (value - there.get(&at.to_bits())?) * 1000.0)));
        let gap = crate::evidence::Series { samples: samples.collect(), ..(*source).clone() };
        let (before, after) = (within(&gap, windows.normal), within(&gap, windows.sick));
        if let (true, Some(usual), Some(now)) = (before.len() > 4, median(&before), median(&after)) {
            let noise = mad(&before, usual).max(0.1 * usual.abs()).max(1.0);
            moved.insert((number(from), number(to)), ((now - usual) / noise, now - usual));
        }
    }
    charge(&services, &moved, 0.6, "difference between what client and server measure", put);
}

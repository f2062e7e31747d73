//! What happens inside one operation, in which order, and on whose behalf (after Nezha, FSE'23): calls and log lines as events,
//! and which direct successions vanished or appeared.

use std::collections::{BTreeMap, BTreeSet};

use super::{Forest, Put};
use crate::diagnosis::cause;
use crate::evidence::Span;
use crate::scene::Scene;

/// Characters of a log line that name its event: what differs often stands behind class and method names.
const EVENT_NAME: usize = 160;

/// What was logged inside each span (trace and span id), with its time in nanoseconds.
type Lines<'s, T> = BTreeMap<(&'s str, &'s str), Vec<(u64, T)>>;

/// By context: how often early before the trouble, late before it, and since.
type Thirds = BTreeMap<u32, [f64; 3]>;

impl Forest<'_> {
    /// Which direct successions of events inside an operation vanished or appeared (after Nezha, FSE'23).
    pub(super) fn pairs(&self, scene: &Scene<'_>, put: &mut Put<'_>) {
        let mut lines: Lines<'_, String> = BTreeMap::new();
        for line in scene.observations.logs.known().into_iter().flatten() {
            if let (Some(trace), Some(span), Some(at)) = (&line.trace_id, &line.span_id, line.at_ns) {
                lines.entry((trace, span)).or_default().push((at, event_name(&line.body)));
            }
        }
        let mut names: BTreeMap<String, u32> = BTreeMap::new();
        let mut name = |text: String| -> u32 {
            let next = names.len() as u32;
            *names.entry(text).or_insert(next)
        };
        let (start, end) = (name("start".into()), name("end".into()));
        let lines = in_order(lines, &mut name);
        let mut counts: BTreeMap<(usize, &str, u32, u32), Thirds> = BTreeMap::new();
        let mut totals: BTreeMap<(usize, &str), Thirds> = BTreeMap::new();
        let mut callees: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (at, span) in self.spans.iter().enumerate().filter(|(at, _)| !self.tainted[*at]) {
            let (third, context) = (self.third(at), self.context[at]);
            // Calls and log lines are two sequences: they are stamped by different clocks, and which of two comes
            // first within a millisecond is chance.
            let mut calls: Vec<(u64, u32)> = Vec::new();
            for child in &self.children[at] {
                let (service, child) = (self.of[*child as usize], &self.spans[*child as usize]);
                if service != self.of[at] {
                    callees.entry(self.of[at]).or_default().insert(service);
                }
                calls.push((child.start_ns, name(format!("calls {}", child.operation))));
            }
            calls.sort();
            let said = lines.get(&(span.trace_id.as_str(), span.span_id.as_str())).map_or(&[][..], Vec::as_slice);
            let mut distinct: BTreeSet<(u32, u32)> = BTreeSet::new();
            for events in [&calls, said] {
                let mut before = start;
                for (_, event) in events.iter() {
                    distinct.insert((before, *event));
                    before = *event;
                }
                distinct.insert((before, end));
            }
            for (first, second) in distinct {
                let known = counts.entry((self.of[at], &span.operation, first, second)).or_default();
                known.entry(context).or_default()[third] += self.part[at];
            }
            let all = totals.entry((self.of[at], &span.operation)).or_default();
            all.entry(context).or_default()[third] += self.part[at];
        }
        let mut text_of: Vec<&str> = vec![""; names.len()];
        for (text, number) in &names {
            text_of[*number as usize] = text;
        }
        let mut own: BTreeMap<usize, (f64, String)> = BTreeMap::new();
        for ((service, operation, first, second), counts) in &counts {
            let Some(Shares { before: p, after: q, z }) = shares(counts, &totals[&(*service, *operation)]) else {
                continue;
            };
            let fresh = p.min(q) < 0.02 && z >= 4.5;
            if (p - q).abs() > 0.2 || (fresh && (p - q).abs() > 0.08) {
                let size = (1.5 * (p - q).abs()).min(1.0).max(if fresh { 0.6 } else { 0.0 });
                let weight = z.ln_1p() * size;
                let known = own.entry(*service).or_default();
                if weight > known.0 {
                    let (first, second) = (text_of[*first as usize], text_of[*second as usize]);
                    let short = |text: &str| -> String { text.chars().take(48).collect() };
                    let sentence = format!(
                        "in {operation}, \"{}\" then \"{}\" went from {p:.2} to {q:.2} per call",
                        short(first),
                        short(second)
                    );
                    *known = (weight, sentence);
                }
            }
        }
        for (service, (weight, sentence)) in &own {
            let Some(entity) = self.services.get(*service) else { continue };
            let deeper = callees
                .get(service)
                .into_iter()
                .flatten()
                .filter_map(|callee| own.get(callee))
                .map(|(weight, _)| *weight);
            let explained = deeper.fold(0.0, f64::max) >= 0.6 * weight;
            let left = if explained { 0.3 * weight } else { *weight };
            if left > 0.8 {
                put(entity, cause::BEHAVIOUR, 0.8 * left, sentence.clone(), "does other things than before");
            }
        }
    }
}

/// The lines of each span as numbered events, in their order. Loggers stamp milliseconds: which of two lines with one stamp came
/// first is taken from the spans in which their stamps differ, else chance would look like another order of things.
fn in_order<'s>(lines: Lines<'s, String>, name: &mut impl FnMut(String) -> u32) -> Lines<'s, u32> {
    let mut places: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    let mut named: Lines<'s, u32> = BTreeMap::new();
    for (span, mut lines) in lines {
        lines.sort();
        let events: Vec<(u64, u32)> =
            lines.into_iter().map(|(time, text)| (time, name(format!("says {text}")))).collect();
        let mut earlier = 0;
        for (at, (time, event)) in events.iter().enumerate() {
            if at > 0 && events[at - 1].0 < *time {
                earlier = at;
            }
            let place = places.entry(*event).or_default();
            *place = (place.0 + earlier as f64, place.1 + 1.0);
        }
        named.insert(span, events);
    }
    let place = |event: &u32| places.get(event).map_or(0.0, |(sum, count)| sum / count);
    for events in named.values_mut() {
        events.sort_by(|a, b| a.0.cmp(&b.0).then(place(&a.1).total_cmp(&place(&b.1))));
    }
    named
}

/// How often something happens per call, before the trouble and since, and how far apart that is in units of chance.
struct Shares {
    before: f64,
    after: f64,
    z: f64,
}

/// Compares like with like: the share before is that of calls on behalf of the same requests as the calls since. When other
/// requests come (because people ask for other things, or because theirs now fail further up) an operation
/// does other things too, and nothing is wrong with it. This is direct standardisation, as in epidemiology (Rothman,
/// Modern Epidemiology, ch. 4); weights are the calls since. None when too few calls are left to compare.
fn shares(counts: &Thirds, totals: &Thirds) -> Option<Shares> {
    let mut shared = 0.0;
    let (mut happened, mut expected, mut thin) = (0.0, 0.0, 0.0);
    let mut halves = [[0.0; 2]; 2];
    for (context, [all_early, all_late, all_after]) in totals {
        let [early, late, after] = counts.get(context).copied().unwrap_or_default();
        let all_before = all_early + all_late;
        if all_before <= 0.0 || *all_after <= 0.0 {
            continue;
        }
        shared += all_after;
        happened += after;
        expected += all_after * (early + late) / all_before;
        thin += all_after * all_after / all_before;
        for (half, count) in halves.iter_mut().zip([[early, *all_early], [late, *all_late]]) {
            *half = [half[0] + count[0], half[1] + count[1]];
        }
    }
    // As many calls before the trouble, all of one context, would tell as much.
    let worth = shared * shared / thin.max(f64::MIN_POSITIVE);
    if worth < 3.0 || shared < 3.0 {
        return None;
    }
    let (p, q) = (expected / shared, happened / shared);
    let spread = ((p * (1.0 - p)).max(0.02) / worth + (q * (1.0 - q)).max(0.02) / shared).sqrt();
    let [[early, all_early], [late, all_late]] = halves;
    let drift = match all_early >= 2.0 && all_late >= 2.0 {
        // Two halves differ by chance as well; only what is beyond that is drift.
        true => (0.5 * (early / all_early - late / all_late).abs() - spread).max(0.0),
        false => 0.0,
    };
    Some(Shares { before: p, after: q, z: ((q - p) / spread.hypot(drift)).abs() })
}

/// A chain of calls longer than this is told by its upper part.
const CHAIN: usize = 64;

/// Numbers for the chain of operations above each span; equal chains have equal numbers.
pub(super) fn contexts(spans: &[Span], of: &[usize], children: &[Vec<u32>]) -> Vec<u32> {
    const UNKNOWN: u32 = u32::MAX;
    let mut numbers: BTreeMap<(u32, usize, &str), u32> = BTreeMap::new();
    let mut context = vec![UNKNOWN; spans.len()];
    let mut has_parent = vec![false; spans.len()];
    for child in children.iter().flatten() {
        has_parent[*child as usize] = true;
    }
    let mut open: Vec<(u32, usize)> = Vec::new();
    for at in (0..spans.len()).filter(|at| !has_parent[*at]) {
        context[at] = 0;
        open.push((at as u32, 0));
    }
    while let Some((at, depth)) = open.pop() {
        let at = at as usize;
        let above = context[at];
        let below = match depth < CHAIN {
            true => {
                let next = numbers.len() as u32 + 1;
                *numbers.entry((above, of[at], &spans[at].operation)).or_insert(next)
            }
            false => above,
        };
        for child in &children[at] {
            if context[*child as usize] == UNKNOWN {
                context[*child as usize] = below;
                open.push((*child, depth + 1));
            }
        }
    }
    context
}

/// The constant part of a log line: ids, numbers and quoted values become `#`.
fn event_name(body: &str) -> String {
    let body = crate::logs::clean::without_time(body);
    // A clock at the front and trace ids say nothing about what happened.
    let body = body.split_once(' ').filter(|(first, _)| first.contains(':')).map_or(body, |(_, rest)| rest);
    let body = match (body.find("TraceID:"), body.find("SpanID: ")) {
        (Some(from), Some(to)) if from < to => {
            let tail = body[to + 8..].split_once(' ').map_or("", |(_, rest)| rest);
            format!("{}{tail}", &body[..from])
        }
        _ => body.to_owned(),
    };
    let mut out = String::with_capacity(64);
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let flush = |word: &mut String, out: &mut String| {
        // Trace ids, and UUIDs with their dashes.
        let hex = word.len() >= 12 && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        if hex {
            out.push('#');
        } else {
            let mut digits = false;
            for c in word.chars() {
                match (c.is_ascii_digit(), digits) {
                    (true, false) => out.push('#'),
                    (true, true) => {}
                    (false, _) => out.push(c),
                }
                digits = c.is_ascii_digit();
            }
        }
        word.clear();
    };
    for c in body.chars().take(400) {
        if out.len() > EVENT_NAME {
            break;
        }
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => {
                flush(&mut word, &mut out);
                out.push('#');
                quote = Some(c);
            }
            None if c.is_ascii_alphanumeric() || c == '-' => word.push(c),
            None => {
                flush(&mut word, &mut out);
                out.push(c);
            }
        }
    }
    flush(&mut word, &mut out);
    out.chars().take(EVENT_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_requests_are_no_other_behaviour() {
        // Every save inserts for new orders (context 1) and updates for old ones (context 2); only new ones come since.
        let totals = BTreeMap::from([(1, [4.0, 4.0, 9.0]), (2, [20.0, 20.0, 0.0])]);
        let inserts = BTreeMap::from([(1, [4.0, 4.0, 9.0])]);
        let shares = shares(&inserts, &totals).expect("eight comparable calls before");
        assert_eq!((shares.before, shares.after, shares.z), (1.0, 1.0, 0.0));
    }

    #[test]
    fn the_same_requests_that_do_something_else_are() {
        let totals = BTreeMap::from([(1, [10.0, 10.0, 9.0]), (2, [20.0, 20.0, 1.0])]);
        let inserts = BTreeMap::from([(2, [20.0, 20.0, 1.0]), (1, [0.0, 0.0, 9.0])]);
        let shares = shares(&inserts, &totals).expect("calls to compare");
        assert!(shares.before < 0.2 && shares.after > 0.9 && shares.z > 4.0, "{} {}", shares.before, shares.z);
    }

    #[test]
    fn without_comparable_calls_nothing_is_said() {
        let totals = BTreeMap::from([(1, [0.0, 1.0, 9.0]), (2, [20.0, 20.0, 0.0]), (3, [0.0, 0.0, 9.0])]);
        assert!(shares(&BTreeMap::new(), &totals).is_none());
    }

    #[test]
    fn two_lines_of_one_millisecond_keep_the_order_that_they_have_elsewhere() {
        let line = |at: u64, text: &str| (at, text.to_owned());
        let lines = BTreeMap::from([
            (("t1", "a"), vec![line(1, "zeta opens"), line(2, "alpha closes")]),
            (("t2", "b"), vec![line(5, "alpha closes"), line(5, "zeta opens")]),
        ]);
        let mut names: Vec<String> = Vec::new();
        let ordered = in_order(lines, &mut |text| {
            let known = names.iter().position(|name| *name == text);
            known.unwrap_or_else(|| {
                names.push(text);
                names.len() - 1
            }) as u32
        });
        let events = |span: (&str, &str)| ordered[&span].iter().map(|(_, event)| *event).collect::<Vec<_>>();
        assert_eq!(events(("t1", "a")), events(("t2", "b")));
    }

    #[test]
    fn ids_do_not_name_an_event() {
        let line = |id: &str| format!("16:49:25.674 INFO c.c.Contacts#83 TraceID: x SpanID: y [print][id: {id}]");
        let one = event_name(&line("8c756d0c-b064-4dc6-b705-496a75343ddb"));
        assert_eq!(one, event_name(&line("415d1665-fbb2-4ec9-83f5-5ebe51dc1825")));
        assert_eq!(one, event_name(&line("0123456789abcdef0123")));
        assert!(one.contains("print"), "{one}");
    }
}

//! What all services wrote about the requests that failed: their lines, by the id of the trace.
//!
//! Which requests, and how far around them, is decided by [`amend_diagnosis::logs::anchor`]. Every store of logs is asked twice
//! about each: for lines that it knows to belong to the trace, and for lines whose text names it.

use std::collections::BTreeMap;

use amend_diagnosis::evidence::{Answer, LogLine, Span};
use amend_diagnosis::logs::anchor::{Anchor, NEAR, TRACES_MAX, WIDE, anchors};
use futures::future::{FutureExt, join_all};
use jiff::SignedDuration;
use tokio::time::Instant;

use crate::gather::{Questions, Scope, Windows, targets};
use crate::questions::{LineFilter, LineQuestion, Selection};
use crate::source::{Reply, SourceKind};
use crate::sources::{Sources, in_time};

/// Lines of one request from one store.
const LINES: usize = 200;

/// Namespaces that are looked through: a request that crosses more is told from the nearest.
const NAMESPACES_MAX: usize = 3;

/// The requests whose lines are asked for, out of the traces that were found.
pub(crate) fn followed(spans: &[Reply<Vec<Span>>], exemplars: &Answer<Vec<Span>>, windows: Windows) -> Vec<Anchor> {
    let found = spans.iter().filter_map(|reply| reply.answer.known()).chain(exemplars.known()).flatten();
    let since = u64::try_from(windows.fault.from.as_nanosecond()).unwrap_or(0);
    let mut followed = anchors(found, since);
    followed.truncate(TRACES_MAX);
    followed
}

/// Asks for the lines of these requests 30 s around each; two minutes for those of which nobody found any.
pub(crate) async fn anchored_lines(
    sources: &Sources,
    scope: &Scope,
    followed: Vec<Anchor>,
    end: Instant,
) -> Vec<Reply<Vec<LogLine>>> {
    let near = asked(sources, scope, &followed, NEAR, end).await;
    let mut found: BTreeMap<&str, bool> = BTreeMap::new();
    for (trace, reply) in &near {
        // Who could not answer about half a minute cannot about four.
        *found.entry(trace).or_default() |= reply.answer.known().is_none_or(|lines| !lines.is_empty());
    }
    let silent: Vec<Anchor> =
        followed.iter().filter(|anchor| found.get(anchor.trace_id.as_str()) == Some(&false)).cloned().collect();
    let wide = asked(sources, scope, &silent, WIDE, end).await;
    near.into_iter().chain(wide).map(|(trace, reply)| reply.map(|lines| anchored(lines, &trace))).collect()
}

/// Each reply with the trace that it is about.
async fn asked(
    sources: &Sources,
    scope: &Scope,
    followed: &[Anchor],
    reach: SignedDuration,
    end: Instant,
) -> Vec<(String, Reply<Vec<LogLine>>)> {
    let mut namespaces: Vec<&str> = Vec::new();
    for target in targets(scope) {
        let namespace = target.entity.namespace.as_str();
        if namespaces.len() < NAMESPACES_MAX && !namespaces.contains(&namespace) {
            namespaces.push(namespace);
        }
    }
    let mut about: Vec<String> = Vec::new();
    let mut questions: Questions<'_, LogLine> = Vec::new();
    for source in sources.holding(SourceKind::holds_logs) {
        for anchor in followed {
            let trace = &anchor.trace_id;
            // Long ids differ at their end as well, but sixteen digits are unique within one incident.
            let short: String = trace.chars().take(16).collect();
            for namespace in &namespaces {
                let ways =
                    [("known", LineFilter::OfTrace(trace.clone())), ("named", LineFilter::Containing(trace.clone()))];
                for (way, only) in ways {
                    let wide = if reach == WIDE { "/wide" } else { "" };
                    let id = format!("{}/anchored/{short}/{namespace}/{way}{wide}", source.config().name);
                    let of = Selection::everything(namespace);
                    let question = LineQuestion { id, of, window: anchor.around(reach), only, lines: LINES };
                    about.push(trace.clone());
                    questions.push(
                        async move {
                            in_time(source, &question.id, question.window, end, source.lines(&question)).await
                        }
                        .boxed(),
                    );
                }
            }
        }
    }
    about.into_iter().zip(join_all(questions).await).collect()
}

/// Lines under the trace that they were asked for, and outside of any span.
///
/// Event pairs compare what was written inside of spans before the trouble and since. These lines were asked for since it
/// only: counted there, they would look like something new.
fn anchored(lines: Vec<LogLine>, trace: &str) -> Vec<LogLine> {
    let told = |line: LogLine| LogLine {
        trace_id: line.trace_id.filter(|id| !id.is_empty()).or_else(|| Some(trace.to_owned())),
        span_id: None,
        ..line
    };
    lines.into_iter().map(told).collect()
}

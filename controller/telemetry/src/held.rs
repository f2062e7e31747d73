//! What was read from files into memory, and the answers that lie in it.

use std::collections::{BTreeMap, BTreeSet};

use amend_diagnosis::entity::Entity;
use amend_diagnosis::evidence::{Answer, LinkKind, LogLine, Series, Span, TopologyEdge, Window};
use amend_diagnosis::signal::Signal;
use futures::future::FutureExt;
use jiff::{SignedDuration, Timestamp};
use regex::{Regex, RegexBuilder};

use crate::alert::{AlertQuestion, AlertState};
use crate::calls::{edges, traced};
use crate::connection::clean;
use crate::exemplars::{is_trace_id, order};
use crate::families::RequestFamily;
use crate::measured::{Kept, Names, Samples};
use crate::promql::Expr;
use crate::promql::evaluate::{self, ByName};
use crate::questions::{
    Exemplar, ExemplarQuestion, LineFilter, LineQuestion, Measure, Selection, TraceQuestion, WholeTraceQuestion,
};
use crate::source::{SourceConfig, SourceError};

/// Everything that files told. What they hold nothing of is unknown, with the reason.
#[derive(Debug)]
pub(crate) struct Held {
    pub series: Answer<ByName>,
    pub spans: Answer<Vec<Span>>,
    pub lines: Answer<Vec<HeldLine>>,
    pub exemplars: Answer<Vec<HeldExemplar>>,
    /// Who calls whom where the files tell it; else the spans do.
    pub edges: Answer<Vec<TopologyEdge>>,
    pub alerts: Answer<Vec<Signal>>,
    /// What was written before this was not read; `None`: everything was.
    pub since: Option<Since>,
}

/// The oldest that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Since {
    pub at: Timestamp,
    /// Bytes that were allowed.
    pub limit: usize,
}

/// A log line and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeldLine {
    /// `None`: the files do not tell.
    pub namespace: Option<String>,
    pub service: Option<String>,
    pub line: LogLine,
}

/// A family of requests as far as its exemplars go.
struct Telling {
    duration: String,
    requests: String,
    codes: Vec<String>,
    failed: Regex,
    only: Vec<(&'static str, &'static str)>,
}

impl Telling {
    /// `None`: its expression of errors is none, which was refused when the mapping was read.
    fn of(family: RequestFamily) -> Option<Self> {
        let failed = Regex::new(&format!("^(?:{})$", family.error_codes)).ok()?;
        let RequestFamily { duration, requests, codes, only, .. } = family;
        Some(Self { duration, requests, codes, failed, only })
    }

    /// Whether a count with these labels is one of failed requests.
    fn counts_failed(&self, labels: &BTreeMap<String, String>) -> bool {
        let is = |label: &str, fits: &dyn Fn(&str) -> bool| labels.get(label).is_some_and(|value| fits(value));
        self.only.iter().all(|(label, wanted)| is(label, &|value| value == *wanted))
            && self.codes.iter().any(|label| is(label, &|value| self.failed.is_match(value)))
    }
}

/// An exemplar and the labels of what it is an example of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeldExemplar {
    pub labels: BTreeMap<String, String>,
    pub exemplar: Exemplar,
}

/// An answer, and how many samples were left out because they were not numbers.
pub(crate) type Answered<T> = Result<(T, usize), SourceError>;

impl Held {
    /// That everything of a window was read.
    pub fn covers(&self, window: Window) -> Result<(), SourceError> {
        match self.since {
            Some(Since { at, limit }) if window.from < at => Err(SourceError::FilesTooLarge { limit, since: at }),
            Some(_) | None => Ok(()),
        }
    }

    /// Traces in which a service took part, whole, the newest when there are too many.
    pub fn traces(&self, question: &TraceQuestion, config: &SourceConfig) -> Answered<Vec<Span>> {
        let wanted = config.mapping.trace_service(&question.namespace, &question.service);
        let placed = format!("{}/{wanted}", question.namespace);
        let spans = held(&self.spans)?;
        let mut began: BTreeMap<&str, u64> = BTreeMap::new();
        let of_service = spans.iter().filter(|span| {
            let elsewhere = span.attributes.get("k8s.namespace.name").is_some_and(|told| *told != question.namespace);
            span.service == placed || (span.service == wanted && !elsewhere)
        });
        for span in of_service.filter(|span| contains(question.window, span.start_ns)) {
            let first = began.entry(&span.trace_id).or_insert(span.start_ns);
            *first = span.start_ns.min(*first);
        }
        let mut newest: Vec<(u64, &str)> = began.into_iter().map(|(trace, at)| (at, trace)).collect();
        newest.sort_unstable_by(|left, right| right.cmp(left));
        let chosen: BTreeSet<&str> = newest.into_iter().take(question.traces).map(|(_, trace)| trace).collect();
        let found = spans.iter().filter(|span| chosen.contains(span.trace_id.as_str()));
        bounded(found.cloned().collect(), config).map(|spans| (sorted(spans), 0))
    }

    /// The spans of one trace.
    pub fn whole_trace(&self, question: &WholeTraceQuestion, config: &SourceConfig) -> Answered<Vec<Span>> {
        if !is_trace_id(&question.trace) {
            return Err(SourceError::Malformed { why: format!("a trace id {:?}", clean(&question.trace)) });
        }
        let found = held(&self.spans)?.iter().filter(|span| span.trace_id.eq_ignore_ascii_case(&question.trace));
        bounded(found.cloned().collect(), config).map(|spans| (sorted(spans), 0))
    }

    /// Who calls whom.
    pub fn calls(&self, window: Window) -> Answered<Vec<TopologyEdge>> {
        if let Answer::Known(told) = &self.edges {
            let calls = told.iter().filter(|edge| edge.kind == LinkKind::Calls);
            let pairs: BTreeSet<(Entity, Entity)> = calls.map(|edge| (edge.from.clone(), edge.to.clone())).collect();
            return edges(pairs).map(|edges| (edges, 0));
        }
        let spans = held(&self.spans)?.iter().filter(|span| contains(window, span.start_ns));
        edges(traced(&spans.cloned().collect::<Vec<_>>())).map(|edges| (edges, 0))
    }

    /// Lines of a selection, the newest where there are too many.
    pub fn lines(&self, question: &LineQuestion, config: &SourceConfig) -> Answered<Vec<LogLine>> {
        let mut found: Vec<LogLine> = self.selected(question)?.into_iter().cloned().collect();
        found.sort_by(|left, right| {
            (left.at_ns, &left.source, &left.body).cmp(&(right.at_ns, &right.source, &right.body))
        });
        let limit = config.limits.samples;
        let wanted = question.lines.max(1);
        let newest = found.split_off(found.len().saturating_sub(wanted));
        match newest.len() > limit {
            true => Err(SourceError::TooMany { limit, what: "lines" }),
            false => Ok((newest, 0)),
        }
    }

    /// How many lines there were in each step, by pod.
    pub fn line_counts(&self, question: &LineQuestion, step: SignedDuration) -> Answered<Vec<Series>> {
        let each = i64::try_from(step.as_millis()).unwrap_or(i64::MAX).max(1);
        let (from, to) = (question.window.from.as_millisecond(), question.window.to.as_millisecond());
        let mut counts: BTreeMap<&str, BTreeMap<i64, f64>> = BTreeMap::new();
        for line in self.selected(question)? {
            let Some(at) = line.at_ns.and_then(|at| i64::try_from(at / 1_000_000).ok()) else { continue };
            // Counted at the end of its step, as a query over the step before does.
            let end = (to - (to - at).max(0) / each * each).max(from);
            *counts.entry(&line.source).or_default().entry(end).or_default() += line.count as f64;
        }
        let series = counts.into_iter().map(|(source, samples)| Series {
            labels: [
                ("__name__", question.only.counted_as()),
                ("namespace", question.of.namespace.as_str()),
                ("pod", source),
            ]
            .map(|(label, value)| (label.to_owned(), value.to_owned()))
            .into(),
            samples: samples.into_iter().map(|(at, count)| (at as f64 / 1e3, count)).collect(),
            asked: question.id.clone(),
        });
        Ok((series.collect(), 0))
    }

    fn selected(&self, question: &LineQuestion) -> Result<Vec<&LogLine>, SourceError> {
        let of = Picked::of(&question.of)?;
        let fits = |told: &&HeldLine| {
            let line = &told.line;
            line.at_ns.is_some_and(|at| contains(question.window, at))
                && told.namespace.as_ref().is_none_or(|namespace| *namespace == question.of.namespace)
                && (of.pods.is_match(&line.source)
                    || told.service.as_ref().is_some_and(|service| of.services.is_match(service)))
                && match &question.only {
                    LineFilter::All => true,
                    LineFilter::Containing(text) => line.body.contains(text),
                    LineFilter::OfTrace(trace) => line.trace_id.as_ref() == Some(trace),
                }
        };
        Ok(held(&self.lines)?.iter().filter(fits).map(|told| &told.line).collect())
    }

    /// Requests that histograms of latency and counts of failed requests remember.
    pub fn exemplars(&self, question: &ExemplarQuestion, config: &SourceConfig) -> Answered<Vec<Exemplar>> {
        let of = Picked::of(&question.of)?;
        let telling: Vec<Telling> = config.mapping.families().into_iter().filter_map(Telling::of).collect();
        let tells = |one: &&HeldExemplar| {
            let Some(name) = one.labels.get("__name__") else { return true };
            telling.iter().any(|family| match one.exemplar.took {
                Some(_) => family.duration == *name,
                None => family.requests == *name && family.counts_failed(&one.labels),
            })
        };
        let (from, to) =
            (question.window.from.as_millisecond() as f64 / 1e3, question.window.to.as_millisecond() as f64 / 1e3);
        let found = held(&self.exemplars)?.iter().filter(tells).filter(|one| (from..=to).contains(&one.exemplar.at));
        let mut found: Vec<Exemplar> =
            found.filter(|one| of.labels(&one.labels)).map(|one| one.exemplar.clone()).collect();
        found.sort_by(order);
        Ok((found, 0))
    }

    /// Whether an alert is among those that the files tell.
    pub fn alert(&self, question: &AlertQuestion) -> Answered<AlertState> {
        let told = held(&self.alerts)?.iter().filter(|signal| signal.name == question.name);
        let mut known = told.filter(|signal| signal.started_at <= question.at).peekable();
        if known.peek().is_none() {
            let why = format!("alert {:?} was never heard of here", clean(&question.name));
            return Err(SourceError::UnheardOf(why));
        }
        match known.any(|signal| signal.ended_at.is_none_or(|end| end > question.at)) {
            true => Ok((AlertState::Firing, 0)),
            false => Ok((AlertState::Inactive, 0)),
        }
    }

    /// Series that were told under our own names, as they are: of a case that Amend wrote itself.
    pub fn under_our_names(
        &self,
        names: &[&str],
        of: &Selection,
        measure: Measure,
        window: Window,
    ) -> Answered<Vec<Series>> {
        let all = held(&self.series)?;
        let of = Picked::of(of)?;
        if !names.iter().any(|name| all.contains_key(*name)) {
            return Err(SourceError::Absent(format!("no series of {} was captured", measure.name())));
        }
        let (from, to) = (window.from.as_millisecond() as f64 / 1e3, window.to.as_millisecond() as f64 / 1e3);
        let by_pod = matches!(measure, Measure::RequestsByPod | Measure::LatencyP99ByPod);
        let by_service = matches!(measure, Measure::Requests | Measure::LatencyP99);
        let told_by = |series: &&Series| {
            let has_pod = series.labels.contains_key("pod");
            (!by_pod || has_pod) && (!by_service || !has_pod)
        };
        let found = names.iter().filter_map(|name| all.get(*name)).flatten().filter(told_by);
        let within = found.filter(|series| of.labels(&series.labels)).map(|series| {
            let samples = series.samples.iter().filter(|(at, _)| (from..=to).contains(at)).copied();
            let (samples, others): (Vec<_>, Vec<_>) = samples.partition(|(_, value): &(f64, f64)| value.is_finite());
            (Series { samples, ..series.clone() }, others.len())
        });
        let (series, dropped): (Vec<Series>, Vec<usize>) =
            within.filter(|(series, _)| !series.samples.is_empty()).unzip();
        Ok((series, dropped.into_iter().sum()))
    }

    /// What an expression finds; unknown where no file holds any of its metrics.
    pub fn is_held(&self, query: &Expr) -> Result<bool, SourceError> {
        let all = held(&self.series)?;
        for selector in evaluate::metrics(query) {
            if selector.is_held(all).map_err(unusable)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Kept for Held {
    fn there<'a>(&'a self, names: &'a BTreeSet<String>, _: Window) -> Names<'a> {
        let there =
            held(&self.series).map(|all| names.iter().filter(|name| all.contains_key(*name)).cloned().collect());
        async move { there.map(Some) }.boxed()
    }

    fn evaluated<'a>(&'a self, query: &'a Expr, window: Window, step: SignedDuration) -> Samples<'a> {
        let found = held(&self.series).and_then(|all| evaluate::range(query, all, window, step).map_err(unusable));
        async move { found }.boxed()
    }
}

fn held<T>(answer: &Answer<T>) -> Result<&T, SourceError> {
    match answer {
        Answer::Known(held) => Ok(held),
        Answer::Unknown { why } => Err(SourceError::Absent(why.clone())),
    }
}

fn unusable(error: regex::Error) -> SourceError {
    SourceError::Malformed { why: clean(&error.to_string()) }
}

fn contains(window: Window, at_ns: u64) -> bool {
    (window.from.as_nanosecond()..=window.to.as_nanosecond()).contains(&i128::from(at_ns))
}

fn bounded(spans: Vec<Span>, config: &SourceConfig) -> Result<Vec<Span>, SourceError> {
    let limit = config.limits.samples;
    if spans.len() > limit { Err(SourceError::TooMany { limit, what: "spans" }) } else { Ok(spans) }
}

fn sorted(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by(|left, right| {
        (left.start_ns, &left.trace_id, &left.span_id).cmp(&(right.start_ns, &right.trace_id, &right.span_id))
    });
    spans
}

/// A selection, ready to be compared with names.
struct Picked<'a> {
    of: &'a Selection,
    pods: Regex,
    services: Regex,
}

impl<'a> Picked<'a> {
    fn of(of: &'a Selection) -> Result<Self, SourceError> {
        // Names are of one line; a selection of hundreds of pods is a long expression.
        let whole = |expression: &str| {
            RegexBuilder::new(&format!("^(?:{expression})$")).size_limit(8 << 20).build().map_err(unusable)
        };
        Ok(Self { of, pods: whole(&of.pods)?, services: whole(&of.services)? })
    }

    /// Whether labels are of the selection: by the pod, else the service; what tells neither is of its whole namespace.
    fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let is = |label: &str, wanted: &str| labels.get(label).is_none_or(|told| told == wanted);
        let named = match (labels.get("pod"), labels.get("service")) {
            (Some(pod), _) => self.pods.is_match(pod),
            (None, Some(service)) => self.services.is_match(service),
            (None, None) => true,
        };
        named
            && is("namespace", &self.of.namespace)
            && self.of.container.as_ref().is_none_or(|container| is("container", container))
    }
}

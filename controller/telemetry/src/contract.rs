//! What every source promises, as checks that can run against a fake and against a real server alike.
//!
//! `tests/contract.rs` runs them on a fake server for every kind, with replies in the shape of the real one's. [`holds`] takes
//! the base URL and something that the server is known to hold: `tests/tests/bench/source_contract.rs` of the workspace gives
//! it a real Prometheus, VictoriaMetrics, Alertmanager, Jaeger and Loki. Tempo, OpenSearch, Thanos and Mimir are judged by replies
//! alone, which [`recorded`] keeps of any real store; directories are judged by files.

pub mod recorded;

use std::time::Duration;

use amend_diagnosis::evidence::{Answer, Window};
use amend_diagnosis::signal::Signal;
use jiff::SignedDuration;
use tokio::net::TcpListener;

use crate::alert::{Muting, firing, silenced};
use crate::digest::Canonical;
use crate::egress::{Allowed, Egress};
use crate::questions::{
    ExemplarQuestion, LineFilter, LineQuestion, Measure, Selection, SeriesQuestion, Target, TraceQuestion,
    WholeTraceQuestion,
};
use crate::source::{Credentials, Reply, Source, SourceConfig, SourceKind, open};
use crate::sources::Sources;

/// A server, and what it is known to hold.
#[derive(Clone, Debug)]
pub struct Subject {
    pub config: SourceConfig,
    pub egress: Egress,
    /// A workload with data in `window`: restarts or memory in a metrics store, traces, log lines.
    pub target: Target,
    /// What is measured there, for metrics stores.
    pub measure: Measure,
    pub window: Window,
    /// The id of a trace that the store holds, or about which some line was written in `window`; for stores of traces and logs.
    pub trace: Option<String>,
    /// An alert that fires and is not silenced, for stores that know alerts.
    pub alert: Option<Signal>,
}

/// One promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{promise}: {found}")]
pub struct Broken {
    pub promise: &'static str,
    pub found: String,
}

/// Names that no cluster has, and that would break out of a query which does not escape them.
pub const HOSTILE: [&str; 4] =
    ["x\"} or {__name__=~\".+", "no\\such\\thing", "line\nbreak \u{202e}\u{1b}[31m", "a|.*|b' OR 1=1 -- ${x} {{y}}"];

/// Checks every promise that needs no broken server; the list is empty when all are kept.
pub async fn holds(subject: &Subject) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut promise = |promise: &'static str, kept: Result<(), String>| {
        if let Err(found) = kept {
            broken.push(Broken { promise, found });
        }
    };
    let source = match open(subject.config.clone(), &subject.egress) {
        Ok(source) => source,
        Err(error) => {
            promise("a source can be opened", Err(error.to_string()));
            return broken;
        }
    };
    let probe = Reply::of("probe", &subject.config.name, subject.window, source.probe().await);
    promise("a probe answers", known(&probe.answer));

    for main in mains(subject.config.kind) {
        let first = ask(source.as_ref(), subject, *main, None).await;
        let second = ask(source.as_ref(), subject, *main, None).await;
        promise("what the server holds is found", matches(&first, |found| found > 0));
        promise("the question is shown as sent", check(!first.asked.query.is_empty(), &first.asked.query));
        promise(
            "the same answer has the same digest",
            check(first.asked.digest == second.asked.digest && first.asked.digest.len() == 64, &first.asked.digest),
        );
        promise("nothing outside the window is told", all_within(source.as_ref(), subject, *main).await);
        for name in HOSTILE {
            let reply = ask(source.as_ref(), subject, *main, Some(name)).await;
            promise("a hostile name selects nothing and breaks nothing", matches(&reply, |found| found == 0));
        }
    }

    let tight = |change: &dyn Fn(&mut SourceConfig)| {
        let mut config = subject.config.clone();
        change(&mut config);
        Subject { config, ..subject.clone() }
    };
    promise("a missed deadline is unknown, with what to do", never_answered(subject).await);
    let narrow = tight(&|config| config.limits.bytes = 1);
    promise("too many bytes are unknown, with what to do", unknown(&narrow, "larger than 1 bytes").await);
    let few = tight(&|config| {
        config.limits.series = 0;
        config.limits.samples = 0;
    });
    for main in mains(subject.config.kind).iter().filter(|main| main.is_list()) {
        let found = ask(source.as_ref(), subject, *main, None).await;
        if found.answer.known().is_some_and(|found| *found > 0) {
            promise("too many things are unknown, with what to do", unknown_to(&few, *main, "more than 0").await);
        }
    }
    if subject.config.kind.is_files() {
        let lost = tight(&|config| config.url.set_path(&format!("{}/no/such/base", config.url.path())));
        promise("a directory that is not there is unknown, with what to do", unknown(&lost, "cannot read").await);
    } else {
        let elsewhere = tight(&|config| {
            let _ = config.url.set_port(Some(1));
            config.credentials = Credentials::None;
        });
        promise("nobody listening is unknown, with what to do", unknown(&elsewhere, "cannot reach").await);
        let lost = tight(&|config| config.url.set_path("/no/such/base"));
        promise("a wrong base URL is unknown, with what to do", unknown(&lost, "").await);
    }
    let stranger = Subject { egress: Egress::new([]), ..subject.clone() };
    promise(
        "an address that is not listed is refused before anything is sent",
        match open(stranger.config.clone(), &stranger.egress) {
            Err(_) => Ok(()),
            // A public name over https is allowed by design.
            Ok(_) if subject.config.url.scheme() == "https" => Ok(()),
            Ok(_) => Err("it was opened".to_owned()),
        },
    );
    if let Some(trace) = subject.trace.as_deref().filter(|_| subject.config.kind.holds_logs()) {
        promise(
            "lines are found by the id of their trace",
            matches(&of_trace(source.as_ref(), subject, trace).await, |found| found > 0),
        );
        for name in HOSTILE {
            let reply = of_trace(source.as_ref(), subject, name).await;
            promise("a hostile id of a trace selects nothing and breaks nothing", matches(&reply, |found| found == 0));
        }
    }
    if let Some(trace) = subject.trace.as_deref().filter(|_| subject.config.kind.holds_traces()) {
        let found = whole(source.as_ref(), subject, trace).await;
        promise("a trace is found by its id", matches(&found, |found| found > 0));
        let nowhere = whole(source.as_ref(), subject, "deadbeefdeadbeefdeadbeefdeadbeef").await;
        promise("a trace that the store does not have is an empty answer", matches(&nowhere, |found| found == 0));
        for name in HOSTILE {
            let reply = whole(source.as_ref(), subject, name).await;
            promise(
                "a hostile id of a trace is not asked for",
                check(reply.answer.known().is_none(), &reply.asked.query),
            );
        }
    }
    if subject.config.kind.holds_metrics() {
        let of = Selection::one(&subject.target);
        let question = ExemplarQuestion { id: "contract".to_owned(), of, window: subject.window };
        let told = counted(&subject.config, subject.window, source.exemplars(&question).await);
        promise("exemplars are asked for in words that the store knows", known(&told.answer));
    }
    if let Some(signal) = &subject.alert {
        let sources = Sources::new([source.clone()]);
        let deadline = subject.config.limits.timeout;
        if subject.config.kind.holds_alerts() {
            let (state, _) = firing(&sources, signal, subject.window.to, deadline).await;
            promise("a firing alert is known to fire", known(&state));
            let stranger = Signal { name: "AmendKnowsNoSuchAlert".to_owned(), ..signal.clone() };
            let (state, _) = firing(&sources, &stranger, subject.window.to, deadline).await;
            promise(
                "an alert nobody heard of is unknown, not over",
                check(state.known().is_none(), &format!("{state:?}")),
            );
        }
        if subject.config.kind.holds_silences() {
            let (muting, _) = silenced(&sources, signal, subject.window.to, deadline).await;
            let audible = muting.known() == Some(&Muting::Audible);
            promise("an alert that nobody silenced is audible", check(audible, &format!("{muting:?}")));
        }
    }
    broken
}

/// The deadline, on a port that takes connections and says nothing: a real server may be faster than any deadline.
/// A directory answers always: it is given no time.
async fn never_answered(subject: &Subject) -> Result<(), String> {
    if subject.config.kind.is_files() {
        let mut config = subject.config.clone();
        config.limits.timeout = Duration::ZERO;
        return unknown(&Subject { config, ..subject.clone() }, "no complete answer within 0 ms").await;
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
    let address = silent.local_addr().map_err(|error| error.to_string())?;
    let mut config = subject.config.clone();
    config.url = format!("http://{address}").parse().map_err(|error| format!("{error}"))?;
    config.limits.timeout = Duration::from_millis(100);
    let egress = Egress::new([Allowed::Network(address.ip().into())]);
    unknown(&Subject { config, egress, ..subject.clone() }, "no complete answer within 100 ms").await
}

/// A question that a kind of source is there to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Main {
    Series,
    Lines,
    Traces,
    Muting,
}

impl Main {
    /// Whether its answer is a list that can be too long.
    fn is_list(self) -> bool {
        match self {
            Self::Series | Self::Lines | Self::Traces => true,
            Self::Muting => false,
        }
    }
}

fn mains(kind: SourceKind) -> &'static [Main] {
    match kind {
        SourceKind::Prometheus => &[Main::Series],
        SourceKind::Loki | SourceKind::OpenSearch => &[Main::Lines],
        SourceKind::Jaeger | SourceKind::Tempo => &[Main::Traces],
        SourceKind::Alertmanager => &[Main::Muting],
        SourceKind::OtlpFiles | SourceKind::Case => &[Main::Series, Main::Lines, Main::Traces],
    }
}

/// Asks the main question of the source's kind and counts what came back; with a name, about that instead.
pub async fn asked(source: &dyn Source, subject: &Subject, name: Option<&str>) -> Reply<usize> {
    ask(source, subject, first_main(subject), name).await
}

fn first_main(subject: &Subject) -> Main {
    mains(subject.config.kind).first().copied().unwrap_or(Main::Series)
}

async fn ask(source: &dyn Source, subject: &Subject, main: Main, name: Option<&str>) -> Reply<usize> {
    let mut target = subject.target.clone();
    if let Some(name) = name {
        name.clone_into(&mut target.entity.name);
        target.services = vec![name.to_owned()];
        target.pods = vec![name.to_owned()];
        target.replica_sets.clear();
    }
    let config = source.config();
    let (id, window) = ("contract".to_owned(), subject.window);
    match main {
        Main::Series => {
            let question = series_question(config, subject, &target);
            counted(config, window, source.series(&question).await)
        }
        Main::Lines => counted(config, window, source.lines(&line_question(subject, &target)).await),
        Main::Traces => {
            let service = target.services.first().cloned().unwrap_or_default();
            let namespace = target.entity.namespace.clone();
            let question = TraceQuestion { id, namespace, service, window, traces: 20 };
            counted(config, window, source.traces(&question).await)
        }
        Main::Muting => {
            let question = crate::alert::AlertQuestion {
                id,
                name: name.unwrap_or("AmendContract").to_owned(),
                labels: std::collections::BTreeMap::new(),
                at: window.to,
                heard_of: SignedDuration::from_hours(1),
            };
            // There is always an answer here: audible counts as one, and for a made-up alert as none.
            let reply = Reply::of("contract", &config.name, window, source.muting(&question).await);
            reply.map(|muting| usize::from(name.is_none() || muting != Muting::Audible))
        }
    }
}

fn series_question(config: &SourceConfig, subject: &Subject, target: &Target) -> SeriesQuestion {
    SeriesQuestion {
        id: "contract".to_owned(),
        measure: subject.measure,
        of: Selection::one(target),
        window: subject.window,
        step: SignedDuration::from_secs(15).max(config.sample_every),
    }
}

fn line_question(subject: &Subject, target: &Target) -> LineQuestion {
    let (id, of) = ("contract".to_owned(), Selection::one(target));
    LineQuestion { id, of, window: subject.window, only: LineFilter::All, lines: 100 }
}

async fn whole(source: &dyn Source, subject: &Subject, trace: &str) -> Reply<usize> {
    let (id, window) = ("contract".to_owned(), subject.window);
    let question = WholeTraceQuestion { id, trace: trace.to_owned(), window };
    counted(source.config(), window, source.whole_trace(&question).await)
}

/// Lines of a trace, whoever wrote them: by what the store knows and by their text.
async fn of_trace(source: &dyn Source, subject: &Subject, trace: &str) -> Reply<usize> {
    let (config, window) = (source.config(), subject.window);
    let of = Selection::everything(&subject.target.entity.namespace);
    let question = |only| LineQuestion { id: "contract".to_owned(), of: of.clone(), window, only, lines: 100 };
    let known = counted(config, window, source.lines(&question(LineFilter::OfTrace(trace.to_owned()))).await);
    let named = counted(config, window, source.lines(&question(LineFilter::Containing(trace.to_owned()))).await);
    match (known.answer.known().copied(), named.answer.known().copied()) {
        (Some(known), Some(more)) => named.map(|_| known + more),
        (None, _) => known,
        (_, None) => named,
    }
}

/// That samples and lines lie in the window that was asked about: what is told of another time is taken for this one.
/// Spans are left out, since a trace is told whole.
async fn all_within(source: &dyn Source, subject: &Subject, main: Main) -> Result<(), String> {
    let (config, Window { from, to }) = (source.config(), subject.window);
    let stray: Vec<String> = match main {
        Main::Series => {
            let told = source.series(&series_question(config, subject, &subject.target)).await;
            let found = told.outcome.map_err(|error| error.to_string())?;
            // Stores keep milliseconds, and so are questions put.
            let (first, last) = (from.as_millisecond() as f64 / 1e3, to.as_millisecond() as f64 / 1e3);
            let times = found.into_iter().flat_map(|series| series.samples).map(|(at, _)| at);
            times.filter(|at| !(first..=last).contains(at)).map(|at| at.to_string()).collect()
        }
        Main::Lines => {
            let told = source.lines(&line_question(subject, &subject.target)).await;
            let times = told.outcome.map_err(|error| error.to_string())?.into_iter().filter_map(|line| line.at_ns);
            let inside = |at: &u64| (from.as_nanosecond()..=to.as_nanosecond()).contains(&i128::from(*at));
            times.filter(|at| !inside(at)).map(|at| at.to_string()).collect()
        }
        Main::Traces | Main::Muting => return Ok(()),
    };
    check(stray.is_empty(), &format!("{stray:?} with a window from {from} to {to}"))
}

fn counted<T>(config: &SourceConfig, window: Window, told: crate::source::Told<Vec<T>>) -> Reply<usize>
where
    Vec<T>: Canonical,
{
    Reply::of("contract", &config.name, window, told).map(|found| found.len())
}

/// That the main question is unknown, with these words and advice after them.
pub async fn unknown(subject: &Subject, words: &str) -> Result<(), String> {
    unknown_to(subject, first_main(subject), words).await
}

async fn unknown_to(subject: &Subject, main: Main, words: &str) -> Result<(), String> {
    let source = open(subject.config.clone(), &subject.egress).map_err(|error| error.to_string())?;
    let reply = ask(source.as_ref(), subject, main, None).await;
    match (&reply.answer, &reply.asked.unknown) {
        (Answer::Unknown { why }, Some(noted))
            if why == noted && why.contains(words) && why.contains("; ") && reply.asked.digest.is_empty() =>
        {
            Ok(())
        }
        _ => Err(format!("expected {words:?}, got {:?} and {:?}", reply.answer, reply.asked.unknown)),
    }
}

fn known<T: std::fmt::Debug>(answer: &Answer<T>) -> Result<(), String> {
    check(answer.known().is_some(), &format!("{answer:?}"))
}

fn matches(reply: &Reply<usize>, holds: impl Fn(usize) -> bool) -> Result<(), String> {
    check(
        reply.answer.known().is_some_and(|found| holds(*found)),
        &format!("{:?} to {}", reply.answer, reply.asked.query),
    )
}

fn check(holds: bool, found: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(found.to_owned()) }
}

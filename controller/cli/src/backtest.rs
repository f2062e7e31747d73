//! `amend backtest --since 14d`: what Amend would have said about the alerts of the last days. Reads only; nothing needs to be
//! installed.

mod heard;
mod judged;
mod mend;
mod report;
mod stores;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use amend_controller::evidence::past::{Standing, standing};
use amend_controller::incidents::replay::{Rules, replay};
use amend_controller::shell::Shell;
use amend_diagnosis::evidence::Window;
use amend_diagnosis::incident::Links;
use amend_telemetry::history::{History, HistoryQuestion, read};
use amend_telemetry::load::Load;
use amend_telemetry::sources::Sources;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::connection::{Connection, Flags, Output, plain, print};
use judged::Judge;
use report::{Report, Unread};
use stores::StoreFlags;

/// Says what Amend would have made of the alerts of the last days; reads only, needs no installation. With -n of one namespace only.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How far to look back, like 14d or 6h
    #[arg(long, default_value = "14d", value_parser = duration)]
    since: SignedDuration,
    /// End of the time that is looked at, like 2026-03-02T09:00:00Z; without it now
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// How far apart the looks at `ALERTS` are: what fires for less may be missed
    #[arg(long, default_value = "1m", value_parser = duration)]
    step: SignedDuration,
    /// Most queries to all stores together; they are sent one after another
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    max_queries: u64,
    /// How far apart signals of one problem may lie; the controller's flag of this name
    #[arg(long, default_value = "10m", value_parser = duration)]
    group_window: SignedDuration,
    /// How long nothing may fire before a problem counts as gone; the controller's flag of this name
    #[arg(long, default_value = "5m", value_parser = duration)]
    clear_for: SignedDuration,
    #[command(flatten)]
    stores: StoreFlags,
    /// Shape of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people, in a terminal.
    Text,
    /// One object; the same as `-o json`.
    Json,
}

/// Reads `14d`, `36h`, `90s`.
fn duration(text: &str) -> Result<SignedDuration, String> {
    amend_policies::duration::parse(text)
}

pub async fn run(arguments: &Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let connection = flags.connect().await?;
    let load = Arc::new(Load::within(arguments.max_queries));
    let given = arguments.stores.configs()?;
    let counted = load.clone();
    let asking = connection
        .asking_of(|sources| {
            let sources = sources.counted(counted);
            if given.is_empty() { Ok(sources) } else { sources.instead(given).context("cannot use a store") }
        })
        .await?;
    let shell = &asking.shell;
    let until = arguments.until.unwrap_or_else(|| shell.time.now());
    let window = Window { from: until.checked_sub(arguments.since).context("--since is too long")?, to: until };
    let namespace = flags.named_namespace().map(str::to_owned);
    let (sources, problems) = sources(shell, namespace.as_deref()).await?;
    for problem in problems {
        eprintln!("amend: left out: {}", plain(&problem));
    }
    let question = HistoryQuestion { namespace, window, step: arguments.step };
    let histories = histories(&sources, &question).await?;
    let mut heard = heard::heard(&histories, &question);
    let standings = standings(shell, heard.namespaces(), until).await;
    for (namespace, standing) in &standings {
        heard.align(namespace, &standing.picture);
    }
    let not_aligned = heard.split_off_unaligned();
    let mended = mend::mended(&connection, &not_aligned, window).await;
    let links: BTreeMap<String, Links> =
        standings.iter().map(|(namespace, one)| (namespace.clone(), one.picture.links.clone())).collect();
    let rules = Rules { group_window: arguments.group_window, clear_for: arguments.clear_for };
    let mut problems = replay(&heard.alerts, &links, rules);
    // Newest first: where the budget ends, what is left out is old.
    problems.reverse();
    let mut judge = Judge::new(shell, &load, window, arguments.group_window);
    let mut judged = Vec::new();
    for (count, problem) in problems.iter().enumerate() {
        progress(count, problems.len());
        judged.push(judge.judged(problem, &heard.alerts, standings.get(&problem.namespace)).await);
    }
    let report = Report {
        window,
        heard: heard.counted(not_aligned.len()),
        problems: judged,
        not_aligned: mended,
        unread: unread(&sources, &histories),
        without_calls: standings
            .iter()
            .filter_map(|(namespace, one)| Some((namespace.clone(), one.picture.calls_unknown.clone()?)))
            .collect(),
        stores: judge.answers(),
        cost: load.cost(),
        budget: load.budget(),
    };
    shown(&report, arguments, &connection)?;
    Ok(ExitCode::SUCCESS)
}

fn shown(report: &Report, arguments: &Arguments, connection: &Connection) -> anyhow::Result<()> {
    match (connection.output, arguments.format) {
        (Some(output), _) => print(&json!(report.object()), output)?,
        (None, Format::Json) => print(&json!(report.object()), Output::Json)?,
        (None, Format::Text) => std::print!("{}", report.told()),
    }
    Ok(())
}

/// The stores to ask, and why some are left out: those that serve one namespace, or all.
async fn sources(shell: &Shell, namespace: Option<&str>) -> anyhow::Result<(Sources, Vec<String>)> {
    let none = "give a Prometheus with --prometheus URL, or apply a TelemetrySource of that kind";
    let found = match namespace {
        Some(namespace) => Ok((shell.sources.serving(namespace).await, Vec::new())),
        None => shell.sources.all().await,
    };
    let (sources, problems) = match found {
        Ok(found) => found,
        // Nothing is installed yet: the kind itself is missing.
        Err(kube::Error::Api(status)) if status.code == 404 => bail!("no store is known: {none}"),
        Err(error) => return Err(error).context("cannot list TelemetrySources; name the stores by flags instead"),
    };
    if sources.holding(|kind| kind.holds_alerts()).is_empty() {
        let why: String = problems.iter().map(|one| format!("; {}", plain(one))).collect();
        bail!("no store that holds alerts can be asked: {none}{why}");
    }
    Ok((sources, problems))
}

/// `ALERTS` of every store that knows alerts.
///
/// # Errors
/// None of them told anything: then there is nothing to say.
async fn histories(sources: &Sources, question: &HistoryQuestion) -> anyhow::Result<Vec<History>> {
    let mut histories: Vec<History> = Vec::new();
    let metrics = sources.holding(|kind| kind.holds_alerts());
    for source in &metrics {
        histories.push(read(*source, question).await);
    }
    if histories.iter().all(|one| one.series.is_empty() && one.read == 0) {
        let why = histories.iter().flat_map(|one| &one.unread).map(|(_, why)| plain(why)).next().unwrap_or_default();
        bail!("no store told which alerts fired: {why}");
    }
    Ok(histories)
}

async fn standings(shell: &Arc<Shell>, namespaces: BTreeSet<String>, now: Timestamp) -> BTreeMap<String, Standing> {
    let mut standings = BTreeMap::new();
    for namespace in namespaces {
        let found = standing(shell, &namespace, now).await;
        standings.insert(namespace, found);
    }
    standings
}

fn unread(sources: &Sources, histories: &[History]) -> Vec<Unread> {
    let named = sources.holding(|kind| kind.holds_alerts()).into_iter().zip(histories);
    named
        .flat_map(|(source, history)| {
            let of = |(window, why): &(Window, String)| Unread {
                source: source.config().name.clone(),
                window: *window,
                why: plain(why),
            };
            history.unread.iter().map(of)
        })
        .collect()
}

/// One line that is written over, for whoever watches.
fn progress(done: usize, all: usize) {
    if std::io::stderr().is_terminal() {
        eprint!("\rproblem {} of {all} ...\u{1b}[K", done + 1);
        if done + 1 == all {
            eprint!("\r\u{1b}[K");
        }
    }
}

//! `amend bench rca --root DIR`: how often the diagnosis is right on labelled cases.

mod leave_out;
mod risk;
mod sureness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use amend_diagnosis::alignment::Alignment;
use amend_diagnosis::diagnose::diagnose;
use amend_telemetry::case;
use anyhow::Context;
use clap::Subcommand;
use serde_json::Value;

use self::sureness::{Told, calibration_error, coverage};

/// Measurements.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Scores labelled cases: `labels.jsonl` beside one directory per data set.
    Rca {
        /// Folder with `labels.jsonl` and one directory per data set.
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
        /// Only these data sets, separated by commas.
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        datasets: Vec<String>,
        /// Lists each miss with what was answered instead.
        #[arg(long)]
        misses: bool,
        /// Also writes the answers, one JSON object a line.
        #[arg(long, value_name = "FILE")]
        save: Option<PathBuf>,
        /// Cases that are worked on at the same time; times per case are only true with 1.
        #[arg(long, value_name = "COUNT", default_value_t = 1)]
        jobs: usize,
        /// Also tells what the confidence is worth on cases and data sets that it was not fitted on.
        #[arg(long)]
        leave_out: bool,
    },
}

/// One labelled case with what became of it.
struct Outcome {
    label: Value,
    answer: Value,
    /// Kind of the best cause, as policies name it.
    cause: Option<String>,
    rank: Option<usize>,
    alignment: Alignment,
    seconds: f64,
}

pub fn run(verb: &Verb) -> anyhow::Result<()> {
    let Verb::Rca { root, datasets, misses, save, jobs, leave_out } = verb;
    let path = root.join("labels.jsonl");
    let labels = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let labels: Vec<Value> = labels.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let wanted: Vec<(Value, PathBuf)> = labels
        .into_iter()
        .filter(|label| datasets.is_empty() || datasets.iter().any(|set| set == text(label, "dataset")))
        .map(|label| (root.join(text(&label, "dataset")).join(text(&label, "case")), label))
        .filter(|(directory, label)| {
            directory.join("case.json").exists() && !label["accept"].is_null() && !directory.join("fail.log").exists()
        })
        .map(|(directory, label)| (label, directory))
        .collect();
    let outcomes = outcomes(&wanted, *jobs)?;
    if *misses {
        for one in outcomes.iter().filter(|one| one.rank != Some(1)) {
            println!("{} {}: {}", text(&one.label, "dataset"), text(&one.label, "case"), miss(one));
        }
    }
    if let Some(path) = save {
        fs::write(path, outcomes.iter().map(saved).collect::<String>())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    print(&outcomes);
    print!("{}", risk::table(&outcomes));
    if *leave_out {
        print!("{}", leave_out::table(&outcomes));
    }
    Ok(())
}

/// Diagnoses all cases; the order of the result is that of the labels, whatever the number of jobs.
fn outcomes(cases: &[(Value, PathBuf)], jobs: usize) -> anyhow::Result<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, anyhow::Result<Outcome>)>> = Mutex::new(Vec::with_capacity(cases.len()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some((index, (label, directory))) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(index).map(|case| (index, case))
                } {
                    let outcome = outcome(label, directory);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

fn outcome(label: &Value, directory: &Path) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let case = case::read(directory).with_context(|| format!("no case in {}", directory.display()))?;
    let diagnosis = diagnose(&case.observations);
    let answer = case.answer(&diagnosis);
    let seconds = start.elapsed().as_secs_f64();
    let cause = diagnosis.causes.into_iter().next().map(|best| best.kind);
    let (label, alignment) = (label.clone(), diagnosis.alignment);
    Ok(Outcome { rank: rank(&label, &answer), label, answer, cause, alignment, seconds })
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or("")
}

/// Where the truth stands among the distinct answers, from 1.
///
/// A label that names a change (or says that none is to blame) is met by the change alone: the right service with the
/// wrong change would send people to revert the wrong thing.
fn rank(label: &Value, answer: &Value) -> Option<usize> {
    let wanted = label["change"].as_str();
    let mut seen = BTreeSet::new();
    let ranked = answer["ranked"].as_array().into_iter().flatten();
    let mut position = 0;
    for entry in ranked {
        let change = entry["change"].as_str().filter(|_| wanted.is_some());
        let key = change.unwrap_or_else(|| text(entry, "service")).to_lowercase();
        if !seen.insert(key.clone()) {
            continue;
        }
        position += 1;
        let right = match (wanted, change) {
            (Some(wanted), Some(change)) => change.eq_ignore_ascii_case(wanted),
            (Some(_), None) => false,
            (None, _) => label["accept"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|accepted| accepted.as_str().is_some_and(|accepted| accepted.to_lowercase() == key)),
        };
        if right {
            return Some(position);
        }
    }
    None
}

fn miss(one: &Outcome) -> String {
    let rank = one.rank.map_or("-".to_owned(), |rank| rank.to_string());
    let first = &one.answer["ranked"][0];
    format!(
        "truth {} {} at {rank}, said {} {} ({:.2})",
        text(&one.label, "service"),
        text(&one.label, "kind"),
        text(first, "service"),
        text(first, "kind"),
        one.confidence()
    )
}

fn saved(one: &Outcome) -> String {
    let mut answer = one.answer.clone();
    answer["dataset"] = one.label["dataset"].clone();
    answer["case"] = one.label["case"].clone();
    answer["seconds"] = one.seconds.into();
    answer["cause"] = one.cause.clone().into();
    format!("{answer}\n")
}

impl Outcome {
    fn right(&self) -> bool {
        self.rank == Some(1)
    }

    fn exact(&self) -> bool {
        self.right() && text(&self.answer["ranked"][0], "kind") == text(&self.label, "kind")
    }

    fn answered(&self) -> bool {
        self.answer["abstain"] != true
    }

    fn confidence(&self) -> f64 {
        self.answer["confidence"].as_f64().unwrap_or(0.0)
    }

    fn told(&self) -> Told {
        Told { confidence: self.confidence(), right: self.right() }
    }
}

fn share(all: &[&Outcome], is: impl Fn(&Outcome) -> bool) -> f64 {
    match all.len() {
        0 => 0.0,
        count => all.iter().filter(|one| is(one)).count() as f64 / count as f64,
    }
}

/// Seconds that a share of the cases stays below.
fn seconds(all: &[&Outcome], share: f64) -> f64 {
    let mut sorted: Vec<f64> = all.iter().map(|one| one.seconds).collect();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(0.0)
}

fn print(outcomes: &[Outcome]) {
    let mut sets: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for one in outcomes {
        sets.entry(text(&one.label, "dataset")).or_default().push(one);
    }
    println!(
        "{:24} {:>5} {:>6} {:>6} {:>6} {:>7} {:>7} {:>7} {:>6} {:>7} {:>7} {:>7}",
        "data set", "cases", "AC@1", "AC@3", "exact", "answers", "right", "cov@.95", "ECE", "p50 s", "p99 s", "aligned"
    );
    for (name, all) in &sets {
        row(name, all);
    }
    row("all pooled", &outcomes.iter().collect::<Vec<_>>());
    let mean = sets.values().map(|all| share(all, Outcome::right)).sum::<f64>() / sets.len().max(1) as f64;
    println!("macro AC@1 over {} data sets: {mean:.3}", sets.len());
}

fn row(name: &str, all: &[&Outcome]) {
    let answered: Vec<&Outcome> = all.iter().copied().filter(|one| one.answered()).collect();
    let told: Vec<Told> = all.iter().map(|one| one.told()).collect();
    println!(
        "{name:24} {:5} {:6.3} {:6.3} {:6.3} {:7.3} {:7.3} {:7.3} {:6.3} {:7.3} {:7.3} {}",
        all.len(),
        share(all, Outcome::right),
        share(all, |one| one.rank.is_some_and(|rank| rank <= 3)),
        share(all, Outcome::exact),
        share(all, Outcome::answered),
        share(&answered, Outcome::right),
        coverage(&told),
        calibration_error(&told),
        seconds(all, 0.5),
        seconds(all, 0.99),
        aligned(all).map_or("      -".to_owned(), |share| format!("{share:7.4}")),
    );
}

/// Share of series, spans and log lines that found what they speak about; none where there are none.
fn aligned(all: &[&Outcome]) -> Option<f64> {
    let sum = |of: fn(&Alignment) -> u64| all.iter().map(|one| of(&one.alignment)).sum::<u64>() as f64;
    let (known, unknown) = (sum(|one| one.aligned), sum(|one| one.unaligned));
    (known + unknown > 0.0).then(|| known / (known + unknown))
}

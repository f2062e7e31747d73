//! `amend bench rca --root DIR`: how often the diagnosis is right on labelled cases.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use amend_diagnosis::diagnose::diagnose;
use amend_telemetry::case;
use anyhow::Context;
use clap::Subcommand;
use serde_json::Value;

/// Measurements.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Scores labelled cases: `labels.jsonl` beside one directory per data set.
    Rca {
        #[arg(long)]
        root: PathBuf,
        /// Only these data sets, separated by commas.
        #[arg(long, value_delimiter = ',')]
        datasets: Vec<String>,
        /// Lists each miss with what was answered instead.
        #[arg(long)]
        misses: bool,
        /// Also writes the answers, one JSON object a line.
        #[arg(long)]
        save: Option<PathBuf>,
    },
}

#[derive(Debug, Default)]
struct Score {
    cases: usize,
    first: usize,
    among_three: usize,
    exact: usize,
    answered: usize,
    answered_right: usize,
    seconds: Vec<f64>,
}

pub fn run(verb: &Verb) -> anyhow::Result<()> {
    let Verb::Rca { root, datasets, misses, save } = verb;
    let path = root.join("labels.jsonl");
    let labels = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut scores: BTreeMap<String, Score> = BTreeMap::new();
    let mut saved = String::new();
    for line in labels.lines() {
        let label: Value = serde_json::from_str(line)?;
        let (dataset, name) = (text(&label, "dataset"), text(&label, "case"));
        let wanted = datasets.is_empty() || datasets.iter().any(|set| set == dataset);
        let directory = root.join(dataset).join(name);
        if !wanted
            || !directory.join("case.json").exists()
            || label["accept"].is_null()
            || directory.join("fail.log").exists()
        {
            continue;
        }
        let (mut answer, seconds) = answer(&directory)?;
        let score = scores.entry(dataset.to_owned()).or_default();
        let rank = rank(&label, &answer);
        score.add(&label, &answer, rank, seconds);
        if *misses && rank != Some(1) {
            println!("{dataset} {name}: {}", miss(&label, &answer, rank));
        }
        if save.is_some() {
            answer["dataset"] = dataset.into();
            answer["case"] = name.into();
            answer["seconds"] = seconds.into();
            saved.push_str(&format!("{answer}\n"));
        }
    }
    if let Some(path) = save {
        fs::write(path, saved).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print(&mut scores);
    Ok(())
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or("")
}

fn answer(directory: &Path) -> anyhow::Result<(Value, f64)> {
    let start = Instant::now();
    let case = case::read(directory).with_context(|| format!("no case in {}", directory.display()))?;
    let answer = case.answer(&diagnose(&case.observations));
    Ok((answer, start.elapsed().as_secs_f64()))
}

/// Where the truth stands among the distinct answers, from 1.
fn rank(label: &Value, answer: &Value) -> Option<usize> {
    let by_change = label["change"].as_str().is_some();
    let mut seen = BTreeSet::new();
    let ranked = answer["ranked"].as_array().into_iter().flatten();
    let mut position = 0;
    for entry in ranked {
        let change = entry["change"].as_str().filter(|_| by_change);
        let key = change.unwrap_or_else(|| text(entry, "service")).to_lowercase();
        if !seen.insert(key.clone()) {
            continue;
        }
        position += 1;
        let right = match change {
            Some(change) => change == text(label, "change"),
            None => label["accept"]
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

fn miss(label: &Value, answer: &Value, rank: Option<usize>) -> String {
    let rank = rank.map_or("-".to_owned(), |rank| rank.to_string());
    let first = &answer["ranked"][0];
    format!(
        "truth {} {} at {rank}, said {} {} ({:.2})",
        text(label, "service"),
        text(label, "kind"),
        text(first, "service"),
        text(first, "kind"),
        answer["confidence"].as_f64().unwrap_or(0.0)
    )
}

impl Score {
    fn add(&mut self, label: &Value, answer: &Value, rank: Option<usize>, seconds: f64) {
        let right = rank == Some(1);
        self.cases += 1;
        self.first += usize::from(right);
        self.among_three += usize::from(rank.is_some_and(|rank| rank <= 3));
        self.exact += usize::from(right && text(&answer["ranked"][0], "kind") == text(label, "kind"));
        if answer["abstain"] != true {
            self.answered += 1;
            self.answered_right += usize::from(right);
        }
        self.seconds.push(seconds);
    }
}

fn print(scores: &mut BTreeMap<String, Score>) {
    println!(
        "{:24} {:>5} {:>6} {:>6} {:>6} {:>7} {:>7} {:>8}",
        "data set", "cases", "AC@1", "AC@3", "exact", "answers", "right", "p99 s"
    );
    let share = |part: usize, all: usize| if all == 0 { 0.0 } else { part as f64 / all as f64 };
    let mut macro_first = 0.0;
    for (name, score) in scores.iter_mut() {
        score.seconds.sort_by(f64::total_cmp);
        let late =
            score.seconds.get((score.seconds.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0.0);
        macro_first += share(score.first, score.cases);
        println!(
            "{name:24} {:5} {:6.3} {:6.3} {:6.3} {:7.3} {:7.3} {late:8.3}",
            score.cases,
            share(score.first, score.cases),
            share(score.among_three, score.cases),
            share(score.exact, score.cases),
            share(score.answered, score.cases),
            share(score.answered_right, score.answered),
        );
    }
    println!("macro AC@1 over {} data sets: {:.3}", scores.len(), macro_first / scores.len().max(1) as f64);
}

//! Commits of the application: which deployed diff could have done what the logs and metrics show?
//!
//! A commit is suspect when it was deployed before the first sign, when its diff changes behaviour (a constant, a key, a
//! guard, a retry, a wait), and when its words are those of the new errors. "No change" is a hypothesis of its own, and
//! needs positive evidence: an outside host in the errors, pressure on a node, one record that fails again and again.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::evidence::{Change, ChangeKind, LogLine};
use crate::finding::{Finding, Modality};
use crate::metric::name_of;
use crate::robust::{deviation, mad, median};
use crate::scene::{Scene, seconds};

/// Evidence that all commits must beat to be blamed.
const NO_CHANGE: f64 = 0.35;
/// From the product of the factors to nats.
const NATS: f64 = 2.0;

/// A commit of source code, known by its diff rather than by what it did to an object.
pub fn is_source(change: &Change) -> bool {
    change.kind == ChangeKind::Commit && change.target.name.is_empty()
}

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let commits: Vec<&Change> = scene.changes.iter().filter(|change| is_source(change)).collect();
    let Some(alert) = scene.observations.symptoms.first().map(|signal| scene.symptom_entity(&signal.entity)) else {
        return Vec::new();
    };
    if commits.is_empty() {
        return Vec::new();
    }
    let bad: Vec<&LogLine> =
        scene.observations.logs.known().into_iter().flatten().filter(|line| is_bad(line)).collect();
    let moved = moved_series(scene);
    let onset = onset(scene, &bad, &moved);
    let words = error_words(scene, &bad, &moved);
    let rarity = rarity(&commits);
    let asked = scene.questions().about(&["changes", "git"]);
    let suspects = suspects(scene, &alert, &bad, &moved);
    let mut findings = Vec::new();
    for commit in &commits {
        if seconds(commit.at) > onset {
            continue;
        }
        let deploys: Vec<&Change> = scene
            .changes
            .iter()
            .filter(|change| !is_source(change) && seconds(change.at) <= onset + 30.0 && change.at >= commit.at)
            .collect();
        let own: Vec<&&Change> = deploys.iter().filter(|deploy| deploy.id == commit.id).collect();
        // Deployed itself; with a later deploy; or not at all as far as anybody knows.
        let (relation, times): (f64, Vec<f64>) = match (own.is_empty(), deploys.is_empty()) {
            (false, _) => (1.0, own.iter().map(|deploy| seconds(deploy.at)).collect()),
            (true, false) => (0.45, vec![deploys.iter().map(|deploy| seconds(deploy.at)).fold(f64::MAX, f64::min)]),
            (true, true) => (0.05, vec![seconds(commit.at)]),
        };
        let since = times.into_iter().fold(f64::MIN, f64::max);
        let time = (-(onset - since).max(0.0) / 1800.0).exp();
        let targets: Vec<&Change> =
            if own.is_empty() { deploys.clone() } else { own.iter().map(|deploy| **deploy).collect() };
        let near = if targets.iter().any(|deploy| suspects.contains(&deploy.target)) { 1.2 } else { 0.7 };
        let (risk, why) = risk(commit);
        let shared: BTreeSet<String> = words_of(&changed_text(commit)).intersection(&words).cloned().collect();
        let overlap: f64 = shared.iter().map(|word| rarity.get(word).copied().unwrap_or(3.0)).sum::<f64>() / 6.0;
        let score = relation * near * (0.3 + time) * (0.15 + risk) * (0.3 + overlap.min(2.5));
        let listed = |entity: &Entity| scene.observations.candidates.as_ref().is_none_or(|list| list.contains(entity));
        let carried = targets.iter().map(|deploy| &deploy.target).find(|target| listed(target));
        let entity = carried.unwrap_or(&alert).clone();
        let listed: Vec<&str> = shared.iter().take(5).map(String::as_str).collect();
        let sentence = format!(
            "commit {} ran {:.0} s before the first sign; {why}; words shared with the errors: {}",
            commit.id.chars().take(10).collect::<String>(),
            (onset - since).max(0.0),
            if listed.is_empty() { "none".to_owned() } else { listed.join(", ") }
        );
        findings.push(
            Finding::new(
                entity,
                cause::BAD_IMAGE,
                Modality::Changes,
                NATS * (score / NO_CHANGE).max(1e-4).ln() + 2.0,
                sentence,
            )
            .labelled(why)
            .of_change(&commit.id)
            .asked(&asked)
            .measure("commit.guilty", &commit.id),
        );
    }
    // A change that nobody could read may be the one.
    if scene.observations.unread_changes().is_none() {
        findings.push(no_change(scene, alert, &bad, &asked));
    }
    findings
}

fn is_bad(line: &LogLine) -> bool {
    line.severity.as_deref().is_some_and(|severity| {
        let severity = severity.to_ascii_uppercase();
        ["ERR", "WARN", "FATAL", "CRIT"].iter().any(|word| severity.starts_with(word))
    })
}

/// Series that left their normal range for good, with the moment.
fn moved_series(scene: &Scene<'_>) -> Vec<(f64, Option<Entity>, String)> {
    let at = seconds(scene.observations.at);
    let mut moved = Vec::new();
    for series in scene.observations.series.known().into_iter().flatten() {
        let Some((first, _)) = series.samples.first() else { continue };
        let quiet_until = first + 0.4 * (at - first);
        let usual: Vec<f64> =
            series.samples.iter().filter(|(time, _)| *time < quiet_until).map(|(_, value)| *value).collect();
        let Some(middle) = median(&usual).filter(|_| usual.len() >= 8) else { continue };
        let noise = mad(&usual, middle).max(0.05 * middle.abs()).max(0.25 * deviation(&usual)).max(1e-9);
        let out = |value: f64| (value - middle).abs() > 6.0 * noise;
        let onset =
            series.samples.windows(3).find(|three| three.iter().all(|(_, value)| out(*value))).map(|three| three[0].0);
        if let Some(onset) = onset {
            moved.push((onset, scene.aligner.of_series(series), name_of(&series.labels).to_owned()));
        }
    }
    moved
}

/// The first sign: a series that left its range, an error that was never written before, else the alert.
fn onset(scene: &Scene<'_>, bad: &[&LogLine], moved: &[(f64, Option<Entity>, String)]) -> f64 {
    let mut first: BTreeMap<String, f64> = BTreeMap::new();
    for line in bad {
        if let Some(at) = line.at_ns {
            let at = at as f64 / 1e9;
            let known = first.entry(shape(&line.body)).or_insert(at);
            *known = known.min(at);
        }
    }
    let alert = scene.observations.symptoms.iter().map(|signal| seconds(signal.started_at)).fold(f64::MAX, f64::min);
    let earliest = scene.observations.series.known().into_iter().flatten().filter_map(|series| series.samples.first());
    let begin = earliest.map(|(at, _)| *at).fold(f64::MAX, f64::min);
    let onset = moved.iter().map(|(at, ..)| *at).chain(first.into_values()).fold(alert, f64::min);
    if begin < f64::MAX { onset.max(begin) } else { onset }
}

fn shape(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).take(200).collect()
}

/// Entities that show something or that the alerting one calls.
fn suspects(
    scene: &Scene<'_>,
    alert: &Entity,
    bad: &[&LogLine],
    moved: &[(f64, Option<Entity>, String)],
) -> BTreeSet<Entity> {
    let mut suspects = scene.graph.reached(alert);
    suspects.extend(moved.iter().filter_map(|(_, entity, _)| entity.clone()));
    suspects.extend(bad.iter().filter_map(|line| scene.aligner.named("", &line.source)));
    suspects
}

/// Words that say nothing about one change: of languages, of logs, of every error.
const COMMON: &[&str] = &[
    "the", "and", "for", "not", "with", "from", "this", "that", "func", "return", "err", "nil", "null", "none",
    "error", "string", "int", "map", "any", "type", "var", "let", "const", "new", "service", "services", "pkg",
    "internal", "yaml", "http", "request", "failed", "failure", "value", "values", "field", "fields", "after",
    "before", "public", "private", "class", "import", "def", "self", "src", "main",
];

fn words_of(text: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut word = String::new();
    let mut lower = false;
    for c in text.chars().chain([' ']) {
        let boundary = !c.is_ascii_alphabetic() || (c.is_ascii_uppercase() && lower);
        if boundary && !word.is_empty() {
            if word.len() > 2 && !COMMON.contains(&word.as_str()) {
                words.insert(std::mem::take(&mut word));
            }
            word.clear();
        }
        if c.is_ascii_alphabetic() {
            word.push(c.to_ascii_lowercase());
        }
        lower = c.is_ascii_lowercase();
    }
    words
}

fn error_words(scene: &Scene<'_>, bad: &[&LogLine], moved: &[(f64, Option<Entity>, String)]) -> BTreeSet<String> {
    let mut shapes = BTreeSet::new();
    let mut words = BTreeSet::new();
    for line in bad {
        if shapes.insert(shape(&line.body)) {
            words.extend(words_of(&line.body));
        }
    }
    for signal in &scene.observations.symptoms {
        words.extend(words_of(&signal.summary));
        words.extend(words_of(&signal.name));
    }
    for (_, _, metric) in moved {
        words.extend(words_of(metric));
    }
    words
}

fn changed_text(commit: &Change) -> String {
    let lines = commit.diff.lines().filter(|line| line.starts_with(['+', '-'])).map(|line| &line[1..]);
    let mut text: String = lines.collect::<Vec<_>>().join(" ");
    text.push(' ');
    text.push_str(&commit.files.join(" "));
    text.push(' ');
    text.push_str(&commit.summary);
    text
}

/// How few commits use a word, in nats.
fn rarity(commits: &[&Change]) -> BTreeMap<String, f64> {
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for commit in commits {
        for word in words_of(&changed_text(commit)) {
            *counts.entry(word).or_default() += 1.0;
        }
    }
    let all = commits.len() as f64 + 1.0;
    counts.into_iter().map(|(word, count)| (word, (all / count).ln())).collect()
}

/// How much a diff could change behaviour, from 0 (cosmetic) to 1, and why.
fn risk(commit: &Change) -> (f64, &'static str) {
    let idle = |file: &String| {
        let file = file.to_ascii_lowercase();
        let ends = [".md", ".css", ".html", ".sum", ".lock", ".txt", ".svg"].iter().any(|end| file.ends_with(end));
        let parts = [
            "_test.",
            "test_",
            ".test.",
            ".spec.",
            "/testdata/",
            "/tests/",
            "docs/",
            "documentation/",
            ".github/",
            ".circleci/",
            "codeowners",
            "lint",
        ];
        ends || parts.iter().any(|part| file.contains(part))
    };
    if !commit.files.is_empty() && commit.files.iter().all(idle) {
        return (0.02, "only tests or documents change");
    }
    if commit.diff.is_empty() {
        return (0.1, "its diff is not known");
    }
    let side = |sign: char| -> Vec<&str> {
        let triple: String = std::iter::repeat_n(sign, 3).collect();
        let lines = commit.diff.lines().filter(|line| line.starts_with(sign) && !line.starts_with(&triple));
        lines.map(|line| code(&line[1..])).filter(|line| !line.is_empty()).collect()
    };
    let (removed, added) = (side('-'), side('+'));
    let only = |list: &[&str], other: &[&str]| -> Vec<String> {
        list.iter().filter(|line| !other.contains(line)).map(|line| (*line).to_owned()).collect()
    };
    let (gone, new) = (only(&removed, &added), only(&added, &removed));
    if gone.is_empty() && new.is_empty() {
        return (0.05, "only comments change");
    }
    if gone.iter().chain(&new).all(|line| only_observes(line)) {
        return (0.05, "only logs or metrics change");
    }
    if gone.is_empty() {
        return (0.2, "it only adds");
    }
    let guards = |list: &[String]| list.iter().filter(|line| is_guard(line)).count();
    let loud = gone.iter().any(|line| {
        let line = line.to_ascii_lowercase();
        ["retry", "retries", "timeout", "lock", "sleep", "leeway", "backoff", "deadline"]
            .iter()
            .any(|word| line.contains(word))
    });
    let kept_guards = new.iter().filter(|line| starts_guard(line)).count();
    // A check that moves into a helper takes its bounds and names along.
    let moved = literals(&gone);
    if moved.len() >= 2 && moved == literals(&new) {
        return (0.25, "the same values are checked in another way");
    }
    if guards(&gone).max(usize::from(loud)) > kept_guards {
        return (0.8, "a guard, retry or wait is removed");
    }
    if constant_changes(&gone, &new) {
        return (0.8, "a constant changes");
    }
    let keys = |list: &[String]| -> BTreeSet<String> {
        let lines = list.iter().filter(|line| !only_observes(line));
        lines.flat_map(|line| line.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    let (before, after) = (keys(&gone), keys(&new));
    if before.difference(&after).next().is_some() && after.difference(&before).next().is_some() {
        return (0.7, "a key is renamed");
    }
    (0.25, "code changes")
}

/// Numbers and quoted texts of some lines.
fn literals(lines: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in lines.iter().filter(|line| !only_observes(line)) {
        for (index, part) in line.split('"').enumerate() {
            match index % 2 {
                1 => found.extend((!part.is_empty()).then(|| part.to_owned())),
                _ => {
                    let words = part.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'));
                    found
                        .extend(words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned));
                }
            }
        }
    }
    found
}

/// A line without its comment.
fn code(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with("//") || line.starts_with('#') || line.starts_with("/*") || line.starts_with('*') {
        return "";
    }
    line.split(" //").next().unwrap_or(line).split(" #").next().unwrap_or(line).trim()
}

/// Whether a line only writes logs, metrics or traces.
fn only_observes(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let calls_log =
        line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '(')).any(|word| {
            let name = word.split(['.', '(']).next().unwrap_or("");
            let logs = name.starts_with("log_")
                || ["log", "logger", "logging", "slog", "klog", "glog", "zap", "tracing"].contains(&name);
            logs && word.len() > name.len()
        });
    let others = ["metric", "counter", "prometheus", "otel", "tracer", "span.", "fmt.print", "console."];
    calls_log || others.iter().any(|word| line.contains(word))
}

fn starts_guard(line: &str) -> bool {
    ["if", "guard", "unless", "when", "case", "defer", "try", "catch", "with"].iter().any(|word| {
        line.strip_prefix(word).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    })
}

fn is_guard(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    starts_guard(line)
        || ["== nil", "== null", "== none", "is none", "is null"].iter().any(|word| lower.contains(word))
        || ["leeway", "retry", "timeout", "lock", "sleep"].iter().any(|word| lower.contains(word))
}

/// Whether one name gets another value, with a number in it: `ttl: 15 * time.Minute` becomes `ttl: 15 * time.Second`.
fn constant_changes(gone: &[String], new: &[String]) -> bool {
    let split = |line: &String| -> Option<(String, String)> {
        let at = line.find([':', '=', '('])?;
        let (name, value) = line.split_at(at);
        Some((name.trim().to_owned(), value.trim_start_matches([':', '=', ' ']).trim().to_owned()))
    };
    gone.iter().filter_map(split).any(|(name, before)| {
        let after = new.iter().filter_map(split).find(|(other, _)| *other == name);
        let numeric = |text: &str| text.chars().any(|c| c.is_ascii_digit());
        after.is_some_and(|(_, after)| after != before && numeric(&before) && numeric(&after))
    })
}

/// The hypothesis that nobody's change is to blame.
fn no_change(scene: &Scene<'_>, alert: Entity, bad: &[&LogLine], asked: &str) -> Finding {
    let mut score = NO_CHANGE;
    let mut reasons: Vec<String> = Vec::new();
    let known: BTreeSet<&str> = scene
        .graph
        .calls
        .iter()
        .flat_map(|(from, to)| to.iter().chain([from]))
        .map(|entity| entity.name.as_str())
        .collect();
    let outside = bad.iter().find_map(|line| {
        let at = line.body.find("http://").map(|at| at + 7).or_else(|| line.body.find("https://").map(|at| at + 8))?;
        let host = line.body[at..].split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-')).next()?;
        (host.contains('.') && !known.iter().any(|name| host.contains(name))).then(|| host.to_owned())
    });
    if let Some(host) = outside {
        score += 1.2;
        reasons.push(format!("errors name the outside host {host}"));
    }
    let pressure =
        ["MemoryPressure", "DiskPressure", "Evict", "NotReady", "preempt", "co-tenant", "noisy", "contended"];
    if bad
        .iter()
        .any(|line| pressure.iter().any(|word| line.body.to_ascii_lowercase().contains(&word.to_ascii_lowercase())))
    {
        score += 1.0;
        reasons.push("a node is under pressure".to_owned());
    }
    let records: Vec<BTreeSet<String>> = bad
        .iter()
        .map(|line| {
            let parts = line.body.split([' ', ',', ';', '"']).filter(|part| {
                part.split_once('=').is_some_and(|(key, value)| {
                    !value.is_empty() && (key.ends_with("_id") || key == "offset" || key == "producer" || key == "key")
                })
            });
            parts.map(str::to_owned).collect()
        })
        .filter(|ids: &BTreeSet<String>| !ids.is_empty())
        .collect();
    let distinct: BTreeSet<&String> = records.iter().flatten().collect();
    if records.len() >= 5 && distinct.len() <= 4 {
        score += 1.2;
        reasons.push("one record fails again and again".to_owned());
    }
    let sentence = match reasons.is_empty() {
        true => "nothing speaks for a cause outside of the changes".to_owned(),
        false => reasons.join("; "),
    };
    Finding::new(alert, cause::NO_CHANGE, Modality::Changes, NATS * (score / NO_CHANGE).ln() + 2.0, sentence)
        .labelled("no change is to blame")
        .asked(asked)
}

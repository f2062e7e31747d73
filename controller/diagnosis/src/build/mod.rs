//! CI logs: which lines tell why the build failed, and what sort of failure it is.
//!
//! Each line gets a score by boosted trees over signs that are common to all tools (`signs`, `features`, `trees`); what is
//! shown is the range of greatest sum. `train/failing_lines.py` learns the tables and says how well they do.

pub mod features;
mod segments;
mod signs;
#[rustfmt::skip]
#[allow(clippy::approx_constant, reason = "learned numbers mean nothing else")]
mod table_alone;
#[rustfmt::skip]
#[allow(clippy::approx_constant, reason = "learned numbers mean nothing else")]
mod table_compared;
mod trees;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::features::{COMPARED, Features, OWN, Passed, lines};
use self::segments::Range;
use crate::logs::catalogue::meaning;
use crate::logs::{Class, classify};

/// Who has to do something about a failed build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum BuildClass {
    /// Goes away by itself: network, a registry, a rate limit.
    Transient,
    /// A test that sometimes fails.
    Flaky,
    /// A package that cannot be had or does not fit.
    Dependency,
    /// A tool is missing or of the wrong version.
    Toolchain,
    /// The commit itself.
    Code,
    /// The runner: disk, memory, permissions, quota.
    Infra,
}

/// What a CI log says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BuildFailure {
    /// First and last line of each failing part, counted from 1 as editors count, most likely first.
    pub ranges: Vec<(usize, usize)>,
    /// `None` when nothing in the log tells.
    pub class: Option<BuildClass>,
    /// What the deciding line speaks of, by the catalogue of log lines.
    pub speaks_of: Option<Class>,
    /// One sentence that quotes the line which decided.
    pub why: String,
}

/// Longer logs are read at their end only: the failure is there, and time and memory are bounded.
pub const LINES_MAX: usize = 100_000;

/// Odds (as a logarithm) above which a line is shown when a passing log was compared: p = .25.
const SHOWN: f32 = -1.1;

/// Share of the most likely line's probability that is enough when no line reaches [`SHOWN`].
const OF_BEST: f32 = 0.6;

/// Reads a failed log, and the log of a run that passed to compare with when there is one.
pub fn classify_build(log: &str, passed: Option<&str>) -> BuildFailure {
    let skipped = lines(log).count().saturating_sub(LINES_MAX);
    let features = Features::of(lines(log).skip(skipped));
    let alone = alone(&features);
    let (scores, ranges) = match passed {
        Some(passed) => {
            let scores = compared(&features, &Passed::of(lines(passed).take(LINES_MAX)), &alone);
            let ranges = segments::above(&features, &scores, bound(&features, &scores));
            (scores, ranges)
        }
        None => {
            let ranges = segments::strongest(&features, &alone).into_iter().collect();
            (alone, ranges)
        }
    };
    let told = tell(&features.lines, &ranges, &scores, skipped);
    BuildFailure {
        ranges: ranges.iter().map(|(from, to)| (from + 1 + skipped, to + 1 + skipped)).collect(),
        class: told.class,
        speaks_of: told.speaks_of,
        why: told.why,
    }
}

/// How much each line looks like the failure in its own log.
fn alone(features: &Features) -> Vec<f32> {
    let mut row = Vec::with_capacity(OWN);
    let scored = (0..features.lines.len()).map(|line| {
        features.row(line, &mut row);
        trees::score(table_alone::TREES, &row)
    });
    scored.collect()
}

/// The same, with what the passing run has said.
fn compared(features: &Features, passed: &Passed, alone: &[f32]) -> Vec<f32> {
    let mut row = Vec::with_capacity(OWN + COMPARED);
    let scored = passed.rows(features, alone).into_iter().enumerate().map(|(line, more)| {
        features.row(line, &mut row);
        row.extend(more);
        trees::score(table_compared::TREES, &row)
    });
    scored.collect()
}

/// From which score on a line is shown: something always is.
fn bound(features: &Features, scores: &[f32]) -> f32 {
    let shown = (0..scores.len()).filter(|line| !features.is_blank(*line)).map(|line| scores[line]);
    let best = shown.fold(f32::MIN, f32::max);
    let probability = OF_BEST / (1.0 + (-best).exp());
    SHOWN.min((probability / (1.0 - probability)).ln())
}

/// What the failing lines say, in words.
struct Told {
    class: Option<BuildClass>,
    speaks_of: Option<Class>,
    why: String,
}

/// How far around the most likely range a reason is looked for when no range names one.
const AROUND: usize = 20;

/// The class by the failing lines: what the catalogue says of the most telling one, in the ranges or else around them.
fn tell(lines: &[String], ranges: &[Range], scores: &[f32], skipped: usize) -> Told {
    let best = most_telling(lines, ranges, scores).or_else(|| {
        let (from, to) = *ranges.first()?;
        let wider = (from.saturating_sub(AROUND), (to + AROUND).min(lines.len() - 1));
        most_telling(lines, &[wider], scores)
    });
    let Some((speaks_of, index)) = best else {
        let quoted = ranges.first().and_then(|(from, _)| lines.get(*from)).map_or("", |line| line.trim());
        let why = format!("nothing in the log names a known sort of failure; it ends near \"{}\"", short(quoted));
        return Told { class: None, speaks_of: None, why };
    };
    let text = lines[index].trim();
    let whole = || ranges.iter().flat_map(|(from, to)| &lines[*from..=*to]);
    let class = match speaks_of {
        Class::Dns | Class::Tls | Class::Network | Class::Timeout => BuildClass::Transient,
        Class::Quota if text.to_ascii_lowercase().contains("rate") || text.contains("429") => BuildClass::Transient,
        Class::Memory | Class::Disk | Class::Quota | Class::Permission => BuildClass::Infra,
        Class::Dependency => BuildClass::Dependency,
        Class::Toolchain => BuildClass::Toolchain,
        Class::Test if whole().any(|line| looks_flaky(line)) => BuildClass::Flaky,
        Class::Test | Class::Compile | Class::Configuration | Class::Database | Class::Other => BuildClass::Code,
    };
    let line = index + 1 + skipped;
    let why = format!("line {line}: {}: \"{}\"", meaning(text).unwrap_or("failure"), short(text));
    Told { class: Some(class), speaks_of: Some(speaks_of), why }
}

/// The line of a known class that says most, and its class; a line of a less likely range says less.
fn most_telling(lines: &[String], ranges: &[Range], scores: &[f32]) -> Option<(Class, usize)> {
    let mut best: Option<(f32, Class, usize)> = None;
    for (rank, (from, to)) in ranges.iter().enumerate() {
        for index in *from..=*to {
            let class = classify(&lines[index]);
            // The code is at fault unless something more telling says otherwise: tests fail for many reasons.
            let telling = match class {
                Class::Other => continue,
                Class::Test => 0.0,
                Class::Compile => 0.5,
                Class::Timeout | Class::Configuration => 0.8,
                Class::Permission | Class::Database | Class::Network => 1.0,
                Class::Dns | Class::Tls | Class::Memory | Class::Disk | Class::Quota => 1.5,
                Class::Dependency | Class::Toolchain => 1.5,
            };
            let score = scores[index].clamp(-3.0, 3.0) + telling - 1.5 * rank as f32;
            if best.is_none_or(|(known, ..)| score > known) {
                best = Some((score, class, index));
            }
        }
    }
    best.map(|(_, class, index)| (class, index))
}

fn looks_flaky(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    ["flaky", "flake", "passed on retry", "passed after retry", "data race", "timed out waiting for", "stale element"]
        .iter()
        .any(|sign| lower.contains(sign))
}

fn short(text: &str) -> String {
    text.chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(failure: &[&str]) -> String {
        let mut lines: Vec<String> = (0..200).map(|number| format!("Compiling crate{number} v1.{number}.0")).collect();
        lines.extend(failure.iter().map(|line| (*line).to_owned()));
        lines.push("The command \"make test\" exited with 2.".into());
        lines.push("Done. Your build exited with 1.".into());
        lines.join("\n")
    }

    fn failure(lines: &[&str]) -> BuildFailure {
        classify_build(&log(lines), None)
    }

    #[test]
    fn the_failing_lines_are_found_and_counted_from_one() {
        let got = failure(&["main.c:3:10: fatal error: foo.h: No such file or directory", "compilation terminated."]);
        let (from, to) = got.ranges[0];
        assert!((from..=to).contains(&201), "{got:?}");
        assert!(to - from < 6, "{got:?}");
        assert_eq!(got.class, Some(BuildClass::Code));
    }

    #[test]
    fn each_class_is_told_by_its_lines() {
        for (lines, class) in [
            (
                vec!["npm ERR! code ERESOLVE", "npm ERR! ERESOLVE unable to resolve dependency tree"],
                BuildClass::Dependency,
            ),
            (vec!["bash: protoc: command not found"], BuildClass::Toolchain),
            (vec!["curl: (6) Could not resolve host: registry.example.org"], BuildClass::Transient),
            (vec!["error: write /tmp/x: no space left on device"], BuildClass::Infra),
            (vec!["--- FAIL: TestCheckout (0.00s)", "    checkout_test.go:12: expected 3, got 4"], BuildClass::Code),
            (vec!["--- FAIL: TestCheckout (0.00s)", "    checkout_test.go:12: known flaky test"], BuildClass::Flaky),
        ] {
            assert_eq!(failure(&lines).class, Some(class), "{lines:?}");
        }
    }

    #[test]
    fn what_the_passing_run_also_said_is_not_the_failure() {
        let noise = "error: cache miss, continuing";
        let failing = log(&[noise, "assertion failed: left == right at cart.rs:10"]);
        let got = classify_build(&failing, Some(&log(&[noise])));
        let (from, to) = got.ranges[0];
        assert!((from..=to).contains(&202) && !(from..=to).contains(&201), "{got:?}");
    }

    #[test]
    fn an_empty_log_says_nothing() {
        let got = classify_build("", None);
        assert_eq!(got.class, None);
        assert!(got.ranges.is_empty());
    }

    #[test]
    fn hostile_text_does_not_reach_the_reason() {
        let got = failure(&["\x1b[31merror\x1b[0m: \u{202e}boom"]);
        assert!(!got.why.contains('\u{1b}') && !got.why.contains('\u{202e}'));
    }
}

//! CI logs: which lines tell why the build failed, and what sort of failure it is.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::logs::catalogue::meaning;
use crate::logs::clean::{plain, without_time};
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
    /// First and last line of each failing part, counted from 1, most likely first.
    pub ranges: Vec<(usize, usize)>,
    /// `None` when nothing in the log tells.
    pub class: Option<BuildClass>,
    /// One sentence that quotes the line which decided.
    pub why: String,
}

/// Longer logs are read at their end only: the failure is there, and time is bounded.
pub const LINES_MAX: usize = 400_000;

/// Ranges that are shown: failures have one place mostly, but what a passing run never said may be scattered.
const RANGES: (usize, usize) = (3, 12);

/// Longer ranges are cut to their strongest part.
const LONGEST: usize = 120;

/// A further range must be this strong against the best one.
const AGAINST_BEST: f64 = 0.25;

/// Reads a failed log, and the log of a run that passed to compare with when there is one.
pub fn classify_build(log: &str, passed: Option<&str>) -> BuildFailure {
    let all: Vec<&str> = log.split('\n').collect();
    let skipped = all.len().saturating_sub(LINES_MAX);
    let lines: Vec<String> = all.iter().skip(skipped).map(|line| without_time(&plain(line)).to_owned()).collect();
    let known: Option<BTreeSet<String>> =
        passed.map(|log| log.split('\n').map(|line| shape(without_time(&plain(line)))).collect());
    let scores = scores(&lines, known.as_ref());
    let most = if known.is_some() { RANGES.1 } else { RANGES.0 };
    let ranges = segments(&lines, &scores, most);
    let (class, why) = class_of(&lines, &ranges, &scores);
    BuildFailure {
        ranges: ranges.iter().map(|(from, to)| (from + 1 + skipped, to + 1 + skipped)).collect(),
        class,
        why,
    }
}

/// Signs of a line, each with its weight; judged on logs of many languages and kept few.
const SIGNS: [(&str, f64); 12] = [
    (r"\b(fatal )?error\b[:\]]|^error\b|\berror TS\d+|^E\s{2,}\S|\[ERROR\]|ERR!", 2.0),
    (r"\bfail(ed|ure|ures|ing)?\b", 1.0),
    (r"--- FAIL|^FAIL(ED)?\b|^not ok \d|✗|✖|✘|❌|FAILURES!|<<< (FAILURE|ERROR)!", 2.5),
    (r"\b[A-Za-z]\w*(Error|Exception|Failure)\b", 1.5),
    (
        r#"Traceback \(most|^\s+at \S+[(:]|^\s*File ".*", line \d+|^\s+from \S+:\d+|panicked at|^goroutine \d+|Caused by:"#,
        1.2,
    ),
    (r"\bassert|\bexpected\b|\bactual\b|to (be|equal|eq|match|include)\b", 0.8),
    (r"[\w/.-]+\.\w{1,6}[:(]\d+", 0.6),
    (
        r"not found|No such file|cannot find|could not|unable to|undefined|unresolved|denied|not recognized|doesn.t exist|invalid|unexpected",
        1.2,
    ),
    (r"^\s*\d+\) \S", 0.8),
    (r"make(\[\d+\])?: \*\*\*|ninja: build stopped|BUILD FAILED|npm ERR|Execution failed|BUILD FAILURE", 1.2),
    (r"^\s*[\^~]+\s*$|^\s*\|\s", 0.5),
    (r"Tests run:.*(Failures|Errors): [1-9]|\b[1-9]\d* (failed|failures?|failing|errors?)\b", 1.2),
];

/// Signs that a line is not the failure, however it reads.
const COUNTER: [(&str, f64); 5] = [
    (
        r"\b0 (errors?|fail)|no errors|errors?: 0\b|failures?: 0\b|failed: 0\b|--fail|allow_failure|-Werror|[/\w]error\.(c|h|o|rs|js|py|rb)\b",
        -2.5,
    ),
    (r"\bwarn(ing)?\b", -1.2),
    (r"Download|Receiving|Unpacking|Installing|Setting up|Get:\d|\d+%|Fetch|Already up-to-date", -1.5),
    (r"^travis_|^\$ |^\+ |The command .* exited with|Your build|Process completed with exit code|cache\b", -1.0),
    (r"\bpass(ed|ing)?\b|\bok\b|✓|success", -0.8),
];

static SET: LazyLock<Option<RegexSet>> = LazyLock::new(|| {
    let patterns = SIGNS.iter().chain(&COUNTER).map(|(pattern, _)| *pattern);
    RegexSetBuilder::new(patterns).case_insensitive(true).size_limit(64 << 20).build().ok()
});

/// Where a CI service says that a command failed.
static EXIT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#"The command ".*" (exited with [1-9]|failed and exited)|Process completed with exit code [1-9]|Job failed|exited with code [1-9]|exit status [1-9]"#).ok()
});

/// Numbers, hashes and temporary paths differ from run to run.
static VARYING: LazyLock<Option<Regex>> = LazyLock::new(|| {
    RegexBuilder::new(r"0x[0-9a-f]+|[0-9a-f]{7,}|\d+([.,:]\d+)*|/tmp/\S+").case_insensitive(true).build().ok()
});

fn shape(line: &str) -> String {
    let trimmed = line.trim();
    match VARYING.as_ref() {
        Some(varying) => varying.replace_all(trimmed, "#").into_owned(),
        None => trimmed.to_owned(),
    }
}

/// How much each line looks like the failure.
fn scores(lines: &[String], known: Option<&BTreeSet<String>>) -> Vec<f64> {
    let Some(set) = SET.as_ref() else { return vec![0.0; lines.len()] };
    let exit = EXIT.as_ref().and_then(|exit| lines.iter().position(|line| exit.is_match(line)));
    let end = exit.unwrap_or(lines.len().saturating_sub(1));
    let mut scores: Vec<f64> = lines
        .iter()
        .enumerate()
        .map(|(index, line)| {
            if line.trim().is_empty() {
                return -0.3;
            }
            let weights = SIGNS.iter().chain(&COUNTER).map(|(_, weight)| weight);
            let matched = set.matches(line);
            let signs: f64 =
                weights.enumerate().filter(|(sign, _)| matched.matched(*sign)).map(|(_, weight)| weight).sum();
            // The nearer to where the command gave up, the likelier; what comes after is clean-up.
            let near = match index <= end {
                true => 1.5 * (-((end - index) as f64) / 60.0).exp(),
                false => -1.0,
            };
            let new = match known {
                Some(known) if known.contains(&shape(line)) => -4.0,
                Some(_) => 1.5,
                None => 0.0,
            };
            signs + if signs > 0.0 { near } else { 0.3 * near } + new - 0.9
        })
        .collect();
    // A line among failing lines is part of the failure: messages have several lines.
    let raw = scores.clone();
    for index in 0..scores.len() {
        let from = index.saturating_sub(2);
        let to = (index + 3).min(raw.len());
        let around = raw[from..to].iter().copied().fold(f64::MIN, f64::max);
        if around > 1.5 && !lines[index].trim().is_empty() {
            scores[index] += 0.25 * around.min(4.0);
        }
    }
    scores
}

/// The segments of greatest sum, best first; none when no line looks like a failure.
fn segments(lines: &[String], scores: &[f64], most: usize) -> Vec<(usize, usize)> {
    let mut scores: Vec<f64> = scores.iter().map(|score| score.clamp(-3.0, 3.0)).collect();
    let mut found = Vec::new();
    let mut strongest = 0.0;
    for _ in 0..most {
        let (mut best, mut range) = (0.0, None);
        let (mut sum, mut start) = (0.0, 0);
        for (index, score) in scores.iter().enumerate() {
            if sum <= 0.0 {
                (sum, start) = (0.0, index);
            }
            sum += score;
            if sum > best {
                (best, range) = (sum, Some((start, index)));
            }
        }
        let Some((from, to)) = range.map(|range| densest(&scores, range)) else { break };
        let weak = if most == RANGES.0 { AGAINST_BEST * strongest } else { 1.0 };
        if best < weak && !found.is_empty() {
            break;
        }
        strongest = f64::max(strongest, best);
        found.push((from, to));
        for score in &mut scores[from..=to] {
            *score = -3.0;
        }
    }
    if found.is_empty()
        && let Some(last) = lines.iter().rposition(|line| !line.trim().is_empty())
    {
        found.push((last.saturating_sub(9), last));
    }
    found
}

/// The strongest part of a segment that is too long for a person to read.
fn densest(scores: &[f64], (from, to): (usize, usize)) -> (usize, usize) {
    if to - from < LONGEST {
        return (from, to);
    }
    let mut sum: f64 = scores[from..from + LONGEST].iter().sum();
    let (mut best, mut start) = (sum, from);
    for at in from + LONGEST..=to {
        sum += scores[at] - scores[at - LONGEST];
        if sum > best {
            (best, start) = (sum, at + 1 - LONGEST);
        }
    }
    (start, start + LONGEST - 1)
}

/// The class by the failing lines: what the catalogue says of the most telling one.
fn class_of(lines: &[String], ranges: &[(usize, usize)], scores: &[f64]) -> (Option<BuildClass>, String) {
    let mut best: Option<(f64, Class, usize)> = None;
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
            let score = scores[index] + telling - 1.5 * rank as f64;
            if best.is_none_or(|(known, ..)| score > known) {
                best = Some((score, class, index));
            }
        }
    }
    let Some((_, class, index)) = best else {
        let quoted = ranges.first().and_then(|(from, _)| lines.get(*from)).map_or("", |line| line.trim());
        return (None, format!("nothing in the log names a known sort of failure; it ends near \"{}\"", short(quoted)));
    };
    let text = lines[index].trim();
    let whole = || ranges.iter().flat_map(|(from, to)| &lines[*from..=*to]);
    let class = match class {
        Class::Dns | Class::Tls | Class::Network | Class::Timeout => BuildClass::Transient,
        Class::Quota if text.to_ascii_lowercase().contains("rate") || text.contains("429") => BuildClass::Transient,
        Class::Memory | Class::Disk | Class::Quota | Class::Permission => BuildClass::Infra,
        Class::Dependency => BuildClass::Dependency,
        Class::Toolchain => BuildClass::Toolchain,
        Class::Test if whole().any(|line| looks_flaky(line)) => BuildClass::Flaky,
        Class::Test | Class::Compile | Class::Configuration | Class::Database | Class::Other => BuildClass::Code,
    };
    (Some(class), format!("line {}: {}: \"{}\"", index + 1, meaning(text).unwrap_or("failure"), short(text)))
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

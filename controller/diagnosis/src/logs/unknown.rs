//! Lines that nobody can class and that matter: found in the evidence of one incident, as templates.

use std::collections::BTreeMap;

use crate::align::Aligner;
use crate::cluster::Cluster;
use crate::entity::Entity;
use crate::evidence::{LogLine, Observations, Window};

use super::catalogue::{Class, classify};
use super::clean::{self, LINE_MAX};
use super::taught::TEMPLATE_MAX;
use super::template::{Miner, VALUE};

/// Lines of one look that are read: what the stores are asked for fits; a case of millions is cut.
const LINES_MAX: usize = 50_000;

/// Templates that one look gives: more cannot be read by people, and a flood of data is no set of templates.
pub const SIGHTINGS_MAX: usize = 100;

/// Bytes of a sample line.
pub const SAMPLE_MAX: usize = 1_024;

/// Lines that a burst has at least, and how many times its usual rate.
const BURST_LINES: u64 = 10;
const BURST: f64 = 5.0;

/// Marks of trouble in a line that carries no severity of its own.
const TROUBLE: [&str; 8] = ["error", "fatal", "panic", "exception", "critical", "failed", "failure", "refuse"];

/// Why a line that nobody can class matters; the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its logger or its words say that something went wrong.
    Error,
    /// It has no time, is longer than a line may be, or holds bytes that are no text.
    Unreadable,
    /// Written since the trouble began and never before.
    New,
    /// Written much more often since the trouble began.
    Bursting,
}

impl Why {
    /// A word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Unreadable => "unreadable",
            Self::New => "new",
            Self::Bursting => "bursting",
        }
    }
}

/// One template of one workload, with the lines that were seen of it since the trouble began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub workload: Entity,
    /// With [`VALUE`] where lines differ; at most [`TEMPLATE_MAX`] bytes.
    pub template: String,
    /// One line of it, at most [`SAMPLE_MAX`] bytes.
    pub sample: String,
    pub why: Why,
    /// When it was written (Unix nanoseconds) and how many lines that were, in time order.
    pub at: Vec<(u64, u64)>,
    /// Lines without a time.
    pub untimed: u64,
}

impl Sighting {
    pub fn lines(&self) -> u64 {
        self.at.iter().fold(self.untimed, |sum, (_, count)| sum.saturating_add(*count))
    }
}

/// What one look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    /// The gravest and most frequent first, at most [`SIGHTINGS_MAX`].
    pub list: Vec<Sighting>,
    /// Templates beyond that.
    pub beyond: u64,
}

/// The lines of an incident that neither the catalogue nor people can class, and that matter.
///
/// `cleaned` takes out of a line what must not be shown: nothing else of a line gets into the result.
pub fn sightings(observations: &Observations, cleaned: &dyn Fn(&str) -> String) -> Sightings {
    let Some(lines) = observations.logs.known().filter(|lines| !lines.is_empty()) else { return Sightings::default() };
    let aligner = Aligner::new(observations, &Cluster::new(observations));
    let mut of_workload: BTreeMap<Entity, Vec<&LogLine>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.taught.is_none()).take(LINES_MAX) {
        if let Some(workload) = aligner.of_line(line) {
            of_workload.entry(workload.workload()).or_default().push(line);
        }
    }
    let mut found: Vec<Sighting> = Vec::new();
    for (workload, mut lines) in of_workload {
        // Templates depend on which lines are seen together, so they are put into one order first.
        lines.sort_by(|left, right| (left.at_ns, &left.body).cmp(&(right.at_ns, &right.body)));
        found.extend(of_lines(&workload, &lines, observations, cleaned));
    }
    found.sort_by(|left, right| {
        (left.why, right.lines(), &left.workload, &left.template).cmp(&(
            right.why,
            left.lines(),
            &right.workload,
            &right.template,
        ))
    });
    let beyond = found.len().saturating_sub(SIGHTINGS_MAX) as u64;
    found.truncate(SIGHTINGS_MAX);
    Sightings { list: found, beyond }
}

/// What the lines of one template say.
#[derive(Default)]
struct Group {
    before: u64,
    sample: String,
    error: bool,
    unreadable: bool,
    at: BTreeMap<u64, u64>,
    untimed: u64,
}

fn of_lines(
    workload: &Entity,
    lines: &[&LogLine],
    observations: &Observations,
    cleaned: &dyn Fn(&str) -> String,
) -> Vec<Sighting> {
    // Cleaned before it is mined: a mask in the middle of a secret would hide it from whoever takes secrets out.
    let texts: Vec<String> =
        lines.iter().map(|line| cleaned(clean::without_time(&clean::plain(&line.body)).trim())).collect();
    let mut miner = Miner::default();
    let places = miner.block(texts.iter().map(String::as_str));
    let (normal, fault) = (observations.normal.map(nanoseconds), observations.fault.map(nanoseconds));
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let mut compared = false;
    for ((line, text), place) in lines.iter().zip(&texts).zip(places) {
        let template = miner.template(place);
        if template.class != Class::Other {
            continue;
        }
        let group = groups.entry(shown(&template.text)).or_default();
        let count = line.count.max(1);
        let is_before = line.at_ns.is_some_and(|at| fault.is_some_and(|(from, _)| at < from));
        if is_before {
            let inside = line.at_ns.is_some_and(|at| normal.is_none_or(|(from, to)| (from..=to).contains(&at)));
            group.before = group.before.saturating_add(if inside { count } else { 0 });
            compared = true;
            continue;
        }
        if group.sample.is_empty() {
            text[..text.floor_char_boundary(SAMPLE_MAX)].clone_into(&mut group.sample);
        }
        group.error |= is_trouble(line.severity.as_deref(), text);
        group.unreadable |= is_unreadable(line);
        match line.at_ns {
            Some(at) => *group.at.entry(at).or_default() += count,
            None => group.untimed = group.untimed.saturating_add(count),
        }
    }
    let seconds = |window: Option<(u64, u64)>| window.map_or(0.0, |(from, to)| to.saturating_sub(from) as f64 / 1e9);
    let (usual_for, now_for) = (seconds(normal).max(1.0), seconds(fault).max(1.0));
    let mattering = groups.into_iter().filter_map(|(template, group)| {
        let sighting = Sighting {
            workload: workload.clone(),
            template,
            sample: group.sample,
            why: Why::Error,
            at: group.at.into_iter().collect(),
            untimed: group.untimed,
        };
        let lines = sighting.lines();
        if lines == 0 || sighting.template.is_empty() || classify(&sighting.sample) != Class::Other {
            return None;
        }
        let (usual, now) = (group.before as f64 / usual_for, lines as f64 / now_for);
        let why = match () {
            () if group.error => Why::Error,
            () if group.unreadable => Why::Unreadable,
            // Where nothing older is known, everything would be new.
            () if compared && group.before == 0 => Why::New,
            () if compared && lines >= BURST_LINES && now >= BURST * usual => Why::Bursting,
            () => return None,
        };
        Some(Sighting { why, ..sighting })
    });
    mattering.collect()
}

/// A template as it is kept: what stands for a secret is a value too, and a long one ends in a value.
fn shown(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template.trim();
    while let Some(at) = rest.find(REDACTED) {
        text.push_str(&rest[..at]);
        let after = &rest[at + REDACTED.len()..];
        let digits = after.bytes().take_while(u8::is_ascii_hexdigit).count();
        text.push_str(if digits > 0 { VALUE } else { REDACTED });
        rest = &after[digits..];
    }
    text.push_str(rest);
    if text.len() > TEMPLATE_MAX {
        text.truncate(text.floor_char_boundary(TEMPLATE_MAX - VALUE.len()));
        // Half of a mark would be taken for text.
        for part in ["<*", "<"] {
            if text.ends_with(part) {
                text.truncate(text.len() - part.len());
            }
        }
        text.push_str(VALUE);
    }
    text
}

/// What stands in front of the digest of a secret (see `amend_telemetry::case::redact`).
const REDACTED: &str = "redacted-";

fn nanoseconds(window: Window) -> (u64, u64) {
    let of = |at: jiff::Timestamp| u64::try_from(at.as_nanosecond()).unwrap_or(0);
    (of(window.from), of(window.to))
}

/// Whether a line's logger or words say that something went wrong.
fn is_trouble(severity: Option<&str>, text: &str) -> bool {
    let grave = |severity: &str| {
        let severity = severity.to_ascii_uppercase();
        ["ERR", "FATAL", "CRIT", "PANIC", "EMERG", "ALERT"].iter().any(|grave| severity.starts_with(grave))
    };
    let calm = |severity: &str| {
        let severity = severity.to_ascii_uppercase();
        ["INFO", "DEBUG", "TRACE", "NOTICE"].iter().any(|calm| severity.starts_with(calm))
    };
    match severity {
        Some(severity) if grave(severity) => true,
        // Its logger knows better than its words.
        Some(severity) if calm(severity) => false,
        Some(_) | None => {
            let text = text.to_ascii_lowercase();
            let calm = ["level=info", "level=debug", "\"level\":\"info\"", "[info]", " info "];
            !calm.iter().any(|mark| text.contains(mark)) && TROUBLE.iter().any(|mark| text.contains(mark))
        }
    }
}

fn is_unreadable(line: &LogLine) -> bool {
    let strange =
        |sign: char| sign == char::REPLACEMENT_CHARACTER || (sign.is_control() && !"\t\n\r\u{1b}".contains(sign));
    line.at_ns.is_none() || line.body.len() > LINE_MAX || line.body.contains(strange)
}

#[cfg(test)]
mod tests;

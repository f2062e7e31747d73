//! What an entity began to write with the trouble, and what it ceased to write.
//!
//! Errors that it never wrote before, errors that it writes many times as often, and regular lines that stop: a heartbeat, work that is
//! done. Stores give the newest lines of a window and those about trouble, so the times that lines cover are compared, and
//! what is regular is looked for among lines that are no errors.

use std::collections::BTreeMap;

use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::evidence::LogLine;
use crate::finding::{Finding, Modality};
use crate::logs::template::Miner;
use crate::logs::{catalogue, clean};
use crate::scene::Scene;

use super::traces::is_error;

/// Errors never written before, and errors that burst.
const NEW: f64 = 1.5;
const BURSTS: f64 = 0.8;
/// Of an entity that calls another one with new errors: those are inherited as a rule.
const INHERITED: f64 = 0.3;
/// A regular line that stops.
const VANISHED: f64 = 1.0;

/// Fewer lines are chance; from so many on it is as clear as it gets.
const LINES_MIN: u64 = 3;
const LINES_CLEAR: f64 = 30.0;
/// Lines that an entity wrote before: of one that was hardly heard, everything is new.
const VOICE: u64 = 20;
/// How many times as often as before.
const BURST: f64 = 5.0;
const BURST_LINES: u64 = 10;
/// A line is regular when it is in each of so many equal parts of the time before, and so many are missed since.
const PARTS: usize = 6;
const MISSED: f64 = 10.0;
/// Other lines that must still come: an entity that writes nothing is silent as a whole.
const STILL: u64 = 5;
/// Lines of one entity that are read: the last ones of each window.
const LINES_MAX: usize = 20_000;
const SHOWN: usize = 100;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let Some(windows) = scene.windows else { return Vec::new() };
    let asked = scene.questions().about(&["logs", "log", "|="]);
    let voices: BTreeMap<&Entity, Voice> = scene
        .logs
        .iter()
        .map(|(entity, lines)| (entity, Voice::of(lines, windows.normal, windows.sick)))
        .filter(|(_, voice)| voice.before >= VOICE)
        .collect();
    let mut findings = Vec::new();
    for (entity, voice) in &voices {
        let deeper =
            scene.graph.callees(entity).any(|callee| voices.get(callee).is_some_and(|one| one.loudest().is_some()));
        let inherited = if deeper { INHERITED } else { 1.0 };
        if let Some((line, weight, story)) = voice.loudest() {
            let sentence = format!("{} {story}: \"{}\"", entity.name, shown(&line.text));
            findings.push(
                Finding::new((*entity).clone(), cause::ERRORS, Modality::Logs, weight * inherited, sentence)
                    .labelled("new errors in its log")
                    .asked(&asked),
            );
        }
        if let Some((line, missed)) = voice.ceased() {
            let sentence = format!(
                "{} ceased to write \"{}\", which was to come {missed:.0} times",
                entity.name,
                shown(&line.text)
            );
            findings.push(
                Finding::new((*entity).clone(), cause::BEHAVIOUR, Modality::Logs, VANISHED, sentence)
                    .labelled("ceased to do what it did")
                    .asked(&asked),
            );
        }
    }
    findings
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// What one entity wrote, by template.
struct Voice {
    lines: Vec<Written>,
    /// Lines in the time before.
    before: u64,
    /// Seconds that its lines cover before and since; in the second pair those that are no errors.
    covered: [f64; 2],
    calm: [f64; 2],
}

/// Lines of one template.
#[derive(Default)]
struct Written {
    text: String,
    counts: [u64; 2],
    error: bool,
    /// Names a callee: whose trouble that is, others tell.
    outward: bool,
    /// When, before the trouble.
    at: Vec<f64>,
}

impl Voice {
    fn of(lines: &[&LogLine], normal: (f64, f64), sick: (f64, f64)) -> Self {
        let inside = |at: f64, (from, to): (f64, f64)| (from..=to).contains(&at);
        let mut timed: [Vec<(f64, &LogLine)>; 2] = [Vec::new(), Vec::new()];
        for line in lines.iter().rev() {
            let Some(at) = line.at_ns.map(|at| at as f64 / 1e9) else { continue };
            let part = if inside(at, sick) { 1 } else { 0 };
            if (part == 1 || inside(at, normal)) && timed[part].len() < LINES_MAX {
                timed[part].push((at, line));
            }
        }
        let span = |list: &[(f64, &LogLine)], calm: bool| {
            let times = list.iter().filter(|(_, line)| !calm || !is_error(line)).map(|(at, _)| *at);
            let ends = times.fold((f64::MAX, f64::MIN), |(low, high), at| (low.min(at), high.max(at)));
            (ends.1 - ends.0).max(0.0)
        };
        let covered = [span(&timed[0], false), span(&timed[1], false)];
        let calm = [span(&timed[0], true), span(&timed[1], true)];
        let all: Vec<(usize, f64, &LogLine)> = timed
            .iter()
            .enumerate()
            .flat_map(|(part, list)| list.iter().map(move |(at, line)| (part, *at, *line)))
            .collect();
        let texts: Vec<String> = all
            .iter()
            .map(|(.., line)| clean::without_time(&clean::plain(catalogue::front(&line.body))).trim().to_owned())
            .collect();
        let mut miner = Miner::default();
        let places = miner.block(texts.iter().map(String::as_str));
        let mut written: BTreeMap<u32, Written> = BTreeMap::new();
        for ((part, at, line), place) in all.into_iter().zip(places) {
            let one = written.entry(place).or_insert_with(|| Written {
                text: miner.template(place).text.clone(),
                error: is_error(line),
                outward: catalogue::callee(&line.body).is_some(),
                ..Written::default()
            });
            one.counts[part] += line.count.max(1);
            if part == 0 {
                one.at.push(at);
            }
        }
        let mut lines: Vec<Written> = written.into_values().collect();
        lines.sort_by(|a, b| a.text.cmp(&b.text));
        let before = lines.iter().map(|line| line.counts[0]).sum();
        Self { lines, before, covered, calm }
    }

    /// The clearest of the errors that are new or burst, with its weight.
    fn loudest(&self) -> Option<(&Written, f64, String)> {
        let errors = self.lines.iter().filter(|line| line.error && !line.outward);
        let told = errors.filter_map(|line| {
            let [was, is] = line.counts;
            let clear = ((is as f64).ln() / LINES_CLEAR.ln()).clamp(0.0, 1.0);
            let often = is as f64 / self.covered[1].max(1.0);
            let usual = was as f64 / self.covered[0].max(1.0);
            if was == 0 && is >= LINES_MIN {
                Some((line, NEW * clear, format!("writes an error {is} times that it never wrote before")))
            } else if was > 0 && is >= BURST_LINES && often >= BURST * usual {
                Some((
                    line,
                    BURSTS * clear,
                    format!("writes an error {is} times, {:.0} times as often as before", often / usual),
                ))
            } else {
                None
            }
        });
        told.max_by(|a, b| a.1.total_cmp(&b.1).then_with(|| b.0.text.cmp(&a.0.text)))
    }

    /// The most frequent regular line that came no more, and how often it was to come.
    fn ceased(&self) -> Option<(&Written, f64)> {
        let calm = self.lines.iter().filter(|line| !line.error);
        let still = calm.clone().map(|line| line.counts[1]).sum::<u64>();
        let gone = calm.filter(|line| line.counts[1] == 0 && line.is_regular(self.calm[0])).filter_map(|line| {
            let missed = line.counts[0] as f64 / self.calm[0].max(1.0) * self.calm[1];
            (missed >= MISSED).then_some((line, missed))
        });
        let most = gone.max_by(|a, b| a.1.total_cmp(&b.1).then_with(|| b.0.text.cmp(&a.0.text)));
        most.filter(|_| still >= STILL)
    }
}

impl Written {
    /// Whether it came in every part of the time before.
    fn is_regular(&self, covered: f64) -> bool {
        let (Some(first), true) = (self.at.iter().copied().reduce(f64::min), covered > 0.0) else { return false };
        let mut parts = [false; PARTS];
        for at in &self.at {
            let part = ((at - first) / covered * PARTS as f64) as usize;
            parts[part.min(PARTS - 1)] = true;
        }
        parts.iter().all(|seen| *seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of two windows of 600 s: text, severity, and every how many seconds it comes in each.
    fn voice(written: &[(&str, &str, [u64; 2])]) -> Voice {
        let mut lines = Vec::new();
        for (text, severity, every) in written {
            for (part, every) in every.iter().enumerate().filter(|(_, every)| **every > 0) {
                lines.extend((0..600 / every).map(|number| LogLine {
                    at_ns: Some((1_000 + 600 * part as u64 + number * every) * 1_000_000_000),
                    source: "web".into(),
                    severity: Some((*severity).into()),
                    body: format!("{text} {number}"),
                    trace_id: None,
                    span_id: None,
                    count: 1,
                    taught: None,
                }));
            }
        }
        lines.sort_by_key(|line| line.at_ns);
        Voice::of(&lines.iter().collect::<Vec<_>>(), (1_000.0, 1_599.0), (1_600.0, 2_200.0))
    }

    const BEAT: (&str, &str, [u64; 2]) = ("served a request in ms", "INFO", [5, 5]);

    #[test]
    fn an_error_that_was_never_written_is_louder_than_one_that_bursts() {
        let new = voice(&[BEAT, ("cannot apply discount", "ERROR", [0, 20])]);
        let (line, weight, story) = new.loudest().unwrap();
        assert!(line.text.starts_with("cannot apply discount") && story.contains("30 times"), "{story}");
        let bursts = voice(&[BEAT, ("cannot apply discount", "ERROR", [200, 20])]);
        let (_, less, story) = bursts.loudest().unwrap();
        assert!(less < weight && story.contains("times as often"), "{story}");
        assert!(voice(&[BEAT, ("cannot apply discount", "ERROR", [20, 20])]).loudest().is_none());
        assert!(voice(&[BEAT, ("cannot apply discount", "ERROR", [0, 500])]).loudest().is_none(), "once is chance");
    }

    #[test]
    fn a_regular_line_that_stops_is_missed_while_others_go_on() {
        let told = |work: [u64; 2], beat: [u64; 2]| {
            let voice = voice(&[("processed an order", "INFO", work), (BEAT.0, BEAT.1, beat)]);
            voice.ceased().map(|(line, missed)| (line.text.clone(), missed.round() as u64))
        };
        let (text, missed) = told([20, 0], [5, 5]).unwrap();
        assert!(text.starts_with("processed an order"), "{text}");
        assert!((28..=31).contains(&missed), "{missed}");
        assert_eq!(told([20, 20], [5, 5]), None);
        assert_eq!(told([20, 0], [5, 0]), None, "silent as a whole");
        assert_eq!(told([300, 0], [5, 5]), None, "it came too rarely to be missed");
    }

    #[test]
    fn what_stops_before_the_trouble_was_not_regular() {
        let mut lines: Vec<LogLine> = Vec::new();
        let line = |at: u64, body: &str| LogLine {
            at_ns: Some(at * 1_000_000_000),
            source: "web".into(),
            severity: Some("INFO".into()),
            body: body.into(),
            trace_id: None,
            span_id: None,
            count: 1,
            taught: None,
        };
        lines.extend((0..40).map(|number| line(1_000 + number, "loading a plugin")));
        lines.extend((0..240).map(|number| line(1_000 + number * 5, "served a request")));
        lines.sort_by_key(|line| line.at_ns);
        let voice = Voice::of(&lines.iter().collect::<Vec<_>>(), (1_000.0, 1_599.0), (1_600.0, 2_200.0));
        assert!(voice.ceased().is_none());
    }
}

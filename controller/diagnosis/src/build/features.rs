//! Features: what is known of each line of a log, as numbers for the trees.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use regex::Regex;

use super::signs::{SIGNS, Signs, begins_command, ends_command, signs};
use crate::logs::clean::{plain, without_time};

/// Bytes of a line that are looked at: what a failure has to say comes first.
const LINE_MAX: usize = 400;

/// Signs that failures have; their distance and number around a line are features of their own.
const TELLING: [usize; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 19, 21, 23];

/// Signs by which failures begin.
const FIRST: [usize; 6] = [1, 3, 4, 5, 19, 21];

/// Features of a line in its own log.
pub const OWN: usize = SIGNS.len() * 3 + TELLING.len() * 4 + FIRST.len() + 18;

/// Features of a line against the log of a run that passed.
pub const COMPARED: usize = 11;

/// Distances beyond this are far.
const FAR: usize = 200;

/// Lines as editors count them: ended by a line feed, a carriage return, or both.
pub fn lines(log: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(log);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r']) else { return rest.take() };
        let length = if text[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&text[end + length..]);
        Some(&text[..end])
    })
}

/// A log that is ready to be asked about its lines.
#[derive(Debug)]
pub struct Features {
    pub lines: Vec<String>,
    signs: Vec<Signs>,
    blank: Vec<bool>,
    /// Logarithm of how often a line, and a line that begins alike, is in the log.
    common: Vec<(f32, f32)>,
    /// First and last line of the section whose command failed.
    section: (usize, usize),
    /// By telling sign: how many lines up to each have it.
    counts: Vec<Vec<u32>>,
    /// By telling sign: distance to the line that has it, before and after.
    distance: Vec<Vec<(u8, u8)>>,
    /// By sign in [`FIRST`]: the first line that has it.
    first: [usize; FIRST.len()],
}

impl Features {
    pub fn of<'l>(raw: impl Iterator<Item = &'l str>) -> Self {
        let mut lines = Vec::new();
        let mut found = Vec::new();
        for raw in raw {
            let mut end = raw.len().min(LINE_MAX);
            while !raw.is_char_boundary(end) {
                end -= 1;
            }
            let line = without_time(&plain(&raw[..end])).to_owned();
            found.push(signs(&raw[..end], &line));
            lines.push(line);
        }
        let blank: Vec<bool> = lines.iter().map(|line| line.trim().is_empty()).collect();
        let common = common(&lines);
        let section = section(&lines);
        let has = |sign: usize| found.iter().map(move |signs: &Signs| signs.has(sign));
        let counts = TELLING
            .iter()
            .map(|sign| {
                let running = has(*sign).scan(0, |count, has| {
                    *count += u32::from(has);
                    Some(*count)
                });
                std::iter::once(0).chain(running).collect()
            })
            .collect();
        let distance = TELLING.iter().map(|sign| distances(has(*sign))).collect();
        let first = FIRST.map(|sign| has(sign).position(|has| has).unwrap_or(usize::MAX));
        Self { lines, signs: found, blank, common, section, counts, distance, first }
    }

    pub fn is_blank(&self, line: usize) -> bool {
        self.blank[line]
    }

    /// The features of a line, in an order that only the trees know.
    pub fn row(&self, line: usize, row: &mut Vec<f32>) {
        row.clear();
        let total = self.lines.len();
        let end = |after: usize| (line + 1 + after).min(total);
        let mask = |lines: &[Signs]| lines.iter().fold(0, |all, signs| all | signs.bits());
        let before = mask(&self.signs[line.saturating_sub(3)..line]);
        let after = mask(&self.signs[line + 1..end(3)]);
        for mask in [self.signs[line].bits(), before, after] {
            row.extend((0..SIGNS.len()).map(|sign| (mask >> sign & 1) as f32));
        }
        for (counts, distance) in self.counts.iter().zip(&self.distance) {
            row.push((counts[line] - counts[line.saturating_sub(12)]) as f32);
            row.push((counts[end(12)] - counts[line + 1]) as f32);
            row.push((1.0 + f32::from(distance[line].0)).ln());
            row.push((1.0 + f32::from(distance[line].1)).ln());
        }
        row.extend(self.first.iter().map(|first| f32::from(u8::from(line <= *first))));
        let around = line.saturating_sub(4)..end(4);
        let text = &self.lines[line];
        let indent = |line: usize| {
            let text = &self.lines[line];
            (text.len() - text.trim_start().len()).min(16) as f32
        };
        let (from, to) = self.section;
        let letters = text.bytes().filter(u8::is_ascii_alphabetic).count();
        let capitals = text.bytes().filter(u8::is_ascii_uppercase).count();
        let signed = |distance: f32| (1.0 + distance.abs()).ln().copysign(distance);
        row.extend([
            self.common[line].0,
            self.common[line].1,
            around.clone().map(|line| self.common[line].0).sum::<f32>() / around.len() as f32,
            f32::from(u8::from(self.blank[line])),
            self.blank[line.saturating_sub(2)..end(2)].iter().filter(|blank| **blank).count() as f32,
            f32::from(u8::from(line > 0 && self.blank[line - 1])),
            f32::from(u8::from(line + 1 < total && self.blank[line + 1])),
            indent(line),
            indent(line) - if line > 0 { indent(line - 1) } else { 0.0 },
            (1.0 + text.len() as f32).ln(),
            letters as f32 / text.len().max(1) as f32,
            capitals as f32 / letters.max(1) as f32,
            f32::from(u8::from((from..=to).contains(&line))),
            signed(to as f32 - line as f32),
            (1.0 + line.saturating_sub(from) as f32).ln(),
            ((line as f32 - from as f32) / (to.saturating_sub(from)).max(1) as f32).clamp(-1.0, 2.0),
            (total as f32).ln(),
            (1.0 + to.saturating_sub(from) as f32).ln(),
        ]);
    }
}

/// Logarithm of how often each line, and each beginning of a line, occurs.
fn common(lines: &[String]) -> Vec<(f32, f32)> {
    let shapes: Vec<String> = lines.iter().map(|line| shape(line)).collect();
    let head = |shape: &str| -> String {
        let head: String = shape.split_whitespace().take(2).flat_map(|word| [word, " "]).collect();
        head.chars().take(24).collect()
    };
    let mut whole: HashMap<&str, u32> = HashMap::new();
    let mut heads: HashMap<String, u32> = HashMap::new();
    for shape in &shapes {
        *whole.entry(shape).or_default() += 1;
        *heads.entry(head(shape)).or_default() += 1;
    }
    let log = |count: u32| (1.0 + count as f32).ln();
    shapes.iter().map(|shape| (log(whole[shape.as_str()]), log(heads[&head(shape)]))).collect()
}

/// From where the first command that failed began to where it gave up; the whole log when nothing tells.
fn section(lines: &[String]) -> (usize, usize) {
    let end = lines.iter().position(|line| ends_command(line)).unwrap_or(lines.len().saturating_sub(1));
    let start = lines.iter().take(end).rposition(|line| begins_command(line)).unwrap_or(0);
    (start, end)
}

/// How many lines before and after each line the nearest line stands that has a sign.
fn distances(has: impl Iterator<Item = bool>) -> Vec<(u8, u8)> {
    let far = FAR as u8;
    let mut distances: Vec<(u8, u8)> = Vec::new();
    let mut since = far;
    let mut marks = Vec::new();
    for has in has {
        since = if has { 0 } else { (since + 1).min(far) };
        distances.push((since, far));
        marks.push(has);
    }
    let mut until = far;
    for (distance, has) in distances.iter_mut().zip(marks).rev() {
        until = if has { 0 } else { (until + 1).min(far) };
        distance.1 = until;
    }
    distances
}

/// Numbers, hashes and temporary paths differ from run to run.
static VARYING: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"0[xX][0-9a-fA-F]+|[0-9a-fA-F]{7,}|(?-u:\d)+(?:[.,:](?-u:\d)+)*|/tmp/[^\s]+|(?-u:\s)+").ok()
});

/// A line without what differs from run to run.
fn shape(line: &str) -> String {
    let trimmed = line.trim();
    match VARYING.as_ref() {
        Some(varying) => {
            varying.replace_all(
                trimmed,
                |found: &regex::Captures<'_>| {
                    if found[0].starts_with(char::is_whitespace) { " " } else { "#" }
                },
            )
        }
        .into_owned(),
        None => trimmed.to_owned(),
    }
}

/// What a run that passed has said.
#[derive(Debug)]
pub struct Passed {
    shapes: HashSet<String>,
    words: HashSet<String>,
}

impl Passed {
    pub fn of<'l>(raw: impl Iterator<Item = &'l str>) -> Self {
        let mut passed = Self { shapes: HashSet::new(), words: HashSet::new() };
        for raw in raw {
            let mut end = raw.len().min(LINE_MAX);
            while !raw.is_char_boundary(end) {
                end -= 1;
            }
            let shape = shape(without_time(&plain(&raw[..end])));
            if passed.shapes.contains(&shape) {
                continue;
            }
            for word in words(&shape) {
                if !passed.words.contains(word) {
                    passed.words.insert(word.to_owned());
                }
            }
            passed.shapes.insert(shape);
        }
        passed
    }

    /// Features of every line: `alone` is how much each looks like a failure in its own log.
    pub fn rows(&self, features: &Features, alone: &[f32]) -> Vec<[f32; COMPARED]> {
        let total = features.lines.len();
        // For each line whether it is new, and the share of its words that are.
        let novel: Vec<(f32, f32)> = (0..total)
            .map(|line| {
                let shape = shape(&features.lines[line]);
                if features.blank[line] || self.shapes.contains(&shape) {
                    return (0.0, 0.0);
                }
                let (all, new) = words(&shape)
                    .fold((0, 0), |(all, new), word| (all + 1, new + u32::from(!self.words.contains(word))));
                (1.0, new as f32 / all.max(1) as f32)
            })
            .collect();
        let sum: f32 = novel.iter().map(|(new, _)| new).sum();
        let mut seen = 0.0;
        (0..total)
            .map(|line| {
                let near = line.saturating_sub(3)..(line + 4).min(total);
                let wide = line.saturating_sub(12)..(line + 13).min(total);
                let (from, to) = features.section;
                seen += novel[line].0;
                [
                    alone[line],
                    alone[near.clone()].iter().copied().fold(f32::MIN, f32::max),
                    alone[wide.clone()].iter().copied().fold(f32::MIN, f32::max),
                    novel[line].0,
                    novel[line].1,
                    novel[near.clone()].iter().map(|(new, _)| new).sum(),
                    novel[near].iter().map(|(_, words)| *words).fold(0.0, f32::max),
                    novel[wide].iter().map(|(new, _)| new).sum(),
                    seen / sum.max(1.0),
                    f32::from(u8::from((from..=to).contains(&line))),
                    (1.0 + sum).ln(),
                ]
            })
            .collect()
    }
}

fn words(shape: &str) -> impl Iterator<Item = &str> {
    shape.split(|c: char| !(c.is_ascii_alphabetic() || c == '_')).filter(|word| word.len() >= 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_as_editors_do() {
        assert_eq!(lines("a\r\nb\rc\n\nd").collect::<Vec<_>>(), ["a", "b", "c", "", "d"]);
        assert_eq!(lines("").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn what_differs_from_run_to_run_is_taken_away() {
        assert_eq!(shape("  took 12.5s  in /tmp/a8/b at 0xFF00 deadbeef1 "), "took #s in # at # #");
    }

    #[test]
    fn a_row_has_every_feature() {
        let log = Features::of(lines("$ make\n\nmain.c:3:10: error: boom\nThe command \"make\" exited with 2."));
        let mut row = Vec::new();
        log.row(2, &mut row);
        assert_eq!(row.len(), OWN);
        assert_eq!(log.section, (0, 3));
        assert!(log.is_blank(1) && !log.is_blank(2));
    }

    #[test]
    fn what_a_passing_run_never_said_is_new() {
        let log = Features::of(lines("built in 3 s\nassertion broke"));
        let passed = Passed::of(lines("built in 9 s"));
        let rows = passed.rows(&log, &[0.0, 0.0]);
        assert_eq!((rows[0][3], rows[1][3], rows[1][4]), (0.0, 1.0, 1.0));
    }
}

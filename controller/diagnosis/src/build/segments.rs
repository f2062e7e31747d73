//! Segments: from how much each line looks like the failure to the ranges that are shown.

use super::features::Features;

/// Odds (as a logarithm) from which a line counts for a range: p = .08, since a message has lines that say nothing alone.
const ENOUGH: f32 = -2.5;
/// One line may not decide for many.
const CLIP: f32 = 4.0;
/// Lines before and after that a line is smoothed with.
const SMOOTH: usize = 1;
/// Blank lines are part of a message.
const BLANK: f32 = -0.15;
/// Longer ranges are cut to their strongest part, for a person has to read them.
const LONGEST: usize = 400;
/// With a passing log to compare, ranges that are shown at most.
const RANGES_MAX: usize = 40;

/// First and last line of a range, from 0.
pub type Range = (usize, usize);

/// The one range of greatest sum: a failure has one place in its own log.
pub fn strongest(log: &Features, scores: &[f32]) -> Option<Range> {
    let mean = |line: usize| {
        let around = &scores[line.saturating_sub(SMOOTH)..(line + SMOOTH + 1).min(scores.len())];
        around.iter().sum::<f32>() / around.len() as f32
    };
    let value = |line: usize| {
        let value = (0.5 * scores[line] + 0.5 * mean(line) - ENOUGH).clamp(-CLIP, CLIP);
        if log.is_blank(line) { value.max(BLANK) } else { value }
    };
    let (mut sum, mut start) = (0.0, 0);
    let mut best: Option<(f32, Range)> = None;
    for line in 0..scores.len() {
        if sum <= 0.0 {
            (sum, start) = (0.0, line);
        }
        sum += value(line);
        if best.is_none_or(|(most, _)| sum > most) && !log.is_blank(line) {
            best = Some((sum, (start, line)));
        }
    }
    best.map(|(_, range)| densest(scores, trimmed(log, range)))
}

/// All lines above a bound, as ranges, strongest first.
pub fn above(log: &Features, scores: &[f32], bound: f32) -> Vec<Range> {
    let mut ranges: Vec<(f32, Range)> = Vec::new();
    for line in (0..scores.len()).filter(|line| !log.is_blank(*line) && scores[*line] > bound) {
        let gain = scores[line] - bound;
        match ranges.last_mut() {
            Some((sum, (_, to))) if (*to + 1..line).all(|between| log.is_blank(between)) => {
                *sum += gain;
                *to = line;
            }
            _ => ranges.push((gain, (line, line))),
        }
    }
    ranges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    ranges.truncate(RANGES_MAX);
    ranges.into_iter().map(|(_, range)| range).collect()
}

/// A range without blank lines at its ends.
fn trimmed(log: &Features, (mut from, mut to): Range) -> Range {
    while from < to && log.is_blank(from) {
        from += 1;
    }
    while to > from && log.is_blank(to) {
        to -= 1;
    }
    (from, to)
}

/// The strongest part of a range that is too long to read.
fn densest(scores: &[f32], (from, to): Range) -> Range {
    if to - from < LONGEST {
        return (from, to);
    }
    let mut sum: f32 = scores[from..from + LONGEST].iter().sum();
    let (mut best, mut start) = (sum, from);
    for at in from + LONGEST..=to {
        sum += scores[at] - scores[at - LONGEST];
        if sum > best {
            (best, start) = (sum, at + 1 - LONGEST);
        }
    }
    (start, start + LONGEST - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::features::lines;

    fn log(text: &str) -> Features {
        Features::of(lines(text))
    }

    #[test]
    fn the_strongest_range_has_no_blank_ends() {
        let log = log("a\n\nboom\n\nbang\n\nz");
        assert_eq!(strongest(&log, &[-9.0, -4.0, 3.0, -4.0, 3.0, -4.0, -9.0]), Some((2, 4)));
    }

    #[test]
    fn ranges_above_a_bound_bridge_blank_lines_only() {
        let log = log("boom\n\nbang\nquiet\nboom");
        assert_eq!(above(&log, &[1.0, -9.0, 1.0, -1.0, 1.5], 0.0), [(0, 2), (4, 4)]);
    }

    #[test]
    fn a_range_is_never_longer_than_a_person_reads() {
        let text = "x\n".repeat(2_000);
        let scores = vec![1.0; 2_001];
        let (from, to) = strongest(&log(&text), &scores).unwrap_or_default();
        assert_eq!(to - from + 1, LONGEST);
    }
}

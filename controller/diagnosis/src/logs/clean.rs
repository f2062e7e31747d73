//! Cleaning: what a terminal or a collector added is taken away, repeated stacks become one.

use std::sync::LazyLock;

use regex::Regex;

/// A line as it was, after cleaning, with where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanLine {
    /// From 1, as editors count.
    pub number: usize,
    pub text: String,
    /// How many equal lines or stacks this one stands for.
    pub repeats: usize,
}

/// Longest line that is looked at, in bytes; the rest says nothing new and costs time.
pub const LINE_MAX: usize = 4096;

static ESCAPES: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new("\x1b\\[[0-9;?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|\x1b[@-_]").ok());
static TIMESTAMP: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^\s*\[?\d{4}[-/]\d{2}[-/]\d{2}[T ]\d{2}:\d{2}:\d{2}(?:[.,]\d{1,9})?(?:Z|[+-]\d{2}:?\d{2})?\]?\s?").ok()
});
static FRAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#"^\s+at \S|^\s*File ".*", line \d+|^\s+from \S+:\d+|^\s+\d+: 0x|^\t\S+\.go:\d+|^\s*\.{3} \d+ more"#)
        .ok()
});

/// Removes escape sequences, carriage-return overwrites and other control characters, and cuts the line.
pub fn plain(line: &str) -> String {
    let mut end = line.len().min(LINE_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    // A progress bar overwrites its own line: only what stands after the last return was left to see.
    let line = line[..end].trim_end_matches(['\r', '\n']);
    let line = line.rsplit('\r').next().unwrap_or(line);
    let text = match ESCAPES.as_ref().filter(|_| line.contains('\x1b')) {
        Some(escapes) => escapes.replace_all(line, "").into_owned(),
        None => line.to_owned(),
    };
    text.chars().filter(|c| *c == '\t' || !(c.is_control() || is_bidi(*c))).collect()
}

/// Characters that turn text around: a hostile log hides words with them.
pub(super) fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// The line without its own timestamp, which a collector has stored beside it anyway.
pub fn without_time(line: &str) -> &str {
    match TIMESTAMP.as_ref().and_then(|pattern| pattern.find(line)) {
        Some(found) => &line[found.end()..],
        None => line,
    }
}

/// Whether a line is a frame of a stack trace.
pub fn is_frame(line: &str) -> bool {
    FRAME.as_ref().is_some_and(|frame| frame.is_match(line))
}

/// Cleans a whole log; equal stacks and equal neighbouring lines are folded into the first.
pub fn clean(log: &str) -> Vec<CleanLine> {
    let mut lines: Vec<CleanLine> = Vec::new();
    let mut stacks: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    let mut pending: Vec<CleanLine> = Vec::new();
    for (index, raw) in log.split('\n').enumerate() {
        let text = without_time(&plain(raw)).to_owned();
        let line = CleanLine { number: index + 1, text, repeats: 1 };
        if is_frame(&line.text) {
            pending.push(line);
            continue;
        }
        flush(&mut lines, &mut pending, &mut stacks);
        match lines.last_mut() {
            Some(before) if before.text == line.text && !line.text.trim().is_empty() => before.repeats += 1,
            _ => lines.push(line),
        }
    }
    flush(&mut lines, &mut pending, &mut stacks);
    lines
}

fn flush(
    lines: &mut Vec<CleanLine>,
    pending: &mut Vec<CleanLine>,
    stacks: &mut std::collections::BTreeMap<String, usize>,
) {
    if pending.is_empty() {
        return;
    }
    let text = pending.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n");
    match stacks.get(&text).and_then(|first| lines.get_mut(*first)) {
        Some(first) => first.repeats += 1,
        None => {
            stacks.insert(text, lines.len());
            lines.append(pending);
        }
    }
    pending.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_controls_and_bidi_marks_are_removed() {
        assert_eq!(plain("\x1b[31merror\x1b[0m: \u{202e}evil\x07"), "error: evil");
        assert_eq!(plain("10%\r50%\rdone"), "done");
    }

    #[test]
    fn a_repeated_stack_is_shown_once() {
        let log = "boom\n  at a.b(C.java:1)\n  at a.c(C.java:2)\nagain\n  at a.b(C.java:1)\n  at a.c(C.java:2)\nend";
        let lines = clean(log);
        let frames: Vec<_> = lines.iter().filter(|line| is_frame(&line.text)).collect();
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0].repeats, 2);
        assert_eq!(lines.last().map(|line| line.number), Some(7));
    }

    #[test]
    fn the_own_timestamp_of_a_line_is_cut() {
        assert_eq!(without_time("2024-01-02T03:04:05.678Z hello"), "hello");
        assert_eq!(without_time("[2024-01-02 03:04:05,678] hello"), "hello");
    }

    #[test]
    fn a_megabyte_line_is_cut_at_a_character() {
        let line = "ä".repeat(600_000);
        assert!(plain(&line).len() <= LINE_MAX);
    }
}

//! How `kubectl` lays text out: tables, keys with values, blocks below a key.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Cells of a line: split at two or more spaces.
pub(super) fn columns(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

/// `12m (x5 over 20m)` happened five times.
pub(super) fn repeated(age: &str) -> u32 {
    let count = age.split_once("(x").and_then(|(_, rest)| rest.split_whitespace().next());
    count.and_then(|count| count.parse().ok()).unwrap_or(1)
}

/// The value of a `Key:  value` line at the left edge.
pub(super) fn field(text: &str, key: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(':'));
    let value = lines.map(str::trim).next()?;
    (!value.is_empty() && value != "<none>").then(|| value.to_owned())
}

/// The indented lines under a `Key:` at the left edge.
pub(super) fn block<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    let mut lines = text.lines().skip_while(|line| !line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')));
    lines.next();
    lines.take_while(|line| line.starts_with(' ') || line.is_empty()).collect()
}

pub(super) fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// `name:` entries at one depth with the lines under each.
pub(super) fn entries<'t>(lines: &[&'t str], depth: usize) -> Vec<(&'t str, Vec<&'t str>)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in lines {
        match (indent(line) == depth, line.trim_end().strip_suffix(':')) {
            (true, Some(name)) => found.push((name.trim(), Vec::new())),
            _ => {
                if let Some((_, inner)) = found.last_mut() {
                    inner.push(line);
                }
            }
        }
    }
    found
}

/// The value of `Key:  value` among lines, wherever it is indented.
pub(super) fn entry(lines: &[&str], key: &str) -> Option<String> {
    let value = lines.iter().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(':'))?.trim();
    (!value.is_empty() && value != "<none>").then(|| value.to_owned())
}

/// Lines deeper than the line of a key.
pub(super) fn under<'t>(lines: &[&'t str], key: &str) -> Vec<&'t str> {
    let Some(at) =
        lines.iter().position(|line| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.starts_with(':')))
    else {
        return Vec::new();
    };
    let depth = indent(lines[at]);
    lines[at + 1..].iter().take_while(|line| indent(line) > depth).copied().collect()
}

pub(super) fn pairs(lines: &[&str]) -> Map<String, Value> {
    let split = lines.iter().filter_map(|line| line.split_once(':'));
    split.map(|(key, value)| (key.trim().to_owned(), json!(value.trim()))).collect()
}

pub(super) fn pair_list(text: &str) -> Map<String, Value> {
    let split = text.split([',', ' ']).filter_map(|pair| pair.split_once('='));
    split.map(|(key, value)| (key.trim().to_owned(), json!(value.trim()))).collect()
}

/// `Labels:` with one `key=value` a line, the first beside the key.
pub(super) fn labels(text: &str) -> Map<String, Value> {
    let first = field(text, "Labels").unwrap_or_default();
    let rest = block(text, "Labels");
    let all = std::iter::once(first.as_str()).chain(rest.iter().map(|line| line.trim()));
    let split = all.filter_map(|pair| pair.split_once('='));
    split.map(|(key, value)| (key.to_owned(), json!(value))).collect()
}

/// `Fri, 14 Nov 2025 21:38:28 +0800`.
pub(super) fn moment(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

//! Other people's text, made harmless before it is shown: in commits, titles, tables and code blocks.
//!
//! Labels, logs, branch names and commit messages come from whoever can run a pod or push a branch. Each
//! function here is for one place and leaves nothing that this place would act on.

/// Characters that change what a reader sees without being seen themselves: controls, direction marks, zero-width.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c as u32,
            0x00ad | 0x034f | 0x061c | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f
            | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb
            | 0xe000..=0xf8ff | 0xe0000..=0xe0fff)
}

/// Text without escape sequences: `ESC [ … letter`, `ESC ] … BEL`, and what is left of them.
fn without_ansi(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let sequence = match c {
            '\u{1b}' => chars.next(),
            '\u{9b}' => Some('['),
            '\u{9d}' => Some(']'),
            _ => {
                kept.push(c);
                continue;
            }
        };
        match sequence {
            Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
            Some(']' | 'P' | '_' | '^' | 'X') => {
                while let Some(c) = chars.next() {
                    if c == '\u{7}' || c == '\u{9c}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    kept
}

fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(longest.saturating_sub(1)).collect();
    kept.truncate(kept.trim_end().len());
    kept.push('…');
    kept
}

/// One line of plain text, for places that render nothing: commit subjects, trailers, statuses.
pub fn line(text: &str, longest: usize) -> String {
    // Newlines become spaces first, so that words do not grow together when controls are dropped.
    let spaced: String =
        without_ansi(text).chars().map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c }).collect();
    let visible: String = spaced.chars().filter(|c| !is_invisible(*c)).collect();
    cut(&visible.split_whitespace().collect::<Vec<_>>().join(" "), longest)
}

/// Several lines of plain text, for commit bodies. No line can pass for a trailer: `Key: value` gets indented.
pub fn paragraph(text: &str, longest: usize) -> String {
    let mut lines = Vec::new();
    for raw in text.lines() {
        let clean = line(raw, 200);
        let trailer = clean
            .split_once(':')
            .is_some_and(|(key, _)| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
        lines.push(if trailer { format!("  {clean}") } else { clean });
    }
    cut(lines.join("\n").trim_matches('\n'), longest)
}

/// One word of letters, digits, `.`, `_`, `/` and `-`, for markers and ids.
pub fn word(text: &str, longest: usize) -> String {
    text.chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-') { c } else { '-' })
        .take(longest)
        .collect::<String>()
        .replace("--", "-")
}

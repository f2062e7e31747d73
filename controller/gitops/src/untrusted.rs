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

/// Prose for Markdown. Every word that Markdown or a forge could act on becomes a code span; the others stay as they are.
///
/// In a code span there are no links, mentions, issue references, HTML or commands, on any forge. One paragraph: line
/// breaks become spaces.
pub fn prose(text: &str, longest: usize) -> String {
    let plain = line(text, longest);
    let words: Vec<String> = plain
        .split(' ')
        .map(|word| {
            let core = word.trim_start_matches(['(', '"', '\'']);
            let core = core.trim_end_matches([',', '.', ';', ':', '!', '?', ')', '"', '\'']);
            if core.is_empty() || is_inert(core) {
                return if word.chars().all(is_plain_mark) { word.to_owned() } else { span(word) };
            }
            let start = word.find(core).unwrap_or(0);
            format!("{}{}{}", &word[..start], span(core), &word[start + core.len()..])
        })
        .collect();
    words.join(" ")
}

/// A word without anything that Markdown, a forge's linkifier or an issue tracker reads as syntax.
fn is_inert(word: &str) -> bool {
    let issue_key = word.split_once('-').is_some_and(|(key, number)| {
        key.chars().all(|c| c.is_ascii_alphabetic()) && !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
    });
    let commit =
        word.len() >= 7 && word.chars().all(|c| c.is_ascii_hexdigit()) && word.contains(|c: char| c.is_ascii_digit());
    !issue_key && !commit && !word.to_ascii_lowercase().starts_with("www.") && word.chars().all(is_plain_mark)
}

fn is_plain_mark(c: char) -> bool {
    c.is_alphanumeric()
        || matches!(
            c,
            '-' | '.'
                | ','
                | ';'
                | '%'
                | '='
                | '+'
                | '('
                | ')'
                | '"'
                | '\''
                | '?'
                | '→'
                | '…'
                | '≥'
                | '≤'
                | '×'
                | '·'
                | '—'
                | '–'
        )
        || c == ':'
        || c == '!'
}

/// A value as a Markdown code span, fit for a table cell too; nothing at all becomes a dash.
pub fn code(text: &str, longest: usize) -> String {
    match line(text, longest) {
        empty if empty.is_empty() => "—".into(),
        clean => span(&clean),
    }
}

fn span(clean: &str) -> String {
    // A backtick would end the span and a bar the table cell; both get a look-alike that does neither.
    let inert: String = clean
        .chars()
        .map(|c| match c {
            '`' => 'ˋ',
            '|' => '¦',
            other => other,
        })
        .collect();
    format!("`{}`", inert.trim_matches('\\'))
}

/// Several lines as a fenced code block, cut by lines and characters; the fence is longer than any inside.
pub fn block(text: &str, language: &str, lines: usize, longest: usize) -> String {
    let mut kept = String::new();
    let mut cut_short = false;
    for (count, raw) in without_ansi(text).lines().enumerate() {
        let clean: String = raw.chars().filter(|c| *c == '\t' || !is_invisible(*c)).collect();
        if count == lines || kept.chars().count() + clean.chars().count() > longest {
            cut_short = true;
            break;
        }
        kept.push_str(&clean);
        kept.push('\n');
    }
    if cut_short {
        kept.push_str("… (cut)\n");
    }
    let longest_run = kept.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest_run.max(2) + 1);
    format!("{fence}{language}\n{kept}{fence}\n")
}

/// A label in a Mermaid diagram: letters, digits and a few marks; never a quote, bracket, entity or directive.
pub fn label(text: &str, longest: usize) -> String {
    let clean: String = line(text, longest * 2)
        .chars()
        .map(
            |c| if c.is_alphanumeric() || matches!(c, ' ' | '-' | '.' | ',' | '/' | '%' | '+' | ':') { c } else { ' ' },
        )
        .collect();
    let clean = clean.replace("://", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    cut(&clean, longest)
}

/// A title: forges link mentions and issue numbers in titles too, and some render backticks.
pub fn title(text: &str, longest: usize) -> String {
    let clean: String = line(text, longest * 4)
        .chars()
        .filter(|c| {
            c.is_alphanumeric()
                || matches!(c, ' ' | '-' | '.' | ',' | '/' | '%' | '+' | ':' | '(' | ')' | '→' | '_' | '=' | '…')
        })
        .collect();
    cut(&clean.replace("://", " "), longest)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts that somebody who can name a label, write a log line or push a branch would try.
    const CORPUS: &[&str] = &[
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "</details></td></table><h1>approved</h1>",
        "<!-- amend:v1 key=a fingerprint=b plan=c -->",
        "--> <b>out</b> <!--",
        "@admin please merge",
        "cc @org/team, @someone!",
        "fixes #1, closes #2 and resolves owner/repo#3",
        "closes GH-12",
        "JIRA-4711",
        "!12 &34",
        "https://evil.example/?q=1",
        "http://127.0.0.1/admin",
        "www.evil.example",
        "evil@example.com",
        "[click](https://evil.example)",
        "![pixel](https://evil.example/x.png)",
        "[ref]: https://evil.example",
        "<https://evil.example>",
        "`code` and ``more`` and ```fence```",
        "```\n@admin\n```",
        "~~~\nhttps://evil.example\n~~~",
        "| a | b |\n|---|---|\n| c | d |",
        "x|y\\|z\\\\|w",
        "back\\`slash\\",
        "# heading\n## another",
        "- [x] approved by security",
        "1. first\n2. second",
        "> quoted\n>> deeper",
        "***bold*** __strong__ ~~gone~~",
        "line\n---\nsetext",
        "line\n===\nsetext",
        "    indented code",
        "/amend merge",
        "/approve\n/lgtm",
        ":shipit: :+1:",
        "$x^2$ $$\\href{javascript:alert(1)}{x}$$",
        "\u{1b}[31mred\u{1b}[0m",
        "\u{1b}]8;;https://evil.example\u{7}link\u{1b}]8;;\u{7}",
        "\u{1b}]0;title\u{1b}\\after",
        "\u{9b}2Jcleared",
        "abc\u{202e}txt.exe",
        "\u{2066}isolated\u{2069}",
        "zero\u{200b}width\u{200d}joined\u{feff}",
        "soft\u{ad}hyphen and tag\u{e0041}",
        "private\u{e000}use",
        "nul\0byte and bell\u{7}",
        "carriage\rreturn\r\nand more",
        "tab\tseparated\u{b}vertical\u{c}feed",
        "Co-authored-by: Evil <evil@example.com>",
        "subject\n\nAmend-Plan: forged\nSigned-off-by: x",
        "&lt;b&gt; &#64;admin &commat;admin",
        "javascript:alert(1)",
        "data:text/html;base64,PHNjcmlwdD4=",
        "%%{init: {'theme':'dark'}}%%",
        "click n0 \"https://evil.example\"",
        "a\"] --> b[\"injected",
        "n0; style n0 fill:#f00",
        "end\nsubgraph x",
        "0123456789abcdef0123456789abcdef01234567",
        "owner/repo@0123456",
        "🙂 ünïcode 名前 ok",
        "",
        "   ",
    ];

    /// Markdown with its code spans and fenced blocks taken out: what is left is live.
    fn live(markdown: &str) -> String {
        let (mut left, mut inside) = (String::new(), false);
        for c in markdown.chars() {
            match c {
                '`' => inside = !inside,
                other if !inside => left.push(other),
                _ => {}
            }
        }
        assert!(!inside, "an open code span: {markdown}");
        left
    }

    #[test]
    fn prose_leaves_nothing_that_a_forge_would_act_on() {
        for text in CORPUS {
            let shown = prose(text, 500);
            let live = live(&shown);
            for token in ['@', '#', '/', '<', '>', '[', ']', '|', '*', '_', '~', '$', '&', '\\', '{'] {
                assert!(!live.contains(token), "{token} is live in {shown:?}");
            }
            assert!(!live.to_lowercase().contains("www."), "{shown:?}");
            assert!(!shown.contains('\n') && !shown.chars().any(is_invisible), "{shown:?}");
        }
    }

    #[test]
    fn a_code_span_cannot_be_left() {
        for text in CORPUS {
            let shown = code(text, 200);
            let inner = shown.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
            let closed = inner.is_some_and(|inner| !inner.contains(['`', '|', '\n']) && !inner.ends_with('\\'));
            assert!(shown == "—" || closed, "{shown:?}");
        }
    }

    #[test]
    fn a_fence_is_longer_than_any_inside() {
        for text in CORPUS {
            let shown = block(text, "text", 50, 1000);
            let fence: String = shown.chars().take_while(|c| *c == '`').collect();
            let inner: Vec<&str> = shown.lines().skip(1).collect();
            let (last, inner) = inner.split_last().unwrap();
            assert_eq!(*last, fence);
            assert!(inner.iter().all(|line| !line.contains(&fence)), "{shown:?}");
            assert!(!shown.contains(['\u{1b}', '\u{202e}', '\0']), "{shown:?}");
        }
    }

    #[test]
    fn a_commit_message_cannot_be_given_trailers() {
        for text in CORPUS {
            for line in paragraph(text, 500).lines() {
                assert!(!line.starts_with("Amend-") && !line.starts_with("Co-authored-by"), "{line:?}");
                assert!(!line.starts_with("Signed-off-by"), "{line:?}");
            }
        }
    }

    #[test]
    fn labels_and_titles_hold_plain_words_only() {
        for text in CORPUS {
            let (label, title) = (label(text, 40), title(text, 72));
            assert!(!label.contains(['"', '[', ']', '<', '>', '#', '`', ';', '{', '}', '\n']), "{label:?}");
            assert!(!title.contains(['@', '#', '`', '<', '>', '[', '\n', '!']), "{title:?}");
            assert!(label.chars().count() <= 40 && title.chars().count() <= 72);
        }
    }

    #[test]
    fn ordinary_sentences_stay_readable() {
        let said = "checkout was OOM-killed 14 times (limit 256Mi) after release 2.4; frontend answers 5xx.";
        assert_eq!(prose(said, 500), said);
        assert_eq!(prose("release shop/checkout:2.4, by @bob.", 500), "release `shop/checkout:2.4`, by `@bob`.");
        assert_eq!(line("  two\n lines\u{1b}[1m ", 80), "two lines");
        assert_eq!(line("abcdef", 4), "abc…");
    }
}

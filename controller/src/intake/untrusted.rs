//! Text that somebody else wrote, made safe to show: no control characters, no escapes, no reordering, bounded.
//!
//! This is about what a text *is*; escaping for HTML, Markdown or a query is the business of the place that writes those.

/// `text` on one line of at most `max` characters: line breaks become spaces, terminal escapes, control, invisible
/// and bidirectional characters are dropped, and a cut is marked by `…`.
pub fn one_line(text: &str, max: usize) -> String {
    cleaned(text, max, false)
}

/// Like [`one_line`], but line breaks and tabs stay.
pub fn lines(text: &str, max: usize) -> String {
    cleaned(text, max, true)
}

/// A link that is safe to offer: http or https without credentials in it; anything else is nothing.
pub fn link(text: &str) -> Option<String> {
    if text.len() > 2048 {
        return None;
    }
    let url = url::Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    (plain && url.has_host()).then(|| url.to_string())
}

fn cleaned(text: &str, max: usize, breaks: bool) -> String {
    let mut clean = String::with_capacity(text.len().min(max));
    let (mut length, mut space) = (0, false);
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        let shown = match char {
            '\u{1b}' => {
                skip_escape(&mut rest);
                continue;
            }
            '\n' | '\t' if breaks => char,
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
            _ if is_hidden(char) => continue,
            _ => char,
        };
        if shown == ' ' && space && !breaks {
            continue;
        }
        if length == max {
            clean.pop();
            clean.push('…');
            break;
        }
        space = shown == ' ';
        clean.push(shown);
        length += 1;
    }
    if breaks { clean } else { clean.trim().to_owned() }
}

/// Skips the rest of a terminal escape: `[` up to a final byte, `]` up to BEL or `ESC \`, else one character.
fn skip_escape(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match rest.next() {
        Some('[') => while rest.next().is_some_and(|char| !('\u{40}'..='\u{7e}').contains(&char)) {},
        Some(']') => {
            while let Some(char) = rest.next() {
                if char == '\u{7}' || (char == '\u{1b}' && rest.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        Some(_) | None => {}
    }
}

fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_and_their_arguments_vanish() {
        assert_eq!(
            one_line("\u{1b}[31;1mred\u{1b}[0m \u{1b}]8;;http://evil\u{7}link\u{1b}]8;;\u{1b}\\", 99),
            "red link"
        );
        assert_eq!(one_line("bell\u{7} \u{9b}31m nul\0", 99), "bell 31m nul");
    }

    #[test]
    fn text_cannot_be_reordered_or_hidden() {
        assert_eq!(one_line("user\u{202e}txt.exe\u{202c} a\u{200b}b\u{feff}\u{e0041}", 99), "usertxt.exe ab");
    }

    #[test]
    fn a_line_stays_a_line_and_a_cut_is_marked() {
        assert_eq!(one_line("first\r\nsecond\u{2028}third", 99), "first second third");
        assert_eq!(one_line("äöüäöü", 4), "äöü…");
        assert_eq!(lines("first\n\tsecond", 99), "first\n\tsecond");
    }

    #[test]
    fn only_plain_web_links_are_links() {
        assert_eq!(link("https://git.example/a?b#c").as_deref(), Some("https://git.example/a?b#c"));
        for bad in
            ["javascript:alert(1)", "data:text/html,x", "//git.example", "http://user:word@git.example", "", "http://"]
        {
            assert_eq!(link(bad), None, "{bad}");
        }
    }
}

//! Scanning: a line becomes its skeleton, with values that show their type masked on the way.
//!
//! One pass by byte classes, because a line has about a microsecond; only words that could be values are looked at twice.

use super::template::VALUE;

/// Longer lines are cut: templates are made of their beginnings.
pub const LINE_MAX: usize = 2_000;

/// Kinds of bytes; those of a word are gathered while its end is looked for.
mod kind {
    pub const SPACE: u8 = 1;
    /// Everything else that is printed.
    pub const PLAIN: u8 = 2;
    pub const SEPARATOR: u8 = 3;
    pub const COLON: u8 = 4;
    pub const DOT: u8 = 8;
    pub const SLASH: u8 = 16;
    pub const DIGIT: u8 = 32;
    /// A letter of a hexadecimal number.
    pub const HEX: u8 = 64;
    /// Controls, bytes outside ASCII and closing marks: to be looked at.
    pub const ODD: u8 = 128;
}

static KINDS: [u8; 256] = kinds();

const fn kinds() -> [u8; 256] {
    let mut kinds = [kind::ODD; 256];
    let mut byte = 0;
    while byte < 128 {
        kinds[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 12 => kind::SPACE,
            b'=' | b',' | b';' | b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'"' | b'\'' | b'|' | b'<' | b'>' | b'#' => {
                kind::SEPARATOR
            }
            b':' => kind::COLON,
            b'.' => kind::DOT,
            b'/' => kind::SLASH,
            b'0'..=b'9' => kind::DIGIT,
            b'a'..=b'f' | b'A'..=b'F' => kind::HEX,
            b'!' | b'?' | 0..=31 | 127 => kind::ODD,
            _ => kind::PLAIN,
        };
        byte += 1;
    }
    kinds
}

/// Whether a token only stands between words.
pub fn is_separator(token: &str) -> bool {
    match token.as_bytes() {
        [byte] => matches!(KINDS[usize::from(*byte)], kind::SPACE | kind::SEPARATOR | kind::COLON),
        _ => false,
    }
}

/// Turns a line into its skeleton, remembering where the tokens end.
#[derive(Debug, Default)]
pub struct Scanner {
    text: String,
    ends: Vec<usize>,
}

impl Scanner {
    /// The skeleton of a line.
    pub fn scan(&mut self, line: &str) -> &str {
        self.text.clear();
        self.ends.clear();
        let mut end = line.len().min(LINE_MAX);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let line = &line[..end];
        let bytes = line.as_bytes();
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            let start = at;
            let found = KINDS[usize::from(*byte)];
            if found == kind::SPACE {
                at = run_end(bytes, at, |byte| KINDS[usize::from(byte)] == kind::SPACE);
                self.put(" ");
            } else if *byte == b'"'
                && let Some(next) = self.request(line, at)
            {
                at = next;
            } else if found == kind::SEPARATOR || (found == kind::COLON && !opens_address(bytes, at)) {
                at += 1;
                self.put(&line[start..at]);
            } else if found == kind::DOT && bytes.get(at + 1) == Some(&b'.') {
                at = run_end(bytes, at, |byte| byte == b'.');
                self.put(&line[start..at]);
            } else {
                let (end, seen) = word_end(bytes, at);
                at = match groups_end(bytes, start, end, seen) {
                    Some(end) => {
                        self.put(VALUE);
                        end
                    }
                    None => self.word(line, start, end, seen),
                };
            }
        }
        &self.text
    }

    /// The tokens of the line that was scanned last.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(from, to)| &self.text[from..*to])
    }

    /// `"GET /a/b HTTP/1.1"` is a method and one value.
    fn request(&mut self, line: &str, at: usize) -> Option<usize> {
        let rest = &line[at + 1..];
        let method = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"]
            .iter()
            .find(|method| rest.strip_prefix(**method).is_some_and(|rest| rest.starts_with(' ')))?;
        let close = rest.find('"')?;
        for token in ["\"", method, " ", VALUE, "\""] {
            self.put(token);
        }
        Some(at + 1 + close + 1)
    }

    fn put(&mut self, token: &str) {
        self.text.push_str(token);
        self.ends.push(self.text.len());
    }

    /// Writes a word, masked where it shows a type; a size swallows its unit. Returns where to go on.
    fn word(&mut self, line: &str, start: usize, end: usize, seen: u8) -> usize {
        let word = &line[start..end];
        if seen == kind::DIGIT {
            self.put(VALUE);
            return unit_end(line, end).unwrap_or(end);
        }
        if seen & !(kind::HEX | kind::PLAIN) == 0 && !(seen == kind::HEX && word.len() >= HEX_MIN) && !is_truth(word) {
            self.put(word);
            return end;
        }
        let core = word.trim_matches(['.', ',', '!', '?']);
        if core.is_empty() {
            self.put(word);
            return end;
        }
        let from = word.find(core).unwrap_or(0);
        let (head, tail) = (&word[..from], &word[from + core.len()..]);
        match look(core, seen) {
            Look::Word => self.put(word),
            Look::Value => {
                self.text.push_str(head);
                self.text.push_str(VALUE);
                self.put(tail);
            }
            Look::NumberedName(name) => {
                self.text.push_str(head);
                self.text.push_str(name);
                self.text.push_str(VALUE);
                self.put(tail);
            }
        }
        match tail.is_empty() && core.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            true => unit_end(line, end).unwrap_or(end),
            false => end,
        }
    }
}

fn run_end(bytes: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> usize {
    bytes[from..].iter().position(|byte| !belongs(*byte)).map_or(bytes.len(), |length| from + length)
}

/// `://` is inside a word.
fn opens_address(bytes: &[u8], colon: usize) -> bool {
    bytes[colon + 1..].starts_with(b"//")
}

/// Where the word ends, and the kinds of its bytes.
fn word_end(bytes: &[u8], start: usize) -> (usize, u8) {
    let mut seen = 0;
    let mut at = start;
    while let Some(byte) = bytes.get(at) {
        let found = KINDS[usize::from(*byte)];
        let ends = match found {
            kind::SPACE | kind::SEPARATOR => true,
            kind::COLON => !opens_address(bytes, at),
            kind::DOT => bytes.get(at + 1) == Some(&b'.'),
            _ => false,
        };
        if ends {
            break;
        }
        seen |= found;
        at += 1;
    }
    (at, seen)
}

/// Where an address in groups ends, as `00:1b:44:11:3a:b7` or `fe80::1:2:3`; times have fewer groups.
fn groups_end(bytes: &[u8], start: usize, end: usize, seen: u8) -> Option<usize> {
    if bytes.get(end) != Some(&b':') || end - start > 4 || seen & !(kind::HEX | kind::DIGIT) != 0 {
        return None;
    }
    let belongs = |byte: u8| byte == b':' || byte.is_ascii_hexdigit();
    let end = run_end(bytes, end, belongs);
    let colons = bytes[start..end].iter().filter(|byte| **byte == b':').count();
    let short = bytes[start..end].split(|byte| *byte == b':').all(|group| group.len() <= 4);
    let closed = bytes.get(end).is_none_or(|byte| !byte.is_ascii_alphanumeric());
    (colons >= 4 && short && closed && bytes[end - 1] != b':').then_some(end)
}

/// Where ` KB` after a number ends: the unit belongs to the value.
fn unit_end(line: &str, at: usize) -> Option<usize> {
    let rest = &line[at..];
    let spaced = rest.strip_prefix(' ').unwrap_or(rest);
    if !spaced.starts_with(['K', 'M', 'G', 'T', 'P', 'B', 'b']) {
        return None;
    }
    let skipped = rest.len() - spaced.len();
    let units = ["KiB", "MiB", "GiB", "TiB", "KB", "MB", "GB", "TB", "PB", "B"];
    let closing = |rest: &str| rest.is_empty() || rest.starts_with([' ', ',', ';', ')', ']']);
    if let Some(unit) = units.iter().find(|unit| spaced.strip_prefix(**unit).is_some_and(closing)) {
        return Some(at + skipped + unit.len());
    }
    ["bytes", "byte"]
        .iter()
        .find(|unit| spaced.strip_prefix(**unit).is_some_and(|rest| rest.starts_with([',', ')'])))
        .map(|unit| at + skipped + unit.len())
}

/// Shorter runs of `a` to `f` are words more often than numbers.
const HEX_MIN: usize = 8;

enum Look<'w> {
    Word,
    Value,
    /// `name.42`: the name stays.
    NumberedName(&'w str),
}

fn is_truth(word: &str) -> bool {
    matches!(word, "true" | "false" | "True" | "False" | "TRUE" | "FALSE")
}

fn look(core: &str, seen: u8) -> Look<'_> {
    let bytes = core.as_bytes();
    if is_truth(core) || (seen & kind::ODD != 0 && core.chars().any(is_unreadable)) {
        return Look::Value;
    }
    if seen & kind::SLASH != 0 && (core.contains("://") || is_path(core)) {
        return Look::Value;
    }
    let all_hex = bytes.len() >= HEX_MIN && bytes.iter().all(u8::is_ascii_hexdigit);
    if all_hex || (seen & kind::DOT != 0 && is_host(core)) {
        return Look::Value;
    }
    if seen & kind::DIGIT == 0 {
        return Look::Word;
    }
    let letters = bytes.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    // ssh2, http1: the digit is part of the word.
    if letters >= 2 && letters + 1 == bytes.len() {
        return Look::Word;
    }
    if letters >= 1 && bytes.get(letters) == Some(&b'.') && bytes[letters + 1..].iter().all(u8::is_ascii_digit) {
        return Look::NumberedName(&core[..=letters]);
    }
    Look::Value
}

/// Binary data and marks that turn text around must not reach a terminal.
fn is_unreadable(c: char) -> bool {
    c.is_control() || c == char::REPLACEMENT_CHARACTER || super::clean::is_bidi(c)
}

fn is_path(core: &str) -> bool {
    let fits = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.+@~%*-".contains(&byte));
    if !core.split('/').all(fits) {
        return false;
    }
    match core.strip_prefix('/') {
        Some(rest) => rest.bytes().any(|byte| byte != b'/'),
        None => {
            let parts = core.split('/').count();
            parts >= 3 && core.split('/').take(parts - 1).all(|part| !part.is_empty())
        }
    }
}

fn is_host(core: &str) -> bool {
    let Some((rest, top)) = core.rsplit_once('.') else { return false };
    ["com", "net", "org", "edu", "io", "cn", "de", "fr", "uk", "local", "internal"].contains(&top)
        && !rest.is_empty()
        && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skeleton(line: &str) -> String {
        Scanner::default().scan(line).to_owned()
    }

    #[test]
    fn values_that_show_their_type_are_masked() {
        assert_eq!(skeleton("took 12ms for /a/b/c at 10.0.0.1:8080"), "took <*> for <*> at <*>:<*>");
        assert_eq!(skeleton("user=bob id=0x7f2a done true"), "user=bob id=<*> done <*>");
        assert_eq!(skeleton("ssh2 from example.com"), "ssh2 from <*>");
        assert_eq!(skeleton("read 12 KB, wrote 3.5 MB"), "read <*>, wrote <*>");
        assert_eq!(skeleton("\"GET /cart?id=1 HTTP/1.1\" 200"), "\"GET <*>\" <*>");
        assert_eq!(skeleton("from 00:1B:44:11:3A:B7 at 12:30:01"), "from <*> at <*>:<*>:<*>");
        assert_eq!(skeleton("commit deadbeef, face value"), "commit <*>, face value");
    }

    #[test]
    fn binary_words_are_values() {
        assert_eq!(skeleton("got \u{0}\u{1} and \u{fffd}x from \u{202e}lave"), "got <*> and <*> from <*>");
        assert_eq!(skeleton("größer als früher"), "größer als früher");
    }

    #[test]
    fn tokens_are_the_parts_of_the_skeleton() {
        let mut scanner = Scanner::default();
        scanner.scan("port 42 (tcp)...");
        assert_eq!(scanner.tokens().collect::<Vec<_>>(), ["port", " ", "<*>", " ", "(", "tcp", ")", "..."]);
    }

    #[test]
    fn a_megabyte_line_is_cut() {
        assert!(skeleton(&"ä ".repeat(600_000)).len() <= LINE_MAX);
    }
}

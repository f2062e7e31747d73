//! Templates: which lines say the same thing with other values?
//!
//! Values that show their type (numbers, paths, addresses, ids) are masked while a line is scanned; lines with one skeleton
//! are one template. Then skeletons that differ in a single word are merged when that word has the look of a value: many
//! different ones, each rare. Few frequent words are an enumeration and stay apart. No settings per system.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// What stands for a value.
pub const VALUE: &str = "<*>";

/// Templates of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Template number of each line.
    pub lines: Vec<usize>,
    /// Template texts by number.
    pub templates: Vec<String>,
}

/// So many different words in one place make it a value, unless each of them is frequent.
const VALUES_MIN: usize = 4;
/// Words that occur more often than this (median) are an enumeration.
const RARE: usize = 8;
const ROUNDS: usize = 6;
/// Longer lines are cut: templates are made of their beginnings.
const LINE_MAX: usize = 2_000;

/// Finds the templates of lines.
pub fn parse(lines: &[&str]) -> Parsed {
    let mut skeletons: HashMap<String, usize> = HashMap::new();
    let mut tokens: Vec<Vec<String>> = Vec::new();
    let mut counts: Vec<usize> = Vec::new();
    let mut of_line = Vec::with_capacity(lines.len());
    let mut scanner = Scanner::default();
    for line in lines {
        scanner.scan(line);
        let number = match skeletons.get(scanner.text.as_str()) {
            Some(number) => *number,
            None => {
                skeletons.insert(scanner.text.clone(), tokens.len());
                tokens.push(scanner.tokens());
                counts.push(0);
                tokens.len() - 1
            }
        };
        counts[number] += 1;
        of_line.push(number);
    }
    let merged = Merging::new(&tokens, &counts).run();
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut templates: Vec<String> = Vec::new();
    let mut number_of: Vec<usize> = Vec::with_capacity(tokens.len());
    for text in merged {
        let number = match numbers.entry(canonical(&text)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                templates.push(text);
                *new.insert(templates.len() - 1)
            }
        };
        number_of.push(number);
    }
    Parsed { lines: of_line.into_iter().map(|skeleton| number_of[skeleton]).collect(), templates }
}

fn is_separator(byte: u8) -> bool {
    matches!(
        byte,
        b'=' | b',' | b';' | b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'"' | b'\'' | b'|' | b'<' | b'>' | b'#'
    )
}

/// Turns a line into its skeleton, remembering where the tokens end.
#[derive(Default)]
struct Scanner {
    text: String,
    ends: Vec<usize>,
}

impl Scanner {
    fn scan(&mut self, line: &str) {
        self.text.clear();
        self.ends.clear();
        let mut end = line.len().min(LINE_MAX);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let line = &line[..end];
        let bytes = line.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            if byte == b'"'
                && let Some(next) = self.request(line, at)
            {
                at = next;
            } else if byte.is_ascii_whitespace() {
                while at < bytes.len() && bytes[at].is_ascii_whitespace() {
                    at += 1;
                }
                self.put(" ");
            } else if byte == b'.' && bytes.get(at + 1) == Some(&b'.') {
                let start = at;
                while bytes.get(at) == Some(&b'.') {
                    at += 1;
                }
                self.put(&line[start..at]);
            } else if is_separator(byte) || (byte == b':' && !line[at + 1..].starts_with("//")) {
                self.put(&line[at..at + 1]);
                at += 1;
            } else {
                let start = at;
                while at < bytes.len() {
                    let byte = bytes[at];
                    let dots = byte == b'.' && bytes.get(at + 1) == Some(&b'.');
                    let colon = byte == b':' && !line[at + 1..].starts_with("//");
                    if byte.is_ascii_whitespace() || is_separator(byte) || dots || colon {
                        break;
                    }
                    at += 1;
                }
                at = self.word(line, start, at);
            }
        }
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
    fn word(&mut self, line: &str, start: usize, end: usize) -> usize {
        let word = &line[start..end];
        let core = word.trim_matches(['.', ',', '!', '?']);
        if core.is_empty() {
            self.put(word);
            return end;
        }
        let from = word.find(core).unwrap_or(0);
        let (head, tail) = (&word[..from], &word[from + core.len()..]);
        let before = self.text.len();
        match look(core) {
            Look::Word => self.text.push_str(word),
            Look::Value => {
                for part in [head, VALUE, tail] {
                    self.text.push_str(part);
                }
            }
            Look::NumberedName(name) => {
                for part in [head, name, VALUE, tail] {
                    self.text.push_str(part);
                }
            }
        }
        if self.text.len() > before {
            self.ends.push(self.text.len());
        }
        match tail.is_empty() && plain_number(core) {
            true => unit_end(line, end).unwrap_or(end),
            false => end,
        }
    }

    fn tokens(&self) -> Vec<String> {
        let mut tokens = Vec::with_capacity(self.ends.len());
        let mut from = 0;
        for end in &self.ends {
            tokens.push(self.text[from..*end].to_owned());
            from = *end;
        }
        tokens
    }
}

fn plain_number(core: &str) -> bool {
    core.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// Where ` KB` after a number ends: the unit belongs to the value.
fn unit_end(line: &str, at: usize) -> Option<usize> {
    let rest = &line[at..];
    let spaced = rest.strip_prefix(' ').unwrap_or(rest);
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

enum Look<'w> {
    Word,
    Value,
    /// `name.42`: the name stays.
    NumberedName(&'w str),
}

fn look(core: &str) -> Look<'_> {
    let bytes = core.as_bytes();
    if ["true", "false", "True", "False", "TRUE", "FALSE"].contains(&core) || core.contains("://") || is_path(core) {
        return Look::Value;
    }
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    let all_hex = bytes.iter().all(u8::is_ascii_hexdigit);
    if (all_hex && bytes.len() >= 8) || is_host(core) {
        return Look::Value;
    }
    if digits == 0 {
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

fn is_path(core: &str) -> bool {
    let fits = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.+@~%*-".contains(&byte));
    let parts: Vec<&str> = core.split('/').collect();
    if parts.len() < 2 || !parts.iter().all(|part| fits(part)) {
        return false;
    }
    match core.starts_with('/') {
        true => parts[1..].iter().any(|part| !part.is_empty()),
        false => parts.len() >= 3 && parts[..parts.len() - 1].iter().all(|part| !part.is_empty()),
    }
}

fn is_host(core: &str) -> bool {
    let Some((rest, top)) = core.rsplit_once('.') else { return false };
    ["com", "net", "org", "edu", "io", "cn", "de", "fr", "uk", "local", "internal"].contains(&top)
        && !rest.is_empty()
        && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// Merges skeletons that differ in one word; words are numbers here.
struct Merging {
    words: Vec<String>,
    /// Skeletons as they came.
    skeletons: Vec<Vec<u32>>,
    live: HashMap<Vec<u32>, usize>,
    became: HashMap<Vec<u32>, Vec<u32>>,
}

/// The number of the value mark.
const MARK: u32 = 0;

impl Merging {
    fn new(tokens: &[Vec<String>], counts: &[usize]) -> Self {
        let mut numbers: HashMap<&str, u32> = HashMap::from([(VALUE, MARK)]);
        let mut words = vec![VALUE.to_owned()];
        let mut skeletons = Vec::with_capacity(tokens.len());
        let mut live: HashMap<Vec<u32>, usize> = HashMap::new();
        for (list, count) in tokens.iter().zip(counts) {
            let skeleton: Vec<u32> = list
                .iter()
                .map(|token| {
                    *numbers.entry(token).or_insert_with(|| {
                        words.push(token.clone());
                        (words.len() - 1) as u32
                    })
                })
                .collect();
            *live.entry(skeleton.clone()).or_default() += count;
            skeletons.push(skeleton);
        }
        Self { words, skeletons, live, became: HashMap::new() }
    }

    fn is_constant(&self, word: u32) -> bool {
        let text = &self.words[word as usize];
        let separator = text.len() == 1 && (text == " " || text == ":" || is_separator(text.as_bytes()[0]));
        !separator && !text.contains(VALUE)
    }

    fn run(mut self) -> Vec<String> {
        for _ in 0..ROUNDS {
            if !self.round() {
                break;
            }
        }
        let text = |skeleton: &Vec<u32>| -> String {
            let mut at = skeleton;
            while let Some(next) = self.became.get(at) {
                at = next;
            }
            at.iter().map(|word| self.words[*word as usize].as_str()).collect()
        };
        self.skeletons.iter().map(text).collect()
    }

    /// One pass over all places where skeletons differ in one word; whether anything was merged.
    fn round(&mut self) -> bool {
        let mut families: HashMap<(usize, u64, usize), Vec<&Vec<u32>>> = HashMap::new();
        #[expect(clippy::iter_over_hash_type, clippy::disallowed_methods, reason = "families are sorted below")]
        for skeleton in self.live.keys() {
            let total = skeleton.iter().enumerate().fold(0u64, |sum, (at, word)| sum.wrapping_add(mixed(at, *word)));
            for (at, word) in skeleton.iter().enumerate() {
                if self.is_constant(*word) {
                    let others = total.wrapping_sub(mixed(at, *word));
                    families.entry((at, others, skeleton.len())).or_default().push(skeleton);
                }
            }
        }
        let mut ordered: Vec<(usize, Vec<Vec<u32>>)> = families
            .into_iter()
            .filter(|(_, members)| members.len() >= 2)
            .map(|((at, ..), members)| {
                let mut members: Vec<Vec<u32>> = members.into_iter().cloned().collect();
                members.sort();
                (at, members)
            })
            .collect();
        ordered.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| (a.0, &a.1[0]).cmp(&(b.0, &b.1[0]))));
        let mut merged = false;
        for (at, members) in ordered {
            merged |= self.merge(at, &members);
        }
        merged
    }

    fn merge(&mut self, at: usize, members: &[Vec<u32>]) -> bool {
        let first = &members[0];
        let same_rest = |member: &&Vec<u32>| member[..at] == first[..at] && member[at + 1..] == first[at + 1..];
        let members: Vec<&Vec<u32>> = members.iter().filter(same_rest).collect();
        let (head, tail) = (&first[..at], &first[at + 1..]);
        let keyed = head.last().is_some_and(|word| self.words[*word as usize] == "=");
        let constants = head.iter().chain(tail).filter(|word| self.is_constant(**word)).count();
        if constants == 0 && !keyed {
            return false;
        }
        let before = head.iter().rev().map(|word| self.words[*word as usize].as_str()).find(|word| *word != " ");
        let introduced =
            ["for", "user", "from", "by", "host", "to", "at", "named"].contains(&before.unwrap_or("")) && !keyed;
        let needed = if keyed {
            2
        } else if introduced {
            3
        } else {
            VALUES_MIN
        };
        if members.len() < needed {
            return false;
        }
        let mut counts: Vec<usize> =
            members.iter().map(|member| self.live.get(*member).copied().unwrap_or(0)).collect();
        counts.sort_unstable();
        if !keyed && counts[counts.len() / 2] > RARE {
            return false;
        }
        let mut template = head.to_vec();
        template.push(MARK);
        template.extend_from_slice(tail);
        let mut merged = false;
        for member in members {
            if *member == template {
                continue;
            }
            if let Some(count) = self.live.remove(member) {
                *self.live.entry(template.clone()).or_default() += count;
                self.became.insert(member.clone(), template.clone());
                merged = true;
            }
        }
        merged
    }
}

/// A word at a place as one number; sums of these tell rests apart with 64 bits, and the merge compares in full.
fn mixed(at: usize, word: u32) -> u64 {
    let mut x = ((at as u64) << 32 | u64::from(word)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Neighbouring marks are one, and so are runs of spaces: equal in meaning is equal.
fn canonical(template: &str) -> String {
    let mut text = template.split_whitespace().collect::<Vec<_>>().join(" ");
    loop {
        let shorter = [".", ",", ":", "/", "_", "-", ""]
            .iter()
            .fold(text.clone(), |text, between| text.replace(&format!("{VALUE}{between}{VALUE}"), VALUE));
        if shorter == text {
            return text;
        }
        text = shorter;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(line: &str) -> String {
        parse(&[line]).templates.remove(0)
    }

    #[test]
    fn values_that_show_their_type_are_masked() {
        assert_eq!(template("took 12ms for /a/b/c at 10.0.0.1:8080"), "took <*> for <*> at <*>:<*>");
        assert_eq!(template("user=bob id=0x7f2a done true"), "user=bob id=<*> done <*>");
        assert_eq!(template("ssh2 from example.com"), "ssh2 from <*>");
        assert_eq!(template("read 12 KB, wrote 3.5 MB"), "read <*>, wrote <*>");
        assert_eq!(template("\"GET /cart?id=1 HTTP/1.1\" 200"), "\"GET <*>\" <*>");
    }

    #[test]
    fn many_rare_words_in_one_place_are_a_value() {
        let lines = ["login of alice ok", "login of bob ok", "login of carol ok", "login of dave ok"];
        let parsed = parse(&lines);
        assert_eq!(parsed.lines, [0, 0, 0, 0]);
        assert_eq!(parsed.templates[0], "login of <*> ok");
    }

    #[test]
    fn a_few_frequent_words_are_an_enumeration() {
        let mut lines = vec!["state is up now"; 20];
        lines.extend(vec!["state is down now"; 20]);
        assert_eq!(parse(&lines).templates.len(), 2);
    }

    #[test]
    fn binary_and_very_long_lines_are_bounded() {
        let long = "x ".repeat(1_000_000);
        let parsed = parse(&[long.as_str(), "\u{0}\u{1}\u{fffd}"]);
        assert!(parsed.templates[0].len() <= LINE_MAX);
        assert_eq!(parsed.lines.len(), 2);
    }
}

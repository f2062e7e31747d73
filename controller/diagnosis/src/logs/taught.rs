//! Classes that people taught, for lines that the catalogue does not know.
//!
//! The catalogue comes first: what it knows cannot be taught otherwise. How little a taught line may decide stands in
//! [`diagnose`](crate::diagnose::diagnose).

use std::fmt::Write;

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use super::catalogue::{Class, front};
use super::clean;
use super::template::VALUE;

/// Patterns of one source: people read them in a review, and every line is held against all of them.
pub const PATTERNS_MAX: usize = 64;

/// Bytes of a template. The queue cuts longer ones.
pub const TEMPLATE_MAX: usize = 512;

/// Bytes of a regular expression that a person can still read.
pub const EXPRESSION_MAX: usize = 256;

/// Letters and digits that a template names at least: with fewer it would be true of almost every line.
pub const LETTERS_MIN: usize = 4;

/// Memory that the compiled patterns of one source may take.
const COMPILED_MAX: usize = 4 << 20;

/// How lines are recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// A line with [`VALUE`] where lines differ, as the queue shows it.
    Template(String),
    /// A regular expression found anywhere in the line, case ignored.
    Expression(String),
}

/// Why a pattern is not used: a clause that says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error(
        "[{index}].template names fewer than {LETTERS_MIN} letters outside of <*> and would match almost every line; copy more of the line"
    )]
    TooWide { index: usize },
    #[error("[{index}].match matches an empty line, and so every line; name words that only this line has")]
    MatchesAll { index: usize },
    #[error("[{index}].match is no regular expression that can be read in linear time: {why}")]
    Unreadable { index: usize, why: String },
    #[error("[{index}] is longer than {limit} bytes; shorten it to what tells the line from others")]
    TooLong { index: usize, limit: usize },
    #[error(" has {count} entries, and {PATTERNS_MAX} is the most; join some into one `match`")]
    TooMany { count: usize },
    #[error(" take more than {} MiB together; write shorter expressions without large counts", COMPILED_MAX >> 20)]
    TooLarge,
}

/// Patterns ready to be used, the first that matches decides. The default knows nothing.
#[derive(Clone, Debug, Default)]
pub struct Taught {
    classes: Vec<Class>,
    set: Option<RegexSet>,
}

impl Taught {
    /// # Errors
    /// The first pattern that cannot be used.
    pub fn new(patterns: &[(Pattern, Class)]) -> Result<Self, PatternError> {
        if patterns.len() > PATTERNS_MAX {
            return Err(PatternError::TooMany { count: patterns.len() });
        }
        let expressions: Vec<String> = patterns
            .iter()
            .enumerate()
            .map(|(index, (pattern, _))| expression(index, pattern))
            .collect::<Result<_, _>>()?;
        let set = RegexSetBuilder::new(&expressions).case_insensitive(true).size_limit(COMPILED_MAX).build();
        let set = set.map_err(|_| PatternError::TooLarge)?;
        Ok(Self { classes: patterns.iter().map(|(_, class)| *class).collect(), set: Some(set) })
    }

    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// The class that people gave to such lines; `None` when nobody did. The line is as the store told it.
    pub fn class_of(&self, line: &str) -> Option<Class> {
        let set = self.set.as_ref().filter(|_| !self.is_empty())?;
        let line = clean::plain(front(line));
        let first = set.matches(clean::without_time(&line)).iter().next()?;
        self.classes.get(first).copied()
    }
}

fn expression(index: usize, pattern: &Pattern) -> Result<String, PatternError> {
    let (text, limit) = match pattern {
        Pattern::Template(text) => (text, TEMPLATE_MAX),
        Pattern::Expression(text) => (text, EXPRESSION_MAX),
    };
    if text.len() > limit {
        return Err(PatternError::TooLong { index, limit });
    }
    match pattern {
        Pattern::Template(template) => of_template(template).ok_or(PatternError::TooWide { index }),
        Pattern::Expression(expression) => {
            let unreadable = |error: regex::Error| {
                // The library draws the place over several lines; its last line says what is wrong.
                let why = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
                PatternError::Unreadable { index, why }
            };
            let built = RegexBuilder::new(expression).case_insensitive(true).size_limit(COMPILED_MAX).build();
            let built: Regex = built.map_err(unreadable)?;
            match built.is_match("") {
                true => Err(PatternError::MatchesAll { index }),
                false => Ok(expression.clone()),
            }
        }
    }
}

/// A template as an expression over the whole line: values are anything, any run of spaces is one.
fn of_template(template: &str) -> Option<String> {
    let named = template.replace(VALUE, "");
    if named.chars().filter(|sign| sign.is_alphanumeric()).count() < LETTERS_MIN {
        return None;
    }
    let mut expression = String::from(r"^\s*");
    for (place, part) in template.trim().split(VALUE).enumerate() {
        if place > 0 {
            expression.push_str("(?s:.*?)");
        }
        for (word, spaced) in part.split_inclusive(char::is_whitespace).map(|word| (word.trim_end(), word)) {
            expression.push_str(&regex::escape(word));
            if word.len() < spaced.len() && !expression.ends_with(r"\s*") {
                // Writing to a String cannot fail. None at all is fine too: a value beside it may hold the space.
                let _ = write!(expression, r"\s*");
            }
        }
    }
    expression.push_str(r"\s*$");
    Some(expression)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::logs::template::Miner;

    fn template(text: &str, class: Class) -> (Pattern, Class) {
        (Pattern::Template(text.to_owned()), class)
    }

    fn matching(text: &str, class: Class) -> (Pattern, Class) {
        (Pattern::Expression(text.to_owned()), class)
    }

    #[test]
    fn a_line_gets_the_class_of_the_first_pattern_that_it_matches() {
        let patterns = [
            template("shard <*> refuses writes: journal <*> is sealed", Class::Database),
            matching(r"journal \w+ is sealed", Class::Disk),
        ];
        let taught = Taught::new(&patterns).unwrap();
        let line = "2024-01-02T03:04:05Z shard 17 refuses writes: journal a9 is sealed";
        assert_eq!(taught.class_of(line), Some(Class::Database));
        assert_eq!(taught.class_of("level=error msg=\"Journal x is sealed\""), Some(Class::Disk));
        assert_eq!(taught.class_of("shard 17 refuses nothing"), None);
        assert_eq!(Taught::default().class_of(line), None);
    }

    #[test]
    fn a_template_speaks_of_the_whole_line() {
        let taught = Taught::new(&[template("cache <*> is cold", Class::Other)]).unwrap();
        assert_eq!(taught.class_of("cache eu-1 is cold"), Some(Class::Other));
        assert_eq!(taught.class_of("cache eu-1 is cold and the disk is lost"), None);
    }

    #[test]
    fn what_cannot_be_used_says_what_to_change() {
        let why = |patterns: &[(Pattern, Class)]| Taught::new(patterns).unwrap_err().to_string();
        assert!(why(&[template("<*> <*>: ab", Class::Disk)]).contains("[0].template names fewer than 4 letters"));
        assert!(why(&[matching("a*", Class::Disk)]).contains("[0].match matches an empty line"));
        let broken = [template("well enough", Class::Disk), matching("(a", Class::Disk)];
        assert!(why(&broken).contains("[1].match is no regular expression"), "{}", why(&broken));
        assert!(why(&[matching(r"(a)\1", Class::Disk)]).contains("linear time"));
        assert!(why(&[matching(&"x".repeat(EXPRESSION_MAX + 1), Class::Disk)]).contains("longer than 256 bytes"));
        assert!(why(&[matching(r"\w{1000}{1000}", Class::Disk)]).contains("[0].match"));
        assert!(why(&vec![template("well enough", Class::Disk); PATTERNS_MAX + 1]).contains("65 entries"));
    }

    #[test]
    fn a_megabyte_line_costs_no_more_than_its_front() {
        let taught = Taught::new(&[matching("(x+x+)+y", Class::Disk)]).unwrap();
        assert_eq!(taught.class_of(&"x".repeat(1 << 20)), None);
    }

    proptest! {
        /// Whatever template is found for lines, teaching it recognises them again.
        #[test]
        fn a_template_of_the_miner_matches_its_lines(
            words in proptest::collection::vec("[a-z]{3,9}", 2..6),
            values in proptest::collection::vec("[0-9]{1,6}|[a-f0-9]{12}|/[a-z]{2,5}/[a-z0-9]{2,5}|10\\.0\\.0\\.[0-9]{1,2}:80", 1..5),
            shape in proptest::collection::vec((any::<bool>(), "[ =:,\t]{1,2}"), 2..10),
        ) {
            let line = |turn: usize| -> String {
                let parts = shape.iter().enumerate().map(|(place, (is_value, gap))| {
                    let part = match is_value {
                        true => &values[(place + turn) % values.len()],
                        false => &words[place % words.len()],
                    };
                    format!("{part}{gap}")
                });
                parts.collect()
            };
            let lines: Vec<String> = (0..4).map(line).collect();
            let mut miner = Miner::default();
            for place in miner.block(lines.iter().map(String::as_str)) {
                let text = miner.template(place).text.clone();
                let Ok(taught) = Taught::new(&[template(&text, Class::Disk)]) else { continue };
                let matched = lines.iter().filter(|line| taught.class_of(line) == Some(Class::Disk)).count();
                prop_assert!(matched > 0, "{text:?} of {lines:?}");
                prop_assert_eq!(taught.class_of(&text), Some(Class::Disk), "{}", text);
            }
        }
    }
}

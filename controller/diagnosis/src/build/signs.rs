//! Signs: what words and shapes of a line say about its part in a failure, in any tool's output.

use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// The signs of a line, one bit each, in the order of [`SIGNS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs(u32);

impl Signs {
    pub fn has(self, sign: usize) -> bool {
        self.0 & (1 << sign) != 0
    }

    pub fn bits(self) -> u32 {
        self.0
    }
}

/// Names and patterns; the trees know signs by their place, so the table is trained anew when one is added.
pub const SIGNS: [(&str, &str); 28] = [
    ("error word", r"(?i)\berror\b|\bERR!|\berr:"),
    (
        "error label",
        r"(?:^|\s|\[)(?:error|fatal error|ERROR|E)\b\s*[:\]]|: (?:fatal )?error\b|^E\s{2,}|error\[E\d+\]|\berror [A-Z]{1,4}\d+",
    ),
    ("fail word", r"(?i)\bfail(?:ed|ure|ures|s|ing)?\b"),
    ("fail mark", r"\bFAIL(?:ED|URE|URES|S)?\b|^\s*not ok|--- FAIL|✗|✖|✘|❌|●|\[-\]"),
    ("exception", r"\b[A-Z]\w*(?:Error|Exception|Failure)\b"),
    (
        "trace",
        r#"Traceback|(?i:stack ?trace)|^\s+at \S+|^\s*File ".*", line \d+|^\s+from \S+:\d+|panicked at|^goroutine \d+|(?i:backtrace)|Caused by"#,
    ),
    ("assertion", r"(?i)\bassert|\bexpected\b|\bactual\b|\bgot\b|to (?:be|equal|eq|match|include)\b|should"),
    ("place", r"[\w/.-]+\.\w{1,6}[:(]\d+"),
    (
        "want",
        r"(?i)not found|No such file|cannot find|could not|unable to|undefined|unresolved|missing|denied|unknown|not recognized|doesn.t exist|invalid|unexpected",
    ),
    ("warning", r"(?i)\bwarn(?:ing)?\b"),
    (
        "exit",
        r#"(?i)The command ".*" (?:exited|failed)|exited with|exit (?:code|status)|Process completed|returned (?:a )?non-zero|Error \d+$"#,
    ),
    ("good", r"(?i)\b0 (?:errors?|fail)|no errors|\bpass(?:ed|ing)?\b|\bok\b|✓|success|\bdone\b"),
    (
        "progress",
        r"(?i)Download|Receiving|Unpacking|Installing|Setting up|Compiling|Get:\d|\d+%|Building|Resolving|Fetch",
    ),
    (
        "sum",
        r"(?i)\b\d+ (?:tests?|examples?|specs?|assertions|scenarios|failures?|errors?|passed|failed|runs)\b|Tests run:|Ran \d+",
    ),
    ("numbered", r"^\s*\d+\)\s"),
    (
        "service",
        r"^travis_|^nl$|Your build|cache\.|Setting environment|^##\[(?:group|endgroup|debug|section)|^section_(?:start|end)",
    ),
    ("command", r"^\$ |^\+ |^> |^\[command\]|^##\["),
    ("difference", r"^\s*[-+]\s|^@@|^---|^\+\+\+"),
    ("pointer", r"^\s*[\^~]+\s*$|^\s*\|"),
    (
        "build tool",
        r"(?i)make(?:\[\d+\])?: \*\*\*|ninja: build|BUILD FAILED|BUILD FAILURE|npm ERR|Execution failed|exit status",
    ),
    ("red", r"\x1b\[(?:\d;)?31m|\x1b\[91m"),
    ("broke down", r"(?i)\bpanic\b|\bfatal\b|\babort|segmentation fault|core dumped|\bkilled\b|\bsignal \d"),
    ("no answer", r"(?i)no output|timed? ?out|connection (?:refused|reset)|stalled|could not resolve"),
    ("frame", r"^\s+at \S+|\.\w+:\d+(?::in\b|\))|^\s+from \S|^\s*#\d+ |site-packages|node_modules|/gems/"),
    ("ruler", r"^\s*[-=*_~#]{5,}\s*$|^\W*[-=*_]{3,}.*[-=*_]{3,}\W*$"),
    ("column", r":\d+:\d+|^\s*\d+:\d+\s"),
    ("heading", r"(?i)^\s*(?:failures|errors|failed (?:tests|examples|specs)|there (?:was|were) \d+ )\b|:\s*$"),
    ("sentence", r"^[A-Z][a-z]+ [a-z]+ "),
];

static SET: LazyLock<Option<RegexSet>> = LazyLock::new(|| {
    let patterns = SIGNS.iter().map(|(_, pattern)| *pattern);
    RegexSetBuilder::new(patterns).unicode(false).size_limit(64 << 20).dfa_size_limit(32 << 20).build().ok()
});

/// The signs of a line as it was printed, colours included.
pub fn signs(raw: &str, plain: &str) -> Signs {
    let Some(set) = SET.as_ref() else { return Signs::default() };
    let mut bits = set.matches(plain.as_bytes()).iter().fold(0, |bits, sign| bits | 1u32 << sign);
    if raw.contains("\x1b[") && RED.as_ref().is_some_and(|red| red.is_match(raw.as_bytes())) {
        bits |= 1 << 20;
    }
    Signs(bits)
}

static RED: LazyLock<Option<Regex>> = LazyLock::new(|| bytes(SIGNS[20].1));

/// Where a CI service says that a command failed.
static EXIT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    bytes(
        r#"The command ".*" (?:exited with [1-9]|failed and exited)|Process completed with exit code [1-9]|Job failed|exited with code [1-9]"#,
    )
});

/// Where it says that a command begins.
static BEGIN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    bytes(r"^travis_time:start|^travis_fold:start|^##\[section\]Starting|^##\[group\]|^section_start|^\$ ")
});

pub fn ends_command(plain: &str) -> bool {
    EXIT.as_ref().is_some_and(|exit| exit.is_match(plain.as_bytes()))
}

pub fn begins_command(plain: &str) -> bool {
    BEGIN.as_ref().is_some_and(|begin| begin.is_match(plain.as_bytes()))
}

fn bytes(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern).unicode(false).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> Vec<&'static str> {
        let found = signs(line, line);
        (0..SIGNS.len()).filter(|sign| found.has(*sign)).map(|sign| SIGNS[sign].0).collect()
    }

    #[test]
    fn every_pattern_compiles() {
        assert!(SET.is_some() && RED.is_some() && EXIT.is_some() && BEGIN.is_some());
    }

    #[test]
    fn signs_are_told_by_words_and_shapes() {
        assert_eq!(names("src/a.rs:3:9: error: boom"), ["error word", "error label", "place", "column"]);
        assert_eq!(names("  at com.acme.Cart.add(Cart.java:12)"), ["trace", "place", "frame"]);
        assert_eq!(names("✖ adds two numbers"), ["fail mark"]);
        assert!(names("\u{1b}[31mboom").contains(&"red"));
        assert!(names("plain words").is_empty());
    }
}

//! Text that may come from the outside world, made harmless to keep.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// How long a text in the journal may be, in bytes of UTF-8.
///
/// A sentence or two. Ten of them (one per gate) still fit into one entry of 4 KiB.
pub const TEXT_BYTES_MAX: usize = 320;

/// One line of bounded, untrusted text.
///
/// It may quote labels, commit messages, forge answers or people, so nobody may read it as Markdown, a query, a command
/// or a path. Making one cuts it to [`TEXT_BYTES_MAX`] (marked with `…`), turns control characters into spaces and drops
/// the invisible ones that reverse or hide text. Escaping for the place where it is shown stays the shower's duty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Text(String);

impl Text {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn cleaned(raw: &str) -> Self {
        let visible: String = raw
            .chars()
            .filter(|character| !invisible(*character))
            .map(|character| if character.is_control() { ' ' } else { character })
            .take(TEXT_BYTES_MAX * 2)
            .collect();
        let line = visible.trim();
        if line.len() <= TEXT_BYTES_MAX {
            return Self(line.to_owned());
        }
        let mut end = TEXT_BYTES_MAX - '…'.len_utf8();
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        Self(format!("{}…", &line[..end]))
    }
}

/// Characters without width that change how their neighbours are read: bidi controls, joiners, soft hyphen, tags.
fn invisible(character: char) -> bool {
    matches!(
        character,
        '\u{00AD}' | '\u{061C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
            | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}'
    )
}

impl From<String> for Text {
    fn from(raw: String) -> Self {
        Self::cleaned(&raw)
    }
}

impl From<&str> for Text {
    fn from(raw: &str) -> Self {
        Self::cleaned(raw)
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": TEXT_BYTES_MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_and_says_so() {
        let text = Text::from("ä".repeat(500));
        assert!(text.as_str().len() <= TEXT_BYTES_MAX);
        assert!(text.as_str().ends_with('…'));
    }

    #[test]
    fn control_and_bidi_characters_do_not_survive() {
        assert_eq!(Text::from("a\u{1b}[31mb\nc\u{202e}d\u{200b}e").as_str(), "a [31mb cde");
    }

    #[test]
    fn cleaning_twice_is_cleaning_once() {
        for raw in ["", " x ", "a\u{7}", &"y".repeat(1000), "\u{7}a"] {
            let once = Text::from(raw);
            assert_eq!(Text::from(once.as_str()), once);
        }
    }
}

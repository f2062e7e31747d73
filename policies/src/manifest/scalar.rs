//! Writing one value in the style that stands there already.

use super::tree::Style;

/// What a plain scalar means to readers of YAML 1.2 and 1.1 together: if either sees something else than text, it is that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Text,
    Null,
    Bool,
    Number,
    /// `<<`, `=`, dates and base-60 numbers: only YAML 1.1 readers give them a meaning.
    Odd,
}

/// The class of a plain scalar.
pub(super) fn class(text: &str) -> Class {
    let lower = text.to_ascii_lowercase();
    if matches!(lower.as_str(), "" | "~" | "null") {
        return Class::Null;
    }
    if matches!(lower.as_str(), "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n") {
        return Class::Bool;
    }
    if matches!(text, "<<" | "=") {
        return Class::Odd;
    }
    let body = lower.strip_prefix(['-', '+']).unwrap_or(&lower);
    if matches!(body, ".inf" | ".nan") {
        return Class::Number;
    }
    if !body.starts_with(|letter: char| letter.is_ascii_digit() || letter == '.') {
        return Class::Text;
    }
    let digits = |text: &str, more: &str| {
        text.chars().any(|letter| letter.is_ascii_digit())
            && text.chars().all(|letter| letter.is_ascii_digit() || more.contains(letter))
    };
    let hex = body
        .strip_prefix("0x")
        .is_some_and(|rest| rest.chars().all(|letter| letter.is_ascii_hexdigit() || letter == '_'));
    let other = body.strip_prefix("0o").or(body.strip_prefix("0b")).is_some_and(|rest| digits(rest, "_"));
    if hex || other || digits(body, "_.e+-") {
        // 2026-11-21 is a date to some readers, 1-2 is text to all of them; both are quoted, which is right for all.
        return if body.contains('-') && !body.contains('e') { Class::Odd } else { Class::Number };
    }
    if digits(body, "_.:")
        || (body.len() >= 10 && digits(&body[..10.min(body.len())], "-") && body.is_char_boundary(10))
    {
        return Class::Odd;
    }
    Class::Text
}

/// A value in a style, and the style that was really used: text that would read as something else is quoted.
///
/// `was` is the class of the value that stands there now, when it is plain: a number may be replaced by a number.
pub(super) fn rendered(text: &str, style: Style, was: Option<Class>, flow: bool) -> (String, Style) {
    match style {
        Style::Plain => {
            let class = class(text);
            // `yes` is a boolean to some readers and text to others; `true` is the same to all.
            let keeps_class = match class {
                Class::Text => true,
                Class::Number => was == Some(class),
                Class::Bool => was == Some(class) && matches!(text, "true" | "false"),
                Class::Null | Class::Odd => false,
            };
            match keeps_class && is_plain_safe(text, flow) {
                true => (text.to_owned(), Style::Plain),
                false => (double(text), Style::Double),
            }
        }
        Style::Single => (format!("'{}'", text.replace('\'', "''")), Style::Single),
        Style::Double | Style::Block => (double(text), Style::Double),
    }
}

/// JSON's escapes are YAML's, and control characters never get here.
fn double(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

/// Stricter than YAML: letters, digits and the punctuation of quantities, images and paths.
fn is_plain_safe(text: &str, flow: bool) -> bool {
    let inner = |letter: char| letter.is_ascii_alphanumeric() || "._-/+@".contains(letter) || (letter == ':' && !flow);
    let colons = !text.ends_with(':') && !text.contains(": ");
    let first = text.chars().next().is_some_and(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '/'));
    first && colons && text.chars().all(inner) && !text.starts_with("...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_reads_as_something_else_is_quoted() {
        let plain = |text: &str| rendered(text, Style::Plain, Some(Class::Text), false).0;
        assert_eq!(plain("384Mi"), "384Mi");
        assert_eq!(plain("registry:5000/app:1.4.2"), "registry:5000/app:1.4.2");
        for text in [
            "1",
            "1.5",
            "1e3",
            "yes",
            "null",
            "~",
            "0x1f",
            "12:30:00",
            "2026-11-21",
            "1_000",
            ".inf",
            "a: b",
            "- a",
            "#a",
            "*a",
            "&a",
            "{a",
            "a b",
        ] {
            assert!(plain(text).starts_with('"'), "{text}");
        }
        assert_eq!(rendered("2", Style::Plain, Some(Class::Number), false).0, "2");
        assert_eq!(rendered("it's", Style::Single, None, false).0, "'it''s'");
    }
}

//! How deeply a JSON text is nested, found before a parser is let near it.

/// Deeper than any payload that we know (GitHub's are below 10); a parser's stack is safe far beyond it.
pub const DEPTH_MAX: usize = 32;

/// Whether `json` nests arrays and objects deeper than `max`.
///
/// Looks at brackets outside strings only; whether the rest is JSON is the parser's business.
pub fn is_deeper_than(json: &[u8], max: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_depth_bomb_is_seen_without_parsing() {
        assert!(is_deeper_than("[".repeat(1_000_000).as_bytes(), DEPTH_MAX));
        assert!(is_deeper_than(br#"{"a":{"b":{"c":1}}}"#, 2));
        assert!(!is_deeper_than(br#"{"a":{"b":{"c":1}}}"#, 3));
    }

    #[test]
    fn brackets_inside_strings_do_not_count() {
        assert!(!is_deeper_than(br#"{"a":"[[[[[\"[[[["}"#, 1));
    }

    #[test]
    fn siblings_are_not_depth() {
        assert!(!is_deeper_than(format!("[{}1]", "[],".repeat(1000)).as_bytes(), 2));
    }
}

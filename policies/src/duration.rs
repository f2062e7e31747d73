//! Durations as people write them in kinds: `30s`, `5m`, `1h30m`, `30d`.

use jiff::SignedDuration;

/// The longest duration that a policy may name: a year. Longer ones are slips of the pen (`m` for minutes meant as months).
pub const LONGEST: SignedDuration = SignedDuration::from_hours(365 * 24);

/// Units that may follow a number, longest first, with their length in milliseconds.
const UNITS: [(&str, i64); 6] =
    [("w", 7 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `1h30m`; units w, d, h, m, s and ms, longest first, whole numbers only, greater than zero, at most a year.
///
/// # Errors
/// A clause that says what is wrong and what to write instead.
pub fn parse(text: &str) -> Result<SignedDuration, String> {
    let wrong = |why: &str| Err(format!("{} is not a duration: {why}; write it like 30s, 5m or 1h30m", quoted(text)));
    if text.is_empty() {
        return wrong("it is empty");
    }
    if text.starts_with('-') {
        return wrong("it is negative");
    }
    let mut rest = text;
    let mut total: i64 = 0;
    let mut last_unit = None;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return wrong("a number is expected");
        }
        let Ok(count) = rest[..digits].parse::<i64>() else { return wrong("the number is too large") };
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[..letters];
        let Some(position) = UNITS.iter().position(|(name, _)| *name == unit) else {
            return match (unit, rest.chars().next()) {
                ("", None) => wrong("the unit is missing"),
                ("", Some('.' | ',')) => wrong("fractions are not allowed"),
                _ => wrong("the units are w, d, h, m, s and ms"),
            };
        };
        if last_unit.is_some_and(|last| last >= position) {
            return wrong("units go from the longest to the shortest, each once");
        }
        last_unit = Some(position);
        let Some(sum) = count.checked_mul(UNITS[position].1).and_then(|part| total.checked_add(part)) else {
            return wrong("it is longer than a year");
        };
        total = sum;
        rest = &rest[letters..];
    }
    match SignedDuration::from_millis(total) {
        duration if duration.is_zero() => wrong("it is zero"),
        duration if duration > LONGEST => wrong("it is longer than a year"),
        duration => Ok(duration),
    }
}

/// Writes what [`parse`] reads: `1h30m`. Zero is `0s`; a negative duration has a minus in front.
pub fn show(duration: SignedDuration) -> String {
    let mut rest = duration.as_millis().unsigned_abs();
    let mut text = String::from(if duration.is_negative() { "-" } else { "" });
    for (name, length) in &UNITS[1..] {
        let length = u128::from(length.unsigned_abs());
        let count = rest / length;
        rest %= length;
        if count > 0 {
            text.push_str(&format!("{count}{name}"));
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// The text in quotes, without control characters, at most 40 characters: it comes from outside.
pub(crate) fn quoted(text: &str) -> String {
    crate::policy::quoted(text)
}

/// For `#[serde(with = ...)]`: a duration is a string in JSON.
pub mod text {
    use jiff::SignedDuration;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes `1h30m`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &SignedDuration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::show(*duration))
    }

    /// Reads `1h30m`.
    ///
    /// # Errors
    /// When the text is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SignedDuration, D::Error> {
        super::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_reads_as_it_is_written() {
        for text in ["30s", "5m", "1h30m", "30d", "1d2h3m4s5ms", "250ms"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
        assert_eq!(parse("2w").unwrap(), SignedDuration::from_hours(14 * 24));
    }

    #[test]
    fn a_wrong_duration_says_what_to_write() {
        for (text, why) in [
            ("", "it is empty"),
            ("-5m", "negative"),
            ("5", "unit is missing"),
            ("5 m", "the units are"),
            ("m", "a number is expected"),
            ("1.5h", "fractions"),
            ("5m1h", "longest to the shortest"),
            ("0s", "zero"),
            ("99w", "longer than a year"),
            ("99999999999999999999s", "too large"),
            ("9999999999999999w", "longer than a year"),
            ("5min", "the units are"),
        ] {
            let got = parse(text).unwrap_err();
            assert!(got.contains(why) && got.contains("write it like"), "{text}: {got}");
        }
    }
}

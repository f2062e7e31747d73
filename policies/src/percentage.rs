//! Shares as people write them in kinds: `15%`, and counts or shares: `2` or `50%`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A share of a whole in hundredths of a percent, so that it compares and hashes exactly. May exceed 100 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percentage(u32);

/// No share in a policy is larger: an "increase by 1000 %" is the most that still says something.
pub const LARGEST: Percentage = Percentage(100_000);

impl Percentage {
    /// Reads `15%` or `0.5%`: at most two decimals, greater than zero, at most 1000 %.
    ///
    /// # Errors
    /// A clause that says what is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| Err(format!("{} is not a percentage: {why}; write it like 15%", crate::policy::quoted(text)));
        let Some(number) = text.strip_suffix('%') else { return wrong("the % is missing") };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
            return wrong("only digits and one point may stand before the %");
        }
        if fraction.len() > 2 {
            return wrong("at most two decimals are kept");
        }
        let hundredths = format!("{whole}{fraction:0<2}").parse::<u32>().unwrap_or(u32::MAX);
        match Self(hundredths) {
            Self(0) => wrong("it is zero"),
            share if share > LARGEST => wrong("it is more than 1000%"),
            share => Ok(share),
        }
    }

    /// As a factor: `0.15` for 15 %.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// The share of a count, rounded down: a bound is never stretched by rounding.
    pub fn of(self, count: u32) -> u32 {
        u32::try_from(u64::from(count) * u64::from(self.0) / 10_000).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Percentage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 100 {
            0 => write!(out, "{}%", self.0 / 100),
            rest if rest % 10 == 0 => write!(out, "{}.{}%", self.0 / 100, rest / 10),
            rest => write!(out, "{}.{rest:02}%", self.0 / 100),
        }
    }
}

impl Serialize for Percentage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percentage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A bound that is either a number of things or a share of them, as in a Deployment's `maxUnavailable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountOrShare {
    Count(u32),
    Share(Percentage),
}

impl CountOrShare {
    /// Reads `2` or `50%` (at most 100 %).
    ///
    /// # Errors
    /// A clause that says what is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.ends_with('%') {
            let share = Percentage::parse(text)?;
            return match share.0 > 10_000 {
                true => Err(format!("{} is more than the whole; write at most 100%", crate::policy::quoted(text))),
                false => Ok(Self::Share(share)),
            };
        }
        text.parse().map(Self::Count).map_err(|_| {
            format!("{} is neither a number nor a percentage; write it like 1 or 50%", crate::policy::quoted(text))
        })
    }

    /// How many of `total` the bound allows; a share is rounded down.
    pub fn of(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Share(share) => share.of(total),
        }
    }
}

impl fmt::Display for CountOrShare {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(out, "{count}"),
            Self::Share(share) => write!(out, "{share}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_reads_as_it_is_written() {
        for text in ["15%", "0.5%", "12.25%", "100%", "1000%"] {
            assert_eq!(Percentage::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_share_says_what_to_write() {
        for text in ["15", "%", "-5%", "1.234%", "0%", "2000%", "ten%", "5.%", "99999999999%"] {
            assert!(Percentage::parse(text).unwrap_err().contains("write it like 15%"), "{text}");
        }
        assert!(CountOrShare::parse("120%").unwrap_err().contains("at most 100%"));
        assert!(CountOrShare::parse("some").unwrap_err().contains("1 or 50%"));
    }

    #[test]
    fn a_share_of_a_count_is_rounded_down() {
        assert_eq!(CountOrShare::parse("50%").unwrap().of(3), 1);
        assert_eq!(CountOrShare::parse("2").unwrap().of(3), 2);
    }
}

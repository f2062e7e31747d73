//! Kubernetes quantities: `384Mi`, `250m`, `1.5Gi`, read exactly and compared by value.
//!
//! Source: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.

use std::fmt;

/// An amount of a resource in thousandths of its base unit (bytes, cores), which is as fine as Kubernetes keeps it here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(i128);

const MEBI: i128 = 1 << 20;

/// Suffixes with their factor in thousandths.
const SUFFIXES: [(&str, i128); 15] = [
    ("Ki", 1000 << 10),
    ("Mi", 1000 << 20),
    ("Gi", 1000 << 30),
    ("Ti", 1000 << 40),
    ("Pi", 1000 << 50),
    ("Ei", 1000 << 60),
    ("m", 1),
    ("k", 1_000_000),
    ("M", 1_000_000_000),
    ("G", 1_000_000_000_000),
    ("T", 1_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000_000),
    ("", 1000),
    ("K", 0),
];

impl Quantity {
    /// Reads a quantity that is not negative. Finer than a thousandth is rounded up, as Kubernetes does.
    ///
    /// # Errors
    /// A clause that says what is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            Err(format!("{} is not a quantity: {why}; write it like 384Mi or 250m", crate::policy::quoted(text)))
        };
        if text.starts_with('-') {
            return wrong("it is negative");
        }
        let end = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 20 {
            return wrong("it must begin with a number");
        }
        let scale = match exponent(suffix) {
            Some(scale) => scale,
            None => match SUFFIXES.iter().find(|(name, _)| *name == suffix) {
                Some(("K", _)) => return wrong("the suffix is Ki (1024) or k (1000)"),
                Some((_, scale)) => *scale,
                None if suffix.ends_with('B') || suffix.ends_with('b') => {
                    return wrong("the suffix has no B: Mi, not MB or MiB");
                }
                None => return wrong("suffixes are Ki Mi Gi Ti Pi Ei, m k M G T P E"),
            },
        };
        let Ok(digits) = format!("{whole}{fraction}").parse::<i128>() else { return wrong("the number is too large") };
        // At most 20 digits times 2^60 * 1000 stays far below 2^127.
        let divisor = 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(0));
        let value = (digits * scale).div_euclid(divisor) + i128::from((digits * scale).rem_euclid(divisor) > 0);
        Ok(Self(value))
    }

    /// An amount as the API server writes it, or as a manifest may; `None` for what is none.
    pub fn read(value: &serde_json::Value) -> Option<Self> {
        use serde_json::Value;
        match value {
            Value::String(text) => Self::parse(text).ok(),
            Value::Number(number) => Self::parse(&number.to_string()).ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// A whole number of base units (bytes, cores).
    pub fn whole(units: u64) -> Self {
        Self(i128::from(units) * 1000)
    }

    /// Thousandths of a base unit (millicores).
    pub fn milli(thousandths: u64) -> Self {
        Self(i128::from(thousandths))
    }

    /// Whole base units, rounded up.
    pub fn units(self) -> u64 {
        u64::try_from((self.0 + 999) / 1000).unwrap_or(u64::MAX)
    }

    /// Thousandths of the base unit.
    pub fn thousandths(self) -> u64 {
        u64::try_from(self.0).unwrap_or(u64::MAX)
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Times a factor, rounded up to the next thousandth.
    pub fn times(self, factor: f64) -> Self {
        // Up to 2^53 thousandths of a byte (8 TiB / 1000) exact; beyond that the rounding to Mi swallows the error.
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "rounded to Mi afterwards")]
        Self((self.0 as f64 * factor).ceil() as i128)
    }

    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left after taking `other` away; never below zero.
    pub fn minus(self, other: Self) -> Self {
        Self((self.0 - other.0).max(0))
    }

    /// Rounded up to a multiple of `step`.
    pub fn round_up_to(self, step: Self) -> Self {
        if step.0 <= 0 {
            return self;
        }
        Self((self.0 + step.0 - 1).div_euclid(step.0) * step.0)
    }

    /// As memory: the largest binary suffix that keeps it exact, else bytes.
    pub fn show_memory(self) -> String {
        let bytes = (self.0 + 999) / 1000;
        for (suffix, shift) in [("Gi", 30), ("Mi", 20), ("Ki", 10)] {
            if bytes > 0 && bytes % (1 << shift) == 0 {
                return format!("{}{suffix}", bytes >> shift);
            }
        }
        bytes.to_string()
    }

    /// As memory for people: one decimal at most, in Mi or Gi.
    pub fn show_roughly(self) -> String {
        let bytes = self.0 / 1000;
        if bytes % MEBI == 0 {
            return self.show_memory();
        }
        let mebi = (bytes + MEBI / 2) / MEBI;
        format!("about {mebi}Mi")
    }

    /// As processor time: cores when whole, else millicores.
    pub fn show_cpu(self) -> String {
        match self.0 % 1000 {
            0 => (self.0 / 1000).to_string(),
            _ => format!("{}m", self.0),
        }
    }
}

/// Memory when binary, else the plain number: for sentences about any resource.
impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 >= 1000 << 20 {
            true => out.write_str(&self.show_memory()),
            false => out.write_str(&self.show_cpu()),
        }
    }
}

/// `e3`, `E-2`: the factor in thousandths for a decimal exponent between -3 and 18.
fn exponent(suffix: &str) -> Option<i128> {
    let power = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
    (-3..=18).contains(&power).then(|| 10_i128.pow(u32::try_from(power + 3).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_compare_by_value_not_by_text() {
        for (left, right) in [("1Gi", "1024Mi"), ("0.5", "500m"), ("1e3", "1k"), ("1.5Gi", "1536Mi"), ("1E3", "1000")] {
            assert_eq!(Quantity::parse(left), Quantity::parse(right), "{left} {right}");
        }
        assert!(Quantity::parse("2Gi").unwrap() > Quantity::parse("2G").unwrap());
    }

    #[test]
    fn a_wrong_quantity_says_what_to_write() {
        for (text, why) in [
            ("", "begin with a number"),
            ("-1Gi", "negative"),
            ("2GB", "no B"),
            ("2gi", "suffixes are"),
            ("5K", "Ki (1024) or k"),
            ("Mi", "begin with a number"),
            ("1.2.3Mi", "begin with a number"),
            ("999999999999999999999999Ei", "begin with a number"),
            ("1e99", "suffixes are"),
        ] {
            let got = Quantity::parse(text).unwrap_err();
            assert!(got.contains(why) && got.contains("write it like"), "{text}: {got}");
        }
    }

    #[test]
    fn memory_is_shown_with_the_largest_exact_suffix() {
        for (text, shown) in
            [("1024Mi", "1Gi"), ("1536Mi", "1536Mi"), ("1.5Gi", "1536Mi"), ("1000", "1000"), ("0", "0")]
        {
            assert_eq!(Quantity::parse(text).unwrap().show_memory(), shown);
        }
        assert_eq!(Quantity::parse("1.25").unwrap().show_cpu(), "1250m");
        assert_eq!(Quantity::parse("2000m").unwrap().show_cpu(), "2");
    }

    #[test]
    fn rounding_goes_up() {
        let step = Quantity::parse("16Mi").unwrap();
        assert_eq!(Quantity::parse("385Mi").unwrap().round_up_to(step).show_memory(), "400Mi");
        assert_eq!(Quantity::parse("384Mi").unwrap().round_up_to(step).show_memory(), "384Mi");
    }
}

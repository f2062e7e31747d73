//! PromQL as a value: what cannot be written here cannot be asked, and label values cannot break out of their quotes.
//!
//! Only the shapes that every Prometheus-like store (and the sandbox) understands:
//! <https://prometheus.io/docs/prometheus/latest/querying/basics/>.

pub(crate) mod evaluate;

use std::fmt;

use jiff::SignedDuration;

/// An expression. [`Display`](fmt::Display) writes it as PromQL.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Number(f64),
    Select(Selector),
    /// A function over the samples of the last `over`.
    Over {
        function: OverTime,
        selector: Selector,
        over: SignedDuration,
    },
    /// An aggregation that keeps the labels in `by`.
    Aggregate {
        how: Aggregation,
        by: Vec<String>,
        of: Box<Expr>,
    },
    /// `histogram_quantile(q, of)`; `of` must keep the label `le`.
    Quantile {
        q: f64,
        of: Box<Expr>,
    },
    /// `histogram_count(of)`: how many observations a native histogram holds.
    HistogramCount(Box<Expr>),
    /// Between a vector and a number, or two vectors with the same labels.
    Binary {
        left: Box<Expr>,
        operator: Operator,
        right: Box<Expr>,
    },
}

/// Functions over a range of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverTime {
    Rate,
    Increase,
    Max,
    Min,
    Avg,
    Changes,
    Deriv,
    Last,
}

/// Aggregations over series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    Sum,
    Max,
    Min,
    Avg,
    Count,
}

/// Arithmetic and comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Greater,
    Less,
    /// Between vectors: those of both sides.
    Or,
}

/// A metric with label matchers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    metric: String,
    matchers: Vec<Matcher>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Matcher {
    label: String,
    operator: &'static str,
    value: String,
}

impl Selector {
    /// Every series of a metric. Names come from us or from a checked [`Mapping`](crate::mapping::Mapping); anything
    /// else in them is left out, so that a name can never carry syntax.
    pub fn metric(name: &str) -> Self {
        Self { metric: identifier(name, true), matchers: Vec::new() }
    }

    /// Only series whose label has this value. A label without a name adds nothing: the store has no such label.
    pub fn is(self, label: &str, value: &str) -> Self {
        self.matching(label, "=", value)
    }

    /// Only series whose label has another value, or is absent.
    pub fn is_not(self, label: &str, value: &str) -> Self {
        self.matching(label, "!=", value)
    }

    /// Only series whose label matches this regular expression as a whole (stores anchor it).
    pub fn like(self, label: &str, expression: &str) -> Self {
        self.matching(label, "=~", expression)
    }

    fn matching(mut self, label: &str, operator: &'static str, value: &str) -> Self {
        if !label.is_empty() {
            self.matchers.push(Matcher { label: identifier(label, false), operator, value: value.to_owned() });
        }
        self
    }

    pub fn over(self, function: OverTime, over: SignedDuration) -> Expr {
        Expr::Over { function, selector: self, over }
    }
}

impl From<Selector> for Expr {
    fn from(selector: Selector) -> Self {
        Self::Select(selector)
    }
}

impl Expr {
    /// Aggregates, keeping these labels; nameless ones are left out.
    pub fn aggregate(self, how: Aggregation, by: &[&str]) -> Self {
        let by = by.iter().filter(|label| !label.is_empty()).map(|label| identifier(label, false)).collect();
        Self::Aggregate { how, by, of: Box::new(self) }
    }

    pub fn quantile(self, q: f64) -> Self {
        Self::Quantile { q, of: Box::new(self) }
    }

    pub fn histogram_count(self) -> Self {
        Self::HistogramCount(Box::new(self))
    }

    pub fn with(self, operator: Operator, right: impl Into<Self>) -> Self {
        Self::Binary { left: Box::new(self), operator, right: Box::new(right.into()) }
    }
}

fn identifier(name: &str, colons: bool) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_' || (colons && *c == ':')).collect()
}

/// A double-quoted string literal of PromQL and LogQL (both use Go's escapes).
pub(crate) fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || is_hidden(c) => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Characters that change how the text around them looks: zero width and direction. Queries are shown to people.
pub(crate) fn is_hidden(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A regular expression (RE2) that matches exactly this text.
pub fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A duration as PromQL and LogQL read it: whole milliseconds, in the largest unit that is exact.
pub fn duration(span: SignedDuration) -> String {
    let ms = span.as_millis().max(1);
    match ms {
        _ if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        _ if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        _ if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.metric)?;
        if self.matchers.is_empty() {
            return Ok(());
        }
        write!(out, "{{")?;
        for (at, matcher) in self.matchers.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(out, "{comma}{}{}{}", matcher.label, matcher.operator, quoted(&matcher.value))?;
        }
        write!(out, "}}")
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(out, "{number}"),
            Self::Select(selector) => write!(out, "{selector}"),
            Self::Over { function, selector, over } => {
                write!(out, "{}({selector}[{}])", function.name(), duration(*over))
            }
            Self::Aggregate { how, by, of } if by.is_empty() => write!(out, "{}({of})", how.name()),
            Self::Aggregate { how, by, of } => write!(out, "{} by ({}) ({of})", how.name(), by.join(", ")),
            Self::Quantile { q, of } => write!(out, "histogram_quantile({q}, {of})"),
            Self::HistogramCount(of) => write!(out, "histogram_count({of})"),
            Self::Binary { left, operator, right } => {
                side(out, left)?;
                write!(out, " {} ", operator.sign())?;
                side(out, right)
            }
        }
    }
}

/// Nested binary expressions are put into parentheses, so that no reader needs the precedence table.
fn side(out: &mut fmt::Formatter<'_>, of: &Expr) -> fmt::Result {
    match of {
        Expr::Binary { .. } => write!(out, "({of})"),
        _ => write!(out, "{of}"),
    }
}

impl OverTime {
    fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Increase => "increase",
            Self::Max => "max_over_time",
            Self::Min => "min_over_time",
            Self::Avg => "avg_over_time",
            Self::Changes => "changes",
            Self::Deriv => "deriv",
            Self::Last => "last_over_time",
        }
    }
}

impl Aggregation {
    fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Max => "max",
            Self::Min => "min",
            Self::Avg => "avg",
            Self::Count => "count",
        }
    }
}

impl Operator {
    fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Greater => ">",
            Self::Less => "<",
            Self::Or => "or",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_read_as_a_person_would_write_them() {
        let errors = Selector::metric("http_requests_total")
            .is("namespace", "shop")
            .like("code", "5..")
            .over(OverTime::Rate, SignedDuration::from_mins(2))
            .aggregate(Aggregation::Sum, &["service", ""]);
        assert_eq!(
            errors.to_string(),
            r#"sum by (service) (rate(http_requests_total{namespace="shop",code=~"5.."}[2m]))"#
        );
        let full = Expr::from(Selector::metric("used")).with(Operator::Divide, Selector::metric("limit"));
        assert_eq!(full.clone().with(Operator::Greater, Expr::Number(0.5)).to_string(), "(used / limit) > 0.5");
        assert_eq!(full.quantile(0.99).to_string(), "histogram_quantile(0.99, used / limit)");
    }

    #[test]
    fn a_hostile_label_value_stays_inside_its_quotes() {
        let hostile = "x\"} or up{a=\"\\\n\u{0}\u{202e}";
        let shown = Selector::metric("up").is("pod", hostile).to_string();
        assert_eq!(shown, "up{pod=\"x\\\"} or up{a=\\\"\\\\\\n\\u0000\\u202e\"}");
    }

    #[test]
    fn a_hostile_name_loses_its_syntax() {
        assert_eq!(Selector::metric("up} or vector(1").is("a=\"b\"", "c").to_string(), "uporvector1{ab=\"c\"}");
    }

    #[test]
    fn a_label_that_the_store_does_not_have_is_not_asked_for() {
        assert_eq!(Selector::metric("up").is("", "shop").to_string(), "up");
    }

    #[test]
    fn durations_are_exact_in_the_largest_unit() {
        for (ms, shown) in [(7_200_000, "2h"), (90_000, "90s"), (300_000, "5m"), (1_500, "1500ms"), (0, "1ms")] {
            assert_eq!(duration(SignedDuration::from_millis(ms)), shown);
        }
    }

    #[test]
    fn a_literal_matches_only_itself() {
        for text in ["checkout-5d8f.x", "a|b", "a(b)*", r"\d+"] {
            let matcher = regex::Regex::new(&format!("^(?:{})$", literal(text))).unwrap();
            assert!(matcher.is_match(text), "{text}");
            assert!(!matcher.is_match("checkout-5d8fyx"));
        }
    }
}

//! LogQL as a value, like [`promql`](crate::promql): <https://grafana.com/docs/loki/latest/query/>.

use std::fmt;

use jiff::SignedDuration;

use crate::promql::{duration, quoted};

/// A log query: streams and the texts that their lines must contain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    matchers: Vec<(String, &'static str, String)>,
    containing: Vec<String>,
    /// Labels of which one has this value: of the stream, of structured metadata.
    any_of: Option<(&'static [&'static str], String)>,
}

impl Lines {
    /// Only streams whose label has this value; a nameless label adds nothing.
    pub fn is(self, label: &str, value: &str) -> Self {
        self.matching(label, "=", value)
    }

    /// Only streams whose label matches this regular expression as a whole.
    pub fn like(self, label: &str, expression: &str) -> Self {
        self.matching(label, "=~", expression)
    }

    /// Only lines that contain this text.
    pub fn containing(mut self, text: &str) -> Self {
        self.containing.push(text.to_owned());
        self
    }

    /// Only lines with this value in one of these labels, be they of the stream or of structured metadata
    /// (<https://grafana.com/docs/loki/latest/query/log_queries/#label-filter-expression>).
    pub fn with_any(mut self, labels: &'static [&'static str], value: &str) -> Self {
        self.any_of = Some((labels, value.to_owned()));
        self
    }

    fn matching(mut self, label: &str, operator: &'static str, value: &str) -> Self {
        let label: String = label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if !label.is_empty() {
            self.matchers.push((label, operator, value.to_owned()));
        }
        self
    }

    /// How many lines there were in each step, by these labels.
    pub fn counted(&self, by: &[&str], within: SignedDuration) -> String {
        let by: Vec<&str> = by.iter().copied().filter(|label| !label.is_empty()).collect();
        format!("sum by ({}) (count_over_time({self} [{}]))", by.join(", "), duration(within))
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{{")?;
        for (at, (label, operator, value)) in self.matchers.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(out, "{comma}{label}{operator}{}", quoted(value))?;
        }
        write!(out, "}}")?;
        for text in &self.containing {
            write!(out, " |= {}", quoted(text))?;
        }
        if let Some((labels, value)) = &self.any_of {
            let value = quoted(value);
            let one_of: Vec<String> = labels.iter().map(|label| format!("{label}={value}")).collect();
            write!(out, " | {}", one_of.join(" or "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_read_as_a_person_would_write_them() {
        let lines = Lines::default().is("namespace", "shop").like("pod", "checkout-.*").is("", "x").containing("error");
        assert_eq!(lines.to_string(), r#"{namespace="shop",pod=~"checkout-.*"} |= "error""#);
        assert_eq!(
            lines.counted(&["pod"], SignedDuration::from_mins(5)),
            r#"sum by (pod) (count_over_time({namespace="shop",pod=~"checkout-.*"} |= "error" [5m]))"#
        );
    }

    #[test]
    fn hostile_text_stays_inside_its_quotes() {
        let lines = Lines::default().is("pod", "a\"} |= \"").containing("x\" | json\n");
        assert_eq!(lines.to_string(), "{pod=\"a\\\"} |= \\\"\"} |= \"x\\\" | json\\n\"");
        let traced = Lines::default().like("pod", ".+").with_any(&["trace_id", "traceId"], "x\" or a=\"");
        assert_eq!(traced.to_string(), "{pod=~\".+\"} | trace_id=\"x\\\" or a=\\\"\" or traceId=\"x\\\" or a=\\\"\"");
    }
}

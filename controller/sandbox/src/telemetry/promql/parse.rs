//! Reads the PromQL that our builders emit; everything else is refused by name.

use std::collections::BTreeSet;

use regex::Regex;

use super::PromqlError;
use crate::telemetry::tsdb::Matcher;

/// A query.
#[derive(Clone, Debug)]
pub enum Expression {
    /// `1.5`
    Number(f64),
    /// `name{...}`
    Instant(Vec<Matcher>),
    /// `rate(name{...}[5m])` and its kin.
    Range {
        /// The function.
        function: RangeFunction,
        /// The selected series.
        matchers: Vec<Matcher>,
        /// Milliseconds.
        window: i64,
    },
    /// `sum by (a) (...)`
    Aggregate {
        /// The operator.
        operator: Aggregation,
        /// Labels that are kept.
        by: BTreeSet<String>,
        /// What is aggregated.
        of: Box<Expression>,
    },
    /// `histogram_quantile(q, ...)`
    Quantile {
        /// 0 to 1.
        quantile: f64,
        /// Buckets.
        of: Box<Expression>,
    },
    /// `a / b`
    Binary {
        /// The operator.
        operator: Operator,
        /// Left side.
        left: Box<Expression>,
        /// Right side.
        right: Box<Expression>,
    },
}

/// Functions of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are PromQL's own names")]
pub enum RangeFunction {
    Rate,
    Increase,
    MaxOverTime,
    MinOverTime,
    AvgOverTime,
    LastOverTime,
    Changes,
    Deriv,
}

/// Aggregation operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are PromQL's own names")]
pub enum Aggregation {
    Sum,
    Max,
    Min,
    Avg,
    Count,
}

/// Binary operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are PromQL's own names")]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Greater,
    Less,
    GreaterOrEqual,
    LessOrEqual,
    Equal,
    NotEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Number(f64),
    Text(String),
    Duration(i64),
    Mark(&'static str),
}

const MARKS: &[&str] =
    &["=~", "!~", "!=", "==", ">=", "<=", "(", ")", "{", "}", "[", "]", ",", "=", ">", "<", "+", "-", "*", "/"];

fn tokens(text: &str) -> Result<Vec<Token>, PromqlError> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
            found.push(Token::Mark(mark));
            rest = &rest[mark.len()..];
        } else if matches!(first, '"' | '\'' | '`') {
            let (value, after) = quoted(rest, first)?;
            found.push(Token::Text(value));
            rest = after;
        } else if first.is_ascii_digit() || first == '.' {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(rest.len());
            // An exponent may carry a sign.
            let end = if rest[..end].ends_with(['e', 'E']) && rest[end..].starts_with(['+', '-']) {
                end + 1 + rest[end + 1..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - end - 1)
            } else {
                end
            };
            let word = &rest[..end];
            found.push(match (word.parse(), duration(word)) {
                (Ok(number), _) => Token::Number(number),
                (Err(_), Some(duration)) => Token::Duration(duration),
                (Err(_), None) => return Err(PromqlError::unexpected(word)),
            });
            rest = &rest[end..];
        } else if first.is_ascii_alphabetic() || first == '_' || first == ':' {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))).unwrap_or(rest.len());
            found.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        } else {
            return Err(PromqlError::unexpected(&first.to_string()));
        }
        rest = rest.trim_start();
    }
    Ok(found)
}

/// Reads a quoted string; gives what follows it too.
pub fn quoted(text: &str, quote: char) -> Result<(String, &str), PromqlError> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' if quote != '`' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, 'r')) => value.push('\r'),
                Some((at, 'u')) => {
                    let code = text.get(at + 1..at + 5).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                    let Some(named) = code.and_then(char::from_u32) else {
                        return Err(PromqlError::unexpected("a broken escape"));
                    };
                    value.push(named);
                    characters.nth(3);
                }
                Some((_, other)) => value.push(other),
                None => break,
            },
            end if end == quote => return Ok((value, &text[at + 1..])),
            other => value.push(other),
        }
    }
    Err(PromqlError::unexpected("unterminated string"))
}

/// `1h30m` in milliseconds.
pub fn duration(text: &str) -> Option<i64> {
    let (mut total, mut rest) = (0, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                "w" => 604_800_000,
                _ => return None,
            };
        rest = &rest[end..];
    }
    Some(total).filter(|total| *total > 0)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

/// Reads a query.
pub fn parse(text: &str) -> Result<Expression, PromqlError> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let expression = parser.comparison()?;
    match parser.peek() {
        None => Ok(expression),
        Some(token) => Err(PromqlError::unexpected(&format!("{token:?}"))),
    }
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn takes(&mut self, mark: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Mark(found)) if *found == mark);
        if is {
            self.at += 1;
        }
        is
    }

    fn expect(&mut self, mark: &'static str) -> Result<(), PromqlError> {
        if self.takes(mark) {
            return Ok(());
        }
        Err(PromqlError::unexpected(&match self.peek() {
            Some(token) => format!("{token:?} where {mark} was expected"),
            None => format!("end of the query where {mark} was expected"),
        }))
    }

    fn comparison(&mut self) -> Result<Expression, PromqlError> {
        self.depth += 1;
        if self.depth > 32 {
            return Err(PromqlError::unsupported("nesting deeper than 32"));
        }
        let mut left = self.sum()?;
        loop {
            let operator = match self.peek() {
                Some(Token::Mark(">")) => Operator::Greater,
                Some(Token::Mark("<")) => Operator::Less,
                Some(Token::Mark(">=")) => Operator::GreaterOrEqual,
                Some(Token::Mark("<=")) => Operator::LessOrEqual,
                Some(Token::Mark("==")) => Operator::Equal,
                Some(Token::Mark("!=")) => Operator::NotEqual,
                Some(Token::Word(word)) if matches!(word.as_str(), "and" | "or" | "unless" | "offset" | "bool") => {
                    return Err(PromqlError::unsupported(word));
                }
                _ => break,
            };
            self.at += 1;
            let right = self.sum()?;
            left = Expression::Binary { operator, left: Box::new(left), right: Box::new(right) };
        }
        self.depth -= 1;
        Ok(left)
    }

    fn sum(&mut self) -> Result<Expression, PromqlError> {
        let mut left = self.product()?;
        loop {
            let operator = if self.takes("+") {
                Operator::Add
            } else if self.takes("-") {
                Operator::Subtract
            } else {
                return Ok(left);
            };
            let right = self.product()?;
            left = Expression::Binary { operator, left: Box::new(left), right: Box::new(right) };
        }
    }

    fn product(&mut self) -> Result<Expression, PromqlError> {
        let mut left = self.primary()?;
        loop {
            let operator = if self.takes("*") {
                Operator::Multiply
            } else if self.takes("/") {
                Operator::Divide
            } else {
                return Ok(left);
            };
            let right = self.primary()?;
            left = Expression::Binary { operator, left: Box::new(left), right: Box::new(right) };
        }
    }

    fn primary(&mut self) -> Result<Expression, PromqlError> {
        if self.takes("(") {
            let inner = self.comparison()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.takes("-") {
            let zero = Box::new(Expression::Number(0.0));
            return Ok(Expression::Binary {
                operator: Operator::Subtract,
                left: zero,
                right: Box::new(self.primary()?),
            });
        }
        match self.next() {
            Some(Token::Number(number)) => Ok(Expression::Number(number)),
            Some(Token::Mark("{")) => {
                self.at -= 1;
                Ok(Expression::Instant(self.matchers(None)?))
            }
            Some(Token::Word(word)) => self.named(&word),
            Some(token) => Err(PromqlError::unexpected(&format!("{token:?}"))),
            None => Err(PromqlError::unexpected("end of the query")),
        }
    }

    fn named(&mut self, word: &str) -> Result<Expression, PromqlError> {
        if matches!(
            word,
            "bool" | "on" | "ignoring" | "group_left" | "group_right" | "offset" | "and" | "or" | "unless"
        ) {
            return Err(PromqlError::unsupported(word));
        }
        let aggregation = match word {
            "sum" => Some(Aggregation::Sum),
            "max" => Some(Aggregation::Max),
            "min" => Some(Aggregation::Min),
            "avg" => Some(Aggregation::Avg),
            "count" => Some(Aggregation::Count),
            _ => None,
        };
        let opens = matches!(self.peek(), Some(Token::Mark("(")));
        if let Some(operator) = aggregation
            && (opens || matches!(self.peek(), Some(Token::Word(next)) if next == "by" || next == "without"))
        {
            let mut by = self.grouping()?;
            self.expect("(")?;
            let of = Box::new(self.comparison()?);
            self.expect(")")?;
            if by.is_none() {
                by = self.grouping()?;
            }
            return Ok(Expression::Aggregate { operator, by: by.unwrap_or_default(), of });
        }
        if !opens {
            if matches!(word, "inf" | "Inf" | "NaN" | "nan") {
                return Err(PromqlError::unsupported(word));
            }
            let matchers = self.matchers(Some(word))?;
            if self.takes("[") {
                return Err(PromqlError::unsupported("a range selector outside of a function"));
            }
            return Ok(Expression::Instant(matchers));
        }
        self.expect("(")?;
        if word == "histogram_quantile" {
            let Some(Token::Number(quantile)) = self.next() else {
                return Err(PromqlError::unsupported("a quantile that is no number"));
            };
            self.expect(",")?;
            let of = Box::new(self.comparison()?);
            self.expect(")")?;
            return Ok(Expression::Quantile { quantile, of });
        }
        let function = match word {
            "rate" => RangeFunction::Rate,
            "increase" => RangeFunction::Increase,
            "max_over_time" => RangeFunction::MaxOverTime,
            "min_over_time" => RangeFunction::MinOverTime,
            "avg_over_time" => RangeFunction::AvgOverTime,
            "last_over_time" => RangeFunction::LastOverTime,
            "changes" => RangeFunction::Changes,
            "deriv" => RangeFunction::Deriv,
            other => return Err(PromqlError::unsupported(&format!("function {other}"))),
        };
        let name = match self.peek() {
            Some(Token::Word(name)) => Some(name.clone()),
            _ => None,
        };
        if name.is_some() {
            self.at += 1;
        }
        let matchers = self.matchers(name.as_deref())?;
        self.expect("[")?;
        let window = match self.next() {
            Some(Token::Duration(window)) => window,
            _ => return Err(PromqlError::unexpected("a range that is no duration")),
        };
        if matches!(self.peek(), Some(Token::Word(_))) {
            return Err(PromqlError::unsupported("a subquery"));
        }
        self.expect("]")?;
        if let Some(Token::Word(word)) = self.peek() {
            return Err(PromqlError::unsupported(word));
        }
        self.expect(")")?;
        Ok(Expression::Range { function, matchers, window })
    }

    fn grouping(&mut self) -> Result<Option<BTreeSet<String>>, PromqlError> {
        match self.peek() {
            Some(Token::Word(word)) if word == "by" => {}
            Some(Token::Word(word)) if word == "without" => return Err(PromqlError::unsupported("without")),
            _ => return Ok(None),
        }
        self.at += 1;
        self.expect("(")?;
        let mut labels = BTreeSet::new();
        while !self.takes(")") {
            match self.next() {
                Some(Token::Word(label)) => labels.insert(label),
                _ => return Err(PromqlError::unexpected("a label list that is no list of labels")),
            };
            self.takes(",");
        }
        Ok(Some(labels))
    }

    fn matchers(&mut self, name: Option<&str>) -> Result<Vec<Matcher>, PromqlError> {
        let mut matchers: Vec<Matcher> =
            name.map(|name| Matcher::Equal("__name__".into(), name.to_owned())).into_iter().collect();
        if self.takes("{") {
            while !self.takes("}") {
                let Some(Token::Word(label)) = self.next() else {
                    return Err(PromqlError::unexpected("a label matcher without a label"));
                };
                let operator = self.next();
                let Some(Token::Text(value)) = self.next() else {
                    return Err(PromqlError::unexpected("a label matcher without a quoted value"));
                };
                matchers.push(match operator {
                    Some(Token::Mark("=")) => Matcher::Equal(label, value),
                    Some(Token::Mark("!=")) => Matcher::NotEqual(label, value),
                    Some(Token::Mark("=~")) => Matcher::Matches(label, pattern(&value)?),
                    Some(Token::Mark("!~")) => Matcher::Differs(label, pattern(&value)?),
                    _ => return Err(PromqlError::unexpected("a label matcher without an operator")),
                });
                if !self.takes(",") && !matches!(self.peek(), Some(Token::Mark("}"))) {
                    return Err(PromqlError::unexpected("label matchers without a comma between"));
                }
            }
        }
        if matchers.is_empty() {
            return Err(PromqlError::unexpected("a selector without a name or matcher"));
        }
        Ok(matchers)
    }
}

/// Prometheus' patterns are anchored at both ends.
pub fn pattern(text: &str) -> Result<Regex, PromqlError> {
    Regex::new(&format!("^(?s:{text})$")).map_err(|error| PromqlError::unexpected(&error.to_string()))
}

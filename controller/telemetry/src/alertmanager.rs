//! Alertmanager: is an alert silenced or inhibited?
//!
//! <https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml>

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use regex::RegexBuilder;
use serde::Deserialize;

use crate::alert::{AlertQuestion, Muting, Silencer};
use crate::connection::{Connection, clean};
use crate::egress::Egress;
use crate::promql::quoted;
use crate::source::{Asking, Source, SourceConfig, SourceError, Told};

/// Bytes that the compiled regular expression of one silence may take.
const MATCHER_SIZE: usize = 256 << 10;

/// Labels that a question is narrowed by: they are all in one URL.
const FILTERS_MAX: usize = 16;

/// An Alertmanager.
#[derive(Debug)]
pub struct Alertmanager {
    config: SourceConfig,
    connection: Connection,
}

impl Alertmanager {
    /// # Errors
    /// The egress guard refuses the URL, or the certificate authorities cannot be read.
    pub fn open(config: SourceConfig, egress: &Egress) -> Result<Self, SourceError> {
        Ok(Self { connection: Connection::open(&config, egress)?, config })
    }

    async fn ask(&self, question: &AlertQuestion) -> Told<Muting> {
        let filters = filters(question);
        let query = format!("/api/v2/alerts?filter={} and /api/v2/silences", filters.join("&filter="));
        Told::new(query, self.muted(filters, question).await)
    }

    async fn muted(&self, filters: Vec<String>, question: &AlertQuestion) -> Result<Muting, SourceError> {
        let shown = ["active", "silenced", "inhibited"].map(|state| (state, "true".to_owned()));
        let filters = filters.into_iter().map(|filter| ("filter", filter));
        let parameters: Vec<(&str, String)> = filters.chain(shown).collect();
        let alerts: Vec<Alert> = self.connection.get("/api/v2/alerts", &parameters).await?;
        let silences: Result<Vec<Silence>, SourceError> = self.connection.get("/api/v2/silences", &[]).await;
        let same = alerts.iter().filter(|alert| question.labels.iter().all(|(k, v)| alert.labels.get(k) == Some(v)));
        for alert in same {
            if !alert.status.silenced_by.is_empty() {
                // What is known to be silenced stays silenced when nobody tells by whom.
                let known = silences.as_deref().unwrap_or(&[]);
                return Ok(Muting::Silenced { by: described(&alert.status.silenced_by, known) });
            }
            if !alert.status.inhibited_by.is_empty() {
                return Ok(Muting::Inhibited { by: alert.status.inhibited_by.iter().map(|id| clean(id)).collect() });
            }
        }
        // A silence made a moment ago, or for an alert that Alertmanager has not got yet, is not in the alert's status.
        let mut by = Vec::new();
        for silence in silences?.iter().filter(|silence| silence.status.state == "active") {
            if silence.covers(&question.name, &question.labels)? {
                by.push(silence.described());
            }
        }
        Ok(if by.is_empty() { Muting::Audible } else { Muting::Silenced { by } })
    }
}

/// Matchers of this very alert: of a rule that fires for a thousand pods only one is asked for.
///
/// The name and at most [`FILTERS_MAX`] labels; names that would need quotes, which older versions do not read, are left out.
fn filters(question: &AlertQuestion) -> Vec<String> {
    let plain = |name: &str| {
        let starts = name.chars().next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
        starts && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let labels =
        question.labels.iter().filter(|(name, value)| plain(name) && *name != "alertname" && !value.is_empty());
    let labels = labels.map(|(name, value)| format!("{name}={}", quoted(value))).take(FILTERS_MAX);
    std::iter::once(format!("alertname={}", quoted(&question.name))).chain(labels).collect()
}

/// The silences with these ids, in their order; those that are not listed have a name only.
fn described(ids: &[String], silences: &[Silence]) -> Vec<Silencer> {
    let of = |id: &String| match silences.iter().find(|silence| silence.id == *id) {
        Some(silence) => silence.described(),
        None => Silencer { id: clean(id), ..Silencer::default() },
    };
    ids.iter().map(of).collect()
}

impl Source for Alertmanager {
    fn config(&self) -> &SourceConfig {
        &self.config
    }

    fn probe(&self) -> Asking<'_, Duration> {
        async move { Told::new("/api/v2/status", self.connection.time("/api/v2/status", &[]).await) }.boxed()
    }

    fn muting<'a>(&'a self, question: &'a AlertQuestion) -> Asking<'a, Muting> {
        self.ask(question).boxed()
    }
}

#[derive(Deserialize)]
struct Alert {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    status: AlertStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AlertStatus {
    #[serde(default)]
    silenced_by: Vec<String>,
    #[serde(default)]
    inhibited_by: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Silence {
    id: String,
    #[serde(default)]
    created_by: String,
    #[serde(default)]
    comment: String,
    matchers: Vec<Matcher>,
    status: SilenceStatus,
}

#[derive(Deserialize)]
struct SilenceStatus {
    state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Matcher {
    name: String,
    value: String,
    #[serde(default)]
    is_regex: bool,
    /// Absent before version 0.22, where every matcher meant "equal".
    #[serde(default = "yes")]
    is_equal: bool,
}

fn yes() -> bool {
    true
}

impl Silence {
    fn described(&self) -> Silencer {
        Silencer { id: clean(&self.id), created_by: clean(&self.created_by), comment: clean(&self.comment) }
    }

    /// Whether every matcher holds; a label that is absent counts as empty, as Alertmanager has it.
    fn covers(&self, alert: &str, labels: &BTreeMap<String, String>) -> Result<bool, SourceError> {
        for matcher in &self.matchers {
            let value = match labels.get(&matcher.name) {
                Some(value) => value.as_str(),
                None if matcher.name == "alertname" => alert,
                None => "",
            };
            if matcher.agrees(value)? != matcher.is_equal {
                return Ok(false);
            }
        }
        Ok(!self.matchers.is_empty())
    }
}

impl Matcher {
    fn agrees(&self, value: &str) -> Result<bool, SourceError> {
        if !self.is_regex {
            return Ok(self.value == value);
        }
        let whole = format!("^(?:{})$", self.value);
        match RegexBuilder::new(&whole).size_limit(MATCHER_SIZE).build() {
            Ok(expression) => Ok(expression.is_match(value)),
            Err(_) => Err(SourceError::Malformed {
                why: format!("a silence matches by an expression that we cannot use: {}", clean(&self.value)),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silence(matchers: serde_json::Value) -> Silence {
        let json = serde_json::json!({"id": "s1", "status": {"state": "active"}, "matchers": matchers});
        serde_json::from_value(json).unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_matcher_must_hold_and_expressions_match_whole_values() {
        let shop = labels(&[("namespace", "shop"), ("pod", "checkout-1")]);
        let covers = |matchers| silence(matchers).covers("HighErrors", &shop).unwrap();
        assert!(covers(serde_json::json!([{"name": "namespace", "value": "shop", "isRegex": false, "isEqual": true}])));
        assert!(covers(serde_json::json!([{"name": "pod", "value": "checkout-.", "isRegex": true, "isEqual": true}])));
        assert!(!covers(serde_json::json!([{"name": "pod", "value": "checkout", "isRegex": true, "isEqual": true}])));
        assert!(!covers(
            serde_json::json!([{"name": "namespace", "value": "shop", "isRegex": false, "isEqual": false}])
        ));
        assert!(covers(serde_json::json!([{"name": "team", "value": "", "isRegex": false}])));
        assert!(covers(serde_json::json!([{"name": "alertname", "value": "HighErrors", "isRegex": false}])));
    }

    #[test]
    fn one_alert_is_asked_for_by_its_name_and_labels_escaped() {
        let question = AlertQuestion {
            id: String::new(),
            name: "HighErrors".to_owned(),
            labels: labels(&[("alertname", "HighErrors"), ("pod", "a\"b"), ("empty", ""), ("k8s.node", "n1")]),
            at: jiff::Timestamp::UNIX_EPOCH,
            heard_of: jiff::SignedDuration::ZERO,
        };
        assert_eq!(filters(&question), ["alertname=\"HighErrors\"", "pod=\"a\\\"b\""]);
    }

    #[test]
    fn a_silence_that_matches_nothing_in_particular_matches_nothing() {
        assert!(!silence(serde_json::json!([])).covers("A", &BTreeMap::new()).unwrap());
    }

    #[test]
    fn a_silence_is_told_with_its_author_and_reason_and_by_its_id_where_they_are_not_known() {
        let json = serde_json::json!({"id": "s1", "status": {"state": "active"}, "matchers": [], "createdBy": "lena", "comment": "planned\nwork"});
        let known: Silence = serde_json::from_value(json).unwrap();
        let told = described(&["s1".to_owned(), "s2".to_owned()], &[known]);
        let shown: Vec<_> = told.iter().map(|one| (&*one.id, &*one.created_by, &*one.comment)).collect();
        assert_eq!(shown, [("s1", "lena", "planned work"), ("s2", "", "")]);
    }

    #[test]
    fn an_expression_that_cannot_be_used_makes_the_answer_unknown() {
        let bad = silence(serde_json::json!([{"name": "pod", "value": "(((", "isRegex": true}]));
        assert!(bad.covers("A", &BTreeMap::new()).is_err());
    }
}

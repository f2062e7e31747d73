//! What a silence covers: an alert, or a workload none of whose alerts has come yet.

use std::collections::BTreeMap;

use regex::RegexBuilder;
use serde::Deserialize;

use crate::alert::Silencer;
use crate::connection::clean;
use crate::source::SourceError;

/// Bytes that the compiled regular expression of one silence may take.
const MATCHER_SIZE: usize = 256 << 10;

/// A value that nobody has named: only a matcher that takes any value takes this one.
const UNNAMED: &str = "\u{10ffff}";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Silence {
    pub id: String,
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
    pub fn is_active(&self) -> bool {
        self.status.state == "active"
    }

    pub fn described(&self) -> Silencer {
        Silencer { id: clean(&self.id), created_by: clean(&self.created_by), comment: clean(&self.comment) }
    }

    /// Whether every matcher holds; a label that is absent counts as empty, as Alertmanager has it.
    pub fn covers(&self, alert: &str, labels: &BTreeMap<String, String>) -> Result<bool, SourceError> {
        for matcher in &self.matchers {
            let value = match labels.get(&matcher.name) {
                Some(value) => value.as_str(),
                None if matcher.name == "alertname" => alert,
                None => "",
            };
            if !matcher.holds(value)? {
                return Ok(false);
            }
        }
        Ok(!self.matchers.is_empty())
    }

    /// Whether it asks for quiet about a workload, whatever its alerts may be called.
    ///
    /// Matchers of labels that name the workload are held against their values. Of any other label (`alertname`, `severity`,
    /// `team`) nothing is known before an alert has come, so only a matcher that says next to nothing is taken to hold: one that an
    /// absent label meets (`severity!="critical"`), or one that any value meets (`alertname=~".+"`). So `namespace="shop"` covers all
    /// of the namespace, and `namespace="shop", alertname="CertificateExpires"` covers nothing but that alert: who muted one
    /// noise has not asked for quiet about the rest.
    pub fn covers_workload(&self, known: &BTreeMap<String, String>) -> Result<bool, SourceError> {
        for matcher in &self.matchers {
            let holds = match known.get(&matcher.name) {
                Some(value) => matcher.holds(value)?,
                None if matcher.name == "alertname" => matcher.holds(UNNAMED)?,
                None => matcher.holds("")? || matcher.holds(UNNAMED)?,
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(!self.matchers.is_empty())
    }
}

impl Matcher {
    fn holds(&self, value: &str) -> Result<bool, SourceError> {
        Ok(self.agrees(value)? == self.is_equal)
    }

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
    use amend_diagnosis::entity::{Entity, EntityKind};

    use super::super::workload::labels_of;
    use super::*;
    use crate::mapping::Mapping;

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
    fn a_silence_that_matches_nothing_in_particular_matches_nothing() {
        assert!(!silence(serde_json::json!([])).covers("A", &BTreeMap::new()).unwrap());
    }

    #[test]
    fn an_expression_that_cannot_be_used_makes_the_answer_unknown() {
        let bad = silence(serde_json::json!([{"name": "pod", "value": "(((", "isRegex": true}]));
        assert!(bad.covers("A", &BTreeMap::new()).is_err());
    }

    #[test]
    fn a_silence_of_the_workload_covers_it_and_one_of_a_single_alert_does_not() {
        let checkout = Entity::new(EntityKind::Deployment, "shop", "checkout").with_container("app");
        let known = labels_of(&checkout, &Mapping::default(), &labels(&[("cluster", "eu-1")])).unwrap();
        let is = |name: &str, value: &str| serde_json::json!({"name": name, "value": value, "isRegex": false});
        let like = |name: &str, value: &str| serde_json::json!({"name": name, "value": value, "isRegex": true});
        let not = |name: &str, value: &str| serde_json::json!({"name": name, "value": value, "isEqual": false});
        let covers = |matchers: Vec<serde_json::Value>| silence(matchers.into()).covers_workload(&known).unwrap();
        for (case, matchers) in [
            ("the namespace", vec![is("namespace", "shop")]),
            ("the workload", vec![is("namespace", "shop"), is("deployment", "checkout")]),
            ("its pods", vec![like("pod", "checkout-.*")]),
            ("pods by the letters of their hashes", vec![like("pod", "checkout-[0-9a-f]+-[a-z0-9]{5}")]),
            ("its Service", vec![is("service", "checkout")]),
            ("a container of it", vec![is("namespace", "shop"), like("container", "app|web")]),
            ("everything", vec![like("alertname", ".+")]),
            ("any severity that is said", vec![is("namespace", "shop"), like("severity", ".+")]),
            ("all but what is critical", vec![is("namespace", "shop"), not("severity", "critical")]),
            ("all but one alert", vec![is("namespace", "shop"), not("alertname", "DiskFull")]),
            ("our cluster", vec![is("cluster", "eu-1"), is("namespace", "shop")]),
        ] {
            assert!(covers(matchers), "{case}");
        }
        for (case, matchers) in [
            ("one alert of the namespace", vec![is("namespace", "shop"), is("alertname", "CertificateExpires")]),
            ("some alerts of the namespace", vec![is("namespace", "shop"), like("alertname", "Cert.*|Backup.*")]),
            ("one severity", vec![is("namespace", "shop"), is("severity", "info")]),
            ("one team", vec![is("team", "shop")]),
            ("another namespace", vec![is("namespace", "bank")]),
            ("all other namespaces", vec![not("namespace", "shop"), like("alertname", ".+")]),
            ("another workload", vec![is("namespace", "shop"), is("deployment", "cart")]),
            ("one of its pods", vec![is("namespace", "shop"), is("pod", "checkout-7d9f-abcde")]),
            ("another container", vec![is("namespace", "shop"), is("container", "istio-proxy")]),
            ("another cluster", vec![is("cluster", "us-1"), is("namespace", "shop")]),
            ("a workload of another kind", vec![is("namespace", "shop"), is("statefulset", "checkout")]),
            ("nothing", vec![]),
        ] {
            assert!(!covers(matchers), "{case}");
        }
        let bad = silence(vec![like("pod", "(((")].into());
        assert!(bad.covers_workload(&known).is_err(), "what cannot be read is not known not to cover");
    }
}

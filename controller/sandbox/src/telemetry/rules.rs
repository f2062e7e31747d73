//! Alert rules: an expression that must hold for a while.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::promql::{self, Answer, Expression, PromqlError};
use super::tsdb::{Labels, Tsdb};

/// One alert rule, as in a Prometheus rule file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertRule {
    /// Name of the alert.
    pub alert: String,
    /// Expression; each series of its result is an alert.
    pub expr: String,
    /// How long it must hold, such as `1m`.
    #[serde(default, rename = "for")]
    pub hold: String,
    /// Labels that are added.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Texts, with `{{ $labels.x }}` and `{{ $value }}`.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// An alert that is or was active.
#[derive(Clone, Debug)]
pub struct Alert {
    /// Labels with `alertname`.
    pub labels: Labels,
    /// Texts, filled in.
    pub annotations: BTreeMap<String, String>,
    /// Since when the expression holds.
    pub active: Timestamp,
    /// Since when it fires.
    pub firing: Option<Timestamp>,
    /// When it ended.
    pub resolved: Option<Timestamp>,
    /// Value of the expression.
    pub value: f64,
}

#[derive(Debug)]
struct Rule {
    rule: AlertRule,
    expression: Expression,
    hold: SignedDuration,
    alerts: BTreeMap<Labels, Alert>,
}

/// All rules and what they see.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

impl Rules {
    /// Adds a rule; refused when its expression is not understood.
    pub fn add(&mut self, rule: AlertRule) -> Result<(), PromqlError> {
        let expression = promql::parse(&rule.expr)?;
        let hold = SignedDuration::from_millis(promql::duration(&rule.hold).unwrap_or(0));
        self.rules.push(Rule { rule, expression, hold, alerts: BTreeMap::new() });
        Ok(())
    }

    /// Evaluates every rule, writes `ALERTS` and `ALERTS_FOR_STATE`, and gives what fires or just resolved.
    pub fn evaluate(&mut self, tsdb: &mut Tsdb, now: Timestamp) -> Vec<Alert> {
        let time = now.as_millisecond();
        let mut told = Vec::new();
        let mut states = Vec::new();
        for rule in &mut self.rules {
            let vector = match promql::evaluate(&rule.expression, tsdb, time) {
                Ok(Answer::Vector(vector)) => vector,
                Ok(Answer::Scalar(_)) => Vec::new(),
                Err(error) => {
                    tracing::warn!(alert = rule.rule.alert, %error, "alert rule not evaluated");
                    Vec::new()
                }
            };
            let mut seen = BTreeMap::new();
            for (mut labels, value) in vector {
                labels.remove("__name__");
                labels.extend(rule.rule.labels.clone());
                labels.insert("alertname".into(), rule.rule.alert.clone());
                let mut alert = rule.alerts.remove(&labels).unwrap_or_else(|| Alert {
                    labels: labels.clone(),
                    annotations: BTreeMap::new(),
                    active: now,
                    firing: None,
                    resolved: None,
                    value,
                });
                alert.value = value;
                alert.annotations = rule
                    .rule
                    .annotations
                    .iter()
                    .map(|(name, text)| (name.clone(), filled(text, &labels, value)))
                    .collect();
                if alert.firing.is_none() && now.duration_since(alert.active) >= rule.hold {
                    alert.firing = Some(now);
                }
                seen.insert(labels, alert);
            }
            for (_, mut gone) in std::mem::replace(&mut rule.alerts, seen) {
                if gone.firing.is_some() {
                    gone.resolved = Some(now);
                    told.push(gone);
                }
            }
            for alert in rule.alerts.values() {
                let mut labels: Vec<(&str, String)> =
                    alert.labels.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
                states.push(("ALERTS_FOR_STATE", labels.clone(), alert.active.as_second() as f64));
                let state = if alert.firing.is_some() { "firing" } else { "pending" };
                labels.push(("alertstate", state.to_owned()));
                labels.sort();
                states.push(("ALERTS", labels, 1.0));
                if alert.firing.is_some() {
                    told.push(alert.clone());
                }
            }
        }
        tsdb.scrape("rules", time, states.iter().map(|(name, labels, value)| (*name, labels.as_slice(), *value)));
        told
    }

    /// Active alerts, for `/api/v1/alerts`.
    pub fn active(&self) -> Vec<Value> {
        self.rules.iter().flat_map(|rule| rule.alerts.values().map(form)).collect()
    }

    /// Rules, for `/api/v1/rules`.
    pub fn listed(&self) -> Value {
        let rules: Vec<Value> = self
            .rules
            .iter()
            .map(|rule| {
                let alerts: Vec<Value> = rule.alerts.values().map(form).collect();
                let firing = rule.alerts.values().any(|alert| alert.firing.is_some());
                let state = if firing { "firing" } else if alerts.is_empty() { "inactive" } else { "pending" };
                json!({
                    "state": state, "name": rule.rule.alert, "query": rule.rule.expr, "duration": rule.hold.as_secs(),
                    "labels": rule.rule.labels, "annotations": rule.rule.annotations, "alerts": alerts, "health": "ok", "type": "alerting",
                })
            })
            .collect();
        json!({ "groups": [{ "name": "shop", "file": "shop.yaml", "interval": 10, "rules": rules }] })
    }
}

fn form(alert: &Alert) -> Value {
    json!({
        "labels": alert.labels, "annotations": alert.annotations, "state": if alert.firing.is_some() { "firing" } else { "pending" },
        "activeAt": alert.active, "value": alert.value.to_string(),
    })
}

fn filled(text: &str, labels: &Labels, value: f64) -> String {
    let mut filled = text.replace("{{ $value }}", &format!("{value:.3}"));
    for (name, value) in labels {
        filled = filled.replace(&format!("{{{{ $labels.{name} }}}}"), value);
    }
    filled
}

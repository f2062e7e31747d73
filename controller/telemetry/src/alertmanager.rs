//! Alertmanager: is an alert silenced or inhibited?
//!
//! <https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml>

mod silence;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use serde::Deserialize;

use self::silence::Silence;
use crate::alert::{AlertQuestion, Muting, QuietQuestion, Silencer};
use crate::connection::{Connection, clean};
use crate::egress::Egress;
use crate::promql::quoted;
use crate::source::{Asking, Source, SourceConfig, SourceError, Told};

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
        for silence in silences?.iter().filter(|silence| silence.is_active()) {
            if silence.covers(&question.name, &question.labels)? {
                by.push(silence.described());
            }
        }
        Ok(if by.is_empty() { Muting::Audible } else { Muting::Silenced { by } })
    }

    /// The silences that cover one of the workloads, or an alert about it that fires unheard.
    async fn quiet(&self, question: &QuietQuestion) -> Result<Vec<Silencer>, SourceError> {
        let silences: Vec<Silence> = self.connection.get("/api/v2/silences", &[]).await?;
        let mapping = &self.config.mapping;
        let mut by = BTreeSet::new();
        for entity in &question.about {
            let Some(known) = workload::labels_of(entity, mapping, &question.own) else { continue };
            for silence in silences.iter().filter(|silence| silence.is_active()) {
                if silence.covers_workload(&known)? {
                    by.insert(silence.id.clone());
                }
            }
        }
        let namespaces: BTreeSet<&str> = question.about.iter().map(|entity| entity.namespace.as_str()).collect();
        for namespace in namespaces.into_iter().filter(|namespace| !namespace.is_empty()) {
            for alert in self.unheard(namespace).await? {
                let about = |entity| workload::is_about(&alert.labels, entity, mapping, &question.own);
                let began_with_it = alert.starts_at.is_none_or(|at| at >= question.since);
                if began_with_it && question.about.iter().any(about) {
                    by.extend(alert.status.silenced_by);
                }
            }
        }
        let by: Vec<String> = by.into_iter().collect();
        Ok(described(&by, &silences))
    }

    /// Alerts of a namespace that fire and are silenced: no webhook tells of them.
    async fn unheard(&self, namespace: &str) -> Result<Vec<Alert>, SourceError> {
        let shown = [("silenced", "true"), ("active", "false"), ("inhibited", "false"), ("unprocessed", "false")];
        let mut parameters: Vec<(&str, String)> = shown.map(|(state, is)| (state, is.to_owned())).into();
        let label = &self.config.mapping.namespace;
        if !label.is_empty() {
            parameters.push(("filter", format!("{label}={}", quoted(namespace))));
        }
        self.connection.get("/api/v2/alerts", &parameters).await
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

    fn quiet<'a>(&'a self, question: &'a QuietQuestion) -> Asking<'a, Vec<Silencer>> {
        async move { Told::new("/api/v2/silences and /api/v2/alerts?silenced=true", self.quiet(question).await) }
            .boxed()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    starts_at: Option<Timestamp>,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
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
    fn a_silence_is_told_with_its_author_and_reason_and_by_its_id_where_they_are_not_known() {
        let json = serde_json::json!({"id": "s1", "status": {"state": "active"}, "matchers": [], "createdBy": "lena", "comment": "planned\nwork"});
        let known: Silence = serde_json::from_value(json).unwrap();
        let told = described(&["s1".to_owned(), "s2".to_owned()], &[known]);
        let shown: Vec<_> = told.iter().map(|one| (&*one.id, &*one.created_by, &*one.comment)).collect();
        assert_eq!(shown, [("s1", "lena", "planned work"), ("s2", "", "")]);
    }
}

//! Alerts that name nothing in the cluster, and the labels that would make them.
//!
//! The labels belong into the alerting rule and not into `alert_relabel_configs`: those change what Alertmanager hears, while
//! `ALERTS`, where Amend asks whether an alert still fires, stays without them.

use std::collections::{BTreeMap, BTreeSet};

use amend_controller::cluster::{self, Read};
use amend_diagnosis::align::shorter_names;
use amend_diagnosis::evidence::{Answer, Window};
use amend_diagnosis::signal::Signal;
use serde::Serialize;

use crate::connection::{Connection, plain};

/// An alert without an entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotAligned {
    pub alert: String,
    /// How many times it fired.
    pub count: usize,
    /// Labels that it carries, an example.
    pub labels: BTreeMap<String, String>,
    /// What to change.
    pub mend: String,
}

/// Names of workloads and Services, with their kind as the label is called and their namespaces.
type Names = BTreeMap<String, BTreeSet<(String, &'static str)>>;

/// Labels of the alert itself, which name nothing.
const OWN: [&str; 4] = ["alertname", "severity", "alertstate", "prometheus"];

/// One entry for each alert rule and set of label names.
pub async fn mended(connection: &Connection, alerts: &[Signal], window: Window) -> Vec<NotAligned> {
    if alerts.is_empty() {
        return Vec::new();
    }
    let mut names = Names::new();
    for (kind, label) in [
        ("Deployment", "deployment"),
        ("StatefulSet", "statefulset"),
        ("DaemonSet", "daemonset"),
        ("Service", "service"),
    ] {
        let Some(read) = Read::of_kind(kind) else { continue };
        // Without the right to list them all the advice is general.
        if let (Answer::Known(objects), _) = cluster::list(&connection.client, read, None, window).await {
            for object in objects {
                let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
                names.entry(part("name")).or_default().insert((part("namespace"), label));
            }
        }
    }
    grouped(alerts, &names)
}

fn grouped(alerts: &[Signal], names: &Names) -> Vec<NotAligned> {
    let mut found: BTreeMap<(String, String), NotAligned> = BTreeMap::new();
    for alert in alerts {
        let mend = mend(alert, names);
        found
            .entry((alert.name.clone(), mend.clone()))
            .or_insert_with(|| NotAligned {
                alert: plain(&alert.name),
                count: 0,
                labels: alert.labels.iter().map(|(name, value)| (plain(name), plain(value))).collect(),
                mend,
            })
            .count += 1;
    }
    let mut found: Vec<NotAligned> = found.into_values().collect();
    found.sort_by(|left, right| right.count.cmp(&left.count).then_with(|| left.alert.cmp(&right.alert)));
    found
}

/// The labels to add, from the first label whose value names one thing in the cluster.
fn mend(alert: &Signal, names: &Names) -> String {
    let namespace = alert.labels.get("namespace").map(String::as_str).filter(|one| !one.is_empty());
    let telling = alert.labels.iter().filter(|(name, _)| !OWN.contains(&name.as_str()));
    for (label, value) in telling.clone() {
        for candidate in candidates(value) {
            let Some(places) = names.get(&candidate) else { continue };
            // A workload is told before the Service in front of it; the kinds stand in that order.
            let fitting: Vec<&(String, &str)> =
                places.iter().filter(|(place, _)| namespace.is_none_or(|wanted| wanted == place)).collect();
            let spread: BTreeSet<&str> = fitting.iter().map(|(place, _)| place.as_str()).collect();
            let named = fitting.iter().find(|(_, kind)| *kind != "service").or(fitting.first());
            if let (1, Some((place, kind))) = (spread.len(), named) {
                // A value that is not the bare name would have to be cut, which a template can do but nobody should read.
                let told = match candidate == *value {
                    true => format!("\"{{{{ $labels.{label} }}}}\""),
                    false => candidate.clone(),
                };
                let place = if namespace.is_some() { String::new() } else { format!("namespace: {place}, ") };
                return format!("add to the labels of its rule: {{ {place}{kind}: {told} }}");
            }
        }
    }
    let known: Vec<&str> = telling.map(|(name, _)| name.as_str()).take(8).collect();
    let known = if known.is_empty() { "no label at all".to_owned() } else { known.join(", ") };
    let wanted = match namespace {
        Some(_) => "`pod` or the name of the workload (`deployment`, `statefulset`)",
        None => "`namespace` and `pod` (or `deployment`, `statefulset`)",
    };
    format!("keep {wanted} in its expression, as in sum by (namespace, pod) (...): it carries {}", plain(&known))
}

/// What a value may be called in the cluster: itself, its host, and what remains without pod hashes.
fn candidates(value: &str) -> Vec<String> {
    let bare = value.rsplit("://").next().unwrap_or(value);
    let host = bare.split(['/', ':']).next().unwrap_or(bare);
    let mut all = vec![value.to_owned(), host.to_owned()];
    all.extend(shorter_names(host).into_iter().map(str::to_owned));
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use amend_diagnosis::entity::{Entity, EntityKind};
    use amend_diagnosis::signal::{Severity, SignalSource};
    use jiff::Timestamp;

    use super::*;

    fn alert(labels: &[(&str, &str)]) -> Signal {
        Signal {
            key: String::new(),
            source: SignalSource::Alert,
            name: "Slow".to_owned(),
            entity: Entity::new(EntityKind::Unaligned, "", "x"),
            severity: Severity::Warning,
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: None,
            summary: String::new(),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            count: 1,
        }
    }

    fn names() -> Names {
        let both = |place: &str| BTreeSet::from([(place.to_owned(), "deployment"), (place.to_owned(), "service")]);
        let mut names = Names::from([("checkout".to_owned(), both("shop")), ("web".to_owned(), both("shop"))]);
        names.get_mut("web").unwrap().insert(("blog".to_owned(), "deployment"));
        names
    }

    #[test]
    fn a_label_that_names_a_workload_gives_the_labels_to_add() {
        let said = mend(&alert(&[("alertname", "Slow"), ("team_app", "checkout")]), &names());
        let wanted = r#"add to the labels of its rule: { namespace: shop, deployment: "{{ $labels.team_app }}" }"#;
        assert_eq!(said, wanted);
    }

    #[test]
    fn a_host_or_a_pod_name_is_cut_down_to_what_it_names() {
        for value in ["checkout.shop.svc:8080", "http://checkout.shop.svc/health", "checkout-5d8f7c9b6d-x2x4q"] {
            let said = mend(&alert(&[("instance", value)]), &names());
            assert!(said.ends_with("{ namespace: shop, deployment: checkout }"), "{value}: {said}");
        }
    }

    #[test]
    fn a_name_in_two_namespaces_is_not_guessed_unless_the_namespace_is_told() {
        let said = mend(&alert(&[("target", "web")]), &names());
        assert!(said.starts_with("keep `namespace` and `pod`"), "{said}");
        let said = mend(&alert(&[("namespace", "blog"), ("target", "web")]), &names());
        assert!(said.ends_with(r#"{ deployment: "{{ $labels.target }}" }"#), "{said}");
    }

    #[test]
    fn the_same_alert_is_listed_once_with_its_count() {
        let alerts = [alert(&[("job", "a")]), alert(&[("job", "b")]), alert(&[("instance", "checkout:80")])];
        let counts: Vec<usize> = grouped(&alerts, &names()).iter().map(|one| one.count).collect();
        assert_eq!(counts, [2, 1]);
    }
}

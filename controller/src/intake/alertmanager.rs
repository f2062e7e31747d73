//! Alertmanager's webhook, version 4: one message, many alerts.
//!
//! <https://prometheus.io/docs/alerting/latest/configuration/#webhook_config>

use std::collections::BTreeMap;

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::exporter::Exporter;
use super::untrusted::one_line;

/// What Alertmanager sends, as far as we read it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    version: String,
    /// Alerts that were left out because of the receiver's `max_alerts`.
    #[serde(default)]
    truncated_alerts: u64,
    alerts: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    status: String,
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    starts_at: Timestamp,
    #[serde(default)]
    ends_at: Option<Timestamp>,
    #[serde(default)]
    fingerprint: String,
}

/// What one message held.
#[derive(Debug, Default, PartialEq)]
pub struct Alerts {
    pub signals: Vec<Signal>,
    /// Why alerts were left out, one reason word for each.
    pub dropped: Vec<&'static str>,
    /// Alerts that Alertmanager left out.
    pub truncated: u64,
}

/// Why a message cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    #[error("this is not a message of Alertmanager's webhook: {why}")]
    Unreadable { why: String },
    #[error("Alertmanager's webhook version {version} is not known, only 4 is")]
    Version { version: String },
}

/// Labels that Prometheus adds when it sends an alert away.
///
/// They are absent inside Prometheus, so a query that asks for the alert again must not carry them.
pub const EXTERNAL_LABELS: [&str; 5] = ["cluster", "prometheus", "prometheus_replica", "replica", "monitor"];

/// How this cluster is called in alerts.
#[derive(Clone, Debug, Default)]
pub struct Naming {
    /// Value of the label `cluster` that means the cluster Amend runs in; `None`: there is only one.
    pub cluster: Option<String>,
    /// Further external labels of the Prometheus servers that watch this cluster, with the values that they have here.
    pub external: BTreeMap<String, String>,
}

impl Naming {
    /// Whether Prometheus adds `label` only on the way out.
    pub fn is_external(&self, label: &str) -> bool {
        EXTERNAL_LABELS.contains(&label) || self.external.contains_key(label)
    }

    /// Whether an alert names another cluster than ours: one Alertmanager may serve many. A label that it lacks says nothing.
    fn is_elsewhere(&self, labels: &BTreeMap<String, String>) -> bool {
        let differs = |name: &str, ours: &String| {
            let named = labels.get(&format!("exported_{name}")).or_else(|| labels.get(name));
            named.is_some_and(|named| !named.is_empty() && named != ours)
        };
        self.cluster.iter().any(|ours| differs("cluster", ours))
            || self.external.iter().any(|(name, ours)| differs(name, ours))
    }
}

/// Reads a message. One alert that makes no sense is left out and counted; the others are taken.
pub fn read(body: &[u8], naming: &Naming) -> Result<Alerts, MessageError> {
    let message: Message = serde_json::from_slice(body).map_err(unreadable)?;
    if message.version != "4" {
        return Err(MessageError::Version { version: one_line(&message.version, 16) });
    }
    let mut alerts = Alerts { truncated: message.truncated_alerts, ..Alerts::default() };
    for value in message.alerts {
        match serde_json::from_value(value).map_err(|_| "malformed").and_then(|alert| signal(alert, naming)) {
            Ok(signal) => alerts.signals.push(signal),
            Err(reason) => alerts.dropped.push(reason),
        }
    }
    Ok(alerts)
}

/// The signal of an alert that a store remembers as `ALERTS`: what the webhook would have brought, without annotations, which
/// are not kept there.
///
/// # Errors
/// One word for why the webhook would have left it out.
pub fn remembered(
    labels: BTreeMap<String, String>,
    from: Timestamp,
    to: Option<Timestamp>,
    naming: &Naming,
) -> Result<Signal, &'static str> {
    let status = if to.is_some() { "resolved" } else { "firing" }.to_owned();
    let fingerprint = String::new();
    signal(Alert { status, labels, annotations: BTreeMap::new(), starts_at: from, ends_at: to, fingerprint }, naming)
}

/// What the parser says, shown plainly: it may quote a part of the body.
fn unreadable(error: serde_json::Error) -> MessageError {
    MessageError::Unreadable { why: one_line(&error.to_string(), 160) }
}

fn signal(alert: Alert, naming: &Naming) -> Result<Signal, &'static str> {
    let Some(name) = alert.labels.get("alertname").map(|name| one_line(name, 128)).filter(|name| !name.is_empty())
    else {
        return Err("unnamed");
    };
    let severity = alert.labels.get("severity").map(|severity| severity.to_ascii_lowercase());
    // By convention (kube-prometheus): Watchdog and InfoInhibitor, which fire for ever and call nobody.
    if severity.as_deref() == Some("none") {
        return Err("heartbeat");
    }
    // What is in another cluster can neither be looked at nor mended from here, and a namespace of the same name is another one.
    if naming.is_elsewhere(&alert.labels) {
        return Err("other_cluster");
    }
    let ended_at = match alert.status.as_str() {
        "firing" => None,
        // Without a usable end, it ended when it began: the earliest that is consistent with "resolved".
        "resolved" => Some(alert.ends_at.filter(|end| *end >= alert.starts_at).unwrap_or(alert.starts_at)),
        _ => return Err("malformed"),
    };
    let annotation = |name: &str| alert.annotations.get(name).filter(|text| !text.is_empty());
    let summary = annotation("summary").or_else(|| annotation("message")).or_else(|| annotation("description"));
    Ok(Signal {
        key: key(&alert),
        source: SignalSource::Alert,
        name,
        entity: entity(&alert.labels),
        severity: severity.as_deref().map_or(Severity::Warning, severity_of),
        started_at: alert.starts_at,
        ended_at,
        summary: summary.map(|text| one_line(text, 400)).unwrap_or_default(),
        labels: kept_labels(&alert.labels),
        count: 1,
    })
}

/// The fingerprint is Alertmanager's own hash of the labels; ours when it sends none.
fn key(alert: &Alert) -> String {
    let given = &alert.fingerprint;
    if (8..=64).contains(&given.len()) && given.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return format!("alert/{}", given.to_ascii_lowercase());
    }
    let mut hash = Sha256::new();
    for (name, value) in &alert.labels {
        for part in [name, value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    format!("alert/{}", hex::encode(&hash.finalize()[..16]))
}

fn severity_of(word: &str) -> Severity {
    match word {
        "critical" | "page" | "error" | "fatal" | "high" | "emergency" | "crit" | "p1" => Severity::Critical,
        "info" | "information" | "informational" | "low" | "notice" | "debug" => Severity::Info,
        _ => Severity::Warning,
    }
}

/// The thing an alert is about, by the labels that kube-state-metrics, cAdvisor and common rules use.
///
/// `exported_*` wins: Prometheus renames a label so when the scraped target carries the same name itself. The label `job`
/// is Prometheus' scrape job and no Kubernetes Job (`job_name` is); it only serves as a last, unaligned name.
///
/// An exporter that tells about others leaves its own pod, Service and often namespace on the alert where the object has none: a
/// Node, a quota, an autoscaler. What it tells about comes first then, and its own names last.
fn entity(labels: &BTreeMap<String, String>) -> Entity {
    let label = |name: &str| {
        let value = labels.get(&format!("exported_{name}")).or_else(|| labels.get(name))?;
        let value = one_line(value, 253);
        (!value.is_empty()).then_some(value)
    };
    let workload_kind = match label("workload_type").unwrap_or_default().to_ascii_lowercase().as_str() {
        "deployment" => EntityKind::Deployment,
        "statefulset" => EntityKind::StatefulSet,
        "daemonset" => EntityKind::DaemonSet,
        "job" => EntityKind::Job,
        "cronjob" => EntityKind::CronJob,
        _ => EntityKind::Unaligned,
    };
    let namespaced = [
        ("deployment", EntityKind::Deployment),
        ("statefulset", EntityKind::StatefulSet),
        ("daemonset", EntityKind::DaemonSet),
        ("cronjob", EntityKind::CronJob),
        ("job_name", EntityKind::Job),
        ("workload", workload_kind),
        ("pod", EntityKind::Pod),
        ("replicaset", EntityKind::ReplicaSet),
        ("persistentvolumeclaim", EntityKind::PersistentVolumeClaim),
        ("service", EntityKind::Service),
        ("service_name", EntityKind::Unaligned),
        ("app", EntityKind::Unaligned),
    ];
    let namespace = label("namespace").or_else(|| label("kubernetes_namespace")).unwrap_or_default();
    let exporter = Exporter::of(labels);
    let told = |name: &str| label(name).filter(|value| exporter.is_none() || Exporter::named(value).is_none());
    let of = |told: &dyn Fn(&str) -> Option<String>| {
        namespaced.iter().find_map(|(name, kind)| Some((*kind, namespace.clone(), told(name)?)))
    };
    let about = of(&told).or_else(|| exporter?.told_about(&label, &namespace));
    let about_others = about.is_some();
    let (kind, namespace, name) = about
        // An alert about the exporter itself.
        .or_else(|| of(&label))
        .or_else(|| Some((EntityKind::Node, String::new(), label("node")?)))
        .or_else(|| (!namespace.is_empty()).then(|| (EntityKind::Namespace, String::new(), namespace.clone())))
        .unwrap_or_else(|| {
            let name = label("job").or_else(|| label("instance")).or_else(|| label("alertname"));
            (EntityKind::Unaligned, String::new(), name.unwrap_or_default())
        });
    let mut entity = Entity::new(kind, namespace, name);
    let runs_containers = !matches!(kind, EntityKind::Node | EntityKind::Namespace | EntityKind::PersistentVolumeClaim);
    // The pause container of a pod is called POD in cAdvisor's metrics.
    let container = if about_others { told("container") } else { label("container") };
    entity.container = container.filter(|name| runs_containers && name != "POD");
    entity
}

/// Bounds of a signal's labels, so that 64 signals fit into one object.
const LABELS_MAX: usize = 32;
const LABELS_BYTES_MAX: usize = 2560;

/// The labels as they may be shown: the names that say what the alert is about first, the rest while there is room.
fn kept_labels(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    const FIRST: [&str; 8] =
        ["alertname", "namespace", "pod", "container", "deployment", "service", "severity", "cluster"];
    let first = FIRST.iter().filter_map(|name| labels.get_key_value(*name));
    let rest = labels.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    let mut kept = BTreeMap::new();
    let mut room = LABELS_BYTES_MAX;
    for (name, value) in first.chain(rest) {
        let (name, value) = (one_line(name, 64), one_line(value, 253));
        let size = name.len() + value.len();
        if kept.len() < LABELS_MAX && size <= room {
            room -= size;
            kept.insert(name, value);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(alerts: serde_json::Value) -> Vec<u8> {
        json!({
            "version": "4", "groupKey": "{}:{alertname=\"Oom\"}", "truncatedAlerts": 2, "status": "firing", "receiver": "amend",
            "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {}, "externalURL": "http://am", "alerts": alerts,
        })
        .to_string()
        .into_bytes()
    }

    fn alert(labels: serde_json::Value) -> serde_json::Value {
        json!({
            "status": "firing", "labels": labels, "annotations": {"summary": "it breaks"},
            "startsAt": "2026-11-21T10:00:00.123Z", "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus/graph", "fingerprint": "c6eadffa33fcdf37",
        })
    }

    fn entity_of(labels: serde_json::Value) -> String {
        let mut labels = labels;
        labels["alertname"] = json!("A");
        let naming = Naming { cluster: Some("here".to_owned()), ..Naming::default() };
        read(&message(json!([alert(labels)])), &naming).unwrap().signals[0].entity.to_string()
    }

    #[test]
    fn a_firing_alert_becomes_a_signal_named_by_its_fingerprint() {
        let alerts = read(
            &message(json!([alert(json!({
                "alertname": "Oom", "severity": "critical", "namespace": "shop", "pod": "checkout-5d8", "container": "app"
            }))])),
            &Naming::default(),
        )
        .unwrap();
        let signal = &alerts.signals[0];
        assert_eq!(signal.key, "alert/c6eadffa33fcdf37");
        assert_eq!(signal.entity.to_string(), "shop/Pod/checkout-5d8[app]");
        assert_eq!(
            (signal.severity, signal.ended_at, signal.summary.as_str()),
            (Severity::Critical, None, "it breaks")
        );
        assert_eq!(alerts.truncated, 2);
    }

    #[test]
    fn a_resolved_alert_carries_its_end_and_never_ends_before_it_began() {
        let mut resolved = alert(json!({"alertname": "A"}));
        resolved["status"] = json!("resolved");
        resolved["endsAt"] = json!("2026-11-21T10:05:00Z");
        let mut odd = resolved.clone();
        odd["endsAt"] = json!("0001-01-01T00:00:00Z");
        let alerts = read(&message(json!([resolved, odd])), &Naming::default()).unwrap();
        assert_eq!(alerts.signals[0].ended_at, Some("2026-11-21T10:05:00Z".parse().unwrap()));
        assert_eq!(alerts.signals[1].ended_at, Some(alerts.signals[1].started_at));
    }

    #[test]
    fn the_most_specific_label_names_the_entity() {
        for (labels, expected) in [
            (
                json!({"namespace": "shop", "deployment": "checkout", "pod": "kube-state-metrics-1"}),
                "shop/Deployment/checkout",
            ),
            (
                json!({"namespace": "monitoring", "exported_namespace": "shop", "pod": "ksm", "exported_pod": "cart-0"}),
                "shop/Pod/cart-0",
            ),
            (json!({"namespace": "shop", "workload": "db", "workload_type": "statefulset"}), "shop/StatefulSet/db"),
            (json!({"namespace": "shop", "job": "kubelet", "job_name": "nightly"}), "shop/Job/nightly"),
            (json!({"namespace": "shop", "service": "frontend", "job": "frontend"}), "shop/Service/frontend"),
            (json!({"node": "worker-1", "container": "POD"}), "Node/worker-1"),
            (json!({"namespace": "shop"}), "Namespace/shop"),
            (json!({"job": "blackbox"}), "Unaligned/blackbox"),
            (json!({"namespace": "shop", "pod": "a", "container": "POD"}), "shop/Pod/a"),
            (json!({"cluster": "here", "namespace": "shop", "pod": "a"}), "shop/Pod/a"),
        ] {
            assert_eq!(entity_of(labels), expected);
        }
    }

    #[test]
    fn an_exporter_that_tells_about_others_is_not_what_its_alert_is_about() {
        // As kube-prometheus sends them: the exporter's own labels stand where the object has none.
        let with = |exporter: &str, more: serde_json::Value| {
            let mut labels = json!({
                "job": exporter, "container": exporter, "namespace": "monitoring", "instance": "10.0.0.5:9100",
                "pod": format!("kube-prometheus-stack-{exporter}-5d8f7c9b6d-x2x4q"), "service": format!("kps-{exporter}"),
            });
            for (name, value) in more.as_object().unwrap() {
                labels[name] = value.clone();
            }
            entity_of(labels)
        };
        for (labels, expected) in [
            (json!({"node": "worker-1", "condition": "Ready"}), "Node/worker-1"),
            (json!({"namespace": "shop", "resourcequota": "compute"}), "Namespace/shop"),
            (json!({"namespace": "shop", "horizontalpodautoscaler": "cart"}), "shop/Unaligned/cart"),
            (json!({"namespace": "shop", "deployment": "cart"}), "shop/Deployment/cart"),
            (json!({"namespace": "shop", "pod": "cart-0", "container": "app"}), "shop/Pod/cart-0[app]"),
            (json!({"namespace": "shop", "pod": "cart-0"}), "shop/Pod/cart-0"),
            (json!({"namespace": "shop", "persistentvolumeclaim": "data"}), "shop/PersistentVolumeClaim/data"),
            (json!({}), "monitoring/Pod/kube-prometheus-stack-kube-state-metrics-5d8f7c9b6d-x2x4q[kube-state-metrics]"),
        ] {
            assert_eq!(with("kube-state-metrics", labels.clone()), expected, "{labels}");
        }
        assert_eq!(with("node-exporter", json!({"device": "sda"})), "Unaligned/10.0.0.5");
        assert_eq!(with("node-exporter", json!({"instance": "worker-2:9100"})), "Node/worker-2");
        assert_eq!(with("node-exporter", json!({"nodename": "worker-3"})), "Node/worker-3");
    }

    #[test]
    fn one_senseless_alert_does_not_lose_the_others() {
        let mut timeless = alert(json!({"alertname": "A"}));
        timeless["startsAt"] = json!("yesterday");
        let alerts = read(
            &message(json!([
                timeless,
                7,
                alert(json!({})),
                alert(json!({"alertname": "Watchdog", "severity": "none"})),
                alert(json!({"alertname": "B"}))
            ])),
            &Naming::default(),
        )
        .unwrap();
        assert_eq!(alerts.dropped, ["malformed", "malformed", "unnamed", "heartbeat"]);
        assert_eq!(alerts.signals.len(), 1);
    }

    #[test]
    fn alerts_of_another_cluster_are_left_out_and_counted_where_ours_has_a_name() {
        let external = BTreeMap::from([("region".to_owned(), "eu".to_owned())]);
        let naming = Naming { cluster: Some("here".to_owned()), external };
        let labels = [
            json!({"alertname": "A", "namespace": "shop", "cluster": "there"}),
            json!({"alertname": "A", "namespace": "shop", "cluster": "here", "region": "us"}),
            json!({"alertname": "A", "namespace": "shop", "cluster": "here", "exported_cluster": "there"}),
            json!({"alertname": "A", "namespace": "shop", "cluster": "here", "region": "eu"}),
            json!({"alertname": "A", "namespace": "shop"}),
        ];
        let all: Vec<_> = labels.into_iter().map(alert).collect();
        let alerts = read(&message(json!(all)), &naming).unwrap();
        assert_eq!((alerts.signals.len(), alerts.dropped), (2, vec!["other_cluster"; 3]));
        assert_eq!(
            read(&message(json!(all)), &Naming::default()).unwrap().signals.len(),
            5,
            "without a name all are ours"
        );
    }

    #[test]
    fn hostile_labels_are_cleaned_and_bounded() {
        let mut labels = serde_json::Map::new();
        for number in 0..400 {
            labels.insert(format!("label{number}"), json!("x".repeat(1000)));
        }
        labels.insert("alertname".to_owned(), json!("\u{1b}[31mDis\u{202e}k<script>"));
        labels.insert("namespace".to_owned(), json!("shop\nINJECT"));
        let alerts = read(&message(json!([alert(labels.into())])), &Naming::default()).unwrap();
        let signal = &alerts.signals[0];
        assert_eq!(signal.name, "Disk<script>");
        assert_eq!(signal.labels["namespace"], "shop INJECT");
        assert!(serde_json::to_string(signal).unwrap().len() < 4096);
    }

    #[test]
    fn without_a_usable_fingerprint_the_labels_are_the_key() {
        let mut first = alert(json!({"alertname": "A", "pod": "a"}));
        first["fingerprint"] = json!("../../etc");
        let mut second = alert(json!({"alertname": "A", "pod": "b"}));
        second["fingerprint"] = json!("");
        let alerts = read(&message(json!([first, second])), &Naming::default()).unwrap();
        assert_ne!(alerts.signals[0].key, alerts.signals[1].key);
        assert!(alerts.signals[0].key.len() <= 128);
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let error = read(br#"{"version":"5","alerts":[]}"#, &Naming::default()).unwrap_err();
        assert_eq!(error.to_string(), "Alertmanager's webhook version 5 is not known, only 4 is");
    }

    #[test]
    fn external_labels_are_known_so_that_a_query_can_leave_them_out() {
        let naming = Naming { cluster: None, external: BTreeMap::from([("region".to_owned(), "eu".to_owned())]) };
        assert!(naming.is_external("cluster") && naming.is_external("region") && !naming.is_external("namespace"));
    }
}

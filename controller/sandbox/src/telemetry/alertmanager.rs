//! Alertmanager: groups, silences, and webhooks (v4) to a receiver.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use url::Url;

use super::promql::pattern;
use super::rules::Alert;
use super::tsdb::Labels;
use super::{fingerprint, post};
use crate::clock::SandboxClock;

/// Name of the one receiver.
const RECEIVER: &str = "amend";

/// Deliveries at once. The real one notifies every group on its own, with no bound but its connections.
const DELIVERIES_MAX: usize = 64;

/// How often a delivery is tried (real time between tries grows to a second).
const TRIES: u32 = 20;

/// How alerts become notifications.
#[derive(Clone, Debug)]
pub struct Routing {
    /// Labels that make a group; `...` alone: every alert is its own.
    pub group_by: Vec<String>,
    /// Wait before the first notification of a group.
    pub group_wait: SignedDuration,
    /// Wait between notifications of a group that changed.
    pub group_interval: SignedDuration,
    /// Wait before the same is said again.
    pub repeat_interval: SignedDuration,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            group_by: vec!["alertname".into(), "namespace".into()],
            group_wait: SignedDuration::from_secs(10),
            group_interval: SignedDuration::from_secs(30),
            repeat_interval: SignedDuration::from_hours(1),
        }
    }
}

/// A silence as the API takes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Silence {
    #[serde(default)]
    id: String,
    matchers: Vec<SilenceMatcher>,
    starts_at: Timestamp,
    ends_at: Timestamp,
    #[serde(default)]
    created_by: String,
    #[serde(default)]
    comment: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SilenceMatcher {
    name: String,
    value: String,
    #[serde(default)]
    is_regex: bool,
    #[serde(default = "yes")]
    is_equal: bool,
}

fn yes() -> bool {
    true
}

impl Silence {
    fn state(&self, now: Timestamp) -> &'static str {
        if now < self.starts_at {
            "pending"
        } else if now < self.ends_at {
            "active"
        } else {
            "expired"
        }
    }

    fn covers(&self, labels: &Labels, now: Timestamp) -> bool {
        self.state(now) == "active"
            && self.matchers.iter().all(|matcher| {
                let value = labels.get(&matcher.name).map(String::as_str).unwrap_or_default();
                let fits = if matcher.is_regex {
                    pattern(&matcher.value).is_ok_and(|pattern| pattern.is_match(value))
                } else {
                    value == matcher.value
                };
                fits == matcher.is_equal
            })
    }

    fn form(&self, now: Timestamp) -> Value {
        let mut form = json!(self);
        form["status"] = json!({ "state": self.state(now) });
        form["updatedAt"] = json!(self.starts_at);
        form
    }
}

#[derive(Debug)]
struct Group {
    created: Timestamp,
    notified: Option<(Timestamp, BTreeSet<String>, BTreeSet<String>)>,
}

#[derive(Debug, Default)]
struct Board {
    alerts: BTreeMap<String, Alert>,
    silences: BTreeMap<String, Silence>,
    groups: BTreeMap<Labels, Group>,
    routing: Routing,
    receiver: Option<(Url, String)>,
    url: String,
    made: u64,
}

/// The stand-in; cloning gives the same one.
#[derive(Clone, Debug)]
pub struct Alertmanager {
    board: Arc<Mutex<Board>>,
    clock: SandboxClock,
    outbox: mpsc::UnboundedSender<(Url, String, String)>,
}

impl Alertmanager {
    /// An Alertmanager without a receiver; its deliveries run in the background until it is dropped.
    pub fn new(clock: SandboxClock) -> Self {
        let (outbox, mail) = mpsc::unbounded_channel();
        tokio::spawn(deliver(mail));
        Self { board: Arc::default(), clock, outbox }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends webhooks there from now on, with this bearer token.
    pub fn set_receiver(&self, url: Url, bearer: &str) {
        self.board().receiver = Some((url, bearer.to_owned()));
    }

    /// Changes how alerts are grouped.
    pub fn set_routing(&self, routing: Routing) {
        self.board().routing = routing;
    }

    /// Tells it its own URL, for `externalURL`.
    pub fn set_url(&self, url: String) {
        self.board().url = url;
    }

    /// Silences alerts with exactly these labels, and gives the id.
    pub fn silence(&self, labels: &BTreeMap<String, String>, until: Timestamp) -> String {
        let now = self.clock.now();
        let matchers = labels
            .iter()
            .map(|(name, value)| SilenceMatcher {
                name: name.clone(),
                value: value.clone(),
                is_regex: false,
                is_equal: true,
            })
            .collect();
        self.keep(Silence {
            id: String::new(),
            matchers,
            starts_at: now,
            ends_at: until,
            created_by: "sandbox".into(),
            comment: String::new(),
        })
    }

    fn keep(&self, mut silence: Silence) -> String {
        let mut board = self.board();
        if silence.id.is_empty() {
            board.made += 1;
            silence.id = format!("{:08x}-0000-4000-8000-000000000000", board.made);
        }
        let id = silence.id.clone();
        board.silences.insert(id.clone(), silence);
        id
    }

    /// Takes what fires and what resolved, as Prometheus sends it.
    pub fn receive(&self, alerts: Vec<Alert>) {
        let mut board = self.board();
        for alert in alerts {
            board.alerts.insert(fingerprint(&alert.labels), alert);
        }
    }

    /// Alerts that fire and are not silenced.
    pub fn firing(&self) -> Vec<Labels> {
        let now = self.clock.now();
        let board = self.board();
        let open = board.alerts.values().filter(|alert| alert.resolved.is_none());
        open.filter(|alert| !board.silences.values().any(|silence| silence.covers(&alert.labels, now)))
            .map(|alert| alert.labels.clone())
            .collect()
    }

    /// Sends what is due.
    pub fn step(&self, now: Timestamp) {
        let mut board = self.board();
        let mut members: BTreeMap<Labels, Vec<(String, Alert)>> = BTreeMap::new();
        let by_all = board.routing.group_by.iter().any(|label| label == "...");
        for (id, alert) in &board.alerts {
            if board.silences.values().any(|silence| silence.covers(&alert.labels, now)) {
                continue;
            }
            let wanted = |label: &String| by_all || board.routing.group_by.contains(label);
            let key: Labels = alert
                .labels
                .iter()
                .filter(|(label, _)| wanted(label))
                .map(|(label, value)| (label.clone(), value.clone()))
                .collect();
            members.entry(key).or_default().push((id.clone(), alert.clone()));
        }
        board.groups.retain(|key, _| members.contains_key(key));
        let mut sent = Vec::new();
        for (key, alerts) in members {
            let routing = board.routing.clone();
            let group = board.groups.entry(key.clone()).or_insert(Group { created: now, notified: None });
            let ids = |resolved: bool| -> BTreeSet<String> {
                alerts
                    .iter()
                    .filter(|(_, alert)| alert.resolved.is_some() == resolved)
                    .map(|(id, _)| id.clone())
                    .collect()
            };
            let (firing, resolved) = (ids(false), ids(true));
            let due = match &group.notified {
                None => now.duration_since(group.created) >= routing.group_wait && !firing.is_empty(),
                Some((at, were_firing, were_resolved)) => {
                    let waited = now.duration_since(*at);
                    let changed = !firing.is_subset(were_firing) || !resolved.is_subset(were_resolved);
                    (changed && waited >= routing.group_interval)
                        || (!firing.is_empty() && waited >= routing.repeat_interval)
                }
            };
            if due {
                group.notified = Some((now, firing, resolved.clone()));
                sent.push(payload(&key, &alerts, &board.url));
            }
            // What is resolved and told (or was never told) is forgotten.
            let told = board
                .groups
                .get(&key)
                .and_then(|group| group.notified.as_ref())
                .is_none_or(|(_, _, told)| resolved.is_subset(told));
            if told {
                for id in &resolved {
                    board.alerts.remove(id);
                }
            }
        }
        if let Some((url, bearer)) = board.receiver.clone() {
            for body in sent {
                // The receiving task lives as long as this sender.
                let _ = self.outbox.send((url.clone(), bearer.clone(), body.to_string()));
            }
        }
    }

    /// Its HTTP interface.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/api/v2/alerts", get(list_alerts).post(post_alerts))
            .route("/api/v2/alerts/groups", get(|| async { Json(json!([])) }))
            .route("/api/v2/silences", get(list_silences).post(post_silence))
            .route("/api/v2/silence/{id}", get(one_silence).delete(end_silence))
            .route("/api/v2/receivers", get(|| async { Json(json!([{ "name": RECEIVER }])) }))
            .route("/api/v2/status", get(status))
            .route("/-/ready", get(|| async { "OK" }))
            .route("/-/healthy", get(|| async { "OK" }))
            .with_state(self.clone())
    }
}

fn payload(key: &Labels, alerts: &[(String, Alert)], url: &str) -> Value {
    let common = |pick: fn(&Alert) -> &BTreeMap<String, String>| -> BTreeMap<String, String> {
        let Some((_, first)) = alerts.first() else {
            return BTreeMap::new();
        };
        pick(first)
            .iter()
            .filter(|(name, value)| alerts.iter().all(|(_, other)| pick(other).get(*name) == Some(value)))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    let firing = alerts.iter().any(|(_, alert)| alert.resolved.is_none());
    let listed: Vec<Value> = alerts
        .iter()
        .map(|(id, alert)| {
            json!({
                "status": if alert.resolved.is_some() { "resolved" } else { "firing" }, "labels": alert.labels, "annotations": alert.annotations,
                "startsAt": alert.firing, "endsAt": alert.resolved.map_or_else(|| json!("0001-01-01T00:00:00Z"), |at| json!(at)),
                "generatorURL": "http://prometheus/graph", "fingerprint": id,
            })
        })
        .collect();
    let described: Vec<String> = key.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    json!({
        "version": "4", "groupKey": format!("{{}}:{{{}}}", described.join(", ")), "truncatedAlerts": 0,
        "status": if firing { "firing" } else { "resolved" }, "receiver": RECEIVER, "groupLabels": key,
        "commonLabels": common(|alert| &alert.labels), "commonAnnotations": common(|alert| &alert.annotations),
        "externalURL": url, "alerts": listed,
    })
}

async fn deliver(mut mail: mpsc::UnboundedReceiver<(Url, String, String)>) {
    let slots = Arc::new(tokio::sync::Semaphore::new(DELIVERIES_MAX));
    while let Some((url, bearer, body)) = mail.recv().await {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        tokio::spawn(async move {
            let _slot = slot;
            for turn in 1..=TRIES {
                match post::json(
                    &url,
                    Some(&bearer).filter(|bearer| !bearer.is_empty()).map(String::as_str),
                    body.clone(),
                )
                .await
                {
                    Ok(code) if code < 500 && code != 429 => {
                        if code >= 300 {
                            tracing::warn!(code, %url, "the alert receiver refuses the webhook");
                        }
                        return;
                    }
                    _ => {
                        tokio::time::sleep(Duration::from_millis(u64::from(turn) * 50).min(Duration::from_secs(1)))
                            .await
                    }
                }
            }
            tracing::warn!(%url, "the alert receiver took no webhook");
        });
    }
}

async fn list_alerts(State(manager): State<Alertmanager>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let now = manager.clock.now();
    let board = manager.board();
    let flag = |name: &str| !query.iter().any(|(key, value)| key == name && value == "false");
    let filters: Result<Vec<_>, _> = query
        .iter()
        .filter(|(key, _)| key == "filter")
        .map(|(_, text)| super::promql::parse(&format!("{{{}}}", text.trim_matches(['{', '}']))))
        .collect();
    let Ok(filters) = filters else {
        return (StatusCode::BAD_REQUEST, Json(json!("bad matcher format"))).into_response();
    };
    let rows: Vec<Value> = board
        .alerts
        .iter()
        .filter(|(_, alert)| alert.resolved.is_none())
        .filter(|(_, alert)| filters.iter().all(|filter| matches!(filter, super::promql::Expression::Instant(matchers) if matchers.iter().all(|matcher| matcher.fits(&alert.labels)))))
        .filter_map(|(id, alert)| {
            let silenced: Vec<&String> = board.silences.iter().filter(|(_, silence)| silence.covers(&alert.labels, now)).map(|(id, _)| id).collect();
            let state = if silenced.is_empty() { "active" } else { "suppressed" };
            let shown = if silenced.is_empty() { flag("active") } else { flag("silenced") };
            shown.then(|| {
                json!({
                    "labels": alert.labels, "annotations": alert.annotations, "startsAt": alert.firing, "updatedAt": now,
                    "endsAt": now.checked_add(SignedDuration::from_mins(4)).unwrap_or(now), "fingerprint": id, "generatorURL": "",
                    "receivers": [{ "name": RECEIVER }], "status": { "state": state, "silencedBy": silenced, "inhibitedBy": [], "mutedBy": [] },
                })
            })
        })
        .collect();
    Json(Value::Array(rows)).into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Posted {
    labels: Labels,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    starts_at: Option<Timestamp>,
    ends_at: Option<Timestamp>,
}

async fn post_alerts(State(manager): State<Alertmanager>, Json(alerts): Json<Vec<Posted>>) -> StatusCode {
    let now = manager.clock.now();
    let alerts = alerts.into_iter().map(|posted| Alert {
        labels: posted.labels,
        annotations: posted.annotations,
        active: posted.starts_at.unwrap_or(now),
        firing: Some(posted.starts_at.unwrap_or(now)),
        resolved: posted.ends_at.filter(|end| *end <= now),
        value: 1.0,
    });
    manager.receive(alerts.collect());
    StatusCode::OK
}

async fn list_silences(State(manager): State<Alertmanager>) -> Json<Value> {
    let now = manager.clock.now();
    let forms = manager.board().silences.values().map(|silence| silence.form(now)).collect();
    Json(Value::Array(forms))
}

async fn post_silence(State(manager): State<Alertmanager>, Json(silence): Json<Silence>) -> Response {
    if silence.matchers.is_empty() || silence.ends_at <= silence.starts_at {
        return (StatusCode::BAD_REQUEST, Json(json!("invalid silence"))).into_response();
    }
    Json(json!({ "silenceID": manager.keep(silence) })).into_response()
}

async fn one_silence(State(manager): State<Alertmanager>, Path(id): Path<String>) -> Response {
    let now = manager.clock.now();
    match manager.board().silences.get(&id) {
        Some(silence) => Json(silence.form(now)).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn end_silence(State(manager): State<Alertmanager>, Path(id): Path<String>) -> StatusCode {
    let now = manager.clock.now();
    match manager.board().silences.get_mut(&id) {
        Some(silence) => {
            silence.ends_at = now;
            StatusCode::OK
        }
        None => StatusCode::NOT_FOUND,
    }
}

async fn status(State(manager): State<Alertmanager>) -> Json<Value> {
    Json(json!({
        "cluster": { "status": "disabled", "peers": [] }, "uptime": manager.clock.now(),
        "versionInfo": { "version": "0.31.1+sandbox", "branch": "", "revision": "", "buildUser": "", "buildDate": "", "goVersion": "" },
        "config": { "original": format!("route: {{ receiver: {RECEIVER} }}") },
    }))
}

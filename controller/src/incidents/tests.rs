//! Storing batches of signals, against an API server that keeps nothing and notes what it is asked.

use std::sync::{Mutex, PoisonError};

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::signal::{Severity, SignalSource};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, Uri};
use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::settings::Settings;
use crate::time::WallClock;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

type Requests = Arc<Mutex<Vec<(Method, String)>>>;

/// Empty lists, namespaces with a UID, and every object back as it was written.
async fn answer(State(requests): State<Requests>, method: Method, uri: Uri, body: Bytes) -> Json<Value> {
    let path = uri.path().to_owned();
    requests.lock().unwrap_or_else(PoisonError::into_inner).push((method.clone(), path.clone()));
    let is_namespace = path.split('/').count() == 5 && path.starts_with("/api/v1/namespaces/");
    Json(match method {
        Method::GET if is_namespace => {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "amend-system", "uid": "install"}})
        }
        Method::GET => json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": []}),
        _ => {
            let mut object: Value = serde_json::from_slice(&body).unwrap_or_default();
            object["metadata"]["uid"] = json!("uid");
            object["metadata"]["resourceVersion"] = json!("1");
            object
        }
    })
}

async fn incidents() -> (Incidents, Requests) {
    let requests = Requests::default();
    let app = axum::Router::new().fallback(answer).with_state(requests.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let settings = Line::parse_from(["amend"]).settings;
    let config = kube::Config::new(url.parse().unwrap());
    let shell = crate::runtime::shell(settings, config, Arc::new(WallClock)).await.unwrap();
    requests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    (Incidents::new(shell), requests)
}

fn storm(now: Timestamp) -> Vec<Signal> {
    let signal = |number: usize| Signal {
        key: format!("alert/{number}"),
        source: SignalSource::Alert,
        name: format!("RouteErrorRatio{number}"),
        entity: Entity::new(EntityKind::Deployment, "shop", "checkout"),
        severity: Severity::Warning,
        started_at: now,
        ended_at: None,
        summary: String::new(),
        labels: BTreeMap::new(),
        count: 1,
    };
    (0..500).map(signal).collect()
}

#[tokio::test]
async fn a_storm_is_one_look_at_its_namespace_and_one_incident_that_counts_all() {
    let (incidents, requests) = incidents().await;
    let now = incidents.shell.time.now();

    incidents.store(storm(now)).await.unwrap();

    let asked = requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let count = |wanted: Method, ends: &str| {
        asked.iter().filter(|(method, path)| *method == wanted && path.ends_with(ends)).count()
    };
    assert_eq!(count(Method::GET, "/namespaces/shop/pods"), 1, "one look for all of them");
    assert_eq!(count(Method::POST, "/incidents"), 1, "{asked:?}");
    assert_eq!(count(Method::PUT, "/status"), 2, "the first status and the one with the whole storm");
    let open = incidents.open.lock().await;
    let statuses: Vec<_> = open.incidents.values().filter_map(|incident| incident.status.clone()).collect();
    assert_eq!(statuses.iter().map(|status| status.signal_count).collect::<Vec<_>>(), [500]);
    let kept = statuses[0].signals.len() as u32;
    assert_eq!(kept + statuses[0].signals_not_kept, 500, "what has no room is counted");
}

#[tokio::test]
async fn a_second_batch_of_the_same_storm_opens_nothing() {
    let (incidents, requests) = incidents().await;
    let now = incidents.shell.time.now();
    incidents.store(storm(now)).await.unwrap();

    incidents.store(storm(now)).await.unwrap();

    let asked = requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let opened = asked.iter().filter(|(method, path)| *method == Method::POST && path.ends_with("/incidents"));
    assert_eq!(opened.count(), 1);
}

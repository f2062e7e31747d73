//! Storing batches of signals, against an API server that keeps the last status of an incident and notes what it is asked.

use std::sync::{Mutex, PoisonError};

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::signal::{Severity, SignalSource};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
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

/// Status writes that are refused because somebody else wrote first, and the phase that the incident then has.
#[derive(Clone, Debug, Default)]
struct Rival {
    writes: Arc<Mutex<usize>>,
    leaves: Option<&'static str>,
    /// How the API server refuses to create an incident of a name: code and message.
    refuses: Vec<(String, u16, &'static str)>,
    /// The incident as it was last written.
    written: Arc<Mutex<Option<Value>>>,
}

impl Rival {
    fn status(&self) -> IncidentStatus {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::from_value(written.as_ref().unwrap()["status"].clone()).unwrap()
    }
}

/// Empty lists, namespaces with a UID, and every object back as it was written.
async fn answer(
    State((requests, rival)): State<(Requests, Rival)>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Result<Json<Value>, (StatusCode, Json<Value>)> {
    let path = uri.path().to_owned();
    requests.lock().unwrap_or_else(PoisonError::into_inner).push((method.clone(), path.clone()));
    if method == Method::PUT {
        let mut left = rival.writes.lock().unwrap_or_else(PoisonError::into_inner);
        if *left > 0 {
            *left -= 1;
            let status =
                json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409, "message": ""});
            return Err((StatusCode::CONFLICT, Json(status)));
        }
    }
    let created = if method == Method::POST { String::from_utf8_lossy(&body).into_owned() } else { String::new() };
    if let Some((_, code, message)) = rival.refuses.iter().find(|(name, ..)| created.contains(name.as_str())) {
        let status = json!({"kind": "Status", "status": "Failure", "reason": "", "code": code, "message": message});
        return Err((StatusCode::from_u16(*code).unwrap(), Json(status)));
    }
    if let (&Method::GET, Some((_, name))) = (&method, path.split_once("/incidents/")) {
        let written = rival.written.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let left = || as_left(name, rival.leaves.unwrap_or("Diagnosing"));
        return Ok(Json(written.filter(|_| rival.leaves.is_none()).unwrap_or_else(left)));
    }
    let is_namespace = path.split('/').count() == 5 && path.starts_with("/api/v1/namespaces/");
    Ok(Json(match method {
        Method::GET if is_namespace => {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "amend-system", "uid": "install"}})
        }
        Method::GET => json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": []}),
        _ => {
            let mut object: Value = serde_json::from_slice(&body).unwrap_or_default();
            object["metadata"]["uid"] = json!("uid");
            object["metadata"]["resourceVersion"] = json!("1");
            if method == Method::PUT {
                *rival.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(object.clone());
            }
            object
        }
    }))
}

/// An incident as its controller has left it meanwhile.
fn as_left(name: &str, phase: &str) -> Value {
    let storm = storm(Timestamp::UNIX_EPOCH);
    let mut incident = promised(&storm[0], "shop", 1, Timestamp::UNIX_EPOCH);
    incident.metadata.name = Some(name.to_owned());
    let mut object = serde_json::to_value(incident).unwrap();
    object["metadata"]["uid"] = json!("uid");
    object["metadata"]["resourceVersion"] = json!("2");
    object["status"]["phase"] = json!(phase);
    object
}

async fn incidents() -> (Incidents, Requests, Rival) {
    let rival = Rival::default();
    let (incidents, requests) = incidents_beside(rival.clone()).await;
    (incidents, requests, rival)
}

async fn incidents_beside(rival: Rival) -> (Incidents, Requests) {
    let requests = Requests::default();
    let app = axum::Router::new().fallback(answer).with_state((requests.clone(), rival));
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
    let (incidents, requests, server) = incidents().await;
    let now = incidents.shell.time.now();

    let mut storm = storm(now);
    storm[499].severity = Severity::Critical;
    incidents.store(storm).await.unwrap();

    let asked = requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let count = |wanted: Method, ends: &str| {
        asked.iter().filter(|(method, path)| *method == wanted && path.ends_with(ends)).count()
    };
    assert_eq!(count(Method::GET, "/namespaces/shop/pods"), 1, "one look for all of them");
    assert_eq!(count(Method::POST, "/incidents"), 1, "{asked:?}");
    assert_eq!(count(Method::PUT, "/status"), 1, "one write with the whole storm");
    assert_eq!(incidents.open.lock().await.incidents.len(), 1);
    let status = server.status();
    assert_eq!(status.signal_count, 500);
    assert_eq!(status.signals.len() as u32 + status.signals_not_kept, 500, "what has no room is counted");
    assert_eq!(status.severity, Some(Severity::Critical), "the last of them was the gravest, and had no room");
}

#[tokio::test]
async fn a_second_batch_of_the_same_storm_opens_nothing() {
    let (incidents, requests, server) = incidents().await;
    let now = incidents.shell.time.now();
    incidents.store(storm(now)).await.unwrap();
    let diagnosed = json!("what its controller wrote meanwhile");
    server.written.lock().unwrap_or_else(PoisonError::into_inner).as_mut().unwrap()["status"]["because"] = diagnosed;

    incidents.store(storm(now)).await.unwrap();

    let asked = requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let opened = asked.iter().filter(|(method, path)| *method == Method::POST && path.ends_with("/incidents"));
    assert_eq!(opened.count(), 1);
    let kept = asked.iter().filter(|(method, path)| *method == Method::PUT && path.ends_with("/status")).count();
    assert_eq!(kept, 2, "what the first had room for is only counted; what it had not is asked about again");
    assert_eq!(server.status().because, "what its controller wrote meanwhile", "nothing of it is written over");
}

#[tokio::test]
async fn signals_reach_an_incident_that_its_controller_writes_all_the_time() {
    let rival = Rival { writes: Arc::new(Mutex::new(9)), ..Rival::default() };
    let (incidents, requests) = incidents_beside(rival.clone()).await;
    let now = incidents.shell.time.now();

    incidents.store(storm(now)).await.unwrap();

    let asked = requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let lists = asked.iter().filter(|(method, path)| *method == Method::GET && path.ends_with("/incidents"));
    assert_eq!(lists.count(), 1, "one incident's newer version is no reason to read all of them again");
    let status = rival.status();
    assert_eq!(status.signal_count, 500, "each counted once");
    assert_eq!(status.phase, IncidentPhase::Diagnosing, "what its controller wrote stays");
}

#[tokio::test]
async fn signals_whose_incident_always_ends_first_are_not_said_to_be_stored() {
    let rival = Rival { writes: Arc::new(Mutex::new(usize::MAX)), leaves: Some("Dropped"), ..Rival::default() };
    let (incidents, _) = incidents_beside(rival).await;
    let now = incidents.shell.time.now();

    let stored = incidents.store(storm(now)).await;

    assert!(matches!(stored, Err(StoreError::Unavailable { .. })), "{stored:?}");
}

#[tokio::test]
async fn a_signal_that_the_cluster_cannot_keep_is_refused_for_good_and_keeps_no_other_from_being_stored() {
    for (code, message, for_good) in [
        (404, r#"namespaces "elsewhere" not found"#, true),
        (404, "the server could not find the requested resource", false),
        (
            403,
            "incidents is forbidden: unable to create new content in namespace x because it is being terminated",
            true,
        ),
        (403, r#"incidents.amend.dev is forbidden: User "amend" cannot create resource "incidents""#, false),
        (422, "Incident is invalid", true),
        (400, "bad request", true),
        (503, "the API server is overloaded", false),
    ] {
        let now = Timestamp::UNIX_EPOCH;
        let good = storm(now).swap_remove(0);
        let bad =
            Signal { key: "alert/bad".into(), entity: Entity::new(EntityKind::Node, "", "worker-1"), ..good.clone() };
        let rival = Rival { refuses: vec![(name_for(&bad, 1), code, message)], ..Rival::default() };
        let (incidents, _) = incidents_beside(rival.clone()).await;

        let stored = incidents.store(vec![bad.clone(), good]).await;

        match for_good {
            true => assert!(matches!(stored, Err(StoreError::Refused { .. })), "{message}: {stored:?}"),
            false => assert!(matches!(stored, Err(StoreError::Unavailable { .. })), "{message}: {stored:?}"),
        }
        assert_eq!(rival.status().signal_count, 1, "{message}: the good one is stored");
    }
}

#[tokio::test]
async fn what_fires_already_is_counted_a_moment_later_and_an_end_is_written_at_once() {
    let (incidents, requests, server) = incidents().await;
    let now = incidents.shell.time.now();
    let some = storm(now).split_off(490);
    let writes = || {
        let asked = requests.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|(method, _)| *method == Method::PUT).count()
    };
    incidents.store(some.clone()).await.unwrap();
    incidents.store(some.clone()).await.unwrap();
    incidents.store(some.clone()).await.unwrap();
    assert_eq!(writes(), 1, "repeats cost no write of their own");

    assert_eq!(incidents.write_repeats().await, 10);
    assert!(incidents.open.lock().await.counting, "the same task looks once more before it ends");
    assert_eq!(incidents.write_repeats().await, 0, "counted once");
    assert!(!incidents.open.lock().await.counting);
    let counts = || {
        let status = server.status();
        (status.signal_count, status.signals.iter().map(|signal| signal.count).max().unwrap_or_default())
    };
    assert_eq!((writes(), counts()), (2, (30, 3)));

    let over = Signal { ended_at: Some(now), ..some[0].clone() };
    incidents.store(vec![over]).await.unwrap();
    assert_eq!((writes(), counts().0), (3, 31));
}

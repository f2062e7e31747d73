//! The whole world, stepped: a release breaks the shop, a commit heals it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use amend_sandbox::scenario::{Edit, Release};
use amend_sandbox::telemetry::promql::Answer;
use amend_sandbox::{SandboxClock, Scenario, World};
use jiff::SignedDuration;
use serde_json::Value;

async fn world(name: &str) -> World {
    let clock = SandboxClock::stepped("2026-03-02T09:00:00Z".parse().unwrap());
    World::start(Scenario::named(name).unwrap(), clock, &[]).await.unwrap()
}

fn value(world: &World, query: &str) -> Option<f64> {
    match world.with_telemetry(|telemetry| telemetry.query(query)).unwrap() {
        Answer::Scalar(value) => Some(value),
        Answer::Vector(vector) => vector.first().map(|(_, value)| *value),
    }
}

fn firing(world: &World) -> Vec<(String, String)> {
    let mut firing: Vec<(String, String)> = world
        .with_telemetry(|telemetry| telemetry.alertmanager().firing())
        .into_iter()
        .map(|labels| {
            let of = |name: &str| labels.get(name).cloned();
            (of("alertname").unwrap(), of("service").or_else(|| of("pod")).unwrap())
        })
        .collect();
    firing.sort();
    firing
}

fn limit(to: &str) -> Release {
    Release {
        message: format!("checkout: limit {to}"),
        author: "reviewer".into(),
        edits: vec![Edit {
            path: "apps/shop/checkout.yaml".into(),
            from: "memory: 256Mi".into(),
            to: format!("memory: {to}"),
        }],
    }
}

const ERRORS: &str = "sum(rate(http_requests_total{service=\"checkout\",code=~\"5..\"}[2m])) / sum(rate(http_requests_total{service=\"checkout\"}[2m]))";

type Inbox = Arc<Mutex<Vec<Value>>>;

async fn receiver() -> (url::Url, Inbox, tokio::task::JoinHandle<()>) {
    let inbox = Inbox::default();
    let router = axum::Router::new()
        .route(
            "/hook",
            axum::routing::post(
                |axum::extract::State(inbox): axum::extract::State<Inbox>,
                 headers: http::HeaderMap,
                 axum::Json(body): axum::Json<Value>| async move {
                    assert_eq!(headers["authorization"], "Bearer secret");
                    inbox.lock().unwrap().push(body);
                },
            ),
        )
        .with_state(inbox.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap()).parse().unwrap();
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, inbox, task)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_oom_after_a_release_fires_alerts_and_a_raised_limit_heals_it() {
    let begun = Instant::now();
    let world = world("oom").await;
    eprintln!("world made in {:?}, {} samples", begun.elapsed(), world.with_telemetry(|t| t.samples()));
    let (url, inbox, _task) = receiver().await;
    world.set_alert_receiver(url, "secret");
    assert!(value(&world, ERRORS).unwrap() < 0.02, "the shop is well before");
    assert_eq!(firing(&world), []);
    let store = world.api().store();
    let history = || {
        let kustomization = store.get("kustomizations.kustomize.toolkit.fluxcd.io", "flux-system", "shop").unwrap();
        kustomization["status"]["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["metadata"]["revision"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(history().len(), 2);

    let guilty = world.trigger().unwrap().remove(0);
    world.advance(SignedDuration::from_mins(8)).await;
    assert_eq!(history()[0], format!("main@sha1:{guilty}"));
    let now = firing(&world);
    eprintln!("errors {:?} firing {now:?} after {:?}", value(&world, ERRORS), begun.elapsed());
    assert!(now.contains(&("HighErrorRatio".into(), "checkout".into())), "{now:?}");
    assert!(now.contains(&("HighErrorRatio".into(), "frontend".into())), "{now:?}");
    assert!(now.iter().any(|(name, pod)| name == "ContainerOOMKilled" && pod.starts_with("checkout-")), "{now:?}");
    assert!(now.iter().all(|(_, of)| of.starts_with("checkout") || of == "frontend"), "{now:?}");
    until("webhooks arrive", || {
        inbox.lock().unwrap().iter().any(|hook| hook["version"] == "4" && hook["status"] == "firing")
    })
    .await;
    let killed = store
        .list("pods", Some("shop"))
        .into_iter()
        .find(|pod| pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "OOMKilled")
        .unwrap();
    assert!(killed["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap() > 0);
    assert!(store.list("events", Some("shop")).iter().any(|event| event["reason"] == "BackOff"));

    world.commit(&limit("384Mi")).unwrap();
    world.advance(SignedDuration::from_mins(14)).await;
    let deployment = store.get("deployments.apps", "shop", "checkout").unwrap();
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"], "384Mi");
    assert_eq!(deployment["status"]["availableReplicas"], 3);
    assert_eq!(deployment["status"]["updatedReplicas"], 3);
    assert!(value(&world, ERRORS).unwrap() < 0.02);
    assert_eq!(firing(&world), []);
    until("the end is told", || inbox.lock().unwrap().iter().any(|hook| hook["status"] == "resolved")).await;
    eprintln!("done in {:?}", begun.elapsed());
}

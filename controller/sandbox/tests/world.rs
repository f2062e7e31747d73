//! The whole world, stepped: a release breaks the shop, a commit heals it.
#![allow(clippy::unwrap_used, clippy::panic)]

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

#[tokio::test]
async fn a_bad_release_is_healed_by_reverting_it_alone() {
    let world = world("bad-release").await;
    let pushed = world.trigger().unwrap();
    assert_eq!(pushed.len(), 2);
    world.advance(SignedDuration::from_mins(6)).await;
    let now = firing(&world);
    assert!(now.contains(&("HighErrorRatio".into(), "payment".into())), "{now:?}");
    assert!(now.contains(&("HighErrorRatio".into(), "checkout".into())), "{now:?}");
    assert!(now.iter().all(|(_, of)| of != "catalog"), "{now:?}");
    let back = |service: &str, from: &str, to: &str| Edit {
        path: format!("apps/shop/{service}.yaml"),
        from: format!("{service}:{from}"),
        to: format!("{service}:{to}"),
    };
    let revert = |edit| Release { message: "revert".into(), author: "reviewer".into(), edits: vec![edit] };
    world.commit(&revert(back("catalog", "v2.3.2", "v2.3.1"))).unwrap();
    world.advance(SignedDuration::from_mins(5)).await;
    assert!(firing(&world).contains(&("HighErrorRatio".into(), "payment".into())), "the innocent one cures nothing");
    world.commit(&revert(back("payment", "v3.2.0", "v3.1.4"))).unwrap();
    world.advance(SignedDuration::from_mins(6)).await;
    assert_eq!(firing(&world), []);
}

#[tokio::test]
async fn the_bad_fix_does_measurable_harm_and_taking_it_back_ends_the_harm() {
    let world = world("bad-fix").await;
    world.trigger().unwrap();
    world.advance(SignedDuration::from_mins(10)).await;
    let before = value(&world, ERRORS).unwrap();
    world.commit(&limit("384Mi")).unwrap();
    world.advance(SignedDuration::from_mins(6)).await;
    let worse = value(&world, ERRORS).unwrap();
    assert!(worse > before + 0.15 && worse > 0.6, "{before} then {worse}");
    let back = Release {
        message: "revert".into(),
        author: "reviewer".into(),
        edits: vec![Edit {
            path: "apps/shop/checkout.yaml".into(),
            from: "memory: 384Mi".into(),
            to: "memory: 256Mi".into(),
        }],
    };
    world.commit(&back).unwrap();
    world.advance(SignedDuration::from_mins(8)).await;
    let after = value(&world, ERRORS).unwrap();
    assert!(after < worse - 0.15, "{worse} then {after}");
}

#[tokio::test]
async fn the_placebo_makes_symptoms_vanish_for_a_while_only() {
    let world = world("placebo").await;
    world.trigger().unwrap();
    world.advance(SignedDuration::from_mins(13)).await;
    let killed = |world: &World| firing(world).iter().any(|(name, _)| name == "ContainerOOMKilled");
    assert!(killed(&world), "{:?}", firing(&world));
    world.commit(&limit("384Mi")).unwrap();
    world.advance(SignedDuration::from_mins(6)).await;
    assert_eq!(firing(&world), [], "new pods are well");
    world.advance(SignedDuration::from_mins(6)).await;
    assert!(killed(&world), "and are killed again");
}

#[tokio::test]
async fn the_flood_is_five_hundred_alerts_at_once() {
    let world = world("flood").await;
    world.trigger().unwrap();
    world.advance(SignedDuration::from_mins(4)).await;
    let routes = firing(&world).iter().filter(|(name, _)| name == "RouteErrorRatio").count();
    assert_eq!(routes, 500);
}

#[tokio::test]
async fn a_cut_telemetry_answers_nobody_and_mended_answers_again() {
    let world = world("no-data").await;
    let url = world.endpoints().prometheus;
    let address = url.trim_start_matches("http://").to_owned();
    world.with_telemetry(|telemetry| telemetry.cut());
    let asked = address.clone();
    assert!(!tokio::task::spawn_blocking(move || ready(&asked)).await.unwrap());
    world.with_telemetry(|telemetry| telemetry.mend());
    assert!(tokio::task::spawn_blocking(move || ready(&address)).await.unwrap());
}

fn ready(address: &str) -> bool {
    use std::io::{Read, Write};
    let mut answer = String::new();
    let Ok(mut stream) = std::net::TcpStream::connect(address) else {
        return false;
    };
    // A cut server closes at once; then nothing is read.
    let _ = stream.write_all(b"GET /-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let _ = stream.read_to_string(&mut answer);
    answer.contains("Ready")
}

#[tokio::test]
async fn a_rollout_alone_fires_no_alert_whatever_the_seed() {
    for seed in [1, 2, 3, 7, 99] {
        // The release of this story is well for eight minutes after each start.
        let mut scenario = Scenario::named("placebo").unwrap();
        (scenario.seed, scenario.graph.seed) = (seed, seed);
        let clock = SandboxClock::stepped("2026-03-02T09:00:00Z".parse().unwrap());
        let world = World::start(scenario, clock, &[]).await.unwrap();
        world.trigger().unwrap();
        for minute in 1..=7 {
            world.advance(SignedDuration::from_mins(1)).await;
            assert_eq!(firing(&world), [], "seed {seed}, minute {minute}");
        }
    }
}

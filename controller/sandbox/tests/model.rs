//! The workload model alone: same seed, same world; manifests decide, nothing else.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use amend_sandbox::Scenario;
use amend_sandbox::model::graph::{Need, ServiceGraph, Version};
use amend_sandbox::model::seen::Seen;
use amend_sandbox::model::{Model, State};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

fn start() -> Timestamp {
    "2026-03-02T09:00:00Z".parse().unwrap()
}

fn pod(service: &str, number: usize, tag: &str, limit: &str) -> Value {
    json!({
        "metadata": { "uid": format!("{service}-{number}"), "namespace": "shop", "name": format!("{service}-{number}"),
            "labels": { "app": service }, "creationTimestamp": start().to_string() },
        "spec": { "nodeName": "node-1", "containers": [{ "name": "app", "image": format!("registry.example/{service}:{tag}"),
            "resources": { "limits": { "memory": limit } } }] },
    })
}

/// The shop with `checkout` at this tag and limit.
fn shop(tag: &str, limit: &str) -> Vec<Value> {
    let mut pods = Vec::new();
    for service in Scenario::oom().graph.services.keys() {
        for number in 0..2 {
            pods.push(match service.as_str() {
                "checkout" => pod(service, number, tag, limit),
                other => pod(other, number, "v1", "512Mi"),
            });
        }
    }
    pods
}

struct Run {
    model: Model,
    now: Timestamp,
}

impl Run {
    fn of(graph: ServiceGraph) -> Self {
        Self { model: Model::new(graph, start()), now: start() }
    }

    /// Runs for so long, and gives the errors of a service per request in that time.
    fn errors(&mut self, pods: &[Value], minutes: i64, service: &str) -> f64 {
        let count = |model: &Model| -> (f64, f64) {
            let samples = model.scrape();
            let of = samples
                .iter()
                .filter(|s| s.name == "http_requests_total" && s.labels.contains(&("service", service.to_owned())));
            of.fold((0.0, 0.0), |(all, bad), sample| {
                let failed = sample.labels.iter().any(|(name, value)| *name == "code" && value.starts_with('5'));
                (all + sample.value, bad + if failed { sample.value } else { 0.0 })
            })
        };
        let mut sums = (0.0, 0.0);
        let mut before = count(&self.model);
        for _ in 0..minutes * 30 {
            self.step(pods);
            let after = count(&self.model);
            if after.0 >= before.0 {
                sums = (sums.0 + after.0 - before.0, sums.1 + after.1 - before.1);
            }
            before = after;
        }
        sums.1 / sums.0.max(1.0)
    }

    fn step(&mut self, pods: &[Value]) -> amend_sandbox::model::Step {
        self.now = self.now.checked_add(SignedDuration::from_secs(2)).unwrap();
        self.model.step(self.now, Seen::read(pods.iter(), std::iter::empty()))
    }

    fn restarts(&self) -> f64 {
        self.model
            .scrape()
            .iter()
            .filter(|sample| sample.name == "kube_pod_container_status_restarts_total")
            .map(|sample| sample.value)
            .sum()
    }
}

#[test]
fn the_same_seed_gives_the_same_world_and_another_seed_another() {
    let run = |seed: u64| {
        let mut graph = Scenario::oom().graph;
        graph.seed = seed;
        let mut run = Run::of(graph);
        run.errors(&shop("v1.9.0", "256Mi"), 10, "checkout");
        run.model.scrape()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn too_small_a_limit_kills_and_a_larger_one_heals() {
    let mut run = Run::of(Scenario::oom().graph);
    let sick = run.errors(&shop("v1.9.0", "256Mi"), 15, "checkout");
    let killed = run.restarts();
    assert!(sick > 0.1 && killed > 4.0, "errors {sick}, restarts {killed}");
    // A rollout makes new pods.
    let mut healed = shop("v1.9.0", "384Mi");
    healed
        .iter_mut()
        .for_each(|pod| pod["metadata"]["uid"] = json!(format!("{}-new", pod["metadata"]["uid"].as_str().unwrap())));
    run.errors(&healed, 2, "checkout");
    let well = run.errors(&healed, 15, "checkout");
    assert!(well < 0.02 && run.restarts() == 0.0, "errors {well}, restarts {}", run.restarts());
}

#[test]
fn errors_of_a_callee_reach_its_caller_and_no_one_else() {
    let mut run = Run::of(Scenario::oom().graph);
    let frontend = run.errors(&shop("v1.9.0", "256Mi"), 10, "frontend");
    assert!(frontend > 0.04, "frontend {frontend}");
    let catalog = run.errors(&shop("v1.9.0", "256Mi"), 5, "catalog");
    assert!(catalog < 0.02, "catalog {catalog}");
}

#[test]
fn a_leak_kills_later_with_a_larger_limit_but_kills() {
    let kills_within = |limit: &str, minutes: i64| {
        let mut graph = Scenario::oom().graph;
        let leak = Version { memory_mib: 150.0, leak_mib_per_minute: 10.0, ..Version::default() };
        graph.services.get_mut("checkout").unwrap().versions.insert("leaks".into(), leak);
        let mut run = Run::of(graph);
        run.errors(&shop("leaks", limit), minutes, "checkout");
        run.restarts() > 0.0
    };
    assert!(kills_within("256Mi", 14));
    assert!(!kills_within("512Mi", 14));
    assert!(kills_within("512Mi", 42));
}

#[test]
fn a_missing_key_a_missing_image_and_a_missing_node_keep_a_container_waiting() {
    let reason = |version: Version, pods: &[Value]| {
        let mut graph = Scenario::oom().graph;
        graph.services.get_mut("checkout").unwrap().versions.insert("x".into(), version);
        let mut run = Run::of(graph);
        let mut last = BTreeMap::new();
        for _ in 0..10 {
            last = run.step(pods).containers;
        }
        match &last["checkout-0"].state {
            State::Waiting { reason, .. } => (*reason).to_owned(),
            State::Running { .. } => "Running".to_owned(),
        }
    };
    let pods = [pod("checkout", 0, "x", "256Mi")];
    assert_eq!(reason(Version::default(), &pods), "Running");
    assert_eq!(reason(Version { missing_image: true, ..Version::default() }, &pods), "ImagePullBackOff");
    assert_eq!(reason(Version { crashes: true, ..Version::default() }, &pods), "CrashLoopBackOff");
    let need = Need { config_map: "shop-config".into(), key: "url".into(), one_of: vec![], error_ratio: 0.5 };
    assert_eq!(reason(Version { needs: vec![need], ..Version::default() }, &pods), "CreateContainerConfigError");
    let mut homeless = pod("checkout", 0, "x", "256Mi");
    homeless["spec"]["nodeName"] = Value::Null;
    assert_eq!(reason(Version::default(), &[homeless]), "ContainerCreating");
}

//! The workload model: how the application behaves, given nothing but the live objects.
//!
//! Pure and seeded: same graph, same objects, same steps, same world. It never writes; the sandbox's kubelet (or KWOK stages) and
//! telemetry stores (or real ones) carry out and keep what it says. A cure works only by changing manifests.
//!
//! ```text
//! pods, config maps --> Model::step(now, dt) --> container states, log lines, traces
//!                       Model::scrape()      --> samples, under Prometheus names
//! ```

pub mod chance;
mod container;
pub mod graph;
mod scrape;
pub mod seen;
mod trace;
mod traffic;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use chance::Chance;
use container::Life;
pub use container::{Container, Ended, State};
use graph::ServiceGraph;
pub use scrape::{Sample, exposition};
use seen::Seen;
pub use trace::Span;
use traffic::Counters;

/// One log line and the labels of its stream.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// When.
    pub at: Timestamp,
    /// `namespace`, `pod`, `container`, `app`.
    pub labels: BTreeMap<String, String>,
    /// Text, one line.
    pub line: String,
}

/// What happened in a step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// What the status of each pod's container should say, by pod uid.
    pub containers: BTreeMap<String, Container>,
    /// Spans of sampled requests.
    pub spans: Vec<Span>,
    /// Log lines.
    pub logs: Vec<LogLine>,
}

/// The application over time.
#[derive(Clone, Debug)]
pub struct Model {
    graph: ServiceGraph,
    chance: Chance,
    lives: BTreeMap<String, Life>,
    counters: BTreeMap<String, Counters>,
    seen: Seen,
    now: Timestamp,
    quiet: bool,
}

impl Model {
    /// A model of this application at this time.
    pub fn new(graph: ServiceGraph, now: Timestamp) -> Self {
        let chance = Chance::new(graph.seed);
        Self {
            graph,
            chance,
            lives: BTreeMap::new(),
            counters: BTreeMap::new(),
            seen: Seen::default(),
            now,
            quiet: false,
        }
    }

    /// The application that is modelled.
    pub fn graph(&self) -> &ServiceGraph {
        &self.graph
    }

    /// From now on the application behaves otherwise, for a reason outside the cluster: its network, its users.
    pub fn set_graph(&mut self, graph: ServiceGraph) {
        self.graph = graph;
    }

    /// Leaves out traces and all but few log lines, for cheap history.
    pub fn set_quiet(&mut self, quiet: bool) {
        self.quiet = quiet;
    }

    /// Lets the application run until `now`, as these objects are.
    ///
    /// Steps of 1 to 10 s are meant; a longer one is one long moment.
    pub fn step(&mut self, now: Timestamp, seen: Seen) -> Step {
        let elapsed = now.duration_since(self.now);
        let seconds = elapsed.max(SignedDuration::ZERO).as_secs_f64();
        self.now = now;
        self.seen = seen;
        let mut step = Step::default();
        self.live(&mut step);
        let health = self.health();
        self.serve(seconds, &health, &mut step);
        if !self.quiet {
            self.sample_requests(seconds, &health, &mut step);
            step.logs.sort_by_key(|line| line.at);
        }
        for pod in &self.seen.pods {
            if let Some(life) = self.lives.get(&pod.uid) {
                step.containers.insert(pod.uid.clone(), life.shown.clone());
            }
        }
        step
    }

    fn live(&mut self, step: &mut Step) {
        let present: std::collections::BTreeSet<&str> = self.seen.pods.iter().map(|pod| pod.uid.as_str()).collect();
        self.lives.retain(|uid, _| present.contains(uid.as_str()));
        self.counters.retain(|uid, _| present.contains(uid.as_str()));
        for pod in &self.seen.pods {
            let Some(service) = self.graph.services.get(&pod.service) else {
                continue;
            };
            let version = service.version(pod.tag());
            let life = self.lives.entry(pod.uid.clone()).or_insert_with(Life::new);
            match &pod.told {
                Some(told) => life.follow(self.now, told, pod, version),
                None => life.step(self.now, pod, version, &self.seen, self.graph.max_backoff_seconds, &mut self.chance),
            }
            if life.started_in_step {
                let line = format!("level=info msg=\"{} {} started\" route={}", pod.service, pod.tag(), service.route);
                step.logs.push(log(self.now, pod, line));
                if version.crashes {
                    step.logs.push(log(self.now, pod, format!("level=fatal msg=\"{}\"", version.error_message)));
                }
            }
        }
    }
}

fn log(at: Timestamp, pod: &seen::SeenPod, line: String) -> LogLine {
    let labels =
        [("namespace", &pod.namespace), ("pod", &pod.name), ("container", &pod.container), ("app", &pod.service)];
    LogLine { at, labels: labels.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect(), line }
}

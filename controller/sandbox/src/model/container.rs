//! The life of one container: pulling, starting, running, killed, waiting to be tried again.

use jiff::{SignedDuration, Timestamp};

use super::chance::Chance;
use super::graph::{Need, Version};
use super::seen::{Seen, SeenPod};

pub const MIB: f64 = 1024.0 * 1024.0;

/// Back-off is forgotten when a container has run this long, as the kubelet does.
const FORGIVEN_AFTER: f64 = 600.0;

/// Working set at the start, before anything is loaded.
const COLD_MIB: f64 = 35.0;

/// A state that the container is to show.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Not running, with the reason that Kubernetes shows.
    Waiting {
        /// `ContainerCreating`, `CrashLoopBackOff`, `ImagePullBackOff`, `CreateContainerConfigError` ...
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// Running since then.
    Running {
        /// Start of this attempt.
        since: Timestamp,
    },
}

/// How the container last ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// `OOMKilled` or `Error`.
    pub reason: &'static str,
    /// Exit code.
    pub exit_code: i64,
    /// When that attempt began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
}

/// What the status of a pod's container should say.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// State now.
    pub state: State,
    /// Whether it answers requests.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// How it last ended.
    pub last: Option<Ended>,
}

/// A container over time.
#[derive(Clone, Debug)]
pub struct Life {
    /// What the status should say.
    pub shown: Container,
    /// Bytes in use.
    pub working_set: f64,
    /// CPU seconds used.
    pub cpu_seconds: f64,
    /// Periods of 100 ms in which it had no CPU left to use.
    pub throttled_periods: f64,
    /// Requests per second that it got lately.
    pub rate: f64,
    backoff: f64,
    retry_at: Option<Timestamp>,
    pace: f64,
    surge_at: f64,
    /// Whether it was ever ready: before that, nobody misses it.
    pub has_served: bool,
    pub killed_in_step: bool,
    pub started_in_step: bool,
}

impl Life {
    pub fn new() -> Self {
        Self {
            shown: Container {
                state: State::Waiting { reason: "ContainerCreating", message: String::new() },
                ready: false,
                restarts: 0,
                last: None,
            },
            working_set: 0.0,
            cpu_seconds: 0.0,
            throttled_periods: 0.0,
            rate: 0.0,
            backoff: 0.0,
            retry_at: None,
            pace: 1.0,
            surge_at: f64::INFINITY,
            has_served: false,
            killed_in_step: false,
            started_in_step: false,
        }
    }

    /// Moves on to `now`.
    pub fn step(
        &mut self,
        now: Timestamp,
        pod: &SeenPod,
        version: &Version,
        seen: &Seen,
        max_backoff: f64,
        chance: &mut Chance,
    ) {
        (self.killed_in_step, self.started_in_step) = (false, false);
        if pod.node.is_none() {
            self.wait("ContainerCreating", String::new());
            return;
        }
        match self.shown.state {
            State::Waiting { .. } => self.try_start(now, pod, version, seen, max_backoff, chance),
            State::Running { since } => self.run(now, since, pod, version, max_backoff),
        }
    }

    /// Takes over what the cluster itself says of the container; only what it says nothing of (memory) is modelled.
    pub fn follow(&mut self, now: Timestamp, told: &Container, pod: &SeenPod, version: &Version) {
        let ended = |container: &Container| container.last.as_ref().map(|last| last.finished);
        self.killed_in_step = told.last.is_some() && ended(told) != ended(&self.shown);
        self.started_in_step = matches!(told.state, State::Running { .. }) && self.shown.state != told.state;
        if self.started_in_step {
            // When it is killed is said by the cluster; so there is no chance in when it wants more.
            self.surge_at = version.surge.as_ref().map_or(f64::INFINITY, |surge| surge.after_seconds);
        }
        self.shown = told.clone();
        self.has_served |= told.ready;
        self.working_set = match told.state {
            State::Waiting { .. } => 0.0,
            State::Running { since } => {
                let need = self.need(now.duration_since(since).as_secs_f64().max(0.0), version);
                pod.memory_limit.map_or(need, |limit| need.min(limit))
            }
        };
    }

    fn wait(&mut self, reason: &'static str, message: String) {
        self.working_set = 0.0;
        self.shown.ready = false;
        self.shown.state = State::Waiting { reason, message };
    }

    fn try_start(
        &mut self,
        now: Timestamp,
        pod: &SeenPod,
        version: &Version,
        seen: &Seen,
        max_backoff: f64,
        chance: &mut Chance,
    ) {
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        if version.missing_image {
            // The kubelet alternates; the back-off is what people mostly see.
            let message = format!("Back-off pulling image \"{}\": ErrImagePull: {}: not found", pod.image, pod.image);
            self.wait("ImagePullBackOff", message);
            self.retry_at = after(now, 20.0);
            return;
        }
        if let Some(message) = missing_key(pod, &version.needs, seen) {
            self.wait("CreateContainerConfigError", message);
            self.retry_at = after(now, 5.0);
            return;
        }
        if now.duration_since(pod.created).as_secs_f64() < 2.0 {
            self.wait("ContainerCreating", String::new());
            return;
        }
        if self.shown.last.is_some() {
            self.shown.restarts += 1;
        }
        self.started_in_step = true;
        self.retry_at = None;
        self.pace = chance.between(0.75, 1.35);
        self.surge_at = version
            .surge
            .as_ref()
            .map_or(f64::INFINITY, |surge| surge.after_seconds * (1.0 + surge.jitter * chance.between(-1.0, 1.0)));
        self.shown.state = State::Running { since: now };
        self.working_set = COLD_MIB.min(version.memory_mib) * MIB;
        if version.crashes {
            self.end(now, now, "Error", 1, max_backoff);
        }
    }

    fn run(&mut self, now: Timestamp, since: Timestamp, pod: &SeenPod, version: &Version, max_backoff: f64) {
        let age = now.duration_since(since).as_secs_f64();
        if age > FORGIVEN_AFTER {
            self.backoff = 0.0;
        }
        let need = self.need(age, version);
        match pod.memory_limit {
            Some(limit) if need > limit => {
                self.working_set = limit;
                self.end(now, since, "OOMKilled", 137, max_backoff);
            }
            _ => {
                self.working_set = need;
                self.shown.ready = age >= version.start_seconds * self.pace;
                self.has_served |= self.shown.ready;
            }
        }
    }

    /// Bytes that a container of this age wants.
    fn need(&self, age: f64, version: &Version) -> f64 {
        let warm = 1.0 - (-3.0 * age / (version.warm_up_seconds * self.pace).max(1.0)).exp();
        let cold = COLD_MIB.min(version.memory_mib);
        let mut need = cold + (version.memory_mib - cold) * warm + version.leak_mib_per_minute * age / 60.0;
        if let Some(surge) = &version.surge
            && age >= self.surge_at
        {
            need = need.max(surge.memory_mib);
        }
        need * MIB
    }

    fn end(&mut self, now: Timestamp, since: Timestamp, reason: &'static str, exit_code: i64, max_backoff: f64) {
        self.killed_in_step = true;
        self.shown.last = Some(Ended { reason, exit_code, started: since, finished: now });
        // The first restart is at once; then 10 s, doubled each time (kubelet's CrashLoopBackOff).
        let wait = self.backoff;
        self.backoff = if wait == 0.0 { 10.0 } else { (wait * 2.0).min(max_backoff) };
        self.retry_at = after(now, wait);
        self.wait("CrashLoopBackOff", format!("back-off {wait:.0}s restarting failed container"));
    }
}

fn after(now: Timestamp, seconds: f64) -> Option<Timestamp> {
    SignedDuration::try_from_secs_f64(seconds).ok().and_then(|by| now.checked_add(by).ok())
}

/// What the kubelet says when a key is not there.
fn missing_key(pod: &SeenPod, needs: &[Need], seen: &Seen) -> Option<String> {
    let named = pod.config_keys.iter().filter(|(_, _, optional)| !optional).map(|(map, key, _)| (map, key));
    let needed = needs.iter().map(|need| (&need.config_map, &need.key));
    for (map, key) in named.chain(needed) {
        match seen.config_map(pod, map) {
            None => return Some(format!("configmap \"{map}\" not found")),
            Some(data) if !data.contains_key(key) => {
                return Some(format!("couldn't find key {key} in ConfigMap {}/{map}", pod.namespace));
            }
            Some(_) => {}
        }
    }
    None
}

/// Error ratio that wrong values cause.
pub fn wrong_config(pod: &SeenPod, needs: &[Need], seen: &Seen) -> f64 {
    needs
        .iter()
        .filter(|need| {
            let value = seen.config_map(pod, &need.config_map).and_then(|map| map.get(&need.key));
            !need.one_of.is_empty() && value.is_some_and(|value| !need.one_of.contains(value))
        })
        .map(|need| need.error_ratio)
        .fold(0.0, f64::max)
}

//! Requests: how many, how slow, how many fail, and how that travels from callee to caller.

use std::collections::BTreeMap;

use super::container::{MIB, wrong_config};
use super::graph::Service;
use super::seen::SeenPod;
use super::{Model, Step, log};

/// Upper bounds of the latency histogram, in seconds.
pub const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Spread of a log-normal latency around its median; 0.45 puts p99 at 2.8 times the median.
const SPREAD: f64 = 0.45;

/// How long a caller waits for an answer that the network has lost.
pub const LOST_SECONDS: f64 = 1.0;

/// CPU seconds per second of own work.
const CPU_SHARE: f64 = 0.15;

/// CPU that a container uses when nobody asks it anything, in cores.
const CPU_IDLE: f64 = 0.02;

/// What one pod has counted since it came to be.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Requests by route (empty where routes are not told apart) and status code.
    pub requests: BTreeMap<(String, &'static str), f64>,
    /// Cumulative counts of [`BUCKETS`], then of everything.
    pub buckets: [f64; BUCKETS.len() + 1],
    /// Seconds spent.
    pub sum: f64,
}

/// How a service does at this moment.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Requests per second that reach it.
    pub rate: f64,
    /// Share that fails by its own fault.
    pub own_errors: f64,
    /// Share that fails because of somebody it asks.
    pub passed_on: f64,
    /// Share that never reaches a ready pod.
    pub unreachable: f64,
    /// Median seconds of its own work.
    pub own_latency: f64,
    /// The same, if it had all the CPU that it wants.
    pub unthrottled: f64,
    /// Median seconds with everything it asks.
    pub latency: f64,
}

impl Health {
    /// Share that fails as a caller sees it.
    pub fn failing(&self) -> f64 {
        1.0 - (1.0 - self.own_errors) * (1.0 - self.passed_on) * (1.0 - self.unreachable)
    }
}

impl Model {
    /// Health of every service, callees before callers.
    pub(super) fn health(&mut self) -> BTreeMap<String, Health> {
        let order = self.callees_first();
        let mut health: BTreeMap<String, Health> = BTreeMap::new();
        for name in &order {
            let mut own = self.own_health(name);
            let service = &self.graph.services[name];
            own.latency = own.own_latency;
            let mut passes = 1.0;
            for call in &service.calls {
                if let Some(callee) = health.get(&call.to) {
                    let arrive = (1.0 - callee.failing().min(1.0)) * (1.0 - call.lost.min(1.0));
                    passes *= arrive.powf(call.per_request);
                    own.latency += (callee.latency + call.lost * LOST_SECONDS) * call.per_request;
                }
            }
            own.passed_on = 1.0 - passes;
            health.insert(name.clone(), own);
        }
        let wave = (self.now.as_second() as f64 / 900.0).sin();
        let swing = 1.0 + 0.06 * wave + 0.02 * self.chance.normal();
        for name in order.iter().rev() {
            let service = &self.graph.services[name];
            let from_outside = service.rate * swing;
            let rate = health.get(name).map_or(0.0, |own| own.rate) + from_outside;
            for call in &service.calls {
                if let Some(callee) = health.get_mut(&call.to) {
                    callee.rate += rate * call.per_request * (1.0 - call.lost.min(1.0));
                }
            }
            if let Some(own) = health.get_mut(name) {
                own.rate = rate;
            }
        }
        health
    }

    fn callees_first(&self) -> Vec<String> {
        fn visit(model: &Model, name: &str, order: &mut Vec<String>, path: &mut Vec<String>) {
            if order.iter().any(|done| done == name) || path.iter().any(|on| on == name) {
                return;
            }
            path.push(name.to_owned());
            if let Some(service) = model.graph.services.get(name) {
                for call in &service.calls {
                    visit(model, &call.to, order, path);
                }
                order.push(name.to_owned());
            }
            path.pop();
        }
        let mut order = Vec::new();
        for name in self.graph.services.keys() {
            visit(self, name, &mut order, &mut Vec::new());
        }
        order
    }

    /// The error ratio that a pod has for a reason of its own.
    pub(super) fn sickness(&self, service: &str, pod: &SeenPod) -> Option<f64> {
        let sick = self.graph.services.get(service)?.sick_pods.as_ref()?;
        let of_service = self.seen.pods.iter().filter(|other| other.service == service);
        (of_service.filter(|other| other.name < pod.name).count() < sick.count).then_some(sick.error_ratio)
    }

    /// Share of a pod's requests that fails by its own fault: where single pods are sick, each has its own.
    pub(super) fn own_errors(&self, service: &str, pod: &SeenPod, own: &Health) -> f64 {
        let Some(known) = self.graph.services.get(service).filter(|known| known.sick_pods.is_some()) else {
            return own.own_errors;
        };
        self.sickness(service, pod).unwrap_or_else(|| known.version(pod.tag()).error_ratio)
    }

    fn own_health(&mut self, name: &str) -> Health {
        let service = &self.graph.services[name];
        let pods: Vec<_> = self.seen.pods.iter().filter(|pod| pod.service == name).collect();
        let lives: Vec<_> = pods.iter().filter_map(|pod| self.lives.get(&pod.uid).map(|life| (*pod, life))).collect();
        let ready = lives.iter().filter(|(_, life)| life.shown.ready).count();
        if ready == 0 {
            return Health { unreachable: 1.0, own_latency: service.latency_ms / 1000.0, ..Health::default() };
        }
        // A pod that a rollout adds takes nothing away until it has served once.
        let relied_on = lives.iter().filter(|(_, life)| life.has_served).count();
        let missing = 1.0 - ready as f64 / relied_on.max(ready) as f64;
        let (mut errors, mut work, mut latency) = (0.0, 0.0, 0.0);
        for (pod, life) in lives.iter().filter(|(_, life)| life.shown.ready) {
            let version = service.version(pod.tag());
            let generous = version
                .oversized
                .as_ref()
                .filter(|over| pod.memory_limit.is_some_and(|limit| limit > over.above_mib * MIB));
            let (base, factor) = generous
                .map_or((version.error_ratio, version.latency_factor), |over| (over.error_ratio, over.latency_factor));
            let base = self.sickness(name, pod).unwrap_or(base);
            let base = 1.0 - (1.0 - base) * (1.0 - failing_operations(service));
            let pressure = pod.memory_limit.map_or(0.0, |limit| life.working_set / limit);
            // Close to its limit a runtime collects garbage all the time.
            let squeezed = ((pressure - 0.9) / 0.1).clamp(0.0, 1.0);
            errors +=
                1.0 - (1.0 - base) * (1.0 - 0.25 * squeezed) * (1.0 - wrong_config(pod, &version.needs, &self.seen));
            let unthrottled = service.latency_ms / 1000.0 * factor * (1.0 + 1.5 * squeezed);
            // The rate of a moment ago is near enough, and known before that of now.
            let wanted = CPU_IDLE + life.rate * unthrottled * CPU_SHARE;
            let throttled = pod.cpu_limit.map_or(1.0, |limit| (wanted / limit.max(1e-3)).clamp(1.0, 30.0));
            work += unthrottled;
            latency += unthrottled * throttled + version.waits_seconds;
        }
        let killed = lives.iter().filter(|(_, life)| life.killed_in_step).count() as f64 / relied_on.max(ready) as f64;
        // The pods that are left take more than their share: some requests time out.
        let overload = (0.7 * missing + 0.3 * killed).min(0.8);
        Health {
            own_errors: 1.0 - (1.0 - errors / ready as f64) * (1.0 - overload),
            unreachable: 0.15 * missing,
            own_latency: latency / ready as f64 * (1.0 + missing),
            unthrottled: work / ready as f64,
            ..Health::default()
        }
    }

    /// Counts this step's requests on every ready pod.
    pub(super) fn serve(&mut self, seconds: f64, health: &BTreeMap<String, Health>, step: &mut Step) {
        for (name, own) in health {
            let service = &self.graph.services[name];
            let pods: Vec<_> = self.seen.pods.iter().filter(|pod| pod.service == *name).collect();
            let serving: Vec<_> = pods
                .iter()
                .filter(|pod| self.lives.get(&pod.uid).is_some_and(|life| life.shown.ready || life.killed_in_step))
                .collect();
            let share = own.rate * (1.0 - own.unreachable) * seconds / serving.len().max(1) as f64;
            for pod in serving {
                let noisy = (share * (1.0 + 0.05 * self.chance.normal())).max(0.0);
                let total = self.chance.whole(noisy);
                if let Some(life) = self.lives.get_mut(&pod.uid) {
                    life.rate = share / seconds.max(1e-9);
                }
                let own_errors = self.own_errors(name, pod, own);
                let own_failed = self.chance.whole(total * own_errors).min(total);
                let passed_on = self.chance.whole((total - own_failed) * own.passed_on).min(total - own_failed);
                let counters = self.counters.entry(pod.uid.clone()).or_default();
                for (code, count) in [("200", total - own_failed - passed_on), ("500", own_failed), ("503", passed_on)]
                {
                    if service.operations.is_empty() {
                        *counters.requests.entry((String::new(), code)).or_default() += count;
                    }
                }
                // Which route failed is told apart; how many did in all stays as it is.
                let failing = failing_operations(service);
                for operation in &service.operations {
                    let part = match failing > 0.0 {
                        true => operation.share * operation.error_ratio / failing,
                        false => operation.share,
                    };
                    let failed = (own_failed * part).min(total * operation.share);
                    let passed = passed_on * operation.share;
                    let well = (total * operation.share - failed - passed).max(0.0);
                    for (code, count) in [("200", well), ("500", failed), ("503", passed)] {
                        *counters.requests.entry((operation.route.clone(), code)).or_default() += count;
                    }
                }
                for (bucket, bound) in BUCKETS.iter().enumerate() {
                    counters.buckets[bucket] += (total * below(*bound, own.latency)).round();
                }
                counters.buckets[BUCKETS.len()] += total;
                counters.sum += total * own.latency * (SPREAD * SPREAD / 2.0).exp();
                if let Some(life) = self.lives.get_mut(&pod.uid) {
                    let wanted = seconds * CPU_IDLE + total * own.unthrottled * CPU_SHARE;
                    let allowed = pod.cpu_limit.map_or(wanted, |limit| wanted.min(limit * seconds));
                    life.cpu_seconds += allowed;
                    // The kernel accounts in periods of 100 ms; those in which nothing was left to use are throttled.
                    life.throttled_periods +=
                        if wanted > 0.0 { 10.0 * seconds * (1.0 - allowed / wanted) } else { 0.0 };
                }
                let lines = if self.quiet { 0.02 } else { 0.25 };
                let version = service.version(pod.tag());
                if own_failed > 0.0 && self.chance.happens((own_failed * lines).min(1.0)) {
                    let line = format!(
                        "level=error msg=\"{} failed\" status=500 error=\"{}\"",
                        service.route, version.error_message
                    );
                    step.logs.push(log(self.now, pod, line));
                }
                if passed_on > 0.0 && self.chance.happens((passed_on * lines).min(1.0)) {
                    let worst = service.calls.iter().filter_map(|call| {
                        health.get(&call.to).map(|callee| (call, (callee.failing() + call.lost) * call.per_request))
                    });
                    if let Some((call, _)) = worst.max_by(|one, other| one.1.total_cmp(&other.1)) {
                        let lost = health.get(&call.to).is_some_and(|callee| call.lost > callee.failing());
                        let error = if lost { "i/o timeout" } else { "503 Service Unavailable" };
                        let line = format!(
                            "level=error msg=\"{} failed\" status=503 error=\"call to {} failed: {error}\" upstream={}",
                            service.route, call.to, call.to
                        );
                        step.logs.push(log(self.now, pod, line));
                    }
                }
                if self.chance.happens(lines * 0.1) {
                    let line = format!(
                        "level=info msg=\"{} ok\" status=200 duration={:.0}ms",
                        service.route,
                        own.latency * 1000.0
                    );
                    step.logs.push(log(self.now, pod, line));
                }
            }
        }
    }
}

/// Share of all requests that fails because of what single routes do.
pub(super) fn failing_operations(service: &Service) -> f64 {
    service.operations.iter().map(|operation| operation.share * operation.error_ratio).sum()
}

/// Share of a log-normal with this median that lies below the bound.
fn below(bound: f64, median: f64) -> f64 {
    let z = (bound / median.max(1e-6)).ln() / SPREAD;
    // Logistic approximation of the normal distribution, good to 0.01.
    1.0 / (1.0 + (-1.702 * z).exp())
}

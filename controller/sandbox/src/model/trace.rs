//! Sampled requests as spans.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::graph::{Operation, Service};
use super::traffic::{Health, LOST_SECONDS};
use super::{Model, Step, log};

/// How many requests per second of virtual time become a trace.
const SAMPLED: f64 = 0.4;

/// One span, close to OpenTelemetry's.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// 32 hex digits.
    pub trace: String,
    /// 16 hex digits.
    pub id: String,
    /// Id of the parent span.
    pub parent: Option<String>,
    /// Service name.
    pub service: String,
    /// Operation.
    pub operation: String,
    /// `server` or `client`.
    pub kind: &'static str,
    /// When it began.
    pub start: Timestamp,
    /// How long it took.
    pub duration: SignedDuration,
    /// HTTP status code.
    pub status: u16,
    /// Namespace of the pod that answered.
    pub namespace: String,
    /// Pod that answered; empty when none could.
    pub pod: String,
}

impl Span {
    /// Whether it failed.
    pub fn failed(&self) -> bool {
        self.status >= 500
    }
}

impl Model {
    pub(super) fn sample_requests(&mut self, seconds: f64, health: &BTreeMap<String, Health>, step: &mut Step) {
        let entries: Vec<String> = self
            .graph
            .services
            .iter()
            .filter(|(_, service)| service.rate > 0.0)
            .map(|(name, _)| name.clone())
            .collect();
        for name in entries {
            let count = self.chance.whole(SAMPLED * seconds) as usize;
            for _ in 0..count {
                let trace = format!("{:016x}{:016x}", self.chance.bits(), self.chance.bits());
                let back = SignedDuration::try_from_secs_f64(self.chance.between(0.0, seconds)).unwrap_or_default();
                let at = self.now.checked_sub(back).unwrap_or(self.now);
                self.request(&trace, None, &name, at, health, step, 0);
            }
        }
    }

    /// The route that a request goes to, where routes are told apart.
    fn operation(&mut self, service: &Service) -> Option<Operation> {
        let last = service.operations.last()?;
        let mut at = self.chance.between(0.0, 1.0);
        let found = service.operations.iter().find(|operation| {
            at -= operation.share;
            at <= 0.0
        });
        Some(found.unwrap_or(last).clone())
    }

    #[allow(clippy::too_many_arguments, reason = "one walk down the call graph; a struct would only rename them")]
    fn request(
        &mut self,
        trace: &str,
        parent: Option<&str>,
        name: &str,
        at: Timestamp,
        health: &BTreeMap<String, Health>,
        step: &mut Step,
        depth: usize,
    ) -> (f64, bool) {
        let Some(own) = health.get(name).filter(|_| depth < 16) else {
            return (0.0, false);
        };
        if self.chance.happens(own.unreachable) {
            return (0.003, true);
        }
        let service = self.graph.services[name].clone();
        let ready: Vec<usize> = (0..self.seen.pods.len())
            .filter(|at| {
                let pod = &self.seen.pods[*at];
                pod.service == name && self.lives.get(&pod.uid).is_some_and(|life| life.shown.ready)
            })
            .collect();
        if ready.is_empty() {
            return (0.003, true);
        }
        let chosen = ready[(self.chance.bits() % ready.len() as u64) as usize];
        let pod = &self.seen.pods[chosen];
        let own_errors = self.own_errors(name, pod, own);
        let (namespace, pod) = (pod.namespace.clone(), pod.name.clone());
        let id = format!("{:016x}", self.chance.bits());
        let own_time = own.own_latency * (0.45 * self.chance.normal()).exp();
        let (operation, own_errors) = match self.operation(&service) {
            Some(operation) => (operation.route, operation.error_ratio),
            None => (service.route.clone(), own_errors),
        };
        let own_failed = self.chance.happens(own_errors);
        let (mut spent, mut passed_on) = (own_time / 2.0, false);
        let mut failed_callee = None;
        for call in &service.calls {
            let times = self.chance.whole(call.per_request) as usize;
            for _ in 0..times {
                let client = format!("{:016x}", self.chance.bits());
                let start = later(at, spent);
                let (took, failed) = match call.lost > 0.0 && self.chance.happens(call.lost) {
                    true => (LOST_SECONDS, true),
                    false => self.request(trace, Some(&client), &call.to, start, health, step, depth + 1),
                };
                let took = took + 0.001;
                step.spans.push(Span {
                    trace: trace.to_owned(),
                    id: client,
                    parent: Some(id.clone()),
                    service: name.to_owned(),
                    operation: format!("call {}", call.to),
                    kind: "client",
                    start,
                    duration: seconds(took),
                    status: if failed { 503 } else { 200 },
                    namespace: namespace.clone(),
                    pod: pod.clone(),
                });
                spent += took;
                passed_on |= failed;
                if failed {
                    failed_callee.get_or_insert(&call.to);
                }
            }
        }
        let total = spent + own_time / 2.0;
        let failure = match failed_callee {
            _ if own_failed => Some((500, service.version(self.seen.pods[chosen].tag()).error_message.clone())),
            Some(callee) => Some((503, format!("call to {callee} failed"))),
            None => None,
        };
        if let Some((status, error)) = failure {
            let line =
                format!("level=error msg=\"{operation} failed\" status={status} error=\"{error}\" trace_id={trace}");
            step.logs.push(log(later(at, total).min(self.now), &self.seen.pods[chosen], line));
        }
        step.spans.push(Span {
            trace: trace.to_owned(),
            id,
            parent: parent.map(str::to_owned),
            service: name.to_owned(),
            operation,
            kind: "server",
            start: at,
            duration: seconds(total),
            status: if own_failed {
                500
            } else if passed_on {
                503
            } else {
                200
            },
            namespace,
            pod,
        });
        (total, own_failed || passed_on)
    }
}

fn seconds(value: f64) -> SignedDuration {
    SignedDuration::try_from_secs_f64(value).unwrap_or_default()
}

fn later(at: Timestamp, by: f64) -> Timestamp {
    at.checked_add(seconds(by)).unwrap_or(at)
}

//! What a Prometheus would scrape now: the application, cAdvisor and kube-state-metrics.

use std::collections::BTreeMap;

use super::Model;
use super::container::{State, wrong_config};
use super::traffic::BUCKETS;

/// One sample without its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Metric name.
    pub name: &'static str,
    /// Labels without the name, ordered by name.
    pub labels: Vec<(&'static str, String)>,
    /// Value.
    pub value: f64,
}

impl Model {
    /// All samples of the moment, under the usual names.
    pub fn scrape(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        let mut put = |name, labels: Vec<(&'static str, String)>, value| {
            let mut labels = labels;
            labels.sort();
            samples.push(Sample { name, labels, value });
        };
        let mut deployments: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
        for pod in &self.seen.pods {
            let (all, ready) = deployments.entry((&pod.namespace, &pod.service)).or_default();
            *all += 1;
            *ready += usize::from(self.lives.get(&pod.uid).is_some_and(|life| life.shown.ready));
        }
        for ((namespace, name), (all, ready)) in deployments {
            let labels = || vec![("namespace", namespace.to_owned()), ("deployment", name.to_owned())];
            put("kube_deployment_status_replicas", labels(), all as f64);
            put("kube_deployment_status_replicas_available", labels(), ready as f64);
            put("kube_deployment_status_replicas_unavailable", labels(), (all - ready) as f64);
        }
        for pod in &self.seen.pods {
            let of_pod = || vec![("namespace", pod.namespace.clone()), ("pod", pod.name.clone())];
            let of_container = || {
                let mut labels = of_pod();
                labels.push(("container", pod.container.clone()));
                labels
            };
            let with = |mut labels: Vec<(&'static str, String)>, name, value: &str| {
                labels.push((name, value.to_owned()));
                labels
            };
            put("kube_pod_info", with(of_pod(), "node", pod.node.as_deref().unwrap_or_default()), 1.0);
            put("kube_pod_container_info", with(of_container(), "image", &pod.image), 1.0);
            for (metric, resource, unit, amount) in [
                ("kube_pod_container_resource_limits", "memory", "byte", pod.memory_limit),
                ("kube_pod_container_resource_limits", "cpu", "core", pod.cpu_limit),
                ("kube_pod_container_resource_requests", "memory", "byte", pod.memory_request),
                ("kube_pod_container_resource_requests", "cpu", "core", pod.cpu_request),
            ] {
                if let Some(amount) = amount {
                    put(metric, with(with(of_container(), "resource", resource), "unit", unit), amount);
                }
            }
            let Some(life) = self.lives.get(&pod.uid) else {
                continue;
            };
            let running = matches!(life.shown.state, State::Running { .. });
            let phase =
                if running || life.shown.restarts > 0 || life.shown.last.is_some() { "Running" } else { "Pending" };
            for known in ["Pending", "Running"] {
                put("kube_pod_status_phase", with(of_pod(), "phase", known), f64::from(u8::from(known == phase)));
            }
            put("kube_pod_status_ready", with(of_pod(), "condition", "true"), f64::from(u8::from(life.shown.ready)));
            put(
                "kube_pod_status_scheduled",
                with(of_pod(), "condition", "true"),
                f64::from(u8::from(pod.node.is_some())),
            );
            put("kube_pod_container_status_restarts_total", of_container(), f64::from(life.shown.restarts));
            if let Some(last) = &life.shown.last {
                put(
                    "kube_pod_container_status_last_terminated_reason",
                    with(of_container(), "reason", last.reason),
                    1.0,
                );
            }
            if let State::Waiting { reason, .. } = &life.shown.state {
                put("kube_pod_container_status_waiting_reason", with(of_container(), "reason", reason), 1.0);
            }
            if !running {
                continue;
            }
            put("container_memory_working_set_bytes", of_container(), life.working_set.round());
            put("container_cpu_usage_seconds_total", of_container(), life.cpu_seconds);
            let periods = life.cpu_seconds * 10.0 + life.throttled_periods;
            put("container_cpu_cfs_periods_total", of_container(), periods.round());
            put("container_cpu_cfs_throttled_periods_total", of_container(), life.throttled_periods.round());
            // A throttled period is a tenth of a second in which some task waits.
            put("container_pressure_cpu_waiting_seconds_total", of_container(), life.throttled_periods / 10.0);
            let Some(counters) = self.counters.get(&pod.uid) else {
                continue;
            };
            let of_service = || with(of_pod(), "service", &pod.service);
            for ((route, code), count) in &counters.requests {
                let labels = with(of_service(), "code", code);
                let labels = if route.is_empty() { labels } else { with(labels, "route", route) };
                put("http_requests_total", labels, *count);
            }
            for (bucket, bound) in BUCKETS.iter().enumerate() {
                put(
                    "http_request_duration_seconds_bucket",
                    with(of_service(), "le", &bound.to_string()),
                    counters.buckets[bucket],
                );
            }
            let total = counters.buckets[BUCKETS.len()];
            put("http_request_duration_seconds_bucket", with(of_service(), "le", "+Inf"), total);
            put("http_request_duration_seconds_count", of_service(), total);
            put("http_request_duration_seconds_sum", of_service(), counters.sum);
            let service = self.graph.services.get(&pod.service);
            let ratio = service.map_or(0.0, |service| {
                let version = service.version(pod.tag());
                1.0 - (1.0 - version.error_ratio) * (1.0 - wrong_config(pod, &version.needs, &self.seen))
            });
            for route in 0..service.map_or(0, |service| service.routes) {
                put("http_route_error_ratio", with(of_service(), "route", &format!("/r{route:03}")), ratio);
            }
        }
        samples
    }
}

/// Samples in Prometheus' text format, for a real one to scrape.
pub fn exposition(samples: &[Sample]) -> String {
    let mut ordered: Vec<&Sample> = samples.iter().collect();
    ordered.sort_by_key(|sample| sample.name);
    let mut text = String::new();
    let mut last = "";
    for sample in ordered {
        let family = sample.name.trim_end_matches("_bucket");
        if family != last && !sample.name.ends_with("_sum") && !sample.name.ends_with("_count") {
            let kind = if sample.name.ends_with("_bucket") {
                "histogram"
            } else if sample.name.ends_with("_total") {
                "counter"
            } else {
                "gauge"
            };
            text.push_str(&format!("# TYPE {family} {kind}\n"));
            last = family;
        }
        let labels: Vec<String> = sample
            .labels
            .iter()
            .map(|(name, value)| {
                format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
            })
            .collect();
        text.push_str(&format!("{}{{{}}} {}\n", sample.name, labels.join(","), sample.value));
    }
    text
}

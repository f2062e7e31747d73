//! What a modelled application is: services, who calls whom, and how each version behaves. Plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A modelled application; faults are nothing but versions that behave badly.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceGraph {
    /// Seed of all chance in it.
    pub seed: u64,
    /// Services by name: the `app` label of their pods.
    pub services: BTreeMap<String, Service>,
    /// Longest crash-loop back-off, in seconds. Kubernetes' own is 300; demos shorten it.
    #[serde(default = "five_minutes")]
    pub max_backoff_seconds: f64,
}

fn five_minutes() -> f64 {
    300.0
}

/// One service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Requests per second from outside.
    #[serde(default)]
    pub rate: f64,
    /// Median time of its own work per request.
    pub latency_ms: f64,
    /// Services that it asks, one after the other.
    #[serde(default)]
    pub calls: Vec<Call>,
    /// Main route, for logs and spans.
    #[serde(default)]
    pub route: String,
    /// How many routes report their own error ratio (`http_route_error_ratio`); none by default.
    #[serde(default)]
    pub routes: u32,
    /// Pods that misbehave for a reason of their own, whatever runs in them.
    #[serde(default)]
    pub sick_pods: Option<SickPods>,
    /// Routes that are counted apart; none by default.
    #[serde(default)]
    pub operations: Vec<Operation>,
    /// How a version without an entry in `versions` behaves.
    #[serde(default)]
    pub usual: Version,
    /// Behaviour by image tag.
    #[serde(default)]
    pub versions: BTreeMap<String, Version>,
}

impl Service {
    /// How this image tag behaves.
    pub fn version(&self, tag: &str) -> &Version {
        self.versions.get(tag).unwrap_or(&self.usual)
    }
}

/// A fault of single pods: a bad disk under one of them, say.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SickPods {
    /// How many, the first by name.
    pub count: usize,
    /// Share of their requests that fails.
    pub error_ratio: f64,
}

/// One of several routes of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    /// As in the label `route`.
    pub route: String,
    /// Share of the requests; all together are 1.
    pub share: f64,
    /// Share of its own requests that fails, besides what its version does.
    #[serde(default)]
    pub error_ratio: f64,
}

/// One service asks another.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Call {
    /// Who is asked.
    pub to: String,
    /// How often per request; below 1 a probability.
    #[serde(default = "once")]
    pub per_request: f64,
    /// Share of these requests that the network between the two loses.
    #[serde(default)]
    pub lost: f64,
}

fn once() -> f64 {
    1.0
}

/// How one version behaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Version {
    /// Working set when warm. Above the container's limit it is OOM-killed.
    pub memory_mib: f64,
    /// Seconds until the working set is warm.
    pub warm_up_seconds: f64,
    /// Seconds from container start to ready.
    pub start_seconds: f64,
    /// Steady growth that never ends.
    pub leak_mib_per_minute: f64,
    /// A sudden need long after the start: a restart buys time and cures nothing.
    pub surge: Option<Surge>,
    /// Share of requests that fail by its own fault.
    pub error_ratio: f64,
    /// Own time compared with the service's usual.
    pub latency_factor: f64,
    /// Seconds that each request waits besides, for a free connection say: time that takes no CPU.
    pub waits_seconds: f64,
    /// What happens when the memory limit is generous: a heap that grows with it.
    pub oversized: Option<Oversized>,
    /// Configuration without which it cannot work.
    pub needs: Vec<Need>,
    /// The image cannot be pulled.
    pub missing_image: bool,
    /// The process ends at once with an error.
    pub crashes: bool,
    /// What an own error looks like in the log.
    pub error_message: String,
}

impl Default for Version {
    fn default() -> Self {
        Self {
            memory_mib: 90.0,
            warm_up_seconds: 30.0,
            start_seconds: 6.0,
            leak_mib_per_minute: 0.0,
            surge: None,
            error_ratio: 0.002,
            latency_factor: 1.0,
            waits_seconds: 0.0,
            oversized: None,
            needs: Vec::new(),
            missing_image: false,
            crashes: false,
            error_message: "internal error".into(),
        }
    }
}

/// A sudden need of memory some time after the container started.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Surge {
    /// Seconds after the start.
    pub after_seconds: f64,
    /// Share by which that varies from start to start.
    pub jitter: f64,
    /// Working set from then on.
    pub memory_mib: f64,
}

/// A version that gets worse with a generous memory limit, such as a runtime that sizes its heap by it and then
/// stops the world to collect it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Oversized {
    /// Limits above this are generous.
    pub above_mib: f64,
    /// Own error ratio then.
    pub error_ratio: f64,
    /// Latency factor then.
    pub latency_factor: f64,
}

/// A key that must be there, and perhaps what it must hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Need {
    /// ConfigMap in the namespace of the pod.
    pub config_map: String,
    /// Key in it.
    pub key: String,
    /// Values with which it works; empty: any.
    #[serde(default)]
    pub one_of: Vec<String>,
    /// Own error ratio with a wrong value.
    #[serde(default = "half")]
    pub error_ratio: f64,
}

fn half() -> f64 {
    0.5
}

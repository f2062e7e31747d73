//! What can be asked of a store, in words that no store's query language appears in.

use std::collections::BTreeMap;

use amend_diagnosis::edge::Way;
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::Window;
use jiff::SignedDuration;

use crate::promql::literal;

/// A workload to ask about, with the names under which stores may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub entity: Entity,
    /// Kubernetes Services in front of it, and names that its telemetry reports as `service`.
    pub services: Vec<String>,
    /// Names of ReplicaSets, old ones included: they make the names of past pods certain.
    pub replica_sets: Vec<String>,
    /// Names of pods known now.
    pub pods: Vec<String>,
}

/// More pods than this are asked for by the shape of their names: a query must stay readable and below URL limits.
const PODS_NAMED_MAX: usize = 100;

impl Target {
    /// A workload known by its own name only.
    pub fn new(entity: Entity) -> Self {
        let services = vec![entity.name.clone()];
        Self { entity, services, replica_sets: Vec::new(), pods: Vec::new() }
    }

    /// A regular expression of the names of its pods, past and present.
    ///
    /// Where ReplicaSets are known, their names decide. Otherwise the shape of the name does: Kubernetes makes hashes
    /// and suffixes from letters and digits (the alphabet of `k8s.io/apimachinery/pkg/util/rand`, kept a little wider
    /// here because other controllers use hex).
    fn pod_names(&self) -> Vec<String> {
        let name = literal(&self.entity.name);
        let mut names = match self.entity.kind {
            EntityKind::Pod => vec![name],
            EntityKind::StatefulSet => vec![format!("{name}-[0-9]+")],
            EntityKind::ReplicaSet | EntityKind::DaemonSet | EntityKind::Job => vec![format!("{name}-[a-z0-9]{{5}}")],
            _ if !self.replica_sets.is_empty() => {
                self.replica_sets.iter().map(|set| format!("{}-[a-z0-9]{{5}}", literal(set))).collect()
            }
            EntityKind::CronJob => vec![format!("{name}-[0-9]+-[a-z0-9]{{5}}")],
            _ => vec![format!("{name}-[a-z0-9]{{1,10}}-[a-z0-9]{{5}}")],
        };
        if self.pods.len() <= PODS_NAMED_MAX {
            names.extend(self.pods.iter().map(|pod| literal(pod)));
        }
        names
    }
}

/// Workloads of one namespace, asked about together: one query instead of one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub namespace: String,
    /// Regular expression of pod names, whole-string.
    pub pods: String,
    /// Regular expression of service names, whole-string.
    pub services: String,
    /// The service names themselves.
    pub service_names: Vec<String>,
    /// The one container that is meant; `None`: all.
    pub container: Option<String>,
    /// More than one workload: each may count its requests in its own way.
    pub several: bool,
}

impl Selection {
    /// One workload; its container, if the entity names one.
    pub fn one(target: &Target) -> Self {
        Self { container: target.entity.container.clone(), ..Self::together(&target.entity.namespace, &[target]) }
    }

    /// Groups workloads by namespace.
    pub fn by_namespace<'a>(targets: impl IntoIterator<Item = &'a Target>) -> Vec<Self> {
        let mut groups: BTreeMap<&str, Vec<&Target>> = BTreeMap::new();
        for target in targets {
            groups.entry(&target.entity.namespace).or_default().push(target);
        }
        groups.into_iter().map(|(namespace, targets)| Self::together(namespace, &targets)).collect()
    }

    /// Whatever runs in a namespace.
    pub fn everything(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            pods: ".+".to_owned(),
            services: ".+".to_owned(),
            service_names: Vec::new(),
            container: None,
            several: true,
        }
    }

    fn together(namespace: &str, targets: &[&Target]) -> Self {
        let mut service_names: Vec<String> = targets.iter().flat_map(|target| target.services.clone()).collect();
        service_names.sort();
        service_names.dedup();
        let mut pods: Vec<String> = targets.iter().flat_map(|target| target.pod_names()).collect();
        pods.sort();
        pods.dedup();
        Self {
            namespace: namespace.to_owned(),
            pods: pods.join("|"),
            services: service_names.iter().map(|name| literal(name)).collect::<Vec<_>>().join("|"),
            service_names,
            container: None,
            several: targets.len() > 1,
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Working set of each container in bytes.
    Memory,
    /// CPU seconds of each container: a counter.
    Cpu,
    /// Share of CPU periods in which a container was throttled, 0 to 1.
    Throttling,
    /// Limits of each container by `resource`.
    Limits,
    /// Restarts of each container: a counter.
    Restarts,
    /// 1 for the `reason` of each container's last end.
    LastTerminated,
    /// 1 for the `reason` why a container waits.
    Waiting,
    /// 1 for the `image` that a container runs.
    Images,
    /// Requests per second by `code`, of each service.
    Requests,
    /// Requests per second by `code`, of each pod.
    RequestsByPod,
    /// 99th percentile of request duration in seconds, of each service.
    LatencyP99,
    /// 99th percentile of request duration in seconds, of each pod.
    LatencyP99ByPod,
    /// Fullest container of the selection: working set as a share of its memory limit.
    MemoryFullness,
    /// Requests per second by `code`, of each route, method or rpc (label `operation`).
    RequestsByOperation,
    /// 99th percentile of request duration in seconds, of each route, method or rpc.
    LatencyP99ByOperation,
    /// Requests per second by `code`, of each `version`.
    RequestsByVersion,
    /// 99th percentile of request duration in seconds, of each `version`.
    LatencyP99ByVersion,
    /// Share of time in which some task of a container waits, 0 to 1 (pressure stall information).
    Pressure(Resource),
    /// The same of nodes; their names stand in [`Selection::pods`].
    NodePressure(Resource),
    /// What becomes of calls on their way from the selection to others, as an agent between the two counts it
    /// (see [`amend_diagnosis::edge`]): amounts a second, in the agent's own names.
    Edge(Way),
    /// Packets a second that each pod loses: dropped, or damaged.
    PodPackets,
    /// Garbage collections and connections of each pod: of pools, and of databases with the most that they serve.
    Runtime,
    /// Bytes on disk, read and written, of each pod.
    Disk,
    /// Bytes received and sent by each pod: counters.
    Network,
    /// Used share of each volume, by claim.
    VolumeFullness,
    /// Used share of a resource of every node, 0 to 1; `Io` is the fullest disk.
    NodeFullness(Resource),
}

/// What tasks wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Cpu,
    Memory,
    Io,
}

impl Resource {
    /// As in the names of the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }
}

impl Measure {
    /// Short name for ids and people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Throttling => "throttling",
            Self::Limits => "limits",
            Self::Restarts => "restarts",
            Self::LastTerminated => "last-terminated",
            Self::Waiting => "waiting",
            Self::Images => "images",
            Self::Requests => "requests",
            Self::RequestsByPod => "requests-by-pod",
            Self::LatencyP99 => "latency-p99",
            Self::LatencyP99ByPod => "latency-p99-by-pod",
            Self::MemoryFullness => "memory-fullness",
            Self::RequestsByOperation => "requests-by-operation",
            Self::LatencyP99ByOperation => "latency-p99-by-operation",
            Self::RequestsByVersion => "requests-by-version",
            Self::LatencyP99ByVersion => "latency-p99-by-version",
            Self::Pressure(Resource::Cpu) => "cpu-pressure",
            Self::Pressure(Resource::Memory) => "memory-pressure",
            Self::Pressure(Resource::Io) => "io-pressure",
            Self::NodePressure(Resource::Cpu) => "node-cpu-pressure",
            Self::NodePressure(Resource::Memory) => "node-memory-pressure",
            Self::NodePressure(Resource::Io) => "node-io-pressure",
            Self::Edge(Way::Requests) => "edge-requests",
            Self::Edge(Way::Connections) => "edge-connections",
            Self::Edge(Way::Handshakes) => "edge-handshakes",
            Self::Edge(Way::Packets) => "edge-packets",
            Self::PodPackets => "pod-packets",
            Self::Runtime => "runtime",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::VolumeFullness => "volume-fullness",
            Self::NodeFullness(Resource::Cpu) => "node-cpu-fullness",
            Self::NodeFullness(Resource::Memory) => "node-memory-fullness",
            Self::NodeFullness(Resource::Io) => "node-disk-fullness",
        }
    }
}

/// Samples of one measure at regular times.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesQuestion {
    /// Becomes [`Asked::id`](amend_diagnosis::evidence::Asked) and [`Series::asked`](amend_diagnosis::evidence::Series).
    pub id: String,
    pub measure: Measure,
    pub of: Selection,
    pub window: Window,
    pub step: SignedDuration,
}

/// Traces in which a service took part.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceQuestion {
    pub id: String,
    pub namespace: String,
    pub service: String,
    pub window: Window,
    /// Most traces to fetch; stores pick which.
    pub traces: usize,
}

/// A request that was kept as an example with what counts it.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    pub trace_id: String,
    /// How long it took where a histogram of latency remembers it, in seconds or milliseconds as that counts; else it failed.
    pub took: Option<f64>,
    /// Unix seconds.
    pub at: f64,
}

/// Requests that histograms of latency and counts of errors of a selection remember.
#[derive(Clone, Debug, PartialEq)]
pub struct ExemplarQuestion {
    pub id: String,
    pub of: Selection,
    pub window: Window,
}

/// One whole trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeTraceQuestion {
    pub id: String,
    /// From another store: hexadecimal digits, or nothing is asked.
    pub trace: String,
    /// When it was under way, for stores that look faster then.
    pub window: Window,
}

/// Log lines of a selection, the newest first when there are more than `lines`.
#[derive(Clone, Debug, PartialEq)]
pub struct LineQuestion {
    pub id: String,
    pub of: Selection,
    pub window: Window,
    pub only: LineFilter,
    pub lines: usize,
}

/// Which lines are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineFilter {
    All,
    /// Lines that contain this text, case and all.
    Containing(String),
    /// Lines that the store knows to belong to the trace with this id, whatever their text.
    OfTrace(String),
}

impl LineFilter {
    /// What counts of such lines are called.
    pub(crate) fn counted_as(&self) -> &'static str {
        match self {
            Self::All | Self::OfTrace(_) => "log_lines",
            Self::Containing(_) => "log_error_lines",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selection: &Selection, pod: &str) -> bool {
        regex::Regex::new(&format!("^(?:{})$", selection.pods)).unwrap().is_match(pod)
    }

    #[test]
    fn pods_of_a_deployment_are_known_by_shape_and_its_neighbours_are_not_taken_for_it() {
        let target = Target::new(Entity::new(EntityKind::Deployment, "shop", "checkout"));
        let selection = Selection::one(&target);
        assert!(matches(&selection, "checkout-5d8f7c9b6d-x2x4q"));
        assert!(!matches(&selection, "checkout-worker-5d8f7c9b6d-x2x4q"));
        assert!(!matches(&selection, "my-checkout-5d8f7c9b6d-x2x4q"));
    }

    #[test]
    fn known_replica_sets_replace_the_guess_and_known_pods_are_added() {
        let mut target = Target::new(Entity::new(EntityKind::Deployment, "shop", "checkout"));
        target.replica_sets = vec!["checkout-5d8f7c9b6d".to_owned()];
        target.pods = vec!["checkout-odd.name".to_owned()];
        let selection = Selection::one(&target);
        assert!(matches(&selection, "checkout-5d8f7c9b6d-x2x4q"));
        assert!(matches(&selection, "checkout-odd.name"));
        assert!(!matches(&selection, "checkout-oddyname"));
        assert!(!matches(&selection, "checkout-6666666666-x2x4q"));
    }

    #[test]
    fn workloads_are_asked_about_together_namespace_by_namespace() {
        let targets: Vec<Target> = [("shop", "cart"), ("shop", "checkout"), ("pay", "ledger")]
            .map(|(namespace, name)| Target::new(Entity::new(EntityKind::StatefulSet, namespace, name)))
            .into();
        let selections = Selection::by_namespace(&targets);
        assert_eq!(selections.iter().map(|s| s.namespace.as_str()).collect::<Vec<_>>(), ["pay", "shop"]);
        assert!(matches(&selections[1], "cart-0") && matches(&selections[1], "checkout-12"));
        assert_eq!(selections[1].services, "cart|checkout");
    }
}

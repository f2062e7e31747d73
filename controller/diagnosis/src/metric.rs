//! What a metric is about, whatever its exporter calls it.

use std::collections::BTreeMap;

/// Names under which aggregated answers are handed in.
///
/// A store drops `__name__` when it aggregates; the asker puts one of these there, so that the answer still says what it
/// is. Labels stay as the query grouped them (`namespace`, `service`, `pod`, `container`).
pub mod name {
    /// Failed requests as a share of all, 0 to 1.
    pub const ERROR_RATIO: &str = "errorRatio";
    /// 99th percentile of request duration in seconds.
    pub const LATENCY_P99: &str = "latencyP99";
    /// Requests per second.
    pub const REQUEST_RATE: &str = "requestRate";
    /// Working set of a container in bytes.
    pub const MEMORY: &str = "container_memory_working_set_bytes";
    /// CPU seconds of a container: a counter.
    pub const CPU: &str = "container_cpu_usage_seconds_total";
    /// Restarts of a container: a counter.
    pub const RESTARTS: &str = "kube_pod_container_status_restarts_total";
    /// 1 for the reason of the last termination, in label `reason`.
    pub const LAST_TERMINATED: &str = "kube_pod_container_status_last_terminated_reason";
    /// 1 for the reason why a container waits, in label `reason`.
    pub const WAITING: &str = "kube_pod_container_status_waiting_reason";
    /// 1 for the image that a container runs, in label `image`.
    pub const IMAGES: &str = "kube_pod_container_info";
    /// Limits by label `resource` and `unit`.
    pub const LIMITS: &str = "kube_pod_container_resource_limits";
    /// Seconds that a process spent collecting garbage: a counter, whatever the runtime.
    pub const COLLECTIONS: &str = "gc_pause_seconds_sum";
    /// Connections of a client's pool that are taken.
    pub const POOL_USED: &str = "pool_connections_used";
    /// Those who wait for one.
    pub const POOL_PENDING: &str = "pool_connections_pending";
    /// Connections that a database serves.
    pub const STORE_CONNECTIONS: &str = "database_connections_used";
    /// Connections that it may serve.
    pub const STORE_CONNECTIONS_MAX: &str = "database_connections_max";
    /// A volume's used share, 0 to 1, by label `persistentvolumeclaim`.
    pub const VOLUME_FULLNESS: &str = "volume_fullness";
    /// Used shares of a node, 0 to 1.
    pub const NODE_CPU: &str = "node_cpu_fullness";
    pub const NODE_MEMORY: &str = "node_memory_fullness";
    pub const NODE_DISK: &str = "node_disk_fullness";
}

/// Names of the finer answers of a second round (see [`deep`](crate::deep)), read by extractors of their own: a ratio of one route
/// or one pod must not be taken for that of its workload.
pub mod finer {
    pub const POD_ERROR_RATIO: &str = "podErrorRatio";
    /// Seconds.
    pub const POD_LATENCY_P99: &str = "podLatencyP99";
    /// Requests per second.
    pub const POD_REQUEST_RATE: &str = "podRequestRate";
    pub const OPERATION_ERROR_RATIO: &str = "operationErrorRatio";
    /// Seconds.
    pub const OPERATION_LATENCY_P99: &str = "operationLatencyP99";
    /// Requests per second.
    pub const OPERATION_REQUEST_RATE: &str = "operationRequestRate";
    pub const VERSION_ERROR_RATIO: &str = "versionErrorRatio";
    /// Seconds.
    pub const VERSION_LATENCY_P99: &str = "versionLatencyP99";
    /// Requests per second.
    pub const VERSION_REQUEST_RATE: &str = "versionRequestRate";
    /// Share of time, 0 to 1, that some task waits for the label `resource`: `cpu`, `memory`, `io`.
    pub const PRESSURE: &str = "pressureStall";
    /// Label with the route, method or rpc.
    pub const OPERATION: &str = "operation";
    /// Label with the version that answered.
    pub const VERSION: &str = "version";

    /// Whether a metric is one of these.
    pub fn is(metric: &str) -> bool {
        [
            POD_ERROR_RATIO,
            POD_LATENCY_P99,
            POD_REQUEST_RATE,
            OPERATION_ERROR_RATIO,
            OPERATION_LATENCY_P99,
            OPERATION_REQUEST_RATE,
            VERSION_ERROR_RATIO,
            VERSION_LATENCY_P99,
            VERSION_REQUEST_RATE,
            PRESSURE,
        ]
        .contains(&metric)
    }
}

/// The sort of thing that a metric measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Cpu,
    Memory,
    Disk,
    Network,
    Latency,
    /// Share or count of failures: more is worse.
    Errors,
    /// Share of successes: less is worse.
    Success,
    Traffic,
    Restarts,
    /// A configured bound, not a measurement.
    Limit,
    Other,
}

/// Words of metric names, first match wins; the more telling word stands first.
const WORDS: &[(Family, &[&str])] = &[
    (Family::Limit, &["limit", "quota", "capacity", "allocatable", "_info"]),
    (Family::Restarts, &["restart", "last_terminated"]),
    (Family::Success, &["success", "succ_rate", "succ", "availability", "availab"]),
    (Family::Errors, &["error", "fail", "5xx", "4xx", "fault", "exception", "drop", "unauthorized", "rejected"]),
    (Family::Latency, &["latency", "duration", "response_time", "lat_", "_p50", "_p90", "_p95", "_p99", "p99", "lat"]),
    (Family::Cpu, &["cpu"]),
    (Family::Memory, &["mem", "heap", "rss", "working_set"]),
    (Family::Disk, &["fs_", "disk", "iops", "syscall", "volume"]),
    (
        Family::Network,
        &["network", "net_", "_net", "netw", "receive", "transmit", "tcp", "packet", "bytes_sent", "bytes_received"],
    ),
    (Family::Traffic, &["qps", "rps", "request", "workload", "ops", "load", "traffic", "throughput"]),
];

impl Family {
    /// Reads the family from a metric's name.
    pub fn of(metric: &str) -> Self {
        let lower = metric.to_ascii_lowercase();
        match WORDS.iter().find(|(_, words)| words.iter().any(|word| lower.contains(word))) {
            Some((family, _)) => *family,
            None => Self::Other,
        }
    }
}

/// Whether a gauge counts things, by its name: two failed lines are no ratio of two, and one is no hundred per cent.
pub fn is_count(metric: &str) -> bool {
    let lower = metric.to_ascii_lowercase();
    ["lines", "count", "total", "number"].iter().any(|word| lower.contains(word))
}

/// The name of a series; empty when the store dropped it.
pub fn name_of(labels: &BTreeMap<String, String>) -> &str {
    labels.get("__name__").map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_many_exporters_fall_into_one_family() {
        for (metric, family) in [
            (name::MEMORY, Family::Memory),
            (name::LIMITS, Family::Limit),
            (name::ERROR_RATIO, Family::Errors),
            ("istio_request_duration_milliseconds", Family::Latency),
            ("coroot_container_net_latency_seconds", Family::Latency),
            ("hubble_drop_total", Family::Errors),
            ("http_requests_total", Family::Traffic),
        ] {
            assert_eq!(Family::of(metric), family, "{metric}");
        }
    }
}

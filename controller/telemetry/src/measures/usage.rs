//! What pods and nodes take for themselves besides CPU and memory: several metrics in one question, told apart by their names.

use amend_diagnosis::metric::name;
use jiff::SignedDuration;

use super::{Form, only};
use crate::mapping::Mapping;
use crate::promql::{Aggregation, Expr, Operator, OverTime, Selector};
use crate::questions::{Resource, Selection};

/// Garbage collections, connections of pools and of databases, and what they are called here:
///
/// * Micrometer's JVM and HikariCP metrics (<https://docs.micrometer.io/micrometer/reference/reference/jvm.html>),
/// * OpenTelemetry's JVM, Node.js and database client metrics
///   (<https://opentelemetry.io/docs/specs/semconv/runtime/>, <https://opentelemetry.io/docs/specs/semconv/database/database-metrics/>),
/// * Prometheus' Go client (`go_gc_duration_seconds`) and Node.js client (`nodejs_gc_duration_seconds`),
/// * the exporters of PostgreSQL, MySQL and Redis.
const RUNTIME: [(&str, &str); 18] = [
    ("jvm_gc_pause_seconds_sum", name::COLLECTIONS),
    ("jvm_gc_duration_seconds_sum", name::COLLECTIONS),
    ("jvm_gc_collection_seconds_sum", name::COLLECTIONS),
    ("go_gc_duration_seconds_sum", name::COLLECTIONS),
    ("nodejs_gc_duration_seconds_sum", name::COLLECTIONS),
    ("v8js_gc_duration_seconds_sum", name::COLLECTIONS),
    ("hikaricp_connections_active", name::POOL_USED),
    ("db_client_connections_usage", name::POOL_USED),
    ("db_client_connection_count", name::POOL_USED),
    ("hikaricp_connections_pending", name::POOL_PENDING),
    ("db_client_connections_pending_requests", name::POOL_PENDING),
    ("db_client_connection_pending_requests", name::POOL_PENDING),
    ("pg_stat_activity_count", name::STORE_CONNECTIONS),
    ("mysql_global_status_threads_connected", name::STORE_CONNECTIONS),
    ("redis_connected_clients", name::STORE_CONNECTIONS),
    ("pg_settings_max_connections", name::STORE_CONNECTIONS_MAX),
    ("mysql_global_variables_max_connections", name::STORE_CONNECTIONS_MAX),
    ("redis_config_maxclients", name::STORE_CONNECTIONS_MAX),
];

/// Labels that tell which connections are counted.
const STATES: [&str; 3] = ["state", "db_client_connection_state", "db_client_connections_state"];

/// One question about the pods of a selection, by the labels of those that are scraped, else of those that push by OpenTelemetry.
/// The counters stay counters, so that the names stay as well.
pub(super) fn runtime(mapping: &Mapping, of: &Selection) -> Vec<Form> {
    let names: Vec<&str> = RUNTIME.iter().map(|(theirs, _)| *theirs).collect();
    let labelled = [[mapping.namespace.as_str(), mapping.pod.as_str()], PUSHED];
    let form = |[namespace, pod]: [&str; 2]| {
        let all = only(Selector::metric("").like("__name__", &names.join("|")), mapping)
            .is(namespace, &of.namespace)
            .like(pod, &of.pods);
        let by = ["__name__", namespace, pod, STATES[0], STATES[1], STATES[2]];
        let query = Expr::from(all).aggregate(Aggregation::Sum, &by);
        let renamed = |theirs: &str| RUNTIME.iter().find(|(known, _)| *known == theirs).map(|(_, ours)| *ours);
        Form {
            renamed: Some(renamed),
            ..Form::new(query, name::COLLECTIONS, &[(namespace, "namespace"), (pod, "pod")])
        }
    };
    labelled.map(form).into()
}

/// What [`runtime`] calls them.
pub(super) fn runtime_names() -> Vec<&'static str> {
    let ours: std::collections::BTreeSet<&str> = RUNTIME.iter().map(|(_, ours)| *ours).collect();
    ours.into_iter().collect()
}

/// Resource attributes that tell a pod, as labels.
const PUSHED: [&str; 2] = ["k8s_namespace_name", "k8s_pod_name"];

/// cAdvisor's counts of containers (<https://github.com/google/cadvisor/blob/master/docs/storage/prometheus.md>).
pub(super) const DISK: [&str; 3] =
    ["container_fs_usage_bytes", "container_fs_writes_bytes_total", "container_fs_reads_bytes_total"];

pub(super) fn disk(mapping: &Mapping, of: &Selection) -> Form {
    let disk = of_pods(&DISK, mapping, of).is_not(&mapping.container, "").is_not(&mapping.container, "POD");
    let renamed = |theirs: &str| DISK.into_iter().find(|known| *known == theirs);
    Form { renamed: Some(renamed), ..per_pod(disk, mapping) }
}

/// The same of whole pods, whose containers share one network.
pub(super) const NETWORK: [&str; 2] =
    ["container_network_receive_bytes_total", "container_network_transmit_bytes_total"];

pub(super) fn network(mapping: &Mapping, of: &Selection) -> Form {
    let renamed = |theirs: &str| NETWORK.into_iter().find(|known| *known == theirs);
    Form { renamed: Some(renamed), ..per_pod(of_pods(&NETWORK, mapping, of), mapping) }
}

fn of_pods(names: &[&str], mapping: &Mapping, of: &Selection) -> Selector {
    only(Selector::metric("").like("__name__", &names.join("|")), mapping)
        .is(&mapping.namespace, &of.namespace)
        .like(&mapping.pod, &of.pods)
}

fn per_pod(selector: Selector, mapping: &Mapping) -> Form {
    let query = Expr::from(selector).aggregate(Aggregation::Sum, &["__name__", &mapping.namespace, &mapping.pod]);
    Form::new(query, "", &[(&mapping.namespace, "namespace"), (&mapping.pod, "pod")])
}

/// What the kubelet tells of volumes (<https://kubernetes.io/docs/reference/instrumentation/metrics/>).
pub(super) fn volumes(mapping: &Mapping, of: &Selection) -> Form {
    let by = [mapping.namespace.as_str(), "persistentvolumeclaim"];
    let bytes = |which: &str| {
        let metric = format!("kubelet_volume_stats_{which}_bytes");
        let selector = only(Selector::metric(&metric), mapping).is(&mapping.namespace, &of.namespace);
        Expr::from(selector).aggregate(Aggregation::Max, &by)
    };
    let share = bytes("used").with(Operator::Divide, bytes("capacity"));
    Form::new(share, name::VOLUME_FULLNESS, &[(&mapping.namespace, "namespace")])
}

/// What node_exporter tells of every node, by its own name or by the address that was scraped
/// (<https://github.com/prometheus/node_exporter>). Of file systems those that are no disk are left out.
pub(super) fn nodes(mapping: &Mapping, resource: Resource, rate: SignedDuration) -> Form {
    let by = ["node", "instance"];
    let metric = |name: &str| only(Selector::metric(name), mapping);
    let (name, free) = match resource {
        Resource::Cpu => {
            let idle = metric("node_cpu_seconds_total").is("mode", "idle").over(OverTime::Rate, rate);
            (name::NODE_CPU, idle.aggregate(Aggregation::Avg, &by))
        }
        Resource::Memory => {
            let bytes = |which: &str| {
                Expr::from(metric(&format!("node_memory_{which}_bytes"))).aggregate(Aggregation::Max, &by)
            };
            (name::NODE_MEMORY, bytes("MemAvailable").with(Operator::Divide, bytes("MemTotal")))
        }
        Resource::Io => {
            let bytes = |which: &str| {
                metric(&format!("node_filesystem_{which}_bytes")).like("fstype", "ext[234]|xfs|btrfs|zfs")
            };
            let free = Expr::from(bytes("avail")).with(Operator::Divide, bytes("size"));
            (name::NODE_DISK, free.aggregate(Aggregation::Min, &by))
        }
    };
    let used = Expr::Number(1.0).with(Operator::Subtract, free);
    Form::new(used, name, &[])
}

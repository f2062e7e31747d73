//! What a Prometheus would call a metric and its labels:
//! <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/#otlp-metric-points-to-prometheus>.

use std::collections::BTreeMap;

/// A label's name in the alphabet of Prometheus.
pub(super) fn label(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(200).collect();
    if plain.starts_with(|c: char| c.is_ascii_digit()) { format!("key_{plain}") } else { plain }
}

/// What a metric counts, as far as its name shows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter,
    Other,
}

/// A metric's name with its unit and, of a counter, `_total`.
pub(super) fn named(name: &str, unit: &str, kind: Kind) -> String {
    let mut called: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == ':' { c } else { '_' }).take(200).collect();
    if called.starts_with(|c: char| c.is_ascii_digit()) {
        called.insert(0, '_');
    }
    let base = called.strip_suffix("_total").filter(|_| kind == Kind::Counter).unwrap_or(&called);
    let mut base = base.to_owned();
    let (of, per) = unit.split_once('/').unwrap_or((unit, ""));
    let of = match of {
        "1" if kind == Kind::Gauge && per.is_empty() => "ratio",
        other => word(other),
    };
    let suffix = match word(per) {
        "" => of.to_owned(),
        per => format!("{of}_per_{}", per.strip_suffix('s').unwrap_or(per)),
    };
    if !suffix.is_empty() && !base.ends_with(&suffix) {
        base = format!("{base}_{}", suffix.trim_start_matches('_'));
    }
    if kind == Kind::Counter { format!("{base}_total") } else { base }
}

/// A unit (UCUM) as Prometheus writes it; those that count things are left out.
fn word(unit: &str) -> &'static str {
    match unit {
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "min" => "minutes",
        "h" => "hours",
        "d" => "days",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "GiBy" => "gibibytes",
        "KBy" => "kilobytes",
        "MBy" => "megabytes",
        "GBy" => "gigabytes",
        "%" => "percent",
        "Cel" => "celsius",
        "Hz" => "hertz",
        "V" => "volts",
        "A" => "amperes",
        "W" => "watts",
        "J" => "joules",
        "m" => "meters",
        "g" => "grams",
        _ => "",
    }
}

/// What OpenTelemetry's own receivers of the kubelet and of the cluster count under other names than cAdvisor and kube-state-metrics
/// (`documentation.md` of `kubeletstatsreceiver` and `k8sclusterreceiver`).
pub(super) fn otherwise(name: &str, labels: &mut BTreeMap<String, String>) -> Option<&'static str> {
    let mut with = |pairs: [(&str, &str); 2]| {
        labels.extend(pairs.map(|(label, value)| (label.to_owned(), value.to_owned())));
        "kube_pod_container_resource_limits"
    };
    match name {
        "k8s.container.cpu_limit" => return Some(with([("resource", "cpu"), ("unit", "core")])),
        "k8s.container.memory_limit" => return Some(with([("resource", "memory"), ("unit", "byte")])),
        _ => {}
    }
    let direction = labels.get("direction").map(String::as_str);
    match (name, direction) {
        ("container.cpu.time", _) => Some("container_cpu_usage_seconds_total"),
        ("container.memory.working_set", _) => Some("container_memory_working_set_bytes"),
        ("container.filesystem.usage", _) => Some("container_fs_usage_bytes"),
        ("k8s.container.restarts", _) => Some("kube_pod_container_status_restarts_total"),
        ("k8s.pod.network.io", Some("receive")) => Some("container_network_receive_bytes_total"),
        ("k8s.pod.network.io", Some("transmit")) => Some("container_network_transmit_bytes_total"),
        ("k8s.pod.network.errors", Some("receive")) => Some("container_network_receive_errors_total"),
        ("k8s.pod.network.errors", Some("transmit")) => Some("container_network_transmit_errors_total"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_their_unit_once_and_counters_end_in_total() {
        for (name, unit, kind, wanted) in [
            ("http.server.request.duration", "s", Kind::Other, "http_server_request_duration_seconds"),
            ("http_requests_total", "", Kind::Counter, "http_requests_total"),
            ("container_memory_working_set_bytes", "By", Kind::Gauge, "container_memory_working_set_bytes"),
            ("process.cpu.time", "s", Kind::Counter, "process_cpu_time_seconds_total"),
            ("jvm.cpu.utilization", "1", Kind::Gauge, "jvm_cpu_utilization_ratio"),
            ("db.client.connection.count", "{connection}", Kind::Other, "db_client_connection_count"),
            ("disk.speed", "By/s", Kind::Gauge, "disk_speed_bytes_per_second"),
        ] {
            assert_eq!(named(name, unit, kind), wanted);
        }
    }
}

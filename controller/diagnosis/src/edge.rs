//! What meshes, proxies and eBPF agents count on the way between two ends, under the names that they use.
//!
//! Sources: Istio's standard metrics (<https://istio.io/latest/docs/reference/config/metrics/>) with the response flags of Envoy
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>), Envoy's cluster statistics
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/upstream/cluster_manager/cluster_stats>), Linkerd's proxy metrics
//! (<https://linkerd.io/2/reference/proxy-metrics/>), Hubble's (`pkg/hubble/metrics/{drop,flow,tcp}` of
//! <https://github.com/cilium/cilium>) with namespaces and workloads as context labels, Coroot's node agent
//! (`containers/metrics.go` of <https://github.com/coroot/coroot-node-agent>, read at 02681c1a), cAdvisor and the node exporter.

use crate::align::Aligner;
use crate::entity::Entity;
use crate::evidence::Series;
use crate::metric::name_of;

/// Label of a series that a store made a rate of already: value `second`.
pub const PER: &str = "per";

/// Packets of a pod that were dropped or came damaged, all directions and reasons together, by second.
pub const POD_PACKETS_LOST: &str = "podPacketsLost";

/// Which part of a call was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Calls with an answer or without, as the caller's proxy sees them.
    Requests,
    Connections,
    /// The first packet of a connection and the answer to it.
    Handshakes,
    /// Packets or segments: what the kernel or the card saw.
    Packets,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    Arrived,
    Lost,
    /// A network policy forbids it: that is no loss.
    Refused,
    /// An attempt, whose answer is counted on its own.
    Tried,
    /// The answer to an attempt, from the called to the caller.
    Answered,
}

/// How labels tell an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A label with the namespace (none: empty), and labels with the name, the more telling first.
    Named(&'static str, &'static [&'static str]),
    /// A path `/k8s/NAMESPACE/POD/CONTAINER`.
    Path(&'static str),
    /// An address with its port; the one that a Service was translated to stands first.
    Address(&'static [&'static str]),
    /// An upstream cluster of Envoy, `outbound|PORT|SUBSET|HOST` or a name; Istio calls the label otherwise.
    Upstream(&'static [&'static str]),
    /// There is no second end: a pod or a node counts for itself.
    Nowhere,
}

/// A counter of what became of something on its way.
#[derive(Debug)]
pub struct EdgeCount {
    pub metric: &'static str,
    /// Who counts; the counts of two are never mixed.
    pub agent: &'static str,
    pub way: Way,
    /// Labels that pick one of several counts of the same thing: those of the calling side.
    pub only: &'static [(&'static str, &'static str)],
    pub from: End,
    pub to: End,
    /// Labels that say what became of it, the first that is there; none: the metric says it.
    pub outcome: &'static [&'static str],
    became: fn(&str) -> Option<Became>,
    /// Whether it tells of losses: only such counts are worth asking a store for.
    pub tells_losses: bool,
}

const ISTIO_FROM: End = End::Named("source_workload_namespace", &["source_workload"]);
const ISTIO_TO: End = End::Named("destination_workload_namespace", &["destination_workload"]);
const LINKERD_FROM: End = End::Named("namespace", &["deployment", "statefulset", "pod"]);
const LINKERD_TO: End = End::Named("dst_namespace", &["dst_deployment", "dst_statefulset", "dst_pod"]);
const ENVOY_FROM: End = End::Named("namespace", &["pod"]);
const ENVOY_TO: End = End::Upstream(&["envoy_cluster_name", "cluster_name"]);
const HUBBLE_FROM: End = End::Named("source_namespace", &["source_workload", "source_pod", "source"]);
const HUBBLE_TO: End = End::Named("destination_namespace", &["destination_workload", "destination_pod", "destination"]);
const COROOT_FROM: End = End::Path("container_id");
const COROOT_TO: End = End::Address(&["actual_destination", "destination"]);
const POD: End = End::Named("namespace", &["pod"]);
const NODE: End = End::Named("", &["node", "instance"]);

/// Everything that is known; of one way, the agents that see most stand first.
pub static EDGE_COUNTS: [EdgeCount; 19] = [
    count("istio_requests_total", "Istio", Way::Requests, ISTIO_FROM, ISTIO_TO)
        .only(&[("reporter", "source")])
        .by(&["response_flags"], of_flags),
    count("response_total", "Linkerd", Way::Requests, LINKERD_FROM, LINKERD_TO)
        .only(&[("direction", "outbound")])
        .by(&["classification"], of_class),
    count("envoy_cluster_upstream_rq_timeout", "Envoy", Way::Requests, ENVOY_FROM, ENVOY_TO),
    count("envoy_cluster_upstream_rq_total", "Envoy", Way::Requests, ENVOY_FROM, ENVOY_TO).arrived(),
    count("istio_tcp_connections_closed_total", "Istio", Way::Connections, ISTIO_FROM, ISTIO_TO)
        .only(&[("reporter", "source")])
        .by(&["response_flags"], of_flags),
    count("tcp_close_total", "Linkerd", Way::Connections, LINKERD_FROM, LINKERD_TO)
        .only(&[("direction", "outbound"), ("peer", "dst")])
        .by(&["errno", "classification"], of_close),
    count("envoy_cluster_upstream_cx_connect_fail", "Envoy", Way::Connections, ENVOY_FROM, ENVOY_TO),
    count("envoy_cluster_upstream_cx_total", "Envoy", Way::Connections, ENVOY_FROM, ENVOY_TO).arrived(),
    count("container_net_tcp_failed_connects_total", "Coroot", Way::Connections, COROOT_FROM, COROOT_TO),
    count("container_net_tcp_successful_connects_total", "Coroot", Way::Connections, COROOT_FROM, COROOT_TO).arrived(),
    count("hubble_tcp_flags_total", "Hubble", Way::Handshakes, HUBBLE_FROM, HUBBLE_TO).by(&["flag"], of_tcp_flag),
    count("hubble_drop_total", "Hubble", Way::Packets, HUBBLE_FROM, HUBBLE_TO).by(&["reason"], of_reason),
    count("hubble_flows_processed_total", "Hubble", Way::Packets, HUBBLE_FROM, HUBBLE_TO)
        .by(&["verdict"], of_verdict)
        .only_compared(),
    count("container_net_tcp_retransmits_total", "Coroot", Way::Packets, COROOT_FROM, COROOT_TO),
    count(POD_PACKETS_LOST, "cAdvisor", Way::Packets, POD, End::Nowhere),
    count("container_network_receive_packets_dropped_total", "cAdvisor", Way::Packets, POD, End::Nowhere),
    count("container_network_transmit_packets_dropped_total", "cAdvisor", Way::Packets, POD, End::Nowhere),
    count("node_netstat_Tcp_RetransSegs", "the node exporter", Way::Packets, NODE, End::Nowhere),
    count("node_netstat_Tcp_OutSegs", "the node exporter", Way::Packets, NODE, End::Nowhere).arrived(),
];

const fn count(metric: &'static str, agent: &'static str, way: Way, from: End, to: End) -> EdgeCount {
    EdgeCount { metric, agent, way, only: &[], from, to, outcome: &[], became: lost, tells_losses: true }
}

impl EdgeCount {
    const fn only(mut self, only: &'static [(&'static str, &'static str)]) -> Self {
        self.only = only;
        self
    }

    const fn by(mut self, outcome: &'static [&'static str], became: fn(&str) -> Option<Became>) -> Self {
        self.outcome = outcome;
        self.became = became;
        self
    }

    const fn arrived(mut self) -> Self {
        self.became = arrived;
        self.tells_losses = false;
        self
    }

    const fn only_compared(mut self) -> Self {
        self.tells_losses = false;
        self
    }

    /// Every label that it needs, those of the ends first.
    pub fn labels(&self) -> Vec<&'static str> {
        let mut labels = self.from.labels();
        labels.extend(self.to.labels());
        labels.extend(self.outcome);
        labels
    }
}

/// The count that a series is of; `None` for series of anything else, and for the called side's count of the same calls.
pub fn counted(series: &Series) -> Option<&'static EdgeCount> {
    let name = name_of(&series.labels);
    let known = EDGE_COUNTS.iter().find(|one| one.metric == name)?;
    // A store that was asked for one side only need not say which.
    let picked = |(label, value): &(&str, &str)| series.labels.get(*label).is_none_or(|told| told == value);
    (known.only.iter().all(picked) && (known.to == End::Nowhere || known.to.told(series).is_some())).then_some(known)
}

impl EdgeCount {
    /// What became of what this series counts; `None` for what is neither a loss nor an arrival, as a refused connection: that is
    /// an answer.
    pub fn became(&self, series: &Series) -> Option<Became> {
        let told = self.outcome.iter().find_map(|label| series.labels.get(*label)).map_or("", String::as_str);
        (self.became)(told)
    }

    /// The ends by their one name.
    pub fn ends(&self, series: &Series, aligner: &Aligner) -> [Option<Entity>; 2] {
        [self.from, self.to].map(|end| end.told(series).and_then(|told| told.aligned(aligner)))
    }
}

/// An end as a series tells it.
struct ToldEnd<'s> {
    namespace: &'s str,
    name: &'s str,
}

impl ToldEnd<'_> {
    fn aligned(&self, aligner: &Aligner) -> Option<Entity> {
        match self.namespace {
            "" => aligner.source(self.name),
            namespace => aligner.named(namespace, self.name.rsplit('/').next().unwrap_or(self.name)),
        }
    }
}

impl End {
    fn labels(self) -> Vec<&'static str> {
        match self {
            Self::Named("", names) | Self::Address(names) | Self::Upstream(names) => names.to_vec(),
            Self::Named(namespace, names) => std::iter::once(namespace).chain(names.iter().copied()).collect(),
            Self::Path(label) => vec![label],
            Self::Nowhere => Vec::new(),
        }
    }

    fn told(self, series: &Series) -> Option<ToldEnd<'_>> {
        let label = |label: &str| series.labels.get(label).map(String::as_str).filter(|told| !told.is_empty());
        let first = |labels: &[&str]| labels.iter().find_map(|one| label(one)).filter(|told| *told != "unknown");
        match self {
            Self::Named(namespace, names) => {
                Some(ToldEnd { namespace: label(namespace).unwrap_or(""), name: first(names)? })
            }
            Self::Path(path) => {
                let (namespace, rest) = label(path)?.strip_prefix("/k8s/")?.split_once('/')?;
                Some(ToldEnd { namespace, name: rest.split('/').next()? })
            }
            Self::Address(labels) => Some(ToldEnd { namespace: "", name: first(labels)? }),
            Self::Upstream(labels) => {
                let cluster = first(labels)?;
                let host = match cluster.strip_prefix("outbound|") {
                    Some(parts) => parts.rsplit('|').next()?,
                    // What the proxy passes on to its own application is no way between two.
                    None if cluster.starts_with("inbound|") => return None,
                    None => cluster,
                };
                // `cart.shop.svc.cluster.local`: the second part is the namespace.
                let mut parts = host.split('.');
                let (name, namespace, mark) = (parts.next()?, parts.next().unwrap_or(""), parts.next());
                match mark {
                    Some("svc") => Some(ToldEnd { namespace, name }),
                    _ => Some(ToldEnd { namespace: "", name: host }),
                }
            }
            Self::Nowhere => None,
        }
    }
}

fn lost(_: &str) -> Option<Became> {
    Some(Became::Lost)
}

fn arrived(_: &str) -> Option<Became> {
    Some(Became::Arrived)
}

/// Envoy's response flags: an upstream that could not be reached, ended the connection, reset it or did not answer in time, and
/// what is left when all tries ended so. That the caller went away (`DC`), that there is no route (`NR`) or no healthy host (`UH`),
/// and what a rule did (`RL`, `FI`) is no loss on the way.
fn of_flags(told: &str) -> Option<Became> {
    const LOST: [&str; 6] = ["UF", "UC", "UT", "UR", "URX", "LR"];
    match told {
        "" | "-" => Some(Became::Arrived),
        told => told.split(',').any(|flag| LOST.contains(&flag.trim())).then_some(Became::Lost),
    }
}

fn of_class(told: &str) -> Option<Became> {
    match told {
        "failure" => Some(Became::Lost),
        _ => Some(Became::Arrived),
    }
}

/// How a connection ended: by the error of the operating system, as older proxies by a class.
fn of_close(told: &str) -> Option<Became> {
    match told {
        "" | "success" => Some(Became::Arrived),
        // A refusal is an answer.
        "ECONNREFUSED" => None,
        _ => Some(Became::Lost),
    }
}

fn of_tcp_flag(told: &str) -> Option<Became> {
    match told {
        "SYN" => Some(Became::Tried),
        "SYN-ACK" => Some(Became::Answered),
        _ => None,
    }
}

/// Why Cilium dropped a packet: the names of its `DropReason`, in older releases as words.
fn of_reason(told: &str) -> Option<Became> {
    let told = told.to_ascii_uppercase().replace(' ', "_");
    /// Protocols that nobody speaks here, and ends that are gone: neither is the way.
    const ELSEWHERE: [&str; 4] =
        ["UNSUPPORTED_L2_PROTOCOL", "UNSUPPORTED_L3_PROTOCOL", "STALE_OR_UNROUTABLE_IP", "SERVICE_BACKEND_NOT_FOUND"];
    match told.as_str() {
        policy if policy.contains("POLICY") || policy.contains("AUTH_REQUIRED") => Some(Became::Refused),
        elsewhere if ELSEWHERE.contains(&elsewhere) => None,
        _ => Some(Became::Lost),
    }
}

fn of_verdict(told: &str) -> Option<Became> {
    // What is dropped is counted with its reason elsewhere.
    (told == "FORWARDED").then_some(Became::Arrived)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(labels: &[(&str, &str)]) -> Series {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Series { labels, samples: Vec::new(), asked: String::new() }
    }

    fn told(metric: &str, labels: &[(&str, &str)]) -> Option<Became> {
        let series = series(&[&[("__name__", metric)], labels].concat());
        counted(&series)?.became(&series)
    }

    #[test]
    fn what_became_of_a_request_is_read_from_its_flags() {
        let flags = |told_flags: &str| {
            told(
                "istio_requests_total",
                &[("reporter", "source"), ("destination_workload", "cart"), ("response_flags", told_flags)],
            )
        };
        for (lost, what) in [("UF", true), ("UF,URX", true), ("UC", true), ("UT", true), ("-", false)] {
            assert_eq!(flags(lost), Some(if what { Became::Lost } else { Became::Arrived }), "{lost}");
        }
        for neither in ["NR", "DC", "UH", "RL", "FI", "UO"] {
            assert_eq!(flags(neither), None, "{neither}");
        }
        let called = [("reporter", "destination"), ("destination_workload", "cart"), ("response_flags", "UF")];
        assert!(told("istio_requests_total", &called).is_none(), "the called side counts the same calls once more");
    }

    #[test]
    fn a_policy_that_forbids_is_no_loss_and_neither_is_a_refused_connection() {
        let reason = |reason| told("hubble_drop_total", &[("destination_workload", "cart"), ("reason", reason)]);
        assert_eq!(reason("POLICY_DENIED"), Some(Became::Refused));
        assert_eq!(reason("Policy denied"), Some(Became::Refused));
        assert_eq!(reason("CT_MAP_INSERTION_FAILED"), Some(Became::Lost));
        assert_eq!(reason("UNSUPPORTED_L3_PROTOCOL"), None);
        let closed = |errno| {
            let of = [("direction", "outbound"), ("peer", "dst"), ("dst_deployment", "cart"), ("errno", errno)];
            told("tcp_close_total", &of)
        };
        assert_eq!(closed("ETIMEDOUT"), Some(Became::Lost));
        assert_eq!((closed("ECONNREFUSED"), closed("")), (None, Some(Became::Arrived)));
    }

    #[test]
    fn ends_are_read_in_every_form() {
        let upstream = |name: &str| {
            let of = series(&[("envoy_cluster_name", name)]);
            ENVOY_TO.told(&of).map(|end| format!("{}/{}", end.namespace, end.name))
        };
        assert_eq!(upstream("outbound|8080||cart.shop.svc.cluster.local").as_deref(), Some("shop/cart"));
        assert_eq!(upstream("cart").as_deref(), Some("/cart"));
        assert_eq!(upstream("outbound|443||api.example.org").as_deref(), Some("/api.example.org"));
        assert_eq!(upstream("inbound|8080||"), None);
        let of = series(&[("container_id", "/k8s/shop/cart-5d8f7c9b6d-x2x4q/app")]);
        let path = COROOT_FROM.told(&of).map(|end| (end.namespace.to_owned(), end.name.to_owned()));
        assert_eq!(path, Some(("shop".to_owned(), "cart-5d8f7c9b6d-x2x4q".to_owned())));
        assert!(COROOT_FROM.told(&series(&[("container_id", "/system.slice/sshd.service")])).is_none());
    }
}

//! Who calls whom, out of whatever tells it: traces, service-graph metrics, a mesh.

use std::collections::{BTreeMap, BTreeSet};

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{LinkKind, Series, Span, TopologyEdge};

use crate::families::PodForm;
use crate::source::SourceError;

/// A service or workload as telemetry names it. Which object it is, is found out by the diagnosis.
pub(crate) fn named(namespace: &str, name: &str) -> Entity {
    Entity::new(EntityKind::Unaligned, namespace, name)
}

/// Edges, each once, in order.
///
/// # Errors
/// No edge at all: a store that saw no call can say of nobody that nothing depends on it.
pub(crate) fn edges(pairs: BTreeSet<(Entity, Entity)>) -> Result<Vec<TopologyEdge>, SourceError> {
    if pairs.is_empty() {
        return Err(SourceError::NoCalls);
    }
    Ok(pairs.into_iter().map(|(from, to)| TopologyEdge { from, to, kind: LinkKind::Calls }).collect())
}

/// Pairs of services where a span of the one is the parent of a span of the other.
pub(crate) fn traced(spans: &[Span]) -> BTreeSet<(Entity, Entity)> {
    let services: BTreeMap<(&str, &str), &str> =
        spans.iter().map(|span| ((span.trace_id.as_str(), span.span_id.as_str()), span.service.as_str())).collect();
    spans
        .iter()
        .filter_map(|span| {
            let caller = services.get(&(span.trace_id.as_str(), span.parent_id.as_deref()?))?;
            (*caller != span.service).then(|| (of_span(caller), of_span(&span.service)))
        })
        .collect()
}

/// A service as its spans name it: `namespace/name`, or the name alone.
fn of_span(service: &str) -> Entity {
    let (namespace, name) = service.split_once('/').unwrap_or(("", service));
    named(namespace, name)
}

/// A metric that counts calls by who calls whom.
#[derive(Debug)]
pub(crate) struct CallMetric {
    pub metric: &'static str,
    /// Labels of the caller's namespace (empty: none) and name.
    pub from: [&'static str; 2],
    /// The same of the called.
    pub to: [&'static str; 2],
}

/// What is commonly there: the service graph of Tempo's metrics generator, of OpenTelemetry's connector and of Beyla
/// (<https://grafana.com/docs/tempo/latest/metrics-generator/service_graphs/>), Istio's standard metrics
/// (<https://istio.io/latest/docs/reference/config/metrics/>), Linkerd's outbound requests
/// (<https://linkerd.io/2/reference/proxy-metrics/>) and Hubble's with workloads as context labels
/// (<https://docs.cilium.io/en/stable/observability/metrics/#httpv2>).
///
/// Coroot's node agent names the caller by the path of its container and the called by its address, before and after the
/// translation of a Service's (`containers/l7.go` of <https://github.com/coroot/coroot-node-agent>, read at 15e3563b); whose
/// address it is, the objects of the cluster tell.
pub(crate) const CALL_METRICS: [CallMetric; 6] = [
    CallMetric { metric: "traces_service_graph_request_total", from: ["", "client"], to: ["", "server"] },
    CallMetric {
        metric: "istio_requests_total",
        from: ["source_workload_namespace", "source_workload"],
        to: ["destination_workload_namespace", "destination_workload"],
    },
    // Inbound requests have no `dst_deployment`, so they name no second end.
    CallMetric { metric: "request_total", from: ["namespace", "deployment"], to: ["dst_namespace", "dst_deployment"] },
    CallMetric {
        metric: "hubble_http_requests_total",
        from: ["source_namespace", "source_workload"],
        to: ["destination_namespace", "destination_workload"],
    },
    CallMetric { metric: "container_http_requests_total", from: ["", PATH], to: ["", ADDRESS] },
    CallMetric { metric: "container_net_tcp_successful_connects_total", from: ["", PATH], to: ["", ADDRESS] },
];

/// Labels of Coroot's node agent that tell an end in a form of their own.
const PATH: &str = "container_id";
const ADDRESS: &str = "actual_destination";

impl CallMetric {
    pub fn labels(&self) -> [&'static str; 4] {
        [self.from[0], self.from[1], self.to[0], self.to[1]]
    }

    /// The pairs among series with a call in them.
    pub fn pairs(&self, found: &[Series]) -> BTreeSet<(Entity, Entity)> {
        let end = |series: &Series, [namespace, name]: [&str; 2]| {
            let told = series.labels.get(name).filter(|name| !name.is_empty() && *name != "unknown")?;
            match name {
                PATH => PodForm::Path.read(told).map(|(namespace, pod)| named(namespace, pod)),
                ADDRESS => told.rsplit_once(':').map(|(host, _)| named("", host.trim_matches(['[', ']']))),
                _ => Some(named(series.labels.get(namespace).map_or("", String::as_str), told)),
            }
        };
        let called = |series: &&Series| series.samples.iter().any(|(_, rate)| *rate > 0.0);
        found
            .iter()
            .filter(called)
            .filter_map(|series| Some((end(series, self.from)?, end(series, self.to)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(labels: &[(&str, &str)], rate: f64) -> Series {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Series { labels, samples: vec![(1.0, rate)], asked: String::new() }
    }

    #[test]
    fn only_calls_that_happened_between_known_ends_count() {
        let found = [
            series(&[("client", "frontend"), ("server", "checkout")], 2.0),
            series(&[("client", "frontend"), ("server", "cart")], 0.0),
            series(&[("client", ""), ("server", "frontend")], 9.0),
        ];
        let pairs = CALL_METRICS[0].pairs(&found);
        assert_eq!(pairs.into_iter().collect::<Vec<_>>(), [(named("", "frontend"), named("", "checkout"))]);
    }

    #[test]
    fn a_container_and_an_address_are_two_ends() {
        let found = [
            series(&[(PATH, "/k8s/shop/cart-5d8f7c9b6d-x2x4q/app"), (ADDRESS, "10.42.0.7:8080")], 3.0),
            series(&[(PATH, "/k8s/shop/cart-5d8f7c9b6d-x2x4q/app"), (ADDRESS, "[fd00::7]:8080")], 3.0),
            series(&[(PATH, "/system.slice/sshd.service"), (ADDRESS, "10.42.0.7:8080")], 3.0),
        ];
        let pairs: Vec<_> = CALL_METRICS[4].pairs(&found).into_iter().collect();
        let cart = named("shop", "cart-5d8f7c9b6d-x2x4q");
        assert_eq!(pairs, [(cart.clone(), named("", "10.42.0.7")), (cart, named("", "fd00::7"))]);
    }

    #[test]
    fn no_call_at_all_is_not_an_empty_answer() {
        assert!(edges(BTreeSet::new()).is_err());
    }
}

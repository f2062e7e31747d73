//! What agents count between two ends as PromQL: one form for each agent, in its own names.

use amend_diagnosis::edge::{EDGE_COUNTS, EdgeCount, End, PER, Way};
use jiff::SignedDuration;

use super::{Form, only};
use crate::families::PodForm;
use crate::mapping::Mapping;
use crate::promql::{Aggregation, OverTime, Selector};
use crate::questions::Selection;

/// Counts of losses of one way; the agents that see most stand first.
pub(super) fn forms(mapping: &Mapping, of: &Selection, rate: SignedDuration, way: Way) -> Vec<Form> {
    let asked = EDGE_COUNTS.iter().filter(|count| count.way == way && count.tells_losses && count.to != End::Nowhere);
    asked.filter_map(|count| form(mapping, of, rate, count)).collect()
}

fn form(mapping: &Mapping, of: &Selection, rate: SignedDuration, count: &'static EdgeCount) -> Option<Form> {
    let all = only(Selector::metric(count.metric), mapping);
    let all = count.only.iter().fold(all, |selector, (label, value)| selector.is(label, value));
    let mut by = count.labels();
    let mut labels: Vec<(&str, &'static str)> = Vec::new();
    let callers = match count.from {
        // Labels that the scraping adds, not the agent: as the store's mapping calls them.
        End::Named("namespace", &["pod"]) => {
            labels.extend([(mapping.namespace.as_str(), "namespace"), (mapping.pod.as_str(), "pod")]);
            by.retain(|label| !["namespace", "pod"].contains(label));
            all.is(&mapping.namespace, &of.namespace).like(&mapping.pod, &of.pods)
        }
        End::Named(namespace, _) => all.is(namespace, &of.namespace),
        End::Path(label) => all.like(label, &PodForm::Path.expression(&of.namespace, &of.pods)),
        End::Address(_) | End::Upstream(_) | End::Nowhere => return None,
    };
    let theirs = labels.iter().map(|(theirs, _)| *theirs);
    let by: Vec<&str> = theirs.chain(by.iter().copied()).collect();
    let query = callers.over(OverTime::Rate, rate).aggregate(Aggregation::Sum, &by);
    Some(Form { fixed: Some((PER, "second")), ..Form::new(query, count.metric, &labels) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queries(mapping: &Mapping, way: Way) -> Vec<String> {
        let of = Selection { pods: "cart-.+".to_owned(), ..Selection::everything("shop") };
        let forms = forms(mapping, &of, SignedDuration::from_secs(60), way);
        forms.iter().map(|form| form.query.to_string()).collect()
    }

    #[test]
    fn each_agent_is_asked_for_the_calling_side_in_its_own_names() {
        let requests = queries(&Mapping::default(), Way::Requests);
        assert_eq!(
            requests[0],
            "sum by (source_workload_namespace, source_workload, destination_workload_namespace, destination_workload, \
             response_flags) (rate(istio_requests_total{reporter=\"source\",source_workload_namespace=\"shop\"}[1m]))"
        );
        assert_eq!(requests.len(), 3, "Istio, Linkerd and Envoy: {requests:?}");
        let packets = queries(&Mapping::default(), Way::Packets);
        assert!(packets[0].contains("hubble_drop_total{source_namespace=\"shop\"}"), "{packets:?}");
        assert!(packets[1].contains("container_id=~\"/k8s/shop/(?:cart-.+)/[^/]+\""), "{packets:?}");
        assert_eq!(packets.len(), 2, "pods and nodes have no second end, and what arrives is no loss: {packets:?}");
        assert_eq!(queries(&Mapping::default(), Way::Handshakes).len(), 1);
    }

    #[test]
    fn labels_of_the_scraping_go_by_the_mapping_and_come_back_under_our_names() {
        let mapping = Mapping { namespace: "ns".to_owned(), pod: "pod_name".to_owned(), ..Mapping::default() };
        let connections = queries(&mapping, Way::Connections);
        let envoy = connections.iter().find(|query| query.contains("connect_fail")).unwrap();
        assert_eq!(
            envoy,
            "sum by (ns, pod_name, envoy_cluster_name, cluster_name) \
             (rate(envoy_cluster_upstream_cx_connect_fail{ns=\"shop\",pod_name=~\"cart-.+\"}[1m]))"
        );
    }
}

//! Questions about containers, in the names of cAdvisor and kube-state-metrics.

use amend_diagnosis::edge;
use amend_diagnosis::metric::{finer, name};
use jiff::SignedDuration;

use super::{Form, only};
use crate::mapping::Mapping;
use crate::promql::{Aggregation, Expr, Operator, OverTime, Selector};
use crate::questions::{Resource, Selection};

/// What cAdvisor counts of packets that a pod never got or sent.
static PACKETS_LOST: [&str; 4] = [
    "container_network_receive_packets_dropped_total",
    "container_network_transmit_packets_dropped_total",
    "container_network_receive_errors_total",
    "container_network_transmit_errors_total",
];

/// What the questions have in common.
pub(super) struct Containers<'a> {
    pub of: &'a Selection,
    pub mapping: &'a Mapping,
    pub between: SignedDuration,
}

impl Containers<'_> {
    pub fn labels(&self) -> [(&str, &'static str); 3] {
        let mapping = self.mapping;
        [(&mapping.namespace, "namespace"), (&mapping.pod, "pod"), (&mapping.container, "container")]
    }

    pub fn by(&self) -> [&str; 3] {
        self.labels().map(|(theirs, _)| theirs)
    }

    pub fn selected(&self, metric: &str) -> Selector {
        let selector = only(Selector::metric(metric), self.mapping)
            .is(&self.mapping.namespace, &self.of.namespace)
            .like(&self.mapping.pod, &self.of.pods);
        match &self.of.container {
            Some(container) => selector.is(&self.mapping.container, container),
            None => selector,
        }
    }

    /// Without cAdvisor's sums over a pod (no container) and its pause containers (`POD`).
    pub fn running(&self, metric: &str) -> Selector {
        let selector = self.selected(metric);
        match self.of.container {
            Some(_) => selector,
            None => selector.is_not(&self.mapping.container, "").is_not(&self.mapping.container, "POD"),
        }
    }

    /// A restarted container leaves its old series behind for some minutes; the maximum joins them into one.
    pub fn per_container(&self, name: &'static str, of: Expr) -> Form {
        Form::new(of.aggregate(Aggregation::Max, &self.by()), name, &self.labels())
    }

    pub fn by_also(&self, name: &'static str, also: &[&str]) -> Form {
        let by: Vec<&str> = self.by().into_iter().chain(also.iter().copied()).collect();
        Form::new(Expr::from(self.selected(name)).aggregate(Aggregation::Max, &by), name, &self.labels())
    }

    /// What holds for moments only, as a reason to wait or a kill whose pod is replaced soon: seen between two samples, too.
    pub fn at_times(&self, name: &'static str, also: &str) -> Form {
        let by: Vec<&str> = self.by().into_iter().chain([also]).collect();
        let held = self.selected(name).over(OverTime::Max, self.between);
        Form::new(held.aggregate(Aggregation::Max, &by), name, &self.labels())
    }

    pub fn sum_rate(&self, metric: &str, rate: SignedDuration) -> Expr {
        self.running(metric).over(OverTime::Rate, rate).aggregate(Aggregation::Sum, &self.by())
    }

    pub fn pressure(&self, resource: Resource, rate: SignedDuration) -> Form {
        let waiting = self.sum_rate(&format!("container_pressure_{}_waiting_seconds_total", resource.name()), rate);
        let form = Form::new(waiting, finer::PRESSURE, &self.labels());
        Form { fixed: Some(("resource", resource.name())), ..form }
    }

    /// Per pod: its containers share one network.
    pub fn packets_lost(&self, rate: SignedDuration) -> Form {
        let by = [self.mapping.namespace.as_str(), self.mapping.pod.as_str()];
        let of = |metric| self.selected(metric).over(OverTime::Rate, rate).aggregate(Aggregation::Sum, &by);
        let [first, rest @ ..] = PACKETS_LOST;
        let all = rest.into_iter().fold(of(first), |all, metric| all.with(Operator::Add, of(metric)));
        let labels = [(by[0], "namespace"), (by[1], "pod")];
        Form { fixed: Some((edge::PER, "second")), ..Form::new(all, edge::POD_PACKETS_LOST, &labels) }
    }

    /// `last_over_time` bounds how old a sample may be: without it a store repeats the last one for five minutes.
    pub fn fullness(&self, fresh: SignedDuration) -> Form {
        let used = self.running(name::MEMORY).over(OverTime::Last, fresh);
        let limit = self.selected(name::LIMITS).is("resource", "memory").over(OverTime::Last, fresh);
        let share = used
            .aggregate(Aggregation::Max, &self.by())
            .with(Operator::Divide, limit.aggregate(Aggregation::Max, &self.by()));
        Form::new(share.aggregate(Aggregation::Max, &[]), super::FULLNESS, &[])
    }
}

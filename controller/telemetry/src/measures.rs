//! Each measure as PromQL, in the names that a store uses.

mod edges;

use amend_diagnosis::edge;
use amend_diagnosis::evidence::Series;
use amend_diagnosis::metric::{finer, name};
use jiff::SignedDuration;
use regex::Regex;

use crate::mapping::{Mapping, PodForm, RequestFamily, Unit};
use crate::promql::{Aggregation, Expr, Operator, OverTime, Selector};
use crate::questions::{Measure, Resource, Selection, SeriesQuestion};

/// One way to ask for a measure.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    pub query: Expr,
    /// What the answer is called: aggregation drops `__name__`.
    name: &'static str,
    /// Labels as the store calls them, and as we do.
    labels: Vec<(String, &'static str)>,
    /// Multiplies every sample, to get to our units.
    factor: f64,
    /// Codes that count as errors; such series get [`ERROR_LABEL`].
    errors: Option<Regex>,
    /// Labels whose values together are the one that we use, and what that is called.
    joined: Option<(&'static [&'static str], &'static str)>,
    /// A label that every series gets.
    fixed: Option<(&'static str, &'static str)>,
    /// How the label of the pod tells it.
    pod_form: PodForm,
}

/// Labels that tell one operation from another, as client libraries, OpenTelemetry and meshes call them; in the order in which
/// people say them: `POST /charge`.
static OPERATION: [&str; 15] = [
    "method",
    "http_method",
    "http_request_method",
    "route",
    "http_route",
    "path",
    "uri",
    "handler",
    "endpoint",
    "operation",
    "grpc_service",
    "rpc_service",
    "grpc_method",
    "rpc_method",
    "request_operation",
];

/// Labels that tell one version from another; one of them is enough.
static VERSION: [&str; 4] = ["version", "app_version", "service_version", "destination_version"];

/// What cAdvisor counts of packets that a pod never got or sent.
static PACKETS_LOST: [&str; 4] = [
    "container_network_receive_packets_dropped_total",
    "container_network_transmit_packets_dropped_total",
    "container_network_receive_errors_total",
    "container_network_transmit_errors_total",
];

/// Says `true` on requests that failed, whatever their codes mean in this store.
pub(crate) const ERROR_LABEL: &str = "error";

impl Form {
    fn new(query: Expr, name: &'static str, labels: &[(&str, &'static str)]) -> Self {
        let labels = labels.iter().map(|(theirs, ours)| ((*theirs).to_owned(), *ours)).collect();
        Self { query, name, labels, factor: 1.0, errors: None, joined: None, fixed: None, pod_form: PodForm::Name }
    }

    /// The store's answer in our names and units.
    pub fn normalised(&self, found: Vec<Series>, asked: &str) -> Vec<Series> {
        found
            .into_iter()
            .map(|mut series| {
                for (theirs, ours) in &self.labels {
                    if theirs != ours
                        && let Some(value) = series.labels.remove(theirs)
                    {
                        series.labels.insert((*ours).to_owned(), value);
                    }
                }
                if let Some((namespace, pod)) = series.labels.get("pod").and_then(|pod| self.pod_form.read(pod)) {
                    let (namespace, pod) = (namespace.to_owned(), pod.to_owned());
                    series.labels.extend([("namespace".to_owned(), namespace), ("pod".to_owned(), pod)]);
                }
                if let Some((labels, ours)) = self.joined {
                    let mut parts: Vec<String> =
                        labels.iter().filter_map(|label| series.labels.remove(*label)).collect();
                    parts.retain(|part| !part.is_empty());
                    parts.dedup();
                    if !parts.is_empty() {
                        series.labels.insert(ours.to_owned(), parts.join(" "));
                    }
                }
                if let Some((label, value)) = self.fixed {
                    series.labels.insert(label.to_owned(), value.to_owned());
                }
                series.labels.insert("__name__".to_owned(), self.name.to_owned());
                if let Some(errors) = &self.errors {
                    let failed = series.labels.get("code").is_some_and(|code| errors.is_match(code));
                    series.labels.insert(ERROR_LABEL.to_owned(), failed.to_string());
                }
                for sample in &mut series.samples {
                    sample.1 *= self.factor;
                }
                series.asked = asked.to_owned();
                series
            })
            .collect()
    }
}

/// The ways to ask, the likeliest first: a later one is tried when the earlier ones find no series at all.
///
/// `rate` is what counters grow over; `between` at least the time from one sample that is asked for to the next.
pub(crate) fn forms(
    question: &SeriesQuestion,
    mapping: &Mapping,
    rate: SignedDuration,
    between: SignedDuration,
) -> Vec<Form> {
    let of = &question.of;
    let containers = Containers { of, mapping, between };
    match question.measure {
        Measure::Memory => {
            vec![containers.per_container(name::MEMORY, containers.running(name::MEMORY).over(OverTime::Max, between))]
        }
        Measure::Cpu => vec![containers.per_container(name::CPU, Expr::from(containers.running(name::CPU)))],
        Measure::Throttling => {
            let share = containers
                .sum_rate("container_cpu_cfs_throttled_periods_total", rate)
                .with(Operator::Divide, containers.sum_rate("container_cpu_cfs_periods_total", rate));
            vec![Form::new(share, "container_cpu_throttled_ratio", &containers.labels())]
        }
        Measure::Limits => vec![containers.by_also(name::LIMITS, &["resource", "unit"])],
        Measure::Restarts => vec![containers.per_container(
            name::RESTARTS,
            // Bounded in age, so that a dead exporter does not look like a container that stays up.
            containers.selected(name::RESTARTS).over(OverTime::Last, rate),
        )],
        Measure::LastTerminated => {
            vec![containers.at_times(name::LAST_TERMINATED, "reason")]
        }
        Measure::Waiting => vec![containers.at_times(name::WAITING, "reason")],
        Measure::Images => vec![containers.by_also(name::IMAGES, &["image"])],
        Measure::MemoryFullness => vec![containers.fullness(rate)],
        Measure::Requests => requests(mapping, of, rate, By::Service),
        Measure::RequestsByPod => requests(mapping, of, rate, By::Pod),
        Measure::RequestsByOperation => requests(mapping, of, rate, By::Operation),
        Measure::RequestsByVersion => requests(mapping, of, rate, By::Version),
        Measure::LatencyP99 => latency(mapping, of, rate, By::Service),
        Measure::LatencyP99ByPod => latency(mapping, of, rate, By::Pod),
        Measure::LatencyP99ByOperation => latency(mapping, of, rate, By::Operation),
        Measure::LatencyP99ByVersion => latency(mapping, of, rate, By::Version),
        Measure::Pressure(resource) => vec![containers.pressure(resource, rate)],
        Measure::NodePressure(resource) => node_pressure(mapping, of, resource, rate),
        Measure::Edge(way) => edges::forms(mapping, of, rate, way),
        Measure::PodPackets => vec![containers.packets_lost(rate)],
    }
}

/// What requests are told apart by, besides the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Service,
    Pod,
    Operation,
    Version,
}

impl By {
    fn joined(self) -> Option<(&'static [&'static str], &'static str)> {
        match self {
            Self::Service | Self::Pod => None,
            Self::Operation => Some((OPERATION.as_slice(), finer::OPERATION)),
            Self::Version => Some((VERSION.as_slice(), finer::VERSION)),
        }
    }
}

/// By the node's own name, else by the address that was scraped, whose port says nothing.
fn node_pressure(mapping: &Mapping, of: &Selection, resource: Resource, rate: SignedDuration) -> Vec<Form> {
    let metric = format!("node_pressure_{}_waiting_seconds_total", resource.name());
    let with_port = format!("(?:{})(?::[0-9]+)?", of.pods);
    [("node", of.pods.as_str()), ("instance", with_port.as_str())]
        .map(|(label, names)| {
            let share = only(Selector::metric(&metric), mapping).like(label, names).over(OverTime::Rate, rate);
            let form = Form::new(share.aggregate(Aggregation::Max, &[label]), finer::PRESSURE, &[(label, "node")]);
            Form { fixed: Some(("resource", resource.name())), ..form }
        })
        .into()
}

/// Questions about containers: names of cAdvisor and kube-state-metrics.
struct Containers<'a> {
    of: &'a Selection,
    mapping: &'a Mapping,
    between: SignedDuration,
}

impl Containers<'_> {
    fn labels(&self) -> [(&str, &'static str); 3] {
        let mapping = self.mapping;
        [(&mapping.namespace, "namespace"), (&mapping.pod, "pod"), (&mapping.container, "container")]
    }

    fn by(&self) -> [&str; 3] {
        self.labels().map(|(theirs, _)| theirs)
    }

    fn selected(&self, metric: &str) -> Selector {
        let selector = only(Selector::metric(metric), self.mapping)
            .is(&self.mapping.namespace, &self.of.namespace)
            .like(&self.mapping.pod, &self.of.pods);
        match &self.of.container {
            Some(container) => selector.is(&self.mapping.container, container),
            None => selector,
        }
    }

    /// Without cAdvisor's sums over a pod (no container) and its pause containers (`POD`).
    fn running(&self, metric: &str) -> Selector {
        let selector = self.selected(metric);
        match self.of.container {
            Some(_) => selector,
            None => selector.is_not(&self.mapping.container, "").is_not(&self.mapping.container, "POD"),
        }
    }

    /// A restarted container leaves its old series behind for some minutes; the maximum joins them into one.
    fn per_container(&self, name: &'static str, of: Expr) -> Form {
        Form::new(of.aggregate(Aggregation::Max, &self.by()), name, &self.labels())
    }

    fn by_also(&self, name: &'static str, also: &[&str]) -> Form {
        let by: Vec<&str> = self.by().into_iter().chain(also.iter().copied()).collect();
        Form::new(Expr::from(self.selected(name)).aggregate(Aggregation::Max, &by), name, &self.labels())
    }

    /// What holds for moments only, as a reason to wait or a kill whose pod is replaced soon: seen between two samples, too.
    fn at_times(&self, name: &'static str, also: &str) -> Form {
        let by: Vec<&str> = self.by().into_iter().chain([also]).collect();
        let held = self.selected(name).over(OverTime::Max, self.between);
        Form::new(held.aggregate(Aggregation::Max, &by), name, &self.labels())
    }

    fn sum_rate(&self, metric: &str, rate: SignedDuration) -> Expr {
        self.running(metric).over(OverTime::Rate, rate).aggregate(Aggregation::Sum, &self.by())
    }

    fn pressure(&self, resource: Resource, rate: SignedDuration) -> Form {
        let waiting = self.sum_rate(&format!("container_pressure_{}_waiting_seconds_total", resource.name()), rate);
        let form = Form::new(waiting, finer::PRESSURE, &self.labels());
        Form { fixed: Some(("resource", resource.name())), ..form }
    }

    /// Per pod: its containers share one network.
    fn packets_lost(&self, rate: SignedDuration) -> Form {
        let by = [self.mapping.namespace.as_str(), self.mapping.pod.as_str()];
        let of = |metric| self.selected(metric).over(OverTime::Rate, rate).aggregate(Aggregation::Sum, &by);
        let [first, rest @ ..] = PACKETS_LOST;
        let all = rest.into_iter().fold(of(first), |all, metric| all.with(Operator::Add, of(metric)));
        let labels = [(by[0], "namespace"), (by[1], "pod")];
        Form { fixed: Some((edge::PER, "second")), ..Form::new(all, edge::POD_PACKETS_LOST, &labels) }
    }

    /// `last_over_time` bounds how old a sample may be: without it a store repeats the last one for five minutes.
    fn fullness(&self, fresh: SignedDuration) -> Form {
        let used = self.running(name::MEMORY).over(OverTime::Last, fresh);
        let limit = self.selected(name::LIMITS).is("resource", "memory").over(OverTime::Last, fresh);
        let share = used
            .aggregate(Aggregation::Max, &self.by())
            .with(Operator::Divide, limit.aggregate(Aggregation::Max, &self.by()));
        Form::new(share.aggregate(Aggregation::Max, &[]), "saturation", &[])
    }
}

/// How requests are picked out: by the name of the service, or by pods where the service goes by another name.
#[derive(Clone, Copy)]
enum PickedBy {
    Service,
    Pod,
}

fn picked(family: &RequestFamily, mapping: &Mapping, of: &Selection, metric: &str, by: PickedBy) -> Option<Selector> {
    let selector = only(Selector::metric(metric), mapping).is(&family.namespace, &of.namespace);
    let selector = family.only.iter().fold(selector, |selector, (label, value)| selector.is(label, value));
    match by {
        PickedBy::Service if !family.service.is_empty() => Some(selector.like(&family.service, &of.services)),
        PickedBy::Pod if !family.pod.is_empty() => {
            Some(selector.like(&family.pod, &family.pod_form.expression(&of.namespace, &of.pods)))
        }
        PickedBy::Service | PickedBy::Pod => None,
    }
}

fn ways(mapping: &Mapping) -> Vec<(RequestFamily, PickedBy)> {
    let both = [PickedBy::Service, PickedBy::Pod];
    mapping.families().into_iter().flat_map(|family| both.map(|by| (family.clone(), by))).collect()
}

/// Who the samples are about, as the family calls it.
fn about(family: &RequestFamily, by: By) -> Vec<(&str, &'static str)> {
    let mut labels = vec![(family.namespace.as_str(), "namespace"), (family.service.as_str(), "service")];
    // A path also tells the namespace, which nothing else does then.
    if by == By::Pod || family.pod_form == PodForm::Path {
        labels.push((family.pod.as_str(), "pod"));
    }
    labels
}

fn requests(mapping: &Mapping, of: &Selection, rate: SignedDuration, told_by: By) -> Vec<Form> {
    ways(mapping)
        .into_iter()
        .filter_map(|(family, by)| {
            let mut labels = about(&family, told_by);
            labels.push((&family.code, "code"));
            let finer = told_by.joined().map(|(labels, _)| labels).unwrap_or_default();
            let by_labels: Vec<&str> = labels.iter().map(|(theirs, _)| *theirs).chain(finer.iter().copied()).collect();
            let query = picked(&family, mapping, of, &family.requests, by)?
                .over(OverTime::Rate, rate)
                .aggregate(Aggregation::Sum, &by_labels);
            // The expression was checked when the mapping was read.
            let errors = Regex::new(&format!("^(?:{})$", family.error_codes)).ok()?;
            Some(Form {
                errors: Some(errors),
                joined: told_by.joined(),
                pod_form: family.pod_form,
                ..Form::new(query, name::REQUEST_RATE, &labels)
            })
        })
        .collect()
}

fn latency(mapping: &Mapping, of: &Selection, rate: SignedDuration, told_by: By) -> Vec<Form> {
    ways(mapping)
        .into_iter()
        .filter_map(|(family, by)| {
            let labels = about(&family, told_by);
            let finer = told_by.joined().map(|(labels, _)| labels).unwrap_or_default();
            let by_labels: Vec<&str> =
                labels.iter().map(|(theirs, _)| *theirs).chain(finer.iter().copied()).chain(["le"]).collect();
            let query = picked(&family, mapping, of, &format!("{}_bucket", family.duration), by)?
                .over(OverTime::Rate, rate)
                .aggregate(Aggregation::Sum, &by_labels)
                .quantile(0.99);
            let factor = match family.unit {
                Unit::Seconds => 1.0,
                Unit::Milliseconds => 0.001,
            };
            let pod_form = family.pod_form;
            Some(Form { factor, joined: told_by.joined(), pod_form, ..Form::new(query, name::LATENCY_P99, &labels) })
        })
        .collect()
}

/// Every latency histogram and every count of failed requests that may be there, in one expression: exemplars are looked up by
/// its selectors.
pub(crate) fn slow_or_failed(mapping: &Mapping, of: &Selection) -> Option<Expr> {
    let selectors = ways(mapping).into_iter().flat_map(|(family, by)| {
        let slow = picked(&family, mapping, of, &format!("{}_bucket", family.duration), by);
        let counted = picked(&family, mapping, of, &family.requests, by).filter(|_| !family.code.is_empty());
        let failed = counted.map(|counted| counted.like(&family.code, &family.error_codes));
        slow.into_iter().chain(failed)
    });
    selectors.map(Expr::from).reduce(|all, one| all.with(Operator::Or, one))
}

pub(crate) fn only(selector: Selector, mapping: &Mapping) -> Selector {
    mapping.only.iter().fold(selector, |selector, (label, value)| selector.is(label, value))
}

//! Each measure as PromQL, in the names that a store uses.

mod edges;
mod usage;

use std::collections::BTreeSet;

use amend_diagnosis::edge;
use amend_diagnosis::evidence::Series;
use amend_diagnosis::metric::{finer, name};
use jiff::SignedDuration;
use regex::Regex;

use crate::families::{ASKED_BLINDLY, PodForm, RequestFamily, ServiceForm, Unit};
use crate::mapping::Mapping;
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
    /// How requests tell whether they failed; such series get [`ERROR_LABEL`].
    failing: Option<Failing>,
    /// The metric that must be there, and how its family is called: of one family the first form that finds anything answers.
    /// `None`: asked whatever the store holds.
    pub of_family: Option<OfFamily>,
    /// Labels whose values together are the one that we use, and what that is called.
    joined: Option<(&'static [&'static str], &'static str)>,
    /// A label that every series gets.
    fixed: Option<(&'static str, &'static str)>,
    /// How the label of the pod tells it.
    pod_form: PodForm,
    /// Reads the name of the service out of its label.
    service_name: Option<Regex>,
    /// The namespace of every series, where no label tells it.
    namespace: Option<String>,
    /// What each series is called, by the name that the store gave it; a series without a name for it is left out.
    renamed: Option<fn(&str) -> Option<&'static str>>,
}

/// Which family a form asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OfFamily {
    /// Its place among those of the mapping.
    pub place: usize,
    /// The metric that is asked for.
    pub metric: String,
    /// Whether the metric must be known to be there: stores that know no such histograms refuse the question.
    pub native: bool,
}

impl OfFamily {
    /// Whether it is asked for: where the metric is there, and among the likeliest where the store does not say.
    pub fn is_worth_asking(&self, present: Option<&BTreeSet<String>>) -> bool {
        match present {
            Some(present) => present.contains(&self.metric),
            None => !self.native && self.place < ASKED_BLINDLY,
        }
    }
}

/// How the requests of a family tell whether they failed.
#[derive(Clone, Debug)]
struct Failing {
    /// Labels that may tell.
    labels: Vec<String>,
    errors: Regex,
}

impl Failing {
    /// Whether a request failed by any of its labels, and its code; the labels are taken away.
    fn read(&self, labels: &mut std::collections::BTreeMap<String, String>) -> (Failed, Option<String>) {
        let told: Vec<String> =
            self.labels.iter().filter_map(|label| labels.remove(label)).filter(|code| !code.is_empty()).collect();
        let failed = match told.iter().any(|code| self.errors.is_match(code)) {
            true => Failed::Yes,
            false if told.is_empty() => Failed::Untold,
            false => Failed::No,
        };
        (failed, told.into_iter().next())
    }
}

/// Whether requests failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    Yes,
    No,
    /// No label says how they ended: neither successes nor failures.
    Untold,
}

impl Failed {
    fn name(self) -> &'static str {
        match self {
            Self::Yes => "true",
            Self::No => "false",
            Self::Untold => "untold",
        }
    }

    /// What a series says; `None`: it counts no requests by how they ended.
    pub fn of(series: &Series) -> Option<Self> {
        let told = series.labels.get(ERROR_LABEL)?;
        [Self::Yes, Self::No, Self::Untold].into_iter().find(|failed| failed.name() == told)
    }
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

/// The name that the store gave a metric which goes by another here: two exporters may count the same thing.
const TOLD_AS: &str = "told_as";

/// Labels that tell one version from another; one of them is enough.
static VERSION: [&str; 4] = ["version", "app_version", "service_version", "destination_version"];

/// What cAdvisor counts of packets that a pod never got or sent.
static PACKETS_LOST: [&str; 4] = [
    "container_network_receive_packets_dropped_total",
    "container_network_transmit_packets_dropped_total",
    "container_network_receive_errors_total",
    "container_network_transmit_errors_total",
];

/// Says [`Failed`] of requests, whatever their codes mean in this store.
pub(crate) const ERROR_LABEL: &str = "error";

impl Form {
    fn new(query: Expr, name: &'static str, labels: &[(&str, &'static str)]) -> Self {
        let labels = labels.iter().map(|(theirs, ours)| ((*theirs).to_owned(), *ours)).collect();
        Self {
            query,
            name,
            labels,
            factor: 1.0,
            failing: None,
            of_family: None,
            joined: None,
            fixed: None,
            pod_form: PodForm::Name,
            service_name: None,
            namespace: None,
            renamed: None,
        }
    }

    /// The store's answer in our names and units.
    pub fn normalised(&self, found: Vec<Series>, asked: &str) -> Vec<Series> {
        found
            .into_iter()
            .filter_map(|mut series| {
                let name = match self.renamed {
                    Some(renamed) => {
                        let theirs = series.labels.get("__name__")?.clone();
                        series.labels.insert(TOLD_AS.to_owned(), theirs.clone());
                        renamed(&theirs)?
                    }
                    None => self.name,
                };
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
                series.labels.insert("__name__".to_owned(), name.to_owned());
                if let Some(service) = series.labels.get("service").and_then(|told| self.service_in(told)) {
                    series.labels.insert("service".to_owned(), service);
                }
                if let Some(namespace) = &self.namespace {
                    series.labels.insert("namespace".to_owned(), namespace.clone());
                }
                if let Some(failing) = &self.failing {
                    let (failed, code) = failing.read(&mut series.labels);
                    series.labels.insert(ERROR_LABEL.to_owned(), failed.name().to_owned());
                    series.labels.extend(code.map(|code| ("code".to_owned(), code)));
                }
                for sample in &mut series.samples {
                    sample.1 *= self.factor;
                }
                series.asked = asked.to_owned();
                Some(series)
            })
            .collect()
    }

    /// The name of the service in a label that tells more than that.
    fn service_in(&self, told: &str) -> Option<String> {
        let found = self.service_name.as_ref()?.captures(told)?;
        found.iter().skip(1).flatten().next().map(|name| name.as_str().to_owned())
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
        Measure::Runtime => usage::runtime(mapping, of),
        Measure::Disk => vec![usage::disk(mapping, of)],
        Measure::Network => vec![usage::network(mapping, of)],
        Measure::VolumeFullness => vec![usage::volumes(mapping, of)],
        Measure::NodeFullness(resource) => vec![usage::nodes(mapping, resource, rate)],
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
        PickedBy::Service if !family.service.is_empty() => {
            let services = family.service_form.expression(&of.namespace, &of.services);
            Some(selector.like(&family.service, &services.unwrap_or_else(|| of.services.clone())))
        }
        PickedBy::Pod if !family.pod.is_empty() => {
            Some(selector.like(&family.pod, &family.pod_form.expression(&of.namespace, &of.pods)))
        }
        PickedBy::Service | PickedBy::Pod => None,
    }
}

/// Every family by every way to pick its series, with its place among them. One that tells no pod says nothing of pods.
fn ways(mapping: &Mapping, told_by: By) -> impl Iterator<Item = (usize, RequestFamily, PickedBy)> {
    let both = [PickedBy::Service, PickedBy::Pod];
    let families = mapping.families().into_iter().enumerate();
    let families = families.filter(move |(_, family)| told_by != By::Pod || !family.pod.is_empty());
    families.flat_map(move |(place, family)| both.map(|by| (place, family.clone(), by)))
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

/// What every form of a family has in common.
fn of_family(form: Form, family: &RequestFamily, of: &Selection, told_by: By, asks: OfFamily) -> Form {
    let service_name = family.service_form.expression(&of.namespace, &of.services);
    Form {
        joined: told_by.joined(),
        pod_form: family.pod_form,
        // What the store could not read either would find nothing.
        service_name: service_name.and_then(|expression| Regex::new(&format!("^(?:{expression})$")).ok()),
        // A name that tells the namespace leaves no label that does.
        namespace: (family.service_form != ServiceForm::Name).then(|| of.namespace.clone()),
        of_family: Some(asks),
        ..form
    }
}

fn requests(mapping: &Mapping, of: &Selection, rate: SignedDuration, told_by: By) -> Vec<Form> {
    let mut forms = Vec::new();
    for (place, family, by) in ways(mapping, told_by) {
        let labels = about(&family, told_by);
        let finer = told_by.joined().map(|(labels, _)| labels).unwrap_or_default();
        let mut by_labels: Vec<&str> = labels.iter().map(|(theirs, _)| *theirs).chain(finer.iter().copied()).collect();
        by_labels.extend(family.codes.iter().map(String::as_str));
        // The expression was checked when the mapping was read.
        let Ok(errors) = Regex::new(&format!("^(?:{})$", family.error_codes)) else { continue };
        let failing = Failing { labels: family.codes.clone(), errors };
        let form = |query: Expr, metric: &str, native: bool| {
            let asks = OfFamily { place, metric: metric.to_owned(), native };
            let form = Form { failing: Some(failing.clone()), ..Form::new(query, name::REQUEST_RATE, &labels) };
            of_family(form, &family, of, told_by, asks)
        };
        if let Some(counted) = picked(&family, mapping, of, &family.requests, by) {
            let query = counted.over(OverTime::Rate, rate).aggregate(Aggregation::Sum, &by_labels);
            forms.push(form(query, &family.requests, false));
        }
        // Counted by the histogram alone, which may be a native one: it has no series of counts.
        if family.requests.strip_suffix("_count") == Some(&family.duration)
            && let Some(counted) = picked(&family, mapping, of, &family.duration, by)
        {
            let all = counted.over(OverTime::Rate, rate).aggregate(Aggregation::Sum, &by_labels);
            forms.push(form(all.histogram_count(), &family.duration, true));
        }
    }
    forms
}

fn latency(mapping: &Mapping, of: &Selection, rate: SignedDuration, told_by: By) -> Vec<Form> {
    let mut forms = Vec::new();
    for (place, family, by) in ways(mapping, told_by) {
        let labels = about(&family, told_by);
        let finer = told_by.joined().map(|(labels, _)| labels).unwrap_or_default();
        let by_labels: Vec<&str> = labels.iter().map(|(theirs, _)| *theirs).chain(finer.iter().copied()).collect();
        let factor = match family.unit {
            Unit::Seconds => 1.0,
            Unit::Milliseconds => 0.001,
        };
        let form = |query: Expr, metric: &str, native: bool| {
            let asks = OfFamily { place, metric: metric.to_owned(), native };
            let form = Form { factor, ..Form::new(query.quantile(0.99), name::LATENCY_P99, &labels) };
            of_family(form, &family, of, told_by, asks)
        };
        let buckets = format!("{}_bucket", family.duration);
        if let Some(timed) = picked(&family, mapping, of, &buckets, by) {
            let with_le: Vec<&str> = by_labels.iter().copied().chain(["le"]).collect();
            forms.push(form(timed.over(OverTime::Rate, rate).aggregate(Aggregation::Sum, &with_le), &buckets, false));
        }
        // A native histogram is one series without buckets (<https://prometheus.io/docs/specs/native_histograms/>).
        if let Some(timed) = picked(&family, mapping, of, &family.duration, by) {
            // A summary goes by the same name, and is no histogram.
            let timed = timed.is("quantile", "");
            let query = timed.over(OverTime::Rate, rate).aggregate(Aggregation::Sum, &by_labels);
            forms.push(form(query, &family.duration, true));
        }
    }
    forms
}

/// Every latency histogram and every count of failed requests that is there, in one expression: exemplars are looked up by its
/// selectors. `None` of `present`: what is there is not known, so the likeliest families are asked for.
pub(crate) fn slow_or_failed(mapping: &Mapping, of: &Selection, present: Option<&BTreeSet<String>>) -> Option<Expr> {
    let is_there = |place: usize, metric: &str| match present {
        Some(present) => present.contains(metric),
        None => place < ASKED_BLINDLY / 2,
    };
    let mut selectors = Vec::new();
    for (place, family, by) in ways(mapping, By::Service) {
        let buckets = format!("{}_bucket", family.duration);
        if is_there(place, &buckets) {
            selectors.extend(picked(&family, mapping, of, &buckets, by));
        }
        if is_there(place, &family.requests)
            && let Some(counted) = picked(&family, mapping, of, &family.requests, by)
        {
            let most = if present.is_some() { FAILED_BY_MAX } else { 1 };
            let labels = family.codes.iter().filter(|label| !label.is_empty()).take(most);
            // One of many forms of a code, where the question is about many families that may not be there.
            let errors = if present.is_none() && family.codes.len() > 1 { "5.." } else { family.error_codes.as_str() };
            selectors.extend(labels.map(|label| counted.clone().like(label, errors)));
        }
    }
    selectors.into_iter().map(Expr::from).reduce(|all, one| all.with(Operator::Or, one))
}

/// The names of all metrics that [`slow_or_failed`] may ask for.
pub(crate) fn slow_or_failed_names(mapping: &Mapping) -> BTreeSet<String> {
    let families = mapping.families().into_iter();
    families.flat_map(|family| [format!("{}_bucket", family.duration), family.requests]).collect()
}

/// Labels by which failed requests are looked up: each is one more selector, and the later ones are of gRPC.
const FAILED_BY_MAX: usize = 5;

pub(crate) fn only(selector: Selector, mapping: &Mapping) -> Selector {
    mapping.only.iter().fold(selector, |selector, (label, value)| selector.is(label, value))
}

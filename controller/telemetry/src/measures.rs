//! Each measure as PromQL, in the names that a store uses.

mod containers;
mod edges;
mod requests;
mod usage;

use std::collections::BTreeSet;

use amend_diagnosis::edge::{EDGE_COUNTS, POD_PACKETS_LOST};
use amend_diagnosis::evidence::Series;
use amend_diagnosis::metric::{finer, name};
use jiff::SignedDuration;
use regex::Regex;

use crate::families::{ASKED_BLINDLY, PodForm};
use crate::mapping::Mapping;
use crate::promql::{Aggregation, Expr, Operator, OverTime, Selector};
use crate::questions::{Measure, Resource, Selection, SeriesQuestion};

use containers::Containers;
use requests::{By, latency, requests};
pub(crate) use requests::{slow_or_failed, slow_or_failed_names};

/// What the share of throttled periods is called.
const THROTTLED: &str = "container_cpu_throttled_ratio";

/// What the fullest container of a selection is called.
const FULLNESS: &str = "saturation";

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

/// The name that the store gave a metric which goes by another here: two exporters may count the same thing.
const TOLD_AS: &str = "told_as";

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
            vec![Form::new(share, THROTTLED, &containers.labels())]
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

/// What the answers to a measure are called once they are ours, as [`gather`](crate::gather) hands them in.
pub(crate) fn told_as(measure: Measure) -> Vec<&'static str> {
    match measure {
        Measure::Memory => vec![name::MEMORY],
        Measure::Cpu => vec![name::CPU],
        Measure::Throttling => vec![THROTTLED],
        Measure::Limits => vec![name::LIMITS],
        Measure::Restarts => vec![name::RESTARTS],
        Measure::LastTerminated => vec![name::LAST_TERMINATED],
        Measure::Waiting => vec![name::WAITING],
        Measure::Images => vec![name::IMAGES],
        Measure::MemoryFullness => vec![FULLNESS],
        Measure::Requests => vec![name::REQUEST_RATE, name::ERROR_RATIO],
        Measure::RequestsByPod => {
            vec![name::REQUEST_RATE, name::ERROR_RATIO, finer::POD_REQUEST_RATE, finer::POD_ERROR_RATIO]
        }
        Measure::RequestsByOperation => vec![finer::OPERATION_REQUEST_RATE, finer::OPERATION_ERROR_RATIO],
        Measure::RequestsByVersion => vec![finer::VERSION_REQUEST_RATE, finer::VERSION_ERROR_RATIO],
        Measure::LatencyP99 => vec![name::LATENCY_P99],
        Measure::LatencyP99ByPod => vec![name::LATENCY_P99, finer::POD_LATENCY_P99],
        Measure::LatencyP99ByOperation => vec![finer::OPERATION_LATENCY_P99],
        Measure::LatencyP99ByVersion => vec![finer::VERSION_LATENCY_P99],
        Measure::Pressure(_) | Measure::NodePressure(_) => vec![finer::PRESSURE],
        Measure::Edge(way) => {
            let counts = EDGE_COUNTS.iter().filter(|count| count.way == way);
            counts.map(|count| count.metric).collect()
        }
        Measure::PodPackets => vec![POD_PACKETS_LOST],
        Measure::Runtime => usage::runtime_names(),
        Measure::Disk => usage::DISK.to_vec(),
        Measure::Network => usage::NETWORK.to_vec(),
        Measure::VolumeFullness => vec![name::VOLUME_FULLNESS],
        Measure::NodeFullness(Resource::Cpu) => vec![name::NODE_CPU],
        Measure::NodeFullness(Resource::Memory) => vec![name::NODE_MEMORY],
        Measure::NodeFullness(Resource::Io) => vec![name::NODE_DISK],
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

pub(crate) fn only(selector: Selector, mapping: &Mapping) -> Selector {
    mapping.only.iter().fold(selector, |selector, (label, value)| selector.is(label, value))
}

//! Questions about requests: how many, how they ended, how long they took; by the names of many libraries, meshes and proxies.

use std::collections::BTreeSet;

use amend_diagnosis::metric::{finer, name};
use jiff::SignedDuration;
use regex::Regex;

use super::{Failing, Form, OfFamily, only};
use crate::families::{ASKED_BLINDLY, PodForm, RequestFamily, ServiceForm, Unit};
use crate::mapping::Mapping;
use crate::promql::{Aggregation, Expr, Operator, OverTime, Selector};
use crate::questions::Selection;

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

/// Labels by which failed requests are looked up: each is one more selector, and the later ones are of gRPC.
const FAILED_BY_MAX: usize = 5;

/// What requests are told apart by, besides the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
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

pub(super) fn requests(mapping: &Mapping, of: &Selection, rate: SignedDuration, told_by: By) -> Vec<Form> {
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

pub(super) fn latency(mapping: &Mapping, of: &Selection, rate: SignedDuration, told_by: By) -> Vec<Form> {
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

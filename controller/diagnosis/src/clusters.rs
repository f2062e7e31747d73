//! Which cluster telemetry comes from, whatever each store calls it.
//!
//! One store says `prod`, the next `arn:aws:eks:eu-west-1:1234:cluster/prod`, a third what somebody typed into its external
//! labels. A name is our own when the signals bear it, or when pods that run here are measured under it; what comes from
//! another cluster is counted and left out. Where nothing says which cluster is ours, all of it is taken for ours.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::entity::EntityKind;
use crate::evidence::{Answer, Observations};
use crate::metric::name_of;

/// Attributes that name a cluster and nothing else: OpenTelemetry's, as Prometheus stores it, Datadog's.
const NAMES: [&str; 4] = ["k8s.cluster.name", "k8s_cluster_name", "cluster_name", "kube_cluster_name"];

/// A label that commonly names one, and sometimes a group of databases or brokers.
const LOOSE_NAME: &str = "cluster";

/// OpenTelemetry's cloud attributes (<https://opentelemetry.io/docs/specs/semconv/resource/cloud/>), and as Prometheus stores them.
const PROVIDER: [&str; 2] = ["cloud.provider", "cloud_provider"];
const REGION: [&str; 2] = ["cloud.region", "cloud_region"];
const ACCOUNT: [&str; 2] = ["cloud.account.id", "cloud_account_id"];
const RESOURCE: [&str; 2] = ["cloud.resource_id", "cloud_resource_id"];

/// Metrics that only a Kubernetes cluster has: what they call `cluster` is one.
const OF_A_CLUSTER: [&str; 4] = ["container_", "kube_", "kubelet_", "apiserver_"];

/// Names that a report lists.
const SHOWN_MAX: usize = 5;
/// Characters of such a name; it is untrusted text.
const NAME_MAX: usize = 120;

/// A cluster as one store names it; what it does not tell is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterName {
    /// Lower case, without provider, region and account around it.
    pub name: String,
    pub provider: String,
    pub region: String,
    pub account: String,
}

impl ClusterName {
    /// What labels or resource attributes say; `None` where they name no cluster.
    pub fn told(labels: &BTreeMap<String, String>) -> Option<Self> {
        let first = |keys: &[&str]| keys.iter().find_map(|key| labels.get(*key)).map_or("", String::as_str);
        // An id of a resource may also be that of a machine or a function.
        let resource = Some(Self::parsed(first(&RESOURCE))).filter(|parsed| !parsed.provider.is_empty());
        // What Envoy counts by a `cluster_name` is a group of its upstreams.
        let upstreams = labels.get("__name__").is_some_and(|metric| metric.starts_with("envoy_"));
        let name = if upstreams { "" } else { first(&NAMES) };
        let name = if name.is_empty() { first(&[LOOSE_NAME]) } else { name };
        let mut told = match (name.is_empty(), resource) {
            (false, _) => Self::parsed(name),
            (true, Some(resource)) => resource,
            (true, None) => return None,
        };
        for (part, keys) in
            [(&mut told.provider, &PROVIDER[..]), (&mut told.region, &REGION[..]), (&mut told.account, &ACCOUNT[..])]
        {
            if part.is_empty() {
                *part = first(keys).trim().to_ascii_lowercase();
            }
        }
        (!told.name.is_empty()).then_some(told)
    }

    /// Reads the forms that providers give to the name of a cluster: ARN of EKS, resource names and kubeconfig contexts of GKE,
    /// resource ids of AKS.
    pub fn parsed(text: &str) -> Self {
        let text = text.trim().to_ascii_lowercase();
        let parts: Vec<&str> = text.split('/').collect();
        let after = |key: &str| {
            let at = parts.iter().position(|part| *part == key)?;
            parts.get(at + 1).filter(|part| !part.is_empty()).map(|part| (*part).to_owned())
        };
        let plain = || Self { name: text.clone(), ..Self::default() };
        if let Some((arn, name)) = text.strip_prefix("arn:").and_then(|arn| arn.split_once(":cluster/")) {
            let mut fields = arn.split(':').skip(2).map(str::to_owned);
            let (region, account) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            return Self { name: name.to_owned(), provider: "aws".to_owned(), region, account };
        }
        if let Some(name) = after("managedclusters") {
            let account = after("subscriptions").unwrap_or_default();
            return Self { name, provider: "azure".to_owned(), region: String::new(), account };
        }
        if let (Some(account), Some(name)) = (after("projects"), after("clusters")) {
            let region = after("locations").or_else(|| after("zones")).unwrap_or_default();
            return Self { name, provider: "gcp".to_owned(), region, account };
        }
        let context: Vec<&str> = text.splitn(4, '_').collect();
        match context.as_slice() {
            ["gke", account, region, name] => Self {
                name: (*name).to_owned(),
                provider: "gcp".to_owned(),
                region: (*region).to_owned(),
                account: (*account).to_owned(),
            },
            _ => plain(),
        }
    }

    /// Whether both may be one cluster: one name, and nothing that both tell contradicts it. A zone lies in its region.
    pub fn may_be(&self, other: &Self) -> bool {
        let agrees = |one: &str, other: &str| one.is_empty() || other.is_empty() || one == other;
        let inside = |zone: &str, region: &str| zone.strip_prefix(region).is_some_and(|rest| rest.starts_with('-'));
        self.name == other.name
            && agrees(&self.provider, &other.provider)
            && agrees(&self.account, &other.account)
            && (agrees(&self.region, &other.region)
                || inside(&self.region, &other.region)
                || inside(&other.region, &self.region))
    }

    /// For people; bounded.
    fn shown(&self) -> String {
        let around: Vec<&str> = [&self.provider, &self.region, &self.account]
            .into_iter()
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        let shown = match around.is_empty() {
            true => self.name.clone(),
            false => format!("{} ({})", self.name, around.join(" ")),
        };
        shown.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()
    }
}

/// Telemetry that came from elsewhere, or may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Foreign {
    /// Series and spans left out, by the cluster that they come from; at most five names, the most frequent ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, u64>,
    /// Said where several clusters are named and nothing tells which is ours: all of it was taken for ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assumed: Option<String>,
}

impl Foreign {
    pub fn is_empty(&self) -> bool {
        self.left_out.is_empty() && self.assumed.is_none()
    }

    /// What came from elsewhere, as one line for people; none when nothing did.
    pub fn told(&self) -> Option<String> {
        let mut names: Vec<(&String, &u64)> = self.left_out.iter().collect();
        names.sort_by(|(one, many), (other, more)| (more, one).cmp(&(many, other)));
        let names: Vec<String> = names.iter().map(|(name, count)| format!("{name} ({count})")).collect();
        let left_out = (!names.is_empty())
            .then(|| format!("series and spans that these clusters sent were left out: {}", names.join(", ")));
        left_out.or_else(|| self.assumed.clone())
    }
}

/// The observations without what other clusters sent; themselves where nothing names another.
pub fn own<'o>(observations: &'o Observations) -> (Cow<'o, Observations>, Foreign) {
    let named = Named::of(observations);
    if named.all.is_empty() {
        return (Cow::Borrowed(observations), Foreign::default());
    }
    let own = own_names(observations, &named);
    if own.is_empty() {
        let assumed = (named.distinct() > 1).then(|| {
            let names: Vec<String> = named.all.iter().map(ClusterName::shown).take(SHOWN_MAX).collect();
            format!(
                "telemetry names the clusters {}, and nothing says which one is ours: all of it was taken for ours",
                names.join(", ")
            )
        });
        return (Cow::Borrowed(observations), Foreign { left_out: BTreeMap::new(), assumed });
    }
    let foreign: BTreeSet<&ClusterName> =
        named.all.iter().filter(|name| !own.iter().any(|ours| ours.may_be(name))).collect();
    if foreign.is_empty() {
        return (Cow::Borrowed(observations), Foreign::default());
    }
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    let mut keeps =
        |labels: &BTreeMap<String, String>| match ClusterName::told(labels).filter(|name| foreign.contains(name)) {
            Some(name) => {
                *counted.entry(name.shown()).or_default() += 1;
                false
            }
            None => true,
        };
    let mut ours = observations.clone();
    if let Answer::Known(series) = &mut ours.series {
        series.retain(|one| keeps(&one.labels));
    }
    for spans in [&mut ours.spans, &mut ours.exemplars] {
        if let Answer::Known(spans) = spans {
            spans.retain(|span| keeps(&span.attributes));
        }
    }
    let mut counted: Vec<(String, u64)> = counted.into_iter().collect();
    counted.sort_by(|(one, many), (other, more)| (more, one).cmp(&(many, other)));
    counted.truncate(SHOWN_MAX);
    (Cow::Owned(ours), Foreign { left_out: counted.into_iter().collect(), assumed: None })
}

/// Clusters that telemetry names.
struct Named {
    all: BTreeSet<ClusterName>,
}

impl Named {
    fn of(observations: &Observations) -> Self {
        let series = observations.series.known().into_iter().flatten();
        // `cluster` is a Kubernetes cluster where metrics of one bear it.
        let strict = |labels: &BTreeMap<String, String>| {
            NAMES.iter().chain(&RESOURCE).any(|key| labels.contains_key(*key))
                || OF_A_CLUSTER.iter().any(|start| name_of(labels).starts_with(start))
        };
        let measured = series.map(|one| &one.labels).filter(|labels| strict(labels));
        let traced = traced(observations).filter(|attributes| strict(attributes));
        Self { all: measured.chain(traced).filter_map(ClusterName::told).collect() }
    }

    /// How many of them cannot be one.
    fn distinct(&self) -> usize {
        let mut apart: Vec<&ClusterName> = Vec::new();
        for name in &self.all {
            if !apart.iter().any(|known| known.may_be(name)) {
                apart.push(name);
            }
        }
        apart.len()
    }
}

fn traced(observations: &Observations) -> impl Iterator<Item = &BTreeMap<String, String>> {
    let spans = [&observations.spans, &observations.exemplars].into_iter().filter_map(Answer::known).flatten();
    spans.map(|span| &span.attributes)
}

/// What our cluster is called: by the signals, and by whoever measures pods that run in it.
fn own_names(observations: &Observations, named: &Named) -> BTreeSet<ClusterName> {
    let mut own: BTreeSet<ClusterName> = BTreeSet::new();
    for signal in &observations.symptoms {
        own.extend(Some(ClusterName::parsed(&signal.entity.cluster)).filter(|name| !name.name.is_empty()));
        own.extend(ClusterName::told(&signal.labels));
    }
    let cluster = Cluster::new(observations);
    // A hash makes the name of a pod unique; `db-0` there is in every cluster.
    let unique = cluster.pods.iter().filter(|pod| {
        matches!(
            pod.workload.kind,
            EntityKind::Deployment | EntityKind::ReplicaSet | EntityKind::DaemonSet | EntityKind::Job
        )
    });
    let pods: BTreeSet<(&str, &str)> = unique.map(|pod| (pod.namespace.as_str(), pod.name.as_str())).collect();
    let ours = |labels: &BTreeMap<String, String>| {
        let first = |keys: [&str; 2]| keys.iter().find_map(|key| labels.get(*key)).map_or("", String::as_str);
        pods.contains(&(first(["namespace", "k8s.namespace.name"]), first(["pod", "k8s.pod.name"])))
    };
    let measured = observations.series.known().into_iter().flatten().map(|one| &one.labels);
    own.extend(measured.chain(traced(observations)).filter(|labels| ours(labels)).filter_map(ClusterName::told));
    // Signals may bear a `cluster` of another sort: then it names none of those that telemetry knows.
    match own.iter().any(|ours| named.all.iter().any(|name| ours.may_be(name))) {
        true => own,
        false => BTreeSet::new(),
    }
}

#[cfg(test)]
pub(crate) mod tests;

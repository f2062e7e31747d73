//! The observations made ready for the extractors: aligned, indexed, with one graph and one onset.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::align::Aligner;
use crate::alignment::Alignment;
use crate::cluster::{Cluster, list, text};
use crate::edge::{self, End};
use crate::entity::{Entity, EntityKind};
use crate::evidence::{Change, LinkKind, LogLine, Observations, Series, Span};
use crate::finding::Questions;
use crate::logs::{Class, classify};
use crate::metric::{Family, finer, is_count, name_of};
use crate::name_server;
use crate::windows::Windows;

/// How far trouble is followed along dependencies.
const REACH: usize = 8;

/// What all extractors share.
#[derive(Debug)]
pub struct Scene<'a> {
    pub observations: &'a Observations,
    pub cluster: Cluster,
    pub aligner: Aligner,
    pub alignment: Alignment,
    pub graph: Dependencies,
    /// When trouble began: told, or the first symptom.
    pub onset: Option<Timestamp>,
    /// Changes in time order, with their target under its one name.
    pub changes: Vec<Change>,
    /// Series by the entity that they speak about.
    pub series: BTreeMap<Entity, Vec<&'a Series>>,
    /// Finer answers of a second round by the entity that they speak about.
    pub finer: BTreeMap<Entity, Vec<&'a Series>>,
    /// Normal and sick time, when there are series to compare.
    pub windows: Option<Windows>,
    /// Log lines by the entity that wrote them, in time order.
    pub logs: BTreeMap<Entity, Vec<&'a LogLine>>,
    /// Whether classes that people taught count.
    pub heeds_taught: bool,
}

impl<'a> Scene<'a> {
    pub fn new(observations: &'a Observations) -> Self {
        let cluster = Cluster::new(observations);
        let aligner = Aligner::new(observations, &cluster);
        let mut graph = Dependencies::new(observations, &cluster, &aligner);
        let first = observations.symptoms.iter().map(|signal| signal.started_at).min();
        let changes = observations.changes.known().cloned().unwrap_or_default();
        let mut changes: Vec<Change> = changes.into_iter().flat_map(|change| by_reader(change, &cluster)).collect();
        for change in &mut changes {
            let named = aligner.named(&change.target.namespace, &change.target.name);
            let target = named.unwrap_or_else(|| change.target.workload());
            change.target = target;
        }
        changes.sort_by(|a, b| (a.at, &a.id, &a.target).cmp(&(b.at, &b.id, &b.target)));
        let mut series: BTreeMap<Entity, Vec<&Series>> = BTreeMap::new();
        let mut finer: BTreeMap<Entity, Vec<&Series>> = BTreeMap::new();
        // What is counted between two ends speaks of neither alone.
        let between = |one: &&Series| edge::counted(one).is_some_and(|count| count.to != End::Nowhere);
        for one in observations.series.known().into_iter().flatten().filter(|one| !between(one)) {
            if let Some(entity) = aligner.of_series(one) {
                let of = if finer::is(name_of(&one.labels)) { &mut finer } else { &mut series };
                of.entry(entity).or_default().push(one);
            }
        }
        for list in series.values_mut().chain(finer.values_mut()) {
            list.sort_by(|a, b| a.labels.cmp(&b.labels));
        }
        let mut logs: BTreeMap<Entity, Vec<&LogLine>> = BTreeMap::new();
        for line in observations.logs.known().into_iter().flatten() {
            if let Some(entity) = aligner.of_line(line) {
                logs.entry(entity).or_default().push(line);
            }
        }
        for list in logs.values_mut() {
            list.sort_by(|a, b| (a.at_ns, &a.body).cmp(&(b.at_ns, &b.body)));
        }
        for workload in name_server::needed_by(&cluster, &logs) {
            graph.needs.entry(workload).or_default().insert(name_server::entity(&cluster));
        }
        Self {
            windows: Windows::of(observations),
            logs,
            onset: observations.began.or(first),
            observations,
            alignment: Alignment::of(observations, &aligner),
            cluster,
            aligner,
            graph,
            changes,
            series,
            finer,
            heeds_taught: true,
        }
    }

    /// What a line speaks of: by the catalogue, and where that knows nothing, as people taught it.
    pub fn class_of(&self, line: &LogLine) -> Class {
        match classify(&line.body) {
            Class::Other => self.taught(line).unwrap_or(Class::Other),
            known => known,
        }
    }

    /// The class that people taught for a line, where it counts: without regard to the catalogue.
    pub fn taught(&self, line: &LogLine) -> Option<Class> {
        line.taught.filter(|_| self.heeds_taught)
    }

    /// How many sorts of observation say nothing about the trouble: nobody could answer, or what was answered ends before it.
    pub fn silent_modalities(&self) -> usize {
        let seen = self.observations;
        let began = self.windows.map(|windows| windows.sick.0).or(self.onset.map(seconds));
        let late = |at: f64| began.is_none_or(|began| at >= began);
        let told = |sample: &(f64, f64)| sample.1.is_finite() && late(sample.0);
        let speaks = [
            seen.series.known().is_some_and(|list| list.iter().any(|one| one.samples.iter().rev().any(told))),
            seen.spans.known().is_some_and(|list| list.iter().any(|span| late(span.start_ns as f64 / 1e9))),
            seen.logs.known().is_some(),
            seen.objects.known().is_some() && !self.cluster.unread.contains_key("pods"),
            seen.unread_changes().is_none(),
            self.graph.known,
        ];
        speaks.iter().filter(|speaks| !**speaks).count()
    }

    pub fn questions(&self) -> Questions<'a> {
        Questions(&self.observations.asked)
    }

    pub fn series_of(&self, entity: &Entity) -> &[&'a Series] {
        self.series.get(entity).map_or(&[], Vec::as_slice)
    }

    /// What an entity wrote since some time before the trouble began; lines without a time count as such.
    pub fn lines_since(&self, entity: &Entity, before: SignedDuration) -> impl Iterator<Item = &'a LogLine> {
        let since = self.onset.map(|onset| seconds(shifted(onset, -before)));
        let lines = self.logs.get(entity).into_iter().flatten().copied();
        lines.filter(move |line| line.at_ns.zip(since).is_none_or(|(at, since)| at as f64 / 1e9 >= since))
    }

    /// How an entity answered requests between two moments; `None` when nobody measured it.
    pub fn answering(&self, entity: &Entity, from: Timestamp, to: Timestamp) -> Answering {
        answering(self.series_of(entity).iter().copied(), from, to)
    }

    /// Settings of a workload: its literal environment, and the Secrets that it reads whole.
    pub fn settings_of(&self, entity: &Entity) -> Vec<(String, String)> {
        let Some(workload) = self.cluster.workload(entity) else { return Vec::new() };
        let mut found: Vec<(String, String)> = Vec::new();
        for container in list(&workload.template, "/spec/containers") {
            for variable in list(container, "/env") {
                found.push((text(variable, "/name").to_owned(), text(variable, "/value").to_owned()));
            }
            for source in list(container, "/envFrom") {
                let name = text(source, "/secretRef/name");
                let secret = self.cluster.others("Secret").iter().find(|secret| {
                    text(secret, "/metadata/name") == name && text(secret, "/metadata/namespace") == entity.namespace
                });
                let maps = secret.into_iter().flat_map(|secret| [&secret["stringData"], &secret["data"]]);
                let pairs = maps.filter_map(serde_json::Value::as_object).flatten();
                found.extend(pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))));
            }
        }
        found
    }

    /// The one name of the entity that a symptom is about.
    pub fn symptom_entity(&self, entity: &Entity) -> Entity {
        self.aligner.named(&entity.namespace, &entity.name).unwrap_or_else(|| self.aligner.resolve(entity))
    }
}

/// Requests as seen by metrics over one span of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answering {
    pub error_ratio: Option<f64>,
    /// Seconds.
    pub latency: Option<f64>,
    /// Requests per second.
    pub rate: Option<f64>,
    /// The question behind the error ratio, else behind the latency.
    pub asked: String,
}

/// Folds series of one entity (or one pod) into how it answered.
pub fn answering<'s>(series: impl Iterator<Item = &'s Series>, from: Timestamp, to: Timestamp) -> Answering {
    let (from, to) = (seconds(from), seconds(to));
    let mut got = Answering::default();
    let (mut all, mut failed, mut counted) = (0.0, 0.0, false);
    let mut ratios = Vec::new();
    let mut latencies = Vec::new();
    let mut rates = Vec::new();
    for one in series {
        let name = name_of(&one.labels);
        let lower = name.to_ascii_lowercase();
        let code =
            one.labels.get("code").or_else(|| one.labels.get("status")).or_else(|| one.labels.get("status_code"));
        if lower.ends_with("requests_total") && code.is_some() {
            if let Some(increase) = increase(one, from, to) {
                counted = true;
                all += increase;
                if code.is_some_and(|code| code.starts_with('5')) {
                    failed += increase;
                    got.asked.clone_from(&one.asked);
                } else if got.asked.is_empty() {
                    got.asked.clone_from(&one.asked);
                }
            }
            continue;
        }
        if lower.ends_with("_bucket") || lower.ends_with("_total") || one.labels.contains_key("source") {
            continue;
        }
        let Some(mean) = mean(one, from, to) else { continue };
        match Family::of(name) {
            Family::Errors if mean <= 1.0 && !is_count(name) => {
                ratios.push(mean);
                got.asked.clone_from(&one.asked);
            }
            Family::Success => {
                ratios.push(1.0 - if mean > 1.0 { mean / 100.0 } else { mean });
                got.asked.clone_from(&one.asked);
            }
            Family::Latency => {
                latencies.push(mean);
                if got.asked.is_empty() {
                    got.asked.clone_from(&one.asked);
                }
            }
            Family::Traffic => rates.push(mean),
            _ => {}
        }
    }
    let seconds = (to - from).max(1.0);
    got.error_ratio = match counted {
        true => Some(if all > 0.0 { failed / all } else { 0.0 }),
        false => ratios.into_iter().reduce(f64::max),
    };
    got.latency = latencies.into_iter().reduce(f64::max);
    got.rate = match counted {
        true => Some(all / seconds),
        false => (!rates.is_empty()).then(|| rates.iter().sum()),
    };
    got
}

/// Unix seconds with fraction.
pub fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

/// The mean of finite samples within a span of time.
pub fn mean(series: &Series, from: f64, to: f64) -> Option<f64> {
    let inside = series.samples.iter().filter(|(at, value)| (from..=to).contains(at) && value.is_finite());
    let (sum, count) = inside.fold((0.0, 0u32), |(sum, count), (_, value)| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// How much a counter grew within a span of time, resets allowed for.
pub fn increase(series: &Series, from: f64, to: f64) -> Option<f64> {
    let mut before: Option<f64> = None;
    let mut grown: Option<f64> = None;
    for (_, value) in series.samples.iter().filter(|(at, value)| (from..=to).contains(at) && value.is_finite()) {
        if let Some(before) = before {
            let step = if *value >= before { value - before } else { *value };
            grown = Some(grown.unwrap_or(0.0) + step);
        }
        before = Some(*value);
    }
    grown
}

/// Who depends on whom: calls, nodes and configuration in one graph under aligned names.
#[derive(Clone, Debug, Default)]
pub struct Dependencies {
    pub calls: BTreeMap<Entity, BTreeSet<Entity>>,
    /// What else an entity needs: its node, its configuration.
    pub needs: BTreeMap<Entity, BTreeSet<Entity>>,
    /// Whether anybody knew who calls whom.
    pub known: bool,
}

impl Dependencies {
    fn new(observations: &Observations, cluster: &Cluster, aligner: &Aligner) -> Self {
        let mut graph = Self { known: observations.topology.known().is_some(), ..Self::default() };
        for edge in observations.topology.known().into_iter().flat_map(|topology| &topology.edges) {
            let (from, to) = (aligner.resolve(&edge.from), aligner.resolve(&edge.to));
            match edge.kind {
                LinkKind::Calls => graph.calls.entry(from).or_default().insert(to),
                LinkKind::RunsOn | LinkKind::Uses => graph.needs.entry(from).or_default().insert(to),
                LinkKind::Owns => false,
            };
        }
        if let Some(spans) = observations.spans.known() {
            graph.add_spans(spans, aligner);
        }
        for pod in cluster.pods.iter().filter(|pod| !pod.node.is_empty()) {
            let node = Entity::new(EntityKind::Node, "", &pod.node);
            graph.needs.entry(pod.workload.clone()).or_default().insert(node);
        }
        graph.add_addresses(cluster, aligner);
        graph.add_refused(cluster);
        for set in graph.calls.values_mut().chain(graph.needs.values_mut()) {
            set.retain(|entity| !entity.name.is_empty());
        }
        graph
    }

    fn add_spans(&mut self, spans: &[Span], aligner: &Aligner) {
        let index: BTreeMap<(&str, &str), &Span> =
            spans.iter().map(|span| ((span.trace_id.as_str(), span.span_id.as_str()), span)).collect();
        let mut pairs: BTreeSet<(&str, &str)> = BTreeSet::new();
        for span in spans {
            let parent = span.parent_id.as_deref().and_then(|parent| index.get(&(span.trace_id.as_str(), parent)));
            if let Some(parent) = parent.filter(|parent| parent.service != span.service) {
                pairs.insert((&parent.service, &span.service));
            }
        }
        self.known |= !pairs.is_empty();
        for (from, to) in pairs {
            if let (Some(from), Some(to)) = (aligner.named("", from), aligner.named("", to))
                && from != to
            {
                self.calls.entry(from).or_default().insert(to);
            }
        }
    }

    /// What a namespace refuses or grants is needed by the workloads that are short of pods or wait for a place.
    fn add_refused(&mut self, cluster: &Cluster) {
        let short = cluster.workloads.iter().filter(|one| {
            let ready = cluster.pods_of(&one.entity).filter(|pod| pod.is_ready()).count();
            let waits = cluster.pods_of(&one.entity).any(|pod| pod.phase == "Pending");
            waits || one.replicas.is_some_and(|wanted| one.ready.max(ready as i64) < wanted)
        });
        for entity in short.map(|one| &one.entity).filter(|entity| !entity.namespace.is_empty()) {
            let namespace = Entity::new(EntityKind::Namespace, "", &entity.namespace);
            self.needs.entry(entity.clone()).or_default().insert(namespace);
        }
    }

    /// Environment variables that name a Service are a call edge that nobody needs to have observed.
    fn add_addresses(&mut self, cluster: &Cluster, aligner: &Aligner) {
        for workload in &cluster.workloads {
            let containers = list(&workload.template, "/spec/containers");
            for variable in containers.iter().flat_map(|container| list(container, "/env")) {
                let value = text(variable, "/value");
                let host = value.split_once("://").map_or(value, |(_, rest)| rest);
                let host = host.split(['/', ':', '?']).next().unwrap_or("");
                let mut labels = host.split('.');
                let name = labels.next().unwrap_or_default();
                let namespace = labels.next().unwrap_or(&workload.entity.namespace);
                let mut services = cluster.services.iter();
                if services.any(|service| service.namespace == namespace && service.name == name)
                    && let Some(to) = aligner.named(namespace, name)
                    && to != workload.entity
                {
                    self.calls.entry(workload.entity.clone()).or_default().insert(to);
                }
            }
        }
    }

    pub fn callees(&self, entity: &Entity) -> impl Iterator<Item = &Entity> {
        self.calls.get(entity).into_iter().flatten()
    }

    /// An entity and all that it depends on, directly or through others.
    pub fn reached(&self, from: &Entity) -> BTreeSet<Entity> {
        let mut seen = BTreeSet::from([from.clone()]);
        let mut queue = VecDeque::from([(from, 0)]);
        while let Some((at, steps)) = queue.pop_front() {
            if steps == REACH {
                continue;
            }
            for entity in self.calls.get(at).into_iter().chain(self.needs.get(at)).flatten() {
                if !seen.contains(entity) {
                    seen.insert(entity.clone());
                    queue.push_back((entity, steps + 1));
                }
            }
        }
        seen
    }

    /// The shortest way along dependencies from one entity to another, both ends included.
    pub fn path(&self, from: &Entity, to: &Entity) -> Option<Vec<Entity>> {
        let mut came: BTreeMap<Entity, Entity> = BTreeMap::new();
        let mut queue = VecDeque::from([(from.clone(), 0)]);
        while let Some((at, steps)) = queue.pop_front() {
            if at == *to {
                let mut path = vec![at.clone()];
                let mut step = &at;
                while let Some(before) = came.get(step) {
                    path.push(before.clone());
                    step = before;
                }
                path.reverse();
                return Some(path);
            }
            if steps == REACH {
                continue;
            }
            let next = self.calls.get(&at).into_iter().chain(self.needs.get(&at)).flatten();
            for entity in next {
                if entity != from && !came.contains_key(entity) {
                    came.insert(entity.clone(), at.clone());
                    queue.push_back((entity.clone(), steps + 1));
                }
            }
        }
        None
    }
}

/// A change of configuration acts where it is read: one change for each workload whose pods read the object.
fn by_reader(change: Change, cluster: &Cluster) -> Vec<Change> {
    if !matches!(change.target.kind, EntityKind::ConfigMap | EntityKind::Secret) {
        return vec![change];
    }
    let readers = cluster.workloads.iter().filter(|workload| reads(&workload.template, &change.target));
    let readers: Vec<Entity> = readers
        .map(|workload| workload.entity.clone())
        .filter(|entity| entity.namespace == change.target.namespace)
        .collect();
    match readers.is_empty() {
        true => vec![change],
        false => readers.into_iter().map(|target| Change { target, ..change.clone() }).collect(),
    }
}

/// Whether a pod template reads a ConfigMap or Secret: as a variable, as all variables, or as a volume.
fn reads(template: &serde_json::Value, object: &Entity) -> bool {
    let (key, all, volume, volume_name) = match object.kind {
        EntityKind::Secret => ("secretKeyRef", "secretRef", "secret", "secretName"),
        _ => ("configMapKeyRef", "configMapRef", "configMap", "name"),
    };
    let named = |found: &serde_json::Value| found.as_str() == Some(object.name.as_str());
    let containers = ["/spec/containers", "/spec/initContainers"].into_iter().flat_map(|place| list(template, place));
    let in_container = |container: &serde_json::Value| {
        list(container, "/env").iter().any(|one| named(&one["valueFrom"][key]["name"]))
            || list(container, "/envFrom").iter().any(|one| named(&one[all]["name"]))
    };
    let in_volume = |one: &serde_json::Value| {
        let projected = list(one, "/projected/sources").iter().any(|source| named(&source[volume]["name"]));
        named(&one[volume][volume_name]) || projected
    };
    containers.into_iter().any(in_container) || list(template, "/spec/volumes").iter().any(in_volume)
}

/// Moves a moment; stays where it is when the result would leave the calendar.
pub fn shifted(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::name::ERROR_RATIO;

    fn gauge(name: &str, value: f64) -> Series {
        let samples = (0..10).map(|at| (f64::from(at) * 15.0, value)).collect();
        Series { labels: BTreeMap::from([("__name__".to_owned(), name.to_owned())]), samples, asked: String::new() }
    }

    #[test]
    fn a_line_that_says_error_is_no_hundred_per_cent_of_failed_requests() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let told = |series: &[Series]| answering(series.iter(), at(0), at(150)).error_ratio;
        assert_eq!(told(&[gauge("log_error_lines", 1.0), gauge("log_lines", 2.0)]), None);
        assert_eq!(told(&[gauge("log_error_lines", 1.0), gauge(ERROR_RATIO, 0.125)]), Some(0.125));
        assert_eq!(told(&[gauge("errors_count", 1.0), gauge("service_error_rate", 0.25)]), Some(0.25));
    }
}

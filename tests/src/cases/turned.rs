//! The same case told otherwise: other names, another order, more services that are quiet. The answer must not change.

use std::collections::BTreeMap;

use amend_diagnosis::entity::Entity;
use amend_diagnosis::evidence::{Answer, Observations, Series};
use serde_json::{Value, json};

use super::objects::deployment;
use super::{NAMESPACE, Stage};

/// New names for services, by old name.
#[derive(Clone, Debug)]
pub struct Renaming(BTreeMap<String, String>);

impl Renaming {
    /// Names without meaning, different for every seed.
    pub fn of(names: impl IntoIterator<Item = String>, seed: usize) -> Self {
        let new = |place: usize| -> String {
            let mut number = (place + 1) * 7_919 + seed * 104_729;
            let letter = |number: &mut usize| {
                let letter = b"bdfgklmnprtvz"[*number % 13];
                *number /= 13;
                char::from(letter)
            };
            let word: String = (0..6).map(|_| letter(&mut number)).collect();
            format!("{word}o{}", ["x", "y", "w", "j", "q", "h"][place % 6])
        };
        Self(names.into_iter().enumerate().map(|(place, name)| (name, new(place))).collect())
    }

    /// A text with every name in it replaced where it stands as a word.
    pub fn text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut word = String::new();
        let flush = |word: &mut String, out: &mut String| {
            out.push_str(self.0.get(word.as_str()).unwrap_or(word));
            word.clear();
        };
        for c in text.chars() {
            if c.is_ascii_alphanumeric() {
                word.push(c);
            } else {
                flush(&mut word, &mut out);
                out.push(c);
            }
        }
        flush(&mut word, &mut out);
        out
    }

    fn entity(&self, entity: &mut Entity) {
        entity.name = self.text(&entity.name);
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(list) => list.iter_mut().for_each(|one| self.value(one)),
            Value::Object(map) => map.values_mut().for_each(|one| self.value(one)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// The case with all its services renamed, in every store.
    pub fn of_case(&self, seen: &Observations) -> Observations {
        let mut seen = seen.clone();
        for signal in &mut seen.symptoms {
            signal.key = self.text(&signal.key);
            self.entity(&mut signal.entity);
        }
        if let Answer::Known(topology) = &mut seen.topology {
            topology.nodes.iter_mut().for_each(|node| self.entity(node));
            for edge in &mut topology.edges {
                self.entity(&mut edge.from);
                self.entity(&mut edge.to);
            }
        }
        if let Answer::Known(list) = &mut seen.series {
            list.iter_mut().flat_map(|one| one.labels.values_mut()).for_each(|value| *value = self.text(value));
        }
        if let Answer::Known(list) = &mut seen.spans {
            for span in list {
                span.service = self.text(&span.service);
                span.operation = self.text(&span.operation);
                span.pod = span.pod.as_ref().map(|pod| self.text(pod));
            }
        }
        if let Answer::Known(list) = &mut seen.logs {
            for line in list {
                (line.source, line.body) = (self.text(&line.source), self.text(&line.body));
            }
        }
        if let Answer::Known(list) = &mut seen.changes {
            for change in list {
                self.entity(&mut change.target);
                (change.summary, change.diff) = (self.text(&change.summary), self.text(&change.diff));
                let names = change.files.iter_mut().chain(&mut change.new_pods).chain(&mut change.deleted_pods);
                names.for_each(|name| *name = self.text(name));
            }
        }
        if let Answer::Known(list) = &mut seen.objects {
            list.iter_mut().for_each(|object| self.value(object));
        }
        if let Answer::Known(list) = &mut seen.events {
            for event in list {
                (event.object, event.message) = (self.text(&event.object), self.text(&event.message));
            }
        }
        seen
    }
}

/// The case with everything in another order.
pub fn shuffled(seen: &Observations, seed: u64) -> Observations {
    fn mix<T>(list: &mut [T], mut seed: u64) {
        for index in (1..list.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            list.swap(index, (seed >> 33) as usize % (index + 1));
        }
    }
    fn mixed<T>(answer: &mut Answer<Vec<T>>, seed: u64) {
        if let Answer::Known(list) = answer {
            mix(list, seed);
        }
    }
    let mut seen = seen.clone();
    mix(&mut seen.symptoms, seed);
    mixed(&mut seen.series, seed);
    mixed(&mut seen.spans, seed);
    mixed(&mut seen.logs, seed);
    mixed(&mut seen.changes, seed);
    mixed(&mut seen.objects, seed);
    mixed(&mut seen.events, seed);
    if let Answer::Known(topology) = &mut seen.topology {
        mix(&mut topology.nodes, seed);
        mix(&mut topology.edges, seed);
    }
    seen
}

/// The case amid other shops that live as usual, until there are so many series and spans: a whole platform, in which one shop has
/// an incident. What is beyond the two numbers is cut, as a store with limits would.
pub fn amid_others(seen: &Observations, series: usize, spans: usize) -> Observations {
    let quiet = Stage::shop(0).play();
    let mut seen = seen.clone();
    for copy in 1..COPIES_MAX {
        let enough = |have: Option<usize>, wanted: usize| have.is_none_or(|have| have >= wanted);
        if enough(seen.series.known().map(Vec::len), series) && enough(seen.spans.known().map(Vec::len), spans) {
            break;
        }
        let mut other = Renaming::of(Stage::shop(0).workloads.into_keys(), copy).of_case(&quiet);
        if let Answer::Known(list) = &mut other.spans {
            list.iter_mut().for_each(|span| span.trace_id = format!("{copy}-{}", span.trace_id));
        }
        if let (Answer::Known(all), Answer::Known(more)) = (&mut seen.topology, other.topology) {
            all.nodes.extend(more.nodes);
            all.edges.extend(more.edges);
        }
        added(&mut seen.series, other.series);
        added(&mut seen.spans, other.spans);
        added(&mut seen.logs, other.logs);
        added(&mut seen.objects, other.objects);
    }
    if let Answer::Known(list) = &mut seen.series {
        list.truncate(series);
    }
    if let Answer::Known(list) = &mut seen.spans {
        list.truncate(spans);
    }
    seen
}

/// Shops beside the one with the incident.
const COPIES_MAX: usize = 200;

fn added<T>(all: &mut Answer<Vec<T>>, more: Answer<Vec<T>>) {
    if let (Answer::Known(all), Answer::Known(more)) = (all, more) {
        all.extend(more);
    }
}

/// The case with one more service that nobody calls and that has nothing to tell.
pub fn with_quiet_neighbour(seen: &Observations) -> Observations {
    let mut seen = seen.clone();
    if let Answer::Known(list) = &mut seen.objects {
        let labels = json!({"app": "almanac"});
        list.push(json!({"kind": "Deployment", "metadata": {"namespace": NAMESPACE, "name": "almanac"},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}}));
    }
    if let Answer::Known(topology) = &mut seen.topology {
        topology.nodes.push(deployment("almanac"));
    }
    if let Answer::Known(list) = &mut seen.series
        && let Some(times) = list.iter().map(|one| &one.samples).max_by_key(|samples| samples.len()).cloned()
    {
        let quiet = |metric: &str, value: f64| Series {
            labels: [("__name__", metric), ("namespace", NAMESPACE), ("service", "almanac")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            samples: times.iter().map(|(time, _)| (*time, value)).collect(),
            asked: "metrics".to_owned(),
        };
        list.extend([quiet("errorRatio", 0.0), quiet("requestRate", 5.0), quiet("latencyP99", 0.02)]);
    }
    seen
}

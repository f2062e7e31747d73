//! Releases whose pods are watched one by one: new pods against old ones, and which calls began to fail.
//!
//! A failing callee fully explains its failing caller, since fan-out amplifies errors; so only the deepest failing
//! destination counts. A deleted pod's series goes on with its replacement's values: the two are one slot. New pods that
//! never report are evidence by their silence.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::entity::Entity;
use crate::evidence::{Change, Series};
use crate::finding::{Finding, Modality};
use crate::metric::{Family, name_of};
use crate::robust::median;
use crate::scene::{Scene, seconds};

use super::metrics::is_edge;

/// Shares of failed calls below this are noise.
const LOSS_FLOOR: f64 = 0.02;
const NATS: f64 = 1.5;
/// Seconds that a new pod needs before its values mean anything.
const WARM_UP: f64 = 60.0;

/// Whether a change can be judged pod by pod: it says which pods it made, series of single pods exist, and requests are
/// measured by pod as well. Pods that look alike in CPU and memory only say nothing of how they answer.
pub fn watched(scene: &Scene<'_>, change: &Change) -> bool {
    let of = |change: &Change, series: &Series| {
        let pods = || change.new_pods.iter().chain(&change.deleted_pods);
        series.labels.get("pod").is_some_and(|pod| pods().any(|known| known == pod))
    };
    let answers = |series: &Series| {
        matches!(Family::of(name_of(&series.labels)), Family::Success | Family::Errors | Family::Latency)
    };
    let all = || scene.observations.series.known().into_iter().flatten();
    !change.new_pods.is_empty()
        && all().any(|series| of(change, series))
        && all().any(|series| answers(series) && scene.changes.iter().any(|change| of(change, series)))
}

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let changes: Vec<&Change> = scene.changes.iter().filter(|change| watched(scene, change)).collect();
    let Some(first) = changes.iter().map(|change| change.at).min() else { return Vec::new() };
    let failing = Failing::of(scene, &changes, first);
    let alert = scene.observations.symptoms.iter().map(|signal| signal.started_at).min();
    let onset = failing.first.or(alert.map(seconds)).unwrap_or(seconds(scene.observations.at));
    let mut findings = Vec::new();
    for change in changes {
        let mut told = Told::default();
        failing.blame(scene, change, onset, &mut told);
        silence(scene, change, &mut told);
        busier(scene, change, &mut told);
        let kind = super::release::kind_of(change);
        let new = |modality, weight, sentence| {
            Finding::new(change.target.clone(), kind, modality, weight, sentence).of_change(&change.id)
        };
        if told.weight > 0.0 {
            let asked = scene.questions().about(&["metrics", "errors", "success"]);
            findings.push(
                new(Modality::Metrics, NATS * told.weight, told.sentences.join("; "))
                    .labelled("its new pods differ")
                    .asked(asked),
            );
        } else {
            findings.push(new(
                Modality::Metrics,
                -1.0,
                format!("the new pods of {} look like the old ones", change.target.name),
            ));
        }
        let lag = onset - seconds(change.at);
        let time = if lag >= -60.0 { (-lag.max(0.0) / 300.0).exp() } else { 0.05 };
        let sentence = format!("{} was released {lag:.0} s before the first sign", change.target.name);
        let asked = scene.questions().about(&["changes", "git"]);
        findings.push(new(Modality::Changes, NATS * 0.6 * time, sentence).asked(asked));
    }
    findings
}

#[derive(Default)]
struct Told {
    weight: f64,
    sentences: Vec<String>,
}

impl Told {
    fn add(&mut self, weight: f64, sentence: String) {
        self.weight += weight;
        self.sentences.push(sentence);
    }
}

type Edge = (Entity, Entity);

/// Calls that fail since the first change.
struct Failing {
    /// Mean loss of each failing edge, one entry per series.
    losses: BTreeMap<Edge, Vec<f64>>,
    onsets: BTreeMap<Edge, f64>,
    /// Loss at the slots that a change replaced.
    slots: BTreeMap<Edge, f64>,
    /// Success of the other pods of the same edge, in the same time.
    others: BTreeMap<Edge, Vec<f64>>,
    first: Option<f64>,
}

impl Failing {
    fn of(scene: &Scene<'_>, changes: &[&Change], first: Timestamp) -> Self {
        let replaced: BTreeSet<&str> = changes
            .iter()
            .flat_map(|change| change.new_pods.iter().chain(&change.deleted_pods))
            .map(String::as_str)
            .collect();
        let start = seconds(first);
        let mut failing = Self {
            losses: BTreeMap::new(),
            onsets: BTreeMap::new(),
            slots: BTreeMap::new(),
            others: BTreeMap::new(),
            first: None,
        };
        let success: Vec<(Edge, &Series)> = scene
            .observations
            .series
            .known()
            .into_iter()
            .flatten()
            .filter(|series| is_edge(series) && Family::of(name_of(&series.labels)) == Family::Success)
            .filter_map(|series| {
                let end = |label: &str| scene.aligner.named("", series.labels.get(label)?);
                Some(((end("source")?, end("destination")?), series))
            })
            .collect();
        for (edge, series) in &success {
            let usual: Vec<f64> =
                series.samples.iter().filter(|(at, _)| *at < start).map(|(_, value)| *value).collect();
            let usual = median(&usual).unwrap_or(100.0);
            let after: Vec<(f64, f64)> =
                series.samples.iter().copied().filter(|(at, value)| *at >= start && value.is_finite()).collect();
            let Some(bad) = after.iter().position(|(_, value)| *value < usual - 1.0) else { continue };
            let mean = after[bad..].iter().map(|(_, value)| value).sum::<f64>() / (after.len() - bad) as f64;
            let loss = (usual - mean) / 100.0;
            failing.losses.entry(edge.clone()).or_default().push(loss);
            let onset = failing.onsets.entry(edge.clone()).or_insert(f64::MAX);
            *onset = onset.min(after[bad].0);
            if series.labels.get("pod").is_some_and(|pod| replaced.contains(pod.as_str())) {
                let slot = failing.slots.entry(edge.clone()).or_default();
                *slot = slot.max(loss);
            }
        }
        for (edge, series) in &success {
            let Some(onset) = failing.onsets.get(edge) else { continue };
            if series.labels.get("pod").is_some_and(|pod| replaced.contains(pod.as_str())) {
                continue;
            }
            let after: Vec<f64> = series
                .samples
                .iter()
                .filter(|(at, value)| at >= onset && value.is_finite())
                .map(|(_, value)| *value)
                .collect();
            if !after.is_empty() {
                let mean = after.iter().sum::<f64>() / after.len() as f64;
                failing.others.entry(edge.clone()).or_default().push(mean);
            }
        }
        failing.first = failing.onsets.values().copied().reduce(f64::min);
        failing
    }

    /// How much a destination loses that no callee of its own loses too.
    fn own(&self, destination: &Entity) -> f64 {
        let mean = |losses: &Vec<f64>| losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        let incoming = self.losses.iter().filter(|((_, to), _)| to == destination).map(|(_, losses)| mean(losses));
        let deeper = self.losses.iter().filter(|((from, _), _)| from == destination).map(|(_, losses)| mean(losses));
        match deeper.fold(0.0, f64::max) < LOSS_FLOOR {
            true => incoming.fold(0.0, f64::max),
            false => 0.0,
        }
    }

    fn blame(&self, scene: &Scene<'_>, change: &Change, onset: f64, told: &mut Told) {
        let changed: BTreeSet<&Entity> = scene.changes.iter().map(|change| &change.target).collect();
        let destinations: BTreeSet<&Entity> = self.losses.keys().map(|(_, to)| to).collect();
        for destination in destinations {
            let loss = self.own(destination);
            if loss < LOSS_FLOOR {
                continue;
            }
            if *destination == change.target {
                let began = self
                    .onsets
                    .iter()
                    .filter(|((_, to), _)| to == destination)
                    .map(|(_, at)| *at)
                    .fold(f64::MAX, f64::min);
                if began >= seconds(change.at) {
                    told.add(
                        2.0 * (3.0 * loss).min(1.0) + 1.0,
                        format!("{:.0} % of the calls to {} fail since", loss * 100.0, destination.name),
                    );
                }
            } else if !changed.contains(destination) && seconds(change.at) <= onset {
                // The failing one was not changed: what its callers also call may feed it wrongly.
                let mut callers: BTreeSet<&Entity> =
                    self.losses.keys().filter(|(_, to)| to == destination).map(|(from, _)| from).collect();
                callers.insert(destination);
                let feeds = callers
                    .iter()
                    .filter(|caller| scene.graph.callees(caller).any(|callee| *callee == change.target))
                    .count();
                if feeds > 0 {
                    told.add(
                        0.5 * (feeds as f64 / 2.0 + 0.25).min(1.0),
                        format!(
                            "{} feeds the callers of {}, which fails unchanged",
                            change.target.name, destination.name
                        ),
                    );
                }
            }
        }
        let slot = self.slots.iter().filter(|((_, to), _)| *to == change.target).map(|(edge, loss)| (edge, *loss));
        for (edge, loss) in slot {
            let others =
                self.others.get(edge).and_then(|list| median(list)).map_or(0.0, |success| 1.0 - success / 100.0);
            if loss > others + 0.05
                && self.losses.keys().filter(|(from, _)| *from == change.target).all(|deeper| {
                    self.losses[deeper].iter().sum::<f64>() / (self.losses[deeper].len() as f64) < LOSS_FLOOR
                })
            {
                told.add(
                    1.0,
                    format!("only the replaced pod fails: {:.0} % against {:.0} %", loss * 100.0, others * 100.0),
                );
            }
        }
    }
}

/// A new pod of which nobody hears anything.
fn silence(scene: &Scene<'_>, change: &Change, told: &mut Told) {
    let ready = seconds(change.at) + 2.0 * WARM_UP;
    let list = || scene.observations.series.known().into_iter().flatten();
    let late = list().any(|series| series.samples.iter().any(|(at, _)| *at >= ready));
    for pod in &change.new_pods {
        let heard = list().any(|series| {
            series.labels.get("pod") == Some(pod)
                && series.samples.iter().any(|(at, value)| *at >= ready && value.is_finite())
        });
        if late && !heard {
            told.add(0.8 / change.new_pods.len() as f64, format!("the new pod {pod} never reports"));
        }
    }
}

/// New pods that need much more CPU than the old ones at the same time.
fn busier(scene: &Scene<'_>, change: &Change, told: &mut Told) {
    let start = seconds(change.at) + WARM_UP;
    let replaced: BTreeSet<&str> = scene
        .changes
        .iter()
        .flat_map(|change| change.new_pods.iter().chain(&change.deleted_pods))
        .map(String::as_str)
        .collect();
    let (mut new, mut old) = (Vec::new(), Vec::new());
    for series in scene.series_of(&change.target) {
        let name = name_of(&series.labels).to_ascii_lowercase();
        if is_edge(series) || name.starts_with("node") || Family::of(&name) != Family::Cpu {
            continue;
        }
        let values: Vec<f64> = series.samples.iter().filter(|(at, _)| *at >= start).map(|(_, value)| *value).collect();
        let (Some(pod), Some(value)) = (series.labels.get("pod"), median(&values)) else { continue };
        if change.new_pods.contains(pod) {
            new.push(value);
        } else if !replaced.contains(pod.as_str()) {
            old.push(value);
        }
    }
    let highest = new.iter().copied().reduce(f64::max);
    if let (Some(highest), Some(usual)) = (highest, median(&old)) {
        let ratio = highest / usual.max(1e-9);
        if ratio > 1.3 && highest - usual > 0.1 * usual.max(1e-3) && highest - usual > 3.0_f64.min(usual) {
            told.add(
                (2.0 * ratio.log2()).min(2.0),
                format!("its new pods need {ratio:.1} times the CPU of the old ones"),
            );
        }
    }
}

//! The graph that tells the story: change, cause, effects, and the way along the topology to every symptom.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use crate::entity::Entity;
use crate::finding::Finding;
use crate::graph::{Edge, NODES_MAX, Node, NodeRole, RootCauseGraph};
use crate::inference::Hypothesis;
use crate::scene::{Scene, shifted};

/// Rejected alternatives that are worth a node.
const REJECTED_MAX: usize = 3;
/// Effects of one cause that are shown.
const EFFECTS_MAX: usize = 4;

/// Draws the stories of the leading hypotheses, and the best of the rejected ones beside them.
pub fn graph(scene: &Scene<'_>, leading: &[&Hypothesis], rejected: &[&Hypothesis]) -> RootCauseGraph {
    let mut drawing = Drawing::default();
    for hypothesis in leading {
        drawing.tell(scene, hypothesis);
    }
    for hypothesis in rejected.iter().take(REJECTED_MAX) {
        let against = hypothesis.findings.iter().min_by(|a, b| a.weight.total_cmp(&b.weight));
        let why = against.filter(|finding| finding.weight < 0.0).map_or("less evidence", |finding| &finding.sentence);
        let label = format!("{}: {why}", title(hypothesis));
        drawing.node("rejected", &hypothesis.entity, label, NodeRole::Rejected);
    }
    drawing.finish()
}

/// What a hypothesis is called in a graph.
fn title(hypothesis: &Hypothesis) -> String {
    hypothesis.kind.rsplit('.').next().unwrap_or(hypothesis.kind).replace('-', " ")
}

#[derive(Default)]
struct Drawing {
    graph: RootCauseGraph,
    ids: BTreeMap<(String, Entity, String), String>,
    edges: BTreeSet<(String, String)>,
}

impl Drawing {
    /// The id of a node, made when it is new; `None` when the graph is full.
    fn node(&mut self, group: &str, entity: &Entity, label: String, role: NodeRole) -> Option<String> {
        let key = (group.to_owned(), entity.clone(), label.clone());
        if let Some(id) = self.ids.get(&key) {
            return Some(id.clone());
        }
        if self.graph.nodes.len() >= NODES_MAX {
            return None;
        }
        let id = format!("n{}", self.graph.nodes.len());
        self.ids.insert(key, id.clone());
        self.graph.nodes.push(Node { id: id.clone(), entity: entity.clone(), label, role });
        Some(id)
    }

    fn edge(&mut self, from: &str, to: &str, weight: f64, evidence: String, asked: String) {
        if from != to && self.edges.insert((from.to_owned(), to.to_owned())) {
            let weight = (weight.clamp(0.05, 1.0) * 100.0).round() / 100.0;
            self.graph.edges.push(Edge { from: from.to_owned(), to: to.to_owned(), weight, evidence, asked });
        }
    }

    fn tell(&mut self, scene: &Scene<'_>, hypothesis: &Hypothesis) {
        let Some(cause) = self.node("cause", &hypothesis.entity, title(hypothesis), NodeRole::Cause) else { return };
        if let Some(change) = &hypothesis.change {
            let short: String = change.id.chars().take(12).collect();
            let summary: String = change.summary.chars().take(60).collect();
            let time = hypothesis.findings.iter().find(|finding| finding.change.is_some() && finding.weight > 0.0);
            let evidence = time.map_or_else(
                || format!("{} was changed at {}", change.target.name, change.at),
                |finding| finding.sentence.clone(),
            );
            let asked = time.map_or_else(|| scene.questions().to("git"), |finding| finding.asked.clone());
            if let Some(node) = self.node("change", &change.target, format!("{short} {summary}"), NodeRole::Change) {
                self.edge(&node, &cause, hypothesis.share, evidence, asked);
            }
        }
        let mut at = cause.clone();
        let chained = hypothesis.findings.iter().find(|finding| finding.weight > 0.0 && !finding.chain.is_empty());
        for link in chained.into_iter().flat_map(|finding| &finding.chain) {
            if let Some(node) = self.node("chain", &link.entity, link.label.clone(), NodeRole::Effect) {
                self.edge(&at, &node, hypothesis.share, link.sentence.clone(), link.asked.clone());
                at = node;
            }
        }
        let single = |finding: &&Finding| finding.chain.is_empty() && !finding.label.is_empty();
        let effects = hypothesis.findings.iter().filter(|finding| finding.weight > 0.0).filter(single);
        for finding in effects.take(EFFECTS_MAX) {
            let label = finding.label.clone();
            if let Some(node) = self.node("effect", &hypothesis.entity.workload(), label, NodeRole::Effect) {
                self.edge(&cause, &node, finding.weight / 6.0, finding.sentence.clone(), finding.asked.clone());
                if at == cause {
                    at = node;
                }
            }
        }
        self.symptoms(scene, hypothesis, &at);
    }

    /// From the strongest effect, along the topology, to everything that alerted.
    fn symptoms(&mut self, scene: &Scene<'_>, hypothesis: &Hypothesis, from: &str) {
        let entity = hypothesis.entity.workload();
        let mut seen: BTreeSet<(Entity, String)> = BTreeSet::new();
        let mut ordered: Vec<_> =
            hypothesis.explains.iter().filter_map(|index| scene.observations.symptoms.get(*index)).collect();
        ordered.sort_by(|a, b| (a.started_at, &a.key).cmp(&(b.started_at, &b.key)));
        for signal in ordered {
            let place = scene.symptom_entity(&signal.entity);
            // Three hundred alerts of one name on one entity are one node.
            if !seen.insert((place.clone(), signal.name.clone())) {
                continue;
            }
            let Some(symptom) = self.node("symptom", &place, signal.name.clone(), NodeRole::Symptom) else { return };
            let mut path = scene.graph.path(&place, &entity).unwrap_or_else(|| vec![place.clone(), entity.clone()]);
            path.reverse();
            let mut at = from.to_owned();
            let last = path.len().saturating_sub(1);
            for (index, pair) in path.windows(2).enumerate() {
                let [callee, caller] = pair else { continue };
                let (evidence, asked) = hop(scene, caller, callee);
                let next = match index + 1 == last {
                    true => Some(symptom.clone()),
                    false => self.node("hop", caller, "affected".to_owned(), NodeRole::Effect),
                };
                let Some(next) = next else { return };
                self.edge(&at, &next, hypothesis.share * 0.9, evidence, asked);
                at = next;
            }
            if last == 0 {
                let asked = match signal.labels.get("asked") {
                    Some(asked) => asked.clone(),
                    None => scene.questions().about(&[&signal.name, "ALERTS"]),
                };
                self.edge(&at, &symptom, hypothesis.share, format!("{} fires on {}", signal.name, place.name), asked);
            }
        }
    }

    fn finish(self) -> RootCauseGraph {
        self.graph
    }
}

/// Why trouble travels from a callee to its caller, with the measured effect where there is one.
fn hop(scene: &Scene<'_>, caller: &Entity, callee: &Entity) -> (String, String) {
    let calls = scene.graph.calls.get(caller).is_some_and(|callees| callees.contains(callee));
    let relation = match (calls, scene.graph.needs.get(caller).is_some_and(|needs| needs.contains(callee))) {
        (true, _) => format!("{} calls {}", caller.name, callee.name),
        (false, true) => format!("{} needs {}", caller.name, callee.name),
        (false, false) => format!("{} and {} are in one namespace", caller.name, callee.name),
    };
    let Some(onset) = scene.onset else { return (relation, String::new()) };
    let minutes = |count| SignedDuration::from_mins(count);
    let before = scene.answering(caller, shifted(onset, minutes(-60)), shifted(onset, minutes(-2)));
    let after = scene.answering(caller, onset, scene.observations.at);
    match (before.error_ratio, after.error_ratio, before.latency, after.latency) {
        (before, Some(now), ..) if now > before.unwrap_or(0.0) + 0.01 => {
            let before = before.unwrap_or(0.0) * 100.0;
            (format!("{relation}; its errors rose from {before:.1} % to {:.1} %", now * 100.0), after.asked)
        }
        (.., Some(before), Some(now)) if now > 1.3 * before => (
            format!("{relation}; its latency rose from {:.0} ms to {:.0} ms", before * 1000.0, now * 1000.0),
            after.asked,
        ),
        _ => (relation, scene.questions().about(&["dependencies", "trace"])),
    }
}

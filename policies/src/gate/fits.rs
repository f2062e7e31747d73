//! Whether the changed pods find room: on a node, inside quotas and limit ranges.

pub mod limit_range;
pub mod pod;
pub mod quota;

use amend_diagnosis::evidence::Answer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::limit_range::LimitRange;
use self::pod::{PodResources, Resource};
use self::quota::QuotaRoom;
use super::blast_radius::BlastRadiusFacts;
use crate::percentage::Percentage;
use crate::policy::{Problems, quoted};
use crate::quantity::Quantity;
use crate::verdict::{GateName, Verdict};

/// Settings of the gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fits {
    /// Share of a node's memory that must stay free after the pod is placed, such as 10%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub headroom: Option<String>,
}

/// The settings, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FitsRule {
    pub headroom: Option<Percentage>,
}

/// What the gate looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct FitsFacts {
    /// One pod of the target now and after the change.
    pub pod: Answer<PodChange>,
    /// Nodes that the pod may run on (its selectors, affinities and tolerations are already applied).
    pub nodes: Answer<Vec<NodeRoom>>,
    pub quotas: Answer<Vec<QuotaRoom>>,
    pub limit_ranges: Answer<Vec<LimitRange>>,
}

/// One pod before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodChange {
    pub before: PodResources,
    pub after: PodResources,
}

/// A node's allocatable amounts and what is not requested yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRoom {
    pub name: String,
    pub cpu_allocatable: Quantity,
    pub memory_allocatable: Quantity,
    pub cpu_free: Quantity,
    pub memory_free: Quantity,
}

impl Fits {
    pub(crate) fn compile(&self, path: &str, problems: &mut Problems) -> Option<FitsRule> {
        let headroom = match &self.headroom {
            Some(text) => {
                let share = problems.keep(format!("{path}.headroom"), Percentage::parse(text))?;
                if share.ratio() >= 1.0 {
                    problems.add(
                        format!("{path}.headroom"),
                        format!("{share} of a node can never stay free; write less than 100%"),
                    );
                    return None;
                }
                Some(share)
            }
            None => None,
        };
        Some(FitsRule { headroom })
    }
}

const GATE: GateName = GateName::Fits;

/// Judges the three questions: node, quota, limitRange.
pub fn evaluate(rule: &FitsRule, rollout: &BlastRadiusFacts, facts: &FitsFacts) -> Vec<Verdict> {
    let pod = match &facts.pod {
        Answer::Known(pod) => pod,
        Answer::Unknown { why } => {
            return vec![Verdict::unknown(GATE, "node", format!("cannot tell what the changed pod asks for: {why}"))];
        }
    };
    vec![node(rule, pod, &facts.nodes), quota(pod, rollout, &facts.quotas), limit_range(pod, &facts.limit_ranges)]
}

fn node(rule: &FitsRule, pod: &PodChange, nodes: &Answer<Vec<NodeRoom>>) -> Verdict {
    let nodes = match nodes {
        Answer::Known(nodes) => nodes,
        Answer::Unknown { why } => {
            return Verdict::unknown(GATE, "node", format!("cannot tell the room on nodes: {why}"));
        }
    };
    let (memory, cpu) = (pod.after.request(Resource::Memory), pod.after.request(Resource::Cpu));
    let limit = pod.after.limit(Resource::Memory).unwrap_or(memory);
    let kept = |node: &NodeRoom| {
        rule.headroom.map_or(Quantity::whole(0), |share| node.memory_allocatable.times(share.ratio()))
    };
    let Some(largest) = nodes.iter().map(|node| node.memory_allocatable).max() else {
        return Verdict::fail(
            GATE,
            "node",
            "no node may run this pod; check its nodeSelector, affinity and tolerations",
        );
    };
    if limit > largest {
        let sentence =
            format!("the memory limit of {limit} is more than the largest node has ({})", largest.show_roughly());
        return Verdict::fail(GATE, "node", sentence);
    }
    let roomy: Vec<_> =
        nodes.iter().filter(|node| node.memory_free >= memory.plus(kept(node)) && node.cpu_free >= cpu).collect();
    let asks = format!("the changed pod asks for {} memory and {} CPU", memory.show_memory(), cpu.show_cpu());
    match roomy.iter().max_by_key(|node| (node.memory_free, std::cmp::Reverse(&node.name))) {
        Some(best) => Verdict::pass(
            GATE,
            "node",
            format!(
                "{asks}; {} of {} nodes have room, {} most ({} free)",
                roomy.len(),
                nodes.len(),
                best.name,
                best.memory_free.show_roughly()
            ),
        ),
        None => {
            let freest = nodes.iter().map(|node| node.memory_free).max().unwrap_or(Quantity::whole(0));
            let sentence = format!(
                "{asks}; none of {} nodes has room (most free memory: {}); add a node or lower the requests",
                nodes.len(),
                freest.show_roughly()
            );
            Verdict::fail(GATE, "node", sentence)
        }
    }
}

fn quota(pod: &PodChange, rollout: &BlastRadiusFacts, quotas: &Answer<Vec<QuotaRoom>>) -> Verdict {
    let quotas = match quotas {
        Answer::Known(quotas) => quotas,
        Answer::Unknown { why } => {
            return Verdict::unknown(GATE, "quota", format!("cannot tell the room in quotas: {why}"));
        }
    };
    if quotas.is_empty() {
        return Verdict::pass(GATE, "quota", "no ResourceQuota in the namespace");
    }
    let rollout = match &rollout.rollout {
        Answer::Known(rollout) => rollout,
        Answer::Unknown { why } => {
            return Verdict::unknown(GATE, "quota", format!("cannot tell how many pods grow: {why}"));
        }
    };
    for quota in quotas {
        let Some(amount) = quota.counts() else { continue };
        if let Some(silent) = amount.silent(&pod.after) {
            let sentence = format!(
                "ResourceQuota {} counts {}, so that every container must name it, and container {} does not; name it, or let a \
                 LimitRange fill it in",
                quota.name,
                quota.resource,
                quoted(silent)
            );
            return Verdict::fail(GATE, "quota", sentence);
        }
        let (before, after) = (amount.of(&pod.before), amount.of(&pod.after));
        let grown = times(after.minus(before), rollout.replicas).plus(times(after, rollout.max_surge));
        let needed = quota.used.plus(grown);
        if needed > quota.hard {
            let sentence = format!(
                "ResourceQuota {} allows {} of {}: {} are used and the rollout adds {grown}; raise the quota or lower the change",
                quota.name, quota.hard, quota.resource, quota.used
            );
            return Verdict::fail(GATE, "quota", sentence);
        }
    }
    Verdict::pass(
        GATE,
        "quota",
        format!("{} pods and {} extra stay within every ResourceQuota", rollout.replicas, rollout.max_surge),
    )
}

fn times(amount: Quantity, count: u32) -> Quantity {
    Quantity::milli(amount.thousandths().saturating_mul(u64::from(count)))
}

fn limit_range(pod: &PodChange, ranges: &Answer<Vec<LimitRange>>) -> Verdict {
    let ranges = match ranges {
        Answer::Known(ranges) => ranges,
        Answer::Unknown { why } => {
            return Verdict::unknown(GATE, "limitRange", format!("cannot tell the namespace's LimitRange: {why}"));
        }
    };
    match ranges.iter().find_map(|range| range.refuses(&pod.after)) {
        Some(why) => Verdict::fail(GATE, "limitRange", why),
        None => Verdict::pass(GATE, "limitRange", "within every LimitRange of the namespace"),
    }
}

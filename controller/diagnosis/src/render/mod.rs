//! The root-cause graph for eyes: terminal text, Mermaid, DOT and SVG.

mod dot;
mod layers;
mod mermaid;
mod slow;
mod svg;
mod text;
mod traced;

pub use dot::dot;
pub use mermaid::mermaid;
pub use slow::{SlowRow, slow_rows, slowest};
pub use svg::svg;
pub use text::text;
pub use traced::{StoryRow, StoryShown, stories, stories_shown};

use crate::graph::{Node, NodeRole};

/// What a node is called in every rendering: untrusted parts are stripped of control characters and cut.
fn caption(node: &Node) -> (String, String) {
    let place = match &node.entity.container {
        Some(container) => format!("{} [{container}]", node.entity.name),
        None => node.entity.name.clone(),
    };
    (harmless(&place, 40), harmless(&node.label, 64))
}

fn harmless(text: &str, longest: usize) -> String {
    let clean = crate::logs::clean::plain(text);
    match clean.chars().count() > longest {
        true => clean.chars().take(longest - 1).chain(['…']).collect(),
        false => clean,
    }
}

fn role_name(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Change => "change",
        NodeRole::Cause => "cause",
        NodeRole::Effect => "effect",
        NodeRole::Symptom => "symptom",
        NodeRole::Rejected => "rejected",
    }
}

#[cfg(test)]
pub(crate) mod example {
    use crate::entity::{Entity, EntityKind};
    use crate::graph::{Edge, Node, NodeRole, RootCauseGraph};

    /// Change, cause, effect, symptom and a rejected alternative, with hostile labels.
    pub fn graph() -> RootCauseGraph {
        let node = |id: &str, name: &str, label: &str, role| Node {
            id: id.into(),
            entity: Entity::new(EntityKind::Deployment, "shop", name),
            label: label.into(),
            role,
        };
        let edge = |from: &str, to: &str, evidence: &str| Edge {
            from: from.into(),
            to: to.into(),
            weight: 0.9,
            evidence: evidence.into(),
            asked: "pods".into(),
        };
        RootCauseGraph {
            nodes: vec![
                node("n0", "checkout", "oom killed", NodeRole::Cause),
                node("n1", "checkout", "4f2a \"release\"]; <b>x</b>", NodeRole::Change),
                node("n2", "checkout", "OOMKilled 6 times", NodeRole::Effect),
                node("n3", "frontend", "HighErrorRate", NodeRole::Symptom),
                node("n4", "cart", "bad image: looks as before", NodeRole::Rejected),
            ],
            edges: vec![
                edge("n1", "n0", "changed 60 s before"),
                edge("n0", "n2", "killed 6 times"),
                edge("n2", "n3", "frontend calls checkout & fails"),
            ],
        }
    }
}

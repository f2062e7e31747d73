//! The graph in Graphviz' DOT language.

use std::fmt::Write;

use super::{caption, harmless};
use crate::graph::{NodeRole, RootCauseGraph};

/// Draws the graph in DOT with quoted ids and labels.
pub fn dot(graph: &RootCauseGraph) -> String {
    let mut out = String::from("digraph cause {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    for node in &graph.nodes {
        let (place, label) = caption(node);
        let style = match node.role {
            NodeRole::Change => "shape=note",
            NodeRole::Cause => "penwidth=3",
            NodeRole::Effect => "shape=box",
            NodeRole::Symptom => "shape=ellipse",
            NodeRole::Rejected => "style=dashed",
        };
        let _ = writeln!(out, "  {} [label={}, {style}];", quoted(&node.id), quoted(&format!("{place}\n{label}")));
    }
    for edge in &graph.edges {
        let (from, to) = (quoted(&edge.from), quoted(&edge.to));
        let label = quoted(&harmless(&edge.evidence, 80));
        let _ = writeln!(out, "  {from} -> {to} [label={label}, weight={:.0}];", edge.weight * 100.0);
    }
    out.push_str("}\n");
    out
}

fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_in_labels_are_escaped() {
        let got = dot(&super::super::example::graph());
        assert!(got.contains(r#"\"release\""#), "{got}");
        assert!(got.contains(r#""n2" -> "n3""#), "{got}");
    }
}

//! The graph as an indented tree for a terminal of 100 columns.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{caption, harmless, role_name};
use crate::graph::{NodeRole, RootCauseGraph};

/// Draws the graph as text: one line per node under what caused it, the evidence in brackets.
pub fn text(graph: &RootCauseGraph) -> String {
    let mut out = String::new();
    let caused: BTreeSet<&str> = graph.edges.iter().map(|edge| edge.to.as_str()).collect();
    let roots = graph.nodes.iter().filter(|node| !caused.contains(node.id.as_str()) && node.role != NodeRole::Rejected);
    let mut drawn = BTreeSet::new();
    for root in roots {
        branch(graph, &root.id, "", "", &mut drawn, &mut out);
    }
    let rejected: Vec<_> = graph.nodes.iter().filter(|node| node.role == NodeRole::Rejected).collect();
    if !rejected.is_empty() {
        out.push_str("not the cause:\n");
        for node in rejected {
            let (place, label) = caption(node);
            let _ = writeln!(out, "  x {place}: {label}");
        }
    }
    out
}

fn branch<'g>(
    graph: &'g RootCauseGraph,
    id: &'g str,
    indent: &str,
    evidence: &str,
    drawn: &mut BTreeSet<&'g str>,
    out: &mut String,
) {
    let Some(node) = graph.nodes.iter().find(|node| node.id == id) else { return };
    let (place, label) = caption(node);
    let _ = write!(out, "{place}: {label}  ({})", role_name(node.role));
    if !drawn.insert(id) {
        out.push_str(" … above\n");
        return;
    }
    out.push('\n');
    if !evidence.is_empty() {
        let _ = writeln!(out, "{indent}   because {evidence}");
    }
    let edges: Vec<_> = graph.edges.iter().filter(|edge| edge.from == id).collect();
    for (index, edge) in edges.iter().enumerate() {
        let last = index + 1 == edges.len();
        let _ = write!(out, "{indent}{} ", if last { "└─>" } else { "├─>" });
        let deeper = format!("{indent}{}", if last { "    " } else { "│   " });
        let evidence = match edge.asked.is_empty() {
            true => harmless(&edge.evidence, 120),
            false => format!("{} [{}]", harmless(&edge.evidence, 120), harmless(&edge.asked, 24)),
        };
        branch(graph, &edge.to, &deeper, &evidence, drawn, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Edge;

    #[test]
    fn the_tree_leads_from_the_change_down_to_the_symptom() {
        let got = text(&super::super::example::graph());
        let order: Vec<usize> = ["(change)", "(cause)", "(effect)", "(symptom)", "not the cause:"]
            .iter()
            .map(|part| got.find(part).unwrap_or_else(|| panic!("{part} in\n{got}")))
            .collect();
        assert!(order.is_sorted(), "{got}");
    }

    #[test]
    fn a_cycle_ends() {
        let mut graph = super::super::example::graph();
        graph.edges.push(Edge { from: "n3".into(), to: "n2".into(), ..graph.edges[0].clone() });
        assert!(text(&graph).contains("above"));
    }
}

//! The graph as a Mermaid flowchart, for pull requests.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{caption, harmless, role_name};
use crate::graph::{NodeRole, RootCauseGraph};

/// Draws the graph in Mermaid: ids are ours, labels are quoted and escaped, no links and no HTML.
pub fn mermaid(graph: &RootCauseGraph) -> String {
    let ids: BTreeMap<&str, usize> =
        graph.nodes.iter().enumerate().map(|(index, node)| (node.id.as_str(), index)).collect();
    let mut out = String::from("flowchart LR\n");
    for (index, node) in graph.nodes.iter().enumerate() {
        let (place, label) = caption(node);
        let (open, close) = match node.role {
            NodeRole::Change => ("([", "])"),
            NodeRole::Cause => ("{{", "}}"),
            NodeRole::Effect | NodeRole::Rejected => ("[", "]"),
            NodeRole::Symptom => ("(", ")"),
        };
        let class = role_name(node.role);
        let _ = writeln!(out, "  n{index}{open}\"{}: {}\"{close}:::{class}", escaped(&place), escaped(&label));
    }
    for edge in &graph.edges {
        if let (Some(from), Some(to)) = (ids.get(edge.from.as_str()), ids.get(edge.to.as_str())) {
            let _ = writeln!(out, "  n{from} -->|\"{}\"| n{to}", escaped(&harmless(&edge.evidence, 80)));
        }
    }
    out.push_str("  classDef cause stroke-width:3px\n  classDef rejected stroke-dasharray:4\n");
    out
}

/// Everything but letters, digits and harmless signs becomes an entity code of Mermaid.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_alphanumeric() => c.to_string(),
            ' ' | '.' | ',' | '-' | '+' | '/' | '_' | '%' | ':' | '…' | '=' => c.to_string(),
            other => format!("#{};", u32::from(other)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_out_of_their_quotes() {
        let got = mermaid(&super::super::example::graph());
        assert!(
            got.contains("n1([\"checkout: 4f2a #34;release#34;#93;#59; #60;b#62;x#60;/b#62;\"]):::change"),
            "{got}"
        );
        assert_eq!(got.lines().filter(|line| line.contains("-->")).count(), 3);
    }
}

//! A small layered layout: columns by the longest way from a root, rows by the middle of what leads there.

use std::collections::BTreeMap;

use crate::graph::{NodeRole, RootCauseGraph};

/// Column and row of a node, by its position in the graph's list.
pub struct Place {
    pub column: usize,
    pub row: f64,
}

/// Lays a graph out; the same graph always gives the same picture.
pub fn places(graph: &RootCauseGraph) -> Vec<Place> {
    let index: BTreeMap<&str, usize> =
        graph.nodes.iter().enumerate().map(|(index, node)| (node.id.as_str(), index)).collect();
    let edges: Vec<(usize, usize)> = graph
        .edges
        .iter()
        .filter_map(|edge| Some((*index.get(edge.from.as_str())?, *index.get(edge.to.as_str())?)))
        .collect();
    let mut column = vec![0usize; graph.nodes.len()];
    // Longest paths settle within as many rounds as there are nodes; a cycle only stops earlier.
    for _ in 0..graph.nodes.len() {
        let mut moved = false;
        for (from, to) in &edges {
            if column[*to] < column[*from] + 1 && column[*from] + 1 < graph.nodes.len() {
                column[*to] = column[*from] + 1;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let mut rows = vec![0.0; graph.nodes.len()];
    for at in 0..graph.nodes.len() {
        let mut members: Vec<(bool, f64, usize)> = (0..graph.nodes.len())
            .filter(|node| column[*node] == at)
            .map(|node| {
                let before: Vec<f64> = edges
                    .iter()
                    .filter(|(from, to)| *to == node && column[*from] < at)
                    .map(|(from, _)| rows[*from])
                    .collect();
                let middle = match before.is_empty() {
                    true => node as f64,
                    false => before.iter().sum::<f64>() / before.len() as f64,
                };
                (graph.nodes[node].role == NodeRole::Rejected, middle, node)
            })
            .collect();
        members.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
        for (row, (_, _, node)) in members.into_iter().enumerate() {
            rows[node] = row as f64;
        }
    }
    column.into_iter().zip(rows).map(|(column, row)| Place { column, row }).collect()
}

//! The graph as an SVG picture: no script, colours by class and `currentColor`, so that light and dark pages both work.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::layers::places;
use super::{caption, harmless, role_name};
use crate::graph::RootCauseGraph;

const WIDTH: f64 = 210.0;
const HEIGHT: f64 = 52.0;
const GAP_X: f64 = 70.0;
const GAP_Y: f64 = 26.0;
const MARGIN: f64 = 12.0;

/// Letters that fit into a box even where the system's font is a wide one (DejaVu Sans: 7.4 px a letter, bold 8.4 px).
const NAME: usize = 22;
const LABEL: usize = 25;

const STYLE: &str = "<style>\
.amend-graph{font:13px system-ui,sans-serif;color:inherit}\
.amend-graph rect{fill:none;stroke:currentColor;stroke-width:1.2}\
.amend-graph .cause rect{stroke:#d1242f;stroke-width:2.5}\
.amend-graph .change rect{stroke:#8250df;stroke-width:2}\
.amend-graph .symptom rect{stroke:#bf8700;stroke-width:2}\
.amend-graph .rejected{opacity:.55}\
.amend-graph .rejected rect{stroke-dasharray:5 4}\
.amend-graph text{fill:currentColor}\
.amend-graph .place{font-weight:600}\
.amend-graph path{fill:none;stroke:currentColor;opacity:.75}\
.amend-graph .tip{fill:currentColor;stroke:none}\
</style>";

/// Draws the graph; deterministic, with a title on every edge that tells its evidence.
pub fn svg(graph: &RootCauseGraph) -> String {
    let places = places(graph);
    let x = |column: usize| MARGIN + column as f64 * (WIDTH + GAP_X);
    let y = |row: f64| MARGIN + row * (HEIGHT + GAP_Y);
    let columns = places.iter().map(|place| place.column + 1).max().unwrap_or(1);
    let rows = places.iter().map(|place| place.row + 1.0).fold(1.0, f64::max);
    let width = 2.0 * MARGIN + columns as f64 * WIDTH + (columns - 1) as f64 * GAP_X;
    let height = 2.0 * MARGIN + rows * HEIGHT + (rows - 1.0) * GAP_Y;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"amend-graph\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-label=\"root-cause graph\">{STYLE}"
    );
    let index: BTreeMap<&str, usize> =
        graph.nodes.iter().enumerate().map(|(index, node)| (node.id.as_str(), index)).collect();
    for edge in &graph.edges {
        let (Some(from), Some(to)) = (index.get(edge.from.as_str()), index.get(edge.to.as_str())) else { continue };
        let (from, to) = (&places[*from], &places[*to]);
        let (x1, y1) = (x(from.column) + WIDTH, y(from.row) + HEIGHT / 2.0);
        let (x2, y2) = (x(to.column), y(to.row) + HEIGHT / 2.0);
        let bend = ((x2 - x1).abs() / 2.0).max(20.0);
        let _ = write!(
            out,
            "<g class=\"edge\"><title>{}</title><path d=\"M{x1:.1} {y1:.1}C{:.1} {y1:.1} {:.1} {y2:.1} {:.1} {y2:.1}\" \
             stroke-width=\"{:.1}\"/><path class=\"tip\" d=\"M{x2:.1} {y2:.1}l-7 -4v8z\"/></g>",
            escaped(&harmless(&edge.evidence, 200)),
            x1 + bend,
            x2 - bend,
            x2 - 6.0,
            0.8 + 1.8 * edge.weight
        );
    }
    for (node, place) in graph.nodes.iter().zip(&places) {
        let (name, label) = caption(node);
        let (left, top) = (x(place.column), y(place.row));
        let _ = write!(
            out,
            "<g class=\"{}\"><title>{}: {}</title><rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" rx=\"6\"/><text class=\"place\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
            role_name(node.role),
            escaped(&name),
            escaped(&label),
            left + 10.0,
            top + 21.0,
            escaped(&harmless(&name, NAME)),
            left + 10.0,
            top + 40.0,
            escaped(&harmless(&label, LABEL)),
        );
    }
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_the_picture_is_the_same_each_time() {
        let graph = super::super::example::graph();
        let got = svg(&graph);
        assert!(got.contains("&lt;b&gt;x&lt;/b&gt;") && !got.contains("<b>") && !got.contains("<script"), "{got}");
        assert_eq!(got, svg(&graph));
    }

    #[test]
    fn an_empty_graph_is_an_empty_picture() {
        assert!(svg(&RootCauseGraph::default()).ends_with("</svg>\n"));
    }
}

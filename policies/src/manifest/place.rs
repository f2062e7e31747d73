//! The line on which something stands, for messages that point at it.

use super::tree::{Content, Node, parse};

/// The 1-based line of a path like `spec.gates[0].blastRadius.maxUnavailible` in one document of a file.
///
/// Documents are counted without empty ones. A path that leads further than the file does gives the line of its last part
/// that is there; `None` when the file is no YAML or has no such document.
pub fn line_of(text: &str, document: usize, path: &str) -> Option<usize> {
    let documents = parse(text).ok()?;
    let root = documents.iter().filter(|node| !node.is_null()).nth(document)?;
    let (mut node, mut start, mut rest) = (root, root.span.start, path);
    while let Some((below, at, after)) = step(node, rest) {
        (node, start, rest) = (below, at, after);
    }
    Some(1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count())
}

/// The node one step along the path, where it starts, and what is left of the path.
fn step<'n, 'p>(node: &'n Node, path: &'p str) -> Option<(&'n Node, usize, &'p str)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    match &node.content {
        Content::Mapping { entries, .. } => entries
            .iter()
            .filter_map(|(key, value)| {
                let name = key.text().filter(|name| !name.is_empty())?;
                let rest = path.strip_prefix(name)?;
                // A key may hold dots itself: the longest that fits is meant.
                (rest.is_empty() || rest.starts_with(['.', '['])).then_some((name.len(), value, key.span.start, rest))
            })
            .max_by_key(|(length, ..)| *length)
            .map(|(_, value, start, rest)| (value, start, rest)),
        Content::Sequence { items, .. } => {
            let (position, rest) = path.strip_prefix('[')?.split_once(']')?;
            let item = items.get(position.parse::<usize>().ok()?)?;
            Some((item, item.span.start, rest))
        }
        Content::Scalar { .. } | Content::Alias(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# a comment
kind: Secret
---
---
spec:
  gates:
    - fits: {}
    - blastRadius:
        maxUnavailible: 50%
  match.labels: { a.b: 1 }
";

    #[test]
    fn a_path_leads_to_the_line_of_its_key() {
        for (document, path, line) in [
            (0, "kind", 2),
            (1, "spec", 5),
            (1, "spec.gates[0].fits", 7),
            (1, "spec.gates[1].blastRadius.maxUnavailible", 9),
            (1, "spec.match.labels.a.b", 10),
        ] {
            assert_eq!(line_of(FILE, document, path), Some(line), "{path}");
        }
    }

    #[test]
    fn what_is_missing_is_shown_where_it_would_be() {
        assert_eq!(line_of(FILE, 1, "spec.gates[1].blastRadius.maxDependents"), Some(8));
        assert_eq!(line_of(FILE, 1, "spec.gates[7]"), Some(6));
        assert_eq!(line_of(FILE, 2, "spec"), None);
        assert_eq!(line_of("a: [", 0, "a"), None);
    }
}

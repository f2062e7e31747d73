//! Which bytes go and which come for one change, and what the tree must look like afterwards.

use super::scalar::{self, Class, rendered};
use super::tree::{Content, Node, Style};
use super::{Refusal, Trail, no_place};
use crate::field::{FieldPath, Step};
use crate::plan::SourceFile;

/// One hunk with its declared effect.
#[derive(Debug)]
pub(super) struct Splice {
    pub start: usize,
    pub removed: usize,
    pub inserted: String,
    /// Lines that the file gains.
    pub lines: isize,
    /// Positions from the document to the node that changes.
    pub steps: Vec<usize>,
    pub effect: Effect,
}

/// What happens to the tree.
#[derive(Debug)]
pub(super) enum Effect {
    /// The node becomes this.
    Become(Content),
    /// The mapping gets this entry at this position.
    Gain { at: usize, key: Node, value: Node },
    /// The mapping loses the entry at this position.
    Lose { at: usize },
}

impl Splice {
    /// The line of the last value that was written, from 1.
    pub fn line_of_value(&self, after: &str) -> usize {
        let end = self.start + self.inserted.trim_end().len();
        after.as_bytes()[..end.min(after.len())].iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

fn scalar_node(text: &str, style: Style) -> Node {
    Node { content: Content::Scalar { text: text.into(), style }, span: 0..0, anchor: 0, tag: None }
}

/// Replaces one scalar by another.
pub(super) fn replacing(file: &SourceFile, trail: &Trail<'_>, field: &FieldPath, to: &str) -> Result<Splice, Refusal> {
    let not_scalar = || Refusal::NotScalar { path: file.path.clone(), field: field.to_string() };
    let Content::Scalar { text, style } = &trail.node.content else { return Err(not_scalar()) };
    let span = trail.node.span.clone();
    let old = file.text.get(span.clone()).ok_or_else(not_scalar)?;
    if *style == Style::Block || old.contains('\n') || trail.node.tag.is_some() {
        return Err(not_scalar());
    }
    let flow = trail.parent.is_some_and(is_flow);
    let was = (*style == Style::Plain).then(|| scalar::class(text));
    let (written, style) = rendered(to, *style, was, flow);
    let effect = Effect::Become(Content::Scalar { text: to.into(), style });
    if old.is_empty() {
        // An empty value has no bytes of its own: it goes behind the colon of its key.
        let key = trail.keys.last().copied().flatten().ok_or_else(not_scalar)?;
        let start = after_colon(&file.text, key).ok_or_else(not_scalar)?;
        let inserted = format!(" {written}");
        return Ok(Splice { start, removed: 0, inserted, lines: 0, steps: trail.steps.clone(), effect });
    }
    Ok(Splice {
        start: span.start,
        removed: old.len(),
        inserted: written,
        lines: 0,
        steps: trail.steps.clone(),
        effect,
    })
}

/// The ways to add a value below the deepest node that exists, best first; the first that can be proven counts.
pub(super) fn inserting(
    file: &SourceFile,
    trail: &Trail<'_>,
    rest: &[Step],
    field: &FieldPath,
    to: &str,
) -> Result<Vec<Splice>, Refusal> {
    let keys: Option<Vec<&str>> = rest
        .iter()
        .map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Named(_) | Step::At(_) => None,
        })
        .collect();
    let Some(keys) = keys else { return Err(no_place(file, field, rest)) };
    if trail.node.tag.is_some() {
        return Err(no_place(file, field, rest));
    }
    let splices = match &trail.node.content {
        Content::Mapping { entries, flow: true } => into_flow(file, trail, entries, &keys, to),
        Content::Mapping { entries, flow: false } => into_block(file, trail, entries, &keys, to),
        Content::Scalar { .. } if trail.node.is_null() && trail.node.span.is_empty() => {
            below_empty(file, trail, &keys, to)
        }
        Content::Scalar { .. } | Content::Sequence { .. } | Content::Alias(_) => Vec::new(),
    };
    if splices.is_empty() { Err(no_place(file, field, rest)) } else { Ok(splices) }
}

/// `{a: 1}` becomes `{a: 1, b: {c: 2}}`.
fn into_flow(file: &SourceFile, trail: &Trail<'_>, entries: &[(Node, Node)], keys: &[&str], to: &str) -> Vec<Splice> {
    let Some((first, below)) = keys.split_first() else { return Vec::new() };
    let (written, style) = rendered(to, Style::Plain, None, true);
    let (mut inner, mut value) = (written, scalar_node(to, style));
    for key in below.iter().rev() {
        let (name, style) = rendered(key, Style::Plain, None, true);
        inner = format!("{{{name}: {inner}}}");
        value = mapping(scalar_node(key, style), value, true);
    }
    let (name, style) = rendered(first, Style::Plain, None, true);
    let (start, inserted) = match entries.last() {
        Some((_, last)) => (last.end(), format!(", {name}: {inner}")),
        None => match file.text.get(trail.node.span.start..) {
            Some(text) if text.starts_with('{') => (trail.node.span.start + 1, format!("{name}: {inner}")),
            _ => return Vec::new(),
        },
    };
    let effect = Effect::Gain { at: entries.len(), key: scalar_node(first, style), value };
    vec![Splice { start, removed: 0, inserted, lines: 0, steps: trail.steps.clone(), effect }]
}

fn mapping(key: Node, value: Node, flow: bool) -> Node {
    Node { content: Content::Mapping { entries: vec![(key, value)], flow }, span: 0..0, anchor: 0, tag: None }
}

/// Lines with nested keys, the last with the value, and the entry that they mean.
fn block_lines(keys: &[&str], to: &str, indent: usize, newline: &str) -> Option<(String, Node, Node)> {
    let (written, style) = rendered(to, Style::Plain, None, false);
    let mut lines = Vec::new();
    for (depth, key) in keys.iter().enumerate() {
        let (name, _) = rendered(key, Style::Plain, None, false);
        let value = if depth + 1 == keys.len() { format!(" {written}") } else { String::new() };
        lines.push(format!("{:indent$}{name}:{value}", "", indent = indent + 2 * depth));
    }
    let (first, below) = keys.split_first()?;
    let named = |key: &str| scalar_node(key, rendered(key, Style::Plain, None, false).1);
    let value = below.iter().rev().fold(scalar_node(to, style), |value, key| mapping(named(key), value, false));
    Some((lines.join(newline), named(first), value))
}

/// After the last entry, or before the first where the last is hard to see the end of.
fn into_block(file: &SourceFile, trail: &Trail<'_>, entries: &[(Node, Node)], keys: &[&str], to: &str) -> Vec<Splice> {
    let (Some((first, _)), Some((last_key, last))) = (entries.first(), entries.last()) else { return Vec::new() };
    let text = &file.text;
    let line_start = text[..first.span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let prefix = text[line_start..first.span.start].trim_start_matches('\u{feff}');
    if !prefix.bytes().all(|byte| matches!(byte, b' ' | b'-')) {
        return Vec::new();
    }
    let newline = newline_of(text);
    let Some((lines, key, value)) = block_lines(keys, to, prefix.len(), newline) else { return Vec::new() };
    let added = isize::try_from(keys.len()).unwrap_or(0);
    let splice = |start: usize, inserted: String, at: usize| Splice {
        start,
        removed: 0,
        inserted,
        lines: added,
        steps: trail.steps.clone(),
        effect: Effect::Gain { at, key: key.clone(), value: value.clone() },
    };
    // The span of a block scalar reaches over the line break into the indentation of what follows.
    let end = text[..last.end().max(last_key.end())].trim_end().len();
    let after = match text[end..].find('\n') {
        Some(offset) => splice(end + offset + 1, format!("{lines}{newline}"), entries.len()),
        None => splice(text.len(), format!("{newline}{lines}"), entries.len()),
    };
    let mut all = vec![after];
    if prefix.bytes().all(|byte| byte == b' ') {
        all.push(splice(first.span.start - prefix.len(), format!("{lines}{newline}"), 0));
    }
    all
}

/// `resources:` with nothing behind it gets its first lines.
fn below_empty(file: &SourceFile, trail: &Trail<'_>, keys: &[&str], to: &str) -> Vec<Splice> {
    let Some(key) = trail.keys.last().copied().flatten() else { return Vec::new() };
    if trail.parent.is_some_and(is_flow) {
        return Vec::new();
    }
    let text = &file.text;
    let line_start = text[..key.span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let newline = newline_of(text);
    let Some((lines, name, value)) = block_lines(keys, to, key.span.start - line_start + 2, newline) else {
        return Vec::new();
    };
    let (start, inserted) = match text[key.span.end..].find('\n') {
        Some(offset) => (key.span.end + offset + 1, format!("{lines}{newline}")),
        None => (text.len(), format!("{newline}{lines}")),
    };
    let effect = Effect::Become(Content::Mapping { entries: vec![(name, value)], flow: false });
    let lines = isize::try_from(keys.len()).unwrap_or(0);
    vec![Splice { start, removed: 0, inserted, lines, steps: trail.steps.clone(), effect }]
}

/// Takes one `key: value` line away that has neighbours.
pub(super) fn removing(file: &SourceFile, trail: &Trail<'_>, field: &FieldPath) -> Result<Splice, Refusal> {
    let refused = || Refusal::NotScalar { path: file.path.clone(), field: field.to_string() };
    let (Some(parent), Some(Some(key)), Some(at)) = (trail.parent, trail.keys.last(), trail.steps.last()) else {
        return Err(refused());
    };
    let Content::Mapping { entries, flow: false } = &parent.content else { return Err(refused()) };
    let text = &file.text;
    let start = text[..key.span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[trail.node.span.end..].find('\n').map_or(text.len(), |offset| trail.node.span.end + offset + 1);
    let alone = text[start..key.span.start].bytes().all(|byte| byte == b' ');
    let one_line = text[start..end].trim_end_matches(['\r', '\n']).lines().count() == 1;
    let scalar = matches!(&trail.node.content, Content::Scalar { style, .. } if *style != Style::Block);
    if entries.len() < 2 || !alone || !one_line || !scalar || !text[..end].ends_with('\n') {
        return Err(refused());
    }
    let steps = trail.steps[..trail.steps.len() - 1].to_vec();
    Ok(Splice {
        start,
        removed: end - start,
        inserted: String::new(),
        lines: -1,
        steps,
        effect: Effect::Lose { at: *at },
    })
}

fn is_flow(node: &Node) -> bool {
    match node.content {
        Content::Mapping { flow, .. } | Content::Sequence { flow, .. } => flow,
        Content::Scalar { .. } | Content::Alias(_) => false,
    }
}

/// The byte behind the colon of a key.
fn after_colon(text: &str, key: &Node) -> Option<usize> {
    let rest = text.get(key.span.end..)?;
    let spaces = rest.len() - rest.trim_start_matches(' ').len();
    rest[spaces..].starts_with(':').then_some(key.span.end + spaces + 1)
}

/// The line ending of the file: that of its first line.
fn newline_of(text: &str) -> &'static str {
    match text.find('\n') {
        Some(position) if text[..position].ends_with('\r') => "\r\n",
        _ => "\n",
    }
}

/// Applies an effect to a copy of the tree.
pub(super) fn expected(documents: &[Node], document: usize, splice: &Splice) -> Option<Vec<Node>> {
    let mut documents = documents.to_vec();
    let mut node = documents.get_mut(document)?;
    for step in &splice.steps {
        node = match &mut node.content {
            Content::Mapping { entries, .. } => &mut entries.get_mut(*step)?.1,
            Content::Sequence { items, .. } => items.get_mut(*step)?,
            Content::Scalar { .. } | Content::Alias(_) => return None,
        };
    }
    match (&splice.effect, &mut node.content) {
        (Effect::Become(content), old) => *old = content.clone(),
        (Effect::Gain { at, key, value }, Content::Mapping { entries, .. }) => {
            entries.insert(*at, (key.clone(), value.clone()));
        }
        (Effect::Lose { at }, Content::Mapping { entries, .. }) => {
            entries.remove(*at);
        }
        (Effect::Gain { .. } | Effect::Lose { .. }, _) => return None,
    }
    Some(documents)
}

/// Kept here because only styles decide it: what two plain scalars must share to mean the same.
pub(super) fn meaning(style: Style, text: &str) -> Class {
    match style {
        Style::Plain => scalar::class(text),
        Style::Single | Style::Double | Style::Block => Class::Text,
    }
}

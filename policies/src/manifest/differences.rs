//! Which fields of which objects differ between two versions of a file.

use std::collections::BTreeMap;

use super::tree::{Content, Node};
use super::{Refusal, identity_of, is_manifest, read};
use crate::field::{FieldPath, Step};
use crate::plan::{FieldEdit, ObjectRef, SourceFile};

/// Every scalar that differs, object by object; an object that comes or goes is given field by field.
///
/// Items of lists are told apart by their `name` where all have one of their own, else by position. Values that stand
/// behind an alias are compared as what they mean. A file that is no manifest has no fields.
///
/// # Errors
/// When one of the files is not YAML.
pub fn differences(before: Option<&SourceFile>, after: Option<&SourceFile>) -> Result<Vec<FieldEdit>, Refusal> {
    let (old, new) = (leaves(before)?, leaves(after)?);
    let mut edits = Vec::new();
    for (place, (from, line)) in &old {
        match new.get(place) {
            Some((to, _)) if to == from => {}
            Some((to, line)) => edits.push(edit(place, Some(from), Some(to), *line)),
            None => edits.push(edit(place, Some(from), None, *line)),
        }
    }
    for (place, (to, line)) in &new {
        if !old.contains_key(place) {
            edits.push(edit(place, None, Some(to), *line));
        }
    }
    edits.sort_by(|left, right| (&left.object, &left.field).cmp(&(&right.object, &right.field)));
    Ok(edits)
}

type Leaves = BTreeMap<(ObjectRef, FieldPath), (String, usize)>;

fn edit(place: &(ObjectRef, FieldPath), from: Option<&String>, to: Option<&String>, line: usize) -> FieldEdit {
    FieldEdit {
        object: place.0.clone(),
        field: place.1.clone(),
        from: from.cloned(),
        to: to.cloned(),
        line: u32::try_from(line).unwrap_or(u32::MAX),
    }
}

fn leaves(file: Option<&SourceFile>) -> Result<Leaves, Refusal> {
    let mut found = Leaves::new();
    let Some(file) = file.filter(|file| is_manifest(&file.path)) else { return Ok(found) };
    for document in &read(file)? {
        let Some(object) = identity_of(file, document) else { continue };
        let mut anchors = BTreeMap::new();
        document.each(&mut |node| {
            if node.anchor != 0 {
                anchors.insert(node.anchor, node);
            }
        });
        let mut walk = Walk { file, object: &object, anchors, found: &mut found };
        walk.visit(document, &mut Vec::new(), 0);
        if found.len() >= LEAVES_MAX {
            // What lies behind the last one was not compared.
            return Err(Refusal::Unreadable {
                path: file.path.clone(),
                why: format!("it has more than {LEAVES_MAX} fields, too many to compare"),
            });
        }
    }
    Ok(found)
}

struct Walk<'a> {
    file: &'a SourceFile,
    object: &'a ObjectRef,
    anchors: BTreeMap<usize, &'a Node>,
    found: &'a mut Leaves,
}

/// Aliases may point to aliases; deeper chains than any person writes are cut.
const ALIASES_MAX: u32 = 8;

/// So many leaves are enough for any object, and too few for a file that multiplies itself by aliases.
const LEAVES_MAX: usize = 20_000;

impl Walk<'_> {
    fn visit(&mut self, node: &Node, steps: &mut Vec<Step>, aliases: u32) {
        if self.found.len() >= LEAVES_MAX {
            return;
        }
        match &node.content {
            Content::Alias(id) => {
                if let (Some(target), true) = (self.anchors.get(id).copied(), aliases < ALIASES_MAX) {
                    self.visit(target, steps, aliases + 1);
                }
            }
            Content::Scalar { text, .. } => self.leaf(node, steps, text.clone()),
            Content::Mapping { entries, .. } if entries.is_empty() => self.leaf(node, steps, "{}".into()),
            Content::Sequence { items, .. } if items.is_empty() => self.leaf(node, steps, "[]".into()),
            Content::Mapping { entries, .. } => {
                for (key, value) in entries {
                    steps.push(Step::Key(key.text().unwrap_or_default().to_owned()));
                    self.visit(value, steps, aliases);
                    steps.pop();
                }
            }
            Content::Sequence { items, .. } => {
                let names: Vec<_> = items.iter().filter_map(|item| item.get("name")?.text()).collect();
                let mut unique = names.clone();
                unique.sort_unstable();
                unique.dedup();
                let named = unique.len() == items.len();
                for (position, item) in items.iter().enumerate() {
                    steps.push(if named { Step::Named(names[position].to_owned()) } else { Step::At(position) });
                    self.visit(item, steps, aliases);
                    steps.pop();
                }
            }
        }
    }

    fn leaf(&mut self, node: &Node, steps: &[Step], text: String) {
        if !steps.is_empty() {
            let place = (self.object.clone(), FieldPath::new(steps.to_vec()));
            self.found.insert(place, (text, self.file.line_at(node.span.start)));
        }
    }
}

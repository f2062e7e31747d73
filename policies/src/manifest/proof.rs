//! The proof that an edit did what it declared and nothing else.

use super::Refusal;
use super::splice::{Splice, expected, meaning};
use super::tree::{self, Content, Node};
use crate::field::FieldPath;
use crate::plan::SourceFile;

/// Carries a splice out and proves it: bytes outside the hunk, line count, and the whole tree.
pub(super) fn proven(
    file: &SourceFile,
    documents: &[Node],
    document: usize,
    splice: &Splice,
    field: &FieldPath,
) -> Result<String, Refusal> {
    let refuse =
        |why: &str| Err(Refusal::Unproven { path: file.path.clone(), field: field.to_string(), why: why.to_owned() });
    let before = &file.text;
    let end = splice.start + splice.removed;
    let (Some(head), Some(tail)) = (before.get(..splice.start), before.get(end..)) else {
        return refuse("the place is not between two characters");
    };
    let after = format!("{head}{}{tail}", splice.inserted);
    if !after.starts_with(head)
        || !after.ends_with(tail)
        || after.len() != head.len() + splice.inserted.len() + tail.len()
    {
        return refuse("bytes outside the change differ");
    }
    if lines(&after) - lines(before) != splice.lines {
        return refuse("another number of lines than declared");
    }
    let Some(wanted) = expected(documents, document, splice) else {
        return refuse("the place is not where it was");
    };
    match tree::parse(&after) {
        Err(_) => refuse("the result is not YAML"),
        Ok(got) if got.len() == wanted.len() && got.iter().zip(&wanted).all(|(got, wanted)| same(got, wanted)) => {
            Ok(after)
        }
        Ok(_) => refuse("the result means something else"),
    }
}

fn lines(text: &str) -> isize {
    isize::try_from(text.bytes().filter(|byte| *byte == b'\n').count()).unwrap_or(isize::MAX)
}

/// Equal in everything that a reader of the data can see: kinds, order, text, class of plain values, tags and anchors.
fn same(left: &Node, right: &Node) -> bool {
    if left.tag != right.tag || left.anchor != right.anchor {
        return false;
    }
    match (&left.content, &right.content) {
        (Content::Scalar { text, style }, Content::Scalar { text: other, style: other_style }) => {
            text == other && meaning(*style, text) == meaning(*other_style, other)
        }
        (Content::Mapping { entries, .. }, Content::Mapping { entries: others, .. }) => {
            entries.len() == others.len()
                && entries.iter().zip(others).all(|(left, right)| same(&left.0, &right.0) && same(&left.1, &right.1))
        }
        (Content::Sequence { items, .. }, Content::Sequence { items: others, .. }) => {
            items.len() == others.len() && items.iter().zip(others).all(|(left, right)| same(left, right))
        }
        (Content::Alias(left), Content::Alias(right)) => left == right,
        (Content::Scalar { .. } | Content::Mapping { .. } | Content::Sequence { .. } | Content::Alias(_), _) => false,
    }
}

//! What must not be edited: templates, encrypted files, shared values, and what a comment forbids.

use std::collections::BTreeSet;

use super::Refusal;
use super::tree::{Content, Node};
use crate::field::FieldPath;
use crate::plan::{ObjectRef, SourceFile};
use crate::policy::quoted;
use crate::quantity::Quantity;

/// How Flux marks a value that its image automation writes
/// (<https://fluxcd.io/flux/guides/image-update/#configure-image-update-for-custom-resources>).
const SETTER: &str = "{\"$imagepolicy\"";

/// How people mark what Amend must leave alone.
const IGNORE: &str = "amend:ignore";

/// How people bound a value, followed by the most that it may be.
const MAX: &str = "amend:max=";

/// Refuses documents whose text means more than it says.
pub(super) fn refuse_unsafe(
    file: &SourceFile,
    documents: &[Node],
    position: usize,
    object: &ObjectRef,
) -> Result<(), Refusal> {
    let path = || file.path.clone();
    if documents.iter().any(|document| document.get("sops").is_some()) {
        return Err(Refusal::Encrypted { path: path() });
    }
    let document = &documents[position];
    let text = file.text.get(document.span.start..document.end()).unwrap_or(&file.text);
    if text.contains("{{") {
        return Err(Refusal::Template { path: path(), object: object.to_string() });
    }
    if let Some(line) = indenting_tab(file, document, text) {
        return Err(Refusal::Tab { path: path(), line });
    }
    let mut duplicate = None;
    document.each(&mut |node| {
        if let Content::Mapping { entries, .. } = &node.content {
            let mut seen = BTreeSet::new();
            let again = entries.iter().find(|(key, _)| key.text().is_some_and(|text| !seen.insert(text)));
            duplicate = duplicate.or(again.map(|(key, _)| key));
        }
    });
    match duplicate {
        None => Ok(()),
        Some(key) => Err(Refusal::DuplicateKey {
            path: path(),
            key: quoted(key.text().unwrap_or_default()),
            line: file.line_at(key.span.start),
        }),
    }
}

/// The first line that is indented with a tab; in a text over several lines a tab is a letter like others.
fn indenting_tab(file: &SourceFile, document: &Node, text: &str) -> Option<usize> {
    let mut texts = Vec::new();
    document.each(&mut |node| {
        if let Content::Scalar { .. } = node.content {
            texts.push(node.span.clone());
        }
    });
    let mut start = document.span.start;
    for line in text.split_inclusive('\n') {
        let indent = &line[..line.len() - line.trim_start().len()];
        let tab = indent.find('\t').map(|position| start + position);
        if let Some(tab) = tab.filter(|tab| !texts.iter().any(|span| span.contains(tab))) {
            return Some(file.line_at(tab));
        }
        start += line.len();
    }
    None
}

/// Refuses a value that others use through an alias, and what a comment forbids.
///
/// Comments count on the line of a key on the way, on the lines directly above it, and above the document's first key.
pub(super) fn refuse_guarded(
    file: &SourceFile,
    document: &Node,
    keys: &[Option<&Node>],
    field: &FieldPath,
    to: &str,
) -> Result<(), Refusal> {
    let mut used = BTreeSet::new();
    document.each(&mut |node| {
        if let Content::Alias(id) = node.content {
            used.insert(id);
        }
    });
    let mut below = Some(document);
    for key in keys.iter().flatten() {
        below = below.and_then(|node| containing(node, key));
        if below.is_some_and(|node| used.contains(&node.anchor)) {
            let what = "an anchor that other places use".to_owned();
            return Err(Refusal::Shared { path: file.path.clone(), field: field.to_string(), what });
        }
    }
    refuse_commented(file, document, keys, field, to)
}

/// Refuses what a comment on the way to a field forbids.
pub(super) fn refuse_commented(
    file: &SourceFile,
    document: &Node,
    keys: &[Option<&Node>],
    field: &FieldPath,
    to: &str,
) -> Result<(), Refusal> {
    let lines: Vec<&str> = file.text.lines().collect();
    let leaf = keys.iter().flatten().next_back().map(|key| file.line_at(key.span.start));
    let mut places: Vec<usize> = keys.iter().flatten().map(|key| file.line_at(key.span.start)).collect();
    places.push(file.line_at(document.span.start));
    places.dedup();
    for place in places {
        for (line, comment) in comments_at(&lines, place) {
            let is_leaf = Some(place) == leaf;
            refuse_comment(file, line, comment, is_leaf, field, to)?;
        }
    }
    Ok(())
}

/// Refuses lines that go away although a comment behind them forbids it, in files of any kind: `kustomization.yaml` and values of
/// a chart hold no object whose fields could be compared.
pub(super) fn refuse_replaced_lines(now: &SourceFile, then: Option<&SourceFile>) -> Result<(), Refusal> {
    let kept: BTreeSet<&str> = then.iter().flat_map(|file| file.text.lines()).collect();
    let gone = now.text.lines().enumerate().filter(|(_, line)| !kept.contains(line));
    for (position, line) in gone {
        let Some(comment) = trailing_comment(line) else { continue };
        let key = line.trim_start().trim_start_matches("- ").split([':', ' ']).next().unwrap_or_default();
        let (path, line, field) = (now.path.clone(), position + 1, quoted(key));
        if comment.contains(SETTER) {
            return Err(Refusal::Automated { path, line, field });
        }
        if comment.split_whitespace().any(|word| word == IGNORE) {
            return Err(Refusal::Guarded { path, line, field });
        }
    }
    Ok(())
}

/// Whether any comment in the file is an order to leave something alone.
pub(super) fn has_orders(file: &SourceFile) -> bool {
    let comments = file.text.lines().filter_map(trailing_comment);
    comments.flat_map(str::split_whitespace).any(|word| word == IGNORE || word.starts_with(MAX))
}

/// The value of a key inside a node, directly or below list items on the way.
fn containing<'a>(node: &'a Node, key: &Node) -> Option<&'a Node> {
    match &node.content {
        Content::Mapping { entries, .. } => {
            entries.iter().find(|(name, _)| name.span == key.span).map(|(_, value)| value)
        }
        Content::Sequence { items, .. } => items.iter().find_map(|item| containing(item, key)),
        Content::Scalar { .. } | Content::Alias(_) => None,
    }
}

/// The comment behind a line and the comment lines directly above it, each with its line number.
fn comments_at<'a>(lines: &[&'a str], line: usize) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    if let Some(comment) = lines.get(line - 1).and_then(|text| trailing_comment(text)) {
        found.push((line, comment));
    }
    for above in (1..line).rev() {
        let text = lines[above - 1].trim_start();
        match text.strip_prefix('#') {
            Some(comment) => found.push((above, comment)),
            None => break,
        }
    }
    found
}

/// The text behind a `#` after white space, outside of quotes as far as one line shows.
///
/// A quote opens only where a value begins (YAML 1.2, section 7.3.3): the one in `it's` is a letter.
fn trailing_comment(line: &str) -> Option<&str> {
    let mut quote = None;
    let (mut before, mut escaped) = (' ', false);
    for (position, letter) in line.char_indices() {
        match (quote, letter) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), _) if letter == open && !escaped => quote = None,
            (Some(_), _) => {}
            // Two in a row stand for one, so a quote behind a quote opens it again.
            (None, '\'' | '"') if matches!(before, ' ' | '\t' | '[' | '{' | ',' | ':' | '\'') => quote = Some(letter),
            (None, '#') if matches!(before, ' ' | '\t') => return Some(&line[position + 1..]),
            (None, _) => {}
        }
        escaped = false;
        before = letter;
    }
    None
}

fn refuse_comment(
    file: &SourceFile,
    line: usize,
    comment: &str,
    is_leaf: bool,
    field: &FieldPath,
    to: &str,
) -> Result<(), Refusal> {
    let (path, shown) = (file.path.clone(), field.to_string());
    if is_leaf && comment.contains(SETTER) {
        return Err(Refusal::Automated { path, line, field: shown });
    }
    for word in comment.split_whitespace() {
        if word == IGNORE {
            return Err(Refusal::Guarded { path, line, field: shown });
        }
        if let Some(max) = word.strip_prefix(MAX) {
            let within = match (Quantity::parse(max), Quantity::parse(to)) {
                (Ok(max), Ok(to)) => to <= max,
                // A bound that cannot be read is not a reason to go without one.
                (Err(_), _) => false,
                // An image below a bound for memory.
                (Ok(_), Err(_)) => true,
            };
            if !within {
                return Err(Refusal::AboveGuard { path, line, max: quoted(max), field: shown, to: to.to_owned() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::trailing_comment;

    #[test]
    fn a_comment_is_found_behind_spaces_tabs_and_letters_that_look_like_quotes() {
        for line in ["a: 1 # x", "a: 1\t# x", "a: it's # x", "a: 'it''s # no' # x", "a: \"say \\\" # no\" # x", "# x"] {
            assert_eq!(trailing_comment(line), Some(" x"), "{line}");
        }
        for line in ["a: 1#x", "a: 'b # x'", "a: \"b # x\"", "- {a: 'b', c: \"# x\"}"] {
            assert_eq!(trailing_comment(line), None, "{line}");
        }
    }
}

//! Byte-exact edits of YAML manifests: one value changes, every other byte stays.
//!
//! An edit is a splice over the spans of a real parser, followed by a proof: the result is parsed again, its tree must be
//! the tree before with exactly this change, and every byte outside the declared hunk must be the same. What cannot be
//! proven is refused with a sentence. Comments, quoting, order, line endings, a byte order mark and a missing final
//! newline all survive.

use crate::field::{FieldPath, Step};
use crate::plan::{FieldEdit, ObjectRef, SourceFile};
use crate::policy::quoted;

mod differences;
mod guard;
mod place;
mod proof;
mod replay;
mod scalar;
mod splice;
mod tree;

pub use differences::differences;
pub use place::line_of;
pub use replay::replay;
use tree::{Content, Node};

/// Why a file is not edited. Every message says what a person can do or look at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{path} is not YAML that can be read safely: {why}")]
    Unreadable { path: String, why: String },
    #[error("{path} holds no {object}")]
    NoSuchObject { path: String, object: String },
    #[error("{path} holds {object} {count} times; which one is meant is not clear")]
    Ambiguous { path: String, object: String, count: usize },
    #[error("{path} is a template ({{{{ ... }}}} in {object}); edit the values that feed it instead")]
    Template { path: String, object: String },
    #[error("{path} is encrypted by SOPS; its values are for people with the key")]
    Encrypted { path: String },
    #[error("{field} in {path} runs through {what}; write the value out at this place first")]
    Shared { path: String, field: String, what: String },
    #[error("{path} line {line} is indented with a tab, which YAML forbids")]
    Tab { path: String, line: usize },
    #[error("{path} names the key {key} twice in one mapping (line {line}); which one counts is not clear")]
    DuplicateKey { path: String, key: String, line: usize },
    #[error("{path} has no {field}, and {missing} cannot be added there")]
    NoPlace { path: String, field: String, missing: String },
    #[error("{field} in {path} is not one plain value on one line")]
    NotScalar { path: String, field: String },
    #[error("{path} line {line} says amend:ignore for {field}")]
    Guarded { path: String, line: usize, field: String },
    #[error("{path} line {line} says amend:max={max} for {field}; {to} is above it")]
    AboveGuard { path: String, line: usize, max: String, field: String, to: String },
    #[error(
        "{path} line {line}: image automation writes {field} (its setter comment stands there); change its policy instead"
    )]
    Automated { path: String, line: usize, field: String },
    #[error("the value {value} cannot be written on one line")]
    BadValue { value: String },
    #[error("{field} in {path} is {now} now, not {wanted}: somebody else has changed it")]
    Moved { path: String, field: String, now: String, wanted: String },
    #[error("an edit of {field} in {path} could not be proven to change nothing else: {why}")]
    Unproven { path: String, field: String, why: String },
}

/// A file after an edit, and what the edit was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    pub file: SourceFile,
    pub edit: FieldEdit,
    /// False when the file already had the value: then nothing changed.
    pub changed: bool,
}

/// Whether a file is one that GitOps controllers read objects or settings from, by its name. Others hold no fields to tell apart.
pub fn is_manifest(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    KUSTOMIZATION.contains(&name) || [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end))
}

/// The objects that a file holds, in order; documents that are no Kubernetes object are left out.
///
/// # Errors
/// When the file is not YAML.
pub fn objects(file: &SourceFile) -> Result<Vec<ObjectRef>, Refusal> {
    let documents = read(file)?;
    Ok(documents.iter().filter_map(object_of).collect())
}

/// The text of one value; `None` when the object has no such field.
///
/// # Errors
/// When the object is not found exactly once, or the field is not a scalar of its own.
pub fn value(file: &SourceFile, object: &ObjectRef, field: &FieldPath) -> Result<Option<String>, Refusal> {
    let documents = read(file)?;
    let (position, _) = find(file, &documents, object)?;
    match locate(file, &documents[position], field)? {
        Located::Found(trail) => match &trail.node.content {
            Content::Scalar { text, .. } if trail.node.is_null() => {
                Ok(Some(text.clone()).filter(|text| !text.is_empty()))
            }
            Content::Scalar { text, .. } => Ok(Some(text.clone())),
            Content::Mapping { .. } | Content::Sequence { .. } | Content::Alias(_) => {
                Err(Refusal::NotScalar { path: file.path.clone(), field: field.to_string() })
            }
        },
        Located::Missing { .. } => Ok(None),
    }
}

/// The `name`s of the items of a list, such as the containers of a pod template; empty when there is no such list.
///
/// # Errors
/// When the object is not found exactly once.
pub fn names(file: &SourceFile, object: &ObjectRef, list: &FieldPath) -> Result<Vec<String>, Refusal> {
    let documents = read(file)?;
    let (position, _) = find(file, &documents, object)?;
    let Located::Found(trail) = locate(file, &documents[position], list)? else { return Ok(Vec::new()) };
    let Content::Sequence { items, .. } = &trail.node.content else { return Ok(Vec::new()) };
    Ok(items.iter().filter_map(|item| item.get("name")?.text().map(str::to_owned)).collect())
}

/// Sets one scalar, or adds it (with the mappings above it) where it is missing.
///
/// # Errors
/// The reason why this cannot be done without touching anything else.
pub fn set(file: &SourceFile, object: &ObjectRef, field: &FieldPath, to: &str) -> Result<Edited, Refusal> {
    if to.is_empty() || to.len() > 1024 || to.chars().any(char::is_control) || to.trim() != to {
        return Err(Refusal::BadValue { value: quoted(to) });
    }
    let documents = read(file)?;
    let (position, _) = find(file, &documents, object)?;
    guard::refuse_unsafe(file, &documents, position, object)?;
    let located = locate(file, &documents[position], field)?;
    guard::refuse_guarded(file, &documents[position], located.keys(), field, to)?;
    let edit = |from: Option<String>, line: usize| FieldEdit {
        object: object.clone(),
        field: field.clone(),
        from,
        to: Some(to.to_owned()),
        line: u32::try_from(line).unwrap_or(u32::MAX),
    };
    match located {
        Located::Found(trail) => {
            let old = match &trail.node.content {
                Content::Scalar { text, .. } => text.clone(),
                Content::Mapping { .. } | Content::Sequence { .. } | Content::Alias(_) => {
                    return Err(Refusal::NotScalar { path: file.path.clone(), field: field.to_string() });
                }
            };
            if old == to {
                let edit = edit(Some(old), file.line_at(trail.node.span.start));
                return Ok(Edited { file: file.clone(), edit, changed: false });
            }
            let splice = splice::replacing(file, &trail, field, to)?;
            let text = proof::proven(file, &documents, position, &splice, field)?;
            let from = Some(old).filter(|old| !old.is_empty() || !trail.node.is_null());
            Ok(Edited {
                edit: edit(from, splice.line_of_value(&text)),
                file: SourceFile::new(&file.path, text),
                changed: true,
            })
        }
        Located::Missing { trail, rest } => {
            let mut why = None;
            for splice in splice::inserting(file, &trail, rest, field, to)? {
                match proof::proven(file, &documents, position, &splice, field) {
                    Ok(text) => {
                        let edit = edit(None, splice.line_of_value(&text));
                        return Ok(Edited { edit, file: SourceFile::new(&file.path, text), changed: true });
                    }
                    Err(refusal) => why = why.or(Some(refusal)),
                }
            }
            Err(why.unwrap_or_else(|| no_place(file, field, rest)))
        }
    }
}

/// Removes one scalar that stands on a line of its own beside others: takes an added value back.
///
/// # Errors
/// The reason why this cannot be done without touching anything else.
pub fn remove(file: &SourceFile, object: &ObjectRef, field: &FieldPath) -> Result<Edited, Refusal> {
    let documents = read(file)?;
    let (position, _) = find(file, &documents, object)?;
    guard::refuse_unsafe(file, &documents, position, object)?;
    let mut edit = FieldEdit { object: object.clone(), field: field.clone(), from: None, to: None, line: 1 };
    match locate(file, &documents[position], field)? {
        Located::Missing { .. } => Ok(Edited { file: file.clone(), edit, changed: false }),
        Located::Found(trail) => {
            edit.from = trail.node.text().map(str::to_owned);
            edit.line = u32::try_from(file.line_at(trail.node.span.start)).unwrap_or(u32::MAX);
            let splice = splice::removing(file, &trail, field)?;
            let text = proof::proven(file, &documents, position, &splice, field)?;
            Ok(Edited { file: SourceFile::new(&file.path, text), edit, changed: true })
        }
    }
}

/// Whether a file may go back to an earlier text: no comment forbids one of the changes, and nothing else would write them again.
///
/// # Errors
/// The comment that forbids it, or that the file is not YAML.
pub fn may_go_back(now: &SourceFile, then: Option<&SourceFile>, edits: &[FieldEdit]) -> Result<(), Refusal> {
    if !is_manifest(&now.path) {
        return guard::refuse_replaced_lines(now, then);
    }
    let documents = read(now)?;
    for edit in edits {
        // An object that comes back has no comments yet.
        let Ok((position, _)) = find(now, &documents, &edit.object) else { continue };
        let located = match locate(now, &documents[position], &edit.field) {
            Ok(located) => located,
            // The comments on the way to a shared value are not found: with any in the file, one may be among them.
            Err(refusal) if guard::has_orders(now) => return Err(refusal),
            Err(_) => continue,
        };
        let to = edit.to.as_deref().unwrap_or_default();
        guard::refuse_commented(now, &documents[position], located.keys(), &edit.field, to)?;
    }
    guard::refuse_replaced_lines(now, then)
}

impl SourceFile {
    /// The line of a byte, from 1.
    pub(crate) fn line_at(&self, byte: usize) -> usize {
        self.text.as_bytes()[..byte.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// The nodes passed on the way to a node, and the steps that led there.
#[derive(Debug)]
struct Trail<'a> {
    node: &'a Node,
    /// The key nodes passed, from the document down; `None` for steps into lists.
    keys: Vec<Option<&'a Node>>,
    steps: Vec<usize>,
    /// The mapping or list that holds `node`; `None` at the document itself.
    parent: Option<&'a Node>,
}

enum Located<'a, 'f> {
    Found(Trail<'a>),
    /// The deepest node that exists, and the steps that do not.
    Missing {
        trail: Trail<'a>,
        rest: &'f [Step],
    },
}

impl<'a> Located<'a, '_> {
    fn keys(&self) -> &[Option<&'a Node>] {
        match self {
            Self::Found(trail) | Self::Missing { trail, .. } => &trail.keys,
        }
    }
}

fn read(file: &SourceFile) -> Result<Vec<Node>, Refusal> {
    tree::parse(&file.text).map_err(|why| Refusal::Unreadable { path: file.path.clone(), why })
}

fn no_place(file: &SourceFile, field: &FieldPath, rest: &[Step]) -> Refusal {
    let missing = FieldPath::new(rest.to_vec()).to_string();
    Refusal::NoPlace { path: file.path.clone(), field: field.to_string(), missing }
}

/// The object that a document is, when it is one.
fn object_of(document: &Node) -> Option<ObjectRef> {
    let text = |node: &Node, key: &str| node.get(key).and_then(Node::text).map(str::to_owned);
    let metadata = document.get("metadata")?;
    Some(ObjectRef {
        api_version: text(document, "apiVersion")?,
        kind: text(document, "kind")?,
        namespace: text(metadata, "namespace").unwrap_or_default(),
        name: text(metadata, "name")?,
    })
}

/// Names of Kustomize's own file.
const KUSTOMIZATION: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// The object that a document is, or Kustomize's settings as an object that is named by its file: nothing in the cluster has that
/// name, but its fields are edited, compared and taken back as any other's.
fn identity_of(file: &SourceFile, document: &Node) -> Option<ObjectRef> {
    object_of(document).or_else(|| {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let is_settings = KUSTOMIZATION.contains(&name) && matches!(document.content, Content::Mapping { .. });
        is_settings.then(|| ObjectRef {
            api_version: "kustomize.config.k8s.io/v1beta1".to_owned(),
            kind: "Kustomization".to_owned(),
            namespace: String::new(),
            name: file.path.clone(),
        })
    })
}

/// The one document that is this object. A file without a namespace may be given one later (Kustomize), so it fits any.
fn find(file: &SourceFile, documents: &[Node], wanted: &ObjectRef) -> Result<(usize, ObjectRef), Refusal> {
    let mut found = documents.iter().enumerate().filter_map(|(position, document)| {
        let object = identity_of(file, document)?;
        let namespace = object.namespace.is_empty() || object.namespace == wanted.namespace;
        let same = object.api_version == wanted.api_version && object.kind == wanted.kind && object.name == wanted.name;
        (same && namespace).then_some((position, object))
    });
    let path = || file.path.clone();
    match (found.next(), found.count()) {
        (None, _) => Err(Refusal::NoSuchObject { path: path(), object: wanted.to_string() }),
        (Some(one), 0) => Ok(one),
        (Some(_), more) => Err(Refusal::Ambiguous { path: path(), object: wanted.to_string(), count: more + 1 }),
    }
}

/// Walks a path as far as it exists; refuses to pass anything that is shared with another place.
fn locate<'a, 'f>(file: &SourceFile, document: &'a Node, field: &'f FieldPath) -> Result<Located<'a, 'f>, Refusal> {
    let shared =
        |what: &str| Err(Refusal::Shared { path: file.path.clone(), field: field.to_string(), what: what.to_owned() });
    let mut trail = Trail { node: document, keys: Vec::new(), steps: Vec::new(), parent: None };
    for (position, step) in field.steps().iter().enumerate() {
        let below = match (&trail.node.content, step) {
            (Content::Alias(_), _) => return shared("an alias"),
            (Content::Mapping { entries, .. }, Step::Key(wanted)) => {
                if entries.iter().any(|(key, _)| key.text() == Some("<<")) {
                    return shared("a merge key (<<)");
                }
                let found = entries.iter().position(|(key, _)| key.text() == Some(wanted));
                found.map(|index| (index, Some(&entries[index].0), &entries[index].1))
            }
            (Content::Sequence { items, .. }, Step::Named(wanted)) => {
                let named = |item: &Node| item.get("name").and_then(Node::text) == Some(wanted);
                let mut found = items.iter().enumerate().filter(|(_, item)| named(item));
                match (found.next(), found.next()) {
                    (Some((index, item)), None) => Some((index, None, item)),
                    (None, _) => None,
                    (Some(_), Some(_)) => {
                        let object = format!("a list item named {}", quoted(wanted));
                        return Err(Refusal::Ambiguous { path: file.path.clone(), object, count: 2 });
                    }
                }
            }
            (Content::Sequence { items, .. }, Step::At(index)) => items.get(*index).map(|item| (*index, None, item)),
            (Content::Mapping { .. } | Content::Sequence { .. } | Content::Scalar { .. }, _) => None,
        };
        let Some((index, key, node)) = below else {
            return Ok(Located::Missing { trail, rest: &field.steps()[position..] });
        };
        trail.parent = Some(trail.node);
        trail.node = node;
        trail.keys.push(key);
        trail.steps.push(index);
    }
    if let Content::Alias(_) = trail.node.content {
        return shared("an alias");
    }
    Ok(Located::Found(trail))
}

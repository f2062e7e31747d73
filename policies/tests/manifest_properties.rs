//! The YAML editor against generated files: whatever it returns as a success is right, and it seldom refuses.
//!
//! The oracle is another reader (`serde-saphyr`) on the file before and after: the data must differ by exactly the edit.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

use amend_policies::field::FieldPath;
use amend_policies::manifest::{self, Refusal};
use amend_policies::plan::{ObjectRef, SourceFile};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::Value;

/// A value with its way of writing it.
#[derive(Clone, Debug)]
enum Tree {
    Scalar(String),
    Block(Vec<(String, Tree)>),
    Flow(Vec<(String, Tree)>),
    List(Vec<Tree>),
    Text(Vec<String>),
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z][a-z0-9]{0,5}", Just("app.kubernetes.io/name".to_owned())]
}

fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9]{0,6}",
        "[1-9][0-9]{0,3}(Mi|m|)?",
        Just("\"with # hash and: colon\"".to_owned()),
        Just("'it''s'".to_owned()),
        Just("true".to_owned()),
        Just("~".to_owned()),
        Just("registry:5000/app:1.2@sha256".to_owned()),
        Just("\"\\u00fc\\t\"".to_owned()),
        Just("grün".to_owned()),
    ]
}

fn unique<T: Clone>(mut entries: Vec<(String, T)>) -> Vec<(String, T)> {
    let mut seen = std::collections::BTreeSet::new();
    entries.retain(|(key, _)| seen.insert(key.clone()));
    entries
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = scalar().prop_map(Tree::Scalar);
    leaf.prop_recursive(4, 32, 4, |inner| {
        let flow_leaf = scalar().prop_map(Tree::Scalar);
        prop_oneof![
            4 => prop::collection::vec((key(), inner.clone()), 1..4).prop_map(|entries| Tree::Block(unique(entries))),
            1 => prop::collection::vec((key(), flow_leaf), 0..3).prop_map(|entries| Tree::Flow(unique(entries))),
            2 => prop::collection::vec(inner, 1..3).prop_map(Tree::List),
            1 => prop::collection::vec("[a-z#][a-z# :]{0,8}x", 1..3).prop_map(Tree::Text),
        ]
    })
}

/// Writes the tree as people do; `dressing` decides comments and blank lines.
fn write(tree: &Tree, indent: usize, dressing: &mut impl FnMut() -> u8, out: &mut String) {
    let pad = " ".repeat(indent);
    match tree {
        Tree::Scalar(text) => {
            out.push_str(&format!(" {text}"));
            if dressing().is_multiple_of(4) {
                out.push_str("   # a comment: {\"x\"}");
            }
            out.push('\n');
        }
        Tree::Flow(entries) => {
            let parts: Vec<_> = entries
                .iter()
                .map(|(key, value)| match value {
                    Tree::Scalar(text) => format!("{key}: {text}"),
                    other => panic!("{other:?}"),
                })
                .collect();
            out.push_str(&format!(" {{{}}}\n", parts.join(", ")));
        }
        Tree::Text(lines) => {
            out.push_str(" |\n");
            for line in lines {
                out.push_str(&format!("{pad}  {line}\n"));
            }
        }
        Tree::Block(entries) => {
            out.push('\n');
            for (key, value) in entries {
                match dressing() % 8 {
                    0 => out.push('\n'),
                    1 => out.push_str(&format!("{pad}# above {key}\n")),
                    _ => {}
                }
                out.push_str(&format!("{pad}{key}:"));
                write(value, indent + 2, dressing, out);
            }
        }
        Tree::List(items) => {
            out.push('\n');
            // Half of all manifests indent their lists, the other half do not.
            let pad = if dressing().is_multiple_of(2) && indent >= 2 { " ".repeat(indent - 2) } else { pad };
            for item in items {
                out.push_str(&format!("{pad}-"));
                match item {
                    Tree::Block(entries) => {
                        for (position, (key, value)) in entries.iter().enumerate() {
                            out.push_str(&if position == 0 { format!(" {key}:") } else { format!("{pad}  {key}:") });
                            write(value, pad.len() + 4, dressing, out);
                        }
                    }
                    other => write(other, pad.len() + 2, dressing, out),
                }
            }
        }
    }
}

/// Every path to a scalar and to a mapping.
fn paths(value: &Value, at: FieldPath, scalars: &mut Vec<FieldPath>, mappings: &mut Vec<FieldPath>) {
    match value {
        Value::Object(map) => {
            for (key, below) in map {
                paths(below, at.clone().key(key), scalars, mappings);
            }
            mappings.push(at);
        }
        Value::Array(items) => {
            for (position, below) in items.iter().enumerate() {
                let mut steps = at.steps().to_vec();
                steps.push(amend_policies::field::Step::At(position));
                paths(below, FieldPath::new(steps), scalars, mappings);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => scalars.push(at),
    }
}

fn put(value: &mut Value, field: &FieldPath, to: &str) {
    let mut node = value;
    for step in field.steps() {
        node = match step {
            amend_policies::field::Step::Key(key) => &mut node[key.as_str()],
            amend_policies::field::Step::At(position) => &mut node[*position],
            amend_policies::field::Step::Named(_) => panic!("not generated"),
        };
    }
    *node = Value::String(to.into());
}

fn object() -> ObjectRef {
    ObjectRef { api_version: "v1".into(), kind: "Thing".into(), namespace: "shop".into(), name: "one".into() }
}

/// Another reader's view; numbers and booleans as text, since the edit writes text.
fn data(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple::<Value>(text).unwrap()
}

/// Text, numbers and booleans alike as text: a number that becomes another number stays a number.
fn as_text(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.iter().map(|(key, below)| (key.clone(), as_text(below))).collect()),
        Value::Array(items) => Value::Array(items.iter().map(as_text).collect()),
        Value::String(text) => Value::String(text.clone()),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => Value::String(other.to_string()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_success_is_always_the_edit_and_nothing_else(
        entries in prop::collection::vec((key(), tree()), 1..4),
        dressing in prop::collection::vec(any::<u8>(), 64),
        choice in any::<prop::sample::Index>(),
        new in prop_oneof!["[0-9]{1,3}Mi", "[a-z]{1,5}", Just("1.5".to_owned()), Just("yes".to_owned()), Just("a: b # c".to_owned())],
        insert in any::<bool>(),
        crlf in any::<bool>(),
        bom in any::<bool>(),
        cut in any::<bool>(),
    ) {
        let mut turn = dressing.iter().cycle().copied();
        let mut text = String::from("kind: Other\n---\napiVersion: v1\nkind: Thing\nmetadata: {name: one}\nspec:");
        write(&Tree::Block(unique(entries)), 2, &mut || turn.next().unwrap_or(0), &mut text);
        text.push_str("status: {}\n---\n# the end\nkind: Last\n");
        if cut {
            text.truncate(text.find("status: {}\n---").unwrap());
            text.truncate(text.trim_end_matches('\n').len());
        }
        if crlf {
            text = text.replace('\n', "\r\n");
        }
        if bom {
            text.insert(0, '\u{feff}');
        }
        let before = data(&text);
        let (mut scalars, mut mappings) = (Vec::new(), Vec::new());
        paths(&before[1]["spec"], "spec".parse().unwrap(), &mut scalars, &mut mappings);
        let field = match insert || scalars.is_empty() {
            true => mappings[choice.index(mappings.len())].clone().key("zzz").key("limit"),
            false => scalars[choice.index(scalars.len())].clone(),
        };
        let file = SourceFile::new("a.yaml", text.clone());
        match manifest::set(&file, &object(), &field, &new) {
            Ok(edited) => {
                let after = &edited.file.text;
                let mut wanted = before.clone();
                put(&mut wanted[1], &field, &new);
                let read = data(after);
                prop_assert_eq!(
                    wanted.iter().map(as_text).collect::<Vec<_>>(),
                    read.iter().map(as_text).collect::<Vec<_>>(),
                    "{}\n=>\n{}", text, after
                );
                let changed = text.lines().filter(|line| !after.lines().any(|other| other == *line)).count();
                prop_assert!(changed <= 1, "at most one line goes:\n{}\n=>\n{}", text, after);
                prop_assert_eq!(text.contains('\r'), after.contains('\r'));
                let again = manifest::set(&edited.file, &object(), &field, &new).unwrap();
                prop_assert!(!again.changed);
            }
            Err(Refusal::NotScalar { .. } | Refusal::Unproven { .. } | Refusal::NoPlace { .. }) => {}
            Err(other) => prop_assert!(false, "{}\n{}", other, text),
        }
    }

    #[test]
    fn nothing_that_is_fed_in_makes_it_panic(text in "[ -~\n\t{}\\[\\]:#&*<>|'\"-]{0,200}", field in "[a-z.\\[\\]0-9\"]{1,20}") {
        let file = SourceFile::new("a.yaml", format!("apiVersion: v1\nkind: Thing\nmetadata: {{name: one}}\n{text}"));
        if let Ok(field) = field.parse() {
            let _ = manifest::set(&file, &object(), &field, "384Mi");
            let _ = manifest::remove(&file, &object(), &field);
            let _ = manifest::differences(Some(&file), None);
        }
    }
}

/// The share of refusals among edits that a person would call simple.
#[test]
fn simple_edits_are_hardly_ever_refused() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut done, mut refused) = (0, Vec::new());
    for _ in 0..300 {
        let entries = prop::collection::vec((key(), tree()), 1..4).new_tree(&mut runner).unwrap().current();
        let mut text = String::from("apiVersion: v1\nkind: Thing\nmetadata: {name: one}\nspec:");
        write(&Tree::Block(unique(entries)), 2, &mut || 5, &mut text);
        let (mut scalars, mut mappings) = (Vec::new(), Vec::new());
        paths(&data(&text)[0]["spec"], "spec".parse().unwrap(), &mut scalars, &mut mappings);
        for field in scalars.into_iter().chain(mappings.into_iter().map(|field| field.key("zzz"))) {
            match manifest::set(&SourceFile::new("a.yaml", text.clone()), &object(), &field, "new") {
                Ok(_) | Err(Refusal::NotScalar { .. }) => done += 1,
                Err(why) => refused.push(format!("{why}\n{text}")),
            }
        }
    }
    assert!(refused.len() * 200 < done, "{} of {done} refused, such as {}", refused.len(), refused[0]);
}

//! `record verify` on an export that is true, and on one that somebody touched.

use amend_execution::journal::{Actor, Ending, Event, Journal};
use amend_execution::record::{About, Head, Key, Line, Statement, write_lines};
use jiff::Timestamp;
use serde_json::Value;

use crate::stage::{amend, json, text};

const ORIGIN: &str = "amend.dev/log/test";

/// A log of one short journal, and the key that signed it.
fn honest() -> (Vec<Line>, String) {
    let key = Key::from_seed(ORIGIN, &[7; 32]).expect("a key");
    let mut journal = Journal::default();
    let planned = Event::Planned { plan_digest: "ab".repeat(32), steps: 1 };
    for event in [planned, Event::Ended { ending: Ending::Withdrawn, prepare_revert: false }] {
        journal.append(Timestamp::UNIX_EPOCH, Actor::amend("amend-0"), "a test says so", event).expect("an entry");
    }
    let about =
        About { namespace: "shop".into(), name: "rem-1".into(), uid: "uid-1".into(), plan_digest: "ab".repeat(32) };
    let (mut head, mut lines) = (Head::new(ORIGIN).raised(), Vec::new());
    let mut put = |statement: Statement| {
        let envelope = statement.seal(&[&key]).expect("it is signed");
        let leaf = envelope.leaf_hash().expect("a leaf");
        let appended = head.append(head.epoch, &[leaf]).expect("it is appended");
        head = appended.head;
        lines.push(Line::Record { index: appended.indices[0], envelope });
        leaf
    };
    put(Statement::began(key.public()));
    let mut previous = None;
    for entry in journal.entries() {
        previous = Some(put(Statement::entry(about.clone(), previous, entry.clone())));
    }
    lines.push(Line::Checkpoint { note: head.signed(&key) });
    (lines, key.public().to_string())
}

/// What `record verify` says of an export.
fn verified(lines: &[Line], key: &str, words: &[&str]) -> std::process::Output {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("record.jsonl");
    std::fs::write(&file, write_lines(lines).expect("lines")).expect("a file");
    let path = file.display().to_string();
    amend(&[&["record", "verify", "--file", &path, "--key", key], words].concat())
}

#[test]
fn an_export_that_nobody_touched_verifies_without_a_cluster() {
    let (lines, key) = honest();
    let output = verified(&lines, &key, &[]);
    assert_eq!(output.status.code(), Some(0), "{} {}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).starts_with("3 entries verify, epoch 1, root "), "{}", text(&output.stdout));
    let told = json(&verified(&lines, &key, &["-o", "json"]));
    assert_eq!((&told["verified"], &told["entries"]), (&Value::from(true), &Value::from(3)));
}

#[test]
fn an_entry_that_was_changed_is_named() {
    let (lines, key) = honest();
    let mut texts: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).expect("JSON")).collect();
    let Some(Line::Record { envelope, .. }) = lines.get(1) else { crate::stage::unreadable("no record") };
    let mut envelope = serde_json::to_value(envelope).expect("JSON");
    let payload = envelope["payload"].as_str().expect("a payload").to_owned();
    // One letter of the signed text.
    let forged = format!("{}{}", if payload.starts_with('e') { 'f' } else { 'e' }, &payload[1..]);
    texts[1] = texts[1].replace(&payload, &forged);
    envelope["payload"] = forged.into();
    let tampered: Vec<Line> = texts.iter().map(|text| serde_json::from_str(text).expect("a line")).collect();
    let output = verified(&tampered, &key, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("NOT VERIFIED: "), "{}", text(&output.stdout));
    let told = json(&verified(&tampered, &key, &["-o", "json"]));
    assert_eq!((&told["verified"], &told["entry"]), (&Value::from(false), &Value::from(1)), "{told}");
}

#[test]
fn an_entry_that_was_left_out_is_noticed() {
    let (mut lines, key) = honest();
    lines.remove(2);
    let output = verified(&lines, &key, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
}

#[test]
fn another_key_proves_nothing_and_no_key_is_a_wrong_command_line() {
    let (lines, _) = honest();
    let other = Key::from_seed(ORIGIN, &[8; 32]).expect("a key").public().to_string();
    assert_eq!(verified(&lines, &other, &[]).status.code(), Some(1));
    let output = verified(&lines, "not a key", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--key is not usable"), "{}", text(&output.stderr));
    let without = amend(&["record", "verify", "--file", "record.jsonl"]);
    assert_eq!(without.status.code(), Some(2), "a file without a key proves nothing");
}

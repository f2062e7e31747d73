use jiff::Timestamp;

use super::*;
use crate::journal::{Actor, Event, Journal};
use crate::record::{Envelope, Head, Key, read_lines, write_lines};

const ORIGIN: &str = "amend.dev/log/test";

fn key(seed: u8) -> Key {
    Key::from_seed(ORIGIN, &[seed; 32]).unwrap()
}

fn about(name: &str) -> About {
    About { namespace: "shop".into(), name: name.into(), uid: format!("uid-{name}"), plan_digest: "ab".repeat(32) }
}

/// A short honest journal, with `steps` notes in its middle.
fn journal(notes: u32) -> Journal {
    let mut journal = Journal::default();
    let mut say = |event: Event| {
        journal.append(Timestamp::UNIX_EPOCH, Actor::amend("a-1"), "a test says so", event).unwrap();
    };
    say(Event::Planned { plan_digest: "ab".repeat(32), steps: 1 });
    for note in 0..notes {
        say(Event::Note { text: format!("note {note}").as_str().into() });
    }
    say(Event::Ended { ending: Ending::Withdrawn, prepare_revert: false });
    journal
}

/// A log in the making: seals, appends and signs as the controller does.
struct Writer {
    head: Head,
    key: Key,
    lines: Vec<Line>,
}

impl Writer {
    fn new() -> Self {
        let mut writer = Self { head: Head::new(ORIGIN).raised(), key: key(1), lines: Vec::new() };
        let began = Statement::began(writer.key.public());
        writer.write(&began);
        writer
    }

    fn write(&mut self, statement: &Statement) -> Hash {
        let envelope = statement.seal(&[&self.key]).unwrap();
        self.put(envelope)
    }

    fn put(&mut self, envelope: Envelope) -> Hash {
        let leaf = envelope.leaf_hash().unwrap();
        let appended = self.head.append(self.head.epoch, &[leaf]).unwrap();
        self.head = appended.head;
        self.lines.push(Line::Record { index: appended.indices[0], envelope });
        leaf
    }

    fn write_journal(&mut self, name: &str, journal: &Journal) {
        let mut previous = None;
        for entry in journal.entries() {
            previous = Some(self.write(&Statement::entry(about(name), previous, entry.clone())));
        }
    }

    fn checkpoint(&mut self) -> Checkpoint {
        self.lines.push(Line::Checkpoint { note: self.head.signed(&self.key) });
        self.head.checkpoint()
    }

    fn rotate(&mut self, seed: u8) {
        let (old, new) = (self.key.clone(), key(seed));
        self.put(Statement::key_rotated(old.public(), new.public()).seal(&[&old, &new]).unwrap());
        self.key = new;
    }
}

/// Twelve records: the beginning, two journals of five and four, a rotation, a journal of one note less; three checkpoints.
fn honest() -> Writer {
    let mut writer = Writer::new();
    writer.write_journal("a", &journal(3));
    writer.checkpoint();
    writer.write_journal("b", &journal(2));
    writer.checkpoint();
    writer.rotate(2);
    writer.write_journal("c", &journal(0));
    writer.checkpoint();
    writer
}

fn trust() -> TrustRoot {
    TrustRoot { key: key(1).public().clone(), seen: vec![] }
}

fn bad(lines: &[Line]) -> BadEntry {
    verify(lines, &trust()).expect_err("the log was tampered with")
}

/// Puts the numbers right again, as a careful forger would.
fn renumbered(lines: Vec<Line>) -> Vec<Line> {
    let mut next = 0;
    let renumber = |line| match line {
        Line::Record { envelope, .. } => {
            next += 1;
            Line::Record { index: next - 1, envelope }
        }
        Line::Checkpoint { note } => Line::Checkpoint { note },
    };
    lines.into_iter().map(renumber).collect()
}

#[test]
fn an_honest_log_holds_and_is_summed_up() {
    let writer = honest();
    let text = write_lines(&writer.lines).unwrap();
    let summary = verify(&read_lines(&text).unwrap(), &trust()).unwrap();
    assert_eq!((summary.entries, summary.checkpoints, summary.key_rotations), (13, 3, 1));
    assert_eq!(summary.root, writer.head.root);
    assert_eq!(summary.remediations[&about("a")], (5, Some(Ending::Withdrawn)));
}

#[test]
fn an_edited_entry_is_named() {
    let mut lines = honest().lines;
    let Line::Record { envelope, .. } = &mut lines[3] else { panic!("a record") };
    *envelope =
        Envelope { payload: format!("{}A", &envelope.payload[..envelope.payload.len() - 1]), ..envelope.clone() };
    let found = bad(&lines);
    assert_eq!(found.index, 3);
    assert!(matches!(found.reason, Reason::BadSignature { .. }), "{found}");
}

#[test]
fn every_single_changed_byte_is_found_at_or_before_its_entry() {
    let text = write_lines(&honest().lines).unwrap();
    let holds = |text: &str| read_lines(text).ok().is_some_and(|lines| verify(&lines, &trust()).is_ok());
    assert!(holds(&text));
    for at in (0..text.len()).step_by(7) {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let Ok(changed) = String::from_utf8(bytes) else { continue };
        // The key hint is not signed but part of the leaf; everything else is signed, so nothing may pass.
        assert!(!holds(&changed), "byte {at} of {:?}", &text[at.saturating_sub(20)..(at + 20).min(text.len())]);
    }
}

#[test]
fn a_deleted_entry_is_named_whether_or_not_the_rest_is_renumbered() {
    for gone in [2, 8] {
        let mut lines = honest().lines;
        lines.remove(gone);
        let index = if gone == 2 { 2 } else { 7 };
        assert_eq!(bad(&lines).index, index, "{}", bad(&lines));
        let found = bad(&renumbered(lines));
        assert_eq!(found.index, index, "{found}");
        assert!(matches!(found.reason, Reason::BrokenJournal { .. }), "{found}");
    }
}

#[test]
fn a_whole_journal_taken_out_is_found_by_the_next_checkpoint() {
    let mut lines = honest().lines;
    // Records 6 to 9 are journal b, after the first checkpoint.
    lines.drain(7..11);
    let found = bad(&renumbered(lines));
    assert_eq!(found.index, 6, "{found}");
    assert_eq!(found.reason, Reason::OtherThanCheckpoint { size: 10 });
}

#[test]
fn reordered_entries_are_named() {
    let mut lines = honest().lines;
    lines.swap(2, 3);
    assert_eq!(bad(&lines).index, 2);
    let found = bad(&renumbered(lines));
    assert_eq!(found.index, 2);
    assert!(matches!(found.reason, Reason::BrokenJournal { .. }), "{found}");
}

#[test]
fn a_truncated_log_is_found() {
    let lines = honest().lines;
    let found = bad(&lines[..lines.len() - 1]);
    assert_eq!((found.index, found.reason), (10, Reason::NotCovered));
    assert_eq!(bad(&[]).reason, Reason::NotCovered);
}

#[test]
fn a_log_rewound_to_an_old_checkpoint_is_found_by_whoever_saw_a_newer_one() {
    let writer = honest();
    let seen = vec![writer.head.checkpoint()];
    let rewound = &writer.lines[..7];
    assert!(verify(rewound, &trust()).is_ok(), "alone it looks whole");
    let found = verify(rewound, &TrustRoot { seen, ..trust() }).unwrap_err();
    assert_eq!((found.index, found.reason), (6, Reason::Rewound { seen: 13 }));
}

#[test]
fn a_forked_log_is_found_by_whoever_saw_the_other_branch() {
    let mut one = Writer::new();
    one.write_journal("a", &journal(3));
    let before = one.checkpoint();
    one.write_journal("b", &journal(2));
    let other = one.checkpoint();
    let mut fork = Writer::new();
    fork.write_journal("a", &journal(3));
    fork.checkpoint();
    fork.write_journal("c", &journal(2));
    fork.checkpoint();
    let found = verify(&fork.lines, &TrustRoot { seen: vec![other, before], ..trust() }).unwrap_err();
    assert_eq!((found.index, found.reason), (6, Reason::Forked { seen: 10 }));
}

#[test]
fn a_swapped_key_is_found_at_the_first_entry() {
    let mut forger = Writer { head: Head::new(ORIGIN).raised(), key: key(9), lines: Vec::new() };
    forger.write(&Statement::began(key(9).public()));
    forger.write_journal("a", &journal(1));
    forger.checkpoint();
    assert_eq!(bad(&forger.lines).index, 0);
}

#[test]
fn a_rotation_needs_both_signatures_and_ends_the_old_key() {
    let (old, new) = (key(1), key(2));
    for keys in [vec![&old], vec![&new], vec![&old, &old]] {
        let mut writer = Writer::new();
        writer.put(Statement::key_rotated(old.public(), new.public()).seal(&keys).unwrap());
        writer.checkpoint();
        assert_eq!(bad(&writer.lines).index, 1);
    }
    let mut writer = Writer::new();
    writer.rotate(2);
    writer.key = key(1);
    writer.write_journal("a", &journal(0));
    writer.checkpoint();
    assert_eq!(bad(&writer.lines).index, 2, "the old key is not believed any more");
}

#[test]
fn an_account_that_cannot_be_true_is_named_although_it_is_signed() {
    let mut writer = Writer::new();
    let mut lie = journal(0);
    let ended = Event::Ended { ending: Ending::Succeeded, prepare_revert: false };
    lie = Journal::from(vec![lie.entries()[0].clone()]);
    lie.append(Timestamp::UNIX_EPOCH, Actor::amend("a-1"), "trust me", ended).unwrap();
    writer.write_journal("a", &lie);
    writer.checkpoint();
    let found = bad(&writer.lines);
    assert_eq!(found.index, 2);
    assert!(matches!(found.reason, Reason::Impossible { .. }), "{found}");
}

#[test]
fn an_epoch_that_falls_is_found() {
    let mut writer = Writer::new();
    writer.head = writer.head.raised();
    writer.checkpoint();
    writer.head.epoch = 1;
    writer.write_journal("a", &journal(0));
    writer.checkpoint();
    let found = bad(&writer.lines);
    assert_eq!((found.index, found.reason), (1, Reason::EpochFell { from: 2, to: 1 }));
}

/// A leader that lost its place may hold a sealed entry that never became part of the journal.
#[test]
fn an_entry_that_follows_another_account_of_the_same_moment_is_named() {
    let mut writer = Writer::new();
    let journal = journal(1);
    let first = writer.write(&Statement::entry(about("a"), None, journal.entries()[0].clone()));
    let other = Entry { because: "what another leader would have said".into(), ..journal.entries()[1].clone() };
    let other = Statement::entry(about("a"), Some(first), other).seal(&[&key(1)]).unwrap().leaf_hash().unwrap();
    writer.write(&Statement::entry(about("a"), Some(first), journal.entries()[1].clone()));
    writer.write(&Statement::entry(about("a"), Some(other), journal.entries()[2].clone()));
    writer.checkpoint();
    let found = bad(&writer.lines);
    assert_eq!(found.index, 3);
    assert!(matches!(found.reason, Reason::BrokenJournal { .. }), "{found}");
}

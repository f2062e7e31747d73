//! The append-only account of one remediation: what it intended, what it saw, who said what.
//!
//! The journal is the only state of an execution. Everything else ([`Phase`](crate::phase::Phase), what is still to be
//! done, what must be undone) is computed from it, so a restart loses nothing and two readers never disagree.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod event;
mod text;

pub(crate) use event::finding;
pub use event::{EffectKind, Ending, Event, GateLine, MetricLine, Outcome, PreImage, UndoCause, Word, alike};
pub use text::Text;

/// How many entries a journal holds.
///
/// A straight success needs about a dozen; an undo about as many again. Whoever needs more is going round in circles,
/// and a person should look: the execution ends as [`Ending::Stuck`].
pub const ENTRIES_MAX: usize = 64;

/// How many of the entries are kept free for the ending and what follows it.
///
/// What one decision may still say before it notices (four), the ending, the page, the prepared revert with its intent and
/// outcome, a late verdict, and a note or two.
pub const ENTRIES_KEPT_FOR_THE_END: usize = 12;

/// How large one entry may be as JSON, in bytes: 64 of them and their signed copies stay well below the API server's
/// limit of 1.5 MB for an object. Contents (files, diffs, logs) are named by their digest, never copied in.
pub const ENTRY_BYTES_MAX: usize = 4096;

/// Who caused an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Actor {
    pub kind: ActorKind,
    /// Replica, user or service account; untrusted text.
    pub name: Text,
}

impl Actor {
    /// This replica of the controller.
    pub fn amend(replica: impl Into<Text>) -> Self {
        Self { kind: ActorKind::Amend, name: replica.into() }
    }

    /// A person or account outside Amend.
    pub fn person(name: impl Into<Text>) -> Self {
        Self { kind: ActorKind::Person, name: name.into() }
    }
}

/// What sort of actor it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ActorKind {
    /// A replica of this controller.
    Amend,
    /// Somebody with a name: the author of an `Approval`, a reviewer at the forge.
    Person,
}

/// One line of the account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Position, from 0 without gaps. Order is by this number; clocks may step.
    pub seq: u32,
    pub at: Timestamp,
    pub actor: Actor,
    /// Why, in one clause for people. May quote the outside world, hence untrusted.
    pub because: Text,
    pub event: Event,
}

impl Entry {
    /// Size as JSON in bytes, the measure of [`ENTRY_BYTES_MAX`].
    pub fn bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |json| json.len())
    }
}

/// All entries of one remediation, oldest first.
///
/// Reading one from the store checks nothing, so that a damaged journal can still be shown;
/// [`standing`](crate::phase::standing) refuses it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Journal {
    entries: Vec<Entry>,
}

/// Why an entry cannot be appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("the journal is full: {len} of {ENTRIES_MAX} entries")]
    Full { len: usize },
    #[error("entry {seq} would take {bytes} bytes, more than {ENTRY_BYTES_MAX}")]
    TooLarge { seq: u32, bytes: usize },
    #[error("entry {seq} was made for another journal, the next one here is {next}")]
    OutOfOrder { seq: u32, next: u32 },
}

impl Journal {
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether only the end fits: ordinary entries stop [`ENTRIES_KEPT_FOR_THE_END`] before the limit.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= ENTRIES_MAX - ENTRIES_KEPT_FOR_THE_END
    }

    /// The next sequence number.
    pub fn next_seq(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// Appends one entry, numbering it.
    ///
    /// # Errors
    /// When the journal is full or the entry too large; nothing is appended then.
    pub fn append(
        &mut self,
        at: Timestamp,
        actor: Actor,
        because: impl Into<Text>,
        event: Event,
    ) -> Result<&Entry, JournalError> {
        self.push(Entry { seq: self.next_seq(), at, actor, because: because.into(), event })
    }

    /// Appends entries that [`decide`](crate::decide::decide) made for exactly this journal.
    ///
    /// # Errors
    /// When one was made for another journal or does not fit; the entries before it stay appended.
    pub fn extend(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        for entry in entries {
            if entry.seq != self.next_seq() {
                return Err(JournalError::OutOfOrder { seq: entry.seq, next: self.next_seq() });
            }
            self.push(entry.clone())?;
        }
        Ok(())
    }

    fn push(&mut self, entry: Entry) -> Result<&Entry, JournalError> {
        if self.entries.len() >= ENTRIES_MAX {
            return Err(JournalError::Full { len: self.entries.len() });
        }
        let bytes = entry.bytes();
        if bytes > ENTRY_BYTES_MAX {
            return Err(JournalError::TooLarge { seq: entry.seq, bytes });
        }
        let at = self.entries.len();
        self.entries.push(entry);
        Ok(&self.entries[at])
    }
}

/// Entries as people read them: each with its reason, unless an earlier one gave the same.
///
/// In the record every entry stands for itself, so that a verdict, the end that follows from it, the page about that and the
/// revert that it prepares all give one and the same reason.
pub fn told<'a>(entries: impl Iterator<Item = &'a Entry>) -> impl Iterator<Item = (&'a Entry, Option<&'a str>)> {
    let mut given = BTreeSet::new();
    entries.map(move |entry| {
        let because = entry.because.as_str();
        (entry, (!because.is_empty() && given.insert(because)).then_some(because))
    })
}

impl From<Vec<Entry>> for Journal {
    fn from(entries: Vec<Entry>) -> Self {
        Self { entries }
    }
}

/// `#3 12:00:05Z amend(replica): effect happened, because ...` in one line.
impl fmt::Display for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "#{} {} {:?} {}: {} ({})",
            self.seq, self.at, self.actor.kind, self.actor.name, self.event, self.because
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_entries_have_in_common_is_told_with_the_first() {
        let mut journal = Journal::default();
        let actor = || Actor { kind: ActorKind::Amend, name: "amend".into() };
        let at = "2026-11-21T10:00:00Z".parse().unwrap();
        for (because, text) in [("no data", "verified"), ("no data", "ended"), ("asked", "paged"), ("", "opened")] {
            journal.append(at, actor(), because, Event::Note { text: text.into() }).unwrap();
        }
        let reasons: Vec<_> = told(journal.entries().iter()).map(|(_, because)| because).collect();
        assert_eq!(reasons, [Some("no data"), None, Some("asked"), None]);
    }
    #[test]
    fn what_several_metrics_have_in_common_is_one_line_without_their_names() {
        let line = |metric: &str, verdict, sentence: &str| MetricLine {
            metric: metric.into(),
            verdict,
            sentence: sentence.into(),
        };
        let lines = [
            line("errorRatio", Word::Unknown, "errorRatio: nothing known"),
            line("saturation", Word::Pass, "saturation is back: 0.4"),
            line("restarts", Word::Unknown, "restarts: nothing known"),
        ];
        let told: Vec<_> = alike(&lines).into_iter().map(|(names, line)| (names, line.finding())).collect();
        let expected = [("errorRatio, restarts", "nothing known"), ("saturation", "is back: 0.4")];
        assert_eq!(told, expected.map(|(names, finding)| (names.to_owned(), finding)));
    }
}

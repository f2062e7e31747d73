//! Whether an export is the whole truth, checked offline; names the first entry that is not.

use std::collections::BTreeMap;
use std::fmt;

use super::merkle::{Frontier, Hash};
use super::{About, Checkpoint, Line, Predicate, PublicKey, Statement};
use crate::journal::{Ending, Entry};
use crate::phase::Standing;

/// What the verifier believes beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRoot {
    /// The log's first key, from outside the cluster. Later ones are believed through their rotation records.
    pub key: PublicKey,
    /// Checkpoints seen earlier, elsewhere (a copy in Git, a witness, one's own notes): they find a rewound or forked log.
    pub seen: Vec<Checkpoint>,
}

/// A log that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub origin: String,
    pub entries: u64,
    pub root: Hash,
    pub epoch: u64,
    pub checkpoints: u64,
    pub key_rotations: u64,
    /// Remediations in the log with their number of entries and how they ended.
    pub remediations: BTreeMap<About, (u32, Option<Ending>)>,
}

/// The first entry that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {index} does not hold: {reason}")]
pub struct BadEntry {
    /// Index in the log: the first one that is wrong, missing, or not covered by a good checkpoint.
    pub index: u64,
    pub reason: Reason,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its number is not the next one.
    OutOfOrder {
        found: u64,
    },
    /// Changed after it was signed, or signed by a key that had no right to.
    BadSignature {
        why: String,
    },
    Malformed {
        why: String,
    },
    /// The log does not begin with the trusted key.
    OtherKey,
    /// An entry of the same journal is missing before it, or it stands in the wrong place.
    BrokenJournal {
        why: String,
    },
    /// What it says cannot have happened after what came before.
    Impossible {
        why: String,
    },
    /// Signed by the log, but not what the log's own checkpoint says.
    OtherThanCheckpoint {
        size: u64,
    },
    /// Records after the last checkpoint, or no checkpoint at all: the end may be cut off.
    NotCovered,
    /// Shorter than a checkpoint that was seen before.
    Rewound {
        seen: u64,
    },
    /// As long as a checkpoint that was seen before, but with another content.
    Forked {
        seen: u64,
    },
    /// The epoch fell: a leader without the right to write signed it.
    EpochFell {
        from: u64,
        to: u64,
    },
}

/// Verifies an export against what is trusted.
///
/// # Errors
/// The first bad entry.
pub fn verify(lines: &[Line], trust: &TrustRoot) -> Result<Summary, BadEntry> {
    let mut log = Log {
        key: trust.key.clone(),
        frontier: Frontier::default(),
        journals: BTreeMap::new(),
        covered: 0,
        epoch: 0,
        checkpoints: 0,
        rotations: 0,
        roots: BTreeMap::new(),
    };
    for line in lines {
        match line {
            Line::Record { index, envelope } => {
                log.record(*index, envelope)?;
                if trust.seen.iter().any(|seen| seen.size == log.frontier.size()) {
                    log.roots.insert(log.frontier.size(), log.frontier.root());
                }
            }
            Line::Checkpoint { note } => log.checkpoint(note)?,
        }
    }
    log.matches_what_was_seen(trust)?;
    if log.covered < log.frontier.size() || log.checkpoints == 0 {
        return Err(BadEntry { index: log.covered, reason: Reason::NotCovered });
    }
    Ok(Summary {
        origin: trust.key.origin().to_owned(),
        entries: log.frontier.size(),
        root: log.frontier.root(),
        epoch: log.epoch,
        checkpoints: log.checkpoints,
        key_rotations: log.rotations,
        remediations: log.journals.into_iter().map(|(about, journal)| (about, journal.told())).collect(),
    })
}

/// The log as far as it was read.
struct Log {
    key: PublicKey,
    frontier: Frontier,
    journals: BTreeMap<About, JournalSeen>,
    /// Up to which size a good checkpoint has confirmed it.
    covered: u64,
    epoch: u64,
    checkpoints: u64,
    rotations: u64,
    /// Roots at the sizes of checkpoints that were seen elsewhere.
    roots: BTreeMap<u64, Hash>,
}

/// One journal as far as it was read.
struct JournalSeen {
    last: Hash,
    entries: u32,
    standing: Standing,
}

impl JournalSeen {
    fn told(self) -> (u32, Option<Ending>) {
        (self.entries, self.standing.phase.ending())
    }
}

impl Log {
    fn record(&mut self, index: u64, envelope: &super::Envelope) -> Result<(), BadEntry> {
        let at = self.frontier.size();
        let bad = |reason| BadEntry { index: at, reason };
        if index != at {
            return Err(bad(Reason::OutOfOrder { found: index }));
        }
        let signed = envelope.open(&self.key).map_err(|error| bad(Reason::BadSignature { why: error.to_string() }))?;
        let malformed = |why: String| bad(Reason::Malformed { why });
        let statement = Statement::read(&signed).map_err(|error| malformed(error.to_string()))?;
        let leaf = envelope.leaf_hash().map_err(|error| malformed(error.to_string()))?;
        let rotation = matches!(statement.predicate, Predicate::KeyRotated { .. });
        if envelope.signatures.len() != if rotation { 2 } else { 1 } {
            return Err(malformed("it has another number of signatures than it should".to_owned()));
        }
        match statement.predicate {
            Predicate::Began { key } if at == 0 && key == self.key.to_string() => {}
            Predicate::Began { .. } if at == 0 => return Err(bad(Reason::OtherKey)),
            Predicate::Began { .. } => return Err(malformed("a log begins once".to_owned())),
            _ if at == 0 => return Err(malformed("a log begins with its key".to_owned())),
            Predicate::Entry { remediation, previous, entry } => {
                self.entry(leaf, remediation, previous, &entry).map_err(bad)?;
            }
            Predicate::KeyRotated { old, new } => {
                if old != self.key.to_string() {
                    return Err(bad(Reason::OtherKey));
                }
                let new = PublicKey::parse(&new).map_err(|error| malformed(error.to_string()))?;
                if new.origin() != self.key.origin() {
                    return Err(malformed("the new key is another log's".to_owned()));
                }
                envelope.open(&new).map_err(|error| bad(Reason::BadSignature { why: error.to_string() }))?;
                self.key = new;
                self.rotations += 1;
            }
        }
        self.frontier = self.frontier.with(leaf);
        Ok(())
    }

    fn entry(&mut self, leaf: Hash, about: About, previous: Option<Hash>, entry: &Entry) -> Result<(), Reason> {
        let seen = self.journals.get(&about);
        let broken = |why: String| Reason::BrokenJournal { why };
        let next = seen.map_or(0, |seen| seen.entries);
        if entry.seq != next {
            return Err(broken(format!(
                "entry {} of {}/{} stands where {next} should",
                entry.seq, about.namespace, about.name
            )));
        }
        if previous != seen.map(|seen| seen.last) {
            return Err(broken(format!(
                "it does not follow the entry before it of {}/{}",
                about.namespace, about.name
            )));
        }
        let standing = seen.map_or_else(Standing::new, |seen| seen.standing.clone());
        let standing = standing.after(entry).map_err(|error| Reason::Impossible { why: error.to_string() })?;
        if standing.plan_digest != about.plan_digest {
            return Err(broken("its journal began with another plan".to_owned()));
        }
        self.journals.insert(about, JournalSeen { last: leaf, entries: next + 1, standing });
        Ok(())
    }

    fn checkpoint(&mut self, note: &str) -> Result<(), BadEntry> {
        let bad = |reason| BadEntry { index: self.covered, reason };
        let found = Checkpoint::open(note, &self.key)
            .map_err(|error| bad(Reason::BadSignature { why: format!("the checkpoint over it: {error}") }))?;
        if found.size != self.frontier.size() || found.root != self.frontier.root() {
            return Err(bad(Reason::OtherThanCheckpoint { size: found.size }));
        }
        if found.epoch < self.epoch {
            return Err(bad(Reason::EpochFell { from: self.epoch, to: found.epoch }));
        }
        self.epoch = found.epoch;
        self.covered = found.size;
        self.checkpoints += 1;
        Ok(())
    }

    fn matches_what_was_seen(&self, trust: &TrustRoot) -> Result<(), BadEntry> {
        let mut seen: Vec<&Checkpoint> = trust.seen.iter().filter(|seen| seen.size > 0).collect();
        seen.sort_by_key(|seen| seen.size);
        let mut agreed = 0;
        for checkpoint in seen {
            let size = checkpoint.size;
            match self.roots.get(&size) {
                Some(root) if *root == checkpoint.root => agreed = size,
                Some(_) => return Err(BadEntry { index: agreed, reason: Reason::Forked { seen: size } }),
                None => {
                    return Err(BadEntry { index: self.frontier.size(), reason: Reason::Rewound { seen: size } });
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfOrder { found } => write!(out, "number {found} stands in its place"),
            Self::BadSignature { why } | Self::Malformed { why } => out.write_str(why),
            Self::OtherKey => out.write_str("it names another key than the trusted one"),
            Self::BrokenJournal { why } => out.write_str(why),
            Self::Impossible { why } => write!(out, "it cannot have happened: {why}"),
            Self::OtherThanCheckpoint { size } => {
                write!(out, "from here on the log is not what its checkpoint over {size} records says")
            }
            Self::NotCovered => out.write_str("no checkpoint covers it, so the end may be cut off"),
            Self::Rewound { seen } => write!(out, "a checkpoint over {seen} records was seen before"),
            Self::Forked { seen } => {
                write!(out, "from here on it differs from a checkpoint over {seen} records that was seen before")
            }
            Self::EpochFell { from, to } => write!(out, "the epoch fell from {from} to {to}"),
        }
    }
}

#[cfg(test)]
mod tests;

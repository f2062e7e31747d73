//! The head of the log: what is advanced by compare-and-swap, and by whom.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::merkle::{Frontier, Hash};
use super::{Checkpoint, Key, RecordError};

/// How many of the last leaf hashes the head remembers, to recognise a leaf that a crashed leader appended.
///
/// A leader appends one batch at a time and heals before it appends anything new, so only the last batch can be in doubt.
/// 512 hashes are 33 KiB in a ConfigMap.
pub const REMEMBERED: usize = 512;

/// Size, root and epoch of the log, with what is needed to grow it. Lives in a ConfigMap; its resourceVersion is the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
    /// Raised by every new leader as its first act; whoever has a lower one cannot append.
    pub epoch: u64,
    frontier: Frontier,
    /// The last leaves, oldest first.
    #[serde(default)]
    recent: Vec<Hash>,
}

/// What appending came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The head to be written by compare-and-swap; equal to the one before when every leaf was known.
    pub head: Head,
    /// Index of each leaf given, in the order given.
    pub indices: Vec<u64>,
}

impl Head {
    /// An empty log.
    pub fn new(origin: impl Into<String>) -> Self {
        let frontier = Frontier::default();
        Self { origin: origin.into(), size: 0, root: frontier.root(), epoch: 0, frontier, recent: Vec::new() }
    }

    /// The head with the next leadership epoch: the first write of a new leader.
    #[must_use]
    pub fn raised(&self) -> Self {
        Self { epoch: self.epoch.saturating_add(1), ..self.clone() }
    }

    /// Appends leaves that are not there yet, in order. Idempotent by leaf hash within the last [`REMEMBERED`] leaves.
    ///
    /// # Errors
    /// When a newer leader has raised the epoch, or the head was damaged.
    pub fn append(&self, epoch: u64, leaves: &[Hash]) -> Result<Appended, RecordError> {
        if epoch != self.epoch {
            return Err(RecordError::Outranked { head: self.epoch, writer: epoch });
        }
        self.check()?;
        let mut head = self.clone();
        let mut indices = Vec::with_capacity(leaves.len());
        for leaf in leaves {
            let known = head.index_of(leaf);
            if known.is_none() {
                head.frontier = head.frontier.with(*leaf);
                head.recent.push(*leaf);
                head.size = head.frontier.size();
            }
            indices.push(known.unwrap_or(head.size - 1));
        }
        let forget = head.recent.len().saturating_sub(REMEMBERED);
        head.recent.drain(..forget);
        head.root = head.frontier.root();
        Ok(Appended { head, indices })
    }

    /// Where a leaf is, if it is among the last [`REMEMBERED`].
    pub fn index_of(&self, leaf: &Hash) -> Option<u64> {
        let from_the_end = self.recent.iter().rev().position(|known| known == leaf)?;
        self.size.checked_sub(1 + u64::try_from(from_the_end).ok()?)
    }

    /// What is published and signed.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { origin: self.origin.clone(), size: self.size, root: self.root, epoch: self.epoch }
    }

    /// The signed note of [`Head::checkpoint`].
    pub fn signed(&self, key: &Key) -> String {
        self.checkpoint().signed(key)
    }

    /// Whether it agrees with itself.
    ///
    /// # Errors
    /// When somebody changed one part and not the others.
    pub fn check(&self) -> Result<(), RecordError> {
        let fits = self.frontier.is_sound() && self.frontier.size() == self.size && self.frontier.root() == self.root;
        let recent_fits = u64::try_from(self.recent.len()).is_ok_and(|recent| recent <= self.size);
        if fits && recent_fits { Ok(()) } else { Err(RecordError::DamagedHead) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::merkle::{leaf_hash, root};

    fn leaves(n: u32) -> Vec<Hash> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    #[test]
    fn appending_twice_is_appending_once() {
        let leaves = leaves(5);
        let once = Head::new("log").raised().append(1, &leaves).unwrap();
        assert_eq!(once.indices, [0, 1, 2, 3, 4]);
        assert_eq!(once.head.root, root(&leaves));
        let twice = once.head.append(1, &leaves[2..]).unwrap();
        assert_eq!(twice.indices, [2, 3, 4]);
        assert_eq!(twice.head, once.head);
    }

    #[test]
    fn a_leader_of_an_earlier_epoch_cannot_append() {
        let head = Head::new("log").raised().raised();
        assert_eq!(head.append(1, &leaves(1)), Err(RecordError::Outranked { head: 2, writer: 1 }));
    }

    #[test]
    fn a_long_log_forgets_old_leaves_but_not_its_root() {
        let leaves = leaves(1500);
        let head = leaves.chunks(100).fold(Head::new("log"), |head, batch| head.append(0, batch).unwrap().head);
        assert_eq!(head.root, root(&leaves));
        assert_eq!(head.index_of(&leaves[1499]), Some(1499));
        assert_eq!(head.index_of(&leaves[0]), None);
    }

    #[test]
    fn a_head_that_somebody_changed_is_not_grown() {
        let head = Head::new("log").append(0, &leaves(3)).unwrap().head;
        assert_eq!(Head { size: 2, ..head.clone() }.append(0, &[]), Err(RecordError::DamagedHead));
        assert_eq!(Head { root: leaves(1)[0], ..head }.append(0, &[]), Err(RecordError::DamagedHead));
    }
}

//! The head as others see it: a C2SP checkpoint in a signed note.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::merkle::Hash;
use super::{Key, PublicKey, RecordError};

/// A signed statement about the log's size and root.
///
/// The leadership epoch is an extension line, so that it is signed as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
    pub epoch: u64,
}

/// Longer notes are not ours: a checkpoint is four short lines and a handful of signatures.
const LONGEST: usize = 8 * 1024;

impl Checkpoint {
    /// The signed note: text, empty line, signature line.
    pub fn signed(&self, key: &Key) -> String {
        let text = self.text();
        let mut bytes = key.public().hash().to_vec();
        bytes.extend_from_slice(&key.sign(text.as_bytes()));
        format!("{text}\n— {} {}\n", key.public().origin(), STANDARD.encode(bytes))
    }

    /// Reads a note that is signed by this key; signatures of others (witnesses) are passed over.
    ///
    /// # Errors
    /// When it is no checkpoint, of another log, or not signed by the key.
    pub fn open(note: &str, key: &PublicKey) -> Result<Self, RecordError> {
        let malformed = |why| RecordError::MalformedCheckpoint { why };
        if note.len() > LONGEST {
            return Err(malformed("it is too long"));
        }
        // The last empty line parts text and signatures.
        let at = note.rfind("\n\n").ok_or(malformed("it has no signatures"))?;
        let (text, signatures) = (&note[..=at], &note[at + 2..]);
        let verifies = signatures.lines().any(|line| signed_by(line, text, key));
        if !verifies {
            return Err(RecordError::BadSignature { key: key.id() });
        }
        let found = Self::parse(text)?;
        if found.origin != key.origin() {
            return Err(malformed("it is about another log"));
        }
        Ok(found)
    }

    fn text(&self) -> String {
        format!("{}\n{}\n{}\nepoch {}\n", self.origin, self.size, STANDARD.encode(self.root.0), self.epoch)
    }

    fn parse(text: &str) -> Result<Self, RecordError> {
        let malformed = |why| RecordError::MalformedCheckpoint { why };
        let mut lines = text.lines();
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(malformed("it has fewer than three lines"));
        };
        let number = |text: &str| {
            let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
            if canonical { text.parse::<u64>().ok() } else { None }
        };
        let bytes = STANDARD.decode(root).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let epoch = lines.next().and_then(|line| line.strip_prefix("epoch "));
        Ok(Self {
            origin: origin.to_owned(),
            size: number(size).ok_or(malformed("its size is no number"))?,
            root: Hash(bytes.ok_or(malformed("its root is no hash"))?),
            epoch: epoch.and_then(number).ok_or(malformed("its epoch is no number"))?,
        })
    }
}

fn signed_by(line: &str, text: &str, key: &PublicKey) -> bool {
    let Some((name, encoded)) = line.strip_prefix("— ").and_then(|rest| rest.split_once(' ')) else { return false };
    let Ok(bytes) = STANDARD.decode(encoded) else { return false };
    match bytes.split_at_checked(4) {
        Some((hash, signature)) => {
            name == key.origin() && hash == key.hash() && key.verifies(text.as_bytes(), signature)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "amend.dev/log/test".into(), size: 20_852_163, root: Hash([7; 32]), epoch: 3 }
    }

    fn key(seed: u8) -> Key {
        Key::from_seed("amend.dev/log/test", &[seed; 32]).unwrap()
    }

    #[test]
    fn a_checkpoint_has_the_lines_of_the_specification() {
        let note = checkpoint().signed(&key(1));
        let lines: Vec<&str> = note.lines().collect();
        assert_eq!(lines[..2], ["amend.dev/log/test", "20852163"]);
        assert_eq!(STANDARD.decode(lines[2]).unwrap(), [7; 32]);
        assert_eq!(lines[3..5], ["epoch 3", ""]);
        assert!(lines[5].starts_with("— amend.dev/log/test "));
        assert_eq!(Checkpoint::open(&note, key(1).public()).unwrap(), checkpoint());
    }

    #[test]
    fn a_changed_or_foreign_checkpoint_is_refused() {
        let note = checkpoint().signed(&key(1));
        for bad in [
            note.replace("20852163", "20852164"),
            note.replace("epoch 3", "epoch 2"),
            note.replace("amend.dev/log/test\n2", "amend.dev/log/other\n2"),
            note.replace("\n\n", "\nmore\n\n"),
            note.trim_end().rsplit_once('\n').unwrap().0.to_owned(),
            String::new(),
        ] {
            assert!(Checkpoint::open(&bad, key(1).public()).is_err(), "{bad}");
        }
        assert!(Checkpoint::open(&note, key(2).public()).is_err());
    }

    #[test]
    fn signatures_of_witnesses_do_no_harm() {
        let note = format!("{}— witness.example AAAAAAAA\n", checkpoint().signed(&key(1)));
        assert!(Checkpoint::open(&note, key(1).public()).is_ok());
    }
}

//! The account that nobody can alter unseen: every journal entry sealed, signed and chained.
//!
//! ```text
//! Entry ─► Statement (in-toto v1) ─► Envelope (DSSE, ed25519) ─► leaf of a Merkle log (RFC 6962)
//!                                                                     └─► Head, signed as a checkpoint (C2SP)
//! ```
//!
//! An entry is *durable* when its envelope is stored beside the journal and the [`Head`] contains its leaf. The head is advanced
//! by compare-and-swap and append is idempotent by leaf hash, so a crash between the two heals by doing it again.
//! [`verify`] needs the export and a key, nothing else.

mod checkpoint;
mod dsse;
mod export;
mod head;
mod key;
pub mod merkle;
mod statement;
mod verify;

pub use checkpoint::Checkpoint;
pub use dsse::{Envelope, Signature, pae};
pub use export::{ExportError, Line, read_lines, write_lines};
pub use head::{Appended, Head};
pub use key::{Key, PublicKey};
pub use merkle::Hash;
pub use statement::{About, PREDICATE_TYPE, Predicate, Statement, Subject};
pub use verify::{BadEntry, Reason, Summary, TrustRoot, verify};

/// Why a record cannot be made or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("cannot write the record as JSON: {why}")]
    Unwritable { why: String },
    #[error("the envelope is malformed: {why}")]
    MalformedEnvelope { why: String },
    #[error("no signature of key {key} verifies")]
    BadSignature { key: String },
    #[error("the checkpoint is malformed: {why}")]
    MalformedCheckpoint { why: &'static str },
    #[error("the key is malformed: {why}")]
    MalformedKey { why: &'static str },
    #[error("the head is at epoch {head}, so epoch {writer} may not append")]
    Outranked { head: u64, writer: u64 },
    #[error("the head does not agree with itself: its root is not the one of its frontier")]
    DamagedHead,
}

//! What a record says: an in-toto statement about one remediation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::merkle::Hash;
use super::{Envelope, Key, PublicKey, RecordError};
use crate::journal::Entry;

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// Version of the predicate; a reader refuses one that it does not know.
pub const PREDICATE_TYPE: &str = "https://amend.dev/record/v1";

/// An in-toto Statement, version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    pub subject: Vec<Subject>,
    predicate_type: String,
    pub predicate: Predicate,
}

/// What the statement is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subject {
    /// `remediation/<namespace>/<name>` or `log/<origin>`.
    pub name: String,
    pub digest: SubjectDigest,
}

/// SHA-256 of the subject, in hex: of the plan, or of the log's first key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectDigest {
    pub sha256: String,
}

/// The remediation that an entry belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct About {
    pub namespace: String,
    pub name: String,
    /// UID of the `Remediation`: names come back, UIDs do not.
    pub uid: String,
    pub plan_digest: String,
}

/// The claim itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Predicate {
    /// The log begins; always leaf 0. `key` is its first vkey.
    Began { key: String },
    /// One journal entry. `previous` is the leaf of the entry before it in the same journal, so that none can be left out.
    Entry {
        remediation: About,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Hash>,
        entry: Box<Entry>,
    },
    /// Another key signs from the next leaf on; signed by both.
    KeyRotated { old: String, new: String },
}

impl Statement {
    /// The first record of a log.
    pub fn began(key: &PublicKey) -> Self {
        let predicate = Predicate::Began { key: key.to_string() };
        Self::new(format!("log/{}", key.origin()), sha256_hex(&key.to_string()), predicate)
    }

    /// The record of one journal entry.
    ///
    /// `previous`: leaf hash of the record before it in the same journal; `None` for the first.
    pub fn entry(remediation: About, previous: Option<Hash>, entry: Entry) -> Self {
        let name = format!("remediation/{}/{}", remediation.namespace, remediation.name);
        let digest = remediation.plan_digest.clone();
        Self::new(name, digest, Predicate::Entry { remediation, previous, entry: Box::new(entry) })
    }

    /// The record that hands over to another key.
    pub fn key_rotated(old: &PublicKey, new: &PublicKey) -> Self {
        let predicate = Predicate::KeyRotated { old: old.to_string(), new: new.to_string() };
        Self::new(format!("log/{}", old.origin()), sha256_hex(&new.to_string()), predicate)
    }

    fn new(name: String, sha256: String, predicate: Predicate) -> Self {
        Self {
            kind: STATEMENT_TYPE.to_owned(),
            subject: vec![Subject { name, digest: SubjectDigest { sha256 } }],
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate,
        }
    }

    /// Signs it; a key rotation with the old and the new key, everything else with the one in use.
    ///
    /// The same statement and key give the same bytes, so that sealing twice is sealing once.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn seal(&self, keys: &[&Key]) -> Result<Envelope, RecordError> {
        let payload = serde_json::to_vec(self).map_err(|error| RecordError::Unwritable { why: error.to_string() })?;
        Ok(Envelope::sign(&payload, keys))
    }

    /// Reads the bytes that an envelope's signature was verified over.
    ///
    /// # Errors
    /// When they are not a statement of a kind and version that we know.
    pub fn read(payload: &[u8]) -> Result<Self, RecordError> {
        let malformed = |why: String| RecordError::MalformedEnvelope { why };
        let found: Self = serde_json::from_slice(payload).map_err(|error| malformed(error.to_string()))?;
        if found.kind != STATEMENT_TYPE || found.predicate_type != PREDICATE_TYPE {
            return Err(malformed(format!("unknown statement {} with predicate {}", found.kind, found.predicate_type)));
        }
        Ok(found)
    }
}

fn sha256_hex(text: &str) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::digest(text))
}

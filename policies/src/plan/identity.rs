//! Names made by hashing: plans, proposals, executions, file contents.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::Plan;
use crate::canonical;

/// SHA-256 over a plan's canonical JSON, in hex. Made only by [`Plan::digest`] and by reading one back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PlanDigest(String);

/// What "the same proposal" means, in hex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Fingerprint(String);

/// Names one execution of one step, in hex. Twice is once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ActionKey(String);

/// Git's id of a file's content (SHA-1 object format).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct BlobId(String);

impl PlanDigest {
    pub(super) fn over(hex: String) -> Self {
        Self(hex)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Fingerprint {
    pub(super) fn of(plan: &Plan) -> Self {
        let fields: std::collections::BTreeSet<_> = plan
            .steps
            .iter()
            .flat_map(|step| &step.files)
            .flat_map(|file| {
                let whole = file.edits.is_empty().then(|| (file.path.clone(), String::new()));
                let edits =
                    file.edits.iter().map(|edit| (file.path.clone(), format!("{} {}", edit.object, edit.field)));
                whole.into_iter().chain(edits)
            })
            .collect();
        Self(canonical::digest(&("fingerprint", &plan.repository.url, plan.target.object(), &plan.cause, fields)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ActionKey {
    pub(super) fn of(plan: &Plan, install: &str, step: &str) -> Self {
        let policy = &plan.policy;
        let parts = ("action", install, &plan.incident.uid, &policy.uid, policy.generation, plan.revision, step);
        Self(canonical::digest(&parts)[..KEY_LENGTH].to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The branch that carries this execution: `amend/<key>`.
    pub fn branch(&self) -> String {
        format!("amend/{}", self.0)
    }
}

/// Hex digits of an action key: 80 bits, so that even a million executions collide with a chance below 10^-12, and
/// a branch name stays readable.
const KEY_LENGTH: usize = 20;

impl BlobId {
    /// An id that Git gave.
    pub fn from_hex(hex: impl Into<String>) -> Self {
        Self(hex.into())
    }

    /// The id that Git gives this content: SHA-1 over `blob <length>\0<content>`.
    pub fn of(content: &[u8]) -> Self {
        let mut hash = Sha1::new();
        hash.update(format!("blob {}\0", content.len()));
        hash.update(content);
        Self(hex::encode(hash.finalize()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! shown_as_text {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }
    )*};
}
shown_as_text!(PlanDigest Fingerprint ActionKey BlobId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_id_is_the_one_that_git_gives() {
        // `printf 'hello\n' | git hash-object --stdin`
        assert_eq!(BlobId::of(b"hello\n").as_str(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}

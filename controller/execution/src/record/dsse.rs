//! The signed envelope: DSSE 1.0.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::merkle::{Hash, leaf_hash};
use super::{Key, PublicKey, RecordError};

/// Media type of in-toto statements.
pub(super) const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Pre-authentication encoding: what is really signed, so that type and payload cannot be confused (DSSE protocol).
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut encoded = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    encoded.extend_from_slice(payload);
    encoded
}

/// A statement with its signatures. Its JSON, in this order of fields and without spaces, is the leaf of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    pub payload_type: String,
    /// Base64 of the statement's JSON.
    pub payload: String,
    /// One; two for a key rotation.
    #[schemars(length(min = 1, max = 2))]
    pub signatures: Vec<Signature>,
}

/// One signature over the pre-authentication encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Only a hint: the verifier tries the keys that it trusts.
    pub keyid: String,
    /// Base64.
    pub sig: String,
}

impl Envelope {
    /// Signs a payload with every key given.
    pub fn sign(payload: &[u8], keys: &[&Key]) -> Self {
        let signed = pae(PAYLOAD_TYPE, payload);
        let signature = |key: &&Key| Signature { keyid: key.public().id(), sig: STANDARD.encode(key.sign(&signed)) };
        Self {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload: STANDARD.encode(payload),
            signatures: keys.iter().map(signature).collect(),
        }
    }

    /// The payload, once it is known to be signed by this key: the very bytes that were verified.
    ///
    /// # Errors
    /// When the envelope is malformed or no signature verifies.
    pub fn open(&self, key: &PublicKey) -> Result<Vec<u8>, RecordError> {
        let malformed = |why: &str| RecordError::MalformedEnvelope { why: why.to_owned() };
        if self.payload_type != PAYLOAD_TYPE {
            return Err(malformed("its payload is not an in-toto statement"));
        }
        let payload = STANDARD.decode(&self.payload).map_err(|_| malformed("its payload is not base64"))?;
        let signed = pae(&self.payload_type, &payload);
        let verifies =
            |signature: &Signature| STANDARD.decode(&signature.sig).is_ok_and(|bytes| key.verifies(&signed, &bytes));
        match self.signatures.iter().any(verifies) {
            true => Ok(payload),
            false => Err(RecordError::BadSignature { key: key.id() }),
        }
    }

    /// The hash under which the log knows this record.
    ///
    /// # Errors
    /// Never in practice: an envelope is plain text fields.
    pub fn leaf_hash(&self) -> Result<Hash, RecordError> {
        let json = serde_json::to_vec(self).map_err(|error| RecordError::Unwritable { why: error.to_string() })?;
        Ok(leaf_hash(&json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> Key {
        Key::from_seed("amend.dev/log/test", &[seed; 32]).unwrap()
    }

    /// The example of the DSSE protocol.
    #[test]
    fn the_published_encoding_is_reproduced() {
        let encoded = pae("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
        assert_eq!(pae("", b""), b"DSSEv1 0  0 ");
    }

    #[test]
    fn an_envelope_opens_with_its_key_only_and_not_after_a_change() {
        let envelope = Envelope::sign(b"{}", &[&key(1)]);
        assert_eq!(envelope.open(key(1).public()).unwrap(), b"{}");
        assert!(matches!(envelope.open(key(2).public()), Err(RecordError::BadSignature { .. })));
        let payload = STANDARD.encode("{ }");
        assert!(Envelope { payload, ..envelope.clone() }.open(key(1).public()).is_err());
        let payload_type = "text/plain".to_owned();
        assert!(Envelope { payload_type, ..envelope }.open(key(1).public()).is_err());
    }

    #[test]
    fn the_key_hint_is_not_trusted() {
        let mut envelope = Envelope::sign(b"{}", &[&key(1)]);
        envelope.signatures[0].keyid = key(2).public().id();
        assert!(envelope.open(key(1).public()).is_ok());
        assert!(envelope.open(key(2).public()).is_err());
    }

    #[test]
    fn a_field_that_does_not_belong_is_refused() {
        let mut json = serde_json::to_value(Envelope::sign(b"{}", &[&key(1)])).unwrap();
        json["note"] = "hidden".into();
        assert!(serde_json::from_value::<Envelope>(json).is_err());
    }
}

//! Signing keys, named as signed notes name them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use super::RecordError;

/// Ed25519 in C2SP signed-note.
const ALGORITHM: u8 = 0x01;

/// A private key with the name of its log. Shown nowhere: its `Debug` tells the public half only.
#[derive(Clone)]
pub struct Key {
    secret: SigningKey,
    public: PublicKey,
}

impl Key {
    /// A key from its 32 secret bytes; the shell draws them once at first start.
    ///
    /// `origin` is the log's name: a schema-less URL such as `amend.dev/log/<install>`; neither space nor plus sign.
    ///
    /// # Errors
    /// When the name cannot be one.
    pub fn from_seed(origin: &str, seed: &[u8; 32]) -> Result<Self, RecordError> {
        let secret = SigningKey::from_bytes(seed);
        let public = PublicKey::new(origin, secret.verifying_key())?;
        Ok(Self { secret, public })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.secret.sign(message).to_bytes()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Key({})", self.public)
    }
}

/// The public half: what a verifier trusts. Shown and read as a C2SP *vkey*: `<origin>+<hash>+<base64>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    origin: String,
    key: VerifyingKey,
}

impl PublicKey {
    fn new(origin: &str, key: VerifyingKey) -> Result<Self, RecordError> {
        let bad = |letter: char| letter.is_whitespace() || letter == '+' || letter.is_control();
        if origin.is_empty() || origin.len() > 200 || origin.contains(bad) {
            return Err(RecordError::MalformedKey { why: "its name is empty, too long or has a space or plus sign" });
        }
        Ok(Self { origin: origin.to_owned(), key })
    }

    /// Reads a vkey.
    ///
    /// # Errors
    /// When it is none, or its hash does not fit its key.
    pub fn parse(vkey: &str) -> Result<Self, RecordError> {
        let malformed = |why| RecordError::MalformedKey { why };
        let mut parts = vkey.trim().splitn(3, '+');
        let (Some(origin), Some(hash), Some(encoded)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("it is not of the form name+hash+key"));
        };
        let bytes = STANDARD.decode(encoded).map_err(|_| malformed("its last part is not base64"))?;
        let raw: &[u8; 32] = match bytes.split_first() {
            Some((&ALGORITHM, rest)) => rest.try_into().map_err(|_| malformed("it is not 32 bytes long"))?,
            Some(_) | None => return Err(malformed("it is not an Ed25519 key")),
        };
        let key = VerifyingKey::from_bytes(raw).map_err(|_| malformed("it is not a point on the curve"))?;
        let found = Self::new(origin, key)?;
        if found.hash_hex() == hash { Ok(found) } else { Err(malformed("its hash belongs to another key")) }
    }

    /// The name of the log that signs with it.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Short name of the key, for `keyid` and for people.
    pub fn id(&self) -> String {
        format!("{}+{}", self.origin, self.hash_hex())
    }

    /// First four bytes of SHA-256 over name, newline, algorithm and key (C2SP signed-note).
    pub(super) fn hash(&self) -> [u8; 4] {
        let mut hash = Sha256::new();
        hash.update(self.origin.as_bytes());
        hash.update([b'\n', ALGORITHM]);
        hash.update(self.key.as_bytes());
        let full: [u8; 32] = hash.finalize().into();
        [full[0], full[1], full[2], full[3]]
    }

    fn hash_hex(&self) -> String {
        hex::encode(self.hash())
    }

    /// Strict verification: no malleable signatures, no weak keys.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = ed25519_dalek::Signature::from_slice(signature) else { return false };
        self.key.verify_strict(message, &signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![ALGORITHM];
        bytes.extend_from_slice(self.key.as_bytes());
        write!(out, "{}+{}+{}", self.origin, self.hash_hex(), STANDARD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the documentation of golang.org/x/mod/sumdb/note, which C2SP signed-note describes.
    const VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const SECRET: &str = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";

    #[test]
    fn the_published_key_pair_is_read_and_shown_as_published() {
        let seed: [u8; 32] = STANDARD.decode(SECRET).unwrap()[1..].try_into().unwrap();
        let key = Key::from_seed("PeterNeumann", &seed).unwrap();
        assert_eq!(key.public().to_string(), VKEY);
        assert_eq!(&PublicKey::parse(VKEY).unwrap(), key.public());
    }

    #[test]
    fn the_published_note_verifies_and_signing_it_again_gives_the_same_bytes() {
        let text =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let published = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
        let bytes = STANDARD.decode(published).unwrap();
        let seed: [u8; 32] = STANDARD.decode(SECRET).unwrap()[1..].try_into().unwrap();
        let key = Key::from_seed("PeterNeumann", &seed).unwrap();
        assert_eq!(bytes[..4], key.public().hash());
        assert_eq!(bytes[4..], key.sign(text.as_bytes()));
        assert!(key.public().verifies(text.as_bytes(), &bytes[4..]));
    }

    #[test]
    fn a_vkey_with_another_keys_hash_is_refused() {
        for vkey in [VKEY.replace("c74f20a3", "c74f20a4"), "a+b".into(), "a b+c74f20a3+AA==".into(), String::new()] {
            assert!(PublicKey::parse(&vkey).is_err(), "{vkey}");
        }
    }

    #[test]
    fn the_secret_is_not_shown() {
        let key = Key::from_seed("log", &[7; 32]).unwrap();
        assert!(!format!("{key:?}").contains("7, 7"));
    }
}

//! How a sender proves who it is: bearer token, client certificate, HMAC over the body, or a shared token in a header.

use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Secrets of which any one opens the door: two while one replaces the other.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    given: Vec<SecretString>,
    /// Read at every question: the Secret behind it may come after the controller, be exchanged, or be taken away, and none of
    /// that should need a restart. The kubelet mounts it in memory, so reading costs less than judging.
    file: Option<PathBuf>,
}

impl Secrets {
    /// Empty secrets are left out: an empty token in a Secret must not let everybody in.
    pub fn new(secrets: impl IntoIterator<Item = SecretString>) -> Self {
        Self { given: secrets.into_iter().filter(is_usable).collect(), file: None }
    }

    /// The secret that a file holds at the moment of each question; while there is none, nobody is let in.
    pub fn in_file(path: &Path) -> Self {
        Self { given: Vec::new(), file: Some(path.to_owned()) }
    }

    pub fn is_empty(&self) -> bool {
        self.now().is_empty()
    }

    /// Whether `given` is one of them, in a time that does not depend on where it differs, nor on its length.
    pub fn admit(&self, given: &str) -> bool {
        let given = Sha256::digest(given.as_bytes());
        let equal = self.now().iter().fold(subtle::Choice::from(0), |equal, secret| {
            equal | Sha256::digest(secret.expose_secret().trim().as_bytes()).ct_eq(&given)
        });
        equal.into()
    }

    /// Whether `signature`, in hex, is the HMAC-SHA256 of `body` under one of them.
    pub fn signed(&self, body: &[u8], signature: &str) -> bool {
        let Ok(signature) = hex::decode(signature) else { return false };
        self.now().iter().any(|secret| {
            // HMAC takes keys of any length.
            Hmac::<Sha256>::new_from_slice(secret.expose_secret().trim().as_bytes())
                .is_ok_and(|mac| mac.chain_update(body).verify_slice(&signature).is_ok())
        })
    }

    fn now(&self) -> Vec<SecretString> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).ok().map(SecretString::from);
        self.given.iter().cloned().chain(self.file.as_ref().and_then(read).filter(is_usable)).collect()
    }
}

fn is_usable(secret: &SecretString) -> bool {
    !secret.expose_secret().trim().is_empty()
}

/// Put into a request by the server when the connection's client certificate was signed by the configured authority.
#[derive(Clone, Copy, Debug)]
pub struct ClientCertificate;

/// The token of `Authorization: Bearer ...`.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(secrets: &[&str]) -> Secrets {
        Secrets::new(secrets.iter().map(|secret| SecretString::from((*secret).to_owned())))
    }

    #[test]
    fn either_of_two_secrets_is_admitted_while_one_replaces_the_other() {
        let secrets = secrets(&["old", "new\n"]);
        assert!(secrets.admit("old") && secrets.admit("new"));
        assert!(!secrets.admit("ol") && !secrets.admit("") && !secrets.admit("old "));
    }

    #[test]
    fn an_empty_secret_admits_nobody() {
        let secrets = secrets(&["", " \n"]);
        assert!(secrets.is_empty());
        assert!(!secrets.admit("") && !secrets.signed(b"", ""));
    }

    #[test]
    fn a_secret_that_comes_later_is_exchanged_or_taken_away_counts_from_that_moment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let secrets = Secrets::in_file(&file);
        assert!(secrets.is_empty() && !secrets.admit("first"));
        std::fs::write(&file, "first\n").unwrap();
        assert!(!secrets.is_empty() && secrets.admit("first"));
        std::fs::write(&file, "second\n").unwrap();
        assert!(secrets.admit("second") && !secrets.admit("first"));
        std::fs::write(&file, "\n").unwrap();
        assert!(secrets.is_empty() && !secrets.admit(""), "an empty one admits nobody");
        std::fs::remove_file(&file).unwrap();
        assert!(secrets.is_empty() && !secrets.admit("second"));
    }

    #[test]
    fn a_signature_holds_for_its_body_only() {
        // RFC 4231, test case 2.
        let secrets = secrets(&["Jefe"]);
        let signature = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert!(secrets.signed(b"what do ya want for nothing?", signature));
        assert!(!secrets.signed(b"what do ya want for nothing!", signature));
        assert!(!secrets.signed(b"what do ya want for nothing?", &signature[..62]));
        assert!(!secrets.signed(b"what do ya want for nothing?", "not hex"));
    }

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, "bearer  abc ".parse().unwrap())]);
        assert_eq!(bearer(&headers), Some("abc"));
        assert_eq!(bearer(&HeaderMap::from_iter([(AUTHORIZATION, "Basic abc".parse().unwrap())])), None);
    }
}

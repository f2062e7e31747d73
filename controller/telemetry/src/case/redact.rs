//! What must not leave the cluster with a case: credentials and people.
//!
//! A secret becomes the salted digest of itself, so that "these two differ" stays visible and the value does not:
//! equal values of one capture have equal digests, and another capture's salt gives others.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Hex digits of a digest that are kept: enough to tell the values of one cluster apart.
const DIGITS: usize = 12;

/// Names of fields, variables and keys whose values are credentials.
static SECRET_NAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(passw|secret|token|credential|api[-_.]?key|private[-_.]?key|auth|dsn|connection[-_.]?string)")
        .ok()
});

/// Credentials inside running text: `password=x`, `Authorization: Bearer x`, JSON web tokens, the login of a URL, mail
/// addresses, PEM blocks.
static SECRET_TEXT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r#"(?i)(?P<label>\b[\w.-]*(?:passw(?:or)?d|secret|token|api[-_]?key|authorization)["']?\s*[:=]\s*["']?(?:bearer |basic )?)(?P<value>[^\s"',;&]+)"#,
        r"|(?P<jwt>eyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*)",
        r"|(?P<scheme>://)(?P<login>[^\s/@]+)@",
        r"|(?P<mail>[\w.+-]+@[\w-]+\.[\w.-]+)",
        r"|(?P<pem>-----BEGIN [A-Z ]+-----[\s\S]*?(?:-----END [A-Z ]+-----|$))",
    ))
    .ok()
});

/// Replaces credentials and people by digests.
#[derive(Clone, Debug)]
pub struct Redaction {
    salt: Vec<u8>,
}

impl Redaction {
    /// With a salt that nobody keeps: digests of different captures cannot be compared, nor guessed from a word list.
    pub fn new(salt: impl Into<Vec<u8>>) -> Self {
        Self { salt: salt.into() }
    }

    /// What stands for a secret.
    pub fn digest(&self, secret: &str) -> String {
        let mut hash = Sha256::new();
        hash.update((self.salt.len() as u64).to_be_bytes());
        hash.update(&self.salt);
        hash.update(secret);
        format!("redacted-{}", &hex::encode(hash.finalize())[..DIGITS])
    }

    /// Running text without the credentials and addresses in it.
    ///
    /// A pattern that does not compile (a test holds them all) redacts everything: in doubt nothing leaves.
    pub fn text(&self, text: &str) -> String {
        let Some(pattern) = SECRET_TEXT.as_ref() else { return self.digest(text) };
        let replaced = |found: &Captures<'_>| match (found.name("label"), found.name("value"), found.name("login")) {
            (Some(label), Some(value), _) => format!("{}{}", label.as_str(), self.digest(value.as_str())),
            (_, _, Some(login)) => format!("://{}@", self.digest(login.as_str())),
            _ => self.digest(&found[0]),
        };
        pattern.replace_all(text, replaced).into_owned()
    }

    fn is_secret(&self, name: &str) -> bool {
        SECRET_NAME.as_ref().is_none_or(|pattern| pattern.is_match(name))
    }

    /// A Kubernetes object without credentials, and without the copies of itself that the API server keeps in it.
    pub fn object(&self, object: &Value) -> Value {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
        }
        if object["kind"] == "Secret" {
            for part in ["data", "stringData"] {
                for value in
                    object.get_mut(part).and_then(Value::as_object_mut).into_iter().flat_map(|map| map.values_mut())
                {
                    *value = Value::String(self.digest(value.as_str().unwrap_or_default()));
                }
            }
        }
        self.inside(&mut object);
        object
    }

    /// Every text below, by its own pattern or by the name that it stands under.
    fn inside(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(list) => list.iter_mut().for_each(|one| self.inside(one)),
            Value::Object(map) => {
                // An environment variable: `name` says what `value` is.
                let named = map.get("name").and_then(Value::as_str).is_some_and(|name| self.is_secret(name));
                for (key, inner) in map.iter_mut() {
                    match inner {
                        Value::String(text) if (named && key == "value") || self.holds_secret(key) => {
                            *text = self.digest(text);
                        }
                        inner => self.inside(inner),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Field names of Kubernetes itself that sound like secrets and name one only.
    fn holds_secret(&self, key: &str) -> bool {
        self.is_secret(key)
            && !matches!(key, "secretName" | "serviceAccountToken" | "tokenSecret" | "authority" | "author")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn redaction() -> Redaction {
        Redaction::new("salt")
    }

    #[test]
    fn credentials_in_text_become_digests_and_the_rest_stays() {
        for (text, secret) in [
            ("login failed password=hunter2, retrying", "hunter2"),
            ("Authorization: Bearer abc.def", "abc.def"),
            ("{\"api_key\": \"k-123\"}", "k-123"),
            ("dial postgres://shop:pa55@db:5432/shop", "pa55"),
            ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln expired", "eyJhbGciOiJIUzI1NiJ9"),
            ("mail to ada@example.org bounced", "ada@example.org"),
            ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", "MIIE"),
        ] {
            let clean = redaction().text(text);
            assert!(!clean.contains(secret) && clean.contains("redacted-"), "{clean}");
        }
        let harmless = "connect to checkout:8080 timed out after 30s (3 tokens left)";
        assert_eq!(redaction().text(harmless), harmless);
    }

    #[test]
    fn equal_secrets_stay_equal_and_other_captures_differ() {
        assert_eq!(redaction().digest("a"), redaction().digest("a"));
        assert_ne!(redaction().digest("a"), redaction().digest("b"));
        assert_ne!(redaction().digest("a"), Redaction::new("other").digest("a"));
    }

    #[test]
    fn an_object_keeps_its_shape_and_loses_its_secrets() {
        let object = json!({
            "kind": "Deployment",
            "metadata": {"name": "cart", "managedFields": [{}], "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "{}", "owner": "ada@example.org"}},
            "spec": {"env": [{"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "PORT", "value": "8080"}],
                     "volumes": [{"secret": {"secretName": "cart-db"}}]},
        });
        let clean = redaction().object(&object);
        let text = clean.to_string();
        assert!(!text.contains("hunter2") && !text.contains("ada@") && !text.contains("managedFields"), "{text}");
        assert_eq!(clean.pointer("/spec/env/1/value"), Some(&json!("8080")));
        assert_eq!(clean.pointer("/spec/volumes/0/secret/secretName"), Some(&json!("cart-db")));
        let secret = redaction().object(&json!({"kind": "Secret", "data": {"user": "YQ==", "again": "YQ=="}}));
        assert_eq!(secret["data"]["user"], secret["data"]["again"]);
        assert!(secret.to_string().contains("redacted-"));
    }
}

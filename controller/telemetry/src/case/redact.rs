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

/// Names of fields, variables, labels and keys whose values are credentials.
static SECRET_NAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)passw|passphrase|pwd|(?:^|[-_.])pass(?:$|[-_.])|secret|token|credential|auth|cookie|dsn",
        r"|connection[-_.]?string|webhook[-_.]?url",
        r"|(?:api|private|access|account|encryption|signing|jwt|hmac|master|shared|ssh|license)[-_.]?key",
    ))
    .ok()
});

/// Credentials inside running text, whatever the form: each branch is a form of its own, the ones that take most stand first.
static SECRET_TEXT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(&format!("(?i){}", [
        // Keys and certificates, also with `\n` written out.
        r"(?P<pem>-----BEGIN [A-Z0-9 ]+-----[\s\S]*?(?:-----END [A-Z0-9 ]+-----|$))",
        // Tokens that are known by their shape: GitHub, GitLab, AWS, Slack, OpenAI, Google, JSON web tokens.
        r"(?P<shape>(?-i:\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_[A-Za-z0-9_]{16,}|\bglpat-[A-Za-z0-9_-]{16,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b|\bxox[abeprs]-[A-Za-z0-9-]{10,}|\bsk-[A-Za-z0-9_-]{20,}|\bAIza[A-Za-z0-9_-]{30,}|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*))",
        r"(?P<hook>hooks\.slack\.com/[\w/-]+)",
        // A header that is nothing else: to the end of its text.
        r#"(?P<cookie>\b(?:set-)?cookie\\*["']?\s*[:=]\s*[\[\s]*\\*["']?)(?P<crumbs>[^"'\\\r\n\]]+)"#,
        // `name: value`, `"name":"value"`, `\"name\":\"value\"`, `name=["value"]`; what is quoted ends with its quote.
        r#"(?P<label>\b[\w.-]*(?:passw(?:or)?d[\w.-]*|passphrase|pwd|[-_]pass|secret|token|credentials?|authorization|signature|(?:api|private|access|account|encryption|signing|jwt|hmac|master|shared)[-_]?key(?:[-_]?id)?)\\*["']?\s*[:=]\s*\[?\s*)(?:"(?P<double>(?:[^"\\]|\\.)*)|'(?P<single>(?:[^'\\]|\\.)*)|\\+["'](?P<escaped>[^"'\\]*)|(?P<scheme>(?:bearer|basic|token|digest|negotiate|apikey|aws4-hmac-sha256)\s+)?(?P<value>[^\s"',;&\\\]]+))"#,
        // `--password x`, `requirepass x`.
        r#"(?P<option>(?:(?:^|[\s"'\[(,])--?[\w-]*(?:passw(?:or)?d|passphrase|-pass|--pass|secret|token|api-?key|access-?key)|\b(?:requirepass|masterauth|auth-pass\s+\S+))(?:\s+|=)["']?)(?P<given>[^\s"'-][^\s"']*)"#,
        // A token that only its scheme gives away; words are shorter.
        r"(?P<bearer>\bbearer\s+)(?P<borne>[A-Za-z0-9_.~+/=-]{20,})",
        r#"(?P<before>://)(?P<login>[^\s/"'<>]+)@"#,
        r"(?P<mail>[\w.+-]+@[\w-]+\.[\w.-]+)",
    ].join("|")))
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
        let replaced = |found: &Captures<'_>| self.replaced(found);
        pattern.replace_all(text, replaced).into_owned()
    }

    fn replaced(&self, found: &Captures<'_>) -> String {
        // A shell's working directory is no password.
        let is_directory = |label: &str, value: &str| {
            label.to_ascii_lowercase().trim_end_matches(['=', ':', ' ']).ends_with("pwd") && value.starts_with('/')
        };
        // All of it but the secret stays: its label and its quote.
        let secrets = ["double", "single", "escaped", "value", "crumbs", "given", "borne", "login"];
        let secret = secrets.into_iter().find_map(|name| found.name(name));
        let began = found.get(0).map_or(0, |whole| whole.start());
        match secret {
            Some(secret) if secret.is_empty() || is_directory(&found[0][..secret.start() - began], secret.as_str()) => {
                found[0].to_owned()
            }
            Some(secret) => {
                let (start, end) = (secret.start() - began, secret.end() - began);
                format!("{}{}{}", &found[0][..start], self.digest(secret.as_str()), &found[0][end..])
            }
            None => self.digest(&found[0]),
        }
    }

    /// A text that stands under a name: all of it is a secret where the name says so.
    pub fn named(&self, name: &str, text: &str) -> String {
        match self.holds_secret(name) {
            true => self.digest(text),
            false => self.text(text),
        }
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
            Value::Array(list) => {
                // Of a command line: the option says what stands behind it.
                let mut said = false;
                for one in list {
                    let says = one.as_str().is_some_and(|word| self.is_option_of_secret(word));
                    match one {
                        Value::String(text) if said => *text = self.digest(text),
                        one => self.inside(one),
                    }
                    said = says;
                }
            }
            Value::Object(map) => {
                // An environment variable: `name` says what `value` is.
                let named = map.get("name").and_then(Value::as_str).is_some_and(|name| self.is_secret(name));
                for (key, inner) in map.iter_mut() {
                    match inner {
                        Value::String(text) if (named && key == "value") || self.holds_secret(key) => {
                            *text = self.digest(text);
                        }
                        Value::Array(list) if self.holds_secret(key) && list.iter().all(Value::is_string) => {
                            for text in list {
                                *text = Value::String(self.digest(text.as_str().unwrap_or_default()));
                            }
                        }
                        inner => self.inside(inner),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Whether a word of a command line is an option whose value is the next word.
    fn is_option_of_secret(&self, word: &str) -> bool {
        let is_option = word.starts_with('-') && !word.contains('=') && !word.contains(char::is_whitespace);
        (is_option && self.is_secret(word))
            || matches!(word, "requirepass" | "--requirepass" | "masterauth" | "--masterauth")
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
    }

    #[test]
    fn every_form_of_a_secret_becomes_a_digest() {
        for (text, secret) in [
            (r#"{"msg":"{\"password\":\"hunter2\"}"}"#, "hunter2"),
            (r#"{"Authorization":["Bearer s3cr3t-x"]}"#, "s3cr3t-x"),
            ("Authorization: Token s3cr3t-x", "s3cr3t-x"),
            ("authorization=Basic czNjcjN0", "czNjcjN0"),
            ("sent Bearer abcdefghijklmnopqrstuvwxyz0123", "abcdefghijklmnop"),
            ("mysql --password hunter2 -h db", "hunter2"),
            ("curl --token=hunter2", "hunter2"),
            ("CONFIG SET requirepass hunter2", "hunter2"),
            ("Server=db;Uid=app;Pwd=hunter2;", "hunter2"),
            ("Cookie: session=hunter2; theme=dark", "hunter2"),
            ("set-cookie: id=hunter2; HttpOnly", "hunter2"),
            ("AccountName=shop;AccountKey=aHVudGVyMg==;EndpointSuffix=x", "aHVudGVyMg"),
            ("cloning with ghp_16C7e42F292c6912E7710c838347Ae178B4a", "16C7e42F292c"),
            ("github_pat_11ABCDEFG0123456789_abcdefghijkl used", "11ABCDEFG0123456789"),
            ("glpat-ABCdef-1234567890xyz is revoked", "ABCdef-1234567890"),
            ("key AKIAIOSFODNN7EXAMPLE is not allowed", "IOSFODNN7EXAMPLE"),
            ("posting to https://hooks.slack.com/services/T000/B000/XXXXhunter2", "XXXXhunter2"),
            ("xoxb-123456789012-hunter2hunter2", "hunter2"),
            ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJzdWIiOiIxIn0"),
            ("-----BEGIN RSA PRIVATE KEY-----\\nMIIEhunter2\\n-----END RSA PRIVATE KEY-----", "MIIEhunter2"),
            (r#"password="correct horse battery staple" rejected"#, "battery"),
            (r"passphrase: 'correct horse battery staple'", "battery"),
            ("amqp://app:p@ss:hunter2@mq:5672/shop", "hunter2"),
            ("https://hunter2@github.com/shop/shop.git", "hunter2"),
            ("DB_PASS=hunter2", "hunter2"),
            ("MYSQL_PWD: hunter2", "hunter2"),
            ("AWS_ACCESS_KEY_ID=hunter2", "hunter2"),
            ("encryption_key=hunter2", "hunter2"),
            ("Credential=hunter2/20260101, Signature=abcdef", "hunter2"),
        ] {
            let clean = redaction().text(text);
            assert!(!clean.contains(secret) && clean.contains("redacted-"), "{text} became {clean}");
        }
        let quoted = redaction().text(r#"password="correct horse" rejected for shop"#);
        assert!(quoted.ends_with("\" rejected for shop"), "{quoted}");
    }

    #[test]
    fn lines_without_a_secret_stay_as_they_are() {
        for harmless in [
            "connect to checkout:8080 timed out after 30s (3 tokens left)",
            "12 passed; 0 failed; bypass=true",
            "MountVolume.SetUp failed for volume \"db\" : secret \"cart-db\" not found",
            "secretName: cart-db",
            "GET https://shop.example.org/cart?page=2 200 in 12 ms",
            "duplicate key value violates unique constraint \"orders_pkey\" primary_key=5",
            "PWD=/srv/app HOME=/root",
            "Bearer authentication failed for route /login",
            "unauthorized: no basic auth credentials",
            "image shop/cart@sha256:4bf92f3577b34da6a3ce929d0e0e4736 pulled",
            "rotating keyring after 5000 accesses",
            "WRONGPASS invalid username-password pair or user is disabled",
        ] {
            assert_eq!(redaction().text(harmless), harmless);
        }
    }

    #[test]
    fn names_of_variables_and_options_tell_secrets() {
        for name in [
            "DB_PASS",
            "MYSQL_PWD",
            "REDIS_PASS",
            "ENCRYPTION_KEY",
            "JWT_KEY",
            "AWS_ACCESS_KEY_ID",
            "http.request.header.cookie",
        ] {
            assert!(redaction().named(name, "hunter2").starts_with("redacted-"), "{name}");
        }
        for name in ["PORT", "LOG_LEVEL", "BYPASS_CACHE", "PRIMARY_KEY", "PASSENGER_COUNT"] {
            assert_eq!(redaction().named(name, "on"), "on", "{name}");
        }
        let object = json!({
            "args": ["redis-server", "--requirepass", "hunter2", "--port", "6379"], "command": ["x", "--db-password", "hunter2"],
            "tokens": ["hunter2"],
        });
        let clean = redaction().object(&object).to_string();
        assert!(!clean.contains("hunter2") && clean.contains("6379"), "{clean}");
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

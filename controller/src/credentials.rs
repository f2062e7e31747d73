//! Secrets that sources and targets refer to: read by name when needed, never listed, watched or kept in status.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use secrecy::{ExposeSecret, SecretString};

/// The content of one Secret. Its `Debug` shows no values.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Resource version, to notice a change.
    pub version: String,
    values: BTreeMap<String, SecretString>,
}

/// Why credentials are not to be had; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("Secret {namespace}/{name} does not exist: create it, or correct secretRef")]
    Missing { namespace: String, name: String },
    #[error("Secret {namespace}/{name} may not be read: grant `get` on it to Amend's service account")]
    Forbidden { namespace: String, name: String },
    #[error("Secret {namespace}/{name} cannot be read")]
    Unreadable {
        namespace: String,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
}

impl Credential {
    /// The value of a key, when it is there, is text and is not empty.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|value| value.expose_secret()).filter(|value| !value.trim().is_empty())
    }
}

/// Reads one Secret.
pub async fn read(client: &Client, namespace: &str, name: &str) -> Result<Credential, CredentialError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let place = || (namespace.to_owned(), name.to_owned());
    let secret = api.get(name).await.map_err(|error| {
        let (namespace, name) = place();
        match &error {
            kube::Error::Api(status) if status.code == 404 => CredentialError::Missing { namespace, name },
            kube::Error::Api(status) if status.code == 403 => CredentialError::Forbidden { namespace, name },
            _ => CredentialError::Unreadable { namespace, name, source: Box::new(error) },
        }
    })?;
    let values = secret
        .data
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(key, value)| Some((key, SecretString::from(String::from_utf8(value.0).ok()?))))
        .collect();
    Ok(Credential { version: secret.metadata.resource_version.unwrap_or_default(), values })
}

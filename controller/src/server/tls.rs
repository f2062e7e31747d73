//! The server's certificate, and the authority whose clients it knows.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// Files in PEM, as cert-manager and Kubernetes write them.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Signs the certificates of clients that need no token. Make it for this purpose only: whatever it signs is let in.
    pub client_authority: Option<PathBuf>,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{path} holds no certificate")]
    Empty { path: PathBuf },
    #[error("{path} holds no usable client authority")]
    Authority {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("certificate and key do not serve together")]
    Mismatch(#[source] rustls::Error),
}

/// How often the files are read again, so that a renewed certificate needs no restart.
const FRESH: Duration = Duration::from_secs(60);

/// Hands out the acceptor made from the newest good files.
pub(super) struct Acceptor {
    tls: Tls,
    acceptor: TlsAcceptor,
    read: Instant,
}

impl Acceptor {
    pub fn new(tls: Tls) -> Result<Self, TlsError> {
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server_config(&tls)?)), tls, read: Instant::now() })
    }

    pub fn current(&mut self) -> TlsAcceptor {
        if self.read.elapsed() >= FRESH {
            self.read = Instant::now();
            match server_config(&self.tls) {
                Ok(config) => self.acceptor = TlsAcceptor::from(Arc::new(config)),
                Err(error) => tracing::warn!(%error, "the certificate files are broken, the old certificate stays"),
            }
        }
        self.acceptor.clone()
    }
}

fn server_config(tls: &Tls) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Mismatch)?;
    let builder = match &tls.client_authority {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let refuse =
                |source: Box<dyn std::error::Error + Send + Sync>| TlsError::Authority { path: path.clone(), source };
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| refuse(error.into()))?;
            }
            // Probes and browsers come without one; who needs it checks for it.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| refuse(error.into()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|source| TlsError::Unreadable { path: tls.key.clone(), source })?;
    let mut config = builder.with_single_cert(certificates(&tls.certificate)?, key).map_err(TlsError::Mismatch)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { path: path.to_owned(), source };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)?;
    if found.is_empty() { Err(TlsError::Empty { path: path.to_owned() }) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_empty_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let certificate = folder.path().join("tls.crt");
        let tls = Tls { certificate: certificate.clone(), key: folder.path().join("tls.key"), client_authority: None };
        std::fs::write(&tls.key, "").unwrap();
        let error = Acceptor::new(tls.clone()).err().unwrap();
        assert!(error.to_string().starts_with("cannot read "), "{error}");
        std::fs::write(&certificate, "no certificate here\n").unwrap();
        let authority = Tls { client_authority: Some(certificate.clone()), ..tls };
        let error = Acceptor::new(authority).err().unwrap();
        assert_eq!(error.to_string(), format!("{} holds no certificate", certificate.display()));
    }
}

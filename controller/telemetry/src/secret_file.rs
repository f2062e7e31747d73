//! A secret in a file, read when it is used.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use secrecy::{ExposeSecret, SecretString};

/// A key of a Secret, as the kubelet mounts it.
///
/// Read at every use: the Secret behind it may come after the controller, be exchanged, or be taken away, and none of that
/// should need a restart. It lies in memory, so reading it costs less than what it is read for.
#[derive(Debug)]
pub struct SecretFile {
    path: PathBuf,
    /// Whether the last look found nothing of use: a change is logged once.
    broken: AtomicBool,
}

/// Why there is no secret; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("the secret {path} is not there: create the Secret that is mounted there, with the key `{key}`")]
    Missing { path: PathBuf, key: String },
    #[error("the secret {path} is empty: write it to the key `{key}` of the Secret that is mounted there")]
    Empty { path: PathBuf, key: String },
    #[error("cannot read the secret {path} ({}): the key `{key}` of the Secret that is mounted there must hold text", .source.kind())]
    Unreadable {
        path: PathBuf,
        key: String,
        #[source]
        source: std::io::Error,
    },
}

impl SecretFile {
    /// Logs when there is no secret yet: who starts the program should not learn it from the first use.
    pub fn new(path: &Path) -> Self {
        let file = Self { path: path.to_owned(), broken: AtomicBool::new(false) };
        // What is wrong was logged; it may be right by the first use.
        let _ = file.read();
        file
    }

    /// What it holds now, without the white space around it.
    ///
    /// # Errors
    /// When it is not there, cannot be read, or is empty.
    pub fn read(&self) -> Result<SecretString, SecretFileError> {
        let found = self.look();
        match (&found, self.broken.swap(found.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::warn!(%error, "a secret cannot be used; what needs it waits for it"),
            (Ok(_), true) => tracing::info!(path = %self.path.display(), "the secret can be used"),
            (Err(_), true) | (Ok(_), false) => {}
        }
        found
    }

    fn look(&self) -> Result<SecretString, SecretFileError> {
        let path = self.path.clone();
        let key = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = match std::fs::read_to_string(&path).map(SecretString::from) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(SecretFileError::Missing { path, key }),
            Err(source) => return Err(SecretFileError::Unreadable { path, key, source }),
        };
        match text.expose_secret().trim() {
            "" => Err(SecretFileError::Empty { path, key }),
            secret => Ok(SecretString::from(secret.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_file_holds_now_and_each_way_to_hold_nothing_has_its_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let file = SecretFile::new(&path);
        let now = || file.read().map(|secret| secret.expose_secret().to_owned()).map_err(|error| error.to_string());
        let shown = path.display();
        assert_eq!(
            now(),
            Err(format!(
                "the secret {shown} is not there: create the Secret that is mounted there, with the key `key`"
            ))
        );
        std::fs::write(&path, "first\n").unwrap();
        assert_eq!(now(), Ok("first".to_owned()));
        std::fs::write(&path, "second").unwrap();
        assert_eq!(now(), Ok("second".to_owned()));
        std::fs::write(&path, " \n").unwrap();
        assert!(now().is_err_and(|why| why.contains("is empty: write it to the key `key`")));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(now().is_err_and(|why| why.contains("must hold text")));
    }
}

//! What Amend itself may use to reach one repository: address, credentials, signing key.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::error::GitError;

/// How to reach one repository with Amend's own credentials.
///
/// The URL never carries them: a URL ends up in errors, logs and pull requests.
#[derive(Clone, Debug)]
pub struct GitAccess {
    /// `https://` address; `http://` only together with `allow_private`.
    pub url: Url,
    /// The branch that pull requests are opened against.
    pub branch: String,
    pub login: Option<Login>,
    /// Whether loopback and private addresses (and plain HTTP) may be used.
    pub allow_private: bool,
    /// Additional trust root, PEM, for a forge behind a private CA.
    pub authority: Option<String>,
    pub author: Author,
    /// OpenSSH private key (ed25519, unencrypted) that signs commits; none leaves them unsigned.
    pub signing_key: Option<SecretString>,
}

/// A user name with its password or access token.
#[derive(Clone, Debug)]
pub struct Login {
    /// Forges that take a token as the password accept any non-empty name here.
    pub username: String,
    pub password: SecretString,
}

/// Name and address written into commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    pub name: String,
    pub email: String,
}

impl Default for Author {
    fn default() -> Self {
        Self { name: "Amend".into(), email: "amend@amend.dev".into() }
    }
}

impl GitAccess {
    /// Access to `branch` of the repository at `url`, without credentials, to public addresses only.
    ///
    /// Refuses a URL with credentials, query or fragment in it, and schemes other than HTTP(S).
    pub fn new(url: &str, branch: &str) -> Result<Self, GitError> {
        let refused = |why: &str| GitError::BadAddress { why: why.into() };
        let url = Url::parse(url.trim_end_matches('/')).map_err(|error| refused(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused("only https:// and http:// repositories are supported"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("credentials belong into a Secret, not into the URL"));
        }
        if url.query().is_some() || url.fragment().is_some() || url.host_str().is_none() {
            return Err(refused("a repository URL has a host and no query or fragment"));
        }
        if !git2::Reference::is_valid_name(&format!("refs/heads/{branch}")) {
            return Err(refused("the branch is not a valid Git branch name"));
        }
        Ok(Self {
            url,
            branch: branch.into(),
            login: None,
            allow_private: false,
            authority: None,
            author: Author::default(),
            signing_key: None,
        })
    }

    /// The same access, logging in with this name and password or token.
    pub fn with_login(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Some(Login { username: username.into(), password: password.into().into() });
        self
    }

    /// The same access, allowed to use loopback and private addresses and plain HTTP.
    pub fn with_private_addresses(mut self) -> Self {
        self.allow_private = true;
        self
    }

    /// The same access, signing commits with this OpenSSH private key.
    pub fn with_signing_key(mut self, key: impl Into<String>) -> Self {
        self.signing_key = Some(key.into().into());
        self
    }

    /// How errors and logs name the repository: host and path, nothing else.
    pub fn repository(&self) -> String {
        normalised(self.url.as_str())
    }

    pub(crate) fn authorization(&self) -> Option<reqwest::header::HeaderValue> {
        use base64::Engine;
        let login = self.login.as_ref()?;
        let pair = format!("{}:{}", login.username, login.password.expose_secret());
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        let mut value = reqwest::header::HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// One spelling for a repository, whatever form its URL is written in.
///
/// `https://Host:443/shop/fleet.git/`, `ssh://git@host/shop/fleet` and `git@host:shop/fleet.git` are all
/// `host/shop/fleet`: Flux and a `GitTarget` may use different protocols for the same repository. A port
/// other than the scheme's own is kept, since two forges may share a host; SSH ports are dropped.
pub fn normalised(url: &str) -> String {
    let url = url.trim();
    let (host, path) = match Url::parse(url) {
        Ok(parsed) if parsed.has_host() => {
            let host = parsed.host_str().unwrap_or_default().to_ascii_lowercase();
            let host = match parsed.port() {
                Some(port) if parsed.scheme() != "ssh" => format!("{host}:{port}"),
                _ => host,
            };
            (host, parsed.path().to_owned())
        }
        _ => match url.split_once(':') {
            Some((host, path)) => (host.rsplit('@').next().unwrap_or(host).to_ascii_lowercase(), path.to_owned()),
            None => (String::new(), url.to_owned()),
        },
    };
    let path = path.trim_matches('/').trim_end_matches(".git").trim_end_matches('/');
    format!("{host}/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_repository_has_one_name_in_every_spelling() {
        for url in [
            "https://git.example.com/shop/fleet",
            "https://GIT.example.com:443/shop/fleet.git/",
            "https://someone@git.example.com/shop/fleet.git",
            "ssh://git@git.example.com:2222/shop/fleet.git",
            "git@git.example.com:shop/fleet.git",
        ] {
            assert_eq!(normalised(url), "git.example.com/shop/fleet", "{url}");
        }
        assert_eq!(normalised("http://127.0.0.1:3000/a/b.git"), "127.0.0.1:3000/a/b");
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_never_repeated() {
        let error = GitAccess::new("https://bot:hunter2@git.example.com/a/b", "main").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let access = GitAccess::new("https://git.example.com/a/b", "main")
            .unwrap()
            .with_login("bot", "hunter2")
            .with_signing_key("key");
        let shown = format!("{access:?} {:?}", access.authorization());
        assert!(!shown.contains("hunter2") && !shown.contains("\"key\""), "{shown}");
    }
}

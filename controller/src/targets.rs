//! The repositories that may be proposed to: `GitTarget` objects turned into a bare repository and a forge.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use amend_crds::GitTarget;
use amend_crds::gittarget::{ForgeKind, GitTargetSpec};
use amend_gitops::access::{GitAccess, normalised};
use amend_gitops::error::GitError;
use amend_gitops::forge::{Forge, ForgeError, Gitea};
use amend_gitops::locate::Kustomizations;
use amend_gitops::proposal::Proposals;
use amend_gitops::repo::{CommitId, Repo};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use url::Url;

use crate::clients::Clients;
use crate::credentials::{self, CredentialError};
use crate::written::{self, WrittenProblem};

/// One repository with its forge, ready to be used.
#[derive(Debug)]
pub struct Target {
    /// `namespace/name` of the `GitTarget`.
    pub id: String,
    pub object: GitTarget,
    /// The forge and the bare repository behind it.
    pub proposals: Proposals,
    /// The kustomizations of the base branch, at the commit that they were read at last.
    kustomizations: Mutex<Option<(CommitId, Arc<Kustomizations>)>>,
}

/// Open targets by namespace and name, with the version of spec and credentials that they were opened from.
type Opened = BTreeMap<String, (String, Arc<Target>)>;

/// Everything that opens targets; cheap to clone.
#[derive(Clone, Debug)]
pub struct Targets {
    clients: Clients,
    release_namespace: String,
    scratch: PathBuf,
    /// Networks that may be called although they are private.
    private: Arc<[String]>,
    opened: Arc<Mutex<Opened>>,
}

/// Why a repository cannot be used; says what to change.
#[derive(Debug, thiserror::Error)]
pub enum TargetProblem {
    #[error(
        "no GitTarget serves repository {repository}: create one with this URL, and list namespace {namespace} in allowedNamespaces"
    )]
    NoTarget { repository: String, namespace: String },
    #[error("cannot list GitTargets")]
    Unlisted(#[source] Box<kube::Error>),
    #[error(transparent)]
    Written(#[from] WrittenProblem),
    #[error("{0}")]
    Grants(String),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("Secret {name} needs the keys `username` and `password` (or `token`)")]
    Login { name: String },
    #[error("spec.forge.url is not a URL: {why}")]
    ForgeUrl { why: String },
    #[error("cannot use the repository")]
    Repository(#[from] GitError),
    #[error("cannot use the forge")]
    Forge(#[from] ForgeError),
}

impl Target {
    pub fn repo(&self) -> &Repo {
        self.proposals.repo()
    }

    pub fn forge(&self) -> &Arc<dyn Forge> {
        self.proposals.forge()
    }

    /// The kustomizations of the base branch as it was fetched last; read anew only when the branch has moved.
    pub async fn kustomizations(&self) -> Result<Arc<Kustomizations>, GitError> {
        let head = match self.repo().head().await {
            Some(head) => head,
            None => self.repo().fetch().await?,
        };
        let mut read = self.kustomizations.lock().await;
        if let Some((at, known)) = read.as_ref()
            && *at == head
        {
            return Ok(known.clone());
        }
        let known = Arc::new(Kustomizations::read(self.repo(), &head).await?);
        *read = Some((head, known.clone()));
        Ok(known)
    }
}

impl Targets {
    pub fn new(clients: Clients, release_namespace: &str, scratch: PathBuf, egress_allow: &[String]) -> Self {
        Self {
            clients,
            release_namespace: release_namespace.to_owned(),
            scratch,
            private: egress_allow.into(),
            opened: Arc::default(),
        }
    }

    /// The targets that serve a namespace, as objects.
    pub async fn listed(&self, namespace: &str) -> Result<Vec<GitTarget>, TargetProblem> {
        let list = |namespace: String| {
            let api: Api<GitTarget> = Api::namespaced(self.clients.reader(), &namespace);
            async move { api.list(&ListParams::default()).await.map_err(|error| TargetProblem::Unlisted(Box::new(error))) }
        };
        let mut found = list(namespace.to_owned()).await?.items;
        if namespace != self.release_namespace {
            let shared = list(self.release_namespace.clone()).await?.items;
            found.extend(shared.into_iter().filter(|target| {
                target.spec.allowed_namespaces.iter().any(|allowed| allowed == "*" || allowed == namespace)
            }));
        }
        Ok(found)
    }

    /// The target of a repository for a namespace, whatever form the URL is written in.
    pub async fn for_repository(&self, url: &str, namespace: &str) -> Result<Arc<Target>, TargetProblem> {
        let wanted = normalised(url);
        let found = self.listed(namespace).await?.into_iter().find(|target| normalised(&target.spec.url) == wanted);
        match found {
            Some(object) => self.open(&object).await,
            None => Err(TargetProblem::NoTarget { repository: wanted, namespace: namespace.to_owned() }),
        }
    }

    /// Opens a target, or gives the one that is open already.
    pub async fn open(&self, object: &GitTarget) -> Result<Arc<Target>, TargetProblem> {
        let namespace = object.namespace().unwrap_or_default();
        let id = format!("{namespace}/{}", object.name_any());
        let secret = credentials::read(&self.clients.reader(), &namespace, &object.spec.secret_ref.name).await?;
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let version = format!("{uid}/{}/{}", object.metadata.generation.unwrap_or_default(), secret.version);
        let mut opened = self.opened.lock().await;
        if let Some((known, target)) = opened.get(&id)
            && *known == version
        {
            return Ok(target.clone());
        }
        written::only_known_fields::<_, GitTargetSpec>(self.clients.reader(), object).await?;
        grants_can_match(object)?;
        let login = || TargetProblem::Login { name: object.spec.secret_ref.name.clone() };
        let password = secret.text("token").or_else(|| secret.text("password")).ok_or_else(login)?.trim();
        let username = secret.text("username").unwrap_or("amend").trim();
        let mut access = GitAccess::new(&object.spec.url, &object.spec.branch)?.with_login(username, password);
        if self.may_be_private(&access.url) {
            access = access.with_private_addresses();
        }
        if let Some(key) = secret.text("signingKey") {
            access = access.with_signing_key(key);
        }
        access.authority = secret.text("ca.crt").map(str::to_owned);
        let forge: Arc<dyn Forge> = match object.spec.forge.kind {
            ForgeKind::Gitea => Arc::new(match &object.spec.forge.url {
                Some(url) => Gitea::at(base_url(url)?, &access, None)?,
                None => Gitea::serving(&access, None)?,
            }),
        };
        let folder = self.scratch.join(hex::encode(&Sha256::digest(&version)[..8]));
        let repo = Repo::open(access, &folder).await?;
        let proposals = Proposals::new(forge, repo);
        let target =
            Arc::new(Target { id: id.clone(), object: object.clone(), proposals, kustomizations: Mutex::default() });
        opened.insert(id, (version, target.clone()));
        Ok(target)
    }

    /// Whether the host is one whose private address was listed: by its address, or any private network for a name.
    fn may_be_private(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => self.private.iter().any(|network| contains(network, address)),
            Err(_) => !self.private.is_empty(),
        }
    }
}

fn grants_can_match(object: &GitTarget) -> Result<(), TargetProblem> {
    let problems = object.spec.grants.iter().enumerate().flat_map(|(position, grant)| {
        let problems = grant.problems().into_iter();
        problems.map(move |(place, sentence)| format!("spec.grants[{position}].{place}: {sentence}"))
    });
    let said: Vec<String> = problems.take(5).collect();
    if said.is_empty() { Ok(()) } else { Err(TargetProblem::Grants(said.join("; "))) }
}

fn base_url(text: &str) -> Result<Url, TargetProblem> {
    Url::parse(text).map_err(|error| TargetProblem::ForgeUrl { why: error.to_string() })
}

/// Whether a network like `10.0.0.0/8` (or a single address) contains an address.
fn contains(network: &str, address: IpAddr) -> bool {
    let (base, bits) = match network.split_once('/') {
        Some((base, bits)) => (base, bits.parse::<u32>().ok()),
        None => (network, None),
    };
    match (base.parse::<IpAddr>(), address) {
        (Ok(IpAddr::V4(base)), IpAddr::V4(address)) => {
            let bits = bits.unwrap_or(32).min(32);
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(base) & mask == u32::from(address) & mask
        }
        (Ok(IpAddr::V6(base)), IpAddr::V6(address)) => {
            let bits = bits.unwrap_or(128).min(128);
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(base) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        assert!(contains("127.0.0.0/8", IpAddr::from([127, 0, 0, 1])));
        assert!(!contains("10.0.0.0/8", IpAddr::from([127, 0, 0, 1])));
        assert!(contains("10.1.2.3", IpAddr::from([10, 1, 2, 3])));
        assert!(!contains("10.1.2.3", IpAddr::from([10, 1, 2, 4])));
    }
}

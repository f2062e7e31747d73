//! A real control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.
//!
//! Real RBAC, admission, garbage collection and rollouts. Nothing runs containers: nodes and pods are
//! KWOK's (`super::kwok`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, DynamicObject, PostParams};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use super::apply::{apply, delete};
use super::audit::{AuditEntry, POLICY};
use super::kubeconfig::{Cluster, client_from};
use super::parts::{Binaries, Build};
use super::ports::free_port;
use super::program::Program;
use super::reaper::Run;

/// The fixed users of the bench, each with a token that is its name: they are all administrators, and
/// their names keep them apart in the audit log.
const ADMIN: &str = "bench:admin";
const KWOK: &str = "bench:kwok";
const FLUX: &str = "bench:flux";

/// The components' own users have the roles that Kubernetes ships for them.
const USERS: [(&str, &str); 5] = [
    (ADMIN, "system:masters"),
    (KWOK, "system:masters"),
    (FLUX, "system:masters"),
    ("system:kube-controller-manager", "system:masters"),
    ("system:kube-scheduler", ""),
];

/// How long a service account's token is good for: longer than any test run.
const TOKEN_SECONDS: i64 = 4 * 3600;

/// The running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    cluster: Cluster,
    audit: PathBuf,
    kubeconfigs: AtomicU32,
    kubectl: PathBuf,
    // Dropped in this order: the writers before the store.
    scheduler: Program,
    controller_manager: Program,
    apiserver: Program,
    etcd: Program,
    folder: tempfile::TempDir,
}

impl ControlPlane {
    /// Starts the four programs; the API server answers and the default service account exists.
    ///
    /// # Errors
    /// When one of them does not become ready: with the end of its log.
    pub async fn start(binaries: &Binaries) -> anyhow::Result<Self> {
        let folder = Run::current()?.folder("control-plane")?;
        let dir = folder.path();
        write_service_account_keys(dir)?;
        fs::write(dir.join("audit-policy.yaml"), POLICY)?;
        fs::write(
            dir.join("tokens.csv"),
            USERS.map(|(user, group)| format!("{user},{user},{user},\"{group}\"\n")).concat(),
        )?;

        let (etcd, etcd_url) = etcd(binaries, dir)?;
        etcd.start()?;
        let (apiserver, url) = apiserver(binaries, dir, &etcd_url)?;
        apiserver.start()?;
        let ca = apiserver
            .ready(|| async {
                fs::read_to_string(dir.join("certs/apiserver.crt")).map(|ca| (!ca.is_empty()).then_some(ca))
            })
            .await?;
        let cluster = Cluster { url, ca };
        for (user, _) in USERS {
            cluster.write_kubeconfig(&dir.join(kubeconfig_name(user)), user, user)?;
        }
        let admin = client_from(&dir.join(kubeconfig_name(ADMIN))).await?;
        apiserver.ready(|| async { ready(&admin).await.map(|()| Some(())) }).await?;

        let controller_manager = controller_manager(binaries, dir)?;
        controller_manager.start()?;
        let scheduler = scheduler(binaries, dir)?;
        scheduler.start()?;
        let accounts: Api<ServiceAccount> = Api::namespaced(admin, "default");
        controller_manager.ready(|| accounts.get_opt("default")).await?;

        let kubectl = binaries.path(Build::Kubernetes, "kubectl")?;
        let audit = dir.join("audit.log");
        Ok(Self {
            cluster,
            audit,
            kubeconfigs: AtomicU32::new(0),
            kubectl,
            scheduler,
            controller_manager,
            apiserver,
            etcd,
            folder,
        })
    }

    /// A client with every right, living on the runtime it is called from.
    ///
    /// # Errors
    /// Only when our own kubeconfig is gone.
    pub async fn client(&self) -> anyhow::Result<kube::Client> {
        client_from(&self.kubeconfig()).await
    }

    /// The administrator's kubeconfig file.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.file(ADMIN)
    }

    pub(super) fn kubeconfig_for_kwok(&self) -> PathBuf {
        self.file(KWOK)
    }

    pub(super) fn kubeconfig_for_flux(&self) -> PathBuf {
        self.file(FLUX)
    }

    /// `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.cluster.url
    }

    /// The `kubectl` of the same version, for a person who plays with a live world.
    #[must_use]
    pub fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    /// A kubeconfig file for a service account, whose token comes from the TokenRequest API: what a
    /// process that runs as this account would have.
    ///
    /// # Errors
    /// When the account does not exist.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> anyhow::Result<PathBuf> {
        let token = self.token_for_service_account(namespace, name).await?;
        let number = self.kubeconfigs.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("{namespace}-{name}-{number}.kubeconfig"));
        self.cluster.write_kubeconfig(&path, &format!("system:serviceaccount:{namespace}:{name}"), &token)?;
        Ok(path)
    }

    /// A client with the rights of a service account.
    ///
    /// # Errors
    /// When the account does not exist.
    pub async fn client_for_service_account(&self, namespace: &str, name: &str) -> anyhow::Result<kube::Client> {
        client_from(&self.kubeconfig_for_service_account(namespace, name).await?).await
    }

    /// A token of a service account.
    ///
    /// # Errors
    /// When the account does not exist.
    pub async fn token_for_service_account(&self, namespace: &str, name: &str) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("no token for service account {namespace}/{name}"))?;
        answer.status.and_then(|status| status.token).context("a TokenRequest without a token")
    }

    /// Applies YAML documents by server-side apply as the administrator; those without a namespace go to
    /// `namespace`.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn apply(&self, namespace: &str, yaml: &str) -> anyhow::Result<Vec<DynamicObject>> {
        apply(&self.client().await?, namespace, yaml).await
    }

    /// Deletes the objects of YAML documents.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete(&self, namespace: &str, yaml: &str) -> anyhow::Result<()> {
        delete(&self.client().await?, namespace, yaml).await
    }

    /// Makes a namespace whose default service account exists, so that pods are admitted at once.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create_namespace(&self, name: &str) -> anyhow::Result<()> {
        let client = self.client().await?;
        apply(&client, name, &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}")).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client, name);
        self.controller_manager.ready(|| accounts.get_opt("default")).await?;
        Ok(())
    }

    /// Every audited request so far, oldest first.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn audit(&self) -> anyhow::Result<Vec<AuditEntry>> {
        AuditEntry::read(&self.audit)
    }

    /// The audited requests of one user (`system:serviceaccount:NAMESPACE:NAME` for an account).
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn audit_of(&self, user: &str) -> anyhow::Result<Vec<AuditEntry>> {
        Ok(self.audit()?.into_iter().filter(|entry| entry.user == user).collect())
    }

    /// The programs, for stories that stop or kill one.
    #[must_use]
    pub fn apiserver(&self) -> &Program {
        &self.apiserver
    }

    /// See [`Self::apiserver`].
    #[must_use]
    pub fn etcd(&self) -> &Program {
        &self.etcd
    }

    /// See [`Self::apiserver`].
    #[must_use]
    pub fn controller_manager(&self) -> &Program {
        &self.controller_manager
    }

    /// See [`Self::apiserver`].
    #[must_use]
    pub fn scheduler(&self) -> &Program {
        &self.scheduler
    }

    fn file(&self, user: &str) -> PathBuf {
        self.folder.path().join(kubeconfig_name(user))
    }
}

fn etcd(binaries: &Binaries, dir: &Path) -> anyhow::Result<(Program, String)> {
    let clients = format!("http://127.0.0.1:{}", free_port()?);
    let peers = format!("http://127.0.0.1:{}", free_port()?);
    let program = Program::new("etcd", binaries.path(Build::Kubernetes, "etcd")?, dir)?
        .args(["--name=bench", "--data-dir=etcd", "--unsafe-no-fsync", "--log-level=warn"])
        .args([format!("--listen-client-urls={clients}"), format!("--advertise-client-urls={clients}")])
        .args([
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=bench={peers}"),
        ]);
    Ok((program, clients))
}

fn apiserver(binaries: &Binaries, dir: &Path, etcd: &str) -> anyhow::Result<(Program, String)> {
    let port = free_port()?;
    let program = Program::new("kube-apiserver", binaries.path(Build::Kubernetes, "kube-apiserver")?, dir)?
        .args([format!("--etcd-servers={etcd}"), format!("--secure-port={port}")])
        .args(["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none", "--cert-dir=certs"])
        .args(["--authorization-mode=RBAC,Node", "--token-auth-file=tokens.csv", "--anonymous-auth=false"])
        .args([
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=sa.pub",
            "--service-account-signing-key-file=sa.key",
        ])
        .args([
            "--service-cluster-ip-range=10.96.0.0/16",
            "--audit-policy-file=audit-policy.yaml",
            "--audit-log-path=audit.log",
        ])
        // Several stories share it, and none of them is about its fairness.
        .args(["--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000"]);
    Ok((program, format!("https://127.0.0.1:{port}")))
}

fn controller_manager(binaries: &Binaries, dir: &Path) -> anyhow::Result<Program> {
    let kubeconfig = dir.join(kubeconfig_name("system:kube-controller-manager"));
    let kubeconfig = kubeconfig.display();
    Ok(Program::new("kube-controller-manager", binaries.path(Build::Kubernetes, "kube-controller-manager")?, dir)?
        .args([
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
        ])
        .args([
            "--leader-elect=false",
            "--secure-port=0",
            "--service-account-private-key-file=sa.key",
            "--root-ca-file=certs/apiserver.crt",
        ])
        .args(["--use-service-account-credentials", "--kube-api-qps=200", "--kube-api-burst=400"]))
}

fn scheduler(binaries: &Binaries, dir: &Path) -> anyhow::Result<Program> {
    let kubeconfig = dir.join(kubeconfig_name("system:kube-scheduler"));
    let kubeconfig = kubeconfig.display();
    Ok(Program::new("kube-scheduler", binaries.path(Build::Kubernetes, "kube-scheduler")?, dir)?
        .args([
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
        ])
        .args(["--leader-elect=false", "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400"]))
}

async fn ready(client: &kube::Client) -> Result<(), kube::Error> {
    let request = http::Request::get("/readyz").body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(|_| ())
}

fn kubeconfig_name(user: &str) -> String {
    format!("{}.kubeconfig", user.replace(':', "-"))
}

/// A fresh key pair that service account tokens are signed with.
fn write_service_account_keys(dir: &Path) -> anyhow::Result<()> {
    let random = SystemRandom::new();
    let refused = |_| anyhow::anyhow!("cannot make a signing key");
    let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(refused)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref(), &random)
        .map_err(|_| anyhow::anyhow!("cannot read our own key"))?;
    // RFC 5480: SubjectPublicKeyInfo of a P-256 key is this prefix and the uncompressed point.
    let mut public = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200")?;
    public.extend_from_slice(pair.public_key().as_ref());
    fs::write(dir.join("sa.key"), pem("PRIVATE KEY", private.as_ref()))?;
    fs::write(dir.join("sa.pub"), pem("PUBLIC KEY", &public))?;
    Ok(())
}

fn pem(what: &str, der: &[u8]) -> String {
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", STANDARD.encode(der))
}

//! Flux: source-controller and kustomize-controller, which apply what is in Git.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, DynamicObject};
use kube::discovery::ApiResource;
use serde_json::json;

use super::control_plane::ControlPlane;
use super::kwok::yaml_of;
use super::parts::{Binaries, Build};
use super::ports::free_port;
use super::program::Program;
use super::reaper::Run;
use super::until::until;
use super::web;

/// A push is seen within a second and applied within another; four times that under load is a fault.
const APPLIED_WITHIN: Duration = Duration::from_secs(90);

/// Both controllers, running.
#[derive(Debug)]
pub struct Flux {
    control_plane: Arc<ControlPlane>,
    source: Program,
    kustomize: Program,
    _folder: tempfile::TempDir,
}

/// What Flux should follow: the folder of a branch, applied to a namespace.
#[derive(Debug, Clone)]
pub struct Follow<'a> {
    /// Names the `GitRepository` and the `Kustomization`, both in `namespace`.
    pub name: &'a str,
    pub namespace: &'a str,
    pub url: &'a str,
    pub branch: &'a str,
    /// Below the repository's root (`./apps`).
    pub path: &'a str,
    pub user: &'a str,
    /// Password or token.
    pub password: &'a str,
}

impl Flux {
    /// Applies Flux's kinds and starts both controllers.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn start(binaries: &Binaries, control_plane: Arc<ControlPlane>) -> anyhow::Result<Self> {
        control_plane.apply("default", &yaml_of(&binaries.path(Build::Flux, "crds")?)?).await?;
        control_plane.create_namespace("flux-system").await?;
        let folder = Run::current()?.folder("flux")?;
        let storage = format!("127.0.0.1:{}", free_port()?);
        let (source, source_health) = controller(binaries, &control_plane, "source-controller", folder.path())?;
        let store = folder.path().join("artifacts");
        std::fs::create_dir_all(&store)?;
        let source = source
            .arg(format!("--storage-path={}", store.display()))
            .args([format!("--storage-addr={storage}"), format!("--storage-adv-addr={storage}")]);
        let (kustomize, kustomize_health) =
            controller(binaries, &control_plane, "kustomize-controller", folder.path())?;
        let kustomize = kustomize.args(["--requeue-dependency=1s", "--interval-jitter-percentage=0"]);
        source.start()?;
        kustomize.start()?;
        source.ready(|| web::answers(&source_health)).await?;
        kustomize.ready(|| web::answers(&kustomize_health)).await?;
        Ok(Self { control_plane, source, kustomize, _folder: folder })
    }

    /// Follows a branch, looking every second, and waits until its head is applied. Returns the applied
    /// revision (`main@sha1:...`).
    ///
    /// # Errors
    /// When it is not applied in time: with Flux's own words.
    pub async fn follow(&self, follow: &Follow<'_>) -> anyhow::Result<String> {
        let Follow { name, namespace, url, branch, path, user, password } = follow;
        let objects = [
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{name}-git")}, "stringData": {"username": user, "password": password}}),
            json!({"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": {"name": name},
                   "spec": {"interval": "1s", "timeout": "20s", "url": url, "ref": {"branch": branch}, "secretRef": {"name": format!("{name}-git")}}}),
            json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": {"name": name},
                   "spec": {"interval": "2s", "retryInterval": "1s", "timeout": "1m", "prune": true, "wait": false, "path": path, "targetNamespace": namespace,
                            "sourceRef": {"kind": "GitRepository", "name": name}}}),
        ];
        let yaml = objects.map(|object| object.to_string()).join("\n---\n");
        self.control_plane.apply(namespace, &yaml).await?;
        self.applied(namespace, name, |_| true).await
    }

    /// Waits until a commit is applied (its id is the end of the applied revision).
    ///
    /// # Errors
    /// When it is not applied in time: with Flux's own words.
    pub async fn wait_applied(&self, namespace: &str, name: &str, commit: &str) -> anyhow::Result<()> {
        self.applied(namespace, name, |revision| revision.ends_with(commit)).await.map(|_| ())
    }

    /// Stops or resumes a `Kustomization`: nothing of it is applied meanwhile.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn suspend(&self, namespace: &str, name: &str, suspended: bool) -> anyhow::Result<()> {
        let patch = kube::api::Patch::Merge(json!({"spec": {"suspend": suspended}}));
        self.kustomizations(namespace).await?.patch(name, &kube::api::PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// The programs, for stories that stop one.
    #[must_use]
    pub fn source_controller(&self) -> &Program {
        &self.source
    }

    /// See [`Self::source_controller`].
    #[must_use]
    pub fn kustomize_controller(&self) -> &Program {
        &self.kustomize
    }

    async fn applied(&self, namespace: &str, name: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let api = self.kustomizations(namespace).await?;
        let what = format!("Flux to apply {namespace}/{name}");
        let waited = until(&what, APPLIED_WITHIN, || async {
            let status = api.get(name).await?.data["status"].clone();
            let revision = status["lastAppliedRevision"].as_str().unwrap_or_default().to_owned();
            Ok::<_, kube::Error>((!revision.is_empty() && wanted(&revision)).then_some(revision))
        });
        match waited.await {
            Ok(revision) => Ok(revision),
            Err(error) => {
                Err(error.context(format!("Flux says: {}", api.get(name).await?.data["status"]["conditions"])))
            }
        }
    }

    async fn kustomizations(&self, namespace: &str) -> anyhow::Result<Api<DynamicObject>> {
        let kind = kube::api::GroupVersionKind::gvk("kustomize.toolkit.fluxcd.io", "v1", "Kustomization");
        Ok(Api::namespaced_with(self.control_plane.client().await?, namespace, &ApiResource::from_gvk(&kind)))
    }
}

fn controller(
    binaries: &Binaries,
    control_plane: &ControlPlane,
    name: &str,
    dir: &std::path::Path,
) -> anyhow::Result<(Program, String)> {
    let health = format!("127.0.0.1:{}", free_port()?);
    let program = Program::new(name, binaries.path(Build::Flux, name)?, dir)?
        .env("RUNTIME_NAMESPACE", "flux-system")
        .env("KUBECONFIG", control_plane.kubeconfig_for_flux())
        .env("HOME", dir)
        .args([format!("--health-addr={health}"), format!("--metrics-addr=127.0.0.1:{}", free_port()?)])
        .args(["--events-addr=", "--concurrent=8", "--kube-api-qps=200", "--kube-api-burst=400", "--log-level=info"]);
    Ok((program, format!("http://{health}/readyz")))
}

//! A Deployment's container as a process on this machine.
//!
//! Nothing runs containers here, so what a chart installs is run from its rendered Deployment: with its
//! arguments and environment, its mounted Secrets and ConfigMaps, and **as its service account**. Then the
//! chart's wiring and RBAC are what is tested.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, PodSpec, Secret, Volume};
use kube::api::Api;

use super::control_plane::ControlPlane;
use super::ports::free_port;
use super::program::Program;
use super::reaper::Run;
use super::web;

/// The first container of a Deployment, as a program that can be started and killed.
#[derive(Debug)]
pub struct Deployed {
    program: Program,
    base: Option<String>,
    readiness: Option<String>,
    mounts: Vec<Mount>,
    namespace: String,
    kubeconfig: PathBuf,
    _folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Mount {
    /// Where the container sees it.
    path: String,
    /// Where it is here.
    folder: PathBuf,
    volume: Volume,
}

impl Deployed {
    /// Reads the Deployment and prepares the program; [`Self::start`] starts it.
    ///
    /// `binary` stands in for the image's entry point. `replica` tells several apart: it is the end of
    /// the pod's name. Ports that the container declares become free ports of 127.0.0.1, wherever the
    /// arguments and the environment name them as `0.0.0.0:PORT` or `:PORT`.
    ///
    /// # Errors
    /// When the Deployment, its service account or something it refers to is not there, or it uses a
    /// kind of volume or variable that is not known here.
    pub async fn prepare(
        control_plane: &ControlPlane,
        namespace: &str,
        name: &str,
        replica: u32,
        binary: &Path,
    ) -> anyhow::Result<Self> {
        let client = control_plane.client().await?;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        let deployment = deployments.get(name).await?;
        let pod = deployment.spec.template.spec.with_context(|| format!("Deployment {name} has no pod"))?;
        let container = pod.containers.first().cloned().context("no container")?;
        let folder = Run::current()?.folder(name)?;

        let account = pod.service_account_name.as_deref().unwrap_or("default");
        let kubeconfig = control_plane.kubeconfig_for_service_account(namespace, account).await?;
        let mounts = mounts(&pod, &container, folder.path())?;
        let mut replaced: Vec<(String, String)> = Vec::new();
        let mut base = None;
        for port in container.ports.iter().flatten() {
            let here = format!("127.0.0.1:{}", free_port()?);
            base.get_or_insert_with(|| here.clone());
            replaced.push((format!("0.0.0.0:{}", port.container_port), here.clone()));
            replaced.push((format!("=:{}", port.container_port), format!("={here}")));
        }
        for mount in &mounts {
            replaced.push((mount.path.clone(), mount.folder.display().to_string()));
        }
        let here = |text: &str| replaced.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));

        let log = format!("{namespace}-{name}-{replica}");
        let mut program = Program::new(&log, binary, folder.path())?.env("KUBECONFIG", &kubeconfig);
        for arg in container.args.iter().flatten() {
            program = program.arg(here(arg));
        }
        let facts = Facts { client, namespace, account, pod: format!("{name}-{replica}") };
        for variable in container.env.iter().flatten() {
            if let Some(value) = facts.value(variable).await? {
                program = program.env(&variable.name, here(&value));
            }
        }
        let probe = container.readiness_probe.and_then(|probe| probe.http_get);
        let https = probe.as_ref().is_some_and(|probe| probe.scheme.as_deref() == Some("HTTPS"));
        let scheme = if https { "https" } else { "http" };
        let base = base.map(|address| format!("{scheme}://{address}"));
        let readiness = probe.and_then(|probe| probe.path);
        let namespace = namespace.to_owned();
        let deployed = Self { program, base, readiness, mounts, namespace, kubeconfig, _folder: folder };
        deployed.refresh(control_plane).await?;
        Ok(deployed)
    }

    /// Starts it and waits until its readiness probe answers, where it has one.
    ///
    /// # Errors
    /// When it ends or does not become ready: with the end of its log.
    pub async fn start(&self) -> anyhow::Result<()> {
        self.program.start()?;
        if let (Some(base), Some(path)) = (&self.base, &self.readiness) {
            let url = format!("{base}{path}");
            self.program.ready(|| web::answers(&url)).await?;
        }
        Ok(())
    }

    /// Starts it again when it has ended by itself, as the kubelet does; one that was killed stays down.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_if_ended(&self) -> anyhow::Result<()> {
        if let Some(status) = self.program.ended() {
            tracing::warn!(%status, namespace = self.namespace, "the container ended, starting it again");
            self.program.start()?;
        }
        Ok(())
    }

    /// Writes the mounted Secrets and ConfigMaps again, as the kubelet does when they change.
    ///
    /// # Errors
    /// When one is not there that is not optional.
    pub async fn refresh(&self, control_plane: &ControlPlane) -> anyhow::Result<()> {
        let client = control_plane.client().await?;
        for mount in &self.mounts {
            for (name, bytes) in files(&client, &self.namespace, &mount.volume).await? {
                fs::write(mount.folder.join(name), bytes)?;
            }
        }
        Ok(())
    }

    /// The URL of its first port.
    ///
    /// # Errors
    /// When it declares no port.
    pub fn url(&self) -> anyhow::Result<&str> {
        self.base.as_deref().context("the container declares no port")
    }

    /// Where the container's `path` is on this machine.
    #[must_use]
    pub fn folder(&self, path: &str) -> Option<&Path> {
        self.mounts.iter().find(|mount| mount.path == path).map(|mount| mount.folder.as_path())
    }

    /// The kubeconfig that it runs with.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The program, to kill it (`program().kill()`), then [`Self::start`] again.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }
}

/// What variables may refer to.
struct Facts<'a> {
    client: kube::Client,
    namespace: &'a str,
    account: &'a str,
    pod: String,
}

impl Facts<'_> {
    /// A variable's value; none when its optional source is not there.
    async fn value(&self, variable: &EnvVar) -> anyhow::Result<Option<String>> {
        let name = &variable.name;
        let Some(EnvVarSource { field_ref, secret_key_ref, config_map_key_ref, .. }) = &variable.value_from else {
            return Ok(Some(variable.value.clone().unwrap_or_default()));
        };
        if let Some(field) = field_ref {
            return Ok(Some(match field.field_path.as_str() {
                "metadata.name" => self.pod.clone(),
                "metadata.namespace" => self.namespace.to_owned(),
                "spec.serviceAccountName" => self.account.to_owned(),
                "status.podIP" => "127.0.0.1".to_owned(),
                other => bail!("variable {name} refers to {other}, which is not known here"),
            }));
        }
        if let Some(key) = secret_key_ref {
            let secrets: Api<Secret> = Api::namespaced(self.client.clone(), self.namespace);
            let found = secrets.get_opt(&key.name).await?.and_then(|secret| secret.data);
            let value = found.and_then(|data| data.get(&key.key).cloned());
            return match value {
                Some(bytes) => Ok(Some(String::from_utf8(bytes.0)?)),
                None if key.optional == Some(true) => Ok(None),
                None => bail!("variable {name}: no Secret {} with key {}", key.name, key.key),
            };
        }
        if let Some(key) = config_map_key_ref {
            let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.namespace);
            let found = maps.get_opt(&key.name).await?.and_then(|map| map.data);
            return match found.and_then(|data| data.get(&key.key).cloned()) {
                Some(value) => Ok(Some(value)),
                None if key.optional == Some(true) => Ok(None),
                None => bail!("variable {name}: no ConfigMap {} with key {}", key.name, key.key),
            };
        }
        bail!("variable {name} has a source that is not known here")
    }
}

/// The container's mounts with a folder for each, the longest path first, so that a path inside another
/// is replaced by its own.
fn mounts(pod: &PodSpec, container: &Container, folder: &Path) -> anyhow::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for (number, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name);
        let volume = volume.with_context(|| format!("no volume {}", mount.name))?.clone();
        let folder = folder.join(format!("{number}-{}", mount.name));
        fs::create_dir_all(&folder)?;
        mounts.push(Mount { path: mount.mount_path.clone(), folder, volume });
    }
    mounts.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
    Ok(mounts)
}

/// What is in a volume.
async fn files(client: &kube::Client, namespace: &str, volume: &Volume) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    if volume.empty_dir.is_some() {
        return Ok(BTreeMap::new());
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        return match secrets.get_opt(name).await? {
            Some(secret) => Ok(secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect()),
            None if source.optional == Some(true) => Ok(BTreeMap::new()),
            None => bail!("no Secret {namespace}/{name}: the pod would not start"),
        };
    }
    if let Some(source) = &volume.config_map {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        return match maps.get_opt(&source.name).await? {
            Some(map) => {
                let data = map.data.unwrap_or_default();
                Ok(data.into_iter().map(|(key, text)| (key, text.into_bytes())).collect())
            }
            None if source.optional == Some(true) => Ok(BTreeMap::new()),
            None => bail!("no ConfigMap {namespace}/{}: the pod would not start", source.name),
        };
    }
    bail!("volume {} is of a kind that is not known here", volume.name)
}

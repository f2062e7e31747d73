//! The parts by name, and where their binaries are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};

/// One folder of `tests/env`: what is built together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Build {
    Kubernetes,
    Kwok,
    Gitea,
    ActRunner,
    Flux,
    Prometheus,
    VictoriaMetrics,
    Jaeger,
    Loki,
    Helm,
}

impl Build {
    const fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Kwok => "kwok",
            Self::Gitea => "gitea",
            Self::ActRunner => "act-runner",
            Self::Flux => "flux",
            Self::Prometheus => "prometheus",
            Self::VictoriaMetrics => "victoriametrics",
            Self::Jaeger => "jaeger",
            Self::Loki => "loki",
            Self::Helm => "helm",
        }
    }
}

/// Folders with binaries and the data that they need.
#[derive(Debug, Clone, Default)]
pub struct Binaries {
    folders: BTreeMap<Build, PathBuf>,
}

impl Binaries {
    /// Builds what is not in the cache yet (`tests/env/build` says how), with progress on standard error.
    ///
    /// # Errors
    /// When a tool is missing or a part does not build; the script has said which on standard error.
    pub async fn of(builds: &[Build]) -> anyhow::Result<Self> {
        let output = tokio::process::Command::new(env_folder().join("build"))
            .args(builds.iter().map(|build| build.name()))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run tests/env/build")?;
        if !output.status.success() {
            bail!(
                "tests/env/build {}: {}",
                builds.iter().map(|build| build.name()).collect::<Vec<_>>().join(" "),
                output.status
            );
        }
        let text = String::from_utf8(output.stdout)?;
        let mut folders = BTreeMap::new();
        for (name, folder) in text.lines().filter_map(|line| line.split_once('\t')) {
            if let Some(build) = builds.iter().find(|build| build.name() == name) {
                folders.insert(*build, PathBuf::from(folder));
            }
        }
        Ok(Self { folders })
    }

    /// A file or folder of a part that was asked for.
    ///
    /// # Errors
    /// When the part was not asked for or the file is not there.
    pub fn path(&self, build: Build, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.folders.get(&build).with_context(|| format!("part {} was not asked for", build.name()))?;
        let path = folder.join(name);
        if !path.exists() {
            bail!("{} is not there: remove {} and build again", path.display(), folder.display());
        }
        Ok(path)
    }
}

/// Whether these parts are there without building anything.
///
/// # Errors
/// When the script cannot be run.
pub async fn is_built(builds: &[Build]) -> anyhow::Result<bool> {
    let status = tokio::process::Command::new(env_folder().join("build"))
        .arg("--built")
        .args(builds.iter().map(|build| build.name()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .context("cannot run tests/env/build")?;
    Ok(status.success())
}

/// `tests/env` of the source tree.
#[must_use]
pub fn env_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("env")
}

//! Helm: renders the chart and installs it into the real API server.

use std::path::{Path, PathBuf};

use super::parts::{Binaries, Build};
use super::program::Program;
use super::reaper::Run;

/// The `helm` command with folders of its own.
#[derive(Debug)]
pub struct Helm {
    binary: PathBuf,
    folder: tempfile::TempDir,
}

impl Helm {
    /// Finds it.
    ///
    /// # Errors
    /// When it was not built.
    pub fn new(binaries: &Binaries) -> anyhow::Result<Self> {
        Ok(Self { binary: binaries.path(Build::Helm, "helm")?, folder: Run::current()?.folder("helm")? })
    }

    /// The command itself, for people.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The manifests that a chart renders to, for the Kubernetes version of the bench. `values` are
    /// `--set-json` texts (`controller.replicas=2`).
    ///
    /// # Errors
    /// When the chart or the values are refused: with Helm's words.
    pub async fn template(
        &self,
        chart: &Path,
        release: &str,
        namespace: &str,
        values: &[&str],
    ) -> anyhow::Result<String> {
        let command = self.command()?.args([
            "template",
            release,
            "--namespace",
            namespace,
            "--include-crds",
            "--kube-version",
            "1.36.3",
        ]);
        set(command, values).arg(chart).output().await
    }

    /// Installs or upgrades a release and makes its namespace. Does not wait for pods: none runs.
    ///
    /// # Errors
    /// When Helm or the API server refuses: with Helm's words.
    pub async fn install(
        &self,
        kubeconfig: &Path,
        chart: &Path,
        release: &str,
        namespace: &str,
        values: &[&str],
    ) -> anyhow::Result<String> {
        let command = self
            .command()?
            .args(["upgrade", "--install", release, "--namespace", namespace, "--create-namespace", "--kubeconfig"])
            .arg(kubeconfig);
        set(command, values).arg(chart).output().await
    }

    /// Uninstalls a release.
    ///
    /// # Errors
    /// When there is none.
    pub async fn uninstall(&self, kubeconfig: &Path, release: &str, namespace: &str) -> anyhow::Result<String> {
        self.command()?
            .args(["uninstall", release, "--namespace", namespace, "--kubeconfig"])
            .arg(kubeconfig)
            .output()
            .await
    }

    /// Checks a chart as `helm lint --strict` does.
    ///
    /// # Errors
    /// With Helm's findings.
    pub async fn lint(&self, chart: &Path, values: &[&str]) -> anyhow::Result<String> {
        set(self.command()?.args(["lint", "--strict"]), values).arg(chart).output().await
    }

    fn command(&self) -> anyhow::Result<Program> {
        let home = self.folder.path();
        Ok(Program::new("helm", &self.binary, home)?
            .env("HOME", home)
            .env("HELM_CACHE_HOME", home)
            .env("HELM_CONFIG_HOME", home)
            .env("HELM_DATA_HOME", home))
    }
}

fn set(mut command: Program, values: &[&str]) -> Program {
    for value in values {
        command = command.arg("--set-json").arg(value);
    }
    command
}

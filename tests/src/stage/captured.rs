//! What a story saw, kept as cases: a story that fails is a bug report that `amend diagnose --case` reads.
//!
//! Always written when a story fails; `AMEND_CASES=DIR` keeps those of the stories that pass, too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use kube::ResourceExt;

use super::set::Stage;
use super::watching::Seen;
use super::world::RELEASE_NAMESPACE;
use crate::bench::{Run, amend_binary};

/// From the command until the case is written: every store is asked.
const WRITTEN: Duration = Duration::from_secs(60);

impl Stage {
    /// Writes a case of every incident of `seen` that stands for itself; returns the folders, or why there are none.
    pub(super) async fn captured(&self, seen: &Seen) -> Vec<String> {
        let mut told = Vec::new();
        for incident in seen.standing() {
            let folder = Run::current().map(|run| run.logs().join(format!("case-{}", incident.name_any())));
            let written = match folder {
                Ok(folder) => self.capture(&incident.name_any(), &folder).await.map(|()| folder),
                Err(error) => Err(error),
            };
            told.push(match written {
                Ok(folder) => format!("amend diagnose --case {}", folder.display()),
                Err(error) => format!("no case of {}: {error:#}", incident.name_any()),
            });
        }
        told
    }

    /// Keeps what is seen now below `AMEND_CASES`, when that is set: one folder for each incident.
    ///
    /// # Errors
    /// When a case cannot be written.
    pub async fn keep_cases(&self) -> anyhow::Result<()> {
        let Some(root) = std::env::var_os("AMEND_CASES").map(PathBuf::from) else { return Ok(()) };
        std::fs::create_dir_all(&root)?;
        for (index, incident) in self.seen().await?.standing().into_iter().enumerate() {
            let folder = root.join(format!("{}-{index}", self.namespace()));
            self.capture(&incident.name_any(), &folder).await?;
        }
        Ok(())
    }

    /// As a person would: with the command of the product.
    async fn capture(&self, incident: &str, folder: &Path) -> anyhow::Result<()> {
        let asking = tokio::process::Command::new(amend_binary().await?)
            .args(["capture", incident, "-n", self.namespace(), "--install-namespace", RELEASE_NAMESPACE, "--to"])
            .arg(folder)
            .env("KUBECONFIG", self.world().control_plane().kubeconfig())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(WRITTEN, asking).await.context("`amend capture` took too long")??;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

//! The `amend` binary under test.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::sync::OnceCell;

use super::reaper::target_folder;

/// Built as what runs here is: figures that are taken in a release build are those of a release build. Folder and flags.
const PROFILE: (&str, &[&str]) = if cfg!(debug_assertions) { ("debug", &[]) } else { ("release", &["--release"]) };

/// The `amend` binary, built from this tree at first use; `AMEND_BIN` may point at a ready one.
///
/// # Errors
/// When it does not build: the compiler has said why on standard error.
pub async fn amend_binary() -> anyhow::Result<PathBuf> {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    BINARY.get_or_try_init(build).await.cloned()
}

async fn build() -> anyhow::Result<PathBuf> {
    if let Some(ready) = std::env::var_os("AMEND_BIN") {
        return Ok(PathBuf::from(ready));
    }
    let target = target_folder().context("the tests do not run from a target folder")?;
    let status = tokio::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        // The whole workspace, so that its dependencies have the features that they have in what runs here and are there already.
        .args(["build", "--quiet", "--workspace", "--bin", "amend"])
        .args(PROFILE.1)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", &target)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("amend does not build");
    }
    Ok(target.join(PROFILE.0).join("amend"))
}

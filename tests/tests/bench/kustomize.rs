//! What Amend renders, against the real Kustomize (`kubectl kustomize`): the cases of `controller/gitops/tests/kustomize`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use amend_gitops::RepoPath;
use amend_gitops::render::{Folder, objects};
use amend_tests::bench::{Binaries, Build, env_folder};
use anyhow::{Context, anyhow};
use serde_json::Value;
use tokio::process::Command;

fn cases() -> PathBuf {
    env_folder().join("../../controller/gitops/tests/kustomize")
}

/// The text of every file below a folder, by its path from `root` on.
fn files(root: &Path, folder: &Path) -> anyhow::Result<BTreeMap<RepoPath, String>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(root, &path)?);
            continue;
        }
        let inside = path.strip_prefix(root)?.to_str().context("a name that is no text")?;
        found.insert(RepoPath::parse(inside)?, std::fs::read_to_string(&path)?);
    }
    Ok(found)
}

/// In one order: Kustomize sorts by kind, Amend keeps the order of the files.
fn sorted(mut objects: Vec<Value>) -> Vec<Value> {
    objects.sort_by_key(|object| format!("{} {}", object["kind"], object["metadata"]["name"]));
    objects
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_renders_to_what_the_real_kustomize_makes_of_it() -> anyhow::Result<()> {
    let kubectl = Binaries::of(&[Build::Kubernetes]).await?.path(Build::Kubernetes, "kubectl")?;
    let root = cases();
    let mut count = 0;
    for case in std::fs::read_dir(&root)? {
        let case = case?.path();
        let overlay = case.join("overlay");
        let said = Command::new(&kubectl).arg("kustomize").arg(&overlay).output().await?;
        anyhow::ensure!(said.status.success(), "{}: {}", case.display(), String::from_utf8_lossy(&said.stderr));
        let real: Vec<Value> = serde_saphyr::from_multiple(std::str::from_utf8(&said.stdout)?)?;
        let inside = overlay.strip_prefix(&root)?.to_str().context("a name that is no text")?;
        let folder = Folder { path: RepoPath::parse(inside)?, target_namespace: None, substitutes: false };
        let ours = objects(&files(&root, &case)?, &folder).map_err(|unlocated| anyhow!(unlocated.sentence))?;
        pretty(&sorted(ours), &sorted(real), inside);
        count += 1;
    }
    anyhow::ensure!(count >= 3, "only {count} cases");
    Ok(())
}

/// Fails with the first line that differs.
fn pretty(ours: &[Value], real: &[Value], case: &str) {
    let text = |objects: &[Value]| serde_json::to_string_pretty(objects).unwrap_or_default();
    let (ours, real) = (text(ours), text(real));
    let differs = ours.lines().zip(real.lines()).position(|(ours, real)| ours != real);
    let around = |text: &str| {
        text.lines().skip(differs.unwrap_or_default().saturating_sub(4)).take(9).collect::<Vec<_>>().join("\n")
    };
    assert!(ours == real, "{case}: Amend renders\n{}\nand Kustomize\n{}", around(&ours), around(&real));
}

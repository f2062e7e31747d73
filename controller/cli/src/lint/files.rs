//! Which files of a folder may hold objects.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// How deep folders are searched: repositories of manifests are a tenth as deep.
const DEPTH_MAX: usize = 64;

/// The YAML and JSON files below a folder, in the order of their names.
///
/// Hidden folders (`.git`) and symbolic links are passed over: neither is part of what people write there.
pub(super) fn below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    search(folder, DEPTH_MAX, &mut found)?;
    found.sort();
    Ok(found)
}

fn search(folder: &Path, deeper: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let cannot = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let (path, kind) = (entry.path(), entry.file_type().with_context(cannot)?);
        if kind.is_dir() && deeper > 0 && !entry.file_name().as_encoded_bytes().starts_with(b".") {
            search(&path, deeper - 1, found)?;
        } else if kind.is_file() && holds_objects(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn holds_objects(path: &Path) -> bool {
    matches!(path.extension().and_then(OsStr::to_str), Some("yaml" | "yml" | "json"))
}

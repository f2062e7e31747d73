//! Writes the CRDs: `crdgen DIR...` puts one file per kind into every folder given.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if folders.is_empty() {
        return Err("usage: crdgen DIR...".into());
    }
    for folder in folders {
        std::fs::create_dir_all(&folder)?;
        for (name, text) in amend_crds::schema::files()? {
            std::fs::write(folder.join(name), text)?;
        }
    }
    Ok(())
}

//! The layers of ARCHITECTURE.md, checked from `cargo metadata`: data flows in the order the crates depend.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Rows from the bottom up. A row uses rows below it, never above, never a neighbour.
const ROWS: [&[&str]; 8] = [
    &["amend-diagnosis"],
    &["amend-policies"],
    &["amend-execution"],
    &["amend-crds"],
    &["amend-telemetry", "amend-gitops"],
    &["amend-controller", "amend-sandbox"],
    &["amend-cli"],
    &["amend-tests"],
];

/// Crates that talk to the outside; none may be anywhere below a pure room.
const INPUT_AND_OUTPUT: [&str; 12] = [
    "tokio",
    "kube",
    "kube-client",
    "kube-runtime",
    "reqwest",
    "hyper",
    "git2",
    "axum",
    "tonic",
    "rustls",
    "mio",
    "socket2",
];

const PURE: [&str; 3] = ["amend-diagnosis", "amend-policies", "amend-execution"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn row_of(name: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&name))
}

/// Normal dependencies of every package, by name.
fn dependencies(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| (package["id"].as_str().expect("id"), package["name"].as_str().expect("name")))
        .collect();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().expect("nodes") {
        let from = names[node["id"].as_str().expect("id")];
        for dependency in node["deps"].as_array().expect("deps") {
            let normal = dependency["dep_kinds"].as_array().expect("kinds").iter().any(|kind| kind["kind"].is_null());
            if normal {
                edges
                    .entry(from.to_owned())
                    .or_default()
                    .insert(names[dependency["pkg"].as_str().expect("pkg")].to_owned());
            }
        }
    }
    edges
}

#[test]
fn every_crate_is_in_a_row_and_uses_only_rows_below_it() {
    let metadata = metadata();
    let edges = dependencies(&metadata);
    for package in metadata["workspace_members"].as_array().expect("members") {
        let id = package.as_str().expect("id");
        let name =
            metadata["packages"].as_array().expect("packages").iter().find(|p| p["id"] == id).expect("member")["name"]
                .as_str()
                .expect("name");
        let row = row_of(name)
            .unwrap_or_else(|| panic!("{name} is in no row: say where it belongs in ARCHITECTURE.md and here"));
        for used in edges.get(name).into_iter().flatten() {
            if let Some(below) = row_of(used) {
                assert!(below < row, "{name} uses {used}: a row uses rows below it, never above, never a neighbour");
            }
        }
    }
}

#[test]
fn a_pure_room_reaches_no_crate_that_talks_to_the_outside() {
    let edges = dependencies(&metadata());
    for room in PURE {
        let mut reached = BTreeSet::new();
        let mut open = vec![room.to_owned()];
        while let Some(name) = open.pop() {
            for used in edges.get(&name).into_iter().flatten() {
                if reached.insert(used.clone()) {
                    open.push(used.clone());
                }
            }
        }
        for outside in INPUT_AND_OUTPUT {
            assert!(!reached.contains(outside), "{room} reaches {outside}: pure rooms have no input and no output");
        }
    }
}

#[test]
fn a_pure_room_reads_no_clock_no_file_and_no_randomness() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let banned = [
        "Timestamp::now",
        "Instant::now",
        "SystemTime",
        "std::fs",
        "std::net",
        "std::process",
        "HashMap",
        "HashSet",
        "rand::",
    ];
    // They look things up among very many and never let the order out: clippy's iter_over_hash_type watches their loops.
    let look_ups = ["extract/traces.rs", "logs/merge.rs", "logs/template.rs", "build/features.rs"];
    for room in ["controller/diagnosis/src", "policies/src", "controller/execution/src"] {
        for file in rust_files(&root.join(room)) {
            let hashes = look_ups.iter().any(|name| file.ends_with(name));
            let text = std::fs::read_to_string(&file).expect("source is readable");
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            for line in product.lines().filter(|line| !line.trim_start().starts_with("//")) {
                for word in banned.into_iter().filter(|word| !(hashes && word.starts_with("Hash"))) {
                    assert!(!line.contains(word), "{}: `{word}` has no place in a pure room: {line}", file.display());
                }
            }
        }
    }
}

#[test]
fn only_effects_and_gitops_change_the_world() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let writes = [
        ".create(&",
        ".replace(",
        ".replace_status(",
        ".patch(",
        ".patch_status(",
        ".delete(",
        "push_new(",
        "push_on(",
    ];
    let allowed = ["effects.rs", "leader.rs"];
    for file in rust_files(&root.join("controller/src")) {
        if allowed.iter().any(|name| file.ends_with(name))
            || file.components().any(|part| part.as_os_str() == "effects")
        {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("source is readable");
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        // Questions that the API takes as a POST: who may, and who is this. Nothing is kept, and nothing else is excused.
        let reviews = product.contains("AccessReview") || product.contains("TokenReview");
        let only_asks = reviews && product.matches(".create(&").count() == 1;
        // The rollback gate asks the API server what it would say; nothing is kept.
        if file.ends_with("facts/dry_run.rs") {
            let writes = product.matches(".patch(").count() + product.matches(".create(").count();
            assert_eq!((writes, product.matches("dry_run: true").count()), (2, 2));
            continue;
        }
        for line in
            product.lines().filter(|line| line.contains("Api") || line.contains("api.") || line.contains("repo."))
        {
            for write in writes.into_iter().filter(|write| !(only_asks && *write == ".create(&")) {
                assert!(!line.contains(write), "{}: effects leave through effects.rs: {line}", file.display());
            }
        }
    }
}

/// What a model says is kept beside the diagnosis and shown. Whoever matches, plans, gates or acts does not know of it.
#[test]
fn no_room_that_decides_or_acts_knows_what_a_model_said() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    // Asking and keeping, the one line that people see, and the settings.
    let may = ["phrase.rs", "incident.rs", "views.rs", "runtime.rs", "shell.rs", "settings.rs"];
    let told = ["opinion", "Opinion", "shell.model"];
    for room in ["policies/src", "controller/execution/src", "controller/gitops/src", "controller/src"] {
        for file in rust_files(&root.join(room)) {
            let named = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if room == "controller/src" && may.contains(&named) {
                continue;
            }
            let text = std::fs::read_to_string(&file).expect("source is readable");
            for word in told {
                assert!(!text.contains(word), "{} knows what a model said ({word})", file.display());
            }
        }
    }
    // Where an incident is answered, the word stands only where the effect is named and handed on.
    let incident =
        std::fs::read_to_string(root.join("controller/src/controllers/incident.rs")).expect("source is readable");
    assert!(!incident.contains("pinion"), "the controller of incidents hands a diagnosis on and reads nothing back");
}

fn rust_files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("folder is readable") {
        let path = entry.expect("entry is readable").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn clock_and_randomness_are_banned_by_clippy_in_every_pure_room() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let rooms = ["controller/diagnosis", "policies", "controller/execution"];
    for room in rooms {
        let settings = read(&format!("{room}/clippy.toml"));
        for banned in
            ["std::time::Instant::now", "std::time::SystemTime::now", "jiff::Timestamp::now", "RandomState::new"]
        {
            assert!(settings.contains(banned), "{room}/clippy.toml does not ban {banned}");
        }
        // Clippy reads the nearest file only: they say the same, or a room would be laxer than it looks.
        assert_eq!(settings, read(&format!("{}/clippy.toml", rooms[0])), "{room}/clippy.toml");
        assert!(
            read(&format!("{room}/Cargo.toml")).contains("[lints]\nworkspace = true"),
            "{room} has lints of its own"
        );
    }
    assert!(read("Cargo.toml").contains("disallowed_methods = \"warn\""), "the workspace does not ask for the lint");
}

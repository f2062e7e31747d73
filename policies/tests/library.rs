//! Every ready policy is accepted without a single finding, and says the same name inside and outside.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

use amend_policies::library::LIBRARY;
use amend_policies::lint;
use amend_policies::policy::Autonomy;
use serde_json::Value;

#[test]
fn every_ready_policy_compiles_without_a_finding() {
    for entry in LIBRARY {
        let object: Value = serde_saphyr::from_str(entry.yaml).unwrap();
        assert_eq!(object["metadata"]["name"], entry.name);
        assert_eq!(object["apiVersion"], "amend.dev/v1alpha1");
        let (compiled, findings) = lint::read(&object["spec"]);
        assert_eq!(findings, [], "{}", entry.name);
        let cautious = compiled.unwrap().autonomy <= Autonomy::Propose;
        assert_eq!(cautious, entry.name != "raise-memory-by-itself", "{}", entry.name);
    }
}

#[test]
fn no_file_of_the_library_is_left_out() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("library");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let listed: Vec<_> = LIBRARY.iter().map(|entry| format!("{}.yaml", entry.name)).collect();
    assert_eq!(files, listed);
}

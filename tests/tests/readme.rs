//! What the README shows is what is there: its files, its commands, its links.

#![allow(clippy::panic, reason = "a helper of a test fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use amend_crds::schema::definitions;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every document of the three files, with the name of its file.
fn first_pull_request() -> Vec<(&'static str, Value)> {
    let mut documents = Vec::new();
    for file in ["telemetry-source.yaml", "git-target.yaml", "policy.yaml"] {
        let text = text(&format!("docs/first-pull-request/{file}"));
        let found: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        documents.extend(found.into_iter().map(|document| (file, document)));
    }
    documents
}

/// Fields of `value` that a structural schema does not name: the API server would prune them without a word.
fn unnamed(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, inner)| {
                let below = format!("{path}.{name}");
                match (&schema["properties"][name], &schema["additionalProperties"]) {
                    (Value::Null, Value::Null) => vec![below],
                    (Value::Null, any) => unnamed(any, inner, &below),
                    (named, _) => unnamed(named, inner, &below),
                }
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(|item| unnamed(&schema["items"], item, path)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn schema_of(definition: &CustomResourceDefinition) -> Value {
    let schema = definition.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    serde_json::to_value(schema.expect("every kind has a schema")).expect("a schema is JSON")
}

#[test]
fn the_three_files_stand_in_the_readme_word_for_word() {
    let readme = text("README.md");
    for file in ["telemetry-source.yaml", "git-target.yaml", "policy.yaml"] {
        let shown = format!("```yaml\n{}```", text(&format!("docs/first-pull-request/{file}")));
        assert!(readme.contains(&shown), "README.md does not show docs/first-pull-request/{file} as it is");
    }
}

#[test]
fn the_three_files_hold_one_policy_one_git_target_and_one_source_and_their_secrets() {
    let mut kinds: Vec<String> =
        first_pull_request().iter().map(|(_, document)| document["kind"].as_str().unwrap_or("?").to_owned()).collect();
    kinds.sort();
    assert_eq!(kinds, ["GitTarget", "RemediationPolicy", "Secret", "Secret", "TelemetrySource"]);
}

#[test]
fn the_three_files_are_what_the_crds_ask_for() {
    let definitions = definitions().expect("the CRDs can be made");
    for (file, document) in first_pull_request() {
        let Some(definition) = definitions
            .iter()
            .find(|definition| definition.spec.names.kind == document["kind"].as_str().unwrap_or("?"))
        else {
            assert_eq!(document["kind"], "Secret", "{file}: of no kind of ours");
            continue;
        };
        let mut schema = schema_of(definition);
        for name in ["apiVersion", "kind"] {
            schema["properties"][name] = json!({ "type": "string" });
        }
        schema["properties"]["metadata"] = json!({ "type": "object", "additionalProperties": { "type": "string" } });
        let validator = jsonschema::validator_for(&schema).expect("the schema is one");
        let errors: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{file}: {errors:?}");
        assert_eq!(unnamed(&schema, &document, ""), Vec::<String>::new(), "{file}: fields that no schema names");
    }
}

#[test]
fn the_policy_of_the_readme_is_accepted() {
    let (_, policy) = first_pull_request()
        .into_iter()
        .find(|(_, document)| document["kind"] == "RemediationPolicy")
        .expect("there is one");
    let (compiled, findings) = amend_policies::lint::read(&policy["spec"]);
    assert!(compiled.is_some(), "{findings:?}");
    assert!(findings.is_empty(), "a first policy is free of warnings too: {findings:?}");
}

#[test]
fn the_three_files_refer_to_each_other() {
    let documents = first_pull_request();
    let of = |kind: &str| -> Vec<&Value> {
        documents.iter().map(|(_, document)| document).filter(|document| document["kind"] == kind).collect()
    };
    let secrets: BTreeSet<&str> =
        of("Secret").iter().filter_map(|secret| secret["metadata"]["name"].as_str()).collect();
    let (source, target, policy) = (of("TelemetrySource")[0], of("GitTarget")[0], of("RemediationPolicy")[0]);
    for user in [source, target] {
        let named = user["spec"]["secretRef"]["name"].as_str().expect("a Secret is named");
        assert!(secrets.contains(named), "{named}");
    }
    let namespace = &policy["metadata"]["namespace"];
    for user in [source, target] {
        assert_eq!(user["spec"]["allowedNamespaces"], json!([namespace]));
    }
    assert_eq!(&target["spec"]["grants"][0]["namespace"], namespace);
}

#[test]
fn what_the_readme_links_to_is_there() {
    let readme = text("README.md");
    let missing: Vec<&str> = readme
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.starts_with("http") && !link.starts_with('#'))
        .filter(|link| !root().join(link.split('#').next().unwrap_or(link)).exists())
        .collect();
    assert!(missing.is_empty(), "README.md links to files that are not there: {missing:?}");
}

#[test]
fn every_verb_and_flag_that_the_readme_types_exists() {
    let reference = text("docs/cli.md");
    let mut typed = 0;
    for line in text("README.md").lines() {
        let Some((_, command)) = line.split_once("amend ").filter(|(before, _)| {
            let before = before.trim_start_matches(['|', ' ', '`']);
            before.is_empty() || before == "kubectl "
        }) else {
            continue;
        };
        let command = command.split(['`', '#']).next().unwrap_or(command).replace("\\|", "|");
        let mut words = command.split_whitespace();
        for verb in words.next().unwrap_or_default().split('|') {
            typed += 1;
            assert!(reference.contains(&format!("## `amend {verb}")), "no verb `{verb}`: {line}");
        }
        for flag in words.filter(|word| word.starts_with("--")) {
            let name = flag.split('=').next().unwrap_or(flag);
            assert!(
                reference.contains(&format!("{name} ")) || reference.contains(&format!("{name}`")),
                "no flag {name}: {line}"
            );
        }
    }
    assert!(typed >= 8, "the README types {typed} commands only: is this test still reading them?");
}

#[test]
fn every_make_target_that_the_readme_types_exists() {
    let makefile = text("Makefile");
    for line in text("README.md").lines().map(str::trim) {
        if let Some(target) = line.strip_prefix("make ").and_then(|rest| rest.split_whitespace().next()) {
            assert!(makefile.contains(&format!("\n{target}:")), "no target {target}");
        }
    }
}

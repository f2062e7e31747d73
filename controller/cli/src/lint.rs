//! `amend lint FILE...`: what is wrong with policies, before they reach a cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use amend_policies::lint::{Finding, Severity, read};
use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use crate::connection::{Flags, plain, print};

/// Checks RemediationPolicy files; exits non-zero when one would not be accepted.
#[derive(Debug, Args)]
pub struct Arguments {
    /// YAML files; other kinds in them are passed over
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub fn run(arguments: &Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let mut all = Vec::new();
    let (mut refused, mut policies) = (false, 0);
    for file in &arguments.files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        match documents(&text) {
            Ok(documents) => {
                for document in documents.iter().filter(|one| one["kind"] == "RemediationPolicy") {
                    policies += 1;
                    all.extend(read(&document["spec"]).1.into_iter().map(|finding| (file.as_path(), finding)));
                }
            }
            Err(why) => {
                let sentence = format!("this is no YAML: {why}");
                all.push((file.as_path(), Finding { severity: Severity::Error, path: String::new(), sentence }));
            }
        }
    }
    for (_, finding) in &all {
        refused |= finding.severity == Severity::Error;
    }
    match flags.output() {
        Some(output) => print(&all.iter().map(|(file, finding)| shown(file, finding)).collect::<Vec<_>>(), output)?,
        None => {
            for (file, finding) in &all {
                let path = if finding.path.is_empty() { "." } else { &finding.path };
                let word = if finding.severity == Severity::Error { "error" } else { "warning" };
                println!("{}:{}: {word}: {}", file.display(), plain(path), plain(&finding.sentence));
            }
            if policies == 0 && !refused {
                eprintln!("no RemediationPolicy in {} file(s)", arguments.files.len());
            }
        }
    }
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn shown(file: &Path, finding: &Finding) -> Value {
    json!({ "file": file.display().to_string(), "severity": format!("{:?}", finding.severity), "path": finding.path, "sentence": finding.sentence })
}

/// The documents of a file; empty ones are passed over.
fn documents(text: &str) -> Result<Vec<Value>, serde_saphyr::Error> {
    serde_saphyr::from_multiple::<Value>(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ready_policy_is_found_and_accepted() {
        for entry in amend_policies::library::LIBRARY {
            let documents = documents(entry.yaml).unwrap();
            let policy = documents.iter().find(|one| one["kind"] == "RemediationPolicy").unwrap();
            let findings = read(&policy["spec"]).1;
            assert!(
                findings.iter().all(|finding| finding.severity == Severity::Warning),
                "{}: {findings:?}",
                entry.name
            );
        }
    }
}

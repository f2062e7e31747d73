//! `amend lint PATH...`: what is wrong with policies, sources and targets, before they reach a cluster.

mod fields;
mod files;
mod meaning;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use amend_crds::{GROUP, VERSION};
use amend_policies::lint::{Finding, Severity, read};
use amend_policies::manifest::line_of;
use amend_policies::policy::{PolicyProblem, UnknownField, nearest, problems_against, quoted};
use anyhow::Context;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::connection::{Flags, plain, print};
use meaning::meaning;

/// Checks files with objects of Amend; exits non-zero when one would not be accepted.
#[derive(Debug, Args)]
pub struct Arguments {
    /// YAML and JSON files, and folders of them, searched to the bottom; kinds that are not Amend's are passed over
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Exit non-zero for warnings too
    #[arg(long)]
    strict: bool,
}

/// A finding and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Placed {
    file: String,
    /// Counted from 1.
    line: usize,
    /// `namespace/name` of the object, as far as it has them.
    object: String,
    #[serde(flatten)]
    finding: Finding,
}

pub fn run(arguments: &Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let (mut found, mut looked_at) = (Vec::new(), 0);
    for path in &arguments.paths {
        if path.is_dir() {
            for file in files::below(path)? {
                let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                looked_at += lint_found(&file.display().to_string(), &String::from_utf8_lossy(&bytes), &mut found)?;
            }
        } else {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            looked_at += lint(&path.display().to_string(), &text, &mut found)?;
        }
    }
    match flags.output() {
        Some(output) => print(&found, output)?,
        None => {
            for Placed { file, line, finding, .. } in &found {
                let word = if finding.severity == Severity::Error { "error" } else { "warning" };
                let path = if finding.path.is_empty() { String::new() } else { format!("{}: ", plain(&finding.path)) };
                println!("{file}:{line}: {word}: {path}{}", plain(&finding.sentence));
            }
            eprintln!("objects of Amend looked at: {looked_at}; findings: {}", found.len());
        }
    }
    let refused = found.iter().any(|one| arguments.strict || one.finding.severity == Severity::Error);
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Adds what is wrong with a file, and says how many objects of ours it holds.
fn lint(file: &str, text: &str, found: &mut Vec<Placed>) -> anyhow::Result<usize> {
    match documents(text) {
        Ok(documents) => check(file, text, &documents, found),
        Err((line, why)) => {
            let finding = error("", format!("this is no YAML: {why}"));
            found.push(Placed { file: file.into(), line, object: String::new(), finding });
            Ok(0)
        }
    }
}

/// The same for a file that nobody named: folders hold much that is not ours, and templates.
fn lint_found(file: &str, text: &str, found: &mut Vec<Placed>) -> anyhow::Result<usize> {
    if !text.contains(GROUP) {
        return Ok(0);
    }
    if text.contains("{{") && documents(text).is_err() {
        let finding = warning("", "this is a template: check what it renders to".to_owned());
        found.push(Placed { file: file.into(), line: 1, object: String::new(), finding });
        return Ok(0);
    }
    lint(file, text, found)
}

/// What a file holds, or the line where it stops being YAML and why.
fn documents(text: &str) -> Result<Vec<Value>, (usize, String)> {
    serde_saphyr::from_multiple::<Value>(text).map_err(|why| {
        let line = why.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
        // Its own text draws the place as well, over several lines.
        let why = why.to_string();
        (line, why.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
    })
}

fn check(file: &str, text: &str, documents: &[Value], found: &mut Vec<Placed>) -> anyhow::Result<usize> {
    let mut ours = 0;
    for (position, document) in documents.iter().filter(|one| !one.is_null()).enumerate() {
        let api = document["apiVersion"].as_str().unwrap_or_default();
        let (group, version) = api.split_once('/').unwrap_or(("", api));
        if group != GROUP && !is_meant(group, document["kind"].as_str().unwrap_or_default())? {
            continue;
        }
        ours += 1;
        let text_at = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
        let object = format!("{}/{}", text_at("/metadata/namespace"), text_at("/metadata/name"));
        let findings = match api {
            "" => vec![error("apiVersion", format!("is missing: write {GROUP}/{VERSION}"))],
            _ if (group, version) == (GROUP, VERSION) => judged(document)?,
            _ => vec![error("apiVersion", format!("{} is not served; write {GROUP}/{VERSION}", quoted(api)))],
        };
        found.extend(findings.into_iter().map(|finding| Placed {
            file: file.into(),
            line: line_of(text, position, &finding.path).unwrap_or(1),
            object: object.clone(),
            finding,
        }));
    }
    Ok(ours)
}

/// Whether an object of another group was meant to be one of ours: its kind is one, and the group is left out or a slip.
fn is_meant(group: &str, kind: &str) -> anyhow::Result<bool> {
    let is_ours = amend_crds::schema::definitions()?.iter().any(|definition| definition.spec.names.kind == kind);
    Ok(is_ours && (group.is_empty() || group.starts_with("amend") || nearest(group, [GROUP].into_iter()).is_some()))
}

/// Everything about one object of our group.
fn judged(document: &Value) -> anyhow::Result<Vec<Finding>> {
    let definitions = amend_crds::schema::definitions()?;
    let kind = document["kind"].as_str().unwrap_or_default();
    let Some(definition) = definitions.iter().find(|definition| definition.spec.names.kind == kind) else {
        let known = definitions.iter().map(|definition| definition.spec.names.kind.as_str());
        let hint = nearest(kind, known).map_or("remove it".to_owned(), |near| format!("did you mean {near}?"));
        return Ok(vec![error("kind", format!("{} is no kind of {GROUP}: {hint}", quoted(kind)))]);
    };
    let schema = definition.spec.versions.first().and_then(|version| version.schema.as_ref());
    let schema = serde_json::to_value(schema.and_then(|schema| schema.open_api_v3_schema.as_ref()))?;
    let mut around = around(document, &schema);
    if document["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        around.push(error("metadata.name", "is missing".to_owned()));
    }
    let spec = &document["spec"];
    let mut findings = if kind == "RemediationPolicy" {
        read(spec).1
    } else {
        let problems = problems_against(&schema["properties"]["spec"], spec);
        let told = |problem: PolicyProblem| match (kind, problem.path.as_str()) {
            ("GitTarget", "forge.kind") => {
                format!("{}; Forgejo speaks Gitea's API, to others nothing can be proposed yet", problem.sentence)
            }
            _ => problem.sentence,
        };
        problems.into_iter().map(|problem| error(&problem.path.clone(), told(problem))).collect()
    };
    if findings.is_empty() {
        findings = meaning(kind, spec);
    }
    for finding in &mut findings {
        let below = match finding.path.as_str() {
            "" => "spec".to_owned(),
            path => format!("spec.{path}"),
        };
        finding.path = below;
    }
    around.extend(findings);
    Ok(around)
}

/// Unknown fields beside the spec and in the metadata: the API server drops them without a word.
fn around(document: &Value, schema: &Value) -> Vec<Finding> {
    let own = schema["properties"].as_object().into_iter().flat_map(|fields| fields.keys().map(String::as_str));
    let known: Vec<&str> = own.chain(["apiVersion", "kind", "metadata"]).collect();
    let mut findings = unknown(document, "", &known);
    findings.extend(unknown(&document["metadata"], "metadata.", &METADATA));
    findings
}

/// What `ObjectMeta` of Kubernetes holds.
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

fn unknown(fields: &Value, before: &str, known: &[&str]) -> Vec<Finding> {
    let names = fields.as_object().into_iter().flat_map(|fields| fields.keys());
    names
        .filter(|name| !known.contains(&name.as_str()))
        .map(|name| {
            let nearest = nearest(name, known.iter().copied());
            let problem = UnknownField { path: format!("{before}{name}"), nearest, known: Vec::new() }.problem();
            error(&problem.path, problem.sentence)
        })
        .collect()
}

fn error(path: &str, sentence: String) -> Finding {
    Finding { severity: Severity::Error, path: path.to_owned(), sentence }
}

fn warning(path: &str, sentence: String) -> Finding {
    Finding { severity: Severity::Warning, path: path.to_owned(), sentence }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, String, String)> {
        let mut found = Vec::new();
        lint("file.yaml", text, &mut found).unwrap();
        found.into_iter().map(|one| (one.line, one.finding.path, one.finding.sentence)).collect()
    }

    #[test]
    fn every_ready_policy_is_accepted() {
        for entry in amend_policies::library::LIBRARY {
            let mut found = Vec::new();
            assert_eq!(lint(entry.name, entry.yaml, &mut found).unwrap(), 1, "{}", entry.name);
            assert!(found.iter().all(|one| one.finding.severity == Severity::Warning), "{}: {found:?}", entry.name);
        }
    }

    #[test]
    fn a_typo_in_a_policy_is_shown_with_its_line_and_the_nearest_field() {
        let policy = amend_policies::library::LIBRARY[0].yaml.replace("maxUnavailable", "maxUnavailible");
        let line = 1 + policy.lines().position(|line| line.contains("maxUnavailible")).unwrap();
        let found = found(&policy);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].0, found[0].1.as_str()), (line, "spec.gates[0].blastRadius.maxUnavailible"));
        assert!(found[0].2.contains("did you mean maxUnavailable?"), "{found:?}");
    }

    #[test]
    fn typos_in_sources_and_targets_are_shown_too() {
        let text = "\
apiVersion: amend.dev/v1alpha1
kind: TelemetrySource
metadata: { name: prometheus }
spec:
  kind: Promotheus
  url: http://prometheus:9090
---
apiVersion: amend.dev/v1alpha1
kind: GitTarget
metadata: { name: platform }
spec:
  url: https://git.example.com/platform/shop.git
  branch: main
  forge: { kind: Gitea }
  secretRef: { name: platform-git }
  grant: []
---
apiVersion: amend.dev/v1
kind: GitTarget
---
apiVersion: amend.dev/v1alpha1
kind: RemediationPolice
";
        let found = found(text);
        let lines: Vec<usize> = found.iter().map(|(line, ..)| *line).collect();
        assert_eq!(lines, [5, 16, 18, 22], "{found:?}");
        for (finding, hint) in found.iter().zip(["Prometheus?", "grants?", "amend.dev/v1alpha1", "RemediationPolicy?"])
        {
            assert!(finding.2.contains(hint), "{finding:?}");
        }
    }

    #[test]
    fn every_key_of_a_mapping_that_no_store_understands_is_refused() {
        let text = "\
apiVersion: amend.dev/v1alpha1
kind: TelemetrySource
metadata: { name: prometheus }
spec:
  kind: Prometheus
  url: http://prometheus:9090
  mapping:
    servce: app
    pod: instance
    code: \"no label\"
";
        let found = found(text);
        let places: Vec<_> = found.iter().map(|(line, path, _)| (*line, path.as_str())).collect();
        assert_eq!(places, [(10, "spec.mapping.code"), (8, "spec.mapping.servce")], "{found:?}");
        assert!(found[1].2.contains("did you mean service?"), "{found:?}");
    }

    #[test]
    fn every_unknown_field_of_an_object_is_told_wherever_it_stands() {
        let text = "\
apiVersion: amend.dev/v1alpha1
kind: TelemetrySource
metadata:
  name: prometheus
  lables: { team: shop }
spec:
  kind: Prometheus
  url: http://prometheus:9090
  limit: { timeout: 5s }
  limits: { timeuot: 5s }
  zzz: 1
statsu: {}
";
        let found = found(text);
        let told: Vec<_> = found.iter().map(|(line, path, _)| (*line, path.as_str())).collect();
        let expected =
            [(12, "statsu"), (5, "metadata.lables"), (9, "spec.limit"), (10, "spec.limits.timeuot"), (11, "spec.zzz")];
        assert_eq!(told, expected, "{found:?}");
        for (finding, hint) in found.iter().zip(["status?", "labels?", "limits?", "timeout?", "there are "]) {
            assert!(finding.2.contains(hint), "{finding:?}");
        }
    }

    #[test]
    fn an_object_that_was_meant_for_us_is_told_and_not_passed_over() {
        for api in ["apiVersion: amend.io/v1alpha1\n", "apiVersion: amend/v1alpha1\n", ""] {
            let found = found(&format!("{api}kind: TelemetrySource\nmetadata: {{ name: prometheus }}\n"));
            assert_eq!(found.len(), 1, "{api} {found:?}");
            assert!(found[0].1 == "apiVersion" && found[0].2.ends_with("write amend.dev/v1alpha1"), "{found:?}");
        }
        assert_eq!(found("apiVersion: shipwright.io/v1beta1\nkind: Build\nmetadata: { name: x }\n"), []);
    }

    #[test]
    fn a_forge_that_cannot_be_proposed_to_says_which_can() {
        let text = "\
apiVersion: amend.dev/v1alpha1
kind: GitTarget
metadata: { name: platform }
spec:
  url: https://git.example.com/platform/shop.git
  branch: main
  forge: { kind: GitHub }
  secretRef: { name: platform-git }
";
        let found = found(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].2.starts_with("\"GitHub\" is not one of Gitea; Forgejo speaks Gitea's API"), "{found:?}");
    }

    #[test]
    fn a_file_that_is_no_yaml_says_where() {
        let found = found("kind: [\n");
        assert!(found[0].2.starts_with("this is no YAML: line 1") && !found[0].2.contains('|'), "{found:?}");
    }

    #[test]
    fn objects_of_others_are_passed_over() {
        assert_eq!(found("apiVersion: v1\nkind: Secret\nmetadata: { name: x }\n"), []);
    }
}

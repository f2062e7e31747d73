//! The verbs as a person types them, against the sandbox's API server.

mod backtest;
mod incident;
mod record;
mod stage;

use std::process::Command;

use amend_crds::{Incident, Remediation};
use serde_json::Value;

use crate::stage::{OBJECTS, amend, json, stage, text, unreadable};

#[test]
fn doctor_names_what_is_missing_and_the_command_that_mends_it() {
    let output = amend(&["doctor", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let told = json(&output);
    let findings = told["findings"].as_array().expect("findings");
    for (weight, what, fix) in [
        ("missing", "a controller that leads", "kubectl -n amend-system logs deploy/amend"),
        (
            "missing",
            "TelemetrySource amend-system/prometheus",
            "kubectl edit telemetrysource prometheus -n amend-system",
        ),
        ("missing", "the Secret amend-system/not-there", "kubectl create secret generic not-there -n amend-system"),
        ("missing", "the remediator shop/nobody of policy of-nobody", "helm upgrade"),
        ("missing", "a GitTarget with a grant for namespace shop", "kubectl edit gittarget"),
        ("gap", "no GitTarget: nothing can be proposed", "kubectl apply -f docs/first-pull-request/git-target.yaml"),
        (
            "gap",
            "no TelemetrySource of kind Alertmanager",
            "kubectl apply -f docs/first-pull-request/telemetry-source.yaml",
        ),
    ] {
        let found = findings.iter().find(|one| one["what"].as_str().is_some_and(|text| text.contains(what)));
        let found = found.unwrap_or_else(|| unreadable(&format!("not found: {what} in {told}")));
        assert_eq!(found["weight"], weight, "{found}");
        assert!(found["fix"].as_str().is_some_and(|text| text.contains(fix)), "{found}");
    }
    let denied: Vec<&Value> =
        findings.iter().filter(|one| one["what"].as_str().is_some_and(|text| text.contains(" may not "))).collect();
    assert!(denied.is_empty(), "the sandbox's account has every right of the chart's: {denied:?}");
}

#[test]
fn doctor_says_the_same_to_people() {
    let output = amend(&["doctor"]);
    let told = text(&output.stdout);
    assert!(told.contains("missing: a controller that leads\n    fix: kubectl"), "{told}");
    assert!(told.lines().last().is_some_and(|line| line.contains("things looked at")), "{told}");
}

#[test]
fn lists_are_tables_for_people_and_objects_for_programs() {
    let table = text(&amend(&["get", "policies", "-n", "shop"]).stdout);
    assert!(table.starts_with("NAMESPACE  NAME"), "{table}");
    assert!(table.contains("raise-memory"), "{table}");
    let objects = json(&amend(&["get", "policies", "-n", "shop", "-o", "json"]));
    assert_eq!(objects.as_array().map(Vec::len), Some(2), "{objects}");
    let yaml = text(&amend(&["get", "policies", "-n", "shop", "-o", "yaml"]).stdout);
    assert!(yaml.contains("kind: RemediationPolicy"), "{yaml}");
    let none = amend(&["get", "incidents", "-n", "nowhere"]);
    assert_eq!(none.status.code(), Some(0));
    assert!(text(&none.stderr).contains("no incidents in namespace nowhere"));
}

#[test]
fn what_is_not_there_is_named_with_the_verb_that_lists_what_is() {
    for words in [&["explain", "inc-0", "-n", "shop"][..], &["approve", "rem-0", "-n", "shop"]] {
        let output = amend(words);
        assert_eq!(output.status.code(), Some(1));
        let told = text(&output.stderr);
        assert!(told.contains("in namespace shop; `amend get ") && told.contains("-A` lists all"), "{told}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_two() {
    assert_eq!(amend(&["approve"]).status.code(), Some(2));
    assert_eq!(amend(&["get", "incidentz"]).status.code(), Some(2));
    assert_eq!(amend(&["uninstall"]).status.code(), Some(2), "neither --plan nor --yes");
}

#[test]
fn no_cluster_says_what_to_set() {
    let output = Command::new(env!("CARGO_BIN_EXE_amend"))
        .args(["get", "incidents"])
        .env("KUBECONFIG", "/nowhere/kubeconfig")
        .env("HOME", "/nowhere")
        .output()
        .expect("amend runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("set KUBECONFIG"), "{}", text(&output.stderr));
}

#[test]
fn lint_points_at_file_and_line_and_names_the_nearest_field() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("policy.yaml");
    std::fs::write(&file, OBJECTS.replace("serviceAccountName", "serviceAcountName")).expect("a file");
    let path = file.display().to_string();
    let output = amend(&["lint", &path]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stdout);
    let line = 1 + OBJECTS.lines().position(|line| line.contains("serviceAccountName")).expect("it is there");
    assert!(told.contains(&format!("{path}:{line}: error: spec.serviceAcountName: ")), "{told}");
    assert!(told.contains("did you mean serviceAccountName?"), "{told}");
    let listed = json(&amend(&["lint", &path, "-o", "json"]));
    assert!(listed[0]["line"].is_u64(), "{listed}");
}

#[test]
fn uninstall_shows_its_plan_and_drops_finalizers_when_told_to() {
    let incident = r#"
apiVersion: amend.dev/v1alpha1
kind: Incident
metadata: { name: inc-left, namespace: ads, finalizers: [amend.dev/cleanup, example.com/other] }
spec:
  entity: { namespace: ads, kind: Deployment, name: ads }
  severity: Warning
  signals: [{ key: k, source: Alert, name: Left, entity: { namespace: ads, kind: Deployment, name: ads }, severity: Warning, startedAt: "2026-03-02T09:00:00Z" }]
"#;
    let world = &stage().world;
    world.apply_yaml("apiVersion: v1\nkind: Namespace\nmetadata: { name: ads }\n").expect("a namespace");
    world.apply_yaml(incident).expect("an incident");
    let planned = text(&amend(&["uninstall", "--plan"]).stdout);
    assert!(planned.contains("would drop the finalizer of Incident ads/inc-left"), "{planned}");
    assert!(planned.contains("then: helm uninstall amend -n amend-system"), "{planned}");
    assert!(planned.contains("kubectl delete crd -l app.kubernetes.io/name=amend"), "{planned}");
    let finalizers = || {
        let found = json(&amend(&["get", "incidents", "-n", "ads", "-o", "json"]));
        found[0]["metadata"]["finalizers"].clone()
    };
    assert_eq!(finalizers().as_array().map(Vec::len), Some(2), "a plan changes nothing");
    let output = amend(&["uninstall", "--yes"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(finalizers(), serde_json::json!(["example.com/other"]), "those of others stay");
}

/// The names that the kinds are listed under are those of the API.
#[test]
fn kinds_are_listed_by_their_plural_and_short_names() {
    use kube::Resource;
    for (word, plural) in [("incidents", Incident::plural(&())), ("remediations", Remediation::plural(&()))] {
        assert_eq!(word, plural);
        assert_eq!(amend(&["get", word, "-A"]).status.code(), Some(0), "{word}");
    }
    for word in ["inc", "rem", "rpol"] {
        assert_eq!(amend(&["get", word, "-A"]).status.code(), Some(0), "{word}");
    }
}

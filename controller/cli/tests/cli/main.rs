//! The verbs as a person types them, against the sandbox's API server.

mod backtest;
mod incident;
mod record;
mod stage;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
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
        (
            "missing",
            "a GitTarget with a grant for namespace shop",
            "kubectl apply -f docs/first-pull-request/git-target.yaml   (set url and Secret first; grants for shop)",
        ),
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

/// `amend` with a kubeconfig of one's own.
fn amend_of(kubeconfig: &str, words: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_amend"))
        .args(words)
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", "/nowhere")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .expect("amend runs")
}

/// The path of a kubeconfig for the API server at `url`.
fn kubeconfig(folder: &Path, url: &str) -> String {
    let config = format!(
        "apiVersion: v1
kind: Config
clusters: [{{ name: c, cluster: {{ server: '{url}' }} }}]
contexts: [{{ name: c, context: {{ cluster: c, user: u }} }}]
users: [{{ name: u, user: {{}} }}]
current-context: c
"
    );
    let file = folder.join("kubeconfig");
    std::fs::write(&file, config).expect("a kubeconfig");
    file.display().to_string()
}

/// An API server that knows nothing that it is asked for; serves until the tests end.
fn knows_nothing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let Ok(1..) = stream.read(&mut request) else { continue };
            let answer =
                "HTTP/1.1 404 Not Found\r\ncontent-length: 19\r\nconnection: close\r\n\r\n404 page not found\n";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn a_cluster_without_amend_is_told_from_one_without_incidents() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = amend_of(&kubeconfig(folder.path(), &knows_nothing()), &["get", "incidents"]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("does not serve incidents.amend.dev: is Amend installed? kubectl amend doctor"), "{told}");
}

#[test]
fn no_cluster_says_what_to_set() {
    let output = amend_of("/nowhere/kubeconfig", &["get", "incidents"]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("set KUBECONFIG") && told.contains("/nowhere/kubeconfig"), "{told}");
    assert!(!told.contains("in-cluster") && told.matches("No such file").count() == 1, "{told}");
}

#[test]
fn a_cluster_that_does_not_answer_is_named_with_its_address() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = kubeconfig(folder.path(), "http://127.0.0.1:1");
    for verb in [&["get", "incidents"][..], &["doctor"], &["explain", "inc-1"], &["uninstall", "--plan"]] {
        let output = amend_of(&file, verb);
        assert_eq!(output.status.code(), Some(1), "{verb:?}");
        let told = text(&output.stderr);
        assert!(told.contains("the Kubernetes API at http://127.0.0.1:1/ does not answer"), "{told}");
        assert_eq!(told.matches("Connection refused").count(), 1, "{told}");
    }
}

#[test]
fn a_case_that_is_not_there_is_an_error_and_no_abstention() {
    let output = amend_of("/nowhere/kubeconfig", &["diagnose", "--case", "/nowhere/case"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("/nowhere/case is no case directory"), "{}", text(&output.stderr));
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
fn lint_searches_a_folder_to_the_bottom_and_passes_over_what_is_not_ours() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |path: &str, text: &str| {
        let file = folder.path().join(path);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(file, text).expect("a file");
    };
    let wrong = OBJECTS.replace("serviceAccountName", "serviceAcountName");
    write("b/deep/policy.yml", &wrong);
    write("a.yaml", OBJECTS);
    write("b/chart/templates/web.yaml", "{{- if .Values.web }}\nkind: [\n{{ end }}");
    write("b/chart/templates/ours.yaml", "apiVersion: amend.dev/v1alpha1\n{{- if .Values.web }}\nkind: [\n{{ end }}");
    write("b/notes.md", &wrong);
    write(".git/policy.yaml", &wrong);
    write(
        "c/source.json",
        r#"{"apiVersion": "amend.dev/v1alpha1", "kind": "TelemetrySource", "metadata": {"name": "p"}, "spek": {}}"#,
    );
    let path = folder.path().display().to_string();
    let output = amend(&["lint", &path]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stdout);
    let mut files: Vec<&str> =
        told.lines().filter(|line| line.contains(": error: ")).filter_map(|line| line.split(':').next()).collect();
    files.dedup();
    let expected = ["b/deep/policy.yml", "c/source.json"].map(|file| format!("{path}/{file}"));
    assert_eq!(files, expected, "{told}");
    assert!(told.contains("templates/ours.yaml:1: warning: this is a template"), "{told}");
    assert!(told.contains("did you mean serviceAccountName?") && told.contains("did you mean spec?"), "{told}");
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

#[test]
fn a_release_of_another_name_is_found_by_its_labels() {
    let installed = r#"
apiVersion: v1
kind: Namespace
metadata: { name: repair-system }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: repair, namespace: repair-system, labels: { app.kubernetes.io/name: amend, app.kubernetes.io/instance: mender } }
spec:
  replicas: 0
  selector: { matchLabels: { app.kubernetes.io/name: amend } }
  template:
    metadata: { labels: { app.kubernetes.io/name: amend } }
    spec: { serviceAccountName: mender-account, containers: [{ name: amend, image: amend }] }
"#;
    stage().world.apply_yaml(installed).expect("a release");
    let planned = text(&amend(&["uninstall", "--plan", "--install-namespace", "repair-system"]).stdout);
    assert!(planned.contains("would stop the controller: Deployment repair-system/repair scaled to 0"), "{planned}");
    assert!(planned.contains("then: helm uninstall mender -n repair-system"), "{planned}");
    let told = text(&amend(&["doctor", "--install-namespace", "repair-system"]).stdout);
    assert!(told.contains("missing: the service account repair-system/mender-account"), "{told}");
    assert!(told.contains("helm upgrade --install mender charts/amend"), "{told}");
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

//! `explain`, and what a person may say to a remediation.

use std::sync::OnceLock;

use amend_sandbox::apiserver::documents;
use amend_sandbox::apiserver::store::How;
use serde_json::Value;

use crate::stage::{amend, json, stage, text};

const DIGEST: &str = "abababababababababababababababababababababababababababababababab";

/// The incident and its remediation, with the status that the controller would have written.
fn incident() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let world = &stage().world;
        let (incident, remediation) = include_str!("incident.yaml").split_once("---\n").expect("two documents");
        world.apply_yaml(incident).expect("the incident is taken");
        let made = world.api().store().get("incidents.amend.dev", "shop", "inc-1").expect("it is there");
        // A remediation answers the one incident that it was made for, not whatever has its name later.
        let remediation = remediation.replace("INCIDENT-UID", made["metadata"]["uid"].as_str().expect("a UID"));
        world.apply_yaml(&remediation).expect("the remediation is taken");
        let yaml = format!("{incident}---\n{remediation}");
        for document in documents(&yaml).expect("YAML") {
            let resource = if document["kind"] == "Incident" { "incidents" } else { "remediations" };
            let name = document["metadata"]["name"].as_str().expect("a name");
            let written = world.api().store().modify(
                &format!("{resource}.amend.dev"),
                "shop",
                name,
                How::status_by("amend"),
                |live| live["status"] = document["status"].clone(),
            );
            assert!(written.is_ok(), "{written:?}");
        }
    });
}

#[test]
fn explain_tells_cause_policies_gates_pull_request_and_what_comes_next() {
    incident();
    let output = amend(&["explain", "inc-1", "-n", "shop", "--stored"]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for line in [
        "inc-1 on shop/Deployment/checkout[app]: Remediating",
        "signals (3 arrived)",
        "cause: checkout needs more memory than its limit allows (container.oom-killed, 97 % sure)",
        "+ container app was OOMKilled 3 times at its limit of 256 MiB",
        "- traffic grew by 4 % at the same time",
        "phrased by a model (small), may be wrong: The new release needs more memory than it may use.",
        "policy raise-memory answers: container.oom-killed",
        "policy of-nobody does not answer: checkout is a Deployment and no StatefulSet",
        "rem-1: raise the memory limit of app in shop/checkout from 256Mi to 384Mi (Proposed)",
        "at most 0 of 3 pods are out of service at once",
        "no Alertmanager serves this namespace",
        "pull request https://git.example.com/platform/shop/pulls/7 is open, a draft",
        "next: somebody reviews the pull request and merges or closes it",
    ] {
        assert!(told.contains(line), "{line} is not in:\n{told}");
    }
    assert!(!told.contains("asked again"), "{told}");
    let objects = json(&amend(&["explain", "inc-1", "-n", "shop", "--stored", "-o", "json"]));
    assert_eq!(objects["remediation"]["spec"]["planDigest"], DIGEST);
    assert!(objects["again"].is_null(), "only what is stored");
}

#[test]
fn asking_again_says_which_answers_cannot_be_had_any_more() {
    incident();
    let output = amend(&["explain", "inc-1", "-n", "shop", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let again = json(&output)["again"].take();
    let differences = again["differences"].as_array().expect("differences");
    // The stage's only source leads nowhere: its Secret is missing.
    let memory = differences.iter().find(|one| one["id"] == "prometheus/memory/shop");
    let how = &memory.unwrap_or_else(|| crate::stage::unreadable(&again.to_string()))["how"];
    assert!(how["unanswered"]["why"].is_string() || how == "askedOnlyThen", "{how}");
    assert_eq!(again["then"]["confidence"], 0.97);
    let told = text(&amend(&["explain", "inc-1", "-n", "shop"]).stdout);
    assert!(told.contains("asked again, about the time until 2026-03-02T08:52:00Z: "), "{told}");
    assert!(
        told.starts_with("inc-1 on shop/Deployment/checkout[app]: Remediating"),
        "what is stored comes first: {told}"
    );
    assert!(told.contains("then: checkout needs more memory than its limit allows"), "{told}");
}

#[test]
fn a_decision_is_bound_to_the_plan_and_carries_the_name_of_who_made_it() {
    incident();
    let said = |words: &[&str]| json(&amend(&[words, &["rem-1", "-n", "shop", "-o", "json"]].concat()));
    for (verb, decision) in [("approve", "Approve"), ("refuse", "Refuse"), ("stop", "Stop")] {
        let approval = said(&[verb, "--reason", "read and understood"]);
        let spec = &approval["spec"];
        assert_eq!(spec["decision"], decision);
        assert_eq!((&spec["remediation"], &spec["planDigest"]), (&Value::from("rem-1"), &Value::from(DIGEST)));
        assert_eq!((&spec["by"], &spec["reason"]), (&"sandbox-admin".into(), &"read and understood".into()));
        let name = approval["metadata"]["name"].as_str().expect("a name");
        assert!(stage().world.api().store().get("approvals.amend.dev", "shop", name).is_some(), "{name} is stored");
    }
    let told = text(&amend(&["approve", "rem-1", "-n", "shop", "--digest", DIGEST]).stdout);
    assert!(
        told.contains("sandbox-admin approves rem-1 (plan ") && told.contains("written down as Approval rem-1-"),
        "{told}"
    );
}

#[test]
fn a_plan_that_is_another_than_the_one_that_was_read_is_not_approved() {
    incident();
    let output = amend(&["approve", "rem-1", "-n", "shop", "--digest", &"00".repeat(32)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("read it again with `amend explain`"), "{}", text(&output.stderr));
}

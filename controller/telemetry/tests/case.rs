//! A case directory is read whole, in part, and damaged.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

use amend_diagnosis::evidence::Answer;
use amend_telemetry::case;

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).unwrap();
}

fn about(directory: &Path) {
    write(
        directory,
        "case.json",
        r#"{"level":"service","candidates":["cart","checkout"],"inject_time":1000,
            "windows":{"normal":[0,999],"fault":[1000,1100]}}"#,
    );
}

#[test]
fn what_is_missing_is_unknown_with_the_file_that_would_tell() {
    let directory = tempfile::tempdir().unwrap();
    about(directory.path());
    let case = case::read(directory.path()).unwrap();
    let Answer::Unknown { why } = &case.observations.series else { panic!("no metrics were given") };
    assert!(why.contains("metrics.csv"));
    assert_eq!(case.observations.candidates.map(|list| list.len()), Some(2));
}

#[test]
fn metrics_keep_their_labels_and_leave_gaps_out() {
    let directory = tempfile::tempdir().unwrap();
    about(directory.path());
    write(directory.path(), "metrics.csv", "time,s0,s1\n10,1.5,\n20,,2\n30,nonsense,3\n");
    write(
        directory.path(),
        "series.json",
        r#"[{"column":"s0","labels":{"__name__":"cpu","pod":"cart-1"}},{"column":"s1","labels":{"__name__":"mem"}}]"#,
    );
    let case = case::read(directory.path()).unwrap();
    let series = case.observations.series.known().unwrap();
    assert_eq!(series[0].samples, [(10.0, 1.5)]);
    assert_eq!(series[1].samples, [(20.0, 2.0), (30.0, 3.0)]);
}

#[test]
fn a_broken_line_costs_only_itself() {
    let directory = tempfile::tempdir().unwrap();
    about(directory.path());
    let lines = "{\"pod\":\"cart-1\",\"body\":\"a\"}\nbroken\n{\"pod\":\"cart-1\",\"body\":\"b\"}\n";
    write(directory.path(), "logs.jsonl", lines);
    let case = case::read(directory.path()).unwrap();
    assert_eq!(case.observations.logs.known().unwrap().len(), 2);
}

#[test]
fn descriptions_become_objects_and_secrets_become_digests() {
    let directory = tempfile::tempdir().unwrap();
    about(directory.path());
    let pod = "Name: cart-5d9c7b9f4-x2x9k\nLabels:  app=cart\n         pod-template-hash=5d9c7b9f4\nStatus:  Running\n\
               Controlled By:  ReplicaSet/cart-5d9c7b9f4\nContainers:\n  app:\n    Image:  cart:1\n    State:  Waiting\n      \
               Reason:  CrashLoopBackOff\n    Last State:  Terminated\n      Reason:  OOMKilled\n      Exit Code:  137\n    \
               Ready:  False\n    Restart Count:  4\n";
    let secret = "kind: Secret\nmetadata:\n  name: db\nstringData:\n  DB_HOST: mysql\n  DB_PASSWORD: hunter2\n";
    let answers = [("kubectl describe pods cart-5d9c7b9f4-x2x9k -n shop", pod), ("manifest cart", secret)];
    let lines: Vec<String> = answers
        .iter()
        .map(|(command, output)| serde_json::json!({"cmd": command, "output": output}).to_string())
        .collect();
    write(directory.path(), "k8s.jsonl", &lines.join("\n"));
    let case = case::read(directory.path()).unwrap();
    let objects = case.observations.objects.known().unwrap();
    let pod = objects.iter().find(|object| object["kind"] == "Pod").unwrap();
    assert_eq!(pod.pointer("/status/containerStatuses/0/lastState/terminated/reason").unwrap(), "OOMKilled");
    assert_eq!(pod.pointer("/status/containerStatuses/0/state/waiting/reason").unwrap(), "CrashLoopBackOff");
    let secret = objects.iter().find(|object| object["kind"] == "Secret").unwrap();
    assert_eq!(secret["stringData"]["DB_HOST"], "mysql");
    assert!(!secret.to_string().contains("hunter2"));
}

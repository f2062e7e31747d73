//! Every demo scenario, told by the real binary, ends as the issue says.
#![allow(clippy::unwrap_used, clippy::panic)]

mod told;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::process::Stdio;
use std::time::Duration;

use amend_tests::bench::product::amend_binary;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use told::{run, stage, told};

#[tokio::test]
async fn oom_is_healed_by_one_line() {
    let told = told("oom").await;
    assert_eq!(told.outcome.as_deref(), Some("Succeeded"));
    assert_eq!(told.incident.as_ref().unwrap().phase, "Resolved");
    let cause = &told.causes[0];
    assert_eq!((cause.entity.as_str(), cause.kind.as_str()), ("shop/Deployment/checkout[app]", "container.oom-killed"));
    assert!(cause.change.is_some() && cause.confidence >= 0.8, "{cause:?}");
    let [pull] = told.pull_requests.as_slice() else { panic!("{:?}", told.pull_requests) };
    assert_eq!((pull.lines_added, pull.lines_removed, pull.state.as_str()), (1, 1, "merged"));
    assert_eq!(pull.files, ["apps/shop/checkout.yaml"]);
    assert!(
        pull.diff.contains("\n-              memory: 256Mi") && pull.diff.contains("\n+              memory: 384Mi")
    );
}

#[tokio::test]
async fn a_bad_release_is_reverted_and_the_innocent_one_is_not() {
    let told = told("bad-release").await;
    assert_eq!(told.outcome.as_deref(), Some("Succeeded"));
    assert_eq!(told.incident.as_ref().unwrap().phase, "Resolved");
    let [pull] = told.pull_requests.as_slice() else { panic!("{:?}", told.pull_requests) };
    assert_eq!(pull.files, ["apps/shop/payment.yaml"]);
    assert!(pull.diff.contains("payment:v3.1.4") && !pull.diff.contains("catalog"), "{}", pull.diff);
}

#[tokio::test]
async fn a_commit_that_changed_only_a_config_map_is_reverted() {
    let told = told("bad-config").await;
    assert_eq!(told.outcome.as_deref(), Some("Succeeded"));
    assert_eq!(told.incident.as_ref().unwrap().phase, "Resolved");
    assert_eq!(told.causes[0].entity, "shop/Deployment/payment", "{:?}", told.causes);
    let [pull] = told.pull_requests.as_slice() else { panic!("{:?}", told.pull_requests) };
    assert_eq!((pull.lines_added, pull.lines_removed, pull.state.as_str()), (1, 1, "merged"));
    assert_eq!(pull.files, ["apps/shop/config.yaml"]);
    assert!(pull.diff.contains("\n+  processor-url: \"https://cards.example/v2\""), "{}", pull.diff);
}

#[tokio::test]
async fn a_fix_that_does_harm_is_taken_back() {
    let told = told("bad-fix").await;
    assert_eq!(told.outcome.as_deref(), Some("RolledBack"));
    assert_ne!(told.incident.as_ref().unwrap().phase, "Resolved");
    let [fix, revert] = told.pull_requests.as_slice() else { panic!("{:?}", told.pull_requests) };
    assert_eq!((fix.state.as_str(), revert.state.as_str()), ("merged", "merged"));
    assert!(
        revert.diff.contains("\n-              memory: 384Mi")
            && revert.diff.contains("\n+              memory: 256Mi")
    );
    assert!(told.has_phase("Undoing"));
}

#[tokio::test]
async fn without_data_nothing_is_called_good_or_taken_back() {
    let told = told("no-data").await;
    assert_eq!(told.outcome.as_deref(), Some("Unverified"));
    assert_ne!(told.incident.as_ref().unwrap().phase, "Resolved");
    assert!(!told.has_phase("Undoing") && !told.has_phase("Succeeded"), "{:?}", told.phases);
    assert_eq!(told.pull_requests.iter().filter(|pull| pull.state == "merged").count(), 1);
}

#[tokio::test]
async fn a_placebo_is_never_a_success() {
    let told = told("placebo").await;
    assert!(told.outcome.as_deref().is_some_and(|outcome| outcome != "Succeeded"));
    assert!(!told.has_phase("Succeeded") && !told.has_phase("Resolved"), "{:?}", told.phases);
    assert_eq!(told.pull_requests[0].files, ["apps/shop/checkout.yaml"]);
}

#[tokio::test]
async fn five_hundred_alerts_are_one_incident_and_one_pull_request() {
    let told = told("flood").await;
    assert_eq!(told.outcome.as_deref(), Some("Succeeded"));
    let incident = told.incident.as_ref().unwrap();
    assert!(incident.phase == "Resolved" && incident.signals >= 500, "{incident:?}");
    assert_eq!(told.pull_requests.len(), 1, "{:?}", told.pull_requests);
}

#[tokio::test]
async fn a_story_that_nobody_merges_ends_by_itself_and_says_so() {
    let (code, told, complaints) = run(&["--scenario", "oom"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(told.outcome.as_deref(), Some("Proposed"));
    assert!(complaints.contains("nobody merged"), "{complaints}");
}

#[tokio::test]
async fn merge_may_be_pressed_on_the_page_of_the_pull_request() {
    let binary = amend_binary().await.unwrap();
    let _stage = stage().await;
    let mut child = Command::new(binary)
        .args(["demo", "--scenario", "oom"])
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    let story = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("Your turn") {
                press_merge(line.split_whitespace().find(|word| word.starts_with("http://")).unwrap()).await;
            }
            said.push_str(&line);
            said.push('\n');
        }
        child.wait().await.unwrap()
    };
    let ended = tokio::time::timeout(Duration::from_secs(420), story).await.expect("the demo ends");
    assert!(ended.success(), "{said}");
    for wanted in
        ["dashboard", "incident", "└─>", "+              memory: 384Mi", "Your turn", "merged", "Succeeded", "record:"]
    {
        assert!(said.contains(wanted), "{wanted:?} is not told:\n{said}");
    }
}

#[tokio::test]
async fn at_a_terminal_the_world_stays_until_enter() {
    let binary = amend_binary().await.unwrap();
    let _stage = stage().await;
    let (mut terminal, far_end) = terminal();
    let mut child = Command::new(binary)
        .args(["demo", "--scenario", "oom", "--merge"])
        .env_remove("RUST_LOG")
        .stdin(far_end.try_clone().unwrap())
        .stdout(far_end)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut keys = terminal.try_clone().unwrap();
    let (line, mut lines) = tokio::sync::mpsc::unbounded_channel();
    // Reading a terminal blocks; it fails once the far end is closed.
    std::thread::spawn(move || {
        let told = std::io::BufReader::new(&mut terminal).lines().map_while(Result::ok);
        told.for_each(|text| drop(line.send(text)));
    });
    let story = async {
        let mut told = String::new();
        while let Some(said) = lines.recv().await {
            told.push_str(&said);
            told.push('\n');
            if let Some(url) = said.split_once("look around at ").and_then(|(_, rest)| rest.split(';').next()) {
                assert!(told.contains("The story ended as it should"), "{told}");
                assert_eq!(child.try_wait().unwrap(), None, "it stays");
                let page = reqwest::get(url).await.unwrap().text().await.unwrap();
                assert!(page.contains("Resolved"), "{page}");
                keys.write_all(b"\n").unwrap();
                return child.wait().await.unwrap();
            }
        }
        panic!("nothing invites to look around:\n{told}");
    };
    amend_tests::bench::install_crypto();
    let ended = tokio::time::timeout(Duration::from_secs(420), story).await.expect("Enter ends it");
    assert!(ended.success());
}

/// A pseudo-terminal: what a person holds, and what a program sees.
fn terminal() -> (File, File) {
    let held = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&held).unwrap();
    unlockpt(&held).unwrap();
    let seen = ptsname(&held, Vec::new()).unwrap();
    let seen = OpenOptions::new().read(true).write(true).open(seen.to_str().unwrap()).unwrap();
    (File::from(held), seen)
}

/// What a browser does: reads the form of the page and sends it.
async fn press_merge(page: &str) {
    amend_tests::bench::install_crypto();
    let client = reqwest::Client::new();
    let html = client.get(page).send().await.unwrap().text().await.unwrap();
    let key = html.split("name=key value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a merge form");
    let pressed = client
        .post(format!("{page}/merge"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("key={key}"))
        .send()
        .await
        .unwrap();
    assert!(pressed.status().is_success() || pressed.status().is_redirection(), "{}", pressed.status());
}

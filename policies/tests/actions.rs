//! The contract of every action, over folders with a file before and after: it does exactly that, twice is once, the undo
//! restores every byte, an undo without the deed is harmless, and nothing beyond the footprint changes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod story;

use std::collections::BTreeMap;
use std::path::Path;

use amend_diagnosis::diagnosis::{Cause, cause};
use amend_policies::action::{Application, RevertedCommit, RevertedFile};
use amend_policies::manifest;
use amend_policies::plan::{FileChange, SourceFile};
use amend_policies::planning::{NoPlan, Planned, Planning, make_plan};
use amend_policies::policy::CompiledPolicy;
use serde::Deserialize;
use serde_json::Value;
use story::{MANIFEST, oom, planning, source};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    cause: String,
    #[serde(default)]
    measures: BTreeMap<String, String>,
    git: Value,
    summary: String,
    restarts_pods: u32,
    expected: BTreeMap<String, String>,
}

fn policy_with(git: &Value) -> CompiledPolicy {
    let mut raw = story::yaml_value(story::POLICY);
    raw["steps"][0]["git"] = git.clone();
    serde_json::from_value::<amend_policies::policy::Policy>(raw).unwrap().compile().unwrap()
}

fn cause_of(kind: &str, measures: &BTreeMap<String, String>) -> Cause {
    Cause { kind: kind.into(), measures: measures.clone(), ..oom() }
}

fn first_document(text: &str) -> Value {
    story::yaml_value(text.split("\n---\n").next().unwrap())
}

fn reverted(now: &SourceFile, then: &str) -> RevertedCommit {
    let then = Some(SourceFile::new(&now.path, then));
    RevertedCommit {
        commit: "0123456789".repeat(4),
        subject: "release 1.1".into(),
        files: vec![RevertedFile { path: now.path.clone(), now: Some(now.clone()), then }],
        rendering: None,
        forward_only: false,
    }
}

/// Carries a change out on a file the way that the executor does.
fn applied(change: &FileChange, contents: &[SourceFile], now: &SourceFile) -> SourceFile {
    match change.applied_to(Some(&now.blob)) {
        Application::Done => now.clone(),
        Application::Write => contents.iter().find(|file| Some(&file.blob) == change.after.as_ref()).unwrap().clone(),
        Application::Conflict => panic!("conflict"),
    }
}

#[test]
fn every_folder_holds_the_contract() {
    let folders = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/actions")).unwrap();
    let mut count = 0;
    for folder in folders {
        let folder = folder.unwrap().path();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        contract(
            folder.file_name().unwrap().to_str().unwrap(),
            &read("before.yaml"),
            &read("after.yaml"),
            &read("step.yaml"),
        );
        count += 1;
    }
    assert!(count >= 6);
}

fn contract(name: &str, before: &str, after: &str, step: &str) {
    let step: Step = serde_saphyr::from_str(step).unwrap();
    let (policy, cause, live) = (policy_with(&step.git), cause_of(&step.cause, &step.measures), first_document(before));
    let (before, after) = (source(before), source(after));
    let inputs = Planning {
        source: Some(before.clone()),
        reverted: Some(reverted(&before, &after.text)),
        ..planning(&policy, &cause, &live)
    };
    let Planned { plan, after: contents } = make_plan(&inputs).unwrap_or_else(|why| panic!("{name}: {why}"));

    assert_eq!(contents[0].text, after.text, "{name}");
    assert_eq!(plan.summary, step.summary, "{name}");
    let done = &plan.steps[0];
    assert_eq!(done.footprint.restarts_pods, step.restarts_pods, "{name}");
    let expected: BTreeMap<_, _> =
        plan.expected.iter().map(|field| (field.field.to_string(), field.value.clone().unwrap_or_default())).collect();
    assert_eq!(expected, step.expected, "{name}");

    let all = [before.clone(), after.clone()];
    let (change, undo) = (&done.files[0], &done.undo.files[0]);
    let once = applied(change, &all, &before);
    assert_eq!(once, after, "{name}");
    assert_eq!(applied(change, &all, &once), once, "{name}: twice is once");
    assert_eq!(applied(undo, &all, &once), before, "{name}: the undo restores every byte");
    assert_eq!(applied(undo, &all, &before), before, "{name}: an undo without the deed is harmless");
    let foreign = source("somebody: else\n");
    assert_eq!(change.applied_to(Some(&foreign.blob)), Application::Conflict, "{name}");
    assert_eq!(undo.applied_to(Some(&foreign.blob)), Application::Conflict, "{name}");
    assert_eq!(undo.inverse(), *change, "{name}");

    let differing = manifest::differences(Some(&before), Some(&after)).unwrap();
    let mut touched: Vec<_> = differing.iter().map(|edit| (edit.object.clone(), edit.field.clone())).collect();
    let mut declared: Vec<_> =
        done.footprint.fields.iter().map(|field| (plan.target.object(), field.clone())).collect();
    touched.sort();
    declared.sort();
    assert_eq!(touched, declared, "{name}: nothing beyond the footprint");

    assert_eq!(plan.not_yet_applied(&first_document(&after.text)), [""; 0], "{name}");
    assert_eq!(plan.not_yet_applied(&live).len(), step.expected.len(), "{name}");
    let stored: amend_policies::plan::Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(stored.digest(), plan.digest(), "{name}: the digest survives the store");
}

/// Why there is no plan for one change to the story.
#[track_caller]
fn refused(git: &str, kind: &str, change: impl FnOnce(&mut Planning<'_>)) -> String {
    let (policy, cause, live) = (policy_with(&story::yaml_value(git)), cause_of(kind, &BTreeMap::new()), story::live());
    let mut inputs = planning(&policy, &cause, &live);
    change(&mut inputs);
    match make_plan(&inputs).unwrap_err() {
        NoPlan::Step { source, .. } => source.to_string(),
        other @ NoPlan::SameFile { .. } => other.to_string(),
    }
}

const RAISE: &str = "setResources: { memory: { factor: 1.5, max: 2Gi } }";

#[test]
fn a_leak_is_not_answered_with_a_higher_limit() {
    assert!(refused(RAISE, cause::MEMORY_LEAK, |_| {}).contains("leak, not limit"));
}

#[test]
fn what_does_not_fit_is_refused_with_a_sentence() {
    let replaced = |from: &'static str, to: &'static str| {
        move |inputs: &mut Planning<'_>| inputs.source = Some(source(&MANIFEST.replace(from, to)))
    };
    let oom = cause::OOM_KILLED;
    for (got, expected) in [
        (refused(RAISE, oom, |inputs| inputs.source = None), "no file in Git is known to own Deployment shop/checkout"),
        (
            refused(RAISE, oom, replaced("256Mi", "512Mi")),
            "is 512Mi in apps/shop/checkout.yaml and 256Mi in the cluster",
        ),
        (
            refused("setResources: { memory: { factor: 1.5, max: 256Mi } }", oom, |_| {}),
            "256Mi already, the policy allows 256Mi at most",
        ),
        (refused("setResources: { memory: { to: 200Mi } }", oom, |_| {}), "which is not below 200Mi"),
        (
            refused(
                "setResources: { cpu: { factor: 1.5, max: 2 } }".replace("max: 2", "max: '2'").as_str(),
                oom,
                |_| {},
            ),
            "no cpu limit that a factor could raise",
        ),
        (refused("setResources: { cpu: { to: 50m } }", oom, |_| {}), "below the request of 100m"),
        (refused("setResources: { container: web, memory: { to: 1Gi } }", oom, |_| {}), "no container \"web\""),
        (refused(RAISE, oom, replaced("# tight", "# amend:ignore")), "says amend:ignore"),
        (refused("setImage: {}", oom, |_| {}), "no earlier image is known to have worked"),
        (refused("setImage: { to: 'registry/checkout:1.1' }", oom, |_| {}), "already"),
        (refused("revertCommit: {}", oom, |_| {}), "no commit is known to be guilty"),
    ] {
        assert!(got.contains(expected), "{expected}: {got}");
    }
}

#[test]
fn an_image_is_replaced_only_by_an_earlier_build_of_itself() {
    let image = |bad: &str, good: &str| {
        let measures = BTreeMap::from([("image.bad".into(), bad.into()), ("image.good".into(), good.into())]);
        let (policy, live) = (policy_with(&story::yaml_value("setImage: {}")), story::live());
        let cause = cause_of(cause::BAD_IMAGE, &measures);
        make_plan(&planning(&policy, &cause, &live)).unwrap_err().to_string()
            + &{
                let NoPlan::Step { source, .. } = make_plan(&planning(&policy, &cause, &live)).unwrap_err() else {
                    panic!()
                };
                source.to_string()
            }
    };
    assert!(image("registry/checkout:1.1", "elsewhere/checkout:1.0").contains("another repository"));
    assert!(image("registry/checkout:0.9", "registry/checkout:0.8").contains("somebody has changed it already"));
    assert!(image("registry/checkout:1.1", "registry/checkout:latest").contains("one build"));
}

#[test]
fn a_commit_is_taken_back_only_when_that_is_safe_and_helps() {
    let before = source(MANIFEST);
    let revert = |change: &dyn Fn(&mut RevertedCommit)| {
        let mut commit = reverted(&before, &MANIFEST.replace("1.1", "1.0"));
        change(&mut commit);
        refused("revertCommit: { maxFiles: 1 }", cause::BAD_CONFIG, |inputs| inputs.reverted = Some(commit))
    };
    assert!(revert(&|commit| commit.forward_only = true).contains("forward-only"));
    assert!(revert(&|commit| commit.files.push(commit.files[0].clone())).contains("touched 2 files"));
    assert!(revert(&|commit| commit.files[0].then = commit.files[0].now.clone()).contains("taken back already"));
    assert!(
        revert(&|commit| commit.files[0].then = Some(source(&MANIFEST.replace("tight", "ok"))))
            .contains("changes neither")
    );
}

#[test]
fn a_commit_is_not_taken_back_where_a_comment_forbids_it_or_a_robot_would_write_it_again() {
    let refused_for = |now: &str, then: &str| {
        let commit = reverted(&source(now), then);
        refused("revertCommit: {}", cause::BAD_CONFIG, |inputs| inputs.reverted = Some(commit))
    };
    let marked = |comment: &str| MANIFEST.replace("released on Friday", comment);
    let older = |text: String| text.replace("checkout:1.1", "checkout:1.0");
    let setter = "{\"$imagepolicy\": \"flux-system:checkout\"}";
    for (comment, expected) in [(setter, "image automation writes"), ("amend:ignore", "says amend:ignore")] {
        let now = marked(comment);
        assert!(refused_for(&now, &older(now.clone())).contains(expected), "{comment}");
    }
    let above = MANIFEST.replace("spec:\n  replicas", "# amend:ignore\nspec:\n  replicas");
    assert_ne!(above, MANIFEST);
    assert!(refused_for(&above, &older(above.clone())).contains("says amend:ignore"));
    // The order stands where the shared value is used, and the line that changes is elsewhere.
    let shared = |order: &str| {
        let text = MANIFEST
            .replace("namespace: shop\n", "namespace: shop\n  annotations: {image: &image registry/checkout:1.1}\n");
        text.replace("image: registry/checkout:1.1 # released on Friday", &format!("image: *image{order}"))
    };
    let ordered = shared(" # amend:ignore");
    assert!(refused_for(&ordered, &older(ordered.clone())).contains("an alias"));
    // Files without an object: the images of a kustomization.
    let tags = |tag: &str| format!("images:\n  - name: checkout\n    newTag: {tag} # {setter}\n");
    assert!(refused_for(&tags("1.1"), &tags("1.0")).contains("line 3: image automation writes \"newTag\""));
}

#[test]
fn a_fingerprint_is_about_the_field_and_not_the_value() {
    let plan_for = |git: &str| {
        let (policy, cause, live) = (policy_with(&story::yaml_value(git)), oom(), story::live());
        make_plan(&planning(&policy, &cause, &live)).unwrap().plan
    };
    let (one, two) = (plan_for(RAISE), plan_for("setResources: { memory: { to: 1Gi } }"));
    assert_ne!(one.digest(), two.digest());
    assert_eq!(one.fingerprint(), two.fingerprint());
    let other = plan_for("setResources: { cpu: { to: 500m } }");
    assert_ne!(one.fingerprint(), other.fingerprint());
    assert_ne!(one.action_key("a", "raise-limit"), one.action_key("b", "raise-limit"));
    assert_eq!(one.action_key("a", "raise-limit"), two.action_key("a", "raise-limit"));
    assert_eq!(one.action_key("a", "raise-limit").branch().len(), "amend/".len() + 20);
}

#[test]
fn two_steps_on_one_file_are_refused() {
    let mut raw = story::yaml_value(story::POLICY);
    raw["steps"] =
        story::yaml_value(&format!("[{{ name: a, git: {{ {RAISE} }} }}, {{ name: b, git: {{ {RAISE} }} }}]"));
    let policy = serde_json::from_value::<amend_policies::policy::Policy>(raw).unwrap().compile().unwrap();
    let (cause, live) = (oom(), story::live());
    let got = make_plan(&planning(&policy, &cause, &live)).unwrap_err().to_string();
    assert!(got.contains("steps a and b both change"), "{got}");
}

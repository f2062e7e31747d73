//! A commit that works through Kustomize: what its files render to is the plan's change, not what stands in them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod story;

use amend_diagnosis::diagnosis::cause;
use amend_policies::action::{RevertedCommit, RevertedFile};
use amend_policies::manifest::{self, Refusal};
use amend_policies::plan::{LiveChange, ObjectRef, Plan, Rendering, SourceFile};
use amend_policies::planning::{Planning, make_plan};
use story::{live, oom, planning};

const PATH: &str = "apps/shop/kustomization.yaml";

const IMAGE: &str = "spec.template.spec.containers[app].image";

fn settings(tag: &str, other: &str) -> SourceFile {
    let text = format!(
        "resources: [../base]\nimages:\n- name: registry/checkout # the shop's own\n  newTag: \"{tag}\"\n- {{name: other, newTag: {other}}}\n"
    );
    SourceFile::new(PATH, text)
}

fn change(kind: &str, name: &str, field: &str, from: &str, to: &str) -> LiveChange {
    LiveChange {
        object: ObjectRef {
            api_version: if kind == "ConfigMap" { "v1" } else { "apps/v1" }.into(),
            kind: kind.into(),
            namespace: "shop".into(),
            name: name.into(),
        },
        field: field.parse().unwrap(),
        from: Some(from.into()),
        to: Some(to.into()),
    }
}

fn planned(changes: Vec<LiveChange>) -> Result<Plan, String> {
    let mut raw = story::yaml_value(story::POLICY);
    raw["steps"][0]["git"] = serde_json::json!({ "revertCommit": {} });
    let policy = serde_json::from_value::<amend_policies::policy::Policy>(raw).unwrap().compile().unwrap();
    let (live, cause) = (live(), amend_diagnosis::diagnosis::Cause { kind: cause::BAD_IMAGE.into(), ..oom() });
    let reverted = RevertedCommit {
        commit: "0123456789".repeat(4),
        subject: "release 1.1".into(),
        files: vec![RevertedFile {
            path: PATH.into(),
            now: Some(settings("1.1", "a")),
            then: Some(settings("1.0", "a")),
        }],
        rendering: Some(Rendering { folder: "apps/shop".into(), target_namespace: None, changes }),
        forward_only: false,
    };
    // No file is known to hold the target: none is edited.
    let inputs = Planning { reverted: Some(reverted), source: None, ..planning(&policy, &cause, &live) };
    let source = |error: amend_policies::planning::NoPlan| std::error::Error::source(&error).unwrap().to_string();
    make_plan(&inputs).map(|planned| planned.plan).map_err(source)
}

#[test]
fn the_target_is_expected_to_show_what_the_files_render_to() {
    let plan = planned(vec![
        change("Deployment", "checkout", IMAGE, "registry/checkout:1.1", "registry/checkout:1.0"),
        change("Deployment", "worker", IMAGE, "registry/checkout:1.1", "registry/checkout:1.0"),
    ])
    .unwrap();
    let expected: Vec<(String, Option<&str>)> =
        plan.expected.iter().map(|one| (one.field.to_string(), one.value.as_deref())).collect();
    assert_eq!(expected, [(IMAGE.to_owned(), Some("registry/checkout:1.0"))], "the other one is not the target");
    assert_eq!(plan.steps[0].footprint.restarts_pods, 4, "the template changes");
    assert_eq!(plan.live_changes().len(), 2);
    let edits: Vec<String> =
        plan.steps[0].files[0].edits.iter().map(|edit| format!("{}: {}", edit.object, edit.field)).collect();
    assert_eq!(edits, [format!("Kustomization {PATH}: images[registry/checkout].newTag")]);
}

#[test]
fn what_the_cluster_shows_otherwise_is_rendered_otherwise_and_not_taken_back() {
    let why = planned(vec![change("Deployment", "checkout", IMAGE, "registry/checkout:1.2", "registry/checkout:1.0")]);
    assert!(why.unwrap_err().contains("renders otherwise than the cluster shows it"));
    let why = planned(vec![change("Deployment", "worker", IMAGE, "registry/checkout:1.1", "registry/checkout:1.0")]);
    assert!(why.unwrap_err().contains("changes neither Deployment shop/checkout nor a ConfigMap"));
}

#[test]
fn an_undo_among_other_releases_in_one_file_touches_its_own_tag_only() {
    let plan = planned(vec![change("Deployment", "checkout", IMAGE, "registry/checkout:1.1", "registry/checkout:1.0")]);
    let undo = plan.unwrap().steps[0].undo.files[0].clone();
    let back = manifest::replay(&settings("1.0", "b"), &undo.edits).unwrap();
    assert_eq!(back.text, settings("1.1", "b").text);
    let moved = manifest::replay(&settings("1.3", "b"), &undo.edits).unwrap_err();
    assert!(matches!(moved, Refusal::Moved { .. }), "{moved}");
}

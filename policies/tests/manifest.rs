//! Byte-exact YAML edits: examples of every layout that people use, and refusals.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

use amend_policies::field::FieldPath;
use amend_policies::manifest::{self, Edited, Refusal};
use amend_policies::plan::{FieldEdit, ObjectRef, SourceFile};

const LIMIT: &str = "spec.template.spec.containers[app].resources.limits.memory";
const IMAGE: &str = "spec.template.spec.containers[app].image";

fn checkout() -> ObjectRef {
    ObjectRef {
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        namespace: "shop".into(),
        name: "checkout".into(),
    }
}

fn path(text: &str) -> FieldPath {
    text.parse().unwrap()
}

/// A Deployment whose container has these lines below its name.
fn deployment(container: &str) -> String {
    let head = "# the checkout service\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: checkout\n  namespace: shop\n";
    let spec = "spec:\n  template:\n    spec:\n      containers:\n      - name: app # main\n";
    let lines: String = container.lines().map(|line| format!("        {line}\n")).collect();
    format!("{head}{spec}{lines}      - name: log\n        image: log:1\n")
}

fn set(text: &str, field: &str, to: &str) -> Result<Edited, Refusal> {
    manifest::set(&SourceFile::new("checkout.yaml", text), &checkout(), &path(field), to)
}

fn sentence(text: &str, field: &str, to: &str) -> String {
    set(text, field, to).unwrap_err().to_string()
}

#[test]
fn one_value_changes_and_every_other_byte_stays() {
    for (before, after) in [
        (
            "resources:\n  limits:\n    memory: 256Mi # see #12\n    cpu: 1",
            "resources:\n  limits:\n    memory: 384Mi # see #12\n    cpu: 1",
        ),
        ("resources:\n  limits:\n    memory: \"256Mi\"", "resources:\n  limits:\n    memory: \"384Mi\""),
        ("resources:\n  limits: { cpu: 1,  memory: '256Mi' }", "resources:\n  limits: { cpu: 1,  memory: '384Mi' }"),
        ("resources: {limits: {memory: 256Mi}}  # tight", "resources: {limits: {memory: 384Mi}}  # tight"),
        (
            "\"resources\":\n   \"limits\":\n     memory:    256Mi",
            "\"resources\":\n   \"limits\":\n     memory:    384Mi",
        ),
        ("resources:\n  limits:\n    memory: 268435456", "resources:\n  limits:\n    memory: 384Mi"),
        ("resources:\n  limits:\n    memory:\n    cpu: 1", "resources:\n  limits:\n    memory: 384Mi\n    cpu: 1"),
        ("resources:\n  limits:\n    memory: &m 256Mi", "resources:\n  limits:\n    memory: &m 384Mi"),
    ] {
        let edited = set(&deployment(before), LIMIT, "384Mi").unwrap();
        assert_eq!(edited.file.text, deployment(after));
        assert!(edited.changed);
        let line = edited.file.text.lines().nth(edited.edit.line as usize - 1).unwrap();
        assert!(line.contains("384Mi"), "{line}");
    }
}

#[test]
fn a_missing_limit_is_added_where_people_would_write_it() {
    for (before, after) in [
        (
            "resources:\n  limits:\n    cpu: 1 # one\nports: []",
            "resources:\n  limits:\n    cpu: 1 # one\n    memory: 384Mi\nports: []",
        ),
        ("resources:\n  requests:\n    cpu: 1", "resources:\n  requests:\n    cpu: 1\n  limits:\n    memory: 384Mi"),
        ("image: app:1", "image: app:1\nresources:\n  limits:\n    memory: 384Mi"),
        ("image: app:1\nresources: {}", "image: app:1\nresources: {limits: {memory: 384Mi}}"),
        ("resources: {limits: {cpu: 1}}", "resources: {limits: {cpu: 1, memory: 384Mi}}"),
        ("resources:\nimage: app:1", "resources:\n  limits:\n    memory: 384Mi\nimage: app:1"),
        (
            "args:\n- --x\n- |\n  two\n  lines",
            "args:\n- --x\n- |\n  two\n  lines\nresources:\n  limits:\n    memory: 384Mi",
        ),
        ("", "resources:\n  limits:\n    memory: 384Mi"),
    ] {
        let edited = set(&deployment(before), LIMIT, "384Mi").unwrap();
        assert_eq!(edited.file.text, deployment(after));
        assert_eq!(edited.edit.from, None);
        let line = edited.file.text.lines().nth(edited.edit.line as usize - 1).unwrap();
        assert!(line.contains("384Mi"), "{line}");
    }
}

#[test]
fn an_added_value_can_be_taken_back() {
    let before = deployment("resources:\n  limits:\n    cpu: 1 # one\nports: []");
    let added = set(&before, LIMIT, "384Mi").unwrap();
    let back = manifest::remove(&added.file, &checkout(), &path(LIMIT)).unwrap();
    assert_eq!(back.file.text, before);
    let again = manifest::remove(&back.file, &checkout(), &path(LIMIT)).unwrap();
    assert!(!again.changed);
    assert_eq!(again.file.text, before);
}

#[test]
fn an_undo_keeps_what_others_changed_meanwhile() {
    let before = deployment("image: app:1\nresources:\n  limits:\n    memory: 256Mi");
    let done = set(&before, LIMIT, "384Mi").unwrap();
    let others = SourceFile::new("checkout.yaml", done.file.text.replace("app:1", "app:2"));
    let undo = FieldEdit { from: done.edit.to.clone(), to: done.edit.from.clone(), ..done.edit.clone() };
    let back = manifest::replay(&others, std::slice::from_ref(&undo)).unwrap();
    assert_eq!(back.text, before.replace("app:1", "app:2"));
    assert_eq!(manifest::replay(&back, std::slice::from_ref(&undo)).unwrap(), back, "twice is once");
    let moved = SourceFile::new("checkout.yaml", done.file.text.replace("384Mi", "1Gi"));
    let refusal = manifest::replay(&moved, &[undo]).unwrap_err().to_string();
    assert!(refusal.contains("is \"1Gi\" now, not \"384Mi\": somebody else has changed it"), "{refusal}");
}

#[test]
fn line_endings_byte_order_mark_and_a_missing_last_newline_stay() {
    let unix = deployment("resources:\n  limits:\n    cpu: 1");
    let last = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: checkout}\nspec:\n  template:\n    spec:\n      containers:\n      - image: a\n        name: app";
    for before in [
        unix.clone(),
        unix.replace('\n', "\r\n"),
        format!("\u{feff}{unix}"),
        last.to_owned(),
        last.replace('\n', "\r\n"),
    ] {
        let after = set(&before, LIMIT, "384Mi").unwrap().file.text;
        assert_eq!(after.matches("\r\n").count() == 0, !before.contains('\r'));
        assert_eq!(after.replace("\r\n", "").contains('\n'), !before.contains('\r'));
        assert_eq!(after.starts_with('\u{feff}'), before.starts_with('\u{feff}'));
        assert_eq!(after.ends_with('\n'), before.ends_with('\n'));
    }
}

#[test]
fn the_right_document_of_several_is_edited() {
    let other =
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: checkout\n  annotations: {note: \"{{ not ours }}\"}\n";
    let stranger = deployment("image: app:9").replace("namespace: shop", "namespace: bank");
    let text = format!("{other}---\n{stranger}---\n{}...\n---\n# nothing here\n", deployment("image: app:1"));
    let edited = set(&text, IMAGE, "app:2").unwrap();
    assert_eq!(edited.file.text, text.replace("app:1", "app:2"));
    assert_eq!(manifest::objects(&edited.file).unwrap().len(), 3);
}

#[test]
fn setting_what_is_there_changes_nothing() {
    let text = deployment("image: app:1");
    let edited = set(&text, IMAGE, "app:1").unwrap();
    assert!(!edited.changed);
    assert_eq!(edited.file.text, text);
}

#[test]
fn guard_comments_are_obeyed() {
    for (container, expected) in [
        ("resources:\n  limits:\n    memory: 256Mi # amend:ignore", "says amend:ignore"),
        ("resources:\n  limits:\n    # amend:ignore because of the licence\n    memory: 256Mi", "says amend:ignore"),
        ("resources: # amend:ignore\n  limits:\n    memory: 256Mi", "says amend:ignore"),
        ("resources:\n  limits:\n    memory: 256Mi\t# amend:ignore", "says amend:ignore"),
        ("resources:\n  limits:\n    memory: 256Mi # amend:max=300Mi", "amend:max=\"300Mi\""),
        ("resources:\n  limits:\n    memory: 256Mi # amend:max=lots", "amend:max=\"lots\""),
        ("resources:\n  limits:\n    memory: 256Mi # {\"$imagepolicy\": \"a:b\"}", "image automation writes"),
    ] {
        let got = sentence(&deployment(container), LIMIT, "384Mi");
        assert!(got.contains(expected) && got.contains("line "), "{got}");
    }
    assert!(set(&deployment("resources:\n  limits:\n    memory: 256Mi # amend:max=2Gi"), LIMIT, "384Mi").is_ok());
    assert!(set(&deployment("image: app:1 # '# amend:ignorable'"), IMAGE, "app:2").is_ok());
    let script = "args:\n- |\n  if true; then\n  \techo it\n  fi\nimage: app:1";
    assert!(set(&deployment(script), IMAGE, "app:2").is_ok(), "a tab in a script is a letter");
    let whole = format!("# amend:ignore\n{}", deployment("image: app:1"));
    assert!(sentence(&whole, IMAGE, "app:2").contains("amend:ignore"));
}

#[test]
fn what_is_not_safe_is_refused_with_a_sentence() {
    let shared = "env: &e\n- {name: A, value: b}\nother: *e\nimage: app:1";
    for (text, field, expected) in [
        (deployment("image: \"{{ .Values.image }}\""), IMAGE, "is a template"),
        (deployment("image: {{ .Values.image }}"), IMAGE, "template"),
        (format!("{}sops:\n  mac: x\n", deployment("image: app:1")), IMAGE, "encrypted by SOPS"),
        (deployment("image: app:1\nimage: app:2"), IMAGE, "twice"),
        (
            deployment("image: app:1").replace("name: checkout", "name: cart"),
            IMAGE,
            "holds no Deployment shop/checkout",
        ),
        (format!("{0}---\n{0}", deployment("image: app:1")), IMAGE, "2 times"),
        (deployment("resources: &r\n  limits: {memory: 256Mi}\nshadow: *r"), LIMIT, "anchor that other places use"),
        (deployment("x: &r {limits: {memory: 256Mi}}\nresources: *r"), LIMIT, "through an alias"),
        (deployment("x: &r {limits: {memory: 256Mi}}\nresources:\n  <<: *r"), LIMIT, "merge key"),
        (deployment("image: >-\n  app:1"), IMAGE, "one plain value"),
        (deployment("image: app:1\n  2"), IMAGE, "one plain value"),
        (deployment("image: !!str app:1"), IMAGE, "one plain value"),
        (deployment("image: [app]"), IMAGE, "one plain value"),
        (deployment("image: app:1").replace("app # main", "web"), IMAGE, "cannot be added"),
        (deployment("a: [\n"), IMAGE, "not YAML"),
        (deployment("resources: 5"), LIMIT, "cannot be added"),
    ] {
        let got = sentence(&text, field, "new:2");
        assert!(got.contains(expected), "{expected}: {got}");
    }
    assert!(set(&deployment(shared), IMAGE, "app:2").is_ok(), "an anchor elsewhere does not matter");
    assert!(sentence(&deployment("image: app:1"), IMAGE, "two\nlines").contains("on one line"));
}

#[test]
fn values_that_read_as_something_else_are_quoted() {
    let edited = set(
        &deployment("resources:\n  limits:\n    cpu: 500m"),
        "spec.template.spec.containers[app].resources.limits.cpu",
        "1",
    )
    .unwrap();
    assert!(edited.file.text.contains("cpu: \"1\"\n"));
    let edited = set(
        &deployment("resources:\n  limits:\n    cpu: 2"),
        "spec.template.spec.containers[app].resources.limits.cpu",
        "3",
    )
    .unwrap();
    assert!(edited.file.text.contains("cpu: 3\n"));
}

#[test]
fn values_and_names_are_read_back() {
    let file = SourceFile::new("a.yaml", deployment("image: 'app:1'\nresources:"));
    assert_eq!(manifest::value(&file, &checkout(), &path(IMAGE)).unwrap().as_deref(), Some("app:1"));
    assert_eq!(manifest::value(&file, &checkout(), &path(LIMIT)).unwrap(), None);
    let containers = path("spec.template.spec.containers");
    assert_eq!(manifest::names(&file, &checkout(), &containers).unwrap(), ["app", "log"]);
}

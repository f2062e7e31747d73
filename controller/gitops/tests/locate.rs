//! From a live object to its file: as Flux applies it, or not at all.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use amend_gitops::RepoPath;
use amend_gitops::locate::{
    self, AppliedFolder, Found, GitRepository, Homes, Kustomization, Kustomizations, LocateError, NamespacedName,
    Target, in_file, in_kustomization,
};
use amend_policies::plan::ObjectRef;
use serde_json::{Value, json};
use support::Server;

fn checkout() -> ObjectRef {
    ObjectRef {
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        namespace: "shop".into(),
        name: "checkout".into(),
    }
}

fn deployment(name: &str, namespace: &str) -> String {
    let namespace = if namespace.is_empty() { String::new() } else { format!("\n  namespace: {namespace}") };
    format!("apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {name}{namespace}\nspec:\n  replicas: 2\n")
}

fn kustomization(spec: Value) -> Kustomization {
    let mut object = json!({
        "metadata": { "namespace": "flux-system", "name": "shop" },
        "spec": { "path": "./apps/shop", "sourceRef": { "kind": "GitRepository", "name": "fleet" } },
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    Kustomization::read(&object).unwrap()
}

/// The files that say what the object looks like, as `path:line`.
async fn places(files: &[(&str, &str)], spec: Value) -> Vec<String> {
    let found = all(files, spec).await.unwrap();
    found.iter().map(|place| format!("{}:{}", place.file.path, place.line)).collect()
}

async fn found(files: &[(&str, &str)], spec: Value) -> Result<Found, LocateError> {
    all(files, spec).await.map(|mut found| found.remove(0))
}

async fn all(files: &[(&str, &str)], spec: Value) -> Result<Vec<Found>, LocateError> {
    let server = Server::with(files).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    in_kustomization(&repo, &head, &kustomization(spec), &checkout()).await
}

async fn sentence(files: &[(&str, &str)], spec: Value) -> String {
    match found(files, spec).await.unwrap_err() {
        LocateError::Unlocated(unlocated) => unlocated.sentence,
        LocateError::Git(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_plain_folder_is_searched_as_flux_generates_it() {
    let two = format!("{}---\n{}", deployment("cart", "shop"), deployment("checkout", "shop"));
    let files = [
        ("apps/shop/deep/down/all.yaml", two.as_str()),
        ("apps/shop/secret.yaml", "name: checkout\ndata: ENC[AES256_GCM,x]\n"),
        ("apps/shop/README.md", "checkout: {{ not yaml"),
        ("apps/bank/checkout.yaml", &deployment("checkout", "shop")),
    ];
    let place = found(&files, json!({})).await.unwrap();
    assert_eq!((place.file.path.as_str(), place.line), ("apps/shop/deep/down/all.yaml", 8));
    assert_eq!(place.object, checkout());
    assert_eq!(place.file.text, two);
}

#[tokio::test]
async fn resources_of_a_kustomization_are_followed_to_their_base() {
    let files = [
        ("apps/shop/kustomization.yaml", "namespace: shop\nresources:\n- ../../base\n- extra.yaml\n"),
        ("apps/shop/extra.yaml", &deployment("cart", "")),
        ("apps/shop/unused.yaml", &deployment("checkout", "")),
        ("base/kustomization.yaml", "resources: [checkout.yaml]\ncommonLabels: { a: b }\n"),
        ("base/checkout.yaml", &deployment("checkout", "")),
    ];
    let place = found(&files, json!({})).await.unwrap();
    assert_eq!(place.file.path, "base/checkout.yaml");
    assert_eq!(place.object.namespace, "");
}

#[tokio::test]
async fn flux_s_target_namespace_wins_over_the_file_s() {
    let text = deployment("checkout", "elsewhere");
    let files = [("apps/shop/checkout.yaml", text.as_str())];
    assert!(found(&files, json!({ "targetNamespace": "shop" })).await.is_ok());
    assert_eq!(sentence(&files, json!({})).await, "Deployment shop/checkout is not below apps/shop");
}

#[tokio::test]
async fn what_is_not_certain_is_refused_with_a_sentence() {
    let text = deployment("checkout", "shop");
    let text = text.as_str();
    let plain = [("apps/shop/a.yaml", text)];
    for (files, spec, expected) in [
        (
            vec![("apps/shop/a.yaml", text), ("apps/shop/b.yaml", text)],
            json!({}),
            "is defined twice below apps/shop: apps/shop/a.yaml:1 and apps/shop/b.yaml:1",
        ),
        (
            vec![
                ("apps/shop/a.yaml", text),
                ("apps/shop/kustomization.yaml", "resources: [a.yaml]\nreplacements: [{ path: p.yaml }]\n"),
            ],
            json!({}),
            "apps/shop/kustomization.yaml uses replacements, which Amend does not follow yet",
        ),
        (
            vec![("apps/shop/a.yaml", text), ("apps/shop/kustomization.yaml", "resources: [gone.yaml]\n")],
            json!({}),
            "names apps/shop/gone.yaml, which is not there",
        ),
        (
            vec![("apps/shop/kustomization.yaml", "resources: [\"https://example.com/base\"]\n")],
            json!({}),
            "takes something from another repository",
        ),
        (
            vec![("apps/shop/kustomization.yaml", "resources: [../../../up]\n")],
            json!({}),
            "leads out of the repository",
        ),
        (vec![("apps/shop/a.yaml", "kind: [unclosed checkout\n")], json!({}), "apps/shop/a.yaml is not valid YAML"),
        (
            vec![("apps/shop/x.yaml", "a: ENC[AES256_GCM,x]\n")],
            json!({}),
            "not searched: apps/shop/x.yaml: it is encrypted with SOPS",
        ),
        (plain.to_vec(), json!({ "patches": [{ "patch": "x" }] }), "changes what the files say (spec.patches)"),
        (plain.to_vec(), json!({ "kubeConfig": { "secretRef": { "name": "x" } } }), "applies to another cluster"),
    ] {
        let said = sentence(&files, spec).await;
        assert!(said.contains(expected), "{said}");
    }
    let substituted = format!("{text}  image: ${{IMAGE}}\n");
    let said =
        sentence(&[("apps/shop/a.yaml", &substituted)], json!({ "postBuild": { "substitute": { "A": "b" } } })).await;
    assert!(said.contains("that Flux replaces"), "{said}");
}

#[tokio::test]
async fn a_patch_in_a_file_of_its_own_comes_before_the_object_s_own_file() {
    let files = [
        (
            "apps/shop/kustomization.yaml",
            "namespace: shop\nresources: [../../base]\npatches: [{path: more.yaml}, {path: other.yaml}]\n",
        ),
        ("apps/shop/more.yaml", &deployment("checkout", "")),
        ("apps/shop/other.yaml", &deployment("cart", "")),
        ("base/kustomization.yaml", "resources: [shop.yaml]\npatches: [{path: less.yaml}]\n"),
        ("base/less.yaml", &deployment("checkout", "")),
        ("base/shop.yaml", &format!("{}---\n{}", deployment("cart", ""), deployment("checkout", ""))),
    ];
    assert_eq!(places(&files, json!({})).await, ["apps/shop/more.yaml:1", "base/less.yaml:1", "base/shop.yaml:7"]);
}

#[tokio::test]
async fn a_loop_of_bases_ends() {
    let files = [
        ("apps/shop/kustomization.yaml", "resources: [../other]\n"),
        ("apps/other/kustomization.yaml", "resources: [../shop]\n"),
    ];
    assert!(sentence(&files, json!({})).await.contains("bases deep"));
}

#[tokio::test]
async fn a_mapped_file_is_searched_alone() {
    let text = format!("{}---\n{}", deployment("checkout", "bank"), deployment("checkout", ""));
    let server = Server::with(&[("x/all.yaml", &text), ("y.yaml", &deployment("checkout", "shop"))]).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    let place = in_file(&repo, &head, "x/all.yaml", &checkout()).await.unwrap();
    assert_eq!((place.line, place.object.namespace.as_str()), (8, ""));

    let target = |name: &str| Target {
        name: name.into(),
        url: "https://git.example.com/shop/fleet.git".into(),
        branch: "main".into(),
        objects: vec![(checkout(), "x/all.yaml".into())],
    };
    let targets = [target("a/one"), target("a/two")];
    let (_, path) = locate::mapped(&checkout(), &targets[..1]).unwrap().unwrap();
    assert_eq!(path, "x/all.yaml");
    assert!(locate::mapped(&checkout(), &targets).unwrap_err().sentence.contains("is mapped twice"));
    assert_eq!(locate::mapped(&checkout(), &[]).unwrap(), None);
}

#[test]
fn flux_s_labels_and_objects_lead_to_the_target() {
    let label = |name: &str, value: &str| (format!("kustomize.toolkit.fluxcd.io/{name}"), value.to_owned());
    let labels = BTreeMap::from([label("name", "shop"), label("namespace", "flux-system")]);
    assert_eq!(locate::owner(&labels), Some(NamespacedName { namespace: "flux-system".into(), name: "shop".into() }));
    assert_eq!(locate::owner(&BTreeMap::new()), None);

    let source = |reference: Value| {
        GitRepository::read(&json!({
            "metadata": { "namespace": "flux-system", "name": "fleet" },
            "spec": { "url": "ssh://git@git.example.com/shop/fleet", "ref": reference },
            "status": { "artifact": { "revision": format!("main@sha1:{}", "a".repeat(40)) } },
        }))
        .unwrap()
    };
    let target =
        |url: &str| Target { name: "amend/fleet".into(), url: url.into(), branch: "main".into(), objects: vec![] };
    let fleet = target("https://git.example.com/shop/fleet.git");
    let main = source(json!({ "branch": "main" }));
    assert_eq!(main.fetched.as_ref().unwrap().as_str(), "a".repeat(40));
    assert_eq!(locate::target_of(&main, std::slice::from_ref(&fleet)).unwrap(), &fleet);
    let none = locate::target_of(&main, &[target("https://git.example.com/shop/other")]).unwrap_err();
    assert!(none.sentence.starts_with("no GitTarget serves branch main of git.example.com/shop/fleet"), "{none:?}");
    assert!(locate::target_of(&main, &[fleet.clone(), fleet.clone()]).is_err());
    let tag = source(json!({ "tag": "v1" }));
    assert!(locate::target_of(&tag, &[fleet]).unwrap_err().sentence.contains("follows a tag"));
}

#[test]
fn the_history_of_applied_revisions_is_read_newest_first() {
    let id = |letter: &str| letter.repeat(40);
    let entry = |letter: &str, status: &str| json!({ "metadata": { "revision": format!("main@sha1:{}", id(letter)) }, "lastReconciledStatus": status });
    let kustomization = Kustomization::read(&json!({
        "metadata": { "namespace": "flux-system", "name": "shop" },
        "spec": { "sourceRef": { "kind": "GitRepository", "name": "fleet", "namespace": "sources" } },
        "status": {
            "lastAppliedRevision": format!("main@sha1:{}", id("c")),
            "lastAttemptedRevision": format!("main@sha1:{}", id("d")),
            "history": [
                entry("e", "BuildFailed"), entry("d", "HealthCheckFailed"), entry("c", "ReconciliationSucceeded"), entry("b", "ReconciliationSucceeded"),
            ],
        },
    }))
    .unwrap();
    assert_eq!(kustomization.source.namespace, "sources");
    let shown: Vec<String> = kustomization.revisions().iter().map(ToString::to_string).collect();
    assert_eq!(shown, [id("d"), id("c"), id("b")]);
    assert_eq!(kustomization.attempted.unwrap().to_string(), id("d"));

    let bucket = json!({ "metadata": { "namespace": "a", "name": "b" }, "spec": { "sourceRef": { "kind": "Bucket", "name": "c" } } });
    assert!(Kustomization::read(&bucket).unwrap_err().sentence.contains("applies from a Bucket"));
}

/// Who else renders the file, for the folder that is applied for the target.
async fn elsewhere(
    files: &[(&str, &str)],
    file: &str,
    applied: Option<&str>,
    others: &[(&str, &str)],
) -> Result<Vec<String>, String> {
    let path = |text: &str| RepoPath::parse(text).unwrap();
    let server = Server::with(files).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    let others: Vec<AppliedFolder> =
        others.iter().map(|(by, folder)| AppliedFolder { by: (*by).into(), folder: path(folder) }).collect();
    let read = Kustomizations::read(&repo, &head).await.unwrap();
    read.elsewhere(&path(file), applied.map(path).as_ref(), &others)
}

/// Two environments over one base, the second over a folder between, and a third that has nothing to do with it.
fn environments(text: &str) -> Vec<(&'static str, &str)> {
    vec![
        ("base/kustomization.yaml", "resources: [checkout.yaml]\npatches: [{path: memory.yaml}]\n"),
        ("base/checkout.yaml", text),
        ("apps/shop/kustomization.yaml", "namespace: shop\nresources: [../../base]\n"),
        ("apps/staging/kustomization.yml", "namespace: staging\nresources: [../common]\n"),
        ("apps/common/kustomization.yaml", "bases:\n- ../../base/\n"),
        ("apps/bank/kustomization.yaml", "resources: [bank.yaml]\n"),
        ("apps/bank/bank.yaml", "kind: ConfigMap\n"),
    ]
}

#[tokio::test]
async fn a_base_that_another_environment_takes_in_is_known_by_that_environment_s_name() {
    let text = deployment("checkout", "");
    let files = environments(&text);
    let found = elsewhere(&files, "base/checkout.yaml", Some("apps/shop"), &[]).await.unwrap();
    assert_eq!(found, ["apps/staging"], "the outermost of a chain is named, once");
    for file in ["base/kustomization.yaml", "base/memory.yaml"] {
        assert_eq!(elsewhere(&files, file, Some("apps/shop"), &[]).await.unwrap(), ["apps/staging"], "{file}");
    }
    assert!(elsewhere(&files, "apps/shop/kustomization.yaml", Some("apps/shop"), &[]).await.unwrap().is_empty());
    assert!(elsewhere(&files, "apps/bank/bank.yaml", Some("apps/bank"), &[]).await.unwrap().is_empty());
    let mapped = elsewhere(&files, "base/checkout.yaml", None, &[]).await.unwrap();
    assert_eq!(mapped, ["apps/shop", "apps/staging"], "a mapping does not say for which of them");
    assert!(
        elsewhere(&files, "apps/bank/bank.yaml", None, &[]).await.unwrap().is_empty(),
        "one user is the target's own"
    );
}

#[tokio::test]
async fn bases_and_what_lies_beside_a_kustomization_take_part_in_what_a_folder_brings() {
    let text = deployment("checkout", "");
    let server = Server::with(&environments(&text)).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    let read = Kustomizations::read(&repo, &head).await.unwrap();
    let path = |text: &str| RepoPath::parse(text).unwrap();
    let takes_part = |file: &str| read.takes_part(&path("apps/staging"), &path(file)).unwrap();
    for file in ["base/checkout.yaml", "base/patch.json", "apps/staging/kustomization.yml", "apps/common/app.conf"] {
        assert!(takes_part(file), "{file}");
    }
    for file in ["apps/shop/kustomization.yaml", "apps/bank/bank.yaml", "README.md"] {
        assert!(!takes_part(file), "{file}");
    }
}

#[tokio::test]
async fn what_a_kustomization_that_cannot_be_read_takes_in_is_not_known() {
    let text = deployment("checkout", "");
    let mut files = environments(&text);
    files.retain(|(path, _)| *path != "apps/common/kustomization.yaml");
    files.push(("apps/common/kustomization.yaml", "bases: [../../base\n"));
    let server = Server::with(&files).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    let read = Kustomizations::read(&repo, &head).await.unwrap();
    let path = |text: &str| RepoPath::parse(text).unwrap();
    let takes_part = |folder: &str, file: &str| read.takes_part(&path(folder), &path(file));
    let why = takes_part("apps/staging", "base/checkout.yaml").unwrap_err();
    assert_eq!(why, "apps/common/kustomization.yaml cannot be read, so what it takes in is not known");
    assert_eq!(takes_part("apps/staging", "apps/common/app.conf"), Ok(true), "it lies beside");
    assert_eq!(takes_part("apps/shop", "base/checkout.yaml"), Ok(true));
    assert_eq!(takes_part("apps/shop", "apps/bank/bank.yaml"), Ok(false), "no way leads to the broken one");
}

#[tokio::test]
async fn the_outermost_namespace_decides_where_an_object_of_a_file_comes_to() {
    let text = deployment("checkout", "");
    let mut files = environments(&text);
    files.push(("plain/checkout.yaml", &text));
    files.push(("twice/kustomization.yaml", "resources: [../apps/shop, ../apps/staging]\n"));
    files.push(("broken/kustomization.yaml", "namespace: [\n"));
    let server = Server::with(&files).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    let read = std::sync::Arc::new(Kustomizations::read(&repo, &head).await.unwrap());
    let path = |text: &str| RepoPath::parse(text).unwrap();
    let only = |folder: &str, flux: Option<&str>, file: &str| {
        let applied = kustomization(json!({ "path": folder, "targetNamespace": flux }));
        Homes::applied_by(&applied, read.clone()).only(&path(file))
    };
    let said = |namespace: &str| Ok(Some(namespace.to_owned()));
    assert_eq!(only("apps/staging", None, "base/checkout.yaml"), said("staging"));
    assert_eq!(only("apps/staging", Some("live"), "base/checkout.yaml"), said("live"), "Flux stands outside of all");
    assert_eq!(only("apps/staging", None, "apps/common/app.conf"), said("staging"));
    assert_eq!(only("base", None, "base/checkout.yaml"), Ok(None), "the file says");
    assert_eq!(only("plain", Some("live"), "plain/checkout.yaml"), said("live"), "without any kustomization");
    assert!(only("twice", None, "base/checkout.yaml").unwrap_err().contains("several namespaces"));
    assert_eq!(only("twice", Some("live"), "base/checkout.yaml"), said("live"));
    let why = only("broken", None, "broken/checkout.yaml").unwrap_err();
    assert!(why.starts_with("broken/kustomization.yaml cannot be read"), "{why}");
    assert_eq!(only("broken", Some("live"), "broken/checkout.yaml"), said("live"));
}

#[tokio::test]
async fn what_collects_the_applied_folder_brings_nothing_new() {
    let text = deployment("checkout", "");
    let mut files = environments(&text);
    files.retain(|(path, _)| !path.starts_with("apps/staging") && !path.starts_with("apps/common"));
    files.push(("all/kustomization.yaml", "resources: [../apps/shop, ../apps/bank]\n"));
    assert!(elsewhere(&files, "base/checkout.yaml", Some("apps/shop"), &[]).await.unwrap().is_empty());
    files.push(("loop/kustomization.yaml", "resources: [../loop, ../base]\n"));
    assert_eq!(elsewhere(&files, "base/checkout.yaml", Some("apps/shop"), &[]).await.unwrap(), ["loop"]);
}

#[tokio::test]
async fn another_flux_kustomization_over_the_same_files_is_named() {
    let text = deployment("checkout", "");
    let files = [
        ("apps/shop/checkout.yaml", text.as_str()),
        ("apps/shop/deep/kustomization.yaml", "resources: [cart.yaml]\n"),
        ("apps/shop/deep/cart.yaml", "kind: ConfigMap\n"),
        ("apps/shop/deep/unused.yaml", "kind: ConfigMap\n"),
    ];
    let others = [("Kustomization flux-system/dev", "apps/shop"), ("Kustomization flux-system/bank", "apps/bank")];
    for (file, expected) in [
        ("apps/shop/checkout.yaml", vec!["Kustomization flux-system/dev"]),
        ("apps/shop/deep/cart.yaml", vec!["Kustomization flux-system/dev"]),
        ("apps/shop/deep/unused.yaml", vec![]),
    ] {
        assert_eq!(elsewhere(&files, file, Some("apps/shop"), &others).await.unwrap(), expected, "{file}");
    }
}

#[tokio::test]
async fn a_kustomization_that_cannot_be_read_leaves_the_question_open() {
    let text = deployment("checkout", "shop");
    let mut files = vec![("apps/shop/checkout.yaml", text.as_str()), ("apps/new/kustomization.yaml", "resources: [\n")];
    let why = elsewhere(&files, "apps/shop/checkout.yaml", Some("apps/shop"), &[]).await.unwrap_err();
    assert_eq!(why, "apps/new/kustomization.yaml cannot be read, so what it takes in is not known");
    files.push(("apps/dev/kustomization.yaml", "resources: [../shop/checkout.yaml]\n"));
    let found = elsewhere(&files, "apps/shop/checkout.yaml", Some("apps/shop"), &[]).await.unwrap();
    assert_eq!(found, ["apps/dev"], "one that is known is enough");
}

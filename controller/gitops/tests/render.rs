//! What a change of files does to the objects of a folder, read from a repository.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use amend_gitops::RepoPath;
use amend_gitops::locate::LocateError;
use amend_gitops::render::{Difference, Folder, difference};
use amend_gitops::repo::ContentChange;
use support::Server;

const CART: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: cart}
spec: {template: {spec: {containers: [{name: app, envFrom: [{configMapRef: {name: flags}}]}]}}}
";

const SETTINGS: &str = "namespace: shop
resources: [cart.yaml]
configMapGenerator:
- {name: flags, envs: [flags.env]}
- {name: files, files: [app.conf, flags.env]}
";

fn files() -> Vec<(&'static str, &'static str)> {
    vec![
        ("apps/kustomization.yaml", SETTINGS),
        ("apps/cart.yaml", CART),
        ("apps/flags.env", "LEVEL=debug\n"),
        ("apps/app.conf", "port: [80\n"),
        ("README.md", "# Shop\n"),
    ]
}

async fn changed(files: &[(&str, &str)], path: &str, after: Option<&str>) -> Result<Difference, LocateError> {
    let server = Server::with(files).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    let folder = Folder { path: RepoPath::parse("apps").unwrap(), target_namespace: None, substitutes: false };
    let before = files.iter().find(|(one, _)| *one == path).map(|(_, text)| (*text).to_owned());
    let change = ContentChange { path: RepoPath::parse(path).unwrap(), before, after: after.map(str::to_owned) };
    difference(&repo, &head, &folder, &[change]).await
}

#[tokio::test]
async fn a_file_of_any_kind_that_a_generator_packs_is_read() {
    let found = changed(&files(), "apps/flags.env", Some("LEVEL=info\n")).await.unwrap();
    let fields: Vec<String> =
        found.changes.iter().map(|change| format!("{} {}", change.object.kind, change.field)).collect();
    assert_eq!(
        fields,
        [
            "Deployment spec.template.spec.containers[app].envFrom[0].configMapRef.name",
            "ConfigMap data[\"flags.env\"]",
            "ConfigMap data.LEVEL",
        ]
    );
    assert_eq!(found.files.iter().map(ToString::to_string).collect::<Vec<_>>(), ["apps/flags.env"]);
    let conf = changed(&files(), "apps/app.conf", Some("port = 81\n")).await.unwrap();
    assert_eq!(conf.changes.len(), 1, "nobody reads that map: {:?}", conf.changes);
}

#[tokio::test]
async fn a_text_beside_the_manifests_changes_nothing_and_is_no_part_of_them() {
    let found = changed(&files(), "README.md", Some("# The shop\n")).await.unwrap();
    assert!(found.changes.is_empty() && found.files.is_empty(), "{found:?}");
}

#[tokio::test]
async fn a_packed_file_that_goes_away_is_told_and_not_taken_as_empty() {
    let said = changed(&files(), "apps/flags.env", None).await.unwrap_err().to_string();
    assert!(said.contains("a generator packs apps/flags.env, which cannot be read: it is not there"), "{said}");
}

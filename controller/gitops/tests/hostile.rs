//! Repositories that somebody made to hurt whoever reads them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use amend_gitops::repo::{CommitRequest, ContentChange, Trailers};
use amend_gitops::{GitError, RepoPath};
use support::Server;

const FILE: &str = "100644";
const FOLDER: &str = "40000";

async fn listed(server: &Server) -> Result<Vec<String>, GitError> {
    let repo = server.repo().await;
    let head = repo.fetch().await?;
    let entries = repo.list(&head, &RepoPath::root()).await?;
    Ok(entries.iter().map(|entry| entry.path.to_string()).collect())
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_not_seen() {
    let server = Server::with(&[("a.yaml", "a: 1\n")]).await;
    let blob = server.git().blob(b"evil: true\n").unwrap();
    let inner =
        server.tree(&[(FILE, "..", blob), (FILE, ".git", blob), (FILE, "x\\y.yaml", blob), (FILE, "z.yaml", blob)]);
    let root = server.tree(&[
        (FOLDER, "..", inner),
        (FOLDER, ".GIT", inner),
        (FILE, "bad\nname.yaml", blob),
        (FOLDER, "good", inner),
        ("160000", "module", blob),
    ]);
    server.commit_tree("main", root);
    assert_eq!(listed(&server).await.unwrap(), ["good/z.yaml", "module"]);
}

#[tokio::test]
async fn a_tree_that_stands_for_billions_of_files_is_given_up() {
    let server = Server::with(&[("a.yaml", "a: 1\n")]).await;
    let blob = server.git().blob(b"x\n").unwrap();
    let names: Vec<String> = (0..10).map(|n| format!("f{n}")).collect();
    let mut tree = server.tree(&[(FILE, "x.yaml", blob)]);
    for _ in 0..12 {
        tree = server.tree(&names.iter().map(|name| (FOLDER, name.as_str(), tree)).collect::<Vec<_>>());
    }
    server.commit_tree("main", tree);
    let error = listed(&server).await.unwrap_err();
    assert!(matches!(&error, GitError::FileRefused { why, .. } if why.contains("more than 50000")), "{error:?}");
}

#[tokio::test]
async fn folders_without_end_are_given_up() {
    let server = Server::with(&[("a.yaml", "a: 1\n")]).await;
    let blob = server.git().blob(b"x\n").unwrap();
    let mut tree = server.tree(&[(FILE, "x.yaml", blob)]);
    for _ in 0..500 {
        tree = server.tree(&[(FOLDER, "d", tree)]);
    }
    server.commit_tree("main", tree);
    let error = listed(&server).await.unwrap_err();
    assert!(matches!(&error, GitError::FileRefused { why, .. } if why.contains("deep")), "{error:?}");
}

#[tokio::test]
async fn a_change_below_a_link_or_a_submodule_is_refused() {
    let server = Server::with(&[("a.yaml", "a: 1\n")]).await;
    let git = server.git();
    let target = git.blob(b"/etc").unwrap();
    let module = git.refname_to_id("refs/heads/main").unwrap();
    let root = server.tree(&[("120000", "link", target), ("160000", "module", module)]);
    server.commit_tree("main", root);
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    for path in ["link", "link/passwd", "module", "module/a.yaml"] {
        for before in [None, Some("/etc".to_owned())] {
            let change = ContentChange { path: RepoPath::parse(path).unwrap(), before, after: Some("evil\n".into()) };
            let commit = repo.commit(CommitRequest {
                parent: head.clone(),
                changes: vec![change],
                subject: "x".into(),
                body: String::new(),
                trailers: Trailers { incident: "i".into(), plan: "p".into(), record: "1".into() },
                intended: "2026-11-21T12:00:00Z".parse().unwrap(),
            });
            assert!(commit.await.is_err(), "{path}");
        }
    }
    assert!(repo.file(&head, &RepoPath::parse("link/passwd").unwrap()).await.is_err());
}

//! The sandbox's forge keeps the contract that a real Gitea keeps; the live suite runs the same on the real one.

use std::collections::BTreeMap;
use std::sync::Arc;

use amend_gitops::forge::contract::{Ground, run};
use amend_gitops::{Forge, GitAccess, Gitea};
use amend_sandbox::clock::SandboxClock;
use amend_sandbox::forge::Forge as SandboxForge;
use amend_sandbox::git::Author;
use jiff::Timestamp;

#[tokio::test]
async fn the_sandbox_s_forge_keeps_the_contract() {
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let forge = SandboxForge::start(SandboxClock::stepped(now)).await.unwrap();
    forge.add_account("amend", "token-of-amend", true);
    let git = forge.create_repository("shop/fleet").unwrap();
    let files = BTreeMap::from([("README.md".to_owned(), Some("hello\n".to_owned()))]);
    git.commit("main", &files, "first", &Author { name: "Ann", email: "ann@shop.example" }, now).unwrap();

    let access = GitAccess::new(&forge.clone_url("shop/fleet"), "main")
        .unwrap()
        .with_private_addresses()
        .with_login("amend", "token-of-amend");
    let scratch = tempfile::tempdir().unwrap();
    let serving = access.clone();
    let ground = Ground {
        access,
        forge: Box::new(move |token| Ok(Arc::new(Gitea::serving(&serving, Some(&token))?) as Arc<dyn Forge>)),
        token: "token-of-amend".into(),
        file: "README.md".into(),
        scratch: scratch.path().join("repository"),
        now,
        run: "sandbox".into(),
    };
    run(&ground).await.unwrap_or_else(|broken| panic!("{broken}"));
}

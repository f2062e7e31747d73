//! The forge contract against a server that runs already; the live tests start a real Gitea and call the same suite.
//!
//!     AMEND_FORGE_REPOSITORY=http://127.0.0.1:3000/amend/fleet.git AMEND_FORGE_USER=amend AMEND_FORGE_PASSWORD=…
//!     AMEND_FORGE_TOKEN=… cargo test -p amend-gitops --features contract --test contract -- --ignored
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use amend_gitops::forge::contract::{Ground, run};
use amend_gitops::{Forge, GitAccess, Gitea};
use jiff::Timestamp;

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("set {name}"))
}

#[tokio::test]
#[ignore = "needs a running forge, named by AMEND_FORGE_*"]
async fn a_running_forge_keeps_the_contract() {
    let access = GitAccess::new(&setting("AMEND_FORGE_REPOSITORY"), "main")
        .unwrap()
        .with_private_addresses()
        .with_login(setting("AMEND_FORGE_USER"), setting("AMEND_FORGE_PASSWORD"));
    let scratch = tempfile::tempdir().unwrap();
    let now = Timestamp::now();
    let forge_access = access.clone();
    let ground = Ground {
        access,
        forge: Box::new(move |token| Ok(Arc::new(Gitea::serving(&forge_access, Some(&token))?) as Arc<dyn Forge>)),
        token: setting("AMEND_FORGE_TOKEN").into(),
        file: "README.md".into(),
        scratch: scratch.path().join("repository"),
        now,
        run: now.as_second().to_string(),
    };
    if let Err(broken) = run(&ground).await {
        panic!("{broken}");
    }
}

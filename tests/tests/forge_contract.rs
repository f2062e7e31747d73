//! One contract for every forge: the sandbox's keeps it, and so does the real Gitea that it stands in for.

use std::collections::BTreeMap;
use std::sync::Arc;

use amend_gitops::forge::contract::{Ground, run};
use amend_gitops::{Forge, GitAccess, Gitea};
use amend_sandbox::clock::SandboxClock;
use amend_sandbox::forge::Forge as SandboxForge;
use amend_sandbox::git::Author;
use amend_tests::bench::{Bench, Part};
use jiff::Timestamp;

#[tokio::test]
async fn the_sandbox_s_forge_keeps_the_contract() {
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let forge = SandboxForge::start(SandboxClock::stepped(now)).await.unwrap();
    forge.add_account("amend", "token-of-amend", true);
    let git = forge.create_repository("shop/fleet").unwrap();
    let files = BTreeMap::from([("README.md".to_owned(), Some("hello\n".to_owned()))]);
    git.commit("main", &files, "first", &Author { name: "Ann", email: "ann@shop.example" }, now).unwrap();

    keeps_the_contract(&forge.clone_url("shop/fleet"), "amend", "token-of-amend", now).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_gitea_keeps_the_contract() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::Gitea]).await?;
    let gitea = bench.gitea();
    gitea.create_org("contract").await?;
    let robot = gitea.create_user("contract-amend").await?;
    let repo = gitea.create_repo("contract", "fleet", &[("README.md", "hello\n")]).await?;
    repo.add_collaborator(&robot.name, "write").await?;
    keeps_the_contract(&repo.clone_url(), &robot.name, &robot.token, Timestamp::now()).await
}

/// Every rule of the contract, on a repository whose `main` holds a README.md.
async fn keeps_the_contract(clone_url: &str, user: &str, token: &str, now: Timestamp) -> anyhow::Result<()> {
    let access = GitAccess::new(clone_url, "main")?.with_private_addresses().with_login(user, token);
    let scratch = tempfile::tempdir()?;
    let serving = access.clone();
    let ground = Ground {
        access,
        forge: Box::new(move |token| Ok(Arc::new(Gitea::serving(&serving, Some(&token))?) as Arc<dyn Forge>)),
        token: token.into(),
        file: "README.md".into(),
        scratch: scratch.path().join("repository"),
        now,
        run: "contract".into(),
    };
    run(&ground).await.map_err(|broken| anyhow::anyhow!("{broken}"))
}

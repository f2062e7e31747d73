//! Repositories in a state that nobody wanted: the incident or the remediation says what to mend, and once it is mended the
//! work goes on.

use std::collections::BTreeMap;

use amend_sandbox::Scenario;
use amend_sandbox::git::Author;
use amend_tests::embedded::Embedded;
use anyhow::bail;

use crate::{SOON, alone, condition, incident, open_pulls, the_pull_request};

const FILE: &str = "apps/shop/checkout.yaml";

/// The text of a file on the main branch.
fn text(world: &Embedded, path: &str) -> anyhow::Result<String> {
    Ok(world.world.repository().file("main", path)?)
}

/// A person pushes these files; `None` removes one.
fn push(world: &Embedded, changes: &[(&str, Option<String>)], message: &str) -> anyhow::Result<String> {
    let author = Author { name: "lena", email: "lena@shop.example" };
    let changes: BTreeMap<String, Option<String>> =
        changes.iter().map(|(path, text)| ((*path).to_owned(), text.clone())).collect();
    Ok(world.world.repository().commit("main", &changes, message, &author, world.world.clock().now())?)
}

/// Waits until an incident or a remediation says all of these parts in one sentence.
async fn said(world: &Embedded, what: &str, parts: &[&str]) -> anyhow::Result<String> {
    let found = |world: &Embedded| world.told().into_iter().find(|told| parts.iter().all(|part| told.contains(part)));
    world.wait(&format!("{what} to be told"), SOON, found).await
}

/// The file with one text replaced.
fn with(text: &str, from: &str, to: &str) -> anyhow::Result<Option<String>> {
    if !text.contains(from) {
        bail!("the file does not hold {from:?}");
    }
    Ok(Some(text.replacen(from, to, 1)))
}

const LIMIT: &str = "memory: 256Mi  # measured in the spring load test";

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_named_and_a_new_one_is_used() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = Embedded::start(Scenario::oom()).await?;
    world.world.forge().revoke(&world.endpoints.forge_token);
    incident(&world).await?;

    said(&world, "the revoked token", &["has no plan", "credentials"]).await?;
    world.hurry();
    let refused = |world: &Embedded| {
        condition(&*world.one("gittargets.amend.dev", "amend-system", "platform")?, "Ready", "False")
    };
    let sentence = world.wait("the GitTarget to say so", SOON, refused).await?;
    assert!(sentence.contains("credentials") && !sentence.contains(&world.endpoints.forge_token), "{sentence}");
    assert!(open_pulls(&world).is_empty());

    world.world.forge().add_account("amend", "a-new-token", true);
    let secret = "{apiVersion: v1, kind: Secret, metadata: {name: platform-git, namespace: amend-system}, stringData: {username: amend, password: a-new-token}}";
    world.world.apply_yaml(secret)?;
    world.work();
    the_pull_request(&world).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_edits_the_same_line_meanwhile_wins() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = Embedded::start(Scenario::oom()).await?;
    incident(&world).await?;
    let pull = the_pull_request(&world).await?;

    let by_hand = with(&text(&world, FILE)?, LIMIT, "memory: 512Mi  # raised by hand")?;
    let commit = push(&world, &[(FILE, by_hand)], "checkout: more memory")?;
    world.hurry();
    let closed = |world: &Embedded| open_pulls(world).is_empty().then_some(());
    world.wait("our pull request to be withdrawn", SOON, closed).await?;

    let told = said(&world, "why", &["Remediation", "Withdrawn"]).await?;
    eprintln!("{told}");
    assert!(text(&world, FILE)?.contains("512Mi  # raised by hand"), "nothing of theirs is touched");
    assert_eq!(world.world.repository().head("main")?, commit, "no commit of ours on main");
    let branches = world.world.repository().branches()?;
    assert!(!branches.contains_key(&pull.head), "our branch is gone: {branches:?}");
    Ok(())
}

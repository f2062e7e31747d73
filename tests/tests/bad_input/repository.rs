//! Repositories in a state that nobody wanted: the incident or the remediation says what to mend, and once it is mended the
//! work goes on.

use std::collections::BTreeMap;
use std::process::Command;

use amend_sandbox::Scenario;
use amend_sandbox::git::Author;
use amend_tests::embedded::{Embedded, PLATFORM};
use anyhow::bail;
use jiff::SignedDuration;

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

/// Git's own command on the bare repository, for what no product code does.
fn git(world: &Embedded, arguments: &[&str]) -> anyhow::Result<String> {
    let out = Command::new("git")
        .arg("-C")
        .arg(world.world.repository().path())
        .args(["-c", "user.name=lena", "-c", "user.email=lena@shop.example"])
        .args(arguments)
        .output()?;
    if !out.status.success() {
        bail!("git {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
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

/// The GitTarget with a mapping of the object to a file.
fn mapped(world: &Embedded, path: &str) -> String {
    let at = format!("  objects: [{{ kind: Deployment, namespace: shop, name: checkout, path: {path} }}]\n");
    let target = world.filled(PLATFORM).split("---\n").last().unwrap_or_default().to_owned();
    format!("{target}{at}")
}

const LIMIT: &str = "memory: 256Mi  # measured in the spring load test";

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_without_a_usable_file_is_named_and_once_mended_it_is_used() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = Embedded::start(Scenario::oom()).await?;
    world.world.trigger()?;
    let released = |world: &Embedded| {
        let live = world.one("deployments.apps", "shop", "checkout")?;
        let image = live.pointer("/spec/template/spec/containers/0/image")?.as_str()?;
        image.ends_with("v1.9.0").then_some(())
    };
    world.wait("Flux to apply the release", SOON, released).await?;
    let good = text(&world, FILE)?;
    let (moved, settings) = ("apps/shop/orders.yaml", "apps/shop/kustomization.yaml");
    let aliased = with(&good, LIMIT, "memory: *memory")?.unwrap_or_default();
    let aliased = aliased.replacen("memory: 192Mi", "memory: &memory 256Mi", 1);
    let conflict = "<<<<<<< HEAD\n  replicas: 3\n=======\n  replicas: 4\n>>>>>>> b\n";
    let conflict = with(&good, "  replicas: 3\n", conflict)?;
    // State of the repository, and what the incident then says: never what it said before.
    type State<'a> = (&'a str, Vec<(&'a str, Option<String>)>, Vec<&'a str>);
    let states: Vec<State<'_>> = vec![
        (
            "broken YAML",
            vec![(FILE, with(&good, "spec:\n  replicas: 3", "spec:\n  replicas: [3")?)],
            vec![FILE, "is not valid YAML"],
        ),
        (
            "the object twice",
            vec![(FILE, Some(good.clone())), (moved, Some(good.clone()))],
            vec!["defined twice", FILE, moved],
        ),
        ("a conflict that was committed", vec![(moved, None), (FILE, conflict)], vec![FILE, "is not valid YAML"]),
        ("the limit as an alias", vec![(FILE, Some(aliased))], vec!["alias"]),
        (
            "a file of 1.4 MB",
            vec![(FILE, Some(format!("{good}# {}\n", "x".repeat(1_400_000))))],
            vec!["is not below apps/shop", "not searched", FILE],
        ),
        (
            "a patch that is not there",
            vec![
                (FILE, Some(good.clone())),
                (settings, Some("resources: [checkout.yaml]\npatches: [{ path: patch.yaml }]\n".to_owned())),
            ],
            vec![settings, "the patch apps/shop/patch.yaml"],
        ),
    ];
    let mut complaints = Vec::new();
    for (position, (what, changes, parts)) in states.into_iter().enumerate() {
        push(&world, &changes, what)?;
        if position == 0 {
            world.hurry();
            world
                .wait("an incident", SOON, |world| (!world.all("incidents.amend.dev").is_empty()).then_some(()))
                .await?;
            world.work();
        }
        match said(&world, what, &parts).await {
            Ok(told) => eprintln!("{what}: {told}"),
            Err(error) => complaints.push(format!("{what}: {error:#}")),
        }
        // From here on nothing but the next look is waited for.
        world.hurry();
        assert!(open_pulls(&world).is_empty(), "{what}: a pull request on such a file");
    }
    assert!(complaints.is_empty(), "{complaints:#?}");

    push(&world, &[(settings, None)], "mended")?;
    world.world.apply_yaml(&mapped(&world, "apps/shop/cart.yaml"))?;
    said(&world, "the wrong mapping", &["has no plan", "Deployment shop/checkout is not in apps/shop/cart.yaml"])
        .await?;
    assert!(open_pulls(&world).is_empty(), "a pull request on another object's file");

    world.work();
    world.world.apply_yaml(&mapped(&world, FILE))?;
    the_pull_request(&world).await?;
    Ok(())
}

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
async fn a_token_without_the_right_to_push_blocks_and_with_the_right_it_goes_on() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = Embedded::start(Scenario::oom()).await?;
    let token = world.endpoints.forge_token.clone();
    world.world.forge().add_account("amend", &token, false);
    world.hurry();
    let target = |world: &Embedded, ready: &str| {
        condition(&*world.one("gittargets.amend.dev", "amend-system", "platform")?, "Ready", ready)
    };
    let before = world.wait("the GitTarget to say so", SOON, |world| target(world, "False")).await?;
    assert!(
        before.contains("nothing can be proposed") && before.contains("let the account of Secret platform-git write"),
        "{before}"
    );
    assert!(!before.contains(&token), "{before}");
    assert!(world.all("incidents.amend.dev").is_empty(), "it is told before there is an incident");
    world.work();
    incident(&world).await?;

    let told = said(&world, "the missing right", &["Remediation", "Blocked", "credentials"]).await?;
    assert!(!told.contains(&token), "{told}");
    assert!(open_pulls(&world).is_empty());
    let blocked = world.all("remediations.amend.dev");
    let [remediation] = blocked.as_slice() else { panic!("{:#?}", world.told()) };
    let says = condition(remediation, "Stalled", "True").unwrap_or_default();
    assert!(says.contains("credentials"), "{says}");

    world.world.forge().add_account("amend", &token, true);
    world.hurry();
    the_pull_request(&world).await?;
    assert_eq!(world.all("remediations.amend.dev").len(), 1, "the same one goes on: {:#?}", world.told());
    world.wait("the GitTarget to say that it may", SOON, |world| target(world, "True")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_edits_the_same_line_meanwhile_wins_at_once() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = Embedded::start(Scenario::oom()).await?;
    incident(&world).await?;
    let pull = the_pull_request(&world).await?;

    let by_hand = with(&text(&world, FILE)?, LIMIT, "memory: 512Mi  # raised by hand")?;
    let commit = push(&world, &[(FILE, by_hand)], "checkout: more memory")?;
    let pushed_at = world.world.clock().now();
    let closed = |world: &Embedded| open_pulls(world).is_empty().then(|| world.world.clock().now());
    let closed_at = world.wait("our pull request to be withdrawn", SOON, closed).await?;
    let waited = closed_at.duration_since(pushed_at);
    assert!(waited < SignedDuration::from_mins(10), "not after half an hour of absence: {waited:?}");

    let reason = format!("{FILE}: memory limit of app was changed to 512Mi by commit {} of lena", &commit[..8]);
    said(&world, "why", &["Remediation", "Withdrawn", &reason, "this pull request was made against 256Mi"]).await?;
    let comments = world.world.forge().comments(&world.endpoints.repository, pull.number);
    let why = comments.iter().filter(|comment| comment.body.contains("512Mi")).count();
    assert_eq!(why, 1, "one comment says why: {comments:#?}");
    let branches = world.world.repository().branches()?;
    assert!(!branches.contains_key(&pull.head), "our branch is gone: {branches:?}");

    // Their limit is enough: nothing else is proposed, and the incident ends by what they did.
    world.hurry();
    let resolved = |world: &Embedded| {
        let all = world.all("incidents.amend.dev");
        all.iter().all(|one| one["status"]["phase"] == "Resolved").then_some(())
    };
    world.wait("the incident to be resolved", SOON, resolved).await?;
    assert!(text(&world, FILE)?.contains("512Mi  # raised by hand"), "nothing of theirs is touched");
    assert_eq!(world.world.repository().head("main")?, commit, "no commit of ours on main");
    assert_eq!(world.world.forge().pulls(&world.endpoints.repository).len(), 1, "no second pull request");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_makes_the_very_change_has_cured_it() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = Embedded::start(Scenario::oom()).await?;
    incident(&world).await?;
    the_pull_request(&world).await?;

    let by_hand = with(&text(&world, FILE)?, LIMIT, "memory: 384Mi  # raised by hand")?;
    push(&world, &[(FILE, by_hand)], "checkout: more memory")?;
    said(&world, "why", &["Remediation", "Withdrawn", "changed to 384Mi", "of lena", "cured by a person"]).await?;
    assert!(open_pulls(&world).is_empty());
    let counted = |world: &Embedded| {
        let policy = world.one("remediationpolicies.amend.dev", "shop", "raise-memory-after-oom")?;
        let status = &policy["status"];
        (status["curedByPeople"] == 1).then(|| status.clone())
    };
    let status = world.wait("the policy to count it", SOON, counted).await?;
    assert_eq!(status["notSucceeded"], 0, "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_base_branch_never_brings_its_old_history_back() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = Embedded::start(Scenario::oom()).await?;
    incident(&world).await?;
    let old = the_pull_request(&world).await?;

    // The history is squashed into one root commit, as people do to get rid of a leaked file.
    let root = git(&world, &["commit-tree", "main^{tree}", "-m", "history rewritten"])?;
    git(&world, &["update-ref", "refs/heads/main", &root])?;
    said(&world, "the rewritten base", &["Remediation", "Withdrawn", "history was rewritten"]).await?;

    let new =
        |world: &Embedded| open_pulls(world).into_iter().find(|pull| !pull.is_draft() && pull.number != old.number);
    let pull = world.wait("a pull request on the new history", SOON, new).await?;
    assert_eq!(open_pulls(&world).len(), 1, "the old one is closed");
    assert_eq!(pull.merge_base, root, "it stands on what main is now");
    assert_eq!(world.world.repository().head("main")?, root, "nobody but people moves main");
    Ok(())
}

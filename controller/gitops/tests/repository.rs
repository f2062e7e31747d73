//! One repository over smart HTTP: what is fetched, committed, pushed, compared and reverted.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use amend_gitops::repo::{CommitRequest, Containment, ContentChange, Heads, Limits, Pushed, Trailers};
use amend_gitops::{CommitId, GitAccess, GitError, Repo, RepoPath};
use support::Server;

const CHECKOUT: &str = "apps/shop/checkout.yaml";

/// An ed25519 key made from a fixed seed, in OpenSSH's format.
fn signing_key() -> String {
    let pair = ssh_key::private::Ed25519Keypair::from_seed(&[7; 32]);
    ssh_key::PrivateKey::from(pair).to_openssh(ssh_key::LineEnding::LF).unwrap().to_string()
}

fn path(text: &str) -> RepoPath {
    RepoPath::parse(text).unwrap()
}

fn change(path: &str, before: &str, after: &str) -> ContentChange {
    ContentChange { path: self::path(path), before: Some(before.into()), after: Some(after.into()) }
}

fn request(parent: &CommitId, changes: Vec<ContentChange>) -> CommitRequest {
    CommitRequest {
        parent: parent.clone(),
        changes,
        subject: "fix(checkout): raise the memory limit".into(),
        body: "checkout was OOM-killed".into(),
        trailers: Trailers { incident: "shop/checkout-1".into(), plan: "a1b2".into(), record: "7".into() },
        intended: "2026-11-21T12:00:00Z".parse().unwrap(),
    }
}

#[tokio::test]
async fn a_file_is_read_at_the_branch_s_head() {
    let server = Server::with(&[(CHECKOUT, "memory: 256Mi\n"), ("README.md", "hello\n")]).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    let file = repo.file(&head, &path(CHECKOUT)).await.unwrap();
    assert_eq!(file.text, "memory: 256Mi\n");
    assert_eq!(file.blob, amend_policies::plan::BlobId::of(file.text.as_bytes()).as_str());
    let listed = repo.list(&head, &RepoPath::root()).await.unwrap();
    assert_eq!(listed.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["README.md", CHECKOUT]);
    assert!(matches!(repo.file(&head, &path("apps/none.yaml")).await, Err(GitError::NoFile { .. })));
}

#[tokio::test]
async fn a_new_commit_is_seen_by_the_next_fetch_and_an_idle_fetch_is_cheap() {
    let server = Server::with(&[(CHECKOUT, "memory: 256Mi\n")]).await;
    let repo = server.repo().await;
    let first = repo.fetch().await.unwrap();
    assert_eq!(repo.fetch().await.unwrap(), first);
    let second = server.commit("main", "second", &[(CHECKOUT, "memory: 1Gi\n")]);
    assert_eq!(repo.fetch().await.unwrap(), second);
    assert_eq!(repo.file(&second, &path(CHECKOUT)).await.unwrap().text, "memory: 1Gi\n");
}

#[tokio::test]
async fn a_rewritten_history_is_told_from_one_that_only_grew() {
    let server = Server::with(&[(CHECKOUT, "memory: 256Mi\n")]).await;
    let repo = server.repo().await;
    let planned = repo.fetch().await.unwrap();
    server.commit("main", "somebody else", &[("NOTES.md", "x\n")]);
    let grown = repo.fetch().await.unwrap();
    assert!(!repo.has_lost(&grown, &planned).await.unwrap());

    let git = server.git();
    let grown = git.find_reference("refs/heads/main").unwrap().peel_to_commit().unwrap();
    let (author, tree) = (grown.author().to_owned(), grown.tree().unwrap());
    let root = git.commit(None, &author, &author, "history rewritten", &tree, &[]).unwrap();
    git.reference("refs/heads/main", root, true, "forced").unwrap();
    let rewritten = repo.fetch().await.unwrap();
    assert!(repo.has_lost(&rewritten, &planned).await.unwrap());
}

#[tokio::test]
async fn one_listing_tells_where_the_base_and_another_branch_stand() {
    let server = Server::with(&[(CHECKOUT, "memory: 256Mi\n")]).await;
    let repo = server.repo().await;
    let first = repo.fetch().await.unwrap();
    let listed = server.listed();
    let heads = repo.heads("amend/none", &first).await.unwrap();
    assert_eq!(heads, Heads { base: first.clone(), branch: None });
    assert_eq!(server.listed() - listed, 1);

    let second = server.commit("main", "somebody else", &[(CHECKOUT, "memory: 300Mi\n")]);
    let ours = repo.push_new("amend/abc", &first).await.unwrap();
    assert_eq!(ours, Pushed::Now);
    let heads = repo.heads("amend/abc", &first).await.unwrap();
    assert_eq!(heads, Heads { base: second.clone(), branch: Some(first.clone()) });
    assert!(repo.contains(&second, &first).await.unwrap());
}

#[tokio::test]
async fn a_commit_that_is_here_is_held_without_asking_the_server() {
    let server = Server::with(&[(CHECKOUT, "memory: 256Mi\n")]).await;
    let repo = server.repo().await;
    let first = repo.fetch().await.unwrap();
    let second = server.commit("main", "somebody else", &[(CHECKOUT, "memory: 300Mi\n")]);
    let listed = server.listed();
    repo.hold(&first).await.unwrap();
    assert_eq!(server.listed(), listed);
    repo.hold(&second).await.unwrap();
    assert!(server.listed() > listed);
    let nowhere = CommitId::parse(&"1".repeat(40)).unwrap();
    assert!(matches!(repo.hold(&nowhere).await, Err(GitError::UnknownRevision { .. })));
}

#[tokio::test]
async fn a_signing_key_that_cannot_sign_is_refused_at_once() {
    let server = Server::with(&[(CHECKOUT, "memory: 256Mi\n")]).await;
    let refused = Repo::open(server.access().with_signing_key("not a key"), &server.scratch()).await.unwrap_err();
    assert!(refused.to_string().contains("put an OpenSSH ed25519 private key"), "{refused}");
}

#[tokio::test]
async fn the_same_request_is_the_same_commit_signed_with_trailers() {
    let server = Server::with(&[(CHECKOUT, "memory: 256Mi\n"), ("run.sh", "true\n")]).await;
    let signed = |server: &Server| server.access().with_signing_key(signing_key());
    let repo = Repo::open(signed(&server), &server.scratch()).await.unwrap();
    let other = Repo::open(signed(&server), &server.scratch()).await.unwrap();
    let head = repo.fetch().await.unwrap();
    other.fetch().await.unwrap();
    let changes = vec![change(CHECKOUT, "memory: 256Mi\n", "memory: 384Mi\n")];
    let commit = repo.commit(request(&head, changes.clone())).await.unwrap();
    assert_eq!(other.commit(request(&head, changes)).await.unwrap(), commit);
    assert!(repo.is_own(&commit).await.unwrap());
    assert!(!repo.is_own(&head).await.unwrap());

    repo.push_new("amend/abc", &commit).await.unwrap();
    let git = server.git();
    let found = git.find_commit(git2::Oid::from_str(commit.as_str()).unwrap()).unwrap();
    assert!(found.message().unwrap().ends_with("Amend-Incident: shop/checkout-1\nAmend-Plan: a1b2\nAmend-Record: 7\n"));
    assert_eq!(found.time().seconds(), 1_795_262_400);
    let (seal, _) = git.extract_signature(&found.id(), None).unwrap();
    assert!(seal.starts_with(b"-----BEGIN SSH SIGNATURE-----"));
}

#[tokio::test]
async fn a_commit_is_refused_when_the_file_is_not_what_the_plan_saw() {
    let server = Server::with(&[(CHECKOUT, "memory: 512Mi\n")]).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    let stale = repo.commit(request(&head, vec![change(CHECKOUT, "memory: 256Mi\n", "memory: 384Mi\n")])).await;
    assert!(matches!(stale, Err(GitError::FileMoved { .. })), "{stale:?}");
    let nothing = repo.commit(request(&head, vec![change(CHECKOUT, "memory: 512Mi\n", "memory: 512Mi\n")])).await;
    assert!(matches!(nothing, Err(GitError::Empty)), "{nothing:?}");
}

#[tokio::test]
async fn a_push_creates_is_repeatable_and_never_overwrites() {
    let server = Server::with(&[(CHECKOUT, "memory: 256Mi\n")]).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    let commit = |to: &str| repo.commit(request(&head, vec![change(CHECKOUT, "memory: 256Mi\n", to)]));
    let first = commit("memory: 384Mi\n").await.unwrap();
    let second = commit("memory: 512Mi\n").await.unwrap();

    assert_eq!(repo.push_new("amend/abc", &first).await.unwrap(), Pushed::Now);
    assert_eq!(repo.push_new("amend/abc", &first).await.unwrap(), Pushed::AlreadyThere);
    let taken = repo.push_new("amend/abc", &second).await;
    assert!(matches!(taken, Err(GitError::Taken { .. })), "{taken:?}");
    assert_eq!(repo.branch_head("amend/abc").await.unwrap(), Some(first.clone()));

    let foreign = server.commit("amend/abc", "a person helps", &[("NOTES.md", "x\n")]);
    let on_top = repo.push_on("amend/abc", &first, &second).await;
    assert!(matches!(on_top, Err(GitError::Moved { .. })), "{on_top:?}");
    let deleted = repo.delete_branch("amend/abc", &first).await;
    assert!(matches!(deleted, Err(GitError::Moved { .. })), "{deleted:?}");
    assert_eq!(repo.branch_head("amend/abc").await.unwrap(), Some(foreign.clone()));
    repo.delete_branch("amend/abc", &foreign).await.unwrap();
    repo.delete_branch("amend/abc", &foreign).await.unwrap();
    assert_eq!(repo.branch_head("amend/abc").await.unwrap(), None);
}

#[tokio::test]
async fn a_newer_value_goes_on_top_of_our_own_commit() {
    let server = Server::with(&[(CHECKOUT, "memory: 256Mi\n")]).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    let first =
        repo.commit(request(&head, vec![change(CHECKOUT, "memory: 256Mi\n", "memory: 384Mi\n")])).await.unwrap();
    repo.push_new("amend/abc", &first).await.unwrap();
    let next =
        repo.commit(request(&first, vec![change(CHECKOUT, "memory: 384Mi\n", "memory: 512Mi\n")])).await.unwrap();
    assert_eq!(repo.push_on("amend/abc", &first, &next).await.unwrap(), Pushed::Now);
    assert_eq!(repo.branch_head("amend/abc").await.unwrap(), Some(next));
}

#[tokio::test]
async fn only_branches_of_amend_are_written() {
    let server = Server::with(&[(CHECKOUT, "memory: 256Mi\n")]).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    for branch in ["main", "feature/x", "amend/../main", "amend/a b"] {
        let refused = repo.push_new(branch, &head).await;
        assert!(matches!(refused, Err(GitError::PushRefused { .. })), "{branch}: {refused:?}");
    }
    assert!(matches!(repo.delete_branch("main", &head).await, Err(GitError::PushRefused { .. })));
}

#[tokio::test]
async fn history_is_shallow_and_deepens_once_when_a_commit_is_older() {
    let server = Server::with(&[(CHECKOUT, "memory: 1Mi\n")]).await;
    let git = server.git();
    let oldest = CommitId::parse(&git.refname_to_id("refs/heads/main").unwrap().to_string()).unwrap();
    let mut tenth = oldest.clone();
    for count in 2..=40 {
        let commit = server.commit("main", "next", &[(CHECKOUT, &format!("memory: {count}Mi\n"))]);
        if count == 10 {
            tenth = commit;
        }
    }
    let limits = Limits { depth: 5, deepest: 35, ..Limits::default() };
    let repo = Repo::open_within(server.access(), &server.scratch(), limits).await.unwrap();
    let head = repo.fetch().await.unwrap();
    assert!(matches!(repo.commit_info(&tenth).await, Err(GitError::UnknownRevision { depth: 5, .. })));
    assert_eq!(repo.fetch_back_to(&tenth).await.unwrap(), head);
    assert!(repo.contains(&head, &tenth).await.unwrap());
    assert_eq!(repo.commits_between(&tenth, &head).await.unwrap().len(), 30);
    let too_old = repo.fetch_back_to(&oldest).await;
    assert!(matches!(too_old, Err(GitError::UnknownRevision { depth: 35, .. })), "{too_old:?}");
}

#[tokio::test]
async fn a_diff_shows_what_changed_between_applied_revisions() {
    let server = Server::with(&[(CHECKOUT, "memory: 256Mi\n"), ("apps/shop/cart.yaml", "a: 1\n")]).await;
    let repo = server.repo().await;
    let before = repo.fetch().await.unwrap();
    server.commit("main", "release checkout 2.0", &[(CHECKOUT, "memory: 128Mi\n")]);
    let after = server.commit("main", "bump cart\n\nbody", &[("apps/shop/cart.yaml", "a: 2\n")]);
    repo.fetch().await.unwrap();
    let diff = repo.diff(&before, &after).await.unwrap();
    assert_eq!(diff.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["apps/shop/cart.yaml", CHECKOUT]);
    assert!(diff[1].text.contains("-memory: 256Mi\n+memory: 128Mi\n"), "{}", diff[1].text);
    assert_eq!((diff[1].added, diff[1].removed), (1, 1));
    let commits = repo.commits_between(&before, &after).await.unwrap();
    assert_eq!(
        commits.iter().map(|commit| commit.subject.as_str()).collect::<Vec<_>>(),
        ["bump cart", "release checkout 2.0"]
    );
    assert_eq!(commits[1].paths, [CHECKOUT]);
}

#[tokio::test]
async fn a_squashed_change_counts_as_contained_until_somebody_edits_it_again() {
    let server = Server::with(&[(CHECKOUT, "memory: 256Mi\n")]).await;
    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    let changes = vec![change(CHECKOUT, "memory: 256Mi\n", "memory: 384Mi\n")];
    let commit = repo.commit(request(&head, changes.clone())).await.unwrap();
    assert_eq!(repo.contains_change(&head, &commit, &changes).await.unwrap(), Containment::Absent);
    let squashed = server.commit("main", "squashed (#1)", &[(CHECKOUT, "memory: 384Mi\n")]);
    let later = server.commit("main", "unrelated", &[("x.yaml", "a: 1\n")]);
    let edited = server.commit("main", "again", &[(CHECKOUT, "memory: 1Gi\n")]);
    repo.fetch().await.unwrap();
    for revision in [&squashed, &later] {
        let contained = repo.contains_change(revision, &commit, &changes).await.unwrap();
        assert_eq!(contained, Containment::SameContents);
    }
    assert_eq!(repo.contains_change(&edited, &commit, &changes).await.unwrap(), Containment::Absent);
    assert_eq!(repo.contains_change(&commit, &commit, &changes).await.unwrap(), Containment::Ancestor);
}

#[tokio::test]
async fn a_revert_undoes_the_guilty_commit_and_keeps_what_came_after() {
    let lines = |image: &str, replicas: u32| {
        format!("image: {image}\nname: checkout\nport: 80\nx: y\nz: q\nreplicas: {replicas}\n")
    };
    let server = Server::with(&[(CHECKOUT, &lines("a:1", 2))]).await;
    let repo = server.repo().await;
    let guilty = server.commit("main", "release a:2", &[(CHECKOUT, &lines("a:2", 2)), ("new.yaml", "b: 1\n")]);
    let head = server.commit("main", "scale", &[(CHECKOUT, &lines("a:2", 5))]);
    repo.fetch().await.unwrap();
    let revert = repo.revert(&guilty, &head).await.unwrap();
    assert_eq!(
        revert.changes,
        [
            change(CHECKOUT, &lines("a:2", 5), &lines("a:1", 5)),
            ContentChange { path: path("new.yaml"), before: Some("b: 1\n".into()), after: None },
        ]
    );
    let files = revert.files();
    assert_eq!((files[1].path.as_str(), files[1].then.is_none()), ("new.yaml", true));
    let commit = repo.commit(request(&head, revert.changes)).await.unwrap();
    let files = repo.list(&commit, &RepoPath::root()).await.unwrap();
    assert_eq!(files.len(), 1);

    let clash = server.commit("main", "release a:3", &[(CHECKOUT, &lines("a:3", 5))]);
    repo.fetch().await.unwrap();
    match repo.revert(&guilty, &clash).await {
        Err(GitError::RevertConflict { paths, .. }) => assert_eq!(paths, [CHECKOUT]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn files_that_are_not_plain_text_are_refused() {
    let sops = "data: ENC[AES256_GCM,data:x]\nsops:\n  mac: y\n";
    let large = "x".repeat(1024 * 1024 + 1);
    let server = Server::with(&[("secret.yaml", sops), ("large.yaml", &large), ("plain.yaml", "a: 1\n")]).await;
    let git = server.git();
    let tree = git.find_reference("refs/heads/main").unwrap().peel_to_tree().unwrap();
    let target = git.blob(b"/etc/passwd").unwrap();
    let mut update = git2::build::TreeUpdateBuilder::new();
    update.upsert("link.yaml", target, git2::FileMode::Link);
    let tree = git.find_tree(update.create_updated(&git, &tree).unwrap()).unwrap();
    let who = git2::Signature::now("x", "x@example.com").unwrap();
    let parent = git.find_reference("refs/heads/main").unwrap().peel_to_commit().unwrap();
    git.commit(Some("refs/heads/main"), &who, &who, "link", &tree, &[&parent]).unwrap();

    let repo = server.repo().await;
    let head = repo.fetch().await.unwrap();
    for name in ["secret.yaml", "large.yaml", "link.yaml"] {
        let refused = repo.file(&head, &path(name)).await;
        assert!(matches!(refused, Err(GitError::FileRefused { .. })), "{name}: {refused:?}");
    }
    let through =
        ContentChange { path: path("link.yaml"), before: Some("/etc/passwd".into()), after: Some("x".into()) };
    let refused = repo.commit(request(&head, vec![through])).await;
    assert!(matches!(refused, Err(GitError::FileRefused { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_refused_password_a_missing_repository_and_a_redirect_are_told_apart() {
    let server = Server::with(&[("a", "b\n")]).await;
    let server = &server;
    let try_url = |url: String, password: &'static str| async move {
        let access = GitAccess::new(&url, "main").unwrap().with_private_addresses().with_login("amend", password);
        Repo::open(access, &server.scratch()).await.unwrap().fetch().await.unwrap_err()
    };
    let good = format!("http://{}/shop/fleet.git", server.address);
    let wrong = try_url(good.clone(), "hunter2").await;
    assert!(matches!(wrong, GitError::Unauthorized { .. }), "{wrong:?}");
    assert!(!amend_gitops::chain(&wrong).contains("hunter2"));
    let missing = try_url(good.replace("fleet", "none"), "secret").await;
    assert!(matches!(missing, GitError::NoRepository { .. }), "{missing:?}");
    let moved = try_url(good.replace("/shop/", "/moved/"), "secret").await;
    assert!(matches!(moved, GitError::Answered { status: 302, .. }), "{moved:?}");
    let nobody = try_url("http://127.0.0.1:1/a/b".into(), "secret").await;
    assert!(matches!(nobody, GitError::Unreachable { .. }) && nobody.retry(), "{nobody:?}");
}

#[tokio::test]
async fn a_repository_that_is_too_large_or_too_slow_is_given_up() {
    let noise: String = (0..200_000u64).map(|n| format!("{:x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let server = Server::with(&[("noise.txt", &noise)]).await;
    let limits = Limits { received: 64 * 1024, ..Limits::default() };
    let repo = Repo::open_within(server.access(), &server.scratch(), limits).await.unwrap();
    assert!(matches!(repo.fetch().await, Err(GitError::TooLarge { .. })));

    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a/b", silent.local_addr().unwrap());
    let access = GitAccess::new(&url, "main").unwrap().with_private_addresses();
    let limits = Limits { network: std::time::Duration::from_millis(200), ..Limits::default() };
    let repo = Repo::open_within(access, &server.scratch(), limits).await.unwrap();
    assert!(matches!(repo.fetch().await, Err(GitError::TimedOut { .. })));
}

#[tokio::test]
async fn a_scratch_folder_is_used_again_and_a_broken_one_is_replaced() {
    let server = Server::with(&[("a.yaml", "a: 1\n")]).await;
    let folder = server.scratch();
    let head = Repo::open(server.access(), &folder).await.unwrap().fetch().await.unwrap();
    let again = Repo::open(server.access(), &folder).await.unwrap();
    assert_eq!(again.file(&head, &path("a.yaml")).await.unwrap().text, "a: 1\n");
    std::fs::write(folder.join("HEAD"), "rubbish").unwrap();
    let healed = Repo::open(server.access(), &folder).await.unwrap();
    assert_eq!(healed.fetch().await.unwrap(), head);
}

//! How Gitea's refusals are read, and what its reviews mean. What Gitea itself does is in the contract suite.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use amend_gitops::forge::{Observation, PullRequestState, ReviewVerdict};
use amend_gitops::{Forge, ForgeError, GitAccess, Gitea, chain};
use axum::Router;
use axum::body::Body;
use axum::http::{Response, Uri};
use jiff::Timestamp;
use serde_json::{Value, json};

/// A server that answers every request alike.
async fn answering(status: u16, headers: &'static [(&'static str, &'static str)], body: String) -> Gitea {
    serving(Router::new().fallback(move || {
        let body = body.clone();
        async move {
            let response =
                headers.iter().fold(Response::builder().status(status), |all, (name, value)| all.header(*name, *value));
            response.body(Body::from(body)).unwrap()
        }
    }))
    .await
}

async fn serving(app: Router) -> Gitea {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/shop/fleet.git", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let access = GitAccess::new(&url, "main").unwrap().with_private_addresses();
    Gitea::serving(&access, Some(&"hunter2".into())).unwrap()
}

async fn refusal(status: u16, body: Value) -> ForgeError {
    answering(status, &[("retry-after", "7")], body.to_string()).await.find(Timestamp::UNIX_EPOCH).await.unwrap_err()
}

#[tokio::test]
async fn each_refusal_says_what_to_do_about_it() {
    let message = json!({ "message": "no such thing `x` @admin\n\u{1b}[31m" });
    let unauthorized = refusal(401, message.clone()).await;
    assert!(matches!(unauthorized, ForgeError::Unauthorized { .. }) && unauthorized.retry().is_none());
    assert!(!chain(&unauthorized).contains("hunter2"));
    let forbidden = refusal(403, message.clone()).await;
    assert!(forbidden.to_string().ends_with("lacks the right to list pull requests"), "{forbidden}");
    assert!(matches!(refusal(404, message.clone()).await, ForgeError::NotFound { .. }));
    let conflict = refusal(409, message.clone()).await;
    assert!(matches!(&conflict, ForgeError::Conflict { why, .. } if why == "no such thing `x` @admin"), "{conflict:?}");
    assert!(!conflict.in_doubt());
    assert_eq!(refusal(429, message.clone()).await.retry(), Some(Duration::from_secs(7)));
    let broken = refusal(502, Value::Null).await;
    assert!(broken.in_doubt() && broken.retry().is_some(), "{broken:?}");
    let odd = refusal(200, json!({ "not": "a list" })).await;
    assert!(matches!(odd, ForgeError::Malformed { .. }) && odd.in_doubt(), "{odd:?}");
    let refused = refusal(422, message).await;
    assert!(matches!(refused, ForgeError::Refused { .. }), "{refused:?}");
}

#[tokio::test]
async fn an_endless_answer_and_a_redirect_are_not_followed() {
    let endless = answering(200, &[], "[".repeat(9 * 1024 * 1024)).await;
    let error = endless.find(Timestamp::UNIX_EPOCH).await.unwrap_err();
    assert!(matches!(error, ForgeError::TooLarge { .. }), "{error:?}");
    let moved = answering(302, &[("location", "http://127.0.0.1:1/")], String::new()).await;
    let error = moved.find(Timestamp::UNIX_EPOCH).await.unwrap_err();
    assert!(matches!(error, ForgeError::Unavailable { status: 302, .. }), "{error:?}");
}

#[tokio::test]
async fn what_the_account_may_not_do_is_told_before_it_is_tried() {
    let told = async |repository: Value| answering(200, &[], repository.to_string()).await.may_propose().await;
    assert!(told(json!({ "archived": false, "permissions": { "push": true } })).await.is_ok());
    assert!(told(json!({})).await.is_ok(), "what is not told shows when it is used");
    let reads = told(json!({ "permissions": { "admin": false, "push": false, "pull": true } })).await.unwrap_err();
    assert!(matches!(&reads, ForgeError::Forbidden { doing, .. } if doing.contains("open pull requests")), "{reads:?}");
    let archived = told(json!({ "archived": true, "permissions": { "push": true } })).await.unwrap_err();
    assert!(matches!(&archived, ForgeError::Refused { why, .. } if why.contains("archived")), "{archived:?}");
}

fn pull(number: u64, branch: &str, head_repository: u64) -> Value {
    json!({
        "number": number, "html_url": "http://x/1", "title": "WIP: raise it", "body": "text", "state": "open",
        "head": { "label": branch, "ref": branch, "sha": "a".repeat(40), "repo_id": head_repository },
        "base": { "label": "main", "ref": "main", "sha": "b".repeat(40), "repo_id": 1 },
        "labels": null, "user": { "login": "bot" }, "mergeable": true,
        "created_at": "2026-11-21T12:00:00+01:00", "updated_at": "2026-11-21T12:00:00Z",
    })
}

#[tokio::test]
async fn only_amends_branches_of_this_repository_are_its_own() {
    let gitea = serving(Router::new().fallback(|uri: Uri| async move {
        let open = uri.query().unwrap_or_default().contains("state=open");
        let ours = [pull(1, "amend/abc", 1), pull(2, "feature", 1), pull(3, "amend/abc", 2)];
        if open { json!(ours).to_string() } else { "[]".to_owned() }
    }))
    .await;
    let found = gitea.find(Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(found.iter().map(|pull| pull.number).collect::<Vec<_>>(), [1]);
    assert!(found[0].draft && found[0].title == "raise it" && found[0].state == PullRequestState::Open);
}

async fn observed(reviews: Value) -> Observation {
    let gitea = serving(Router::new().fallback(move |uri: Uri| {
        let reviews = reviews.to_string();
        async move { if uri.path().ends_with("/reviews") { reviews } else { pull(1, "amend/abc", 1).to_string() } }
    }))
    .await;
    gitea.observe(1).await.unwrap()
}

#[tokio::test]
async fn an_approval_counts_for_the_commit_that_was_seen_and_until_taken_back() {
    let review = |by: &str, state: &str, commit: &str, minute: u32| {
        let at = format!("2026-11-21T12:{minute:02}:00Z");
        json!({ "user": { "login": by }, "state": state, "commit_id": commit.repeat(40), "submitted_at": at })
    };
    let mut dismissed = review("dora", "APPROVED", "a", 9);
    dismissed["dismissed"] = json!(true);
    let seen = observed(json!([
        review("ann", "APPROVED", "a", 1),
        review("bob", "APPROVED", "c", 2),
        review("cid", "APPROVED", "a", 3),
        review("cid", "REQUEST_CHANGES", "a", 4),
        review("ann", "COMMENT", "a", 5),
        dismissed,
    ]))
    .await;
    assert_eq!(seen.approvals().into_iter().collect::<Vec<_>>(), ["ann"]);
    assert_eq!(seen.objections().into_iter().collect::<Vec<_>>(), ["cid"]);
    assert!(seen.reviews.iter().any(|review| review.verdict == ReviewVerdict::Neutral));
}

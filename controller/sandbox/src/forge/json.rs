//! The forge's things in Gitea's JSON.

use serde_json::{Value, json};

use super::desk::{Comment, Desk, Label, Pull, Review, Status};
use crate::git::Commit;

pub fn user(login: &str) -> Value {
    let id = login.bytes().fold(7_u64, |hash, byte| (hash * 31 + u64::from(byte)) % 1_000_000);
    json!({ "id": id, "login": login, "username": login, "full_name": "", "email": format!("{login}@shop.example"), "is_admin": false })
}

pub fn repository(desk: &Desk, url: &str, may_push: bool) -> Value {
    let full = format!("{}/{}", desk.owner, desk.name);
    json!({
        "id": desk.id, "name": desk.name, "full_name": full, "owner": user(&desk.owner), "private": false, "fork": false,
        "empty": desk.git.head("main").is_err(), "archived": false, "mirror": false, "default_branch": "main",
        "html_url": format!("{url}/{full}"), "clone_url": format!("{url}/{full}.git"), "url": format!("{url}/api/v1/repos/{full}"),
        "permissions": { "admin": false, "push": may_push, "pull": true },
        "has_pull_requests": true, "allow_merge_commits": true, "allow_rebase": true, "allow_squash_merge": true,
        "default_merge_style": desk.default_merge_style, "default_delete_branch_after_merge": false,
    })
}

pub fn label(label: &Label) -> Value {
    json!({ "id": label.id, "name": label.name, "color": label.colour.trim_start_matches('#'), "description": "" })
}

pub fn status(status: &Status, url: &str) -> Value {
    json!({
        "id": status.id, "status": status.state, "context": status.context, "description": status.description,
        "target_url": status.target_url, "url": url, "creator": user(&status.by), "created_at": status.at, "updated_at": status.at,
    })
}

pub fn comment(comment: &Comment, desk: &Desk, url: &str) -> Value {
    let full = format!("{}/{}", desk.owner, desk.name);
    let page = format!("{url}/{full}/pulls/{}", comment.issue);
    json!({
        "id": comment.id, "body": comment.body, "user": user(&comment.by), "html_url": format!("{page}#issuecomment-{}", comment.id),
        "pull_request_url": page, "issue_url": "", "created_at": comment.created, "updated_at": comment.updated,
    })
}

pub fn review(review: &Review) -> Value {
    json!({
        "id": review.id, "user": user(&review.by), "state": review.state, "body": review.body, "commit_id": review.commit,
        "stale": false, "official": true, "dismissed": false, "submitted_at": review.at,
    })
}

pub fn pull(pull: &Pull, desk: &Desk, url: &str) -> Value {
    let full = format!("{}/{}", desk.owner, desk.name);
    let page = format!("{url}/{full}/pulls/{}", pull.number);
    let branches = desk.git.branches().unwrap_or_default();
    let reference =
        if branches.contains_key(&pull.head) { pull.head.clone() } else { format!("refs/pull/{}/head", pull.number) };
    let repo = repository(desk, url, true);
    let base_sha = branches.get(&pull.base).cloned().unwrap_or_default();
    let labels: Vec<Value> = desk.labels.iter().filter(|label| pull.labels.contains(&label.id)).map(label).collect();
    let mergeable = pull.open && !pull.is_draft() && desk.git.mergeable(&pull.base, &pull.head_sha).unwrap_or(false);
    let (_, files) = desk.git.diff(&pull.merge_base, &pull.head_sha).unwrap_or_default();
    json!({
        "id": pull.number, "number": pull.number, "url": page, "html_url": page, "diff_url": format!("{page}.diff"),
        "title": pull.title, "body": pull.body, "user": user(&pull.by), "labels": labels, "draft": pull.is_draft(),
        "state": if pull.open { "open" } else { "closed" }, "is_locked": false,
        "comments": desk.comments.iter().filter(|comment| comment.issue == pull.number).count(),
        "additions": files.iter().map(|file| file.additions).sum::<usize>(),
        "deletions": files.iter().map(|file| file.deletions).sum::<usize>(), "changed_files": files.len(),
        "mergeable": mergeable, "merged": pull.merged.is_some(),
        "merged_at": pull.merged.as_ref().map(|merged| merged.at),
        "merge_commit_sha": pull.merged.as_ref().map(|merged| merged.commit.clone()),
        "merged_by": pull.merged.as_ref().map(|merged| user(&merged.by)),
        "allow_maintainer_edit": false,
        "base": { "label": pull.base, "ref": pull.base, "sha": base_sha, "repo_id": desk.id, "repo": repo },
        "head": { "label": pull.head, "ref": reference, "sha": pull.head_sha, "repo_id": desk.id, "repo": repo },
        "merge_base": pull.merge_base, "created_at": pull.created, "updated_at": pull.updated, "closed_at": pull.closed,
    })
}

pub fn commit(commit: &Commit, desk: &Desk, url: &str) -> Value {
    let full = format!("{}/{}", desk.owner, desk.name);
    let who = json!({ "name": commit.author.0, "email": commit.author.1, "date": commit.at });
    let base = format!("{url}/api/v1/repos/{full}/git/commits");
    json!({
        "url": format!("{base}/{}", commit.sha), "sha": commit.sha, "created": commit.at, "html_url": format!("{url}/{full}/commit/{}", commit.sha),
        "commit": { "url": format!("{base}/{}", commit.sha), "author": who, "committer": who, "message": commit.message,
            "tree": { "sha": commit.tree, "url": "", "created": commit.at } },
        "parents": commit.parents.iter().map(|sha| json!({ "url": format!("{base}/{sha}"), "sha": sha, "created": commit.at })).collect::<Vec<_>>(),
    })
}

pub fn branch(name: &str, desk: &Desk, url: &str, who: &str) -> Option<Value> {
    let tip = desk.git.find(&desk.git.head(name).ok()?).ok()?;
    let protection = desk.protections.get(name);
    let rules = protection.cloned().unwrap_or_default();
    let may_merge = rules.mergers.is_empty() || rules.mergers.contains(who);
    Some(json!({
        "name": name, "protected": protection.is_some(), "required_approvals": rules.approvals,
        "enable_status_check": !rules.contexts.is_empty(), "status_check_contexts": rules.contexts,
        "user_can_push": protection.is_none(), "user_can_merge": may_merge,
        "effective_branch_protection_name": if protection.is_some() { name } else { "" },
        "commit": { "id": tip.sha, "message": tip.message, "url": format!("{url}/{}/{}/commit/{}", desk.owner, desk.name, tip.sha),
            "author": { "name": tip.author.0, "email": tip.author.1, "username": "" }, "timestamp": tip.at },
    }))
}

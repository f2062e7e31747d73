//! Requests to the forge: Git, API v1, pages.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};

use super::desk::{Comment, Desk, ForgeRefusal, Label, Pull, Review, Status};
use super::transport::{self, GitRequest, PACK_LIMIT};
use super::{Account, Shared, json as forms, page};
use crate::git::{Author, MergeStyle};

pub fn router(shared: Shared) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

async fn handle(State(shared): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, PACK_LIMIT).await else {
        return refused(&ForgeRefusal::new(413, "the body is too large"));
    };
    let path = percent_decoded(parts.uri.path());
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    if let Some(rest) = path.strip_prefix("/api/v1/") {
        let call = Call { method: &parts.method, query: &query, body: &body, who: account(&shared, &parts.headers) };
        let segments: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
        return dispatch(&shared, &call, &segments).unwrap_or_else(|refusal| refused(&refusal));
    }
    if path.contains(".git/") {
        return git(&shared, &parts, path, body).await;
    }
    page::serve(&shared, &parts.method, &path, &body)
}

fn percent_decoded(path: &str) -> String {
    let kept = path.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    url::form_urlencoded::parse(format!("p={kept}").as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

async fn git(shared: &Shared, parts: &http::request::Parts, path: String, body: Bytes) -> Response {
    let text =
        |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let pushes = path.ends_with("git-receive-pack") || query.contains("git-receive-pack");
    let who = account(shared, &parts.headers);
    match &who {
        Some(account) if !pushes || account.writes => {}
        Some(_) => return refused(&ForgeRefusal::new(403, "this account may not push")),
        None => {
            let mut response = refused(&ForgeRefusal::new(401, "Unauthorized"));
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Basic realm=\"Sandbox\""));
            return response;
        }
    }
    let request = GitRequest {
        method: parts.method.to_string(),
        path,
        query,
        content_type: text("content-type"),
        encoding: text("content-encoding"),
        protocol: text("git-protocol"),
        user: who.map(|account| account.login).unwrap_or_default(),
        body,
    };
    transport::serve(&shared.root, request).await
}

fn account(shared: &Shared, headers: &HeaderMap) -> Option<Account> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = base64::engine::general_purpose::STANDARD.decode(rest.trim()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, password) = decoded.split_once(':')?;
        return shared.account(password).or_else(|| shared.account(user));
    }
    shared.account(rest.trim())
}

struct Call<'a> {
    method: &'a Method,
    query: &'a BTreeMap<String, String>,
    body: &'a Bytes,
    who: Option<Account>,
}

impl Call<'_> {
    fn json(&self) -> Result<Value, ForgeRefusal> {
        if self.body.is_empty() {
            return Ok(json!({}));
        }
        serde_json::from_slice(self.body).map_err(|error| ForgeRefusal::new(422, error.to_string()))
    }

    fn number(&self, name: &str, otherwise: usize) -> usize {
        self.query.get(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    }

    fn page(&self, rows: Vec<Value>) -> Response {
        let (page, limit) = (self.number("page", 1).max(1), self.number("limit", 30).clamp(1, 50));
        let total = rows.len();
        let rows: Vec<Value> = rows.into_iter().skip((page - 1) * limit).take(limit).collect();
        let mut response = answer(200, &Value::Array(rows));
        response.headers_mut().insert("x-total-count", header::HeaderValue::from(total));
        response
    }
}

fn dispatch(shared: &Shared, call: &Call<'_>, path: &[&str]) -> Result<Response, ForgeRefusal> {
    if path == ["version"] {
        return Ok(answer(200, &json!({ "version": "1.26.0+sandbox" })));
    }
    let who = call.who.as_ref().ok_or_else(|| ForgeRefusal::new(401, "token is required"))?;
    if path == ["user"] {
        return Ok(answer(200, &forms::user(&who.login)));
    }
    let ["repos", owner, name, rest @ ..] = path else {
        return Err(ForgeRefusal::new(404, "The target couldn't be found."));
    };
    if *call.method != Method::GET && !who.writes {
        return Err(ForgeRefusal::new(403, "user should have a permission to write to a repo"));
    }
    let url = shared.url();
    let now = shared.clock.now();
    shared.at(&format!("{owner}/{name}"), |desk| {
        let at = Place { desk, url: &url, who: &who.login, writes: who.writes, now, call };
        match rest {
            ["pulls", rest @ ..] => pulls(at, rest),
            ["issues", rest @ ..] => issues(at, rest),
            rest => repository(at, rest),
        }
    })
}

struct Place<'a> {
    desk: &'a mut Desk,
    url: &'a str,
    who: &'a str,
    writes: bool,
    now: jiff::Timestamp,
    call: &'a Call<'a>,
}

fn repository(at: Place<'_>, path: &[&str]) -> Result<Response, ForgeRefusal> {
    let Place { desk, url, who, writes, now, call } = at;
    let body = call.json()?;
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    match (call.method.as_str(), path) {
        ("GET", []) => Ok(answer(200, &forms::repository(desk, url, writes))),
        ("GET", ["branches"]) => {
            let names = desk.git.branches()?;
            Ok(call.page(names.keys().filter_map(|name| forms::branch(name, desk, url, who)).collect()))
        }
        ("GET", ["branches", name @ ..]) => {
            let name = name.join("/");
            let branch = forms::branch(&name, desk, url, who)
                .ok_or_else(|| ForgeRefusal::new(404, format!("branch does not exist [name: {name}]")))?;
            Ok(answer(200, &branch))
        }
        ("DELETE", ["branches", name @ ..]) => {
            desk.git.delete_branch(&name.join("/"))?;
            Ok(empty())
        }
        ("GET", ["commits"]) => {
            let from = call.query.get("sha").map_or("main", String::as_str);
            let commits = desk.git.log(None, from, 500)?;
            Ok(call.page(commits.iter().map(|commit| forms::commit(commit, desk, url)).collect()))
        }
        ("GET", ["git", "commits", sha]) => Ok(answer(200, &forms::commit(&desk.git.find(sha)?, desk, url))),
        ("GET", ["compare", range]) => {
            let (base, head) =
                range.split_once("...").ok_or_else(|| ForgeRefusal::new(404, "base...head is needed"))?;
            let commits = desk.git.log(Some(base), head, 500)?;
            let rows: Vec<Value> = commits.iter().map(|commit| forms::commit(commit, desk, url)).collect();
            Ok(answer(200, &json!({ "total_commits": rows.len(), "commits": rows })))
        }
        ("GET", ["contents", file @ ..]) => {
            let path = file.join("/");
            let reference = call.query.get("ref").map_or("main", String::as_str);
            let content = desk.git.file(reference, &path)?;
            Ok(answer(
                200,
                &json!({
                    "name": file.last(), "path": path, "type": "file", "size": content.len(), "encoding": "base64",
                    "content": base64::engine::general_purpose::STANDARD.encode(&content),
                    "last_commit_sha": desk.git.find(reference)?.sha,
                    "html_url": format!("{url}/{}/{}/src/branch/{reference}/{path}", desk.owner, desk.name),
                }),
            ))
        }
        ("POST", ["statuses", sha]) => {
            let sha = desk.git.find(sha)?.sha;
            let state = text("state");
            if !matches!(state.as_str(), "pending" | "success" | "failure" | "error" | "warning") {
                return Err(ForgeRefusal::new(422, format!("unknown state {state:?}")));
            }
            let context = if text("context").is_empty() { "default".to_owned() } else { text("context") };
            let id = desk.next_id();
            let status = Status {
                id,
                context,
                state,
                description: text("description"),
                target_url: text("target_url"),
                by: who.into(),
                at: now,
            };
            let form = forms::status(&status, url);
            desk.statuses.entry(sha).or_default().push(status);
            Ok(answer(201, &form))
        }
        ("GET", ["statuses", sha] | ["commits", sha, "statuses"]) => {
            let sha = desk.git.find(sha)?.sha;
            let rows =
                desk.statuses.get(&sha).into_iter().flatten().rev().map(|status| forms::status(status, url)).collect();
            Ok(call.page(rows))
        }
        ("GET", ["commits", reference, "status"]) => {
            let sha = desk.git.find(reference)?.sha;
            let latest = desk.latest_statuses(&sha);
            let worst = ["error", "failure", "warning", "pending", "success"]
                .into_iter()
                .find(|state| latest.values().any(|status| status.state == *state));
            let rows: Vec<Value> = latest.values().map(|status| forms::status(status, url)).collect();
            Ok(answer(
                200,
                &json!({ "state": worst.unwrap_or("pending"), "sha": sha, "total_count": rows.len(), "statuses": rows }),
            ))
        }
        ("GET", ["labels"]) => Ok(call.page(desk.labels.iter().map(forms::label).collect())),
        ("POST", ["labels"]) => {
            let id = desk.next_id();
            let label = Label { id, name: text("name"), colour: text("color") };
            let form = forms::label(&label);
            desk.labels.push(label);
            Ok(answer(201, &form))
        }
        _ => Err(ForgeRefusal::new(404, "The target couldn't be found.")),
    }
}

fn pulls(at: Place<'_>, path: &[&str]) -> Result<Response, ForgeRefusal> {
    let Place { desk, url, who, now, call, .. } = at;
    let body = call.json()?;
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let shown = |desk: &Desk, number: u64| desk.pull(number).map(|pull| forms::pull(pull, desk, url));
    match (call.method.as_str(), path) {
        ("GET", []) => {
            let state = call.query.get("state").map_or("open", String::as_str);
            let mut pulls: Vec<&Pull> =
                desk.pulls.values().filter(|pull| state == "all" || (state == "open") == pull.open).collect();
            match call.query.get("sort").map(String::as_str) {
                Some("recentupdate") => pulls.sort_by_key(|pull| std::cmp::Reverse((pull.updated, pull.number))),
                Some("oldest") => {}
                _ => pulls.reverse(),
            }
            Ok(call.page(pulls.into_iter().map(|pull| forms::pull(pull, desk, url)).collect()))
        }
        ("POST", []) => {
            let head = text("head");
            let head = head.rsplit(':').next().unwrap_or_default();
            let number = desk.open(who, &text("title"), &text("body"), head, &text("base"), now)?;
            let labels: Vec<u64> = body["labels"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
            desk.pull_mut(number, now)?.labels.extend(labels);
            Ok(answer(201, &shown(desk, number)?))
        }
        (method, [number, rest @ ..]) => {
            let (digits, diff) = number.strip_suffix(".diff").map_or((*number, false), |digits| (digits, true));
            let number: u64 = digits.parse().map_err(|_| ForgeRefusal::new(404, "pull request does not exist"))?;
            match (method, rest) {
                ("GET", []) if diff => {
                    let pull = desk.pull(number)?;
                    let (text, _) = desk.git.diff(&pull.merge_base, &pull.head_sha)?;
                    Ok(plain(text))
                }
                ("GET", []) => Ok(answer(200, &shown(desk, number)?)),
                ("PATCH", []) => {
                    if let Some(state) = body["state"].as_str() {
                        desk.set_open(number, state == "open", now)?;
                    }
                    let pull = desk.pull_mut(number, now)?;
                    for (field, value) in [("title", &mut pull.title), ("body", &mut pull.body)] {
                        if let Some(text) = body[field].as_str() {
                            *value = text.to_owned();
                        }
                    }
                    Ok(answer(201, &shown(desk, number)?))
                }
                ("GET", ["files"]) => {
                    let pull = desk.pull(number)?;
                    let (_, files) = desk.git.diff(&pull.merge_base, &pull.head_sha)?;
                    Ok(call.page(files.iter().map(|file| json!({
                        "filename": file.path, "status": file.status, "additions": file.additions, "deletions": file.deletions,
                        "changes": file.additions + file.deletions,
                    })).collect()))
                }
                ("GET", ["commits"]) => {
                    let pull = desk.pull(number)?;
                    let commits = desk.git.log(Some(&pull.merge_base), &pull.head_sha, 500)?;
                    Ok(call.page(commits.iter().map(|commit| forms::commit(commit, desk, url)).collect()))
                }
                ("GET", ["merge"]) if desk.pull(number)?.merged.is_some() => Ok(empty()),
                ("POST", ["merge"]) => {
                    let style = match text("Do").as_str() {
                        "" | "merge" | "rebase-merge" => MergeStyle::Merge,
                        "squash" => MergeStyle::Squash,
                        "rebase" => MergeStyle::Rebase,
                        other => return Err(ForgeRefusal::new(422, format!("unknown way of merging {other:?}"))),
                    };
                    let head = Some(text("head_commit_id")).filter(|head| !head.is_empty());
                    let email = format!("{who}@shop.example");
                    let branch = desk.pull(number)?.head.clone();
                    desk.merge(
                        number,
                        &Author { name: who, email: &email },
                        style,
                        &text("MergeMessageField"),
                        head.as_deref(),
                        now,
                    )?;
                    if body["delete_branch_after_merge"] == json!(true) {
                        desk.git.delete_branch(&branch)?;
                    }
                    Ok(answer(200, &Value::Null))
                }
                ("GET", ["reviews"]) => Ok(call.page(desk.pull(number)?.reviews.iter().map(forms::review).collect())),
                ("POST", ["reviews"]) => {
                    let id = desk.next_id();
                    let pull = desk.pull_mut(number, now)?;
                    if pull.by == who && text("event") != "COMMENT" {
                        return Err(ForgeRefusal::new(422, "approve your own pull is not allowed"));
                    }
                    let commit = if text("commit_id").is_empty() { pull.head_sha.clone() } else { text("commit_id") };
                    let review =
                        Review { id, by: who.into(), state: text("event"), body: text("body"), commit, at: now };
                    let form = forms::review(&review);
                    pull.reviews.push(review);
                    Ok(answer(200, &form))
                }
                _ => Err(ForgeRefusal::new(404, "The target couldn't be found.")),
            }
        }
        _ => Err(ForgeRefusal::new(404, "The target couldn't be found.")),
    }
}

fn issues(at: Place<'_>, path: &[&str]) -> Result<Response, ForgeRefusal> {
    let Place { desk, url, who, now, call, .. } = at;
    let body = call.json()?;
    let parse = |text: &str| text.parse::<u64>().map_err(|_| ForgeRefusal::new(404, "issue does not exist"));
    match (call.method.as_str(), path) {
        ("GET", ["comments", id]) => {
            let id = parse(id)?;
            let comment = desk
                .comments
                .iter()
                .find(|comment| comment.id == id)
                .ok_or_else(|| ForgeRefusal::new(404, "comment does not exist"))?;
            Ok(answer(200, &forms::comment(comment, desk, url)))
        }
        ("PATCH", ["comments", id]) => {
            let id = parse(id)?;
            let comment = desk
                .comments
                .iter_mut()
                .find(|comment| comment.id == id)
                .ok_or_else(|| ForgeRefusal::new(404, "comment does not exist"))?;
            comment.body = body["body"].as_str().unwrap_or_default().to_owned();
            comment.updated = now;
            let comment = comment.clone();
            Ok(answer(200, &forms::comment(&comment, desk, url)))
        }
        ("GET", [number, "comments"]) => {
            let number = parse(number)?;
            let all: Vec<Value> = desk
                .comments
                .iter()
                .filter(|comment| comment.issue == number)
                .map(|comment| forms::comment(comment, desk, url))
                .collect();
            Ok(answer(200, &Value::Array(all)))
        }
        ("POST", [number, "comments"]) => {
            let number = parse(number)?;
            desk.pull_mut(number, now)?;
            let text = body["body"].as_str().unwrap_or_default().to_owned();
            if text.is_empty() {
                return Err(ForgeRefusal::new(422, "[Body]: Required"));
            }
            let comment =
                Comment { id: desk.next_id(), issue: number, by: who.into(), body: text, created: now, updated: now };
            let form = forms::comment(&comment, desk, url);
            desk.comments.push(comment);
            Ok(answer(201, &form))
        }
        (method @ ("POST" | "PUT"), [number, "labels"]) => {
            let number = parse(number)?;
            let ids: Vec<u64> = body["labels"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|id| {
                    id.as_u64().or_else(|| desk.labels.iter().find(|label| *id == *label.name).map(|label| label.id))
                })
                .collect();
            let pull = desk.pull_mut(number, now)?;
            if method == "PUT" {
                pull.labels.clear();
            }
            pull.labels.extend(ids);
            labels_of(desk, number)
        }
        ("DELETE", [number, "labels", id]) => {
            let (number, id) = (parse(number)?, parse(id)?);
            desk.pull_mut(number, now)?.labels.remove(&id);
            Ok(empty())
        }
        ("GET", [number, "labels"]) => labels_of(desk, parse(number)?),
        _ => Err(ForgeRefusal::new(404, "The target couldn't be found.")),
    }
}

fn labels_of(desk: &Desk, number: u64) -> Result<Response, ForgeRefusal> {
    let pull = desk.pull(number)?;
    let labels = desk.labels.iter().filter(|label| pull.labels.contains(&label.id)).map(forms::label).collect();
    Ok(answer(200, &Value::Array(labels)))
}

fn answer(code: u16, value: &Value) -> Response {
    let body = if value.is_null() { Body::empty() } else { Body::from(value.to_string()) };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json;charset=utf-8"));
    response
}

fn plain(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn empty() -> Response {
    answer(204, &Value::Null)
}

fn refused(refusal: &ForgeRefusal) -> Response {
    answer(refusal.code, &json!({ "message": refusal.message, "url": "" }))
}

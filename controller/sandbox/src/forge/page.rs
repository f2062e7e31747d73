//! Web pages of the forge: the list of pull requests, and one pull request with its buttons.

use axum::body::Body;
use axum::response::Response;
use http::{Method, StatusCode, header};

use super::Shared;
use super::desk::{Desk, ForgeRefusal, Pull};
use super::markdown;
use crate::git::{Author, MergeStyle};

/// Who presses the buttons on a page: the person at the browser.
const VISITOR: &str = "reviewer";

/// Answers a page request or the press of a button.
pub fn serve(shared: &Shared, method: &Method, path: &str, body: &[u8]) -> Response {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let result = match (method.as_str(), parts.as_slice()) {
        ("GET", [""]) => Ok(front(shared)),
        ("GET", [owner, name] | [owner, name, "pulls"]) => shared.at(&format!("{owner}/{name}"), |desk| Ok(list(desk))),
        ("GET", [owner, name, "pulls", number]) => shared.at(&format!("{owner}/{name}"), |desk| {
            let diff = number.strip_suffix(".diff");
            let pull = desk.pull(parse(diff.unwrap_or(number))?)?;
            match diff {
                Some(_) => Ok(response(
                    StatusCode::OK,
                    "text/plain; charset=utf-8",
                    desk.git.diff(&pull.merge_base, &pull.head_sha)?.0,
                )),
                None => one(desk, pull, &shared.form_key, None),
            }
        }),
        ("POST", [owner, name, "pulls", number, deed @ ("merge" | "close")]) => {
            let key =
                url::form_urlencoded::parse(body).find(|(name, _)| name == "key").map(|(_, value)| value.into_owned());
            if key.as_deref() != Some(shared.form_key.as_str()) {
                Err(ForgeRefusal::new(403, "the form is not from this forge's page"))
            } else {
                shared.at(&format!("{owner}/{name}"), |desk| press(shared, desk, parse(number)?, deed))
            }
        }
        _ => Err(ForgeRefusal::new(404, "there is nothing here")),
    };
    result.unwrap_or_else(|refusal| {
        let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        html(code, "Not possible", &format!("<h1>Not possible</h1><p>{}</p>", escape(&refusal.message)))
    })
}

fn parse(number: &str) -> Result<u64, ForgeRefusal> {
    number.parse().map_err(|_| ForgeRefusal::new(404, "pull request does not exist"))
}

fn press(shared: &Shared, desk: &mut Desk, number: u64, deed: &str) -> Result<Response, ForgeRefusal> {
    let now = shared.clock.now();
    let done = if deed == "merge" {
        let author = Author { name: VISITOR, email: "reviewer@shop.example" };
        desk.merge(number, &author, MergeStyle::Merge, "", None, now).map(|_| ())
    } else {
        desk.set_open(number, false, now)
    };
    match done {
        Ok(()) => {
            let to = format!("/{}/{}/pulls/{number}", desk.owner, desk.name);
            let mut response = response(StatusCode::SEE_OTHER, "text/plain", String::new());
            if let Ok(to) = header::HeaderValue::try_from(to) {
                response.headers_mut().insert(header::LOCATION, to);
            }
            Ok(response)
        }
        Err(refusal) => one(desk, desk.pull(number)?, &shared.form_key, Some(&refusal.message)),
    }
}

fn front(shared: &Shared) -> Response {
    let rows: String =
        shared.desks().keys().map(|name| format!("<li><a href=\"/{0}/pulls\">{0}</a></li>", escape(name))).collect();
    html(StatusCode::OK, "Sandbox forge", &format!("<h1>Sandbox forge</h1><ul>{rows}</ul>"))
}

fn list(desk: &Desk) -> Response {
    let full = format!("{}/{}", desk.owner, desk.name);
    let rows: String = desk
        .pulls
        .values()
        .rev()
        .map(|pull| {
            format!(
                "<li><span class=\"badge {0}\">{0}</span> <a href=\"/{full}/pulls/{1}\">#{1} {2}</a> <span class=dim>{3} wants {4} in {5}</span></li>",
                pull.state(), pull.number, escape(&pull.title), escape(&pull.by), escape(&pull.head), escape(&pull.base)
            )
        })
        .collect();
    let rows = if rows.is_empty() {
        "<p class=dim>No pull request yet.</p>".to_owned()
    } else {
        format!("<ul class=list>{rows}</ul>")
    };
    html(StatusCode::OK, &full, &format!("<h1>{full}</h1>{rows}"))
}

fn one(desk: &Desk, pull: &Pull, key: &str, refusal: Option<&str>) -> Result<Response, ForgeRefusal> {
    let full = format!("{}/{}", desk.owner, desk.name);
    let (diff, files) = desk.git.diff(&pull.merge_base, &pull.head_sha)?;
    let (plus, minus) =
        files.iter().fold((0, 0), |(plus, minus), file| (plus + file.additions, minus + file.deletions));
    let checks: String = desk
        .latest_statuses(&pull.head_sha)
        .values()
        .map(|status| {
            let link = if status.target_url.starts_with("http") {
                format!(" <a href=\"{}\" rel=noreferrer>details</a>", escape(&status.target_url))
            } else {
                String::new()
            };
            format!(
                "<li><span class=\"dot {}\"></span><b>{}</b> <span class=dim>{}</span>{link}</li>",
                escape(&status.state),
                escape(&status.context),
                escape(&status.description)
            )
        })
        .collect();
    let checks = if checks.is_empty() {
        "<p class=dim>No checks were reported.</p>".to_owned()
    } else {
        format!("<ul class=list>{checks}</ul>")
    };
    let comments: String = desk
        .comments
        .iter()
        .filter(|comment| comment.issue == pull.number)
        .map(|comment| {
            format!(
                "<div class=card><p class=dim>{} commented at {}</p>{}</div>",
                escape(&comment.by),
                comment.created,
                markdown::html(&comment.body)
            )
        })
        .collect();
    let labels: String = desk
        .labels
        .iter()
        .filter(|label| pull.labels.contains(&label.id))
        .map(|label| format!(" <span class=label>{}</span>", escape(&label.name)))
        .collect();
    let draft = if pull.open && pull.is_draft() { " <span class=\"badge draft\">draft</span>" } else { "" };
    let refused = refusal.map(|why| format!("<p class=refused>{}</p>", escape(why))).unwrap_or_default();
    let buttons = buttons(desk, pull, &full, key);
    let body = format!(
        "<p class=dim><a href=\"/{full}/pulls\">{full}</a></p>
<h1>{title} <span class=dim>#{number}</span></h1>
<p><span class=\"badge {state}\">{state}</span>{draft} <b>{by}</b> wants <code>{head}</code> in <code>{base}</code>
<span class=plus>+{plus}</span> <span class=minus>-{minus}</span>{labels}</p>
<div class=card>{text}</div>
<h2>Checks</h2><div class=card>{checks}</div>{refused}{buttons}
<h2>Changes</h2>{changes}{comments}",
        title = escape(&pull.title),
        number = pull.number,
        state = pull.state(),
        by = escape(&pull.by),
        head = escape(&pull.head),
        base = escape(&pull.base),
        text = markdown::html(&pull.body),
        changes = coloured(&diff),
    );
    Ok(html(StatusCode::OK, &format!("{} #{}", pull.title, pull.number), &body))
}

fn buttons(desk: &Desk, pull: &Pull, full: &str, key: &str) -> String {
    if let Some(merged) = &pull.merged {
        return format!(
            "<p class=\"card done\">Merged by <b>{}</b> at {} as <code>{}</code>.</p>",
            escape(&merged.by),
            merged.at,
            &merged.commit[..10.min(merged.commit.len())]
        );
    }
    if !pull.open {
        return "<p class=\"card dim\">Closed without merging.</p>".to_owned();
    }
    let obstacle = desk.obstacle(pull, VISITOR).map(|refusal| refusal.message);
    let disabled = if obstacle.is_some() { " disabled" } else { "" };
    let why = obstacle.map(|why| format!(" <span class=dim>{}</span>", escape(&why))).unwrap_or_default();
    let form = |deed: &str, class: &str, words: &str, disabled: &str| {
        format!(
            "<form method=post action=\"/{full}/pulls/{}/{deed}\"><input type=hidden name=key value=\"{key}\"><button class=\"{class}\"{disabled}>{words}</button></form>",
            pull.number
        )
    };
    format!(
        "<div class=buttons>{}{}{why}</div>",
        form("merge", "go", "Merge", disabled),
        form("close", "stop", "Close", "")
    )
}

fn coloured(diff: &str) -> String {
    let mut text = String::from("<pre class=diff>");
    for line in diff.lines() {
        let class = match line.as_bytes() {
            [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] | [b'd' | b'i', ..] => "meta",
            [b'@', ..] => "hunk",
            [b'+', ..] => "add",
            [b'-', ..] => "del",
            _ => "",
        };
        text.push_str(&format!("<span class=\"{class}\">{}</span>\n", escape(line)));
    }
    text.push_str("</pre>");
    text
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

const STYLE: &str = ":root{color-scheme:light dark;--line:#8884;--dim:#778;--go:#1a7f37;--stop:#b3261e;--card:#8881}
*{box-sizing:border-box}body{font:15px/1.55 system-ui,sans-serif;max-width:960px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:.3em 0}h2{font-size:1.1rem;margin:1.4em 0 .4em}a{color:#0b62c4}@media(prefers-color-scheme:dark){a{color:#79b8ff}}
.dim{color:var(--dim);font-weight:normal}.card{border:1px solid var(--line);border-radius:8px;padding:.7rem 1rem;margin:.6rem 0;overflow-x:auto}
.badge,.label{border-radius:99px;padding:.1rem .7rem;font-size:.8rem;color:#fff;background:#57606a}.badge.open{background:var(--go)}
.badge.merged{background:#8250df}.badge.closed{background:var(--stop)}.label{background:#5b7083}
.list{list-style:none;padding:0;margin:0}.list li{padding:.25rem 0}.dot{display:inline-block;width:.7rem;height:.7rem;border-radius:50%;background:#bf8700;margin-right:.5rem}
.dot.success{background:var(--go)}.dot.failure,.dot.error{background:var(--stop)}.plus{color:var(--go)}.minus{color:var(--stop)}
.buttons{display:flex;gap:.6rem;align-items:center;margin:1rem 0}button{font:inherit;font-weight:600;border:0;border-radius:6px;padding:.5rem 1.3rem;color:#fff;cursor:pointer}
.go{background:var(--go)}.stop{background:#57606a}button:disabled{opacity:.45;cursor:not-allowed}.refused{color:var(--stop);font-weight:600}
pre,code{font:13px/1.45 ui-monospace,monospace}pre{background:var(--card);padding:.7rem;border-radius:6px;overflow-x:auto}code{background:var(--card);padding:.1em .3em;border-radius:4px}pre code{background:none;padding:0}
.diff span{display:inline-block;min-width:100%}.add{background:#2da44e33}.del{background:#cf222e33}.hunk{color:#0b62c4}.meta{color:var(--dim)}
table{border-collapse:collapse;margin:.5rem 0}th,td{border:1px solid var(--line);padding:.25rem .6rem;text-align:left;vertical-align:top}blockquote{border-left:3px solid var(--line);margin:0;padding-left:1rem;color:var(--dim)}";

fn html(code: StatusCode, title: &str, body: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{}</title><style>{STYLE}</style><body>{body}</body></html>",
        escape(title)
    );
    let mut response = response(code, "text/html; charset=utf-8", page);
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, header::HeaderValue::from_static(policy));
    response
}

fn response(code: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

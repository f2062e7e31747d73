//! What pages have in common: an incident in one line, the page of a problem, and how a page is sent.

use amend_diagnosis::signal::Severity;
use askama::Template;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Redirect, Response};
use jiff::Timestamp;

use super::timeline::span_in_words;
use super::views::{IncidentRow, PullRequestView, Reader, ViewError};
use super::{Dashboard, assets};
use crate::intake::untrusted::{link, one_line};

/// A line of the list, ready to be shown.
pub(super) struct Row {
    pub href: String,
    pub namespace: String,
    pub name: String,
    pub severity: SeverityLook,
    pub phase: String,
    pub phase_class: &'static str,
    pub because: String,
    pub entity: String,
    pub cause: Option<String>,
    pub confidence: Option<u32>,
    pub signals: u32,
    pub opened_at: String,
    pub age: String,
    pub needs_person: Option<String>,
    pub pull_request: Option<PullRequest>,
}

/// A severity by icon, word and colour, so that no one of them is needed.
#[derive(Clone, Copy)]
pub(super) struct SeverityLook {
    pub word: &'static str,
    pub class: &'static str,
}

pub(super) struct PullRequest {
    pub label: String,
    /// Only when it is a safe link.
    pub url: Option<String>,
    pub state: String,
}

pub(super) fn shown(row: IncidentRow, now: Timestamp) -> Row {
    Row {
        href: format!("/incidents/{}/{}", path_safe(&row.namespace), path_safe(&row.name)),
        severity: look(row.severity),
        phase_class: phase_class(&row.phase),
        because: one_line(&row.because, 400),
        entity: one_line(&row.entity, 200),
        // How sure we are of nothing is no news.
        confidence: row.confidence.filter(|_| row.cause.is_some()).map(percent),
        cause: row.cause.map(|cause| one_line(&cause, 300)),
        signals: row.signals,
        opened_at: row.opened_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        age: span_in_words(now.duration_since(row.opened_at)),
        needs_person: row.needs_person.map(|what| one_line(&what, 400)),
        pull_request: row.pull_request.map(pull_request),
        namespace: row.namespace,
        name: row.name,
        phase: row.phase,
    }
}

pub(super) fn look(severity: Severity) -> SeverityLook {
    match severity {
        Severity::Critical => SeverityLook { word: "Critical", class: "critical" },
        Severity::Warning => SeverityLook { word: "Warning", class: "warning" },
        Severity::Info => SeverityLook { word: "Info", class: "info" },
    }
}

/// How a phase of an incident or a remediation is coloured: at work, good, bad, or nothing special.
pub(super) fn phase_class(phase: &str) -> &'static str {
    match phase {
        "Resolved" | "Mitigated" | "Succeeded" => "good",
        "Abstained" | "Blocked" | "Held" | "Unverified" | "AwaitingApproval" => "waits",
        "Stuck" | "RolledBack" | "Undoing" => "bad",
        "Dropped" | "Joined" | "Withdrawn" | "Rejected" => "quiet",
        _ => "busy",
    }
}

pub(super) fn pull_request(request: PullRequestView) -> PullRequest {
    PullRequest { label: format!("#{}", request.number), url: link(&request.url), state: one_line(&request.state, 32) }
}

pub(super) fn percent(share: f64) -> u32 {
    // Never "100 %": nothing here is certain. The clamp keeps the cast exact.
    (share.clamp(0.0, 0.99) * 100.0).round() as u32
}

/// Kubernetes names need no escaping in a path; anything else is escaped rather than trusted to be one.
pub(super) fn path_safe(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect()
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    version: &'a str,
    user: &'a str,
    title: &'static str,
    sentence: String,
    /// The list that may be readable in one namespace.
    list: Option<&'static str>,
}

/// Who may not list everywhere is asked for a namespace.
pub(super) fn forbidden(reader: &Reader, list: &'static str, why: &str) -> Response {
    let sentence = one_line(why, 500);
    let (version, user, list) = (assets::version(), reader.name.as_str(), Some(list));
    let body = page(&ProblemPage { version, user, title: "Not allowed", sentence, list });
    (StatusCode::FORBIDDEN, body).into_response()
}

pub(super) fn problem(dashboard: &Dashboard, reader: &Reader, headers: &HeaderMap, error: &ViewError) -> Response {
    let (status, title) = match error {
        ViewError::Unauthenticated => {
            dashboard.sessions.end(headers);
            return Redirect::to("/login").into_response();
        }
        ViewError::Forbidden { .. } => (StatusCode::FORBIDDEN, "Not allowed"),
        ViewError::NotFound => (StatusCode::NOT_FOUND, "Not found"),
        ViewError::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Not reachable"),
    };
    let sentence = one_line(&error.to_string(), 500);
    let body = page(&ProblemPage { version: assets::version(), user: &reader.name, title, sentence, list: None });
    (status, body).into_response()
}

pub(super) fn page(template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, "this page could not be rendered\n").into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown_as_certain() {
        assert_eq!((percent(1.0), percent(0.924), percent(-1.0), percent(f64::NAN)), (99, 92, 0, 0));
    }
}

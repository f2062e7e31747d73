//! The page of one failed CI run.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use jiff::Timestamp;

use super::builds::{Row, shown};
use super::pages::{page, problem};
use super::views::{BuildView, Reader};
use super::{Dashboard, assets};
use crate::intake::untrusted::{self, link, one_line};

#[derive(Template)]
#[template(path = "build.html")]
struct BuildPage<'a> {
    version: &'a str,
    user: &'a str,
    row: Row,
    forge: String,
    commit: String,
    branch: String,
    result: String,
    /// The run's id, and its attempt when it is not the first.
    run: String,
    /// Only when it is a safe link.
    url: Option<String>,
    /// Line number and text.
    lines: Vec<(u32, String)>,
    diagnosed_at: Option<String>,
    deliveries: u32,
}

pub(super) async fn build(
    reader: Reader,
    State(dashboard): State<Dashboard>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    match dashboard.views.build(&reader, &namespace, &name).await {
        Ok(view) => page(&build_page(view, &reader.name, dashboard.time.now())),
        Err(error) => problem(&dashboard, &reader, &headers, &error),
    }
}

fn build_page(view: BuildView, user: &str, now: Timestamp) -> BuildPage<'_> {
    let id = one_line(&view.row.run_id, 64);
    BuildPage {
        version: assets::version(),
        user,
        forge: view.forge,
        commit: one_line(&view.row.commit, 64),
        branch: one_line(&view.row.branch, 256),
        result: one_line(&view.result, 64),
        run: match view.row.attempt {
            0 | 1 => id,
            attempt => format!("{id}, attempt {attempt}"),
        },
        url: link(&view.url),
        lines: view.lines.iter().map(|(number, text)| (*number, untrusted::lines(text, 300))).collect(),
        diagnosed_at: view.diagnosed_at.map(|at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()),
        deliveries: view.deliveries,
        row: shown(view.row, now),
    }
}

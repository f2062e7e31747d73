//! The page with all incidents.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;

use super::pages::{Row, forbidden, page, problem, shown};
use super::views::{Reader, ViewError};
use super::{Dashboard, assets};

/// What the list shows.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Filter {
    /// `all` shows what is over as well.
    #[serde(default)]
    show: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Template)]
#[template(path = "incidents.html")]
struct IncidentsPage<'a> {
    version: &'a str,
    user: &'a str,
    all: bool,
    namespace: String,
    namespaces: Vec<String>,
    rows: Vec<Row>,
    open: usize,
    over: usize,
    for_people: usize,
}

pub(super) async fn incidents(
    reader: Reader,
    State(dashboard): State<Dashboard>,
    Query(filter): Query<Filter>,
    headers: HeaderMap,
) -> Response {
    let namespace = Some(filter.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let mut rows = match dashboard.views.list(&reader, namespace).await {
        Ok(rows) => rows,
        Err(ViewError::Forbidden { why }) => return forbidden(&reader, "/incidents", &why),
        Err(error) => return problem(&dashboard, &reader, &headers, &error),
    };
    let mut namespaces: Vec<String> = rows.iter().map(|row| row.namespace.clone()).collect();
    namespaces.sort();
    namespaces.dedup();
    rows.retain(|row| filter.namespace.is_empty() || row.namespace == filter.namespace);
    let over = rows.iter().filter(|row| row.over).count();
    let open = rows.len() - over;
    let for_people = rows.iter().filter(|row| !row.over && row.needs_person.is_some()).count();
    let all = filter.show == "all";
    rows.retain(|row| all || !row.over);
    // What waits for a person first, then the loudest, then the newest.
    rows.sort_by(|left, right| {
        (left.over, left.needs_person.is_none(), right.severity, right.opened_at, &left.namespace, &left.name).cmp(&(
            right.over,
            right.needs_person.is_none(),
            left.severity,
            left.opened_at,
            &right.namespace,
            &right.name,
        ))
    });
    let now = dashboard.time.now();
    page(&IncidentsPage {
        version: assets::version(),
        user: &reader.name,
        all,
        namespace: filter.namespace,
        namespaces,
        rows: rows.into_iter().map(|row| shown(row, now)).collect(),
        open,
        over,
        for_people,
    })
}

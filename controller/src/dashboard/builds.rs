//! The page with all failed CI runs.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;

use super::pages::{forbidden, page, path_safe, phase_class, problem};
use super::timeline::span_in_words;
use super::views::{BuildRow, Reader, ViewError};
use super::{Dashboard, assets};
use crate::intake::untrusted::one_line;

/// What the list shows.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Filter {
    #[serde(default)]
    namespace: String,
}

#[derive(Template)]
#[template(path = "builds.html")]
struct BuildsPage<'a> {
    version: &'a str,
    user: &'a str,
    namespace: String,
    namespaces: Vec<String>,
    rows: Vec<Row>,
}

/// A line of the list, ready to be shown.
pub(super) struct Row {
    pub href: String,
    pub namespace: String,
    pub name: String,
    pub repository: String,
    pub commit: String,
    /// `ci / test`: workflow and job, as far as the forge named them.
    pub job: String,
    /// The class; `None` while unknown.
    pub class: Option<&'static Class>,
    pub phase: String,
    pub phase_class: &'static str,
    pub because: String,
    pub reported_at: String,
    pub age: String,
}

/// A class of failed builds, by word and by what it asks of whom.
pub(super) struct Class {
    pub word: &'static str,
    pub look: &'static str,
    pub asks: &'static str,
}

/// What the classes of the Build's status mean; see `amend_diagnosis::build::BuildClass`.
static CLASSES: [Class; 7] = [
    Class { word: "code", look: "bad", asks: "The commit itself is at fault: whoever wrote it mends it." },
    Class { word: "flaky", look: "waits", asks: "A test that sometimes fails: run it again, and mend the test." },
    Class {
        word: "dependency",
        look: "waits",
        asks: "A package cannot be had or does not fit: look at the lock file and the registry.",
    },
    Class {
        word: "toolchain",
        look: "waits",
        asks: "A tool is missing or of the wrong version: look at the image or the set-up of the job.",
    },
    Class {
        word: "transient",
        look: "busy",
        asks: "It goes away by itself (network, a registry, a rate limit): run it again.",
    },
    Class {
        word: "infra",
        look: "waits",
        asks: "The runner is at fault (disk, memory, permissions, quota): whoever runs the runners mends it.",
    },
    Class { word: "other", look: "quiet", asks: "A class that this page does not know." },
];

/// The class by the word of the status.
pub(super) fn class_of(word: &str) -> &'static Class {
    let other = CLASSES.len() - 1;
    CLASSES.iter().find(|class| class.word == word).unwrap_or(&CLASSES[other])
}

pub(super) fn shown(row: BuildRow, now: Timestamp) -> Row {
    let parts = [row.workflow, row.job].map(|part| one_line(&part, 128));
    Row {
        href: format!("/builds/{}/{}", path_safe(&row.namespace), path_safe(&row.name)),
        repository: one_line(&row.repository, 256),
        commit: one_line(&row.commit, 64).chars().take(12).collect(),
        job: parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" / "),
        class: row.class.as_deref().map(class_of),
        // Nothing more happens to a diagnosed run.
        phase_class: if row.phase == "Diagnosed" { "quiet" } else { phase_class(&row.phase) },
        because: one_line(&row.because, 400),
        reported_at: row.reported_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        age: span_in_words(now.duration_since(row.reported_at)),
        namespace: row.namespace,
        name: row.name,
        phase: row.phase,
    }
}

pub(super) async fn builds(
    reader: Reader,
    State(dashboard): State<Dashboard>,
    Query(filter): Query<Filter>,
    headers: HeaderMap,
) -> Response {
    let namespace = Some(filter.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let mut rows = match dashboard.views.builds(&reader, namespace).await {
        Ok(rows) => rows,
        Err(ViewError::Forbidden { why }) => return forbidden(&reader, "/builds", &why),
        Err(error) => return problem(&dashboard, &reader, &headers, &error),
    };
    let mut namespaces: Vec<String> = rows.iter().map(|row| row.namespace.clone()).collect();
    namespaces.sort();
    namespaces.dedup();
    rows.retain(|row| namespace.is_none_or(|namespace| row.namespace == namespace));
    rows.sort_by(|left, right| {
        (right.reported_at, &left.namespace, &left.name).cmp(&(left.reported_at, &right.namespace, &right.name))
    });
    let now = dashboard.time.now();
    page(&BuildsPage {
        version: assets::version(),
        user: &reader.name,
        namespaces,
        rows: rows.into_iter().map(|row| shown(row, now)).collect(),
        namespace: filter.namespace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_is_not_known_is_not_taken_for_one_that_is() {
        assert_eq!((class_of("flaky").word, class_of("<b>").word), ("flaky", "other"));
    }
}

//! The page of log lines that nobody can class: what to teach.

use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::pages::{page, path_safe, problem};
use super::timeline::span_in_words;
use super::views::{Reader, UnknownLineView};
use super::{Dashboard, assets};
use crate::intake::untrusted::one_line;

#[derive(Template)]
#[template(path = "unknown_lines.html")]
struct LinesPage<'a> {
    version: &'a str,
    user: &'a str,
    rows: Vec<Row>,
    dropped_templates: u64,
    dropped_lines: u64,
    /// Another replica keeps the queue.
    follows: bool,
}

struct Row {
    namespace: String,
    workload: String,
    why: &'static str,
    count: u64,
    template: String,
    sample: String,
    /// The pattern to copy, as YAML.
    pattern: String,
    incident: String,
    incident_href: String,
    first_seen: String,
    last_seen: String,
    age: String,
}

pub(super) async fn unknown_lines(reader: Reader, State(dashboard): State<Dashboard>, headers: HeaderMap) -> Response {
    let view = match dashboard.views.unknown_lines(&reader).await {
        Ok(view) => view,
        Err(error) => return problem(&dashboard, &reader, &headers, &error),
    };
    let now = dashboard.time.now();
    let shown = |line: UnknownLineView| {
        let (namespace, name) = line.incident.split_once('/').unwrap_or(("", &line.incident));
        let template = one_line(&line.template, 600);
        Row {
            namespace: one_line(&line.namespace, 64),
            workload: one_line(&line.workload, 300),
            why: line.why,
            count: line.count,
            pattern: format!("- template: {}\n  class: other   # or what it speaks of", quoted(&template)),
            template,
            sample: one_line(&line.sample, 1_100),
            incident_href: format!("/incidents/{}/{}", path_safe(namespace), path_safe(name)),
            incident: one_line(name, 300),
            first_seen: line.first_seen.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
            last_seen: line.last_seen.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
            age: span_in_words(now.duration_since(line.last_seen)),
        }
    };
    page(&LinesPage {
        version: assets::version(),
        user: &reader.name,
        rows: view.lines.into_iter().map(shown).collect(),
        dropped_templates: view.dropped_templates,
        dropped_lines: view.dropped_lines,
        follows: view.follows,
    })
}

/// A text as a YAML scalar in single quotes, in which only the quote itself is special.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_copied_as_it_is() {
        let template = "it's \"<*>\": \\d # not a comment";
        let read: String = serde_saphyr::from_str(&quoted(template)).expect("YAML");
        assert_eq!(read, template);
    }
}

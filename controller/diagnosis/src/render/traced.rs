//! A request as its services told it, for a terminal.

use std::fmt::Write;

use super::harmless;
use crate::logs::anchor::{StoryLine, TraceStory};

/// Characters of a service's name.
const SERVICE_MAX: usize = 24;

/// One request in words: what a terminal and a page show alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoryShown {
    /// Which request, and how far around it lines were found.
    pub heading: String,
    pub rows: Vec<StoryRow>,
    /// How many lines are not shown; empty when all are.
    pub left_out: String,
    /// Ids of the questions behind it.
    pub asked: Vec<String>,
}

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoryRow {
    /// Time of day with milliseconds, UTC.
    pub at: String,
    pub service: String,
    /// Severity, and in brackets what the line speaks of.
    pub kind: String,
    pub text: String,
}

/// The stories in words; untrusted text is stripped of control characters and cut.
pub fn stories_shown(stories: &[TraceStory]) -> Vec<StoryShown> {
    stories.iter().map(shown).collect()
}

fn shown(story: &TraceStory) -> StoryShown {
    let how = if story.failed { "failed in" } else { "was slow in" };
    StoryShown {
        heading: format!(
            "trace {} {how} {} ({}), lines within {} s:",
            harmless(&story.trace, 64),
            harmless(&story.entity.name, 40),
            harmless(&story.operation, 60),
            story.within
        ),
        rows: story.lines.iter().map(row).collect(),
        left_out: match story.left_out {
            0 => String::new(),
            1 => "1 more line".to_owned(),
            more => format!("{more} more lines"),
        },
        asked: story.asked.clone(),
    }
}

fn row(line: &StoryLine) -> StoryRow {
    let class = line.class.map(|class| format!("[{class}]"));
    let kind: Vec<String> =
        [Some(harmless(&line.severity, 10)), class].into_iter().flatten().filter(|word| !word.is_empty()).collect();
    StoryRow {
        at: line.at.strftime("%H:%M:%S%.3f").to_string(),
        service: harmless(&line.service, SERVICE_MAX),
        kind: kind.join(" "),
        text: harmless(&line.text, 240),
    }
}

/// Each request under its heading, one line for each of its lines; empty when there is none.
pub fn stories(stories: &[TraceStory]) -> String {
    let mut out = String::new();
    for story in stories_shown(stories) {
        let longest =
            |of: fn(&StoryRow) -> &str| story.rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0);
        let (service, kind) = (longest(|row| &row.service), longest(|row| &row.kind));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", story.heading);
        for row in &story.rows {
            let _ = writeln!(out, "  {}  {:service$}  {:kind$}  {}", row.at, row.service, row.kind, row.text);
        }
        if !story.left_out.is_empty() {
            let _ = writeln!(out, "  … {}", story.left_out);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::{Entity, EntityKind};
    use crate::logs::Class;

    #[test]
    fn a_story_stands_in_columns_and_hostile_lines_stay_on_their_line() {
        let line = |second: i64, service: &str, severity: &str, class, text: &str| StoryLine {
            at: jiff::Timestamp::from_millisecond(1_700_000_000_000 + 1_000 * second + 7).unwrap(),
            service: service.into(),
            severity: severity.into(),
            class,
            text: text.into(),
        };
        let story = TraceStory {
            trace: "0af7651916cd43dd8448eb211c80319c".into(),
            entity: Entity::new(EntityKind::Deployment, "shop", "payment"),
            operation: "POST /charge".into(),
            failed: true,
            within: 30,
            lines: vec![
                line(0, "frontend", "info", None, "GET /cart"),
                line(1, "payment", "error", Some(Class::Database), "db\n\u{1b}[31mrefused"),
            ],
            left_out: 3,
            asked: Vec::new(),
        };
        assert_eq!(
            stories(&[story]),
            "trace 0af7651916cd43dd8448eb211c80319c failed in payment (POST /charge), lines within 30 s:\n\
             \x20 22:13:20.007  frontend  info              GET /cart\n\
             \x20 22:13:21.007  payment   error [database]  dbrefused\n\
             \x20 … 3 more lines\n"
        );
        assert_eq!(stories(&[]), "");
    }
}

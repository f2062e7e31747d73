//! Where the time goes, as a table for a terminal.

use std::fmt::Write;

use super::harmless;
use crate::drilldown::{Followed, SlowOperation};

/// One operation in words: what a terminal and a page show alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowRow {
    /// Own time in one of the slowest requests, and in one from before.
    pub own: String,
    pub own_before: String,
    pub p99: String,
    /// `new` when there was none.
    pub p99_before: String,
    pub errors: String,
    pub spans: u32,
    pub service: String,
    pub operation: String,
}

/// The table in words; untrusted names are stripped of control characters and cut.
pub fn slow_rows(rows: &[SlowOperation]) -> Vec<SlowRow> {
    let row = |row: &SlowOperation| SlowRow {
        own: time(row.own_ms),
        own_before: time(row.own_before_ms),
        p99: time(row.p99_ms),
        p99_before: row.p99_before_ms.map_or("new".to_owned(), time),
        errors: format!("{:.0} %", row.error_ratio * 100.0),
        spans: row.spans,
        service: harmless(&row.entity.name, 40),
        operation: harmless(&row.operation, 60),
    };
    rows.iter().map(row).collect()
}

/// One line per operation under a heading, which says whose time it is; empty when there is none.
pub fn slowest(rows: &[SlowOperation], followed: Option<Followed>) -> String {
    let mut out = String::new();
    if rows.is_empty() {
        return out;
    }
    if let Some(followed) = followed {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  in {}:", followed.sentence());
    }
    let mut line =
        |own: &str, own_before: &str, p99: &str, p99_before: &str, errors: &str, spans: &str, place: &str| {
            let _ =
                writeln!(out, "{own:>10} {own_before:>10} {p99:>10} {p99_before:>10} {errors:>7} {spans:>7}  {place}");
        };
    line("own time", "before", "P99", "before", "errors", "spans", "operation");
    for row in slow_rows(rows) {
        let place = format!("{}  {}", row.service, row.operation);
        line(&row.own, &row.own_before, &row.p99, &row.p99_before, &row.errors, &row.spans.to_string(), &place);
    }
    out
}

/// Milliseconds below ten seconds, seconds from there on.
fn time(ms: f64) -> String {
    match ms {
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::{Entity, EntityKind};

    #[test]
    fn a_row_shows_now_beside_before_and_hostile_names_stay_on_their_line() {
        let row = SlowOperation {
            entity: Entity::new(EntityKind::Deployment, "shop", "object-store"),
            operation: "read\n\u{1b}[31mred".into(),
            own_ms: 12_340.0,
            own_before_ms: 9.9,
            p99_ms: 900.0,
            p99_before_ms: None,
            error_ratio: 0.25,
            spans: 42,
        };
        let table = slowest(&[row], Some(Followed { requests: 2, exemplars: true }));
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(table.starts_with("  in 2 requests that exemplars"), "{table}");
        for part in ["12.3 s", "9.9 ms", "900 ms", "new", "25 %", "42  object-store"] {
            assert!(table.contains(part), "{part} in {table}");
        }
        assert!(!table.contains('\u{1b}'));
        assert_eq!(slowest(&[], None), "");
    }
}

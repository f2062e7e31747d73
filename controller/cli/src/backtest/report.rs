//! What the look back came to: as one object, and for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use amend_diagnosis::evidence::Window;
use amend_telemetry::load::Cost;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::heard::Counted;
use super::judged::{Answers, Explained, Judged, Silence, Verdict};
use super::mend::NotAligned;
use crate::connection::plain;
use crate::get::table;

/// Letters of a reason in the table; whole ones are in the object.
const REASON_MAX: usize = 110;

/// Everything that is told.
#[derive(Debug)]
pub struct Report {
    pub window: Window,
    pub heard: Counted,
    /// Newest first.
    pub problems: Vec<Judged>,
    pub not_aligned: Vec<NotAligned>,
    pub unread: Vec<Unread>,
    /// Namespaces whose alerts were grouped without knowing who calls whom, with the reason.
    pub without_calls: BTreeMap<String, String>,
    pub stores: BTreeMap<String, Answers>,
    pub cost: Cost,
    pub budget: u64,
}

/// A span of time of which a store did not tell which alerts fired.
#[derive(Clone, Debug, Serialize)]
pub struct Unread {
    pub source: String,
    #[serde(flatten)]
    pub window: Window,
    pub why: String,
}

impl Report {
    fn explained(&self) -> impl Iterator<Item = (&Judged, &Explained)> {
        self.problems.iter().filter_map(|one| match &one.verdict {
            Verdict::Explained(explained) => Some((one, &**explained)),
            Verdict::Silent { .. } => None,
        })
    }

    fn one_line(&self) -> usize {
        self.explained().filter(|(_, one)| one.change.as_ref().is_some_and(|change| change.is_one_line())).count()
    }

    fn silences(&self) -> BTreeMap<Silence, usize> {
        let mut silences = BTreeMap::new();
        for one in &self.problems {
            if let Verdict::Silent { reason, .. } = &one.verdict {
                *silences.entry(*reason).or_default() += 1;
            }
        }
        silences
    }

    pub fn object(&self) -> Value {
        let explained = self.explained().count();
        let silences: Vec<Value> = self
            .silences()
            .into_iter()
            .map(|(reason, count)| json!({ "reason": reason, "problems": count, "words": reason.words() }))
            .collect();
        json!({
            "from": self.window.from, "to": self.window.to, "alerts": self.heard,
            "summary": {
                "problems": self.problems.len(), "explained": explained, "silent": self.problems.len() - explained,
                "oneLine": self.one_line(), "silences": silences,
            },
            "problems": self.problems, "notAligned": self.not_aligned, "notRead": self.unread,
            "withoutCalls": self.without_calls, "stores": self.stores,
            "load": { "queries": self.cost.queries, "atMost": self.budget, "bytes": self.cost.bytes, "seconds": self.cost.seconds },
        })
    }

    /// For people.
    pub fn told(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let explained = self.explained().count();
        let _ = writeln!(
            out,
            "{} to {}\n{}, {}, {explained} explained, {} silent, {} of the explained a one-line change",
            minute(self.window.from),
            minute(self.window.to),
            counted(self.heard.all, "alert"),
            counted(self.problems.len(), "problem"),
            self.problems.len() - explained,
            self.one_line(),
        );
        for (reason, count) in self.silences() {
            let _ = writeln!(out, "  silent {count:>4}  {}", reason.words());
        }
        if !self.problems.is_empty() {
            let head = ["WHEN", "LASTED", "ENTITY", "ALERTS", "CAUSE"];
            let _ = write!(out, "\n{}", table(&head, self.problems.iter().map(row)));
        }
        self.changes(&mut out);
        self.left_out(&mut out);
        self.load(&mut out);
        out
    }

    fn changes(&self, out: &mut String) {
        let mut head = "\nwhat a policy would change\n";
        for (problem, one) in self.explained() {
            let _ = write!(out, "{head}");
            head = "";
            let when = minute(problem.opened_at);
            let _ = match (&one.change, &one.no_change) {
                (Some(change), _) => {
                    let ready = if one.from_library { ", a ready one that is not applied here" } else { "" };
                    let lines = counted(change.lines, "line");
                    writeln!(out, "  {when}  {}: {lines} (policy {}{ready})", plain(&change.summary), change.policy)
                }
                (None, why) => {
                    let why = why.as_deref().unwrap_or("no policy answers it");
                    writeln!(out, "  {when}  nothing: {}", plain(why))
                }
            };
            if let Some(why) = &problem.silenced {
                let _ = writeln!(out, "                    but it would be held: {}", plain(why));
            }
        }
    }

    fn left_out(&self, out: &mut String) {
        if !self.not_aligned.is_empty() {
            let _ = writeln!(
                out,
                "\nnot aligned: {} that name nothing in the cluster",
                counted(self.heard.not_aligned, "alert")
            );
            for one in &self.not_aligned {
                let _ = writeln!(out, "  {} ({} times): {}", one.alert, one.count, one.mend);
            }
        }
        for (reason, count) in &self.heard.dropped {
            let _ = writeln!(out, "\nleft out: {}: {reason}", counted(*count, "alert"));
        }
        for (namespace, why) in &self.without_calls {
            let _ =
                writeln!(out, "\ngrouped without call edges: namespace {}: {}", plain(namespace), clipped(&plain(why)));
        }
        if !self.unread.is_empty() {
            let _ = writeln!(out, "\nnot read: problems of these times are missing, or begin too late");
            for one in &self.unread {
                let (from, to) = (minute(one.window.from), minute(one.window.to));
                let _ = writeln!(out, "  {from} to {to}: {}", clipped(&one.why));
            }
        }
    }

    fn load(&self, out: &mut String) {
        let _ = writeln!(out, "\nasked about the problems");
        for (source, answers) in &self.stores {
            let _ = write!(out, "  {}: {}", plain(source), counted(answers.asked, "question"));
            let _ = match &answers.why {
                Some(why) => writeln!(out, ", {} without an answer: {}", answers.unanswered, clipped(&plain(why))),
                None => writeln!(out),
            };
        }
        let _ = writeln!(
            out,
            "load on the stores: {} of at most {} queries, one at a time; {:.1} MiB read; {:.1} s of their time",
            self.cost.queries,
            self.budget,
            self.cost.bytes as f64 / f64::from(1 << 20),
            self.cost.seconds
        );
    }
}

fn row(one: &Judged) -> Vec<String> {
    let lasted = match one.ended_at {
        Some(end) => span(end.duration_since(one.opened_at)),
        None => "goes on".to_owned(),
    };
    let names = one.names.iter().take(2).cloned().collect::<Vec<_>>().join(", ");
    let more = if one.names.len() > 2 { ", ..." } else { "" };
    let cause = match &one.verdict {
        Verdict::Explained(found) => {
            format!("{} on {}, {:.0} % sure", found.cause, found.entity, found.confidence * 100.0)
        }
        Verdict::Silent { why, .. } => format!("silent: {}", clipped(&plain(why))),
    };
    vec![minute(one.opened_at), lasted, one.entity.clone(), format!("{} ({names}{more})", one.alerts), cause]
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `2026-03-02 09:00`, in UTC as everything else here.
fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M").to_string()
}

fn span(of: SignedDuration) -> String {
    match of.as_mins() {
        minutes if minutes >= 24 * 60 => format!("{}d {}h", minutes / 1440, minutes % 1440 / 60),
        minutes if minutes >= 60 => format!("{}h {}m", minutes / 60, minutes % 60),
        minutes => format!("{minutes}m"),
    }
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(REASON_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;

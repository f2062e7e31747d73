//! The pull request's words: a pure function from facts to a title and a body that a tired reviewer understands.
//!
//! Every text in the facts is treated as other people's (see `untrusted`); only the frame around it is ours.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::untrusted::{block, code, label, prose, title, word};

/// Titles are cut here by most lists and mails.
const TITLE: usize = 72;

/// Rows of any table: what does not fit is counted, not shown.
const ROWS: usize = 20;

/// Nodes of the diagram; beyond it nobody reads it.
const NODES: usize = 25;

/// Characters of a query in a cell, and of all queries below the table: a forge takes about 64 KiB for the whole page.
const SHORT: usize = 100;
const QUERIES: usize = 8_000;

/// Everything that the page says, as text; nothing here needs to be harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalFacts {
    pub marker: Marker,
    /// `raise memory limit of checkout from 256Mi to 384Mi (OOMKilled)`.
    pub title: String,
    pub incident: Named,
    pub policy: String,
    /// What happened, as one paragraph.
    pub story: String,
    pub changes: Vec<ChangeRow>,
    /// Why this value, and what it does not fix.
    pub reason: String,
    pub graph: Vec<GraphEdge>,
    /// `0.93, right 14 of 15 here`.
    pub confidence: String,
    pub alternatives: Vec<String>,
    pub evidence: Vec<EvidenceRow>,
    /// Unified diff of the change, or of what it renders to.
    pub diff: String,
    pub gates: Vec<GateRow>,
    /// `restarts 6 pods, one at a time`.
    pub on_merge: String,
    pub undo: String,
    /// Which record entry proves this plan.
    pub record: String,
}

/// A name, with the page that it leads to when there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub url: Option<Url>,
}

/// One field that changes: in a file, or in an object once the files are rendered (then without a line).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRow {
    pub file: String,
    pub line: u32,
    pub field: String,
    pub before: String,
    pub after: String,
}

/// `cause` brought about `effect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphEdge {
    pub cause: String,
    pub effect: String,
    /// `memory 268 Mi of 256 Mi`.
    pub because: String,
}

/// One answer that the diagnosis rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceRow {
    pub what: String,
    pub query: String,
    pub value: String,
    pub before: String,
    pub link: Option<Url>,
}

/// One gate's verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateRow {
    pub name: String,
    pub verdict: GateVerdict,
    pub sentence: String,
}

/// What a gate said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateVerdict {
    Pass,
    Fail,
    Unknown,
}

/// The hidden line by which Amend finds its own pull request again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// This execution (action key).
    pub key: String,
    /// This proposal.
    pub fingerprint: String,
    /// The plan's digest.
    pub plan: String,
    /// Amend itself closed it: not a rejection.
    pub withdrawn: bool,
}

impl Marker {
    /// The marker as it stands in a body.
    pub fn text(&self) -> String {
        let Self { key, fingerprint, plan, withdrawn } = self;
        let tail = if *withdrawn { " withdrawn" } else { "" };
        format!(
            "<!-- amend:v1 key={} fingerprint={} plan={}{tail} -->",
            word(key, 80),
            word(fingerprint, 80),
            word(plan, 80)
        )
    }

    /// The last marker in a body; people may edit the body, and quoted text comes before ours.
    pub fn read(body: &str) -> Option<Self> {
        let (_, rest) = body.rsplit_once("<!-- amend:v1 ")?;
        let (inner, _) = rest.split_once(" -->")?;
        let field = |name: &str| {
            inner.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        Some(Self {
            key: field("key")?,
            fingerprint: field("fingerprint")?,
            plan: field("plan")?,
            withdrawn: inner.split(' ').any(|part| part == "withdrawn"),
        })
    }

    /// The same body, with this marker in place of the one it has.
    pub fn replaced_in(&self, body: &str) -> String {
        match body.rsplit_once("<!-- amend:v1 ").and_then(|(before, rest)| Some((before, rest.split_once(" -->")?.1))) {
            Some((before, after)) => format!("{before}{}{after}", self.text()),
            None => format!("{body}\n\n{}\n", self.text()),
        }
    }
}

impl ProposalFacts {
    /// The title, at most 72 characters.
    pub fn title(&self) -> String {
        title(&self.title, TITLE)
    }

    /// The whole body: first what a reviewer decides by (what happened, the change, what merging and closing do), then the proof.
    /// Parts without facts are left out; long ones are folded away.
    pub fn body(&self) -> String {
        let mut page = String::new();
        let parts = [
            self.summary(),
            self.changes(),
            self.consequences(),
            self.cause(),
            self.evidence(),
            folded("The diff", &block(&self.diff, "diff", 200, 12_000), self.diff.is_empty()),
            self.gate_table(),
        ];
        for part in parts.iter().filter(|part| !part.is_empty()) {
            page.push_str(part.trim_end());
            page.push_str("\n\n");
        }
        let _ = write!(page, "---\nRecord: {}\n\n{}\n", code(&self.record, 120), self.marker.text());
        page
    }

    fn summary(&self) -> String {
        let incident = match &self.incident.url {
            Some(url) => format!("{} ([open]({}))", code(&self.incident.name, 120), target(url)),
            None => code(&self.incident.name, 120),
        };
        format!(
            "{}\n\nAmend proposes this for incident {incident}, as policy {} asks.\n",
            prose(&self.story, 1200),
            code(&self.policy, 120)
        )
    }

    /// A list and no table: its lines wrap, where a table would hide what a long value becomes.
    fn changes(&self) -> String {
        if self.changes.is_empty() {
            return String::new();
        }
        let mut part = String::from("### The change\n\n");
        for row in self.changes.iter().take(ROWS) {
            let place = if row.line == 0 { row.file.clone() } else { format!("{}:{}", row.file, row.line) };
            let (before, after) = (code(&row.before, 120), code(&row.after, 120));
            let _ = writeln!(part, "- {}: {before} → {after} ({})", code(&place, 200), code(&row.field, 120));
        }
        if self.changes.len() > ROWS {
            let _ = writeln!(part, "\n… and {} more.", self.changes.len() - ROWS);
        }
        for paragraph in self.reason.splitn(2, "\n\n").map(|text| prose(text, 800)).filter(|text| !text.is_empty()) {
            let _ = writeln!(part, "\n{paragraph}");
        }
        part
    }

    fn cause(&self) -> String {
        if self.graph.is_empty() {
            return String::new();
        }
        let mut part = String::from("### Why\n\n");
        if !self.confidence.is_empty() {
            let _ = writeln!(part, "How sure: {}\n", prose(&self.confidence, 200));
        }
        for edge in self.graph.iter().take(NODES) {
            let because =
                if edge.because.is_empty() { String::new() } else { format!(" ({})", prose(&edge.because, 120)) };
            let _ = writeln!(part, "- {} → {}{because}", code(&edge.cause, 100), code(&edge.effect, 100));
        }
        if !self.alternatives.is_empty() {
            let _ = writeln!(part, "\nConsidered, and less likely:\n");
            for alternative in self.alternatives.iter().take(5) {
                let _ = writeln!(part, "- {}", prose(alternative, 200));
            }
        }
        let _ = write!(part, "\n{}", self.mermaid());
        part
    }

    /// The list above as a picture. The reasons stay in the list: on the arrows they would be cut off, and make the boxes too
    /// small to read in the width that a forge gives a body.
    fn mermaid(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        let mut lines = String::from("```mermaid\nflowchart LR\n");
        let mut edges = String::new();
        for edge in self.graph.iter().take(NODES) {
            let ids = [edge.cause.as_str(), edge.effect.as_str()].map(|name| {
                names.iter().position(|known| *known == name).unwrap_or_else(|| {
                    names.push(name);
                    names.len() - 1
                })
            });
            let _ = writeln!(edges, "  n{} --> n{}", ids[0], ids[1]);
        }
        for (id, name) in names.iter().enumerate() {
            let _ = writeln!(lines, "  n{id}[\"{}\"]", label(name, 60));
        }
        lines + &edges + "```\n"
    }

    /// The table, and below it the queries word for word: a table's cell shows them short, and a bar in it as a look-alike.
    fn evidence(&self) -> String {
        let mut queries: Vec<&str> = Vec::new();
        for row in &self.evidence {
            if !row.query.is_empty() && !queries.contains(&row.query.as_str()) {
                queries.push(&row.query);
            }
        }
        let table = self.evidence_table();
        if queries.is_empty() {
            return table;
        }
        let asked = block(&queries.join("\n\n"), "text", 100, QUERIES);
        format!("{table}\n{}", folded("The queries, to ask them again", &asked, false))
    }

    fn evidence_table(&self) -> String {
        let bare = self.evidence.iter().all(|row| row.before.is_empty() && row.link.is_none());
        if bare {
            let rows = self
                .evidence
                .iter()
                .map(|row| [prose(&row.what, 160), prose(&row.value, 300), code(&row.query, SHORT)]);
            return table("Evidence", ["speaks", "what was found", "query"], rows);
        }
        let rows = self.evidence.iter().map(|row| {
            let link = row.link.as_ref().map_or_else(|| "—".into(), |url| format!("[open]({})", target(url)));
            [prose(&row.what, 160), code(&row.value, 80), code(&row.before, 80), code(&row.query, SHORT), link]
        });
        table("Evidence", ["what", "now", "before", "query", "link"], rows)
    }

    fn gate_table(&self) -> String {
        let rows = self.gates.iter().map(|row| {
            let verdict = match row.verdict {
                GateVerdict::Pass => "✅ pass",
                GateVerdict::Fail => "❌ fail",
                GateVerdict::Unknown => "❔ unknown",
            };
            [code(&row.name, 60), verdict.to_owned(), prose(&row.sentence, 300)]
        });
        let table = table("Checks before this was opened", ["gate", "verdict", "what was found"], rows);
        let open: Vec<String> =
            self.gates.iter().filter(|row| row.verdict != GateVerdict::Pass).map(|row| code(&row.name, 60)).collect();
        match open.as_slice() {
            [] => table,
            open => format!("{table}\nThis stays a draft until these are answered: {}.\n", open.join(", ")),
        }
    }

    fn consequences(&self) -> String {
        format!(
            "### What happens next\n\n- **If you merge:** {}\n- **To undo it:** {}\n- **To say no:** close this pull request: the same \
             proposal is not made again for 7 days. Amend does not touch the branch once somebody else has committed to it.\n",
            prose(&self.on_merge, 400),
            prose(&self.undo, 400),
        )
    }
}

fn table<const N: usize>(
    heading: &str,
    columns: [&str; N],
    rows: impl ExactSizeIterator<Item = [String; N]>,
) -> String {
    let count = rows.len();
    if count == 0 {
        return String::new();
    }
    let mut text = format!("### {heading}\n\n| {} |\n|{}\n", columns.join(" | "), "---|".repeat(N));
    for row in rows.take(ROWS) {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    if count > ROWS {
        let _ = writeln!(text, "\n… and {} more.", count - ROWS);
    }
    text
}

fn folded(summary: &str, inside: &str, empty: bool) -> String {
    if empty { String::new() } else { format!("<details><summary>{summary}</summary>\n\n{inside}\n</details>\n") }
}

/// A link's address: http(s) only, nothing in it that could end the link.
fn target(url: &Url) -> String {
    if !matches!(url.scheme(), "http" | "https") {
        return "#".into();
    }
    let escaped = url.as_str().chars().map(|c| match c {
        '(' => "%28".into(),
        ')' => "%29".into(),
        '|' => "%7C".into(),
        '<' => "%3C".into(),
        '>' => "%3E".into(),
        '`' => "%60".into(),
        '\\' => "%5C".into(),
        other => other.to_string(),
    });
    escaped.collect()
}

//! Writes a case directory from what was observed, so that every bug report is a test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;

use amend_diagnosis::evidence::{
    Answer, Asked, Change, ChangeKind, LinkKind, LogLine, ObjectEvent, Observations, Series, Span, Topology, Window,
};
use amend_diagnosis::signal::Signal;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{CAPTURED, CaseError, Redaction};
use crate::otlp;

/// Writes everything that was observed into a new directory.
///
/// [`read`](super::read) gives the same observations back, but for what was redacted and the queries behind them, which
/// stand in `queries.jsonl` for people. What was `Unknown` is no file; its reason stands in `case.json`.
///
/// # Errors
/// When the directory exists already or cannot be written.
pub fn write(
    directory: &Path,
    name: &str,
    namespace: &str,
    seen: &Observations,
    redaction: &Redaction,
) -> Result<(), CaseError> {
    let failed = |source| CaseError::Unwritable { path: directory.to_owned(), source };
    fs::create_dir(directory).map_err(failed)?;
    let mut case = Case { directory, unknown: Map::new(), modalities: Vec::new(), redaction };
    case.metrics(&seen.series).map_err(failed)?;
    case.lines("spans.jsonl", "traces", &seen.spans, traces).map_err(failed)?;
    case.lines("exemplars.jsonl", "exemplars", &seen.exemplars, traces).map_err(failed)?;
    case.lines("logs.jsonl", "logs", &seen.logs, |lines, clean| lines.iter().map(|line| log(line, clean)).collect())
        .map_err(failed)?;
    case.lines("changes.jsonl", "changes", &seen.changes, |all, clean| {
        all.iter().map(|one| change(one, clean)).collect()
    })
    .map_err(failed)?;
    if let Some(why) = seen.unread_changes() {
        case.unknown.insert("changes.jsonl".to_owned(), json!(redaction.text(&why)));
    }
    case.lines("events.jsonl", "events", &seen.events, |all, clean| all.iter().map(|one| event(one, clean)).collect())
        .map_err(failed)?;
    case.lines("k8s.jsonl", "objects", &seen.objects, |all, clean| all.iter().map(|one| object(one, clean)).collect())
        .map_err(failed)?;
    let symptoms = Answer::Known(seen.symptoms.clone());
    case.lines("alerts.jsonl", "alerts", &symptoms, |all, clean| all.iter().map(|one| alert(one, clean)).collect())
        .map_err(failed)?;
    case.topology(&seen.topology).map_err(failed)?;
    let asked = seen.asked.iter().map(|asked| Asked {
        query: redaction.text(&asked.query),
        unknown: asked.unknown.as_deref().map(|why| redaction.text(why)),
        ..asked.clone()
    });
    let queries: Vec<Value> = asked.filter_map(|asked| serde_json::to_value(asked).ok()).collect();
    case.file("queries.jsonl", &jsonl(&queries)).map_err(failed)?;
    case.about(name, namespace, seen).map_err(failed)
}

struct Case<'a> {
    directory: &'a Path,
    /// File name and why it is not there, or not whole.
    unknown: Map<String, Value>,
    modalities: Vec<&'static str>,
    redaction: &'a Redaction,
}

impl Case<'_> {
    fn file(&self, name: &str, text: &str) -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(self.directory.join(name))?;
        file.write_all(text.as_bytes())
    }

    fn lines<T>(
        &mut self,
        file: &str,
        modality: &'static str,
        answer: &Answer<Vec<T>>,
        line: impl Fn(&[T], &Redaction) -> Vec<Value>,
    ) -> std::io::Result<()> {
        match answer {
            Answer::Known(list) => {
                self.modalities.push(modality);
                self.file(file, &jsonl(&line(list, self.redaction)))
            }
            Answer::Unknown { why } => {
                self.unknown.insert(file.to_owned(), json!(self.redaction.text(why)));
                Ok(())
            }
        }
    }

    fn metrics(&mut self, answer: &Answer<Vec<Series>>) -> std::io::Result<()> {
        match answer {
            Answer::Known(series) => {
                self.modalities.push("metrics");
                self.file("metrics.csv", &table(series))?;
                let listed: Vec<Value> = series
                    .iter()
                    .enumerate()
                    .map(|(index, one)| (index, named(&one.labels, self.redaction)))
                    .map(|(index, labels)| json!({"column": format!("s{index}"), "labels": labels}))
                    .collect();
                self.file("series.json", &Value::Array(listed).to_string())
            }
            Answer::Unknown { why } => {
                self.unknown.insert("metrics.csv".to_owned(), json!(self.redaction.text(why)));
                Ok(())
            }
        }
    }

    fn topology(&mut self, answer: &Answer<Topology>) -> std::io::Result<()> {
        match answer {
            Answer::Known(topology) => {
                let nodes = topology.nodes.iter().map(|node| json!({"id": node.to_string(), "kind": node.kind}));
                let edges = topology.edges.iter().map(|edge| {
                    let kind = match edge.kind {
                        LinkKind::Calls => "calls",
                        LinkKind::RunsOn => "runs-on",
                        LinkKind::Owns => "owns",
                        LinkKind::Uses => "uses",
                    };
                    json!({"src": edge.from.to_string(), "dst": edge.to.to_string(), "kind": kind})
                });
                let value = json!({"nodes": nodes.collect::<Vec<_>>(), "edges": edges.collect::<Vec<_>>()});
                self.file("topology.json", &value.to_string())
            }
            Answer::Unknown { why } => {
                self.unknown.insert("topology.json".to_owned(), json!(self.redaction.text(why)));
                Ok(())
            }
        }
    }

    fn about(&self, name: &str, namespace: &str, seen: &Observations) -> std::io::Result<()> {
        let window = |window: Option<Window>| window.map(|window| [seconds(window.from), seconds(window.to)]);
        let candidates = seen.candidates.as_ref().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        let about = json!({
            "format": "amend-rca-case/1", "dataset": "capture", "case": name, "system": namespace, "namespace": namespace,
            "level": "k8s-object", "candidates": candidates,
            "inject_time": seen.began.map(seconds), "alert_time": seconds(seen.at),
            "windows": {"normal": window(seen.normal), "fault": window(seen.fault)},
            "modalities": self.modalities, "unknown": self.unknown, "source": CAPTURED,
        });
        self.file("case.json", &format!("{about:#}\n"))
    }
}

fn jsonl(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Unix seconds.
fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

/// One row for each time, one column for each series; a missing sample is an empty cell.
fn table(series: &[Series]) -> String {
    let times: BTreeSet<u64> = series.iter().flat_map(|one| &one.samples).map(|(at, _)| at.to_bits()).collect();
    let mut times: Vec<f64> = times.into_iter().map(f64::from_bits).collect();
    times.sort_by(f64::total_cmp);
    let values: Vec<BTreeMap<u64, f64>> =
        series.iter().map(|one| one.samples.iter().map(|(at, value)| (at.to_bits(), *value)).collect()).collect();
    let mut text = String::from("time");
    (0..series.len()).for_each(|index| text.push_str(&format!(",s{index}")));
    for at in times {
        text.push_str(&format!("\n{at}"));
        for column in &values {
            text.push(',');
            if let Some(value) = column.get(&at.to_bits()) {
                text.push_str(&value.to_string());
            }
        }
    }
    text.push('\n');
    text
}

/// Labels and attributes, each by its name.
fn named(labels: &BTreeMap<String, String>, clean: &Redaction) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.clone(), clean.named(name, value))).collect()
}

/// One trace a line.
fn traces(spans: &[Span], clean: &Redaction) -> Vec<Value> {
    let cleaned: Vec<Span> = spans
        .iter()
        .map(|span| Span {
            operation: clean.text(&span.operation),
            attributes: named(&span.attributes, clean),
            ..span.clone()
        })
        .collect();
    let mut by_trace: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in &cleaned {
        by_trace.entry(&span.trace_id).or_default().push(span);
    }
    by_trace.values().map(|spans| json!({"resourceSpans": otlp::resource_spans(spans)})).collect()
}

fn log(line: &LogLine, clean: &Redaction) -> Value {
    json!({
        "ts": line.at_ns, "pod": line.source, "severity": line.severity, "body": clean.text(&line.body),
        "trace_id": line.trace_id, "span_id": line.span_id, "count": line.count, "taught": line.taught,
    })
}

fn change(change: &Change, clean: &Redaction) -> Value {
    let kind = match change.kind {
        ChangeKind::Image => "image",
        ChangeKind::Config => "config",
        ChangeKind::Commit => "commit",
        ChangeKind::Deploy => "deploy",
        ChangeKind::Flag => "flag",
        ChangeKind::Scale => "scale",
    };
    let author = if change.author.is_empty() { String::new() } else { clean.digest(&change.author) };
    json!({
        "ts": seconds(change.at), "kind": kind, "id": change.id, "target": change.target.to_string(),
        "summary": clean.text(&change.summary), "files": change.files, "diff": clean.text(&change.diff), "author": author,
        "new_pods": change.new_pods, "deleted_pods": change.deleted_pods,
    })
}

fn event(event: &ObjectEvent, clean: &Redaction) -> Value {
    json!({
        "ts": seconds(event.at), "object": event.object, "namespace": event.namespace, "reason": event.reason,
        "message": clean.text(&event.message), "count": event.count,
    })
}

fn object(object: &Value, clean: &Redaction) -> Value {
    let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let command = format!("kubectl get {} {} -o json", word("/kind").to_lowercase(), word("/metadata/name"));
    json!({"cmd": command, "output": clean.object(object).to_string()})
}

fn alert(signal: &Signal, clean: &Redaction) -> Value {
    let cleaned =
        Signal { summary: clean.text(&signal.summary), labels: named(&signal.labels, clean), ..signal.clone() };
    json!({"ts": seconds(signal.started_at), "entity": signal.entity.to_string(), "alert": signal.name, "signal": cleaned})
}

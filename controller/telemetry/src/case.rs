//! Case directories (`amend-rca-case/1`), read into [`Observations`] and written from them: bug reports, tests, benchmarks
//! and demos are one format.
//!
//! Every file but `case.json` is optional; what is not there is `Unknown`. Nothing here touches the network.

mod kubectl;
mod reader;
mod redact;
mod spans;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use amend_diagnosis::diagnosis::{Cause, Diagnosis, cause};
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{
    Answer, Asked, Change, ChangeKind, LinkKind, LogLine, ObjectEvent, Observations, Series, Topology, TopologyEdge,
    Window,
};
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use reader::CaseReader;
pub use redact::Redaction;
pub use write::write;

/// Larger files are cut at this many bytes: memory stays bounded whatever somebody captured.
const FILE_MAX: u64 = 512 << 20;

/// What `case.json` says of a case that Amend wrote itself: its series are answers under our own names.
const CAPTURED: &str = "amend capture";

/// Why a case cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    #[error("cannot read {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not the JSON that a case needs")]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} has {bytes} bytes, more than a case may have")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("cannot write a case to {path}: name a directory that does not exist yet")]
    Unwritable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// A case with the names that its file gives to the candidates.
#[derive(Debug)]
pub struct Case {
    pub observations: Observations,
    /// Candidate ids as the case spells them.
    ids: BTreeMap<Entity, String>,
    /// What kind of thing the answer is: `service`, `change`, `k8s-object` ...
    pub level: String,
}

/// Reads the case in a directory.
pub fn read(directory: &Path) -> Result<Case, CaseError> {
    let about = parsed(&directory.join("case.json"))?.unwrap_or(Value::Null);
    let namespace = about["namespace"].as_str().unwrap_or("").to_owned();
    let remote = remote(directory)?;
    let mut names = Names { namespace, ids: BTreeMap::new(), remote };
    let candidates: Option<Vec<Entity>> = about["candidates"]
        .as_array()
        .map(|list| list.iter().filter_map(Value::as_str).map(|id| names.candidate(id)).collect());
    let window = |name: &str| window(&about["windows"][name]);
    let (normal, fault, span) = (window("normal"), window("fault"), window("span"));
    let series = series(directory)?;
    let logs = lines(directory, "logs.jsonl")?.map(|list| list.iter().filter_map(log_line).collect::<Vec<_>>());
    let changes = lines(directory, "changes.jsonl")?;
    let events = lines(directory, "events.jsonl")?;
    let alerts = lines(directory, "alerts.jsonl")?.unwrap_or_default();
    let state = match lines(directory, "k8s.jsonl")? {
        Some(answers) => Some(kubectl::State::read(&answers, &names.namespace)),
        None => None,
    };
    let last_sample = series.iter().flatten().filter_map(|one| one.samples.last()).map(|(at, _)| *at).reduce(f64::max);
    let at = fault
        .map(|window| window.to)
        .or(timestamp(&about["alert_time"]))
        .or(last_sample.and_then(moment))
        .or(state.as_ref().and_then(|state| state.latest))
        .unwrap_or(Timestamp::UNIX_EPOCH);
    let asked = asked(directory, &about, Window { from: normal.or(span).map_or(at, |window| window.from), to: at });
    let mut object_events: Vec<ObjectEvent> =
        events.iter().flatten().filter_map(|event| object_event(event, &names.namespace)).collect();
    let known_events = events.is_some() || state.is_some();
    let mut objects = None;
    if let Some(state) = state {
        object_events.extend(state.events);
        objects = Some(state.objects);
    }
    let observations = Observations {
        at,
        began: timestamp(&about["inject_time"]),
        normal,
        fault,
        symptoms: alerts.iter().enumerate().filter_map(|(index, alert)| symptom(alert, index, &names, at)).collect(),
        topology: known(topology(directory, &names)?, &about, "topology.json"),
        series: known(series, &about, "metrics.csv"),
        spans: known(spans::read(directory, "spans.jsonl")?, &about, "spans.jsonl"),
        exemplars: known(spans::read(directory, "exemplars.jsonl")?, &about, "exemplars.jsonl"),
        logs: known(logs, &about, "logs.jsonl"),
        changes: known(
            changes.map(|list| list.iter().filter_map(|one| change(one, &names)).collect()),
            &about,
            "changes.jsonl",
        ),
        objects: known(objects, &about, "k8s.jsonl"),
        events: known(known_events.then_some(object_events), &about, "events.jsonl"),
        candidates,
        asked,
    };
    let level = about["level"].as_str().unwrap_or("service").to_owned();
    Ok(Case { observations, ids: names.ids, level })
}

impl Case {
    /// A diagnosis in the words of the case format: `ranked`, `confidence`, `abstain`.
    pub fn answer(&self, diagnosis: &Diagnosis) -> Value {
        let ranked: Vec<Value> = diagnosis.causes.iter().filter_map(|cause| self.ranked(cause)).collect();
        let confidence = diagnosis.causes.first().map_or(0.0, |cause| cause.confidence);
        json!({
            "ranked": ranked,
            "confidence": confidence,
            "abstain": diagnosis.abstained.is_some(),
            "why": diagnosis.abstained.clone().or(diagnosis.causes.first().map(|cause| cause.sentence.clone())),
        })
    }

    fn ranked(&self, cause: &Cause) -> Option<Value> {
        let service = self.ids.get(&cause.entity.workload()).cloned().unwrap_or_else(|| cause.entity.name.clone());
        let mut entry = json!({"service": service, "kind": kind(cause), "score": cause.confidence});
        if let Some(metric) = cause.measures.get("metric") {
            entry["metric"] = json!(metric);
        }
        match &cause.change {
            Some(change) => entry["change"] = json!(change.id),
            None if self.level == "change" => entry["change"] = json!("none"),
            None => {}
        }
        Some(entry)
    }
}

/// The kind of a cause in the case format's words; the finer fault where the evidence tells it.
fn kind(cause: &Cause) -> &str {
    if let Some(fault) = cause.measures.get("fault") {
        return fault;
    }
    match cause.kind.as_str() {
        cause::OOM_KILLED | cause::MEMORY_LEAK | cause::MEMORY => "memory",
        cause::CPU => "cpu",
        cause::DISK => "disk",
        cause::NETWORK => "network",
        cause::LATENCY => "latency",
        cause::BAD_IMAGE | cause::BEHAVIOUR => "code",
        cause::BAD_CONFIG | cause::CONFIG_MISSING | cause::CONFIG_WRONG => "config",
        cause::DEPENDENCY | cause::ERRORS => "error",
        cause::UNAVAILABLE => "availability",
        cause::OVERLOAD => "overload",
        cause::NO_CHANGE => "none",
        other => other,
    }
}

/// Candidate ids and the entities that they stand for.
struct Names {
    namespace: String,
    ids: BTreeMap<Entity, String>,
    /// Names that only clients have seen: no object or server of that name is known.
    remote: BTreeSet<String>,
}

impl Names {
    fn candidate(&mut self, id: &str) -> Entity {
        let entity = self.entity(id);
        self.ids.insert(entity.clone(), id.to_owned());
        entity
    }

    /// `app/x`, `node/x` and `namespace/x` say their kind, and so does what [`write`](fn@write) writes; a bare name is a service.
    fn entity(&self, id: &str) -> Entity {
        if let Ok(entity) = id.parse() {
            return entity;
        }
        match id.split_once('/') {
            Some(("app", name)) => Entity::new(EntityKind::Deployment, &self.namespace, name),
            Some(("node", name)) => Entity::new(EntityKind::Node, "", name),
            Some(("namespace", name)) => Entity::new(EntityKind::Namespace, "", name),
            _ if self.remote.contains(id) => Entity::new(EntityKind::Unaligned, "", id),
            _ => {
                let app = Entity::new(EntityKind::Deployment, &self.namespace, id);
                match self.ids.contains_key(&app) {
                    true => app,
                    false => Entity::new(EntityKind::Service, "", id),
                }
            }
        }
    }
}

fn known<T>(value: Option<T>, about: &Value, file: &str) -> Answer<T> {
    match (value, about["unknown"][file].as_str()) {
        (Some(value), _) => Answer::Known(value),
        (None, Some(why)) => Answer::unknown(why),
        (None, None) => Answer::unknown(format!("the case has no {file}")),
    }
}

/// One question per file, so that facts and edges can say where they come from. A file that is there and of which the case says
/// what is unknown holds a part of the answer.
fn asked(directory: &Path, about: &Value, window: Window) -> Vec<Asked> {
    let files = [
        ("metrics", "metrics.csv"),
        ("traces", "spans.jsonl"),
        ("logs", "logs.jsonl"),
        ("changes", "changes.jsonl"),
        ("events", "events.jsonl"),
        ("alerts", "alerts.jsonl"),
        ("dependencies", "topology.json"),
        ("objects: pods, nodes, deployments", "k8s.jsonl"),
    ];
    files
        .into_iter()
        .map(|(id, file)| {
            let there = directory.join(file).exists();
            Asked {
                id: id.to_owned(),
                source: "case".to_owned(),
                query: file.to_owned(),
                window,
                digest: String::new(),
                unknown: match about["unknown"][file].as_str() {
                    Some(why) => Some(why.to_owned()),
                    None => (!there).then(|| "the case has no such file".to_owned()),
                },
            }
        })
        .collect()
}

/// A file's text; `None` when it is not there. Broken UTF-8 is replaced, not refused.
fn content(path: &Path) -> Result<Option<String>, CaseError> {
    let unreadable = |source| CaseError::Unreadable { path: path.to_owned(), source };
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
        Ok(meta) if meta.len() > FILE_MAX => {
            return Err(CaseError::TooLarge { path: path.to_owned(), bytes: meta.len() });
        }
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    Ok(Some(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }))
}

fn parsed(path: &Path) -> Result<Option<Value>, CaseError> {
    let Some(text) = content(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|source| CaseError::Malformed { path: path.to_owned(), source })
}

/// The JSON lines of a file; lines that are not JSON are skipped, since one bad line must not cost the rest.
fn lines(directory: &Path, name: &str) -> Result<Option<Vec<Value>>, CaseError> {
    let Some(text) = content(&directory.join(name))? else { return Ok(None) };
    Ok(Some(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
}

fn moment(seconds: f64) -> Option<Timestamp> {
    Timestamp::from_millisecond((seconds * 1000.0) as i64).ok()
}

fn timestamp(value: &Value) -> Option<Timestamp> {
    value.as_f64().and_then(moment)
}

fn window(value: &Value) -> Option<Window> {
    Some(Window { from: timestamp(&value[0])?, to: timestamp(&value[1])? })
}

fn series(directory: &Path) -> Result<Option<Vec<Series>>, CaseError> {
    let Some(text) = content(&directory.join("metrics.csv"))? else { return Ok(None) };
    let Some(listed) = parsed(&directory.join("series.json"))? else { return Ok(None) };
    let mut rows = text.lines();
    let columns: BTreeMap<&str, usize> =
        rows.next().unwrap_or("").split(',').enumerate().map(|(index, name)| (name, index)).collect();
    let mut samples: Vec<Vec<(f64, f64)>> = vec![Vec::new(); columns.len()];
    for row in rows {
        let mut cells = row.split(',');
        let Some(at) = cells.next().and_then(|cell| cell.parse::<f64>().ok()) else { continue };
        for (index, cell) in cells.enumerate() {
            if cell.is_empty() {
                continue;
            }
            if let (Ok(value), Some(list)) = (cell.parse::<f64>(), samples.get_mut(index + 1)) {
                list.push((at, value));
            }
        }
    }
    for list in &mut samples {
        // Some exports write what came after first.
        list.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let entries = listed.as_array().map_or(&[] as &[Value], Vec::as_slice);
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some(index) = entry["column"].as_str().and_then(|name| columns.get(name)) else { continue };
        let labels = entry["labels"].as_object().into_iter().flatten();
        let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        found.push(Series { labels, samples: std::mem::take(&mut samples[*index]), asked: "metrics".into() });
    }
    Ok(Some(found))
}

fn remote(directory: &Path) -> Result<BTreeSet<String>, CaseError> {
    let value = parsed(&directory.join("topology.json"))?.unwrap_or(Value::Null);
    let nodes = value["nodes"].as_array().into_iter().flatten();
    let remote = nodes.filter(|node| node["kind"] == "remote");
    Ok(remote.filter_map(|node| node["id"].as_str().map(str::to_owned)).collect())
}

fn topology(directory: &Path, names: &Names) -> Result<Option<Topology>, CaseError> {
    let Some(value) = parsed(&directory.join("topology.json"))? else { return Ok(None) };
    let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
    let entity = |value: &Value| value.as_str().map(|id| names.entity(id));
    let nodes = list("nodes").iter().filter_map(|node| entity(&node["id"])).collect();
    let edges = list("edges")
        .iter()
        .filter_map(|edge| {
            let kind = match edge["kind"].as_str() {
                Some("runs-on" | "runs_on") => LinkKind::RunsOn,
                Some("owns") => LinkKind::Owns,
                Some("uses") => LinkKind::Uses,
                _ => LinkKind::Calls,
            };
            Some(TopologyEdge { from: entity(&edge["src"])?, to: entity(&edge["dst"])?, kind })
        })
        .collect();
    Ok(Some(Topology { nodes, edges }))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("").to_owned()
}

fn log_line(value: &Value) -> Option<LogLine> {
    let source = value["pod"].as_str().or(value["service"].as_str())?;
    Some(LogLine {
        at_ns: value["ts"].as_u64().or_else(|| value["ts"].as_f64().map(|at| at as u64)),
        source: source.to_owned(),
        severity: value["severity"].as_str().map(str::to_owned),
        body: text(value, "body"),
        trace_id: value["trace_id"].as_str().map(str::to_owned),
        span_id: value["span_id"].as_str().map(str::to_owned),
        count: value["count"].as_u64().unwrap_or(1),
        taught: serde_json::from_value(value["taught"].clone()).ok(),
    })
}

fn change(value: &Value, names: &Names) -> Option<Change> {
    let strings = |key: &str| -> Vec<String> {
        let list = value[key].as_array().into_iter().flatten();
        list.filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let target = match value["target"].as_str() {
        Some(id) => names.entity(id),
        None => Entity::new(EntityKind::Unaligned, "", ""),
    };
    Some(Change {
        id: text(value, "id"),
        kind: match value["kind"].as_str() {
            Some("commit") => ChangeKind::Commit,
            Some("flag") => ChangeKind::Flag,
            Some("config") => ChangeKind::Config,
            Some("scale") => ChangeKind::Scale,
            Some("image") => ChangeKind::Image,
            _ => ChangeKind::Deploy,
        },
        at: timestamp(&value["ts"])?,
        target,
        summary: text(value, "summary"),
        files: strings("files"),
        diff: text(value, "diff"),
        author: text(value, "author"),
        new_pods: strings("new_pods"),
        deleted_pods: strings("deleted_pods"),
    })
}

fn object_event(value: &Value, namespace: &str) -> Option<ObjectEvent> {
    Some(ObjectEvent {
        at: timestamp(&value["ts"])?,
        object: text(value, "object"),
        namespace: value["namespace"].as_str().unwrap_or(namespace).to_owned(),
        reason: text(value, "reason"),
        message: text(value, "message"),
        count: value["count"].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(1),
    })
}

/// An alert as a signal; everything but entity and time stays in its labels.
fn symptom(value: &Value, index: usize, names: &Names, at: Timestamp) -> Option<Signal> {
    if let Ok(signal) = Signal::deserialize(&value["signal"]) {
        return Some(signal);
    }
    // An alert about a call is about the side that is called.
    let entity = value["entity"].as_str().or(value["callee"].as_str())?;
    let entity = match value["entity_kind"].as_str() {
        Some("Node") => Entity::new(EntityKind::Node, "", entity),
        _ => names.entity(entity),
    };
    let fields = value.as_object().into_iter().flatten();
    let labels: BTreeMap<String, String> = fields
        .filter_map(|(key, value)| {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Null => return None,
                Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"),
                other => other.to_string(),
            };
            Some((key.clone(), value))
        })
        .collect();
    let name = ["metric", "alert", "status"].iter().find_map(|key| labels.get(*key)).cloned();
    Some(Signal {
        key: format!("alert-{index}"),
        source: SignalSource::Alert,
        name: name.unwrap_or_else(|| "alert".to_owned()),
        entity,
        severity: Severity::Warning,
        started_at: timestamp(&value["ts"]).unwrap_or(at),
        ended_at: None,
        summary: text(value, "summary"),
        labels,
        count: 1,
    })
}

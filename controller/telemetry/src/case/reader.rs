//! A case directory as a store that can be asked, as far as it holds what is asked about.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use amend_diagnosis::evidence::{Answer, LogLine, Observations, Series, Span};
use amend_diagnosis::metric::name_of;

use super::{CAPTURED, CaseError, parsed, read};
use crate::connection::clean;
use crate::files::Reads;
use crate::held::{Held, HeldExemplar, HeldLine};
use crate::promql::evaluate::ByName;
use crate::questions::Exemplar;
use crate::source::{SourceConfig, SourceError};

/// Reads its case once: nobody writes to a case that is there.
#[derive(Debug, Default)]
pub(crate) struct CaseReader {
    held: Mutex<Option<Arc<Held>>>,
}

impl Reads for CaseReader {
    fn held(&self, directory: &Path, config: &SourceConfig, until: Instant) -> Result<Arc<Held>, SourceError> {
        let late = || Err(SourceError::TimedOut { after: config.limits.timeout });
        if Instant::now() >= until {
            return late();
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = &*held {
            return Ok(held.clone());
        }
        let limit = config.limits.bytes;
        if bytes(directory)? > limit as u64 {
            return Err(SourceError::TooLarge { limit });
        }
        let case = read(directory).map_err(|error| unreadable(directory, &error))?;
        let found = Arc::new(holding(case.observations));
        *held = Some(found.clone());
        match Instant::now() >= until {
            true => late(),
            false => Ok(found),
        }
    }

    /// What Amend captured are answers; other cases hold what exporters wrote.
    fn tells_answers(&self, directory: &Path) -> bool {
        matches!(parsed(&directory.join("case.json")), Ok(Some(about)) if about["source"] == CAPTURED)
    }
}

/// Bytes of all files; a directory without a `case.json` is none of ours.
fn bytes(directory: &Path) -> Result<u64, SourceError> {
    let failed = |error: std::io::Error| SourceError::Unreadable {
        path: directory.display().to_string(),
        why: clean(&error.to_string()),
    };
    fs::metadata(directory.join("case.json")).map_err(failed)?;
    let mut bytes = 0;
    for entry in fs::read_dir(directory).map_err(failed)? {
        bytes += entry.and_then(|entry| entry.metadata()).map_err(failed)?.len();
    }
    Ok(bytes)
}

fn unreadable(directory: &Path, error: &CaseError) -> SourceError {
    SourceError::Unreadable { path: directory.display().to_string(), why: clean(&error.to_string()) }
}

fn holding(seen: Observations) -> Held {
    Held {
        series: seen.series.map(by_name),
        spans: seen.spans,
        lines: seen.logs.map(|lines| lines.into_iter().map(line).collect()),
        exemplars: seen.exemplars.map(|spans| exemplars(&spans)),
        edges: match seen.topology {
            Answer::Known(topology) => Answer::Known(topology.edges),
            Answer::Unknown { why } => Answer::Unknown { why },
        },
        alerts: match seen.symptoms.is_empty() {
            false => Answer::Known(seen.symptoms),
            true => Answer::unknown("the case has no alerts.jsonl"),
        },
        since: None,
    }
}

fn by_name(series: Vec<Series>) -> ByName {
    let mut held = ByName::new();
    for one in series {
        held.entry(name_of(&one.labels).to_owned()).or_default().push(one);
    }
    held
}

/// A case tells a pod or a service and no namespace.
fn line(line: LogLine) -> HeldLine {
    HeldLine { namespace: None, service: Some(line.source.clone()), line }
}

/// The traces that were fetched because an exemplar pointed at them, each by its first span.
fn exemplars(spans: &[Span]) -> Vec<HeldExemplar> {
    let mut first: BTreeMap<&str, &Span> = BTreeMap::new();
    for span in spans {
        let known = first.entry(&span.trace_id).or_insert(span);
        if span.start_ns < known.start_ns {
            *known = span;
        }
    }
    let told = first.into_iter().map(|(trace, span)| HeldExemplar {
        labels: BTreeMap::from([("service".to_owned(), span.service.clone())]),
        exemplar: Exemplar {
            trace_id: trace.to_owned(),
            took: Some(span.duration_ns as f64 / 1e9),
            at: span.start_ns as f64 / 1e9,
        },
    });
    told.collect()
}

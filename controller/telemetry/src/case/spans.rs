//! OTLP/JSON traces of a case, one trace a line.

use std::path::Path;

use amend_diagnosis::evidence::Span;
use serde_json::Value;

use super::{CaseError, content};
use crate::otlp;

pub(super) fn read(directory: &Path, file: &str) -> Result<Option<Vec<Span>>, CaseError> {
    let Some(text) = content(&directory.join(file))? else { return Ok(None) };
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(Some(lines.flat_map(|line| otlp::spans(&line["resourceSpans"])).collect()))
}

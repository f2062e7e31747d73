//! The log as JSON lines: for the verifier, for the copy in Git, for a SIEM.

use serde::{Deserialize, Serialize};

use super::Envelope;

/// Longest line that is read: an entry of 4 KiB in base64 with its signatures is well below it.
const LONGEST_LINE: usize = 64 * 1024;

/// One line of an export. A good export ends with a checkpoint over everything before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Line {
    Record {
        index: u64,
        envelope: Envelope,
    },
    /// A signed note over the records so far.
    Checkpoint {
        note: String,
    },
}

/// Why a line cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not a line of a record log: {why}")]
pub struct ExportError {
    /// From 1.
    pub line: usize,
    pub why: String,
}

/// One JSON object per line.
pub fn write_lines(lines: &[Line]) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    Ok(text)
}

/// Reads an export; empty lines are passed over.
///
/// # Errors
/// At the first line that is none.
pub fn read_lines(text: &str) -> Result<Vec<Line>, ExportError> {
    let filled = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(at, line): (usize, &str)| {
        let wrong = |why: String| ExportError { line: at + 1, why };
        if line.len() > LONGEST_LINE {
            return Err(wrong(format!("it is longer than {LONGEST_LINE} bytes")));
        }
        serde_json::from_str(line).map_err(|error| wrong(error.to_string()))
    };
    filled.map(read).collect()
}

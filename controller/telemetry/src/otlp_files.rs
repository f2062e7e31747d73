//! Directories of what OpenTelemetry Collector's `file` exporter writes:
//! <https://github.com/open-telemetry/opentelemetry-collector-contrib/tree/main/exporter/fileexporter>.
//!
//! One JSON document after another (the exporter writes one a line), each a request of OTLP with traces, metrics or logs; files
//! that were rotated lie beside the one that is written. Of many files the newest are read, as far as the limit of bytes goes;
//! a question about an earlier time is unknown.
//!
//! ```text
//! newest file ─► next older ─► the end of one more │ not read      a window that begins left of "since" has no answer
//!                                              since
//! ```

use std::fs::{self, File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use amend_diagnosis::evidence::{Answer, Span};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::connection::clean;
use crate::files::Reads;
use crate::held::{Held, HeldLine, Since};
use crate::otlp;
use crate::otlp::metrics::{Points, ResourceMetrics};
use crate::source::{SourceConfig, SourceError};

/// Files of one directory and those below it. Rotation keeps a hundred by default.
const FILES_MAX: usize = 1_000;

/// Directories below the one that is named: `group_by` of the exporter makes some.
const DEPTH_MAX: usize = 3;

/// One request. Collectors send thousands of spans at once; what is larger would cost many times its size while it is read.
const DOCUMENT_MAX: usize = 8 << 20;

/// How long one reading serves: the questions of one diagnosis come within seconds, and agree when they see the same files.
const FRESH: Duration = Duration::from_secs(5);

/// How much later than its neighbours in the file something may have been written: senders and collectors wait for batches.
const LATE: SignedDuration = SignedDuration::from_mins(1);

/// Reads its directory again when its files have changed.
#[derive(Debug, Default)]
pub(crate) struct OtlpReader {
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    files: Vec<Found>,
    at: Instant,
    held: Weak<Held>,
}

/// What was read last, of whichever directory: sources of many namespaces together hold one reading between two questions, and
/// those of questions under way.
static LAST: Mutex<Option<Arc<Held>>> = Mutex::new(None);

fn last(held: &Arc<Held>) {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(held.clone());
}

/// A file as it was when the directory was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    path: PathBuf,
    bytes: u64,
    changed: SystemTime,
    /// Device and number: what is opened must be what was looked at.
    identity: (u64, u64),
}

impl Reads for OtlpReader {
    fn held(&self, directory: &Path, config: &SourceConfig, until: Instant) -> Result<Arc<Held>, SourceError> {
        let reading = Reading { config, until, directory };
        reading.in_time()?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files = Vec::new();
        reading.list(directory, 0, &mut files)?;
        // The newest first; of two that changed at once by name, so that the answer does not depend on the listing.
        files.sort_by(|left, right| (right.changed, &right.path).cmp(&(left.changed, &left.path)));
        if let Some(kept) = &*kept
            && (kept.files == files || kept.at.elapsed() < FRESH)
            && let Some(held) = kept.held.upgrade()
        {
            last(&held);
            return Ok(held);
        }
        let held = Arc::new(reading.read(&files)?);
        *kept = Some(Kept { files, at: Instant::now(), held: Arc::downgrade(&held) });
        last(&held);
        Ok(held)
    }
}

/// One look at a directory.
struct Reading<'a> {
    config: &'a SourceConfig,
    until: Instant,
    directory: &'a Path,
}

impl Reading<'_> {
    fn in_time(&self) -> Result<(), SourceError> {
        match Instant::now() < self.until {
            true => Ok(()),
            false => Err(SourceError::TimedOut { after: self.config.limits.timeout }),
        }
    }

    fn list(&self, directory: &Path, depth: usize, found: &mut Vec<Found>) -> Result<(), SourceError> {
        for entry in fs::read_dir(directory).map_err(|error| failed(directory, &error))? {
            self.in_time()?;
            let entry = entry.map_err(|error| failed(directory, &error))?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            // Not followed: a link could lead to any file of whoever runs this.
            let about = fs::symlink_metadata(&path).map_err(|error| failed(&path, &error))?;
            if about.is_dir() {
                if depth == DEPTH_MAX {
                    return Err(unreadable(&path, "directories lie too deep below the one that is named"));
                }
                self.list(&path, depth + 1, found)?;
            } else if about.is_file() {
                let changed = about.modified().map_err(|error| failed(&path, &error))?;
                found.push(Found { bytes: about.len(), changed, identity: identity(&about), path });
            } else {
                return Err(unreadable(&path, "it is no plain file; links are not followed"));
            }
            if found.len() > FILES_MAX {
                return Err(SourceError::TooMany { limit: FILES_MAX, what: "files" });
            }
        }
        Ok(())
    }

    fn read(&self, files: &[Found]) -> Result<Held, SourceError> {
        let limit = self.config.limits.bytes;
        let mut left = limit as u64;
        let mut all = Gathered::default();
        let mut since = None;
        for file in files.iter().filter(|file| file.bytes > 0) {
            let at = match file.bytes <= left {
                true => {
                    self.file(file, 0, &mut all)?;
                    left -= file.bytes;
                    continue;
                }
                // Whatever is older in it, or in older files, was not read.
                false => self.file(file, left, &mut all)?,
            };
            let changed = Timestamp::try_from(file.changed).unwrap_or(Timestamp::MAX);
            since = Some(Since { at: at.unwrap_or(changed), limit });
            break;
        }
        Ok(all.held(self.directory, since))
    }

    /// Takes in a file, or its last bytes; then the time is told from which on it was read.
    fn file(&self, file: &Found, last: u64, all: &mut Gathered) -> Result<Option<Timestamp>, SourceError> {
        let error = |error: std::io::Error| failed(&file.path, &error);
        let mut opened = File::open(&file.path).map_err(error)?;
        if identity(&opened.metadata().map_err(error)?) != file.identity {
            return Err(unreadable(&file.path, "it was replaced while it was read"));
        }
        let mut text = Vec::new();
        let first = if last > 0 { file.bytes - last } else { 0 };
        if first > 0 {
            opened.seek(SeekFrom::Start(first)).map_err(error)?;
        }
        opened.take(file.bytes - first).read_to_end(&mut text).map_err(error)?;
        if let Some(load) = &self.config.load {
            load.read(text.len());
        }
        let mut text = text.as_slice();
        if first > 0 {
            let whole = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1);
            text = &text[whole..];
        }
        let documents = documents(&file.path, text)?;
        let mut since = None;
        for (index, document) in documents.into_iter().enumerate() {
            self.in_time()?;
            if index == 0 && first > 0 {
                let mut oldest = Gathered::default();
                oldest.add(&file.path, document)?;
                since = oldest.newest().map(|at| at.saturating_add(LATE).unwrap_or(at));
            }
            all.add(&file.path, document)?;
        }
        Ok(since)
    }
}

fn identity(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

fn failed(path: &Path, error: &std::io::Error) -> SourceError {
    unreadable(path, &error.to_string())
}

fn unreadable(path: &Path, why: &str) -> SourceError {
    SourceError::Unreadable { path: clean(&path.display().to_string()), why: clean(why) }
}

/// The documents of a file, one after another, wherever its lines end. One that has only begun is still being written.
fn documents<'a>(path: &Path, text: &'a [u8]) -> Result<Vec<&'a [u8]>, SourceError> {
    let begins = text.iter().find(|byte| !byte.is_ascii_whitespace());
    if begins.is_some_and(|byte| *byte != b'{') {
        let why = "it is not OTLP in JSON; let the file exporter write `format: json` without `compression`";
        return Err(unreadable(path, why));
    }
    let mut stream = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(document) = stream.next() {
        match document {
            Ok(_) => {
                let to = stream.byte_offset();
                let one = text.get(from..to).unwrap_or_default();
                if one.len() > DOCUMENT_MAX {
                    let why = format!(
                        "a request of it has more than {DOCUMENT_MAX} bytes; let the collector send smaller batches"
                    );
                    return Err(unreadable(path, &why));
                }
                found.push(one);
                from = to;
            }
            Err(error) if error.is_eof() => break,
            Err(error) => return Err(unreadable(path, &format!("request {}: {error}", found.len() + 1))),
        }
    }
    Ok(found)
}

/// A request of any of the three services; the exporter writes one kind to a file, but need not.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    resource_spans: Option<Value>,
    #[serde(default)]
    resource_metrics: Option<Vec<ResourceMetrics>>,
    #[serde(default)]
    resource_logs: Option<Value>,
    #[serde(default)]
    resource_profiles: Option<IgnoredAny>,
}

/// What was taken in so far; `None`: no file holds such a thing.
#[derive(Default)]
struct Gathered {
    spans: Option<Vec<Span>>,
    points: Option<Points>,
    lines: Option<Vec<HeldLine>>,
}

impl Gathered {
    fn add(&mut self, path: &Path, document: &[u8]) -> Result<(), SourceError> {
        let request: Request =
            serde_json::from_slice(document).map_err(|error| unreadable(path, &error.to_string()))?;
        let Request { resource_spans, resource_metrics, resource_logs, resource_profiles } = request;
        if resource_spans.is_none()
            && resource_metrics.is_none()
            && resource_logs.is_none()
            && resource_profiles.is_none()
        {
            return Err(unreadable(path, "it holds JSON that is no request of OTLP"));
        }
        if let Some(told) = resource_spans {
            let spans = otlp::spans(&told).into_iter().map(otlp::bounded);
            self.spans.get_or_insert_default().extend(spans);
        }
        for told in resource_metrics.into_iter().flatten() {
            self.points.get_or_insert_default().add(told);
        }
        if let Some(told) = resource_logs {
            self.lines.get_or_insert_default().extend(otlp::logs::lines(&told));
        }
        Ok(())
    }

    /// The latest time that anything tells.
    fn newest(&self) -> Option<Timestamp> {
        let spans = self.spans.iter().flatten().map(|span| span.start_ns.saturating_add(span.duration_ns));
        let lines = self.lines.iter().flatten().filter_map(|line| line.line.at_ns);
        let points = self.points.iter().filter_map(|points| points.newest);
        let newest = spans.chain(lines).chain(points).max()?;
        Timestamp::from_nanosecond(i128::from(newest)).ok()
    }

    fn held(self, directory: &Path, since: Option<Since>) -> Held {
        let absent =
            |what: &str| format!("no file in {} that was read holds {what}", clean(&directory.display().to_string()));
        let mut points = self.points;
        let exemplars = points.as_mut().map(|points| std::mem::take(&mut points.exemplars));
        Held {
            series: known(points.map(Points::series), || absent("metrics")),
            spans: known(self.spans, || absent("traces")),
            lines: known(self.lines, || absent("logs")),
            exemplars: known(exemplars, || absent("metrics")),
            edges: Answer::unknown("the spans tell who calls whom"),
            alerts: Answer::unknown("files of OTLP hold no alert rules"),
            since,
        }
    }
}

fn known<T>(held: Option<T>, absent: impl FnOnce() -> String) -> Answer<T> {
    held.map_or_else(|| Answer::Unknown { why: absent() }, Answer::Known)
}

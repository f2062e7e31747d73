//! Prometheus remote write 1.0: how a past is given to a store that has none.

use std::collections::BTreeMap;

use jiff::Timestamp;
use prost::Message;

/// One series with its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub samples: Vec<(Timestamp, f64)>,
}

impl Series {
    /// A series without samples.
    #[must_use]
    pub fn new(name: &str, labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { name: name.to_owned(), labels, samples: Vec::new() }
    }
}

// The messages of prometheus/prompb/{remote,types}.proto that a writer of floats needs.

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// The body of a remote write: protobuf in a snappy block.
///
/// # Errors
/// When it is too large for snappy (4 GiB).
pub(super) fn encode(series: &[Series]) -> anyhow::Result<Vec<u8>> {
    let request = WriteRequest { timeseries: series.iter().map(time_series).collect() };
    Ok(snap::raw::Encoder::new().compress_vec(&request.encode_to_vec())?)
}

/// Labels sorted by name and samples by time, as the protocol asks.
fn time_series(series: &Series) -> TimeSeries {
    let mut all = series.labels.clone();
    all.insert("__name__".to_owned(), series.name.clone());
    let labels = all.into_iter().map(|(name, value)| Label { name, value }).collect();
    let mut samples: Vec<Sample> =
        series.samples.iter().map(|(at, value)| Sample { value: *value, timestamp: at.as_millisecond() }).collect();
    samples.sort_by_key(|sample| sample.timestamp);
    TimeSeries { labels, samples }
}

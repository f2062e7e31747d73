//! Asking the stores: metrics, alerts, traces, logs. Every answer is `Known`, or `Unknown` with a sentence.
//!
//! Sources are [opened](source::open) behind the [egress guard](egress), then asked for an incident ([`gather::gather`]),
//! for one golden metric of one workload ([`golden::golden`]), or about an alert ([`alert::firing`], [`alert::silenced`], [`alert::quiet`]).
//! Nothing here knows Kubernetes' API, policies or time: windows and `at` come in, deadlines run on the real clock.

pub mod alert;
mod alertmanager;
mod anchored;
mod calls;
pub mod case;
mod connection;
#[cfg(feature = "contract")]
pub mod contract;
pub mod deep;
pub mod digest;
pub mod egress;
mod exemplars;
mod families;
mod files;
pub mod gather;
pub mod golden;
mod held;
pub mod history;
mod jaeger;
pub mod load;
pub mod logql;
mod loki;
pub mod mapping;
mod measured;
mod measures;
pub mod model;
mod opensearch;
mod otlp;
mod otlp_files;
mod prometheus;
pub mod promql;
pub mod questions;
mod samples;
pub mod secret_file;
pub mod source;
pub mod sources;
mod tempo;

pub use prometheus::Prometheus;

//! The shell around the pure rooms: start, watch, perform.
//!
//! Everything that reads a clock, opens a socket or talks to Kubernetes on behalf of the controller lives here; what to do is decided
//! in the rooms below. Effects leave through `effects` only.

pub mod clients;
pub mod dashboard;
pub mod intake;
pub mod leader;
pub mod metrics;
pub mod notify;
pub mod self_telemetry;
pub mod server;
pub mod time;

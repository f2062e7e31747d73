//! The shell around the pure rooms: start, watch, perform.
//!
//! Everything that reads a clock, opens a socket or talks to Kubernetes on behalf of the controller lives here; what to do is decided
//! in the rooms below. Effects leave through `effects` only.

pub mod builds;
pub mod census;
pub mod changes;
pub mod clients;
pub mod cluster;
pub mod contents;
pub mod controllers;
pub mod credentials;
pub mod dashboard;
pub mod effects;
pub mod errors;
pub mod evidence;
pub mod facts;
pub mod golden;
pub mod happenings;
pub mod incidents;
pub mod intake;
pub mod leader;
pub mod metrics;
pub mod notify;
pub mod owner;
pub mod pace;
pub mod planner;
pub mod reconcile;
pub mod recorder;
pub mod records;
pub mod reports;
pub mod requested;
pub mod runtime;
pub mod self_telemetry;
pub mod server;
pub mod settings;
pub mod shell;
pub mod sketch;
pub mod sources;
pub mod targets;
pub mod time;
pub mod topology;
pub mod traces;
pub mod unknown_lines;
pub mod views;
pub mod watch;
pub mod words;
pub mod written;

//! What broke, and why? The first pure room: no I/O, no clock, no randomness.
//!
//! Facts flow in as [`Observations`](evidence::Observations), a [`Diagnosis`](diagnosis::Diagnosis) flows out.
//! Nothing here knows which cure exists; see `amend-policies` for that.

pub mod align;
pub mod alignment;
pub mod build;
pub mod calibration;
pub mod cluster;
pub mod clusters;
pub mod deep;
pub mod diagnose;
pub mod diagnosis;
pub mod drilldown;
pub mod edge;
pub mod entity;
pub mod evidence;
mod extract;
pub mod finding;
pub mod graph;
pub mod incident;
pub mod inference;
pub mod logs;
pub mod metric;
mod name_server;
pub mod opinion;
mod order;
pub mod render;
pub mod robust;
pub mod scene;
mod selector;
pub mod signal;
mod story;
pub mod windows;

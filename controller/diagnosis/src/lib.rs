//! What broke, and why? The first pure room: no I/O, no clock, no randomness.
//!
//! Facts flow in as [`Observations`](evidence::Observations), a [`Diagnosis`](diagnosis::Diagnosis) flows out.
//! Nothing here knows which cure exists; see `amend-policies` for that.

pub mod diagnose;
pub mod diagnosis;
pub mod entity;
pub mod evidence;
pub mod graph;
pub mod incident;
pub mod signal;

//! The live stories: the whole loop on real parts, one file per story, each told as its sentence says.
//!
//! `cargo test -p amend-tests --test live -- NAME --nocapture`; the parts are built at first use (`tests/env/build`).

mod bad_fix;
mod bad_release;
mod busy_repository;
mod closed;
mod configuration;
mod failed_run;
mod faults;
mod flood;
mod held;
mod killed;
mod oom;
mod overlay;
mod permission;
mod placebo;
mod stateful;
mod telemetry_dies;
mod tenant;
mod told;

//! What a rule says of objects as an API server prints them: it names the fault, and leaves alone what is only usual.
#![allow(clippy::unwrap_used, clippy::panic)]

mod config;
mod images;
mod live;
mod logs;
mod nodes;
mod peers;
mod placement;
mod policies;
mod probes;
mod rollouts;
mod routes;
mod scaling;
#[allow(dead_code)]
#[path = "../incidents/shop.rs"]
mod shop;

//! Live stories in miniature: what the cluster and the stores would say, and what must come out.
#![allow(clippy::unwrap_used, clippy::panic)]

mod deep;
mod edges;
mod named;
mod network;
mod nodes;
mod order;
mod resources;
mod shop;
mod steady;
mod taught;

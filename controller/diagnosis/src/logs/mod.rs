//! Log text in three stages: clean it, classify it by a catalogue, anchor it in time.

pub mod catalogue;
pub mod clean;
mod merge;
mod scan;
pub mod template;

pub use catalogue::{Class, classify};
pub use clean::clean;

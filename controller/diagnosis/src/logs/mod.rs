//! Log text in three stages: clean it, classify it by a catalogue, [anchor](anchor) it by the id of a trace.
//!
//! What the catalogue does not know and matters goes to a [`queue`]; people give it a class ([`taught`]).

pub mod anchor;
pub mod catalogue;
pub mod clean;
mod merge;
pub mod queue;
mod scan;
pub mod taught;
pub mod template;
pub mod unknown;

pub use catalogue::{Class, classify};
pub use clean::clean;

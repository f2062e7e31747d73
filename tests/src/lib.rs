//! The stories that Amend is judged by, and the real parts that they run on.

pub mod bench;
pub mod cases;
pub mod embedded;
pub mod figures;
pub mod recording;
pub mod stage;
pub mod workload;

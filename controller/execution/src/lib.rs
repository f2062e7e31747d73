//! How do we do it, undo it, prove it? The third pure room: no I/O, no clock, no randomness.
//!
//! ```text
//!   Plan (policies) ──► Journal ──fold──► Phase
//!                          ▲                 │
//!                          │ append          ▼
//!   observations ──► decide(&Snapshot) ──► Decision { append, effects, wake, because, status }
//!                          │
//!                          └─► Record: each entry sealed, signed and chained
//! ```
//!
//! [`journal`] is what an execution intended and saw, [`phase`] is what that means, [`decide`] says what comes next,
//! [`verify`] judges the result by measured data, and [`record`] makes the account provable offline.

pub mod decide;
pub mod effect;
pub mod journal;
pub mod phase;
pub mod record;
pub mod snapshot;
pub mod verify;
